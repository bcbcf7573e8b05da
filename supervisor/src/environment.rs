//! The environment of a pool's workers: inherited, then unset, then set.
//!
//! A worker gets what a person at the daemon's terminal would have, less what was meant for
//! another program: what bends an interpreter or a loader, a virtual or conda environment that is
//! not the pool's (with its `bin` in `PATH`), and what was told to the daemon alone. What is listed
//! by name or set in the configuration is taken at its word; a wildcard in a list stands for none
//! of these. Values are bytes and stay so.
//!
//! [`build`] makes the environment that the interpreter is looked for in. Once it is known,
//! [`settle`] decides whose environment was active in the daemon's terminal: if the interpreter is
//! that environment's own, it stays active, else nothing of it is left.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::config::{Account, Env, Inherit};

mod conda;

/// What is not inherited unless it is listed by name.
const NOT_INHERITED: [&str; 26] = [
    // They bend an interpreter that they were not written for.
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONEXECUTABLE",
    "PYTHONINSPECT",
    "PYTHONPLATLIBDIR",
    "PYTHONMALLOC",
    "__PYVENV_LAUNCHER__",
    // They put foreign code into every program.
    "LD_PRELOAD",
    "LD_AUDIT",
    // A virtual environment, but not the pool's.
    "VIRTUAL_ENV",
    "VIRTUAL_ENV_PROMPT",
    "PYENV_VIRTUAL_ENV",
    // The service manager speaks to the daemon, and must not hear from a worker.
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "SYSTEMD_EXEC_PID",
];

/// What names of variables begin with that are not inherited either: a conda environment's, and the
/// daemon's own, among them how another daemon is reached whose worker has started this one.
const NOT_INHERITED_PREFIXES: [&str; 4] = ["CONDA_", "_CONDA_", "_CE_", "CLUTCH_"];

/// What `inherit = "minimal"` keeps, besides `LC_*`.
const MINIMAL: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR"];

/// What the system searches when there is no `PATH`.
const PATH_WITHOUT_PATH: &str = "/bin:/usr/bin";

/// Builds an environment, sorted by name.
pub fn build(
    env: &Env,
    parent: impl Iterator<Item = (OsString, OsString)>,
    venv: Option<&Path>,
    account: Option<&Account>,
) -> Vec<(OsString, OsString)> {
    let mut variables: BTreeMap<OsString, OsString> =
        parent.filter(|(name, _)| !name.is_empty() && inherits(&env.inherit, name)).collect();
    if let Some(venv) = venv {
        if conda::is_conda(venv) {
            conda::activate(&mut variables, venv);
        } else {
            activate(&mut variables, venv);
        }
    }
    if let Some(account) = account {
        log_in(&mut variables, account);
    }
    for name in &env.unset {
        variables.remove(OsStr::new(name));
    }
    for (name, value) in &env.set {
        variables.insert(name.into(), value.into());
    }
    variables.into_iter().collect()
}

/// Where an environment's programs are looked for. Where it has no `PATH`, that is where the system
/// looks, and not in the working directory, as for an empty one.
pub fn search_path(variables: &[(OsString, OsString)]) -> OsString {
    let path = variables.iter().find(|(name, _)| name == "PATH");
    path.map_or_else(|| PATH_WITHOUT_PATH.into(), |(_, value)| value.clone())
}

/// Ends what was active in the daemon's terminal, unless `executable` belongs to it.
pub fn settle(
    variables: &mut Vec<(OsString, OsString)>,
    env: &Env,
    active: &[Active],
    executable: &Path,
) {
    let is_said = |name: &str| env.set.contains_key(name) || env.unset.iter().any(|it| it == name);
    for Active { variable, prefix } in active {
        let bin = prefix.join("bin");
        if is_same(&bin, executable.parent().unwrap_or(Path::new("/"))) {
            let known = variables.iter().any(|(name, _)| name == *variable);
            if env.inherit == Inherit::All && !known && !is_said(variable) {
                variables.push(((*variable).into(), prefix.into()));
                variables.sort();
            }
        } else if !is_said("PATH") && !matches!(env.inherit, Inherit::List(_)) {
            let path = variables.iter_mut().find(|(name, _)| name == "PATH");
            if let Some((_, path)) = path {
                *path = without(path, &bin);
            }
        }
    }
}

/// An environment that is active in a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Which variable says so.
    pub variable: &'static str,
    /// Where it is.
    pub prefix: PathBuf,
}

/// What is active in the terminal that this process was started from.
pub fn active(variable: impl Fn(&str) -> Option<OsString>) -> Vec<Active> {
    let found = |name| variable(name).map(PathBuf::from).filter(|prefix| prefix.is_absolute());
    ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(|variable| Some(Active { variable, prefix: found(variable)? }))
        .collect()
}

/// Whether two paths are one directory.
fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
}

/// A search path without one directory.
fn without(path: &OsStr, directory: &Path) -> OsString {
    let parts = path.as_bytes().split(|byte| *byte == b':');
    let kept: Vec<_> =
        parts.filter(|part| Path::new(OsStr::from_bytes(part)) != directory).collect();
    match kept.is_empty() {
        true => PATH_WITHOUT_PATH.into(),
        false => OsString::from_vec(kept.join(&b':')),
    }
}

fn inherits(inherit: &Inherit, name: &OsStr) -> bool {
    let is_among = |names: &[&str]| names.iter().any(|known| name == OsStr::new(known));
    let begins = |prefix: &&str| name.as_bytes().starts_with(prefix.as_bytes());
    let is_foreign = || is_among(&NOT_INHERITED) || NOT_INHERITED_PREFIXES.iter().any(begins);
    match inherit {
        Inherit::All => !is_foreign(),
        Inherit::Minimal => name.as_bytes().starts_with(b"LC_") || is_among(&MINIMAL),
        Inherit::List(names) => names.iter().any(|known| {
            name == OsStr::new(known)
                || (known.contains('*')
                    && stands_for(known.as_bytes(), name.as_bytes())
                    && !is_foreign())
        }),
    }
}

/// Whether a pattern whose `*` is any run of bytes stands for a name.
fn stands_for(pattern: &[u8], name: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let place = (0..=rest.len()).find(|at| rest[*at..].starts_with(part));
        let Some(place) = place else {
            return false;
        };
        rest = &rest[place + part.len()..];
    }
    rest.is_empty()
}

/// What a login of that user would set: the daemon's own home is none of a worker's.
fn log_in(variables: &mut BTreeMap<OsString, OsString>, account: &Account) {
    for name in ["HOME", "USER", "LOGNAME", "MAIL", "XDG_RUNTIME_DIR"] {
        variables.remove(OsStr::new(name));
    }
    if let Some(home) = &account.home {
        variables.insert("HOME".into(), home.into());
    }
    if let Some(name) = &account.name {
        variables.insert("USER".into(), name.into());
        variables.insert("LOGNAME".into(), name.into());
    }
}

/// What `bin/activate` of a virtual environment would do.
fn activate(variables: &mut BTreeMap<OsString, OsString>, venv: &Path) {
    variables.insert("VIRTUAL_ENV".into(), venv.into());
    variables.remove(OsStr::new("VIRTUAL_ENV_PROMPT"));
    bin_first(variables, venv);
}

/// Puts an environment's programs before all others.
fn bin_first(variables: &mut BTreeMap<OsString, OsString>, venv: &Path) {
    let bin = venv.join("bin");
    let path = variables.entry("PATH".into()).or_insert_with(|| PATH_WITHOUT_PATH.into());
    if std::env::split_paths(path).next().as_deref() != Some(&bin) {
        // `join_paths` would refuse a colon, which `PATH` cannot express: then it splits in two,
        // as it does for a person.
        let mut joined = bin.into_os_string();
        joined.push(":");
        joined.push(&*path);
        *path = joined;
    }
}

#[cfg(test)]
mod tests;
