//! The program as a person meets it: words in, text and exit codes out.
//!
//! The real binary is run in directories of its own; `clutch-tests` brings the means. What faults
//! do to a daemon is tested there, what the command line makes of it is tested here, in one file
//! for each verb.

mod call;
mod completions;
mod config;
mod help;
mod map;
mod offline;
mod serve;
mod status;
mod stop;

use std::ffi::OsStr;

use clutch_tests::daemon::private_environment;
use clutch_tests::process::TOKEN_VARIABLE;
use clutch_tests::{Clutch, Output, Program, Python, Tmp};

/// A command line in a directory of its own, where no daemon is.
struct Place {
    tmp: Tmp,
    token: String,
}

impl Place {
    fn new() -> Place {
        Place {
            tmp: Tmp::new(),
            token: clutch_tests::daemon::unique_token(),
        }
    }

    fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Program {
        Clutch::private(Program::new(env!("CARGO_BIN_EXE_clutch")))
            .envs(private_environment(&self.tmp))
            .env(TOKEN_VARIABLE, &self.token)
            .dir(self.tmp.path())
            .args(args)
    }

    fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).run()
    }

    /// `call` or `map` with a private supervisor and an interpreter that is there.
    fn local(&self, verb: &str, args: &[&str]) -> Program {
        let python = Python::any().path.as_os_str();
        self.command([verb, "--local", "--python"].map(OsStr::new))
            .args([python])
            .args(args)
    }

    /// No process that was started from here lives.
    #[track_caller]
    fn expect_no_process(&self) {
        let alive = clutch_tests::process::with_token(&self.token);
        assert!(alive.is_empty(), "{alive:?}");
    }
}

/// Runs a command line where no daemon is.
fn clutch<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Place::new().run(args)
}
