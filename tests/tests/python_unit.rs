//! The Python package's own unit tests, on every CPython a worker runs on.

use std::io::Write;
use std::path::Path;

use clutch_tests::{Python, SECOND, say_skipped};

/// How many interpreters run the tests at a time: much of it is waiting.
const AT_ONCE: usize = 2;

/// What `unittest` says at its end: how many tests ran, and whether all passed.
fn closing_lines(stderr: &str) -> Vec<&str> {
    let lines: Vec<_> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(2)..].to_vec()
}

/// The number in `Ran 123 tests in 4.567s`.
fn tests_run(closing: &[&str]) -> Option<u32> {
    let ran = closing.iter().find_map(|line| line.strip_prefix("Ran "))?;
    ran.split(' ').next()?.parse().ok()
}

/// Runs all tests with one interpreter, and says what went wrong.
fn run_all(python: &Python, root: &Path) -> Result<(), String> {
    let program = clutch_tests::Program::new(&python.path)
        .args(["-m", "unittest", "discover", "-s", "py-worker/tests"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .dir(root)
        .timeout(600 * SECOND);
    let output = program.run();
    let closing = closing_lines(&output.stderr);
    // Past the runner's capture, so that every run shows it.
    let line = format!("{python}: {}\n", closing.join(" "));
    let _ = std::io::stderr().write_all(line.as_bytes());
    // 5 is what newer versions end with when they found no test at all.
    if output.code != 0 || tests_run(&closing).is_none_or(|count| count == 0) {
        return Err(format!("{python} ended with {}:\n{}", output.code, output.stderr));
    }
    Ok(())
}

#[test]
fn the_python_unit_tests_pass_on_every_interpreter() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let pythons = Python::supported();
    assert!(!pythons.is_empty(), "no CPython 3.8 or newer on PATH or in pyenv");
    let mut failed = Vec::new();
    for some in pythons.chunks(AT_ONCE) {
        failed.extend(std::thread::scope(|scope| {
            let threads: Vec<_> =
                some.iter().map(|python| scope.spawn(|| run_all(python, &root))).collect();
            let ended = threads.into_iter().map(|thread| thread.join().expect("it did not panic"));
            ended.filter_map(Result::err).collect::<Vec<_>>()
        }));
    }
    for (major, minor) in (8..=13).map(|minor| (3, minor)) {
        let version = |python: &&Python| (python.version.0, python.version.1) == (major, minor);
        if !pythons.iter().any(version) {
            say_skipped(module_path!(), &format!("this machine has no CPython {major}.{minor}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
