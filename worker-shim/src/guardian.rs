//! The guardian's loop, and what it does about each event.
//!
//! ```text
//!   Spawn ──► launching ── exec ──► running ── python ends ─────────────► sweeping ──► end
//!                 │                   │  └─ Terminate ─► grace ─ over ──►    ▲
//!                 └─ failed ──────────┴──── Kill, daemon gone, bad frame ────┘
//! ```
//!
//! Once a sweep has begun it is never called off, so orders that come later, or twice, change
//! nothing. Every wait has a reason to end: while python runs there is none but an event, and
//! nothing wakes an idle guardian.
//!
//! Leaves to others: the mechanics of each step (`report`, `launch`, `tree`, `sys`).

use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clutch_protocol::Kind;
use clutch_protocol::message::{
    Exit, Exited, Halted, Signal, Spawn, SpawnFailed, SpawnProgram, SpawnStage, Spawned, Swept,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;

use crate::launch::{Launch, Python, launch, launch_program};
use crate::mercy::Mercy;
use crate::report::{Lost, Order, Report, SPAWN_DESCRIPTORS};
use crate::setup::{Watch, release_output};
use crate::sweep::Sweep;
use crate::sys::{self, Reaped};
use crate::tree;

/// How often a sweep looks for children it has not seen yet. Each death makes it look, and that
/// should be enough; the kernel's list of children may however miss some while others end.
const SWEEP_LOOK: Duration = Duration::from_millis(50);

/// Watches over one python until nothing is left of it.
pub(crate) fn run(report: Report, watch: Watch) -> ExitCode {
    let mut guardian = Guardian {
        report,
        watch,
        listening: true,
        was_told: false,
        python: None,
        announced: false,
        grace: Duration::ZERO,
        grace_end: None,
        sweep: None,
        swept: false,
        faulty: false,
        halted: false,
        told_halted: false,
        halted_anew: false,
    };
    while !guardian.is_done() {
        guardian.wait();
        guardian.step();
    }
    if guardian.faulty { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Guardian {
    report: Report,
    watch: Watch,
    /// Whether orders may still come.
    listening: bool,
    /// Whether a `Spawn` has come.
    was_told: bool,
    /// Python, until it is reaped: after that its number may be a stranger's.
    python: Option<Python>,
    /// Whether a `Spawned` was sent, which an `Exited` and a `Swept` must follow.
    announced: bool,
    grace: Duration,
    grace_end: Option<Instant>,
    sweep: Option<Sweep>,
    /// Whether the sweep is over.
    swept: bool,
    /// Whether the daemon broke the protocol, or something could not be killed.
    faulty: bool,
    /// Whether a signal has stopped python.
    halted: bool,
    /// Whether the daemon believes so.
    told_halted: bool,
    /// Whether it was stopped once more since that was sent: it may have gone on in between, which
    /// the system does not tell then.
    halted_anew: bool,
}

impl Guardian {
    fn is_done(&self) -> bool {
        self.swept && self.report.deadline().is_none()
    }

    /// Waits until there is something to do.
    fn wait(&self) {
        let orders = if self.listening { PollFlags::POLLIN } else { PollFlags::empty() };
        let room = match self.report.deadline() {
            Some(_) => PollFlags::POLLOUT,
            None => PollFlags::empty(),
        };
        let mut events = vec![PollFd::new(self.watch.as_fd(), PollFlags::POLLIN)];
        // A hang-up is reported unasked, so a socket that is of no use must not be in the list.
        if !(orders | room).is_empty() {
            events.push(PollFd::new(self.report.as_fd(), orders | room));
        }
        if let Some(pipe) = self.python.as_ref().and_then(Python::pending) {
            events.push(PollFd::new(pipe, PollFlags::POLLIN));
        }
        match poll(&mut events, self.timeout()) {
            // Each step looks at everything, so it does not matter what it was.
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => unreachable!("these descriptors are ours and open: {errno}"),
        }
    }

    fn timeout(&self) -> PollTimeout {
        let now = Instant::now();
        let sweep = match &self.sweep {
            Some(sweep) if !self.swept => Some(sweep.give_up.min(now + SWEEP_LOOK)),
            _ => None,
        };
        let grace = self.grace_end.filter(|_| self.sweep.is_none());
        let Some(next) = [sweep, grace, self.report.deadline()].into_iter().flatten().min() else {
            return PollTimeout::NONE;
        };
        // Rounded up: waking before the time would mean waking twice.
        let ms = next.saturating_duration_since(now).as_millis().saturating_add(1);
        PollTimeout::from(u16::try_from(ms).unwrap_or(u16::MAX))
    }

    /// Does everything there is to do, the dead first: their news is what callers wait for.
    fn step(&mut self) {
        // Signals are taken before what they tell of is looked at. The other way round, a child
        // that ended in between would have its signal taken and never be looked for.
        let daemon_died = self.watch.take();
        self.settle_launch();
        self.reap();
        if daemon_died {
            self.lose_daemon();
        }
        if self.listening {
            self.obey();
        }
        self.report.flush();
        self.tell_halt();
        if self.report.is_deaf() {
            // A daemon that cannot be told what becomes of its worker has none.
            self.lose_daemon();
        }
        if self.grace_end.is_some_and(|end| Instant::now() >= end) {
            self.begin_sweep();
        }
        self.continue_sweep();
    }

    fn obey(&mut self) {
        while self.listening {
            match self.report.next() {
                Ok(None) => return,
                Ok(Some(Order::Spawn(spawn, handed))) if !self.was_told => {
                    self.spawn(*spawn, handed);
                }
                Ok(Some(Order::Program(program, streams))) if !self.was_told => {
                    self.spawn_program(*program, streams);
                }
                Ok(Some(Order::Forward(forward))) if self.was_told => {
                    if let Some(python) = &self.python {
                        tree::forward(python.pid, forward);
                    }
                }
                Ok(Some(Order::Signal(Signal::Terminate))) if self.was_told => self.terminate(),
                Ok(Some(Order::Signal(Signal::Kill))) if self.was_told => self.begin_sweep(),
                Ok(Some(Order::Signal(Signal::DumpStack))) if self.was_told => self.dump_stack(),
                Ok(Some(Order::Signal(Signal::Continue))) if self.was_told => {
                    if let Some(python) = &self.python {
                        tree::continue_group(python.pid);
                    }
                }
                Err(Lost::Closed) => self.lose_daemon(),
                Ok(Some(_)) | Err(_) => self.refuse(),
            }
        }
    }

    fn spawn(&mut self, spawn: Spawn, handed: [OwnedFd; SPAWN_DESCRIPTORS]) {
        assert!(self.python.is_none(), "there is one python in a guardian's life");
        self.was_told = true;
        self.grace = Duration::from_millis(spawn.grace_ms);
        match launch(spawn, &handed) {
            Ok(python) => self.python = Some(python),
            Err(failed) => self.fail(failed),
        }
        // The guardian must not keep the worker's sockets open.
        drop(handed);
        sys::trim_memory();
    }

    /// The same for a client's program, whose standard streams are the client's.
    fn spawn_program(&mut self, program: SpawnProgram, streams: Vec<OwnedFd>) {
        assert!(self.python.is_none(), "there is one python in a guardian's life");
        self.was_told = true;
        self.grace = Duration::from_millis(program.spawn.grace_ms);
        // Nothing of them stays open here, or their other ends would not see them close.
        match launch_program(program, streams) {
            Ok(python) => self.python = Some(python),
            Err(failed) => self.fail(failed),
        }
        sys::trim_memory();
    }

    /// Sends `Spawned` or `SpawnFailed` when it is known which.
    fn settle_launch(&mut self) {
        match self.python.as_mut().and_then(Python::launched) {
            None => {}
            Some(Ok(pid)) => {
                release_output();
                self.announced = true;
                let cgroup_errno = self.python.as_ref().map_or(0, |python| python.cgroup_errno);
                self.report.send(Kind::Spawned, &Spawned { pid: number(pid), cgroup_errno });
            }
            Some(Err(failed)) => self.fail(failed),
        }
    }

    fn fail(&mut self, failed: SpawnFailed) {
        self.report.send(Kind::SpawnFailed, &failed);
        self.begin_sweep();
    }

    /// Says whether a signal has stopped python, when that is news and the last news is sent: one
    /// that is stopped and continued without end fills no memory.
    fn tell_halt(&mut self) {
        // A sweep stops processes itself.
        let is_of_interest = self.announced && self.sweep.is_none();
        let Some(python) = self.python.as_ref().filter(|_| is_of_interest) else {
            return;
        };
        while let Some(stopped) = sys::halt_of(python.pid) {
            self.halted = stopped;
            self.halted_anew = stopped;
        }
        let is_news = self.halted != self.told_halted || self.halted_anew;
        if is_news && self.report.deadline().is_none() {
            self.told_halted = self.halted;
            self.halted_anew = false;
            self.report.send(Kind::Halted, &Halted { stopped: self.halted });
        }
    }

    fn terminate(&mut self) {
        let Some(python) = &self.python else {
            return;
        };
        if self.grace_end.is_none() && self.sweep.is_none() {
            tree::terminate_group(python.pid);
            self.grace_end = Some(Instant::now() + self.grace);
        }
    }

    /// Has python write its stacks, if it can: the signal would end one that does not listen for
    /// it, as any other program that took python's place.
    fn dump_stack(&self) {
        let Some(python) = &self.python else {
            return;
        };
        let number = tree::stack_signal();
        if u32::try_from(number).is_ok_and(|signal| tree::catches(python.pid, signal)) {
            sys::signal_main_thread(python.pid, number);
        }
    }

    /// The daemon said what it must not. If it has not been told anything yet, it is told that.
    fn refuse(&mut self) {
        self.faulty = true;
        if !self.was_told {
            let stage = SpawnStage::Prepare;
            let errno = Errno::EPROTO as i32;
            self.report.send(Kind::SpawnFailed, &SpawnFailed { stage, errno });
        }
        self.lose_daemon();
    }

    fn lose_daemon(&mut self) {
        self.listening = false;
        self.begin_sweep();
    }

    /// Reaps everyone who ended. Orphans that end while python lives are nobody's news.
    fn reap(&mut self) {
        loop {
            let ended = match sys::ended_child() {
                Ok(Some(child)) => child,
                Ok(None) => return,
                Err(Errno::ECHILD) => {
                    self.finish_sweep(0);
                    return;
                }
                Err(errno) => unreachable!("waiting for children cannot fail: {errno}"),
            };
            let is_python = self.python.as_ref().is_some_and(|python| python.pid == ended);
            if is_python {
                // Now or never: once python is reaped, its group's number may be a stranger's.
                tree::kill_group(ended, self.mercy());
                // A child that failed has written why before it ended.
                self.settle_launch();
            }
            let Ok(reaped) = sys::reap(ended) else {
                unreachable!("{ended} had ended, and only we reap");
            };
            if let Some(sweep) = &mut self.sweep {
                sweep.note_death(reaped.exit == Exit::Signal(nix::libc::SIGKILL) && !is_python);
            }
            if is_python {
                self.lose_python(reaped);
            }
        }
    }

    fn lose_python(&mut self, reaped: Reaped) {
        let python = self.python.take().expect("it was just compared with");
        match python.launch {
            Launch::Done => {
                let exited = Exited {
                    pid: number(python.pid),
                    exit: reaped.exit,
                    user_us: reaped.user_us,
                    system_us: reaped.system_us,
                    peak_rss_bytes: reaped.peak_rss_bytes,
                };
                self.report.send(Kind::Exited, &exited);
            }
            // Pending it cannot be: a dead process holds no pipe open.
            Launch::Failed | Launch::Pending(_) => {}
        }
        self.begin_sweep();
    }

    fn begin_sweep(&mut self) {
        if self.sweep.is_none() {
            self.sweep = Some(Sweep::begin());
        }
    }

    fn mercy(&self) -> Mercy {
        match &self.sweep {
            Some(sweep) if Instant::now() >= sweep.mercy_end => Mercy::Nobody,
            _ => Mercy::Trackers,
        }
    }

    /// Kills whoever has become a child meanwhile, or gives up.
    fn continue_sweep(&mut self) {
        if self.swept || self.sweep.is_none() {
            return;
        }
        tree::kill_all(self.python.as_ref().map(|python| python.pid), self.mercy());
        // Some die at once, and a sweep of nobody is over now: nothing else would wake us.
        self.reap();
        let stalled = self.sweep.as_ref().is_some_and(|sweep| Instant::now() >= sweep.give_up);
        if stalled && !self.swept {
            let survivors = u32::try_from(tree::children().len()).unwrap_or(u32::MAX);
            self.faulty = true;
            self.finish_sweep(survivors.max(1));
        }
    }

    fn finish_sweep(&mut self, survivors: u32) {
        let Some(sweep) = &self.sweep else {
            return;
        };
        if !self.swept {
            self.swept = true;
            if self.announced {
                let killed = sweep.killed;
                self.report.send(Kind::Swept, &Swept { killed, survivors });
            }
        }
    }
}

fn number(pid: Pid) -> u32 {
    u32::try_from(pid.as_raw()).expect("a process id is positive")
}
