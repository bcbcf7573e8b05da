//! Groups of version 2 of the kernel's (cgroups), where this daemon may make them: one for each
//! worker. The kernel then keeps a worker's bound of memory itself, says of whom it ran out, and
//! ends a whole tree at once.
//!
//! ```text
//!   own group, delegated            or a directory that `daemon.cgroup` names
//!     ├── clutch-daemon             this process and the guardians; not where a directory is named
//!     └── clutch-PID-START          this daemon's workers
//!           └── POOL.SLOT-GENERATION.NUMBER       one worker: python and what it starts
//! ```
//!
//! A group that holds processes cannot pass memory on to groups below it; so the daemon moves down
//! first. Where any of this cannot be had, that is said once, and memory is looked at instead: no
//! start fails for want of a group.
//!
//! - [`find`]: where this process's own group is.
//! - [`groups`]: the daemon's part of the tree, from its start to its end.
//! - [`group`]: one worker's.
//! - `kernel`: the few things that are done to the tree, so that tests can do them elsewhere.

pub mod find;

pub mod groups;

pub mod group;

mod kernel;

pub use group::{Group, Ooms};
pub use groups::{Groups, Unavailable, open};
