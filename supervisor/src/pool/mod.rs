//! What a pool decides: who runs what, who is started, who is stopped, who is refused.
//!
//! This module is a state machine and nothing else: no clock, no I/O, no await. It is given the
//! time and an [`Event`], and says by [`Effect`]s what is to be done; the dispatcher does it. So
//! years of crashes, timeouts and full queues are tested in milliseconds, with seeds.
//!
//! ```text
//!            CallArrived, CallCancelled                         Assign, Interrupt, Retire
//!  session ────────────────────────────►┌────────┐─────────────────────────────────► worker link
//!            Ready, Answered, Doomed    │  Pool  │   Launch, Terminate, Kill
//!  worker  ────────────────────────────►│ handle │─────────────────────────────────► spawner,
//!            Died, Gone                 │        │                                    guardian
//!  guardian ───────────────────────────►│        │   Settle
//!            Tick                       │        │─────────────────────────────────► session
//!  timer   ────────────────────────────►└────────┘
//! ```
//!
//! Suggested reading order:
//!
//! - [`event`]: what can happen, and what can be done about it.
//! - [`state`]: the states of a worker and the one table of its transitions.
//! - [`policy`]: the pool itself; `endings`, how its workers leave it.
//! - `replace`: settings that change while it works.
//! - [`queue`]: the calls of a pool, waiting and running, and their deadlines.
//! - [`backoff`]: how long a slot waits before it is started again.

pub mod event;

pub mod state;

pub mod policy;

mod endings;

mod replace;

pub mod queue;

pub mod backoff;

pub use event::{CallKey, Caller, Effect, Event, Order, ReplaceCause, Retry, StopCause, Verdict};
pub use policy::{Pool, PoolState, Settings};
pub use state::{EmptySlot, WorkerState, WorkerView};
