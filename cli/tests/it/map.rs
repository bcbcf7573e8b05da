//! `clutch map`: order, laziness, failing items, bad lines.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use clutch_tests::{Daemon, SECOND, wait_for};
use serde_json::{Value, json};

use crate::{Place, Running, start};

const TASKS: &str = r#"
import time

def square(x):
    if x < 0:
        raise ValueError(f"negative: {x}")
    return x * x

def later(x):
    time.sleep(x)
    return x

def wait(path):
    open(path, "w").close()
    time.sleep(1000)
"#;

fn place() -> Place {
    let place = Place::new();
    place.tmp.write("tasks.py", TASKS);
    place
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn words_are_items_and_results_are_lines_in_order() {
    let place = place();
    let output = place
        .local("map", &["--path", ".", "--workers", "2", "tasks:square", "1", "2", "3", "4"])
        .run()
        .expect_code(0);
    assert_eq!(("1\n4\n9\n16\n", ""), (output.stdout.as_str(), output.stderr.as_str()));
    place.expect_no_process();
}

#[test]
fn lines_are_items_and_may_be_many() {
    let place = place();
    let items: String = (0..20_000).map(|x| format!("{x}\n")).collect();
    let output = place
        .local("map", &["--path", ".", "--workers", "2", "tasks:square", "--input", "-"])
        .stdin(items)
        .run()
        .expect_code(0);
    let expected: String = (0..20_000_u64).map(|x| format!("{}\n", x * x)).collect();
    assert!(expected == output.stdout, "all squares, in order");
}

#[test]
fn unordered_results_come_as_they_are_done() {
    let output = place()
        .local("map", &["--path", ".", "--workers", "2", "--chunk", "1"])
        .args(["--unordered", "--index", "tasks:later", "1.5", "0.1"])
        .run()
        .expect_code(0);
    assert_eq!(
        vec![json!({"index": 1, "result": 0.1}), json!({"index": 0, "result": 1.5})],
        lines(&output.stdout)
    );
}

#[test]
fn on_error_stop_names_the_item_and_keeps_what_came_before() {
    let output = place()
        .local("map", &["--path", ".", "tasks:square", "1", "2", "-3", "4"])
        .run()
        .expect_code(1);
    assert_eq!("1\n4\n", output.stdout);
    output
        .expect_stderr("Traceback (most recent call last):")
        .expect_stderr("error: item 2: tasks:square raised ValueError: negative: -3");
}

#[test]
fn on_error_skip_leaves_no_line_and_counts() {
    let output = place()
        .local("map", &["--path", ".", "--on-error", "skip", "tasks:square"])
        .args(["1", "-2", "3", "-4"])
        .run()
        .expect_code(1);
    assert_eq!("1\n9\n", output.stdout);
    output.expect_stderr("error: 2 of 4 items failed; the first: item 1: ");
}

#[test]
fn on_error_report_keeps_every_place() {
    let output = place()
        .local("map", &["--path", ".", "--on-error", "report", "tasks:square", "--input", "-"])
        .stdin("1\n\nnope\n-2\n3\n")
        .run()
        .expect_code(1);
    let lines = lines(&output.stdout);
    assert_eq!((json!(1), json!(9)), (lines[0].clone(), lines[3].clone()));
    assert_eq!(
        (json!(1), json!(3), json!("BadInput")),
        (
            lines[1]["index"].clone(),
            lines[1]["line"].clone(),
            lines[1]["error"]["reason"]["kind"].clone()
        )
    );
    assert_eq!(
        (json!(2), json!("Raised")),
        (lines[2]["index"].clone(), lines[2]["error"]["reason"]["kind"].clone())
    );
    assert_eq!(4, lines.len());
    output.expect_stderr("error: 2 of 4 items failed; the first: item 1, line 3: it is not JSON");
}

#[test]
fn a_bad_line_ends_the_map_behind_the_results_before_it() {
    let place = place();
    place.tmp.write("items.jsonl", "1\n2\n\n{bad\n3\n");
    let output = place
        .local("map", &["--path", ".", "tasks:square", "--input", "items.jsonl"])
        .run()
        .expect_code(2);
    assert_eq!("1\n4\n", output.stdout);
    output.expect_stderr("error: item 2, line 4: it is not JSON");
}

#[test]
fn a_result_is_printed_when_it_is_there() {
    let place = place();
    let daemon = Daemon::builder().pool("default", |pool| pool.path(place.tmp.path())).start();
    let program = daemon.command(["map", "tasks:square", "--input", "-"]);
    let mut child = Running(program.spawn(Stdio::piped(), Stdio::piped(), Stdio::null()));
    let mut stdin = child.0.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    for x in 1..=3 {
        writeln!(stdin, "{x}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(format!("{}\n", x * x), line);
    }
    drop(stdin);
    assert_eq!(Some(0), child.end(20 * SECOND).0);
}

#[test]
fn endless_input_into_a_reader_that_has_enough() {
    let place = place();
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let script = r#"yes 4 | "$0" --socket "$1" map math:sqrt --input - | head -n 3"#;
    let output = clutch_tests::Program::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_clutch")])
        .args([daemon.socket()])
        .dir(place.tmp.path())
        .run()
        .expect_code(0);
    assert_eq!(("2.0\n2.0\n2.0\n", ""), (output.stdout.as_str(), output.stderr.as_str()));
    oracle.judge(daemon);
}

#[test]
fn a_reader_that_has_enough_ends_a_map_that_would_write_nothing_for_long() {
    let place = place();
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    // The second item alone outlasts the time that the program may take.
    let script = r#""$0" --socket "$1" map --chunk 1 time:sleep 0 600 | head -n 1"#;
    let output = clutch_tests::Program::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_clutch")])
        .args([daemon.socket()])
        .dir(place.tmp.path())
        .run()
        .expect_code(0);
    assert_eq!(("null\n", ""), (output.stdout.as_str(), output.stderr.as_str()));
    oracle.judge(daemon);
}

#[test]
fn ctrl_c_cancels_what_is_in_flight() {
    let place = place();
    let started = place.tmp.join("started");
    let child = start(place.local("map", &["--path", ".", "tasks:wait"]).args([&started]));
    wait_for("the call runs", 60 * SECOND, || started.exists());
    child.interrupt();
    let (code, stderr) = child.end(20 * SECOND);
    assert_eq!(Some(130), code, "{stderr}");
    assert_eq!("error: cancelled by Ctrl-C after 0 results; what was in flight is lost\n", stderr);
    place.expect_no_process();
}
