//! The meta structs between the daemon and a guardian: what it is to run, what it is to do to it,
//! what became of it. They are [`crate::message`]'s, and found there.

use serde::{Deserialize, Serialize};

use crate::wire::{Decode, Encode};

/// What a guardian is to run. Four descriptors travel with it: the call socket and the control
/// socket of the worker, the page on which it says which call it has begun, the pipe for stacks.
/// Its standard output and error are already the worker's.
///
/// Arguments and environment are bytes, since a Unix one need not be text.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Spawn {
    /// The interpreter, absolute.
    pub program: Vec<u8>,
    /// Its arguments, the zeroth included. `{call}`, `{control}`, `{page}` and `{stack}` in an
    /// argument are replaced by the numbers of the descriptors.
    pub argv: Vec<Vec<u8>>,
    /// Its whole environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Its working directory, absolute.
    pub directory: Vec<u8>,
    /// How long a terminated python may take before its tree is killed, in milliseconds.
    pub grace_ms: u64,
    /// Its soft limit of open files. The daemon raises its own, and python shall have what a person
    /// at the daemon's terminal would have.
    pub open_files: u64,
    /// What else python's process is made of, whatever the daemon's own is.
    pub limits: ProcessLimits,
    /// The directory of the cgroup (version 2) that python joins before anything else; empty for
    /// the guardian's own.
    pub cgroup: Vec<u8>,
}

/// What a pool asks for its processes. What is not asked for stays as the daemon's own.
#[derive(Clone, Debug, Decode, Default, Encode, PartialEq, Eq)]
pub struct ProcessLimits {
    /// Resource limits, each set soft and hard; that of core dumps soft only.
    pub resources: Vec<ResourceLimit>,
    /// The processors it may run on; empty for all.
    pub cpus: Vec<u32>,
    /// Its nice value.
    pub nice: Option<i32>,
    /// Its file mode creation mask.
    pub umask: Option<u32>,
    /// Who it is.
    pub identity: Option<Identity>,
    /// How likely the system is to pick it when memory runs out.
    pub oom_score_adj: Option<OomScore>,
}

/// One resource limit.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct ResourceLimit {
    /// Of what.
    pub resource: Resource,
    /// How much.
    pub value: u64,
}

/// What a resource limit is about.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Resource {
    /// Size of a core dump, in bytes.
    Core,
    /// Open files.
    OpenFiles,
    /// Address space, in bytes.
    AddressSpace,
    /// Processor time, in seconds: SIGXCPU, and SIGKILL some seconds later.
    CpuTime,
    /// Size of a file it writes, in bytes.
    FileSize,
    /// Processes and threads of its user.
    Processes,
}

/// Whose rights a process has.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A value for `/proc/PID/oom_score_adj`.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct OomScore {
    /// The value, from -1000 (never) to 1000 (first).
    pub value: i32,
    /// Whether a worker without it is none. What is only the default may be refused.
    pub required: bool,
}

/// Python was started.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Spawned {
    /// Its process id.
    pub pid: u32,
    /// Why it could not join its cgroup, as the system's error number; 0 when it did, or when it
    /// was to join none. It runs all the same.
    pub cgroup_errno: i32,
}

/// A signal has stopped python, or it goes on. Said when it changes, and of a stop anew where the
/// going on before it was not seen; not said of a python that a debugger holds.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Halted {
    /// Whether it stands still.
    pub stopped: bool,
}

/// What a guardian was doing when it failed to start python.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum SpawnStage {
    /// Preparing descriptors, session and death signal.
    Prepare,
    /// Entering the working directory.
    Directory,
    /// Executing the interpreter.
    Execute,
    /// Applying the pool's limits, user and group.
    Limits,
}

/// Python could not be started.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct SpawnFailed {
    /// What failed.
    pub stage: SpawnStage,
    /// The system's error number.
    pub errno: i32,
}

/// What the daemon wants done to a worker's processes.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM and SIGCONT to python's process group; the tree is killed when the grace is over.
    Terminate,
    /// SIGKILL to the whole tree.
    Kill,
    /// The signal at which python's `faulthandler` writes the stacks of its threads.
    DumpStack,
    /// SIGCONT to python's process group.
    Continue,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Python ended and was reaped.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Exited {
    /// Its process id.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
    /// Processor time it spent in user code, in microseconds.
    pub user_us: u64,
    /// Processor time the system spent for it, in microseconds.
    pub system_us: u64,
    /// The most memory it ever held, in bytes.
    pub peak_rss_bytes: u64,
}

/// No process of the tree is left; the guardian ends.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Swept {
    /// How many descendants were still alive when python ended.
    pub killed: u32,
    /// How many would not die within the guardian's bound (uninterruptible sleep).
    pub survivors: u32,
}
