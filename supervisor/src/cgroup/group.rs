//! One worker's group.

use std::fs;
use std::path::Path;
use std::sync::Arc;

/// A worker's group, for as long as somebody wants to read it. It is removed by [`super::Groups`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub(super) path: Arc<Path>,
    /// Whether the kernel accounts for its memory.
    pub(super) counts_memory: bool,
}

/// What the kernel has counted in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ooms {
    /// Processes of it that were killed because memory had run out, its own or the machine's.
    pub kills: u64,
    /// How often its own bound was what ran out.
    pub own: u64,
}

impl Ooms {
    /// What came on top of an older count.
    #[must_use]
    pub const fn since(self, before: Ooms) -> Ooms {
        Ooms {
            kills: self.kills.saturating_sub(before.kills),
            own: self.own.saturating_sub(before.own),
        }
    }
}

impl Group {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the kernel accounts for its memory, and so can keep a bound of it.
    pub fn counts_memory(&self) -> bool {
        self.counts_memory
    }

    /// What was counted; none where nothing is. One small file is read.
    pub fn ooms(&self) -> Option<Ooms> {
        parse_ooms(&fs::read_to_string(self.path.join("memory.events")).ok()?)
    }

    /// The most it ever held, the kernel's copies of files included; none where that is not known.
    pub fn peak_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.path.join("memory.peak")).ok()?.trim().parse().ok()
    }

    /// What it holds now, without copies of files, which the kernel drops when it needs the room.
    /// May take long; not for the data plane.
    pub fn held_bytes(&self) -> Option<u64> {
        let current = fs::read_to_string(self.path.join("memory.current")).ok()?;
        let stat = fs::read_to_string(self.path.join("memory.stat")).ok()?;
        Some(held(current.trim().parse().ok()?, &stat))
    }
}

fn parse_ooms(events: &str) -> Option<Ooms> {
    let value = |name: &str| field(events, name);
    Some(Ooms { kills: value("oom_kill")?, own: value("oom")? })
}

fn held(current: u64, stat: &str) -> u64 {
    let files = ["inactive_file", "active_file"];
    let files: u64 = files.iter().filter_map(|name| field(stat, name)).sum();
    current.saturating_sub(files)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let mut fields = text.lines().filter_map(|line| line.split_once(' '));
    fields.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_bound_is_told_from_the_machines_f028() {
        let events = "low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n";
        assert_eq!(Some(Ooms { kills: 3, own: 2 }), parse_ooms(events));
        assert_eq!(None, parse_ooms("low 0\n"));
    }

    #[test]
    fn copies_of_files_do_not_count_as_held() {
        let stat = "anon 5\nfile 90\ninactive_file 60\nactive_file 30\n";
        assert_eq!(10, held(100, stat));
        assert_eq!(0, held(50, stat));
        assert_eq!(7, held(7, ""));
    }
}
