//! Memory that is passed on instead of copied: what leaves a value when it is sent, and what came
//! beside one.
//!
//! ```text
//!   arguments ──serde──► plain ──large bytes──► Gather ──► one memfd ─┐
//!                          └──a Tensor hands itself over──► its own ──┴─► Body ══► daemon
//!   result ◄──serde── plain ◄──bytes, arrays── Received ◄── table, descriptors ◄══ daemon
//! ```
//!
//! - `memfd`: making, filling and sealing memory.
//! - `hand`: how a value and who gathers or gives its attachments meet.
//! - `gather`: what is attached to what is sent.
//! - `reuse`: memory for copies that was used before.
//! - `sys`: mappings, huge pages, leases.
//! - `room`: memory that is there before it is stored to.
//! - `received`: what came, checked before it is mapped.

mod gather;
pub(crate) mod hand;
pub(crate) mod memfd;
mod received;
pub(crate) mod reuse;
mod room;
pub(crate) mod sys;

pub(crate) use gather::{Body, Gather, Packed};
#[cfg(feature = "arrow")]
pub(crate) use received::Mapped;
pub(crate) use received::Received;
