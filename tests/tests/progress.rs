//! How far calls have come: from the function to the caller, to `status`, and to a terminal.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clutch_client::Progress;
use clutch_protocol::{Flags, Kind, wire};
use clutch_tests::{Daemon, RawClient, forge, kill, wait_for, wait_until};

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn daemon() -> Daemon {
    Daemon::builder().pool("default", |pool| pool).start()
}

#[test]
fn the_caller_is_told_and_the_last_word_comes_before_the_answer() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    for steps in [1_u32, 10, 40] {
        let told = Arc::new(Mutex::new(Vec::<Progress>::new()));
        let sink = Arc::clone(&told);
        let request = client.request("job_streams:works").args((steps,));
        let request = request.on_progress(move |progress| sink.lock().unwrap().push(progress));
        assert_eq!(steps, request.send::<u32>().unwrap());
        let told = told.lock().unwrap();
        let last = told.last().expect("it was told");
        let steps = f64::from(steps);
        assert_eq!((steps, Some(steps)), (last.done, last.total), "{told:?}");
        assert_eq!(format!("step {steps}"), last.message);
        assert!(told.is_sorted_by(|a, b| a.done <= b.done), "{told:?}");
        assert!(told.len() <= 30, "at most ten a second: {}", told.len());
    }
    // Beside items, too.
    let told = Arc::new(Mutex::new(0.0));
    let sink = Arc::clone(&told);
    let request = client.request("job_streams:works_and_gives").args((50,));
    let request = request.on_progress(move |progress| *sink.lock().unwrap() = progress.done);
    assert_eq!(50, request.stream::<u64>().filter(Result::is_ok).count());
    assert_eq!(50.0, *told.lock().unwrap());
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn status_shows_how_far_a_call_is_whoever_asked_for_it() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let go = daemon.tmp().join("go");
    let path = go.to_str().unwrap().to_owned();
    let client = daemon.blocking();
    let call = std::thread::spawn(move || {
        client.call::<u32>("job_streams:works", (4, path, 0.15)).map_err(Box::new)
    });
    let progress = wait_until("it has come to its end", PATIENCE, || {
        let status = daemon.try_status()?;
        let workers = status.pools.into_iter().flat_map(|pool| pool.workers);
        let calls: Vec<_> = workers.flat_map(|worker| worker.calls).collect();
        let told = calls.first().and_then(|call| call.progress.clone());
        told.filter(|told| told.done > 0.0).ok_or_else(|| format!("{calls:?}"))
    });
    assert_eq!(Some(4.0), progress.total);
    let page = daemon.cli(["workers"]).expect_code(0).stdout;
    assert!(page.contains(" % (step "), "{page}");
    std::fs::write(&go, "").unwrap();
    assert_eq!(4, call.join().unwrap().unwrap());
    let page = daemon.cli(["workers"]).expect_code(0).stdout;
    assert!(!page.contains(" % "), "{page}");
    oracle.judge(daemon);
}

/// A caller that does not read: a long answer waits for it, and behind that what is to be said of
/// its other call, whose id this is.
fn unread(daemon: &Daemon, begin: &Path, end: &Path) -> (RawClient, u64) {
    let mut client = daemon.raw();
    let (id, other) = (client.next_id(), client.next_id());
    let paths = serde_json::to_string(&[begin, end]).unwrap();
    client.say(&forge::call_flagged(id, "job_streams:says_between", &paths, Flags::PROGRESS));
    daemon.wait_runs("job_streams:says_between");
    let before = daemon.counter("default", "answered.ok");
    client.say(&forge::call(other, "default", "operator:mul", r#"["x", 8000000]"#));
    wait_for("the long answer waits", PATIENCE, || {
        daemon.counter("default", "answered.ok") > before
    });
    std::fs::write(begin, "").unwrap();
    wait_for("the daemon knows", PATIENCE, || {
        let workers = daemon.status().pools.into_iter().flat_map(|pool| pool.workers);
        let mut calls = workers.flat_map(|worker| worker.calls);
        calls.any(|call| call.progress.is_some_and(|told| told.done >= 1.0))
    });
    (client, id)
}

fn expect_progress(client: &mut RawClient, id: u64, done: f64) {
    let frame = client.expect(Kind::Progress, PATIENCE);
    let told: Progress = wire::decode(&frame.meta).unwrap();
    assert_eq!((id, done), (frame.header.id, told.done));
}

#[test]
fn a_caller_that_reads_again_is_told_at_once_how_far_it_is() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let (begin, end) = (daemon.tmp().join("begin"), daemon.tmp().join("end"));
    let (mut client, id) = unread(&daemon, &begin, &end);
    client.expect(Kind::Result, PATIENCE);
    // Nothing more has been said, and nothing will be before that is read.
    expect_progress(&mut client, id, 1.0);
    std::fs::write(&end, "").unwrap();
    expect_progress(&mut client, id, 2.0);
    assert_eq!(id, client.expect(Kind::Result, PATIENCE).header.id);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn the_last_word_comes_before_a_failure_too() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let (begin, end) = (daemon.tmp().join("begin"), daemon.tmp().join("end"));
    let (mut client, id) = unread(&daemon, &begin, &end);
    let pid = daemon.wait_runs("job_streams:says_between");
    kill(pid);
    wait_for("the daemon knows", PATIENCE, || !daemon.worker_pids("default").contains(&pid));
    wait_for("it is answered", PATIENCE, || daemon.counter("default", "answered.WorkerDied") == 1);
    client.expect(Kind::Result, PATIENCE);
    expect_progress(&mut client, id, 1.0);
    assert_eq!(id, client.expect(Kind::Error, PATIENCE).header.id);
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}
