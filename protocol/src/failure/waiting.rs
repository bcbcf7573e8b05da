//! What calls wait for: other calls, and whatever keeps them from being done in time.

use serde::{Deserialize, Serialize};

use crate::wire::{Decode, Encode};

/// A call that waits for another one.
#[derive(Clone, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Its id in the daemon.
    pub call: u64,
    /// Its pool.
    pub pool: String,
    /// `module:qualname`.
    pub function: String,
}

/// What bounds nested calls.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NestedBound {
    /// `nested.depth`: calls that wait for one another in a row.
    Depth,
    /// `nested.extra`: workers beyond the pool's size.
    Extra,
}

/// What kept a call from being done in time, as far as the daemon knows.
#[derive(Clone, Debug, Decode, Default, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// Nothing but work: its own, or that of the calls before it.
    #[default]
    Work,
    /// Its last attempt had a time of its own.
    Attempt,
    /// The pool is paused.
    Paused,
    /// The pool had no worker that could have taken it.
    NoWorker,
    /// The call that waits for it had no more time.
    Caller,
    /// Its worker, or every worker that could have taken it, was stopped by a signal.
    Stopped {
        /// Their processes, or the first few of them.
        pids: Vec<u32>,
    },
    /// The pool lets no call have as much time as its caller wished.
    Capped {
        /// What the caller wished, in milliseconds.
        wished_ms: u64,
    },
    /// The daemon did not answer; the client noticed that by itself.
    Unanswered,
    /// Its worker was stopped by a signal while it ran it, and is being replaced.
    Frozen {
        /// The worker's process.
        pid: u32,
    },
    /// The environment that the pool declares was being built.
    Building,
    /// Its stream waited for its reader to take more.
    Reader {
        /// How many items the reader was sent.
        items: u64,
    },
}

/// What became of a pool that takes no more calls.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// The daemon stops.
    Daemon,
    /// The daemon stops, and the call, which was running, has had its time.
    Ended,
    /// An operator drains the pool.
    Drain,
}

/// What values that were put with the daemon may have of it.
#[derive(Clone, Copy, Debug, Decode, Deserialize, Encode, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandleQuota {
    /// Bytes for one client.
    ClientBytes,
    /// Bytes for all clients.
    Bytes,
    /// Descriptors for one client.
    ClientDescriptors,
    /// Descriptors for all clients.
    Descriptors,
}
