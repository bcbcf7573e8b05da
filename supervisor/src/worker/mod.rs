//! One worker: a guardian, a python, and the sockets and pipes between them and the daemon.
//!
//! ```text
//!                      Order::Launch           fork, exec               fork, exec
//!   data-plane thread ───────────────► spawner ──────────► guardian ───────────────► python
//!          │  ▲   ▲                                          │   ▲                    │  ▲
//!          │  │   └── Spawned, Exited, Swept ─── report ─────┘   │ Spawn, Signal      │  │
//!          │  └────── Ready, Result, Failed ──── call socket ────┼────────────────────┘  │
//!          └───────── Setup, Run, Exit ───────── call socket ────┼───────────────────────┤
//!                     Interrupt ──────────────── control socket ─┼───────────────────────┘
//! ```
//!
//! - [`spawner`]: the one thread that starts and reaps guardians.
//! - `handover`: what a guardian is told first.
//! - `orphans`: children that it has not started.
//! - [`link`]: a running worker's sockets, pipes and tasks.
//! - [`output`]: what a worker prints, cut into lines and bounded.
//! - [`page`]: which call a worker has begun, readable after its death.
//! - [`stack`]: what Python's `faulthandler` tells.
//! - [`oom`]: whether the kernel killed a worker.
//! - [`share`]: the part of the machine that each worker of a pool gets.
//! - [`launch`]: what a pool's workers are started with.

pub mod spawner;

pub(crate) mod handover;
mod orphans;

pub mod link;

pub mod output;

pub mod page;

pub mod stack;

pub mod oom;

pub mod share;

pub mod launch;
