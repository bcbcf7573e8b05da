//! Workers that run several calls at once, each in a subinterpreter, seen from outside.

use std::collections::BTreeSet;
use std::time::Duration;

use clutch_client::{Failure, Reason};
use clutch_tests::process::alive;
use clutch_tests::{Daemon, MILLISECOND, Pool, SECOND, python, say_skipped, wait_for};

/// Nothing here takes nearly as long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon with one worker of two interpreters; none where no python can do that.
fn isolated() -> Option<Daemon> {
    let Some(newest) = python("3.14").or_else(|| python("3.13")) else {
        say_skipped(module_path!(), "this machine has no CPython 3.13 or newer");
        return None;
    };
    let pool = |pool: Pool| pool.workers(1).key("subinterpreters", 2_u32).python(newest);
    Some(Daemon::builder().pool("default", pool).start())
}

fn at_once(daemon: &Daemon, function: &str, count: u32) -> Vec<Result<(u64, u32), Box<Failure>>> {
    let calls: Vec<_> = (0..count)
        .map(|place| {
            let (client, function) = (daemon.blocking(), function.to_owned());
            let folder = daemon.tmp().path().to_str().expect("test paths are text").to_owned();
            std::thread::spawn(move || {
                let call = client.request(function).args((folder, place)).timeout(60 * SECOND);
                call.send::<(u64, u32)>().map_err(Box::new)
            })
        })
        .collect();
    calls.into_iter().map(|call| call.join().expect("it did not panic")).collect()
}

#[test]
fn calls_that_compute_run_side_by_side_in_one_process_each_in_its_own_interpreter() {
    let Some(daemon) = isolated() else { return };
    let oracle = daemon.oracle();
    let told = at_once(&daemon, "job_isolated:meet", 2);
    let told: Vec<_> = told.into_iter().map(|one| one.expect("they meet")).collect();
    let (interpreters, pids): (BTreeSet<_>, BTreeSet<_>) = told.into_iter().unzip();
    assert_eq!((2, 1), (interpreters.len(), pids.len()));
    let worker = daemon.status().pools.remove(0).workers.remove(0);
    assert_eq!((2, true), (worker.lanes, pids.contains(&worker.pid)));
    let calls = 40;
    let counted = at_once(&daemon, "job_isolated:count", calls);
    let counted: Vec<_> = counted.into_iter().map(|one| one.expect("it counts")).collect();
    let sum: u32 = interpreters
        .iter()
        .map(|which| counted.iter().filter(|one| one.0 == *which).map(|one| one.1).max())
        .map(|most| most.unwrap_or(0))
        .sum();
    assert_eq!(calls, sum, "each counts its own: {counted:?}");
    oracle.judge(daemon);
}

#[test]
fn a_call_that_looks_at_its_flag_ends_and_one_that_does_not_is_left_to_a_successor() {
    let Some(daemon) = isolated() else { return };
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let pid = client.call::<u32>("job_isolated:pid", ()).expect("it answers");
    let polite = client.request("job_isolated:until_flagged").timeout(300 * MILLISECOND);
    let failure = polite.send::<()>().expect_err("it is late");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure:?}");
    assert_eq!(pid, client.call::<u32>("job_isolated:pid", ()).expect("it lives on"));
    let hangs = client.request("job_isolated:hang").timeout(300 * MILLISECOND);
    let failure = hangs.send::<()>().expect_err("it is late");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure:?}");
    wait_for("the old one is gone", PATIENCE, || !alive(pid));
    assert_ne!(pid, client.call::<u32>("job_isolated:pid", ()).expect("a successor"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn an_older_python_is_refused_with_what_is_needed() {
    let Some(old) = ["3.12", "3.11", "3.10", "3.9", "3.8"].into_iter().find_map(python) else {
        say_skipped(module_path!(), "this machine has no CPython older than 3.13");
        return;
    };
    let pool = |pool: Pool| pool.workers(1).key("subinterpreters", 2_u32).python(old);
    let output = match Daemon::builder().pool("default", pool).try_start() {
        Ok(daemon) => panic!("it started:\n{}", daemon.log()),
        Err(output) => output.expect_code(8),
    };
    let (major, minor, micro) = old.version;
    let found = format!("cpython {major}.{minor}.{micro}");
    for part in ["`subinterpreters` needs CPython 3.13 or newer", &found, "the pool's `python`"] {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
}
