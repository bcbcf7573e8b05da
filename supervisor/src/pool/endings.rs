//! How workers leave their slots: told to go, dead, swept; and the end of the pool. What becomes of
//! their slots is in `starts`, what of their calls in `retry`.

use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

use super::event::{Begun, CallKey, Effect, StopCause, Verdict};
use super::lanes::{Held, LaneMove};
use super::policy::Pool;
use super::queue::Place;
use super::standing::{Opening, PoolMove};
use super::starts::Loss;
use super::state::{Move, WorkerState};
use super::timers::Timer;

/// How long a guardian may take from an order to kill to its report, before it is killed itself.
/// It gives up on an unkillable process after two seconds of its own.
pub(super) const REAP_BUDGET: Duration = Duration::from_secs(5);

impl Pool {
    /// Asks a worker without a call to exit by itself.
    pub(super) fn retire(
        &mut self,
        now: Instant,
        worker: WorkerId,
        cause: StopCause,
        effects: &mut Vec<Effect>,
    ) {
        if self.stop(now, worker, cause) {
            effects.push(Effect::Retire { worker });
            self.timers.set(Timer::Exit(worker), now + self.settings.budgets.grace);
        }
    }

    /// Why a worker goes that has nothing to do here any more.
    pub(super) fn leaving_cause(&self, worker: WorkerId) -> StopCause {
        let entry = &self.workers[&worker];
        match (self.standing.opening, entry.state, entry.outworn) {
            (Opening::Ending, ..) => StopCause::Drain,
            (_, WorkerState::Retiring(cause), _) => cause,
            (_, _, Some(cause)) => StopCause::Replaced(cause),
            (_, _, None) => StopCause::Surplus,
        }
    }

    /// Whether a worker that is up has no call, so that it may go at once.
    pub(super) fn is_without_calls(&self, worker: WorkerId) -> bool {
        let entry = self.workers.get(&worker);
        entry.is_some_and(|entry| entry.state.is_up() && entry.lanes.is_empty())
    }

    /// A worker cannot be trusted any more.
    pub(super) fn doom(
        &mut self,
        now: Instant,
        worker: WorkerId,
        cause: StopCause,
        effects: &mut Vec<Effect>,
    ) {
        let loss = self.loss(now, worker);
        let is_successor = self.is_successor(worker);
        let has_left = self.worker_state(worker).is_some_and(WorkerState::has_left);
        if self.stop(now, worker, cause) {
            self.kill(now, worker, effects);
            if has_left {
                // Its slot was seen to when it would not give up a call.
            } else if is_successor {
                self.successor_failed(now, worker.slot, effects);
            } else {
                self.refill(now, worker.slot, loss, effects);
            }
        }
    }

    /// The call goes back to its place in the line; its caller does not notice.
    pub(super) fn undelivered(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if self.calls.place(call) == Some(Place::Running(worker)) {
            self.move_on(now, call, worker, effects);
        }
        // The worker does not have the call, whatever its state said.
        self.clear_call_timers(worker, call);
        self.step_call(now, worker, call, LaneMove::Answer);
        self.doom(now, worker, StopCause::ChannelLost, effects);
    }

    pub(super) fn kill(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Kill { worker });
        self.timers.set(Timer::Reap(worker), now + REAP_BUDGET);
    }

    pub(super) fn terminate(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Terminate { worker });
        // The guardian kills by itself when the grace is over; only its silence is our business.
        self.timers.set(Timer::Reap(worker), now + self.settings.budgets.grace + REAP_BUDGET);
    }

    /// A slot is left with one worker on its way out: those before it have had their time.
    pub(super) fn hurry_predecessors(
        &mut self,
        now: Instant,
        worker: WorkerId,
        effects: &mut Vec<Effect>,
    ) {
        let first = WorkerId { generation: 0, ..worker };
        let leaving: Vec<_> = self
            .workers
            .range(first..worker)
            .filter(|(_, w)| w.state == WorkerState::Stopping(StopCause::Interrupted))
            .map(|(id, _)| *id)
            .collect();
        for worker in leaving {
            self.kill(now, worker, effects);
        }
    }

    /// Takes a worker out of its slot; it has to die now. False when it was going already.
    pub(super) fn stop(&mut self, now: Instant, worker: WorkerId, cause: StopCause) -> bool {
        if !self.step(now, worker, Move::Stop(cause)) {
            return false;
        }
        self.leave(worker);
        true
    }

    /// Nothing is expected of a worker any more but its end.
    fn leave(&mut self, worker: WorkerId) {
        self.clear_all_call_timers(worker);
        self.leave_slot(worker);
    }

    /// A worker does not fill its slot any more.
    pub(super) fn leave_slot(&mut self, worker: WorkerId) {
        for timer in [Timer::Start(worker), Timer::Age(worker), Timer::Idle(worker)] {
            self.timers.clear(timer);
        }
        if self.workers[&worker].outworn.is_some() {
            self.turns.retain(|outworn| *outworn != worker);
            self.swaps.remove(&worker);
        }
        let place = &mut self.slots[worker.slot as usize];
        if place.successor == Some(worker.generation) {
            place.successor = None;
        }
        if place.current == Some(worker.generation) {
            self.seat(worker.slot, None);
        }
    }

    pub(super) fn died(
        &mut self,
        now: Instant,
        worker: WorkerId,
        begun: &Begun,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.workers.get(&worker) else {
            return;
        };
        let before = entry.state;
        let suspects = entry.lanes.held().iter().filter(|held| begun.has(held.call)).count();
        let is_successor = self.is_successor(worker);
        let loss = match self.loss(now, worker) {
            // Its calls are not to blame for what happened before they began.
            Loss::WithCall if suspects == 0 => Loss::Proven,
            loss => loss,
        };
        if before == WorkerState::Dead {
            return;
        }
        self.leave(worker);
        self.step(now, worker, Move::Die);
        let held = self.change(worker, |entry| entry.lanes.take()).unwrap_or_default();
        self.timers.clear(Timer::Exit(worker));
        self.timers.clear(Timer::Dump(worker));
        self.timers.set(Timer::Reap(worker), now + REAP_BUDGET);
        for Held { call, .. } in held {
            if self.calls.place(call) != Some(Place::Running(worker)) {
                // It was answered, and was only to be given up.
            } else if begun.has(call) {
                self.lost_with(now, call, worker, suspects, effects);
            } else {
                self.move_on(now, call, worker, effects);
            }
        }
        if before.has_left() {
            // Its slot was seen to when it was told to go.
        } else if is_successor {
            self.successor_failed(now, worker.slot, effects);
        } else {
            self.refill(now, worker.slot, loss, effects);
        }
    }

    pub(super) fn gone(&mut self, worker: WorkerId) {
        assert!(
            matches!(self.worker_state(worker), None | Some(WorkerState::Dead)),
            "a worker's tree is swept after its death"
        );
        self.timers.clear(Timer::Reap(worker));
        self.workers.remove(&worker);
    }

    /// The daemon stops.
    pub(super) fn drain(&mut self, now: Instant, until: Instant, effects: &mut Vec<Effect>) {
        if let Some(standing) = self.standing.after(PoolMove::End) {
            self.standing = standing;
        }
        self.start_queue.clear();
        self.turns.clear();
        for timer in [Timer::Probe, Timer::Grow, Timer::Shrink, Timer::Extra] {
            self.timers.clear(timer);
        }
        for slot in 0..self.slot_count() {
            self.timers.clear(Timer::Backoff(slot));
            self.timers.clear(Timer::Successor(slot));
        }
        for call in self.calls.unassigned() {
            self.settle(call, Verdict::ShuttingDown, effects);
        }
        let workers: Vec<_> = self.workers.iter().map(|(id, w)| (*id, w.state)).collect();
        for (worker, state) in workers {
            if self.is_without_calls(worker) {
                self.retire(now, worker, StopCause::Drain, effects);
            } else if state == WorkerState::Starting && self.stop(now, worker, StopCause::Drain) {
                self.kill(now, worker, effects);
            }
        }
        self.timers.set(Timer::Drain, until);
    }

    /// Running calls have had their time: their callers are told, their workers terminated.
    pub(super) fn end_patience(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for call in self.calls.running() {
            self.settle(call, Verdict::ShuttingDown, effects);
        }
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            if self.stop(now, worker, StopCause::Drain) {
                self.terminate(now, worker, effects);
            }
        }
    }

    pub(super) fn kill_all(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.drain(now, now, effects);
        for call in self.calls.running() {
            self.settle(call, Verdict::ShuttingDown, effects);
        }
        let workers: Vec<_> = self.workers.iter().map(|(id, w)| (*id, w.state)).collect();
        for (worker, state) in workers {
            self.stop(now, worker, StopCause::Drain);
            if state != WorkerState::Dead {
                self.timers.clear(Timer::Exit(worker));
                self.kill(now, worker, effects);
            }
        }
        self.timers.clear(Timer::Drain);
    }

    pub(super) fn report_drained(&mut self, effects: &mut Vec<Effect>) {
        let is_ending = self.standing.opening == Opening::Ending;
        if is_ending && self.workers.is_empty() && !self.drained {
            assert!(self.calls.is_empty(), "a call ends with its worker at the latest");
            self.drained = true;
            self.timers.clear(Timer::Drain);
            effects.push(Effect::Drained);
        }
    }
}
