//! Whether a call has begun, known also of workers that died: what had not begun is done by
//! another worker, and its caller notices nothing.

use std::path::Path;
use std::time::Instant;

use clutch_client::Reason;
use clutch_tests::process::alive;
use clutch_tests::{Daemon, SECOND, kill, wait_for};

fn lines(at: &Path) -> usize {
    std::fs::read_to_string(at).map_or(0, |text| text.lines().count())
}

#[test]
fn a_call_that_its_worker_never_read_is_done_by_another_f003() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1)).start();
    let oracle = daemon.oracle();
    let file = daemon.tmp().join("marks");
    let path = file.to_str().expect("test paths are text").to_owned();
    let client = daemon.blocking();
    for round in 1..=10 {
        // One that is stopped would get no calls.
        let victim = daemon.deafen();
        let (beside, path) = (daemon.blocking(), path.clone());
        let call = std::thread::spawn(move || {
            let ran = beside.call::<u32>("job_begun:leave_mark", (path,));
            ran.expect("its caller gets the result")
        });
        wait_for("the call is with the worker", 10 * SECOND, || {
            daemon.status().pools[0].running == 1
        });
        kill(victim);
        let ran = call.join().expect("it was answered");
        assert_ne!(victim, ran);
        assert_eq!(round, lines(&file), "it ran more than once");
        assert_eq!(round as u64, daemon.counter("default", "calls_moved"));
        // It has nothing to do with that death, so the certificate does not name it.
        let death = daemon.status().pools.remove(0).last_death.expect("there was one");
        assert_eq!((victim, None, 0), (death.pid, death.function, death.call));
        daemon.wait_ready();
    }
    assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).expect("the pool works"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_had_begun_is_not_done_again_f002() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let file = daemon.tmp().join("marks");
    let path = file.to_str().expect("test paths are text").to_owned();
    let client = daemon.blocking();
    let call = std::thread::spawn(move || {
        client.call::<()>("job_begun:mark_and_sleep", (path,)).expect_err("its worker dies")
    });
    wait_for("it has begun", 10 * SECOND, || lines(&file) == 1);
    let status = daemon.status();
    let busy = status.pools[0].workers.iter().find(|worker| worker.state == "busy");
    kill(busy.expect("one worker is busy").pid);
    let failure = call.join().expect("a call does not panic");
    assert!(failure.started, "{failure}");
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    daemon.wait_ready();
    assert_eq!((1, 0), (lines(&file), daemon.counter("default", "calls_moved")));
    oracle.judge(daemon);
}

#[test]
fn what_a_result_does_when_it_is_freed_costs_nobody_a_call_f023() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1)).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    for _ in 0..10 {
        // The second call is on its way while the worker dies of what is left of the first.
        let delivered: String = client.call("job_begun:return_a_mine", ()).expect("delivered");
        assert_eq!("delivered", delivered);
        assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).expect("done elsewhere"));
    }
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_dies_between_two_calls_costs_none_f032() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let end = Instant::now() + 3 * SECOND;
    let killer = {
        // Sees who is idle, and kills them while the next call may be on its way.
        let socket = daemon.socket().to_owned();
        std::thread::spawn(move || {
            let mut killed = 0_u32;
            while Instant::now() < end {
                let status = clutch_tests::RawClient::hello(&socket).status().expect("a status");
                let idle = status.pools[0].workers.iter().find(|worker| worker.state == "ready");
                if let Some(idle) = idle {
                    kill(idle.pid);
                    killed += 1;
                    wait_for("it is dead", 10 * SECOND, || !alive(idle.pid));
                }
            }
            killed
        })
    };
    let mut failures = Vec::new();
    while Instant::now() < end {
        if let Err(failure) = client.call::<f64>("math:sqrt", (9,)) {
            failures.push(failure);
        }
    }
    let killed = killer.join().expect("it kills, it does not panic");
    assert!(killed >= 5, "too few were killed to tell: {killed}");
    for failure in failures {
        // The one excuse: it had begun.
        assert!(failure.started, "{failure}");
    }
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}
