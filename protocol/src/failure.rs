//! Every way a call can fail, as one enum.
//!
//! The names here are the names everywhere: in Rust, in Python, in the CLI's text, in JSON.
//! [`Failure`] is the envelope that says whose call it was and whether user code can have begun;
//! [`Reason`] is what happened.

use serde::{Deserialize, Serialize};

use crate::message::{Exit, Phases, WorkerId};
use crate::wire::{Decode, Encode};

mod waiting;

pub use waiting::{Ancestor, HandleQuota, Hindrance, NestedBound, Shutdown};

/// A call that failed, and how.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Serialize)]
pub struct Failure {
    /// The call's id, unique in the daemon's life: the one its log and `clutch explain` know. 0
    /// when the daemon never gave it one, or did not get to say which.
    pub call: u64,
    /// The pool it was sent to.
    pub pool: String,
    /// `module:qualname`.
    pub function: String,
    /// Which attempt failed, from 1; 0 when none began.
    pub attempt: u32,
    /// Whether user code can have begun. When false, sending the call again is safe.
    pub started: bool,
    /// What the time was spent on.
    pub phases: Phases,
    /// What happened.
    pub reason: Reason,
    /// Whether it was not tried again, though its caller asked for that, because it has killed too
    /// many workers.
    pub quarantined: bool,
    /// Of a call with items whose worker has died: the index of the item that was running. Those
    /// before it have ended, and what came of them is lost; those behind it have not begun. None
    /// when that is not proven. What the client library's maps tell is counted through the map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u64>,
}

/// What happened to a call.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "PascalCase")]
pub enum Reason {
    /// The function raised an exception.
    Raised(Box<Exception>),
    /// The deadline passed.
    TimedOut {
        /// The deadline, in milliseconds from the call's arrival.
        timeout_ms: u64,
        /// What user code was doing then, innermost frame first, as `faulthandler` writes it; empty
        /// when the call had not begun, or when nothing could be learnt in time.
        stack: String,
        /// What kept the call from being done in time.
        hindrance: Hindrance,
    },
    /// The caller, or the caller's going away, cancelled it.
    Cancelled,
    /// The worker died while it had the call.
    WorkerDied(Box<Certificate>),
    /// The pool's queue is full.
    QueueFull {
        /// How many calls may wait.
        limit: u32,
    },
    /// The pool's workers die as fast as they start, or cannot be started.
    CrashLoop {
        /// How often workers died without a success between.
        failures: u32,
        /// The last death.
        last: Box<Certificate>,
    },
    /// The pool's `allow` list does not name the function.
    NotAllowed,
    /// There is no such pool, module or function.
    NotFound(Box<Missing>),
    /// The arguments do not fit the function, or cannot be decoded.
    BadArguments {
        /// Python's own words.
        message: String,
    },
    /// The result cannot be encoded for this caller.
    Unserializable {
        /// Where in the result: `result[3].lock`.
        path: String,
        /// The type found there: `_thread.lock`.
        type_name: String,
        /// What to do about it.
        message: String,
    },
    /// Arguments or result are longer than allowed.
    TooLarge {
        /// Which of the two.
        what: Payload,
        /// How long it is, in bytes.
        bytes: u64,
        /// How long it may be, in bytes.
        limit: u64,
    },
    /// The daemon is stopping, or the pool is drained.
    ShuttingDown {
        /// Which of the two, and whether it ended a running call.
        why: Shutdown,
    },
    /// The connection to the daemon was lost.
    Disconnected {
        /// Why, as far as it is known.
        detail: String,
    },
    /// The daemon or the worker broke the protocol, or says that we did.
    Protocol {
        /// What was wrong.
        detail: String,
    },
    /// It is nested, and running it would take more than its pool has for nested calls.
    Nested {
        /// The calls that wait for it, the first one first.
        chain: Vec<Ancestor>,
        /// What of the pool's `nested` it would have gone beyond.
        bound: NestedBound,
        /// How much of that there is.
        limit: u32,
    },
    /// The daemon keeps as much for its clients as it may.
    HandlesFull {
        /// Which limit was reached.
        quota: HandleQuota,
        /// How much the value would have added: bytes, or descriptors.
        needed: u64,
        /// How much is kept already.
        held: u64,
        /// How much may be.
        limit: u64,
    },
}

/// Which payload of a call.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// What the caller sent.
    Arguments,
    /// What the function returned.
    Result,
}

/// What a worker sends when a call fails in it. The daemon adds the rest of the [`Failure`].
///
/// Some variants repeat fields of [`Reason`]: what a worker may say is a type of its own, so that
/// none can claim a verdict of the daemon's, such as `TimedOut` or `NotAllowed`.
#[derive(Clone, Debug, Decode, Encode, PartialEq)]
pub enum WorkerFailure {
    /// The function raised.
    Raised(Exception),
    /// Module or function are not there.
    NotFound(Missing),
    /// The arguments do not fit.
    BadArguments {
        /// Python's own words.
        message: String,
    },
    /// The result cannot be encoded.
    Unserializable {
        /// Where in the result.
        path: String,
        /// The type found there.
        type_name: String,
        /// What to do about it.
        message: String,
    },
    /// The result is too long.
    TooLarge {
        /// How long it is, in bytes.
        bytes: u64,
        /// How long it may be, in bytes.
        limit: u64,
    },
    /// The call was interrupted, and its `finally` blocks have run.
    Cancelled,
}

/// What could not be found.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Serialize)]
pub struct Missing {
    /// Which of them.
    pub what: MissingWhat,
    /// One sentence: `module 'mth' has no attribute 'sqrt'`, and what was meant perhaps.
    pub message: String,
    /// Python's import error with its traceback, where there is one; else empty.
    pub traceback: String,
}

/// Which part of a name could not be found.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingWhat {
    /// The pool.
    Pool,
    /// The module, or something it imports.
    Module,
    /// An attribute of the module.
    Function,
    /// It is there, but it cannot be called.
    NotCallable,
    /// The name is not `module:qualname`.
    Name,
}

/// A Python exception as data: nothing of it is code, and reading it runs none.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Serialize)]
pub struct Exception {
    /// The type with its module, as Python prints it: `ValueError`, `mytasks.Rejected`.
    pub type_name: String,
    /// `str(exception)`, cut at the limit.
    pub message: String,
    /// What `add_note` added.
    pub notes: Vec<String>,
    /// The traceback's frames in user code, outermost first.
    pub frames: Vec<TraceFrame>,
    /// The traceback as Python prints it, causes included, cut at the limit.
    pub traceback: String,
    /// What led to it, nearest first.
    pub chain: Vec<Link>,
    /// The names of its base classes in the order Python looks things up in them, without the type
    /// itself and `object`.
    #[serde(default)]
    pub bases: Vec<String>,
}

/// One frame of a traceback.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
pub struct TraceFrame {
    /// The file as Python names it.
    pub file: String,
    /// The line, from 1; 0 when unknown.
    pub line: u32,
    /// The function's name.
    pub function: String,
    /// The source line, stripped; empty when it cannot be read.
    pub source: String,
}

/// One link of an exception's chain.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
pub struct Link {
    /// How it is tied to the link before it.
    pub relation: Relation,
    /// The type with its module.
    pub type_name: String,
    /// `str(exception)`, cut at the limit.
    pub message: String,
}

/// How one exception led to another.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// `raise ... from cause`.
    Cause,
    /// Raised while the other was being handled.
    Context,
}

/// All that is known about a worker's death.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Certificate {
    /// The pool it belonged to.
    pub pool: String,
    /// Which worker.
    pub worker: WorkerId,
    /// Its process id; 0 when it never had one.
    pub pid: u32,
    /// Why it died, in a word.
    pub cause: Cause,
    /// How the process ended; none when that could not be learnt.
    pub exit: Option<Exit>,
    /// The signal's or code's usual name: `SIGKILL`, `exit code 3`.
    pub exit_name: String,
    /// The most memory it ever held, in bytes.
    pub peak_rss_bytes: u64,
    /// How long it lived, in milliseconds.
    pub uptime_ms: u64,
    /// How many calls it had answered.
    pub calls_served: u64,
    /// The function it was running, if any.
    pub function: Option<String>,
    /// The last lines of its standard error.
    pub stderr_tail: String,
    /// What else is known: the traceback of a failed start, the protocol fault.
    pub detail: String,
    /// Whether the system killed it because memory had run out.
    pub out_of_memory: bool,
    /// Processor time it used, its reaped children's included, in milliseconds.
    pub cpu_ms: u64,
    /// The daemon's id of the call it was running; 0 when there was none.
    pub call: u64,
    /// What `faulthandler` wrote of its last moments: the Python stack of a crash, or of a call
    /// that would not end. Empty when there is nothing.
    pub stack: String,
}

/// Why a worker died.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It ended by itself, with a code.
    Exited,
    /// A signal nobody here sent ended it.
    Signalled,
    /// It could not be started.
    StartFailed,
    /// Its start took longer than allowed.
    StartTimedOut,
    /// It would not give up a call that was cancelled or timed out.
    Interrupted,
    /// It broke the protocol.
    Protocol,
    /// Its sockets were closed while it lived.
    ChannelLost,
    /// Its guardian died.
    GuardianLost,
    /// The pool or the daemon stopped it.
    Stopped,
    /// The system killed it because memory had run out.
    OutOfMemory,
    /// Its tree held more memory than the pool's `memory.kill_above`.
    MemoryLimit,
    /// A signal had stopped it, and the pool's `liveness.stopped` is `replace`.
    Stalled,
}

impl Certificate {
    /// A certificate that says which worker died and why, and nothing else.
    pub fn unknown(pool: impl Into<String>, worker: WorkerId, cause: Cause) -> Certificate {
        Certificate {
            pool: pool.into(),
            worker,
            pid: 0,
            cause,
            exit: None,
            exit_name: "unknown".to_owned(),
            peak_rss_bytes: 0,
            uptime_ms: 0,
            calls_served: 0,
            function: None,
            stderr_tail: String::new(),
            detail: String::new(),
            out_of_memory: false,
            cpu_ms: 0,
            call: 0,
            stack: String::new(),
        }
    }
}

impl Reason {
    /// The name of the variant: the same word in Rust, Python, CLI and JSON.
    pub const fn name(&self) -> &'static str {
        match self {
            Reason::Raised(_) => "Raised",
            Reason::TimedOut { .. } => "TimedOut",
            Reason::Cancelled => "Cancelled",
            Reason::WorkerDied(_) => "WorkerDied",
            Reason::QueueFull { .. } => "QueueFull",
            Reason::CrashLoop { .. } => "CrashLoop",
            Reason::NotAllowed => "NotAllowed",
            Reason::NotFound(_) => "NotFound",
            Reason::BadArguments { .. } => "BadArguments",
            Reason::Unserializable { .. } => "Unserializable",
            Reason::TooLarge { .. } => "TooLarge",
            Reason::ShuttingDown { .. } => "ShuttingDown",
            Reason::Disconnected { .. } => "Disconnected",
            Reason::Protocol { .. } => "Protocol",
            Reason::Nested { .. } => "Nested",
            Reason::HandlesFull { .. } => "HandlesFull",
        }
    }
}
