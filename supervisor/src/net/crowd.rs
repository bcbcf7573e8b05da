//! What waits in the outboxes of all clients together, and who has to go when that is too much:
//! the one for whom most of it waits, whoever it is that sends just now. So nobody who reads is
//! turned away since others do not.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::attached::Attached;
use super::outbox::OutboxError;

/// Bytes that wait, and what leaves with the first of them.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) attached: Attached,
    /// What it holds of the daemon's memory until it has left.
    pub(super) _memory: Option<OwnedSemaphorePermit>,
}

/// What waits in one outbox.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) pieces: RefCell<VecDeque<Piece>>,
    pub(super) bytes: Cell<usize>,
    pub(super) descriptors: Cell<usize>,
    pub(super) is_closed: Cell<bool>,
    /// Why it was closed, if that was to make room for others.
    pub(super) crowded_out: Cell<Option<OutboxError>>,
    /// There is something to send, or nothing ever will be.
    pub(super) blocked: Notify,
    /// Some of it has left, or is dropped.
    pub(super) lighter: Notify,
}

/// What may wait in many outboxes together.
#[derive(Clone, Debug)]
pub struct SharedBudget(Rc<Crowd>);

#[derive(Debug)]
struct Crowd {
    bytes: Cell<usize>,
    limit_bytes: usize,
    descriptors: Cell<usize>,
    limit_descriptors: usize,
    members: RefCell<Vec<Weak<Backlog>>>,
}

impl SharedBudget {
    /// A budget of so many bytes and descriptors.
    pub fn new(limit_bytes: usize, limit_descriptors: usize) -> SharedBudget {
        let (bytes, descriptors) = (Cell::default(), Cell::default());
        let members = RefCell::default();
        SharedBudget(Rc::new(Crowd { bytes, limit_bytes, descriptors, limit_descriptors, members }))
    }

    /// Another outbox that shares it.
    pub(super) fn join(&self) -> Rc<Backlog> {
        let backlog = Rc::new(Backlog::default());
        let mut members = self.0.members.borrow_mut();
        if members.len() == members.capacity() {
            // Right before it would grow: so it is never much longer than there are members.
            members.retain(|member| member.strong_count() > 0);
        }
        members.push(Rc::downgrade(&backlog));
        backlog
    }

    /// Makes room for so much more in an outbox in which something waits already. Whoever has most
    /// of what there is too much of goes.
    ///
    /// # Errors
    ///
    /// When that is the one that asks.
    pub(super) fn make_room(
        &self,
        own: &Backlog,
        bytes: usize,
        descriptors: usize,
    ) -> Result<(), OutboxError> {
        let all = &self.0;
        while all.bytes.get() + bytes > all.limit_bytes {
            let waiting = own.bytes.get();
            let error = |waiting| OutboxError::Full { waiting, limit: all.limit_bytes };
            self.drop_largest(|it| it.bytes.get(), waiting + bytes, error)?;
        }
        while descriptors > 0 && all.descriptors.get() + descriptors > all.limit_descriptors {
            let waiting = own.descriptors.get() + descriptors;
            self.drop_largest(|it| it.descriptors.get(), waiting, OutboxError::Crowded)?;
        }
        Ok(())
    }

    /// Drops the largest of all outboxes, if it is larger than one that would have `own`.
    fn drop_largest(
        &self,
        size: impl Fn(&Backlog) -> usize,
        own: usize,
        error: impl Fn(usize) -> OutboxError,
    ) -> Result<(), OutboxError> {
        let members = self.0.members.borrow();
        let largest = members.iter().filter_map(Weak::upgrade).max_by_key(|it| size(it));
        match largest {
            Some(largest) if size(&largest) > own => {
                largest.crowded_out.set(Some(error(size(&largest))));
                self.close(&largest);
                Ok(())
            }
            _ => Err(error(own)),
        }
    }

    /// Drops what waits, and takes nothing more.
    pub(super) fn close(&self, backlog: &Backlog) {
        backlog.is_closed.set(true);
        self.forget(backlog);
        backlog.blocked.notify_one();
        backlog.lighter.notify_waiters();
    }

    pub(super) fn forget(&self, backlog: &Backlog) {
        self.count_down(backlog, backlog.bytes.get(), backlog.descriptors.get());
        backlog.pieces.borrow_mut().clear();
    }

    pub(super) fn keep(&self, backlog: &Backlog, piece: Piece) {
        let (bytes, descriptors) = (piece.bytes.len(), piece.attached.len());
        backlog.bytes.set(backlog.bytes.get() + bytes);
        backlog.descriptors.set(backlog.descriptors.get() + descriptors);
        self.0.bytes.set(self.0.bytes.get() + bytes);
        self.0.descriptors.set(self.0.descriptors.get() + descriptors);
        backlog.pieces.borrow_mut().push_back(piece);
    }

    pub(super) fn count_down(&self, backlog: &Backlog, bytes: usize, descriptors: usize) {
        backlog.bytes.set(backlog.bytes.get() - bytes);
        backlog.descriptors.set(backlog.descriptors.get() - descriptors);
        self.0.bytes.set(self.0.bytes.get() - bytes);
        self.0.descriptors.set(self.0.descriptors.get() - descriptors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(all: &SharedBudget, own: &Backlog, bytes: usize) -> Result<(), OutboxError> {
        all.make_room(own, bytes, 0)?;
        let (bytes, attached) = (Bytes::from(vec![0; bytes]), Attached::default());
        all.keep(own, Piece { bytes, attached, _memory: None });
        Ok(())
    }

    #[test]
    fn whoever_has_most_goes_and_nobody_else() {
        let all = SharedBudget::new(100, 10);
        let (small, large, third) = (all.join(), all.join(), all.join());
        keeps(&all, &small, 10).unwrap();
        keeps(&all, &large, 60).unwrap();
        keeps(&all, &third, 30).unwrap();
        assert_eq!(Ok(()), keeps(&all, &small, 20), "it is not the one who has too much");
        let full = OutboxError::Full { waiting: 60, limit: 100 };
        assert_eq!((true, Some(full)), (large.is_closed.get(), large.crowded_out.get()));
        assert_eq!((0, 30, 30), (large.bytes.get(), small.bytes.get(), third.bytes.get()));
        assert!(large.pieces.borrow().is_empty() && !third.is_closed.get());
        // Whoever has most itself is told.
        let full = OutboxError::Full { waiting: 80, limit: 100 };
        assert_eq!(Err(full), keeps(&all, &small, 50));
        assert!(!small.is_closed.get() && !third.is_closed.get());
        // Descriptors count by themselves.
        all.count_down(&third, 0, 0);
        third.descriptors.set(8);
        all.0.descriptors.set(8);
        assert_eq!(Ok(()), all.make_room(&small, 0, 3));
        assert_eq!(Some(OutboxError::Crowded(8)), third.crowded_out.get());
        assert_eq!(Err(OutboxError::Crowded(11)), all.make_room(&small, 0, 11));
    }

    #[test]
    fn outboxes_that_are_gone_are_forgotten() {
        let all = SharedBudget::new(100, 10);
        for _ in 0..1000 {
            let _gone = all.join();
        }
        assert!(all.0.members.borrow().len() < 16);
    }
}
