//! How many calls one worker runs at once: the keys `threads`, `async` and
//! `subinterpreters`.

use clutch_protocol::message::Mode;
use thiserror::Error;

use super::bounds::LANES;
use super::checker::Checker;
use super::error::Key;
use super::raw::RawPool;
use super::reason::Reason;

/// How a pool's workers run the calls they are given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// One call at a time, on the main thread.
    #[default]
    One,
    /// So many calls at once, each on a thread of its own.
    Threads(u32),
    /// So many calls at once, all on one event loop.
    Async(u32),
    /// So many calls at once, each in a subinterpreter of its own.
    Subinterpreters(u32),
}

impl Concurrency {
    /// How many calls a worker may have at once.
    #[must_use]
    pub const fn lanes(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Threads(lanes) | Self::Async(lanes) | Self::Subinterpreters(lanes) => lanes,
        }
    }

    /// What a worker is told.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::One => Mode::One,
            Self::Threads(_) => Mode::Threads,
            Self::Async(_) => Mode::Async,
            Self::Subinterpreters(_) => Mode::Subinterpreters,
        }
    }
}

/// Why a pool's workers cannot run calls like this.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ConcurrencyError {
    /// Two modes.
    #[error(
        "`{one}` and `{other}` both say how a worker runs several calls: keep one of them, and \
         make a second pool for the other"
    )]
    Two {
        /// The key that stands.
        one: &'static str,
        /// The key that is one too many.
        other: &'static str,
    },
}

/// What a key's value means.
type Make = fn(u32) -> Concurrency;

/// Checks the keys of one pool. The first one that is there stands.
pub(super) fn check(checker: &mut Checker<'_>, raw: &RawPool, at: &Key) -> Concurrency {
    let keys: [(_, _, Make); 3] = [
        ("threads", raw.threads, Concurrency::Threads),
        ("async", raw.tasks, Concurrency::Async),
        ("subinterpreters", raw.subinterpreters, Concurrency::Subinterpreters),
    ];
    let mut stands: Option<&'static str> = None;
    let mut concurrency = Concurrency::One;
    for (other, value, make) in keys {
        let Some(lanes) = checker.number(&at.child(other), value, &LANES) else { continue };
        if let Some(one) = stands {
            let error = ConcurrencyError::Two { one, other };
            checker.report(&at.child(other), Reason::Concurrency(error));
        } else {
            (stands, concurrency) = (Some(other), make(lanes));
        }
    }
    concurrency
}
