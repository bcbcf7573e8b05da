//! Whether a worker that was ended by SIGKILL was ended by the kernel, because memory had run out.
//!
//! The kernel only counts such kills; it does not say of whom. A death is taken for one when the
//! count went up while the worker lived, and no other death was taken for that same kill.

use std::path::PathBuf;

/// Where the kernel counts, for the whole machine.
const VMSTAT: &str = "/proc/vmstat";

/// Says which deaths were the kernel's doing.
#[derive(Debug)]
pub struct OomWatch {
    counter: PathBuf,
    seen: u64,
    unclaimed: u64,
}

impl OomWatch {
    /// Counts from now on. A memory cgroup of this process counts more exactly than the machine
    /// does, since strangers are not in it.
    pub fn new() -> OomWatch {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok().and_then(|list| own(&list));
        let counter = own.filter(|file| count(file).is_some()).unwrap_or_else(|| VMSTAT.into());
        let seen = count(&counter).unwrap_or(0);
        OomWatch { counter, seen, unclaimed: 0 }
    }

    /// How many kills there were, ever: to be remembered when a worker is started.
    pub fn count(&self) -> u64 {
        count(&self.counter).unwrap_or(0)
    }

    /// Whether the death of a worker that was started when the count was `at_birth` was such a
    /// kill. One small file is read.
    pub fn claim(&mut self, at_birth: u64) -> bool {
        self.judge(self.count(), at_birth)
    }

    fn judge(&mut self, now: u64, at_birth: u64) -> bool {
        self.unclaimed += now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        let is_one = now > at_birth && self.unclaimed > 0;
        self.unclaimed -= u64::from(is_one);
        is_one
    }
}

impl Default for OomWatch {
    fn default() -> OomWatch {
        OomWatch::new()
    }
}

/// The events of this process's memory cgroup, from its list of cgroups: version 2 only, where a
/// group counts for all that are below it.
fn own(list: &str) -> Option<PathBuf> {
    let path = list.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"))
}

fn count(file: &std::path::Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kill_is_one_death_f028() {
        let mut watch = OomWatch { counter: VMSTAT.into(), seen: 5, unclaimed: 0 };
        assert!(!watch.judge(5, 5), "nothing was killed");
        assert!(watch.judge(7, 5) && watch.judge(7, 5), "two were");
        assert!(!watch.judge(7, 5), "and no third");
        assert!(!watch.judge(8, 8), "it was killed before this worker's time");
        assert!(watch.judge(8, 7), "but in that one's");
    }

    #[test]
    fn a_group_of_version_2_is_found() {
        let list = "9:memory:/x\n0::/user.slice/app\n";
        let wanted = "/sys/fs/cgroup/user.slice/app/memory.events";
        assert_eq!(Some(wanted.into()), own(list));
        assert_eq!(None, own("9:memory:/x\n"));
    }
}
