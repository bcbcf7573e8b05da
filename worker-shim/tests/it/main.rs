//! The guardian against real processes: each test plays the daemon.
//!
//! - `harness`: starting a guardian, talking to it, and checking that nothing is left of it.
//! - `start`: what python finds when it starts, and every way it can fail to.
//! - `stop`: orders, and the daemon's death.
//! - `sweep`: what becomes of processes that python started.
//! - `quiet`: what a guardian costs while nothing happens.

mod harness;
mod quiet;
mod start;
mod stop;
mod sweep;
