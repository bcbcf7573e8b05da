//! What can happen to a pool, and what it can want done. Leaves deciding to `policy`.

use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

/// A call's id, unique in the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey(pub u64);

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon starts: launch every slot.
    Start,
    /// A caller wants a call run.
    CallArrived {
        /// Which.
        call: CallKey,
        /// When the caller stops waiting.
        deadline: Instant,
    },
    /// The caller does not want it any more, or is gone.
    CallCancelled {
        /// Which.
        call: CallKey,
    },
    /// A worker finished its start.
    Ready {
        /// Which.
        worker: WorkerId,
    },
    /// A worker answered a call, well or badly.
    Answered {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
    },
    /// A call could not be handed over: the worker's socket is closed, so the call cannot have
    /// begun there.
    Undelivered {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
    },
    /// A worker cannot be trusted any more and must go.
    Doomed {
        /// Which.
        worker: WorkerId,
        /// Why.
        cause: StopCause,
    },
    /// A worker's python ended, or could not be started.
    Died {
        /// Which.
        worker: WorkerId,
    },
    /// No process of a dead worker is left.
    Gone {
        /// Which.
        worker: WorkerId,
    },
    /// Time passed; some timer may be due.
    Tick,
    /// The daemon stops: take nothing new, let what runs finish until then.
    Drain {
        /// When running calls are given up.
        until: Instant,
    },
    /// The daemon stops at once.
    KillAll,
}

/// Something to be done. The dispatcher carries effects out in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a process for this worker.
    Launch {
        /// Which.
        worker: WorkerId,
    },
    /// Hand a call to a worker.
    Assign {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
    },
    /// Interrupt the call a worker runs.
    Interrupt {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
    },
    /// Ask a worker without a call to exit by itself.
    Retire {
        /// Which.
        worker: WorkerId,
    },
    /// Ask the guardian to terminate python, and to kill the tree after the grace.
    Terminate {
        /// Which.
        worker: WorkerId,
    },
    /// Ask the guardian to kill the tree.
    Kill {
        /// Which.
        worker: WorkerId,
    },
    /// The guardian does not obey: kill the guardian itself.
    Abandon {
        /// Which.
        worker: WorkerId,
    },
    /// Answer a call's caller; its worker's answer, if one comes, is late.
    Settle {
        /// Which call.
        call: CallKey,
        /// What to say.
        verdict: Verdict,
    },
    /// No worker is left after a drain.
    Drained,
}

/// What a caller is told when it is not the worker's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The deadline passed.
    TimedOut,
    /// The caller cancelled.
    Cancelled,
    /// The worker died with the call.
    WorkerDied {
        /// Which worker.
        worker: WorkerId,
    },
    /// Too many calls wait.
    QueueFull,
    /// The workers die as fast as they start.
    CrashLoop,
    /// The daemon is stopping.
    ShuttingDown,
}

/// Why a worker is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopCause {
    /// The start took too long.
    StartTimedOut,
    /// It would not give up a call.
    Interrupted,
    /// It broke the protocol.
    Protocol,
    /// It closed its sockets.
    ChannelLost,
    /// The daemon stops.
    Drain,
}

/// How long the pure policy waits for what, taken from the pool's configuration.
#[derive(Clone, Copy, Debug)]
pub struct Budgets {
    /// For a start.
    pub start: Duration,
    /// For an interrupted call to end.
    pub interrupt: Duration,
    /// For a worker to exit by itself, and from SIGTERM to SIGKILL.
    pub grace: Duration,
}
