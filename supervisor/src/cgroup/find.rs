//! Where this process's own group is, from what `/proc` says.

use std::path::{Path, PathBuf};

/// The directory of this process's group of version 2; none where there is none, or where it is
/// not below what is mounted here.
pub fn own() -> Option<PathBuf> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    own_in(&cgroup, &mountinfo)
}

fn own_in(cgroup: &str, mountinfo: &str) -> Option<PathBuf> {
    let path = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split_ascii_whitespace().next()? != "cgroup2" {
            return None;
        }
        let mut fields = before.split_ascii_whitespace().skip(3);
        let (root, mount) = (unescape(fields.next()?), unescape(fields.next()?));
        let below = path.strip_prefix(&root).ok()?;
        Some(Path::new(&mount).join(below))
    })
}

/// Spaces and the like are three octal digits behind a backslash, each.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let digits = rest.get(at + 1..at + 4);
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: &str = "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_where_its_mount_is() {
        let found = |cgroup, mounts| own_in(cgroup, mounts).map(|path| path.display().to_string());
        let wanted = Some("/sys/fs/cgroup/system.slice/clutch.service".to_owned());
        assert_eq!(wanted, found("0::/system.slice/clutch.service\n", MOUNT));
        let hybrid = "31 1 0:27 / /sys/fs/cgroup/unified rw - cgroup2 x rw\n";
        let wanted = Some("/sys/fs/cgroup/unified/a".to_owned());
        assert_eq!(wanted, found("4:memory:/b\n0::/a\n", hybrid));
        let inside = "31 1 0:27 /docker/7 /sys/fs/cgroup\\040x rw - cgroup2 x rw\n";
        assert_eq!(Some("/sys/fs/cgroup x/a".to_owned()), found("0::/docker/7/a\n", inside));
        assert_eq!(None, found("0::/docker/8\n", inside));
        assert_eq!(None, found("4:memory:/b\n", MOUNT));
        assert_eq!(None, found("0::/a\n", "31 1 0:27 / /sys rw - sysfs x rw\n"));
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!("a\\9 b\\", unescape("a\\9\\040b\\"));
    }
}
