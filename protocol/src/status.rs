//! What `clutch status --json` prints: derived from the same state that decides, never kept beside
//! it.
//!
//! It travels as JSON, so that fields can be added without a new protocol version; a reader ignores
//! what it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::failure::Certificate;
use crate::message::{ImportTime, WorkerId};

/// The daemon and everything in it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// The daemon itself.
    pub daemon: DaemonStatus,
    /// Its pools, by name.
    pub pools: Vec<PoolStatus>,
}

/// The daemon itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// Descriptors among them that travel with calls and answers.
    #[serde(default)]
    pub descriptors_attached: u64,
    /// Bytes of memory that those stand for. None of it is the daemon's own.
    #[serde(default)]
    pub attached_bytes: u64,
    /// Values that are kept under handles, and released ones that calls still have.
    #[serde(default)]
    pub handles: u64,
    /// Bytes of memory that those are in. None of it is the daemon's own.
    #[serde(default)]
    pub handle_bytes: u64,
    /// Descriptors that the daemon has open for them.
    #[serde(default)]
    pub handle_descriptors: u64,
    /// Counters of everything that happened to connections, by name; they only grow.
    pub counters: BTreeMap<String, u64>,
}

/// One pool.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// `starting`, `building`, `running`, `paused`, `draining`, `crash_loop` or `stopping`.
    pub state: String,
    /// Why it is in that state, and what leads out of it, in words; empty when there is nothing to
    /// say.
    pub reason: String,
    /// The interpreter, as configured.
    pub python: String,
    /// What that interpreter says of itself; none when it could not be asked.
    #[serde(default)]
    pub interpreter: Option<Interpreter>,
    /// How many workers it should have now, spares included.
    pub workers_wanted: u32,
    /// At least so many, spares not counted.
    #[serde(default)]
    pub workers_min: u32,
    /// At most so many, spares not counted.
    #[serde(default)]
    pub workers_max: u32,
    /// How many more are kept ready.
    #[serde(default)]
    pub spares: u32,
    /// How many more it has now for nested calls.
    #[serde(default)]
    pub extra: u32,
    /// How many threads numerical libraries are told to start in each worker; none when that is
    /// left to them.
    #[serde(default)]
    pub threads: Option<u32>,
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
    /// Programs that clients run under its rules with `clutch run`, oldest first.
    #[serde(default)]
    pub runs: Vec<RunStatus>,
    /// How its workers' memory is bounded: `cgroup` (by the kernel) or `sampling` (looked at every
    /// `memory.every`); empty when the pool has no bounds of memory.
    #[serde(default)]
    pub memory_bound: String,
    /// Why it is bounded by `sampling`; empty when it is not.
    #[serde(default)]
    pub memory_bound_reason: String,
    /// The last worker that died on its own, if any did.
    pub last_death: Option<Certificate>,
    /// Counters of everything that happened, by name; they only grow.
    pub counters: BTreeMap<String, u64>,
    /// The environment that is being built for it; none when none is.
    #[serde(default)]
    pub building: Option<Building>,
}

/// An environment that is being built, or waited for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Building {
    /// What it is made of: the key of the configuration, and what stands there.
    pub made_of: String,
    /// For how long it has been waited for, in milliseconds.
    pub since_ms: u64,
    /// `waiting` (another process builds it), `queued` (others of this daemon are built before it),
    /// `making`, `resolving`, `downloading`, `compiling` or `installing`.
    pub phase: String,
    /// What the builder said last, or who builds it; empty before it has said anything.
    pub line: String,
}

/// What an interpreter says of itself. `clutch status`, `clutch pythons` and `clutch plan` all
/// speak of interpreters with these words.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interpreter {
    /// What is executed.
    pub executable: String,
    /// Major, minor and micro, like `3.12.1`.
    pub version: String,
    /// `cpython`; others cannot run workers.
    pub implementation: String,
    /// `venv`, `virtualenv`, `uv venv` or `conda` for an environment; `pyenv`, `uv` or `system` for
    /// an installation.
    pub kind: String,
    /// Where its environment is: `sys.prefix`.
    pub prefix: String,
    /// Where the installation below is: `sys.base_prefix`.
    pub base_prefix: String,
    /// Which extension modules fit, like `cpython-312-x86_64-linux-gnu`.
    pub abi: String,
    /// Whether it was built to run without the global interpreter lock.
    pub free_threaded: bool,
    /// The machine it was built for, like `x86_64`.
    pub architecture: String,
    /// Where packages are installed; those directories that exist.
    pub site_packages: Vec<String>,
    /// The version of pip that it has; none if it has none.
    pub pip: Option<String>,
}

/// One worker process.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerStatus {
    /// Which worker.
    #[serde(flatten)]
    pub id: WorkerId,
    /// `backoff`, `starting`, `ready`, `busy`, `interrupting`, `retiring`, `stopping` or `dead`.
    pub state: String,
    /// Why it is in that state, in words; empty when there is nothing to say.
    pub reason: String,
    /// For how long it has been in that state, in milliseconds.
    pub since_ms: u64,
    /// Python's process id; 0 before it has one.
    pub pid: u32,
    /// The version of its interpreter; empty before it is ready.
    pub python: String,
    /// The function it is running, if any.
    pub function: Option<String>,
    /// The id of the call it is running, if any: the one that `clutch explain` takes.
    #[serde(default)]
    pub call: Option<u64>,
    /// For how long it has had that call, in milliseconds.
    #[serde(default)]
    pub call_ms: Option<u64>,
    /// The ids of the calls that wait for the one it is running, the first one first; empty when
    /// that is not nested.
    #[serde(default)]
    pub chain: Vec<u64>,
    /// How many nested calls the call it is running waits for.
    #[serde(default)]
    pub waits_for: u64,
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
    /// Where a start took long: its slowest top-level modules, the slowest first.
    #[serde(default)]
    pub imports: Vec<ImportTime>,
    /// How many calls it may have at once; 0 in a slot that holds no worker.
    #[serde(default)]
    pub lanes: u32,
    /// All calls it has, the one it has had longest first. Of these, `call` is the first that
    /// somebody waits for.
    #[serde(default)]
    pub calls: Vec<WorkerCall>,
}

/// A call that a worker has.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerCall {
    /// Its id: the one that `clutch explain` takes.
    pub call: u64,
    /// Its function.
    pub function: String,
    /// `running`, or `interrupting` when nobody waits for it any more and the worker was told so.
    pub state: String,
    /// For how long the worker has had it, in milliseconds.
    pub call_ms: u64,
    /// How many nested calls it waits for.
    pub waits_for: u64,
    /// How many items it has sent; none when it does not answer with a stream.
    #[serde(default)]
    pub items: Option<u64>,
    /// Whether its stream waits for its caller to take more items.
    #[serde(default)]
    pub waits_for_reader: bool,
    /// How far it has come, where its function says so.
    #[serde(default)]
    pub progress: Option<CallProgress>,
}

/// How far a call has come, in whatever unit its function counts.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CallProgress {
    /// How much is done.
    pub done: f64,
    /// How much there is to do, where that is known.
    pub total: Option<f64>,
    /// What it is doing; may be empty.
    pub message: String,
    /// How long ago it said so, in milliseconds.
    pub since_ms: u64,
}

/// A program that a client runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunStatus {
    /// Python's process id; 0 before it has one.
    pub pid: u32,
    /// What follows the interpreter on its command line.
    pub command: String,
    /// For how long it has run, in milliseconds.
    pub since_ms: u64,
}

/// The JSON schema of a [`Status`] as it is printed.
#[cfg(feature = "schema")]
pub fn schema() -> serde_json::Value {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    settings.into_generator().into_root_schema_for::<Status>().to_value()
}
