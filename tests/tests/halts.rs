//! Workers that a signal has stopped get no calls, and shared memory of killed ones does not stay.

use std::collections::BTreeSet;
use std::path::Path;

use clutch_client::{Failure, Reason};
use clutch_protocol::failure::Cause;
use clutch_tests::process::alive;
use clutch_tests::{Daemon, MILLISECOND, SECOND, signal, wait_for, wait_until};
use nix::sys::signal::Signal;

/// Stops workers, and waits until the daemon knows.
#[track_caller]
fn stop(daemon: &Daemon, pids: &[u32]) {
    pids.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    wait_until("they are known to be stopped", 10 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        let known = |pid: &u32| {
            workers.iter().any(|w| w.pid == *pid && w.reason.contains("a signal (SIGSTOP)"))
        };
        if pids.iter().all(known) { Ok(()) } else { Err(workers) }
    });
}

#[track_caller]
fn goes_on(daemon: &Daemon, pid: u32) {
    signal(pid, Signal::SIGCONT);
    wait_for("it is known to go on", 10 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        workers.iter().any(|w| w.pid == pid && w.reason.is_empty() && w.activity != "stopped")
    });
}

fn served_by(daemon: &Daemon) -> u32 {
    let client = daemon.blocking();
    client.request("os:getpid").timeout(10 * SECOND).send().expect("somebody is free")
}

#[test]
fn an_idle_worker_that_is_stopped_gets_no_calls_f031() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let both: BTreeSet<u32> = daemon.worker_pids("default").into_iter().collect();
    for _ in 0..2 {
        // The one that was busy last is the one that would be next.
        let victim = served_by(&daemon);
        stop(&daemon, &[victim]);
        for _ in 0..5 {
            assert_ne!(victim, served_by(&daemon));
        }
        goes_on(&daemon, victim);
    }
    let victim = served_by(&daemon);
    let other = *both.iter().find(|pid| **pid != victim).expect("there are two");
    stop(&daemon, &[other]);
    goes_on(&daemon, other);
    stop(&daemon, &[victim]);
    assert_eq!(other, served_by(&daemon), "it takes calls again");
    goes_on(&daemon, victim);
    assert_eq!(both, daemon.worker_pids("default").into_iter().collect(), "nobody was replaced");
    oracle.judge(daemon);
}

#[test]
fn a_spare_takes_over_from_a_stopped_worker_f031() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1).key("spares", 1)).start();
    let oracle = daemon.oracle();
    let victim = served_by(&daemon);
    stop(&daemon, &[victim]);
    let spare = served_by(&daemon);
    assert_ne!(victim, spare);
    goes_on(&daemon, victim);
    oracle.judge(daemon);
}

#[test]
fn where_all_are_stopped_calls_wait_and_are_told_why_f031() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    stop(&daemon, &before);
    let pool = daemon.status().pools.remove(0);
    assert!(pool.reason.contains("every worker is stopped"), "{pool:?}");
    let client = daemon.blocking();
    let request = client.request("math:sqrt").args((9,)).timeout(300 * MILLISECOND);
    let failure = request.send::<f64>().expect_err("nobody can answer");
    let text = failure.to_string();
    assert!(matches!(failure.reason, Reason::TimedOut { .. }) && !failure.started, "{text}");
    let [first, second] = [before[0], before[1]];
    assert!(text.contains(&format!("kill -CONT {first} {second}")), "{text}");
    assert!(!text.contains("longer timeout"), "{text}");
    let life = daemon.cli(["explain", &failure.call.to_string()]).expect_code(0).stdout;
    assert!(life.contains("every worker is stopped by a signal"), "{life}");

    // One that waits is served as soon as one goes on.
    let waiting = client.request("math:sqrt").args((9,)).timeout(30 * SECOND);
    let call = std::thread::spawn(move || waiting.send::<f64>().expect("it is served"));
    wait_for("the call waits", 10 * SECOND, || daemon.status().pools[0].queued == 1);
    goes_on(&daemon, before[0]);
    assert!((call.join().expect("a call does not panic") - 3.0).abs() < 1e-9);
    goes_on(&daemon, before[1]);
    assert_eq!(before, daemon.worker_pids("default"), "nobody was replaced");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_call_whose_worker_is_stopped_is_told_so_f010() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "1s")).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let request = client.request("job_stuck:sleep").timeout(2 * SECOND);
    let call = std::thread::spawn(move || request.send::<()>().expect_err("it cannot answer"));
    let pid = daemon.wait_runs("job_stuck:sleep");
    signal(pid, Signal::SIGSTOP);
    let failure: Failure = call.join().expect("a call does not panic");
    let text = failure.to_string();
    let story = format!("(pid {pid}) was stopped by a signal (SIGSTOP) while it ran the call");
    assert!(text.contains(&story), "{text}");
    wait_for("the worker is gone", 5 * SECOND, || !alive(pid));
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn what_is_wanted_of_stopped_workers_is_done_to_idle_ones_at_once_f031() {
    for policy in ["continue", "replace"] {
        let daemon =
            Daemon::builder().pool("default", |pool| pool.liveness("stopped", policy)).start();
        let oracle = daemon.oracle();
        let pid = served_by(&daemon);
        signal(pid, Signal::SIGSTOP);
        let counter = if policy == "continue" { "stopped_continued" } else { "stopped_replaced" };
        wait_for("it is dealt with", 5 * SECOND, || daemon.counter("default", counter) == 1);
        if policy == "continue" {
            assert_eq!(pid, served_by(&daemon));
        } else {
            assert_ne!(pid, served_by(&daemon));
            wait_for("the old one is gone", 5 * SECOND, || !alive(pid));
            let death = daemon.status().pools.remove(0).last_death.expect("one has died");
            assert_eq!((Cause::Stalled, None), (death.cause, death.function), "{}", death.detail);
        }
        daemon.wait_ready();
        oracle.judge(daemon);
    }
}

#[test]
fn a_reload_deals_with_workers_that_were_stopped_before_f031() {
    for policy in ["continue", "replace"] {
        let daemon =
            Daemon::builder().pool("default", |pool| pool.liveness("stopped", "report")).start();
        let oracle = daemon.oracle();
        let pid = served_by(&daemon);
        stop(&daemon, &[pid]);
        let waiting = daemon.blocking();
        let request = waiting.request("os:getpid").timeout(30 * SECOND);
        let call = std::thread::spawn(move || request.send::<u32>().expect("it is served"));
        wait_for("the call waits", 10 * SECOND, || daemon.status().pools[0].queued == 1);
        let file = daemon.tmp().join("clutch.toml");
        let text = std::fs::read_to_string(&file).expect("it is there");
        let other = text.replace("\"report\"", &format!("{policy:?}"));
        assert_ne!(text, other);
        std::fs::write(&file, other).expect("it can be written");
        daemon.cli(["reload"]).expect_code(0);
        let served = call.join().expect("a call does not panic");
        assert_eq!(policy == "continue", served == pid, "{policy}");
        wait_for("nobody is stopped", 10 * SECOND, || {
            let workers = daemon.status().pools.remove(0).workers;
            workers.len() == 1 && workers[0].reason.is_empty()
        });
        drop(waiting);
        daemon.wait_ready();
        oracle.judge(daemon);
    }
}

#[test]
fn a_worker_that_stops_itself_in_a_loop_fills_no_log_f031() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool.liveness("stopped", "continue")).start();
    let client = daemon.blocking();
    let request = client.request("job_stuck:stop_itself").args((20,)).timeout(15 * SECOND);
    request.send::<()>().expect("it is continued each time");
    wait_for("all are known", 10 * SECOND, || daemon.counter("default", "stops") >= 5);
    let log = daemon.log();
    let said = ["a signal has stopped a worker", "a stopped worker goes on"];
    let said = said.map(|what| log.matches(what).count());
    assert!(said[0] >= 1 && said.iter().all(|count| *count <= 3), "{said:?}");
}

#[test]
fn a_stalled_worker_names_the_call_it_would_not_give_up_f031() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.limit("interrupt", "20s").liveness("stopped", "replace"))
        .start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let request = client.request("job_stuck:ignore_everything").timeout(SECOND);
    let call = std::thread::spawn(move || request.send::<()>().expect_err("it cannot answer"));
    let pid = daemon.wait_runs("job_stuck:ignore_everything");
    let failure = call.join().expect("a call does not panic");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    signal(pid, Signal::SIGSTOP);
    let death = wait_until("it is killed", 10 * SECOND, || {
        daemon.status().pools.remove(0).last_death.ok_or("nobody has died")
    });
    assert_eq!(Cause::Stalled, death.cause, "{death}");
    let named = (death.function.as_deref(), death.call);
    assert_eq!((Some("job_stuck:ignore_everything"), failure.call), named, "{death}");
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn shared_memory_of_a_worker_that_is_killed_in_a_call_is_removed_f066() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let note = daemon.tmp().path().join("name");
    let client = daemon.blocking();
    let request = client.request("job_shared:leave_behind").args((note.to_str(),));
    let failure = request.send::<()>().expect_err("it is killed");
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    let name = std::fs::read_to_string(&note).expect("it said so");
    let file = Path::new("/dev/shm").join(name);
    wait_for("the segment is gone", 2 * SECOND, || !file.exists());

    // The same for one that is killed by an order, and for one whose daemon stops.
    let (name, tracker): (String, u32) = client.call("job_shared:make", ("",)).expect("it answers");
    let file = Path::new("/dev/shm").join(name);
    assert!(file.exists() && alive(tracker));
    daemon.cli(["pool", "recycle", "default"]).expect_code(0);
    wait_for("the segment is gone", 10 * SECOND, || !file.exists() && !alive(tracker));
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}
