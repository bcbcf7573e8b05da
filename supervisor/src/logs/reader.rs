//! A client's place in the rings: which lines it wants, and how far it has got. Pure.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use clutch_protocol::message::Logs;

use super::entry::Entry;
use super::ring::Ring;
use crate::limits::{LOG_BATCH_BYTES_MAX, LOG_BATCH_LINES_MAX, LOG_SCAN_LINES_MAX};

/// One pool's name and lines.
pub type Pool<'a> = (&'a str, &'a Ring);

/// A reader of the rings.
#[derive(Debug)]
pub struct Reader {
    wanted: Logs,
    /// The next place in each pool's ring, by the pool's index. Pools that come later are read from
    /// their first line.
    places: Vec<u64>,
    /// Lines from this order on are not wanted; none for a follower.
    until: Option<u64>,
}

/// What a reader has found.
#[derive(Debug)]
pub struct Batch {
    /// A JSON list of lines.
    pub json: Vec<u8>,
    /// How many lines are in it.
    pub lines: usize,
    /// Lines that were forgotten before they were read.
    pub dropped: u64,
    /// Whether there may be more already.
    pub more: bool,
    /// Whether nothing more will ever come.
    pub last: bool,
}

impl Reader {
    /// A reader that starts with the newest `wanted.lines` lines; `now` is the order of the next
    /// line to come.
    pub fn new(wanted: Logs, pools: &[Pool<'_>], now: u64) -> Reader {
        let until = (!wanted.follow).then_some(now);
        let mut reader = Reader { wanted, places: Vec::new(), until };
        let start = reader.start(pools, now);
        reader.places = pools.iter().map(|(_, ring)| ring.place_of(start)).collect();
        reader
    }

    /// The order of the oldest line among the newest that are wanted.
    fn start(&self, pools: &[Pool<'_>], now: u64) -> u64 {
        // The newest line of each pool that has not been counted yet.
        let mut newest = BinaryHeap::new();
        for (index, (name, ring)) in pools.iter().enumerate() {
            if self.wants_pool(name)
                && let Some(place) = ring.end().checked_sub(1)
            {
                newest.extend(ring.get(place).map(|entry| (entry.order, index, place)));
            }
        }
        let (mut start, mut left) = (now, self.wanted.lines);
        while left > 0
            && let Some((order, index, place)) = newest.pop()
        {
            let ring = pools[index].1;
            if ring.get(place).is_some_and(|entry| self.wants(entry)) {
                (start, left) = (order, left - 1);
            }
            if let Some(before) = place.checked_sub(1) {
                newest.extend(ring.get(before).map(|entry| (entry.order, index, before)));
            }
        }
        start
    }

    /// The next lines, oldest first, as many as one turn may take.
    pub fn next(&mut self, pools: &[Pool<'_>]) -> Batch {
        let mut batch =
            Batch { json: b"[".to_vec(), lines: 0, dropped: 0, more: false, last: false };
        let mut oldest = BinaryHeap::new();
        self.places.resize(pools.len(), 0);
        for (index, (name, ring)) in pools.iter().enumerate() {
            let place = &mut self.places[index];
            if !self.wanted.pool.is_empty() && self.wanted.pool != *name {
                continue;
            }
            batch.dropped += ring.first().saturating_sub(*place);
            // A ring that is younger than this reader starts anew.
            *place = (*place).clamp(ring.first(), ring.end());
            oldest.extend(ring.get(*place).map(|entry| Reverse((entry.order, index))));
        }
        let mut scanned = 0;
        while let Some(Reverse((order, index))) = oldest.pop() {
            if self.until.is_some_and(|until| order >= until) {
                oldest.clear();
                break;
            }
            let full =
                batch.lines >= LOG_BATCH_LINES_MAX || batch.json.len() >= LOG_BATCH_BYTES_MAX;
            if full || scanned >= LOG_SCAN_LINES_MAX {
                batch.more = true;
                break;
            }
            let (name, ring) = pools[index];
            let entry = ring.get(self.places[index]).expect("it was there a moment ago");
            self.places[index] += 1;
            scanned += 1;
            if self.wants(entry) {
                write(&mut batch, entry, name);
            }
            oldest.extend(ring.get(self.places[index]).map(|next| Reverse((next.order, index))));
        }
        batch.json.push(b']');
        batch.last = self.until.is_some() && !batch.more;
        batch
    }

    /// Whether it waits for lines to come.
    pub fn follows(&self) -> bool {
        self.wanted.follow
    }

    fn wants_pool(&self, name: &str) -> bool {
        self.wanted.pool.is_empty() || self.wanted.pool == name
    }

    fn wants(&self, entry: &Entry) -> bool {
        (self.wanted.call == 0 || self.wanted.call == entry.call)
            && self.wanted.slot.is_none_or(|slot| slot == entry.worker.slot)
    }
}

fn write(batch: &mut Batch, entry: &Entry, pool: &str) {
    if batch.lines > 0 {
        batch.json.push(b',');
    }
    serde_json::to_writer(&mut batch.json, &entry.show(pool)).expect("a line is plain data");
    batch.lines += 1;
}

#[cfg(test)]
mod tests {
    use clutch_protocol::logs::LogLine;

    use super::super::ring::tests::entry;
    use super::*;

    fn all() -> Logs {
        Logs { pool: String::new(), call: 0, slot: None, lines: 1000, follow: false }
    }

    /// Two pools that take turns; calls 1 to 4 do, too.
    fn rings(lines: u64) -> [Ring; 2] {
        let mut rings = [Ring::default(), Ring::default()];
        for order in 0..lines {
            let line = entry(order, order % 4 + 1, &format!("line {order}"));
            rings[usize::from(order / 3 % 2 == 1)].push(line, 100_000, usize::MAX);
        }
        rings
    }

    fn pools(rings: &[Ring; 2]) -> [Pool<'_>; 2] {
        [("a", &rings[0]), ("b", &rings[1])]
    }

    fn texts(batch: &Batch) -> Vec<String> {
        let lines: Vec<LogLine> = serde_json::from_slice(&batch.json).unwrap();
        assert_eq!(batch.lines, lines.len());
        lines.into_iter().map(|line| line.text).collect()
    }

    fn read(wanted: Logs, rings: &[Ring; 2], now: u64) -> Vec<String> {
        let pools = pools(rings);
        let mut reader = Reader::new(wanted, &pools, now);
        let mut found = Vec::new();
        for _ in 0..10_000 {
            let batch = reader.next(&pools);
            found.extend(texts(&batch));
            if batch.last {
                return found;
            }
        }
        panic!("it never ends")
    }

    fn named(orders: impl IntoIterator<Item = u64>) -> Vec<String> {
        orders.into_iter().map(|order| format!("line {order}")).collect()
    }

    #[test]
    fn lines_of_all_pools_come_in_order() {
        let rings = rings(30);
        assert_eq!(named(0..30), read(all(), &rings, 30));
        assert_eq!(named(23..30), read(Logs { lines: 7, ..all() }, &rings, 30));
        assert_eq!(named(0..20), read(all(), &rings, 20), "what comes later is not waited for");
        assert!(read(Logs { lines: 0, ..all() }, &rings, 30).is_empty());
    }

    #[test]
    fn what_is_not_wanted_is_left_out() {
        let rings = rings(30);
        let first = named([0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20, 24, 25, 26]);
        assert_eq!(first, read(Logs { pool: "a".into(), ..all() }, &rings, 30));
        let third = Logs { call: 3, lines: 3, ..all() };
        assert_eq!(named([18, 22, 26]), read(third, &rings, 30));
        let odd = Logs { slot: Some(1), lines: 2, ..all() };
        assert_eq!(named([27, 29]), read(odd, &rings, 30));
        assert!(read(Logs { pool: "c".into(), ..all() }, &rings, 30).is_empty());
    }

    #[test]
    fn a_turn_is_bounded_and_nothing_is_lost_between_turns() {
        let rings = rings(20_000);
        let pools = pools(&rings);
        let mut reader = Reader::new(Logs { lines: 5_000, ..all() }, &pools, 20_000);
        let first = reader.next(&pools);
        assert!(first.more && !first.last && first.lines <= LOG_BATCH_LINES_MAX);
        assert_eq!(named(15_000..20_000), read(Logs { lines: 5_000, ..all() }, &rings, 20_000));
    }

    #[test]
    fn who_is_too_slow_is_told_how_much_is_missing() {
        let mut rings = rings(10);
        let mut reader = Reader::new(Logs { follow: true, ..all() }, &pools(&rings), 10);
        assert_eq!(10, reader.next(&pools(&rings)).lines);
        for order in 10..500 {
            rings[0].push(entry(order, 0, "new"), 100, usize::MAX);
        }
        let batch = reader.next(&pools(&rings));
        assert_eq!((100, 390, false), (batch.lines, batch.dropped, batch.last));
        let nothing = reader.next(&pools(&rings));
        assert_eq!((0, 0, false, false), {
            (nothing.lines, nothing.dropped, nothing.more, nothing.last)
        });
    }
}
