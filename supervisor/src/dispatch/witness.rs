//! What goes into the history, beside what callers' and workers' own code writes there: everything
//! that can be read off an event and its effects.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::dispatcher::{Dispatcher, PoolState};
use super::history::{Record, What};
use crate::pool::queue::Place;
use crate::pool::{Begun, CallKey, Effect, Event, PoolState as Standing};
use crate::worker::spawner::PoolIndex;

/// What an event will have been for a call, unless its pool decides otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prospect {
    what: What,
    call: CallKey,
    worker: Option<WorkerId>,
    /// What counts it.
    counter: Option<&'static str>,
}

/// What an event will have been for calls: one, on the call path, or those of a dead worker.
#[derive(Debug)]
pub(super) struct Prospects {
    one: Option<Prospect>,
    more: Vec<Prospect>,
}

impl IntoIterator for Prospects {
    type Item = Prospect;
    type IntoIter = std::iter::Chain<std::option::IntoIter<Prospect>, std::vec::IntoIter<Prospect>>;

    fn into_iter(self) -> Self::IntoIter {
        self.one.into_iter().chain(self.more)
    }
}

impl Prospect {
    /// Another attempt, after one that has failed like this.
    fn retried(call: CallKey, worker: WorkerId, counter: &'static str) -> Prospect {
        Prospect { what: What::Retried, call, worker: Some(worker), counter: Some(counter) }
    }

    /// A call that has not been with its worker, and goes to another one.
    fn moved_back(call: CallKey, worker: WorkerId) -> Prospect {
        let counter = Some("calls_moved");
        Prospect { what: What::MovedBack, call, worker: Some(worker), counter }
    }
}

impl PoolState {
    /// What a call that has to wait now waits for.
    fn waits_for(&self) -> &'static str {
        let is_any_up = self.policy.workers().any(|worker| worker.state.is_up());
        match self.policy.state() {
            Standing::Paused => "the pool is paused",
            _ if self.policy.is_halted_whole() => "every worker is stopped by a signal (SIGSTOP)",
            _ if !is_any_up => "no worker is ready yet",
            _ if self.policy.stands_still() => {
                "every worker waits for a nested call, and one more is being started"
            }
            _ => "every worker is busy",
        }
    }
}

impl Dispatcher {
    /// Looks at an event before its pool does.
    pub(super) fn foresee(&mut self, now: Instant, pool: PoolIndex, event: &Event) -> Prospects {
        let one = match *event {
            Event::Ready { worker } => {
                let record = Record::new(What::Ready, pool).worker(worker);
                self.history.note(now, record.extra(self.pid(pool, worker)));
                None
            }
            Event::CallArrived { call, .. } => {
                Some(Prospect { what: What::Queued, call, worker: None, counter: None })
            }
            Event::Undelivered { worker, call } => {
                self.is_with(pool, worker, call).then(|| Prospect::moved_back(call, worker))
            }
            Event::AttemptFailed { worker, call } => {
                let counter = self.counter_of_retry(pool, call, "retries.raised");
                let is_here = self.is_with(pool, worker, call);
                is_here.then(|| Prospect::retried(call, worker, counter))
            }
            Event::Died { worker, ref begun } => {
                return Prospects { one: None, more: self.foresee_death(pool, worker, begun) };
            }
            _ => None,
        };
        Prospects { one, more: Vec::new() }
    }

    /// What the calls of a worker that has died will be tried again for, or move for. It may have
    /// more than its pool's policy names: such as it was made to give up.
    fn foresee_death(&self, pool: PoolIndex, worker: WorkerId, begun: &Begun) -> Vec<Prospect> {
        let prospect = |call| {
            let counter = self.counter_of_retry(pool, call, "retries.worker_died");
            if begun.has(call) {
                Prospect::retried(call, worker, counter)
            } else {
                Prospect::moved_back(call, worker)
            }
        };
        self.running_in(pool, worker).into_iter().map(prospect).collect()
    }

    /// What counts another attempt: however one ends that has had its time, it is over for that.
    fn counter_of_retry(
        &self,
        pool: PoolIndex,
        call: CallKey,
        otherwise: &'static str,
    ) -> &'static str {
        let is_over = self.pools[pool.0].policy.is_attempt_over(call);
        if is_over { "retries.timed_out" } else { otherwise }
    }

    /// Writes down and counts what became of it.
    pub(super) fn witness(&mut self, now: Instant, pool: PoolIndex, prospect: Prospect) {
        let Prospect { what, call, worker, counter } = prospect;
        let place = self.pools[pool.0].policy.calls().place(call);
        let came_true = match what {
            What::Queued => place == Some(Place::Queued),
            // What is still owed waits, rests, or is with its next worker already.
            _ => place.is_some(),
        };
        if !came_true {
            return;
        }
        if let Some(counter) = counter {
            self.pool(pool).counters.one(counter);
        }
        let mut record = Record::new(what, pool).call(call);
        if let Some(worker) = worker {
            record = record.worker(worker).extra(self.pid(pool, worker));
        }
        if what == What::Queued {
            let waiting = self.pools[pool.0].policy.calls().waiting();
            let word = self.history.word(self.pools[pool.0].waits_for());
            record = record.extra(u32::try_from(waiting).unwrap_or(u32::MAX)).word(word);
        }
        self.history.note(now, record);
    }

    /// Writes down an effect that concerns a worker, as it is carried out.
    pub(super) fn witness_effect(&mut self, now: Instant, pool: PoolIndex, effect: &Effect) {
        let (what, worker, call, word) = match *effect {
            Effect::Launch { worker } => (What::Launched, worker, None, ""),
            Effect::Warn { worker, call } => (What::Warned, worker, Some(call), ""),
            Effect::Interrupt { worker, call } => (What::Interrupted, worker, Some(call), ""),
            Effect::Retire { worker } => (What::Stopping, worker, None, "asked to exit"),
            Effect::Terminate { worker } => (What::Stopping, worker, None, "terminated"),
            Effect::Kill { worker } => (What::Stopping, worker, None, "killed"),
            Effect::Abandon { worker } => (What::Stopping, worker, None, "its guardian killed"),
            _ => return,
        };
        let word = self.history.word(word);
        let mut record = Record::new(what, pool).worker(worker).word(word);
        record = record.extra(self.pid(pool, worker));
        if let Some(call) = call {
            record = record.call(call);
        }
        self.history.note(now, record);
    }

    /// A worker's process id; 0 before it has one.
    pub(super) fn pid(&self, pool: PoolIndex, worker: WorkerId) -> u32 {
        self.pools[pool.0].workers.get(&worker).map_or(0, |worker| worker.pid)
    }
}
