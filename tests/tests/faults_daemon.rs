//! The daemon itself: asked to stop, paused, starved, killed, left by its clients. F031, F064, F097
//! and F128 to F148.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clutch_protocol::failure::Reason;
use clutch_tests::builder::unique_token;
use clutch_tests::process::{alive, descendants, pid_of, stop};
use clutch_tests::raw::{PATIENCE, Reply, call_within, reply};
use clutch_tests::wait::try_until;
use clutch_tests::{
    Bystander, Daemon, MILLISECOND, Program, SECOND, command, kill, park, signal, skip, wait_for,
    wait_until,
};
use nix::sys::signal::{Signal, killpg};

fn json_path(path: &Path) -> String {
    serde_json::to_string(path.to_str().expect("test paths are text")).expect("a text is JSON")
}

/// Lets a time pass, for faults that are a time.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        park(10 * MILLISECOND);
    }
}

#[test]
fn f031_a_pool_that_stands_still_and_goes_on_loses_only_what_was_overdue() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(3).limit("grace", "300ms"))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let before = daemon.worker_pids("default");
    let (mut hasty, mut patient) = (daemon.raw(), daemon.raw());
    let id = hasty.next_id();
    let call = call_within(id, "default", "job_stuck:sleep", "[]", 1_500);
    hasty.send(&call).expect("the daemon reads calls");
    let overdue = daemon.wait_runs("job_stuck:sleep");
    let waits = patient.start("default", "bulk:nap", "[0.3, \"done\"]");
    daemon.wait_runs("bulk:nap");
    for pid in &before {
        stop(*pid);
    }
    let failure = hasty.finish(id).failure();
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    pass(2 * SECOND);
    for pid in &before {
        signal(*pid, Signal::SIGCONT);
    }
    assert_eq!("done", patient.finish(waits).value());
    drop((hasty, patient));
    wait_for("the overdue one is replaced", 10 * SECOND, || !alive(overdue));
    daemon.wait_ready();
    let after = daemon.worker_pids("default");
    let kept = before.iter().filter(|pid| after.contains(pid)).count();
    assert_eq!(2, kept, "{before:?} became {after:?}");
    assert_eq!(1, daemon.counter("default", "restarts"));
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// The session of a process.
fn session(pid: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let tail = stat.rsplit_once(')').map_or("", |(_, tail)| tail);
    // Field 6 of proc(5), counted from the state, which is field 3.
    tail.split_whitespace().nth(3).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[test]
fn f064_ctrl_c_at_the_daemons_terminal_reaches_the_daemon_and_no_worker() {
    for twice in [false, true] {
        let mut daemon = Daemon::builder()
            // A session of its own: what a terminal's foreground group is.
            .through(&["setsid"])
            .pool("default", |pool| pool)
            .start();
        let oracle = daemon.oracle();
        assert_eq!(daemon.pid(), session(daemon.pid()), "it leads its own session");
        for process in descendants(daemon.pid()) {
            assert_ne!(daemon.pid(), session(process.pid), "{process} hears the same terminal");
        }
        let mut client = daemon.raw();
        let seconds = if twice { 1000.0 } else { 1.0 };
        let id = client.start("default", "bulk:nap", &format!("[{seconds}, \"done\"]"));
        daemon.wait_runs("bulk:nap");
        let begun = Instant::now();
        killpg(pid_of(daemon.pid()), Signal::SIGINT).expect("it is a group");
        if twice {
            daemon.wait_for_log("stopping", 10 * SECOND);
            killpg(pid_of(daemon.pid()), Signal::SIGINT).expect("it is a group");
            let failure = client.finish(id).failure();
            let fits =
                matches!(failure.reason, Reason::ShuttingDown { .. } | Reason::WorkerDied(_));
            assert!(fits, "{failure}");
        } else {
            assert_eq!("done", client.finish(id).value());
        }
        drop(client);
        assert_eq!(0, daemon.wait_exit(10 * SECOND), "{}", daemon.log());
        assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
        let left = oracle.violations_after_stop(&daemon);
        assert!(left.is_empty(), "{left:#?}");
    }
}

#[test]
fn f097_what_a_killed_client_has_sent_is_cancelled_and_its_workers_are_free() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool.workers(2).limit("interrupt", "5s")).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let marks = daemon.tmp().join("marks");
    let items = daemon.tmp().write("items", format!("{}\n", json_path(&marks)).repeat(100));
    let stdin = fs::File::open(items).expect("it was written");
    let words = ["map", "--chunk=1", "job_stuck:hold", "--input", "-"];
    let mut client = daemon.command(words).spawn(stdin.into(), Stdio::null(), Stdio::null());
    let lines = || fs::read_to_string(&marks).unwrap_or_default();
    wait_for("two calls run", 20 * SECOND, || lines().matches("taken").count() == 2);
    let mut other = daemon.raw();
    for _ in 0..98 {
        other.start("default", "job_stuck:hold", &format!("[{}]", json_path(&marks)));
    }
    wait_for("many wait", 20 * SECOND, || daemon.status().pools[0].queued >= 98);
    // To the daemon, a client that is killed and one that hangs up are the same.
    drop(other);
    kill(client.id());
    let killed = Instant::now();
    let status = command::wait(&mut client, 5 * SECOND).expect("it was killed");
    assert_eq!(Some(9), status.signal());
    wait_for("nothing of it waits or runs", 5 * SECOND, || {
        let pool = daemon.status().pools.remove(0);
        pool.queued + pool.running == 0
    });
    assert!(killed.elapsed() < 5 * SECOND, "{:?}", killed.elapsed());
    wait_until("both have tidied up, and no other began", 5 * SECOND, || {
        let lines = lines();
        match (lines.matches("taken").count(), lines.matches("released").count()) {
            (2, 2) => Ok(()),
            _ => Err(lines),
        }
    });
    daemon.wait_ready();
    let mut after = daemon.worker_pids("default");
    after.sort_unstable();
    let mut before = before;
    before.sort_unstable();
    assert_eq!(before, after, "a worker was lost with the client");
    oracle.judge(daemon);
}

#[test]
fn f128_a_stop_under_load_finishes_what_runs_and_refuses_what_waits() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let mut clients: Vec<_> = (0..8).map(|_| daemon.raw()).collect();
    for client in &mut clients {
        for _ in 0..4 {
            client.start("default", "bulk:nap", "[0.7, \"done\"]");
        }
    }
    wait_for("two run and thirty wait", 20 * SECOND, || {
        let pool = daemon.status().pools.remove(0);
        (pool.running, pool.queued) == (2, 30)
    });
    daemon.signal(Signal::SIGTERM);
    let (mut done, mut refused) = (0, 0);
    for client in &mut clients {
        for _ in 0..4 {
            match reply(&client.read(PATIENCE).expect("every call is answered")) {
                Reply::Value(value) => {
                    assert_eq!("done", value);
                    done += 1;
                }
                Reply::Failed(failure) => {
                    assert!(matches!(failure.reason, Reason::ShuttingDown { .. }), "{failure}");
                    assert!(!failure.started, "{failure}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((2, 30), (done, refused));
    drop(clients);
    assert_eq!(0, daemon.wait_exit(10 * SECOND), "{}", daemon.log());
    let left = oracle.violations_after_stop(&daemon);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn f128_a_second_signal_does_not_wait_for_anything_and_a_third_changes_nothing() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let stuck = ["job_stuck:ignore_everything", "job_stuck:hold_gil_in_a_loop"];
    for function in stuck {
        client.start("default", function, "[]");
        daemon.wait_runs(function);
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("stopping", 10 * SECOND);
    assert!(daemon.status().daemon.state == "stopping", "calls still run");
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGTERM);
    for _ in stuck {
        let failure = reply(&client.read(PATIENCE).expect("every call is answered")).failure();
        assert!(failure.started, "{failure}");
        let fits = matches!(failure.reason, Reason::ShuttingDown { .. } | Reason::WorkerDied(_));
        assert!(fits, "{failure}");
    }
    drop(client);
    assert_eq!(0, daemon.wait_exit(10 * SECOND), "{}", daemon.log());
    assert!(begun.elapsed() < 4 * SECOND, "it took {:?}", begun.elapsed());
    let left = oracle.violations_after_stop(&daemon);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn f134_a_daemon_that_stood_still_kills_no_worker_for_it() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(3)).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let mut client = daemon.raw();
    // One ends while nobody listens, the other later.
    let short = client.start("default", "bulk:nap", "[0.5, \"short\"]");
    let long = client.start("default", "bulk:nap", "[4, \"long\"]");
    wait_for("both run", 20 * SECOND, || daemon.status().pools[0].running == 2);
    stop(daemon.pid());
    pass(3 * SECOND);
    daemon.signal(Signal::SIGCONT);
    assert_eq!("short", client.finish(short).value());
    assert_eq!("long", client.finish(long).value());
    drop(client);
    assert_eq!(before, daemon.worker_pids("default"), "a worker was replaced");
    assert_eq!(0, daemon.counter("default", "restarts"));
    oracle.judge(daemon);
}

#[test]
fn f139_what_a_killed_daemon_left_is_cleared_away_and_no_stranger_harmed() {
    let mut first = Daemon::builder().pool("default", |pool| pool).start();
    let socket = first.socket().to_owned();
    first.signal(Signal::SIGKILL);
    assert_eq!(137, first.wait_exit(5 * SECOND));
    first.assert_swept(2 * SECOND);
    assert!(socket.exists(), "a killed daemon cannot remove its socket");
    // The number of the dead daemon may be a stranger's by now, and its files may tell it.
    let mut stranger =
        Program::new("sleep").args(["1000"]).spawn(Stdio::null(), Stdio::null(), Stdio::null());
    for entry in fs::read_dir(socket.parent().expect("it is in a directory")).expect("readable") {
        let path = entry.expect("it can be listed").path();
        let told = fs::read_to_string(&path).unwrap_or_default();
        if told.contains(&first.pid().to_string()) {
            let forged = told.replace(&first.pid().to_string(), &stranger.id().to_string());
            fs::write(&path, forged).expect("it is ours");
        }
    }
    let second = Daemon::builder().pool("default", |pool| pool).socket(&socket).start();
    let oracle = second.oracle();
    assert_eq!(3.0, second.raw().call("default", "math:sqrt", "[9]").value());
    let ended = stranger.try_wait().expect("our own child can be waited for");
    assert!(ended.is_none(), "a stranger was killed for its number: {ended:?}");
    kill(stranger.id());
    command::wait(&mut stranger, 5 * SECOND).expect("it was killed");
    oracle.judge(second);
    assert!(!socket.exists());
}

#[test]
fn f140_status_is_at_once_and_true_while_every_worker_is_stuck() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(3)).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let stuck = ["job_stuck:hold_gil_in_a_loop", "job_stuck:sleep", "job_stuck:spin"];
    for function in stuck {
        client.start("default", function, "[]");
        daemon.wait_runs(function);
    }
    stop(daemon.wait_runs("job_stuck:sleep"));
    let mut observer = daemon.raw();
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let pool = observer.status().expect("it answers").pools.remove(0);
        best = best.min(begun.elapsed());
        let ready = pool.workers.iter().filter(|worker| worker.state == "ready").count();
        assert_eq!((3, 3, 0), (pool.running, pool.workers.len(), ready), "{pool:?}");
        let mut shown: Vec<_> =
            pool.workers.iter().filter_map(|worker| worker.function.clone()).collect();
        shown.sort_unstable();
        assert_eq!(stuck[..], shown, "what each is doing");
    }
    assert!(best < 100 * MILLISECOND, "at best it took {best:?}");
    drop((client, observer));
    daemon.wait_ready();
    oracle.judge(daemon);
}

/// A control group with a share of the processor, as version 1 of control groups has it.
struct Quota(PathBuf);

impl Quota {
    const ROOT: &str = "/sys/fs/cgroup/cpu";

    /// None where there is no such thing.
    fn new(percent: u32) -> Option<Quota> {
        let dir = Path::new(Quota::ROOT).join(format!("clutch-test-{}", unique_token()));
        fs::create_dir(&dir).ok()?;
        let quota = Quota(dir);
        fs::write(quota.0.join("cpu.cfs_period_us"), "100000").ok()?;
        fs::write(quota.0.join("cpu.cfs_quota_us"), (percent * 1000).to_string()).ok()?;
        Some(quota)
    }

    fn take(&self, pid: u32) {
        // A short-lived one may have ended just now.
        let _ = fs::write(self.0.join("cgroup.procs"), pid.to_string());
    }

    fn release(&self) {
        let left = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines() {
            let _ = fs::write(Path::new(Quota::ROOT).join("cgroup.procs"), pid);
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let emptied = try_until(5 * SECOND, || {
            self.release();
            fs::remove_dir(&self.0)
        });
        if !std::thread::panicking() {
            emptied.expect("an empty group can be removed");
        }
    }
}

#[test]
fn f145_workers_that_starve_for_processor_time_are_slow_and_not_killed() {
    let Some(quota) = Quota::new(5) else {
        skip!("needs root and the control group 'cpu' (version 1) with quotas");
    };
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    quota.take(daemon.pid());
    for process in descendants(daemon.pid()) {
        quota.take(process.pid);
    }
    // Alone it takes some 50 ms of a processor, and here twenty times that.
    let mut clients = [daemon.raw(), daemon.raw()];
    let begun = Instant::now();
    for _ in 0..2 {
        let ids = clients.each_mut().map(|client| {
            client.start("default", "builtins:sum", "[[1, 2, 3]]");
            client.start("default", "faults:work", "[50]")
        });
        for (client, id) in clients.iter_mut().zip(ids) {
            assert_eq!(6, client.finish(id - 1).value());
            assert_eq!("worked", client.finish(id).value());
        }
    }
    assert!(begun.elapsed() > SECOND, "nobody starved: {:?}", begun.elapsed());
    assert_eq!(before, daemon.worker_pids("default"), "a slow worker was replaced");
    assert_eq!(0, daemon.counter("default", "restarts"));
    quota.release();
    drop(clients);
    oracle.judge(daemon);
    drop(quota);
}

#[test]
fn f148_more_workers_than_there_can_be_descriptors_are_refused_with_numbers() {
    let begun = Instant::now();
    let output = Daemon::builder()
        .through(&["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""])
        .pool("default", |pool| pool.workers(500))
        .try_start()
        .map(|daemon| daemon.log())
        .expect_err("they do not fit")
        .expect_code(8);
    for text in ["500", "256"] {
        assert!(output.stderr.contains(text), "no {text:?} in: {}", output.stderr);
    }
    assert!(begun.elapsed() < 20 * SECOND, "{:?}", begun.elapsed());
    // A soft limit alone is no obstacle.
    let daemon = Daemon::builder()
        .through(&["sh", "-c", "ulimit -S -n 64; exec \"$0\" \"$@\""])
        .pool("default", |pool| pool.workers(10))
        .start();
    let oracle = daemon.oracle();
    assert_eq!(10, daemon.worker_pids("default").len());
    oracle.judge(daemon);
}
