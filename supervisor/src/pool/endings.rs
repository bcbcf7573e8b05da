//! How workers leave their slots, and what becomes of the slots: deaths, orders to go, restarts,
//! the end of the pool. Calls, and workers that work, are the business of `policy`.

use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

use super::backoff::{self, CRASH_LOOP_FAILURES, PROVEN_AFTER};
use super::event::{CallKey, Effect, StopCause, Verdict};
use super::policy::{Pool, PoolState};
use super::queue::{Place, Timer};
use super::state::{Move, WorkerState};

/// How long a guardian may take from an order to kill to its report, before it is killed itself.
/// It gives up on an unkillable process after two seconds of its own.
pub(super) const REAP_BUDGET: Duration = Duration::from_secs(5);

impl Pool {
    pub(super) fn retire(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        self.retire_for(now, worker, StopCause::Drain, effects);
    }

    pub(super) fn retire_for(
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

    pub(super) fn doom(
        &mut self,
        now: Instant,
        worker: WorkerId,
        cause: StopCause,
        effects: &mut Vec<Effect>,
    ) {
        let has_call = self.worker_state(worker).and_then(WorkerState::call).is_some();
        let proven = has_call || self.is_proven(now, worker);
        if self.stop(now, worker, cause) {
            self.kill(now, worker, effects);
            self.refill(now, worker.slot, proven, effects);
        }
    }

    /// The call goes back to its place in the queue; its caller does not notice.
    pub(super) fn undelivered(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if self.calls.place(call) == Some(Place::Running(worker)) {
            self.calls.requeue(call);
        }
        // The worker does not have the call, whatever its state said.
        self.step(now, worker, Move::Answered(call));
        self.doom(now, worker, StopCause::ChannelLost, effects);
        self.assign_waiting(now, effects);
    }

    pub(super) fn kill(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Kill { worker });
        self.timers.set(Timer::Reap(worker), now + REAP_BUDGET);
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
            .filter(|(_, w)| matches!(w.state, WorkerState::Stopping(StopCause::Interrupted, _)))
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

    /// A worker does not fill its slot any more, and nothing is expected of it but its end.
    fn leave(&mut self, worker: WorkerId) {
        self.idle.retain(|idle| *idle != worker);
        self.timers.clear(Timer::Start(worker));
        self.timers.clear(Timer::Interrupt(worker));
        let slot = &mut self.slots[worker.slot as usize];
        if slot.current == Some(worker.generation) {
            slot.current = None;
        }
        self.failed_to_succeed(worker);
    }

    pub(super) fn died(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Some(before) = self.worker_state(worker) else {
            return;
        };
        // A call that kills its worker is to blame itself, however young the worker was.
        let proven = before.call().is_some() || self.is_proven(now, worker);
        if !self.step(now, worker, Move::Die) {
            return;
        }
        self.leave(worker);
        self.timers.clear(Timer::Exit(worker));
        self.timers.set(Timer::Reap(worker), now + REAP_BUDGET);
        if let Some(call) = before.call() {
            self.settle(call, Verdict::WorkerDied { worker, quarantined: false }, effects);
        }
        if !matches!(before, WorkerState::Stopping(..)) {
            self.refill(now, worker.slot, proven, effects);
        }
    }

    /// Whether a worker had a good start: only then is its end no sign of a crash loop.
    fn is_proven(&self, now: Instant, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|w| {
            w.served > 0 || w.ready_at.is_some_and(|at| now.duration_since(at) >= PROVEN_AFTER)
        })
    }

    /// Starts an empty slot again: at once after a proven worker, else with backoff.
    pub(super) fn refill(
        &mut self,
        now: Instant,
        slot: u32,
        proven: bool,
        effects: &mut Vec<Effect>,
    ) {
        let is_filled = self.slots[slot as usize].current.is_some();
        if self.state == PoolState::Draining || is_filled || slot >= self.settings.workers {
            return;
        }
        if proven {
            self.slots[slot as usize].failures = 0;
            self.failed_starts = 0;
            self.launch(now, slot, effects);
            return;
        }
        self.failed_starts += 1;
        let failures = &mut self.slots[slot as usize].failures;
        *failures += 1;
        let wait = backoff::backoff(*failures, &mut self.dice);
        self.slots[slot as usize].empty_since = Some(now);
        self.timers.set(Timer::Backoff(slot), now + wait);
        if self.failed_starts >= CRASH_LOOP_FAILURES && self.no_worker_left() {
            self.state = PoolState::CrashLoop { failures: self.failed_starts };
            for call in self.calls.take_waiting() {
                effects.push(Effect::Settle { call, verdict: Verdict::CrashLoop });
            }
        }
    }

    /// Whether no worker can take a call: one bad slot must not close a pool that works.
    fn no_worker_left(&self) -> bool {
        use WorkerState::{Busy, Idle, Interrupting};
        !self.workers.values().any(|w| matches!(w.state, Idle | Busy(_) | Interrupting(_)))
    }

    pub(super) fn gone(&mut self, worker: WorkerId) {
        assert!(
            matches!(self.worker_state(worker), None | Some(WorkerState::Dead)),
            "a worker's tree is swept after its death"
        );
        self.timers.clear(Timer::Reap(worker));
        self.workers.remove(&worker);
    }

    pub(super) fn terminate(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Terminate { worker });
        // The guardian kills by itself when the grace is over; only its silence is our business.
        self.timers.set(Timer::Reap(worker), now + self.settings.budgets.grace + REAP_BUDGET);
    }

    pub(super) fn drain(&mut self, now: Instant, until: Instant, effects: &mut Vec<Effect>) {
        self.state = PoolState::Draining;
        for slot in 0..self.settings.workers {
            self.timers.clear(Timer::Backoff(slot));
        }
        for call in self.calls.take_waiting() {
            effects.push(Effect::Settle { call, verdict: Verdict::ShuttingDown });
        }
        let workers: Vec<_> = self.workers.iter().map(|(id, w)| (*id, w.state)).collect();
        for (worker, state) in workers {
            match state {
                WorkerState::Idle => self.retire(now, worker, effects),
                WorkerState::Starting if self.stop(now, worker, StopCause::Drain) => {
                    self.kill(now, worker, effects);
                }
                _ => {}
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
        if self.state == PoolState::Draining && self.workers.is_empty() && !self.drained {
            assert!(self.calls.is_empty(), "a call ends with its worker at the latest");
            self.drained = true;
            self.timers.clear(Timer::Drain);
            effects.push(Effect::Drained);
        }
    }
}
