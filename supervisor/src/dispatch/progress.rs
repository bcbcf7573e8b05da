//! How far calls have come, as their functions say: kept for `status`, and passed on to callers
//! that asked for it.
//!
//! A worker limits how often it says so. A caller that has not read what came before is told the
//! newest only: when it has read, or before its answer at the latest.

use std::time::Instant;

use clutch_protocol::limits::PROGRESS_TEXT_BYTES_MAX;
use clutch_protocol::message::WorkerId;
use clutch_protocol::stream::Progress;
use clutch_protocol::{Frame, Kind, retry, wire};

use super::core::Core;
use super::dispatcher::{Dispatcher, Worker};
use crate::pool::CallKey;
use crate::worker::link::{Link, frame_head};
use crate::worker::spawner::PoolIndex;

/// What a call has said last.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What.
    pub(super) progress: Progress,
    /// When.
    pub(super) at: Instant,
    /// Whether its caller wants to know and does not yet.
    is_owed: bool,
    /// Whether somebody waits for the caller to read what came before.
    is_awaited: bool,
}

impl Core {
    /// A call is about to be answered: what it said before on the other socket comes first.
    pub(super) fn catch_up_with_progress(&self, link: &Link, run: u64) {
        // Most calls have nobody who wants to know, and this is on the way of every answer.
        if !link.followed.any() {
            return;
        }
        let key = CallKey(retry::call_of_run(run));
        let wants = |d: &mut Dispatcher| d.calls.get(&key).is_some_and(|it| it.wants_progress());
        if !self.with(wants) {
            return;
        }
        let (records, end) = link.last_records();
        for frame in records {
            self.control_frame(link, &frame);
        }
        if let Err(error) = end {
            self.worker_channel_ended(link, Err(error));
        }
        self.with(|dispatcher| {
            if dispatcher.is_with(link.pool, link.worker, key) {
                dispatcher.tell_progress((link.pool, link.worker), key);
            }
        });
    }

    /// A caller has read what came before.
    fn reader_is_there(&self, at: (PoolIndex, WorkerId), key: CallKey) {
        self.with(|dispatcher| {
            if let Some(told) = dispatcher.told(at, key) {
                told.is_awaited = false;
            }
            dispatcher.pass_progress_on(self, at, key);
        });
    }
}

impl Dispatcher {
    /// A worker tells how far a call has come.
    ///
    /// # Errors
    ///
    /// When no worker of ours would send it.
    pub(super) fn take_progress(
        &mut self,
        core: &Core,
        now: Instant,
        link: &Link,
        frame: &Frame,
    ) -> Result<(), String> {
        let progress: Progress = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        if progress.message.len() > PROGRESS_TEXT_BYTES_MAX {
            return Err("a report of progress is longer than one may be".to_owned());
        }
        let run = frame.header.id;
        let key = CallKey(retry::call_of_run(run));
        let Some(entry) = self.worker(link.pool, link.worker) else { return Ok(()) };
        // It may come after the answer of its call, which has a socket of its own.
        if !entry.calls_had.as_ref().is_some_and(|had| had.contains(&key)) {
            return Err(format!("it told the progress of call {run}, which it never had"));
        }
        let is_number = progress.done.is_finite() && progress.total.is_none_or(f64::is_finite);
        let given = entry.given.iter_mut().find(|given| given.run == run);
        let Some(given) = given.filter(|_| is_number) else {
            self.pool(link.pool).counters.one("progress_ignored");
            return Ok(());
        };
        let is_awaited = given.progress.as_ref().is_some_and(|told| told.is_awaited);
        given.progress = Some(Box::new(Told { progress, at: now, is_owed: true, is_awaited }));
        self.pass_progress_on(core, (link.pool, link.worker), key);
        Ok(())
    }

    /// Tells a caller how far its call has come, if it wants to know and does not: now, or as soon
    /// as it has read what waits for it.
    fn pass_progress_on(&mut self, core: &Core, at: (PoolIndex, WorkerId), key: CallKey) {
        if !self.is_with(at.0, at.1, key) {
            return;
        }
        let Some(call) = self.calls.get(&key).filter(|call| call.wants_progress()) else { return };
        if call.peer.outbox.waiting_bytes() == 0 {
            return self.tell_progress(at, key);
        }
        let peer = call.peer.clone();
        let Some(told) = self.told(at, key).filter(|told| told.is_owed && !told.is_awaited) else {
            return;
        };
        told.is_awaited = true;
        let core = core.clone();
        let Some(worker) = self.worker(at.0, at.1) else { return };
        while worker.tasks.try_join_next().is_some() {}
        worker.tasks.spawn_local(async move {
            peer.outbox.drained().await;
            core.reader_is_there(at, key);
        });
    }

    /// A call is about to fail, whatever its worker is doing: what its caller is owed comes first.
    pub(super) fn tell_last_progress(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key).filter(|call| call.wants_progress()) else { return };
        let pool = call.pool();
        let has = |worker: &Worker| worker.given.iter().any(|given| given.call == key);
        let mut workers = self.pools[pool.0].workers.iter();
        // The newest is that of the last attempt.
        let worker = workers.rfind(|(_, worker)| has(worker)).map(|(id, _)| *id);
        if let Some(worker) = worker {
            self.tell_progress((pool, worker), key);
        }
    }

    /// Tells a caller that wants to know how far its call has come there, if it does not know.
    fn tell_progress(&mut self, at: (PoolIndex, WorkerId), key: CallKey) {
        let Some(call) = self.calls.get(&key).filter(|call| call.wants_progress()) else { return };
        let (peer, id) = (call.peer.clone(), call.id);
        if let Some(told) = self.told(at, key).filter(|told| told.is_owed) {
            told.is_owed = false;
            peer.send(&frame_head(Kind::Progress, id, &told.progress), &Default::default());
        }
    }

    /// What a worker has said last of a call that it has.
    fn told(&mut self, (pool, worker): (PoolIndex, WorkerId), key: CallKey) -> Option<&mut Told> {
        let entry = self.worker(pool, worker)?;
        let given = entry.given.iter_mut().find(|given| given.call == key)?;
        given.progress.as_deref_mut()
    }
}
