//! numpy, pandas, scikit-learn and joblib, in an environment made from the package index.

use std::collections::BTreeMap;
use std::path::Path;

use clutch_tests::{Daemon, science, skip, workers_dir};

use super::{Check, alone, column, table, told};

#[test]
fn numpy_and_its_friends_come_to_the_same_in_a_worker() {
    if !science::is_allowed() {
        skip!("packages come from the package index: CLUTCH_TEST_NETWORK=1 allows that");
    }
    let _alone = alone();
    let venv = science::environment(Path::new(env!("CARGO_TARGET_TMPDIR")));
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
        let in_script = check.in_script.then(|| check.differs(&daemon, "main", "__main__"));
        let all = in_module.into_iter().chain(in_script.flatten());
        differences.push(all.collect::<Vec<_>>());
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
