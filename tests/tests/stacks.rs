//! What a call was doing when its time was over, or when it died: the Python stack is in the error.

use std::time::Duration;

use clutch_client::{Failure, Reason, Retry};
use clutch_protocol::failure::{Cause, Certificate};
use clutch_tests::{Daemon, MILLISECOND, Python, SECOND, wait_for, wait_until};
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

/// The certificate in the error of a call whose worker died.
#[track_caller]
fn death(failure: Failure) -> Certificate {
    match failure.reason {
        Reason::WorkerDied(certificate) => *certificate,
        _ => panic!("{failure}"),
    }
}

/// Asks for the stack of the only worker until it tells the function that runs.
#[track_caller]
fn shown(daemon: &Daemon, function: &str) -> String {
    let client = daemon.blocking();
    wait_until(&format!("{function} is in the stack"), 20 * SECOND, || {
        let stack = client.stack("default", 0).map_err(|denied| denied.to_string())?;
        let is_told = stack.text.contains(&format!(" in {function}\n"));
        if is_told { Ok(stack.text) } else { Err(stack.text) }
    })
}

#[test]
fn the_stack_of_one_call_is_not_that_of_the_next_ones_death_f002() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let napping =
        std::thread::spawn(move || client.call::<i64>("bulk:nap", (2.0, 7)).expect("it answers"));
    shown(&daemon, "nap");
    assert_eq!(7, napping.join().expect("it does not panic"));
    let number = Signal::SIGKILL as i32;
    let failure = daemon.blocking().call::<()>("job_deaths:kill_self", (number,));
    let certificate = death(failure.expect_err("it dies"));
    // Nothing was written at its end, so nothing is told.
    assert_eq!(("SIGKILL", ""), (&*certificate.exit_name, &*certificate.stack));
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn the_stack_of_a_late_call_is_not_that_of_an_attempt_that_is_given_up_later_f012() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.limit("interrupt", "5s").limit("grace", "100ms"))
        .start();
    let oracle = daemon.oracle();
    let pid = daemon.worker_pids("default")[0];
    let (stack, _) = late(&daemon, "default", "job_stuck:sleep");
    assert!(stack.contains(" in sleep"), "{stack}");
    wait_for("it is free", 10 * SECOND, || daemon.status().pools[0].workers[0].state == "ready");
    assert_eq!([pid], *daemon.worker_pids("default"), "it gave the call up");

    let mark = daemon.tmp().join("tried");
    let request = daemon.blocking().request("job_stuck:ignore_everything_once");
    let request = request.args((mark.to_str().expect("test paths are text"),));
    let retry = Retry::new(2).on_timed_out(SECOND);
    request.retry(retry).timeout(60 * SECOND).send::<()>().expect("the second attempt is good");
    let certificate = wait_until("the first attempt's worker is dead", 20 * SECOND, || {
        daemon.status().pools.swap_remove(0).last_death.ok_or("none has died")
    });
    assert_eq!((Cause::Interrupted, pid), (certificate.cause, certificate.pid), "{certificate}");
    assert_eq!("", certificate.stack);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_crash_is_told_before_the_stacks_that_were_shown_f006() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let file = daemon.tmp().join("crash now");
    let path = file.to_str().expect("test paths are text").to_owned();
    let client = daemon.blocking();
    let crowd = std::thread::spawn(move || {
        death(client.call::<()>("job_deaths:crash_in_a_crowd", (path,)).expect_err("it dies"))
    });
    let text = shown(&daemon, "_await_file");
    assert!(text.len() > 20_000, "more than a certificate holds: {}", text.len());
    std::fs::write(&file, "").expect("the test's directory is writable");
    let certificate = crowd.join().expect("it does not panic");
    let stack = &certificate.stack;
    assert_eq!("SIGSEGV", certificate.exit_name);
    assert!(stack.starts_with("Fatal Python error: Segmentation fault"), "{stack}");
    // The thread that crashed is told first: there is no room for all of them.
    assert!(stack.contains(" in crash\n"), "{stack}");
    daemon.wait_ready();
    oracle.judge(daemon);
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
            // The time of a call runs while a worker is started for it, too.
            wait_for("a worker is free", 20 * SECOND, || {
                let workers = daemon.status().pools.swap_remove(index).workers;
                workers.iter().any(|worker| worker.state == "ready")
            });
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

    // One that does not read its call has nothing to say about it.
    let victim = daemon.deafen();
    let (stack, _) = late(&daemon, "default", "bulk:nap");
    assert_eq!("", stack);
    wait_for("the deaf one is replaced", 20 * SECOND, || {
        !daemon.worker_pids("default").contains(&victim)
    });
    daemon.wait_ready();
    oracle.judge(daemon);
}

/// Frames that come and go while a signal handler looks at them have crashed CPython.
#[test]
fn a_worker_that_is_asked_for_its_stack_again_and_again_does_not_notice() {
    let daemon = Daemon::builder().pool("default", |pool| pool.preload(&["job_begun"])).start();
    let oracle = daemon.oracle();
    let victim = daemon.worker_pids("default")[0];
    let client = daemon.blocking();
    let call = std::thread::spawn({
        let client = client.clone();
        move || client.call::<u32>("job_begun:make_frames", (4.0,)).map_err(Box::new)
    });
    let mut told = 0;
    while !call.is_finished() {
        if client.stack("default", 0).is_ok_and(|stack| stack.text.contains("in make_frames")) {
            told += 1;
        }
    }
    assert_eq!(victim, call.join().expect("no panic").expect("it is not harmed"));
    assert!(told > 50, "only {told} times");
    drop(client);
    oracle.judge(daemon);
}
