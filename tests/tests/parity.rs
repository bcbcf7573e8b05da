//! Inside a worker everything is as if a person had typed `python main.py` in the pool's
//! directory: both are asked for the same facts, side by side, on every CPython.

use std::fmt::Write as _;
use std::path::Path;

use clutch_tests::process::environment;
use clutch_tests::{Daemon, Program, Python, Tmp, workers_dir};
use nix::sys::signal::Signal;
use serde_json::{Map, Value as Json, json};

type Facts = Map<String, Json>;

/// What workers do not inherit, since it was meant for another program than theirs. A machine
/// that sets one of them for the tests would show a difference that is wanted.
const NOT_INHERITED: [&str; 9] = [
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONEXECUTABLE",
    "PYTHONINSPECT",
    "LD_PRELOAD",
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
    "NOTIFY_SOCKET",
];

/// The words that follow the script's name.
const ARGUMENTS: [&str; 3] = ["first", "two words", "--flag=ü"];

/// A pool `p0`, `p1`… for each interpreter. The configuration is written here, since the usual one
/// of a test adds a directory to `sys.path`.
fn pools(pythons: &[&Python], keys: &str) -> String {
    let mut text = String::new();
    for (index, python) in pythons.iter().enumerate() {
        let path = path_text(&python.path);
        let _ = writeln!(text, "[pools.p{index}]\npython = {path:?}\nworkers = 1");
        let _ = writeln!(text, "{keys}");
    }
    text
}

/// What a function of the pool finds.
#[track_caller]
fn through_clutch(daemon: &Daemon, pool: &str, function: &str) -> Facts {
    let output = daemon.cli(["call", "--pool", pool, function]).expect_code(0);
    serde_json::from_str(&output.stdout).expect("facts are JSON")
}

/// A command line typed by a person in this directory, with the daemon's own environment and what
/// the words before the interpreter add to it.
fn typed(daemon: &Daemon, dir: &Path, words: &[&str]) -> Program {
    let is_inherited =
        |entry: &String| !NOT_INHERITED.iter().any(|name| entry.starts_with(&format!("{name}=")));
    let environment = environment(daemon.pid()).into_iter().filter(is_inherited);
    Program::new("env").args(["-i"]).args(environment).args(words).dir(dir)
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

#[track_caller]
fn facts(program: Program) -> Facts {
    let output = program.run().expect_code(0);
    assert_eq!("", output.stderr);
    serde_json::from_str(&output.stdout).expect("facts are JSON")
}

/// Takes out what the two cannot have in common, and checks it.
///
/// - The worker's own package is last on its `sys.path`, so that a child process that inherits the
///   path can import what a call uses.
/// - Descriptors above 2, and signals to be ignored, that the test's own runner hands down would
///   reach a program started by hand. They are no part of what a person has at a terminal, and a
///   guardian lets none of them through.
/// - Three variables say where a worker's own programs find the daemon (docs/NESTED.md). Others
///   whose names begin with `CLUTCH_` are the daemon's own, and reach no worker.
#[track_caller]
fn normalize(typed: &mut Facts, called: &mut Facts) {
    let path = called["path"].as_array_mut().expect("a path is a list");
    let last = path.pop().expect("a path has entries");
    let package = Path::new(last.as_str().expect("an entry is text"));
    assert!(package.join("clutch/__init__.py").is_file(), "{last} is not the package");

    let environ = called["environ"].as_object_mut().expect("variables have names");
    for name in ["CLUTCH_BIN", "CLUTCH_SOCKET", "CLUTCH_WORKER"] {
        let value = environ.remove(name);
        assert!(value.is_some_and(|value| value != json!("")), "{name} is set");
    }
    assert!(!environ.keys().any(|name| name.starts_with("CLUTCH_")), "{environ:?}");
    let environ = typed["environ"].as_object_mut().expect("variables have names");
    environ.retain(|name, _| !name.starts_with("CLUTCH_"));
    typed.remove("inheritable");
    assert_eq!(Some(json!([0, 1, 2])), called.remove("inheritable"));
    let ignored = |facts: &Facts| bits(facts["signals.ignored"].as_str().unwrap_or_default());
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc can be read");
    let mut handed_down = status.lines().filter_map(|line| line.strip_prefix("SigIgn:"));
    // SIGPIPE is ignored by Rust programs, but not by what they start.
    let handed_down = handed_down.next().map_or(0, bits) & !(1 << (Signal::SIGPIPE as i32 - 1));
    let by_hand = ignored(typed) & !handed_down;
    typed["signals.ignored"] = json!(by_hand);
    called["signals.ignored"] = json!(ignored(called) & !handed_down);
    for (name, handler) in typed["handlers"].as_object_mut().expect("handlers have names") {
        let signal = name.parse::<Signal>().expect("it is a signal's name");
        if handed_down & (1 << (signal as i32 - 1)) != 0 {
            assert_eq!("SIG_IGN", *handler, "python leaves {name} as it finds it");
            let usual = if signal == Signal::SIGINT { "default_int_handler" } else { "SIG_DFL" };
            *handler = json!(usual);
        }
    }
}

/// A set of signals as `/proc` writes it, without those above 31: the C library keeps two of them
/// to itself, and lets nobody change what is done about them.
fn bits(text: &str) -> u64 {
    let all = u64::from_str_radix(text.trim(), 16).expect("it is hexadecimal");
    all & 0x7fff_ffff
}

/// Panics with every fact that differs.
#[track_caller]
fn assert_same(python: &Python, typed: &Facts, called: &Facts) {
    let mut differences = String::new();
    assert_eq!(typed.keys().collect::<Vec<_>>(), called.keys().collect::<Vec<_>>());
    for (name, fact) in typed {
        if fact != &called[name] {
            let _ = write!(differences, "\n{name}:\n  typed  {fact}\n  called {}", called[name]);
        }
    }
    assert!(differences.is_empty(), "{python}:{differences}");
    // Facts that say nothing would agree as well.
    assert!(typed.len() > 20 && typed["environ"].as_object().is_some_and(|all| all.len() > 5));
}

#[test]
fn a_function_of_main_sees_what_a_person_would_have() {
    let pythons = Python::supported();
    let arguments = ARGUMENTS.map(|word| format!("{word:?}")).join(", ");
    let keys = format!("main = \"main.py\"\nargs = [{arguments}]");
    let builder = Daemon::builder().config_text(pools(&pythons, &keys));
    let script = std::fs::read(workers_dir().join("job_facts.py")).expect("it is there");
    builder.tmp().write("main.py", script);
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for (index, python) in pythons.iter().enumerate() {
        let words = [&[path_text(&python.path), "main.py"], &ARGUMENTS[..]].concat();
        let mut typed = facts(typed(&daemon, daemon.tmp().path(), &words));
        assert_eq!("__main__", typed["main.name"]);
        let mut called = through_clutch(&daemon, &format!("p{index}"), "__main__:facts");
        normalize(&mut typed, &mut called);
        assert_same(python, &typed, &called);
    }
    oracle.judge(daemon);
}

#[test]
fn options_a_directory_and_an_environment_of_the_pools_own_are_as_if_typed() {
    let dir = Tmp::new();
    let script = std::fs::read(workers_dir().join("job_facts.py")).expect("it is there");
    let script = dir.write("scripts/main.py", script);
    let flags = ["-X", "dev", "-W", "ignore::DeprecationWarning", "-B"];
    let keys = format!(
        "main = {script:?}\ncwd = {:?}\nflags = {flags:?}\nenv.set = {{ EXTRA = \"1 2\" }}",
        dir.path()
    );
    let pythons = Python::supported();
    let daemon = Daemon::builder().config_text(pools(&pythons, &keys)).start();
    let oracle = daemon.oracle();
    for (index, python) in pythons.iter().enumerate() {
        // `env` takes variables up to the first word without an equals sign: the interpreter.
        let before = ["EXTRA=1 2", path_text(&python.path)];
        let words = [&before, &flags[..], &[path_text(&script)]].concat();
        let mut typed = facts(typed(&daemon, dir.path(), &words));
        let mut called = through_clutch(&daemon, &format!("p{index}"), "__main__:facts");
        normalize(&mut typed, &mut called);
        assert_same(python, &typed, &called);
    }
    oracle.judge(daemon);
}

/// Without `main` a worker is what `python -c CODE` or `python < FILE` would be. What differs is
/// wanted, and checked here:
///
/// - `sys.argv` is `[""]`, as in `python` alone; with `-c` it would be `["-c"]`. (A program that
///   is piped in also finds `__file__`, which is `<stdin>`, and `__cached__`.)
/// - `__main__` has no docstring, since no code was run in it.
/// - The module asked for comes from a directory that the pool adds to `sys.path`, behind `""`.
#[test]
fn without_a_main_script_a_worker_is_a_bare_python() {
    let pythons = Python::supported();
    let workers = workers_dir();
    let workers = path_text(&workers);
    let keys = format!("path = [{workers:?}]");
    let daemon = Daemon::builder().config_text(pools(&pythons, &keys)).start();
    let oracle = daemon.oracle();
    let script = workers_dir().join("job_facts.py");
    let script = std::fs::read_to_string(script).expect("it is there");
    for (index, python) in pythons.iter().enumerate() {
        let words = [path_text(&python.path), "-c", &script];
        let mut typed = facts(typed(&daemon, daemon.tmp().path(), &words));
        let mut called = through_clutch(&daemon, &format!("p{index}"), "job_facts:facts");
        normalize(&mut typed, &mut called);
        assert_eq!(json!(["-c"]), typed["argv"], "{python}");
        assert_eq!(json!([""]), called["argv"], "{python}");
        assert_eq!(Json::Null, called["main.doc"], "{python}");
        let path = called["path"].as_array_mut().expect("a path is a list");
        assert_eq!([json!(""), json!(workers)], path[..2], "{python}");
        path.remove(1);
        for facts in [&mut typed, &mut called] {
            for name in ["argv", "orig_argv", "main.doc"] {
                facts.remove(name);
            }
        }
        assert_same(python, &typed, &called);
    }
    oracle.judge(daemon);
}
