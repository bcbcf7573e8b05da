//! What `clutch status --json` prints: derived from the same state that decides, never kept beside
//! it.
//!
//! It travels as JSON, so that fields can be added without a new protocol version; a reader ignores
//! what it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::failure::Certificate;
use crate::message::WorkerId;

/// The daemon and everything in it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    /// The daemon itself.
    pub daemon: DaemonStatus,
    /// Its pools, by name.
    pub pools: Vec<PoolStatus>,
}

/// The daemon itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct DaemonStatus {
    /// Program version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// How long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// `running` or `stopping`.
    pub state: String,
    /// The socket it listens on; empty for a private one.
    pub socket: String,
    /// Connections that have said hello.
    pub clients: u64,
    /// Descriptors the process has open.
    pub descriptors: u64,
    /// Counters of everything that happened to connections, by name.
    pub counters: BTreeMap<String, u64>,
}

/// One pool.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// `starting`, `running`, `crash_loop` or `stopping`.
    pub state: String,
    /// Why it is in that state, in words; empty when there is nothing to say.
    pub reason: String,
    /// The interpreter, as configured.
    pub python: String,
    /// How many workers it should have.
    pub workers_wanted: u32,
    /// Its workers, by slot and generation. Those being replaced are listed too.
    pub workers: Vec<WorkerStatus>,
    /// Calls that wait.
    pub queued: u64,
    /// How long the oldest of them has waited, in milliseconds.
    pub queued_oldest_ms: u64,
    /// Calls that run.
    pub running: u64,
    /// Calls that may wait.
    pub queue_limit: u32,
    /// The last worker that died on its own, if any did.
    pub last_death: Option<Certificate>,
    /// Counters of everything that happened, by name: `accepted`, `answered.ok`,
    /// `answered.Raised`, `deaths.signalled`, `restarts`, `late_answers_dropped`.
    pub counters: BTreeMap<String, u64>,
}

/// One worker process.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct WorkerStatus {
    /// Which worker.
    #[serde(flatten)]
    pub id: WorkerId,
    /// `backoff`, `starting`, `ready`, `busy`, `interrupting` or `stopping`.
    pub state: String,
    /// Why it is in that state, in words.
    pub reason: String,
    /// For how long, in milliseconds.
    pub since_ms: u64,
    /// Python's process id; 0 before it has one.
    pub pid: u32,
    /// The version of its interpreter; empty before it is ready.
    pub python: String,
    /// The function it is running, if any.
    pub function: Option<String>,
    /// How many calls it has answered.
    pub calls_served: u64,
    /// What its process is doing, as far as it was looked at: `idle`, `starting`, `running`,
    /// `holding_gil` (C code that lets no other thread run), `blocked_holding_gil`, `blocked` (in a
    /// system call), `stopped`; empty before it was looked at.
    #[serde(default)]
    pub activity: String,
    /// The memory its processes hold, in bytes, when they were last looked at.
    #[serde(default)]
    pub rss_bytes: u64,
    /// The processor time its python has used, in milliseconds, when it was last looked at.
    #[serde(default)]
    pub cpu_ms: u64,
}
