//! Workers that a signal has stopped (SIGSTOP, a terminal's SIGTSTP). One that is idle gets no
//! calls until it goes on; another one, or a spare, takes them, and an elastic pool grows as if
//! it were not there. One that has a call keeps it: it may go on in time, and the call's
//! deadline counts.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::Effect;
use super::policy::Pool;
use super::state::WorkerState;

impl Pool {
    /// A worker stands still.
    pub(super) fn halted(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.halted = true;
            self.idle.retain(|idle| *idle != worker);
        }
    }

    /// A worker goes on.
    pub(super) fn resumed(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let was_halted = std::mem::take(&mut entry.halted);
        if was_halted && entry.state == WorkerState::Idle {
            self.free(now, worker, effects);
        }
    }

    /// Whether a signal has stopped it.
    pub fn is_halted(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|entry| entry.halted)
    }
}
