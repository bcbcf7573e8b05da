//! The ladder: how a worker is made to give up a call that nobody waits for any more.
//!
//! ```text
//!   deadline ─► DumpStack ─► the caller is answered ─► Warn ─► Interrupt ─► Terminate ─► (killed)
//!               (its own      (at once when it was     budget:   budget:     budget:
//!                small budget)  the caller who          cooperate interrupt   grace
//!                               cancelled)
//! ```
//!
//! Each rung names its worker by slot and generation, and its call: none can hit another one.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Effect, StopCause, Verdict};
use super::policy::Pool;
use super::queue::Place;
use super::starts::Loss;
use super::state::{Move, WorkerState};
use super::timers::Timer;

impl Pool {
    /// Answers a call with `verdict` now, and makes its worker, if it has one, give it up.
    pub(super) fn give_up(
        &mut self,
        now: Instant,
        call: CallKey,
        verdict: Verdict,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.calls.place(call) else {
            return;
        };
        self.settle(call, verdict, effects);
        if let Place::Running(worker) = place {
            self.climb(now, worker, call, effects);
        }
    }

    /// A call's deadline has passed. Where it hangs is written down before its caller is told, so
    /// that the caller can be told that, too.
    pub(super) fn too_late(&mut self, now: Instant, call: CallKey, effects: &mut Vec<Effect>) {
        match self.calls.place(call) {
            Some(Place::Running(worker)) if self.runs(worker, call) => {
                self.calls.expire(call);
                self.dump(now, worker, call, effects);
            }
            _ => self.give_up(now, call, Verdict::TimedOut, effects),
        }
    }

    /// Whether a worker runs a call that it was not told to give up.
    pub(super) fn runs(&self, worker: WorkerId, call: CallKey) -> bool {
        let state = self.worker_state(worker);
        state.is_some_and(|state| state.is_busy() && state.call() == Some(call))
    }

    /// Asks for a worker's stacks; its call is given up when they are there.
    pub(super) fn dump(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        let entry = self.workers.get_mut(&worker).expect("it runs a call");
        entry.dumping = Some(call);
        entry.has_call_timers = true;
        self.timers.clear(Timer::Attempt(worker));
        self.timers.set(Timer::Dump(worker), now + self.settings.budgets.dump);
        effects.push(Effect::DumpStack { worker });
    }

    /// A worker's stacks are there, or have had their time.
    pub(super) fn dumped(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let dumping = self.workers.get_mut(&worker).and_then(|entry| entry.dumping.take());
        let Some(call) = dumping else {
            // Somebody else wanted to see them.
            return;
        };
        self.timers.clear(Timer::Dump(worker));
        if self.calls.place(call) == Some(Place::Running(worker)) {
            self.give_up(now, call, Verdict::TimedOut, effects);
        }
    }

    /// The first rung. Its caller does not count on this worker any more, so another one may take
    /// the next call.
    pub(super) fn climb(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if !self.step(now, worker, Move::Interrupt(call)) {
            return;
        }
        let entry = self.workers.get_mut(&worker).expect("it just took a step");
        entry.dumping = None;
        entry.has_call_timers = true;
        self.timers.clear(Timer::Attempt(worker));
        self.timers.clear(Timer::Dump(worker));
        effects.push(Effect::Warn { worker, call });
        let cooperate = self.settings.budgets.cooperate;
        if cooperate.is_zero() {
            self.interrupt(now, worker, effects);
        } else {
            self.timers.set(Timer::Warned(worker), now + cooperate);
        }
    }

    /// The second rung.
    pub(super) fn interrupt(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        if let Some(WorkerState::Interrupting(call)) = self.worker_state(worker) {
            effects.push(Effect::Interrupt { worker, call });
            self.timers.set(Timer::Interrupt(worker), now + self.settings.budgets.interrupt);
        }
    }

    /// The third rung; the last one, after the grace, is its guardian's.
    pub(super) fn interrupt_failed(
        &mut self,
        now: Instant,
        worker: WorkerId,
        effects: &mut Vec<Effect>,
    ) {
        if self.stop(now, worker, StopCause::Interrupted) {
            self.hurry_predecessors(now, worker, effects);
            self.terminate(now, worker, effects);
            self.refill(now, worker.slot, Loss::Blameless, effects);
        }
    }

    /// A worker has no call any more, or is on its way out, so nothing of it is waited for.
    pub(super) fn clear_call_timers(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.get_mut(&worker).filter(|w| w.has_call_timers) else {
            return;
        };
        entry.has_call_timers = false;
        for timer in [Timer::Attempt(worker), Timer::Warned(worker), Timer::Interrupt(worker)] {
            self.timers.clear(timer);
        }
        // A late call is answered soon, also when its worker is on its way out meanwhile.
        let owes = |call: &CallKey| self.calls.place(*call) == Some(Place::Running(worker));
        if entry.dumping.filter(owes).is_none() {
            entry.dumping = None;
            self.timers.clear(Timer::Dump(worker));
        }
    }
}
