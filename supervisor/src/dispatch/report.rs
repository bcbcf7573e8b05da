//! What `status` says: read off the state that decides, at the moment it is asked for.

use std::time::Instant;

use clutch_protocol::status::{DaemonStatus, PoolStatus, Status, WorkerStatus};

use super::core::Core;
use super::dispatcher::{Dispatcher, PoolState};
use crate::pool;
use crate::pool::{EmptySlot, WorkerView};

impl Core {
    /// The daemon and everything in it, now.
    pub fn status(&self) -> Status {
        self.with(|dispatcher| dispatcher.status(Instant::now()))
    }
}

impl Dispatcher {
    fn status(&self, now: Instant) -> Status {
        let mut counters = self.counters.to_map();
        counters.entry("connections".to_owned()).or_insert(0);
        Status {
            daemon: DaemonStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_ms: millis_since(now, self.started),
                state: if self.stopping { "stopping" } else { "running" }.to_owned(),
                socket: self.socket.clone(),
                clients: self.clients,
                descriptors: open_descriptors(),
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
        let (state, reason) = match pool.policy.state() {
            _ if pool.removed && !self.stopping => {
                ("stopping", "it was removed; calls that it has taken in are finished".to_owned())
            }
            pool::PoolState::Draining => ("stopping", "the daemon is stopping".to_owned()),
            pool::PoolState::CrashLoop { failures } => {
                ("crash_loop", format!("{failures} starts in a row failed"))
            }
            pool::PoolState::Running if self.has_ready_worker(pool) => ("running", String::new()),
            pool::PoolState::Running => ("starting", "no worker is ready yet".to_owned()),
        };
        let oldest = calls.oldest().and_then(|key| self.calls.get(&key));
        PoolStatus {
            name: pool.config.name.clone(),
            state: state.to_owned(),
            reason,
            python: python_text(&pool.config.python),
            workers_wanted: pool.config.workers,
            workers: self.worker_statuses(now, pool),
            queued: calls.waiting() as u64,
            queued_oldest_ms: oldest.map_or(0, |call| millis_since(now, call.arrived())),
            running: (calls.len() - calls.waiting()) as u64,
            queue_limit: pool.config.limits.queue,
            last_death: pool.last_death.clone(),
            counters: pool.counters.to_map(),
        }
    }

    /// Every slot has its line, also while it waits to be started again.
    fn worker_statuses(&self, now: Instant, pool: &PoolState) -> Vec<WorkerStatus> {
        let workers = pool.policy.workers().map(|view| self.worker_status(now, pool, &view));
        let empty = pool.policy.empty_slots().filter(|slot| slot.until.is_some());
        let mut lines: Vec<_> =
            workers.chain(empty.map(|slot| backoff_status(now, slot))).collect();
        lines.sort_by_key(|line| line.id);
        lines
    }

    fn has_ready_worker(&self, pool: &PoolState) -> bool {
        use pool::WorkerState::{Busy, Idle, Interrupting};
        pool.policy.workers().any(|w| matches!(w.state, Idle | Busy(_) | Interrupting(_)))
    }

    fn worker_status(&self, now: Instant, pool: &PoolState, view: &WorkerView) -> WorkerStatus {
        let entry = pool.workers.get(&view.id);
        let call = view.state.call().and_then(|key| self.calls.get(&key));
        WorkerStatus {
            id: view.id,
            state: view.state.name().to_owned(),
            reason: view.state.reason().to_owned(),
            since_ms: millis_since(now, view.since),
            pid: entry.map_or(0, |worker| worker.pid),
            python: entry.map_or_else(String::new, |worker| worker.python.clone()),
            function: match view.state {
                pool::WorkerState::Interrupting(_) => {
                    entry.and_then(|worker| worker.function.as_deref()).map(str::to_owned)
                }
                _ => call.map(|call| call.function().to_string()),
            },
            calls_served: entry.map_or(0, |worker| worker.served),
        }
    }
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

/// A slot between two workers.
fn backoff_status(now: Instant, slot: EmptySlot) -> WorkerStatus {
    let wait = slot.until.map_or(0, |until| millis_since(until, now));
    WorkerStatus {
        id: slot.id,
        state: "backoff".to_owned(),
        reason: format!("started again in {wait} ms, after {} failed starts", slot.failures),
        since_ms: slot.since.map_or(0, |since| millis_since(now, since)),
        pid: 0,
        python: String::new(),
        function: None,
        calls_served: 0,
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
