//! `clutch call`: arguments, results, failures, Ctrl-C.

use std::time::Instant;

use clutch_tests::{Daemon, MILLISECOND, SECOND, wait_for};

use crate::{Place, start};

const TASKS: &str = r#"
import os, sys, time

def echo(*args, **kwargs):
    return [list(args), kwargs]

def shout(word):
    print("out", word, flush=True)
    print("err", word, file=sys.stderr, flush=True)
    return word

def fail(word):
    raise ValueError("bad \x1b[2J word: " + word + "\nsecond line")

def die():
    print("last words", file=sys.stderr, flush=True)
    os.kill(os.getpid(), 9)

def odd():
    return {"a": [1, object()]}

def hold(started, released):
    try:
        open(started, "w").close()
        time.sleep(1000)
    finally:
        open(released, "w").close()
"#;

const STUBBORN: &str = r#"
import time

def f(path):
    open(path, "w").close()
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"#;

fn place() -> Place {
    let place = Place::new();
    place.tmp.write("tasks.py", TASKS);
    place
}

#[test]
fn one_command_one_worker_one_answer() {
    let place = Place::new();
    let output = place.local("call", &["math:sqrt", "2"]).run().expect_code(0);
    assert_eq!(("1.4142135623730951\n", ""), (output.stdout.as_str(), output.stderr.as_str()));
    place.expect_no_process();
}

#[test]
fn arguments_arrive_as_they_were_typed() {
    let output = place()
        .local("call", &["--path", ".", "tasks:echo"])
        .args(["1", "two", "[3.50, null]", "-4", "-5e3", "key={\"a\": 1}", "-"])
        .args(["123456789012345678901234567890", "\"a=b\""])
        .stdin("\"from stdin\"")
        .run()
        .expect_code(0);
    let value: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let expected = serde_json::json!([
        [1, "two", [3.5, null], -4, -5000.0, "from stdin", null, "a=b"],
        {"key": {"a": 1}}
    ]);
    // The long integer is compared as text, since it does not fit a JSON library's number.
    assert!(output.stdout.contains("123456789012345678901234567890"), "{}", output.stdout);
    let mut value = value;
    value[0][6] = serde_json::Value::Null;
    assert_eq!(expected, value);
    assert_eq!(1, output.stdout.lines().count());
}

#[test]
fn what_the_function_prints_goes_to_standard_error() {
    let output = place().local("call", &["--path", ".", "tasks:shout", "hey"]).run().expect_code(0);
    assert_eq!("\"hey\"\n", output.stdout);
    output.expect_stderr("out hey\n").expect_stderr("err hey\n");
}

#[test]
fn an_exception_is_a_traceback_and_one_line_f170() {
    let place = place();
    let call = |extra: &[&str]| {
        place.local("call", extra).args(["--path", ".", "tasks:fail", "x"]).run().expect_code(1)
    };
    let text = call(&[]).stderr;
    assert!(text.contains("Traceback (most recent call last):"), "{text}");
    assert!(text.contains("tasks.py"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("error: tasks:fail raised ValueError: bad \\x1b[2J word: x\\nsecond"));
    assert!(!text.contains('\x1b'), "{text:?}");

    let json = call(&["--json"]).stderr;
    let failure: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!("Raised", failure["reason"]["kind"]);
    assert_eq!("ValueError", failure["reason"]["type_name"]);
    assert_eq!(true, failure["started"]);
}

#[test]
fn bad_input_gets_one_clear_line_and_the_right_code() {
    let cases: [(&[&str], i32, &str); 7] = [
        (&["no_such_module:f"], 2, "No module named 'no_such_module'"),
        (&["math:sqqrt", "2"], 2, "sqqrt"),
        (&["math:pi"], 2, "math:pi"),
        (&["math:sqrt", "1", "2"], 2, "takes exactly one argument"),
        (&["tasks:odd"], 1, "result['a'][1]: object"),
        (&["--pool", "other", "math:sqrt", "2"], 2, "other"),
        (&["tasks:die"], 6, "SIGKILL"),
    ];
    let place = place();
    let daemon = Daemon::builder().pool("default", |pool| pool.path(place.tmp.path())).start();
    for (args, code, part) in cases {
        let output = daemon.cli(["call"].iter().chain(args)).expect_code(code);
        assert_eq!("", output.stdout, "{args:?}");
        let last = output.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: "), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(part), "{args:?}: {part:?} in {}", output.stderr);
    }
}

#[test]
fn a_death_comes_with_its_last_words() {
    place()
        .local("call", &["--path", ".", "tasks:die"])
        .run()
        .expect_code(6)
        .expect_stderr("last words\n")
        .expect_stderr("SIGKILL");
}

#[test]
fn a_timeout_is_exit_code_4_and_soon() {
    let place = place();
    let begun = Instant::now();
    place
        .local("call", &["--timeout", "300ms", "time:sleep", "1000"])
        .run()
        .expect_code(4)
        .expect_stderr("timed out after 300");
    assert!(begun.elapsed() < 20 * SECOND, "{:?}", begun.elapsed());
    place.expect_no_process();
}

#[test]
fn ctrl_c_cancels_the_call_and_python_cleans_up() {
    let place = place();
    let (started, released) = (place.tmp.join("started"), place.tmp.join("released"));
    let child =
        start(place.local("call", &["--path", ".", "tasks:hold"]).args([&started, &released]));
    wait_for("the call runs", 60 * SECOND, || started.exists());
    child.interrupt();
    let (code, stderr) = child.end(20 * SECOND);
    assert_eq!(Some(130), code, "{stderr}");
    assert!(released.exists(), "the finally block has run");
    assert!(stderr.contains("error: tasks:hold was cancelled by Ctrl-C"), "{stderr}");
    place.expect_no_process();
}

#[test]
fn ctrl_c_frees_the_worker_of_a_daemon() {
    let place = place();
    let daemon = Daemon::builder().pool("default", |pool| pool.path(place.tmp.path())).start();
    let oracle = daemon.oracle();
    let (started, released) = (place.tmp.join("started"), place.tmp.join("released"));
    let child = start(daemon.command(["call", "tasks:hold"]).args([&started, &released]));
    wait_for("the call runs", 60 * SECOND, || started.exists());
    child.interrupt();
    let (code, stderr) = child.end(20 * SECOND);
    assert_eq!(Some(130), code, "{stderr}");
    wait_for("the finally block has run", 10 * SECOND, || released.exists());
    daemon.cli(["call", "math:sqrt", "4"]).expect_code(0);
    oracle.judge(daemon);
}

#[test]
fn a_second_ctrl_c_ends_the_program_at_once() {
    let place = place();
    place.tmp.write("stubborn.py", STUBBORN);
    let started = place.tmp.join("started");
    let child = start(place.local("call", &["--path", ".", "stubborn:f"]).args([&started]));
    wait_for("the call runs", 60 * SECOND, || started.exists());
    child.interrupt();
    clutch_tests::park(20 * MILLISECOND);
    child.interrupt();
    let (code, stderr) = child.end(10 * SECOND);
    assert_eq!(Some(130), code, "{stderr}");
    wait_for("the guardian has ended the rest", 5 * SECOND, || {
        clutch_tests::process::with_token(&place.token).is_empty()
    });
    assert!(!started.with_file_name("tmp").read_dir().unwrap().any(|_| true), "no file is left");
}

#[test]
fn a_local_call_leaves_no_file_but_the_unpacked_package() {
    let place = place();
    let before = clutch_tests::daemon::files_below(place.tmp.path());
    let call = || place.local("call", &["math:sqrt", "2"]).run().expect_code(0);
    call();
    let after_first = clutch_tests::daemon::files_below(place.tmp.path());
    let new: Vec<_> = after_first.iter().filter(|file| !before.contains(file)).collect();
    assert!(
        new.iter().all(|file| file.to_string_lossy().contains("clutch")
            && file.extension().is_some_and(|end| end == "py" || end == "pyc")),
        "{new:?}"
    );
    call();
    assert_eq!(after_first, clutch_tests::daemon::files_below(place.tmp.path()));
}

#[test]
fn a_main_script_and_a_configuration_work_without_a_daemon() {
    let place = place();
    place.tmp.write("main.py", "def twice(x):\n    return 2 * x\n");
    let output =
        place.local("call", &["--main", "main.py", "__main__:twice", "21"]).run().expect_code(0);
    assert_eq!("42\n", output.stdout);

    let python = clutch_tests::Python::any().path.display().to_string();
    place.tmp.write(
        "local.toml",
        format!("[pools.cpu]\npython = {python:?}\nworkers = 1\npath = [\".\"]\n"),
    );
    let output = place
        .run(["call", "--local", "--config", "local.toml", "--pool", "cpu", "tasks:echo", "1"])
        .expect_code(0);
    assert_eq!("[[1],{}]", output.stdout.replace(char::is_whitespace, ""));
}

#[test]
fn an_interpreter_that_is_not_there_is_a_configuration_error() {
    let place = Place::new();
    place
        .run(["call", "--local", "--python", "/nowhere/python3", "math:sqrt", "2"])
        .expect_code(8)
        .expect_stderr("error: ")
        .expect_stderr("/nowhere/python3");
}
