//! Finding an interpreter and asking it who it is: real ones, old ones, and what is none.

use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clutch_supervisor::config::{Python, parse};
use clutch_supervisor::interpreter::{
    Choice, Interpreter, InterpreterError, Place, Places, Search, choose, probe, resolve,
};
use clutch_supervisor::plan::plan;
use tempfile::TempDir;

/// Long enough for a cold interpreter on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

fn ask(path: &Path) -> Result<Interpreter, InterpreterError> {
    probe(path, Path::new("/"), &environment(), PATIENCE)
}

/// An executable script. Another process writes it: were it open for writing here, a child that
/// another test starts meanwhile could hold it open, and nobody could execute it.
fn script(path: &Path, text: &str) -> PathBuf {
    let source = tempfile::NamedTempFile::new().expect("a temporary file");
    fs::write(source.path(), text).expect("a script");
    #[expect(clippy::disallowed_methods, reason = "a test's own helper")]
    let copied = std::process::Command::new("install")
        .args([Path::new("-m755"), source.path(), path])
        .status()
        .expect("coreutils");
    assert!(copied.success(), "{} cannot be written", path.display());
    path.to_owned()
}

/// Every Python on this machine: `python`, `python2.7` and `python3.X` on `PATH`, and pyenv's.
fn pythons() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = (5..30).map(|minor| format!("3.{minor}"));
    let names = names.chain(["2.7", "3", "python", "pypy3"].map(str::to_owned));
    let mut found: Vec<PathBuf> = names
        .filter_map(|name| resolve(&Python::Named(name), &path, Path::new("/")).ok())
        .collect();
    if let Some(home) = std::env::var_os("HOME") {
        let versions = Path::new(&home).join(".pyenv/versions");
        let entries = fs::read_dir(versions).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().join("bin/python")).filter(|p| p.exists()));
    }
    found
}

/// One that workers can run.
fn good_python() -> Interpreter {
    pythons().iter().find_map(|path| ask(path).ok()).expect("tests need one CPython, 3.8 or newer")
}

#[test]
fn every_python_on_this_machine_is_recognised_or_refused_f150() {
    let mut good = 0;
    for path in pythons() {
        let started = Instant::now();
        match ask(&path) {
            Ok(interpreter) => {
                good += 1;
                assert!(interpreter.version >= (3, 8, 0), "{interpreter:?}");
                assert_eq!("cpython", interpreter.implementation);
                assert!(interpreter.executable.is_absolute(), "{interpreter:?}");
                let again = ask(&interpreter.executable).expect("the real interpreter");
                assert_eq!(interpreter, again, "the real one is found at its own path");
            }
            Err(InterpreterError::TooOld { version, .. }) => assert!(version < (3, 8, 0)),
            Err(InterpreterError::Launcher { .. } | InterpreterError::Implementation { .. }) => {}
            Err(error) => panic!("{}: {error}", path.display()),
        }
        assert!(started.elapsed() < PATIENCE);
    }
    assert!(good > 0, "tests need one CPython, 3.8 or newer");
}

#[test]
fn old_pythons_are_told_apart_and_refused_f150() {
    // A stand-in that answers as an old one does: not every machine has one.
    let directory = directory();
    let old = script(
        &directory.path().join("python"),
        "#!/bin/sh\nprintf 'clutch-probe 3.6.15 cpython /usr/bin/python3.6\\0'\n",
    );
    let error = ask(&old).unwrap_err().to_string();
    let path = old.display();
    let expected = format!("unsupported Python 3.6.15 at {path}: 3.8 or newer is needed");
    assert_eq!(expected, error);
    let pypy = script(
        &directory.path().join("pypy"),
        "#!/bin/sh\nprintf 'clutch-probe 3.10.14 pypy /usr/bin/pypy3\\0'\n",
    );
    let error = ask(&pypy).unwrap_err().to_string();
    assert!(error.contains("unsupported interpreter pypy 3.10.14 at"), "{error}");
}

#[test]
fn what_is_no_interpreter_is_named_with_what_it_did_f149() {
    let error = |path: &str| ask(Path::new(path)).unwrap_err().to_string();
    let silent = error("/bin/true");
    assert!(silent.contains("/bin/true is not a working Python"), "{silent}");
    assert!(silent.contains("exited with code 0 and said nothing"), "{silent}");
    let cat = error("/bin/cat");
    assert!(cat.contains("/bin/cat is not a working Python"), "{cat}");
    assert!(cat.contains("exited with code 1"), "{cat}");
    for text in [&silent, &cat] {
        assert!(!text.contains('\n'), "one line: {text}");
    }
}

#[test]
fn a_program_that_hangs_is_killed_with_its_children_f149() {
    let directory = directory();
    let pid_file = directory.path().join("pid");
    let text = format!("#!/bin/sh\nsleep 1000 &\necho $! > '{}'\nwait\n", pid_file.display());
    let path = script(&directory.path().join("hang"), &text);
    let started = Instant::now();
    let timeout = Duration::from_millis(500);
    let error = probe(&path, Path::new("/"), &environment(), timeout).unwrap_err();
    assert!(matches!(error, InterpreterError::Hung { .. }), "{error}");
    assert!(error.to_string().contains("within 500ms"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    // The child of the killed script was killed with it; whoever adopts it may yet reap it.
    let pid: u32 = fs::read_to_string(pid_file).expect("a pid").trim().parse().expect("a number");
    let stat = format!("/proc/{pid}/stat");
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "{pid} is still alive");
        std::thread::yield_now();
    }
}

#[test]
fn a_child_that_holds_the_output_open_delays_nothing_f149() {
    let directory = directory();
    let path = script(&directory.path().join("holder"), "#!/bin/sh\nsleep 1000 &\nexit 3\n");
    let started = Instant::now();
    let error = ask(&path).unwrap_err().to_string();
    assert!(error.contains("exited with code 3 and said nothing"), "{error}");
    assert!(started.elapsed() < PATIENCE / 2);
}

#[test]
fn a_program_that_talks_without_end_is_cut_off_f149() {
    let directory = directory();
    let path = script(&directory.path().join("yes"), "#!/bin/sh\nexec yes clutch\n");
    let timeout = Duration::from_millis(300);
    let error = probe(&path, Path::new("/"), &environment(), timeout).unwrap_err();
    assert!(matches!(error, InterpreterError::Hung { .. }), "{error}");
    let path = script(
        &directory.path().join("long"),
        "#!/bin/sh\nhead -c 1000000 /dev/zero >&2\nprintf 'a\\033[31m\\n\\nb' >&2\nexit 1\n",
    );
    let error = ask(&path).unwrap_err().to_string();
    assert!(error.len() < 2000 && !error.contains(['\0', '\u{1b}', '\n']), "{error:?}");
}

#[test]
fn paths_that_cannot_be_run_are_told_apart_f149() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    let find = |path: PathBuf| {
        let result = resolve(&Python::File(path.clone()), OsStr::new(""), Path::new("/"));
        let error = result.unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        error
    };
    let missing = find(at("none"));
    assert!(matches!(missing, InterpreterError::Missing(_)), "{missing}");
    let folder = find(directory.path().to_owned());
    assert!(matches!(folder, InterpreterError::Directory(_)), "{folder}");
    fs::write(at("plain"), "#!/bin/sh\n").expect("a file");
    fs::set_permissions(at("plain"), Permissions::from_mode(0o644)).expect("its mode");
    let plain = find(at("plain"));
    assert!(matches!(plain, InterpreterError::NotExecutable(_)), "{plain}");
    nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a named pipe");
    let pipe = find(at("pipe"));
    assert!(matches!(pipe, InterpreterError::NotFile(_)), "{pipe}");
    symlink(at("gone"), at("second")).expect("a link");
    symlink("second", at("first")).expect("a link");
    let link = find(at("first")).to_string();
    let (first, gone) = (at("first"), at("gone"));
    let expected = format!("{} is a link to {}, which", first.display(), gone.display());
    assert!(link.contains(&expected), "{link}");
    let garbage = script(&at("garbage"), "\x7fELF is not what follows");
    let error = ask(&garbage).unwrap_err();
    assert!(matches!(error, InterpreterError::Exec { .. }), "{error}");
    let shebang = script(&at("shebang"), "#!/no/such/interpreter\n");
    let error = ask(&shebang).unwrap_err().to_string();
    assert!(error.contains("cannot be executed") && error.contains("#!"), "{error}");
}

/// Chooses among what a test has put somewhere.
fn choose_from(
    name: &str,
    search: &str,
    directory: &Path,
    places: &Places,
) -> Result<Choice, InterpreterError> {
    let search = Search { search_path: OsStr::new(search), cwd: directory, places, ask: &ask };
    choose(&Python::Named(name.to_owned()), &search)
}

/// A stand-in that answers as an interpreter of some version does, and is a script.
fn stand_in(path: &Path, version: &str) -> PathBuf {
    let here = path.display();
    script(path, &format!("#!/bin/sh\nprintf 'clutch-probe {version} cpython {here}\\0'\n"))
}

#[test]
fn names_are_searched_for_on_path_as_a_shell_does() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    for name in ["a", "b", "rel"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    let find = |name: &str, search: &str| {
        let choice = choose_from(name, search, directory.path(), &Places::default());
        choice.map(|choice| choice.path)
    };
    let search = format!("{}:{}", at("a").display(), at("b").display());
    let none = find("3.12", &search).unwrap_err().to_string();
    assert!(none.contains("there is no Python 3.12 on this machine"), "{none}");
    assert!(none.contains(&search) && none.contains("found none"), "{none}");
    fs::write(at("a").join("python3.12"), "").expect("a file without the permission");
    let refused = find("3.12", &search).unwrap_err();
    assert!(matches!(refused, InterpreterError::NoneFits { .. }), "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("; passed over: ") && refused.contains("is not exec"), "{refused}");
    let second = stand_in(&at("b").join("python3.12"), "3.12.1");
    assert_eq!(second, find("3.12", &search).expect("the second"));
    assert_eq!(second, find("python3.12", &search).expect("by its whole name"));
    let first = stand_in(&at("a").join("python3.12"), "3.12.2");
    assert_eq!(first, find("3.12", &search).expect("the first"));
    assert_eq!(second, find("3.12.1", &search).expect("the one of that micro version"));
    let relative = stand_in(&at("rel").join("python3"), "3.12.1");
    assert_eq!(relative, find("3", "rel").expect("from a relative directory"));
    assert_eq!(relative, find("3.12", "rel").expect("a plain name of the right version"));
    let other = find("3.11", "rel").unwrap_err();
    assert!(matches!(other, InterpreterError::NoneFits { .. }), "{other}");
    let plain = script(&at("rel").join("myown"), "#!/bin/sh\nexec false\n");
    let error = find("myown", "rel").unwrap_err().to_string();
    assert!(error.contains(&plain.display().to_string()), "{error}");
    let error = find("nothing", "rel").unwrap_err();
    assert!(matches!(error, InterpreterError::NotOnPath { .. }), "{error}");
}

#[test]
fn versions_are_found_where_pyenv_uv_and_the_system_keep_them() {
    let real = good_python();
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    let put = |folder: &str, name: &str| {
        let bin = at(folder).join("bin");
        fs::create_dir_all(&bin).expect("a directory");
        symlink(&real.executable, bin.join(name)).expect("a link");
        bin.join(name)
    };
    let places = Places {
        pyenv: Some(at("pyenv")),
        uv: Some(at("uv")),
        system: vec![at("sys/bin"), at("none")],
    };
    let find = |name: &str| {
        let choice = choose_from(name, "", directory.path(), &places);
        choice.map(|choice| (choice.path, choice.place))
    };
    let old = put("pyenv/3.12.9", "python3.12");
    let newest = put("pyenv/3.12.10", "python");
    let threaded = put("pyenv/3.13.0t", "python3.13");
    put("pyenv/2.7.18", "python2.7");
    let of_uv = put("uv/cpython-3.13.2-linux-x86_64-gnu", "python3.13");
    let threaded_uv = put("uv/cpython-3.14.0+freethreaded-linux-x86_64-gnu", "python3.14");
    let system = put("sys", "python3.9");
    assert_eq!((newest.clone(), Place::Pyenv), find("3.12").expect("the newest micro version"));
    assert_eq!((old, Place::Pyenv), find("3.12.9").expect("the exact one"));
    assert_eq!((of_uv, Place::Uv), find("3.13").expect("uv's, since pyenv's is free-threaded"));
    assert_eq!((threaded, Place::Pyenv), find("3.13t").expect("pyenv's"));
    assert_eq!((threaded_uv, Place::Uv), find("3.14t").expect("uv's"));
    assert_eq!((system, Place::System), find("3.9").expect("the system's"));
    assert_eq!((newest, Place::Pyenv), find("3").expect("the newest that has a lock"));
    let none = find("3.14").unwrap_err().to_string();
    for part in [
        "there is no Python 3.14 on this machine",
        "in pyenv (",
        "in uv (",
        "3.12.10 (pyenv), 3.12.9 (pyenv)",
        "2.7.18 (pyenv)",
        "3.14.0t (uv)",
        "3.9 (system)",
    ] {
        assert!(none.contains(part), "{part:?} in {none}");
    }
    let none = find("3.12.11").unwrap_err().to_string();
    assert!(none.contains("no Python 3.12.11"), "{none}");
    let none = find("pypy3.10").unwrap_err().to_string();
    assert!(none.contains("there is no PyPy 3.10 on this machine"), "{none}");
    script(&at("sys/bin/pypy3.10"), "#!/bin/sh\nprintf 'clutch-probe 3.10.14 pypy /x\\0'\n");
    let refused = find("pypy3.10").unwrap_err().to_string();
    assert!(refused.contains("unsupported interpreter pypy 3.10.14"), "{refused}");
}

#[test]
fn a_launcher_that_finds_nothing_is_passed_over_for_a_version_but_not_for_python3() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    for name in ["shims", "bin"] {
        fs::create_dir(at(name)).expect("a directory");
    }
    for name in ["python3", "python3.12"] {
        let text = "#!/bin/sh\necho 'pyenv: not selected' >&2\nexit 127\n";
        script(&at("shims").join(name), text);
    }
    let search = format!("{}:{}", at("shims").display(), at("bin").display());
    let find = |name: &str| choose_from(name, &search, directory.path(), &Places::default());
    let error = find("3.12").unwrap_err();
    assert!(
        matches!(error, InterpreterError::NoneFits { .. }),
        "it says where one looked: {error}"
    );
    let error = error.to_string();
    assert!(error.contains("passed over: ") && error.contains("pyenv: not selected"), "{error}");
    let good = stand_in(&at("bin").join("python3.12"), "3.12.1");
    stand_in(&at("bin").join("python3"), "3.12.1");
    assert_eq!(good, find("3.12").expect("the next").path);
    let error = find("python3").unwrap_err().to_string();
    assert!(error.contains("pyenv: not selected"), "{error}");
    let error = find("3.12t").unwrap_err();
    assert!(matches!(error, InterpreterError::NoneFits { .. }), "not any 3.12: {error}");
}

#[test]
fn a_launcher_that_finds_nothing_is_quoted_f149() {
    let directory = directory();
    let path = script(
        &directory.path().join("python3.12"),
        "#!/bin/sh\necho 'pyenv: python3.12: command not found' >&2\nexit 127\n",
    );
    let error = ask(&path).unwrap_err();
    assert!(matches!(error, InterpreterError::Launcher { .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("pyenv: python3.12: command not found"), "{error}");
    assert!(error.contains("select a version there"), "{error}");
}

#[test]
fn a_launcher_that_finds_one_is_followed_and_asked_in_its_directory() {
    let real = good_python();
    let directory = directory();
    let text = format!(
        "#!/bin/sh\necho greetings\n[ -e selected ] || exit 1\nexec '{}' \"$@\"\n",
        real.executable.display()
    );
    let launcher = script(&directory.path().join("python3"), &text);
    fs::write(directory.path().join("selected"), "").expect("a file");
    let found = probe(&launcher, directory.path(), &environment(), PATIENCE).expect("an answer");
    assert_eq!(real, found);
    assert!(ask(&launcher).is_err(), "it selects by directory");
}

#[test]
fn a_virtual_environment_keeps_its_own_python_f151() {
    let real = good_python();
    let directory = directory();
    let venv = directory.path().join("an environment");
    fs::create_dir_all(venv.join("bin")).expect("directories");
    symlink(&real.executable, venv.join("bin/python")).expect("a link");
    let home = real.executable.parent().expect("a directory").display();
    fs::write(venv.join("pyvenv.cfg"), format!("home = {home}\n")).expect("a file");
    let find = || resolve(&Python::Venv(venv.clone()), OsStr::new(""), Path::new("/"));
    let python = find().expect("its interpreter");
    assert_eq!(venv.join("bin/python"), python);
    assert_eq!(python, ask(&python).expect("an answer").executable, "the link is not followed");

    fs::remove_file(&python).expect("removed");
    let without = find().unwrap_err();
    assert!(matches!(without, InterpreterError::VenvWithoutPython(_)), "{without}");
    assert!(without.to_string().contains("python3 -m venv --clear"), "{without}");
    symlink("/no/longer/python", &python).expect("a link");
    let dangling = find().unwrap_err().to_string();
    assert!(
        dangling.contains("is a link to /no/longer/python, which does not exist"),
        "{dangling}"
    );
    assert!(dangling.contains(&python.display().to_string()), "{dangling}");
    fs::remove_dir_all(&venv).expect("removed");
    let gone = find().unwrap_err();
    assert!(matches!(gone, InterpreterError::NoVenv(_)), "{gone}");
}

#[test]
fn odd_bytes_and_the_working_directory_do_no_harm_f153_f157() {
    let real = good_python();
    let directory = directory();
    let odd = directory.path().join(OsString::from_vec(b"sp ace '\xff".to_vec()));
    fs::create_dir(&odd).expect("a directory");
    symlink(&real.executable, odd.join("python")).expect("a link");
    for name in ["os.py", "codecs.py", "encodings.py", "site.py", "types.py"] {
        fs::write(odd.join(name), "raise SystemExit('shadowed')\n").expect("a file");
    }
    let mut env = environment();
    for (name, value) in [("LC_ALL", "C"), ("PYTHONHOME", "/nonexistent"), ("PYTHONPATH", ".")] {
        env.push((name.into(), value.into()));
    }
    let path = odd.join("python");
    let found = probe(&path, &odd, &env, PATIENCE).expect("an answer");
    assert_eq!(path, found.executable);
    assert_eq!(real.version, found.version);
}

/// An environment that workers may write to must not run what they wrote as the daemon's user.
#[test]
fn an_interpreter_is_asked_with_the_rights_of_the_workers() {
    if !nix::unistd::geteuid().is_root() {
        // Nobody else can be anybody else.
        return;
    }
    let directory = directory();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("its mode");
    let path = script(&directory.path().join("python3"), "#!/bin/sh\nid >&2\nexit 3\n");
    let text = format!("[pools.a]\npython = {path:?}\nprocess = {{ user = \"65534\" }}\n");
    let config = parse(&text, None, Path::new("/")).expect("a configuration");
    let problems = plan(&config, None).problems.join("\n");
    assert!(problems.contains("uid=65534"), "{problems}");
    assert!(!problems.contains("0(root)"), "no group of the daemon either: {problems}");
}
