//! Programs that clients run with their own standard streams: `clutch run`.
//!
//! ```text
//!   clutch run ──── RunProgram, streams, signals ───► session ──► spawner ──► guardian ──► python
//!       │  ▲ ◄───── RunStarted, RunEnded ───────────────┘                                  │  ▲
//!       └──┴────────────── 0, 1 and 2: files, pipes, or a pseudo-terminal ─────────────────┴──┘
//! ```
//!
//! A program is a guardian's tree like a worker, and has nothing else of a worker: no slot, no
//! calls, no captured output. Its streams are the client's own descriptors, so no byte of them
//! passes through the daemon. With `--local` the same guardian is the client's own child.
//!
//! - [`recipe`]: from what a client asks for and a pool's rules to a process.
//! - [`guardian`]: starting the guardian.
//! - [`local`]: the same without a daemon.

pub mod guardian;
pub mod local;
pub mod recipe;
