//! The Clutch daemon as a library: pools of real Python processes, supervised, with calls balanced
//! over them.
//!
//! ```text
//!   client ──► session ──► dispatcher ──► worker link ──► python
//!                              │  ▲
//!                              ▼  │ events, effects
//!                             pool (pure policy)
//! ```
//!
//! Everything on the way of a call runs on one thread, and nothing on it waits for anything but the
//! sockets. Suggested reading order:
//!
//! - [`config`]: what an operator may say, checked.
//! - [`limits`]: what nobody may exceed.
//! - [`pool`]: the policy: pure, without clock or I/O.
//! - [`dispatch`]: carries the policy's effects out, and tells it what happened.
//! - [`worker`]: a guardian, a python, and the sockets to them.
//! - [`logs`]: what workers print, kept.
//! - [`watch`]: what `/proc` says of workers, read on a thread of its own.
//! - [`cgroup`]: groups of the kernel's, where this daemon may make them.
//! - [`session`]: a client's connection.
//! - [`run`]: programs that clients run with their own standard streams.
//! - [`net`], [`sys`]: sockets as the data plane uses them.
//! - [`interpreter`], [`environment`], [`package`], [`prepare`]: what a worker is started with;
//!   [`open_files`]: how many there may be.
//! - [`plan`](mod@plan): what each worker will get, before anything starts.
//! - [`envs`]: environments that are built for pools.
//! - [`doctor`]: what can be found out about pools and the machine, told as findings.
//! - [`engine`]: the data plane on its thread.
//! - [`door`]: where clients come in.
//! - [`reload`]: a configuration that is read anew.
//! - [`source_watch`]: files whose change replaces workers.
//! - [`service`]: the service manager.
//! - [`socket`], [`serve`](mod@serve), [`local`]: the daemon, and the private supervisor.

pub mod config;

pub mod limits;

pub mod pool;

pub mod dispatch;

pub mod worker;

pub mod logs;
pub mod watch;

pub mod cgroup;
pub mod run;

pub mod session;

pub mod net;

pub mod sys;

pub mod interpreter;

pub mod environment;

pub mod package;

pub mod prepare;

pub mod doctor;
pub mod envs;
pub mod ingredients;
pub mod open_files;
pub mod plan;
pub mod trial;

pub mod engine;

pub mod door;

pub mod reload;

pub mod source_watch;

pub mod service;

pub mod socket;

pub mod serve;

pub mod local;

pub use local::{Abort, Local, Starting};
pub use prepare::{ServeError, ServeExit};
pub use serve::{ServeOptions, ServeReady, serve};
pub use service::{Activated, ActivationError};
pub use trial::{Finding, findings};
pub use worker::spawner::{Guardian, Orphans};
