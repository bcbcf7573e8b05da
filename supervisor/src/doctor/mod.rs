//! What can be looked at of a machine and a configuration without a worker of the pool in question,
//! and how a pool has to be changed so that its workers can be asked for the rest.
//!
//! - [`finding`]: what a check says.
//! - [`machine`]: socket, state directory, open files, cgroup, clock.
//! - [`pool`]: interpreter, variables, rights; the pool as its checks need it.
//! - `elf`: what machine a program was made for.
//!
//! Who asks the workers, and judges how those calls ended, is the command line's business.

mod elf;
pub mod finding;
pub mod machine;
pub mod pool;

pub use finding::{Finding, Status};
