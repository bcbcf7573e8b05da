//! The guardian: the small process between the daemon and one python.
//!
//! It gives one promise: *no process of a worker outlives it*. It is the subreaper of its tree, so
//! whatever user code starts stays its descendant even after a double fork and `setsid`. When
//! python ends, when the daemon says so, or when the daemon is gone, it kills and reaps every
//! descendant until none is left, reports, and ends. It has one thread, no timer while nothing is
//! to be done, and no part in any call: calls go past it on sockets it only hands over.
//!
//! ```text
//!              Spawn + 4 fds, Signal   
//!   daemon ───────────── fd 0 ───────────────► guardian ── fork, exec ──► python ──► its children
//!          ◄── Spawned, Halted, Exited, Swept      ▲                                     │
//!     │                                            └──────── orphans, whatever ──────────┘
//!     └──────── calls, on the two sockets, never through the guardian ───► python
//! ```
//!
//! How a guardian is started: file descriptor 0 is one end of a socket pair *made by its parent*,
//! 1 and 2 are the pipes that take python's output. The first frame it is sent is a `Spawn`.
//!
//! What the daemon may rely on:
//!
//! - `Spawned`, `Exited`, `Swept` come in this order, and `Halted` between the first two whenever a
//!   signal stops python or it goes on. `SpawnFailed` comes alone and last.
//! - `Swept` without `Exited` means that python itself would not die.
//! - The guardian ends after its last frame. If it ended without one, it was itself killed, and
//!   python with it.
//!
//! Suggested reading order:
//!
//! - `guardian`: the loop, and what it does about each event.
//! - `setup`: how the process becomes a guardian.
//! - `report`: frames and descriptors over the report socket.
//! - `launch`: from a `Spawn` to a running python.
//! - `limits`: what the pool asks for python's process.
//! - `tree`: who the descendants are, and how they are killed.
//! - `mercy`: who of them may finish first.
//! - `sys`: every system call that needs `unsafe`; `child_sys`: those from the fork to
//!   the exec; `own_sys`: those of the client of a program.

mod child_sys;
mod guardian;
mod launch;
mod limits;
mod mercy;
mod own_sys;
mod report;
mod setup;
mod sweep;
mod sys;
mod tree;

use std::process::ExitCode;

pub use own_sys::{Stopped, closed_at_start, die_by, stop_as_by_a_key};

/// Runs a guardian until its tree is gone.
///
/// To be called first thing in a process, by its only thread, before anything opened a file: it
/// closes every descriptor above 2 and resets all signal handling.
pub fn main() -> ExitCode {
    match setup::become_guardian() {
        Ok((report, watch)) => guardian::run(report, watch),
        Err(fault) => {
            setup::complain(&fault);
            ExitCode::from(2)
        }
    }
}
