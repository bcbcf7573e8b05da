//! Calls that nobody wants any more: cancelled at random moments, by the thousand, by Ctrl-C. A
//! cancel never touches another call, and every call is accounted for.

#![expect(clippy::print_stdout, reason = "a run is repeated by the seed it prints")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clutch_client::{Client, Reason};
use clutch_tests::{Daemon, MILLISECOND, SECOND, process, wait_for};
use nix::sys::signal::Signal;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn of(seed: u64, number: u64) -> Dice {
        Dice(seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("CANCEL_SEED") {
        Ok(text) => text.parse().expect("CANCEL_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    println!("seed {seed}");
    seed
}

/// Two workers that are never replaced for taking an interrupt slowly, on a machine that is busy.
fn patient() -> Daemon {
    let pool = |pool: clutch_tests::Pool| pool.workers(2).limit("interrupt", "20s");
    Daemon::builder().pool("default", pool).start()
}

/// A random moment in the life of a short call: before it is sent, on its way, while it waits or
/// runs, with its answer under way, after it.
async fn moment(dice: &mut Dice) {
    if dice.roll(2) == 0 {
        for _ in 0..dice.roll(200) {
            tokio::task::yield_now().await;
        }
    } else {
        let _elapsed =
            tokio::time::timeout(Duration::from_millis(dice.roll(8)), std::future::pending::<()>())
                .await;
    }
}

/// One call; cancelled at a random moment if it is to be. Whether it was.
async fn one(client: &Client, number: u64, mut dice: Dice) -> bool {
    let functions = ["bulk:nap", "job_cancel:busy", "job_cancel:quick"];
    let request = client.request(functions[usize::try_from(dice.roll(3)).expect("it is small")]);
    let args = match dice.roll(1000) {
        // Now and then one that would be missed if it were cancelled with its neighbour.
        0 => (0.02, number),
        _ => (0.0005, number),
    };
    let call = request.args(args).timeout(60 * SECOND).send::<u64>();
    if dice.roll(2) == 0 {
        let answer = call.await;
        assert!(matches!(answer, Ok(value) if value == number), "call {number}: {answer:?}");
        return false;
    }
    tokio::select! {
        biased;
        answer = call => {
            assert!(matches!(answer, Ok(value) if value == number), "call {number}: {answer:?}");
            false
        }
        () = moment(&mut dice) => true,
    }
}

#[test]
fn ten_thousand_calls_half_of_them_cancelled_and_no_other_notices() {
    const CALLS: u64 = 10_000;
    const AT_ONCE: usize = 64;
    let seed = seed();
    let daemon = patient();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let cancelled = runtime.expect("a runtime can be built").block_on(async {
        let clients = [daemon.client().await, daemon.client().await, daemon.client().await];
        let mut tasks = tokio::task::JoinSet::new();
        let mut cancelled = 0_u64;
        for number in 0..CALLS {
            while tasks.len() >= AT_ONCE {
                let ended = tasks.join_next().await.expect("there are some");
                cancelled += u64::from(ended.expect("a call that was not cancelled failed"));
            }
            let client = clients[usize::try_from(number % 3).expect("it is small")].clone();
            tasks.spawn(async move { one(&client, number, Dice::of(seed, number)).await });
        }
        while let Some(ended) = tasks.join_next().await {
            cancelled += u64::from(ended.expect("a call that was not cancelled failed"));
        }
        cancelled
    });
    // Otherwise this was no test: they all ended before they could be cancelled, or never began.
    assert!((CALLS / 5..=CALLS / 2 + 300).contains(&cancelled), "{cancelled} were cancelled");
    let counted = daemon.counter("default", "answered.Cancelled");
    assert!(counted > CALLS / 50, "only {counted} were with the daemon when they were cancelled");
    assert_eq!(before, daemon.worker_pids("default"), "a worker was replaced");
    oracle.judge(daemon);
}

#[test]
fn f099_threads_that_give_up_share_a_client_with_others_and_all_is_accounted_for() {
    const THREADS: u64 = 60;
    const CALLS: u64 = 40;
    let seed = seed();
    let daemon = patient();
    let oracle = daemon.oracle();
    let before = daemon.counter("default", "accepted");
    let client = daemon.blocking();
    let (answered, late) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, answered, late) = (&client, &answered, &late);
            scope.spawn(move || {
                let mut dice = Dice::of(seed, thread);
                for call in 0..CALLS {
                    let number = thread * CALLS + call;
                    let patience = match dice.roll(2) {
                        0 => 60 * SECOND,
                        _ => Duration::from_micros(500 + dice.roll(40_000)),
                    };
                    let request = client.request("bulk:nap").args((0.0005, number));
                    match request.timeout(patience).send::<u64>() {
                        Ok(value) => {
                            assert_eq!(number, value);
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(failure) => {
                            assert!(
                                matches!(failure.reason, Reason::TimedOut { .. })
                                    && patience < SECOND,
                                "{failure}"
                            );
                            late.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
            });
        }
    });
    let (answered, late) = (answered.into_inner(), late.into_inner());
    assert_eq!(THREADS * CALLS, answered + late, "V1");
    assert!(late > 0 && answered >= THREADS * CALLS / 3, "{answered} answered, {late} late");
    drop(client);
    // A call whose time was over before it could be sent is none of the daemon's.
    let accepted = daemon.counter("default", "accepted") - before;
    assert!((answered..=answered + late).contains(&accepted), "{accepted} {answered} {late}");
    oracle.judge(daemon);
}

#[test]
fn dropped_futures_of_every_kind_leave_nothing_behind() {
    let daemon = patient();
    let oracle = daemon.oracle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let client = Arc::new(daemon.client().await);
        // One runs in each worker, more wait behind them.
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let client = Arc::clone(&client);
            tasks.spawn(async move { client.call::<()>("job_stuck:sleep", ()).await });
        }
        while daemon.status().pools[0].queued < 48 {
            tokio::task::yield_now().await;
        }
        tasks.shutdown().await;
        // A map, with items under way.
        let mut map = client.map::<_, ()>("job_cancel:stay", 0..1000).unordered();
        let first = tokio::time::timeout(300 * MILLISECOND, map.next()).await;
        assert!(first.is_err(), "nothing comes of it");
        drop(map);
        assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).await.expect("a worker is free"));
        assert_eq!(0, client.status().await.expect("it answers").pools[0].queued);
    });
    oracle.judge(daemon);
}

#[test]
fn code_that_looks_whether_it_is_wanted_is_given_time_to_end_by_itself() {
    let pool = |pool: clutch_tests::Pool| pool.limit("cooperate", "20s");
    let daemon = Daemon::builder().pool("default", pool).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let client = daemon.blocking();
    let file = daemon.tmp().join("marks");
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    let request = client.request("job_stuck:until_cancelled");
    let request = request.args((file.to_str().expect("test paths are text"),));
    let failure = request.timeout(500 * MILLISECOND).send::<()>().expect_err("too slow");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    wait_for("it has ended by itself", 10 * SECOND, || lines() == "taken\nreleased\n");

    // An attempt that has had its time does not count, whatever it returns when it is told.
    let count = daemon.tmp().join("count");
    let request = client.request("job_cancel:gives_up_at_first");
    let request = request.args((count.to_str().expect("test paths are text"),));
    let retry = clutch_client::Retry::new(3).on_timed_out(500 * MILLISECOND);
    let answer = request.retry(retry).timeout(60 * SECOND).send::<String>();
    assert_eq!("attempt 2", answer.expect("the second attempt is quick"));
    assert_eq!(before, daemon.worker_pids("default"), "a worker was replaced");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f064_ctrl_c_at_the_daemons_terminal_lets_its_calls_finish_and_the_second_one_does_not() {
    let start = || {
        let daemon = Daemon::builder().pool("default", |pool| pool).through(&["setsid"]).start();
        let pid = process::pid_of(daemon.pid());
        assert_eq!(Ok(pid), nix::unistd::getpgid(Some(pid)), "it leads a group, as at a terminal");
        daemon
    };
    let press = |daemon: &Daemon| {
        let group = process::pid_of(daemon.pid());
        nix::sys::signal::killpg(group, Signal::SIGINT).expect("the group is there");
    };
    let running = |daemon: &Daemon, seconds: f64| {
        let client = daemon.blocking();
        let call = std::thread::spawn(move || {
            client.call::<i64>("bulk:nap", (seconds, 7)).map_err(Box::new)
        });
        wait_for("it runs", 10 * SECOND, || daemon.status().pools[0].running == 1);
        call
    };

    let mut daemon = start();
    let call = running(&daemon, 1.0);
    press(&daemon);
    assert_eq!(7, call.join().expect("no panic").expect("nothing interrupts it"));
    assert_eq!(0, daemon.wait_exit(10 * SECOND));
    daemon.assert_swept(5 * SECOND);

    let mut daemon = start();
    let call = running(&daemon, 1000.0);
    press(&daemon);
    daemon.wait_for_log("stopping", 5 * SECOND);
    press(&daemon);
    let failure = call.join().expect("no panic").expect_err("it is given up");
    assert!(
        matches!(failure.reason, Reason::ShuttingDown { .. } | Reason::Disconnected { .. }),
        "{failure}"
    );
    daemon.wait_exit(10 * SECOND);
    daemon.assert_swept(5 * SECOND);
}
