//! Connections as the data plane uses them: a way out that never waits, a way in that never copies.
//!
//! Both ends of a connection live on one thread, so both are plain cells. A write is tried at once
//! by whoever has something to say; only what a full socket leaves over goes to the connection's
//! flusher task. A read takes what is there, cuts frames out of it, and hands them on by a plain
//! function call.
//!
//! - [`outbox`]: the way out; `crowd`: what waits in those of all clients; `lent`: what somebody has
//!   leave to send there.
//! - [`inbox`]: the way in.
//! - [`attached`]: descriptors that travel with a frame; `intake`: those whose frame is not there
//!   yet; [`holdings`]: how many are held, and may be; `closer`: the end of large ones.
//! - [`quota`]: how much may be kept for clients beyond their calls.
//! - [`hangup`]: knowing that the peer has gone for good.

#[cfg(test)]
mod tests;

pub mod outbox;

pub mod inbox;

mod crowd;

mod lent;

pub mod attached;

pub mod holdings;

mod closer;

pub mod intake;

pub mod quota;

pub mod hangup;

pub use attached::Attached;
pub use crowd::SharedBudget;
pub use holdings::{Holdings, Ledger};
pub use inbox::{Inbox, InboxError, Pumped};
pub use lent::{Lent, Share};
pub use outbox::{Outbox, OutboxError, send_at_once};
pub use quota::{Account, Full, Quotas};
