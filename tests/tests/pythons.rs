//! Many pythons side by side, the environment that their workers get, and how they share
//! processors and devices.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clutch_protocol::status::{Interpreter, PoolStatus};
use clutch_tests::builder::private_environment;
use clutch_tests::daemon::wait_dead;
use clutch_tests::raw::PATIENCE;
use clutch_tests::{
    Clutch, Daemon, Output, Program, Python, SECOND, Tmp, kill, python, say_skipped, skip, wait_for,
};
use serde_json::{Value, json};

/// Where pyenv is, for a daemon whose home is a directory of the test's.
fn pyenv_root() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv");
    std::env::var_os("PYENV_ROOT").map_or_else(home, PathBuf::from)
}

fn facts(daemon: &Daemon, pool: &str) -> Value {
    daemon.raw().call(pool, "job_process:facts", "[]").value()
}

fn pool(daemon: &Daemon, name: &str) -> PoolStatus {
    let status = daemon.status();
    status.pools.into_iter().find(|pool| pool.name == name).expect("the pool is there")
}

/// A variable of the process itself, not of Python's idea of it.
fn variable(pid: u32, name: &str) -> Option<String> {
    let start = format!("{name}=");
    let environment = clutch_tests::process::environment(pid);
    environment.iter().find_map(|entry| entry.strip_prefix(&start)).map(str::to_owned)
}

/// A virtual environment that notes each start of its python in `starts`; none if it cannot be
/// made.
fn noting_venv(tmp: &Tmp) -> Option<(PathBuf, PathBuf)> {
    let venv = tmp.join("venv");
    let python = Python::any();
    let made = Program::new(&python.path).args(["-m", "venv", "--without-pip"]).args([&venv]).run();
    if made.code != 0 {
        say_skipped(module_path!(), &format!("{python} makes no environment: {}", made.stderr));
        return None;
    }
    let starts = tmp.join("starts");
    let (major, minor, _) = python.version;
    let site = venv.join(format!("lib/python{major}.{minor}/site-packages/noting.pth"));
    let code = format!("import os; open({starts:?}, 'a').write('%d\\n' % os.getpid())\n");
    fs::write(site, code).unwrap();
    Some((venv, starts))
}

/// How many processes have noted that they started; some versions read such a file twice.
fn count_starts(file: &Path) -> usize {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().collect::<BTreeSet<_>>().len()
}

#[test]
fn pools_of_every_version_answer_side_by_side_in_one_daemon() {
    let versions = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"];
    let (there, missing): (Vec<_>, Vec<_>) =
        versions.into_iter().partition(|version| python(version).is_some());
    if !missing.is_empty() {
        say_skipped(module_path!(), &format!("not on this machine: {}", missing.join(", ")));
    }
    let name = |version: &str| format!("py{}", version.replace('.', ""));
    let mut builder = Daemon::builder().env("PYENV_ROOT", pyenv_root());
    for version in &there {
        builder = builder.pool(&name(version), |pool| pool.key("python", *version));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for version in &there {
        let facts = facts(&daemon, &name(version));
        let found = facts["version"].as_str().unwrap();
        assert!(found.starts_with(&format!("{version}.")), "{version}: {found}");
        let pool = pool(&daemon, &name(version));
        let said = pool.interpreter.expect("it was asked");
        assert_eq!((found, "cpython"), (&*said.version, &*said.implementation));
        assert_eq!(facts["prefix"], json!(said.prefix));
        assert_eq!(facts["executable"], json!(said.executable));
        assert!(said.abi.starts_with(&format!("cpython-{}", version.replace('.', ""))), "{said:?}");
        assert_eq!(std::env::consts::ARCH, said.architecture);
        assert!(!said.free_threaded, "{said:?}");
        assert_eq!(pool.workers[0].python, said.version);
    }
    oracle.judge(daemon);
}

#[test]
fn a_version_that_is_nowhere_is_refused_with_what_there_is() {
    let refused = Daemon::builder()
        .env("PYENV_ROOT", pyenv_root())
        .pool("default", |pool| pool.key("python", "3.99"))
        .try_start();
    let Err(Output { code, stderr, .. }) = refused else { panic!("it started") };
    assert_eq!(8, code, "{stderr}");
    let (major, minor, _) = Python::any().version;
    for part in ["there is no Python 3.99", "looked on PATH (", &format!("{major}.{minor}")] {
        assert!(stderr.contains(part), "{part:?} in {stderr}");
    }
}

#[test]
fn f150_an_old_version_is_refused_by_the_daemon_before_a_worker_is_started() {
    let tmp = Tmp::new();
    let Some(old) = Python::installed().iter().find(|python| python.version < (3, 8, 0)) else {
        skip!("no old Python on this machine");
    };
    let config = format!("[pools.default]\npython = {:?}\nworkers = 1\n", old.path);
    tmp.write("clutch.toml", config);
    let begun = Instant::now();
    let output = Clutch::command(["serve"]).envs(private_environment(&tmp)).dir(tmp.path()).run();
    let (major, minor, micro) = old.version;
    let text = format!("unsupported Python {major}.{minor}.{micro}");
    output.expect_code(8).expect_stderr(&text);
    assert!(begun.elapsed() < 10 * SECOND, "{:?}", begun.elapsed());
}

#[test]
fn a_local_call_starts_one_python_and_a_daemon_asks_each_interpreter_once() {
    let tmp = Tmp::new();
    let Some((venv, starts)) = noting_venv(&tmp) else { return };
    let python = venv.join("bin/python");
    let python = python.to_str().unwrap();
    let words = ["call", "--local", "--python", python, "math:sqrt", "4"];
    Clutch::command(words).envs(private_environment(&tmp)).run().expect_code(0);
    assert_eq!(1, count_starts(&starts), "a local call asks nobody");
    // One daemon after the other, with the same state directory.
    for expected in [2, 1] {
        fs::remove_file(&starts).unwrap();
        let mut builder = Daemon::builder();
        for (name, value) in private_environment(&tmp) {
            if name == "XDG_STATE_HOME" {
                builder = builder.env(name, value);
            }
        }
        let config = format!("[pools.default]\nvenv = {:?}\nworkers = 1\n", venv.to_str().unwrap());
        let daemon = builder.config_text(config).start();
        assert_eq!(expected, count_starts(&starts), "the worker, and a question if it is new");
        let said: Interpreter = pool(&daemon, "default").interpreter.expect("it is known");
        assert_eq!(("venv", None), (&*said.kind, said.pip));
        assert_eq!(venv.to_str().unwrap(), said.prefix);
        assert_ne!(said.base_prefix, said.prefix);
    }
}

/// Variables of the daemon that no worker may see, with the values that the test looks for.
const SECRETS: [(&str, &str); 20] = [
    ("PYTHONHOME", "/nonexistent/secret"),
    ("PYTHONPATH", "/nonexistent/secret"),
    ("PYTHONSTARTUP", "/nonexistent/secret"),
    ("PYTHONEXECUTABLE", "/nonexistent/secret"),
    ("__PYVENV_LAUNCHER__", "/nonexistent/secret"),
    ("LD_PRELOAD", ""),
    ("VIRTUAL_ENV", "/nonexistent/secret"),
    ("VIRTUAL_ENV_PROMPT", "secret"),
    ("CONDA_PREFIX", "/nonexistent/secret"),
    ("CONDA_DEFAULT_ENV", "secret"),
    ("CONDA_SHLVL", "secret"),
    ("LISTEN_FDNAMES", "secret"),
    ("CREDENTIALS_DIRECTORY", "/nonexistent/secret"),
    ("INVOCATION_ID", "secret"),
    ("JOURNAL_STREAM", "secret"),
    ("SYSTEMD_EXEC_PID", "secret"),
    ("MEMORY_PRESSURE_WATCH", "secret"),
    ("PYENV_VIRTUAL_ENV", "secret"),
    ("CLUTCH_LOG", "warn"),
    ("CLUTCH_TOKEN", "secret"),
];

#[test]
fn f152_nothing_foreign_or_secret_reaches_a_worker_of_any_version() {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut builder = Daemon::builder()
        .env("PATH", format!("/nonexistent/secret/bin:{path}"))
        .env("CLUTCH_SOCKET", "/nonexistent/secret.sock")
        .env("PLAIN", "yes")
        .env("LC_TIME", "C");
    for (name, value) in SECRETS {
        builder = builder.env(name, value);
    }
    let pythons = Python::supported();
    let name = |python: &Python| format!("v{}", python.version.1);
    for python in &pythons {
        builder = builder.pool(&name(python), |pool| pool.python(python));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for python in &pythons {
        let facts = facts(&daemon, &name(python));
        let environment = facts["environment"].as_object().unwrap();
        for (secret, _) in SECRETS {
            assert!(!environment.contains_key(secret), "{python}: {secret}");
        }
        let leaked = environment.iter().find(|(_, value)| value.to_string().contains("secret"));
        assert_eq!(None, leaked, "{python}");
        assert_eq!((&json!("yes"), &json!("C")), (&environment["PLAIN"], &environment["LC_TIME"]));
        assert_eq!(json!(path), environment["PATH"], "{python}");
        // What is asked from inside goes to the daemon that it came from, and to no other.
        assert_eq!(json!(daemon.socket()), environment["CLUTCH_SOCKET"], "{python}");
    }
    oracle.judge(daemon);
}

#[test]
fn what_is_inherited_is_all_or_little_or_what_is_listed() {
    let list: Vec<_> = ["PATH", "AWS_*", "PYTHONHASHSEED"].map(Into::into).into();
    let daemon = Daemon::builder()
        .pool("minimal", |pool| pool.inherit("minimal"))
        .pool("listed", |pool| pool.inherit(list))
        .pool("all", |pool| {
            let unset: Vec<_> = ["SECRET"].map(Into::into).into();
            pool.table("env", [("unset", unset.into())])
        })
        .env("AWS_REGION", "here")
        .env("SECRET", "yes")
        .env("LC_TIME", "C")
        .env("PYTHONHASHSEED", "7")
        .start();
    let oracle = daemon.oracle();
    let has = |pool: &str, name: &str| variable(daemon.worker_pids(pool)[0], name).is_some();
    let names = ["PATH", "HOME", "LC_TIME", "AWS_REGION", "SECRET", "PYTHONHASHSEED"];
    let found = |pool: &str| names.map(|name| has(pool, name));
    assert_eq!([true, true, true, false, false, false], found("minimal"));
    assert_eq!([true, false, false, true, false, true], found("listed"));
    assert_eq!([true, true, true, true, false, true], found("all"));
    oracle.judge(daemon);
}

#[test]
fn without_path_no_program_of_the_working_directory_is_taken_for_an_interpreter() {
    let tmp = Tmp::new();
    tmp.dir("work");
    let taken = tmp.join("taken");
    tmp.program("work/python3", format!("#!/bin/sh\n: > {}\nexit 1\n", taken.display()));
    let config = "[pools.a]\npython = \"python3\"\ncwd = \"work\"\nenv = { inherit = [] }\n";
    tmp.write("clutch.toml", config);
    Clutch::command(["plan"]).envs(private_environment(&tmp)).dir(tmp.path()).run();
    assert!(!taken.exists(), "where there is no PATH, the system looks in /bin and /usr/bin");
}

#[test]
fn directory_path_arguments_and_flags_are_as_configured_on_every_version() {
    let tmp = Tmp::new();
    for dir in ["one", "two", "work"] {
        tmp.dir(dir);
    }
    let main = tmp.write("app/main.py", "import sys\nARGV = sys.argv\n");
    let mut builder = Daemon::builder();
    let pythons = Python::supported();
    let name = |python: &Python| format!("v{}", python.version.1);
    for python in &pythons {
        let flags: Vec<_> =
            ["-OO", "-X", "utf8", "-W", "error::UserWarning"].map(Into::into).into();
        let args: Vec<_> = ["--a", "b c"].map(Into::into).into();
        builder = builder.pool(&name(python), |pool| {
            pool.python(python)
                .cwd(tmp.join("work"))
                .path(tmp.join("two"))
                .path(tmp.join("one"))
                .main(&main)
                .key("args", args)
                .key("flags", flags)
                .env("PYTHONPATH", "/nonexistent/pythonpath")
        });
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for python in &pythons {
        let facts = facts(&daemon, &name(python));
        assert_eq!(json!(tmp.join("work")), facts["cwd"], "{python}");
        assert_eq!(json!([main, "--a", "b c"]), facts["argv"], "{python}");
        assert_eq!(
            (json!(2), json!({"utf8": true})),
            (facts["optimize"].clone(), facts["options"].clone())
        );
        assert_eq!(json!(["error::UserWarning"]), facts["warnings"], "{python}");
        // The script's directory, `path` as it is written, PYTHONPATH, and then Python's own.
        let workers = clutch_tests::workers_dir();
        let expected = [tmp.join("app"), workers, tmp.join("two"), tmp.join("one")];
        let path: Vec<PathBuf> = serde_json::from_value(facts["path"].clone()).unwrap();
        assert_eq!(expected, path[..4], "{python}");
        assert_eq!(Path::new("/nonexistent/pythonpath"), path[4], "{python}");
        let own = path.iter().position(|entry| entry.ends_with("lib-dynload")).expect("its own");
        assert!(own > 4, "{python}: {path:?}");
    }
    oracle.judge(daemon);
}

#[test]
fn a_venv_is_active_in_its_workers_and_a_foreign_one_is_not() {
    let tmp = Tmp::new();
    let Some((venv, _)) = noting_venv(&tmp) else { return };
    let bin = venv.join("bin").to_str().unwrap().to_owned();
    let venv = venv.to_str().unwrap();
    let python = Python::any().path.to_str().unwrap();
    let config = format!(
        "[pools.named]\nvenv = {venv:?}\nworkers = 1\n\
         [pools.other]\npython = {python:?}\nworkers = 1\n\
         [pools.active]\npython = \"python3\"\nworkers = 1\n"
    );
    let daemon = Daemon::builder()
        .config_text(config)
        .env("VIRTUAL_ENV", venv)
        .env("PATH", format!("{bin}:/usr/bin:/bin"))
        .start();
    let pid = |pool: &str| daemon.worker_pids(pool)[0];
    let has = |pool: &str| {
        let path = variable(pid(pool), "PATH").unwrap_or_default();
        (variable(pid(pool), "VIRTUAL_ENV"), path.split(':').filter(|dir| *dir == bin).count())
    };
    assert_eq!((Some(venv.to_owned()), 1), has("named"));
    assert_eq!((Some(venv.to_owned()), 1), has("active"), "python3 is the active one's own");
    assert_eq!((None, 0), has("other"));
    assert!(variable(pid("named"), "PATH").unwrap().starts_with(&format!("{bin}:")));
    let output = daemon.cli(["call", "--pool", "active", "sysconfig:get_path", "purelib"]);
    assert!(output.expect_code(0).stdout.contains(venv));
}

#[test]
fn a_conda_environment_is_recognised_and_activated() {
    let tmp = Tmp::new();
    let Some((env, _)) = noting_venv(&tmp) else { return };
    // What makes a directory a conda environment is this folder, and no `pyvenv.cfg`.
    fs::create_dir(env.join("conda-meta")).unwrap();
    fs::write(env.join("conda-meta/state"), r#"{"env_vars": {"SCIENCE": "yes"}}"#).unwrap();
    let config = format!("[pools.default]\nvenv = {:?}\nworkers = 1\n", env.to_str().unwrap());
    let daemon = Daemon::builder().config_text(config).start();
    let pid = daemon.worker_pids("default")[0];
    assert_eq!(env.to_str(), variable(pid, "CONDA_PREFIX").as_deref());
    assert_eq!(Some("yes"), variable(pid, "SCIENCE").as_deref());
    assert_eq!(None, variable(pid, "VIRTUAL_ENV"));
    let bin = format!("{}/bin:", env.display());
    assert!(variable(pid, "PATH").unwrap().starts_with(&bin));
    assert_eq!("conda", pool(&daemon, "default").interpreter.expect("it was asked").kind);
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn libraries_are_told_their_share_of_the_processors_unless_somebody_said_otherwise() {
    let many = u32::try_from(processors() * 2).unwrap();
    let daemon = Daemon::builder()
        .pool("many", |pool| pool.workers(many))
        .pool("set", |pool| pool.workers(many).env("OMP_NUM_THREADS", "3"))
        .pool("number", |pool| pool.table("compute", [("threads", 5.into())]))
        .pool("off", |pool| pool.workers(many).table("compute", [("threads", "off".into())]))
        .env("MKL_NUM_THREADS", "4")
        .start();
    let oracle = daemon.oracle();
    let told = |pool: &str| {
        let pid = daemon.worker_pids(pool)[0];
        let names = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"];
        names.map(|name| variable(pid, name).unwrap_or_default())
    };
    assert_eq!(["1", "1", "4"], told("many"));
    assert_eq!(["3", "", "4"], told("set"), "OpenBLAS heeds OMP_NUM_THREADS");
    assert_eq!(["5", "5", "4"], told("number"));
    assert_eq!(["", "", "4"], told("off"));
    let status = |name: &str| pool(&daemon, name).threads;
    assert_eq!([Some(1), Some(5), None], ["many", "number", "off"].map(status));
    let pid = daemon.worker_pids("many")[0];
    for name in
        ["NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"]
    {
        assert_eq!(Some("1"), variable(pid, name).as_deref(), "{name}");
    }
    oracle.judge(daemon);
}

#[test]
fn a_pool_that_is_resized_keeps_its_workers_whatever_their_share_becomes() {
    let config = |workers: u32, threads: &str| {
        let python = Python::any().path.display().to_string();
        format!(
            "[pools.default]\npython = {python:?}\nworkers = {workers}\n\
             compute = {{ threads = {threads} }}\n"
        )
    };
    let daemon = Daemon::builder().config_text(config(1, "\"auto\"")).start();
    let before = daemon.worker_pids("default");
    daemon.tmp().write("clutch.toml", config(8, "\"auto\""));
    daemon.cli(["reload"]).expect_code(0);
    wait_for("there are eight", PATIENCE, || daemon.worker_pids("default").len() == 8);
    assert!(daemon.worker_pids("default").contains(&before[0]), "the one that was there stays");
    daemon.tmp().write("clutch.toml", config(8, "2"));
    daemon.cli(["reload"]).expect_code(0);
    wait_for("all are others", PATIENCE, || {
        let pids = daemon.worker_pids("default");
        pids.len() == 8
            && pids.iter().all(|pid| variable(*pid, "OMP_NUM_THREADS").as_deref() == Some("2"))
    });
}

/// The process id of the worker in each slot.
fn by_slot(daemon: &Daemon) -> Vec<u32> {
    let mut workers = pool(daemon, "default").workers;
    workers.sort_by_key(|worker| worker.id.slot);
    workers.iter().map(|worker| worker.pid).collect()
}

fn cpus_of(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.unwrap_or_default().trim().to_owned()
}

#[test]
fn processors_and_devices_stay_with_their_slot_whoever_is_in_it() {
    let gpus: Vec<_> = ["3", "GPU-5"].map(Into::into).into();
    let compute = [("cpus_per_worker", 1.into()), ("gpus", gpus.into())];
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2).table("compute", compute))
        .env("CUDA_VISIBLE_DEVICES", "0,1,2,3")
        .start();
    let oracle = daemon.oracle();
    let given = |pids: &[u32]| -> Vec<(String, Option<String>, Option<String>)> {
        let of = |pid: &u32| {
            let device = |name| variable(*pid, name);
            (cpus_of(*pid), device("CUDA_VISIBLE_DEVICES"), device("HIP_VISIBLE_DEVICES"))
        };
        pids.iter().map(of).collect()
    };
    let pids = by_slot(&daemon);
    let first = given(&pids);
    let devices: Vec<_> = first.iter().map(|(_, cuda, hip)| (cuda.clone(), hip.clone())).collect();
    let device = |name: &str| (Some(name.to_owned()), Some(name.to_owned()));
    assert_eq!(vec![device("3"), device("GPU-5")], devices);
    let cpus: BTreeSet<_> = first.iter().map(|(cpus, ..)| cpus.clone()).collect();
    assert_eq!(processors().min(2), cpus.len(), "each has its own, as far as there are enough");
    assert!(cpus.iter().all(|cpus| cpus.parse::<u32>().is_ok()), "one each: {cpus:?}");
    // By death.
    kill(pids[1]);
    wait_dead(pids[1], PATIENCE);
    wait_for("there is another", PATIENCE, || {
        let now = by_slot(&daemon);
        now.len() == 2 && !now.contains(&pids[1]) && now[1] != 0
    });
    daemon.wait_ready();
    assert_eq!(first, given(&by_slot(&daemon)));
    // By replacement.
    daemon.cli(["pool", "recycle", "default"]).expect_code(0);
    wait_for("both are others", PATIENCE, || {
        let now = by_slot(&daemon);
        now.len() == 2 && !now.iter().any(|pid| pids.contains(pid) || *pid == 0)
    });
    daemon.wait_ready();
    wait_for("the former ones are gone", PATIENCE, || by_slot(&daemon).len() == 2);
    assert_eq!(first, given(&by_slot(&daemon)));
    oracle.judge(daemon);
}

/// A configuration in a directory of its own, and a command that is run there.
fn ask(config: &str, words: &[&str]) -> Output {
    let tmp = Tmp::new();
    tmp.write("clutch.toml", config);
    let command = Clutch::command(words).envs(private_environment(&tmp)).dir(tmp.path());
    command.env("PYENV_ROOT", pyenv_root()).run()
}

#[test]
fn a_plan_says_what_each_worker_will_get_and_warns() {
    let python = Python::any();
    let path = python.path.display().to_string();
    let cpus = processors();
    let config = format!(
        "[pools.good]\npython = {path:?}\nworkers = {cpus}\n\
         requirements = [\"six\"]\n[pools.more]\npython = {path:?}\nworkers = 3\nspares = 1\n\
         memory = {{ kill_above = \"1GiB\" }}\n\
         compute = {{ threads = 4, cpus_per_worker = 1, gpus = [\"0\", \"1\"] }}\n"
    );
    let text = ask(&config, &["plan"]).expect_code(0);
    let (major, minor, micro) = python.version;
    for part in [
        "pool more: 3 workers and a spare",
        &format!("cpython {major}.{minor}.{micro}"),
        "an environment of it with six",
        "4 for each worker (compute.threads)",
        "memory.kill_above 1GiB",
    ] {
        assert!(text.stdout.contains(part), "{part:?} in {}", text.stdout);
    }
    for part in ["warning: oversubscribed: ", "warning: GPU 0 is shared by 2 workers"] {
        assert!(text.stderr.contains(part), "{part:?} in {}", text.stderr);
    }
    let plan = ask(&config, &["plan", "--json"]).expect_code(0);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    let more = &plan["pools"][1];
    assert_eq!(
        (json!(4), json!("compute.threads")),
        (more["threads"].clone(), more["threads_from"].clone())
    );
    assert_eq!(json!("1"), more["slots"][1]["gpus"]);
    assert_eq!(json!(1), more["slots"][3]["cpus"].as_array().unwrap().len());
    assert_eq!(json!(format!("{major}.{minor}.{micro}")), more["interpreter"]["version"]);
    assert_eq!(json!([]), plan["problems"]);
    assert_eq!((json!("one"), json!(1)), (more["mode"].clone(), more["calls_at_once"].clone()));
    let calm = format!("[pools.good]\npython = {path:?}\nworkers = {cpus}\n");
    let plan = ask(&calm, &["plan"]).expect_code(0);
    assert_eq!("", plan.stderr);
    assert!(plan.stdout.contains("calls    one at a time in each worker"), "{}", plan.stdout);
    for mode in ["threads", "async"] {
        let plan = ask(&format!("{calm}{mode} = 4\n"), &["plan"]).expect_code(0).stdout;
        assert!(plan.contains(&format!("up to 4 at once in each worker ({mode})")), "{plan}");
    }
}

#[test]
fn a_plan_names_the_interpreter_that_a_declaration_asks_for() {
    let Some(python) = python("3.9") else { skip!("there is no CPython 3.9") };
    let tmp = Tmp::new();
    let (major, minor, micro) = python.version;
    let project = "[project]\nname = \"it\"\nversion = \"1\"\nrequires-python = \"==3.9.*\"\n";
    tmp.write("pyproject.toml", project);
    tmp.write("clutch.toml", "[pools.a]\nproject = \".\"\n");
    let command = Clutch::command(["plan"]).envs(private_environment(&tmp)).dir(tmp.path());
    let plan = command.env("PYENV_ROOT", pyenv_root()).run().expect_code(0);
    assert!(plan.stdout.contains(&format!("cpython {major}.{minor}.{micro}")), "{}", plan.stdout);
}

#[test]
fn a_plan_that_cannot_work_ends_with_8_and_says_why() {
    let output = ask("[pools.a]\npython = \"3.99\"\n", &["plan"]).expect_code(8);
    assert!(output.stderr.contains("pool 'a': there is no Python 3.99"), "{}", output.stderr);
    ask("[pools.a]\ncompute = { threads = \"many\" }\n", &["plan"]).expect_code(8);
    let tmp = Tmp::new();
    let alien = tmp.program("python3", "\x7fELF of some other machine").display().to_string();
    let output = ask(&format!("[pools.a]\npython = {alien:?}\n"), &["plan"]).expect_code(8);
    assert!(output.stderr.contains("cannot be executed: Exec format"), "{}", output.stderr);
}

#[test]
fn the_pythons_of_the_machine_are_listed_with_the_pools_that_run_them() {
    let python = Python::any();
    let (major, minor, micro) = python.version;
    let path = python.path.display().to_string();
    let config = format!("[pools.mine]\npython = {path:?}\n[pools.none]\npython = \"3.99\"\n");
    let listed = ask(&config, &["pythons", "--json"]).expect_code(0);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let pythons = listed["pythons"].as_array().unwrap();
    let mine: Vec<_> = pythons.iter().filter(|it| it["pools"] == json!(["mine"])).collect();
    assert_eq!(1, mine.len(), "{listed}");
    let said = &mine[0]["interpreter"];
    assert_eq!(json!(format!("{major}.{minor}.{micro}")), said["version"]);
    assert!(said["abi"].as_str().unwrap().starts_with("cpython-"), "{said}");
    for python in Python::supported() {
        let (major, minor, micro) = python.version;
        let version = json!(format!("{major}.{minor}.{micro}"));
        let found = pythons.iter().any(|it| it["interpreter"]["version"] == version);
        assert!(found, "{version} in {listed}");
    }
    let none = &listed["pools"][1];
    assert_eq!((json!("none"), json!(null)), (none["pool"].clone(), none["executable"].clone()));
    assert!(none["refused"].as_str().unwrap().contains("there is no Python 3.99"), "{none}");
    let text = ask(&config, &["pythons"]).expect_code(0).stdout;
    assert!(text.contains("mine") && text.contains("pool none: there is no Python"), "{text}");
    if let Some(old) = Python::installed().iter().find(|python| python.version < (3, 8, 0)) {
        let (major, minor, micro) = old.version;
        let refused = format!("refused: unsupported Python {major}.{minor}.{micro}");
        assert!(text.contains(&refused), "{refused} in {text}");
    }
}
