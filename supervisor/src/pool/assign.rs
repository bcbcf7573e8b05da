//! Which worker gets which call, and what a worker does whose lane has become free.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Effect};
use super::lanes::LaneMove;
use super::policy::Pool;
use super::standing::Opening;
use super::state::WorkerState;
use super::timers::Timer;

impl Pool {
    /// Hands waiting calls to workers, until no more may run.
    pub(super) fn serve(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.assign_waiting(now, effects);
        if self.extra > 0 || self.calls.nested_waiting() > 0 {
            self.serve_nested(now, effects);
            // A worker that has begun one has lanes that any call may have.
            self.assign_waiting(now, effects);
        }
    }

    /// The worker that gets the next call, if there may be one.
    pub(super) fn next_worker(&self) -> Option<WorkerId> {
        let is_full = self.tally.running >= self.size * self.settings.lanes;
        if is_full || !self.standing.assigns() {
            return None;
        }
        self.next_of(self.size)
    }

    /// The next worker, where at most so many have calls at once.
    pub(super) fn next_of(&self, busy_max: u32) -> Option<WorkerId> {
        let may_begin = self.busy_workers() < busy_max;
        if may_begin && let Some(idle) = self.room.idle().last() {
            return Some(*idle);
        }
        let is_busy = |worker: &WorkerId| self.workers[worker].lanes.running() > 0;
        self.room.shared().find(|worker| may_begin || is_busy(worker))
    }

    /// How many workers have calls. Those in workers that get no more now are taken together: as
    /// many as a worker may have count as one, and fewer take nobody's place, so that the lanes
    /// which nobody can use are made up for by other workers.
    pub(super) const fn busy_workers(&self) -> u32 {
        self.tally.busy + self.tally.closed / self.settings.lanes
    }

    /// Hands waiting calls to workers: after every event, so that no call ever waits while a
    /// worker may take it.
    pub(super) fn assign_waiting(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(worker) = self.next_worker() {
            let Some(call) = self.calls.pop_for(worker) else {
                return;
            };
            self.hand_over(now, worker, call, effects);
        }
    }

    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        assert_eq!(Some(WorkerState::Up), self.worker_state(worker), "who is up takes calls");
        let stepped = self.step_call(now, worker, call, LaneMove::Assign);
        assert!(stepped, "what is handed over is with nobody");
        if self.settings.replace.max_idle.is_some() {
            self.timers.clear(Timer::Idle(worker));
        }
        self.time_attempt(now, worker, call);
        effects.push(Effect::Assign { worker, call });
    }

    /// A worker has a lane free: it may have the next call by now; or it leaves, when no call that
    /// somebody waits for is left in it.
    pub(super) fn free(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let entry = self.workers.get(&worker).expect("who is freed is there");
        let (state, is_empty) = (entry.state, entry.lanes.is_empty());
        let in_slot = self.slots[worker.slot as usize].current == Some(worker.generation);
        if state == WorkerState::CONDEMNED {
            self.end_condemned(now, worker, effects);
        } else if self.standing.opening == Opening::Ending || !in_slot {
            if is_empty {
                let cause = self.leaving_cause(worker);
                self.retire(now, worker, cause, effects);
            }
        } else if state == WorkerState::Up
            && is_empty
            && !self.rests_until_replaced(now, worker)
            && !self.is_halted(worker)
            && let Some(max_idle) = self.settings.replace.max_idle
        {
            self.timers.set(Timer::Idle(worker), now + max_idle);
        }
    }
}
