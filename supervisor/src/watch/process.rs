//! What `/proc` says of one process, and of everything below one. Every process may vanish between
//! two reads.

use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;

/// Linux reports processor time in hundredths of a second on every architecture (`USER_HZ`).
const MILLIS_PER_TICK: u64 = 10;

/// How many processes of one tree are counted: more is a fork bomb, and has no use for a sum.
const TREE_PROCESSES_MAX: usize = 4096;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// `R`, `S`, `D`, `T`: what its main thread is doing.
    pub state: char,
    /// Processor time of the whole process, in milliseconds; grows in steps of ten.
    pub cpu_ms: u64,
    /// Processor time of its main thread, in nanoseconds; 0 where the kernel does not say.
    pub main_ns: u64,
    /// The memory it holds, in bytes.
    pub rss_bytes: u64,
}

/// Looks at a process; none when it is gone.
pub fn look(pid: u32) -> Option<Look> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let mut look = parse_stat(&stat)?;
    let first = schedstat.split_ascii_whitespace().next();
    look.main_ns = first.and_then(|ns| ns.parse().ok()).unwrap_or(0);
    look.rss_bytes = rss_bytes(pid);
    Some(look)
}

/// Whether a process has ended or is about to. The kernel takes its memory away before it closes
/// its files, so one that has closed its sockets by dying is always seen to end.
pub fn is_ending(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/statm")) {
        Ok(statm) => statm.starts_with("0 "),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

/// When a process was started, in the kernel's ticks; none when it is not there.
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The memory that everything below `root` holds, in bytes. Processes that share memory are counted
/// fairly, which takes a while, only if the plain sum is above `bound`.
pub fn tree_bytes(root: u32, bound: u64) -> u64 {
    let mut found = Vec::new();
    let mut next = children(root);
    while let Some(pid) = next.pop() {
        if found.len() >= TREE_PROCESSES_MAX {
            break;
        }
        found.push(pid);
        next.extend(children(pid));
    }
    let sum: u64 = found.iter().map(|pid| rss_bytes(*pid)).sum();
    if sum <= bound || found.len() == 1 {
        return sum;
    }
    found.iter().map(|pid| pss_bytes(*pid).unwrap_or_else(|| rss_bytes(*pid))).sum()
}

/// The name in front may hold any byte but the last `)`.
fn parse_stat(stat: &[u8]) -> Option<Look> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let fields: Vec<_> = rest.split_ascii_whitespace().collect();
    // Fields 3, 14 and 15 of proc(5).
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    Some(Look {
        state: fields.first()?.chars().next()?,
        cpu_ms: (ticks(11)? + ticks(12)?) * MILLIS_PER_TICK,
        main_ns: 0,
        rss_bytes: 0,
    })
}

fn rss_bytes(pid: u32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn pss_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The children of every thread of a process: of a number, or of `self`.
pub fn children(process: impl Display) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    let lists =
        tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_cannot_lie_about_its_state() {
        let stat = b"7 (a) T 1 (b) R 1 1 1 0 -1 4194304 1 0 0 0 12 30 0 0 20 0 1 0 1 1 1";
        let look = parse_stat(stat).unwrap();
        assert_eq!(('R', 420), (look.state, look.cpu_ms));
        assert_eq!(None, parse_stat(b"7"));
    }

    #[test]
    fn this_process_is_seen() {
        let look = look(std::process::id()).unwrap();
        assert!(look.rss_bytes > 1 << 20 && "RSD".contains(look.state), "{look:?}");
        assert!(super::look(u32::MAX).is_none());
        assert_eq!([false, true], [std::process::id(), u32::MAX].map(is_ending));
    }
}
