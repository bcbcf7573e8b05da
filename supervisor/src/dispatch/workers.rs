//! What workers and guardians say, and what their silence means.
//!
//! Nothing a worker sends is believed: it may hold user code's bugs or worse. A worker may only
//! answer the call it has; anything else ends it, and no other call notices.

use std::rc::Rc;
use std::time::Instant;

use clutch_protocol::failure::{Cause, Payload, Reason, WorkerFailure};
use clutch_protocol::message::{
    Exited, Ready, SpawnFailed, SpawnStage, Spawned, Stream, Swept, WorkerId, version,
};
use clutch_protocol::{Frame, Kind, wire};

use super::certificate;
use super::dispatcher::{Core, Dispatcher, FirstStart};
use crate::net::InboxError;
use crate::pool::{CallKey, Event, StopCause, WorkerState};
use crate::worker::link::Link;
use crate::worker::output::{Asker, escape};
use crate::worker::spawner::{Launched, PoolIndex};

/// How much of a fault's description is kept.
const DETAIL_BYTES_MAX: usize = 16 << 10;

impl Core {
    /// The spawner has started a guardian, or could not.
    pub(super) fn launched(&self, outcome: Launched) {
        let Launched { pool, worker, channels } = outcome;
        let link = channels.and_then(|channels| {
            let payload_max = self.with(|dispatcher| dispatcher.daemon.payload);
            Link::new(pool, worker, channels, payload_max)
                .map_err(crate::worker::spawner::LaunchError::Channels)
        });
        match link {
            Err(error) => {
                self.with(|dispatcher| dispatcher.launch_failed(pool, worker, &error));
                // Told as an event of its own, so that what the failure queued is done now.
                self.tell(pool, Event::Tick);
                self.note_progress();
            }
            Ok(link) => self.with(|dispatcher| dispatcher.welcome(self, Rc::new(link))),
        }
    }

    /// A worker sent a frame on its call socket.
    pub(crate) fn worker_frame(&self, link: &Link, frame: &Frame) {
        let now = Instant::now();
        let (pool, worker) = (link.pool, link.worker);
        if self.with(|dispatcher| dispatcher.is_outlaw(link)) {
            return;
        }
        let told = match frame.header.kind {
            Kind::Result => self.worker_answered(now, link, frame),
            Kind::Failed if frame.header.id == 0 => self.start_failed(link, frame),
            Kind::Failed => self.worker_failed(now, link, frame),
            Kind::Ready => self.worker_ready(link, frame),
            kind => Err(format!("a worker may not send a {kind:?} frame")),
        };
        match told {
            Ok(Some(event)) => self.tell_at(now, pool, event),
            Ok(None) => {}
            Err(fault) => self.worker_faulted(pool, worker, StopCause::Protocol, fault),
        }
    }

    /// A worker sent a frame on its control socket. It is asked nothing there, so it has nothing to
    /// answer: interrupts take effect on the call socket.
    pub(crate) fn control_frame(&self, link: &Link, frame: &Frame) {
        if self.with(|dispatcher| dispatcher.is_outlaw(link)) {
            return;
        }
        let fault = format!("nothing asked for a {:?} frame", frame.header.kind);
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
            Err(InboxError::Socket(error)) => (StopCause::ChannelLost, error.to_string()),
            Err(error) => (StopCause::Protocol, error.to_string()),
        };
        self.worker_faulted(link.pool, link.worker, cause, fault);
    }

    /// A guardian sent a frame.
    pub(crate) fn guardian_frame(&self, link: &Rc<Link>, frame: &Frame) {
        let told = match frame.header.kind {
            Kind::Spawned => wire::decode(&frame.meta).map(|Spawned { pid }| {
                self.with(|dispatcher| {
                    if let Some(worker) = dispatcher.worker(link.pool, link.worker) {
                        worker.pid = pid;
                    }
                });
            }),
            Kind::SpawnFailed => wire::decode(&frame.meta).map(|fault: SpawnFailed| {
                let detail = describe_spawn_failure(fault);
                self.with(|dispatcher| dispatcher.note_detail(link, &detail));
                self.worker_died(link, None);
            }),
            Kind::Exited => {
                wire::decode(&frame.meta).map(|exited: Exited| self.worker_died(link, Some(exited)))
            }
            Kind::Swept => wire::decode(&frame.meta).map(|swept: Swept| {
                self.with(|dispatcher| dispatcher.swept(link, swept));
            }),
            _ => return,
        };
        if let Err(error) = told {
            tracing::error!(guardian = link.guardian, %error, "a guardian sent nonsense");
            link.abandon();
        }
    }

    /// A guardian's process has ended, so nothing of its tree can still be guarded.
    pub(crate) fn guardian_ended(&self, link: &Rc<Link>) {
        let (pool, worker) = (link.pool, link.worker);
        let (dead, swept) = self.with(|dispatcher| {
            dispatcher.worker(pool, worker).map_or((true, true), |w| (w.dead, w.swept))
        });
        self.with(|dispatcher| dispatcher.reap(link.guardian, !swept));
        if !dead {
            self.with(|dispatcher| {
                dispatcher.note_detail(link, "its guardian process ended before it did");
            });
            self.worker_died(link, None);
        }
        self.tell(pool, Event::Gone { worker });
        // Ends the link's tasks, this one included, when they wait next.
        self.with(|dispatcher| dispatcher.pool(pool).workers.remove(&worker));
        self.note_progress();
    }

    /// A worker's pipe has something to read, or has ended.
    pub(crate) fn worker_output(&self, link: &Link, stream: Stream) {
        self.with(|d| d.read_output(Instant::now(), link, stream, Asker::Task));
    }

    /// The worker broke the rules, or cannot be reached any more: it has to go.
    fn worker_faulted(&self, pool: PoolIndex, worker: WorkerId, cause: StopCause, fault: String) {
        self.with(|dispatcher| {
            let name = dispatcher.pool(pool).config.name.clone();
            if let Some(entry) = dispatcher.worker(pool, worker)
                && !entry.dead
                && cause == StopCause::Protocol
            {
                tracing::warn!(pool = name, %worker, pid = entry.pid, fault,
                    "a worker broke the protocol");
                entry.detail = fault;
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
                Some(WorkerState::Starting | WorkerState::Stopping(..)) => Ok(()),
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
    ) -> Result<Option<Event>, String> {
        self.with(|dispatcher| {
            let Some(call) = dispatcher.own_call(link, frame.header.id)? else { return Ok(None) };
            dispatcher.catch_up_with_output(now, link, call);
            if !dispatcher.answer(now, link.worker, frame) {
                dispatcher.pool(link.pool).counters.one("late_answers_dropped");
            }
            Ok(dispatcher.served(link, call))
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
        self.with(|dispatcher| {
            let Some(call) = dispatcher.own_call(link, frame.header.id)? else { return Ok(None) };
            dispatcher.catch_up_with_output(now, link, call);
            if !dispatcher.fail(now, call, reason) {
                dispatcher.pool(link.pool).counters.one("late_answers_dropped");
            }
            Ok(dispatcher.served(link, call))
        })
    }

    /// A worker's python has ended. What it sent before it did still counts.
    fn worker_died(&self, link: &Rc<Link>, exited: Option<Exited>) {
        for frame in link.last_words() {
            self.worker_frame(link, &frame);
        }
        let now = Instant::now();
        self.with(|dispatcher| {
            dispatcher.read_output(now, link, Stream::Stdout, Asker::Dispatcher);
            dispatcher.read_output(now, link, Stream::Stderr, Asker::Dispatcher);
            dispatcher.bury(link.pool, link.worker, exited);
        });
        self.tell_at(now, link.pool, Event::Died { worker: link.worker });
        self.note_progress();
    }
}

impl Dispatcher {
    fn welcome(&mut self, core: &Core, link: Rc<Link>) {
        let (pool, worker) = (link.pool, link.worker);
        let setup = self.setup_frame(pool, worker);
        let state = self.pools[pool.0].policy.worker_state(worker);
        let Some(entry) = self.worker(pool, worker) else {
            // It was given up while it was being started, and nobody remembers it.
            link.abandon();
            self.reap(link.guardian, true);
            return;
        };
        entry.link = Some(link.clone());
        link.listen(core, &mut entry.tasks);
        let told = if matches!(state, Some(WorkerState::Starting)) {
            link.call.send(&setup, &bytes::Bytes::new())
        } else {
            link.signal(clutch_protocol::message::Signal::Kill)
        };
        if told.is_err() {
            self.pool(pool).counters.one("orders_undeliverable");
        }
    }

    fn greet(&mut self, link: &Link, ready: &Ready) {
        let python: String = ready.python.chars().filter(|c| !c.is_control()).take(32).collect();
        let pool = self.pool(link.pool);
        if matches!(pool.first_start, FirstStart::Pending) {
            pool.first_start = FirstStart::Ready(python.clone());
        }
        if let Some(worker) = pool.workers.get_mut(&link.worker) {
            tracing::debug!(pool = pool.config.name, worker = %link.worker, pid = worker.pid,
                python, "worker ready");
            worker.python = python;
        }
    }

    /// Whether a worker broke the protocol and is going for it.
    fn is_outlaw(&self, link: &Link) -> bool {
        matches!(
            self.pools[link.pool.0].policy.worker_state(link.worker),
            None | Some(WorkerState::Stopping(StopCause::Protocol, _) | WorkerState::Dead)
        )
    }

    /// The call `id`, if it is the one this worker has; none if it had a call that was given up, so
    /// that this can only be its late answer.
    fn own_call(&mut self, link: &Link, id: u64) -> Result<Option<CallKey>, String> {
        let call = CallKey(id);
        let state = self.pools[link.pool.0].policy.worker_state(link.worker);
        match state {
            Some(
                WorkerState::Busy(own)
                | WorkerState::Interrupting(own)
                | WorkerState::Stopping(_, Some(own)),
            ) if own == call => Ok(Some(call)),
            Some(WorkerState::Stopping(_, None)) => {
                self.pool(link.pool).counters.one("late_answers_dropped");
                Ok(None)
            }
            _ => Err(format!("it answered call {id}, which it does not have")),
        }
    }

    fn served(&mut self, link: &Link, call: CallKey) -> Option<Event> {
        if let Some(worker) = self.worker(link.pool, link.worker) {
            worker.served += 1;
        }
        Some(Event::Answered { worker: link.worker, call })
    }

    /// Output that was printed before an answer is passed on before it, if the caller wants any.
    fn catch_up_with_output(&mut self, now: Instant, link: &Link, call: CallKey) {
        if self.calls.get(&call).is_some_and(super::call::Call::wants_output) {
            self.read_output(now, link, Stream::Stdout, Asker::Dispatcher);
            self.read_output(now, link, Stream::Stderr, Asker::Dispatcher);
        }
    }

    fn note_detail(&mut self, link: &Link, detail: &str) {
        if let Some(worker) = self.worker(link.pool, link.worker) {
            worker.detail = detail.lines().map(|line| escape(line.as_bytes()) + "\n").collect();
            let whole = |(at, c): (usize, char)| at + c.len_utf8() <= DETAIL_BYTES_MAX;
            let cut = worker.detail.char_indices().take_while(|&c| whole(c)).last();
            worker.detail.truncate(cut.map_or(0, |(at, c)| at + c.len_utf8()));
            worker.detail.truncate(worker.detail.trim_end().len());
        }
    }

    fn swept(&mut self, link: &Link, swept: Swept) {
        let state = self.pool(link.pool);
        state.counters.add("descendants_killed", u64::from(swept.killed));
        if swept.survivors > 0 {
            tracing::error!(pool = state.config.name, worker = %link.worker,
                survivors = swept.survivors, "processes of a worker would not die");
        }
        if let Some(worker) = self.worker(link.pool, link.worker) {
            worker.swept = true;
        }
    }

    /// Writes a worker's death certificate, into the log and for whoever asks.
    pub(super) fn bury(&mut self, pool: PoolIndex, worker: WorkerId, exited: Option<Exited>) {
        let state = &mut self.pools[pool.0];
        let before = state.policy.worker_state(worker);
        let Some(entry) = state.workers.get_mut(&worker).filter(|entry| !entry.dead) else { return };
        entry.dead = true;
        let function = before
            .and_then(WorkerState::call)
            .and_then(|call| self.calls.get(&call))
            .map(|call| call.function().to_owned());
        let certificate = certificate::write(&state.config.name, worker, entry, before, exited, function);
        state.counters.one(super::counters::death(certificate.cause));
        if certificate.cause == Cause::Stopped {
            tracing::debug!(pool = state.config.name, %worker, pid = certificate.pid, "worker stopped");
            return;
        }
        tracing::warn!(
            pool = state.config.name,
            %worker,
            pid = certificate.pid,
            cause = ?certificate.cause,
            exit = certificate.exit_name,
            function = certificate.function.as_deref().unwrap_or(""),
            calls_served = certificate.calls_served,
            peak_rss_bytes = certificate.peak_rss_bytes,
            detail = escape(certificate.detail.as_bytes()),
            "worker died"
        );
        if matches!(state.first_start, FirstStart::Pending) {
            state.first_start = FirstStart::Failed(Box::new(certificate.clone()));
        }
        state.last_death = Some(certificate);
    }

    /// Reads one of a worker's pipes empty, at most one pipe full at a time.
    fn read_output(&mut self, now: Instant, link: &Link, stream: Stream, asker: Asker) {
        let Some(worker) = self.worker(link.pool, link.worker) else { return };
        let call = worker.last_call;
        let (mut raw, mut lines) = (Vec::new(), Vec::new());
        link.pipe(stream).borrow_mut().read(
            asker,
            &mut |bytes| raw.extend_from_slice(bytes),
            &mut |line| lines.push(line.to_vec()),
        );
        if raw.is_empty() && lines.is_empty() {
            return;
        }
        self.log_output(now, link, stream, call, &lines);
        if let Some(call) = call
            && !raw.is_empty()
        {
            self.pass_output_on(call, stream, &raw);
        }
    }

    fn log_output(
        &mut self,
        now: Instant,
        link: &Link,
        stream: Stream,
        call: Option<CallKey>,
        lines: &[Vec<u8>],
    ) {
        let state = &mut self.pools[link.pool.0];
        state.counters.add("output_lines", lines.len() as u64);
        let Some(worker) = state.workers.get_mut(&link.worker) else { return };
        let call = call.map_or(0, |call| call.0);
        for line in lines {
            if stream == Stream::Stderr {
                worker.tail.push(line);
            }
            let Some(dropped) = worker.allowance.take(now) else {
                state.counters.one("output_lines_not_logged");
                continue;
            };
            tracing::info!(target: "clutch::output", pool = state.config.name,
                worker = %link.worker, call, stream = stream_name(stream), dropped,
                "{}", escape(line));
        }
    }
}

/// Whether a version of Python can run the worker: 3.8 or newer.
fn is_supported(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(3)), Some(Ok(8..))))
}

const fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

fn describe_spawn_failure(fault: SpawnFailed) -> String {
    let error = std::io::Error::from_raw_os_error(fault.errno);
    match fault.stage {
        SpawnStage::Prepare => format!("failed to prepare its process: {error}"),
        SpawnStage::Directory => format!("failed to enter its working directory: {error}"),
        SpawnStage::Execute => format!("failed to execute its interpreter: {error}"),
    }
}
