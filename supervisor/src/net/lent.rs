//! How much is on its way to an outbox since somebody was given leave to send it: what leave is
//! given from then on has to fit beside it.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// What is on its way to one outbox, as far as anybody knows how long it will be.
#[derive(Debug, Default)]
pub struct Lent {
    bytes: Cell<usize>,
    descriptors: Cell<usize>,
    /// Whether somebody was not given all the leave it wants.
    is_short: Cell<bool>,
    freed: Notify,
}

impl Lent {
    /// Somebody did not get all the leave it wants, and is to be thought of again.
    pub fn note_short(&self) {
        self.is_short.set(true);
    }

    /// There is more room than before.
    pub fn note_room(&self) {
        if self.is_short.get() {
            self.freed.notify_one();
        }
    }

    /// Resolves when there is more room, for somebody who wants it. Whoever waits here asks all of
    /// them again.
    pub async fn freed(&self) {
        self.freed.notified().await;
        self.is_short.set(false);
    }
}

/// One stream's part of what is on its way. Given back when it is dropped, however the stream ends.
#[derive(Debug, Default)]
pub struct Share {
    of: Option<Rc<Lent>>,
    bytes: usize,
    descriptors: usize,
}

impl Share {
    /// It is a part of what is on its way there.
    pub fn join(&mut self, of: &Rc<Lent>) {
        self.of.get_or_insert_with(|| of.clone());
    }

    /// From now on so much of the stream is on its way.
    pub fn set(&mut self, bytes: usize, descriptors: usize) {
        let Some(of) = &self.of else { return };
        of.bytes.set((of.bytes.get() - self.bytes).saturating_add(bytes));
        of.descriptors.set((of.descriptors.get() - self.descriptors).saturating_add(descriptors));
        if bytes < self.bytes || descriptors < self.descriptors {
            of.note_room();
        }
        (self.bytes, self.descriptors) = (bytes, descriptors);
    }

    /// Bytes and descriptors that are on their way for other streams.
    pub fn of_others(&self, of: &Lent) -> (usize, usize) {
        (of.bytes.get() - self.bytes, of.descriptors.get() - self.descriptors)
    }
}

impl Clone for Share {
    /// What is on its way is that once.
    fn clone(&self) -> Share {
        Share::default()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_given_back_however_it_ends() {
        let lent = Rc::new(Lent::default());
        let (mut one, mut other) = (Share::default(), Share::default());
        one.join(&lent);
        other.join(&lent);
        one.set(100, 3);
        other.set(50, 1);
        assert_eq!(((50, 1), (100, 3)), (one.of_others(&lent), other.of_others(&lent)));
        let copy = one.clone();
        assert_eq!((150, 4), copy.of_others(&lent));
        one.set(10, 0);
        assert_eq!((10, 0), other.of_others(&lent));
        drop((one, copy));
        assert_eq!((0, 0), other.of_others(&lent));
    }
}
