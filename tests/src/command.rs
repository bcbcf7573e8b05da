//! Running a program to its end, with a bound. The only place of this crate that starts processes.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use crate::SECOND;
use crate::wait::try_until;

/// What a program left behind when it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its exit code; 128 plus the number of the signal that ended it, as a shell says it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Output {
    /// Panics with everything the program said unless it ended with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Output {
        assert_eq!(code, self.code, "exit code\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Panics unless standard error holds `text`.
    #[track_caller]
    pub fn expect_stderr(self, text: &str) -> Output {
        assert!(self.stderr.contains(text), "no {text:?} in stderr: {}", self.stderr);
        self
    }
}

/// A program to be run: arguments, environment, standard input and a bound on its run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

impl Program {
    /// A program by its path, or by its name on `PATH`; at most a minute long.
    pub fn new(program: impl AsRef<OsStr>) -> Program {
        #[expect(clippy::disallowed_methods, reason = "this is where the tests start processes")]
        let command = Command::new(program);
        Program { command, stdin: None, timeout: 60 * SECOND }
    }

    /// A program that finds every signal as in a person's shell, though this process was started
    /// with some of them ignored, as by `nohup` or in a script's background.
    pub fn with_default_signals(program: impl AsRef<OsStr>) -> Program {
        Program::new("env").args([OsStr::new("--default-signal"), program.as_ref()])
    }

    /// More arguments.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Program
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command.args(args);
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.command.env(name, value);
        self
    }

    /// Many environment variables.
    #[must_use]
    pub fn envs(mut self, all: impl IntoIterator<Item = (OsString, OsString)>) -> Program {
        self.command.envs(all);
        self
    }

    /// Takes a variable out of the environment.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Program {
        self.command.env_remove(name);
        self
    }

    /// The working directory.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Program {
        self.command.current_dir(dir);
        self
    }

    /// The user and group to run as; only root may ask for it.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Program {
        self.command.uid(uid).gid(gid);
        self
    }

    /// What is written to its standard input; without it that is `/dev/null`.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Program {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may run before the test fails.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Program {
        self.timeout = timeout;
        self
    }

    /// Starts it and leaves it to the caller, with its three streams as pipes or `/dev/null`.
    #[track_caller]
    pub fn spawn(mut self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Child {
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot start {:?}: {error}", self.command.get_program()),
        }
    }

    /// Runs it to its end; kills it and panics when that takes longer than the timeout.
    #[track_caller]
    pub fn run(mut self) -> Output {
        let begun = Instant::now();
        let shown = format!("{:?}", self.command);
        let timeout = self.timeout;
        let input = self.stdin.take();
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = self.spawn(stdin, Stdio::piped(), Stdio::piped());
        let stdout = collect(child.stdout.take().expect("it is a pipe"));
        let stderr = collect(child.stderr.take().expect("it is a pipe"));
        if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
            // On a thread, since a program may print more than a pipe holds before it reads. One
            // that ends without reading its input is no error here.
            std::thread::spawn(move || {
                let _ = pipe.write_all(&bytes);
            });
        }
        let status = wait(&mut child, timeout);
        let took = begun.elapsed();
        if status.is_none() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be waited for");
        }
        // What it started may hold the pipes open after its end: what came so far has to do.
        let stdout = stdout.recv_timeout(5 * SECOND).unwrap_or_default();
        let stderr = stderr.recv_timeout(5 * SECOND).unwrap_or_default();
        let Some(status) = status else {
            panic!("{shown} ran longer than {timeout:?}\nstdout: {stdout}\nstderr: {stderr}");
        };
        Output { code: shell_code(status), stdout, stderr, took }
    }
}

/// Waits for a child's end, at most `timeout`.
pub fn wait(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    try_until(timeout, || child.try_wait().expect("our own child can be waited for").ok_or(())).ok()
}

/// The exit code; 128 plus the signal's number where a signal ended it.
pub fn shell_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .expect("a process ends with a code or by a signal")
}

/// Reads a pipe to its end on a thread of its own.
fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_both_streams_are_kept() {
        let output = Program::new("sh").args(["-c", "cat; echo err >&2; exit 3"]).stdin("in").run();
        assert_eq!((3, "in", "err\n"), (output.code, &*output.stdout, &*output.stderr));
    }

    #[test]
    fn a_signal_is_told_as_a_shell_tells_it() {
        assert_eq!(137, Program::new("sh").args(["-c", "kill -9 $$"]).run().code);
    }

    #[test]
    #[should_panic(expected = "ran longer than 50ms")]
    fn what_runs_too_long_is_killed() {
        Program::new("sleep").args(["100"]).timeout(Duration::from_millis(50)).run();
    }
}
