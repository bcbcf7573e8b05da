//! The meta structs of `clutch run`: a program that a client wants run with its own standard
//! streams. They are [`crate::message`]'s, and found there.
//!
//! ```text
//!   client ── RunProgram ──► daemon
//!          ◄── RunReady ────
//!          ── RunStreams, with up to three descriptors ──►     daemon ── SpawnProgram ──► guardian
//!          ◄── RunStarted ──                                          ◄── Spawned ───────
//!          ── RunSignal ──►                                           ── Forward ──────►
//!          ◄── RunEnded ────                                          ◄── Exited, Swept ─
//! ```
//!
//! The descriptors come in a frame of their own, once the daemon has said that it takes them: until
//! then, and on every other connection, descriptors are refused.

use crate::message::{Exit, Spawn};
use crate::wire::{Decode, Encode};

/// What a client wants run by a fresh interpreter under a pool's rules.
///
/// Arguments, environment and paths are bytes, since on Unix they need not be text.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct RunProgram {
    /// The pool whose rules hold.
    pub pool: String,
    /// What follows the interpreter on its command line, as it is.
    pub arguments: Vec<Vec<u8>>,
    /// The client's own environment, as `NAME=value`. The pool says what of it is inherited.
    pub environment: Vec<Vec<u8>>,
    /// What is set in the environment, whatever the pool says; as `NAME=value`.
    pub set: Vec<Vec<u8>>,
    /// The working directory, absolute.
    pub directory: Vec<u8>,
    /// Another interpreter than the pool's, absolute; empty for the pool's own.
    pub interpreter: Vec<u8>,
    /// The virtual environment of that interpreter, absolute; empty for none.
    pub venv: Vec<u8>,
    /// Its file mode creation mask, unless the pool has one.
    pub umask: u32,
    /// Its standard streams.
    pub streams: Streams,
}

/// The standard streams of a program.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Streams {
    /// Which of 0, 1 and 2 are open, in the order in which their descriptors travel. The others
    /// are closed.
    pub open: Vec<u8>,
    /// Which of them is the terminal that is to control the program.
    pub terminal: Option<u32>,
    /// The signals that are ignored, as a mask in which signal 1 is the lowest bit: who runs a
    /// program with `nohup` wants it to.
    pub ignored: u64,
}

/// A signal for a running program.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Forward {
    /// Its number.
    pub signal: u32,
    /// Who gets it.
    pub target: Target,
}

/// Who gets a signal.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Target {
    /// Python alone, as with `kill`.
    Process,
    /// Its process group, as when a key is pressed at a terminal.
    Group,
}

/// A program runs.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct RunStarted {
    /// Python's process id.
    pub pid: u32,
}

/// A program has ended, and nothing of it is left.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct RunEnded {
    /// How python ended.
    pub exit: Exit,
    /// How many of its descendants were still alive then, and were killed.
    pub killed: u32,
    /// How many of them would not die.
    pub survivors: u32,
}

/// Why a program is not run, or what became of it cannot be said.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct RunRefused {
    /// Which of the reasons.
    pub refusal: RunRefusal,
    /// What to do about it, in words.
    pub sentence: String,
}

/// The reasons why a program is not run.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum RunRefusal {
    /// There is no such pool.
    NoSuchPool,
    /// The pool runs no programs.
    NotAllowed,
    /// The pool runs as many as it may.
    TooMany,
    /// The daemon is stopping.
    ShuttingDown,
    /// It could not be started.
    CannotStart,
    /// It was started, and the process that watches over it is gone.
    Lost,
    /// The environment of its pool is still being built.
    NotYet,
}

/// What a guardian is to run for a client. As many descriptors travel with it as streams are open.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct SpawnProgram {
    /// The process. Its arguments have no placeholders.
    pub spawn: Spawn,
    /// Its standard streams.
    pub streams: Streams,
}
