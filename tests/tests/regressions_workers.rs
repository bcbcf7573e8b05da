//! Faults that were found by review and repaired, of workers and of the start: what must hold ever
//! since. Each test was seen to fail on the program as it was before. Those of clients are in
//! `regressions.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use clutch_protocol::failure::{Cause, Certificate, Reason};
use clutch_tests::process::{self, Process};
use clutch_tests::{Daemon, Program, RawClient, SECOND, kill, raw, wait_for, wait_until};
use nix::sys::signal::Signal;

/// Calls `function` with a timeout it does not keep; the caller must hear of that and nothing else.
#[track_caller]
fn times_out(client: &mut RawClient, function: &str, arguments: &str, timeout_ms: u64) {
    let id = client.next_id();
    let call = raw::call_within(id, "default", function, arguments, timeout_ms);
    client.send(&call).expect("the daemon reads calls");
    let failure = client.finish(id).failure();
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
}

#[track_caller]
fn last_death(daemon: &Daemon) -> Certificate {
    wait_until("a worker has died", 20 * SECOND, || {
        daemon.status().pools.remove(0).last_death.ok_or("none has")
    })
}

fn json_path(path: &Path) -> String {
    serde_json::to_string(path.to_str().expect("test paths are text")).expect("a text is JSON")
}

#[test]
fn f069_a_worker_that_floods_empty_lines_starves_no_other_pool() {
    const CALLS: u64 = 10;
    const ROUNDS: usize = 21;
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let mut noisy = daemon.raw();
    noisy.start("default", "regress:shout_empty_lines", "[]");
    let lines = || daemon.counter("default", "output_lines");
    wait_for("the flood has begun", 10 * SECOND, || lines() > 1_000_000);
    let mut client = daemon.raw();
    let mut counts: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let before = lines();
            for _ in 0..CALLS {
                assert_eq!(3.0, client.call("quiet", "math:sqrt", "[9]").value());
            }
            (lines() - before) / CALLS
        })
        .collect();
    counts.sort_unstable();
    // The lower quartile: a machine that lets the client wait adds to some.
    let usual = counts[ROUNDS / 4];
    assert!(usual < 60_000, "{usual} lines of another pool were read during each call");
    drop((noisy, client));
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_floods_wrong_frames_while_it_is_stopped_costs_one_line_of_log() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "1s")).start();
    let oracle = daemon.oracle().expect_event("broke the protocol", 1);
    let mark = daemon.tmp().join("mark");
    let mut client = daemon.raw();
    times_out(
        &mut client,
        "regress:flood_when_asked_to_go",
        &format!("[{}]", json_path(&mark)),
        1500,
    );
    last_death(&daemon);
    assert!(mark.exists(), "the function was asked to go, and flooded");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f148_more_clients_than_the_soft_limit_of_open_files_are_served_and_python_keeps_it() {
    const CLIENTS: usize = 300;
    let daemon = Daemon::builder()
        .through(&["sh", "-c", "ulimit -S -n 256; exec \"$0\" \"$@\""])
        .pool("default", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| daemon.raw()).collect();
    for client in &mut clients {
        assert!(client.is_served());
    }
    let limits = clients[CLIENTS - 1].call("default", "resource:getrlimit", "[7]").value();
    assert_eq!(256, limits[0], "{limits}");
    // A worker's restart needs descriptors, too.
    let worker = daemon.worker_pids("default")[0];
    kill(worker);
    wait_for("the worker is replaced", 10 * SECOND, || {
        daemon.worker_pids("default").iter().any(|pid| *pid != worker)
    });
    drop(clients);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_could_not_be_handed_over_is_not_said_to_have_started() {
    let builder = Daemon::builder();
    let mark = builder.tmp().join("slow");
    let slow = format!("import os, time\nif os.path.exists({mark:?}):\n    time.sleep(2)\n");
    builder.tmp().write("modules/slow_start.py", slow);
    let modules = builder.tmp().join("modules");
    let daemon =
        builder.pool("default", |pool| pool.path(modules).preload(&["slow_start"])).start();
    let oracle = daemon.oracle();
    for _ in 0..3 {
        let worker = daemon.worker_pids("default")[0];
        let mut client = daemon.raw();
        // Its successor is not ready before the call's deadline.
        daemon.tmp().write("slow", "");
        // The daemon finds the call before it finds that the worker is gone.
        daemon.signal(Signal::SIGSTOP);
        wait_for("the daemon is stopped", 5 * SECOND, || {
            Process::find(daemon.pid()).is_some_and(|daemon| daemon.state == 'T')
        });
        let id = client.next_id();
        let call = raw::call_within(id, "default", "math:sqrt", "[9]", 500);
        client.send(&call).expect("a socket's buffer holds a short call");
        kill(worker);
        wait_for("every thread of the worker is gone", 5 * SECOND, || {
            // The first thread's remains stay until somebody has waited for them.
            let threads = std::fs::read_dir(format!("/proc/{worker}/task"));
            !process::alive(worker) && threads.map_or(0, Iterator::count) <= 1
        });
        daemon.signal(Signal::SIGCONT);
        let failure = client.finish(id).failure();
        assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
        assert_eq!((0, false), (failure.attempt, failure.started), "{failure:?}");
        std::fs::remove_file(&mark).expect("it was written");
        daemon.wait_ready();
    }
    oracle.judge(daemon);
}

/// A program that is no script and does nothing, whatever it is asked.
fn hanging_interpreter(path: &Path) {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Program::new(rustc)
        .args(["-", "--crate-name", "hanging", "-o"])
        .args([path])
        .stdin("fn main() { loop { std::thread::park() } }")
        .run()
        .expect_code(0);
    let mode = std::fs::metadata(path).expect("it was built").permissions().mode();
    assert_ne!(0, mode & 0o100, "it can be run");
}

#[test]
fn two_signals_end_a_start_whose_interpreter_hangs() {
    let builder = Daemon::builder();
    let python = builder.tmp().join("python3.9");
    hanging_interpreter(&python);
    let mut daemon = builder.pool("default", |pool| pool.key("python", python.as_path())).spawn();
    wait_for("the interpreter is asked who it is", 20 * SECOND, || {
        process::with_token(daemon.token()).iter().any(|one| one.command.contains(" -I -S -c "))
    });
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_exit(20 * SECOND);
    let took = begun.elapsed();
    assert!(took < 3 * SECOND, "it ended after {took:?}");
    daemon.assert_swept(SECOND);
}

#[test]
fn repeated_timeouts_of_a_stuck_function_leave_two_workers_per_slot_at_most() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "30s")).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    for _ in 0..6 {
        times_out(&mut client, "job_stuck:ignore_everything", "[]", 400);
        wait_until("those before the last are killed", 10 * SECOND, || {
            let pids = daemon.worker_pids("default");
            if pids.len() <= 2 { Ok(()) } else { Err(pids) }
        });
    }
    // The last one has its whole grace, which need not be waited for.
    wait_until("one worker is left", 10 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        let stopping = workers.iter().filter(|worker| worker.state == "stopping");
        stopping.for_each(|worker| kill(worker.pid));
        if workers.len() == 1 && workers[0].state == "ready" { Ok(()) } else { Err(workers) }
    });
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn the_death_of_a_worker_that_would_not_give_up_a_call_names_its_function() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "200ms")).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    times_out(&mut client, "job_stuck:ignore_everything", "[]", 500);
    let certificate = last_death(&daemon);
    assert_eq!(Cause::Interrupted, certificate.cause, "{certificate}");
    let function = certificate.function.as_deref();
    assert_eq!(Some("job_stuck:ignore_everything"), function, "{certificate}");
    drop(client);
    oracle.judge(daemon);
}
