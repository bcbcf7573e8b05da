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
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use clutch_tests::builder::private_environment;
use clutch_tests::process::TOKEN_VARIABLE;
use clutch_tests::{Clutch, Output, Program, Python, Tmp};
use nix::sys::signal::Signal;

/// A command line in a directory of its own, where no daemon is.
struct Place {
    tmp: Tmp,
    token: String,
}

impl Place {
    fn new() -> Place {
        Place { tmp: Tmp::new(), token: clutch_tests::builder::unique_token() }
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
        self.command([verb, "--local", "--python"].map(OsStr::new)).args([python]).args(args)
    }

    /// No process that was started from here lives.
    #[track_caller]
    fn expect_no_process(&self) {
        let alive = clutch_tests::process::with_token(&self.token);
        assert!(alive.is_empty(), "{alive:?}");
    }
}

/// A command that runs beside the test; killed when the test ends without its end.
struct Running(Child);

impl Running {
    /// Waits for its end, and gives its exit code and what it left in its pipe.
    #[track_caller]
    fn end(mut self, deadline: Duration) -> (Option<i32>, String) {
        let status = clutch_tests::command::wait(&mut self.0, deadline).expect("it ends");
        let mut stderr = String::new();
        if let Some(mut pipe) = self.0.stderr.take() {
            pipe.read_to_string(&mut stderr).expect("it is text");
        }
        (status.code(), stderr)
    }

    fn interrupt(&self) {
        clutch_tests::signal(self.0.id(), Signal::SIGINT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended long ago.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a command, with its standard error kept.
#[track_caller]
fn start(program: Program) -> Running {
    Running(program.spawn(Stdio::null(), Stdio::null(), Stdio::piped()))
}

/// Runs a command line where no daemon is.
fn clutch<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Place::new().run(args)
}
