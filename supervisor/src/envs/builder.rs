//! Building one environment: which programs run, with what, and what is said when one fails.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clutch_protocol::message::Exit;
use nix::unistd::{AccessFlags, eaccess};

use super::declaration::Install;
use super::error::{BuilderEnd, EnvError};
use super::process::{self, End, Job};
use super::secrets::Secrets;
use super::store::{Entry, failed};
use super::words::{self, Tail};
use super::works::{Cancel, Work};
use crate::config::{Build, Env, Tool};
use crate::environment;
use crate::worker::spawner::Guardian;

/// What would have a builder install to somewhere else, or ask, or refuse.
const NOT_PASSED: [&str; 17] = [
    "PIP_TARGET",
    "PIP_PREFIX",
    "PIP_ROOT",
    "PIP_PYTHON",
    "PIP_DRY_RUN",
    "PIP_REQUIREMENT",
    "PIP_EDITABLE",
    "PIP_REQUIRE_VIRTUALENV",
    "UV_PYTHON",
    "UV_SYSTEM_PYTHON",
    "UV_TARGET",
    "UV_PREFIX",
    "UV_PROJECT",
    "UV_PROJECT_ENVIRONMENT",
    "UV_WORKING_DIRECTORY",
    "CONDA_PREFIX",
    "PYTHONWARNINGS",
];

/// What cannot be had of an interpreter without `venv`.
const NO_VENV: &str = " (an interpreter without `venv` and `ensurepip` cannot make environments: \
                       install them (Debian and Ubuntu: python3-venv), or install uv)";

/// What a builder is at that makes an empty environment.
const MAKING: &str = "making";

/// What an installer is at first.
const RESOLVING: &str = "resolving";

/// How often an installer tries again what the network does not give it, unless the daemon's
/// environment says otherwise. With the five times of pip, each with a wait for an answer that does
/// not come, a missing network would be told after minutes; and a pool tries again by itself.
const RETRIES: &str = "2";

/// What builds environments, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Builder {
    /// This uv.
    Uv(PathBuf),
    /// `venv` and pip.
    Pip,
    /// None: uv is wanted, and is not there. That is no fault where nothing has to be built.
    NoUv {
        /// The directories searched.
        search_path: String,
    },
}

impl Builder {
    /// The one that is wanted, if it is there.
    pub(super) fn find(tool: Tool) -> Builder {
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = || {
            std::env::split_paths(&search_path)
                .map(|directory| directory.join("uv"))
                .find(|path| path.is_file() && eaccess(path, AccessFlags::X_OK).is_ok())
        };
        match tool {
            Tool::Pip => Builder::Pip,
            Tool::Auto => on_path().map_or(Builder::Pip, Builder::Uv),
            Tool::Uv => on_path().map_or_else(
                || Builder::NoUv { search_path: search_path.to_string_lossy().into_owned() },
                Builder::Uv,
            ),
        }
    }

    /// Its name.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Builder::Uv(_) | Builder::NoUv { .. } => "uv",
            Builder::Pip => "pip",
        }
    }
}

/// What is built, and how.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) entry: Entry,
    /// The pool that wants it; the first one, if several do.
    pub(super) pool: String,
    pub(super) what: String,
    pub(super) install: Install,
    pub(super) builder: Builder,
    pub(super) interpreter: PathBuf,
    pub(super) python: String,
    pub(super) options: Build,
    /// Where the installer runs.
    pub(super) base: PathBuf,
}

/// What every program of a build is run with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means<'a> {
    pub(super) guardian: &'a Guardian,
    pub(super) open_files: u64,
    pub(super) cancel: Cancel<'a>,
}

/// One program of a build.
struct Step {
    /// What it is called when it fails.
    name: &'static str,
    /// What it is at before it says anything.
    phase: &'static str,
    program: PathBuf,
    args: Vec<OsString>,
    hint: &'static str,
}

/// Builds it where it stays, and tells everyone who waits how far it is. To be called with the
/// claim on its folder, which is empty.
pub(super) fn build(plan: &Plan, means: Means<'_>, work: &Work) -> Result<(), EnvError> {
    let deadline = Instant::now() + plan.options.timeout;
    if let Install::List(list) = &plan.install {
        let path = plan.entry.requirements();
        let text = list.iter().fold(String::new(), |text, line| text + line + "\n");
        // A URL in it may hold a password, and a shared folder can be read by everybody.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(failed("write", &path))?;
    }
    let environment = variables(plan);
    let mut given = plan.options.find_links.clone();
    if let Install::List(list) = &plan.install {
        given.extend_from_slice(list);
    }
    let secrets = Secrets::of_builder(&environment, &given);
    for step in steps(plan)? {
        work.tell(|progress| progress.say(Some(step.phase), ""));
        run(plan, &step, (&environment, &secrets), deadline, means, work)?;
    }
    if plan.entry.store.shared {
        let env = plan.entry.env();
        let opened = open_for_everyone(&env);
        opened.map_err(failed("let other users read", &env))?;
    }
    Ok(())
}

fn steps(plan: &Plan) -> Result<Vec<Step>, EnvError> {
    let steps = match &plan.builder {
        Builder::Uv(uv) => uv_steps(plan, uv),
        Builder::Pip => pip_steps(plan),
        Builder::NoUv { search_path } => {
            return Err(EnvError::NoUv { search_path: search_path.clone() });
        }
    };
    Ok(steps.into_iter().flatten().collect())
}

fn uv_steps(plan: &Plan, uv: &Path) -> [Option<Step>; 2] {
    let env = plan.entry.env();
    let interpreter = plan.interpreter.as_os_str();
    let step = |name, phase, args: Vec<OsString>| {
        let (program, hint) = (uv.to_owned(), "");
        Step { name, phase, program, args, hint }
    };
    let make =
        args_of(["venv", "--quiet", "--no-project", "--python"], [interpreter, env.as_os_str()]);
    let install = match installable(plan) {
        Some(file) => {
            let python = env.join("bin/python");
            let mut args = args_of(["pip", "install", "--compile-bytecode", "--python"], []);
            args.extend([python.into_os_string(), "-r".into(), file.into_os_string()]);
            Some(("uv pip install", args))
        }
        None => match &plan.install {
            Install::UvLock(_) => {
                let options = ["sync", "--frozen", "--no-dev", "--no-install-project"];
                let mut args = args_of(options, []);
                args.extend(args_of(["--compile-bytecode", "--python"], [interpreter]));
                Some(("uv sync", args))
            }
            Install::List(_) | Install::File(_) => None,
        },
    };
    let install = install.map(|(name, mut args)| {
        args.extend(find_links(plan));
        step(name, RESOLVING, args)
    });
    [Some(step("uv venv", MAKING, make)), install]
}

fn pip_steps(plan: &Plan) -> [Option<Step>; 2] {
    let env = plan.entry.env();
    let make = Step {
        name: "python -m venv",
        phase: MAKING,
        program: plan.interpreter.clone(),
        args: args_of(["-I", "-m", "venv"], [env.as_os_str()]),
        hint: NO_VENV,
    };
    let install = installable(plan).map(|file| {
        let mut args = args_of(["-I", "-u", "-m", "pip", "install", "-r"], [file.as_os_str()]);
        args.extend(find_links(plan));
        let (name, phase, program) = ("pip install", RESOLVING, env.join("bin/python"));
        Step { name, phase, program, args, hint: "" }
    });
    [Some(make), install]
}

/// The file that the installer is given; none if nothing is to be installed by one.
fn installable(plan: &Plan) -> Option<PathBuf> {
    match &plan.install {
        Install::List(list) if list.is_empty() => None,
        Install::List(_) => Some(plan.entry.requirements()),
        Install::File(path) => Some(path.clone()),
        Install::UvLock(_) => None,
    }
}

fn args_of<const N: usize, const M: usize>(words: [&str; N], more: [&OsStr; M]) -> Vec<OsString> {
    words.into_iter().map(OsStr::new).chain(more).map(OsStr::to_owned).collect()
}

/// Directories where packages are; what is a URL may hold a password, and is no argument.
fn find_links(plan: &Plan) -> Vec<OsString> {
    let links = plan.options.find_links.iter().filter(|link| !is_url(link));
    links.flat_map(|link| ["--find-links".into(), link.into()]).collect()
}

fn is_url(link: &str) -> bool {
    link.contains("://")
}

/// The environment of the builder: what a person at the daemon's terminal has, so that their
/// settings of pip, uv and proxies hold, without what would bend the interpreter or the target.
fn variables(plan: &Plan) -> Vec<(OsString, OsString)> {
    let mut variables = environment::build(&Env::default(), std::env::vars_os(), None, None);
    variables.retain(|(name, _)| !NOT_PASSED.iter().any(|not| name == OsStr::new(not)));
    let mut set = |name: &str, value: &OsStr| {
        variables.retain(|(known, _)| known != OsStr::new(name));
        variables.push((name.into(), value.to_owned()));
    };
    for (name, value) in [
        // "no" wins over a `user = true` in somebody's pip.conf, which no environment takes.
        ("PIP_USER", "0"),
        ("PIP_NO_INPUT", "1"),
        ("PIP_PROGRESS_BAR", "off"),
        ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
        ("UV_NO_PROGRESS", "1"),
        ("UV_PYTHON_DOWNLOADS", "never"),
        ("NO_COLOR", "1"),
    ] {
        set(name, OsStr::new(value));
    }
    for name in ["PIP_RETRIES", "UV_HTTP_RETRIES"] {
        if std::env::var_os(name).is_none() {
            set(name, OsStr::new(RETRIES));
        }
    }
    set("UV_PROJECT_ENVIRONMENT", plan.entry.env().as_os_str());
    if plan.entry.store.shared {
        // The modes of a shared environment are changed, and those of uv's cache must not be.
        set("UV_LINK_MODE", OsStr::new("copy"));
    } else if std::env::var_os("UV_LINK_MODE").is_some_and(|mode| mode == "symlink") {
        // Cleaning uv's cache would empty the environment.
        set("UV_LINK_MODE", OsStr::new("hardlink"));
    }
    // Not on the command line, which everybody can read, since a URL may hold a password.
    if let Some(url) = &plan.options.index_url {
        set("PIP_INDEX_URL", OsStr::new(url));
        set("UV_DEFAULT_INDEX", OsStr::new(url));
    }
    if !plan.options.extra_index_urls.is_empty() {
        let urls = plan.options.extra_index_urls.join(" ");
        set("PIP_EXTRA_INDEX_URL", OsStr::new(&urls));
        set("UV_INDEX", OsStr::new(&urls));
    }
    // These are added to what the variables hold already.
    for (name, separator) in [("PIP_FIND_LINKS", " "), ("UV_FIND_LINKS", ",")] {
        let links = plan.options.find_links.iter().filter(|link| is_url(link));
        let mut all: Vec<_> = links.map(OsString::from).collect();
        if all.is_empty() {
            continue;
        }
        all.extend(std::env::var_os(name));
        set(name, &all.join(OsStr::new(separator)));
    }
    variables
}

fn run(
    plan: &Plan,
    step: &Step,
    (environment, secrets): (&[(OsString, OsString)], &Secrets),
    deadline: Instant,
    means: Means<'_>,
    work: &Work,
) -> Result<(), EnvError> {
    let mut tail = Tail::default();
    let mut line = |line: &str| {
        let line = secrets.hide(line);
        tracing::info!(pool = plan.pool, "{}: {line}", step.name);
        let phase = words::phase(&line);
        work.tell(|progress| progress.say(phase, &line));
        tail.push(&line);
    };
    let job = Job {
        program: &step.program,
        args: &step.args,
        directory: &plan.base,
        environment,
        open_files: means.open_files,
        deadline,
    };
    let end = process::run(means.guardian, &job, means.cancel, &mut line);
    let program = step.name.to_owned();
    let what = plan.what.clone();
    match end {
        Ok(End::Ended(BuilderEnd::Exited(Exit::Code(0)))) => Ok(()),
        Ok(End::Ended(end)) => {
            let words = tail.text();
            let hint = if step.hint.is_empty() { words::hint(&words) } else { step.hint };
            Err(EnvError::Failed { what, program, end, words, hint })
        }
        Ok(End::TimedOut) => {
            let (timeout, words) = (plan.options.timeout, tail.text());
            let hint = words::hint(&words);
            Err(EnvError::TimedOut { what, program, timeout, words, hint })
        }
        Ok(End::Cancelled) => Err(EnvError::Cancelled),
        Err(source) => {
            let program = step.program.display().to_string();
            Err(EnvError::Start { program, source })
        }
    }
}

/// Lets every user read what is below a folder, and nobody else write.
fn open_for_everyone(root: &Path) -> io::Result<()> {
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.is_symlink() {
            continue;
        }
        let mode = metadata.mode() & 0o7777;
        let runs = metadata.is_dir() || mode & 0o100 != 0;
        let wanted = (mode | 0o444 | if runs { 0o111 } else { 0 }) & !0o022;
        if wanted != mode {
            fs::set_permissions(&path, Permissions::from_mode(wanted))?;
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                waiting.push(entry?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;

    fn plan(install: Install, builder: Builder) -> Plan {
        let store = Store { root: "/s".into(), shared: false };
        Plan {
            entry: store.entry("k"),
            pool: "p".to_owned(),
            what: "w".to_owned(),
            install,
            builder,
            interpreter: "/usr/bin/python3".into(),
            python: "3.12.1".to_owned(),
            options: Build { find_links: vec!["/w".to_owned()], ..Build::default() },
            base: "/b".into(),
        }
    }

    fn commands(install: Install, builder: Builder) -> Vec<String> {
        let line = |step: Step| {
            let args: Vec<_> = step.args.iter().map(|arg| arg.to_str().unwrap()).collect();
            format!("{} {}", step.program.display(), args.join(" "))
        };
        steps(&plan(install, builder)).unwrap().into_iter().map(line).collect()
    }

    #[test]
    fn pip_installs_into_an_environment_of_the_interpreters_own() {
        let file = Install::File("/b/requirements.txt".into());
        assert_eq!(
            [
                "/usr/bin/python3 -I -m venv /s/k/env",
                "/s/k/env/bin/python -I -u -m pip install -r /b/requirements.txt --find-links /w",
            ],
            commands(file, Builder::Pip).as_slice()
        );
        assert_eq!(1, commands(Install::List(Vec::new()), Builder::Pip).len());
    }

    #[test]
    fn uv_installs_lists_and_follows_locks() {
        let uv = || Builder::Uv("/bin/uv".into());
        let venv = "/bin/uv venv --quiet --no-project --python /usr/bin/python3 /s/k/env";
        assert_eq!(
            [
                venv,
                "/bin/uv pip install --compile-bytecode --python /s/k/env/bin/python \
                 -r /s/k/requirements.txt --find-links /w",
            ],
            commands(Install::List(vec!["a".to_owned()]), uv()).as_slice()
        );
        assert_eq!(
            [
                venv,
                "/bin/uv sync --frozen --no-dev --no-install-project --compile-bytecode \
                 --python /usr/bin/python3 --find-links /w",
            ],
            commands(Install::UvLock("/b".into()), uv()).as_slice()
        );
    }

    #[test]
    fn a_builders_settings_are_passed_and_what_bends_it_is_not() {
        let mut plan = plan(Install::List(Vec::new()), Builder::Pip);
        plan.options.index_url = Some("https://u:p@i.example/simple".to_owned());
        plan.options.find_links.push("https://u:p@l.example/".to_owned());
        let variables = variables(&plan);
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| known == OsStr::new(name));
            found.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        assert_eq!(Some("https://u:p@i.example/simple".to_owned()), value("PIP_INDEX_URL"));
        assert_eq!(Some("0".to_owned()), value("PIP_USER"));
        assert_eq!(Some("2".to_owned()), value("PIP_RETRIES"));
        for links in ["PIP_FIND_LINKS", "UV_FIND_LINKS"] {
            assert!(value(links).unwrap().starts_with("https://u:p@l.example/"));
        }
        assert_eq!(Some("/s/k/env".to_owned()), value("UV_PROJECT_ENVIRONMENT"));
        assert_eq!(None, value("PIP_TARGET"));
        assert!(value("PATH").is_some());
        let steps = steps(&plan).unwrap();
        let shown = format!("{:?}", steps.into_iter().map(|step| step.args).collect::<Vec<_>>());
        assert!(!shown.contains("u:p@"), "{shown}");
    }

    #[test]
    fn everybody_may_read_a_shared_environment_and_nobody_write() {
        let dir = tempfile::tempdir().unwrap();
        let env = dir.path().join("env");
        let file = |name: &str, mode| {
            let path = env.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        };
        let (text, program) = (file("lib/a.py", 0o600), file("bin/x", 0o777));
        fs::set_permissions(&env, Permissions::from_mode(0o700)).unwrap();
        open_for_everyone(&env).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((0o644, 0o755, 0o755), (mode(&text), mode(&program), mode(&env)));
    }
}
