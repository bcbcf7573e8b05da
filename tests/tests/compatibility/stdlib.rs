//! The standard library: what programs do with it, on every interpreter of this machine.

use std::collections::BTreeMap;
use std::fs;

use clutch_tests::{Daemon, Oracle, Python, SECOND, Tmp, workers_dir};
use serde_json::json;

use super::{Check, alone, call, column, dotted, plain, table, told};

/// How many interpreters are tried at a time: what they do is waiting for processes, mostly.
const AT_ONCE: usize = 3;

/// A daemon with two pools for each interpreter: one for functions of a module, and one whose
/// `__main__` is the same file.
fn daemon(pythons: &[&'static Python]) -> (Daemon, Oracle) {
    let mut builder = Daemon::builder();
    for python in pythons {
        let name = name(python);
        builder = builder.pool(&name, |pool| pool.python(python)).pool(&main(&name), |pool| {
            pool.python(python).main(workers_dir().join("job_compat.py"))
        });
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

fn name(python: &Python) -> String {
    format!("py{}{}", python.version.0, python.version.1)
}

fn main(name: &str) -> String {
    format!("{name}-main")
}

/// Tries everything with one interpreter, and says what differed.
fn try_all(daemon: &Daemon, python: &Python) -> (Vec<Check>, Vec<Vec<String>>) {
    let pool = name(python);
    let script = workers_dir().join("job_compat.py");
    let checks = told(daemon, &pool, &python.path, &script);
    assert!(checks.len() > 40, "only {} things were tried", checks.len());
    let differences = checks.iter().map(|check| {
        let in_module = check.differs(daemon, &pool, "job_compat");
        let in_script = check.in_script.then(|| check.differs(daemon, &main(&pool), "__main__"));
        in_module.into_iter().chain(in_script.flatten()).collect()
    });
    let differences = differences.collect();
    (checks, differences)
}

#[test]
fn what_programs_do_comes_to_the_same_in_a_worker() {
    let _alone = alone();
    let pythons = Python::supported();
    let (daemon, oracle) = daemon(&pythons);
    let mut seen = BTreeMap::new();
    let mut told = String::new();
    for some in pythons.chunks(AT_ONCE) {
        let results: Vec<_> = std::thread::scope(|scope| {
            let daemon = &daemon;
            let threads = some.iter().map(|python| scope.spawn(|| try_all(daemon, python)));
            let threads: Vec<_> = threads.collect();
            threads.into_iter().map(|thread| thread.join().expect("it did not panic")).collect()
        });
        for (python, (checks, differences)) in some.iter().zip(results) {
            let wrong = |check: &Check| {
                let at = checks.iter().position(|other| std::ptr::eq(other, check));
                at.is_some_and(|at| !differences[at].is_empty())
            };
            for difference in differences.iter().flatten() {
                told += &format!("{python}: {difference}\n");
            }
            seen.insert((python.version.0, python.version.1), column(&checks, wrong));
        }
    }
    assert!(told.is_empty(), "not as in plain python:\n{told}");
    table::compare("stdlib", &seen, dotted);
    oracle.judge_with_helpers(daemon);
}

#[test]
fn what_a_python_does_at_its_end_a_worker_does_at_its_end() {
    let _alone = alone();
    let tmp = Tmp::new();
    let pythons = Python::supported();
    let (mut daemon, _) = daemon(&pythons);
    let listed = |dir: &str| {
        let entries = fs::read_dir(tmp.join(dir)).expect("it is there").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    for python in &pythons {
        let name = name(python);
        let code = "import sys, job_compat; job_compat.at_exit(sys.argv[1])";
        let dir = |kind: &str| {
            let dir = tmp.dir(format!("{name}-{kind}"));
            dir.to_str().expect("test paths are text").to_owned()
        };
        let workers = workers_dir();
        let path = format!("PYTHONPATH={}", workers.to_str().expect("test paths are text"));
        let words = [&*path, python.path.to_str().expect("text"), "-c", code, &dir("plain")];
        plain(&daemon, &name, &words).expect_code(0);
        for (pool, module) in [(name.clone(), "job_compat"), (main(&name), "__main__")] {
            let function = format!("{module}:at_exit");
            let answer = call(&daemon, &pool, &function, json!([dir(module)])).expect("it returns");
            assert_eq!(json!("registered"), answer);
        }
    }
    assert_eq!(0, daemon.stop(20 * SECOND), "{}", daemon.log());
    daemon.assert_swept(SECOND);
    for python in &pythons {
        let name = name(python);
        for kind in ["plain", "job_compat", "__main__"] {
            let dir = format!("{name}-{kind}");
            assert_eq!(["atexit", "finalize", "thread"][..], listed(&dir)[..], "{dir}");
        }
    }
}
