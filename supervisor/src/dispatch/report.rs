//! What `status` says: read off the state that decides, at the moment it is asked for.

use std::collections::BTreeMap;
use std::time::Instant;

use clutch_protocol::Deaths;
use clutch_protocol::failure::{Ancestor, Cause, Certificate};
use clutch_protocol::status::{
    Building, CallProgress, DaemonStatus, PoolStatus, Status, WorkerCall, WorkerStatus,
};

use super::core::Core;
use super::dispatcher::{Dispatcher, FirstStart, PoolState, Worker};
use super::stream_books::Streams;
use crate::envs::{Report, Stage};
use crate::net::{Holdings, Quotas};
use crate::pool;
use crate::pool::{EmptySlot, Held, Opening, WorkerView};
use crate::watch::activity::Activity;

/// Why a pool is paused.
const PAUSED: &str = "an operator paused it: calls wait until it is resumed";

/// Why a pool is drained.
const CLOSED: &str = "an operator drains it: new calls are refused until it is resumed";

/// Why a pool goes while the daemon stays.
const REMOVED: &str = "it was removed from the configuration; calls it has taken in are finished";

/// Why a pool gets nothing done.
const HALTED_WHOLE: &str = "every worker is stopped by a signal (SIGSTOP): calls wait until one \
                            goes on (SIGCONT), or is replaced (liveness.stopped)";

/// Why a worker gets nothing done.
const HALTED: &str = "a signal (SIGSTOP) has stopped it: it gets no calls until it goes on";

impl Core {
    /// The daemon and everything in it, now.
    pub fn status(&self) -> Status {
        self.with(|dispatcher| dispatcher.status(Instant::now(), self.holdings(), self.kept()))
    }
}

impl Dispatcher {
    fn status(&self, now: Instant, holdings: &Holdings, kept: &Quotas) -> Status {
        let mut counters = self.counters.to_map();
        counters.entry("connections".to_owned()).or_insert(0);
        counters.insert("log_lines_dropped".to_owned(), crate::logs::own::dropped());
        counters.insert("descriptors_refused".to_owned(), holdings.refused());
        counters.insert("memory_freed_inline".to_owned(), holdings.closed_inline());
        Status {
            daemon: DaemonStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_ms: millis_since(now, self.started),
                state: if self.stopping { "stopping" } else { "running" }.to_owned(),
                socket: self.address.shown(),
                clients: self.clients,
                descriptors: open_descriptors(),
                descriptors_attached: holdings.held() as u64,
                attached_bytes: holdings.bytes(),
                handles: kept.values(),
                handle_bytes: kept.bytes(),
                handle_descriptors: kept.descriptors(),
                counters,
            },
            pools: self
                .pools
                .iter()
                .filter(|pool| !pool.is_tombstone())
                .map(|pool| self.pool_status(now, pool))
                .collect(),
        }
    }

    fn pool_status(&self, now: Instant, pool: &PoolState) -> PoolStatus {
        let calls = pool.policy.calls();
        let (state, reason) = self.pool_state(pool);
        let (memory_bound, memory_bound_reason) = self.memory_bound(pool);
        let oldest = calls.oldest().and_then(|key| self.calls.get(&key));
        PoolStatus {
            name: pool.config.name.clone(),
            state: state.to_owned(),
            reason,
            python: python_text(&pool.config.python),
            interpreter: pool.recipe.as_ref().and_then(|recipe| recipe.facts().cloned()),
            workers_wanted: pool.policy.workers_wanted(),
            workers_min: pool.policy.settings().size.min,
            workers_max: pool.policy.settings().size.max,
            spares: pool.policy.settings().size.spares,
            extra: pool.policy.extra(),
            threads: pool.recipe.as_ref().and_then(|recipe| recipe.threads()),
            workers: self.worker_statuses(now, pool),
            queued: calls.held() as u64,
            queued_oldest_ms: oldest.map_or(0, |call| millis_since(now, call.arrived())),
            running: (calls.len() - calls.held()) as u64,
            queue_limit: pool.config.limits.queue,
            runs: self.runs.of_pool(&pool.config.name, now),
            memory_bound: memory_bound.to_owned(),
            memory_bound_reason,
            last_death: pool.last_death.clone(),
            counters: pool_counters(pool),
            building: pool.building().map(|report| building(now, report)),
        }
    }

    /// What a pool as a whole is doing, and why.
    fn pool_state(&self, pool: &PoolState) -> (&'static str, String) {
        match pool.policy.state() {
            _ if pool.removed && !self.stopping => ("stopping", REMOVED.to_owned()),
            pool::PoolState::Draining => ("stopping", "the daemon is stopping".to_owned()),
            pool::PoolState::CrashLoop { failures } => {
                ("crash_loop", crash_loop_reason(failures, pool))
            }
            pool::PoolState::Paused => ("paused", PAUSED.to_owned()),
            pool::PoolState::Closed => ("draining", CLOSED.to_owned()),
            pool::PoolState::Running if pool.policy.is_halted_whole() => {
                ("running", HALTED_WHOLE.to_owned())
            }
            pool::PoolState::Running if self.has_ready_worker(pool) => {
                ("running", failed_start_reason(pool))
            }
            pool::PoolState::Running if pool.policy.workers_wanted() == 0 => {
                ("running", "no worker is needed; the next call starts one".to_owned())
            }
            pool::PoolState::Running if pool.is_building() => ("building", building_reason(pool)),
            pool::PoolState::Running => ("starting", "no worker is ready yet".to_owned()),
        }
    }

    /// Every slot has its line, also while it waits to be started again.
    fn worker_statuses(&self, now: Instant, pool: &PoolState) -> Vec<WorkerStatus> {
        let workers = pool.policy.workers().map(|view| self.worker_status(now, pool, &view));
        let empty = pool.policy.empty_slots().filter(|slot| slot.until.is_some());
        let mut lines: Vec<_> =
            workers.chain(empty.map(|slot| backoff_status(now, pool, slot))).collect();
        lines.sort_by_key(|line| line.id);
        lines
    }

    fn has_ready_worker(&self, pool: &PoolState) -> bool {
        pool.policy.workers().any(|worker| worker.state.is_up())
    }

    fn worker_status(&self, now: Instant, pool: &PoolState, view: &WorkerView<'_>) -> WorkerStatus {
        let entry = pool.workers.get(&view.id);
        let calls: Vec<_> =
            view.calls.iter().map(|held| self.call_status(now, entry, held)).collect();
        // Of several the oldest that somebody waits for stands for all.
        let shown = view.calls.iter().position(Held::is_running).unwrap_or(0);
        let key = view.calls.get(shown).map(|held| held.call);
        let shown = calls.get(shown).cloned();
        let chain = key.map_or_else(Vec::new, |key| self.chain(key));
        let waits_for = key.map_or(0, |key| self.nesting.count(key) as u64);
        WorkerStatus {
            id: view.id,
            state: view.name().to_owned(),
            reason: match worker_reason(view) {
                "" => nested_reason(&chain, waits_for),
                reason => reason.to_owned(),
            },
            since_ms: millis_since(now, view.since),
            pid: entry.map_or(0, |worker| worker.pid),
            python: entry.map_or_else(String::new, |worker| worker.python.clone()),
            function: shown.as_ref().map(|shown| shown.function.clone()),
            call: key.map(|key| key.0),
            call_ms: shown.map(|shown| shown.call_ms),
            chain: chain.iter().map(|one| one.call).collect(),
            waits_for,
            calls_served: entry.map_or(0, |worker| worker.served),
            activity: self.activity(view, entry).to_owned(),
            rss_bytes: entry.map_or(0, |worker| worker.watched.rss_bytes),
            cpu_ms: entry.map_or(0, |worker| worker.watched.cpu_ms),
            imports: entry.map_or_else(Vec::new, |worker| worker.imports.clone()),
            lanes: view.lanes,
            calls,
        }
    }

    fn call_status(&self, now: Instant, entry: Option<&Worker>, held: &Held) -> WorkerCall {
        let given = entry.and_then(|entry| entry.given.iter().find(|it| it.call == held.call));
        let function = given.map(|given| given.function.to_string());
        let state = if held.is_running() { "running" } else { "interrupting" };
        let streams = given.map(|given| &given.streams);
        let told = given.and_then(|given| given.progress.as_deref());
        WorkerCall {
            call: held.call.0,
            function: function.unwrap_or_default(),
            state: state.to_owned(),
            call_ms: millis_since(now, held.since),
            waits_for: self.nesting.count(held.call) as u64,
            items: streams.and_then(Streams::sent),
            waits_for_reader: streams.is_some_and(Streams::wait_for_reader),
            progress: told.map(|told| CallProgress {
                done: told.progress.done,
                total: told.progress.total,
                message: told.progress.message.clone(),
                since_ms: millis_since(now, told.at),
            }),
        }
    }

    /// What a worker was doing when it was looked at; what it must be doing if it was not.
    fn activity(&self, view: &WorkerView<'_>, entry: Option<&Worker>) -> &'static str {
        let seen = entry.and_then(|worker| worker.watched.activity);
        if view.halted && (view.state.is_up() || view.state == pool::WorkerState::Starting) {
            return Activity::Stopped.name();
        }
        let fits = |activity: Activity| match view.state {
            _ if activity == Activity::Stopped => true,
            _ if view.is_idle() => activity == Activity::Idle,
            pool::WorkerState::Starting => activity == Activity::Starting,
            _ => !matches!(activity, Activity::Idle | Activity::Starting),
        };
        let guess = match view.state {
            _ if view.is_idle() => Activity::Idle,
            pool::WorkerState::Starting => Activity::Starting,
            _ if view.has_call() => Activity::Running,
            _ => return "",
        };
        seen.filter(|activity| fits(*activity)).unwrap_or(guess).name()
    }
}

/// Why a worker is in its state.
fn worker_reason(view: &WorkerView<'_>) -> &'static str {
    if view.halted && view.state.is_up() { HALTED } else { view.reason() }
}

/// What a worker's call has to do with nested calls, in words; empty when it has nothing.
fn nested_reason(chain: &[Ancestor], waits_for: u64) -> String {
    let links = chain.iter().map(|one| format!("call {} (pool {})", one.call, one.pool));
    let links = links.collect::<Vec<_>>().join(" -> ");
    let waits = match waits_for {
        0 => String::new(),
        1 => "its call waits for a nested call".to_owned(),
        count => format!("its call waits for {count} nested calls"),
    };
    match (links.is_empty(), waits.is_empty()) {
        (true, _) => waits,
        (false, true) => format!("called by {links}"),
        (false, false) => format!("{waits}; called by {links}"),
    }
}

/// What has been counted, here and by the thread that writes files.
fn pool_counters(pool: &PoolState) -> BTreeMap<String, u64> {
    let mut counters = pool.counters.to_map();
    if let Some(sink) = &pool.sink {
        counters.insert("output_file_lines_dropped".to_owned(), sink.dropped());
    }
    counters
}

/// How many descriptors this process has open. Since Linux 6.2 the directory's size says so; older
/// kernels say 0 there, and have to be asked for each.
fn open_descriptors() -> u64 {
    const LIST: &str = "/proc/self/fd";
    match std::fs::metadata(LIST) {
        Ok(list) if list.len() > 0 => list.len(),
        _ => std::fs::read_dir(LIST).map_or(0, |list| list.count() as u64),
    }
}

/// Why a pool that works has workers that do not start; empty when all do.
fn failed_start_reason(pool: &PoolState) -> String {
    match &pool.last_death {
        Some(death)
            if pool.policy.tries_again()
                && matches!(death.cause, Cause::StartFailed | Cause::StartTimedOut) =>
        {
            format!("a new worker does not start and is tried again: {}", in_a_line(death))
        }
        _ => String::new(),
    }
}

/// Of a traceback, the line that names the exception; the rest is in the certificate.
pub(super) fn in_a_line(death: &Certificate) -> String {
    let text = death.to_string();
    let first = text.lines().next().unwrap_or_default();
    match text.lines().skip(1).filter(|line| !line.trim().is_empty()).last() {
        Some(exception) => {
            let death = first.trim_end_matches(" Traceback (most recent call last):");
            format!("{death} {}", exception.trim())
        }
        None => first.to_owned(),
    }
}

/// How often what happened, how it happened last, and what can be done.
fn crash_loop_reason(failures: u32, pool: &PoolState) -> String {
    let last = in_a_line(&pool.newest_death());
    let wish = match pool.policy.opening() {
        Opening::Paused => "an operator paused it, and ",
        Opening::Closed => "an operator drains it, and ",
        Opening::Open | Opening::Ending => "",
    };
    if pool.is_building() {
        return format!(
            "{wish}its environment could not be built and is being built anew; the last: {last}"
        );
    }
    if let FirstStart::Failed(_) = pool.first_start {
        return format!(
            "{wish}no worker of it has ever started; one start is tried now and then, and at once \
             after: clutch pool reset {}; the last: {last}",
            pool.config.name
        );
    }
    format!(
        "{wish}{}; it goes on trying, and at once after: clutch pool reset {}; the last: {last}",
        Deaths(failures),
        pool.config.name
    )
}

/// How far an environment is, as `status` shows it.
fn building(now: Instant, report: Report) -> Building {
    Building {
        made_of: report.what,
        since_ms: millis_since(now, report.since),
        phase: report.phase.to_owned(),
        line: report.line,
    }
}

/// What is built for a pool, and how far it is, in words.
fn building_reason(pool: &PoolState) -> String {
    let Some(report) = pool.building() else { return String::new() };
    let Report { stage, what, phase, line, .. } = report;
    let how = match stage {
        Stage::Waiting => format!("built by {line}, which is waited for"),
        Stage::Queued => "built as soon as others are".to_owned(),
        Stage::Looking | Stage::Building if line.is_empty() => format!("being built ({phase})"),
        Stage::Looking | Stage::Building => format!("being built ({phase}: {line})"),
    };
    format!("its environment is {how}, from its {what}; calls wait for it")
}

/// A slot between two workers.
fn backoff_status(now: Instant, pool: &PoolState, slot: EmptySlot) -> WorkerStatus {
    let wait = slot.until.map_or(0, |until| millis_since(until, now));
    let reason = match pool.builds_again(now) {
        // Starts before that fail for the same reason.
        Some(until) => {
            let wait = wait.max(millis_since(until, now));
            format!("its environment could not be built; built again in {wait} ms")
        }
        None => format!("tried again in {wait} ms; in this slot, {}", Deaths(slot.failures)),
    };
    WorkerStatus {
        id: slot.id,
        state: "backoff".to_owned(),
        reason,
        since_ms: slot.since.map_or(0, |since| millis_since(now, since)),
        pid: 0,
        python: String::new(),
        function: None,
        call: None,
        call_ms: None,
        chain: Vec::new(),
        waits_for: 0,
        calls_served: 0,
        activity: String::new(),
        rss_bytes: 0,
        cpu_ms: 0,
        imports: Vec::new(),
        lanes: 0,
        calls: Vec::new(),
    }
}

/// The interpreter as it was asked for.
fn python_text(python: &crate::config::Python) -> String {
    match python {
        crate::config::Python::Named(name) => name.clone(),
        crate::config::Python::File(path) => path.display().to_string(),
        crate::config::Python::Venv(path) => format!("venv {}", path.display()),
    }
}

fn millis_since(now: Instant, then: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(then).as_millis()).unwrap_or(u64::MAX)
}
