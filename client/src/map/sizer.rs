//! How many items the next chunk of a map shall have. Pure: it is told what was measured.

use crate::limits::{
    CHUNK_BYTES, CHUNK_GROWTH, CHUNK_ITEMS_MAX, CHUNK_RUN_MIN_US, CHUNK_RUN_US, SHARES,
};

/// Learns how long items take and how large they are, and aims at chunks of
/// [`CHUNK_RUN_US`](crate::limits::CHUNK_RUN_US).
#[derive(Clone, Debug)]
pub(crate) struct Sizer {
    items: u32,
    items_max: u32,
    /// An item's run time, in nanoseconds: it rises with the first chunk that takes longer, and
    /// falls slowly. Where items are of all lengths, a few short ones prove nothing.
    item_run_ns: Option<u64>,
    /// Moving average of an item's encoded length.
    item_bytes: u64,
}

impl Sizer {
    /// Starts with chunks of one item: nothing is known, and if items take seconds, the first
    /// should come back after one.
    pub(crate) fn new(items_max: u32) -> Sizer {
        assert!(items_max > 0, "a chunk has at least one item");
        let items_max = items_max.min(CHUNK_ITEMS_MAX);
        Sizer { items: 1, items_max, item_run_ns: None, item_bytes: 0 }
    }

    /// Items of the next chunk.
    pub(crate) fn items(&self) -> u32 {
        let bytes_allow = CHUNK_BYTES.checked_div(self.item_bytes).unwrap_or(u64::MAX);
        let bytes_allow = u32::try_from(bytes_allow).unwrap_or(u32::MAX);
        self.items.min(bytes_allow).max(1)
    }

    /// A fair share of the items that are left, so that no worker is still busy with a large chunk
    /// when the others have nothing to do any more.
    pub(crate) fn share(&self, left: u64, workers: u32) -> u32 {
        let share = left.div_ceil(SHARES * u64::from(workers.max(1)));
        let least = self.item_run_ns.map_or(1, |run| CHUNK_RUN_MIN_US * 1000 / run);
        u32::try_from(share.max(least).max(1)).unwrap_or(u32::MAX)
    }

    /// How long a chunk takes to run, as far as is known, in microseconds.
    pub(crate) fn chunk_run_us(&self) -> Option<u64> {
        let item_run_ns = self.item_run_ns?;
        Some(item_run_ns.saturating_mul(u64::from(self.items())) / 1000)
    }

    /// A chunk was encoded.
    pub(crate) fn encoded(&mut self, items: u32, bytes: usize) {
        self.item_bytes = average(self.item_bytes, bytes as u64 / u64::from(items.max(1)), 4);
    }

    /// A chunk was answered.
    pub(crate) fn ran(&mut self, items: u64, run_us: u64) {
        assert!(items > 0, "a chunk has at least one item");
        let measured = (run_us.saturating_mul(1000) / items).max(1);
        let item_run_ns = match self.item_run_ns {
            Some(known) if measured < known => average(known, measured, 4).max(1),
            _ => measured,
        };
        self.item_run_ns = Some(item_run_ns);
        let ideal = CHUNK_RUN_US * 1000 / item_run_ns;
        let ideal = u32::try_from(ideal).unwrap_or(u32::MAX).clamp(1, self.items_max);
        // Only what was measured may be extrapolated, and only so far: the first items of a list
        // are often the small ones.
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let reach = self.items.max(items.saturating_mul(CHUNK_GROWTH));
        self.items = ideal.min(reach).min(self.items_max);
    }
}

/// One part new, the others old.
fn average(old: u64, new: u64, parts: u64) -> u64 {
    match old {
        0 => new,
        _ => old.saturating_mul(parts - 1).saturating_add(new) / parts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_tiny_items_grow_step_by_step_to_the_limit() {
        let mut sizer = Sizer::new(u32::MAX);
        let mut sizes = vec![sizer.items()];
        while sizer.items() < CHUNK_ITEMS_MAX {
            let before = sizer.items();
            sizer.ran(before.into(), 1);
            assert!(sizer.items() > before && sizer.items() <= before * CHUNK_GROWTH, "{sizes:?}");
            sizes.push(sizer.items());
        }
        assert_eq!(Some(&1), sizes.first());
    }

    #[test]
    fn chunks_aim_at_their_run_time() {
        let mut sizer = Sizer::new(u32::MAX);
        for _ in 0..20 {
            let items = sizer.items();
            sizer.ran(items.into(), u64::from(items) * 100);
        }
        assert_eq!(CHUNK_RUN_US, u64::from(sizer.items()) * 100);
    }

    #[test]
    fn slow_items_travel_alone_and_a_late_slow_one_shrinks_chunks_at_once() {
        let mut sizer = Sizer::new(u32::MAX);
        sizer.ran(1, 1_000_000);
        assert_eq!(1, sizer.items());
        let mut sizer = Sizer::new(u32::MAX);
        for _ in 0..10 {
            sizer.ran(sizer.items().into(), 1);
        }
        let before = sizer.items();
        sizer.ran(before.into(), u64::from(before) * 50_000);
        assert_eq!(1, sizer.items());
    }

    #[test]
    fn large_items_keep_chunks_below_their_bytes() {
        let mut sizer = Sizer::new(u32::MAX);
        for _ in 0..10 {
            let items = sizer.items();
            sizer.encoded(items, items as usize * 300_000);
            sizer.ran(items.into(), 1);
        }
        assert_eq!(CHUNK_BYTES / 300_000, u64::from(sizer.items()));
        sizer.encoded(1, 1 << 30);
        assert_eq!(1, sizer.items());
    }

    #[test]
    fn a_fixed_bound_is_never_exceeded() {
        let mut sizer = Sizer::new(7);
        for _ in 0..10 {
            sizer.ran(sizer.items().into(), 0);
            assert!((1..=7).contains(&sizer.items()));
        }
        assert_eq!(7, sizer.items());
    }
}
