//! A builder's process: run under a guardian, so that nothing of it outlives its end, its time, or
//! the death of whoever ordered it; its output line by line.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clutch_protocol::frame::{Decoder, Step};
use clutch_protocol::message::{Exit, Exited, ProcessLimits, Spawn, SpawnFailed};
use clutch_protocol::{Kind, wire};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::BuilderEnd;
use super::works::Cancel;
use crate::interpreter;
use crate::limits::KILL_TIMEOUT;
use crate::worker::handover::hand_over;
use crate::worker::spawner::Guardian;

/// The longest line that is kept as one.
const LINE_BYTES_MAX: usize = 2 << 10;

/// How much is read from one pipe before the other gets its turn.
const CHUNK_BYTES: usize = 8 << 10;

/// How often one looks whether it was cancelled.
const CANCEL_LOOK: Duration = Duration::from_millis(50);

/// A program to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) program: &'a Path,
    pub(super) args: &'a [OsString],
    pub(super) directory: &'a Path,
    pub(super) environment: &'a [(OsString, OsString)],
    /// The soft limit of open files it gets.
    pub(super) open_files: u64,
    /// When it is killed.
    pub(super) deadline: Instant,
}

/// How a job ended.
#[derive(Debug)]
pub(super) enum End {
    Ended(BuilderEnd),
    TimedOut,
    Cancelled,
}

/// Runs a job to its end; nothing of it is left then. Each line it prints is handed to `line`.
///
/// # Errors
///
/// When it cannot be started.
pub(super) fn run(
    guardian: &Guardian,
    job: &Job<'_>,
    cancel: Cancel<'_>,
    line: &mut dyn FnMut(&str),
) -> io::Result<End> {
    let (mut guarded, outputs) = Guarded::start(guardian, job)?;
    let mut outputs = outputs.map(Lines::new);
    let mut given_up = None;
    // Set when it is killed: nothing may take longer than this from then on.
    let mut last = None;
    while guarded.listens {
        let now = Instant::now();
        if given_up.is_none() {
            given_up = match () {
                () if cancel.is_set() => Some(End::Cancelled),
                () if now >= job.deadline => Some(End::TimedOut),
                () => None,
            };
            if given_up.is_some() {
                guarded.kill();
                last = Some(now + KILL_TIMEOUT);
            }
        }
        if last.is_some_and(|last| now >= last) {
            break;
        }
        let until = last.unwrap_or(job.deadline).saturating_duration_since(now);
        wait(&guarded.report, &outputs, until.min(CANCEL_LOOK))?;
        for output in &mut outputs {
            output.read(line)?;
        }
        guarded.read()?;
    }
    for output in &mut outputs {
        output.finish(line)?;
    }
    if let Some(given_up) = given_up {
        return Ok(given_up);
    }
    match (guarded.failed, guarded.exited) {
        (Some(failed), _) => Err(io::Error::from_raw_os_error(failed.errno)),
        (None, Some(exit)) => Ok(End::Ended(BuilderEnd::Exited(exit))),
        (None, None) => Ok(End::Ended(BuilderEnd::Lost)),
    }
}

/// A guardian with its job. Dropping it ends both.
struct Guarded {
    child: Child,
    report: UnixStream,
    decoder: Decoder,
    incoming: BytesMut,
    /// Whether more reports may come.
    listens: bool,
    exited: Option<Exit>,
    failed: Option<SpawnFailed>,
}

impl Guarded {
    fn start(guardian: &Guardian, job: &Job<'_>) -> io::Result<(Guarded, [PipeReader; 2])> {
        let (report, its_report) = UnixStream::pair()?;
        let (stdout, its_stdout) = io::pipe()?;
        let (stderr, its_stderr) = io::pipe()?;
        // Where a worker has its sockets, a builder has nothing.
        let null = File::open("/dev/null")?;
        #[expect(
            clippy::disallowed_methods,
            reason = "a builder needs a guardian, but no worker's \
                                                       sockets; it ends before this module is left"
        )]
        let mut command = Command::new(&guardian.program);
        command
            .args(&guardian.args)
            .stdin(Stdio::from(OwnedFd::from(its_report)))
            .stdout(its_stdout)
            .stderr(its_stderr);
        let child = {
            // Known before it exists to whoever reaps strays.
            let mut known = interpreter::probed();
            let child = command.spawn()?;
            known.insert(child.id());
            child
        };
        // The command holds the guardian's ends of the pipes.
        drop(command);
        let mut guarded = Guarded {
            child,
            report,
            decoder: Decoder::with_payload_max(0),
            incoming: BytesMut::new(),
            listens: true,
            exited: None,
            failed: None,
        };
        let meta = wire::encode(&spawn(job)).map_err(io::Error::other)?;
        hand_over(&guarded.report, Kind::Spawn, &meta, &[null.as_fd(); 4])?;
        guarded.report.set_nonblocking(true)?;
        guarded.incoming.reserve(CHUNK_BYTES);
        Ok((guarded, [stdout, stderr]))
    }

    /// Has the guardian kill everything: it takes the end of its socket for its daemon's death.
    fn kill(&self) {
        // One that is closed already has the same effect.
        let _ = self.report.shutdown(Shutdown::Write);
    }

    /// Takes what reports have come.
    fn read(&mut self) -> io::Result<()> {
        loop {
            match self.decoder.step(&mut self.incoming).map_err(io::Error::other)? {
                Step::Frame(frame) => match frame.header.kind {
                    Kind::Exited => {
                        let exited: Exited = wire::decode(&frame.meta).map_err(io::Error::other)?;
                        self.exited = Some(exited.exit);
                    }
                    Kind::SpawnFailed => {
                        self.failed = Some(wire::decode(&frame.meta).map_err(io::Error::other)?);
                    }
                    _ => {}
                },
                Step::Need(_) => {
                    let mut chunk = [0; 512];
                    match self.report.read(&mut chunk) {
                        Ok(0) => {
                            self.listens = false;
                            return Ok(());
                        }
                        Ok(count) => self.incoming.extend_from_slice(&chunk[..count]),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                            self.listens = false;
                            return Ok(());
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
        // A guardian that reports no more ends at once. One that still listens had its time to
        // kill what it guards, and its own end kills the rest.
        if self.listens {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        interpreter::probed().remove(&self.child.id());
    }
}

fn spawn(job: &Job<'_>) -> Spawn {
    let program = job.program.as_os_str().as_bytes().to_vec();
    let args = job.args.iter().map(|arg| arg.as_bytes().to_vec());
    let variable = |(name, value): &(OsString, OsString)| {
        let mut variable = name.clone().into_vec();
        variable.push(b'=');
        variable.extend_from_slice(value.as_bytes());
        variable
    };
    Spawn {
        argv: std::iter::once(program.clone()).chain(args).collect(),
        program,
        environment: job.environment.iter().map(variable).collect(),
        directory: job.directory.as_os_str().as_bytes().to_vec(),
        grace_ms: 0,
        open_files: job.open_files,
        limits: ProcessLimits::default(),
        cgroup: Vec::new(),
    }
}

/// One stream of a builder, cut into lines, without what could disturb a terminal or a log.
struct Lines {
    pipe: PipeReader,
    open: bool,
    rest: Vec<u8>,
}

impl Lines {
    fn new(pipe: PipeReader) -> Lines {
        Lines { pipe, open: true, rest: Vec::new() }
    }

    /// Takes what is there, at most one chunk.
    fn read(&mut self, line: &mut dyn FnMut(&str)) -> io::Result<()> {
        if !self.open {
            return Ok(());
        }
        let flags = OFlag::from_bits_retain(fcntl(&self.pipe, FcntlArg::F_GETFL)?);
        if !flags.contains(OFlag::O_NONBLOCK) {
            fcntl(&self.pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let mut chunk = [0; CHUNK_BYTES];
        match self.pipe.read(&mut chunk) {
            Ok(0) => self.open = false,
            Ok(count) => {
                for byte in &chunk[..count] {
                    if matches!(byte, b'\n' | b'\r') || self.rest.len() == LINE_BYTES_MAX {
                        self.flush(line);
                    }
                    self.rest.push(*byte);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes what is left when nothing more can come: a pipe holds 64 KiB at most.
    fn finish(&mut self, line: &mut dyn FnMut(&str)) -> io::Result<()> {
        let pipe_bytes = 64 << 10;
        for _ in 0..pipe_bytes / CHUNK_BYTES + 1 {
            self.read(line)?;
        }
        self.flush(line);
        Ok(())
    }

    fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.rest);
        let text = text.replace(|c: char| c.is_control() && c != '\t', "");
        if !text.trim().is_empty() {
            line(text.trim_end());
        }
        self.rest.clear();
    }
}

/// Waits until there is something to read, or the time is over.
fn wait(report: &UnixStream, outputs: &[Lines; 2], time: Duration) -> io::Result<()> {
    let mut fds = vec![PollFd::new(report.as_fd(), PollFlags::POLLIN)];
    let open = outputs.iter().filter(|output| output.open);
    fds.extend(open.map(|output| PollFd::new(output.pipe.as_fd(), PollFlags::POLLIN)));
    let timeout = PollTimeout::try_from(time + Duration::from_millis(1));
    match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
