//! The Python interpreters of this machine: those on `PATH` and those pyenv has installed.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::SECOND;
use crate::command::Program;

/// The oldest CPython a worker runs on.
pub const OLDEST: (u32, u32) = (3, 8);

/// One interpreter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// Where it is, absolute: what its own `sys.executable` says.
    pub path: PathBuf,
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
    /// `cpython`, `pypy`.
    pub implementation: String,
}

impl Python {
    /// The newest CPython a worker runs on; panics where there is none, since nothing can be
    /// tested without.
    #[track_caller]
    pub fn any() -> &'static Python {
        Python::supported().last().copied().expect("a CPython 3.8 or newer on PATH or in pyenv")
    }

    /// One CPython for each version a worker runs on, oldest first.
    pub fn supported() -> Vec<&'static Python> {
        let mut versions: BTreeMap<(u32, u32), &Python> = BTreeMap::new();
        for python in Python::installed().iter().filter(|python| python.is_supported()) {
            versions.entry((python.version.0, python.version.1)).or_insert(python);
        }
        versions.into_values().collect()
    }

    /// Every interpreter that answers, old and strange ones included.
    pub fn installed() -> &'static [Python] {
        static FOUND: OnceLock<Vec<Python>> = OnceLock::new();
        FOUND.get_or_init(discover)
    }

    /// Whether a worker runs on it.
    pub fn is_supported(&self) -> bool {
        self.implementation == "cpython" && (self.version.0, self.version.1) >= OLDEST
    }

    /// Runs a program text with it.
    pub fn script(&self, text: &str) -> Program {
        Program::new(&self.path).args(["-c", text])
    }

    fn ask(path: &Path) -> Option<Python> {
        // Written for Python 2.7 too.
        let text = "import sys, platform; v = sys.version_info; \
                    print('%d %d %d' % tuple(v[:3])); \
                    print(platform.python_implementation().lower()); print(sys.executable)";
        let output = Program::new(path).args(["-c", text]).timeout(20 * SECOND).run();
        let mut lines = output.stdout.lines();
        let mut numbers = lines.next()?.split(' ').map(str::parse);
        let mut number = || numbers.next()?.ok();
        Some(Python {
            version: (number()?, number()?, number()?),
            implementation: lines.next()?.to_owned(),
            path: lines.next()?.into(),
        })
    }
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, micro) = self.version;
        write!(f, "{} {major}.{minor}.{micro} ({})", self.implementation, self.path.display())
    }
}

/// The interpreter of this version, `"3.8"`; none when this machine has none.
pub fn python(version: &str) -> Option<&'static Python> {
    Python::installed().iter().find(|python| {
        let (major, minor, _) = python.version;
        python.implementation == "cpython" && format!("{major}.{minor}") == version
    })
}

fn discover() -> Vec<Python> {
    let mut found: Vec<Python> = Vec::new();
    for path in candidates() {
        if found.iter().any(|python| python.path == path) {
            continue;
        }
        if let Some(python) = Python::ask(&path)
            && found.iter().all(|other| other.path != python.path)
        {
            found.push(python);
        }
    }
    found
}

/// Paths that look like interpreters: pyenv's first, since a shim on `PATH` is a script.
fn candidates() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let roots = [
        env::var_os("PYENV_ROOT").map(PathBuf::from),
        env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv")),
    ];
    for root in roots.into_iter().flatten() {
        if let Ok(versions) = fs::read_dir(root.join("versions")) {
            paths.extend(versions.flatten().map(|entry| entry.path().join("bin/python")));
        }
    }
    let is_name = |name: &str| {
        name == "python3"
            || name.strip_prefix("python3.").is_some_and(|minor| {
                !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())
            })
    };
    for dir in env::split_paths(&env::var_os("PATH").unwrap_or_default()) {
        let is_shim = dir.ends_with("shims");
        if let (false, Ok(entries)) = (is_shim, fs::read_dir(&dir)) {
            let names =
                entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(is_name));
            paths.extend(names.map(|entry| entry.path()));
        }
    }
    paths.retain(|path| path.is_file());
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_found_and_runs() {
        let python = Python::any();
        assert!(python.is_supported(), "{python}");
        assert!(python.path.is_absolute(), "{python}");
        let output = python.script("print(6 * 7)").run();
        assert_eq!("42\n", output.stdout);
    }
}
