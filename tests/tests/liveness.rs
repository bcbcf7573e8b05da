//! What a worker is doing is told apart from outside, and nobody is killed for silence alone.

use std::collections::BTreeMap;

use clutch_client::{Failure, Reason};
use clutch_protocol::failure::Cause;
use clutch_tests::process::alive;
use clutch_tests::{Daemon, MILLISECOND, SECOND, kill, signal, wait_for, wait_until};
use nix::sys::signal::Signal;

/// A call on a thread of its own that nobody waits for.
fn leave_running(daemon: &Daemon, pool: &str, function: &str) -> std::thread::JoinHandle<Failure> {
    let client = daemon.blocking();
    let request = client.request(function).pool(pool).timeout(120 * SECOND);
    std::thread::spawn(move || request.send::<()>().expect_err("it cannot answer"))
}

#[track_caller]
fn wait_running(daemon: &Daemon, pool: &str) {
    wait_for("the call runs", 10 * SECOND, || {
        daemon.status().pools.iter().any(|found| found.name == pool && found.running == 1)
    });
}

/// The answer of a call whose worker is stopped by a signal meanwhile.
#[track_caller]
fn call_stopped(daemon: &Daemon, pool: &str) -> Result<String, Box<Failure>> {
    let pid = daemon.worker_pids(pool)[0];
    let client = daemon.blocking();
    let request = client.request("bulk:nap").pool(pool).args((1.0, "done")).timeout(30 * SECOND);
    let call = std::thread::spawn(move || request.send().map_err(Box::new));
    wait_running(daemon, pool);
    signal(pid, Signal::SIGSTOP);
    call.join().expect("a call does not panic")
}

/// What each pool's one worker is doing.
fn activities(daemon: &Daemon) -> BTreeMap<String, String> {
    let pools = daemon.status().pools.into_iter();
    pools.map(|pool| (pool.name, pool.workers[0].activity.clone())).collect()
}

#[track_caller]
fn wait_activity(daemon: &Daemon, pool: &str, wanted: &str) {
    wait_until(&format!("{pool} is {wanted}"), 20 * SECOND, || {
        let found = activities(daemon);
        if found[pool] == wanted { Ok(()) } else { Err(found) }
    });
}

#[test]
fn what_workers_do_is_told_apart_f012_f145() {
    let kinds = [
        ("spin", "job_stuck:spin", "running"),
        ("sleep", "job_stuck:sleep", "blocked"),
        ("loop", "job_stuck:hold_gil_in_a_loop", "holding_gil"),
        ("power", "job_stuck:hold_gil_in_a_power", "holding_gil"),
        ("nap", "job_stuck:hold_gil_in_a_sleep", "blocked_holding_gil"),
    ];
    let mut builder = Daemon::builder().pool("idle", |pool| pool);
    for (pool, _, _) in kinds {
        builder = builder.pool(pool, |pool| {
            pool.preload(&["job_stuck"]).liveness("after", "500ms").liveness("every", "500ms")
        });
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    let calls: Vec<_> =
        kinds.iter().map(|(pool, function, _)| leave_running(&daemon, pool, function)).collect();
    for (pool, _, wanted) in kinds {
        wait_activity(&daemon, pool, wanted);
    }
    wait_activity(&daemon, "idle", "idle");
    let status = daemon.status();
    let idle = status.pools.iter().find(|pool| pool.name == "idle").expect("it is there");
    assert!(idle.workers[0].rss_bytes > 1 << 20, "{idle:?}");

    // One that is stopped is so, whatever it was doing, and goes on as before.
    let spinner = daemon.worker_pids("spin")[0];
    signal(spinner, Signal::SIGSTOP);
    wait_activity(&daemon, "spin", "stopped");
    daemon.wait_for_log("\"stopped\"", 10 * SECOND);
    signal(spinner, Signal::SIGCONT);
    wait_activity(&daemon, "spin", "running");
    let idler = daemon.worker_pids("idle")[0];
    signal(idler, Signal::SIGSTOP);
    wait_activity(&daemon, "idle", "stopped");
    signal(idler, Signal::SIGCONT);
    wait_activity(&daemon, "idle", "idle");

    // Seconds of silence have killed nobody.
    daemon.wait_for_log("holding_gil", 10 * SECOND);
    for pool in daemon.status().pools {
        let died: u64 = pool
            .counters
            .iter()
            .filter(|(name, _)| name.starts_with("deaths"))
            .map(|(_, n)| n)
            .sum();
        assert_eq!(0, died, "{pool:?}");
    }
    for (pool, _, _) in kinds {
        kill(daemon.worker_pids(pool)[0]);
    }
    for call in calls {
        let failure = call.join().expect("a call does not panic");
        assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    }
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_stopped_worker_is_continued_or_replaced_where_that_is_wanted_f031() {
    let daemon = Daemon::builder()
        .pool("continued", |pool| {
            pool.liveness("after", "300ms")
                .liveness("every", "300ms")
                .liveness("stopped", "continue")
        })
        .pool("replaced", |pool| {
            pool.liveness("after", "300ms")
                .liveness("every", "300ms")
                .liveness("stopped", "replace")
        })
        .start();
    let oracle = daemon.oracle();
    for pool in ["continued", "replaced"] {
        let pid = daemon.worker_pids(pool)[0];
        if pool == "continued" {
            let answer = call_stopped(&daemon, pool);
            assert_eq!("done", answer.expect("it goes on"));
            assert!(alive(pid) && daemon.counter(pool, "stopped_continued") >= 1);
            continue;
        }
        // One that has not begun would move to another worker.
        let mark = daemon.tmp().path().join("begun");
        let client = daemon.blocking();
        let path = mark.to_str().expect("test paths are text").to_owned();
        let request = client.request("job_limits:hold").pool(pool).args((1, path));
        let call = std::thread::spawn(move || request.send::<u32>().map_err(Box::new));
        wait_for("it has begun", 10 * SECOND, || mark.exists());
        signal(pid, Signal::SIGSTOP);
        let failure = call.join().expect("it ends").expect_err("its worker is killed");
        let Reason::WorkerDied(certificate) = &failure.reason else { panic!("{failure}") };
        assert_eq!(Cause::Stalled, certificate.cause, "{certificate}");
        assert!(certificate.detail.contains("liveness.stopped"), "{certificate}");
        assert_eq!(1, daemon.counter(pool, "stopped_replaced"));
        assert_eq!(1, daemon.counter(pool, "deaths.stalled"));
    }
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_pool_that_looks_late_does_not_keep_others_from_looking_f031() {
    let daemon = Daemon::builder()
        .pool("late", |pool| pool.liveness("after", "1h"))
        .pool("soon", |pool| {
            pool.liveness("after", "300ms")
                .liveness("every", "300ms")
                .liveness("stopped", "continue")
        })
        .start();
    let oracle = daemon.oracle();
    let late = leave_running(&daemon, "late", "job_stuck:sleep");
    wait_running(&daemon, "late");
    let answer = call_stopped(&daemon, "soon");
    assert_eq!("done", answer.expect("it is continued"));
    assert!(daemon.counter("soon", "stopped_continued") >= 1);
    kill(daemon.worker_pids("late")[0]);
    let failure = late.join().expect("a call does not panic");
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_finishes_its_call_before_it_goes_is_looked_at_too_f031() {
    let daemon = Daemon::builder()
        .pool("default", |pool| {
            pool.liveness("after", "300ms")
                .liveness("every", "300ms")
                .liveness("stopped", "continue")
        })
        .start();
    let oracle = daemon.oracle();
    let old = daemon.worker_pids("default")[0];
    let client = daemon.blocking();
    let request = client.request("bulk:nap").args((3.0, "done")).timeout(30 * SECOND);
    let call = std::thread::spawn(move || request.send::<String>().map_err(Box::new));
    wait_running(&daemon, "default");
    daemon.cli(["pool", "recycle", "default"]).expect_code(0);
    let activity = wait_until("the old worker retires", 10 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        let found = workers.iter().find(|worker| worker.pid == old && worker.state == "retiring");
        found.map(|worker| worker.activity.clone()).ok_or(workers)
    });
    assert!(!activity.is_empty(), "it is doing something");
    signal(old, Signal::SIGSTOP);
    let answer = call.join().expect("a call does not panic");
    assert_eq!("done", answer.expect("it is continued"));
    assert!(daemon.counter("default", "stopped_continued") >= 1);
    drop(client);
    wait_for("the old worker is gone", 10 * SECOND, || !alive(old));
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_call_whose_worker_is_stopped_is_given_up_in_time_f010() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "1s")).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let request = client.request("job_stuck:sleep").timeout(2 * SECOND);
    let call = std::thread::spawn(move || request.send::<()>().expect_err("it cannot answer"));
    wait_for("the call runs", 10 * SECOND, || daemon.status().pools[0].running == 1);
    let pid = daemon.worker_pids("default")[0];
    std::thread::park_timeout(300 * MILLISECOND);
    signal(pid, Signal::SIGSTOP);
    let failure = call.join().expect("a call does not panic");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    // 2.0 to 2.3 s on a quiet machine.
    assert!(failure.phases.run_us < 4_000_000, "{failure}");
    wait_for("the worker is gone", 5 * SECOND, || !alive(pid));
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_pool_that_was_stopped_for_a_while_keeps_its_idle_workers_f031() {
    let daemon = Daemon::builder()
        .pool("default", |pool| {
            pool.workers(3).liveness("after", "200ms").liveness("every", "200ms")
        })
        .start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    before.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    let client = daemon.blocking();
    let request = client.request("math:sqrt").args((9,)).timeout(500 * MILLISECOND);
    let failure = request.send::<f64>().expect_err("nobody can answer");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    before.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    drop(client);
    daemon.wait_ready();
    let after = daemon.worker_pids("default");
    let kept = after.iter().filter(|pid| before.contains(pid)).count();
    // The one whose call was given up may have been replaced, and no other.
    assert!(kept >= 2, "{before:?} {after:?}");
    oracle.judge(daemon);
}

#[test]
fn a_tree_that_holds_too_much_is_killed_and_said_so_f028() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.memory("kill_above", "150MiB").memory("every", "100ms"))
        .pool("unbounded", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bounds = daemon.status().pools.into_iter().map(|pool| (pool.name, pool.memory_bound));
    let wanted = [("default", "sampling"), ("unbounded", "")];
    assert_eq!(BTreeMap::from(wanted.map(|(a, b)| (a.into(), b.into()))), bounds.collect());
    let client = daemon.blocking();
    let request = client.request("job_limits:allocate").args((300,)).timeout(60 * SECOND);
    let failure = request.send::<()>().expect_err("it is killed");
    let Reason::WorkerDied(certificate) = &failure.reason else { panic!("{failure}") };
    assert_eq!(Cause::MemoryLimit, certificate.cause, "{certificate}");
    assert!(certificate.detail.contains("kill_above is 150 MiB"), "{certificate}");
    assert!(certificate.peak_rss_bytes > 100 << 20, "{certificate:?}");
    assert!(certificate.stack.contains("in allocate"), "{certificate:?}");
    assert!(failure.started && !certificate.out_of_memory, "{failure}");
    drop(client);
    daemon.wait_ready();
    assert_eq!(1, daemon.counter("default", "deaths.memory_limit"));
    oracle.judge(daemon);
}
