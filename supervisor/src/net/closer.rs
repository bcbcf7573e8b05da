//! The thread that closes what is large. Whoever closes the last descriptor of some memory frees
//! its pages, and that takes the kernel about 65 ms for each GiB: far longer than anybody else's
//! call may wait.
//!
//! ```text
//!   data plane ── descriptors ──► clutch-closer      in order, at most CLOSINGS_MAX wait
//!       ▲  owed: what to give back for each │
//!       └───────── how many are closed ─────┘
//! ```
//!
//! What was held for a sender is given back only when it is closed, so that a sender cannot have
//! more under way than it may. The thread is started when there is something for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};

use tokio::sync::Notify;

use super::holdings::Ledger;
use crate::limits::{CLOSE_TIMEOUT, CLOSINGS_MAX};

/// What a ledger is to be given back when descriptors are closed.
#[derive(Debug)]
pub(super) struct Owed {
    pub(super) ledger: Ledger,
    pub(super) count: usize,
    pub(super) bytes: u64,
    /// Whether they were held for their sender, and not still coming in.
    pub(super) is_admitted: bool,
}

impl Owed {
    pub(super) fn give_back(self) {
        if self.is_admitted {
            self.ledger.give_back(self.count, self.bytes);
        } else {
            self.ledger.gone(self.count);
        }
    }
}

/// The way to the thread, and what is owed for what it was given.
#[derive(Debug, Default)]
pub(super) struct Closer {
    thread: RefCell<State>,
    owed: RefCell<VecDeque<Owed>>,
    /// How many of those at the front were settled since the beginning.
    settled: Cell<u64>,
    /// How often the thread had too much to do, or there was none.
    inline: Cell<u64>,
    closed: Arc<Closed>,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Closed {
    count: AtomicU64,
    told: Notify,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    NotNeededYet,
    Runs {
        jobs: SyncSender<Vec<OwnedFd>>,
        /// Disconnected when the thread has ended.
        ended: Receiver<()>,
    },
    /// The system has no thread for it, or it is over.
    Unavailable,
}

impl Closer {
    /// Has `descriptors` closed, and gives back what is owed for them when they are. Never waits,
    /// unless the thread cannot take them: then they are closed here.
    pub(super) fn close(&self, descriptors: Vec<OwnedFd>, owed: Owed) {
        self.settle();
        let mut state = self.thread.borrow_mut();
        if matches!(*state, State::NotNeededYet) {
            *state = start(self.closed.clone());
        }
        let refused = match &*state {
            State::Runs { jobs, .. } => match jobs.try_send(descriptors) {
                Ok(()) => {
                    drop(state);
                    return self.owed.borrow_mut().push_back(owed);
                }
                Err(refused) => refused,
            },
            State::NotNeededYet | State::Unavailable => {
                std::sync::mpsc::TrySendError::Full(descriptors)
            }
        };
        drop(state);
        self.inline.set(self.inline.get() + 1);
        drop(refused);
        owed.give_back();
    }

    /// How often something was closed on the data plane that was large enough for the thread.
    pub(super) fn inline(&self) -> u64 {
        self.inline.get()
    }

    /// Gives back what is owed for what is closed by now.
    pub(super) fn settle(&self) {
        while self.settled.get() < self.closed.count.load(Ordering::Acquire) {
            // Giving back wakes others, who may close something themselves.
            let Some(owed) = self.owed.borrow_mut().pop_front() else { return };
            self.settled.set(self.settled.get() + 1);
            owed.give_back();
        }
    }

    /// Does so whenever something is closed, for ever.
    pub(super) async fn settle_forever(&self) {
        loop {
            self.closed.told.notified().await;
            self.settle();
        }
    }

    /// Waits until everything is closed, within a bound. What comes later is closed at once.
    pub(super) fn finish(&self) {
        if let State::Runs { jobs, ended } = self.thread.replace(State::Unavailable) {
            drop(jobs);
            if ended.recv_timeout(CLOSE_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!("some memory is not given back yet; not waiting for it");
            }
        }
        self.settle();
    }
}

fn start(closed: Arc<Closed>) -> State {
    let (jobs, receiver) = sync_channel::<Vec<OwnedFd>>(CLOSINGS_MAX);
    let (alive, ended) = sync_channel(1);
    let started = std::thread::Builder::new().name("clutch-closer".into()).spawn(move || {
        let _alive = alive;
        while let Ok(descriptors) = receiver.recv() {
            drop(descriptors);
            closed.count.fetch_add(1, Ordering::Release);
            closed.told.notify_one();
        }
    });
    match started {
        Ok(_) => State::Runs { jobs, ended },
        Err(error) => {
            tracing::error!(%error, "no thread to free memory with; calls wait while it is freed");
            State::Unavailable
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::rc::Rc;

    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::libc;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::limits::CLOSED_ELSEWHERE_BYTES_MIN;
    use crate::net::{Attached, Holdings};

    /// A descriptor whose close waits until the other end is gone, and the other end.
    fn reluctant() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let linger = libc::linger { l_onoff: 1, l_linger: 600 };
        setsockopt(&ours, sockopt::Linger, &linger).unwrap();
        ours.set_nonblocking(true).unwrap();
        while ours.write(&[0; 1 << 16]).is_ok() {}
        ours.set_nonblocking(false).unwrap();
        (ours.into(), theirs)
    }

    fn owed(ledger: &Ledger) -> Owed {
        ledger.take(1, 7);
        Owed { ledger: ledger.clone(), count: 1, bytes: 7, is_admitted: true }
    }

    fn nothing_much() -> Vec<OwnedFd> {
        vec![std::fs::File::open("/dev/null").unwrap().into()]
    }

    #[test]
    fn a_close_that_takes_long_keeps_nobody_and_its_room_is_taken_until_it_is_done() {
        let holdings = Holdings::new(1 << 20);
        let (ledger, closer) = (Ledger::new(holdings.clone()), Closer::default());
        let (ours, theirs) = reluctant();
        // That it comes back at all is the point: this close lasts until `theirs` is gone.
        closer.close(vec![ours], owed(&ledger));
        // The thread has taken the first or will: this many more fit for sure, and one more or two.
        for _ in 0..CLOSINGS_MAX {
            closer.close(nothing_much(), owed(&ledger));
        }
        closer.settle();
        let refused = usize::try_from(closer.inline()).unwrap();
        assert!(refused <= 1, "{refused}");
        assert_eq!(CLOSINGS_MAX + 1 - refused, holdings.held(), "it is not closed yet");
        closer.close(nothing_much(), owed(&ledger));
        closer.close(nothing_much(), owed(&ledger));
        assert!((1..=3).contains(&closer.inline()), "what does not fit is closed here");
        drop(theirs);
        closer.finish();
        assert_eq!((0, 0), (holdings.held(), holdings.bytes()));
        let inline = closer.inline();
        closer.close(nothing_much(), owed(&ledger));
        assert_eq!((0, inline + 1), (holdings.held(), closer.inline()), "it is over");
    }

    fn attached(holdings: &Rc<Holdings>, bytes: u64) -> Attached {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = std::fs::File::from(memfd_create(c"clutch-test", flags).unwrap());
        file.set_len(bytes).unwrap();
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        let ledger = Ledger::new(holdings.clone());
        ledger.come(1);
        let attached = Attached::checked(vec![file.into()], Some(&ledger)).unwrap();
        attached.admit();
        attached
    }

    #[test]
    fn what_is_large_is_closed_by_the_thread_and_all_else_at_once() {
        let holdings = Holdings::new(1 << 20);
        drop(attached(&holdings, CLOSED_ELSEWHERE_BYTES_MIN - 1));
        assert_eq!(0, holdings.held());
        drop(attached(&holdings, CLOSED_ELSEWHERE_BYTES_MIN));
        assert_eq!(1, holdings.held(), "nobody has looked what the thread has closed");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let settled = async {
                while holdings.held() > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                () = holdings.settle_forever() => {}
                () = settled => {}
            }
        });
        assert_eq!((0, 0), (holdings.bytes(), holdings.closed_inline()));
    }
}
