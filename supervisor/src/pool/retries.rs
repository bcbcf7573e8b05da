//! Calls that are tried again: after a failure, a death, or an attempt that took too long.

use std::time::Instant;

use clutch_protocol::limits::WORKERS_KILLED_MAX;
use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Effect, Verdict};
use super::policy::Pool;
use super::queue::{Place, Timer};

impl Pool {
    /// Whether the attempt that runs has had its time and is being given up for another one. Here
    /// the call waits for that one at once, so its worker has it no more.
    pub const fn is_attempt_over(&self, _call: CallKey) -> bool {
        false
    }

    pub(super) fn clear_timers_of(&mut self, call: CallKey) {
        self.timers.clear(Timer::Attempt(call));
        self.timers.clear(Timer::Again(call));
    }

    /// An attempt failed and another one is allowed: the call waits for it.
    pub(super) fn try_again(&mut self, now: Instant, call: CallKey) {
        let wait = self.calls.backoff(now, call).expect("it may be tried again");
        self.clear_timers_of(call);
        self.calls.hold(call);
        if wait.is_zero() {
            self.calls.resume(call);
        } else {
            self.timers.set(Timer::Again(call), now + wait);
        }
    }

    /// A worker died with a call: it is tried again where its caller wants that and it is not the
    /// call that kills.
    pub(super) fn after_death(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if self.calls.place(call) != Some(Place::Running(worker)) {
            return;
        }
        let wanted = self.calls.retry(call).on_death && self.may_retry(now, call);
        let quarantined = wanted && self.calls.killed(call) >= WORKERS_KILLED_MAX;
        if wanted && !quarantined {
            self.try_again(now, call);
            self.assign_waiting(now, effects);
        } else {
            self.settle(call, Verdict::WorkerDied { worker, quarantined }, effects);
        }
    }

    pub(super) fn attempt_timed_out(
        &mut self,
        now: Instant,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Place::Running(worker)) = self.calls.place(call) else {
            return;
        };
        if self.may_retry(now, call) {
            self.try_again(now, call);
            self.interrupt(now, worker, call, effects);
            self.assign_waiting(now, effects);
        } else {
            self.give_up(now, call, Verdict::TimedOut, effects);
        }
    }
}
