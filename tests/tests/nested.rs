//! Calls that workers send: each gets a worker or is refused with the chain of calls, never left to
//! wait for ever; and each ends with the call that waits for it.

use clutch_client::{Failure, Reason};
use clutch_protocol::status::PoolStatus;
use clutch_tests::raw::PATIENCE;
use clutch_tests::{Clutch, Daemon, Pool, SECOND, kill, wait_for};
use serde_json::Value;

fn pool(daemon: &Daemon, name: &str) -> PoolStatus {
    let status = daemon.status();
    status.pools.into_iter().find(|pool| pool.name == name).expect("the pool is there")
}

/// What the function raised, whose nested calls were refused.
#[track_caller]
fn raised(failure: Failure) -> String {
    match failure.reason {
        Reason::Raised(exception) => exception.message,
        _ => panic!("{failure}"),
    }
}

/// Extra workers go when nobody needs them, and go soon.
fn brisk(pool: Pool) -> Pool {
    pool.table("scale", [("down_after", "300ms".into())])
}

fn wait_until_quiet(daemon: &Daemon, name: &str, workers: usize) {
    wait_for("nothing is left of nested calls", PATIENCE, || {
        let pool = pool(daemon, name);
        (pool.running, pool.queued, pool.extra, pool.workers.len()) == (0, 0, 0, workers)
    });
}

#[test]
fn f055_a_pool_of_one_worker_calls_itself() {
    let daemon = Daemon::builder().pool("default", brisk).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    assert_eq!(1, client.call("default", "job_nested:sum_to", "[1]").value());
    wait_until_quiet(&daemon, "default", 1);
    assert_eq!(1, daemon.counter("default", "nested"));
    let life = daemon.cli(["explain", "3", "--json"]).expect_code(0).stdout;
    let life: Value = serde_json::from_str(&life).expect("it is JSON");
    let chain = &life["chain"][0];
    assert_eq!((2, "default"), (chain["call"].as_u64().unwrap(), chain["pool"].as_str().unwrap()));
    let text = daemon.cli(["explain", "3"]).expect_code(0).stdout;
    assert!(text.contains("call 2 waits for it"), "{text}");
    assert!(text.contains("every worker waits for a nested call"), "{text}");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f055_recursion_without_end_is_refused_with_its_chain() {
    for (extra, depth, bound, calls) in [(1, 8, "nested.extra", 2), (9, 2, "nested.depth", 3)] {
        let daemon = Daemon::builder()
            .pool("default", |pool| {
                brisk(pool).table("nested", [("extra", extra.into()), ("depth", depth.into())])
            })
            .start();
        let oracle = daemon.oracle();
        let mut client = daemon.raw();
        let text = raised(client.call("default", "job_nested:for_ever", "[]").failure());
        assert!(text.contains(bound) && text.contains("exit 7"), "{text}");
        // The oracle has sent the first call.
        for call in 2..2 + calls {
            let link = format!("job_nested:for_ever (call {call}, pool 'default') -> ");
            assert!(text.contains(&link), "{link} in {text}");
        }
        assert_eq!(1, daemon.counter("default", "answered.Nested"));
        assert_eq!(calls, daemon.counter("default", "answered.Raised"));
        wait_until_quiet(&daemon, "default", 1);
        drop(client);
        oracle.judge(daemon);
    }
}

#[test]
fn f055_a_circle_of_pools_gets_its_workers() {
    let daemon = Daemon::builder().pool("a", brisk).pool("b", brisk).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let value = client.call("a", "job_nested:through", r#"[["a", "b", "a", "b"]]"#).value();
    assert_eq!(serde_json::json!(["a", "b", "a", "b"]), value);
    let text =
        raised(client.call("a", "job_nested:through", r#"[["a", "b", "a", "b", "a"]]"#).failure());
    assert!(text.contains("nested.extra") && text.contains("pool 'b') -> "), "{text}");
    for name in ["a", "b"] {
        wait_until_quiet(&daemon, name, 1);
    }
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f055_all_workers_call_their_own_pool_at_once() {
    let daemon = Daemon::builder().pool("default", |pool| brisk(pool).workers(4)).start();
    let oracle = daemon.oracle();
    let mut clients: Vec<_> = (0..8).map(|_| daemon.raw()).collect();
    let calls: Vec<_> = clients
        .iter_mut()
        .map(|client| client.start("default", "job_nested:sum_to", "[1]"))
        .collect();
    for (client, call) in clients.iter_mut().zip(calls) {
        assert_eq!(1, client.finish(call).value());
    }
    drop(clients);
    wait_until_quiet(&daemon, "default", 4);
    oracle.judge(daemon);
}

#[test]
fn f055_what_a_dead_worker_waited_for_is_cancelled() {
    let daemon = Daemon::builder().pool("default", brisk).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("mark");
    let mut client = daemon.raw();
    let arguments = serde_json::json!([mark]).to_string();
    let call = client.start("default", "job_nested:wait_for_sleep", &arguments);
    wait_for("the nested call has begun", PATIENCE, || mark.exists());
    let workers = pool(&daemon, "default").workers;
    let of = |name: &str| {
        let has = |function: &Option<String>| function.as_deref() == Some(name);
        workers.iter().find(|worker| has(&worker.function)).expect("it runs")
    };
    let (outer, inner) = (of("job_nested:wait_for_sleep"), of("job_nested:sleep"));
    assert_eq!((1, "its call waits for a nested call"), (outer.waits_for, &*outer.reason));
    assert_eq!((vec![2], "called by call 2 (pool default)"), (inner.chain.clone(), &*inner.reason));
    kill(outer.pid);
    let failure = client.finish(call).failure();
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    wait_until_quiet(&daemon, "default", 1);
    assert_eq!(1, daemon.counter("default", "answered.Cancelled"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_nested_call_ends_with_the_call_that_waits_for_it_though_its_connection_stays() {
    let daemon = Daemon::builder().pool("default", brisk).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("mark");
    let mut client = daemon.raw();
    let arguments = serde_json::json!([mark]).to_string();
    client.call("default", "job_nested:leave_behind", &arguments).value();
    wait_until_quiet(&daemon, "default", 1);
    assert_eq!(1, daemon.counter("default", "answered.Cancelled"));
    let life = daemon.cli(["explain", "3"]).expect_code(0).stdout;
    assert_eq!(1, life.matches("the call that waited for it has ended").count(), "{life}");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_socket_named_from_here_is_found_from_a_pools_directory() {
    let builder = Daemon::builder();
    let here = std::env::current_dir().expect("it is there");
    let up = here.components().skip(1).map(|_| "..").collect::<std::path::PathBuf>();
    let socket = builder.tmp().dir("run").join("clutch.sock");
    let socket = up.join(socket.strip_prefix("/").expect("test paths are absolute"));
    // Deeper than here, so that the same way up does not lead to the root.
    let deep = builder.tmp().dir(vec!["deep"; 30].join("/"));
    let pool = |pool: Pool| brisk(pool).key("cwd", deep.as_path());
    let daemon = builder.socket(socket).pool("default", pool).start();
    let mut client = daemon.raw();
    assert_eq!(1, client.call("default", "job_nested:sum_to", "[1]").value());
    assert!(daemon.status().daemon.socket.starts_with('/'));
}

#[test]
fn a_nested_call_has_no_more_time_than_the_call_that_waits_for_it() {
    let daemon = Daemon::builder().pool("default", brisk).start();
    let mark = daemon.tmp().join("mark");
    let path = mark.to_str().expect("test paths are text");
    let output = daemon.cli(["call", "--timeout=2s", "job_nested:wait_for_sleep", path]);
    output.expect_code(4);
    wait_until_quiet(&daemon, "default", 1);
    let ends = ["answered.TimedOut", "answered.Cancelled"];
    let [late, cancelled] = ends.map(|name| daemon.counter("default", name));
    assert!(late >= 1 && late + cancelled == 2, "{late} late, {cancelled} cancelled");
}

#[test]
fn a_workers_token_is_told_to_nobody_else_and_is_another_one_for_each() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1)).start();
    let mut client = daemon.raw();
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let token = client.call("default", "job_nested:token", "[]").value();
        tokens.push(token.as_str().expect("it is text").to_owned());
        let pid = daemon.worker_pids("default")[0];
        kill(pid);
        wait_for("another worker is there", PATIENCE, || {
            daemon.worker_pids("default").iter().any(|now| *now != pid)
        });
        daemon.wait_ready();
    }
    assert_ne!(tokens[0], tokens[1]);
    let status = daemon.cli(["status", "--json"]).expect_code(0).stdout;
    for token in tokens {
        assert_eq!(32, token.len(), "{token}");
        assert!(!status.contains(&token) && !daemon.log().contains(&token));
    }
}

#[test]
fn private_supervisors_have_no_socket_to_name() {
    let workers = clutch_tests::workers_dir();
    let path = workers.to_str().expect("test paths are text");
    let output = Clutch::command(["call", "--local", "--path", path, "job_nested:sets"]).run();
    assert_eq!("[]", output.expect_code(0).stdout.trim());
}

/// A pool that has no worker, and starts one for a call.
fn empty_pool() -> Daemon {
    let daemon = Daemon::builder()
        .pool("default", |pool| {
            brisk(pool).table("workers", [("min", 0.into()), ("max", 1.into())])
        })
        .start();
    wait_for("it is empty", PATIENCE, || pool(&daemon, "default").workers.is_empty());
    daemon
}

#[test]
fn waiting_for_a_start_is_a_phase_of_its_own() {
    let daemon = empty_pool();
    let report = daemon.cli(["call", "--report", "math:sqrt", "4"]).expect_code(0).stdout;
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    let phase = |name: &str| report["phases"][name].as_u64().expect("it is a number");
    let (queue, start) = (phase("queue_us"), phase("start_us"));
    assert!(start > 5_000 && start > 10 * queue, "{report}");
    let report = daemon.cli(["call", "--report", "math:sqrt", "4"]).expect_code(0).stdout;
    let report: Value = serde_json::from_str(&report).expect("it is JSON");
    assert_eq!(Some(0), report["phases"]["start_us"].as_u64(), "it is there now: {report}");
}

#[test]
fn who_is_late_is_told_what_helps() {
    let daemon = empty_pool();
    let late = |args: &[&str]| {
        let output = daemon.command(["call"]).args(args).timeout(20 * SECOND).run();
        output.expect_code(4).stderr
    };
    let text = late(&["--timeout=5ms", "time:sleep", "9"]);
    assert!(text.contains("had no worker ready"), "{text}");
    daemon.cli(["pool", "pause", "default"]).expect_code(0);
    let text = late(&["--timeout=300ms", "time:sleep", "9"]);
    assert!(text.contains("clutch pool resume default"), "{text}");
    daemon.cli(["pool", "resume", "default"]).expect_code(0);
    let text = late(&[
        "--timeout=20s",
        "--retry=2",
        "--retry-on=timed_out",
        "--attempt-timeout=200ms",
        "time:sleep",
        "9",
    ]);
    assert!(text.contains("longer attempt timeout"), "{text}");
    let text = late(&["--timeout=300ms", "time:sleep", "9"]);
    assert!(text.contains("limits.call_timeout_max"), "{text}");
}
