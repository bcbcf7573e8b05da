//! Looking at processes from outside: what they are doing, and how much memory they hold.
//!
//! ```text
//!   data plane ── questions (bounded) ──► clutch-watch ── reads /proc
//!        ▲                                     │
//!        └──────────── observations ───────────┘
//! ```
//!
//! Reading `/proc` may take long on a busy machine, so one thread of its own does it. It sleeps
//! while nobody asks.
//!
//! - [`process`]: what `/proc` says of one process, and of a tree.
//! - [`watcher`]: the thread.
//! - [`activity`]: what a worker is doing, told from two looks and an answer.
//! - [`weight`]: how much memory it may hold.

pub mod process;

pub mod watcher;

pub mod activity;

pub mod weight;
