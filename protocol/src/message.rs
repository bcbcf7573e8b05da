//! The meta struct of each kind of frame.
//!
//! A field's order is its place on the wire. Fields and variants are only ever added at the end,
//! together with a new protocol version; `docs/PROTOCOL.md` has the table of who sends what when.

use serde::{Deserialize, Serialize};

pub use crate::guardian::{
    Exit, Exited, Halted, Identity, OomScore, ProcessLimits, Resource, ResourceLimit, Signal,
    Spawn, SpawnFailed, SpawnStage, Spawned, Swept,
};
pub use crate::logs::{LogLines, Logs};
pub use crate::program::{
    Forward, RunEnded, RunProgram, RunRefusal, RunRefused, RunStarted, SpawnProgram, Streams,
    Target,
};
use crate::wire::{Decode, Encode};

/// Names of protocol versions, each by what it brought.
pub mod version {
    /// Calls, items, output, status.
    pub const FIRST: u16 = 1;
    /// The oldest version this code still speaks.
    pub const MIN: u16 = FIRST;
    /// The newest version this code speaks.
    pub const MAX: u16 = FIRST;
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Role {
    /// Someone who wants functions called. The only role a socket with a name accepts: workers and
    /// guardians are given their sockets at birth.
    Client,
    /// A python that runs functions.
    Worker,
    /// The process between the daemon and one python.
    Guardian,
}

/// The first frame of a client. Later versions may append fields; a reader ignores what it does
/// not know, and this struct alone is read that way.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Hello {
    /// The oldest protocol version the sender speaks.
    pub version_min: u16,
    /// The newest protocol version the sender speaks.
    pub version_max: u16,
    /// What the sender wants to be.
    pub role: Role,
    /// The sender's program and version, for logs: `clutch-client 0.1.0`.
    pub program: String,
    /// What the environment of a worker's processes has as `CLUTCH_WORKER`; empty for everybody
    /// else. Calls of a connection with it are nested: the call that the worker runs waits for
    /// them. It gives no rights, and one that the daemon does not know means nothing.
    pub worker: String,
}

/// The daemon's answer to a hello it accepts.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version of everything that follows.
    pub version: u16,
    /// The daemon's process id.
    pub pid: u32,
    /// The daemon's program and version.
    pub program: String,
    /// The longest payload the daemon takes, in bytes.
    pub payload_bytes_max: u32,
    /// How many calls may be unanswered on one connection before the daemon stops reading it.
    pub in_flight_max: u32,
    /// Its pools. Who has many calls for one of them keeps about as many under way as it can run
    /// at once: what waits in a queue spends its deadline there, and keeps others waiting.
    pub pools: Vec<PoolSize>,
    /// How many bytes may be attached to one payload.
    pub attached_bytes_max: u64,
}

/// How large a pool is.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct PoolSize {
    /// Its name.
    pub name: String,
    /// How many calls its workers can run at once: one each, or as many as `threads` or `async`
    /// says.
    pub workers: u32,
}

/// Why a connection is refused or closed.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Refusal {
    /// No protocol version in common.
    Version,
    /// The role may not be taken on this socket.
    Role,
    /// The peer broke the protocol.
    Protocol,
    /// Too many connections.
    Overloaded,
    /// The peer was silent, too slow, or did not read its answers.
    TooSlow,
    /// The peer's user may not use this daemon.
    User,
    /// The daemon is stopping.
    ShuttingDown,
}

/// The last frame before the daemon closes a connection.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Refused {
    /// Why, for programs.
    pub refusal: Refusal,
    /// Why and what to do, for people.
    pub sentence: String,
}

/// A client's request to call a function.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Call {
    /// The pool that is to run it.
    pub pool: String,
    /// `module:qualname`.
    pub function: String,
    /// How long the caller waits in all, in milliseconds; 0 takes the pool's default.
    pub timeout_ms: u64,
    /// Higher goes first among the calls that wait; 0 is usual.
    pub priority: i8,
    /// What is to be done when an attempt fails; none means that there is one attempt.
    pub retry: Option<Retry>,
    /// What a call with items does with each; none is [`Apply::Item`] without a fold. Without the
    /// flag `ITEMS` there is none.
    pub each: Option<Each>,
    /// Handles of values that the client has put with the daemon. Their descriptors come to the
    /// worker behind those of this frame, in this order; each handle once.
    pub handles: Vec<u64>,
}

/// What a call with items does with each of them, and with what comes of them.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Each {
    /// How the function is called.
    pub apply: Apply,
    /// `module:qualname` of a function of two arguments, what came of the items so far and of the
    /// next one. It makes one result of all of them, from left to right; empty for none. It must be
    /// allowed as the function itself must.
    pub fold: String,
}

/// How a function is called with an item.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Apply {
    /// The item is its one argument.
    Item,
    /// The item is the list of its positional arguments.
    Star,
    /// It is not called: the items are folded as they are, and the function is the fold.
    Nothing,
}

/// What a caller wants done when an attempt of its call fails. [`Retry::check`] says what may be
/// asked for.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Which failures are reasons for another attempt.
    pub on: RetryOn,
    /// How long to wait before the second attempt, in milliseconds; doubled before each one after
    /// that.
    pub backoff_ms: u64,
    /// How long one attempt may run, in milliseconds; 0 for as long as the call may take.
    pub attempt_timeout_ms: u64,
}

/// The failures after which a call is tried again.
#[derive(Clone, Debug, Decode, Default, Encode, PartialEq, Eq)]
pub struct RetryOn {
    /// The worker died. A death counts as an attempt, and a call that has killed two workers is
    /// not given a third.
    pub worker_died: bool,
    /// The attempt took longer than its own time.
    pub timed_out: bool,
    /// The function raised one of these, or something derived from it: names as in
    /// [`Exception::type_name`](crate::failure::Exception::type_name).
    pub raised: Vec<String>,
}

/// How long the phases of a call took, in microseconds. Together they are the time from the call's
/// arrival at the daemon to its answer there; what both take on their ways from and to the client
/// only the client can know.
#[derive(Clone, Copy, Debug, Decode, Default, Encode, PartialEq, Eq, Deserialize, Serialize)]
pub struct Phases {
    /// Waiting for a free worker, and between attempts.
    pub queue_us: u64,
    /// With a worker, from the moment it was handed over until it answered.
    pub run_us: u64,
    /// Waiting while the pool had no worker that could have taken it, and one was being started.
    pub start_us: u64,
}

/// Which worker process: a place in the pool, and how many had that place before.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Decode, Encode, Deserialize, Serialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WorkerId {
    /// The place, from 0; it survives the process.
    pub slot: u32,
    /// Which process in that place, from 1.
    pub generation: u32,
}

impl std::fmt::Display for WorkerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.slot, self.generation)
    }
}

/// The meta of a result on its way to a client.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Answer {
    /// How long it took.
    pub phases: Phases,
    /// Who ran it.
    pub worker: WorkerId,
    /// The call's id, unique in the daemon's life: the one its log and `clutch explain` know.
    pub call: u64,
    /// Which attempt this is the answer of, from 1.
    pub attempt: u32,
    /// The process id of who ran it.
    pub pid: u32,
}

/// Which stream a line was printed to.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The meta of a piece of output on its way to a client; the payload is the bytes (`raw`).
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Output {
    /// Where it was printed to.
    pub stream: Stream,
    /// Bytes that were left out before this piece, because the caller read too slowly.
    pub dropped_bytes: u64,
}

/// How the daemon is to stop.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Stop {
    /// Refuse new calls, let running ones finish within the grace.
    Graceful,
    /// Kill what runs.
    Now,
}

/// A client's wish that the configuration be read anew.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Reload {
    /// Whether to answer only when everything that has to be replaced has been.
    pub wait: bool,
}

/// The first frame a worker reads: how to become one.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Setup {
    /// The protocol version.
    pub version: u16,
    /// The pool's name.
    pub pool: String,
    /// Which worker this is.
    pub worker: WorkerId,
    /// What `sys.argv` shall be. Bytes, as every path below: Python decodes them with its file
    /// system encoding (`os.fsdecode`).
    pub argv: Vec<Vec<u8>>,
    /// The script that becomes `__main__`, absolute; empty for none.
    pub main: Vec<u8>,
    /// Directories that go behind `sys.path[0]`, absolute, in order.
    pub path: Vec<Vec<u8>>,
    /// Modules to import before the first call.
    pub preload: Vec<String>,
    /// The longest result payload, in bytes.
    pub payload_bytes_max: u32,
    /// After how many milliseconds of start the stacks of all threads go to the pipe for stacks.
    pub start_stack_ms: u64,
    /// From which level on records of Python's `logging` are forwarded, as Python counts levels
    /// (10 is DEBUG, 50 is CRITICAL); 0 forwards none and leaves `logging` alone.
    pub log_level: u32,
    /// A function to call before the first call, after `preload` and `main`; empty for none.
    pub initializer: String,
    /// Its arguments: a list in JSON; empty with no initializer.
    pub initargs: Vec<u8>,
    /// Functions to call after it, in order, without arguments.
    pub warm: Vec<String>,
    /// How it is to run its calls.
    pub mode: Mode,
    /// How many of them it may be given at once, at most
    /// [`LANES_MAX`](crate::limits::LANES_MAX); 1 in mode `One`.
    pub lanes: u32,
    /// How many bytes may be attached to one result or item.
    pub attached_bytes_max: u64,
}

/// How a worker runs the calls it is given.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Mode {
    /// One at a time, on its main thread.
    One,
    /// Each on a thread of its own.
    Threads,
    /// On one event loop, on its main thread.
    Async,
    /// Each in a subinterpreter of its own.
    Subinterpreters,
}

/// A worker is ready for calls.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Ready {
    /// The protocol version the worker speaks.
    pub version: u16,
    /// Its process id, in its own pid namespace.
    pub pid: u32,
    /// `3.12.1`.
    pub python: String,
    /// `sys.executable`.
    pub executable: String,
}

/// The meta of a call on its way to a worker.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Run {
    /// Milliseconds until the caller stops waiting; 0 for never. First, so that the rest of the
    /// meta is the same bytes for every call of a function, and a worker can look them up.
    pub timeout_ms: u64,
    /// `module:qualname`.
    pub function: String,
    /// As in [`Call`].
    pub each: Option<Each>,
}

/// How long the imports of a start take, that of a worker which is not quick.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Imports {
    /// Whether everything is imported; otherwise what was under way counts as far as it had come.
    pub finished: bool,
    /// For how long the worker has been importing, in milliseconds.
    pub elapsed_ms: u64,
    /// The slowest top-level modules, the slowest first.
    pub modules: Vec<ImportTime>,
}

/// How long the import of one top-level module took, its submodules included.
#[derive(Clone, Debug, PartialEq, Eq, Decode, Encode, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImportTime {
    /// Its name.
    pub module: String,
    /// With everything it imports, in milliseconds.
    pub total_ms: u64,
    /// Without other top-level modules, in milliseconds.
    pub own_ms: u64,
}

/// A record of Python's `logging`, on its way from a worker.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Log {
    /// Its level as a number, and as its name.
    pub level: u32,
    /// The level's name; programs may invent some.
    pub level_name: String,
    /// The logger it was given to; `root` for the root.
    pub logger: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// The call that made it; 0 for other threads than the call's, and between calls.
    pub call: u64,
    /// Records that the worker left out before it: too many, or too fast to be sent.
    pub dropped: u64,
    /// The message, and the traceback if it has one. Cut by the worker.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn a_newer_hello_is_still_understood_f080() {
        let hello = Hello {
            version_min: 1,
            version_max: 9,
            role: Role::Client,
            program: "new 9".into(),
            worker: String::new(),
        };
        let mut bytes = wire::encode(&hello).unwrap();
        let used = bytes.len();
        bytes.extend_from_slice(b"fields of the future");
        assert_eq!((hello, used), wire::decode_prefix(&bytes).unwrap());
        assert!(wire::decode::<Hello>(&bytes).is_err());
    }

    #[test]
    fn a_length_inside_a_meta_allocates_nothing() {
        let mut bytes = wire::encode(&(1u16, 1u16, Role::Client)).unwrap();
        bytes.extend_from_slice(&(1u64 << 40).to_le_bytes());
        assert!(wire::decode_prefix::<Hello>(&bytes).is_err());
    }
}
