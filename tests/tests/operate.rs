//! An operator's verbs on a running daemon: who runs which call, what became of a call, a call
//! cancelled by somebody else, orders to pools; and what each says to wrong input.

use std::num::NonZeroU32;
use std::process::{Child, Stdio};
use std::time::Duration;

use clutch_client::{Chunk, Denial, Failure, OperateError, PoolOrder, Reason, blocking};
use clutch_protocol::frame::{Codec, Kind};
use clutch_protocol::message::Refusal;
use clutch_protocol::operate::{Explanation, Operation};
use clutch_protocol::status::WorkerStatus;
use clutch_protocol::wire;
use clutch_tests::raw::{PATIENCE, RawClient, frame};
use clutch_tests::{Daemon, SECOND, command, kill, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A daemon with one pool of so many workers.
fn daemon(workers: u32) -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(workers)).start()
}

/// The worker that runs `function`, once one does.
#[track_caller]
fn busy_with(daemon: &Daemon, function: &str) -> WorkerStatus {
    wait_until(&format!("{function} runs"), 10 * SECOND, || {
        let status = daemon.try_status()?;
        let mut workers = status.pools.into_iter().flat_map(|pool| pool.workers);
        let busy = workers.find(|worker| worker.function.as_deref() == Some(function));
        busy.ok_or_else(|| "nobody runs it".to_owned())
    })
}

/// Waits until so many calls wait.
#[track_caller]
fn wait_queued(daemon: &Daemon, count: u64) {
    wait_until(&format!("{count} calls wait"), 10 * SECOND, || {
        let queued = daemon.try_status()?.pools[0].queued;
        if queued == count { Ok(()) } else { Err(format!("{queued} wait")) }
    });
}

/// A call on a thread of its own.
struct Waiting(std::thread::JoinHandle<Result<Value, Box<Failure>>>);

impl Waiting {
    fn start(daemon: &Daemon, function: &str, args: Value) -> Waiting {
        let client = daemon.blocking();
        let function = function.to_owned();
        Waiting(std::thread::spawn(move || {
            let request = client.request(function).codec(Codec::Json).args(args);
            request.timeout(60 * SECOND).send().map_err(Box::new)
        }))
    }

    fn end(self) -> Result<Value, Box<Failure>> {
        self.0.join().expect("a call does not panic")
    }
}

#[track_caller]
fn explain(daemon: &Daemon, call: u64) -> Explanation {
    daemon.blocking().explain(call).expect("it is known")
}

fn whats(life: &Explanation) -> Vec<&str> {
    life.steps.iter().map(|step| &*step.what).collect()
}

#[track_caller]
fn denied<T: std::fmt::Debug>(done: Result<T, OperateError>) -> (Denial, String) {
    match done.expect_err("it is refused") {
        OperateError::Refused { denial, sentence } => (denial, sentence),
        OperateError::Failed(failure) => panic!("{failure}"),
    }
}

/// A `clutch call` that waits for its answer.
fn cli_call(daemon: &Daemon, words: &[&str]) -> Child {
    let program = daemon.command(["call"]).args(words);
    program.spawn(Stdio::null(), Stdio::null(), Stdio::null())
}

#[test]
fn calls_have_numbers_of_their_own_in_the_daemon_and_errors_say_them() {
    let daemon = daemon(1);
    // Two connections, which number their own calls alike.
    let (one, other) = (daemon.blocking(), daemon.blocking());
    let first = one.request("math:sqrt").args((4,)).send_answered::<f64>().expect("it answers");
    let second = other.request("math:sqrt").args((9,)).send_answered::<f64>().expect("it answers");
    assert_eq!((2.0, 3.0), (first.value, second.value));
    assert_eq!((1, 2), (first.call, second.call));
    assert_eq!((0, 1), (first.worker.slot, first.worker.generation));
    assert!(first.phases.run_us > 0, "{first:?}");

    let raised = one.call::<f64>("math:sqrt", (-1,)).expect_err("it raises");
    assert_eq!(3, raised.call, "{raised}");
    let refused = one.request("math:sqrt").pool("nowhere").args((1,)).send::<f64>();
    assert_eq!(0, refused.expect_err("there is no such pool").call, "it never had a number");

    let output = daemon.cli(["call", "math:sqrt", "-1"]).expect_code(1);
    assert!(output.stderr.trim_end().ends_with("(call 4)"), "{}", output.stderr);
    let output = daemon.cli(["call", "--json", "math:sqrt", "-1"]).expect_code(1);
    let failure: Failure = serde_json::from_str(&output.stderr).expect("it is JSON");
    assert_eq!(5, failure.call);
    let output = daemon.cli(["call", "--pool", "nowhere", "math:sqrt", "1"]).expect_code(2);
    assert!(!output.stderr.contains("(call"), "{}", output.stderr);

    let output = daemon.cli(["call", "--report", "math:sqrt", "16"]).expect_code(0);
    let report: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    assert_eq!((4.0, 6), (report["value"].as_f64().unwrap(), report["call"].as_u64().unwrap()));
    assert_eq!(1, report["worker"]["generation"]);
    assert!(report["phases"]["run_us"].as_u64().is_some_and(|us| us > 0), "{report}");
}

#[test]
fn workers_says_who_runs_which_call_and_for_how_long() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .pool("other", |pool| pool)
        .start();
    let waiting = Waiting::start(&daemon, "job_stuck:sleep", Value::Array(vec![]));
    let busy = busy_with(&daemon, "job_stuck:sleep");
    let table = daemon.cli(["workers"]).expect_code(0).stdout;
    assert_eq!(4, table.lines().count(), "{table}");
    let row = table.lines().find(|line| line.contains("job_stuck:sleep")).expect("it is there");
    let words: Vec<_> = row.split_whitespace().collect();
    let (worker, pid) = (busy.id.to_string(), busy.pid.to_string());
    assert_eq!(["default", &*worker, &*pid, "busy"], words[..4], "{row}");
    assert_eq!(["1", "job_stuck:sleep"], words[5..7], "{row}");

    let output = daemon.cli(["workers", "--pool", "default", "--json"]).expect_code(0);
    let list: Vec<Value> = serde_json::from_str(&output.stdout).expect("it is JSON");
    assert_eq!(2, list.len(), "{list:?}");
    let row = list.iter().find(|worker| worker["call"] == 1).expect("one has the call");
    assert_eq!(
        ("default", "busy"),
        (row["pool"].as_str().unwrap(), row["state"].as_str().unwrap())
    );
    let had = row["call_ms"].as_u64().expect("it runs for a while");
    wait_until("the time grows", 5 * SECOND, || {
        let now = busy_with(&daemon, "job_stuck:sleep").call_ms;
        if now > Some(had) { Ok(()) } else { Err(now) }
    });
    let idle = list.iter().find(|worker| worker["call"] != 1).expect("one has none");
    assert!(idle["call"].is_null() && idle["call_ms"].is_null(), "{idle}");
    daemon.blocking().cancel_call(1).expect("it runs");
    waiting.end().expect_err("it was cancelled");
}

#[test]
fn the_life_of_a_call_that_waited_says_for_whom() {
    let daemon = daemon(1);
    let ahead = Waiting::start(&daemon, "bulk:nap", serde_json::json!([0.5, "first"]));
    let busy = busy_with(&daemon, "bulk:nap");
    let behind = Waiting::start(&daemon, "math:sqrt", serde_json::json!([9]));
    wait_queued(&daemon, 1);
    let queued = explain(&daemon, 2);
    assert_eq!(("queued", None), (&*queued.state, queued.outcome.as_deref()));
    assert_eq!(["arrived", "queued"], whats(&queued)[..]);
    assert_eq!(None, queued.ahead[0].until_us, "it is still at it: {queued:?}");

    behind.end().expect("it is answered");
    ahead.end().expect("it is answered");
    let life = explain(&daemon, 2);
    assert_eq!(("default", "math:sqrt"), (&*life.pool, &*life.function));
    assert_eq!(("answered", Some("ok")), (&*life.state, life.outcome.as_deref()));
    assert_eq!(["arrived", "queued", "assigned", "answered"], whats(&life)[..]);
    assert!(life.steps.is_sorted_by_key(|step| step.at_us), "{life:?}");
    assert_eq!((Some(busy.id), Some(busy.pid)), (life.steps[2].worker, life.steps[2].pid));
    let [one] = &life.ahead[..] else { panic!("{life:?}") };
    assert_eq!((1, "bulk:nap", busy.id), (one.call, &*one.function, one.worker));
    assert!(one.from_us < 0 && one.until_us.is_some_and(|until| until > 0), "{one:?}");
    assert!(life.arrived_unix_ms.is_some() && !life.beginning_lost, "{life:?}");

    let text = daemon.cli(["explain", "2"]).expect_code(0).stdout;
    for part in [
        "call 2: math:sqrt in pool default, answered: ok\n",
        "it had to wait",
        &format!("given to worker {} (pid {})", busy.id, busy.pid),
        "call 1 (bulk:nap) from -",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    let json = daemon.cli(["explain", "2", "--json"]).expect_code(0).stdout;
    let same: Explanation = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(life.steps, same.steps);
}

#[test]
fn the_life_of_a_call_says_how_its_worker_ended() {
    let daemon = daemon(1);
    let waiting = Waiting::start(&daemon, "job_stuck:sleep", Value::Array(vec![]));
    let busy = busy_with(&daemon, "job_stuck:sleep");
    assert_eq!("running", explain(&daemon, 1).state);
    kill(busy.pid);
    let failure = waiting.end().expect_err("its worker died");
    assert_eq!((1, "WorkerDied"), (failure.call, failure.reason.name()));
    let life = explain(&daemon, 1);
    assert_eq!(["arrived", "assigned", "worker_died", "answered"], whats(&life)[..]);
    assert_eq!("signalled", life.steps[2].detail);
    assert_eq!((Some(busy.id), Some(busy.pid)), (life.steps[2].worker, life.steps[2].pid));
    assert_eq!(Some("WorkerDied"), life.outcome.as_deref());

    // One that will not end is given up by its caller first, and its worker after that.
    clutch_tests::wait_for("the dead one is gone", 10 * SECOND, || {
        let workers = daemon.status().pools.swap_remove(0).workers;
        workers.iter().all(|worker| worker.pid != busy.pid)
    });
    daemon.wait_ready();
    let output = daemon.cli(["call", "--timeout", "1s", "job_stuck:ignore_everything"]);
    output.expect_code(4).expect_stderr("(call 2)");
    let life = wait_until("its worker has ended", 20 * SECOND, || {
        let life = explain(&daemon, 2);
        if whats(&life).contains(&"worker_died") { Ok(life) } else { Err(format!("{life:?}")) }
    });
    let whats = whats(&life);
    let at = |what| whats.iter().position(|one| *one == what).expect(what);
    assert!(at("answered") < at("interrupted"), "{whats:?}");
    assert!(at("interrupted") < at("worker_stopping"), "{whats:?}");
    assert!(at("worker_stopping") < at("worker_died"), "{whats:?}");
    assert_eq!(Some("TimedOut"), life.outcome.as_deref());
}

#[test]
fn what_is_forgotten_and_what_never_was_are_told_apart() {
    let daemon = daemon(2);
    let client = daemon.blocking();
    let (denial, sentence) = denied(client.explain(1));
    assert_eq!(Denial::NoSuchCall, denial);
    assert!(sentence.contains("has not had any yet"), "{sentence}");
    client.call::<f64>("math:sqrt", (4,)).expect("it answers");
    let waiting = Waiting::start(&daemon, "job_stuck:sleep", Value::Array(vec![]));
    let busy = busy_with(&daemon, "job_stuck:sleep");

    // Three events each: more than the ring holds.
    let items = 25_000_u64;
    let one = Chunk::Fixed(NonZeroU32::MIN);
    let squares = client.map::<_, u64>("job_calls:square", 0..items).chunk(one);
    let squares: Vec<u64> = squares.collect().expect("all answer");
    assert_eq!(items, squares.len() as u64);

    let (denial, sentence) = denied(client.explain(1));
    assert_eq!(Denial::Ended, denial);
    assert!(sentence.contains("nothing is known of it any more"), "{sentence}");
    daemon.cli(["explain", "1"]).expect_code(7).expect_stderr("call 1 was answered so long ago");
    daemon.cli(["explain", "99999"]).expect_code(2).expect_stderr("calls are 1 to 25002");
    daemon.cli(["explain", "0"]).expect_code(2).expect_stderr("there is no call 0");

    // The one that still runs is known for what it is, though its beginning is not in the ring.
    let life = explain(&daemon, 2);
    assert_eq!(("running", "job_stuck:sleep"), (&*life.state, &*life.function));
    assert!(life.beginning_lost && life.arrived_unix_ms.is_some(), "{life:?}");
    assert_eq!(["arrived", "assigned"], whats(&life)[..]);
    assert_eq!((Some(busy.id), Some(busy.pid)), (life.steps[1].worker, life.steps[1].pid));
    let text = daemon.cli(["explain", "2"]).expect_code(0).stdout;
    assert!(text.contains("its beginning is forgotten"), "{text}");
    client.cancel_call(2).expect("it runs");
    waiting.end().expect_err("it was cancelled");
}

#[test]
fn anybodys_call_can_be_cancelled_running_or_waiting() {
    let daemon = daemon(1);
    let oracle = daemon.oracle();
    let mut running = cli_call(&daemon, &["job_stuck:sleep"]);
    let busy = busy_with(&daemon, "job_stuck:sleep");
    let waiting = Waiting::start(&daemon, "math:sqrt", serde_json::json!([4]));
    wait_queued(&daemon, 1);

    let call = busy.call.expect("it runs a call");
    let next = (call + 1).to_string();
    let output = daemon.cli(["cancel", &next]).expect_code(0);
    let said = format!("call {next} (math:sqrt) was cancelled; it waited");
    assert!(output.stderr.contains(&said), "{output:?}");
    let failure = waiting.end().expect_err("it was cancelled");
    assert_eq!(
        (call + 1, "Cancelled", false),
        (failure.call, failure.reason.name(), failure.started)
    );

    let output = daemon.cli(["cancel", "--json", &call.to_string()]).expect_code(0);
    let cancelled: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    assert_eq!(
        (call, "job_stuck:sleep"),
        (cancelled["call"].as_u64().unwrap(), cancelled["function"].as_str().unwrap(),)
    );
    assert_eq!(Some(u64::from(busy.id.slot)), cancelled["worker"]["slot"].as_u64());
    let status = command::wait(&mut running, 20 * SECOND).expect("its caller is told");
    assert_eq!(5, command::shell_code(status));

    let output = daemon.cli(["cancel", &call.to_string()]).expect_code(7);
    output.expect_stderr("was answered already (Cancelled)");
    let known = format!("this daemon's calls are 1 to {next}");
    daemon.cli(["cancel", "17"]).expect_code(2).expect_stderr(&known);
    assert_eq!(3.0, daemon.blocking().call::<f64>("math:sqrt", (9,)).expect("it goes on"));
    oracle.judge(daemon);
}

#[test]
fn a_cancel_by_an_operator_never_hits_another_call() {
    let daemon = daemon(2);
    let operator = daemon.blocking();
    let client = daemon.blocking();
    let calls = 300;
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || {
                let mut numbers = Vec::new();
                for x in 0..calls {
                    match client.call::<i64>("bulk:nap", (0.001, x)) {
                        Ok(same) => assert_eq!(x, same),
                        Err(failure) => {
                            assert!(matches!(failure.reason, Reason::Cancelled), "{failure}");
                            numbers.push(failure.call);
                        }
                    }
                }
                numbers
            })
        })
        .collect();
    // Every second number that there will be, whether it waits, runs or is answered just now.
    let mut hit = Vec::new();
    for call in (1..=4 * u64::try_from(calls).unwrap()).step_by(2) {
        let cancelled =
            wait_until("the call is there", 20 * SECOND, || match operator.cancel_call(call) {
                Err(OperateError::Refused { denial: Denial::NoSuchCall, sentence }) => {
                    Err(sentence)
                }
                done => Ok(done),
            });
        match cancelled {
            Ok(cancelled) => hit.push(cancelled.call),
            Err(error) => assert_eq!(Denial::Ended, denied::<()>(Err(error)).0),
        }
    }
    let told = callers.into_iter().flat_map(|caller| caller.join().expect("it ends"));
    let mut told: Vec<_> = told.collect();
    told.sort_unstable();
    assert!(!hit.is_empty(), "none of {calls} calls was there when it was cancelled");
    assert_eq!(hit, told, "who was cancelled, and who was told so");
}

#[test]
fn orders_reach_their_pool_and_no_other() {
    let daemon = Daemon::builder().pool("one", |pool| pool).pool("two", |pool| pool).start();
    let orders: [&[&str]; 7] = [
        &["pause", "one"],
        &["resume", "one"],
        &["drain", "one"],
        &["resize", "one", "2"],
        &["resize", "one", "1..3"],
        &["recycle", "one"],
        &["reset", "one"],
    ];
    for words in orders {
        let output = daemon.command(["pool"]).args(words).run().expect_code(0);
        assert!(output.stderr.starts_with("pool one: "), "{output:?}");
        assert_eq!("", output.stdout, "{output:?}");
    }
    assert_eq!(7, daemon.counter("one", "operator_orders"));
    assert_eq!(0, daemon.counter("two", "operator_orders"));
    let line = daemon.wait_for_log("order=Resize { min: 1, max: 3 }", 5 * SECOND);
    assert!(line.contains("one"), "{line}");
    let list = daemon.cli(["pool", "list"]).expect_code(0).stdout;
    assert_eq!(3, list.lines().count(), "{list}");
    let json = daemon.cli(["pool", "list", "--json"]).expect_code(0).stdout;
    let pools: Vec<Value> = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(["one", "two"], [&pools[0]["name"], &pools[1]["name"]].map(|n| n.as_str().unwrap()));
}

#[test]
fn wrong_names_and_numbers_are_refused_by_the_command_line_and_by_the_daemon() {
    let daemon = daemon(1);
    let wrong: [(&[&str], &str); 17] = [
        (&["pool", "pause", "nope"], "there is no pool 'nope'; the pools are: default"),
        (&["pool", "pause", "a b"], "pool name"),
        (&["pool", "pause"], "<NAME>"),
        (&["pool", "frobnicate", "default"], "frobnicate"),
        (&["pool", "resize", "default"], "MIN[..MAX]"),
        (&["pool", "resize", "default", "0"], "at least one worker"),
        (&["pool", "resize", "default", "3..1"], "the least comes first"),
        (&["pool", "resize", "default", "many"], "a number of workers"),
        (&["pool", "resize", "default", "1..5000"], "from 1 to 4096"),
        (&["workers", "--pool", "nope"], "there is no pool 'nope'; the pools are: default"),
        (&["stack", "nope/0"], "there is no pool 'nope'"),
        (&["stack", "7"], "pool 'default' has no slot 7"),
        (&["stack", "first"], "by its slot"),
        (&["stack", "a/0", "--pool", "b"], "two pools"),
        (&["explain", "first"], "first"),
        (&["explain", "-1"], "-1"),
        (&["cancel", "18446744073709551616"], "18446744073709551616"),
    ];
    for (words, part) in wrong {
        let output = daemon.cli(words).expect_code(2);
        assert_eq!("", output.stdout, "{words:?}");
        assert!(output.stderr.starts_with("error: "), "{words:?}: {}", output.stderr);
        assert!(output.stderr.contains(part), "{words:?}: {part:?} in {}", output.stderr);
    }
    // The daemon does not rely on the command line.
    let client = daemon.blocking();
    let resize = |min, max| denied(client.order_pool("default", PoolOrder::Resize { min, max })).0;
    assert_eq!([Denial::Invalid; 3], [resize(0, 0), resize(2, 1), resize(1, u32::MAX)]);
    for name in ["", "a b", "../x", "\n", &"p".repeat(70_000)] {
        let (denial, sentence) = denied(client.order_pool(name, PoolOrder::Pause));
        assert_eq!(Denial::Invalid, denial, "{name:?}");
        assert!(sentence.len() < 300, "{sentence}");
        assert_eq!(Denial::Invalid, denied(client.stack(name, 0)).0, "{name:?}");
    }
    assert_eq!(Denial::NoSuchPool, denied(client.order_pool("nope", PoolOrder::Reset)).0);
    assert_eq!(Denial::NoSuchSlot, denied(client.stack("default", u32::MAX)).0);
    assert_eq!(Denial::NoSuchCall, denied(client.explain(u64::MAX)).0);
    assert_eq!(0, daemon.counter("default", "operator_orders"), "nothing has changed");
}

#[test]
fn operations_that_break_the_protocol_end_their_connection_and_nothing_else_f084() {
    let daemon = daemon(1);
    let oracle = daemon.oracle();
    let meta = wire::encode(&Operation::Explain { call: 1 }).expect("a short meta");
    let good = frame(Kind::Operate, 1, Codec::None, &meta, &[]);
    // As the first frame, before anybody is known.
    let mut stranger = daemon.stranger();
    stranger.say(&good);
    assert_eq!(Refusal::Protocol, stranger.expect_refused(PATIENCE).refusal);
    let bad = [
        frame(Kind::Operate, 1, Codec::None, &[], &[]),
        frame(Kind::Operate, 1, Codec::None, &[9, 0, 0, 0], &[]),
        frame(Kind::Operate, 1, Codec::None, &meta[..meta.len() - 1], &[]),
        frame(Kind::Operate, 1, Codec::None, &[&meta[..], &[0]].concat(), &[]),
        frame(Kind::Operate, 1, Codec::Json, &meta, b"{}"),
        frame(Kind::Operated, 1, Codec::None, &[0; 4], &[]),
    ];
    for bytes in bad {
        let mut client = daemon.raw();
        client.say(&bytes);
        assert_eq!(Refusal::Protocol, client.expect_refused(PATIENCE).refusal);
    }
    // One that closes its sending half is still told.
    let mut client: RawClient = daemon.raw();
    client.say(&good);
    client.close_sending();
    client.expect(Kind::Operated, PATIENCE);
    client.expect_closed(PATIENCE);
    oracle.judge(daemon);
}

#[test]
fn the_async_client_has_the_same_verbs() {
    let daemon = daemon(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.expect("a runtime can be built").block_on(async {
        let client = daemon.client().await;
        let answered = client.request("math:sqrt").args((4,)).send_answered::<f64>().await?;
        assert_eq!((1, 2.0, 0), (answered.call, answered.value, answered.worker.slot));
        assert_eq!(Some("ok".to_owned()), client.explain(1).await?.outcome);
        client.order_pool("default", PoolOrder::Reset).await?;
        assert_eq!(Denial::NoSuchPool, denied(client.order_pool("no", PoolOrder::Reset).await).0);
        assert_eq!(Denial::NoSuchSlot, denied(client.stack("default", 9).await).0);
        assert_eq!(Denial::Ended, denied(client.cancel_call(1).await).0);
        let late = client.clone();
        let call = async { late.call::<()>("job_stuck:sleep", ()).await };
        let cancel = async {
            while client.cancel_call(2).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        let (called, ()) = tokio::join!(call, cancel);
        assert_eq!("Cancelled", called.expect_err("it was cancelled").reason.name());
        Ok::<_, Box<dyn std::error::Error>>(())
    });
    done.expect("the verbs work");
}

#[test]
fn a_daemon_that_stops_takes_no_orders_but_still_tells_and_cancels() {
    let mut daemon = daemon(1);
    let client: blocking::Client = daemon.blocking();
    let waiting = Waiting::start(&daemon, "job_stuck:sleep", Value::Array(vec![]));
    busy_with(&daemon, "job_stuck:sleep");
    daemon.signal(Signal::SIGTERM);
    wait_until("it stops", 10 * SECOND, || match client.status() {
        Ok(status) if status.daemon.state == "stopping" => Ok(()),
        status => Err(format!("{status:?}")),
    });
    for order in [PoolOrder::Pause, PoolOrder::Resize { min: 1, max: 2 }, PoolOrder::Recycle] {
        assert_eq!(Denial::ShuttingDown, denied(client.order_pool("default", order)).0);
    }
    assert_eq!("running", client.explain(1).expect("it is told").state);
    assert_eq!(1, client.cancel_call(1).expect("it runs").call);
    assert_eq!("Cancelled", waiting.end().expect_err("it was cancelled").reason.name());
    assert_eq!(0, daemon.wait_exit(Duration::from_secs(20)), "nothing is left to wait for");
}
