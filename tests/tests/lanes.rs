//! Workers that run several calls at once, seen from outside: where calls go, what becomes of
//! those beside one that hangs, dies or was never begun, and what is told of them all.

use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use clutch_client::{Failure, Reason};
use clutch_protocol::status::WorkerStatus;
use clutch_tests::process::alive;
use clutch_tests::{Daemon, MILLISECOND, Pool, SECOND, kill, wait_for};
use serde_json::json;

/// Nothing here takes nearly as long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

fn shared(workers: u32, lanes: u32) -> Daemon {
    let pool = |pool: Pool| pool.workers(workers).key("threads", lanes);
    Daemon::builder().pool("default", pool).start()
}

/// What became of a call.
type Outcome = Result<u32, Box<Failure>>;

/// A call on a connection of its own.
fn start(daemon: &Daemon, function: &str, args: &str) -> JoinHandle<Outcome> {
    let client = daemon.blocking();
    let (function, args) = (function.to_owned(), args.to_owned());
    std::thread::spawn(move || {
        let args: serde_json::Value = serde_json::from_str(&args).expect("a test writes JSON");
        client.request(function).args(args).timeout(60 * SECOND).send::<u32>().map_err(Box::new)
    })
}

fn workers(daemon: &Daemon) -> Vec<WorkerStatus> {
    daemon.status().pools.remove(0).workers
}

fn wait_running(daemon: &Daemon, count: u64) {
    wait_for("the calls run", PATIENCE, || daemon.status().pools[0].running == count);
}

fn path(daemon: &Daemon, name: &str) -> String {
    daemon.tmp().join(name).to_str().expect("test paths are text").to_owned()
}

fn of(args: &[&str]) -> String {
    json!(args).to_string()
}

fn died(failure: &Failure) -> &clutch_protocol::failure::Certificate {
    match &failure.reason {
        Reason::WorkerDied(certificate) => certificate,
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_run_side_by_side_in_one_worker_and_all_are_shown() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let go = path(&daemon, "go");
    let meeting: Vec<_> = (0..3).map(|_| start(&daemon, "job_lanes:meet", "[]")).collect();
    let pids: Vec<_> =
        meeting.into_iter().map(|call| call.join().unwrap().expect("all three meet")).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    let calls: Vec<_> = (0..4).map(|_| start(&daemon, "job_lanes:hold", &of(&[&go]))).collect();
    wait_for("three run, one waits", PATIENCE, || {
        let pool = daemon.status().pools.remove(0);
        (pool.running, pool.queued) == (3, 1)
    });
    let worker = workers(&daemon).remove(0);
    assert_eq!((3, 3, "busy"), (worker.lanes, worker.calls.len(), &*worker.state));
    assert_eq!(worker.call, Some(worker.calls[0].call));
    for call in &worker.calls {
        assert_eq!(("job_lanes:hold", "running"), (&*call.function, &*call.state));
    }
    let page = daemon.cli(["workers"]).expect_code(0).stdout;
    assert_eq!(4, page.lines().count(), "one line for each call: {page}");
    std::fs::write(&go, "").unwrap();
    for call in calls {
        assert_eq!(pids[0], call.join().unwrap().expect("it ends"));
    }
    oracle.judge(daemon);
}

#[test]
fn calls_go_to_idle_workers_before_they_share_one() {
    let daemon = shared(2, 2);
    let oracle = daemon.oracle();
    let go = path(&daemon, "go");
    let first = start(&daemon, "job_lanes:hold", &of(&[&go]));
    wait_running(&daemon, 1);
    let second = start(&daemon, "job_lanes:hold", &of(&[&go]));
    wait_running(&daemon, 2);
    assert!(workers(&daemon).iter().all(|worker| worker.calls.len() == 1));
    std::fs::write(&go, "").unwrap();
    let pids = [first, second].map(|call| call.join().unwrap().expect("it ends"));
    assert_ne!(pids[0], pids[1]);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_hangs_costs_no_other_call_and_its_worker_goes_when_they_have_ended() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let go = path(&daemon, "go");
    let beside = start(&daemon, "job_lanes:hold", &of(&[&go]));
    wait_running(&daemon, 1);
    let old = workers(&daemon)[0].pid;
    let client = daemon.blocking();
    let hangs = client.request("job_lanes:hang").args((60,)).timeout(300 * MILLISECOND);
    let failure = hangs.send::<()>().expect_err("it is late");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure:?}");
    wait_for("a successor is there", PATIENCE, || {
        workers(&daemon).iter().any(|worker| worker.id.generation == 2 && worker.state == "ready")
    });
    let new = client.call::<u32>("job_lanes:pid", ()).expect("the successor takes it");
    assert_ne!(old, new);
    let worker = workers(&daemon).remove(0);
    assert_eq!((old, "retiring", 2), (worker.pid, &*worker.state, worker.calls.len()));
    let mut states: Vec<_> = worker.calls.iter().map(|call| call.state.as_str()).collect();
    states.sort_unstable();
    assert_eq!(["interrupting", "running"], states[..]);
    std::fs::write(&go, "").unwrap();
    assert_eq!(old, beside.join().unwrap().expect("it ends as ever"));
    wait_for("the old one is gone", PATIENCE, || !alive(old));
    assert_eq!(new, client.call::<u32>("job_lanes:pid", ()).expect("it stays"));
    drop(client);
    oracle.judge(daemon);
}

/// A look by a signal is safe only while C code holds the interpreter, which is known late where
/// many threads want it. It must not crash a worker that has other calls.
#[test]
fn no_signal_looks_at_a_worker_of_several_calls_in_a_hurry() {
    let pool = |pool: Pool| pool.workers(1).key("threads", 2).preload(&["job_stuck"]);
    let daemon = Daemon::builder().pool("default", pool).start();
    let client = daemon.blocking();
    let stuck = client.request("job_stuck:hold_gil_in_a_sleep").timeout(300 * MILLISECOND);
    match stuck.send::<u32>().expect_err("it cannot answer").reason {
        Reason::TimedOut { stack, .. } => assert_eq!("", stack),
        reason => panic!("{reason:?}"),
    }
}

#[test]
fn a_cancelled_call_leaves_the_others_and_its_worker_alone() {
    // It is not replaced for taking an interrupt slowly, on a machine that is busy.
    let pool = |pool: Pool| pool.workers(1).key("threads", 2_u32).limit("interrupt", "20s");
    let daemon = Daemon::builder().pool("default", pool).start();
    let oracle = daemon.oracle();
    let (go, never) = (path(&daemon, "go"), path(&daemon, "never"));
    let beside = start(&daemon, "job_lanes:hold", &of(&[&go]));
    wait_running(&daemon, 1);
    let cancelled = start(&daemon, "job_lanes:hold", &of(&[&never]));
    wait_running(&daemon, 2);
    let calls = workers(&daemon).remove(0).calls;
    daemon.cli(["cancel", &calls[1].call.to_string()]).expect_code(0);
    let failure = cancelled.join().unwrap().expect_err("it was cancelled");
    assert!(matches!(failure.reason, Reason::Cancelled), "{failure:?}");
    wait_for("its lane is free", PATIENCE, || workers(&daemon)[0].calls.len() == 1);
    std::fs::write(&go, "").unwrap();
    let pid = beside.join().unwrap().expect("it ends as ever");
    assert_eq!((pid, 1), (workers(&daemon)[0].pid, workers(&daemon)[0].id.generation));
    oracle.judge(daemon);
}

#[test]
fn a_death_is_told_to_every_call_that_had_begun_each_by_its_own_name() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let never = path(&daemon, "never");
    let beside = start(&daemon, "job_lanes:hold", &of(&[&never]));
    wait_running(&daemon, 1);
    let call = workers(&daemon)[0].call.expect("it has one");
    let deadly = start(&daemon, "job_lanes:die", "[]").join().unwrap().expect_err("it dies");
    let beside = beside.join().unwrap().expect_err("it dies with it");
    let (own, other) = (died(&beside), died(&deadly));
    assert_eq!((call, Some("job_lanes:hold")), (own.call, own.function.as_deref()));
    assert_eq!(Some("job_lanes:die"), other.function.as_deref());
    assert_eq!(own.pid, other.pid);
    let named = format!("it also ran: call {} (job_lanes:die)", other.call);
    assert!(own.detail.contains(&named), "{}", own.detail);
    assert!(other.detail.contains(&format!("call {call} (job_lanes:hold)")), "{}", other.detail);
    assert!(beside.started && deadly.started);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn calls_that_had_not_begun_when_their_worker_died_move_without_a_word() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let mark = path(&daemon, "mark");
    let frozen = start(&daemon, "job_lanes:freeze", &of(&[&mark]));
    wait_for("no other thread runs", PATIENCE, || Path::new(&mark).exists());
    let victim = workers(&daemon)[0].pid;
    let calls: Vec<_> = (0..2).map(|_| start(&daemon, "job_lanes:pid", "[]")).collect();
    wait_running(&daemon, 3);
    kill(victim);
    let failure = frozen.join().unwrap().expect_err("its worker was killed");
    assert_eq!(Some("job_lanes:freeze"), died(&failure).function.as_deref());
    assert!(!died(&failure).detail.contains("it also ran"), "the others had not begun");
    for call in calls {
        assert_ne!(victim, call.join().unwrap().expect("another worker does it"));
    }
    assert_eq!(2, daemon.counter("default", "calls_moved"));
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_answers_calls_it_has_not_is_ended_with_all_it_has_f091() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let never = path(&daemon, "never");
    let beside = start(&daemon, "job_lanes:hold", &of(&[&never]));
    wait_running(&daemon, 1);
    let forger = start(&daemon, "hostile:answer_others", "[100000, 100002]");
    for call in [beside, forger] {
        let failure = call.join().unwrap().expect_err("its worker is ended");
        let cause = died(&failure).cause;
        assert_eq!(clutch_protocol::failure::Cause::Protocol, cause);
    }
    daemon.wait_ready();
    assert!(daemon.blocking().call::<u32>("job_lanes:pid", ()).is_ok());
    oracle.judge(daemon);
}

#[test]
fn a_line_is_a_calls_when_that_is_alone_and_the_workers_otherwise() {
    let daemon = shared(1, 2);
    let oracle = daemon.oracle();
    let go = path(&daemon, "go");
    let first = start(&daemon, "job_lanes:say", &of(&["alone", &go]));
    wait_running(&daemon, 1);
    let call = workers(&daemon)[0].call.expect("it has one");
    let line_of = |word: &str| {
        let text = daemon.cli(["logs", "--json"]).expect_code(0).stdout;
        let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
        lines.map(|line| line.expect("each is JSON")).find(|line| line["text"] == json!(word))
    };
    wait_for("it has printed", PATIENCE, || line_of("alone").is_some());
    let second = start(&daemon, "job_lanes:say", &of(&["together", &go]));
    wait_for("the other has printed", PATIENCE, || line_of("together").is_some());
    let calls =
        ["alone", "together"].map(|word| line_of(word).expect("it is there")["call"].clone());
    assert!(calls[0] == json!(call) && calls[1] != json!(call), "{calls:?}");
    assert!(calls[1].is_null() || calls[1] == json!(0), "{calls:?}");
    std::fs::write(&go, "").unwrap();
    for call in [first, second] {
        let _ = call.join().unwrap();
    }
    oracle.judge(daemon);
}

#[test]
fn a_nested_call_is_that_of_the_call_it_names_and_an_ordinary_one_if_it_names_none() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let go = path(&daemon, "go");
    let beside = start(&daemon, "job_lanes:hold", &of(&[&go]));
    wait_running(&daemon, 1);
    let own = workers(&daemon)[0].pid;
    let named = start(&daemon, "job_lanes:call_pid", "[true]");
    assert_eq!(own, named.join().unwrap().expect("a lane is free"));
    assert_eq!(1, daemon.counter("default", "nested"));
    let free = start(&daemon, "job_lanes:call_pid", "[false]");
    assert_eq!(own, free.join().unwrap().expect("a lane is free"));
    assert_eq!(1, daemon.counter("default", "nested"), "nobody knows whose it is");
    std::fs::write(&go, "").unwrap();
    assert!(beside.join().unwrap().is_ok());
    oracle.judge(daemon);
}

#[test]
fn calls_that_call_themselves_in_one_worker_are_refused_when_no_lane_is_left_f055() {
    let pool = |pool: Pool| {
        let nested = [("extra", 0_u32.into()), ("depth", 64_u32.into())];
        pool.workers(1).key("threads", 3_u32).table("nested", nested)
    };
    let daemon = Daemon::builder().pool("default", pool).start();
    let oracle = daemon.oracle();
    let failure = start(&daemon, "job_lanes:call_itself", "[]").join().unwrap();
    let Reason::Raised(raised) = failure.expect_err("no lane is left").reason else {
        panic!("it raises what its child was told")
    };
    assert!(raised.message.contains("would wait for ever"), "{}", raised.message);
    assert_eq!(1, daemon.counter("default", "answered.Nested"));
    oracle.judge(daemon);
}

#[test]
fn a_map_has_as_many_chunks_under_way_as_the_pool_can_run_at_once() {
    let daemon = shared(1, 3);
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    // Each waits for two others, so fewer than three at once would never end.
    let pids = client.map("job_lanes:join", 0..6).timeout(PATIENCE).collect::<Vec<u32>>();
    let pids = pids.expect("all of them meet");
    assert!(pids.len() == 6 && pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    drop(client);
    oracle.judge(daemon);
}
