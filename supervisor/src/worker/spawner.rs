//! The one thread that starts guardians, and reaps them.
//!
//! It is a thread of its own for two reasons. A guardian's death signal follows the *thread* that
//! started it, so that thread must live as long as the daemon. And a fork and exec takes about a
//! millisecond, which the data plane would feel.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, mpsc};

use clutch_protocol::message::{Spawn, SpawnProgram, WorkerId};
use clutch_protocol::{Kind, wire};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use thiserror::Error;
use tokio::sync::oneshot;

use super::handover::hand_over;
use super::orphans::{self, Lost};
use super::page::Page;
use crate::cgroup::{Group, Groups};
use crate::limits::{GROUPS_EMPTYING_MAX, SPAWNER_ORDERS_MAX};
use crate::run;
use crate::watch::process;

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
        /// Its group, where there can be one.
        group: GroupWish,
    },
    /// A worker's group gets another bound of memory.
    Bound {
        /// Whose.
        guardian: u32,
        /// How much it may hold.
        memory_max: Option<u64>,
    },
    /// The daemon ends: remove every group, and say so.
    Close(oneshot::Sender<()>),
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

/// The group that a worker is to have.
#[derive(Clone, Debug)]
pub struct GroupWish {
    /// Its pool.
    pub pool: String,
    /// How much memory it may hold.
    pub memory_max: Option<u64>,
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
    /// The group that its python is to join.
    pub group: Option<Group>,
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
    /// What a client wants run is more than a guardian takes.
    #[error("its arguments and its environment are too long together; pass long data in a file")]
    TooLong,
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
        groups: Option<Arc<Groups>>,
        launched: tokio::sync::mpsc::Sender<Launched>,
    ) -> io::Result<(Spawner, std::thread::JoinHandle<()>)> {
        let (orders, inbox) = mpsc::sync_channel(SPAWNER_ORDERS_MAX);
        let thread =
            std::thread::Builder::new().name("clutch-spawner".into()).spawn(move || {
                let mut nursery = Nursery {
                    guardian,
                    children: HashMap::new(),
                    groups,
                    taken: HashMap::new(),
                    emptying: Vec::new(),
                };
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
    /// With the time of each one's start.
    children: HashMap<u32, (Child, Option<u64>)>,
    groups: Option<Arc<Groups>>,
    /// The group of each guardian's python.
    taken: HashMap<u32, Group>,
    /// Groups that are done with, and that somebody was in still.
    emptying: Vec<Group>,
}

impl Nursery {
    fn obey(&mut self, order: Order) -> Option<Launched> {
        match order {
            Order::Launch { pool, worker, mut spawn, group } => {
                let name = format!("{}.{}-{}", group.pool, worker.slot, worker.generation);
                let groups = self.groups.as_ref();
                let group = groups.and_then(|groups| groups.make(&name, group.memory_max));
                if let Some(group) = &group {
                    spawn.cgroup = group.path().as_os_str().as_bytes().to_vec();
                }
                let channels = self.launch(&spawn, group.clone());
                if channels.is_err() {
                    self.emptying.extend(group);
                    self.remove_empty_groups();
                }
                Some(Launched { pool, worker, channels })
            }
            Order::Program { program, streams, started } => {
                self.start_program(&program, &streams, started);
                None
            }
            Order::Reap { guardian, orphans } => {
                let mut started = None;
                if let Some((mut child, at)) = self.children.remove(&guardian) {
                    // It has ended already, so this does not wait.
                    let _ = child.wait();
                    started = at;
                }
                let group = self.taken.remove(&guardian);
                if orphans {
                    // At once and beyond doubt, where it works; whoever is left is looked for.
                    if let (Some(groups), Some(group)) = (&self.groups, &group) {
                        groups.kill(group.path());
                    }
                    let lost = Lost { guardian, started, which: self.guardian.orphans };
                    lost.sweep(|number| self.children.contains_key(&number));
                }
                self.emptying.extend(group);
                self.remove_empty_groups();
                None
            }
            Order::Bound { guardian, memory_max } => {
                if let (Some(groups), Some(group)) = (&self.groups, self.taken.get(&guardian))
                    && let Err(error) = groups.bound(group.path(), memory_max)
                {
                    tracing::warn!(%error, group = %group.path().display(),
                        "a worker's bound of memory could not be changed; recycle its pool");
                }
                None
            }
            Order::Close(done) => {
                if let Some(groups) = self.groups.take() {
                    groups.close();
                }
                // Whoever asked may have lost its patience.
                let _ = done.send(());
                None
            }
            Order::ReapStrays => {
                orphans::reap_strays(|number| self.children.contains_key(&number));
                None
            }
        }
    }

    /// Removes the groups that nobody is in any more.
    fn remove_empty_groups(&mut self) {
        if let Some(groups) = &self.groups {
            self.emptying.retain(|group| !groups.remove(group.path()));
        }
        // What cannot be removed goes with the daemon.
        self.emptying.truncate(GROUPS_EMPTYING_MAX);
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
            self.children.insert(guardian, (child, process::started(guardian)));
            ProgramStarted { report, guardian }
        });
        if let Err(Ok(ProgramStarted { report, guardian })) = started.send(outcome) {
            // Its client is gone: without this socket, the guardian ends itself and its tree.
            drop(report);
            if let Some((mut child, _)) = self.children.remove(&guardian) {
                let _ = child.wait();
            }
        }
    }

    fn launch(&mut self, spawn: &Spawn, group: Option<Group>) -> Result<Channels, LaunchError> {
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
        self.children.insert(guardian, (child, process::started(guardian)));
        self.taken.extend(group.clone().map(|group| (guardian, group)));
        Ok(Channels { call, control, report, stdout, stderr, stack, page, guardian, pidfd, group })
    }
}

/// Makes writes to a full pipe fail instead of wait: who writes stacks may be the only thread that
/// could run.
fn never_blocks(pipe: &PipeWriter) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
