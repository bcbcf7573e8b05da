//! What environments are there, and what may go: nothing that anybody uses or builds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;
use serde::Serialize;

use super::error::EnvError;
use super::store::{Entry, Store};
use crate::package;

/// How large a block is that `stat` counts, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;

/// An environment, as it is found.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Found {
    /// What it is known by.
    pub key: String,
    /// The virtual environment.
    pub path: PathBuf,
    /// Whether it is complete.
    pub complete: bool,
    /// Whether anybody uses or builds it now.
    pub in_use: bool,
    /// The version of its Python.
    pub python: String,
    /// The interpreter it was made with.
    pub interpreter: PathBuf,
    /// What it was made of.
    pub made_of: String,
    /// Bytes on the disk.
    pub bytes: u64,
    /// When it was used last, in seconds since 1970.
    pub last_used: Option<u64>,
    /// Which pools have used it.
    pub pools: Vec<String>,
}

/// What becomes of an environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// Somebody uses or builds it.
    InUse,
    /// It was used lately.
    Young,
}

/// What was decided about one.
#[derive(Clone, Debug, Serialize)]
pub struct Removal {
    /// Which.
    #[serde(flatten)]
    pub found: Found,
    /// Why it stays; none if it goes.
    pub kept: Option<Kept>,
}

/// Every environment of this user.
///
/// # Errors
///
/// When there is no home.
pub fn list() -> Result<Vec<Found>, EnvError> {
    let entries = existing()?.into_iter().flat_map(|store| store.entries());
    Ok(entries.map(|entry| look(&entry)).collect())
}

/// Removes what nobody uses and nobody has used for `max_age`, and what killed builds have left.
/// With `dry`, only says so.
///
/// # Errors
///
/// When there is no home, or something cannot be removed.
pub fn collect(max_age: Duration, dry: bool) -> Result<Vec<Removal>, EnvError> {
    let mut removals = Vec::new();
    for store in existing()? {
        if !dry {
            store.sweep();
        }
        for entry in store.entries() {
            let found = look(&entry);
            let claim = entry.claim()?;
            let kept = match &claim {
                None => Some(Kept::InUse),
                Some(_) if found.complete && age(&found) < max_age => Some(Kept::Young),
                Some(_) => None,
            };
            if let (Some(claim), None, false) = (claim, kept, dry) {
                claim.sign();
                entry.remove(claim)?;
            }
            removals.push(Removal { found, kept });
        }
    }
    Ok(removals)
}

/// The stores that are there and this user's own. Nothing is made.
fn existing() -> Result<Vec<Store>, EnvError> {
    let state = package::state_dir()?;
    let stores = [
        Store { root: state.join("envs"), shared: false },
        Store { root: package::folder_for_everyone(&state).join("envs"), shared: true },
    ];
    let is_ours = |store: &Store| {
        fs::symlink_metadata(&store.root)
            .is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
    };
    Ok(stores.into_iter().filter(is_ours).collect())
}

fn look(entry: &Entry) -> Found {
    let mark = entry.mark();
    let (uses, last) = entry.uses();
    let pools: BTreeSet<String> = uses.into_iter().map(|usage| usage.pool).collect();
    let (python, interpreter, made_of) = match mark {
        Some(ref mark) => (mark.python.clone(), mark.interpreter.clone(), mark.what.clone()),
        None => (String::new(), PathBuf::new(), String::new()),
    };
    Found {
        key: entry.key.clone(),
        path: entry.env(),
        complete: mark.is_some() && entry.is_usable(),
        in_use: matches!(entry.claim(), Ok(None)),
        python,
        interpreter,
        made_of,
        bytes: bytes_below(&entry.folder()),
        last_used: last.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|at| at.as_secs()),
        pools: pools.into_iter().collect(),
    }
}

fn age(found: &Found) -> Duration {
    let last = UNIX_EPOCH + Duration::from_secs(found.last_used.unwrap_or_default());
    SystemTime::now().duration_since(last).unwrap_or_default()
}

/// What a folder takes on the disk. What is linked from elsewhere as well, as from uv's cache,
/// counts whole.
fn bytes_below(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        bytes += metadata.blocks() * BLOCK_BYTES;
        if metadata.is_dir() {
            waiting.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    bytes
}
