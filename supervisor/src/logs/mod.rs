//! What workers print and log, kept: in memory for `clutch logs`, and in files.
//!
//! ```text
//!   pipes, control socket ──► dispatcher ──► Ring (one for each pool, in memory)
//!                                  │             ▲ Reader: a place in each ring ──► client
//!                                  └─ bounded channel ──► one thread ──► FILE, FILE.1, ...
//! ```
//!
//! A line is kept as the bytes that came; making it fit for a screen is left to whoever reads it,
//! so that keeping costs next to nothing. A follower has no buffer: the ring is everybody's.
//! Whoever is too slow for it is told how many lines it has missed.
//!
//! - [`entry`]: one line, and how it is shown.
//! - [`ring`]: the newest lines of a pool.
//! - [`reader`]: a client's place in the rings.
//! - [`files`]: the thread that writes files; [`rotate`]: one file with its predecessors.
//! - [`own`]: what the daemon's own log has lost.

pub mod entry;

pub mod ring;

pub mod reader;

pub mod files;

pub mod rotate;

pub mod own;

pub use entry::{Entry, Source};
pub use files::{Files, Sink};
pub use reader::Reader;
pub use ring::Ring;
