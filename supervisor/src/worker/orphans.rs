//! Children of this process that it has not started: what a lost guardian has left behind, and, for
//! process 1 of a container, every orphan there is.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::spawner::Orphans;
use crate::interpreter;
use crate::watch::process;

/// How long one killed orphan is waited for.
const ORPHAN_TIMEOUT: Duration = Duration::from_millis(100);

/// How long orphans of a lost guardian are chased.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Reaps dead children that are neither guardians, which `is_known` says, nor probed interpreters,
/// which have somebody else who waits for them. Those that live are left alone.
pub(super) fn reap_strays(is_known: impl Fn(u32) -> bool) {
    // While this is held no probe can be started, and so none is unknown.
    let probed = interpreter::probed();
    for pid in children_of_this_process() {
        let number = u32::try_from(pid.as_raw()).unwrap_or(0);
        if !is_known(number) && !probed.contains(&number) {
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// A guardian that was lost with its tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    /// Its process id.
    pub(super) guardian: u32,
    /// When it was started, in the kernel's ticks, if that is known.
    pub(super) started: Option<u64>,
    /// What is to be taken for its tree.
    pub(super) which: Orphans,
}

/// What is known of a child that may be one of a lost tree.
#[derive(Clone, Copy, Debug)]
struct Child {
    session: Option<Pid>,
    started: Option<u64>,
}

impl Lost {
    /// Kills what it left behind. This process is a subreaper, so such orphans are its children.
    pub(super) fn sweep(self, is_known: impl Fn(u32) -> bool) {
        let own_session = getsid(None).ok();
        let deadline = Instant::now() + SWEEP_TIMEOUT;
        while Instant::now() < deadline {
            // A builder's guardian has a session of its own, and is nobody's orphan.
            let probed = interpreter::probed().clone();
            let is_orphan = |pid: &Pid| {
                let number = u32::try_from(pid.as_raw()).unwrap_or(0);
                let session = getsid(Some(*pid)).ok();
                let child = Child { session, started: process::started(number) };
                let is_ours = is_known(number) || probed.contains(&number);
                !is_ours && self.has_left(child, own_session)
            };
            let orphans: Vec<_> =
                children_of_this_process().into_iter().filter(is_orphan).collect();
            if orphans.is_empty() {
                return;
            }
            for pid in orphans {
                // An unreaped child of ours: its number cannot have been given to a stranger.
                let _ = kill(pid, Signal::SIGKILL);
                reap_within(pid, ORPHAN_TIMEOUT);
            }
        }
        tracing::error!("processes of a lost guardian would not die");
    }

    /// Whether a child is of the lost tree: it is if it is in the guardian's session, and it may be
    /// if it has made its own. It is not if it is older than the guardian, as what others have left
    /// to process 1 of a container may be.
    fn has_left(self, child: Child, own_session: Option<Pid>) -> bool {
        let lost_session = i32::try_from(self.guardian).ok().map(Pid::from_raw);
        if child.session == lost_session {
            return true;
        }
        let is_older =
            child.started.zip(self.started).is_some_and(|(its, guardians)| its < guardians);
        self.which == Orphans::All && child.session != own_session && !is_older
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

/// Every child of every thread of this process.
fn children_of_this_process() -> Vec<Pid> {
    let numbers = process::children("self").into_iter();
    numbers.filter_map(|number| i32::try_from(number).ok()).map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_guardians_tree_is_told_from_older_orphans_of_others_f018() {
        let own = Some(Pid::from_raw(1));
        let of = |which, session, started| {
            let child = Child { session: Some(Pid::from_raw(session)), started: Some(started) };
            Lost { guardian: 7, started: Some(100), which }.has_left(child, own)
        };
        for which in [Orphans::All, Orphans::OfItsSession] {
            assert!(of(which, 7, 100) && of(which, 7, 200), "its own session");
            assert!(!of(which, 1, 200), "this process's session");
            assert!(!of(which, 40, 99), "it was there before the guardian");
        }
        assert!(of(Orphans::All, 40, 150) && !of(Orphans::OfItsSession, 40, 150));
    }
}
