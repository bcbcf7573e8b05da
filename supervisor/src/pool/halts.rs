//! Workers that a signal has stopped (SIGSTOP, a terminal's SIGTSTP). Such a worker gets no calls
//! until it goes on; another one, or a spare, takes them, and an elastic pool grows as if it were
//! not there. It keeps the calls it has: it may go on in time, and their deadlines count.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::Effect;
use super::policy::Pool;
use super::state::WorkerState;

impl Pool {
    /// A worker stands still.
    pub(super) fn halted(&mut self, worker: WorkerId) {
        self.change(worker, |entry| entry.halted = true);
    }

    /// A worker goes on.
    pub(super) fn resumed(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let was_halted = self.change(worker, |entry| std::mem::take(&mut entry.halted));
        let is_up = self.worker_state(worker) == Some(WorkerState::Up);
        if was_halted == Some(true) && is_up {
            self.free(now, worker, effects);
        }
    }

    /// Whether a signal has stopped it.
    pub fn is_halted(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|entry| entry.halted)
    }
}
