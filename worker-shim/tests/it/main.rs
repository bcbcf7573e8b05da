//! The guardian against real processes: each test plays the daemon.
//!
//! - `harness`: starting a guardian, talking to it, and checking that nothing is left of it.
//! - `start`: what python finds when it starts, and every way it can fail to.
//! - `stop`: orders, and the daemon's death.
//! - `sweep`: what becomes of processes that python started.
//! - `mercy`: who of them may finish first.
//! - `halt`: a python that a signal has stopped.
//! - `group`: a python in a cgroup of its own.
//! - `quiet`: what a guardian costs while nothing happens.

mod group;
mod halt;
mod harness;
mod mercy;
mod quiet;
mod start;
mod stop;
mod sweep;
