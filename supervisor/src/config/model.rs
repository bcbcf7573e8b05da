//! The checked configuration: what every other part of the daemon reads.
//!
//! A value of these types is already right: names are valid, paths are absolute, limits agree with
//! one another. How a file becomes one is the business of `raw.rs` and `check.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::allow::Allow;
use super::cgroup::Cgroup;
use super::compute::Compute;
use super::concurrency::Concurrency;
use super::declared::{Build, Declared};
use super::handles::Handles;
use super::liveness::Liveness;
use super::log::Log;
use super::memory::Memory;
use super::output::Output;
use super::process::Process;
use super::run::Run;
use super::warm_up::WarmUp;
use super::watch::Watch;
use crate::pool::settings::{Nested, Replace, Restart, Scale};

/// The whole configuration of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from; none for `--local` and for text from elsewhere.
    pub source: Option<PathBuf>,
    /// What concerns the daemon as a whole.
    pub daemon: Daemon,
    /// The pools by name; there is at least one.
    pub pools: BTreeMap<String, Pool>,
}

/// What concerns the daemon as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Connections it serves at once.
    pub connections: u32,
    /// Calls one connection may have in flight.
    pub in_flight: u32,
    /// The longest payload it accepts, in bytes.
    pub payload: u32,
    /// How many bytes of requests it holds in all.
    pub memory: u64,
    /// How many bytes may be attached to one call, result or item, in memory of their own.
    pub attached: u64,
    /// How many bytes clients may have kept under handles.
    pub handles: Handles,
    /// How long a graceful stop waits for running calls.
    pub stop_grace: Duration,
    /// Where it listens; none means the per-user default.
    pub socket: Option<PathBuf>,
    /// Its own log.
    pub log: Log,
    /// Where the groups of its workers are made.
    pub cgroup: Cgroup,
}

/// One pool of workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name, as in the file.
    pub name: String,
    /// Which interpreter its workers run.
    pub python: Python,
    /// What is to be installed for them, in an environment that is built for it.
    pub declared: Option<Declared>,
    /// How that is built.
    pub build: Build,
    /// How many workers it has at most, spares not counted.
    pub workers: u32,
    /// How many it has at least.
    pub workers_min: u32,
    /// How many more are kept ready.
    pub spares: u32,
    /// How each of them runs the calls it is given.
    pub concurrency: Concurrency,
    /// When it grows and shrinks.
    pub scale: Scale,
    /// How it starts again what died.
    pub restart: Restart,
    /// When it replaces what is well.
    pub replace: Replace,
    /// What it does for calls that come from workers.
    pub nested: Nested,
    /// What is added to `sys.path`; absolute directories (or zip files).
    pub path: Vec<PathBuf>,
    /// The script that is `__main__` in every worker.
    pub main: Option<Main>,
    /// What follows the script in `sys.argv`.
    pub args: Vec<String>,
    /// Options of the interpreter itself, before the script.
    pub flags: Vec<String>,
    /// What may be called; none means everything.
    pub allow: Option<Allow>,
    /// Where workers start; an absolute directory.
    pub cwd: PathBuf,
    /// Modules imported before the first call.
    pub preload: Vec<String>,
    /// What is called before the first call.
    pub warm_up: WarmUp,
    /// Files whose change makes the workers be replaced.
    pub watch: Vec<Watch>,
    /// How the environment of workers is made.
    pub env: Env,
    /// Its limits.
    pub limits: Limits,
    /// What is kept of its output.
    pub output: Output,
    /// From which level on records of Python's `logging` are forwarded; 0 for none.
    pub logging: u32,
    /// What its processes are made of.
    pub process: Process,
    /// How they share processors and devices.
    pub compute: Compute,
    /// How much memory they may hold.
    pub memory: Memory,
    /// When busy ones are looked at.
    pub liveness: Liveness,
    /// Programs that clients run under its rules.
    pub run: Run,
}

impl Pool {
    /// Whether clients may run programs of their own under its rules. Who may call some functions
    /// only must not be able to call any other that way.
    #[must_use]
    pub fn runs_programs(&self) -> bool {
        self.run.allow.unwrap_or(self.allow.is_none())
    }
}

/// Which interpreter a pool runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Python {
    /// A version, or a name on `PATH`.
    Named(String),
    /// An interpreter's own absolute path.
    File(PathBuf),
    /// The absolute path of a virtual or conda environment's directory.
    Venv(PathBuf),
}

/// The script that is `__main__` in every worker of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Main {
    /// How a person in the pool's directory would type it: `sys.argv[0]`.
    pub argv0: String,
    /// Its absolute path.
    pub file: PathBuf,
}

/// How the environment of a pool's workers is made: inherit, then unset, then set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Env {
    /// What is taken from the daemon's environment.
    pub inherit: Inherit,
    /// What is set, whatever was inherited.
    pub set: BTreeMap<String, String>,
    /// What is removed from what was inherited.
    pub unset: Vec<String>,
}

/// What workers inherit from the daemon's environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Inherit {
    /// Everything but what bends an interpreter or a loader.
    #[default]
    All,
    /// `PATH`, `HOME`, `USER`, `LANG`, `LC_*`, `TZ`, `TMPDIR`.
    Minimal,
    /// These names and no others; `*` is any run of characters.
    List(Vec<String>),
}

/// The limits of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls that may wait for a worker.
    pub queue: u32,
    /// How long a call may take when its caller does not say.
    pub call_timeout: Duration,
    /// The longest time a caller may ask for.
    pub call_timeout_max: Duration,
    /// How long a worker may take to become ready.
    pub start_timeout: Duration,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// How long a call that nobody waits for may go on before it is interrupted.
    pub cooperate: Duration,
    /// How long an interrupted call may take to end before its worker is replaced.
    pub interrupt: Duration,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            connections: 2048,
            in_flight: 8192,
            payload: clutch_protocol::limits::PAYLOAD_BYTES_DEFAULT,
            memory: 1 << 30,
            attached: clutch_protocol::limits::ATTACHED_BYTES_DEFAULT,
            handles: Handles::default(),
            stop_grace: Duration::from_secs(30),
            socket: None,
            log: Log::default(),
            cgroup: Cgroup::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 4096,
            call_timeout: Duration::from_secs(30),
            call_timeout_max: Duration::from_secs(24 * 3600),
            start_timeout: Duration::from_secs(60),
            grace: Duration::from_secs(5),
            cooperate: Duration::ZERO,
            interrupt: Duration::from_millis(100),
        }
    }
}

impl Default for Python {
    fn default() -> Self {
        Self::Named("python3".to_owned())
    }
}

/// What `--local` was told on the command line.
#[derive(Clone, Debug, Default)]
pub struct LocalOptions {
    /// The interpreter, by the rules of the key `python`; `python3` without.
    pub python: Option<String>,
    /// What is to be installed.
    pub requirements: Vec<String>,
    /// How many workers; one without.
    pub workers: Option<u32>,
    /// What is added to `sys.path`, relative to `cwd`.
    pub path: Vec<PathBuf>,
    /// Where the worker starts; absolute.
    pub cwd: PathBuf,
    /// The script that is `__main__`, relative to `cwd`.
    pub main: Option<PathBuf>,
}
