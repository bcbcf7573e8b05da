//! How long the pool stood still for want of a worker: the part of a call's waiting that is called
//! `start`. While any worker could take a call once it is done with its own, waiting is queueing.

use std::time::{Duration, Instant};

use super::policy::Pool;

/// A clock that runs while no worker could take a call and one is being started.
#[derive(Debug, Default)]
pub(super) struct Standstill {
    total: Duration,
    since: Option<Instant>,
}

impl Pool {
    /// What the clock shows. Calls that have waited compare two looks at it.
    pub fn stood_still(&self, now: Instant) -> Duration {
        let running = self.standstill.since.map(|since| now.saturating_duration_since(since));
        self.standstill.total + running.unwrap_or_default()
    }

    /// Whether no worker is up that could take the next call, so that one has to be started first.
    /// Those all of whose lanes wait for nested calls cannot.
    pub fn stands_still(&self) -> bool {
        self.tally.up == self.tally.tied
            && self.standing.assigns()
            && (self.starting > 0 || self.filled < self.active_slots())
    }

    /// Lets the clock run or stop, after every event.
    pub(super) fn note_standstill(&mut self, now: Instant) {
        match (self.standstill.since, self.stands_still()) {
            (None, true) => self.standstill.since = Some(now),
            (Some(since), false) => {
                self.standstill.total += now.saturating_duration_since(since);
                self.standstill.since = None;
            }
            _ => {}
        }
    }
}
