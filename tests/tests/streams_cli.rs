//! `clutch call --stream`: a line for each item as it comes, and an end that says how it was.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use clutch_tests::{Daemon, command, wait_for};
use nix::sys::signal::Signal;

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn daemon() -> Daemon {
    Daemon::builder().pool("default", |pool| pool.limit("grace", "200ms")).start()
}

#[test]
fn items_are_lines_and_failures_are_what_they_are_for_any_call() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let stream = |words: &[&str]| daemon.cli([&["call", "--stream"][..], words].concat());
    let good = stream(&["job_streams:count", "3"]).expect_code(0);
    assert_eq!(("0\n1\n2\n", ""), (good.stdout.as_str(), good.stderr.as_str()));
    let good = stream(&["--window", "1", "job_streams:count", "1000"]).expect_code(0);
    assert_eq!(1000, good.stdout.lines().count());
    let said = stream(&["job_streams:says", "hello"]).expect_code(0);
    assert_eq!("0\n1\n2\n", said.stdout);
    assert!(said.stderr.contains("hello 2"), "{}", said.stderr);
    let bad = stream(&["job_streams:raises", "2"]).expect_code(1);
    assert_eq!("0\n1\n", bad.stdout);
    assert!(bad.stderr.contains("after 2 items"), "{}", bad.stderr);
    let bad = stream(&["job_streams:dies", "2"]).expect_code(6);
    assert_eq!("0\n1\n", bad.stdout);
    let bad = stream(&["math:sqrt", "2"]).expect_code(2);
    assert!(bad.stderr.contains("no iterator"), "{}", bad.stderr);
    let bad = stream(&["--timeout", "300ms", "job_streams:pid_and_wait", "1000000000"]);
    assert_eq!(4, bad.code, "{}", bad.stderr);
    stream(&["--report", "job_streams:count", "1"]).expect_code(2);
    daemon.cli(["call", "--window", "3", "job_streams:count", "1"]).expect_code(2);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_reader_that_has_had_enough_ends_the_call_and_the_program() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let marks = daemon.tmp().join("marks");
    let path = marks.to_str().unwrap();
    let words = ["call", "--stream", "job_streams:stuck", path, "3"];
    let program = daemon.command(words);
    let mut child = program.spawn(Stdio::null(), Stdio::piped(), Stdio::piped());
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    for expected in ["0\n", "1\n", "2\n"] {
        line.clear();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(expected, line, "each comes as it is there");
    }
    // There will be no item for ten minutes, so only the pipe itself can tell.
    drop(stdout);
    let status = command::wait(&mut child, PATIENCE).expect("it ends");
    assert_eq!(Some(0), status.code());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!("", said);
    wait_for("the generator is closed", PATIENCE, || {
        std::fs::read_to_string(&marks).is_ok_and(|text| text.ends_with("closed\n"))
    });
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn ctrl_c_cancels_and_a_killed_reader_is_a_reader_that_has_gone() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    for (signal, code, says) in [
        (Signal::SIGINT, Some(130), "was cancelled by Ctrl-C (call "),
        (Signal::SIGTERM, Some(143), "was cancelled by SIGTERM (call "),
        (Signal::SIGHUP, Some(129), "was cancelled by SIGHUP (call "),
        (Signal::SIGKILL, None, ""),
    ] {
        let marks = daemon.tmp().join(signal.as_str());
        let path = marks.to_str().unwrap();
        let program = daemon.command(["call", "--stream", "job_streams:stuck", path, "1"]);
        let mut child = program.spawn(Stdio::null(), Stdio::piped(), Stdio::piped());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        clutch_tests::signal(child.id(), signal);
        let status = command::wait(&mut child, PATIENCE).expect("it ends");
        assert_eq!(code, status.code());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(said.contains(says), "{says}: {said}");
        wait_for("the generator is closed", PATIENCE, || {
            std::fs::read_to_string(&marks).is_ok_and(|text| text.ends_with("closed\n"))
        });
        daemon.wait_ready();
    }
    oracle.judge(daemon);
}
