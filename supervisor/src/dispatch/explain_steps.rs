//! One record of the history as a step of the story that `explain` tells.

use clutch_protocol::operate::Step;

use super::dispatcher::Dispatcher;
use super::history::{Record, What};
use super::report::in_a_line;

/// The name of the reason with which a pool in a crash loop refuses.
const CRASH_LOOP: &str = "CrashLoop";

impl Dispatcher {
    /// What a record says, `since_us` after the call came in.
    pub(super) fn step(&self, since_us: i64, record: &Record) -> Step {
        let detail = match record.what {
            What::Arrived => self.name_of(record),
            What::Queued => {
                let why = self.history.spell(record.word);
                match record.extra {
                    0 | 1 => format!("{why}; no other call waits"),
                    waiting => format!("{why}; one of {waiting} calls that wait"),
                }
            }
            What::Nested => match record.about().filter(|_| record.extra != 0) {
                Some(call) => format!("call {}", call.0 - u64::from(record.extra)),
                None => "another call".to_owned(),
            },
            What::Answered => match record.extra {
                0 => self.how_answered(record),
                1 => format!("{} after 1 item", self.how_answered(record)),
                items => format!("{} after {items} items", self.how_answered(record)),
            },
            _ => self.history.spell(record.word).to_owned(),
        };
        let is_other =
            matches!(record.what, What::Arrived | What::Nested | What::Queued | What::Answered);
        let has_pid = !is_other && record.extra != 0;
        Step {
            at_us: u64::try_from(since_us).unwrap_or(0),
            what: word(record.what).to_owned(),
            detail,
            worker: record.with(),
            pid: has_pid.then_some(record.extra),
            attempt: None,
        }
    }

    /// How a call was answered; of one that a crash loop has refused, with what the pool's workers
    /// died of.
    fn how_answered(&self, record: &Record) -> String {
        let word = self.history.spell(record.word);
        if word != CRASH_LOOP {
            return word.to_owned();
        }
        let mut deaths = self.history.records().rev().filter(|it| it.what == What::Died);
        let before = |it: &&Record| it.pool() == record.pool() && it.at_ns <= record.at_ns;
        let death = deaths.find(before);
        let worker = death.and_then(Record::with);
        let newest = self.pools.get(record.pool().0).and_then(|state| state.last_death.as_ref());
        match (newest, worker, death) {
            (Some(newest), worker, _) if worker.is_none_or(|it| it == newest.worker) => {
                format!("{word}; the last: {}", in_a_line(newest))
            }
            // Its certificate is gone, since others have died after it.
            (_, Some(worker), Some(death)) => {
                let why = self.history.spell(death.word);
                format!("{word}; the last: worker {worker} ended: {why}")
            }
            _ => word.to_owned(),
        }
    }
}

/// The word for what happened, in text and in JSON.
pub(super) const fn word(what: What) -> &'static str {
    match what {
        What::Arrived => "arrived",
        What::Nested => "nested",
        What::Queued => "queued",
        What::Assigned => "assigned",
        What::Warned => "warned",
        What::Interrupted => "interrupted",
        What::MovedBack => "moved_back",
        What::Retried => "retried",
        What::Unwanted => "unwanted",
        What::Answered => "answered",
        What::LateAnswer => "late_answer",
        What::Launched => "worker_launched",
        What::Ready => "worker_ready",
        What::Stopping => "worker_stopping",
        What::Died => "worker_died",
    }
}
