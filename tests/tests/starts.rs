//! How pools start: one that cannot does not stop the others, says why wherever it is asked, idles
//! between attempts, and heals.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use clutch_protocol::failure::{Cause, Failure, Reason};
use clutch_protocol::status::PoolStatus;
use clutch_tests::config::Pool;
use clutch_tests::{Clutch, Daemon, Program, Python, SECOND, wait_until};

/// The shortest time between two attempts of a broken pool: `restart.backoff_max` is 5 s, and up to
/// half of it is diced away.
const ATTEMPTS_APART: Duration = Duration::from_millis(2_500);

/// A daemon with a good pool, and one that is broken.
fn with_broken(broken: impl FnOnce(Pool) -> Pool) -> Daemon {
    Daemon::builder().pool("bad", broken).pool("good", |pool| pool.workers(2)).start_partly()
}

fn pool(daemon: &Daemon, name: &str) -> PoolStatus {
    let status = daemon.status();
    status.pools.into_iter().find(|pool| pool.name == name).expect("it is configured")
}

/// A call to the broken pool; it is refused at once.
#[track_caller]
fn refused(daemon: &Daemon) -> Failure {
    let begun = Instant::now();
    let failure = daemon.raw().call("bad", "math:sqrt", "[9]").failure();
    assert!(begun.elapsed() < SECOND, "at once: {:?}", begun.elapsed());
    assert!(!failure.started, "{failure}");
    failure
}

#[track_caller]
fn assert_good(daemon: &Daemon) {
    assert_eq!(3.0, daemon.raw().call("good", "math:sqrt", "[9]").value());
    assert_eq!("running", pool(daemon, "good").state);
    assert_eq!(2, daemon.counter("good", "launches"), "it did not notice");
}

/// Everything that is said of the broken pool names `parts`, wherever it is asked for.
#[track_caller]
fn assert_broken(daemon: &Daemon, parts: &[&str]) {
    let bad = pool(daemon, "bad");
    assert_eq!("crash_loop", bad.state, "{}", bad.reason);
    daemon.wait_for_log("pool bad is broken", 10 * SECOND);
    let log = daemon.log();
    let failure = refused(daemon);
    assert!(matches!(failure.reason, Reason::CrashLoop { .. }), "{failure}");
    let output = daemon.cli(["call", "--pool=bad", "math:sqrt", "9"]).expect_code(7);
    let text = daemon.cli(["status"]).expect_code(0).stdout;
    let certificate = bad.last_death.as_ref().expect("something is known").to_string();
    for part in parts {
        assert!(certificate.contains(part), "{part:?} in the certificate: {certificate}");
        assert!(failure.to_string().contains(part), "{part:?} in the failure: {failure}");
        assert!(output.stderr.contains(part), "{part:?} in: {}", output.stderr);
        assert!(log.contains(part), "{part:?} in the log: {log}");
    }
    // A status has the line that says it.
    let last = parts.last().expect("something is looked for");
    assert!(bad.reason.contains(last), "{last:?} in {}", bad.reason);
    assert!(bad.reason.contains("clutch pool reset bad"), "{}", bad.reason);
    assert!(text.contains("crash_loop") && text.contains(last), "{text}");
}

/// However long it takes until `more` attempts have been made, they were far enough apart.
#[track_caller]
fn assert_idles(daemon: &Daemon, more: u64) {
    let (begun, before) = (Instant::now(), daemon.counter("bad", "launches"));
    let attempts = wait_until("it is tried now and then", 60 * SECOND, || {
        let attempts = daemon.counter("bad", "launches") - before;
        if attempts >= more { Ok(attempts) } else { Err(attempts) }
    });
    // The first one may have been due the moment this began.
    let at_most = begun.elapsed().as_millis() / ATTEMPTS_APART.as_millis() + 1;
    assert!(u128::from(attempts) <= at_most, "{attempts} attempts in {:?}", begun.elapsed());
}

#[track_caller]
fn assert_heals(daemon: &Daemon) {
    daemon.cli(["pool", "reset", "bad"]).expect_code(0);
    daemon.wait_ready();
    assert_eq!(3.0, daemon.raw().call("bad", "math:sqrt", "[9]").value());
    assert_eq!("running", pool(daemon, "bad").state);
}

/// Makes `path` the interpreter that it should have been: in one step, since it is looked for.
fn install(path: &Path) {
    let new = path.with_extension("new");
    let python = Python::any().path.display();
    fs::write(&new, format!("#!/bin/sh\nexec {python} \"$@\"\n")).expect("it can be written");
    fs::set_permissions(&new, Permissions::from_mode(0o755)).expect("it is ours");
    if path.is_dir() {
        fs::remove_dir(path).expect("it is empty");
    }
    fs::rename(&new, path).expect("both are in one directory");
}

#[test]
fn f149_what_is_no_interpreter_breaks_its_own_pool_only_and_heals_when_it_is_one() {
    let tmp = clutch_tests::Tmp::new();
    let missing = tmp.join("missing-python");
    let dir = tmp.dir("a-directory");
    let plain = tmp.write("not-executable", "#!/bin/sh\n");
    let dead = tmp.program("bad-magic", "\x7fELF is not enough");
    let deaf = tmp.program("deaf", "#!/bin/sh\nexec sleep 1000\n");
    let cat = tmp.program("cat", fs::read("/bin/cat").expect("there is a cat"));
    let yes = tmp.program("true", fs::read("/bin/true").expect("there is a true"));
    for path in [&missing, &dir, &plain, &dead, &deaf, &cat, &yes] {
        let daemon = with_broken(|pool| pool.key("python", &**path).limit("start_timeout", "3s"));
        let name = path.to_str().expect("test paths are text");
        assert_broken(&daemon, &[name]);
        assert_good(&daemon);
        install(path);
        assert_heals(&daemon);
        assert_good(&daemon);
    }
}

#[test]
fn f149_a_pool_without_interpreter_idles_between_attempts_and_heals_by_itself() {
    let tmp = clutch_tests::Tmp::new();
    let missing = tmp.join("missing-python");
    let daemon = with_broken(|pool| pool.workers(4).key("python", &*missing));
    assert_broken(&daemon, &[missing.to_str().expect("test paths are text")]);
    assert_idles(&daemon, 2);
    assert_broken(&daemon, &[missing.to_str().expect("test paths are text")]);
    install(&missing);
    daemon.wait_ready();
    assert_eq!(3.0, daemon.raw().call("bad", "math:sqrt", "[9]").value());
    daemon.wait_for_log("its interpreter can be used now", SECOND);
    assert_good(&daemon);
}

#[test]
fn f149_a_virtual_environment_that_is_gone_breaks_its_own_pool_only() {
    let tmp = clutch_tests::Tmp::new();
    let venv = tmp.join("venv");
    let text = format!(
        "[pools.bad]\nvenv = {:?}\nworkers = 1\n[pools.good]\npython = {:?}\nworkers = 2\n",
        venv.display().to_string(),
        Python::any().path.display().to_string(),
    );
    let daemon = Daemon::builder().config_text(text).start_partly();
    assert_broken(&daemon, &["there is no virtual environment at", venv.to_str().unwrap()]);
    assert_good(&daemon);
    fs::create_dir_all(venv.join("bin")).expect("it can be made");
    std::os::unix::fs::symlink(&Python::any().path, venv.join("bin/python")).expect("it can");
    assert_heals(&daemon);
    assert_good(&daemon);
}

#[test]
fn f149_a_pool_whose_import_fails_says_so_with_a_traceback_and_the_others_serve() {
    let tmp = clutch_tests::Tmp::new();
    tmp.write("code/broken_import.py", "import no_such_module_anywhere\n");
    let script = tmp.write("main.py", "raise RuntimeError('not today')\n");
    let dir = tmp.join("code");
    let daemon = with_broken(|pool| pool.path(&dir).preload(&["broken_import"]));
    let parts =
        ["broken_import.py", "Traceback", "ModuleNotFoundError: No module named 'no_such_mod"];
    assert_broken(&daemon, &parts);
    assert_good(&daemon);
    assert_idles(&daemon, 2);
    tmp.write("code/broken_import.py", "");
    assert_heals(&daemon);
    drop(daemon);

    let daemon = with_broken(|pool| pool.workers(3).main(&script));
    assert_broken(&daemon, &["main.py", "line 1", "RuntimeError: not today"]);
    assert_good(&daemon);
    tmp.write("main.py", "");
    assert_heals(&daemon);
}

#[test]
fn a_pool_that_dies_at_every_call_does_not_touch_the_others() {
    let daemon = with_broken(|pool| pool.workers(2));
    daemon.wait_ready();
    for _ in 0..40 {
        let failure = daemon.raw().call("bad", "os:abort", "[]").failure();
        match failure.reason {
            Reason::WorkerDied(certificate) => assert_eq!(Cause::Signalled, certificate.cause),
            Reason::CrashLoop { .. } => break,
            _ => panic!("{failure}"),
        }
    }
    let bad = pool(&daemon, "bad");
    assert!(bad.state == "crash_loop" && bad.reason.contains("SIGABRT"), "{bad:?}");
    assert!(refused(&daemon).to_string().contains("SIGABRT"));
    assert_good(&daemon);
    assert_heals(&daemon);
    assert_good(&daemon);
}

#[test]
fn a_broken_pool_hinders_no_reload_of_others_and_is_replaced_by_one_that_changes_it() {
    let config = |bad: &str, good: u32| {
        let python = Python::any().path.display().to_string();
        format!(
            "[pools.bad]\npython = {bad:?}\nworkers = 1\n\
             [pools.good]\npython = {python:?}\nworkers = {good}\n"
        )
    };
    let daemon = Daemon::builder().config_text(config("/no/python", 2)).start_partly();
    assert_broken(&daemon, &["/no/python"]);
    let reload = |text: String| {
        daemon.tmp().write("clutch.toml", text);
        daemon.cli(["reload"])
    };
    let output = reload(config("/no/python", 1)).expect_code(0);
    assert_eq!("pool bad: unchanged\npool good: limits\n", output.stdout);
    // What is new has to work.
    let output = reload(config("/neither/python", 1)).expect_code(8);
    assert!(output.stderr.contains("/neither/python"), "{}", output.stderr);
    assert_broken(&daemon, &["/no/python"]);
    let output = reload(config("/bin/true", 1)).expect_code(8);
    assert!(output.stderr.contains("/bin/true"), "{}", output.stderr);

    let python = Python::any().path.display().to_string();
    reload(config(&python, 1)).expect_code(0);
    daemon.wait_ready();
    assert_eq!(3.0, daemon.raw().call("bad", "math:sqrt", "[9]").value());
}

#[test]
fn a_daemon_stops_at_once_while_it_looks_for_the_interpreter_of_a_broken_pool() {
    let tmp = clutch_tests::Tmp::new();
    let deaf = tmp.program("deaf", "#!/bin/sh\nexec sleep 1000\n");
    let mut daemon = with_broken(|pool| pool.key("python", &*deaf).limit("start_timeout", "3s"));
    assert_broken(&daemon, &["deaf"]);
    daemon.cli(["pool", "reset", "bad"]).expect_code(0);
    wait_until("it is being looked for", 10 * SECOND, || {
        let states: Vec<_> = pool(&daemon, "bad").workers.iter().map(|w| w.state.clone()).collect();
        if states.iter().any(|state| state == "starting") { Ok(()) } else { Err(states) }
    });
    let begun = Instant::now();
    assert_eq!(0, daemon.stop(10 * SECOND));
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
}

#[test]
fn a_reload_starts_a_worker_of_a_pool_that_has_none_to_see_whether_it_can() {
    let config = |preload: &str| {
        let python = Python::any().path.display().to_string();
        format!(
            "[pools.default]\npython = {python:?}\nworkers = {{ min = 0, max = 1 }}\n\
             scale = {{ down_after = \"1s\" }}\npreload = [{preload:?}]\n"
        )
    };
    let daemon = Daemon::builder().config_text(config("json")).start_partly();
    let wait_empty = || {
        wait_until("nobody needs a worker", 20 * SECOND, || {
            let workers = pool(&daemon, "default").workers;
            if workers.is_empty() { Ok(()) } else { Err(workers) }
        });
    };
    let reload = |text: String| {
        daemon.tmp().write("clutch.toml", text);
        daemon.cli(["reload"])
    };
    wait_empty();
    let output = reload(config("no_such_module_anywhere")).expect_code(8);
    assert!(output.stderr.contains("no_such_module_anywhere"), "{}", output.stderr);
    assert_eq!(3.0, daemon.raw().call("default", "math:sqrt", "[9]").value());
    wait_empty();
    let before = daemon.counter("default", "launches");
    reload(config("string")).expect_code(0);
    assert_eq!(before + 1, daemon.counter("default", "launches"), "one was started to see");
}

#[test]
fn f021_an_import_that_hangs_is_killed_with_its_stack_its_limit_and_what_it_had_imported() {
    let builder = Daemon::builder();
    let tmp = clutch_tests::Tmp::new();
    tmp.write("code/slow_leaf.py", "import time\ntime.sleep(0.7)\n");
    tmp.write(
        "code/hangs.py",
        "import slow_leaf, time\n\ndef wait():\n    time.sleep(1000)\nwait()\n",
    );
    let dir = tmp.join("code");
    let hangs = |pool: Pool| pool.path(&dir).preload(&["hangs"]).limit("start_timeout", "3s");
    let daemon = builder.pool("bad", hangs).pool("good", |pool| pool.workers(2)).start_partly();
    let parts = ["limits.start_timeout", "not ready within 3s", "slow_leaf 7"];
    assert_broken(&daemon, &parts);
    assert_good(&daemon);
    let death = pool(&daemon, "bad").last_death.expect("it was killed");
    assert_eq!(Cause::StartTimedOut, death.cause);
    assert!(death.stack.contains("hangs.py\", line 4 in wait"), "{}", death.stack);
    assert!(refused(&daemon).to_string().contains("slow_leaf"));
    drop(daemon);

    // Alone, it is what the daemon ends with.
    let output = Daemon::builder().pool("bad", hangs).try_start().expect_err("it cannot start");
    assert_eq!(8, output.code, "{}", output.stderr);
    for part in parts.iter().chain(&["hangs.py\", line 4 in wait"]) {
        assert!(output.stderr.contains(part), "{part:?} in: {}", output.stderr);
    }
}

#[test]
fn config_check_tries_what_can_be_tried_without_a_worker_f149() {
    let tmp = clutch_tests::Tmp::new();
    let python = Python::any().path.display().to_string();
    let good = format!("[pools.good]\npython = {python:?}\nprocess = {{ cpus = [0] }}\n");
    let check = |text: &str| {
        let file = tmp.write("clutch.toml", text);
        Clutch::command([OsStr::new("config"), OsStr::new("check"), file.as_os_str()])
    };
    check(&good).run().expect_code(0);
    let venv = tmp.join("no-venv").display().to_string();
    let bad = format!(
        "{good}[pools.gone]\npython = \"/no/python\"\n[pools.cat]\npython = \"/bin/true\"\n\
         [pools.env]\nvenv = {venv:?}\n\
         [pools.cpu]\npython = {python:?}\nprocess = {{ cpus = [0, 1023] }}\n"
    );
    let output = check(&bad).run().expect_code(8);
    for part in [
        "clutch.toml cannot work here",
        "pools.gone.python: there is no interpreter at /no/python",
        "pools.cat.python: /bin/true is not a working Python",
        "pools.env.venv: there is no virtual environment at",
        "pools.cpu.process.cpus: this machine has no processor 1023",
    ] {
        assert!(output.stderr.contains(part), "{part:?} in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("pools.good"), "{}", output.stderr);
    assert_eq!("", output.stdout);
}

#[test]
fn what_only_root_may_do_is_found_and_named_where_it_is_asked_for() {
    if !nix::unistd::geteuid().is_root() {
        clutch_tests::skip!("needs root to become somebody who is not");
    }
    let tmp = clutch_tests::Tmp::new();
    let text = "[pools.default]\npython = \"/usr/bin/python3\"\n\
                process = { user = \"root\", nice = -5, oom_score_adj = -900 }\n";
    let file = tmp.write("clutch.toml", text);
    fs::set_permissions(tmp.path(), Permissions::from_mode(0o755)).expect("it is ours");
    let binary = tmp.join("clutch");
    fs::copy(Clutch::binary(), &binary).expect("it can be copied");
    let args = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(OsStr::new);
    let output = Program::new("setpriv")
        .args(args)
        .args([binary.as_os_str(), OsStr::new("config"), OsStr::new("check"), file.as_os_str()])
        .run();
    if output.stderr.contains("setpriv") {
        clutch_tests::skip!("setpriv does not work here: {}", output.stderr);
    }
    assert_eq!(8, output.code, "{}", output.stderr);
    for part in [
        "pools.default.process.user: workers are to be the user 'root' (uid 0)",
        "pools.default.process.nice: only root may make a process less nice",
        "pools.default.process.oom_score_adj: only root may",
    ] {
        assert!(output.stderr.contains(part), "{part:?} in: {}", output.stderr);
    }
}

#[test]
fn a_slow_start_says_which_imports_took_how_long() {
    let tmp = clutch_tests::Tmp::new();
    tmp.write("code/heavy/__init__.py", "from heavy import part\n");
    tmp.write("code/heavy/part.py", "import time\ntime.sleep(1.2)\n");
    tmp.write("code/app.py", "import heavy, time\ntime.sleep(0.4)\n");
    let dir = tmp.join("code");
    let daemon = Daemon::builder()
        .pool("slow", |pool| pool.path(&dir).preload(&["app"]).limit("start_timeout", "3s"))
        .pool("quick", |pool| pool.preload(&["json"]))
        .start();
    daemon.wait_for_log("its start is slow", 10 * SECOND);
    let log = daemon.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("its start is slow")).collect();
    let [line] = lines[..] else { panic!("one worker is slow: {lines:?}") };
    assert!(line.contains("pool=\"slow\"") && line.contains("slowest=\"app 1"), "{line}");
    let imports = &pool(&daemon, "slow").workers[0].imports;
    let [app, heavy, ..] = &imports[..] else { panic!("{imports:?}") };
    assert_eq!(("app", "heavy"), (&*app.module, &*heavy.module));
    assert!(app.total_ms >= 1600 && app.own_ms >= 400 && app.own_ms < 1200, "{app:?}");
    assert!(heavy.total_ms >= 1200 && heavy.own_ms >= 1200, "{heavy:?}");
    assert!(pool(&daemon, "quick").workers[0].imports.is_empty());
}
