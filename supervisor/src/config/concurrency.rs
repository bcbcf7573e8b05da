//! How many calls one worker runs at once: the keys `threads` and `async`.

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
}

impl Concurrency {
    /// How many calls a worker may have at once.
    #[must_use]
    pub const fn lanes(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Threads(lanes) | Self::Async(lanes) => lanes,
        }
    }

    /// What a worker is told.
    #[must_use]
    pub const fn mode(self) -> Mode {
        match self {
            Self::One => Mode::One,
            Self::Threads(_) => Mode::Threads,
            Self::Async(_) => Mode::Async,
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

/// Checks both keys of one pool.
pub(super) fn check(checker: &mut Checker<'_>, raw: &RawPool, at: &Key) -> Concurrency {
    let threads = checker.number(&at.child("threads"), raw.threads, &LANES);
    let tasks = checker.number(&at.child("async"), raw.tasks, &LANES);
    if raw.threads.is_some() && raw.tasks.is_some() {
        let error = ConcurrencyError::Two { one: "threads", other: "async" };
        checker.report(&at.child("async"), Reason::Concurrency(error));
    }
    match (threads, tasks) {
        (Some(lanes), _) => Concurrency::Threads(lanes),
        (None, Some(lanes)) => Concurrency::Async(lanes),
        (None, None) => Concurrency::One,
    }
}
