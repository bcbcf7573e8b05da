//! How many items of a stream may be under way, where whoever reads them has said how many it
//! takes: no more than there is room for in the outbox that they go through, as far as those that
//! came before say how long the next will be.
//!
//! Streams share an outbox, so each counts what is under way of all. But one item of each is always
//! let through once nearly nothing waits there: whoever sends it may take any time, and another
//! stream's reader must not wait for that.

use std::rc::Rc;

use crate::limits::{
    CLIENT_OUTBOX_BYTES_MAX, INPUT_BYTES_HIGH, ITEM_BYTES_GUESSED, ITEM_DESCRIPTORS_GUESSED,
    STREAM_BYTES_HIGH, STREAM_BYTES_LOW,
};
use crate::net::{Lent, Outbox, Share};

/// What there is room for in an outbox.
#[derive(Debug)]
pub(super) struct Room<'a> {
    /// What is on its way there.
    lent: &'a Rc<Lent>,
    /// Bytes and descriptors that wait there.
    waiting: (usize, usize),
    limit_descriptors: usize,
    /// So many bytes may be there or on their way, as far as there is a choice.
    high: usize,
    /// While no more than that wait, each stream may send one item.
    low: usize,
    /// The same, of descriptors.
    high_descriptors: usize,
    /// Beyond that not even one, while others' are under way.
    most: usize,
}

impl<'a> Room<'a> {
    /// On the way to a client, whose outbox has to take the answers of all its calls.
    pub(super) fn to_client(outbox: &'a Outbox) -> Room<'a> {
        let (high, low) = (STREAM_BYTES_HIGH, STREAM_BYTES_LOW);
        Room { high, low, most: CLIENT_OUTBOX_BYTES_MAX, ..Room::to_worker(outbox) }
    }

    /// On the way to a worker. What waits there was admitted to the daemon's memory, so that it may
    /// be any number of bytes; a function may wait for an item of one stream while its caller waits
    /// to send others', so that none may keep another from its next.
    pub(super) fn to_worker(outbox: &'a Outbox) -> Room<'a> {
        let limit_descriptors = outbox.limit_descriptors();
        Room {
            lent: outbox.lent(),
            waiting: (outbox.waiting_bytes(), outbox.waiting_descriptors()),
            limit_descriptors,
            high: INPUT_BYTES_HIGH,
            low: 0,
            high_descriptors: limit_descriptors / 4,
            most: usize::MAX,
        }
    }
}

/// What is known of a stream's items, and how many are under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    under_way: u32,
    /// Whether any has come. Until then nobody knows how long they are.
    has_come: bool,
    /// Bytes of the longest frame among them.
    longest: usize,
    /// Most descriptors that one had.
    most: usize,
    share: Share,
}

impl Gate {
    /// How many may come.
    pub(super) fn under_way(&self) -> u32 {
        self.under_way
    }

    /// One has come.
    pub(super) fn came(&mut self, bytes: usize, descriptors: usize) {
        self.under_way -= 1;
        self.has_come = true;
        self.longest = self.longest.max(bytes);
        self.most = self.most.max(descriptors);
        self.share();
    }

    /// How many more may come, of all the `wanted` that are not here yet.
    pub(super) fn release(&mut self, wanted: u32, room: &Room<'_>) -> u32 {
        let missing = wanted.saturating_sub(self.under_way);
        if missing == 0 {
            return 0;
        }
        let fitting = self.fitting(room);
        let more = fitting.saturating_sub(self.under_way).min(missing);
        // Not one by one, as those before it come: each leave is a frame.
        let is_few = more < missing && self.under_way > 0 && more < fitting / 2;
        let more = if is_few { 0 } else { more };
        if more < missing {
            room.lent.note_short();
        }
        if more > 0 {
            self.under_way += more;
            self.share.join(room.lent);
            self.share();
        }
        more
    }

    /// How many may be under way together.
    fn fitting(&self, room: &Room<'_>) -> u32 {
        let (lent, lent_descriptors) = self.share.of_others(room.lent);
        let (waiting, crowd) = room.waiting;
        let (long, most) = self.each();
        let fit = |high: usize, taken: usize, each: usize| {
            high.saturating_sub(taken).checked_div(each).unwrap_or(usize::MAX)
        };
        let bytes = fit(room.high, waiting + lent, long);
        let descriptors = fit(room.high_descriptors, crowd + lent_descriptors, most);
        let fitting = u32::try_from(bytes.min(descriptors)).unwrap_or(u32::MAX);
        let fitting = if self.has_come { fitting } else { fitting.min(1) };
        fitting.max(u32::from(self.may_scout(room, (lent, lent_descriptors))))
    }

    /// Whether one may be under way, however long it may be.
    fn may_scout(&self, room: &Room<'_>, lent: (usize, usize)) -> bool {
        let waits = room.waiting;
        let (long, most) = self.each();
        let is_low = waits.0 <= room.low && waits.1 * 4 <= room.high_descriptors;
        let is_alone = waits == (0, 0) && lent == (0, 0);
        let fits = waits.0.saturating_add(lent.0).saturating_add(long) <= room.most
            && (room.most == usize::MAX || waits.1 + lent.1 + most <= room.limit_descriptors);
        is_low && (is_alone || fits)
    }

    /// How much one is, as far as anybody knows.
    fn each(&self) -> (usize, usize) {
        match self.has_come {
            true => (self.longest, self.most),
            false => (ITEM_BYTES_GUESSED, ITEM_DESCRIPTORS_GUESSED),
        }
    }

    fn share(&mut self) {
        let (long, most) = self.each();
        let count = self.under_way as usize;
        self.share.set(count.saturating_mul(long), count.saturating_mul(most));
    }
}

#[cfg(test)]
impl<'a> Room<'a> {
    /// Room on the way to a worker, of which so many bytes and descriptors are taken.
    pub(super) fn taken(lent: &'a Rc<Lent>, bytes: usize, descriptors: usize) -> Room<'a> {
        Room {
            lent,
            waiting: (bytes, descriptors),
            limit_descriptors: 256,
            high: INPUT_BYTES_HIGH,
            low: 0,
            high_descriptors: 64,
            most: usize::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    /// A gate whose items have so many bytes and descriptors.
    fn known(lent: &Rc<Lent>, bytes: usize, descriptors: usize) -> Gate {
        let mut gate = Gate::default();
        assert_eq!(1, gate.release(1, &Room::taken(lent, 0, 0)), "the first is a scout");
        gate.came(bytes, descriptors);
        gate
    }

    #[test]
    fn streams_share_what_there_is_and_each_may_send_one() {
        let lent = Rc::new(Lent::default());
        let (mut one, mut other) = (known(&lent, 256 * KIB, 0), known(&lent, 256 * KIB, 0));
        let room = Room::taken(&lent, 0, 0);
        assert_eq!((4, 1), (one.release(32, &room), other.release(32, &room)));
        assert_eq!(0, known(&lent, 100, 0).release(32, &Room::taken(&lent, 1, 0)), "not even one");
        drop(one);
        assert_eq!(3, other.release(32, &room), "what was given back is there for others");
    }

    #[test]
    fn descriptors_are_counted_as_bytes_are() {
        let lent = Rc::new(Lent::default());
        let mut gate = known(&lent, 100, 3);
        assert_eq!(21, gate.release(4096, &Room::taken(&lent, 0, 0)));
        gate.came(100, 3);
        assert_eq!(0, gate.release(4096, &Room::taken(&lent, 100, 60)));
    }

    #[test]
    fn clients_outboxes_take_only_so_much_even_of_scouts() {
        let lent = Rc::new(Lent::default());
        let room = || Room {
            low: STREAM_BYTES_LOW,
            most: CLIENT_OUTBOX_BYTES_MAX,
            ..Room::taken(&lent, 0, 0)
        };
        let mut gates: Vec<_> = (0..12).map(|_| known(&lent, 8 << 20, 0)).collect();
        let given: u32 = gates.iter_mut().map(|gate| gate.release(32, &room())).sum();
        assert_eq!(8, given, "64 MiB");
        gates.truncate(4);
        assert_eq!(1, known(&lent, 8 << 20, 0).release(32, &room()));
    }

    #[test]
    fn leave_is_not_given_one_by_one_where_there_is_little_room() {
        let lent = Rc::new(Lent::default());
        let mut gate = known(&lent, KIB, 0);
        assert_eq!(1024, gate.release(4096, &Room::taken(&lent, 0, 0)));
        gate.came(KIB, 0);
        assert_eq!(0, gate.release(4095, &Room::taken(&lent, 0, 0)));
        (0..511).for_each(|_| gate.came(KIB, 0));
        assert_eq!(512, gate.release(3584, &Room::taken(&lent, 0, 0)));
    }
}
