//! A configuration that is read anew while the daemon works.
//!
//! ```text
//!   clutch reload, SIGHUP ──► Reloader ── read, check, prepare ──► another thread
//!   a changed file (watch) ──►   │  ◄───── Plan, or what is wrong ─────┘
//!                                ├─ 1. new pools start, changed workers are replaced, one by one
//!                                ├─    one does not come up: everything goes back to what it was
//!                                └─ 2. limits hold, removed pools go, the daemon's keys hold
//! ```
//!
//! A reload happens as a whole or not at all. One is carried out at a time, one more may wait.
//!
//! - [`plan`]: the file read, checked, and compared with what runs.
//! - [`reloader`]: the task that carries it out.
//! - `turnover`: workers that are replaced, and waiting for that.

pub mod plan;

pub mod reloader;

mod turnover;

pub use plan::Blueprint;
pub use reloader::{Asker, Order, Reloader};
