//! The dispatcher: it carries out what the pools decide, and tells them what happened.
//!
//! Everything here runs on the one data-plane thread. Sessions and links hold a [`Core`] and call
//! it as plain functions; a call crosses no channel between its client's socket and its worker's.
//! Nothing in here waits, and no borrow of the dispatcher outlives the function that took it.
//!
//! - [`call`]: a call on its way, from its frame to its last answer.
//! - [`dispatcher`]: the state, and how effects are carried out.
//! - [`core`]: the handle everybody has on it.
//! - [`workers`], `guardians`, `output`: what workers and guardians say, and what workers print.
//! - `refusal`: calls that no pool is asked about.
//! - `reload`: pools that change, come and go.
//! - [`certificate`]: what is known about a death.
//! - [`report`]: what `status` says.
//! - [`counters`]: what is counted.

pub mod call;

pub mod dispatcher;

pub mod core;

mod refusal;

pub mod workers;

mod guardians;

mod reload;

mod output;

pub mod certificate;

pub mod report;

pub mod counters;

pub use core::{Core, Quantity};

pub(crate) use reload::{Make, Turnover, Workers};

pub use dispatcher::{FirstStart, Parts, PoolParts};
