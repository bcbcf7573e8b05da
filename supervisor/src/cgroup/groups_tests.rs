//! The tree of groups, played by plain files: what is written where, and that nothing is left.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

use super::*;

/// Files of a group of the kernel's, as far as they matter here.
const FILES: [&str; 6] = [
    "cgroup.procs",
    "cgroup.kill",
    "cgroup.subtree_control",
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
];

/// A tree of plain files: a new group has its files, and one with a member is not removed.
#[derive(Debug, Default)]
struct Plain {
    /// What the system refuses to have written.
    refused: Mutex<BTreeSet<&'static str>>,
}

impl Tree for Plain {
    fn make(&self, group: &Path) -> io::Result<()> {
        fs::create_dir(group)?;
        FILES.iter().try_for_each(|name| fs::write(group.join(name), ""))
    }

    fn remove(&self, group: &Path) -> io::Result<()> {
        if !fs::read_to_string(group.join("cgroup.procs"))?.is_empty() {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if fs::read_dir(group)?.flatten().any(|entry| entry.path().is_dir()) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        fs::remove_dir_all(group)
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(file)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        let name = file.file_name().unwrap().to_str().unwrap();
        if self.refused.lock().unwrap().contains(name) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let parent = file.parent().unwrap();
        if name == "cgroup.kill" {
            fs::write(parent.join("cgroup.procs"), "")?;
        }
        if name == "cgroup.procs" {
            // A process is in one group at a time.
            for group in [parent.parent().unwrap(), &parent.join(OWN_LEAF)] {
                let _ = fs::write(group.join("cgroup.procs"), "");
            }
        }
        fs::OpenOptions::new().write(true).truncate(true).open(file)?;
        fs::write(file, text)
    }
}

/// A group of this process's own, with memory to pass on.
fn own(controllers: &str) -> (tempfile::TempDir, Arc<Plain>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    for name in FILES {
        fs::write(path.join(name), "").unwrap();
    }
    fs::write(path.join("cgroup.events"), "populated 1\n").unwrap();
    fs::write(path.join("cgroup.controllers"), controllers).unwrap();
    fs::write(path.join("cgroup.procs"), "7\n").unwrap();
    (dir, Arc::default())
}

/// What directories are there.
fn groups_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text(file: PathBuf) -> String {
    fs::read_to_string(file).unwrap()
}

#[test]
fn the_daemon_moves_down_and_passes_memory_on_f028() {
    let (dir, tree) = own("cpu memory pids\n");
    let own = dir.path().to_owned();
    let groups = Groups::in_own(tree, own.clone(), "clutch-7-1".into(), 7).unwrap();
    assert!(groups.without_memory().is_none());
    assert_eq!(vec!["clutch-7-1", "clutch-daemon"], groups_in(&own));
    assert_eq!("7", text(own.join("clutch-daemon/cgroup.procs")));
    assert_eq!("", text(own.join("cgroup.procs")));
    assert_eq!("+memory", text(own.join("cgroup.subtree_control")));
    assert_eq!("+memory", text(own.join("clutch-7-1/cgroup.subtree_control")));

    let group = groups.make("a.0-1", Some(1 << 20)).unwrap();
    assert!(group.counts_memory() && group.path().ends_with("clutch-7-1/a.0-1.0"));
    let wrote = |name: &str| text(group.path().join(name));
    let found = ["memory.max", "memory.swap.max", "memory.oom.group"].map(wrote);
    assert_eq!(["1048576", "0", "1"].map(String::from), found);
    groups.bound(group.path(), None).unwrap();
    let found = ["memory.max", "memory.swap.max", "memory.oom.group"].map(wrote);
    assert_eq!(["max", "max", "0"].map(String::from), found, "nothing of the bound is left");

    // Another of the same name is another; one without a bound is not one.
    let other = groups.make("a.0-1", None).unwrap();
    assert_ne!(group.path(), other.path());
    fs::write(other.path().join("cgroup.procs"), "8\n").unwrap();
    assert!(groups.remove(group.path()) && groups.remove(group.path()));
    assert!(!groups.remove(other.path()), "somebody is in it");
    groups.kill(other.path());
    assert!(groups.remove(other.path()));

    // What is left is removed, and the daemon is where it was.
    let left = groups.make("a.1-1", None).unwrap();
    fs::write(left.path().join("cgroup.procs"), "9\n").unwrap();
    drop(groups);
    assert_eq!(Vec::<String>::new(), groups_in(&own));
    assert_eq!("-memory", text(own.join("cgroup.subtree_control")));
    assert_eq!(std::process::id().to_string(), text(own.join("cgroup.procs")));
}

#[test]
fn what_is_not_delegated_is_left_alone_f147() {
    let (dir, tree) = own("cpu pids\n");
    let open = |tree: &Arc<Plain>| {
        Groups::in_own(tree.clone(), dir.path().to_owned(), "clutch-7-1".into(), 7)
    };
    assert!(matches!(open(&tree), Err(Unavailable::NoMemory { .. })));
    fs::write(dir.path().join("cgroup.controllers"), "memory\n").unwrap();
    fs::write(dir.path().join("cgroup.procs"), "6\n7\n8\n").unwrap();
    assert!(matches!(open(&tree), Err(Unavailable::Shared { count: 2 })));
    fs::remove_file(dir.path().join("cgroup.events")).unwrap();
    assert!(matches!(open(&tree), Err(Unavailable::Root)));
    assert_eq!(Vec::<String>::new(), groups_in(dir.path()));
    assert_eq!("", text(dir.path().join("cgroup.subtree_control")));
}

/// However far it comes, what the system refuses leaves things as they were.
#[test]
fn what_the_system_refuses_is_undone_f147() {
    for refused in ["cgroup.procs", "cgroup.subtree_control"] {
        let (dir, tree) = own("memory\n");
        tree.refused.lock().unwrap().insert(refused);
        let opened = Groups::in_own(tree, dir.path().to_owned(), "clutch-7-1".into(), 7);
        let error = opened.expect_err(refused).to_string();
        assert!(error.contains("is it delegated"), "{error}");
        assert_eq!(Vec::<String>::new(), groups_in(dir.path()), "{refused}");
    }
    // A worker whose bound is refused has no group, and its start goes on.
    let (dir, tree) = own("memory\n");
    let groups = Groups::below(tree.clone(), dir.path().to_owned(), "clutch-7-1".into()).unwrap();
    tree.refused.lock().unwrap().insert("memory.max");
    assert_eq!(None, groups.make("a.0-1", Some(1 << 20)));
    assert_eq!(Vec::<String>::new(), groups_in(&dir.path().join("clutch-7-1")));
}

#[test]
fn without_memory_a_named_directory_still_gives_groups_f147() {
    let (dir, tree) = own("\n");
    let groups = Groups::below(tree, dir.path().to_owned(), "clutch-7-1".into()).unwrap();
    assert!(matches!(groups.without_memory(), Some(Unavailable::NoMemory { .. })));
    let group = groups.make("a.0-1", Some(1 << 20)).unwrap();
    assert!(!group.counts_memory() && text(group.path().join("memory.max")).is_empty());
    assert_eq!("7\n", text(dir.path().join("cgroup.procs")), "nobody was moved");
    let nowhere = dir.path().join("nowhere");
    let missing = Groups::below(Arc::new(Plain::default()), nowhere, "clutch-7-1".into());
    assert!(matches!(missing, Err(Unavailable::Refused { .. })));
}

#[test]
fn what_a_dead_daemon_left_is_removed_and_a_living_ones_is_not_f147() {
    let (dir, tree) = own("memory\n");
    for name in ["clutch-5-50", "clutch-6-60", "clutch-6-61", "clutch-x", "other-5-50"] {
        tree.make(&dir.path().join(name)).unwrap();
    }
    let left = dir.path().join("clutch-5-50/a.0-1.0");
    tree.make(&left).unwrap();
    fs::write(left.join("cgroup.procs"), "99\n").unwrap();
    sweep(&*tree, dir.path(), |pid, start| (pid, start) == (6, 60));
    assert_eq!(vec!["clutch-6-60", "clutch-x", "other-5-50"], groups_in(dir.path()));
    // This process is one that lives.
    let own = own_name();
    tree.make(&dir.path().join(&own)).unwrap();
    sweep(&*tree, dir.path(), |pid, start| started(pid) == Some(start));
    assert!(groups_in(dir.path()).contains(&own));
}
