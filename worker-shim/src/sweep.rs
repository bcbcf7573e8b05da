//! What a sweep of the tree has come to, and how long it may go on.

use std::time::{Duration, Instant};

/// How long a sweep goes on without a single process having ended. Killed processes that sleep in
/// the kernel (a dead disk or file server) cannot be waited for: they end when the kernel lets go.
const STALL_MAX: Duration = Duration::from_secs(2);

/// How long resource trackers may take to remove what the dead have left. They need a few
/// milliseconds; one that was only just started needs as long as any python's start.
const MERCY: Duration = Duration::from_millis(500);

/// A sweep that is going on.
pub(crate) struct Sweep {
    /// How many descendants were reaped that SIGKILL had ended.
    pub(crate) killed: u32,
    /// When to stop, unless another process ends before.
    pub(crate) give_up: Instant,
    /// Until when trackers are spared.
    pub(crate) mercy_end: Instant,
}

impl Sweep {
    pub(crate) fn begin() -> Sweep {
        let now = Instant::now();
        Sweep { killed: 0, give_up: now + STALL_MAX, mercy_end: now + MERCY }
    }

    /// A process has ended, so more may; `killed` says whether the sweep has ended it.
    pub(crate) fn note_death(&mut self, killed: bool) {
        self.give_up = Instant::now() + STALL_MAX;
        self.killed += u32::from(killed);
    }
}
