//! What an operator may ask of a running daemon, and what is answered.
//!
//! A question travels as the meta of an `Operate` frame, [`Operation`]; its answer is an `Operated`
//! frame with an [`Outcome`] and, where there is something to tell, a JSON payload: one of the
//! structs below, whose fields are only ever added to. `docs/OPERATIONS.md` shows each from the
//! command line.

use serde::{Deserialize, Serialize};

use crate::failure::Ancestor;
use crate::message::{Phases, WorkerId};
use crate::wire::{Decode, Encode};

/// What is to be done, or told.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Operation {
    /// Something for a whole pool. No payload.
    Pool {
        /// Which.
        name: String,
        /// What.
        order: PoolOrder,
    },
    /// Cancel a call, whoever sent it. Payload [`CancelledCall`].
    Cancel {
        /// Its id in the daemon.
        call: u64,
    },
    /// Tell the life of a call. Payload [`Explanation`].
    Explain {
        /// Its id in the daemon.
        call: u64,
    },
    /// The Python stack of every thread of a worker, now. Payload [`Stack`].
    Stack {
        /// The pool.
        pool: String,
        /// The worker's place in it.
        slot: u32,
    },
}

/// What is to be done with a pool.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum PoolOrder {
    /// Take calls in, but hand none to a worker.
    Pause,
    /// Go on after a pause or a drain.
    Resume,
    /// Take no calls in any more, finish those that were taken in, keep the workers.
    Drain,
    /// Have so many workers.
    Resize {
        /// At least.
        min: u32,
        /// At most.
        max: u32,
    },
    /// Replace every worker, new ones first.
    Recycle,
    /// Forget all failures, and start what is missing at once.
    Reset,
}

/// What became of an operation.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Outcome {
    /// It was done; what goes on after it, `Status` shows.
    Done,
    /// It was not done, and nothing has changed.
    Refused {
        /// Why, for programs.
        denial: Denial,
        /// Why and what to do, for people.
        sentence: String,
    },
}

/// Why an operation is refused.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq, Hash)]
pub enum Denial {
    /// There is no such pool.
    NoSuchPool,
    /// There is no such slot in the pool.
    NoSuchSlot,
    /// No call ever had this id.
    NoSuchCall,
    /// What was asked for makes no sense: a name that is none, a size out of bounds.
    Invalid,
    /// The call was answered already, or so long ago that nothing is known of it any more.
    Ended,
    /// The daemon is stopping.
    ShuttingDown,
    /// It cannot be done as things are: no process in the slot, no way to reach it.
    Unavailable,
    /// The worker did not answer in time.
    TimedOut,
    /// Too many such questions are open.
    Busy,
}

/// A call that was cancelled.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CancelledCall {
    /// Its id in the daemon.
    pub call: u64,
    /// Its pool.
    pub pool: String,
    /// `module:qualname`.
    pub function: String,
    /// Who ran it; none when it still waited.
    pub worker: Option<WorkerId>,
}

/// The stacks of a worker.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Stack {
    /// Its pool.
    pub pool: String,
    /// Which worker.
    pub worker: WorkerId,
    /// Its process id.
    pub pid: u32,
    /// The call it had, if any.
    pub call: Option<u64>,
    /// That call's function, if any.
    pub function: Option<String>,
    /// Every thread's stack, as Python's `faulthandler` writes them.
    pub text: String,
}

/// The life of a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Its id in the daemon.
    pub call: u64,
    /// Its pool.
    pub pool: String,
    /// `module:qualname`; empty when that is not known any more.
    pub function: String,
    /// Where it is: `queued`, `running` or `answered`.
    pub state: String,
    /// How it was answered: `ok`, or the name of a failure's reason; none before.
    pub outcome: Option<String>,
    /// When it came in, in milliseconds since 1970; none when that is not known any more.
    pub arrived_unix_ms: Option<u64>,
    /// Whether the beginning of its life is not known any more.
    pub beginning_lost: bool,
    /// What happened to it, and to the worker that had it, in order.
    pub steps: Vec<Step>,
    /// What kept the workers busy while it waited: the calls that were running when it came in, and
    /// those that were given to a worker before it.
    pub ahead: Vec<Ahead>,
    /// How many more there were.
    pub ahead_left_out: u64,
    /// The calls that wait for it, or waited, the first one first; empty when it is not nested.
    #[serde(default)]
    pub chain: Vec<Ancestor>,
    /// The nested calls that it waits for now, at most 32 of them.
    #[serde(default)]
    pub waits_for: Vec<u64>,
    /// How long its phases took so far; none once it is answered.
    #[serde(default)]
    pub phases: Option<Phases>,
}

/// One thing that happened.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Step {
    /// When, in microseconds after the call came in (after the first step, if that was lost).
    pub at_us: u64,
    /// What, as a word: `arrived`, `queued`, `assigned`, `warned`, `interrupted`, `moved_back`,
    /// `nested`, `retried`, `unwanted`, `answered`, `late_answer`, `worker_launched`,
    /// `worker_ready`, `worker_stopping`, `worker_died`.
    pub what: String,
    /// More about it: how a call was answered, how a worker died, what it waited for, who does not
    /// want it any more.
    pub detail: String,
    /// The worker it concerns, if any.
    pub worker: Option<WorkerId>,
    /// Its process id; none when it had no process yet.
    pub pid: Option<u32>,
    /// Which attempt began, did not begin or failed, from 1; none for other steps, and where the
    /// beginning is not known any more.
    #[serde(default)]
    pub attempt: Option<u32>,
}

/// A call that kept a worker busy.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Ahead {
    /// Its id in the daemon.
    pub call: u64,
    /// `module:qualname`; empty when that is not known any more.
    pub function: String,
    /// The worker it was with.
    pub worker: WorkerId,
    /// When it was given to the worker, in microseconds after the explained call came in; negative
    /// before that.
    pub from_us: i64,
    /// When the worker was done with it, by the same clock; none when it still has it.
    pub until_us: Option<i64>,
}
