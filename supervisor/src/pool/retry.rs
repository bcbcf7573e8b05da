//! Trying again: which attempts are followed by another one, and when.
//!
//! - One that cannot have begun, since its worker was lost before: the call moves to another worker
//!   without a word, a few times.
//! - A failure that its caller wants retried, or an attempt over its own time: another one, if one
//!   is left.
//! - Its worker died, and its caller wants that retried: another one, if one is left, and if the
//!   call has killed one worker only; one that died beside others is blamed half as much.
//! - Anything else, and a failure of a stream of which something has passed on: its caller is told.
//!
//! A call's deadline always wins: an attempt that could only begin after it is not waited for.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::backoff;
use super::event::{CallKey, Effect, Verdict};
use super::policy::Pool;
use super::queue::Place;
use super::standing::{Opening, PoolState};
use super::timers::Timer;

/// How often a call may lose its worker before it began. Each time is a coincidence of
/// milliseconds; ten in a row are a fault that nobody should wait for.
const MOVES_MAX: u32 = 10;

/// What a call is blamed for the death of a worker that ran nothing else.
const BLAME_ALONE: u32 = 2;

/// What each of several calls is blamed for the death of the worker that ran them: any may have
/// done it. One that was there twice as often as a lone killer is, by chance, beside another one
/// each time, is not tried again either: it is that call, or one it always meets.
const BLAME_BESIDE_OTHERS: u32 = 1;

/// A call with so much blame is not tried again, whatever its caller wants.
const BLAME_MAX: u32 = BLAME_ALONE * clutch_protocol::limits::WORKERS_KILLED_MAX;

impl Pool {
    /// Whether a call that failed now may be tried again.
    pub fn may_retry(&self, now: Instant, call: CallKey) -> bool {
        let Some(entry) = self.calls.get(call) else {
            return false;
        };
        let retry = entry.retry();
        if entry.attempts == 0 || entry.attempts >= retry.attempts || entry.has_streamed {
            return false;
        }
        let rest = backoff::doubled(entry.attempts, retry.backoff, backoff::REST_MAX);
        let is_late = entry.deadline().is_none_or(|deadline| now + rest >= deadline);
        let is_closing = matches!(self.state(), PoolState::Draining | PoolState::CrashLoop { .. });
        !is_late && !is_closing
    }

    /// Whether the attempt that runs has had its time and is being given up for another one, so
    /// that its end is nothing to tell its caller.
    pub fn is_attempt_over(&self, call: CallKey) -> bool {
        self.calls.get(call).is_some_and(|entry| entry.is_attempt_over)
    }

    /// Something of a call's streams has passed on: this attempt is its last.
    pub(super) fn streamed(&mut self, call: CallKey) {
        if let Some(entry) = self.calls.get_mut(call) {
            entry.has_streamed = true;
        }
    }

    /// An attempt begins: its own time runs.
    pub(super) fn time_attempt(&mut self, now: Instant, worker: WorkerId, call: CallKey) {
        let entry = self.calls.get(call).expect("what is handed over is owed");
        if !entry.may_have_retries() {
            return;
        }
        if let Some(timeout) = entry.retry().attempt_timeout {
            self.timers.set(Timer::Attempt(worker, call), now + timeout);
            let entry = self.workers.get_mut(&worker).expect("it was just given a call");
            entry.lanes.get_mut(call).expect("it was just given it").has_timers = true;
        }
    }

    /// An attempt has had its time. When there is another one, its worker is made to give it up and
    /// its caller does not notice; else this is as good as its deadline.
    pub(super) fn attempt_timed_out(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if !self.runs(worker, call) {
            return;
        }
        let may_retry = self.may_retry(now, call);
        let entry = self.calls.get_mut(call).expect("what runs is owed");
        if !entry.retry().on_timeout || !may_retry {
            self.calls.expire(call);
            self.dump(now, worker, call, effects);
            return;
        }
        entry.is_attempt_over = true;
        self.climb(now, worker, call, effects);
    }

    /// A worker answered with a failure that is not the last word.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if self.expects(worker, call) && self.calls.place(call) == Some(Place::Running(worker)) {
            self.try_again(now, call, Verdict::TimedOut, effects);
        }
        self.answered(now, worker, call, effects);
    }

    /// A worker has died with a call that can have begun, one of so many.
    pub(super) fn lost_with(
        &mut self,
        now: Instant,
        call: CallKey,
        worker: WorkerId,
        suspects: usize,
        effects: &mut Vec<Effect>,
    ) {
        let may_retry = self.may_retry(now, call);
        let entry = self.calls.get_mut(call).expect("what is lost is owed");
        if entry.is_attempt_over {
            // Made to give up, it went with its worker: that was wanted.
            self.try_again(now, call, Verdict::TimedOut, effects);
            return;
        }
        entry.blame += if suspects > 1 { BLAME_BESIDE_OTHERS } else { BLAME_ALONE };
        let is_wanted = entry.retry().on_death && may_retry;
        let quarantined = is_wanted && entry.blame >= BLAME_MAX;
        let died = Verdict::WorkerDied { worker, quarantined };
        if entry.deadline().is_none() {
            self.settle(call, Verdict::TimedOut, effects);
        } else if is_wanted && !quarantined {
            self.try_again(now, call, died, effects);
        } else {
            self.settle(call, died, effects);
        }
    }

    /// A worker was lost with a call that cannot have begun: that was no attempt.
    pub(super) fn move_on(
        &mut self,
        now: Instant,
        call: CallKey,
        worker: WorkerId,
        effects: &mut Vec<Effect>,
    ) {
        let state = self.state();
        let entry = self.calls.get_mut(call).expect("what moves is owed");
        entry.attempts -= 1;
        entry.moves += 1;
        let verdict = match state {
            _ if entry.deadline().is_none() => Some(Verdict::TimedOut),
            PoolState::Draining => Some(Verdict::ShuttingDown),
            PoolState::CrashLoop { .. } => Some(Verdict::CrashLoop),
            _ if entry.moves > MOVES_MAX => {
                Some(Verdict::WorkerDied { worker, quarantined: false })
            }
            _ => None,
        };
        match verdict {
            Some(verdict) => self.settle(call, verdict, effects),
            None => self.calls.give_back(now, call),
        }
    }

    /// Another attempt, after its rest; or `otherwise`, when there can be none any more.
    fn try_again(
        &mut self,
        now: Instant,
        call: CallKey,
        otherwise: Verdict,
        effects: &mut Vec<Effect>,
    ) {
        if !self.may_retry(now, call) {
            let verdict = match self.state() {
                PoolState::Draining => Verdict::ShuttingDown,
                PoolState::CrashLoop { .. } => Verdict::CrashLoop,
                _ => otherwise,
            };
            self.settle(call, verdict, effects);
            return;
        }
        let entry = self.calls.get_mut(call).expect("it may be tried again");
        entry.is_attempt_over = false;
        let rest = backoff::rest(entry.attempts, entry.retry().backoff, &mut self.dice);
        if rest.is_zero() {
            self.calls.give_back(now, call);
        } else {
            self.calls.rest(call);
            self.timers.set(Timer::Retry(call), now + rest);
        }
    }

    /// A call has rested; it takes its place in the line again.
    pub(super) fn rested(&mut self, now: Instant, call: CallKey) {
        assert_ne!(Opening::Ending, self.standing.opening, "nobody rests in a pool that ends");
        if self.calls.place(call) == Some(Place::Resting) {
            self.calls.give_back(now, call);
        }
    }
}
