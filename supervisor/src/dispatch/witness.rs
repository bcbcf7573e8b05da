//! What goes into the history, beside what callers' and workers' own code writes there: everything
//! that can be read off an event and its effects.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::dispatcher::Dispatcher;
use super::history::{Record, What};
use crate::pool::queue::Place;
use crate::pool::{CallKey, Effect, Event, WorkerState};
use crate::worker::spawner::PoolIndex;

/// What an event will have been for a call, unless the pool's effects say otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prospect {
    what: What,
    call: CallKey,
    worker: Option<WorkerId>,
}

impl Dispatcher {
    /// Looks at an event before its pool does.
    pub(super) fn foresee(
        &mut self,
        now: Instant,
        pool: PoolIndex,
        event: &Event,
    ) -> Option<Prospect> {
        match *event {
            Event::Ready { worker } => {
                let record = Record::new(What::Ready, pool).worker(worker);
                self.history.note(now, record.extra(self.pid(pool, worker)));
                None
            }
            Event::CallArrived { call, .. } => {
                Some(Prospect { what: What::Queued, call, worker: None })
            }
            Event::Undelivered { worker, call } => {
                Some(Prospect { what: What::MovedBack, call, worker: Some(worker) })
            }
            Event::AttemptFailed { worker, call } => {
                Some(Prospect { what: What::Retried, call, worker: Some(worker) })
            }
            Event::Died { worker, begun } => {
                let policy = &self.pools[pool.0].policy;
                let call = policy.worker_state(worker).and_then(WorkerState::call)?;
                // It may have been answered before, or be with another worker by now.
                let is_here = policy.calls().place(call) == Some(Place::Running(worker));
                let what = if begun { What::Retried } else { What::MovedBack };
                is_here.then_some(Prospect { what, call, worker: Some(worker) })
            }
            _ => None,
        }
    }

    /// Writes down what became of it.
    pub(super) fn witness(
        &mut self,
        now: Instant,
        pool: PoolIndex,
        prospect: Option<Prospect>,
        effects: &[Effect],
    ) {
        let Some(Prospect { what, call, worker }) = prospect else {
            return;
        };
        let came_otherwise = effects.iter().any(|effect| match *effect {
            Effect::Settle { call: settled, .. } => settled == call,
            Effect::Assign { call: assigned, .. } => what == What::Queued && assigned == call,
            _ => false,
        });
        if came_otherwise || !self.calls.contains_key(&call) {
            return;
        }
        let mut record = Record::new(what, pool).call(call);
        if let Some(worker) = worker {
            record = record.worker(worker).extra(self.pid(pool, worker));
        }
        if what == What::Queued {
            let waiting = self.pools[pool.0].policy.calls().waiting();
            record = record.extra(u32::try_from(waiting).unwrap_or(u32::MAX));
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
