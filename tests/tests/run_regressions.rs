//! CPython's own regression tests through `clutch run -m test`: the same tests run, pass and are
//! skipped as under plain `python`. Those were chosen that look at what a program's process is made
//! of: command line, streams, signals, terminals, children, exit.

use std::collections::BTreeMap;

use clutch_tests::builder::private_environment;
use clutch_tests::{Clutch, Daemon, Program, Python, SECOND, Tmp, skip, table};

/// A minute's worth, for every run.
const SHORT: &[&str] = &[
    "test_atexit",
    "test_fileinput",
    "test_getpass",
    "test_popen",
    "test_pty",
    "test_runpy",
    "test_sys",
    "test_threadsignals",
];

/// Some minutes more, with `CLUTCH_TEST_LONG`.
const LONG: &[&str] = &[
    "test_cmd_line",
    "test_cmd_line_script",
    "test_eintr",
    "test_exceptions",
    "test_multiprocessing_spawn",
    "test_readline",
    "test_signal",
    "test_subprocess",
    "test_tempfile",
    "test_traceback",
];

/// The result as CPython's tests sum it up: which ran, passed, failed and were skipped.
fn summary(launcher: Program, tmp: &Tmp, tests: &[&str]) -> String {
    let output = launcher
        .args(["-m", "test", "--timeout", "600"])
        .args(tests)
        .envs(private_environment(tmp))
        .dir(tmp.dir("work"))
        .timeout(900 * SECOND)
        .run();
    let (_, result) = output.stdout.split_once("== Tests result: ").unwrap_or_else(|| {
        panic!("no result\nstdout: {}\nstderr: {}", output.stdout, output.stderr)
    });
    let lines = result.lines().filter(|line| !line.starts_with("Total duration"));
    format!("{}\nended with {}", lines.collect::<Vec<_>>().join("\n"), output.code)
}

#[test]
fn cpythons_own_tests_give_the_same_result() {
    let python = Python::any();
    let has_tests = python.script("import test.regrtest, test.test_atexit").run().code == 0;
    if !has_tests {
        skip!("{} comes without its tests", python.path.display());
    }
    let mut all = SHORT.to_vec();
    if std::env::var_os("CLUTCH_TEST_LONG").is_some() {
        all.extend(LONG);
    }
    let text = format!("[pools.default]\npython = '{}'\nworkers = 1\n", python.path.display());
    let daemon = Daemon::builder().config_text(text).start();
    let (plain, by_clutch) = (Tmp::new(), Tmp::new());
    // Side by side: most of it is waiting.
    let (expected, got) = std::thread::scope(|scope| {
        let expected =
            scope.spawn(|| summary(Clutch::private(Program::new(&python.path)), &plain, &all));
        let got = summary(daemon.command(["run"]), &by_clutch, &all);
        (expected.join().expect("it has a result"), got)
    });
    assert_eq!(expected, got);
    assert!(expected.contains("OK"), "some pass: {expected}");
    // What was skipped or failed is the same, too.
    let row = |test: &&str| ((String::new(), format!("`{test}`")), "same".to_owned());
    let version = (python.version.0, python.version.1);
    for (name, tests) in [("regrtest-run", SHORT), ("regrtest-run-long", LONG)] {
        if tests.iter().all(|test| all.contains(test)) {
            let column = tests.iter().map(row).collect();
            table::compare(name, &BTreeMap::from([(version, column)]), table::dotted);
        }
    }
}
