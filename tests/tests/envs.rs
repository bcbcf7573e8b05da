//! Environments that are built from a declaration: once, as a whole or not at all, shared, and
//! removed only when nobody uses them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clutch_tests::daemon::wait_dead;
use clutch_tests::ground::{Ground, needs};
use clutch_tests::packages::Slow;
use clutch_tests::{Daemon, Pool, Program, Python, SECOND, Tmp, kill, skip};
use clutch_tests::{command, process, wait_for, wait_until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::getpgid;
use serde_json::Value as Json;

#[track_caller]
fn answer(daemon: &Daemon, pool: &str, function: &str) -> String {
    let output = daemon.cli(["call", "--pool", pool, function]).expect_code(0);
    output.stdout.trim().to_owned()
}

fn builds(daemon: &Daemon) -> usize {
    daemon.log().matches("building an environment").count()
}

#[test]
fn f151_it_is_built_once_shared_by_pools_and_daemons_and_kept_while_it_is_used() {
    let ground = Ground::new();
    let mut daemon = ground
        .daemon()
        .pool("one", needs(&["tiny==1.0"]))
        .pool("same", needs(&[" Tiny == 1.0 "]))
        .pool("two", needs(&["tiny>=2"]))
        .start();
    assert_eq!("\"1.0\"", answer(&daemon, "one", "tiny:version"));
    assert_eq!("\"1.0\"", answer(&daemon, "same", "tiny:version"));
    assert_eq!("\"2.0\"", answer(&daemon, "two", "tiny:version"));
    assert_eq!(2, builds(&daemon), "{}", daemon.log());
    assert!(daemon.log().contains("Successfully installed tiny-1.0"), "{}", daemon.log());
    let prefix = answer(&daemon, "one", "site:getsitepackages");
    assert!(prefix.contains(ground.state().to_str().unwrap()), "{prefix}");
    assert_eq!(0o700, mode(&ground.state().join("clutch/envs")));

    let found = ground.list();
    assert_eq!(2, found.len());
    let of_one = found.iter().find(|env| env["made_of"].as_str().unwrap().contains("1.0"));
    let of_one = of_one.unwrap();
    assert_eq!(serde_json::json!(["one", "same"]), of_one["pools"]);
    assert!(found.iter().all(|env| env["in_use"] == true && env["complete"] == true));
    let kept = ground.env(["gc", "--all"]).expect_code(0);
    assert_eq!(2, kept.stdout.matches("kept, in use").count(), "{}", kept.stdout);
    assert_eq!("\"1.0\"", answer(&daemon, "one", "tiny:version"));
    daemon.stop(20 * SECOND);

    let second = ground.daemon().pool("other", needs(&["tiny==1.0"])).start();
    assert_eq!("\"1.0\"", answer(&second, "other", "tiny:version"));
    assert_eq!(0, builds(&second), "{}", second.log());
    let removed = ground.env(["gc", "--all"]).expect_code(0).stdout;
    assert_eq!((1, 1), (removed.matches(": removed").count(), removed.matches("in use").count()));
    assert_eq!(1, ground.list().len());
    let kept = ground.env(["gc"]).expect_code(0).stdout;
    assert!(kept.contains("0 KiB freed"), "{kept}");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn f151_a_daemon_killed_while_it_builds_leaves_nothing_half_made() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let requirements = [requirement.as_str()];
    let daemon = ground.daemon().pool("default", needs(&requirements)).spawn();
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == 1);
    kill(daemon.pid());
    for pid in slow.begun()[0] {
        wait_dead(pid, 10 * SECOND);
    }
    drop(daemon);
    let left = ground.list();
    assert_eq!(1, left.len());
    assert_eq!(
        (&Json::Bool(false), &Json::Bool(false)),
        (&left[0]["complete"], &left[0]["in_use"])
    );

    slow.open();
    let daemon = ground.daemon().pool("default", needs(&requirements)).start();
    assert_eq!("42", answer(&daemon, "default", "slow:answer"));
    assert_eq!(2, slow.begun().len());
}

#[test]
fn f151_a_builder_that_is_killed_fails_its_pool_and_nothing_else_lasts() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let mut daemon = ground.daemon().pool("default", needs(&[&requirement])).spawn();
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == 1);
    let [builder, child] = slow.begun()[0];
    let group = getpgid(Some(process::pid_of(builder))).expect("it lives");
    killpg(group, Signal::SIGKILL).expect("it is ours");
    assert_eq!(8, daemon.wait_exit(20 * SECOND), "{}", daemon.log());
    wait_dead(child, 5 * SECOND);
    let log = daemon.log();
    assert!(log.contains("pool 'default'") && log.contains("could not be built"), "{log}");
    assert!(ground.list().is_empty(), "{:?}", ground.list());
}

#[test]
fn f151_a_daemon_that_is_asked_to_stop_while_it_builds_stops_at_once() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let mut daemon = ground.daemon().pool("default", needs(&[&requirement])).spawn();
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == 1);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_exit(5 * SECOND);
    for pid in slow.begun()[0] {
        wait_dead(pid, 10 * SECOND);
    }
    assert!(ground.list().is_empty(), "{:?}", ground.list());
}

#[test]
fn f151_ctrl_c_ends_a_build_for_one_command_and_nothing_is_left() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let python = Python::any().path.to_str().unwrap();
    // uv, where there is one, builds it as well; it has no index to ask either way.
    let call =
        ["call", "--local", "--python", python, "--requirements", &requirement, "slow:answer"];
    let program = || {
        let program = clutch_tests::Clutch::command(call);
        ground.offline().into_iter().fold(program, |p, (name, value)| p.env(name, value))
    };
    let mut child = program().spawn(Stdio::null(), Stdio::null(), Stdio::null());
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == 1);
    process::signal(child.id(), Signal::SIGINT);
    let ended = command::wait(&mut child, 15 * SECOND).expect("it ends");
    assert_eq!(130, command::shell_code(ended));
    for pid in slow.begun()[0] {
        wait_dead(pid, 10 * SECOND);
    }
    assert!(ground.list().is_empty());
    slow.open();
    let answered = program().run().expect_code(0);
    assert_eq!("42\n", answered.stdout);
    assert!(answered.stderr.contains("building an environment"), "{}", answered.stderr);
}

#[test]
fn f151_two_daemons_at_once_build_once() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let requirements = [requirement.as_str()];
    let first = ground.daemon().pool("default", needs(&requirements)).spawn();
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == 1);
    let second =
        ground.daemon().pool("default", needs(&requirements)).pool("good", |pool| pool).spawn();
    let waits = second.wait_for_log("waiting for an environment", 60 * SECOND);
    assert!(waits.contains(&format!("process {}", first.pid())), "{waits}");
    let building = wait_until("its status says so", 20 * SECOND, || {
        let pools = second.try_status()?.pools;
        pools[0].building.clone().ok_or(format!("{pools:?}"))
    });
    assert_eq!("waiting", building.phase);
    assert_eq!(format!("process {}", first.pid()), building.line);
    slow.open();
    for daemon in [&first, &second] {
        wait_for("it is ready", 60 * SECOND, || daemon.try_status().is_ok());
        daemon.wait_ready();
        assert_eq!("42", answer(daemon, "default", "slow:answer"));
    }
    assert_eq!((1, 0, 1), (builds(&first), builds(&second), slow.begun().len()));
}

#[test]
fn f151_a_build_that_fails_is_told_in_pips_own_words_and_one_that_hangs_is_killed() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let started = ground
        .daemon()
        .pool("absent", needs(&["tiny==3.0"]))
        .pool("as-absent", needs(&["tiny==3.0"]))
        .pool("hangs", |pool| needs(&[&requirement])(pool).build("timeout", "1s"))
        .try_start();
    let output = started.expect_err("it cannot start");
    assert_eq!(8, output.code, "{}", output.stderr);
    for words in [
        "pool 'absent': ",
        "pool 'as-absent': ",
        "the environment of its requirements = [\"tiny==3.0\"] could not be built",
        "No matching distribution found for tiny==3.0",
        "its environment is the one of pool '",
        "pool 'hangs'",
        "was not built within 1s",
        "build.timeout",
    ] {
        assert!(output.stderr.contains(words), "{words:?} in {}", output.stderr);
    }
    assert!(ground.list().is_empty(), "{:?}", ground.list());
}

#[test]
fn f151_a_file_of_requirements_counts_with_what_it_includes() {
    let ground = Ground::new();
    let tmp = &ground.tmp;
    tmp.write("needs/base.txt", "tiny==1.0\n");
    let file = tmp.write("needs/requirements.txt", "-r base.txt\n# nothing else\n");
    let config = tmp.write(
        "clutch.toml",
        format!(
            "[pools.default]\npython = {:?}\nrequirements = {file:?}\nworkers = 1\n\
             [pools.default.build]\ntool = \"pip\"\n",
            Python::any().path
        ),
    );
    let config = config.to_str().unwrap();
    let early = ground.env(["path", "--config", config]).expect_code(2);
    assert!(early.stderr.contains("clutch env build"), "{}", early.stderr);
    let built = ground.env(["build", "--config", config]).expect_code(0);
    assert!(built.stdout.starts_with("pool default: built: "), "{}", built.stdout);
    assert!(built.stderr.contains("Successfully installed tiny-1.0"), "{}", built.stderr);
    let path = ground.env(["path", "--config", config]).expect_code(0).stdout;
    let python = Path::new(path.trim()).join("bin/python");
    let version = "import tiny; print(tiny.version())";
    assert_eq!("1.0\n", Program::new(&python).args(["-c", version]).run().stdout);
    let again = ground.env(["build", "--config", config]).expect_code(0).stdout;
    assert!(again.starts_with("pool default: was there: "), "{again}");
    tmp.write("needs/base.txt", "tiny==2.0\n");
    let other = ground.env(["build", "--config", config]).expect_code(0).stdout;
    assert!(other.starts_with("pool default: built: ") && !other.contains(path.trim()), "{other}");
    assert_eq!(2, ground.list().len());
    let nobody = ground.env(["build", "--config", config, "--pool", "x"]).expect_code(2);
    assert!(nobody.stderr.contains("there is no pool 'x'"), "{}", nobody.stderr);
}

#[test]
fn f151_a_scripts_own_metadata_is_followed_unless_it_is_to_be_ignored() {
    let ground = Ground::new();
    let text = "# /// script\n# requires-python = '>=3.8'\n# dependencies = ['tiny<2']\n# ///\n\
                def version():\n    import tiny\n    return tiny.version()\n";
    let script = ground.tmp.write("script.py", text);
    let daemon = ground
        .daemon()
        .pool("default", |pool| pool.main(&script).build("tool", "pip"))
        .pool("ignores", |pool| pool.main(&script).key("script_metadata", "ignore"))
        .start();
    assert_eq!("\"1.0\"", answer(&daemon, "default", "__main__:version"));
    let fails = daemon.cli(["call", "--pool", "ignores", "__main__:version"]).expect_code(1);
    assert!(fails.stderr.contains("No module named 'tiny'"), "{}", fails.stderr);

    let picky = ground.tmp.write("picky.py", text.replace(">=3.8", ">=4"));
    let started = ground.daemon().pool("default", |pool| pool.main(&picky)).try_start();
    let output = started.expect_err("there is no such Python");
    assert_eq!(8, output.code);
    for words in ["picky.py", "requires Python >=4", "set `python`"] {
        assert!(output.stderr.contains(words), "{words:?} in {}", output.stderr);
    }
}

#[test]
fn f151_a_reload_builds_what_is_new_and_changes_nothing_when_that_fails() {
    let ground = Ground::new();
    let daemon = ground.daemon().pool("default", needs(&["tiny==1.0"])).start();
    assert_eq!("\"1.0\"", answer(&daemon, "default", "tiny:version"));
    let file = daemon.tmp().join("clutch.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("tiny==1.0", "tiny==3.0")).unwrap();
    let failed = daemon.cli(["reload"]).expect_code(8);
    assert!(failed.stderr.contains("No matching distribution"), "{}", failed.stderr);
    assert_eq!("\"1.0\"", answer(&daemon, "default", "tiny:version"));
    fs::write(&file, text.replace("tiny==1.0", "tiny==2.0")).unwrap();
    let done = daemon.cli(["reload"]).expect_code(0);
    assert!(done.stdout.contains("pool default: replaced 1 worker"), "{}", done.stdout);
    assert_eq!("\"2.0\"", answer(&daemon, "default", "tiny:version"));
}

#[test]
fn f162_workers_of_another_user_can_read_their_environment_and_not_change_it() {
    if !nix::unistd::geteuid().is_root() {
        skip!("only root can start workers of another user");
    }
    let system = Path::new("/usr/bin/python3");
    if !Program::new(system).args(["-c", "import venv, ensurepip"]).run().stderr.is_empty() {
        skip!("there is no {} with venv that everybody may run", system.display());
    }
    let ground = Ground::new();
    fs::set_permissions(ground.tmp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(ground.state()).unwrap();
    fs::set_permissions(ground.state(), fs::Permissions::from_mode(0o755)).unwrap();
    let module = "import os, tiny, pathlib\ndef look():\n    at = pathlib.Path(tiny.__file__)\n    \
                  return [tiny.version(), os.getuid(), os.access(at, os.W_OK), str(at)]\n";
    let public = ground.tmp.join("public");
    fs::create_dir(&public).unwrap();
    fs::set_permissions(&public, fs::Permissions::from_mode(0o755)).unwrap();
    ground.tmp.write("public/looks.py", module);
    let daemon = ground
        .daemon()
        .through(&["sh", "-c", "umask 077; exec \"$0\" \"$@\""])
        .pool("default", |pool| {
            let pool = pool.key("python", system).process("user", "65534");
            needs(&["tiny==1.0"])(pool).path(&public).cwd("/")
        })
        .start();
    let looked = answer(&daemon, "default", "looks:look");
    assert!(looked.starts_with("[\"1.0\",65534,false,"), "{looked}");
    assert!(looked.contains("clutch-users/envs"), "{looked}");
    let found = ground.list();
    assert_eq!((1, &Json::Bool(true)), (found.len(), &found[0]["in_use"]));
}

/// uv on `PATH` or in `CLUTCH_TEST_UV`.
fn uv() -> Option<PathBuf> {
    let named = std::env::var_os("CLUTCH_TEST_UV").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path).map(|dir| dir.join("uv"));
    named.or_else(|| on_path.find(|uv| uv.is_file()))
}

#[test]
fn f151_uv_builds_where_it_is_and_follows_locks() {
    let Some(uv) = uv() else { skip!("there is no uv on PATH or in CLUTCH_TEST_UV") };
    let ground = Ground::new();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", uv.parent().expect("it is in a directory").display());
    let wheels = ground.tmp.join("wheels");
    let requires = "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.8'\n\
                    dependencies = ['tiny']\n";
    let links = format!("[tool.uv]\nfind-links = [{:?}]\nno-index = true\n", wheels.display());
    let project = ground.tmp.write("project/pyproject.toml", format!("{requires}{links}"));
    ground
        .tmp
        .write("pinned/pyproject.toml", format!("{}{links}", requires.replace("tiny", "tiny<2")));
    // A lock that says 1.0 for a project that takes 2.0 as well.
    let offline = ground.offline().into_iter().filter(|(name, _)| *name != "UV_NO_CONFIG");
    let lock = Program::new(&uv)
        .args(["lock", "--quiet", "--upgrade-package", "tiny==1.0", "--python"])
        .args([&Python::any().path])
        .dir(ground.tmp.join("project"));
    let lock = offline.fold(lock, |lock, (name, value)| lock.env(name, value));
    lock.run().expect_code(0);
    let daemon = ground
        .daemon()
        .env("PATH", path)
        .pool("list", |pool| pool.key("requirements", &["tiny>=2"][..]).build("tool", "uv"))
        .pool("lock", |pool| pool.key("project", project.as_path()))
        .pool("pinned", |pool| pool.key("project", ground.tmp.join("pinned").as_path()))
        .start();
    assert!(daemon.log().contains("tool=\"uv\""), "{}", daemon.log());
    assert_eq!("\"2.0\"", answer(&daemon, "list", "tiny:version"));
    assert_eq!("\"1.0\"", answer(&daemon, "lock", "tiny:version"));
    assert_eq!("\"1.0\"", answer(&daemon, "pinned", "tiny:version"));
}

#[test]
fn f151_a_daemon_killed_while_uv_builds_leaves_nothing_half_made() {
    let Some(uv) = uv() else { skip!("there is no uv on PATH or in CLUTCH_TEST_UV") };
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let requirements = [requirement.as_str()];
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", uv.parent().expect("it is in a directory").display());
    let daemon = || {
        let daemon = ground.daemon().env("PATH", &path);
        daemon.pool("default", |pool| needs(&requirements)(pool).build("tool", "uv"))
    };
    let first = daemon().spawn();
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == 1);
    kill(first.pid());
    for pid in slow.begun()[0] {
        wait_dead(pid, 10 * SECOND);
    }
    drop(first);
    let left = ground.list();
    assert!(left.iter().all(|it| it["complete"] == false && it["in_use"] == false), "{left:?}");
    slow.open();
    let second = daemon().start();
    assert_eq!("42", answer(&second, "default", "slow:answer"));
    assert_eq!(2, slow.begun().len());
}

#[test]
fn two_major_versions_of_numpy_answer_side_by_side() {
    if std::env::var_os("CLUTCH_TEST_NETWORK").is_none() {
        skip!("CLUTCH_TEST_NETWORK is not set, and numpy comes from the package index");
    }
    let Some(python) = clutch_tests::python("3.11").or_else(|| clutch_tests::python("3.12")) else {
        skip!("there is no CPython 3.11 or 3.12, which both versions of numpy have wheels for");
    };
    let tmp = Tmp::new();
    let pool = |requirement: &'static str| {
        move |pool: Pool| pool.python(python).key("requirements", &[requirement][..])
    };
    let daemon = Daemon::builder()
        .env("XDG_STATE_HOME", tmp.join("state"))
        .pool("old", pool("numpy==1.26.*"))
        .pool("new", pool("numpy>=2,<3"))
        .start();
    for (pool, major) in [("old", "1."), ("new", "2.")] {
        let version = daemon.cli(["call", "--pool", pool, "numpy:__version__.strip"]);
        let version = version.expect_code(0).stdout;
        assert!(version.starts_with(&format!("\"{major}")), "{pool}: {version}");
        assert_eq!("4.0", answer_to(&daemon, pool, "numpy.linalg:norm", "[0, 4]"));
    }
    assert!(process::alive(daemon.pid()));
}

#[track_caller]
fn answer_to(daemon: &Daemon, pool: &str, function: &str, argument: &str) -> String {
    let output = daemon.cli(["call", "--pool", pool, function, argument]).expect_code(0);
    output.stdout.trim().to_owned()
}
