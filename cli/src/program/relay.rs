//! What passes between the person and the program, until its end: bytes, where there is a terminal
//! between them, and signals.
//!
//! One thread, one wait. The signals that are passed on are blocked and read as data, so nothing
//! interrupts anything, and the terminal is put back before this process ends or stops.

use std::os::fd::AsFd;

use clutch_protocol::message::{Exit, Forward, RunProgram, Target};
use clutch_worker_shim::Stopped;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::stdio::{Own, Stdio, let_go};
use super::terminal::Terminal;
use super::way::{Running, Way};
use crate::error::Error;

/// The signals that are passed on: all that others send, and not those that tell a process of its
/// own doings. The real-time ones have no names, and end this process.
const FORWARDED: [Signal; 16] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGIO,
    Signal::SIGURG,
    Signal::SIGXCPU,
    Signal::SIGPWR,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGWINCH,
];

/// A program that runs.
pub(crate) struct Relay {
    running: Running,
    signals: SignalFd,
    terminal: Option<Terminal>,
}

impl Relay {
    /// Starts a program.
    pub(crate) fn start(
        way: Way,
        mut asked: RunProgram,
        stdio: Stdio,
        own: &Own,
    ) -> Result<Relay, Error> {
        // Where no pseudo-terminal can be had, the program gets the person's terminal itself.
        let mut terminal = stdio.terminal().and_then(|person| Terminal::new(person).ok());
        asked.streams.terminal = terminal.is_some().then_some(0);
        let slave = terminal.as_ref().map(Terminal::slave);
        let streams = stdio.into_streams(slave).map_err(Error::Prepare)?;
        // From here on signals are the program's. One that comes earlier ends this process, which
        // has started nothing yet.
        let signals = take_signals(own).map_err(|errno| Error::Prepare(errno.into()))?;
        // Before the program can print anything, which has to be carried as it is.
        if let Some(terminal) = &mut terminal {
            terminal.take();
        }
        let running = way.start(asked, &streams)?;
        drop(streams);
        let_go();
        Ok(Relay { running, signals, terminal })
    }

    /// Passes everything on until the program has ended, and says how.
    pub(crate) fn run(mut self) -> Result<Exit, Error> {
        let exit = loop {
            let (news, signalled, person, program) = self.wait();
            if signalled {
                self.take_signals();
            }
            if let Some(terminal) = &mut self.terminal {
                terminal.carry(person, program);
                if terminal.must_suspend() {
                    self.suspend();
                }
            }
            if news && let Some(exit) = self.running.read()? {
                break exit;
            }
        };
        if let Some(mut terminal) = self.terminal.take() {
            terminal.finish();
        }
        Ok(exit)
    }

    /// Waits for anything, and says what has come: news, signals, and what of the terminals.
    fn wait(&self) -> (bool, bool, PollFlags, PollFlags) {
        let mut events = vec![
            PollFd::new(self.running.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(terminal) = &self.terminal {
            // A hang-up is reported unasked, so what is of no use must not be in the list.
            events.extend(terminal.events().into_iter().filter(|event| !event.events().is_empty()));
        }
        match poll(&mut events, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => unreachable!("these descriptors are ours and open: {errno}"),
        }
        let came = |index: usize| {
            events.get(index).and_then(PollFd::revents).unwrap_or(PollFlags::empty())
        };
        let of_terminal = events.iter().skip(2).filter_map(PollFd::revents);
        let terminal = of_terminal.fold(PollFlags::empty(), |all, flags| all | flags);
        (!came(0).is_empty(), !came(1).is_empty(), terminal, terminal)
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = info.ssi_signo;
            let signal = i32::try_from(number).ok().and_then(|n| Signal::try_from(n).ok());
            let forward = |target| self.running.signal(Forward { signal: number, target });
            match (signal, &mut self.terminal) {
                // The program's terminal tells it.
                (Some(Signal::SIGWINCH), Some(terminal)) => terminal.resize(),
                (Some(Signal::SIGCONT), _) => self.go_on(),
                (Some(Signal::SIGTSTP), _) => {
                    forward(Target::Group);
                    self.suspend();
                }
                // From a key at the terminal: that goes to the whole group, which the program's is
                // not in. What somebody sends to this process alone is for python alone.
                _ if info.ssi_code == libc::SI_KERNEL => forward(Target::Group),
                _ => forward(Target::Process),
            }
        }
    }

    /// Stops this process, so that its shell goes on, until somebody continues it.
    fn suspend(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.give_back();
        }
        match clutch_worker_shim::stop_as_by_a_key() {
            // Going on begins with a SIGCONT, which is waiting to be read now.
            Stopped::AndContinued => {}
            // There is no shell that would continue anything, so nothing may stay stopped.
            Stopped::Not => self.go_on(),
        }
    }

    /// The program goes on, and this process with it.
    fn go_on(&mut self) {
        if let Some(terminal) = &mut self.terminal {
            terminal.take();
            terminal.resize();
        }
        let signal = Signal::SIGCONT as u32;
        self.running.signal(Forward { signal, target: Target::Group });
    }
}

/// Blocks the signals that are passed on, and has them read as data. Those that are ignored stay
/// so, for the program as well.
fn take_signals(own: &Own) -> nix::Result<SignalFd> {
    let mut taken = SigSet::empty();
    for signal in FORWARDED {
        if !own.ignores(signal) {
            taken.add(signal);
        }
    }
    taken.thread_block()?;
    SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}
