//! What an operator's orders do to a pool: paused, drained, resized, renewed, revived.

use std::collections::BTreeSet;

use clutch_client::{Failure, blocking};
use clutch_protocol::status::PoolStatus;
use clutch_tests::{Bystander, Daemon, SECOND, Tmp, wait_until};

fn daemon(workers: u32) -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(workers)).start()
}

#[track_caller]
fn order(daemon: &Daemon, words: &[&str]) {
    daemon.command(["pool"]).args(words).run().expect_code(0);
}

#[track_caller]
fn pool(daemon: &Daemon) -> PoolStatus {
    daemon.status().pools.swap_remove(0)
}

#[track_caller]
fn wait_state(daemon: &Daemon, state: &str) {
    wait_until(&format!("the pool is {state}"), 20 * SECOND, || {
        let pool = daemon.try_status()?.pools.swap_remove(0);
        if pool.state == state { Ok(()) } else { Err(format!("{} {}", pool.state, pool.reason)) }
    });
}

/// Waits until the pool has exactly so many workers, all ready, and gives their pids.
#[track_caller]
fn wait_workers(daemon: &Daemon, count: usize) -> BTreeSet<u32> {
    wait_until(&format!("{count} workers are ready"), 30 * SECOND, || {
        let workers = daemon.try_status()?.pools.swap_remove(0).workers;
        let ready = workers.iter().filter(|worker| worker.state == "ready");
        let pids: BTreeSet<_> = ready.map(|worker| worker.pid).collect();
        if (workers.len(), pids.len()) == (count, count) {
            Ok(pids)
        } else {
            Err(format!("{workers:?}"))
        }
    })
}

/// A call on a thread of its own.
fn in_background(
    daemon: &Daemon,
    seconds: f64,
    value: i64,
) -> std::thread::JoinHandle<Result<i64, Box<Failure>>> {
    let client: blocking::Client = daemon.blocking();
    std::thread::spawn(move || client.call::<i64>("bulk:nap", (seconds, value)).map_err(Box::new))
}

#[test]
fn a_paused_pool_takes_calls_and_runs_them_after_the_resume() {
    let daemon = daemon(2);
    order(&daemon, &["pause", "default"]);
    wait_state(&daemon, "paused");
    let waiting: Vec<_> = (0..3).map(|value| in_background(&daemon, 0.0, value)).collect();
    wait_until("they wait", 10 * SECOND, || match pool(&daemon).queued {
        3 => Ok(()),
        queued => Err(queued),
    });
    let state = pool(&daemon);
    assert_eq!((0, 0), (state.running, daemon.counter("default", "answered.ok")));
    assert!(!state.reason.is_empty(), "a pause says why");
    // A deadline is a deadline, paused or not.
    let output = daemon.cli(["call", "--timeout", "200ms", "math:sqrt", "4"]).expect_code(4);
    assert!(output.stderr.contains("timed out"), "{}", output.stderr);

    order(&daemon, &["resume", "default"]);
    for (value, call) in waiting.into_iter().enumerate() {
        let answer = call.join().expect("it does not panic").expect("it runs after the resume");
        assert_eq!(i64::try_from(value).unwrap(), answer);
    }
    wait_state(&daemon, "running");
}

#[test]
fn what_runs_when_its_pool_is_paused_goes_on() {
    let daemon = daemon(1);
    let running = in_background(&daemon, 0.5, 7);
    wait_until("it runs", 10 * SECOND, || match pool(&daemon).running {
        1 => Ok(()),
        running => Err(running),
    });
    order(&daemon, &["pause", "default"]);
    assert_eq!(7, running.join().expect("it does not panic").expect("it goes on"));
    wait_state(&daemon, "paused");
}

#[test]
fn a_drained_pool_refuses_and_finishes_and_can_be_resumed() {
    let daemon = daemon(1);
    let pids = wait_workers(&daemon, 1);
    let running = in_background(&daemon, 0.5, 1);
    let queued = in_background(&daemon, 0.0, 2);
    wait_until("both are there", 10 * SECOND, || match pool(&daemon) {
        PoolStatus { running: 1, queued: 1, .. } => Ok(()),
        other => Err(format!("{other:?}")),
    });
    order(&daemon, &["drain", "default"]);
    let failure = daemon.blocking().call::<f64>("math:sqrt", (4,)).expect_err("it is refused");
    assert_eq!(("ShuttingDown", false), (failure.reason.name(), failure.started));
    daemon.cli(["call", "math:sqrt", "4"]).expect_code(7);
    for call in [running, queued] {
        call.join().expect("it does not panic").expect("what was there is finished");
    }
    wait_state(&daemon, "draining");
    assert_eq!(pids, wait_workers(&daemon, 1), "the workers stay");
    order(&daemon, &["resume", "default"]);
    assert_eq!(2.0, daemon.blocking().call::<f64>("math:sqrt", (4,)).expect("it takes calls"));
}

#[test]
fn a_resized_pool_has_that_many_workers() {
    let daemon = daemon(1);
    let first = wait_workers(&daemon, 1);
    order(&daemon, &["resize", "default", "3"]);
    let three = wait_workers(&daemon, 3);
    assert!(three.is_superset(&first), "who was there stays: {first:?} {three:?}");
    assert_eq!(3, pool(&daemon).workers_wanted);
    order(&daemon, &["resize", "default", "1"]);
    let one = wait_workers(&daemon, 1);
    assert!(one.is_subset(&three), "nobody is replaced for it: {one:?} {three:?}");
    assert_eq!(1, pool(&daemon).workers_wanted);
    assert_eq!(2.0, daemon.blocking().call::<f64>("math:sqrt", (4,)).expect("it works"));
}

#[test]
fn a_recycled_pool_has_other_workers_and_lost_no_call() {
    let daemon = daemon(2);
    let before = wait_workers(&daemon, 2);
    let bystander = Bystander::start(&daemon, "default");
    order(&daemon, &["recycle", "default"]);
    wait_until("every worker is another one", 30 * SECOND, || {
        let workers = daemon.try_status()?.pools.swap_remove(0).workers;
        let pids: BTreeSet<_> = workers.iter().map(|worker| worker.pid).collect();
        if workers.len() == 2 && pids.is_disjoint(&before) {
            Ok(())
        } else {
            Err(format!("{pids:?}"))
        }
    });
    bystander.assert_unharmed(2 * SECOND);
}

#[test]
fn a_reset_makes_a_pool_in_crash_loop_try_at_once() {
    let place = Tmp::new();
    let module = place.write("fragile.py", "VALUE = 1\n");
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.path(place.path()).preload(&["fragile"]))
        .start();
    std::fs::write(&module, "raise ValueError('broken on purpose')\n").expect("it can be written");
    let victims = wait_workers(&daemon, 1);
    victims.into_iter().for_each(clutch_tests::kill);
    wait_state(&daemon, "crash_loop");
    let list = daemon.cli(["pool", "list"]).expect_code(0).stdout;
    assert!(list.contains("crash_loop") && list.contains("clutch pool reset default"), "{list}");
    daemon.cli(["call", "math:sqrt", "4"]).expect_code(7).expect_stderr("broken on purpose");

    std::fs::write(&module, "VALUE = 2\n").expect("it can be written");
    order(&daemon, &["reset", "default"]);
    wait_state(&daemon, "running");
    assert_eq!(2.0, daemon.blocking().call::<f64>("math:sqrt", (4,)).expect("it is back"));
}
