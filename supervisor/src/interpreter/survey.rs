//! Every interpreter on this machine, with what it says of itself, and which pools use which.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::places::{Place, Places, in_directory};
use super::{Asker, Cache, Facts, InterpreterError, check_executable, is_binary};
use crate::config::{Config, Pool};
use crate::prepare::{self, PoolFault};

/// How long one interpreter is waited for.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How many interpreters are looked at. A build machine has some dozens.
const KNOWN_MAX: usize = 256;

/// Folders of launchers: what they lead to is found where it is kept.
const LAUNCHERS: &str = "shims";

/// Everything that was found.
#[derive(Debug)]
pub struct Survey {
    /// The interpreters, in the order in which they are looked for.
    pub pythons: Vec<Known>,
    /// What each pool of the configuration runs.
    pub pools: Vec<PoolChoice>,
}

/// An interpreter that is there.
#[derive(Debug)]
pub struct Known {
    /// Its file.
    pub path: PathBuf,
    /// Where it was found.
    pub place: Place,
    /// What it says, or why it cannot run workers.
    pub facts: Result<Facts, InterpreterError>,
    /// The pools that run it.
    pub pools: Vec<String>,
}

/// What a pool runs.
#[derive(Debug)]
pub struct PoolChoice {
    /// Its name.
    pub pool: String,
    /// The file, or why there is none.
    pub executable: Result<PathBuf, PoolFault>,
}

/// Looks for interpreters everywhere, and asks each that is not known.
pub fn survey(config: Option<&Config>, search_path: &OsStr, cwd: &Path, cache: &Cache) -> Survey {
    let cancelled = AtomicBool::new(false);
    let mut found = candidates(search_path, cwd, &Places::of_this_machine());
    let mut pools = Vec::new();
    let ask = |pool: &Pool| prepare::planned_python(pool, Some(cache), &cancelled);
    let prepared = config.map(|config| prepare::of_each_pool(config, ask));
    for (pool, prepared) in prepared.unwrap_or_default() {
        let prepared = prepared.map(|(prepared, _)| prepared);
        if let Ok(prepared) = &prepared
            && !found.iter().any(|(path, _)| same(path, &prepared.executable))
        {
            found.push((prepared.executable.clone(), prepared.place));
        }
        let executable = prepared.map(|prepared| prepared.executable);
        pools.push(PoolChoice { pool: pool.name.clone(), executable });
    }
    let environment: Vec<_> = std::env::vars_os().collect();
    let asker = Asker {
        cwd,
        environment: &environment,
        timeout: ASK_TIMEOUT,
        cancelled: &cancelled,
        account: None,
        cache: Some(cache),
    };
    let pythons = ask_all(found, &asker);
    let uses = |path: &Path| {
        let uses = |choice: &&PoolChoice| {
            choice.executable.as_ref().is_ok_and(|executable| same(executable, path))
        };
        pools.iter().filter(uses).map(|choice| choice.pool.clone()).collect()
    };
    let known = |(path, place, facts): (PathBuf, Place, _)| {
        let pools = uses(&path);
        Known { path, place, facts, pools }
    };
    Survey { pythons: pythons.into_iter().map(known).collect(), pools }
}

/// Whether two paths run the same python in the same environment.
fn same(one: &Path, other: &Path) -> bool {
    one == other || identity(one).is_some_and(|one| identity(other) == Some(one))
}

/// What a path runs: its target, and the environment that it is in.
fn identity(path: &Path) -> Option<(PathBuf, Option<PathBuf>)> {
    let target = path.canonicalize().ok()?;
    let prefix = path.parent().and_then(Path::parent)?;
    let venv = prefix.join("pyvenv.cfg").exists().then(|| prefix.canonicalize().ok()).flatten();
    Some((target, venv))
}

/// Programs that are called like interpreters, each once.
fn candidates(search_path: &OsStr, cwd: &Path, places: &Places) -> Vec<(PathBuf, Place)> {
    let mut found = Vec::new();
    for directory in std::env::split_paths(search_path).map(|directory| cwd.join(directory)) {
        if directory.file_name() == Some(OsStr::new(LAUNCHERS)) {
            continue;
        }
        let versioned = in_directory(&directory, Place::Path).into_iter().map(|it| it.path);
        let plain = ["python3", "python", "pypy3"].map(|name| directory.join(name)).into_iter();
        let plain = plain.filter(|path| check_executable(path).is_ok());
        found.extend(versioned.chain(plain).map(|path| (path, Place::Path)));
    }
    let kept = places.pyenv().into_iter().chain(places.uv()).chain(places.system());
    found.extend(kept.map(|it| (it.path, it.place)));
    let mut seen = BTreeSet::new();
    found.retain(|(path, _)| identity(path).is_some_and(|identity| seen.insert(identity)));
    found.truncate(KNOWN_MAX);
    found
}

type Answer = (PathBuf, Place, Result<Facts, InterpreterError>);

/// Asks all of them, as many at once as there are processors.
fn ask_all(found: Vec<(PathBuf, Place)>, asker: &Asker<'_>) -> Vec<Answer> {
    let next = AtomicUsize::new(0);
    let answers = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(found.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((path, place)) = found.get(index) else {
                        return;
                    };
                    let facts = if is_binary(path) {
                        asker.facts(path)
                    } else {
                        asker.who(path).and_then(|real| asker.facts(&real.executable))
                    };
                    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                    answers.push((index, (path.clone(), *place, facts)));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
