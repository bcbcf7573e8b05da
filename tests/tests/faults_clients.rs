//! Clients whose patience is short, or who lose interest. F100 and F102.

use std::path::Path;
use std::time::{Duration, Instant};

use clutch_client::{Client, Reason};
use clutch_tests::process::memory_bytes;
use clutch_tests::{Daemon, MILLISECOND, SECOND, wait_for, wait_until};

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime can be built");
    runtime.block_on(future)
}

/// Waits until a file holds `text`, and gives the time at which it did.
#[track_caller]
fn told(path: &Path, text: &str) -> Instant {
    wait_for(text, 20 * SECOND, || {
        std::fs::read_to_string(path).is_ok_and(|told| told.contains(text))
    });
    Instant::now()
}

#[test]
fn f100_the_callers_deadline_ends_the_work_too() {
    let timeout = 700 * MILLISECOND;
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("interrupt", "5s")).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let (mut answered, mut ended) = (Duration::MAX, Duration::MAX);
    for round in 0..5 {
        let marks = daemon.tmp().join(format!("marks-{round}"));
        let client = daemon.blocking();
        let begun = Instant::now();
        let request = client.request("job_stuck:hold").args((marks.to_str().expect("text"),));
        let failure = request.timeout(timeout).send::<()>().expect_err("it does not end");
        let took = begun.elapsed();
        assert!(matches!(failure.reason, Reason::TimedOut { timeout_ms: 700, .. }), "{failure}");
        assert!(took >= timeout, "it was given up after {took:?}");
        answered = answered.min(took);
        ended = ended.min(told(&marks, "released") - begun);
        daemon.wait_ready();
    }
    // In the best of the rounds; a loaded machine adds to the others.
    assert!(answered < timeout + 100 * MILLISECOND, "the caller was told after {answered:?}");
    assert!(ended < timeout + 200 * MILLISECOND, "the work ended after {ended:?}");
    assert_eq!(before, daemon.worker_pids("default"), "the worker was replaced");
    oracle.judge(daemon);
}

#[test]
fn f102_results_that_nobody_fetches_are_held_nowhere() {
    const CALLS: usize = 40;
    const BYTES: usize = 8 << 20;
    let daemon =
        Daemon::builder().pool("default", |pool| pool.workers(2).limit("interrupt", "5s")).start();
    let oracle = daemon.oracle();
    let (before, mine) = (memory_bytes(daemon.pid()), memory_bytes(std::process::id()));
    block_on(async {
        let client = Client::connect(daemon.socket()).await.expect("it listens");
        for dropped_when_done in [false, true] {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..CALLS {
                let request = client.request("bulk:text").args((BYTES,));
                calls.spawn(request.timeout(60 * SECOND).send::<String>());
            }
            if dropped_when_done {
                // Every result is there, and goes unread.
                while let Some(done) = calls.join_next().await {
                    drop(done.expect("a call is not aborted").expect("it succeeds"));
                }
            } else {
                // Nobody waits any more once the first is there.
                drop(calls.join_next().await);
                calls.abort_all();
                while calls.join_next().await.is_some() {}
            }
            // The connection goes on, behind all of that.
            assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).await.expect("it works"));
        }
    });
    let grown = |pid, before: u64| memory_bytes(pid).saturating_sub(before) >> 20;
    let whole = (CALLS * BYTES) as u64 >> 20;
    // The allocator keeps a few of the buffers for what comes next.
    wait_until("the daemon holds next to nothing of it", 10 * SECOND, || {
        let pool = daemon.status().pools.remove(0);
        let held = grown(daemon.pid(), before);
        if held < whole / 4 && pool.running == 0 {
            Ok(())
        } else {
            Err(format!("{held} MiB, {pool:?}"))
        }
    });
    let kept = grown(std::process::id(), mine);
    assert!(kept < whole / 4, "the client keeps {kept} MiB of {whole} MiB");
    daemon.wait_ready();
    oracle.memory_budget(80 << 20).judge(daemon);
}
