//! What workers call before they are ready: `preload`, `initializer` and `warm`, in this order,
//! once in a worker's life, as a part of its start.

use clutch_tests::{Daemon, Output, Pool, Python, SECOND, Tmp, kill, wait_for};
use serde_json::json;

const MODEL: &str = r#"
import os, time
seen = ["imported as %s" % __name__]

def connect(*args):
    seen.append(list(args))

def load():
    seen.append("loaded by %s" % os.getpid())
    with open(os.environ["LEDGER"], "a") as file:
        file.write("%s\n" % os.getpid())

async def later():
    seen.append("later")

def report():
    return [os.getpid(), seen]

def fail(name):
    raise FileNotFoundError("no model %r" % name)

def hang():
    time.sleep(1000)

def crash():
    import ctypes
    ctypes.string_at(0)
"#;

/// A pool that can import `model`, which notes each `load` in a file.
fn pool(pool: Pool, tmp: &Tmp) -> Pool {
    let ledger = tmp.join("ledger");
    pool.path(tmp.path()).env("LEDGER", ledger.to_str().expect("test paths are text"))
}

/// A start that must fail as a configuration does, with all of `named`.
#[track_caller]
fn refused(build: impl FnOnce(Pool) -> Pool, named: &[&str]) -> Output {
    let tmp = Tmp::new();
    tmp.write("model.py", MODEL);
    let started = Daemon::builder().pool("default", |new| build(pool(new, &tmp))).try_start();
    let output = match started {
        Ok(daemon) => panic!("it started:\n{}", daemon.log()),
        Err(output) => output.expect_code(8),
    };
    for text in named {
        assert!(output.stderr.contains(text), "{text:?} is not in: {}", output.stderr);
    }
    output
}

#[test]
fn every_worker_is_warmed_up_once_and_in_order_on_each_interpreter() {
    let pythons = Python::supported();
    let tmp = Tmp::new();
    tmp.write("model.py", MODEL);
    let mut builder = Daemon::builder();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder.pool(&format!("p{index}"), |new| {
            let new = pool(new, &tmp).python(python).workers(2).preload(&["model"]);
            new.key("initializer", "model:connect")
                .key("initargs", vec!["größe".into(), 1.into(), vec![2.into()].into()])
                .key("warm", vec!["model:load".into(), "model:later".into()])
        });
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    let loads = || {
        let ledger = std::fs::read_to_string(tmp.join("ledger")).expect("it was written");
        let mut pids: Vec<u32> = ledger.lines().map(|line| line.parse().expect("pid")).collect();
        pids.sort_unstable();
        pids
    };
    let mut client = daemon.raw();
    for (index, python) in pythons.iter().enumerate() {
        let name = format!("p{index}");
        for _ in 0..2 {
            let answer = client.call(&name, "model:report", "[]").value();
            let pid = answer[0].as_u64().expect("a process id");
            let loaded = format!("loaded by {pid}");
            let args = json!(["größe", 1, [2]]);
            let seen = json!(["imported as model", args, loaded, "later"]);
            assert_eq!(seen, answer[1], "{python}");
        }
    }
    drop(client);
    let workers = || {
        let names = (0..pythons.len()).map(|index| format!("p{index}"));
        let mut pids: Vec<u32> = names.flat_map(|name| daemon.worker_pids(&name)).collect();
        pids.sort_unstable();
        pids
    };
    assert_eq!(workers(), loads(), "each worker once");

    let victim = daemon.worker_pids("p0")[0];
    kill(victim);
    wait_for("the victim is gone", 5 * SECOND, || !daemon.worker_pids("p0").contains(&victim));
    daemon.wait_ready();
    let mut all = workers();
    all.push(victim);
    all.sort_unstable();
    assert_eq!(all, loads(), "its successor as well, and no other again");
    oracle.judge(daemon);
}

#[test]
fn f149_what_fails_on_the_way_is_the_failure_of_the_start_with_its_traceback() {
    let with_name =
        |pool: Pool| pool.key("initializer", "model:fail").key("initargs", vec!["big".into()]);
    let named = [
        "default",
        "`initializer` called model:fail, which raised",
        "model.py\", line 20, in fail",
        "FileNotFoundError: no model 'big'",
    ];
    let output = refused(with_name, &named);
    assert!(!output.stderr.contains("_warmup.py"), "{}", output.stderr);
    let named = ["`warm` called model:fail", "missing 1 required positional argument: 'name'"];
    refused(|pool| pool.key("warm", vec!["model:fail".into()]), &named);
    let named = ["module 'model' has no attribute 'laod' (did you mean 'load'?)"];
    refused(|pool| pool.key("warm", vec!["model:laod".into()]), &named);
    let named = ["no module named 'nodel'"];
    refused(|pool| pool.key("initializer", "nodel:load"), &named);
}

#[test]
fn f021_a_warm_up_that_hangs_is_ended_by_the_start_timeout_with_its_stack() {
    let hangs = |pool: Pool| pool.key("warm", vec!["model:hang".into()]);
    let output =
        refused(|pool| hangs(pool).limit("start_timeout", "5s"), &["start_timeout", "in hang"]);
    assert!(output.took < 20 * SECOND, "{:?}", output.took);
}

#[test]
fn f006_a_crash_on_the_way_is_told_with_its_stack() {
    let crashes = |pool: Pool| pool.key("warm", vec!["model:crash".into()]);
    refused(crashes, &["SIGSEGV", "Segmentation fault", "in crash"]);
}
