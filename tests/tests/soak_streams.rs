//! Long streams: memory stays as it is however many items there are, and whoever of the three ends
//! in the middle, the others are told at once and keep nothing.
//!
//! Two hundred thousand items usually, ten million with `CLUTCH_TEST_LONG=1`.

use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clutch_tests::process::{Descriptors, memory_bytes};
use clutch_tests::{Daemon, MILLISECOND, SECOND, kill, park, wait_until};

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// How much more memory than after the first tenth a process may have.
const GROWTH_BYTES_MAX: u64 = 8 << 20;

/// These tests count what their own process has.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn daemon() -> Daemon {
    Daemon::builder().pool("default", |pool| pool.limit("grace", "200ms")).start()
}

#[test]
fn a_long_stream_through_a_reader_that_sleeps_costs_nobody_memory() {
    let _alone = alone();
    let items: u64 =
        if std::env::var_os("CLUTCH_TEST_LONG").is_some() { 10_000_000 } else { 200_000 };
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let pids = [daemon.pid(), daemon.worker_pids("default")[0], std::process::id()];
    let request = client.request("job_streams:count").args((items,)).timeout(3600 * SECOND);
    let mut stream = request.stream::<u64>().window(NonZeroU32::new(256).unwrap());
    let mut warm = [0; 3];
    for expected in 0..items {
        assert_eq!(expected, stream.next().expect("there is more").unwrap());
        if expected % (items / 20) != 0 {
            continue;
        }
        // The window fills meanwhile, and the function stops.
        park(20 * MILLISECOND);
        let now = pids.map(memory_bytes);
        if expected == items / 10 {
            warm = now;
        }
        for (now, warm) in now.iter().zip(warm).filter(|_| expected > items / 10) {
            assert!(*now <= warm + GROWTH_BYTES_MAX, "{expected} items: {now} after {warm}");
        }
    }
    assert!(stream.next().is_none());
    assert_eq!(items * (items - 1) / 2, stream.returned::<u64>().unwrap().unwrap());
    drop((stream, client));
    oracle.judge(daemon);
}

#[test]
fn whoever_is_killed_in_the_middle_the_others_are_told_and_keep_nothing() {
    let _alone = alone();
    let daemon = daemon();
    let oracle = daemon.oracle();
    let before = Descriptors::of(std::process::id());
    let idle = Descriptors::of(daemon.worker_pids("default")[0]);

    // The worker.
    let client = daemon.blocking();
    let mut stream = client.stream::<u64>("job_streams:count", (u64::MAX >> 1,));
    assert_eq!(1000, stream.by_ref().take(1000).filter(Result::is_ok).count());
    let worker = daemon.worker_pids("default")[0];
    kill(worker);
    let begun = Instant::now();
    let failure = stream.find_map(Result::err).expect("it has no good end");
    assert_eq!("WorkerDied", failure.reason.name(), "{failure}");
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    drop((stream, client));
    daemon.wait_ready();

    // The client. The function's `finally` runs, and its worker is as before.
    let told = daemon.tmp().join("told");
    let path = told.to_str().expect("test paths are text");
    let words = ["call", "--stream", "job_streams:marked", path, "1000000000"];
    let worker = daemon.worker_pids("default")[0];
    let mut child = daemon.command(words).spawn(Stdio::null(), Stdio::piped(), Stdio::null());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!("999", lines.nth(999).unwrap().unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    drop((lines, child));
    wait_until("the generator is closed", PATIENCE, || {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        if text.ends_with("closed\n") { Ok(()) } else { Err(text.len()) }
    });
    daemon.wait_ready();
    assert_eq!(vec![worker], daemon.worker_pids("default"), "the worker lives on");
    wait_until("nothing of both is open in the worker", PATIENCE, || {
        let more = Descriptors::of(worker).more_than(&idle);
        if more.is_empty() { Ok(()) } else { Err(more) }
    });
    wait_until("nothing of both is open here", PATIENCE, || {
        let more = Descriptors::of(std::process::id()).more_than(&before);
        if more.is_empty() { Ok(()) } else { Err(more) }
    });
    oracle.judge(daemon);
}

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_a_stream_is_told_at_once() {
    let _alone = alone();
    let mut daemon = daemon();
    let before = Descriptors::of(std::process::id());
    let client = daemon.blocking();
    let mut stream = client.stream::<u64>("job_streams:count", (u64::MAX >> 1,));
    assert_eq!(1000, stream.by_ref().take(1000).filter(Result::is_ok).count());
    kill(daemon.pid());
    let begun = Instant::now();
    let failure = stream.find_map(Result::err).expect("it has no good end");
    assert_eq!("Disconnected", failure.reason.name(), "{failure}");
    assert!(begun.elapsed() < 5 * SECOND, "{:?}: {failure}", begun.elapsed());
    assert!(stream.returned::<u64>().is_none());
    drop((stream, client));
    daemon.wait_exit(PATIENCE);
    daemon.assert_swept(PATIENCE);
    wait_until("nothing of it is open here", PATIENCE, || {
        let more = Descriptors::of(std::process::id()).more_than(&before);
        if more.is_empty() { Ok(()) } else { Err(more) }
    });
}
