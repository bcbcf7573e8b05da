//! What daemons leave behind when they are killed, and who may remove it.
//!
//! Whoever uses a folder of the package holds a lock on it, which the kernel gives back however its
//! holder ends. So a folder without one is nobody's, and nothing has to be guessed from a process
//! id or an age.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::files::{entries, folder_name};
use super::{
    ATTEMPTS_MAX, Package, PackageError, SCRATCH_PREFIX, failed, is_old, open_folder, scratch,
    unpack_to_state,
};

/// What the temporary folder of a private supervisor is called.
pub(super) const TEMPORARY_PREFIX: &str = "clutch-local-";

/// What the folder of a package is called, before its version.
const PACKAGE_PREFIX: &str = "py-";

/// The right to a folder: nobody removes it while this lives.
#[derive(Debug)]
pub struct Hold {
    _lock: Flock<File>,
}

impl Hold {
    /// Takes it, together with others who use the same folder. None when somebody is removing it.
    fn shared(path: &Path) -> Result<Option<Hold>, PackageError> {
        let lock = match Flock::lock(open_folder(path)?, FlockArg::LockSharedNonblock) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(failed("lock", path)(errno.into())),
        };
        let (held, there) = (lock.metadata(), fs::symlink_metadata(path));
        let is_there = match (held, there) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        Ok(is_there.then_some(Hold { _lock: lock }))
    }
}

/// Unpacks the package below the state directory, as [`unpack_to_state`], and keeps others from
/// removing it. What other versions have left there, and nobody uses, is removed.
///
/// # Errors
///
/// When the state directory cannot be trusted or written to.
pub fn keep_in_state(state_dir: &Path) -> Result<(Package, Hold), PackageError> {
    for _ in 0..ATTEMPTS_MAX {
        let package = unpack_to_state(state_dir)?;
        match Hold::shared(&package.directory) {
            Ok(Some(hold)) => {
                sweep_versions(state_dir);
                return Ok((package, hold));
            }
            Ok(None) => {}
            Err(PackageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(PackageError::Contended(state_dir.join(folder_name())))
}

/// Keeps others from removing a temporary folder.
pub(super) fn hold_temporary(path: &Path) -> Result<Hold, PackageError> {
    Hold::shared(path)?.ok_or_else(|| PackageError::Contended(path.to_owned()))
}

/// Removes packages of other versions that nobody uses. A failure is none of this start's business.
fn sweep_versions(state_dir: &Path) {
    for name in entries(state_dir).unwrap_or_default() {
        let is_package = name.to_str().is_some_and(|name| name.starts_with(PACKAGE_PREFIX));
        if is_package && *name != *folder_name() {
            remove_if_free(state_dir, &state_dir.join(&name));
        }
    }
}

/// Removes temporary folders of private supervisors that were killed.
pub fn sweep_temporary() {
    let parent = std::env::temp_dir();
    for name in entries(&parent).unwrap_or_default() {
        let path = parent.join(&name);
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX));
        // One that was made a moment ago may not be locked yet.
        if is_ours && is_old(&path) {
            remove_if_free(&parent, &path);
        }
    }
}

/// Removes a folder of this user's that nobody holds. It is moved away first, so that whoever finds
/// it finds all of it.
fn remove_if_free(parent: &Path, path: &Path) {
    let Ok(folder) = open_folder(path) else { return };
    let is_mine = folder.metadata().is_ok_and(|found| found.uid() == geteuid().as_raw());
    if !is_mine {
        return;
    }
    let Ok(_lock) = Flock::lock(folder, FlockArg::LockExclusiveNonblock) else { return };
    if let Ok(away) = scratch(parent, SCRATCH_PREFIX)
        && fs::rename(path, away.path().join("old")).is_ok()
    {
        tracing::info!(folder = %path.display(), "removing what a former version has left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_other_versions_go_unless_somebody_uses_them_f139() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("clutch");
        let (package, hold) = keep_in_state(&state).unwrap();
        let old = |name: &str| {
            let path = state.join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("boot.py"), "").unwrap();
            path
        };
        let (unused, used) = (old("py-0.0.1-abc"), old("py-0.0.2-abc"));
        let other = old("jobs");
        let users = (Hold::shared(&used).unwrap().unwrap(), Hold::shared(&used).unwrap().unwrap());
        let (again, second) = keep_in_state(&state).unwrap();
        assert_eq!(package, again);
        assert!(!unused.exists() && used.exists() && other.exists());
        drop(users);
        drop((hold, second));
        keep_in_state(&state).unwrap();
        assert!(!used.exists() && other.exists() && package.directory.exists());
    }
}
