//! What guardians say: a worker's process from its start to the end of its tree.

use std::rc::Rc;
use std::time::Instant;

use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::message::{
    Exited, Halted, Signal, SpawnFailed, SpawnStage, Spawned, Swept, WorkerId,
};
use clutch_protocol::{Frame, Kind, wire};

use super::certificate::{self, Story};
use super::core::Core;
use super::dispatcher::{Dispatcher, FirstStart};
use super::history::{Record, What};
use crate::config;
use crate::net::InboxError;
use crate::net::intake::IntakeError;
use crate::pool::{Begun, Event, StopCause, WorkerState, state};
use crate::trial;
use crate::worker::link::Link;
use crate::worker::spawner::{LaunchError, Launched, PoolIndex};

impl Core {
    /// The spawner has started a guardian, or could not.
    pub(super) fn launched(&self, outcome: Launched) {
        let Launched { pool, worker, channels } = outcome;
        // The spawner has just taken an order, so there is room for another.
        self.with(Dispatcher::catch_up_with_reaps);
        let link = channels.and_then(|channels| {
            let (payload_max, lanes) = self.with(|dispatcher| {
                let view = dispatcher.pools[pool.0].policy.worker(worker);
                (dispatcher.daemon.payload, view.map_or(1, |view| view.lanes))
            });
            Link::new(pool, worker, channels, payload_max, lanes, self.holdings())
                .map_err(LaunchError::Channels)
        });
        match link {
            Err(error) => {
                self.with(|dispatcher| dispatcher.launch_failed(pool, worker, error.to_string()));
                // Told as an event of its own, so that what the failure queued is done now.
                self.tell(pool, Event::Tick);
                self.note_progress();
            }
            Ok(link) => self.with(|dispatcher| dispatcher.welcome(self, Rc::new(link))),
        }
    }

    /// A guardian sent a frame.
    pub(crate) fn guardian_frame(&self, link: &Rc<Link>, frame: &Frame) {
        let told = match frame.header.kind {
            Kind::Spawned => wire::decode(&frame.meta).map(|Spawned { pid, cgroup_errno }| {
                self.with(|dispatcher| dispatcher.spawned(link, pid, cgroup_errno));
                // It may be the first one to be weighed.
                self.rearm_watch();
            }),
            Kind::SpawnFailed => wire::decode(&frame.meta).map(|fault: SpawnFailed| {
                self.with(|dispatcher| {
                    let config = &dispatcher.pools[link.pool.0].config;
                    let detail = describe_spawn_failure(fault, config);
                    dispatcher.note_detail(link, &detail);
                });
                self.worker_died(link, None);
            }),
            Kind::Exited => {
                wire::decode(&frame.meta).map(|exited: Exited| self.worker_died(link, Some(exited)))
            }
            Kind::Swept => wire::decode(&frame.meta).map(|swept: Swept| {
                self.with(|dispatcher| dispatcher.swept(link, swept));
            }),
            Kind::Halted => wire::decode(&frame.meta).map(|Halted { stopped }| {
                self.worker_halted(link.pool, link.worker, stopped);
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
        // Its last reports may have come in together with its end.
        for frame in link.last_reports() {
            self.guardian_frame(link, &frame);
        }
        let (dead, swept) = self.with(|dispatcher| {
            dispatcher.worker(pool, worker).map_or((true, true), |w| (w.dead, w.swept))
        });
        self.with(|dispatcher| dispatcher.reap(link.guardian, !swept));
        // It may have to be given again.
        self.rearm_watch();
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

    /// A worker's python has ended. What it sent before it did still counts.
    fn worker_died(&self, link: &Rc<Link>, exited: Option<Exited>) {
        let now = Instant::now();
        // What was printed before an answer is the answered call's, and so is what was logged.
        self.with(|dispatcher| dispatcher.read_last_output(now, link));
        let (records, records_end) = link.last_records();
        for frame in records {
            self.control_frame(link, &frame);
        }
        let words_end =
            link.hear_last_words(|frame, attached| self.worker_frame(link, &frame, &attached));
        for (socket, end) in [("control", records_end), ("call", words_end)] {
            if let Err(fault) = end {
                self.with(|dispatcher| dispatcher.note_last_fault(link, socket, &fault));
            }
        }
        let begun = self.with(|dispatcher| {
            dispatcher.read_last_output(now, link);
            // Without its guardian's word it may live a moment longer, and begin after all.
            let begun = match exited {
                None => Begun::All,
                Some(_) => dispatcher.begun_in(link.pool, link.worker),
            };
            dispatcher.bury(link.pool, link.worker, exited, &begun);
            begun
        });
        self.tell_at(now, link.pool, Event::Died { worker: link.worker, begun });
        self.note_progress();
    }
}

impl Dispatcher {
    fn welcome(&mut self, core: &Core, link: Rc<Link>) {
        let (pool, worker) = (link.pool, link.worker);
        let setup = self.setup_frame(pool, worker);
        let oom_kills = self.oom.count();
        let state = self.pools[pool.0].policy.worker_state(worker);
        let (Some(setup), Some(entry)) = (setup, self.worker(pool, worker)) else {
            // It was given up while it was being started, and nobody remembers it.
            link.abandon();
            self.reap(link.guardian, true);
            return;
        };
        entry.link = Some(link.clone());
        entry.oom_kills_before = oom_kills;
        entry.group.clone_from(&link.group);
        link.listen(core, &mut entry.tasks);
        let told = if matches!(state, Some(WorkerState::Starting)) {
            link.call.send(&setup, &bytes::Bytes::new())
        } else {
            link.signal(Signal::Kill)
        };
        if told.is_err() {
            self.pool(pool).counters.one("orders_undeliverable");
        }
    }

    /// What a worker sent last, before it died, was no frame. Its socket's own end is no fault.
    fn note_last_fault(&mut self, link: &Link, socket: &str, fault: &InboxError) {
        // Nor is it its fault where descriptors could not be opened here.
        use InboxError::{Descriptors, Socket};
        if matches!(fault, Socket(_) | Descriptors(IntakeError::Exhausted)) {
            return;
        }
        let pool = self.pool(link.pool);
        pool.counters.one("last_words_broken");
        tracing::warn!(pool = pool.config.name, worker = %link.worker, socket, %fault,
            "the last that a dead worker has sent is no frame");
        if pool.workers.get(&link.worker).is_some_and(|entry| entry.detail.is_empty()) {
            let detail =
                format!("the last that it sent on its {socket} socket is no frame: {fault}");
            self.note_detail(link, &detail);
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
            // Survivors fall to this process, which tries again.
            worker.swept = swept.survivors == 0;
        }
    }

    /// Writes a worker's death certificate, into the log and for whoever asks. `begun` says which
    /// of the calls it had can have begun.
    pub(super) fn bury(
        &mut self,
        pool: PoolIndex,
        worker: WorkerId,
        exited: Option<Exited>,
        begun: &Begun,
    ) {
        let state = &mut self.pools[pool.0];
        let view = state.policy.worker(worker);
        let (before, is_idle) = (view.map(|it| it.state), view.is_some_and(|it| it.is_idle()));
        let Some(entry) = state.workers.get_mut(&worker).filter(|entry| !entry.dead) else {
            return;
        };
        entry.dead = true;
        let is_newest = entry.edition == state.edition;
        let is_given_up = entry.edition > state.edition;
        let never_ready = entry.python.is_empty();
        let story = Story { before, is_idle, exited, begun, oom: &mut self.oom };
        let certificate = certificate::write(&state.config, worker, entry, story);
        entry.certificate = Some(Box::new(certificate.clone()));
        let cause = super::counters::death(certificate.cause);
        state.counters.one(cause);
        let record = Record::new(What::Died, pool).worker(worker).extra(certificate.pid);
        let word = self.history.word(cause.trim_start_matches("deaths."));
        self.history.note(Instant::now(), record.word(word));
        if certificate.cause == Cause::Signalled {
            state.counters.one(format!("deaths.signalled.{}", certificate.exit_name));
        }
        if certificate.cause == Cause::Stopped {
            let pool = &state.config.name;
            let reason = before.map_or("", state::reason);
            let (pid, calls_served) = (certificate.pid, certificate.calls_served);
            if let Some(WorkerState::Stopping(StopCause::Replaced(_))) = before {
                let peak_rss_bytes = certificate.peak_rss_bytes;
                tracing::info!(
                    pool, %worker, pid, reason, calls_served, peak_rss_bytes, "worker replaced"
                );
            } else {
                tracing::debug!(pool, %worker, pid, reason, calls_served, "worker stopped");
            }
            return;
        }
        // Nothing has died where there was nothing to start: that was said when the build failed.
        let is_told = certificate.pid == 0 && state.builds_again(Instant::now()).is_some();
        if !is_told {
            warn_of_death(&state.config.name, worker, cause, &certificate);
        }
        if is_newest && never_ready {
            state.failed_start = Some(certificate.clone());
        }
        if matches!(state.first_start, FirstStart::Pending) {
            state.first_start = FirstStart::Failed(Box::new(certificate.clone()));
        }
        // That of a make that was given up is no reason for anything any more.
        if !is_given_up {
            state.last_death = Some(certificate);
        }
    }
}

fn warn_of_death(pool: &str, worker: WorkerId, cause: &str, certificate: &Certificate) {
    tracing::warn!(
        pool,
        %worker,
        pid = certificate.pid,
        cause = cause.trim_start_matches("deaths."),
        exit = certificate.exit_name,
        function = certificate.function.as_deref().unwrap_or(""),
        calls_served = certificate.calls_served,
        peak_rss_bytes = certificate.peak_rss_bytes,
        call = certificate.call,
        cpu_ms = certificate.cpu_ms,
        uptime_ms = certificate.uptime_ms,
        out_of_memory = certificate.out_of_memory,
        detail = certificate.detail,
        stack = certificate.stack,
        "worker died"
    );
}

/// What a guardian could not do for a client's program, in words.
pub(crate) fn describe_program_failure(fault: SpawnFailed, pool: &config::Pool) -> String {
    match fault.stage {
        SpawnStage::Directory => {
            let error = std::io::Error::from_raw_os_error(fault.errno);
            format!("failed to enter the working directory: {error}")
        }
        _ => describe_spawn_failure(fault, pool),
    }
}

/// What a guardian of the pool could not do, in words.
fn describe_spawn_failure(fault: SpawnFailed, pool: &config::Pool) -> String {
    let error = std::io::Error::from_raw_os_error(fault.errno);
    match fault.stage {
        SpawnStage::Prepare => format!("failed to prepare its process: {error}"),
        SpawnStage::Directory => format!(
            "failed to enter its working directory {} (cwd of pool '{}'): {error}",
            pool.cwd.display(),
            pool.name
        ),
        SpawnStage::Limits => {
            let found = trial::of_process(&pool.process).into_iter();
            let found = found.map(|(key, sentence)| format!("{key}: {sentence}"));
            let mut found = found.collect::<Vec<_>>().join("; ");
            if found.is_empty() {
                found = "another user, less nice, a higher limit: only root may".to_owned();
            }
            let name = &pool.name;
            format!("failed to apply pools.{name}.process to it: {error} ({found})")
        }
        SpawnStage::Execute => format!("failed to execute its interpreter: {error}"),
    }
}
