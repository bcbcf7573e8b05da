//! From a TOML file to a configuration that is right, or to errors a person can act on.
//!
//! ```text
//!   file ──read──► text ──toml──► raw keys ──check──► Config
//!    │              │                │           │
//!    └─ FileError   └─ syntax,       └─ types    └─ names, ranges, paths, contradictions
//!                      unknown keys
//! ```
//!
//! Suggested reading order:
//!
//! - `model`: the checked types that the rest of the daemon reads.
//! - `raw`: the keys as they are written, and the JSON schema made from them.
//! - `load`: reading a file, and the order of the checks.
//! - `shape`: unknown keys and wrong types, found by walking along the schema.
//! - `check`, `checker`: from raw keys to the checked types; `bounds`: the ranges.
//! - `scale`, `restart`, `replace`, `nested`: one table each, from raw keys to its checked type.
//! - `units`, `allow`, `flags`: `"30s"` and `"2GiB"`; callable functions; interpreter options.
//! - `watch`: files whose change replaces workers; `warm_up`: what they call before they are ready.
//! - `output`, `log`: what is kept of workers' output; the daemon's own log.
//! - `cgroup`: the key of the daemon by this name.
//! - `process`, `compute`, `memory`, `liveness`, `run`: the tables of a pool by these names.
//! - `concurrency`: how many calls a worker runs at once.
//! - `declared`: what a pool wants installed, and how that is built.
//! - `local`: the configuration of `--local`.
//! - `error`, `reason`: what can be wrong, where, and what to write instead.

mod allow;
mod bounds;
mod cgroup;
mod check;
mod checker;
mod compute;
mod concurrency;
mod declared;
mod error;
mod flags;
mod handles;
mod liveness;
mod load;
mod local;
mod log;
mod memory;
mod model;
mod nested;
mod output;
mod process;
mod raw;
mod reason;
mod replace;
mod restart;
mod run;
mod scale;
mod shape;
mod units;
mod warm_up;
mod watch;

pub use allow::{Allow, AllowError};
pub use bounds::WORKERS_MAX;
pub use cgroup::Cgroup;
pub use compute::{Compute, Threads};
pub use concurrency::{Concurrency, ConcurrencyError};
pub use declared::{Build, Declared, DeclaredError, Tool};
pub use error::{ConfigError, FileReason, Key, Problem};
pub use handles::Handles;
pub use liveness::{Liveness, Stopped};
pub use load::{default_text, load, parse};
pub use log::{Log, LogFormat, log_filter};
pub use memory::Memory;
pub use model::{Config, Daemon, Env, Inherit, Limits, LocalOptions, Main, Pool, Python};
pub use output::Output;
pub use process::{Account, Process};
pub use raw::schema;
pub use reason::{Found, Reason};
pub use run::Run;
pub use units::{DurationError, SizeError, duration, size};
pub(crate) use units::{show_duration, show_size};
pub use warm_up::{WarmUp, WarmUpError};
pub use watch::Watch;
