//! Workers in groups of the kernel's (cgroups of version 2). Whether the kernel hands the memory
//! controller out there is not for a test to choose: what needs it is tested on plain files, in the
//! supervisor; here are membership, killing, and that nothing is left.

use std::fs;
use std::path::{Path, PathBuf};

use clutch_tests::command::Program;
use clutch_tests::process::{Process, alive, pid_of};
use clutch_tests::{Builder, Daemon, SECOND, kill, wait_for, wait_until};
use nix::sys::signal::Signal;

/// A group of a test's own.
struct Place(PathBuf);

impl Place {
    /// None where none can be made.
    fn make(name: &str) -> Option<Place> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let of_two = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
        let mount = Path::new(of_two.split_ascii_whitespace().nth(4)?);
        let path = mount.join(format!("clutch-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Place(path))
    }

    fn daemon(&self) -> Builder {
        Daemon::builder().daemon_key("cgroup", self.0.as_path())
    }

    /// Directories below it, at any depth.
    fn groups(&self) -> Vec<PathBuf> {
        groups_below(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        for group in self.groups().iter().rev().chain([&self.0]) {
            let _ = fs::remove_dir(group);
        }
    }
}

fn groups_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(groups_below(&entry.path()));
        }
    }
    found
}

/// The group of version 2 that a process is in.
fn group_of(pid: u32) -> String {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

fn guardian_of(pid: u32) -> u32 {
    Process::find(pid).expect("the worker lives").parent
}

macro_rules! place {
    ($name:literal) => {
        match Place::make($name) {
            Some(place) => place,
            None => clutch_tests::skip!("needs a cgroup2 mount where groups can be made"),
        }
    };
}

#[test]
fn each_worker_has_a_group_and_none_is_left_f018() {
    let place = place!("each");
    let mut daemon = place.daemon().pool("default", |pool| pool.workers(2)).start();
    let pids = daemon.worker_pids("default");
    let groups: Vec<_> = pids.iter().map(|pid| group_of(*pid)).collect();
    let own = format!("/clutch-{}-", daemon.pid());
    for (pid, group) in pids.iter().zip(&groups) {
        assert!(group.contains(&own) && group.contains("/default."), "{group}");
        assert_ne!(*group, group_of(guardian_of(*pid)), "its guardian reports from outside");
    }
    assert_ne!(groups[0], groups[1]);
    assert_eq!(3, place.groups().len());

    // What a worker starts is in its group, also when it has left its session.
    let child = "__import__('subprocess').Popen(['sleep', '1000'], start_new_session=True).pid";
    let client = daemon.blocking();
    let child: u32 = client.call("builtins:eval", (child,)).expect("it starts");
    assert!(groups.contains(&group_of(child)), "{}", group_of(child));

    kill(pids[0]);
    kill(pids[1]);
    wait_for("the child is gone", 5 * SECOND, || !alive(child));
    daemon.wait_ready();
    wait_until("the groups of the dead are removed", 5 * SECOND, || {
        let groups = place.groups();
        if groups.len() == 3 { Ok(()) } else { Err(groups) }
    });
    drop(client);
    assert_eq!(0, daemon.stop(20 * SECOND));
    assert_eq!(Vec::<PathBuf>::new(), place.groups());
}

#[test]
fn a_lost_guardians_tree_is_killed_by_its_group_f016() {
    let place = place!("lost");
    let daemon = place.daemon().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let child = "__import__('subprocess').Popen(['sleep', '1000'], start_new_session=True).pid";
    let client = daemon.blocking();
    let child: u32 = client.call("builtins:eval", (child,)).expect("it starts");
    let pid = daemon.worker_pids("default")[0];
    kill(guardian_of(pid));
    wait_for("nothing is left", 5 * SECOND, || !alive(pid) && !alive(child));
    drop(client);
    daemon.wait_ready();
    wait_until("its group is removed", 5 * SECOND, || {
        let groups = place.groups();
        if groups.len() == 2 { Ok(()) } else { Err(groups) }
    });
    oracle.judge(daemon);
}

#[test]
fn what_a_killed_daemon_left_is_removed_by_the_next_f147() {
    let place = place!("left");
    let mut daemon = place.daemon().pool("default", |pool| pool.workers(2)).start();
    let pids = daemon.worker_pids("default");
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit(5 * SECOND);
    wait_for("its workers are gone", 5 * SECOND, || pids.iter().all(|pid| !alive(*pid)));
    assert_eq!(3, place.groups().len(), "nobody was there to remove them");

    // And one with somebody in it, of a daemon that is long dead: no process has such a number.
    let stray = place.0.join("clutch-4194304-1").join("a.0-1.0");
    fs::create_dir_all(&stray).expect("it can be made");
    let mut sleeper = Program::new("sleep").args(["1000"]).spawn(
        std::process::Stdio::null(),
        std::process::Stdio::null(),
        std::process::Stdio::null(),
    );
    fs::write(stray.join("cgroup.procs"), sleeper.id().to_string()).expect("it can join");

    let mut next = place.daemon().pool("default", |pool| pool.workers(1)).start();
    let status = sleeper.wait().expect("it was started here");
    assert_eq!(Some(9), std::os::unix::process::ExitStatusExt::signal(&status));
    let kept = |group: &PathBuf| group.starts_with(stray.parent().expect("it is below one"));
    let of_daemons: Vec<_> = place.groups().into_iter().filter(|group| !kept(group)).collect();
    assert_eq!(2, of_daemons.len(), "{of_daemons:?}");
    assert_eq!(0, next.stop(20 * SECOND));
    assert_ne!(0, pid_of(next.pid()).as_raw());
    // It may have died too slowly for the daemon that killed it; the one after that removes it.
    let mut last = place.daemon().pool("default", |pool| pool.workers(1)).start();
    assert_eq!(0, last.stop(20 * SECOND));
    assert_eq!(Vec::<PathBuf>::new(), place.groups());
}

/// The pool's `memory_bound`, and why.
fn bound(daemon: &Daemon) -> (String, String) {
    let pool = daemon.status().pools.remove(0);
    (pool.memory_bound, pool.memory_bound_reason)
}

#[test]
fn without_groups_bounds_are_kept_by_looking_and_that_is_said_f147() {
    let bounded = |builder: Builder| {
        builder.pool("default", |pool| pool.memory("kill_above", "900MiB")).start()
    };
    for (key, reason) in
        [("off", "daemon.cgroup is \"off\""), ("/nowhere/at/all", "failed to read /nowhere/at/all")]
    {
        let daemon = bounded(Daemon::builder().daemon_key("cgroup", key));
        let oracle = daemon.oracle();
        let (how, why) = bound(&daemon);
        assert!(how == "sampling" && why.contains(reason), "{how}: {why}");
        let log = daemon.wait_for_log("kept by looking", 5 * SECOND);
        assert_eq!(1, log.matches("kept by looking").count(), "{log}");
        oracle.judge(daemon);
    }
    // Where nobody has a bound, nothing is said.
    let daemon = Daemon::builder().daemon_key("cgroup", "off").pool("default", |pool| pool).start();
    assert_eq!((String::new(), String::new()), bound(&daemon));
    assert!(!daemon.log().contains("kept by looking"), "{}", daemon.log());
    daemon.oracle().judge(daemon);
}

#[test]
fn a_group_that_cannot_be_made_costs_no_start_f147() {
    let place = place!("full");
    // The daemon's own, and one worker's.
    fs::write(place.0.join("cgroup.max.descendants"), "2").expect("root may");
    let daemon = place
        .daemon()
        .pool("default", |pool| pool.workers(2).memory("kill_above", "900MiB"))
        .start();
    let oracle = daemon.oracle();
    assert_eq!(2, place.groups().len());
    daemon.wait_for_log("a worker gets no cgroup of its own", 5 * SECOND);
    let joined = daemon.worker_pids("default").into_iter().map(group_of);
    assert_eq!(1, joined.filter(|group| group.contains("/default.")).count());
    let (how, why) = bound(&daemon);
    assert!(how == "sampling" && !why.is_empty(), "{how}: {why}");
    oracle.judge(daemon);
    assert_eq!(Vec::<PathBuf>::new(), place.groups());
}
