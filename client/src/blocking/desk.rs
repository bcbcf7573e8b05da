//! Where the threads of a blocking client meet: who waits for what, who reads, and what is to be
//! sent by the way. No system calls here.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use clutch_protocol::Kind;

use crate::inbox::Inbox;
use crate::limits::REMARKS_MAX;
use crate::pending::{Outcome, Pending};

/// Guarded by one lock, which is never held during a system call that can wait.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) pending: Pending<Arc<Mailbox>>,
    /// The right to read. A thread that takes it is the leader until it puts it back.
    pub(super) inbox: Option<Inbox>,
    /// Frames that nobody waits for: cancels, pongs and releases.
    remarks: VecDeque<(u64, Kind)>,
}

/// Where one caller finds its answers: one for a call, several for a map.
#[derive(Default)]
pub(super) struct Mailbox {
    /// Waited on with the desk's lock.
    pub(super) arrived: Condvar,
    letters: Mutex<Letters>,
}

#[derive(Default)]
pub(super) struct Letters {
    pub(super) outcomes: VecDeque<(u64, Outcome)>,
    /// Whether its owner waits on `arrived`, and so can become the leader.
    pub(super) waiting: bool,
}

impl Mailbox {
    pub(super) fn letters(&self) -> MutexGuard<'_, Letters> {
        lock(&self.letters)
    }

    pub(super) fn deliver(&self, id: u64, outcome: Outcome) {
        self.letters().outcomes.push_back((id, outcome));
        self.arrived.notify_one();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way; a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Notes a frame to be sent by the way. Too many are dropped: the daemon does without; but for
    /// releases, of which there is one for each value that it keeps for us, and no more.
    pub(super) fn remark(&mut self, id: u64, kind: Kind) {
        if kind == Kind::Release || self.remarks.len() < REMARKS_MAX {
            self.remarks.push_back((id, kind));
        }
    }

    /// Notes a frame that did not leave, before all others.
    pub(super) fn put_back(&mut self, id: u64, kind: Kind) {
        self.remarks.push_front((id, kind));
    }

    pub(super) fn has_remarks(&self) -> bool {
        !self.remarks.is_empty()
    }

    pub(super) fn take_remark(&mut self) -> Option<(u64, Kind)> {
        self.remarks.pop_front()
    }

    /// Wakes a thread to become the leader, unless there is one.
    pub(super) fn promote(&self) {
        if self.inbox.is_some()
            && let Some(mailbox) = self.pending.waiters().find(|mailbox| mailbox.letters().waiting)
        {
            mailbox.arrived.notify_one();
        }
    }
}
