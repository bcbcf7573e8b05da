//! The calls that a worker was given and has not answered yet, as it knows them: whoever waits for
//! them, and whether anybody does. Most workers have one at most.

use std::rc::Rc;

use clutch_protocol::message::WorkerId;
use clutch_protocol::{Flags, Reason};

use super::dispatcher::{Dispatcher, Worker};
use super::progress::Told;
use super::stream_books::Streams;
use crate::pool::{Begun, CallKey};
use crate::worker::link::Link;
use crate::worker::spawner::PoolIndex;

/// A call that a worker has.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Which.
    pub(super) call: CallKey,
    /// The id under which it was given that: the call's own, and which attempt it is.
    pub(super) run: u64,
    /// The function it is to run.
    pub(super) function: Rc<str>,
    /// What it may send and be sent one by one.
    pub(super) streams: Streams,
    /// How far it has come, if it says.
    pub(super) progress: Option<Box<Told>>,
}

impl Worker {
    /// The call whose output this is: the one it has, when it has one. What is printed while there
    /// are several may be anybody's.
    pub(super) fn printing(&self) -> Option<CallKey> {
        match &self.given[..] {
            [one] => Some(one.call),
            _ => None,
        }
    }
}

impl Dispatcher {
    /// The id under which a worker knows a call that it has.
    pub(super) fn run_of(&self, pool: PoolIndex, worker: WorkerId, call: CallKey) -> u64 {
        let entry = self.pools[pool.0].workers.get(&worker);
        let given = entry.and_then(|entry| entry.given.iter().find(|given| given.call == call));
        given.map_or(0, |given| given.run)
    }

    /// Whether a call that a worker has can have begun there, by the worker's own page. Once the
    /// worker is dead, that will not change any more.
    pub(super) fn has_begun(&self, pool: PoolIndex, worker: WorkerId, call: CallKey) -> bool {
        let link = self.pools[pool.0].workers.get(&worker).and_then(|entry| entry.link.as_ref());
        link.is_none_or(|link| link.has_begun(self.run_of(pool, worker, call)))
    }

    /// Which of the calls that a worker has can have begun.
    pub(super) fn begun_in(&self, pool: PoolIndex, worker: WorkerId) -> Begun {
        let Some(entry) = self.pools[pool.0].workers.get(&worker) else {
            return Begun::All;
        };
        let Some(link) = &entry.link else {
            return Begun::All;
        };
        let has_begun = |given: &&Given| link.has_begun(given.run) || given.streams.have_moved;
        let begun = entry.given.iter().filter(has_begun);
        Begun::Only(begun.map(|given| given.call).collect())
    }

    /// Which of a call's items its worker died with, if that is proven: not while the worker may
    /// still live, and begin the next.
    pub(super) fn item_of(
        &self,
        pool: PoolIndex,
        call: CallKey,
        flags: Flags,
        reason: &Reason,
    ) -> Option<u64> {
        let Reason::WorkerDied(certificate) = reason else {
            return None;
        };
        if !flags.has(Flags::ITEMS) || certificate.exit.is_none() {
            return None;
        }
        let entry = self.pools[pool.0].workers.get(&certificate.worker)?;
        entry.link.as_ref()?.item_of(self.run_of(pool, certificate.worker, call))
    }

    /// The calls that a worker has and that were not given up.
    pub(super) fn running_in(&self, pool: PoolIndex, worker: WorkerId) -> Vec<CallKey> {
        let entry = self.pools[pool.0].workers.get(&worker);
        let given = entry.into_iter().flat_map(|entry| &entry.given);
        given.map(|given| given.call).filter(|call| self.is_with(pool, worker, *call)).collect()
    }

    /// A worker has answered what it was given as `run`.
    pub(super) fn take_back(&mut self, link: &Link, run: u64) {
        if let Some(worker) = self.worker(link.pool, link.worker) {
            worker.given.retain(|given| given.run != run);
        }
    }
}
