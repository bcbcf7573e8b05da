//! User code that does strange things to its own process, and callers who get things wrong. No
//! trick breaks the protocol or the next call; every mistake gets one clear line and its exit code.

use clutch_client::{Reason, blocking};
use clutch_tests::builder::private_environment;
use clutch_tests::{Clutch, Daemon, Oracle, Output, Python, SECOND, Tmp, skip, wait_for};

/// A daemon with one pool of one worker: the call after a trick meets what the trick left.
struct Stage {
    daemon: Daemon,
    oracle: Oracle,
}

impl Stage {
    fn new() -> Stage {
        let daemon = Daemon::builder().pool("default", |pool| pool).start();
        let oracle = daemon.oracle();
        Stage { daemon, oracle }
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> Output {
        self.daemon.cli([&["call"], words].concat())
    }

    /// A trick that returns, in a worker that lives on.
    #[track_caller]
    fn works(&self, words: &[&str], answer: &str) -> Output {
        let before = self.daemon.worker_pids("default");
        let output = self.call(words).expect_code(0);
        assert_eq!(format!("{answer}\n"), output.stdout, "{words:?}");
        self.is_well();
        assert_eq!(before, self.daemon.worker_pids("default"), "{words:?} cost a worker");
        output
    }

    /// A call that fails with this code, and says `text` in its last line, which is its only
    /// `error:` line.
    #[track_caller]
    fn fails(&self, words: &[&str], code: i32, text: &str) -> Output {
        let output = self.call(words).expect_code(code);
        assert_one_line(&output, text);
        self.is_well();
        output
    }

    /// The next call on the pool is answered, and what it prints goes where it should.
    #[track_caller]
    fn is_well(&self) {
        let answer = self.call(&["job_calls:echo", "1", "b=[\"ü\"]"]).expect_code(0);
        let compact: String = answer.stdout.split_whitespace().collect();
        assert_eq!(r#"{"args":[1],"kwargs":{"b":["ü"]}}"#, compact);
        let printed = self.call(&["job_tricks:prints"]).expect_code(0);
        assert_eq!("\"printed\"\n", printed.stdout);
        // Without the ends of lines: a python that does not buffer writes those separately, and
        // what comes through two pipes has no order.
        for line in ["printed to stdout", "printed to stderr"] {
            assert_eq!(1, printed.stderr.matches(line).count(), "{:?}", printed.stderr);
        }
    }

    fn judge(self) {
        self.daemon.wait_ready();
        self.oracle.judge(self.daemon);
    }
}

/// One `error:` line, the last of standard error, with `text` in it; and no panic.
#[track_caller]
fn assert_one_line(output: &Output, text: &str) {
    let stderr = &output.stderr;
    assert_eq!("", output.stdout);
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    let last = stderr.lines().last().unwrap_or_default();
    assert!(errors == 1 && last.starts_with("error: "), "not one error line: {stderr}");
    assert!(last.contains(text), "{text:?} is not in: {last}");
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn f045_f047_printing_and_redirecting_reach_the_caller_and_nobody_else() {
    let stage = Stage::new();
    stage.is_well();
    let file = stage.daemon.tmp().join("redirected");
    let path = file.to_str().expect("test paths are text");
    let output = stage.works(&["job_tricks:point_descriptors_elsewhere", path], "\"redirected\"");
    assert!(!output.stderr.contains("for the file"), "{}", output.stderr);
    let text = std::fs::read_to_string(&file).expect("the file was written");
    assert_eq!("for the file\n", text, "other calls' output went there too");
    stage.works(&["job_tricks:replace_stdout"], "\"replaced\"");
    stage.works(&["job_tricks:close_stdout"], "\"closed\"");
    stage.works(&["job_tricks:delete_stdout"], "\"deleted\"");
    stage.judge();
}

#[test]
fn f047_closing_descriptors_breaks_nothing() {
    let stage = Stage::new();
    stage.works(&["job_tricks:close_descriptors"], "\"closed\"");
    stage.works(&["job_tricks:close_descriptors"], "\"closed\"");
    stage.judge();
}

#[test]
fn f008_f009_leaving_a_script_is_an_exception_and_leaving_a_process_is_a_death() {
    let stage = Stage::new();
    stage.fails(&["job_tricks:exits", "0"], 1, "SystemExit: 0");
    stage.fails(&["job_tricks:exits", "3"], 1, "SystemExit: 3");
    stage.fails(&["job_tricks:exits", "goodbye"], 1, "SystemExit: goodbye");
    assert_eq!(0, stage.daemon.counter("default", "restarts"), "an exception cost a worker");
    let died = stage.fails(&["job_tricks:exit_without_cleanup", "3"], 6, "exit code 3");
    assert!(died.stderr.contains("it may have run in part"), "{}", died.stderr);
    stage.judge();
}

#[test]
fn f052_a_forked_child_never_answers_for_its_parent() {
    let stage = Stage::new();
    for _ in 0..3 {
        stage.works(&["job_tricks:forks"], "\"parent\"");
        stage.works(&["job_tricks:forks_and_prints"], "\"parent\"");
    }
    stage.works(&["job_tricks:wait_for_children"], "3");
    stage.judge();
}

#[test]
fn f050_a_directory_changed_by_one_call_is_not_the_next_ones() {
    let stage = Stage::new();
    let home = stage.call(&["job_tricks:directory"]).expect_code(0).stdout;
    let elsewhere = stage.daemon.tmp().dir("elsewhere");
    let path = elsewhere.to_str().expect("test paths are text");
    let answer = serde_json::to_string(path).expect("a path is JSON");
    stage.works(&["job_tricks:change_directory", path], &answer);
    assert_eq!(home, stage.call(&["job_tricks:directory"]).expect_code(0).stdout);
    std::fs::remove_dir(elsewhere).expect("nobody is in there");
    stage.judge();
}

#[test]
fn f049_f051_replaced_modules_and_handlers_reach_only_user_code() {
    let stage = Stage::new();
    stage.works(&["job_tricks:patch_modules"], "\"patched\"");
    let client = blocking::Client::connect(stage.daemon.socket()).expect("it listens");
    let squares: Vec<i64> = client.map("job_calls:square", 0..300).collect().expect("they are");
    assert_eq!((0..300).map(|x| x * x).collect::<Vec<i64>>(), squares);
    drop(client);
    for trick in ["job_tricks:ignore_signals", "job_tricks:block_signals"] {
        let output = stage.call(&[trick]).expect_code(0);
        assert_ne!("", output.stdout);
        stage.is_well();
        // Neither keeps the worker from being taken away.
        let words = ["--timeout", "200ms", "job_stuck:sleep"];
        let late = stage.fails(&words, 4, "timed out after 200.0 ms");
        assert!(late.took < 2 * SECOND, "{:?}", late.took);
        stage.daemon.wait_ready();
    }
    stage.judge();
}

#[test]
fn f059_deep_recursion_is_an_exception_or_at_worst_one_death() {
    let stage = Stage::new();
    stage.fails(&["job_tricks:recurse"], 1, "RecursionError");
    let output = stage.call(&["job_tricks:recurse_unlimited"]);
    match output.code {
        1 => assert_one_line(&output, "RecursionError"),
        // Older versions take the limit at its word, and the stack of C ends first.
        6 => assert_one_line(&output, "SIGSEGV"),
        code => panic!("it ended with {code}: {}", output.stderr),
    }
    stage.is_well();
    stage.judge();
}

#[test]
fn f040_f060_what_cannot_be_serialised_is_named_by_place_and_type() {
    let stage = Stage::new();
    let text = "result['items'][1]['lock']: _thread.lock";
    stage.fails(&["job_tricks:unserialisable"], 1, text);
    stage.fails(&["job_tricks:unserialisable_object"], 1, "result: job_tricks.Holder");
    stage.fails(&["job_tricks:nested", "1000"], 1, "nests deeper than");

    // The same for a Rust program, whose results travel in another way.
    let client = blocking::Client::connect(stage.daemon.socket()).expect("it listens");
    let failure = client.call::<()>("job_tricks:unserialisable", ()).expect_err("a lock cannot go");
    let Reason::Unserializable { path, type_name, message } = failure.reason else {
        panic!("{failure}")
    };
    assert_eq!(("result['items'][1]['lock']", "_thread.lock"), (&*path, &*type_name));
    assert!(!message.is_empty());
    assert!(failure.started);
    drop(client);
    stage.judge();
}

#[test]
fn f034_f039_strange_exceptions_are_exceptions() {
    let stage = Stage::new();
    let text = "job_tricks.BadError: <exception str() failed>";
    stage.fails(&["job_tricks:raise_bad_error"], 1, text);
    stage.fails(&["job_tricks:interrupt_self"], 1, "KeyboardInterrupt: by myself");
    stage.fails(&["job_tricks:stop_iteration"], 1, "StopIteration: over");
    stage.judge();
}

#[test]
fn f057_a_thread_that_outlives_its_call_disturbs_nobody() {
    let stage = Stage::new();
    let file = stage.daemon.tmp().join("thread");
    let path = file.to_str().expect("test paths are text");
    stage.works(&["job_tricks:leave_thread", path], "\"left\"");
    wait_for("the thread has done its work", 5 * SECOND, || file.exists());
    stage.is_well();
    stage.judge();
}

#[test]
fn f044_a_function_that_is_not_there_is_a_mistake_of_the_caller() {
    let stage = Stage::new();
    let missing = stage.fails(&["no_such_module:f"], 2, "no module named 'no_such_module'");
    let python = "ModuleNotFoundError: No module named 'no_such_module'";
    assert!(missing.stderr.contains(python), "Python's own words: {}", missing.stderr);
    let broken = stage.fails(&["job_broken:f"], 2, "importing module 'job_broken' failed");
    for text in ["job_broken.py\", line 3", "No module named 'no_such_module_of_anyone'"] {
        assert!(broken.stderr.contains(text), "{text:?} in {}", broken.stderr);
    }
    let text = "module 'job_calls' has no attribute 'sqare' (did you mean 'square'?)";
    stage.fails(&["job_calls:sqare", "2"], 2, text);
    stage.fails(&["job_tricks:not_callable"], 2, "of type dict");
    stage.fails(&["--pool", "none", "math:sqrt", "2"], 2, "none");
    stage.judge();
}

#[test]
fn arguments_that_do_not_fit_are_a_mistake_of_the_caller() {
    let stage = Stage::new();
    let text = "two() missing 1 required positional argument: 'b'";
    stage.fails(&["job_tricks:two", "1"], 2, text);
    stage.fails(&["job_tricks:two", "1", "2", "3"], 2, "takes 2 positional arguments");
    stage.fails(&["job_tricks:two", "1", "2", "c=3"], 2, "unexpected keyword argument 'c'");
    stage.fails(&["job_tricks:two", "1", "a=2"], 2, "multiple values for argument 'a'");
    stage.fails(&["math:sqrt"], 2, "exactly one argument");
    // A TypeError of the function's own is no mistake of the caller.
    stage.fails(&["job_tricks:raises_type_error"], 1, "TypeError: object of type 'int' has no len");
    stage.judge();
}

#[test]
fn input_that_is_no_json_is_named_by_place() {
    let stage = Stage::new();
    let command = stage.daemon.command(["call", "job_calls:square", "-"]);
    let output = command.stdin("{\n  \"a\": nope\n}").run().expect_code(2);
    assert_one_line(&output, "standard input is not JSON");
    assert!(output.stderr.contains("line 2 column 9"), "{}", output.stderr);
    let command = stage.daemon.command(["map", "job_calls:square", "--input", "-"]);
    let output = command.stdin("1\n2\nthree\n4\n").run().expect_code(2);
    assert_eq!("1\n4\n", output.stdout);
    let last = output.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("item 2, line 3: it is not JSON"), "{last}");
    let words = ["map", "job_calls:square", "--input", "/nonexistent/items"];
    assert_one_line(&stage.daemon.cli(words).expect_code(2), "/nonexistent/items");
    for words in [
        &["call", "nonsense", "1"][..],
        &["call", "math:sqrt", "2", "--no-such-option"],
        &["call", "--timeout", "soon", "math:sqrt", "2"],
        &["no-such-verb"],
    ] {
        let output = stage.daemon.cli(words).expect_code(2);
        assert!(output.stderr.starts_with("error: "), "{words:?}: {}", output.stderr);
        assert_eq!("", output.stdout);
    }
    stage.judge();
}

#[test]
fn f093_no_daemon_is_one_line_that_says_how_to_start_one() {
    let tmp = Tmp::new();
    let socket = tmp.join("nobody.sock");
    let socket = socket.to_str().expect("test paths are text");
    for verb in [
        &["call", "math:sqrt", "2"][..],
        &["map", "math:sqrt", "2"],
        &["status"],
        &["ping"],
        &["stop"],
    ] {
        let words = [&["--socket", socket], verb].concat();
        let output = Clutch::command(words).run().expect_code(3);
        assert_one_line(&output, socket);
        assert!(output.stderr.contains("clutch serve"), "{}", output.stderr);
    }
    // The same when the path comes from the environment.
    let output = Clutch::command(["ping"]).env("CLUTCH_SOCKET", socket).run();
    assert_one_line(&output.expect_code(3), socket);
}

/// A start that must fail with code 8 and name all of `named`.
#[track_caller]
fn refused(config: &str, named: &[&str]) -> Output {
    let output = match Daemon::builder().config_text(config).try_start() {
        Ok(daemon) => panic!("it started:\n{}", daemon.log()),
        Err(output) => output.expect_code(8),
    };
    assert_one_line(&output, "");
    for text in named {
        assert!(output.stderr.contains(text), "{text:?} in {}", output.stderr);
    }
    output
}

#[test]
fn a_wrong_configuration_is_shown_with_its_line_and_what_to_write() {
    let named = ["clutch.toml:2:", "workres", "did you mean `workers`?"];
    refused("[pools.default]\nworkres = 2\n", &named);
    let named = ["clutch.toml:2:", "workers"];
    refused("[pools.default]\nworkers = \"many\"\n", &named);
    refused("[pools.default]\nlimits = { grace = 5 }\n", &["clutch.toml:2:", "grace", "5s"]);
    refused("[pools.default\n", &["clutch.toml:1:"]);
}

#[test]
fn an_interpreter_that_is_not_there_or_too_old_is_refused() {
    let missing = "/nonexistent/bin/python3";
    refused(&format!("[pools.default]\npython = {missing:?}\n"), &[missing, "default"]);
    let tmp = Tmp::new();
    let local = |python: &str| {
        let words = ["call", "--local", "--python", python, "math:sqrt", "2"];
        Clutch::command(words).envs(private_environment(&tmp)).run().expect_code(8)
    };
    assert_one_line(&local(missing), missing);
    let old = Python::installed().iter().find(|python| python.version.0 == 2);
    let Some(old) = old else { skip!("this machine has no Python 2") };
    let path = old.path.to_str().expect("test paths are text");
    let version = format!("2.{}.{}", old.version.1, old.version.2);
    refused(&format!("[pools.default]\npython = {path:?}\n"), &[path, &version, "3.8"]);
    assert_one_line(&local(path), &version);
}

#[test]
fn every_interpreter_survives_the_same_tricks() {
    let pythons = Python::supported();
    let mut builder = Daemon::builder();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder.pool(&format!("p{index}"), |pool| pool.python(python));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    let client = blocking::Client::connect(daemon.socket()).expect("it listens");
    for (index, python) in pythons.iter().enumerate() {
        let pool = format!("p{index}");
        let call = |function: &str| {
            let request = client.request(function).pool(&*pool);
            let answer = request.timeout(20 * SECOND).send::<String>();
            answer.map_err(Box::new)
        };
        for (function, expected) in [
            ("job_tricks:close_descriptors", "closed"),
            ("job_tricks:replace_stdout", "replaced"),
            ("job_tricks:close_stdout", "closed"),
            ("job_tricks:delete_stdout", "deleted"),
            ("job_tricks:forks", "parent"),
            ("job_tricks:forks_and_prints", "parent"),
            ("job_tricks:patch_modules", "patched"),
            ("job_tricks:ignore_signals", "ignored"),
            ("job_tricks:prints", "printed"),
        ] {
            match call(function) {
                Ok(answer) => assert_eq!(expected, answer, "{python}: {function}"),
                Err(failure) => panic!("{python}: {failure}"),
            }
        }
        let failure = call("job_tricks:recurse").expect_err("it cannot return");
        let Reason::Raised(exception) = failure.reason else { panic!("{python}: {failure}") };
        assert_eq!("RecursionError", exception.type_name, "{python}");
        let printed = daemon.cli(["call", "--pool", &pool, "job_tricks:prints"]).expect_code(0);
        assert!(printed.stderr.contains("printed to stdout"), "{python}: {}", printed.stderr);
    }
    drop(client);
    oracle.judge(daemon);
}
