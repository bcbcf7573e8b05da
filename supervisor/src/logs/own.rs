//! What the daemon's own log has lost. A process has one such log, and so one count, which whoever
//! writes the log adds to and `status` shows.

use std::sync::atomic::{AtomicU64, Ordering};

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts records that nobody will read.
pub fn note_dropped(count: u64) {
    DROPPED.fetch_add(count, Ordering::Relaxed);
}

/// How many there were.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}
