//! How many descriptors are held for whoever sent them, and how many may be.
//!
//! The kernel lets a process have only so many open files. Workers and connections need theirs;
//! the rest is shared by what clients attach to their calls, so that a client that attaches
//! without end waits for its own answers and keeps nobody else from being served.

use std::cell::Cell;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use clutch_protocol::limits::DESCRIPTORS_MAX;
use tokio::sync::Notify;

use super::closer::{Closer, Owed};
use super::quota::Account;

/// What is held for everybody.
#[derive(Debug)]
pub struct Holdings {
    /// How many may be held for calls and answers.
    limit: usize,
    /// How many of them for one client.
    limit_of_one: usize,
    /// How many may be coming in: their frames are not whole, or wait for others to be answered.
    limit_coming: usize,
    held: Cell<usize>,
    coming: Cell<usize>,
    /// Sizes are whatever a sender made them, so their sum may be beyond 64 bits.
    bytes: Cell<u128>,
    refused: Cell<u64>,
    freed: Notify,
    closer: Closer,
}

impl Holdings {
    /// What may be held where `free` descriptors are left beside what workers and connections
    /// need: half of them for calls, a quarter for frames that are coming in, and an eighth for
    /// answers that pass through. The rest is what [`Quotas`](super::Quotas) keeps. However few
    /// there are, one frame at a time can always come.
    pub fn new(free: u64) -> Rc<Holdings> {
        let one_frame = usize::from(DESCRIPTORS_MAX);
        let free = usize::try_from(free).unwrap_or(usize::MAX);
        let limit = (free / 2).max(one_frame);
        Rc::new(Holdings {
            limit,
            limit_of_one: (limit / 4).max(one_frame),
            limit_coming: (free / 4).max(one_frame),
            held: Cell::default(),
            coming: Cell::default(),
            bytes: Cell::default(),
            refused: Cell::default(),
            freed: Notify::new(),
            closer: Closer::default(),
        })
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.get()
    }

    /// How many are coming in.
    #[cfg(test)]
    pub(super) fn coming(&self) -> usize {
        self.coming.get()
    }

    /// Bytes of memory they stand for.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.bytes.get()).unwrap_or(u64::MAX)
    }

    /// How often something large was closed on the data plane, since its thread could not.
    pub fn closed_inline(&self) -> u64 {
        self.closer.inline()
    }

    /// Gives back what is closed by another thread, for ever.
    pub async fn settle_forever(&self) {
        self.closer.settle_forever().await;
    }

    /// Waits until what is being closed by another thread is closed, within a bound.
    pub fn finish(&self) {
        self.closer.finish();
    }

    /// How many were closed since they may not travel, since nothing began.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// How many may be held for one client, and how many may wait for it to read them.
    pub fn limit_of_one(&self) -> usize {
        self.limit_of_one
    }

    /// How many may wait in the outboxes of all clients together: the rest of what is free.
    pub fn limit_of_answers(&self) -> usize {
        (self.limit / 4).max(usize::from(DESCRIPTORS_MAX))
    }
}

/// One sender's part in what is held.
#[derive(Clone, Debug)]
pub struct Ledger {
    all: Rc<Holdings>,
    own: Rc<Cell<usize>>,
    is_workers: bool,
    /// Where it is counted what its sender keeps, for the part of it that is just that.
    kept: Option<Account>,
}

impl Ledger {
    /// A sender that nothing is held for.
    pub fn new(all: Rc<Holdings>) -> Ledger {
        Ledger { all, own: Rc::default(), is_workers: false, kept: None }
    }

    /// A worker that nothing is held for. What it sends was asked for, and passes through.
    pub fn of_worker(all: Rc<Holdings>) -> Ledger {
        Ledger { is_workers: true, ..Ledger::new(all) }
    }

    /// The same sender, but for what is kept for it beyond its calls: nobody waits for that.
    pub(super) fn of_kept(&self, kept: Account) -> Ledger {
        Ledger { kept: Some(kept), ..self.clone() }
    }

    /// Whether `more` have to wait until fewer are held, for this sender or for all. Where nothing
    /// is held, there is always room for one frame. What `is_nested` does not wait for all: others
    /// may be held by calls that wait for it.
    pub fn must_wait(&self, more: usize, is_nested: bool) -> bool {
        let exceeds = |held: usize, limit: usize| held > 0 && held + more > limit;
        exceeds(self.own.get(), self.all.limit_of_one)
            || !is_nested && exceeds(self.all.held.get(), self.all.limit)
    }

    /// Whether so many of one sender may wait here for their turn, beside others that do: half of
    /// what may be coming in is left to frames that are really coming in.
    pub fn may_queue(&self, own: usize) -> bool {
        let limit = self.all.limit_coming;
        own < (limit / 8).max(usize::from(DESCRIPTORS_MAX)) && self.all.coming.get() <= limit / 2
    }

    /// Resolves when fewer are held or coming in than when it was called.
    pub fn freed(&self) -> impl Future<Output = ()> + '_ {
        self.all.freed.notified()
    }

    pub(super) fn take(&self, count: usize, bytes: u64) {
        self.own.set(self.own.get() + count);
        self.all.held.set(self.all.held.get() + count);
        self.all.bytes.set(self.all.bytes.get() + u128::from(bytes));
    }

    pub(super) fn give_back(&self, count: usize, bytes: u64) {
        if let Some(account) = &self.kept {
            return account.give_back(count, bytes);
        }
        self.own.set(self.own.get() - count);
        self.all.held.set(self.all.held.get() - count);
        self.all.bytes.set(self.all.bytes.get() - u128::from(bytes));
        self.all.freed.notify_waiters();
    }

    /// Has another thread close what takes long to close.
    pub(super) fn close(descriptors: Vec<OwnedFd>, owed: Owed) {
        let all = owed.ledger.all.clone();
        all.closer.close(descriptors, owed);
    }

    /// Some are coming in. False when those of all clients are too many.
    pub(super) fn come(&self, count: usize) -> bool {
        self.all.coming.set(self.all.coming.get() + count);
        self.is_workers || self.all.coming.get() <= self.all.limit_coming
    }

    /// They are held now, or closed.
    pub(super) fn gone(&self, count: usize) {
        self.all.coming.set(self.all.coming.get() - count);
        self.all.freed.notify_waiters();
    }

    pub(super) fn refuse(&self, count: usize) {
        self.all.refused.set(self.all.refused.get() + count as u64);
    }
}
