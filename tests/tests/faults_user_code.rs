//! Code in a worker that forks, leaks, starves itself or attacks what is above it. F036 to F070,
//! those of them that `tricks.rs`, `seeds.rs` and the Python tests leave.

use std::path::Path;
use std::time::{Duration, Instant};

use clutch_client::{Reason, blocking};
use clutch_protocol::failure::{Cause, Payload};
use clutch_tests::process::{Process, alive};
use clutch_tests::raw::{PATIENCE, Reply, call_within};
use clutch_tests::{Bystander, Daemon, Python, SECOND, Tmp, kill, wait_for, wait_until};

fn json_path(path: &Path) -> String {
    serde_json::to_string(path.to_str().expect("test paths are text")).expect("a text is JSON")
}

/// The only line of a file that a worker writes, as soon as it is there.
#[track_caller]
fn told(path: &Path) -> String {
    wait_until("the worker tells", 20 * SECOND, || {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        text.strip_suffix('\n').map(str::to_owned).ok_or(text)
    })
}

/// Waits until the one worker of the pool is another one.
#[track_caller]
fn wait_replaced(daemon: &Daemon, worker: u32) {
    wait_until("the worker is replaced", 20 * SECOND, || {
        let pids = daemon.worker_pids("default");
        if pids.len() == 1 && pids[0] != worker { Ok(()) } else { Err(pids) }
    });
    daemon.wait_ready();
}

#[test]
fn f036_an_exception_of_a_class_nobody_else_has_is_told_by_name_message_and_traceback() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let client = daemon.blocking();
    let failure = client.call::<()>("faults:raise_local", ()).expect_err("it raises");
    let Reason::Raised(exception) = failure.reason else { panic!("{failure}") };
    assert_eq!("faults.raise_local.<locals>.Hidden", exception.type_name);
    assert_eq!("nobody knows my class", exception.message);
    let line = "raise Hidden(\"nobody knows my class\")";
    assert!(exception.traceback.contains(line), "{}", exception.traceback);
    let output = daemon.cli(["call", "faults:raise_local"]).expect_code(1);
    output.expect_stderr("Hidden: nobody knows my class").expect_stderr(line);
    drop(client);
    assert_eq!(before, daemon.worker_pids("default"), "an exception cost a worker");
    oracle.judge(daemon);
}

#[test]
fn f053_a_fork_that_deadlocks_is_bounded_by_the_deadline_and_killed_with_its_tree() {
    // Time enough for a call that gives up to have done so, on any machine.
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.limit("grace", "500ms").limit("interrupt", "3s"))
        .start();
    let oracle = daemon.oracle();
    for stubborn in [false, true] {
        let worker = daemon.worker_pids("default")[0];
        let mark = daemon.tmp().join(format!("child-{stubborn}"));
        let mut client = daemon.raw();
        let id = client.next_id();
        let arguments = format!("[{}, {stubborn}]", json_path(&mark));
        let begun = Instant::now();
        let call = call_within(id, "default", "faults:fork_into_a_deadlock", &arguments, 2_000);
        client.send(&call).expect("the daemon reads calls");
        let child: u32 = told(&mark).parse().expect("a process id");
        assert_eq!(worker, Process::find(child).expect("it is stuck").parent);
        let failure = client.finish(id).failure();
        assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
        assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
        if !stubborn {
            // The worker gave the call up and lives; its child is its own until its end.
            assert_eq!([worker], daemon.worker_pids("default")[..]);
            kill(worker);
        }
        wait_for("worker and child are dead", 10 * SECOND, || !alive(worker) && !alive(child));
        drop(client);
        wait_replaced(&daemon, worker);
    }
    oracle.judge(daemon);
}

/// What a task does with `multiprocessing`, as a module of its own on the pool's path: what is
/// imported in a child must not start a worker there.
const NESTED: &str = r#"
"""Processes below a worker, and processes below those."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor


def double(x):
    return 2 * x


def fan_out(method):
    """In a child of the worker: a pool of its own."""
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(double, range(3)))


def worker_modules(_):
    """Which of the worker's own modules a child has imported."""
    return sorted(name for name in sys.modules if name.split(".")[0] == "clutch")


def nest(method):
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(fan_out, method).result()


def manage(method):
    with multiprocessing.get_context(method).Manager() as manager:
        shared, lock = manager.dict(a=1), manager.Lock()
        with lock:
            shared["b"] = manager.list([1, 2])[1]
        return dict(shared)


def leftovers(method):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(worker_modules, [0])[0]
"#;

#[test]
fn f056_managers_and_pools_below_pools_work_on_every_interpreter() {
    let pythons = Python::supported();
    let mut builder = Daemon::builder();
    builder.tmp().write("modules/nested_processes.py", NESTED);
    for (index, python) in pythons.iter().enumerate() {
        let modules = builder.tmp().join("modules");
        builder = builder.pool(&format!("p{index}"), |pool| pool.python(python).path(modules));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    for (index, python) in pythons.iter().enumerate() {
        let pool = format!("p{index}");
        for method in ["spawn", "forkserver", "fork"] {
            let arguments = format!("[{method:?}]");
            let mut ask = |function: &str| match client.call(
                &pool,
                &format!("nested_processes:{function}"),
                &arguments,
            ) {
                Reply::Value(value) => value,
                Reply::Failed(failure) => panic!("{python} {method} {function}: {failure}"),
            };
            assert_eq!(serde_json::json!([0, 2, 4]), ask("nest"), "{python} {method}");
            let managed = serde_json::json!({"a": 1, "b": 2});
            assert_eq!(managed, ask("manage"), "{python} {method}");
            if method != "fork" {
                let found = ask("leftovers");
                assert_eq!(serde_json::json!([]), found, "{python} {method}: a worker's modules");
            }
        }
    }
    drop(client);
    oracle.judge_with_helpers(daemon);
}

#[test]
fn f062_an_argument_over_the_limit_is_refused_before_anything_is_sent() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool).daemon_key("payload", "1MiB").start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let accepted = daemon.counter("default", "accepted");
    for bytes in [(1 << 20) + 1, 64 << 20] {
        let answer = client.call::<u64>("faults:length", ("x".repeat(bytes),));
        let failure = answer.expect_err("it is too long");
        assert!(!failure.started && failure.attempt == 0, "{failure}");
        let Reason::TooLarge { what, bytes: told, limit } = failure.reason else {
            panic!("{failure}")
        };
        assert_eq!((Payload::Arguments, 1 << 20), (what, limit));
        assert!(told >= bytes as u64, "{told} of {bytes}");
    }
    assert_eq!(accepted, daemon.counter("default", "accepted"), "it was sent all the same");
    // What just fits is taken, by the same connection.
    let fits = (1 << 20) - 64;
    let length = client.call::<usize>("faults:length", ("x".repeat(fits),));
    assert_eq!(fits, length.expect("it is short enough"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f066_a_worker_killed_with_shared_memory_leaves_nothing_but_its_tasks_own() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("name");
    let mut client = daemon.raw();
    let arguments = format!("[{}]", json_path(&mark));
    let id = client.start("default", "faults:leave_shared_memory", &arguments);
    let name = told(&mark);
    let worker = daemon.wait_runs("faults:leave_shared_memory");
    kill(worker);
    let failure = client.finish(id).failure();
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    drop(client);
    wait_replaced(&daemon, worker);
    // The task's own segment is the task's business, and Python's tracker died with the worker.
    // Of everything else the oracle finds the smallest piece.
    let _ = std::fs::remove_file(Path::new("/dev/shm").join(name.trim_start_matches('/')));
    oracle.judge(daemon);
}

#[test]
fn f067_a_task_that_starves_its_own_process_gets_errors_or_a_new_worker_and_never_a_hang() {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let hunger =
        [("RLIMIT_AS", 1), ("RLIMIT_AS", 64 << 20), ("RLIMIT_NOFILE", 3), ("RLIMIT_DATA", 1)];
    for (name, value) in hunger {
        let victim = daemon.worker_pids("default")[0];
        let mut client = daemon.raw();
        let lowered = client.call("default", "faults:limit", &format!("[{name:?}, {value}]"));
        assert_resolved(name, lowered);
        for (function, arguments) in [
            ("faults:claim", "[100]"),
            ("faults:open_files", "[100]"),
            ("faults:import_something", "[\"sqlite3\"]"),
            ("bulk:text", "[30000000]"),
            ("subprocess:check_output", "[[\"true\"]]"),
            ("math:sqrt", "[9]"),
        ] {
            let id = client.next_id();
            let call = call_within(id, "default", function, arguments, 10_000);
            client.send(&call).expect("the daemon reads calls");
            let begun = Instant::now();
            assert_resolved(function, client.finish(id));
            assert!(begun.elapsed() < PATIENCE, "{name}: {function} took {:?}", begun.elapsed());
        }
        drop(client);
        // A process that starves stays so: nobody but its own end can help it.
        kill(victim);
        wait_replaced(&daemon, victim);
        let mut client = daemon.raw();
        assert_eq!(104_857_600, client.call("default", "faults:claim", "[100]").value());
    }
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// A result, an exception or a death; but no time-out, which is what a hang would come to.
#[track_caller]
fn assert_resolved(what: &str, reply: Reply) {
    if let Reply::Failed(failure) = reply {
        let fits = matches!(
            failure.reason,
            Reason::Raised(_)
                | Reason::WorkerDied(_)
                | Reason::NotFound(_)
                | Reason::Unserializable { .. }
        );
        assert!(fits, "{what}: {failure}");
    }
}

#[test]
fn f070_a_task_that_kills_its_guardian_dies_with_it_and_harms_nobody_else() {
    let tmp = Tmp::new();
    let home = tmp.path().to_str().expect("test paths are text");
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.env("TMPDIR", home))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let mut best = Duration::MAX;
    for round in 1..=3 {
        let victim = daemon.worker_pids("default")[0];
        let guardian = Process::find(victim).expect("it lives").parent;
        let begun = Instant::now();
        let client = blocking::Client::connect(daemon.socket()).expect("it listens");
        let failure = client.call::<()>("faults:kill_parent", ()).expect_err("it dies");
        best = best.min(begun.elapsed());
        assert!(failure.started, "{failure}");
        let Reason::WorkerDied(certificate) = failure.reason else { panic!("{failure}") };
        assert_eq!((victim, Cause::GuardianLost), (certificate.pid, certificate.cause));
        wait_for("both are dead", 2 * SECOND, || !alive(victim) && !alive(guardian));
        wait_replaced(&daemon, victim);
        assert_eq!(round, daemon.counter("default", "deaths.guardian_lost"));
    }
    assert!(best < SECOND, "at best the caller was told after {best:?}");
    bystander.assert_unharmed(2 * SECOND);
    oracle.judge(daemon);
}
