//! Who the guardian's children are, and how they are killed.
//!
//! Only direct children are ever signalled. The guardian alone reaps them, so the number of one
//! that is still listed cannot have been given to a stranger. A grandchild whose parent was killed
//! becomes a direct child, since the guardian is the subreaper: killing and reaping until none is
//! left reaches every descendant.
//!
//! Leaves to others: reaping (`sys`), and how long to try (`guardian`).

use std::fs;

use clutch_protocol::message::{Forward, Target};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getpid};

use crate::mercy::Mercy;

/// Sends SIGKILL to python's group and to every child. `python` must not have been reaped.
///
/// The group first: it goes down at once, forks in flight included, where one kill after another
/// would have to outrun what forks.
pub(crate) fn kill_all(python: Option<Pid>, mercy: Mercy) {
    if let Some(python) = python {
        kill_group(python, mercy);
        let _ = kill(python, Signal::SIGKILL);
    }
    for child in children() {
        if mercy.spares(child) {
            // It may have been stopped together with its group.
            let _ = kill(child, Signal::SIGCONT);
            continue;
        }
        // It may be a zombie by now, or another user's; the sweep counts who stays.
        let _ = kill(child, Signal::SIGKILL);
    }
}

/// Sends SIGKILL to python's group. `python` must not have been reaped: until then neither its
/// number nor its group's is given to anyone else.
pub(crate) fn kill_group(python: Pid, mercy: Mercy) {
    // The group is empty if python left it.
    if !mercy.kill_most_of(python) {
        let _ = killpg(python, Signal::SIGKILL);
    }
}

/// Asks python's group to end, and wakes it if it was stopped. `python` must not have been reaped.
pub(crate) fn terminate_group(python: Pid) {
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        if killpg(python, signal).is_err() {
            let _ = kill(python, signal);
        }
    }
}

/// Wakes python's group, if it was stopped. `python` must not have been reaped.
pub(crate) fn continue_group(python: Pid) {
    if killpg(python, Signal::SIGCONT).is_err() {
        let _ = kill(python, Signal::SIGCONT);
    }
}

/// Sends python, or its group, a signal of its client's. `python` must not have been reaped.
pub(crate) fn forward(python: Pid, Forward { signal, target }: Forward) {
    // Those without a name, the real-time ones, are nobody's to forward.
    let Some(signal) = i32::try_from(signal).ok().and_then(|signal| Signal::try_from(signal).ok())
    else {
        return;
    };
    match target {
        Target::Group if killpg(python, signal).is_ok() => {}
        // It has left its group, or is meant alone.
        Target::Group | Target::Process => {
            let _ = kill(python, signal);
        }
    }
}

/// Whether a process handles a signal: one that does not is ended by it.
pub(crate) fn catches(process: Pid, signal: u32) -> bool {
    let me = getpid();
    fs::read_to_string("/proc/self/status").is_ok_and(|status| is_own_namespace(&status, me))
        && fs::read_to_string(format!("/proc/{process}/status"))
            .is_ok_and(|status| mask_has(&status, "SigCgt:", signal))
}

/// Whether a mask in a `/proc/<pid>/status` holds a signal.
fn mask_has(status: &str, name: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix(name));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The children that have not been reaped; none if the system does not say.
pub(crate) fn children() -> Vec<Pid> {
    let me = getpid();
    if !fs::read_to_string("/proc/self/status").is_ok_and(|status| is_own_namespace(&status, me)) {
        return Vec::new();
    }
    listed_children(me).unwrap_or_else(|| scan(me))
}

/// The children of every thread of a process; none if the kernel was built without the lists.
pub(crate) fn listed_children(process: Pid) -> Option<Vec<Pid>> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let lists: Vec<_> = threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .collect();
    (!lists.is_empty()).then(|| lists.iter().flat_map(|list| parse_list(list)).collect())
}

/// Whether `/proc` is that of our pid namespace: that of an outer one would name us, and then our
/// children, by numbers that are strangers' here. It lists one number per namespace, outermost
/// first, and starts with its own.
fn is_own_namespace(status: &str, me: Pid) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.is_some_and(|numbers| numbers.trim() == me.to_string())
}

/// Process ids as the system lists them.
fn parse_list(list: &str) -> Vec<Pid> {
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// The same for kernels that were built without the list: reads every process's parent.
fn scan(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parent_of = |pid: i32| parse_parent(&fs::read(format!("/proc/{pid}/stat")).ok()?);
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| parent_of(*pid) == Some(parent))
        .map(Pid::from_raw)
        .collect()
}

/// The parent in a `/proc/<pid>/stat`. The name in front of it may hold any byte but the last `)`.
fn parse_parent(stat: &[u8]) -> Option<Pid> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// The signal at which the worker's python writes its stacks, as `_control.py` registers it.
pub(crate) fn stack_signal() -> i32 {
    nix::libc::SIGRTMIN() + 12
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_lie_about_its_parent() {
        assert_eq!(Some(Pid::from_raw(7)), parse_parent(b"12 (a) S 1 (b) R 7 0 0"));
        assert_eq!(Some(Pid::from_raw(7)), parse_parent(b"12 (\xff\n) R 7 0 0"));
        assert_eq!(None, parse_parent(b"12"));
        assert_eq!(None, parse_parent(b"12 (a) R"));
    }

    #[test]
    fn numbers_of_another_namespace_are_not_ours_f029() {
        let me = Pid::from_raw(7);
        assert!(is_own_namespace("Name:\tx\nNSpid:\t7\nNSpgid:\t1", me));
        assert!(!is_own_namespace("Name:\tx\nNSpid:\t7\t7\nNSpgid:\t1", me));
        assert!(!is_own_namespace("Name:\tx\nNSpid:\t4711\t7\n", me));
        assert!(!is_own_namespace("Name:\tx\n", me));
    }

    #[test]
    fn a_mask_is_read_bit_by_bit() {
        let status = "Name:\tx\nSigIgn:\t0000000000000001\nSigCgt:\t0000200000000002\n";
        assert!(mask_has(status, "SigCgt:", 2) && mask_has(status, "SigCgt:", 46));
        assert!(!mask_has(status, "SigCgt:", 1) && !mask_has(status, "SigCgt:", 45));
        assert!(mask_has(status, "SigIgn:", 1) && !mask_has("SigCgt: x", "SigCgt:", 1));
    }

    #[test]
    fn a_list_is_read_whole() {
        assert_eq!(vec![Pid::from_raw(3), Pid::from_raw(40)], parse_list("3 40 "));
        assert!(parse_list("").is_empty());
    }

    #[test]
    fn a_scan_finds_a_child_and_no_one_else() {
        #[expect(clippy::disallowed_methods, reason = "this test needs one child of its own")]
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let found = scan(getpid());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&pid));
        assert!(!found.contains(&getpid()));
    }
}
