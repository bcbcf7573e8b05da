//! Faults of configuration and start-up: each ends the start with exit code 8 and one clear text,
//! or does no harm. F149 to F159.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use clutch_tests::builder::private_environment;
use clutch_tests::{Clutch, Daemon, Output, Program, Python, SECOND, Tmp, python, skip};

/// A start that must fail as a matter of configuration, and name all of `named`.
#[track_caller]
fn assert_refused(started: Result<Daemon, Output>, named: &[&str]) -> Output {
    let output = match started {
        Ok(daemon) => panic!("it started:\n{}", daemon.log()),
        Err(output) => output,
    };
    assert_eq!(8, output.code, "{}", output.stderr);
    for text in named {
        assert!(output.stderr.contains(text), "{text:?} in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert!(!output.stderr.contains("RUST_BACKTRACE"), "{}", output.stderr);
    output
}

/// A daemon whose one pool runs this interpreter.
fn with_python(path: impl AsRef<Path>) -> Result<Daemon, Output> {
    let path = path.as_ref();
    Daemon::builder()
        .pool("default", |pool| pool.key("python", path).limit("start_timeout", "3s"))
        .try_start()
}

#[test]
fn f149_what_is_no_interpreter_fails_the_start_and_is_named() {
    let tmp = Tmp::new();
    let dir = tmp.dir("a-directory");
    let plain = tmp.write("not-executable", "#!/bin/sh\n");
    let dead = tmp.program("bad-magic", "\x7fELF is not enough");
    let missing = tmp.join("missing/python3");
    for path in [&missing, &plain, &dead, &dir] {
        let output = assert_refused(with_python(path), &["default", path.to_str().unwrap()]);
        assert!(output.took < 5 * SECOND, "{}: {:?}", path.display(), output.took);
    }
    for program in ["/bin/true", "/bin/false", "/bin/cat", "/bin/echo"] {
        let output = assert_refused(with_python(program), &["default", program]);
        assert!(output.took < 10 * SECOND, "{program}: {:?}", output.took);
    }
    // One that reads for ever and one that writes for ever.
    for (name, text) in [("deaf", "exec sleep 1000"), ("loud", "while :; do echo y; done")] {
        let path = tmp.program(name, format!("#!/bin/sh\n{text}\n"));
        let output = assert_refused(with_python(&path), &["default", path.to_str().unwrap()]);
        assert!(output.took < 15 * SECOND, "{name}: {:?}", output.took);
    }
}

#[test]
fn f149_every_failing_pool_is_named_at_once() {
    // What is not there is noticed before anything is started.
    let bad_paths = Daemon::builder()
        .pool("first-bad", |pool| pool.key("python", "/nonexistent/python3"))
        .pool("second-bad", |pool| pool.key("python", "/etc/passwd"))
        .try_start();
    let named = ["first-bad", "/nonexistent/python3", "second-bad", "/etc/passwd"];
    assert_refused(bad_paths, &named);

    // What is wrong with the rest shows when it is started.
    let bad_starts = Daemon::builder()
        .pool("first-bad", |pool| pool.preload(&["no_such_module_anywhere"]))
        .pool("second-bad", |pool| pool.preload(&["nor_this_one"]))
        .pool("third-bad", |pool| pool.key("python", "/bin/true"))
        .try_start();
    let named = [
        "first-bad",
        "no_such_module_anywhere",
        "second-bad",
        "nor_this_one",
        "third-bad",
        "/bin/true",
    ];
    let output = assert_refused(bad_starts, &named);
    assert!(output.stderr.contains("the pool's `preload` names 'nor_this_one': no module"));
    assert!(output.stderr.contains("ModuleNotFoundError"), "Python's words: {}", output.stderr);
}

#[test]
fn f149_a_main_script_that_fails_is_told_with_its_traceback() {
    let tmp = Tmp::new();
    let script = tmp.write("main.py", "def f(): return 1\nraise RuntimeError('not today')\n");
    let started = Daemon::builder().pool("default", |pool| pool.main(&script)).try_start();
    assert_refused(started, &["default", "main.py", "line 2", "RuntimeError: not today"]);
}

#[test]
fn f150_interpreters_too_old_are_refused_with_both_versions() {
    let old: Vec<_> = Python::installed().iter().filter(|python| !python.is_supported()).collect();
    if old.is_empty() {
        skip!("this machine has no CPython older than 3.8 and no other Python");
    }
    for python in old {
        let (major, minor, micro) = python.version;
        let version = format!("{major}.{minor}.{micro}");
        let path = python.path.to_str().unwrap();
        let named = ["default", &version, "3.8", path];
        let named = if python.implementation == "cpython" { &named[..] } else { &named[..1] };
        let output = assert_refused(with_python(path), named);
        assert!(output.took < 5 * SECOND, "{python}: {:?}", output.took);
    }
}

#[test]
fn f150_every_supported_interpreter_starts_and_says_which_it_is() {
    for python in Python::supported() {
        let daemon = Daemon::builder().pool("default", |pool| pool.python(python)).start();
        let (major, minor, micro) = python.version;
        let version = format!("{major}.{minor}.{micro}");
        assert_eq!(version, daemon.status().pools[0].workers[0].python);
        let mut client = daemon.raw();
        let answer = client.call("default", "platform:python_version", "[]").value();
        assert_eq!(version, answer.as_str().unwrap());
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    }
}

#[test]
fn f151_virtual_environments_work_as_they_are_or_say_what_is_wrong_with_them() {
    let tmp = Tmp::new();
    let pythons = Python::supported();
    // The oldest and the newest: another version than the daemon's other pools run.
    for python in [pythons[0], pythons[pythons.len() - 1]] {
        let venv = tmp.join(format!("venv-{}", python.version.1));
        let made =
            Program::new(&python.path).args(["-m", "venv", "--without-pip"]).args([&venv]).run();
        if made.code != 0 {
            skip!("{python} cannot make a virtual environment: {}", made.stderr);
        }
        let before = clutch_tests::daemon::files_below(&venv);
        let builder = Daemon::builder().config_text(format!(
            "[pools.default]\nvenv = {:?}\nworkers = 1\n",
            venv.to_str().unwrap()
        ));
        let daemon = builder.start();
        let output = daemon.cli(["call", "sysconfig:get_path", "purelib"]).expect_code(0);
        let purelib: String = serde_json::from_str(&output.stdout).unwrap();
        let inside = fs::canonicalize(Path::new(&purelib)).unwrap();
        assert!(inside.starts_with(fs::canonicalize(&venv).unwrap()), "{purelib}");
        drop(daemon);
        let after = clutch_tests::daemon::files_below(&venv);
        assert_eq!(before, after, "nothing is installed into the user's environment");
    }

    // Its interpreter was removed.
    let venv = tmp.join(format!("venv-{}", pythons[0].version.1));
    for name in ["python", "python3"] {
        let _ = fs::remove_file(venv.join("bin").join(name));
        symlink("/nonexistent/python3", venv.join("bin").join(name)).unwrap();
    }
    let text =
        |dir: &Path| format!("[pools.default]\nvenv = {:?}\nworkers = 1\n", dir.to_str().unwrap());
    let dangling = Daemon::builder().config_text(text(&venv)).try_start();
    assert_refused(dangling, &["default", venv.to_str().unwrap()]);
    // It is no virtual environment at all.
    let empty = tmp.dir("empty");
    let started = Daemon::builder().config_text(text(&empty)).try_start();
    assert_refused(started, &["default", empty.to_str().unwrap()]);
}

#[test]
fn f152_what_bends_an_interpreter_is_not_passed_on() {
    let tmp = Tmp::new();
    let evil = tmp.dir("evil");
    for name in ["math.py", "json.py", "os.py", "startup.py", "sitecustomize.py", "mine.py"] {
        fs::write(evil.join(name), "raise SystemExit('evil')\n").unwrap();
    }
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.env("CONFIGURED", "yes"))
        .env("PYTHONHOME", "/nonexistent")
        .env("PYTHONPATH", &evil)
        .env("PYTHONSTARTUP", evil.join("startup.py"))
        .env("PYTHONINSPECT", "1")
        .env("PYTHONSAFEPATH", "1")
        .env("PYTHONWARNINGS", "error")
        .env("PYTHONBREAKPOINT", "evil")
        .env("VIRTUAL_ENV", "/nonexistent/venv")
        .env("LD_PRELOAD", "/nonexistent/evil.so")
        .env("PLAIN", "yes")
        .start();
    let oracle = daemon.oracle();
    let environment = clutch_tests::process::environment(daemon.worker_pids("default")[0]);
    let named = |name: &str| {
        let prefix = format!("{name}=");
        environment.iter().find(|entry| entry.starts_with(&prefix)).cloned()
    };
    for name in ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "LD_PRELOAD", "VIRTUAL_ENV"] {
        assert_eq!(None, named(name));
    }
    assert_eq!(Some("CONFIGURED=yes".to_owned()), named("CONFIGURED"));
    assert_eq!(Some("PLAIN=yes".to_owned()), named("PLAIN"));
    let failure = daemon.raw().call("default", "mine:f", "[]").failure();
    assert!(!failure.to_string().contains("evil"), "{failure}");
    oracle.judge(daemon);
}

#[test]
fn f152_what_is_configured_is_honoured_even_if_it_bends() {
    let tmp = Tmp::new();
    tmp.write("extra/extra.py", "def f(): return 'extra'\n");
    let dir = tmp.join("extra");
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.env("PYTHONPATH", dir.to_str().unwrap()))
        .env("PYTHONPATH", "/evil")
        .start();
    let oracle = daemon.oracle();
    assert_eq!("extra", daemon.raw().call("default", "extra:f", "[]").value());
    oracle.judge(daemon);
}

#[test]
fn f153_user_files_named_like_the_standard_library_do_not_stop_a_worker() {
    let tmp = Tmp::new();
    let names = [
        "socket",
        "pickle",
        "types",
        "struct",
        "json",
        "threading",
        "traceback",
        "signal",
        "io",
        "enum",
        "collections",
        "faulthandler",
        "select",
        "importlib",
        "clutch",
        "linecache",
        "inspect",
        "codecs",
        "runpy",
        "binascii",
        "tempfile",
        "dataclasses",
        "typing",
        "time",
    ];
    for name in names {
        tmp.write(format!("code/{name}.py"), "raise ImportError('the user\\'s own file')\n");
    }
    tmp.write("code/mine.py", "def f(x): return x + 1\n");
    let code = tmp.join("code");
    let pythons = Python::supported();
    for python in [pythons[0], pythons[pythons.len() - 1]] {
        let daemon = Daemon::builder()
            .pool("path", |pool| pool.python(python).path(&code))
            .pool("cwd", |pool| pool.python(python).cwd(&code))
            .start();
        let mut client = daemon.raw();
        for pool in ["path", "cwd"] {
            assert_eq!(3, client.call(pool, "mine:f", "[2]").value(), "{python}, {pool}");
            let failure = client.call(pool, "mine:f", "[[]]").failure();
            assert_eq!("Raised", failure.reason.name(), "{python}, {pool}: {failure}");
        }
    }
}

#[test]
fn f154_a_sitecustomize_that_prints_or_raises_does_no_harm() {
    let tmp = Tmp::new();
    let prints = "import sys\nprint('hello from site')\nsys.stderr.write('and again\\n')\n";
    for (name, text) in [("prints", prints), ("raises", "raise RuntimeError('site is broken')\n")] {
        tmp.write(format!("{name}/sitecustomize.py"), text);
        let dir = tmp.join(name);
        let daemon = Daemon::builder()
            .pool("default", |pool| pool.env("PYTHONPATH", dir.to_str().unwrap()))
            .start();
        let oracle = daemon.oracle();
        let output = daemon.cli(["call", "math:sqrt", "9"]).expect_code(0);
        assert_eq!("3.0\n", output.stdout);
        oracle.judge(daemon);
    }
}

#[test]
fn f154_a_sitecustomize_that_hangs_or_exits_fails_the_start_and_is_named() {
    let tmp = Tmp::new();
    let hangs = "import time\ntime.sleep(1000)\n";
    let exits = "import os, sys\nsys.stderr.write('site gives up\\n')\nos._exit(9)\n";
    for (name, text, named) in [("hangs", hangs, "default"), ("exits", exits, "site gives up")] {
        tmp.write(format!("{name}/sitecustomize.py"), text);
        let dir = tmp.join(name);
        let started = Daemon::builder()
            .pool("default", |pool| {
                pool.env("PYTHONPATH", dir.to_str().unwrap()).limit("start_timeout", "2s")
            })
            .try_start();
        let output = assert_refused(started, &["default", named]);
        assert!(output.took < 15 * SECOND, "{name}: {:?}", output.took);
    }
}

/// Configurations that are wrong: the text, the line that is to be named, and what is to be said.
const WRONG: &[(&str, usize, &[&str])] = &[
    ("[pools.default]\nworker = 2\n", 2, &["worker", "workers"]),
    ("[pools.default]\nworkers = \"two\"\n", 2, &["workers"]),
    ("[pools.default]\nworkers = 0\n", 2, &["workers", "1"]),
    ("[pools.default]\nworkers = -3\n", 2, &["workers", "-3"]),
    ("[pools.default]\nworkers = 1.5\n", 2, &["workers"]),
    ("[pools.default]\nworkers = 99999999\n", 2, &["workers"]),
    ("[pools.default]\nlimits = { call_timeout = \"30\" }\n", 2, &["call_timeout", "30s"]),
    ("[pools.default]\nlimits = { call_timeout = 30 }\n", 2, &["call_timeout"]),
    ("[pools.default]\nlimits = { call_timout = \"30s\" }\n", 2, &["call_timout", "call_timeout"]),
    ("[pools.default]\nlimits = { call_timeout = \"-1s\" }\n", 2, &["call_timeout"]),
    (
        "[pools.default.limits]\ncall_timeout = \"2h\"\ncall_timeout_max = \"1h\"\n",
        2,
        &["call_timeout", "call_timeout_max"],
    ),
    ("[daemon]\npayload = \"2GiB\"\n[pools.default]\n", 2, &["payload", "1GiB"]),
    ("[daemon]\nconnections = 0\n[pools.default]\n", 2, &["connections"]),
    ("[deamon]\n[pools.default]\n", 1, &["deamon", "daemon"]),
    ("[pools.default]\npython = \"python3\"\nvenv = \".venv\"\n", 3, &["python", "venv"]),
    ("[pools.default]\nallow = [\"mytasks\"]\n", 2, &["allow", "mytasks"]),
    ("[pools.default]\npath = [\"no-such-directory\"]\n", 2, &["no-such-directory"]),
    ("[pools.default]\nmain = \"no-such.py\"\n", 2, &["no-such.py"]),
    ("[pools.default]\ncwd = \"clutch.toml\"\n", 2, &["clutch.toml"]),
    ("[pools.default]\nenv = { set = { X = 1 } }\n", 2, &["X"]),
    ("[pools.default]\nenv = { inherit = \"some\" }\n", 2, &["inherit", "minimal"]),
    ("[pools.default]\nworkers = 1\nworkers = 2\n", 3, &["workers"]),
    ("[pools.default\nworkers = 1\n", 1, &[]),
    ("workers = 1\n", 1, &["workers"]),
];

#[test]
fn f155_what_is_wrong_in_a_configuration_is_told_with_its_place_and_what_to_write() {
    let tmp = Tmp::new();
    let mut misses = Vec::new();
    for (text, line, named) in WRONG {
        let file = tmp.write("clutch.toml", text);
        let check = Clutch::command([OsStr::new("config"), OsStr::new("check"), file.as_os_str()]);
        let output = check.dir(tmp.path()).run();
        let place = format!("clutch.toml:{line}:");
        let is_told = named.iter().chain([&&*place]).all(|it| output.stderr.contains(*it));
        if output.code != 8 || !is_told {
            misses.push(format!(
                "{text}must be refused at line {line} with {named:?}, not with {output:?}"
            ));
        }
    }
    assert!(misses.is_empty(), "{}", misses.join("\n\n"));
    for text in ["", "# nothing\n", "[daemon]\n"] {
        let started = Daemon::builder().config_text(text).try_start();
        assert_refused(started, &["[pools.default]"]);
    }
}

#[test]
fn f155_a_daemon_with_a_wrong_configuration_starts_nothing() {
    for (text, line, named) in WRONG.iter().take(6) {
        let builder = Daemon::builder().config_text(*text);
        let place = format!("clutch.toml:{line}:");
        let named: Vec<_> = named.iter().copied().chain([place.as_str()]).collect();
        // That no process is left is checked where the start fails.
        let output = assert_refused(builder.try_start(), &named);
        assert!(output.took < 5 * SECOND, "{:?}", output.took);
    }
    // All problems of a file are told at once.
    let text = "[daemon]\nconnections = -1\n[pools.default]\nworker = 2\npython = 3\n";
    let output = assert_refused(
        Daemon::builder().config_text(text).try_start(),
        &["clutch.toml:2:", "clutch.toml:4:", "clutch.toml:5:"],
    );
    assert!(output.stderr.contains("connections"), "{}", output.stderr);
}

#[test]
fn f155_a_configuration_that_is_not_there_or_not_text_is_refused() {
    let tmp = Tmp::new();
    let binary = tmp.write("binary.toml", [0xff, 0xfe, 0, 1]);
    let huge = tmp.write("huge.toml", "# more\n".repeat(400_000));
    let missing = tmp.join("missing.toml");
    for file in [&missing, &binary, &huge, &tmp.dir("directory")] {
        let words = [OsStr::new("serve"), OsStr::new("--config"), file.as_os_str()];
        let output = Clutch::command(words).envs(private_environment(&tmp)).dir(tmp.path()).run();
        assert_eq!(8, output.code, "{}: {}", file.display(), output.stderr);
        assert!(output.stderr.contains(file.to_str().unwrap()), "{}", output.stderr);
    }
}

#[test]
fn f156_a_socket_path_the_system_cannot_take_is_told_with_both_lengths() {
    let tmp = Tmp::new();
    let long = tmp.dir("d".repeat(100)).join("clutch.sock");
    let length = long.as_os_str().len().to_string();
    assert!(long.as_os_str().len() > 107);
    let given = Daemon::builder().pool("default", |pool| pool).socket(&long).try_start();
    let Err(output) = given else { panic!("it listens at {}", long.display()) };
    assert!(matches!(output.code, 2 | 8), "{}: {}", output.code, output.stderr);
    for text in ["107", &length] {
        assert!(output.stderr.contains(text), "{text} in: {}", output.stderr);
    }
    // The same in the file, and for a client.
    let text = format!("[daemon]\nsocket = {:?}\n[pools.default]\n", long.to_str().unwrap());
    let file = tmp.write("clutch.toml", text);
    let words = [OsStr::new("serve"), OsStr::new("--config"), file.as_os_str()];
    let output = Clutch::command(words).envs(private_environment(&tmp)).run();
    assert_eq!(8, output.code, "{}", output.stderr);
    assert!(output.stderr.contains("107"), "{}", output.stderr);
    let words = [OsStr::new("--socket"), long.as_os_str(), OsStr::new("ping")];
    let output = Clutch::command(words).run();
    assert!(matches!(output.code, 2 | 3 | 8), "{}: {}", output.code, output.stderr);
    assert!(output.stderr.contains("107"), "{}", output.stderr);
}

#[test]
fn f157_odd_locales_bytes_and_paths_work() {
    let tmp = Tmp::new();
    let odd = tmp.dir("a dir with 'quotes', \"more\", $HOME; ü and ☃");
    fs::write(
        odd.join("größe.py"),
        "import os, sys\n\
         def cwd(): return os.getcwd()\n\
         def back(x): return x\n\
         def raw(name): return list(os.environb[name.encode()])\n\
         def mode(): return [sys.flags.utf8_mode, sys.getfilesystemencoding()]\n",
    )
    .unwrap();
    let pythons = Python::supported();
    for python in [pythons[0], pythons[pythons.len() - 1]] {
        for locale in ["C", "POSIX", "de_DE.ISO-8859-1", "no_SUCH.locale"] {
            let daemon = Daemon::builder()
                .pool("default", |pool| pool.python(python).path(&odd).cwd(&odd))
                .env("LC_ALL", locale)
                .env("LANG", locale)
                .env("ODD", OsStr::from_bytes(b"\xff\xfe not text"))
                .start();
            let mut client = daemon.raw();
            let mut call = |function: &str, arguments: &str| {
                client.call("default", &format!("größe:{function}"), arguments).value()
            };
            assert_eq!("ü☃𝄞", call("back", "[\"ü☃𝄞\"]"), "{python}, {locale}");
            let raw: Vec<u8> = serde_json::from_value(call("raw", "[\"ODD\"]")).unwrap();
            assert_eq!(b"\xff\xfe not text", &raw[..]);
            if locale == "C" {
                assert_eq!(odd.to_str().unwrap(), call("cwd", "[]"), "{python}, {locale}");
            }
        }
    }
    // The configuration itself may live in such a place.
    fs::write(odd.join("clutch.toml"), "[pools.default]\nworkers = 1\npath = [\".\"]\n").unwrap();
    let words = ["call", "--local", "--config", "clutch.toml", "größe:back", "ü"];
    let output = Clutch::command(words)
        .envs(private_environment(&tmp))
        .env("LC_ALL", "C")
        .dir(&odd)
        .run()
        .expect_code(0);
    assert_eq!("\"ü\"\n", output.stdout);
}

#[test]
fn f158_a_socket_directory_that_is_not_there_fails_the_start() {
    let tmp = Tmp::new();
    let socket = tmp.join("not/there/clutch.sock");
    let started = Daemon::builder().pool("default", |pool| pool).socket(&socket).try_start();
    assert_refused(started, &[tmp.join("not/there").to_str().unwrap()]);
    assert!(!tmp.join("not").exists(), "nothing was made");
}

#[test]
fn f158_a_socket_in_use_is_refused_with_the_pid_of_its_daemon() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    for _ in 0..3 {
        let second =
            Daemon::builder().pool("default", |pool| pool).socket(daemon.socket()).try_start();
        let Err(output) = second else { panic!("two daemons at one socket") };
        assert_eq!(7, output.code, "{}", output.stderr);
        let pid = daemon.pid().to_string();
        assert!(output.stderr.contains(&pid), "{pid} in: {}", output.stderr);
        assert!(output.took < 5 * SECOND, "{:?}", output.took);
    }
    assert_eq!(3.0, daemon.raw().call("default", "math:sqrt", "[9]").value());
    oracle.judge(daemon);
}

#[test]
fn f159_a_configuration_others_can_write_is_refused() {
    let serve = |tmp: &Tmp, file: &Path| {
        let words = [OsStr::new("serve"), OsStr::new("--config"), file.as_os_str()];
        Clutch::command(words).envs(private_environment(tmp)).dir(tmp.path()).run()
    };
    let tmp = Tmp::new();
    let file = tmp.write("clutch.toml", "[pools.default]\nworkers = 1\n");
    for mode in [0o666, 0o602, 0o777] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let output = serve(&tmp, &file);
        assert_eq!(8, output.code, "{mode:o}: {}", output.stderr);
        let named = output.stderr.contains(file.to_str().unwrap());
        assert!(named && output.stderr.contains("writ"), "{}", output.stderr);
    }
    if !nix::unistd::geteuid().is_root() {
        skip!("the rest needs root, to give the file to another user");
    }
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    nix::unistd::chown(&file, Some(65534.into()), None).unwrap();
    let output = serve(&tmp, &file);
    assert_eq!(8, output.code, "{}", output.stderr);
    assert!(output.stderr.contains("own"), "{}", output.stderr);
}

#[test]
fn f150_a_version_instead_of_a_path_finds_that_version_on_the_path() {
    let Some(python) = python("3.11").or_else(|| python("3.12")) else {
        skip!("this machine has neither CPython 3.11 nor 3.12");
    };
    let version = format!("3.{}", python.version.1);
    let bin = python.path.parent().unwrap();
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.key("python", version.as_str()))
        .env("PATH", bin)
        .start();
    let found = &daemon.status().pools[0].workers[0].python;
    assert!(found.starts_with(&version), "{found}, not {version}");
    let started = Daemon::builder()
        .pool("default", |pool| pool.key("python", "3.99"))
        .env("PATH", bin)
        .try_start();
    assert_refused(started, &["default", "3.99"]);
}
