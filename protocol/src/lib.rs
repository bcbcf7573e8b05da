//! What may be said between a client, the daemon, a worker and its guardian.
//!
//! This crate is pure: no sockets, no files, no clock, no async. It turns bytes into meaning and
//! back, and says no to bytes that have none. `docs/PROTOCOL.md` is the same contract in prose.
//!
//! ```text
//!   client ── Hello, Call, Cancel, Operate ──► daemon ── Setup, Run, Interrupt ──► worker
//!   client ◄── Welcome, Result, Error, Operated ── daemon ◄── Ready, Result, Failed ── worker
//!                                       daemon ── Spawn, Signal ──► guardian (shim)
//!                                       daemon ◄── Spawned, Exited, Swept ── guardian
//! ```
//!
//! Suggested reading order:
//!
//! - [`limits`]: every bound on the wire, with its reason.
//! - [`frame`]: the fixed header and the decoder; bytes only, no meaning.
//! - [`wire`]: how a meta struct becomes bytes; the only file that names the serializer.
//! - [`kind`]: the kinds of frames, the codecs of payloads, the flags.
//! - [`message`]: the meta struct of each kind of frame; [`guardian`], those of guardians;
//!   [`program`], those of `clutch run`.
//! - [`failure`]: every way a call can fail, as one enum; `text` says it in sentences.
//! - [`name`]: the grammar of function and pool names.
//! - [`retry`]: what may be asked for when an attempt fails.
//! - [`path`]: where in a value something is.
//! - [`value`], [`plain`], [`json`]: what a payload may hold, and its two data codecs.
//! - [`attachment`], [`dtype`]: what travels beside a payload, and the element types of arrays.
//! - [`stream`]: what comes one by one.
//! - [`logs`]: a line that `clutch logs --json` prints.
//! - [`status`]: what `clutch status --json` prints.
//! - [`reload`]: what a reload answers.
//! - [`operate`]: what an operator may ask for, and what is answered.

pub mod limits;

pub mod kind;

pub mod frame;

pub mod wire;

pub mod message;

pub mod guardian;

pub mod program;

pub mod failure;

mod text;

pub mod name;

pub mod retry;

pub mod path;

pub mod value;

pub mod plain;

pub mod json;

pub mod logs;

pub mod attachment;

pub mod dtype;

pub mod stream;

pub mod status;

pub mod reload;

pub mod operate;

pub use failure::{Failure, Reason};
pub use frame::{Codec, Flags, Frame, FrameError, Header, Kind};
pub use text::Deaths;
pub use value::Value;
