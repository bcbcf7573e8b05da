//! The one thread that starts guardians, and reaps them.
//!
//! It is a thread of its own for two reasons. A guardian's death signal follows the *thread* that
//! started it, so that thread must live as long as the daemon. And a fork and exec takes about a
//! millisecond, which the data plane would feel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clutch_protocol::message::{Spawn, SpawnProgram, WorkerId};
use clutch_protocol::{Header, Kind, wire};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use thiserror::Error;
use tokio::sync::oneshot;

use super::page::Page;
use crate::interpreter;
use crate::limits::SPAWNER_ORDERS_MAX;
use crate::run;

/// How long a guardian may take to read what it is to start. It reads first thing.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one killed orphan is waited for.
const ORPHAN_TIMEOUT: Duration = Duration::from_millis(100);

/// How long orphans of a lost guardian are chased.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// The program that becomes a guardian: the daemon's own binary with a hidden verb.
#[derive(Clone, Debug)]
pub struct Guardian {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Which orphans are its tree's, should it be killed.
    pub orphans: Orphans,
}

/// Which children of this process a lost guardian may have left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// All that are in another session: right where this process starts nothing else.
    All,
    /// Those in the guardian's session: right inside a program with children of its own.
    OfItsSession,
}

/// Which pool of the daemon, by place in its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PoolIndex(pub usize);

/// What the spawner is asked to do.
#[derive(Debug)]
pub enum Order {
    /// Start a guardian and tell it what to run.
    Launch {
        /// For which pool.
        pool: PoolIndex,
        /// As which worker.
        worker: WorkerId,
        /// What to run.
        spawn: Box<Spawn>,
    },
    /// Start a guardian and tell it what to run for a client.
    Program {
        /// What to run.
        program: Box<SpawnProgram>,
        /// Its standard streams.
        streams: Vec<OwnedFd>,
        /// Told what became of it. If nobody listens any more, it is ended.
        started: oneshot::Sender<Result<ProgramStarted, LaunchError>>,
    },
    /// A guardian has ended: reap it.
    Reap {
        /// Its process id.
        guardian: u32,
        /// Whether it left its tree behind, so that orphans have to be looked for.
        orphans: bool,
    },
    /// Reap dead children that nobody here has started: process 1 inherits every orphan.
    ReapStrays,
}

/// The daemon's ends of a new worker's sockets and pipes.
#[derive(Debug)]
pub struct Channels {
    /// Calls and answers.
    pub call: UnixStream,
    /// Interrupts.
    pub control: UnixStream,
    /// To and from the guardian.
    pub report: UnixStream,
    /// What python prints.
    pub stdout: PipeReader,
    /// What python complains about.
    pub stderr: PipeReader,
    /// The stacks it writes.
    pub stack: PipeReader,
    /// Which call it has begun.
    pub page: Page,
    /// The guardian's process id, until it is reaped.
    pub guardian: u32,
    /// The guardian itself, beyond doubt.
    pub pidfd: OwnedFd,
}

/// The outcome of [`Order::Program`].
#[derive(Debug)]
pub struct ProgramStarted {
    /// To and from the guardian.
    pub report: UnixStream,
    /// The guardian's process id, until it is reaped.
    pub guardian: u32,
}

/// The outcome of [`Order::Launch`].
#[derive(Debug)]
pub struct Launched {
    /// For which pool.
    pub pool: PoolIndex,
    /// As which worker.
    pub worker: WorkerId,
    /// The way to it, or why there is none.
    pub channels: Result<Channels, LaunchError>,
}

/// Why a guardian could not be started.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// Sockets or pipes could not be made.
    #[error("failed to make its sockets and pipes: {0} (too many open files? raise `ulimit -n`)")]
    Channels(io::Error),
    /// The guardian could not be executed.
    #[error("failed to start its guardian: {0} (out of memory or processes?)")]
    Guardian(io::Error),
    /// The guardian did not take what it is to run.
    #[error("its guardian did not take over: {0}")]
    Handover(io::Error),
    /// Too many starts wait.
    #[error("too many workers are being started at once")]
    Busy,
}

/// The way to the spawner thread. The thread ends when this is dropped.
#[derive(Clone, Debug)]
pub struct Spawner {
    orders: mpsc::SyncSender<Order>,
}

impl Spawner {
    /// Starts the thread. Outcomes arrive at `launched`.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn start(
        guardian: Guardian,
        launched: tokio::sync::mpsc::Sender<Launched>,
    ) -> io::Result<(Spawner, std::thread::JoinHandle<()>)> {
        let (orders, inbox) = mpsc::sync_channel(SPAWNER_ORDERS_MAX);
        let thread =
            std::thread::Builder::new().name("clutch-spawner".into()).spawn(move || {
                let mut nursery = Nursery { guardian, children: HashMap::new() };
                // Ends when the last `Spawner` is dropped; guardians that are left then see both
                // their death signal and the end of their report socket.
                while let Ok(order) = inbox.recv() {
                    if let Some(outcome) = nursery.obey(order)
                        && launched.blocking_send(outcome).is_err()
                    {
                        return;
                    }
                }
            })?;
        Ok((Spawner { orders }, thread))
    }

    /// Gives an order without waiting.
    ///
    /// # Errors
    ///
    /// When too many wait.
    pub fn order(&self, order: Order) -> Result<(), LaunchError> {
        self.orders.try_send(order).map_err(|_| LaunchError::Busy)
    }
}

/// The guardians that live. Owned by the spawner thread.
struct Nursery {
    guardian: Guardian,
    children: HashMap<u32, Child>,
}

impl Nursery {
    fn obey(&mut self, order: Order) -> Option<Launched> {
        match order {
            Order::Launch { pool, worker, spawn } => {
                let channels = self.launch(&spawn);
                Some(Launched { pool, worker, channels })
            }
            Order::Program { program, streams, started } => {
                self.start_program(&program, &streams, started);
                None
            }
            Order::Reap { guardian, orphans } => {
                if let Some(mut child) = self.children.remove(&guardian) {
                    // It has ended already, so this does not wait.
                    let _ = child.wait();
                }
                if orphans {
                    self.sweep_orphans(guardian);
                }
                None
            }
            Order::ReapStrays => {
                self.reap_strays();
                None
            }
        }
    }

    fn start_program(
        &mut self,
        program: &SpawnProgram,
        streams: &[OwnedFd],
        started: oneshot::Sender<Result<ProgramStarted, LaunchError>>,
    ) {
        let outcome = run::guardian::start(&self.guardian, program, streams);
        let outcome = outcome.map(|(child, report)| {
            let guardian = child.id();
            self.children.insert(guardian, child);
            ProgramStarted { report, guardian }
        });
        if let Err(Ok(ProgramStarted { report, guardian })) = started.send(outcome) {
            // Its client is gone: without this socket, the guardian ends itself and its tree.
            drop(report);
            if let Some(mut child) = self.children.remove(&guardian) {
                let _ = child.wait();
            }
        }
    }

    fn launch(&mut self, spawn: &Spawn) -> Result<Channels, LaunchError> {
        let pair = || UnixStream::pair().map_err(LaunchError::Channels);
        let (call, its_call) = pair()?;
        let (control, its_control) = pair()?;
        let (report, its_report) = pair()?;
        let (stdout, its_stdout) = io::pipe().map_err(LaunchError::Channels)?;
        let (stderr, its_stderr) = io::pipe().map_err(LaunchError::Channels)?;
        let (stack, its_stack) = io::pipe().map_err(LaunchError::Channels)?;
        never_blocks(&its_stack).map_err(LaunchError::Channels)?;
        let page = Page::new().map_err(LaunchError::Channels)?;
        #[expect(clippy::disallowed_methods, reason = "the one place where guardians are started")]
        let mut child = Command::new(&self.guardian.program)
            .args(&self.guardian.args)
            .stdin(Stdio::from(OwnedFd::from(its_report)))
            .stdout(its_stdout)
            .stderr(its_stderr)
            .spawn()
            .map_err(LaunchError::Guardian)?;
        let guardian = child.id();
        let pid = rustix::process::Pid::from_child(&child);
        // The child cannot have been reaped yet, so its number is still its own.
        let opened = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty());
        let handed = opened.map_err(io::Error::from).and_then(|pidfd| {
            let page = page.descriptor();
            let handed = [its_call.as_fd(), its_control.as_fd(), page.as_fd(), its_stack.as_fd()];
            let meta = wire::encode(spawn).map_err(io::Error::other)?;
            hand_over(&report, Kind::Spawn, &meta, &handed)?;
            Ok(pidfd)
        });
        let pidfd = match handed {
            Ok(pidfd) => pidfd,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(LaunchError::Handover(error));
            }
        };
        self.children.insert(guardian, child);
        Ok(Channels { call, control, report, stdout, stderr, stack, page, guardian, pidfd })
    }

    /// Reaps dead children that are neither guardians nor probed interpreters, which have somebody
    /// else who waits for them. Those that live are left alone.
    fn reap_strays(&self) {
        // While this is held no probe can be started, and so none is unknown.
        let probed = interpreter::probed();
        for pid in children_of_this_process() {
            let number = u32::try_from(pid.as_raw()).unwrap_or(0);
            if !self.children.contains_key(&number) && !probed.contains(&number) {
                let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
            }
        }
    }

    /// Kills what a lost guardian left behind. This process is a subreaper, so such orphans are its
    /// children; they are told from others by their session, which is the guardian's unless they
    /// have made their own.
    fn sweep_orphans(&self, guardian: u32) {
        let own_session = nix::unistd::getsid(None).ok();
        let lost_session = i32::try_from(guardian).ok().map(Pid::from_raw);
        let deadline = Instant::now() + SWEEP_TIMEOUT;
        while Instant::now() < deadline {
            let is_orphan = |pid: &Pid| {
                let known =
                    u32::try_from(pid.as_raw()).is_ok_and(|p| self.children.contains_key(&p));
                let session = nix::unistd::getsid(Some(*pid)).ok();
                let left_behind = match self.guardian.orphans {
                    Orphans::All => session != own_session,
                    Orphans::OfItsSession => session == lost_session,
                };
                !known && left_behind
            };
            let orphans: Vec<_> =
                children_of_this_process().into_iter().filter(is_orphan).collect();
            if orphans.is_empty() {
                return;
            }
            for pid in orphans {
                // An unreaped child of ours: its number cannot have been given to a stranger.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                reap_within(pid, ORPHAN_TIMEOUT);
            }
        }
        tracing::error!("processes of a lost guardian would not die");
    }
}

/// Reaps a child that was killed, if it dies soon.
fn reap_within(pid: Pid, timeout: Duration) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use rustix::process::{Pid as RawPid, PidfdFlags, pidfd_open};
    let opened =
        RawPid::from_raw(pid.as_raw()).and_then(|raw| pidfd_open(raw, PidfdFlags::empty()).ok());
    if let Some(pidfd) = opened {
        let mut ended = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut ended, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO));
    }
    let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
}

/// Makes writes to a full pipe fail instead of wait: who writes stacks may be the only thread that
/// could run.
fn never_blocks(pipe: &PipeWriter) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Sends the guardian its first frame, with the descriptors that are python's.
pub(crate) fn hand_over(
    report: &UnixStream,
    kind: Kind,
    meta: &[u8],
    handed: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let meta_bytes = u32::try_from(meta.len()).expect("a meta is within its limit");
    let descriptors = u8::try_from(handed.len()).expect("there are at most four");
    let header = Header { descriptors, meta_bytes, ..Header::new(kind, 0) };
    let frame = [&header.encode()[..], meta].concat();
    let descriptors: Vec<_> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if handed.is_empty() { &[][..] } else { &rights[..] };
    report.set_write_timeout(Some(HANDOVER_TIMEOUT))?;
    let parts = [IoSlice::new(&frame)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(report.as_raw_fd(), &parts, rights, flags, None)?;
    let mut rest: &UnixStream = report;
    rest.write_all(&frame[sent..])
}

/// Every child of every thread of this process.
fn children_of_this_process() -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
        })
        .map(Pid::from_raw)
        .collect()
}
