//! Every timer of a pool but the deadlines of its calls, earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::CallKey;

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The start of a worker took too long.
    Start(WorkerId),
    /// An attempt of a call, with this worker, took too long.
    Attempt(WorkerId, CallKey),
    /// The stacks of a worker with a late call are not waited for any longer.
    Dump(WorkerId),
    /// A call that was told so did not end by itself.
    Warned(WorkerId, CallKey),
    /// An interrupted call did not end.
    Interrupt(WorkerId, CallKey),
    /// A worker that was asked to exit did not.
    Exit(WorkerId),
    /// A guardian that was told to kill did not report.
    Reap(WorkerId),
    /// A worker is old.
    Age(WorkerId),
    /// A worker had nothing to do for long.
    Idle(WorkerId),
    /// A slot may be started again.
    Backoff(u32),
    /// A successor in a slot may be started again.
    Successor(u32),
    /// A call may be tried again.
    Retry(CallKey),
    /// A pool in a crash loop may try one start.
    Probe,
    /// A waiting call may need one more worker.
    Grow,
    /// An idle worker may be one too many.
    Shrink,
    /// A worker that was started for a nested call may be one too many.
    Extra,
    /// The drain's patience with running calls is over.
    Drain,
}

/// Timers, earliest first. There are a few per worker, and one per call that waits to be retried,
/// has a time for its attempt, or is being given up.
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    by_timer: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer, in place of the same one if it was set.
    pub fn set(&mut self, timer: Timer, at: Instant) {
        match self.by_timer.insert(timer, at) {
            Some(before) if before == at => return,
            Some(before) => {
                self.by_time.remove(&(before, timer));
            }
            None => {}
        }
        self.by_time.insert((at, timer));
        assert_eq!(self.by_time.len(), self.by_timer.len(), "both views hold the same timers");
    }

    /// Sets a timer, or clears it when there is no time for it.
    pub fn plan(&mut self, timer: Timer, at: Option<Instant>) {
        match at {
            Some(at) => self.set(timer, at),
            None => self.clear(timer),
        }
    }

    /// Clears a timer, if it is set.
    pub fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.by_timer.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
        assert_eq!(self.by_time.len(), self.by_timer.len(), "both views hold the same timers");
    }

    /// When a timer is due, if it is set.
    pub fn due(&self, timer: Timer) -> Option<Instant> {
        self.by_timer.get(&timer).copied()
    }

    /// The earliest time.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer out, if it is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.by_time.first().copied()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }
}
