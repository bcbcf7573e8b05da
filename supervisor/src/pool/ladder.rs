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
//!
//! A worker that has other calls is not terminated for one that will not end: it leaves its slot to
//! a successor and gets no more calls, the others have their own time to finish, and it goes when
//! none is left that somebody waits for. There are never more of these than calls may run at once.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Effect, StopCause, Verdict};
use super::lanes::{Lane, LaneMove};
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

    /// Asks for a worker's stacks; its call is given up when they are there. Those that are being
    /// written already show it, too.
    pub(super) fn dump(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        self.timers.clear(Timer::Attempt(worker, call));
        let entry = self.workers.get_mut(&worker).expect("it runs a call");
        entry.lanes.get_mut(call).expect("it has this one").dumping = true;
        if self.timers.due(Timer::Dump(worker)).is_none() {
            self.timers.set(Timer::Dump(worker), now + self.settings.budgets.dump);
            effects.push(Effect::DumpStack { worker });
        }
    }

    /// A worker's stacks are there, or have had their time. Where no call is late, somebody else
    /// wanted to see them.
    pub(super) fn dumped(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        self.timers.clear(Timer::Dump(worker));
        while let Some(call) = self.take_dumping(worker) {
            if self.calls.place(call) == Some(Place::Running(worker)) {
                self.give_up(now, call, Verdict::TimedOut, effects);
            }
        }
    }

    fn take_dumping(&mut self, worker: WorkerId) -> Option<CallKey> {
        let lanes = &mut self.workers.get_mut(&worker)?.lanes;
        let call = lanes.held().iter().find(|held| held.dumping)?.call;
        lanes.get_mut(call).expect("it was just found").dumping = false;
        Some(call)
    }

    /// The first rung. Its caller does not count on this lane any more, so another worker may take
    /// the next call.
    pub(super) fn climb(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if !self.runs(worker, call) {
            return;
        }
        self.clear_call_timers(worker, call);
        self.step_call(now, worker, call, LaneMove::Interrupt);
        let entry = self.workers.get_mut(&worker).expect("it just took a step");
        entry.lanes.get_mut(call).expect("it has this one").has_timers = true;
        effects.push(Effect::Warn { worker, call });
        let cooperate = self.settings.budgets.cooperate;
        if cooperate.is_zero() {
            self.interrupt(now, worker, call, effects);
        } else {
            self.timers.set(Timer::Warned(worker, call), now + cooperate);
        }
    }

    /// The second rung.
    pub(super) fn interrupt(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if self.is_giving_up(worker, call) {
            effects.push(Effect::Interrupt { worker, call });
            self.timers.set(Timer::Interrupt(worker, call), now + self.settings.budgets.interrupt);
        }
    }

    /// The third rung; the last one, after the grace, is its guardian's.
    pub(super) fn interrupt_failed(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if !self.is_giving_up(worker, call) {
            return;
        }
        let has_others = self.workers[&worker].lanes.running() > 0;
        if has_others {
            self.condemn(now, worker, effects);
        } else if self.worker_state(worker) == Some(WorkerState::CONDEMNED) {
            self.end_condemned(now, worker, effects);
        } else if self.stop(now, worker, StopCause::Interrupted) {
            self.hurry_predecessors(now, worker, effects);
            self.terminate(now, worker, effects);
            self.refill(now, worker.slot, Loss::Blameless, effects);
        }
    }

    fn is_giving_up(&self, worker: WorkerId, call: CallKey) -> bool {
        self.workers.get(&worker).is_some_and(|entry| {
            let held = entry.lanes.get(call);
            entry.state.is_up() && held.is_some_and(|held| held.lane == Lane::Interrupting)
        })
    }

    /// A worker that will not give up a call has others that may finish.
    fn condemn(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let in_slot = self.slots[worker.slot as usize].current == Some(worker.generation);
        if !self.step(now, worker, Move::Retire(StopCause::Interrupted)) {
            // It has hung before.
            return;
        }
        self.leave_slot(worker);
        if in_slot {
            self.refill(now, worker.slot, Loss::Blameless, effects);
        }
    }

    /// Somebody may still wait for a call of such a worker; if not, it goes the way of any worker
    /// that will not give up its call.
    pub(super) fn end_condemned(
        &mut self,
        now: Instant,
        worker: WorkerId,
        effects: &mut Vec<Effect>,
    ) {
        let has_others = self.workers[&worker].lanes.running() > 0;
        if !has_others && self.stop(now, worker, StopCause::Interrupted) {
            self.hurry_predecessors(now, worker, effects);
            self.terminate(now, worker, effects);
        }
    }

    /// A call is not with its worker any more, or is being given up.
    pub(super) fn clear_call_timers(&mut self, worker: WorkerId, call: CallKey) {
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        let Some(held) = entry.lanes.get_mut(call) else { return };
        let dumped = std::mem::take(&mut held.dumping);
        if dumped && !entry.lanes.held().iter().any(|held| held.dumping) {
            self.timers.clear(Timer::Dump(worker));
        }
        self.clear_rungs(worker, call);
    }

    fn clear_rungs(&mut self, worker: WorkerId, call: CallKey) {
        let entry = self.workers.get_mut(&worker).expect("it has the call");
        let held = entry.lanes.get_mut(call).expect("it has the call");
        if !std::mem::take(&mut held.has_timers) {
            return;
        }
        let rungs = [Timer::Attempt, Timer::Warned, Timer::Interrupt];
        for timer in rungs.map(|rung| rung(worker, call)) {
            self.timers.clear(timer);
        }
    }

    /// A worker is on its way out, so nothing of its calls is waited for. But late ones are
    /// answered soon all the same.
    pub(super) fn clear_all_call_timers(&mut self, worker: WorkerId) {
        let held = self.workers[&worker].lanes.held();
        let calls: Vec<_> = held.iter().filter(|it| it.has_timers).map(|it| it.call).collect();
        for call in calls {
            self.clear_rungs(worker, call);
        }
    }
}
