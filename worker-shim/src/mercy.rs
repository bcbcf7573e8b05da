//! Who may live a moment longer than the rest of a tree: the resource trackers of Python's
//! `multiprocessing`.
//!
//! Shared memory and named semaphores belong to no process; what a killed one leaves behind stays
//! in `/dev/shm`. Each tree that uses them has a tracker, which keeps a list, sleeps on a pipe, and
//! when the last writer of that is gone removes what is left and ends. Killed with the rest, it
//! could not. So it is given some time; after that it is killed as anybody else, and whoever only
//! looks like one gains nothing but that time.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpid};

use crate::sys;
use crate::tree::listed_children;

/// What the arguments of a tracker have in them: `multiprocessing`'s, joblib's, loky's.
const MARK: &[u8] = b"resource_tracker import main";

/// How much of a process's arguments is looked at.
const ARGUMENTS_BYTES_MAX: u64 = 4096;

/// How many are spared: a tree has one for each python in it that was started afresh.
const SPARED_MAX: usize = 16;

/// How many processes are looked at in search of them. A tree that has more is killed without.
const LOOKED_AT_MAX: usize = 1024;

/// Whether trackers are spared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mercy {
    /// They are.
    Trackers,
    /// They have had their time.
    Nobody,
}

impl Mercy {
    /// Whether a process is spared.
    pub(crate) fn spares(self, process: Pid) -> bool {
        self == Mercy::Trackers && is_tracker(process)
    }

    /// Kills python's group but for its trackers; false, and nothing was done, if it has none.
    /// `python` must not have been reaped.
    ///
    /// The group is stopped first, which hits forks in flight as SIGKILL would; so nobody in it
    /// forks or ends while one after another is killed. Who is missed stays stopped until it has
    /// become a child of ours.
    pub(crate) fn kill_most_of(self, python: Pid) -> bool {
        if self == Mercy::Nobody {
            return false;
        }
        let trackers: Vec<Pid> = descendants(getpid())
            .into_iter()
            .filter(|process| is_in(*process, python) && is_tracker(*process))
            .take(SPARED_MAX)
            .collect();
        if trackers.is_empty() || killpg(python, Signal::SIGSTOP).is_err() {
            return false;
        }
        for process in descendants(getpid()) {
            if trackers.contains(&process) {
                continue;
            }
            // Not ours to reap, so its number may become a stranger's at any time: what is opened
            // and found to be in the group after that is killed, or is dead already.
            if let Ok(handle) = sys::open_process(process)
                && is_in(process, python)
            {
                sys::kill_process(handle.as_fd());
            }
        }
        for tracker in trackers {
            // A child of python's, which stands still or is dead, or of ours. Were its number a
            // stranger's by now, that one would go on as it does.
            let _ = kill(tracker, Signal::SIGCONT);
        }
        true
    }
}

fn is_in(process: Pid, group: Pid) -> bool {
    getpgid(Some(process)) == Ok(group)
}

fn is_tracker(process: Pid) -> bool {
    let mut arguments = Vec::new();
    let Ok(file) = File::open(format!("/proc/{process}/cmdline")) else {
        return false;
    };
    let _ = file.take(ARGUMENTS_BYTES_MAX).read_to_end(&mut arguments);
    arguments.windows(MARK.len()).any(|part| part == MARK)
}

/// Everything below a process, as far as the system says.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut next = listed_children(root).unwrap_or_default();
    while let Some(process) = next.pop() {
        if found.len() >= LOOKED_AT_MAX {
            break;
        }
        found.push(process);
        next.extend(listed_children(process).unwrap_or_default());
    }
    found
}
