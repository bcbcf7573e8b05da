//! How a fresh process becomes a guardian: descriptors, session, signals, death signal.
//!
//! Leaves to others: what a guardian then does (`guardian`), and what python's own process is made
//! of (`launch`).

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid, setsid};
use thiserror::Error;

use crate::report::Report;
use crate::sys;

/// Why this process cannot be a guardian.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    /// A person typed it.
    #[error(
        "failed to start: standard input is not a socket; the daemon starts this verb, \
         use `clutch serve`"
    )]
    NotASocket,
    /// The daemon died while this process was being started.
    #[error("failed to start: the process that made the report socket is not the parent")]
    Orphan,
    /// The system refused something every process may do.
    #[error("failed to {what}: {errno}; check the limits of the daemon's user")]
    System {
        /// What was refused.
        what: &'static str,
        /// The system's reason.
        errno: Errno,
    },
}

/// How the guardian learns of deaths: its children's and the daemon's.
pub(crate) struct Watch {
    signals: SignalFd,
    daemon: Pid,
}

/// Turns this process into a guardian.
pub(crate) fn become_guardian() -> Result<(Report, Watch), Fault> {
    let failed = |what| move |errno| Fault::System { what, errno };
    // The kernel recorded who made the socket pair. A parent that died before this line cannot
    // fool the check below, as it would if the parent were read from `getppid` twice.
    let daemon = getsockopt(&std::io::stdin(), sockopt::PeerCredentials)
        .map(|peer| Pid::from_raw(peer.pid()))
        .map_err(|_| Fault::NotASocket)?;
    // A listener that leaked in here would accept clients after the daemon's death.
    sys::close_from(3);

    let report = sys::duplicate_high(std::io::stdin().as_fd()).map_err(failed("keep fd 0"))?;
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed("open /dev/null"))?;
    dup2_stdin(null).map_err(failed("replace fd 0"))?;

    setsid().map_err(failed("start a session"))?;
    prctl::set_name(c"clutch-guardian").map_err(failed("set its name"))?;
    prctl::set_child_subreaper(true).map_err(failed("become a subreaper"))?;
    let signals = take_signals().map_err(failed("watch signals"))?;
    prctl::set_pdeathsig(Signal::SIGTERM).map_err(failed("set a death signal"))?;
    let watch = Watch { signals, daemon };
    if watch.daemon_is_gone() {
        return Err(Fault::Orphan);
    }
    Ok((Report::new(report), watch))
}

/// Says why on standard error, which is python's pipe to the log, or a person's terminal.
pub(crate) fn complain(fault: &Fault) {
    // Nobody may be reading; there is nobody else to tell.
    let _ = writeln!(std::io::stderr(), "clutch shim: {fault}");
}

/// Gives up the guardian's hold on python's output, so that its pipes end when its tree does.
pub(crate) fn release_output() {
    // On failure the pipes end with the guardian instead: late, not wrong.
    let _ = dup2_stdout(std::io::stdin());
    let _ = dup2_stderr(std::io::stdin());
}

/// Blocks every signal and resets every disposition, so that nothing but SIGKILL ends a guardian,
/// a child that ends is always there to be waited for, and python inherits defaults.
fn take_signals() -> nix::Result<SignalFd> {
    SigSet::all().thread_block()?;
    sys::reset_dispositions();
    let mut watched = SigSet::empty();
    watched.add(Signal::SIGCHLD);
    watched.add(Signal::SIGTERM);
    SignalFd::with_flags(&watched, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

impl Watch {
    /// Takes all pending signals and says whether the daemon has died.
    ///
    /// A SIGTERM is the death signal only if the parent changed. Otherwise it is somebody
    /// signalling a whole group (a service manager does that on stop) or the end of the daemon's
    /// thread that spawned us, and it is the daemon's business when its workers end.
    pub(crate) fn take(&self) -> bool {
        let mut terminated = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            terminated |= signal.ssi_signo == Signal::SIGTERM as u32;
        }
        terminated && self.daemon_is_gone()
    }

    fn daemon_is_gone(&self) -> bool {
        getppid() != self.daemon
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
