//! What a call was doing when its time was over, or when it died: the Python stack is in the error.

use std::time::Duration;

use clutch_client::{Failure, Reason};
use clutch_tests::{Daemon, MILLISECOND, Python, SECOND, signal, wait_for};
use nix::sys::signal::Signal;

/// A call that has 300 ms, and the stack in its error.
#[track_caller]
fn late(daemon: &Daemon, pool: &str, function: &str) -> (String, Failure) {
    let request = daemon.blocking().request(function).pool(pool).timeout(300 * MILLISECOND);
    let failure = request.send::<()>().expect_err("it cannot answer");
    match failure.reason.clone() {
        Reason::TimedOut { stack, .. } => (stack, failure),
        _ => panic!("{failure}"),
    }
}

#[test]
fn the_error_of_a_late_call_names_the_line_it_was_at_f011_f012() {
    let pythons = Python::supported();
    let mut builder = Daemon::builder();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder.pool(&format!("p{index}"), |pool| {
            pool.python(python).preload(&["job_stuck", "job_begun"])
        });
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for (index, python) in pythons.iter().enumerate() {
        let pool = format!("p{index}");
        // In Python code, in a system call, in C code that lets no other thread of Python run.
        for name in ["spin", "sleep", "hold_gil_in_a_loop", "hold_gil_in_a_power"] {
            let (stack, failure) = late(&daemon, &pool, &format!("job_stuck:{name}"));
            let first = stack.lines().next().unwrap_or_default();
            assert!(first.contains("job_stuck.py\", line "), "{python} {name}: {stack:?}");
            assert!(first.ends_with(&format!(" in {name}")), "{python} {name}: {stack}");
            for own in ["boot.py", "_execute.py", "_control.py", "_loop.py"] {
                assert!(!stack.contains(own), "{python} {name}: {stack}");
            }
            assert!(failure.started && failure.phases.run_us < 2_000_000, "{failure}");
        }
    }
    daemon.wait_ready();
    let late = daemon.cli(["call", "--pool=p0", "--timeout=200ms", "job_stuck:spin"]);
    assert!(late.stderr.contains(" in spin\n"), "{}", late.stderr);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_cannot_say_is_not_waited_for() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool.preload(&["job_begun", "bulk"])).start();
    let oracle = daemon.oracle();
    let (stack, failure) = late(&daemon, "default", "job_begun:block_stacks");
    assert_eq!("", stack);
    let overdue = Duration::from_micros(failure.phases.run_us).saturating_sub(300 * MILLISECOND);
    assert!(overdue < SECOND, "{failure}");
    daemon.wait_ready();

    // One that is stopped before it reads its call has nothing to say either.
    let victim = daemon.worker_pids("default")[0];
    signal(victim, Signal::SIGSTOP);
    let (stack, _) = late(&daemon, "default", "bulk:nap");
    assert_eq!("", stack);
    wait_for("the stopped one is replaced", 20 * SECOND, || {
        !daemon.worker_pids("default").contains(&victim)
    });
    daemon.wait_ready();
    oracle.judge(daemon);
}
