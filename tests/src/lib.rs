//! The harness of Clutch's black-box tests: the real binary, real pythons, real sockets.
//!
//! A test starts a daemon of its own in a private directory, does something to it, and ends with
//! the oracle, which looks at everything a fault could have damaged and reports all of it at once:
//!
//! ```no_run
//! use clutch_tests::{Daemon, SECOND, wait_for};
//!
//! #[test]
//! fn a_killed_worker_is_replaced() {
//!     let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
//!     let oracle = daemon.oracle();
//!
//!     let victim = daemon.worker_pids("default")[0];
//!     clutch_tests::kill(victim);
//!     wait_for("the victim is gone", 2 * SECOND, || {
//!         !daemon.worker_pids("default").contains(&victim)
//!     });
//!     let output = daemon.cli(["call", "math:sqrt", "2"]);
//!     assert_eq!((0, "1.4142135623730951\n"), (output.code, output.stdout.as_str()));
//!
//!     oracle.judge(daemon); // stops the daemon too, and looks at what is left of it
//! }
//! ```
//!
//! Suggested reading order:
//!
//! - [`daemon`]: a real `clutch serve`, what it says, what is below it, its end.
//! - [`builder`]: how it is started.
//! - [`config`]: its pools and their keys.
//! - `log`: what it prints.
//! - [`oracle`]: what must hold after every fault, V1 to V9.
//! - [`baseline`]: the oracle's single checks, tried on processes that misbehave on purpose.
//! - [`raw`]: a socket peer that may send anything.
//! - [`forge`]: the frames it sends.
//! - [`memory`]: what is attached to calls.
//! - [`bystander`]: calls made beside a fault, which must not notice it.
//! - [`wait`]: waiting for a condition, never for a time.
//! - [`mod@python`]: the interpreters of this machine.
//! - [`packages`]: packages to install, made on the spot.
//! - [`ground`]: a place where environments are built of them.
//! - [`science`]: an environment with numpy and its friends, from the package index.
//! - [`table`]: the tables of `docs/COMPATIBILITY.md`.
//! - [`process`]: what `/proc` says about a process.
//! - [`command`]: running a program to its end; the only place that starts one.
//! - [`binary`]: where the binary under test is.
//! - [`tmp`]: private directories.
//!
//! Rules for a test: it waits for conditions with a deadline; it says [`skip!`] with the reason
//! when the machine cannot run it; its misbehaving Python is a small named module in
//! `tests/workers/`, found with [`workers_dir`].

pub mod daemon;

pub mod builder;

pub mod config;

mod log;

pub mod memory;

pub mod oracle;

pub mod baseline;

pub mod raw;

pub mod forge;

pub mod bystander;

pub mod wait;

pub mod python;

pub mod packages;

pub mod ground;

pub mod science;

pub mod table;

pub mod process;

pub mod command;

pub mod binary;

pub mod tmp;

use std::path::PathBuf;
use std::time::Duration;

pub use binary::Clutch;
pub use builder::Builder;
pub use bystander::Bystander;
pub use command::{Output, Program};
pub use config::Pool;
pub use daemon::Daemon;
pub use oracle::Oracle;
pub use process::{kill, signal};
pub use python::{Python, python};
pub use raw::RawClient;
pub use tmp::Tmp;
pub use wait::{park, wait_for, wait_until};

/// One second; deadlines read as `5 * SECOND`.
pub const SECOND: Duration = Duration::from_secs(1);

/// One millisecond; deadlines read as `100 * MILLISECOND`.
pub const MILLISECOND: Duration = Duration::from_millis(1);

/// Where the misbehaving Python modules are: put it on a pool's `path`.
pub fn workers_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workers")
}

/// Ends the test with a visible `SKIPPED` line: `skip!("needs root to play another user")`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::say_skipped(module_path!(), &format!($($reason)*));
        return;
    }};
}

/// Prints the line of [`skip!`] past the test runner's capture, so that a skip is always seen.
pub fn say_skipped(test: &str, reason: &str) {
    use std::io::Write;

    let thread = std::thread::current();
    let name = thread.name().unwrap_or(test);
    // The runner captures `eprintln!`, but not what is written to the stream itself. A closed
    // standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "SKIPPED {name}: {reason}");
}
