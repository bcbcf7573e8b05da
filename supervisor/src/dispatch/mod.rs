//! The dispatcher: it carries out what the pools decide, and tells them what happened.
//!
//! Everything here runs on the one data-plane thread. Sessions and links hold a [`Core`] and call
//! it as plain functions; a call crosses no channel between its client's socket and its worker's.
//! Nothing in here waits, and no borrow of the dispatcher outlives the function that took it.
//!
//! - [`call`]: a call on its way, from its frame to its last answer.
//! - `attempts`: how often a call was tried, and whether it is tried again.
//! - `metas`: the metas of frames on that way.
//! - [`dispatcher`]: the state, and how effects are carried out.
//! - [`core`]: the handle everybody has on it.
//! - [`workers`], `guardians`, `output`, `stacks`: what workers and guardians say, what
//!   workers print, and what they were doing.
//! - `logs`: what of that is kept, and who reads it.
//! - `watch`: what workers are doing and how much they hold.
//! - `refusal`: calls that no pool is asked about.
//! - `reload`: pools that change, come and go.
//! - `launches`: workers on their way into the world.
//! - `search`: pools whose interpreter has to be looked for before each start.
//! - `imports`: what the imports of slow starts took.
//! - [`certificate`]: what is known about a death.
//! - [`history`]: what happened lately; `witness`: what goes into it; `explain`: what is read off
//!   it.
//! - [`operate`], [`stack`]: what operators ask for.
//! - [`report`]: what `status` says.
//! - [`counters`]: what is counted.

pub mod call;

mod attempts;

mod metas;

pub mod dispatcher;

pub mod core;

mod refusal;

pub mod workers;

mod guardians;

mod reaps;

mod reload;

mod imports;
mod launches;
mod search;

mod output;

mod logs;
mod stacks;

mod watch;

pub mod certificate;

pub mod history;

mod witness;

mod explain;

pub mod operate;

pub mod stack;

pub mod report;

pub mod counters;

pub use core::Core;

pub(crate) use reload::{Make, Turnover, Workers};

pub use dispatcher::{FirstStart, Parts, PoolParts};
