//! The programs of `examples/`, and the client's own: each is run for real, as its reader would.
//! Pools of processes are tried with every start method on every interpreter.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clutch_client::{Client, Failure, blocking};
use clutch_tests::builder::private_environment;
use clutch_tests::{Builder, Clutch, Daemon, Program, Python, SECOND, Tmp, wait_for};
use serde_json::{Value as Json, json};

const START_METHODS: [&str; 3] = ["spawn", "fork", "forkserver"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn examples() -> PathBuf {
    let examples = root().join("examples");
    examples.canonicalize().expect("the examples are in the repository")
}

/// `PATH` with these directories in front.
fn path_with(first: &[&Path]) -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let rest = std::env::split_paths(&inherited);
    let all = first.iter().map(|dir| dir.to_path_buf()).chain(rest);
    std::env::join_paths(all).expect("test paths have no colons")
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("a file is in a directory")
}

/// A daemon with the examples' own configuration, beside copies of its files.
fn with_the_examples_configuration() -> Builder {
    let read = |path: &Path| std::fs::read_to_string(path).expect("it is text");
    let builder = Daemon::builder()
        .config_text(read(&examples().join("clutch.toml")))
        .env("PATH", path_with(&[parent(&Python::any().path)]));
    for entry in std::fs::read_dir(examples()).expect("it can be read").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            builder.tmp().write(entry.file_name(), read(&path));
        }
    }
    builder
}

/// A daemon whose pools are one for each interpreter and what is to be done with it.
fn one_pool_for_each_interpreter() -> (Daemon, Vec<(String, &'static Python)>) {
    let mut builder = Daemon::builder();
    let mut pools = Vec::new();
    for python in Python::supported() {
        let name = format!("py{}{}", python.version.0, python.version.1);
        builder = builder
            .pool(&name, |pool| pool.python(python).path(examples()))
            .pool(&format!("{name}-main"), |pool| {
                pool.python(python).main(examples().join("main.py"))
            });
        pools.push((name, python));
    }
    (builder.start(), pools)
}

fn call(daemon: &Daemon, pool: &str, function: &str, args: Json) -> Result<Json, Box<Failure>> {
    let client = blocking::Client::connect(daemon.socket()).expect("the daemon listens");
    let request = client.request(function).pool(pool).args(args);
    request.timeout(60 * SECOND).send().map_err(Box::new)
}

#[test]
fn f056_pools_of_processes_work_inside_a_worker_with_every_start_method() {
    let (daemon, pools) = one_pool_for_each_interpreter();
    let oracle = daemon.oracle();
    for (pool, python) in &pools {
        for method in START_METHODS {
            for (pool, function) in [
                (pool.clone(), "pools:process_pool"),
                (pool.clone(), "pools:process_executor"),
                (format!("{pool}-main"), "__main__:squares"),
            ] {
                match call(&daemon, &pool, function, json!([method])) {
                    Ok(squares) => assert_eq!(json!([1, 4, 9, 16]), squares, "{python} {method}"),
                    Err(failure) => panic!("{python}: {function}({method}): {failure}"),
                }
            }
        }
        for function in ["pools:thread_executor", "pools:thread_queue"] {
            let squares = call(&daemon, pool, function, json!([])).expect("threads are easy");
            assert_eq!(json!([1, 4, 9, 16]), squares, "{python}: {function}");
        }
        let main = format!("{pool}-main");
        let square = call(&daemon, &main, "__main__:worker", json!([5])).expect("it has one");
        assert_eq!(json!(25), square, "{python}");
    }
    oracle.judge_with_helpers(daemon);
}

#[test]
fn a_script_means_the_same_to_a_person_and_in_a_pool() {
    for python in Python::supported() {
        let output = Program::new(&python.path)
            .args([examples().join("main.py").as_os_str(), "forkserver".as_ref()])
            .run();
        assert_eq!("[1, 4, 9, 16]\n", output.expect_code(0).stdout, "{python}");
    }
}

#[test]
fn programs_libraries_and_data_are_as_in_any_python() {
    let (daemon, pools) = one_pool_for_each_interpreter();
    let oracle = daemon.oracle();
    let file = daemon.tmp().write("numbers", "1\n2\nthree\n-4\n");
    for (pool, python) in &pools {
        let call = |function, args| match call(&daemon, pool, function, args) {
            Ok(answer) => answer,
            Err(failure) => panic!("{python}: {failure}"),
        };
        let shell = "echo $0 $((6 * 7)); cat /proc/self/comm | tr a-z A-Z";
        assert_eq!(json!("/bin/sh 42\nCAT\n"), call("shell:run", json!([shell])), "{python}");
        let sorted = call("shell:sort_lines", json!([["b", "a", "b"]]));
        assert_eq!(json!([["1", "a"], ["2", "b"]]), sorted, "{python}");

        let report = call("compatibility:check", json!(["statistics", "median", [1, 5, 2]]));
        let expected = json!({
            "library": "statistics",
            "imported": true,
            "basic functionality": "2",
            "multiprocessing": true,
        });
        assert_eq!(expected, report, "{python}");
        let report = call("compatibility:check", json!(["no_such_library"]));
        assert_eq!(json!(false), report["imported"], "{python}");
        let error = "ModuleNotFoundError: No module named 'no_such_library'";
        assert_eq!(json!(error), report["error"], "{python}");

        let counted = call("dataset:process_large_dataset", json!([file]));
        assert_eq!(json!({"lines": 4, "total": -1}), counted, "{python}");
        let array: Vec<f64> = (0..10_000).map(f64::from).collect();
        let doubled: Vec<f64> = array.iter().map(|value| value * 2.0).collect();
        assert_eq!(json!(doubled), call("arrays:process_array", json!([array])), "{python}");
        let primes = call("analytics:complex_calculation", json!([1000]));
        assert_eq!(json!(168), primes, "{python}");
    }
    let failed = call(&daemon, &pools[0].0, "shell:run", json!(["exit 3"]));
    let text = failed.expect_err("the shell failed").to_string();
    assert!(text.contains("CalledProcessError"), "{text}");
    assert!(text.contains("non-zero exit status 3"), "{text}");
    oracle.judge_with_helpers(daemon);
}

/// One command of the README, and what it prints.
#[derive(Debug)]
struct Shown {
    command: String,
    output: String,
}

/// The commands in the `console` blocks of a text.
fn shown(text: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (false, "```console") => inside = true,
            (true, "```") => inside = false,
            (true, line) => match (line.strip_prefix("$ "), all.last_mut()) {
                (Some(command), _) => {
                    let (command, output) = (command.to_owned(), String::new());
                    all.push(Shown { command, output });
                }
                (None, Some(last)) => {
                    last.output.push_str(line);
                    last.output.push('\n');
                }
                (None, None) => panic!("a block begins with its output: {line}"),
            },
            (false, _) => {}
        }
    }
    all
}

#[test]
fn every_command_of_the_readme_prints_what_the_readme_says() {
    let text = std::fs::read_to_string(examples().join("README.md")).expect("it is there");
    let all = shown(&text);
    assert!(all.len() >= 15, "only {} commands are shown", all.len());
    for Shown { command, output } in all {
        let tmp = Tmp::new();
        let binaries = [parent(Clutch::binary()), parent(&Python::any().path)];
        let ran = Clutch::private(Program::new("bash"))
            .args(["-c", &command])
            .envs(private_environment(&tmp))
            .env("PATH", path_with(&binaries))
            .dir(root())
            .run();
        assert_eq!((0, &*output), (ran.code, &*ran.stdout), "$ {command}\n{}", ran.stderr);
    }
}

#[test]
fn every_example_is_in_the_readme() {
    let text = std::fs::read_to_string(examples().join("README.md")).expect("it is there");
    for entry in std::fs::read_dir(examples()).expect("it can be read").flatten() {
        let name = entry.file_name().into_string().expect("names are text");
        let is_listed = name == "README.md" || text.contains(&format!("]({name})"));
        assert!(is_listed || name == "__pycache__", "{name} is not in the README");
    }
}

/// Builds a Rust example and gives a run of it against this daemon.
#[track_caller]
fn rust_example(daemon: &Daemon, package: &str, name: &str) -> Program {
    // target/<profile>/deps/<this test>
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile_dir = parent(parent(&test));
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let words = ["build", "--package", package, "--example", name, "--profile", profile];
    Program::new(cargo)
        .args(words)
        .args(["--target-dir".as_ref(), parent(profile_dir).as_os_str()])
        .dir(root())
        .timeout(1200 * SECOND)
        .run()
        .expect_code(0);
    Clutch::private(Program::new(profile_dir.join("examples").join(name)))
        .envs(private_environment(daemon.tmp()))
        .env("CLUTCH_SOCKET", daemon.socket())
}

#[test]
fn concurrent_calls_from_rust() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let output = rust_example(&daemon, "clutch-tests", "concurrent_calls").run();
    let expected = "squares: [1, 4, 9, 16]\ntasks: 100 of 100\n";
    assert_eq!(expected, output.expect_code(0).stdout);
    oracle.judge(daemon);
}

#[test]
fn ordered_parallel_processing_of_a_list() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let output = rust_example(&daemon, "clutch-tests", "process_data_parallel").run();
    assert_eq!("[78498, 4, 9592, 25, 1229, 168]\n", output.expect_code(0).stdout);
    oracle.judge(daemon);
}

#[test]
fn an_exception_is_a_typed_error_in_rust() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let output = rust_example(&daemon, "clutch-tests", "typed_errors").run();
    let expected = "egg: reserved, 1 left\n\
                    egg: out of stock: 12 of egg asked for, 3 left\n\
                    dragon: never heard of (KeyError: 'dragon')\n\
                    TypeError: '>' not supported between instances of 'str' and 'int', \
                    in reserve: if count > left:\n";
    assert_eq!(expected, output.expect_code(0).stdout);
    oracle.judge(daemon);
}

#[test]
fn a_shared_array_is_changed_in_place() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let output = rust_example(&daemon, "clutch-tests", "shared_array").run();
    let expected = "doubled in place: [2, 4, 6, 8, 10]\n\
                    read-only: Raised\n\
                    a million halves are 500000\n";
    assert_eq!(expected, output.expect_code(0).stdout);
    oracle.judge(daemon);
}

#[test]
fn a_kept_array_is_used_by_many_calls() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let output = rust_example(&daemon, "clutch-tests", "kept_array").run();
    let expected = "8 MB are kept\n\
                    their sum is 500000\n\
                    and with other factors [500000.0, 1000000.0, 1500000.0, 2000000.0]\n\
                    the daemon keeps 0 values\n";
    assert_eq!(expected, output.expect_code(0).stdout);
    oracle.judge(daemon);
}

#[test]
fn a_cancelled_call_releases_its_resource() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let output = rust_example(&daemon, "clutch-tests", "cancelled_resource").run();
    let expected = "the resource is taken\n\
                    the call was dropped, and the resource released\n\
                    the next call gives 1.4142135623730951\n";
    assert_eq!(expected, output.expect_code(0).stdout);
    assert_eq!(before, daemon.worker_pids("default"), "a worker was replaced");
    wait_for("the cancel was counted", 5 * SECOND, || {
        daemon.counter("default", "answered.Cancelled") == 1
    });
    oracle.judge(daemon);
}

#[test]
fn the_clients_own_tour_runs_to_its_end() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let output = rust_example(&daemon, "clutch-client", "tour").run().expect_code(0);
    assert!(output.stdout.ends_with("that was all\n"), "{}", output.stdout);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn the_examples_run_on_the_async_client_as_well() {
    let daemon = with_the_examples_configuration().start();
    let oracle = daemon.oracle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let client = Client::connect(daemon.socket()).await.expect("it listens");
        let map = client.map::<_, i64>("squares:worker", [1, 2, 3, 4]);
        assert_eq!(vec![1, 4, 9, 16], map.collect::<Vec<_>>().await.expect("they are squared"));
        let request = client.request("__main__:squares").pool("script").args(("spawn",));
        assert_eq!(vec![1, 4, 9, 16], request.send::<Vec<i64>>().await.expect("as well"));
    });
    oracle.judge_with_helpers(daemon);
}
