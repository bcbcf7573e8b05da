//! How often a call was tried, for how long, and whether a failure is a reason to try it again.
//! Whether there may be another attempt, and when, is its pool's to decide.

use std::time::{Duration, Instant};

use clutch_protocol::Reason;
use clutch_protocol::message::{self, WorkerId};

use super::dispatcher::Dispatcher;
use crate::pool::queue::Place;
use crate::pool::{CallKey, Event, Retry};
use crate::worker::link::Link;
use crate::worker::spawner::PoolIndex;

/// Why nobody wants what an attempt had waited for.
const ATTEMPT_OVER: &str = "the attempt that waited for it has ended";

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    /// What its caller wants done when one fails.
    retry: Option<Box<message::Retry>>,
    /// How many there were, the one that runs included.
    number: u32,
    /// The one that runs: since when, and where.
    running: Option<(Instant, WorkerId)>,
    /// How long those before it took.
    ran: Duration,
    /// Whether one of those before it can have begun.
    have_begun: bool,
}

impl Attempts {
    /// None yet.
    pub(super) fn new(retry: Option<message::Retry>) -> Attempts {
        Attempts {
            retry: retry.map(Box::new),
            number: 0,
            running: None,
            ran: Duration::ZERO,
            have_begun: false,
        }
    }

    /// What the pool has to know of what the caller wants.
    pub(super) fn policy(&self) -> Retry {
        let Some(retry) = &self.retry else {
            return Retry::default();
        };
        Retry {
            attempts: retry.attempts,
            on_death: retry.on.worker_died,
            on_timeout: retry.on.timed_out,
            backoff: Duration::from_millis(retry.backoff_ms),
            attempt_timeout: self.timeout(),
        }
    }

    /// How long one may take, where it has a time of its own.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let retry = self.retry.as_ref().filter(|retry| retry.on.timed_out)?;
        Some(Duration::from_millis(retry.attempt_timeout_ms))
    }

    /// How many there were.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// The one that runs: since when, and where.
    pub(super) fn running(&self) -> Option<(Instant, WorkerId)> {
        self.running
    }

    /// One is given to a worker; gives its number.
    pub(super) fn begin(&mut self, now: Instant, worker: WorkerId) -> u32 {
        // One whose worker was given up while it ran is over without a word from it.
        self.end(now);
        self.running = Some((now, worker));
        self.number += 1;
        self.number
    }

    /// The one that was given to a worker has never been with it.
    pub(super) fn never_began(&mut self) {
        if self.running.take().is_some() {
            self.number -= 1;
        }
    }

    /// The one that runs is over, whatever its worker still says about it.
    fn end(&mut self, now: Instant) {
        if let Some((since, _)) = self.running.take() {
            self.ran += now.saturating_duration_since(since);
            self.have_begun = true;
        }
    }

    /// How long all of them took.
    pub(super) fn ran(&self, now: Instant) -> Duration {
        let running = self.running.map(|(since, _)| now.saturating_duration_since(since));
        self.ran + running.unwrap_or_default()
    }

    /// Whether the function can have begun in one of those before the one that runs.
    pub(super) fn have_begun(&self) -> bool {
        self.have_begun
    }
}

impl Dispatcher {
    /// Whether a worker runs the attempt of a call that counts: not one that was given up.
    pub(super) fn is_with(&self, pool: PoolIndex, worker: WorkerId, key: CallKey) -> bool {
        self.pools[pool.0].policy.calls().place(key) == Some(Place::Running(worker))
    }

    /// Whether the answer of the worker that has a call is not the call's, since that is tried
    /// again: for a failure its caller has named, or since this attempt has had its time, whatever
    /// came of it then.
    pub(super) fn tries_again(
        &mut self,
        now: Instant,
        link: &Link,
        key: CallKey,
        failure: Option<&Reason>,
    ) -> bool {
        let policy = &self.pools[link.pool.0].policy;
        let Some(call) = self.calls.get_mut(&key) else {
            return false;
        };
        let is_over = policy.is_attempt_over(key);
        let is_named = call.attempts.retry.as_ref().is_some_and(
            |retry| matches!(failure, Some(Reason::Raised(raised)) if retry.on.names(raised)),
        );
        let is_tried_again = is_over || is_named && policy.may_retry(now, key);
        if !is_tried_again {
            return false;
        }
        call.attempts.end(now);
        self.cancel_nested(key, ATTEMPT_OVER);
        true
    }

    /// Looks at what a pool is about to be told: a death ends the attempts that ran there, before
    /// the pool gives their calls to other workers.
    pub(super) fn before(&mut self, now: Instant, pool: PoolIndex, event: &Event) {
        let Event::Died { worker, begun } = event else {
            return;
        };
        for key in self.running_in(pool, *worker) {
            if let Some(call) = self.calls.get_mut(&key) {
                if begun.has(key) {
                    call.attempts.end(now);
                } else {
                    call.attempts.never_began();
                }
            }
            self.cancel_nested(key, ATTEMPT_OVER);
        }
    }
}
