//! Environments from a declaration: what a pool wants installed becomes a virtual environment that
//! is built once, kept, and used by every pool that wants the same.
//!
//! ```text
//!   declaration ──read──► content ─┐
//!   (requirements, a project,      ├──► key ──► folder in the store ──► `venv` of the pool
//!    a script's own metadata)      │              │
//!   interpreter ──asked──► identity┘              └─ built under a lock, marked complete last
//! ```
//!
//! A virtual environment holds its own path in many of its files, so it is built where it will
//! stay, under a lock, and counts only once it is marked complete, which happens last and at once.
//! What a killed build leaves has no mark, is never used, and is removed by the next build.
//!
//! All of this blocks, for minutes where something is built, and belongs on another thread than the
//! data plane. Suggested reading order:
//!
//! - `keeper`: from a configuration to environments that are there and held.
//! - `declaration`: what is declared, read; `requirement`, `files`, `script`, `specifier`: its
//!   syntaxes.
//! - `base`: the interpreter an environment is built with.
//! - `key`: what makes two environments the same.
//! - `store`: folders and locks; `mark`: what is noted about an environment.
//! - `ensure`: having one there; `works`: what is under way in this process, and who waits for it;
//!   `progress`: how far it is.
//! - `builder`, `process`: uv or pip, run under a guardian; `words`: what they say; `secrets`: what
//!   of that nobody sees.
//! - `gc`: what is there, and what may go.
//! - `error`: what can be wrong.

mod base;
mod builder;
mod declaration;
mod ensure;
mod error;
mod files;
mod gc;
mod keeper;
mod key;
mod mark;
mod process;
mod progress;
pub(crate) mod requirement;
mod script;
mod secrets;
mod specifier;
mod store;
mod words;
mod works;

pub(crate) use base::base_of;
pub use error::EnvError;
pub use gc::{Found, Kept, Removal, collect, list};
pub use keeper::{AtHand, Failures, Keeper, Provided};
pub use progress::{Progress, Report, Stage};
pub use requirement::RequirementError;
pub use works::Wish;
