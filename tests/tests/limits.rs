//! What a pool asks for its processes is what they are made of: rights, limits, memory.

use std::path::Path;

use clutch_client::{Failure, Reason};
use clutch_protocol::failure::{Cause, Certificate};
use clutch_tests::config::Value;
use clutch_tests::process::alive;
use clutch_tests::{Daemon, SECOND, wait_for};
use nix::unistd::geteuid;
use serde_json::{Value as Json, json};

/// What a worker of a pool says it is made of.
#[track_caller]
fn facts(daemon: &Daemon, pool: &str) -> Json {
    let output = daemon.cli(["call", "--pool", pool, "job_limits:facts"]).expect_code(0);
    serde_json::from_str(&output.stdout).expect("it is JSON")
}

#[track_caller]
fn death(failure: Failure) -> Certificate {
    match failure.reason {
        Reason::WorkerDied(certificate) => *certificate,
        _ => panic!("{failure}"),
    }
}

fn numbers(all: &[u32]) -> Value {
    Value::from(all.iter().copied().map(Value::from).collect::<Vec<_>>())
}

#[test]
fn each_limit_is_what_python_sees_f146() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool)
        .pool("limited", |pool| {
            pool.process("nice", 5)
                .process("umask", "027")
                .process("cpus", numbers(&[0]))
                .process("open_files", 256)
                .process("address_space", "4GiB")
                .process("cpu_time", "1h")
                .process("file_size", "1GiB")
                .process("processes", 4000)
                .process("core", "1MiB")
                .process("oom_score_adj", 700)
        })
        .start();
    let oracle = daemon.oracle();
    let found = facts(&daemon, "limited");
    let wanted = json!({
        "open_files": [256, 256],
        "address_space": [4_u64 << 30, 4_u64 << 30],
        "cpu_time": [3600, 3605],
        "file_size": [1 << 30, 1 << 30],
        "processes": [4000, 4000],
    });
    let mut limits = found["limits"].clone();
    let core = limits.as_object_mut().expect("an object").remove("core").expect("it is there");
    assert_eq!((wanted, json!(1 << 20)), (limits, core[0].clone()));
    let rest = ["cpus", "nice", "umask", "oom_score_adj"].map(|name| found[name].clone());
    assert_eq!([json!([0]), json!(5), json!(0o27), json!(700)], rest);

    // Without a word, no core dumps, and the system picks a worker before the daemon.
    let found = facts(&daemon, "default");
    assert_eq!(json!(0), found["limits"]["core"][0]);
    let own = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.pid()));
    let own: i64 = own.expect("it lives").trim().parse().expect("a number");
    assert_eq!(json!((own + 500).min(1000)), found["oom_score_adj"]);
    assert_eq!("0", found["no_new_privs"]);
    oracle.judge(daemon);
}

#[test]
fn processor_time_that_is_used_up_ends_with_a_name_f007() {
    let daemon = Daemon::builder().pool("default", |pool| pool.process("cpu_time", "1s")).start();
    let oracle = daemon.oracle();
    let failure = daemon.blocking().call::<()>("job_limits:spin", ()).expect_err("it ends");
    let certificate = death(failure);
    assert_eq!("SIGXCPU", certificate.exit_name, "{certificate}");
    assert!(certificate.cpu_ms >= 900, "{certificate:?}");
    daemon.wait_ready();
    assert_eq!(1, daemon.counter("default", "deaths.signalled.SIGXCPU"));
    oracle.judge(daemon);
}

#[test]
fn workers_can_be_another_user_f148() {
    if !geteuid().is_root() {
        clutch_tests::skip!("needs root to become another user");
    }
    let system = Path::new("/usr/bin/python3");
    if !system.exists() {
        clutch_tests::skip!("needs an interpreter that other users can run: {}", system.display());
    }
    let builder = Daemon::builder();
    for dir in ["", "state"] {
        let path = builder.tmp().join(dir);
        std::fs::create_dir_all(&path).expect("a directory");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(&path, mode).expect("its mode");
    }
    let daemon = builder
        .pool("default", |pool| pool)
        .pool("other", |pool| {
            pool.key("python", system).cwd("/").process("user", "65534").process("umask", "077")
        })
        .start();
    let oracle = daemon.oracle();
    let found = facts(&daemon, "other");
    assert_eq!(json!([65_534, 65_534, 65_534]), found["uids"]);
    assert_eq!(found["gids"][0], found["gids"][2]);
    assert_ne!(json!([0, 0, 0]), found["gids"], "the group went with the user");
    assert!(!found["groups"].as_array().expect("a list").contains(&json!(0)), "{found}");
    assert_eq!("1", found["no_new_privs"]);
    assert_ne!(json!("/root"), found["home"]);
    assert_eq!(json!([0, 0, 0]), facts(&daemon, "default")["uids"]);
    assert!(daemon.log().contains("workers are root"), "{}", daemon.log());

    // Another user's tree dies with its worker, and its worker with the daemon.
    let failure = daemon.blocking().request("job_deaths:exit_now").pool("other").args((3,));
    assert_eq!("exit code 3", death(failure.send::<()>().expect_err("it ends")).exit_name);
    daemon.wait_ready();
    let pid = daemon.worker_pids("other")[0];
    oracle.judge(daemon);
    wait_for("it died with the daemon", 5 * SECOND, || !alive(pid));
}

#[test]
fn another_user_dies_with_a_killed_daemon_f025() {
    let system = Path::new("/usr/bin/python3");
    if !geteuid().is_root() || !system.exists() {
        clutch_tests::skip!("needs root, and an interpreter that other users can run");
    }
    let builder = Daemon::builder();
    let mode = |bits| std::os::unix::fs::PermissionsExt::from_mode(bits);
    std::fs::set_permissions(builder.tmp().path(), mode(0o711)).expect("its mode");
    let mut daemon = builder
        .pool("default", |pool| {
            pool.key("python", system).cwd("/").process("user", "65534").process("group", "65534")
        })
        .start();
    let worker = daemon.worker_pids("default")[0];
    daemon.signal(nix::sys::signal::Signal::SIGKILL);
    wait_for("the worker is dead", 2 * SECOND, || !alive(worker));
    assert_eq!(137, daemon.wait_exit(SECOND));
    daemon.assert_swept(SECOND);
}

#[test]
fn a_user_that_is_not_there_is_a_mistake_in_the_file_f149() {
    let started = Daemon::builder()
        .pool("default", |pool| pool.process("user", "nobody-of-this-name"))
        .try_start();
    let output = started.expect_err("it cannot start");
    assert_eq!(8, output.code);
    assert!(output.stderr.contains("no user \"nobody-of-this-name\""), "{}", output.stderr);
}

/// A memory cgroup (version 1) of a test's own.
struct Group(std::path::PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Group> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.split_once(":memory:"))?.1.to_owned();
        let root = Path::new("/sys/fs/cgroup/memory");
        let parents = [root.join(own.trim_start_matches('/')), root.to_owned()];
        let name = format!("clutch-test-{}", std::process::id());
        let at = parents.iter().map(|parent| parent.join(&name));
        let at = at.into_iter().find(|at| std::fs::create_dir(at).is_ok())?;
        let group = Group(at);
        std::fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(group)
    }

    fn add(&self, pid: u32) -> bool {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_worker_that_the_kernel_killed_for_its_memory_is_named_so_f028() {
    let Some(group) = Group::new(96 << 20) else {
        clutch_tests::skip!("needs root and a memory cgroup of version 1");
    };
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    for pid in daemon.worker_pids("default") {
        assert!(group.add(pid), "a worker can be put into the group");
    }
    let failure = daemon.blocking().call::<()>("job_limits:allocate", (300,));
    let failure = failure.expect_err("it is killed");
    let text = failure.to_string();
    assert!(text.contains("out of memory") && failure.started, "{text}");
    let certificate = death(failure);
    assert!(certificate.out_of_memory, "{certificate:?}");
    assert_eq!((Cause::OutOfMemory, "SIGKILL"), (certificate.cause, &*certificate.exit_name));
    assert!(certificate.peak_rss_bytes > 60 << 20, "{certificate:?}");
    daemon.wait_ready();
    assert_eq!(1, daemon.counter("default", "deaths.out_of_memory"));

    // The next one is killed by somebody, and is not mistaken.
    let victim = daemon.worker_pids("default")[0];
    clutch_tests::kill(victim);
    wait_for("its death is known", 10 * SECOND, || {
        daemon.counter("default", "deaths.signalled") == 1
    });
    daemon.wait_ready();
    oracle.judge(daemon);
}
