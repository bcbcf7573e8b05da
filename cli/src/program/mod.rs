//! A program of `clutch run`, as the client sees it.
//!
//! - [`stdio`]: the standard streams of this process, and what else a program has of it.
//! - [`way`]: to the program's guardian, through the daemon or directly.
//! - [`build`]: waiting for an environment that the daemon is still building.
//! - [`terminal`]: the pseudo-terminal of a program that has one.
//! - [`relay`]: what passes between the person and the program until its end.

mod build;
mod relay;
mod stdio;
mod terminal;
mod way;

pub(crate) use relay::Relay;
pub(crate) use stdio::{Own, Stdio};
pub(crate) use way::Way;
