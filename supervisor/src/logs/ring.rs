//! The newest lines of a pool, within a number of lines and of bytes. Pure.

use std::collections::VecDeque;

use super::entry::Entry;

/// What is kept of one pool. Takes memory as it is filled, none before.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// How many lines were forgotten: the place of the oldest one that is kept.
    forgotten: u64,
}

impl Ring {
    /// Keeps a line, and forgets the oldest ones beyond the bounds. One line is always kept.
    pub fn push(&mut self, entry: Entry, lines_max: usize, bytes_max: usize) {
        self.bytes += entry.cost_bytes();
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.entries.len() > lines_max || self.bytes > bytes_max) {
            let oldest = self.entries.pop_front().expect("there are two");
            self.bytes -= oldest.cost_bytes();
            self.forgotten += 1;
        }
    }

    /// The place of the oldest line that is kept. Places never come again.
    pub fn first(&self) -> u64 {
        self.forgotten
    }

    /// The place of the next line to come.
    pub fn end(&self) -> u64 {
        self.forgotten + self.entries.len() as u64
    }

    /// The line at a place, if it is kept.
    pub fn get(&self, place: u64) -> Option<&Entry> {
        let index = place.checked_sub(self.forgotten)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// The place of the first line with this order or a higher one.
    pub fn place_of(&self, order: u64) -> u64 {
        self.forgotten + self.entries.partition_point(|entry| entry.order < order) as u64
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use clutch_protocol::message::{Stream, WorkerId};

    use super::super::entry::Source;
    use super::*;

    pub(crate) fn entry(order: u64, call: u64, text: &str) -> Entry {
        Entry {
            order,
            at_ms: order,
            worker: WorkerId { slot: u32::from(order % 2 == 1), generation: 1 },
            call,
            source: Source::Printed(Stream::Stdout),
            text: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    #[test]
    fn the_newest_lines_are_kept_and_places_stay() {
        let mut ring = Ring::default();
        for order in 0..250 {
            ring.push(entry(order * 2, 0, "text"), 100, usize::MAX);
        }
        assert_eq!((150, 250), (ring.first(), ring.end()));
        assert!(ring.get(149).is_none() && ring.get(250).is_none());
        assert_eq!(Some(300), ring.get(150).map(|entry| entry.order));
        assert_eq!((150, 151, 250), (ring.place_of(0), ring.place_of(301), ring.place_of(9999)));
    }

    #[test]
    fn bytes_are_bounded_and_counted() {
        let mut ring = Ring::default();
        for (order, length) in (0..1000).zip((0..500).cycle()) {
            ring.push(entry(order, 0, &"x".repeat(length)), 10_000, 20_000);
            assert!(ring.bytes() <= 20_000);
        }
        let held: usize = (ring.first()..ring.end())
            .filter_map(|place| ring.get(place))
            .map(Entry::cost_bytes)
            .sum();
        assert_eq!(held, ring.bytes());
        ring.push(entry(1000, 0, &"x".repeat(30_000)), 10_000, 20_000);
        assert_eq!(1, ring.end() - ring.first(), "a line that is too long is kept alone");
    }
}
