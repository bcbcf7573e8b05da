//! Joining a cgroup of version 2 before anything else.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clutch_protocol::message::{Exit, Signal, Spawn};
use nix::errno::Errno;

use crate::harness::{Guardian, children, spawn};

/// A cgroup of a test's own, below the mount's root.
struct Group(PathBuf);

impl Group {
    fn make(name: &str) -> Option<Group> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let of_two = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let mount = Path::new(of_two.split_ascii_whitespace().nth(4)?);
        let path = mount.join(format!("clutch-shim-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Group(path))
    }

    fn members(&self) -> String {
        fs::read_to_string(self.0.join("cgroup.procs")).unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn python_joins_its_cgroup_and_its_guardian_does_not_f018() {
    let Some(group) = Group::make("join") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: no cgroup of version 2 can be made here");
        return;
    };
    let cgroup = group.0.to_str().unwrap().into();
    let mut guardian = Guardian::start(Spawn { cgroup, ..spawn("/bin/sleep", &["1000"]) });
    let pid = guardian.spawned();
    assert_eq!(vec![pid], children(guardian.pid()));
    assert_eq!(format!("{pid}\n"), group.members());
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    guardian.swept();
    fs::remove_dir(&group.0).expect("nobody is in it any more");
}

#[test]
fn a_cgroup_that_cannot_be_joined_is_said_and_python_runs_f147() {
    for (path, errno) in [("/nowhere", Errno::ENOENT), ("/proc/self/stat", Errno::ENOTDIR)] {
        let cgroup = path.into();
        let mut guardian = Guardian::start(Spawn { cgroup, ..spawn("/bin/sleep", &["1000"]) });
        let (pid, found) = guardian.spawned_in_group();
        assert_eq!(vec![pid], children(guardian.pid()));
        assert_eq!(errno as i32, found);
        guardian.order(Signal::Kill);
        assert_eq!(Exit::Signal(9), guardian.exited().exit);
        guardian.swept();
    }
    // Whoever fails for another reason besides, fails for that.
    let cgroup = "/nowhere".into();
    let mut guardian = Guardian::start(Spawn { cgroup, ..spawn("/bin/nothing", &[]) });
    assert_eq!(Errno::ENOENT as i32, guardian.spawn_failed().errno);
    guardian.gone();
}
