//! What can happen to a pool, and what it can want done. Leaves deciding to `policy`.

use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;
pub use clutch_protocol::operate::PoolOrder as Order;

use super::settings::Settings;

/// A call's id, unique in the daemon's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey(pub u64);

/// Who sends calls, for fair sharing: one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller(pub u64);

/// What a caller wants done when an attempt fails. The default is one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included; at least one.
    pub attempts: u32,
    /// Whether the worker's death is a reason for another attempt.
    pub on_death: bool,
    /// Whether an attempt that took longer than its own time is one.
    pub on_timeout: bool,
    /// How long to wait before the second attempt; doubled before each one after that.
    pub backoff: Duration,
    /// How long one attempt may run; none means until the call's deadline.
    pub attempt_timeout: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            attempts: 1,
            on_death: false,
            on_timeout: false,
            backoff: Duration::ZERO,
            attempt_timeout: None,
        }
    }
}

/// Which of the calls that a worker died with can have begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// All of them.
    All,
    /// These.
    Only(Vec<CallKey>),
}

impl Begun {
    /// Where none was there, or none can have begun.
    pub const NONE: Begun = Begun::Only(Vec::new());

    /// Whether this one can.
    pub fn has(&self, call: CallKey) -> bool {
        match self {
            Begun::All => true,
            Begun::Only(calls) => calls.contains(&call),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon starts: launch every slot.
    Start,
    /// A caller wants a call run.
    CallArrived {
        /// Which.
        call: CallKey,
        /// When the caller stops waiting.
        deadline: Instant,
        /// Who wants it.
        caller: Caller,
        /// Higher goes first; 0 is usual.
        priority: i8,
        /// What is to be done when an attempt fails.
        retry: Retry,
        /// Whether a call of some pool waits for it, so that it may take a place that is free only
        /// because whoever holds it waits.
        nested: bool,
    },
    /// A call of a worker waits for calls of its own from now on, or does not any more.
    Waits {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
        /// Whether it waits.
        waits: bool,
    },
    /// Something of a call's streams has passed on: an item has reached its caller, or its caller
    /// was told to send some. That cannot be done twice.
    Streamed {
        /// Which call.
        call: CallKey,
    },
    /// A nested call waits for a worker, and every worker that it could get waits for such calls.
    CallStuck {
        /// Which.
        call: CallKey,
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
    /// What a worker is to be started with is being made, or is there now: its start may take until
    /// then.
    PutOff {
        /// Which.
        worker: WorkerId,
        /// Until when.
        until: Instant,
    },
    /// A signal has stopped a worker's python: it can do nothing until it goes on.
    Halted {
        /// Which.
        worker: WorkerId,
    },
    /// A stopped worker goes on.
    Resumed {
        /// Which.
        worker: WorkerId,
    },
    /// A worker answered a call with a failure for which its caller wants another attempt, and
    /// [`super::Pool::may_retry`] said that there may be one.
    AttemptFailed {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
    },
    /// The stacks that were asked for are there, as far as they will ever be.
    StackDumped {
        /// Which worker's.
        worker: WorkerId,
    },
    /// A worker is to be replaced, without haste and without a word.
    Outworn {
        /// Which.
        worker: WorkerId,
        /// Why.
        cause: ReplaceCause,
    },
    /// A worker's python ended, or could not be started.
    Died {
        /// Which.
        worker: WorkerId,
        /// Which of the calls it had can have begun. The others are moved to other workers.
        begun: Begun,
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
    /// An operator wants something.
    Operator(Order),
    /// The configuration was read anew: these are the settings from now on. Every worker that was
    /// launched before is outworn if `replace` says so.
    Reconfigured {
        /// What holds from now on.
        settings: Box<Settings>,
        /// Whether the workers are to be replaced.
        replace: bool,
    },
}

/// Why a worker is replaced though nothing is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplaceCause {
    /// It has answered its number of calls.
    Calls,
    /// It is old.
    Age,
    /// It had nothing to do for long.
    Idle,
    /// It holds too much memory after its calls.
    Memory,
    /// It asked for it.
    OwnRequest,
    /// An operator asked for it.
    Operator,
    /// The configuration or a watched file has changed.
    Reload,
}

impl ReplaceCause {
    /// Why, in words.
    pub const fn reason(self) -> &'static str {
        match self {
            ReplaceCause::Calls => "it has answered its number of calls",
            ReplaceCause::Age => "it is old",
            ReplaceCause::Idle => "it had nothing to do for long",
            ReplaceCause::Memory => "it held much memory after its calls",
            ReplaceCause::OwnRequest => "it asked to be replaced",
            ReplaceCause::Operator => "an operator had it replaced",
            ReplaceCause::Reload => "the configuration has changed",
        }
    }

    /// Whether somebody waits for the end of all such replacements.
    pub const fn is_recycling(self) -> bool {
        matches!(self, ReplaceCause::Operator | ReplaceCause::Reload)
    }
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
    /// Tell a worker that one of its calls is not wanted any more, by the flag that user code can
    /// look at.
    Warn {
        /// Which worker.
        worker: WorkerId,
        /// Which call.
        call: CallKey,
    },
    /// Have a worker write the stacks of its threads; [`Event::StackDumped`] comes when it has.
    DumpStack {
        /// Which worker.
        worker: WorkerId,
    },
    /// Interrupt a call a worker runs.
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
        /// Whether it was not tried again, though its caller wanted that, because it has killed
        /// too many workers.
        quarantined: bool,
    },
    /// Too many calls wait.
    QueueFull,
    /// The workers die as fast as they start.
    CrashLoop,
    /// The daemon is stopping.
    ShuttingDown,
    /// All workers that could run it wait for calls like it.
    Nested,
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
    /// It holds more memory than it may.
    Memory,
    /// A signal stopped it, and such workers are to be replaced.
    Stalled,
    /// It is replaced.
    Replaced(ReplaceCause),
    /// The pool has become smaller.
    Surplus,
}

/// How long the pure policy waits for what, taken from the pool's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budgets {
    /// For a start.
    pub start: Duration,
    /// For the stacks of a worker whose call is late: its caller waits for them.
    pub dump: Duration,
    /// For a call that is not wanted any more to end by itself, before it is interrupted.
    pub cooperate: Duration,
    /// For an interrupted call to end.
    pub interrupt: Duration,
    /// For a worker to exit by itself, and from SIGTERM to SIGKILL.
    pub grace: Duration,
}
