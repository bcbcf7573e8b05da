//! What an operator reads: who ran a call, which one was cancelled and by whom, why there is
//! nothing to show, when an order is carried out; all of it in the same words everywhere.

use std::process::Stdio;
use std::time::Instant;

use clutch_client::Explanation;
use clutch_tests::config::Value as Key;
use clutch_tests::raw::PATIENCE;
use clutch_tests::{Daemon, MILLISECOND, Output, SECOND, command, process, signal, wait_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

fn daemon(workers: u32) -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(workers)).start()
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn explain(daemon: &Daemon, call: u64) -> Explanation {
    daemon.blocking().explain(call).expect("it is known")
}

/// Why nobody wants a call any more.
#[track_caller]
fn unwanted(daemon: &Daemon, call: u64) -> String {
    let life = explain(daemon, call);
    let step = life.steps.iter().find(|step| step.what == "unwanted").cloned();
    step.unwrap_or_else(|| panic!("nobody was named: {life:?}")).detail
}

fn wait_idle(daemon: &Daemon) {
    wait_until("every worker is free", 20 * SECOND, || {
        clutch_tests::daemon::unready(&daemon.try_status()?)
    });
}

/// Sends a command a signal while its call of `time:sleep` runs; its exit code and what it said.
#[track_caller]
fn ended_by(daemon: &Daemon, how: Signal, words: &[&str]) -> (i32, String) {
    let program = daemon.command(words).args(["time:sleep", "1000"]);
    let mut child = program.spawn(Stdio::null(), Stdio::null(), Stdio::piped());
    daemon.wait_runs("time:sleep");
    signal(child.id(), how);
    let status = command::wait(&mut child, 20 * SECOND).expect("it ends");
    let stderr = child.stderr.take().expect("it is a pipe");
    let stderr = std::io::read_to_string(stderr).expect("it is text");
    wait_idle(daemon);
    (command::shell_code(status), stderr)
}

#[test]
fn ctrl_c_says_which_call_was_cancelled_and_explain_says_by_whom() {
    let daemon = daemon(1);
    let (code, said) = ended_by(&daemon, Signal::SIGINT, &["call", "--json"]);
    let failure = parse(&said);
    assert_eq!((130, &json!("Cancelled")), (code, &failure["reason"]["kind"]));
    assert_eq!((&json!(1), &json!("default")), (&failure["call"], &failure["pool"]));
    assert_eq!(json!(true), failure["started"]);
    let (code, said) = ended_by(&daemon, Signal::SIGINT, &["call"]);
    assert_eq!(
        (130, "error: time:sleep was cancelled by Ctrl-C (call 2)\n"),
        (code, said.as_str())
    );
    assert_eq!("its caller cancelled it", unwanted(&daemon, 2));
    let page = daemon.cli(["explain", "2"]).expect_code(0).stdout;
    assert!(page.contains("its caller cancelled it\n"), "{page}");

    let (code, said) = ended_by(&daemon, Signal::SIGINT, &["map", "--json"]);
    let error = &parse(&said)["error"];
    assert_eq!((130, &json!("Cancelled")), (code, &error["reason"]["kind"]));
    assert_eq!(json!("time:sleep"), error["function"]);

    ended_by(&daemon, Signal::SIGKILL, &["call"]);
    assert!(unwanted(&daemon, 4).contains("its caller has gone"));
}

#[test]
fn a_daemon_that_stands_still_is_not_waited_for_longer_than_the_call() {
    let daemon = daemon(1);
    daemon.signal(Signal::SIGSTOP);
    let output = daemon.cli(["call", "--timeout", "300ms", "math:sqrt", "4"]);
    let mapped = daemon.cli(["map", "--timeout", "300ms", "math:sqrt", "4"]);
    daemon.signal(Signal::SIGCONT);
    for output in [output, mapped] {
        let output = output.expect_code(3).expect_stderr("did not answer within 300ms");
        assert!(output.took < 3 * SECOND, "{output:?}");
    }
}

#[test]
fn a_report_says_who_ran_it_and_how_often_it_was_tried() {
    let daemon = daemon(1);
    let count = daemon.tmp().join("count");
    let output = daemon
        .command(["call", "--report", "--retry=3", "--retry-on=raised:job_retry.Transient"])
        .args(["job_retry:raises_until", count.to_str().expect("it is text"), "2"])
        .run()
        .expect_code(0);
    let report = parse(&output.stdout);
    let worker = daemon.status().pools[0].workers[0].clone();
    assert_eq!(json!(2), report["attempt"], "{report}");
    assert_eq!((&json!(worker.pid), &json!(worker.python)), (&report["pid"], &report["python"]));
}

#[test]
fn lines_that_are_not_there_are_not_met_with_silence() {
    let daemon = daemon(1);
    daemon.cli(["call", "math:sqrt", "4"]).expect_code(0);
    let silent = |output: Output| {
        assert_eq!("", output.stdout);
        output
    };
    let logs = |words: &[&str]| silent(daemon.command(["logs"]).args(words).run());
    logs(&["--call", "9"]).expect_code(2).expect_stderr("this daemon's calls are 1 to 1");
    logs(&["-f", "--call", "9"]).expect_code(2).expect_stderr("there is no call 9");
    logs(&["--pool", "nope"]).expect_code(2).expect_stderr("the pools are: default");
    logs(&["--call", "1"]).expect_code(0).expect_stderr("call 1 (math:sqrt) has printed nothing");
    logs(&["--worker", "7"]).expect_code(0).expect_stderr("no line of slot 7");
    daemon.cli(["call", "job_output:say", "a word"]).expect_code(0);
    let output = daemon.cli(["logs", "--call", "2"]).expect_code(0);
    assert!(output.stdout.ends_with("stdout| a word\n") && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn an_order_is_waited_for_until_it_is_carried_out() {
    let daemon = daemon(2);
    let pool = |words: &[&str]| daemon.command(["pool"]).args(words).run();
    let before = daemon.worker_pids("default");
    pool(&["recycle", "default", "--wait"]).expect_code(0).expect_stderr("pool default: done");
    let after = daemon.worker_pids("default");
    assert!(after.len() == 2 && after.iter().all(|pid| !before.contains(pid)), "{after:?}");
    pool(&["resize", "default", "3", "--wait"]).expect_code(0);
    assert_eq!(3, daemon.worker_pids("default").len());
    pool(&["resize", "default", "1", "--wait"]).expect_code(0);
    assert_eq!(1, daemon.worker_pids("default").len());

    let program = daemon.command(["call", "time:sleep", "1000"]);
    let mut call = program.spawn(Stdio::null(), Stdio::null(), Stdio::null());
    daemon.wait_runs("time:sleep");
    let output = pool(&["drain", "default", "--wait", "--timeout", "200ms"]).expect_code(4);
    output.expect_stderr("1 call is not done; the order stays in force");
    let begun = Instant::now();
    let mut drain = daemon.command(["pool", "drain", "default", "--wait"]).spawn(
        Stdio::null(),
        Stdio::null(),
        Stdio::null(),
    );
    assert!(command::wait(&mut drain, 300 * MILLISECOND).is_none(), "the call still runs");
    daemon.cli(["cancel", "1"]).expect_code(0);
    let ended = command::wait(&mut drain, 20 * SECOND).expect("nothing runs any more");
    assert_eq!(0, command::shell_code(ended));
    assert!(begun.elapsed() >= 300 * MILLISECOND);
    command::wait(&mut call, 20 * SECOND).expect("it was cancelled");
    pool(&["pause", "nope", "--wait"]).expect_code(2).expect_stderr("the pools are: default");
    pool(&["drain", "default", "--timeout", "1s"]).expect_code(2).expect_stderr("--wait");
}

#[test]
fn what_a_map_prints_is_shown_in_whole_lines() {
    let daemon = daemon(2);
    let words: Vec<_> = (0..40).map(|item| format!("word-{item}")).collect();
    let output = daemon
        .command(["map", "--no-progress", "--chunk=1", "job_output:say"])
        .args(&words)
        .run()
        .expect_code(0);
    assert_eq!(40, output.stdout.lines().count());
    let mut shown: Vec<_> = output.stderr.lines().collect();
    let mut wanted: Vec<_> = words.iter().map(String::as_str).collect();
    shown.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(wanted, shown, "each item's line, whole, and nothing else");
}

#[test]
fn the_ready_line_says_how_many_spares_there_are() {
    let daemon = Daemon::builder().pool("default", |pool| pool.key("spares", 2)).start();
    daemon.wait_for_log("pool default (1 worker and 2 spares, Python 3", PATIENCE);
}

#[test]
fn explain_says_what_a_call_waited_for() {
    let daemon = daemon(1);
    daemon.cli(["pool", "pause", "default"]).expect_code(0);
    let client = daemon.blocking();
    let paused = std::thread::spawn({
        let client = client.clone();
        move || client.call::<f64>("math:sqrt", (4,)).map_err(Box::new)
    });
    let waits_for = |call: u64, what: &str| {
        wait_until(&format!("call {call} waits"), 20 * SECOND, || {
            let life = client.explain(call).map_err(|error| error.to_string())?;
            let queued = life.steps.iter().find(|step| step.what == "queued");
            let detail = queued.map(|step| step.detail.clone()).unwrap_or_default();
            if detail == what { Ok(()) } else { Err(detail) }
        });
    };
    waits_for(1, "the pool is paused; no other call waits");
    daemon.cli(["pool", "resume", "default"]).expect_code(0);
    paused.join().expect("no panic").expect("it is answered");

    let busy = std::thread::spawn({
        let client = client.clone();
        move || client.call::<()>("time:sleep", (1,)).map_err(Box::new)
    });
    daemon.wait_runs("time:sleep");
    client.call::<f64>("math:sqrt", (4,)).expect("it is answered");
    waits_for(3, "every worker is busy; no other call waits");
    busy.join().expect("no panic").expect("it is answered");
}

#[test]
fn a_crash_loop_and_a_cause_are_in_the_same_words_everywhere() {
    let log = Key::table([("format", "json".into())]);
    let daemon = Daemon::builder()
        .daemon_key("log", log)
        .pool("default", |pool| pool.table("restart", [("deaths", 2.into())]))
        .start();
    let client = daemon.blocking();
    let refused = wait_until("the pool gives up", 30 * SECOND, || {
        let failure = client.call::<()>("os:_exit", (3,)).expect_err("it dies");
        if failure.reason.name() == "CrashLoop" { Ok(failure) } else { Err(failure.to_string()) }
    });
    let reason = daemon.status().pools[0].reason.clone();
    let words = "workers died and no call succeeded between";
    let count = |text: &str| {
        let before = text.split(words).next().expect("there is a first part").trim_end();
        before.rsplit(' ').next().expect("there is a word").to_owned()
    };
    assert!(reason.contains(words), "{reason}");
    assert_eq!(count(&reason), count(&refused.to_string()), "{reason} {refused}");
    let line = daemon.wait_for_log("worker died", PATIENCE);
    assert_eq!(json!("exited"), parse(&line)["cause"], "{line}");
    // Who asks later what became of the call reads why, too.
    let life = explain(&daemon, refused.call);
    let answer = &life.steps.last().expect("it was answered").detail;
    assert!(answer.starts_with("CrashLoop; the last: worker default/"), "{answer}");
    assert!(answer.contains("exit code 3"), "{answer}");
    assert_eq!(Some("CrashLoop"), life.outcome.as_deref());
}

#[test]
fn a_call_refused_by_a_pool_that_never_started_is_told_with_the_exception() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool)
        .pool("broken", |pool| pool.preload(&["nowhere_at_all"]))
        .start_partly();
    let refused = daemon.blocking().request("math:sqrt").pool("broken").args((4,));
    let call = refused.send::<f64>().expect_err("it is refused").call;
    let text = daemon.cli(["explain", &call.to_string()]).expect_code(0).stdout;
    assert!(text.contains("answered: CrashLoop; the last: worker broken/0."), "{text}");
    assert!(text.contains("No module named 'nowhere_at_all'"), "{text}");
}

#[test]
fn a_traceback_is_one_readable_record_of_the_log_f170() {
    for format in ["text", "json"] {
        let log = Key::table([("format", format.into())]);
        let daemon = Daemon::builder()
            .daemon_key("log", log)
            .pool("default", |pool| pool.key("logging", "info"))
            .start();
        let _: u64 = daemon.blocking().call("job_output:all_levels", ()).expect("it only logs");
        let line = daemon.wait_for_log("ValueError: for the record", PATIENCE);
        if format == "json" {
            let message = parse(&line)["message"].as_str().expect("a text").to_owned();
            assert!(message.starts_with("failed\nTraceback (most"), "{message}");
        } else {
            assert!(line.contains(r"ERROR failed\nTraceback (most"), "{line}");
        }
        let hostile = daemon.wait_for_log("level 20", PATIENCE);
        assert!(!hostile.contains('\x1b') && hostile.contains("x1b[2J") == (format == "text"));
        let whole = if format == "json" { r"level 20\u001b[2J" } else { r"level 20\x1b[2J" };
        assert!(hostile.contains(whole), "{hostile}");
        assert!(process::alive(daemon.pid()));
    }
}
