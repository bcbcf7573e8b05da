//! A client's connection, from its hello to its end.
//!
//! ```text
//!   accept ─► Stranger ──Hello──► Welcome ──► Client ──EOF──► Leaving ──all answered──► closed
//!                │ silent, wrong                 │ breaks the protocol, too slow
//!                └──────────► Refused ◄──────────┘
//! ```
//!
//! - [`peer`]: a client as the dispatcher sees it.
//! - [`connection`]: the connection's task.
//! - [`hello`]: who may come in.
//! - `requests`: what a client's frames ask for; `operate`, what an operator's do.
//! - `readers`: those of its requests that take a while.
//! - `requests`: what a client's frames ask for.
//! - `program`: a connection whose client runs a program.
//! - `pace`: when a connection stops reading, and for how long; `held`: requests that wait for room.

pub mod peer;

pub mod connection;

pub mod hello;

mod readers;

mod requests;

mod operate;

mod held;

mod pace;

mod program;

pub use peer::Peer;
