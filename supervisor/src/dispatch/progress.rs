//! How far calls have come, as their functions say: kept for `status`, and passed on to callers
//! that asked for it.
//!
//! A worker limits how often it says so. A caller that has not read what came before is told the
//! newest only: when it has read, or before its answer at the latest.

use std::time::Instant;

use clutch_protocol::limits::PROGRESS_TEXT_BYTES_MAX;
use clutch_protocol::stream::Progress;
use clutch_protocol::{Frame, Kind, retry, wire};

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::pool::CallKey;
use crate::worker::link::{Link, frame_head};

/// What a call has said last.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What.
    pub(super) progress: Progress,
    /// When.
    pub(super) at: Instant,
    /// Whether its caller wants to know and does not yet.
    is_owed: bool,
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
        self.with(|dispatcher| dispatcher.pass_progress_on(link, key, Pace::AtOnce));
    }
}

/// Whether a caller that has not read everything is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    AtOnce,
    AsItReads,
}

impl Dispatcher {
    /// A worker tells how far a call has come.
    ///
    /// # Errors
    ///
    /// When no worker of ours would send it.
    pub(super) fn take_progress(
        &mut self,
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
        given.progress = Some(Box::new(Told { progress, at: now, is_owed: true }));
        self.pass_progress_on(link, key, Pace::AsItReads);
        Ok(())
    }

    /// Tells a caller how far its call has come, if it wants to know and does not.
    fn pass_progress_on(&mut self, link: &Link, key: CallKey, pace: Pace) {
        if !self.is_with(link.pool, link.worker, key) {
            return;
        }
        let Some(call) = self.calls.get(&key).filter(|call| call.wants_progress()) else { return };
        if pace == Pace::AsItReads && call.peer.outbox.waiting_bytes() > 0 {
            return;
        }
        let (peer, id) = (call.peer.clone(), call.id);
        let Some(entry) = self.worker(link.pool, link.worker) else { return };
        let given = entry.given.iter_mut().find(|given| given.call == key);
        let told = given.and_then(|given| given.progress.as_mut()).filter(|told| told.is_owed);
        if let Some(told) = told {
            told.is_owed = false;
            peer.send(&frame_head(Kind::Progress, id, &told.progress), &Default::default());
        }
    }
}
