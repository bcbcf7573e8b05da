//! numpy, pandas, scikit-learn and joblib, in an environment made from the package index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clutch_tests::{Daemon, Program, Python, skip, workers_dir};

use super::{Check, alone, column, table, told};

/// What is installed. Those without a version are what pip finds for the interpreter.
const PACKAGES: [&str; 4] = ["numpy", "pandas", "scikit-learn", "joblib"];

/// How long pip may take.
const INSTALL_BOUND: Duration = Duration::from_secs(900);

/// The environment, made once and kept below `target`. It is put in its place when it is whole.
fn environment(python: &Python) -> PathBuf {
    let (major, minor, micro) = python.version;
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let place = root.join(format!("science-{major}.{minor}.{micro}"));
    if !place.join("complete").is_file() {
        if place.exists() {
            std::fs::remove_dir_all(&place).expect("what an interrupted run has left can go");
        }
        let run = |program: &Path, words: &[&str]| {
            let program = Program::new(program).args(words).timeout(INSTALL_BOUND);
            program.run().expect_code(0)
        };
        let target = place.to_str().expect("test paths are text");
        run(&python.path, &["-m", "venv", target]);
        let install = [&["-m", "pip", "install", "--quiet"], &PACKAGES[..]].concat();
        run(&place.join("bin/python"), &install);
        std::fs::write(place.join("complete"), "").expect("the environment can be written to");
    }
    place
}

#[test]
fn numpy_and_its_friends_come_to_the_same_in_a_worker() {
    if std::env::var_os("CLUTCH_TEST_NETWORK").is_none() {
        skip!("packages come from the package index: CLUTCH_TEST_NETWORK=1 allows that");
    }
    let _alone = alone();
    let venv = environment(Python::any());
    let script = workers_dir().join("job_compat_science.py");
    let python = venv.join("bin/python");
    let venv_text = venv.to_str().expect("test paths are text");
    let python_text = python.to_str().expect("test paths are text");
    // The threads of a library are planned by how many workers there are: one, as in plain python.
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.key("python", python_text).env("VIRTUAL_ENV", venv_text))
        .pool("main", |pool| pool.key("python", python_text).main(&script))
        .start();
    let oracle = daemon.oracle().memory_budget(64 << 20);
    let checks = told(&daemon, "default", &python, &script);
    assert!(checks.len() > 15, "only {} things were tried", checks.len());
    let mut differences = Vec::new();
    for check in &checks {
        let in_module = check.differs(&daemon, "default", "job_compat_science");
        let in_script = check.differs(&daemon, "main", "__main__");
        differences.push(in_module.into_iter().chain(in_script).collect::<Vec<_>>());
    }
    let told: Vec<_> = differences.iter().flatten().collect();
    assert!(told.is_empty(), "not as in plain python:\n{told:#?}");
    let wrong = |check: &Check| {
        let at = checks.iter().position(|other| std::ptr::eq(other, check));
        at.is_some_and(|at| !differences[at].is_empty())
    };
    let seen = BTreeMap::from([((0, 0), column(&checks, wrong))]);
    table::compare("packages", &seen, |_| "in a worker".to_owned());
    oracle.judge_with_helpers(daemon);
}
