//! CPython's own regression tests, run by `unittest` in a worker, and in plain `python`.

use std::collections::BTreeMap;

use clutch_tests::{Daemon, Python, skip, workers_dir};
use serde_json::{Value as Json, json};

use super::{alone, call, dotted, plain, table};

/// Quick ones that touch what a worker touches as well: signals, threads, processes, files, the
/// end of a process.
const USUAL: [&str; 15] = [
    "test_atexit",
    "test_bisect",
    "test_contextvars",
    "test_fcntl",
    "test_file",
    "test_mmap",
    "test_popen",
    "test_posix",
    "test_pty",
    "test_sched",
    "test_select",
    "test_tempfile",
    "test_thread",
    "test_threading_local",
    "test_threadsignals",
];

/// Those that take their time. Only with `CLUTCH_TEST_LONG`.
const LONG: [&str; 9] = [
    "test_asyncio.test_subprocess",
    "test_fork1",
    "test_os",
    "test_queue",
    "test_selectors",
    "test_shutil",
    "test_signal",
    "test_threading",
    "test_wait4",
];

/// Tests that do not come to the same in a worker, and why. docs/COMPATIBILITY.md says it again.
const KNOWN: [(&str, &str); 0] = [];

/// One module in both, twice at most: some of these tests measure time, on a busy machine.
fn differences(daemon: &Daemon, pool: &str, python: &Python, module: &str) -> Option<Vec<String>> {
    let script = workers_dir().join("job_compat_regrtest.py");
    let mut different = Vec::new();
    for _ in 0..2 {
        let words = [python.path.as_os_str(), script.as_os_str(), module.as_ref()];
        let output = plain(daemon, pool, &words);
        if output.code != 0 {
            // An older module that prepares itself only when it is run as a script.
            return None;
        }
        let told = output.stdout.lines().last().expect("it tells what came of it");
        let there: Json = serde_json::from_str(told).expect("a line of JSON");
        if there.get("missing").is_some() {
            return None;
        }
        assert!(there["ran"].as_u64().is_some_and(|ran| ran > 0), "{python}: {module}: {there}");
        let here = match call(daemon, pool, "job_compat_regrtest:run", json!([module])) {
            Ok(found) => found,
            Err(failure) => panic!("{python}: {module}: {failure}"),
        };
        different = unlike(&there, &here);
        if different.is_empty() {
            break;
        }
    }
    Some(different)
}

/// What differs between two runs of the same tests.
fn unlike(there: &Json, here: &Json) -> Vec<String> {
    let mut different = Vec::new();
    if there["ran"] != here["ran"] {
        different.push(format!("{} tests ran, not {}", here["ran"], there["ran"]));
    }
    let all = |found: &Json| found["unusual"].as_object().cloned().unwrap_or_default();
    let (there, here) = (all(there), all(here));
    for (test, outcome) in &here {
        // What a message says may hold a process id; how a test ended may not differ.
        if there.get(test).map(|outcome| &outcome[0]) != Some(&outcome[0]) {
            different.push(format!("{test}: {outcome}"));
        }
    }
    for (test, outcome) in there.iter().filter(|(test, _)| !here.contains_key(*test)) {
        different.push(format!("{test} passed, but is {outcome} in plain python"));
    }
    different
}

/// The cell of a module; panics with what has no reason.
#[track_caller]
fn cell(python: &Python, module: &str, differences: Option<Vec<String>>) -> String {
    let Some(differences) = differences else { return "-".to_owned() };
    let mut names = Vec::new();
    for difference in &differences {
        let known = KNOWN.iter().find(|(test, _)| difference.starts_with(&format!("{test} ")));
        let Some((test, _)) = known else {
            panic!("{python}: {module}, which is not known to differ: {difference}")
        };
        names.push(format!("`{test}`"));
    }
    if names.is_empty() { "same".to_owned() } else { format!("but {}", names.join(", ")) }
}

fn compare(name: &str, modules: &[&str], pythons: &[&'static Python]) {
    let _alone = alone();
    let mut builder = Daemon::builder();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder.pool(&format!("p{index}"), |pool| pool.python(python));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    let mut seen = BTreeMap::new();
    for (index, python) in pythons.iter().enumerate() {
        let pool = format!("p{index}");
        let before = daemon.worker_pids(&pool);
        let column = modules.iter().map(|module| {
            let cell = cell(python, module, differences(&daemon, &pool, python, module));
            assert_eq!(before, daemon.worker_pids(&pool), "{python}: {module} cost a worker");
            ((String::new(), format!("`{module}`")), cell)
        });
        seen.insert((python.version.0, python.version.1), column.collect());
    }
    table::compare(name, &seen, dotted);
    oracle.judge_with_helpers(daemon);
}

#[test]
fn cpythons_own_tests_come_to_the_same_in_a_worker() {
    let all = std::env::var_os("CLUTCH_TEST_LONG").is_some();
    let pythons = if all { Python::supported() } else { vec![Python::any()] };
    compare("regrtest", &USUAL, &pythons);
}

#[test]
fn more_of_cpythons_own_tests_come_to_the_same_in_a_worker() {
    if std::env::var_os("CLUTCH_TEST_LONG").is_none() {
        skip!("they take minutes: CLUTCH_TEST_LONG=1 runs them");
    }
    compare("regrtest-long", &LONG, &[Python::any()]);
}
