//! What is not the same in a worker, on purpose or by nature: the last table of
//! `docs/COMPATIBILITY.md`, which names these functions. Both sides are tried on every interpreter.

use clutch_tests::{Daemon, Output, Program, Python, SECOND, process, wait_for, workers_dir};
use serde_json::{Value as Json, json};

use super::call;

const FILE: &str = "job_compat_differences.py";

/// The functions that differ, and what they give in plain `python` and in a worker.
fn rows(python: &Python) -> Vec<(&'static str, Json, Json)> {
    // Python counts the threads of the process since 3.12.
    let warnings = u32::from(python.version >= (3, 12, 0));
    vec![
        ("reads_input", json!("a line"), json!("EOFError")),
        ("main_guard", json!("run"), json!("not run")),
        ("fork_warns", json!(0), json!(warnings)),
        ("crash_handler", json!(false), json!(true)),
        ("system_threads", json!(1), json!(2)),
        ("line_buffered", json!(false), json!(true)),
    ]
}

fn person(python: &Python, functions: &[&str]) -> Output {
    let script = workers_dir().join(FILE);
    let program = Program::new(&python.path).args([script.as_os_str()]).args(functions);
    program.stdin("a line\n").run().expect_code(0)
}

fn answers(output: &Output) -> Vec<Json> {
    let lines = output.stdout.lines();
    lines.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn what_differs_differs_as_documented_on_every_interpreter() {
    let pythons = Python::supported();
    let mut builder = Daemon::builder();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder
            .pool(&format!("p{index}"), |pool| pool.python(python).main(workers_dir().join(FILE)));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for (index, python) in pythons.iter().enumerate() {
        let pool = format!("p{index}");
        let in_worker = |function: &str| {
            let answer = call(&daemon, &pool, &format!("__main__:{function}"), json!([]));
            answer.unwrap_or_else(|failure| panic!("{python}: {failure}"))
        };
        let rows = rows(python);
        let names: Vec<_> = rows.iter().map(|(name, ..)| *name).collect();
        let typed = answers(&person(python, &names));
        for ((name, plain, worker), typed) in rows.into_iter().zip(typed) {
            assert_eq!(plain, typed, "{python}: {name} in plain python");
            assert_eq!(worker, in_worker(name), "{python}: {name} in a worker");
        }
        let typed = answers(&person(python, &["change_process", "changed_process"]));
        assert_eq!(json!([true, true, true]), typed[1], "{python}");
        assert_eq!(json!("changed"), in_worker("change_process"));
        assert_eq!(json!([false, false, false]), in_worker("changed_process"), "{python}");
        assert!(in_worker("frames_below").as_u64().is_some_and(|depth| (1..=8).contains(&depth)));
    }
    oracle.judge(daemon);
}

#[test]
fn a_program_left_behind_ends_with_its_worker_and_not_with_plain_python() {
    let python = Python::any();
    let pid = |answer: &Json| {
        u32::try_from(answer.as_u64().expect("a number")).expect("it is a process id")
    };
    let output = person(python, &["leave_program"]);
    let left = pid(&answers(&output)[0]);
    assert!(process::alive(left), "plain python leaves it alone");
    process::kill(left);

    let daemon = Daemon::builder().pool("default", |pool| pool.python(python)).start();
    let oracle = daemon.oracle();
    let answer = call(&daemon, "default", "job_compat_differences:leave_program", json!([]));
    let left = pid(&answer.expect("it returns"));
    assert!(process::alive(left), "it lives as long as its worker");
    let victim = daemon.worker_pids("default")[0];
    daemon.cli(["pool", "recycle", "default"]).expect_code(0);
    wait_for("the worker was replaced", 20 * SECOND, || {
        !daemon.worker_pids("default").contains(&victim)
    });
    wait_for("the program has ended", 10 * SECOND, || !process::alive(left));
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn every_difference_is_documented() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/COMPATIBILITY.md");
    let text = std::fs::read_to_string(path).expect("docs/COMPATIBILITY.md is there");
    let others = ["changed_process", "frames_below", "leave_program"];
    let names = rows(Python::any()).into_iter().map(|(name, ..)| name).chain(others);
    for name in names {
        assert!(text.contains(&format!("`{name}`")), "{name} is not in docs/COMPATIBILITY.md");
    }
}
