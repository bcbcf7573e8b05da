//! What workers and guardians say, and what their silence means.
//!
//! Nothing a worker sends is believed: it may hold user code's bugs or worse. A worker may only
//! answer the calls it has, each once; anything else ends it, and no other worker's call notices.

use std::time::Instant;

use clutch_protocol::failure::{Payload, Reason, WorkerFailure};
use clutch_protocol::message::{Ready, WorkerId, version};
use clutch_protocol::{Frame, Header, Kind, retry, wire};

use super::core::Core;
use super::dispatcher::{Dispatcher, FirstStart};
use super::history::{Record, What};
use super::refusal::too_large;
use crate::net::intake::IntakeError;
use crate::net::{Attached, InboxError};
use crate::pool::{CallKey, Event, StopCause, WorkerState};
use crate::worker::link::Link;
use crate::worker::output::escape;
use crate::worker::spawner::PoolIndex;

/// How much of a fault's description is kept.
const DETAIL_BYTES_MAX: usize = 16 << 10;

impl Core {
    /// A worker sent a frame on its call socket.
    pub(crate) fn worker_frame(&self, link: &Link, frame: &Frame, attached: &Attached) {
        let now = Instant::now();
        let (pool, worker) = (link.pool, link.worker);
        if self.with(|dispatcher| dispatcher.is_outlaw(link)) {
            return;
        }
        attached.admit();
        let told = match frame.header.kind {
            Kind::Result => self.worker_answered(now, link, frame, attached),
            Kind::Failed if frame.header.id == 0 => self.start_failed(link, frame),
            Kind::Failed => self.worker_failed(now, link, frame),
            Kind::Item => self.worker_item(link, frame, attached),
            Kind::Credit => self.worker_credit(link, frame),
            Kind::Ready => self.worker_ready(link, frame),
            kind => Err(format!("a worker may not send a {kind:?} frame")),
        };
        match told {
            Ok(Some(event)) => self.tell_at(now, pool, event),
            Ok(None) => self.tell_nested(now),
            Err(fault) => self.worker_faulted(pool, worker, StopCause::Protocol, fault),
        }
    }

    /// A worker sent a frame on its control socket. Interrupts take effect on the call socket, so
    /// they are not answered here. What it says are records of `logging`, how far its calls have
    /// come, and the answers to pings.
    pub(crate) fn control_frame(&self, link: &Link, frame: &Frame) {
        if self.with(|dispatcher| dispatcher.is_outlaw(link)) {
            return;
        }
        let Header { kind, id, meta_bytes, .. } = frame.header;
        let taken = match kind {
            Kind::Log => self.with(|d| d.take_record(Instant::now(), link, &frame.meta)),
            Kind::Imports => self.with(|d| d.take_imports(link, &frame.meta)),
            Kind::Progress => self.with(|d| d.take_progress(self, Instant::now(), link, frame)),
            Kind::Pong if meta_bytes == 0 && self.worker_ponged(link.pool, link.worker, id) => {
                Ok(())
            }
            kind => Err(format!("nothing asked for a {kind:?} frame")),
        };
        let Err(fault) = taken else { return };
        self.worker_faulted(link.pool, link.worker, StopCause::Protocol, fault);
    }

    /// Whether a worker has broken the protocol, so that nothing it says is heard any more.
    pub(crate) fn is_outlaw(&self, link: &Link) -> bool {
        self.with(|dispatcher| dispatcher.is_outlaw(link))
    }

    /// One of a worker's sockets ended or broke. Its process may live on, so it is made to end;
    /// if it has ended already, its guardian's report is on the way and says more.
    pub(crate) fn worker_channel_ended(&self, link: &Link, end: Result<(), InboxError>) {
        let (cause, fault) = match end {
            Ok(()) => (StopCause::ChannelLost, String::new()),
            // It is not to blame where this process may have no more files open.
            Err(
                error @ (InboxError::Socket(_) | InboxError::Descriptors(IntakeError::Exhausted)),
            ) => (StopCause::ChannelLost, error.to_string()),
            Err(error) => (StopCause::Protocol, error.to_string()),
        };
        self.worker_faulted(link.pool, link.worker, cause, fault);
    }

    /// The worker broke the rules, or cannot be reached any more: it has to go.
    pub(super) fn worker_faulted(
        &self,
        pool: PoolIndex,
        worker: WorkerId,
        cause: StopCause,
        fault: String,
    ) {
        self.with(|dispatcher| {
            let state = dispatcher.pool(pool);
            if let Some(entry) = state.workers.get_mut(&worker)
                && cause == StopCause::Protocol
                && !entry.outlaw
            {
                entry.outlaw = true;
                if !entry.dead {
                    tracing::warn!(pool = state.config.name, %worker, pid = entry.pid, fault,
                        "a worker broke the protocol");
                    entry.detail = fault;
                }
            }
        });
        self.tell(pool, Event::Doomed { worker, cause });
    }

    fn worker_ready(&self, link: &Link, frame: &Frame) -> Result<Option<Event>, String> {
        self.must_be_starting(link)?;
        let ready: Ready = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        if ready.version != version::MAX {
            return Err(format!(
                "the worker speaks version {} of the protocol, the daemon {}",
                ready.version,
                version::MAX
            ));
        }
        if !is_supported(&ready.python) {
            return Err(format!("Python {} is not supported: 3.8 or newer is", ready.python));
        }
        self.with(|dispatcher| dispatcher.greet(link, &ready));
        self.note_progress();
        Ok(Some(Event::Ready { worker: link.worker }))
    }

    fn must_be_starting(&self, link: &Link) -> Result<(), String> {
        self.with(|dispatcher| {
            match dispatcher.pools[link.pool.0].policy.worker_state(link.worker) {
                Some(WorkerState::Starting | WorkerState::Stopping(_)) => Ok(()),
                _ => Err("a worker starts only once".to_owned()),
            }
        })
    }

    fn start_failed(&self, link: &Link, frame: &Frame) -> Result<Option<Event>, String> {
        self.must_be_starting(link)?;
        let failure = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        let detail = match failure {
            WorkerFailure::Raised(exception) => exception.traceback,
            WorkerFailure::NotFound(missing) => {
                format!("{}\n{}", missing.message, missing.traceback)
            }
            _ => return Err("a start cannot fail like this".to_owned()),
        };
        self.with(|dispatcher| dispatcher.note_detail(link, detail.trim_end()));
        // Its process ends by itself now, and is reported dead by its guardian.
        Ok(None)
    }

    fn worker_answered(
        &self,
        now: Instant,
        link: &Link,
        frame: &Frame,
        attached: &Attached,
    ) -> Result<Option<Event>, String> {
        self.catch_up_with_progress(link, frame.header.id);
        if !attached.is_empty() {
            let most = self.with(|dispatcher| dispatcher.daemon.attached);
            if let Some(reason) = too_large(attached, Payload::Result, most) {
                return self.call_failed(now, link, frame.header.id, reason);
            }
        }
        self.with(|dispatcher| {
            let Some(call) = dispatcher.own_call(link, frame.header.id)? else {
                return Ok(None);
            };
            dispatcher.end_output(now, link);
            let counts = dispatcher.is_with(link.pool, link.worker, call);
            if counts && dispatcher.tries_again(now, link, call, None) {
                return Ok(dispatcher.attempt_failed(link, frame.header.id));
            }
            if !(counts && dispatcher.answer(now, link.worker, call, frame, attached)) {
                dispatcher.late(now, link, call);
            }
            Ok(dispatcher.served(link, frame.header.id))
        })
    }

    fn worker_failed(
        &self,
        now: Instant,
        link: &Link,
        frame: &Frame,
    ) -> Result<Option<Event>, String> {
        let failure = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        let reason = match failure {
            WorkerFailure::Raised(exception) => Reason::Raised(Box::new(exception)),
            WorkerFailure::NotFound(missing) => Reason::NotFound(Box::new(missing)),
            WorkerFailure::BadArguments { message } => Reason::BadArguments { message },
            WorkerFailure::Unserializable { path, type_name, message } => {
                Reason::Unserializable { path, type_name, message }
            }
            WorkerFailure::TooLarge { bytes, limit } => {
                Reason::TooLarge { what: Payload::Result, bytes, limit }
            }
            WorkerFailure::Cancelled => Reason::Cancelled,
        };
        self.call_failed(now, link, frame.header.id, reason)
    }

    /// A worker is done with what it was given as `run`, and there is no result.
    fn call_failed(
        &self,
        now: Instant,
        link: &Link,
        run: u64,
        reason: Reason,
    ) -> Result<Option<Event>, String> {
        self.catch_up_with_progress(link, run);
        self.with(|dispatcher| {
            let Some(call) = dispatcher.own_call(link, run)? else {
                return Ok(None);
            };
            dispatcher.end_output(now, link);
            let counts = dispatcher.is_with(link.pool, link.worker, call);
            if counts && dispatcher.tries_again(now, link, call, Some(&reason)) {
                return Ok(dispatcher.attempt_failed(link, run));
            }
            let word = dispatcher.history.word(reason.name());
            let items = dispatcher.items_told(call);
            if counts && dispatcher.fail(now, call, reason, false) {
                let record = Record::new(What::Answered, link.pool).call(call).worker(link.worker);
                dispatcher.history.note(now, record.word(word).extra(items));
            } else {
                dispatcher.late(now, link, call);
            }
            Ok(dispatcher.served(link, run))
        })
    }
}

impl Dispatcher {
    fn greet(&mut self, link: &Link, ready: &Ready) {
        let python: String = ready.python.chars().filter(|c| !c.is_control()).take(32).collect();
        let pool = self.pool(link.pool);
        if !matches!(pool.first_start, FirstStart::Ready(_)) {
            pool.first_start = FirstStart::Ready(python.clone());
        }
        if let Some(worker) = pool.workers.get_mut(&link.worker) {
            tracing::debug!(pool = pool.config.name, worker = %link.worker, pid = worker.pid,
                python, "worker ready");
            worker.python = python;
        }
    }

    /// Whether a worker has broken the protocol, or is gone.
    fn is_outlaw(&self, link: &Link) -> bool {
        self.pools[link.pool.0].workers.get(&link.worker).is_none_or(|w| w.outlaw || w.dead)
    }

    /// The call `id`, if it is one this worker has; none if it was given up and its worker told to
    /// go, so that this is a late answer.
    fn own_call(&mut self, link: &Link, id: u64) -> Result<Option<CallKey>, String> {
        let call = CallKey(retry::call_of_run(id));
        let entry = self.worker(link.pool, link.worker);
        let has = entry.is_some_and(|worker| worker.given.iter().any(|given| given.run == id));
        if !has {
            return Err(format!("it answered call {id}, which it does not have"));
        }
        if self.pools[link.pool.0].policy.expects(link.worker, call) {
            return Ok(Some(call));
        }
        self.pool(link.pool).counters.one("late_answers_dropped");
        self.take_back(link, id);
        Ok(None)
    }

    /// A worker's answer to a call that was answered otherwise before.
    fn late(&mut self, now: Instant, link: &Link, call: CallKey) {
        self.pool(link.pool).counters.one("late_answers_dropped");
        let record = Record::new(What::LateAnswer, link.pool).call(call).worker(link.worker);
        self.history.note(now, record);
    }

    fn served(&mut self, link: &Link, run: u64) -> Option<Event> {
        self.take_back(link, run);
        if let Some(worker) = self.worker(link.pool, link.worker) {
            worker.served += 1;
        }
        Some(Event::Answered { worker: link.worker, call: CallKey(retry::call_of_run(run)) })
    }

    fn attempt_failed(&mut self, link: &Link, run: u64) -> Option<Event> {
        self.served(link, run);
        let call = CallKey(retry::call_of_run(run));
        Some(Event::AttemptFailed { worker: link.worker, call })
    }

    pub(super) fn note_detail(&mut self, link: &Link, detail: &str) {
        if let Some(worker) = self.worker(link.pool, link.worker) {
            worker.detail = detail.lines().map(|line| escape(line.as_bytes()) + "\n").collect();
            let whole = |(at, c): (usize, char)| at + c.len_utf8() <= DETAIL_BYTES_MAX;
            let cut = worker.detail.char_indices().take_while(|&c| whole(c)).last();
            worker.detail.truncate(cut.map_or(0, |(at, c)| at + c.len_utf8()));
            worker.detail.truncate(worker.detail.trim_end().len());
        }
    }
}

/// Whether a version of Python can run the worker: 3.8 or newer.
fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(3)), Some(Ok(8..))))
}
