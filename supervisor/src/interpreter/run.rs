//! Running a program that may be anything, for a bounded time and with bounded output.
//!
//! What the output means is not known here.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::Asker;
use super::error::InterpreterError;

/// What a probe may print on each stream. The answer is one line; a path has at most 4 KiB.
const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// How often one stream is read before the others get their turn.
const READS_MAX: usize = 16;

/// How long a killed program may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// How often a probe looks whether it was cancelled.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// How long to wait before a busy file is tried again.
const BUSY_RETRY_MS: u8 = 5;

/// What a probed program left behind.
pub(super) struct Answer {
    /// The start of what it printed.
    pub(super) stdout: Vec<u8>,
    /// The start of what it complained.
    pub(super) stderr: Vec<u8>,
    /// How it ended.
    pub(super) status: ExitStatus,
}

/// Runs a program with nothing to read, and kills all that is left of it at the end.
///
/// # Errors
///
/// When it cannot be run, or has not ended by the timeout.
pub(super) fn run(
    path: &Path,
    args: &[&str],
    asker: &Asker<'_>,
) -> Result<Answer, InterpreterError> {
    let Asker { cwd, environment, timeout, cancelled, account, cache: _ } = *asker;
    #[expect(
        clippy::disallowed_methods,
        reason = "a probe has no worker's needs: no guardian, no sockets, and it is gone at once"
    )]
    let mut command = Command::new(path);
    command
        .args(args)
        .current_dir(cwd)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(account) = account {
        // This also leaves all supplementary groups, where this process is root.
        command.uid(account.user).gid(account.group);
    }
    let deadline = Instant::now() + timeout;
    let failed = |source| InterpreterError::Exec { path: path.to_owned(), source };
    let unwatched = |source| InterpreterError::Probe { path: path.to_owned(), source };
    let child = spawn(&mut command, deadline).map_err(failed)?;
    let mut group = Group::new(child).map_err(unwatched)?;
    let answer = group.watch(deadline, cancelled).map_err(unwatched)?;
    answer.ok_or_else(|| InterpreterError::Hung { path: path.to_owned(), timeout })
}

/// The programs that are being probed. Whoever holds this keeps others from being started.
pub(crate) fn probed() -> MutexGuard<'static, BTreeSet<u32>> {
    static PROBED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    PROBED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that was just written may still be open for writing in some child that has not reached
/// its own exec; the system then says that it is busy, for a moment.
fn spawn(command: &mut Command, deadline: Instant) -> io::Result<Child> {
    loop {
        let mut probed = probed();
        let spawned = command.spawn();
        probed.extend(spawned.iter().map(Child::id));
        drop(probed);
        match spawned {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < deadline =>
            {
                let moment = PollTimeout::from(BUSY_RETRY_MS);
                poll(&mut [], moment)?;
            }
            other => return other,
        }
    }
}

/// A child that leads its own process group; all of it is killed at the end, whatever the end is.
struct Group {
    child: Child,
    /// Readable once the child has ended, reaped or not.
    ended: OwnedFd,
    /// Its group's number is its own only until it is reaped.
    status: Option<ExitStatus>,
}

impl Group {
    fn new(mut child: Child) -> io::Result<Self> {
        let pid = rustix::process::Pid::from_child(&child);
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(ended) => Ok(Self { child, ended, status: None }),
            Err(errno) => {
                child.kill()?;
                child.wait()?;
                Err(errno.into())
            }
        }
    }

    /// Reads what it says until it ends; nothing if it has not by the deadline. Its own end counts,
    /// not that of its output, which something it has started may hold open.
    fn watch(&mut self, deadline: Instant, cancelled: &AtomicBool) -> io::Result<Option<Answer>> {
        let stdout = self.child.stdout.take().expect("it was piped");
        let stderr = self.child.stderr.take().expect("it was piped");
        let mut outputs = [Output::new(stdout.into())?, Output::new(stderr.into())?];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || cancelled.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let mut fds = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
            fds.extend(outputs.iter().filter(|output| output.open).map(Output::poll_fd));
            wait(&mut fds, left.min(CANCEL_LOOK))?;
            let ended = fds[0].any().unwrap_or(false);
            for output in &mut outputs {
                output.drain()?;
            }
            if ended {
                let status = self.end()?;
                let [stdout, stderr] = outputs.map(|output| output.bytes);
                return Ok(status.map(|status| Answer { stdout, stderr, status }));
            }
        }
    }

    /// Kills the whole group and reaps its leader. A leader that even SIGKILL does not end (one
    /// that waits for a dead disk) is left alone after a while.
    fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let pid = i32::try_from(self.child.id()).expect("a pid fits its own type");
            match killpg(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => return Err(errno.into()),
            }
            let mut fds = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
            wait(&mut fds, KILL_WAIT)?;
            if fds[0].any().unwrap_or(false) {
                self.status = Some(self.child.wait()?);
            }
        }
        Ok(self.status)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Nobody is left to be told; what could be killed is.
        let _: io::Result<_> = self.end();
        probed().remove(&self.child.id());
    }
}

/// One stream of a probed program, read without waiting.
struct Output {
    pipe: File,
    open: bool,
    bytes: Vec<u8>,
}

impl Output {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self { pipe: pipe.into(), open: true, bytes: Vec::new() })
    }

    fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)
    }

    /// Reads what is there, a bounded amount at a time; what is too much is thrown away, so that a
    /// program which talks without end runs into its timeout and not into memory.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = [0; OUTPUT_BYTES_MAX];
        for _ in 0..READS_MAX {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.open = false;
                    break;
                }
                Ok(count) => {
                    let room = OUTPUT_BYTES_MAX - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..count.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until one is ready or the time is over; a signal may cut it short.
fn wait(fds: &mut [PollFd<'_>], time: Duration) -> io::Result<()> {
    // Rounded up, or the last millisecond would be a busy loop.
    let timeout = PollTimeout::try_from(time + Duration::from_millis(1));
    match poll(fds, timeout.unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
