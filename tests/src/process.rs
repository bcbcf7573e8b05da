//! What `/proc` says: who lives, who is whose child, what a process holds. Read-only, and every
//! process may vanish between two reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::wait::{park, wait_for};

/// The variable that marks every process a test's daemon brought into the world: the daemon is
/// started with it, and everything below inherits it.
pub const TOKEN_VARIABLE: &str = "TEST_OF_CLUTCH_TOKEN";

/// Linux reports processor time in hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: u64 = 100;

/// One process, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// `R`, `S`, `D`, `T`, `Z`…
    pub state: char,
    /// Its command line, cut to what a person can read.
    pub command: String,
}

impl Process {
    /// The process with this id, if there is one.
    pub fn find(pid: u32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in parentheses and may hold any character: the last one ends it.
        let (head, tail) = stat.rsplit_once(')')?;
        let mut fields = tail.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let command = match line.trim_end() {
            "" => head.split_once('(').map_or("", |(_, name)| name).to_owned(),
            line => line.chars().take(160).collect(),
        };
        Some(Process { pid, parent, state, command })
    }

    /// Whether it ended and was not waited for yet.
    pub fn is_zombie(&self) -> bool {
        self.state == 'Z'
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { pid, parent, state, command } = self;
        write!(f, "{pid} (parent {parent}, {state}) {command}")
    }
}

/// Every process of this machine.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc can be read");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::find)
        .collect()
}

/// Everything below `root`, zombies included, itself not.
pub fn descendants(root: u32) -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        next.extend(below.iter().map(|process| process.pid));
        found.extend(below);
    }
    found
}

/// Every living process whose environment holds the token. Zombies have no environment any more:
/// look for them among the [`descendants`].
pub fn with_token(token: &str) -> Vec<Process> {
    let mark = format!("{TOKEN_VARIABLE}={token}");
    let marked = |process: &Process| {
        fs::read(format!("/proc/{}/environ", process.pid)).is_ok_and(|environment| {
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
    };
    all().into_iter().filter(marked).collect()
}

/// Whether a process with this id lives; a zombie does not.
pub fn alive(pid: u32) -> bool {
    Process::find(pid).is_some_and(|process| !process.is_zombie())
}

/// Stops a process of ours, and waits until it stands still.
#[track_caller]
pub fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    wait_for(&format!("process {pid} stands still"), Duration::from_secs(10), || {
        Process::find(pid).is_none_or(|process| process.state == 'T')
    });
}

/// SIGKILL, for a process of ours.
pub fn kill(pid: u32) {
    signal(pid, Signal::SIGKILL);
}

/// Any signal, for a process of ours; that it is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    let _ = nix::sys::signal::kill(pid_of(pid), signal);
}

/// The type nix wants.
pub fn pid_of(pid: u32) -> Pid {
    assert!(pid > 1, "0, 1 and negative ids mean other processes than one of ours");
    Pid::from_raw(pid.try_into().expect("Linux process ids fit 31 bits"))
}

/// The environment a process was started with, as `NAME=value`.
pub fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let entries = bytes.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
}

/// The descriptors of a process and what each is, as the kernel names it.
pub fn descriptor_list(pid: u32) -> BTreeMap<u32, String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.parse().ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// Whether a descriptor of a process stays behind when it executes another program.
pub fn closes_on_exec(pid: u32, descriptor: u32) -> bool {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & nix::fcntl::OFlag::O_CLOEXEC.bits() != 0)
}

/// How many descriptors of each kind a process has open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Descriptors(pub BTreeMap<&'static str, usize>);

impl Descriptors {
    /// Counts them now.
    pub fn of(pid: u32) -> Descriptors {
        let mut kinds = BTreeMap::new();
        for target in descriptor_list(pid).values() {
            *kinds.entry(descriptor_kind(target)).or_default() += 1;
        }
        Descriptors(kinds)
    }

    /// All of them.
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// The kinds of which there are more than in `baseline`, in words.
    pub fn more_than(&self, baseline: &Descriptors) -> Vec<String> {
        let before = |kind: &str| baseline.0.get(kind).copied().unwrap_or(0);
        let more = self.0.iter().filter(|(kind, count)| **count > before(kind));
        more.map(|(kind, count)| format!("{kind}: {} before, {count} now", before(kind))).collect()
    }
}

fn descriptor_kind(target: &str) -> &'static str {
    match target {
        _ if target.starts_with("socket:") => "socket",
        _ if target.starts_with("pipe:") => "pipe",
        _ if target.starts_with("/memfd:") => "memfd",
        _ if target.contains("[pidfd]") => "pidfd",
        _ => "other",
    }
}

/// The bytes of memory only this process holds (anonymous and shared memory). Pages of its own
/// program file, which come in as code is first run, are no growth.
pub fn memory_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    1024 * (kib("RssAnon:").unwrap_or(0) + kib("RssShmem:").unwrap_or(0))
}

/// The share of one processor a process used during `span`, in percent.
pub fn cpu_percent(pid: u32, span: Duration) -> u64 {
    let (begun, before) = (Instant::now(), cpu_ticks(pid));
    while let Some(rest) = span.checked_sub(begun.elapsed()).filter(|rest| !rest.is_zero()) {
        park(rest);
    }
    let ticks = cpu_ticks(pid).saturating_sub(before);
    let millis = u64::try_from(begun.elapsed().as_millis()).expect("spans here are short");
    ticks * 1000 * 100 / TICKS_PER_SECOND / millis.max(1)
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let tail = stat.rsplit_once(')').map_or("", |(_, tail)| tail);
    // Fields 14 and 15 of proc(5), counted from the state, which is field 3.
    tail.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// The names in `/dev/shm` that no living process has open or mapped: what was forgotten there.
pub fn abandoned_shared_memory() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/dev/shm") else {
        return BTreeSet::new();
    };
    let names: BTreeSet<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    if names.is_empty() {
        return names;
    }
    let held: String = all()
        .iter()
        .map(|process| {
            let maps = fs::read_to_string(format!("/proc/{}/maps", process.pid));
            let open = descriptor_list(process.pid).into_values().collect::<Vec<_>>();
            maps.unwrap_or_default() + &open.join("\n")
        })
        .collect();
    let is_held =
        |name: &String| held.contains(&*Path::new("/dev/shm").join(name).to_string_lossy());
    names.into_iter().filter(|name| !is_held(name)).collect()
}
