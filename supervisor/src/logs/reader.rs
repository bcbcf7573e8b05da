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
    /// Where it begins, while that is being looked for.
    search: Option<Search>,
}

/// The way back through the rings to the oldest of the newest lines that are wanted.
#[derive(Debug)]
struct Search {
    /// The newest line of each pool that has not been looked at: its order, the pool's index and
    /// its place there.
    newest: BinaryHeap<(u64, usize, u64)>,
    /// How many lines are still to be found.
    left: u32,
    /// The order of the oldest line that was found.
    start: u64,
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
        let mut newest = BinaryHeap::new();
        for (index, (name, ring)) in pools.iter().enumerate() {
            let is_wanted = wanted.pool.is_empty() || wanted.pool == *name;
            if is_wanted && let Some(place) = ring.end().checked_sub(1) {
                newest.extend(ring.get(place).map(|entry| (entry.order, index, place)));
            }
        }
        let search = Some(Search { newest, left: wanted.lines, start: now });
        let places = pools.iter().map(|(_, ring)| ring.end()).collect();
        Reader { wanted, places, until, search }
    }

    /// Looks for the place to begin at, within the bound of one turn. Gives how many lines it has
    /// looked at; none when the turn was too short.
    fn find_start(&mut self, pools: &[Pool<'_>]) -> Option<usize> {
        let Some(mut search) = self.search.take() else {
            return Some(0);
        };
        let mut scanned = 0;
        while search.left > 0
            && let Some((order, index, place)) = search.newest.pop()
        {
            let ring = pools[index].1;
            // What is forgotten by now is nowhere, and neither is what was there before it.
            let Some(entry) = ring.get(place).filter(|entry| entry.order == order) else {
                continue;
            };
            self.places[index] = place;
            if self.wants(entry) {
                (search.start, search.left) = (order, search.left - 1);
            }
            if let Some(before) = place.checked_sub(1) {
                search.newest.extend(ring.get(before).map(|entry| (entry.order, index, before)));
            }
            scanned += 1;
            if scanned >= LOG_SCAN_LINES_MAX {
                self.search = Some(search);
                return None;
            }
        }
        for (place, (_, ring)) in self.places.iter_mut().zip(pools) {
            // Lines that were found and are forgotten since have been missed.
            if *place >= ring.first() {
                *place = (*place).max(ring.place_of(search.start));
            }
        }
        Some(scanned)
    }

    /// The next lines, oldest first, as many as one turn may take.
    pub fn next(&mut self, pools: &[Pool<'_>]) -> Batch {
        let mut batch =
            Batch { json: b"[".to_vec(), lines: 0, dropped: 0, more: false, last: false };
        let Some(mut scanned) = self.find_start(pools) else {
            batch.json.push(b']');
            batch.more = true;
            return batch;
        };
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
    fn looking_for_the_start_is_bounded_too() {
        let lines = 2 * LOG_SCAN_LINES_MAX as u64 + 100;
        let mut rings = rings(lines);
        // Nothing is found on the whole way back, or only at its end.
        for (wanted, found) in [(99, 0), (3, 7)] {
            let wanted = Logs { call: wanted, slot: Some(0), lines: 7, ..all() };
            let mut reader = Reader::new(wanted, &pools(&rings), lines);
            for _ in 0..2 {
                let batch = reader.next(&pools(&rings));
                if found > 0 {
                    assert_eq!((7, true), (batch.lines, batch.last));
                    break;
                }
                assert_eq!((0, true, false), (batch.lines, batch.more, batch.last));
            }
        }
        // What is forgotten while it is looked for was missed; what is new meanwhile was not.
        let wanted = Logs { call: 99, lines: 7, follow: true, ..all() };
        let mut reader = Reader::new(wanted, &pools(&rings), lines);
        assert!(reader.next(&pools(&rings)).more);
        for order in lines..lines + 10 {
            rings[0].push(entry(order, 99, &format!("line {order}")), 100, usize::MAX);
        }
        let mut found = Vec::new();
        for _ in 0..10 {
            let batch = reader.next(&pools(&rings));
            found.extend(texts(&batch));
        }
        assert_eq!(named(lines..lines + 10), found);
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
