//! What a pool decides: who runs what, who is started, who is stopped, who is refused.
//!
//! This module is a state machine and nothing else: no clock, no I/O, no await. It is given the
//! time and an [`Event`], and says by [`Effect`]s what is to be done; the dispatcher does it. So
//! years of crashes, timeouts and full queues are tested in milliseconds, with seeds.
//!
//! ```text
//!            CallArrived, CallCancelled                  Assign, Warn, Interrupt, Retire
//!  session ────────────────────────────►┌────────┐─────────────────────────────────► worker link
//!            Ready, Answered, Doomed    │  Pool  │   Launch, DumpStack, Terminate, Kill
//!  worker  ────────────────────────────►│ handle │─────────────────────────────────► spawner,
//!            Died, Gone                 │        │                                    guardian
//!  guardian ───────────────────────────►│        │   Settle
//!            Tick                       │        │─────────────────────────────────► session
//!  timer   ────────────────────────────►│        │
//!            Operator, Reconfigured     │        │
//!  operator ───────────────────────────►└────────┘
//! ```
//!
//! Suggested reading order:
//!
//! - [`event`]: what can happen, and what can be done about it; [`settings`]: what a pool is told.
//! - [`state`], [`lanes`], [`standing`]: the states of a worker, of each call in it, and of a pool,
//!   each with the one table of its transitions.
//! - [`policy`]: the pool itself, and the way of a call through it.
//! - `assign`, `room`: which worker gets the next call; `tally`: what is counted of them.
//! - [`queue`]: the calls of a pool, with their deadlines; [`mod@line`]: whose turn it is;
//!   [`timers`]: every other timer.
//! - `ladder`: how a worker is made to give up a call; `retry`: which call is tried again.
//! - `endings`: how workers go; `starts`: how they are started again, or not; `replace`: how they
//!   are replaced though nothing is wrong; `elastic`: how many there are.
//! - `halts`: those that a signal has stopped; `put_off`: starts for which something is built.
//! - `nested`: calls that wait for calls of their own; [`nesting`]: who waits for whom, over all
//!   pools, and whether anything comes of it; `standstill`: how long calls waited for a start.
//! - `operator`: what can be ordered while all this runs; `view`: what can be asked.
//! - [`backoff`]: how long something waits before it is tried again.

pub mod event;
pub mod settings;

pub mod lanes;
pub mod standing;
pub mod state;

pub mod policy;

mod assign;
mod room;
mod tally;

pub mod line;
pub mod queue;
pub mod timers;

mod ladder;
mod retry;

mod elastic;
mod endings;
mod halts;
mod nested;
mod operator;
mod put_off;
mod replace;
mod standstill;
mod starts;

pub mod nesting;

pub mod backoff;
mod view;

pub use event::{
    Begun, CallKey, Caller, Effect, Event, Order, ReplaceCause, Retry, StopCause, Verdict,
};
pub use lanes::Held;
pub use policy::Pool;
pub use settings::Settings;
pub use standing::{Opening, PoolState};
pub use state::{EmptySlot, WorkerState, WorkerView};
