//! The dispatcher: it carries out what the pools decide, and tells them what happened.
//!
//! Everything here runs on the one data-plane thread. Sessions and links hold a [`Core`] and call
//! it as plain functions; a call crosses no channel between its client's socket and its worker's.
//! Nothing in here waits, and no borrow of the dispatcher outlives the function that took it.
//!
//! - [`call`]: a call on its way, from its frame to its last answer.
//! - `attempts`: how often it was tried; `handles`: values that are kept for many calls.
//! - `unwanted`: calls that are given up, and by whom; `verdicts`: those that their pool gives up.
//! - `streams`, `stream_flow`: items on their ways, one by one; `stream_books`, `stream_gate`: how
//!   many may be; `progress`: how far calls have come.
//! - `given`: what workers were given and have not answered; `metas`: the metas of those frames.
//! - [`dispatcher`]: the state, and how effects are carried out.
//! - [`core`]: the handle everybody has on it.
//! - [`workers`], `guardians`, `output`: what workers and guardians say, and what workers print.
//! - `stacks`: what workers are doing in Python, for late calls and for operators.
//! - `logs`: what of that is kept, and who reads it.
//! - `watch`, `halts`, `groups`: what workers are doing, which of them are stopped, and how much
//!   memory they hold and may hold.
//! - `runs`: programs that clients run.
//! - `refusal`: calls that no pool is asked about; `nested`: calls that come from workers.
//! - `phases`: where a call's time went.
//! - `reload`: pools that change, come and go.
//! - `launches`: workers on their way into the world.
//! - `search`: pools whose interpreter has to be looked for before each start.
//! - `imports`: what the imports of slow starts took.
//! - [`certificate`]: what is known about a death.
//! - [`history`]: what happened lately; `witness`, `explain`: what goes into it, and comes of it.
//! - [`operate`]: what operators ask for; [`report`]: what `status` says.
//! - [`counters`]: what is counted.

pub mod call;
pub mod certificate;
pub mod core;
pub mod counters;
pub mod dispatcher;
pub mod history;
pub mod operate;
pub mod report;
pub mod workers;

mod attempts;
mod explain;
mod explain_steps;
mod given;
mod groups;
mod guardians;
mod halts;
mod handles;
mod imports;
mod launches;
mod logs;
mod metas;
mod nested;
mod output;
mod phases;
mod progress;
mod reaps;
mod refusal;
mod reload;
mod runs;
mod search;
mod stacks;
mod stream_books;
mod stream_flow;
mod stream_gate;
mod streams;
mod unwanted;
mod verdicts;
mod watch;
mod witness;

pub use core::Core;
pub use dispatcher::{FirstStart, Parts, PoolParts};
pub use handles::{Handles, PutFault};

pub(crate) use guardians::describe_program_failure;
pub(crate) use nested::Home;
pub(crate) use reload::{Make, Turnover, Workers};
pub(crate) use runs::{Ticket, Verdict};
