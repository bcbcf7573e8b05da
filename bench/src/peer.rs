//! A contender in a process of its own: it is asked by lines, and answers by lines.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use crate::Outcome;
use crate::daemon::program;

/// A script of `bench/peers`, ended on drop.
pub(crate) struct Peer {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Starts a script of `bench/peers` with this interpreter; it says when it is ready.
    pub(crate) fn start<A: AsRef<OsStr>>(python: &Path, script: &str, args: &[A]) -> Outcome<Peer> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script);
        let mut child = program(python)
            .arg(path)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("it has a pipe")?;
        let lines = BufReader::new(stdout).lines();
        let mut peer = Peer { name: script.to_owned(), child, lines };
        let line = peer.line()?;
        match line.split_whitespace().next() {
            Some("ready") => Ok(peer),
            _ => Err(format!("{script} said {line:?} instead of being ready").into()),
        }
    }

    /// Gives it a line, and gives the line that it answers with.
    pub(crate) fn ask(&mut self, line: &str) -> Outcome<String> {
        writeln!(self.child.stdin.as_mut().ok_or("it has a pipe")?, "{line}")?;
        self.line()
    }

    /// Has it do a task; gives the time that this took, in its unit.
    pub(crate) fn time(&mut self, task: &str) -> Outcome<f64> {
        Ok(self.ask(task)?.parse()?)
    }

    fn line(&mut self) -> Outcome<String> {
        Ok(self.lines.next().ok_or_else(|| format!("{} ended", self.name))??)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Its own workers end with it only if it may end by itself.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
