//! Where environments are kept, and who may do what with one.
//!
//! ```text
//!   envs/KEY/env             the virtual environment, built where it stays
//!   envs/KEY/complete.json   what it is made of; written last, at once
//!   envs/KEY/lock            held: alone to build or remove, together to use
//!   envs/KEY/uses/HASH.json  which pool uses it; its time is the time of the last use
//! ```
//!
//! The kernel gives a lock back however its holder ends. So an environment without its mark that
//! nobody holds is a leftover, and one that somebody holds is never removed.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::poll::{PollTimeout, poll};
use nix::unistd::{AccessFlags, eaccess, syncfs};

use super::error::EnvError;
use super::mark::Mark;
use super::works::Cancel;
use crate::package;

/// How often one looks whether a lock has become free.
const LOCK_LOOK_MS: u8 = 50;

/// How often a lock must be found held before it is said that it is waited for: whoever lists or
/// cleans up environments holds each for a moment.
const TOLD_LOOKS: u32 = 3;

/// How often a damaged environment must be found in use to be taken for one.
const DAMAGED_LOOKS: u32 = 3;

/// What is left of a removed environment is called so until it is gone.
const GONE_PREFIX: &str = ".gone-";

/// The longest name of a lock's holder.
const HOLDER_BYTES_MAX: u64 = 200;

/// Where environments of one kind of reader are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Store {
    pub(super) root: PathBuf,
    /// Whether other users of the machine may read them.
    pub(super) shared: bool,
}

/// The right to use an environment: it is not removed while this lives.
#[derive(Debug)]
pub(super) struct Hold {
    _lock: Flock<File>,
}

/// The right to build or remove one: nobody uses it meanwhile.
#[derive(Debug)]
pub(super) struct Claim {
    lock: Flock<File>,
}

/// What was found where an environment belongs.
#[derive(Debug)]
pub(super) enum Access {
    /// It is there.
    Use(Hold),
    /// It has to be built.
    Build(Claim),
}

/// How long one waits for a lock.
#[derive(Clone, Copy)]
pub(super) struct Patience<'a> {
    pub(super) timeout: Duration,
    pub(super) cancel: Cancel<'a>,
    /// Is told once who holds it, when that is waited for.
    pub(super) told: &'a dyn Fn(&str),
}

/// One environment's folder.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) store: Store,
    pub(super) key: String,
}

impl Store {
    /// The one for workers that are this user.
    pub(super) fn own() -> Result<Store, EnvError> {
        let state = package::state_dir()?;
        package::secure_for_owner(&state)?;
        let root = state.join("envs");
        package::secure_for_owner(&root)?;
        Ok(Store { root, shared: false })
    }

    /// The one for workers that are somebody else.
    pub(super) fn shared() -> Result<Store, EnvError> {
        let folder = package::folder_for_everyone(&package::state_dir()?);
        package::secure_for_everyone(&folder)?;
        let root = folder.join("envs");
        package::secure_for_everyone(&root)?;
        Ok(Store { root, shared: true })
    }

    pub(super) fn entry(&self, key: &str) -> Entry {
        Entry { store: self.clone(), key: key.to_owned() }
    }

    /// Everything that is there, leftovers included.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut keys: Vec<_> = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect();
        keys.sort();
        keys.iter().map(|key| self.entry(key)).collect()
    }

    /// Removes what was being removed when somebody was killed.
    pub(super) fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(GONE_PREFIX.as_bytes()) {
                let _: io::Result<()> = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// The mode of folders.
    const fn folder_mode(&self) -> u32 {
        if self.shared { 0o755 } else { 0o700 }
    }
}

impl Entry {
    pub(super) fn folder(&self) -> PathBuf {
        self.store.root.join(&self.key)
    }

    /// The virtual environment.
    pub(super) fn env(&self) -> PathBuf {
        self.folder().join("env")
    }

    /// A file of requirements for the installer.
    pub(super) fn requirements(&self) -> PathBuf {
        self.folder().join("requirements.txt")
    }

    pub(super) fn mark_path(&self) -> PathBuf {
        self.folder().join("complete.json")
    }

    fn lock_path(&self) -> PathBuf {
        self.folder().join("lock")
    }

    /// What it is made of, if it is complete.
    pub(super) fn mark(&self) -> Option<Mark> {
        let text = fs::read(self.mark_path()).ok()?;
        let mark: Mark = serde_json::from_slice(&text).ok()?;
        mark.is_of(&self.env()).then_some(mark)
    }

    /// Whether it is complete and still has its interpreter.
    pub(super) fn is_usable(&self) -> bool {
        self.mark().is_some() && eaccess(&self.env().join("bin/python"), AccessFlags::X_OK).is_ok()
    }

    /// The right to use it, if it is there and nobody holds it alone.
    pub(super) fn hold(&self) -> Result<Option<Hold>, EnvError> {
        if !self.is_usable() {
            return Ok(None);
        }
        let lock = self.lock(FlockArg::LockSharedNonblock)?;
        // It may have been removed before it was locked.
        Ok(lock.filter(|_| self.is_usable()).map(|lock| Hold { _lock: lock }))
    }

    /// Waits until it can be used, or has to be built by the caller.
    pub(super) fn access(&self, patience: Patience<'_>) -> Result<Access, EnvError> {
        let begun = Instant::now();
        let mut looks = 0;
        let mut looks_damaged = 0;
        loop {
            self.make_folder()?;
            if let Some(lock) = self.lock(FlockArg::LockSharedNonblock)? {
                if self.is_usable() {
                    return Ok(Access::Use(Hold { _lock: lock }));
                }
                drop(lock);
                if let Some(claim) = self.claim()? {
                    // Somebody may have been faster between the two locks.
                    if !self.is_usable() {
                        claim.sign();
                        return Ok(Access::Build(claim));
                    }
                    continue;
                }
                // Once may be somebody who has just begun to build it anew.
                looks_damaged += u32::from(self.mark().is_some());
                if looks_damaged >= DAMAGED_LOOKS {
                    return Err(EnvError::Damaged(self.env()));
                }
            }
            let holder = self.holder();
            looks += 1;
            if looks == TOLD_LOOKS {
                let env = self.env().display().to_string();
                tracing::info!(env, holder, "waiting for an environment that is being built");
                (patience.told)(&holder);
            }
            if patience.cancel.is_set() {
                return Err(EnvError::Cancelled);
            }
            if begun.elapsed() >= patience.timeout {
                let (path, waited) = (self.env(), patience.timeout);
                return Err(EnvError::Busy { path, holder, waited });
            }
            poll(&mut [], PollTimeout::from(LOCK_LOOK_MS))
                .or_else(|errno| if errno == nix::Error::EINTR { Ok(0) } else { Err(errno) })
                .map_err(|errno| failed("wait for", &self.folder())(errno.into()))?;
        }
    }

    /// The right to build or remove it, if nobody uses or builds it.
    pub(super) fn claim(&self) -> Result<Option<Claim>, EnvError> {
        Ok(self.lock(FlockArg::LockExclusiveNonblock)?.map(|lock| Claim { lock }))
    }

    /// A lock on the folder that is there now, and not on one that was just removed.
    fn lock(&self, how: FlockArg) -> Result<Option<Flock<File>>, EnvError> {
        let path = self.lock_path();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            // Nobody else may hold it: who may open a file may lock it.
            .mode(0o600)
            .custom_flags(OFlag::O_NOFOLLOW.bits())
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &path)(error)),
        };
        let lock = match Flock::lock(file, how) {
            Ok(lock) => lock,
            Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(failed("lock", &path)(errno.into())),
        };
        let is_there = match (lock.metadata(), fs::symlink_metadata(&path)) {
            (Ok(held), Ok(there)) => (held.dev(), held.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        Ok(is_there.then_some(lock))
    }

    pub(super) fn make_folder(&self) -> Result<(), EnvError> {
        let (path, mode) = (self.folder(), self.store.folder_mode());
        match DirBuilder::new().mode(mode).create(&path) {
            // Whatever the umask took away.
            Ok(()) => fs::set_permissions(&path, Permissions::from_mode(mode))
                .map_err(failed("set the mode of", &path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(failed("make", &path)(error)),
        }
    }

    /// Who holds it, as they have signed it.
    fn holder(&self) -> String {
        let mut text = String::new();
        let read = File::open(self.lock_path())
            .and_then(|file| file.take(HOLDER_BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
            _ => "another process".to_owned(),
        }
    }

    /// Makes it complete, at once. What it consists of is on the disk by then, so that a machine
    /// that loses its power cannot have the mark alone.
    pub(super) fn complete(&self, mark: &Mark, claim: Claim) -> Result<(), EnvError> {
        let (folder, path) = (self.folder(), self.mark_path());
        let fresh = folder.join(".complete.json");
        let write = || {
            let directory = File::open(&folder)?;
            syncfs(&directory)?;
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec_pretty(mark).map_err(io::Error::other)?)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            directory.sync_all()
        };
        write().map_err(failed("mark as complete", &folder))?;
        drop(claim);
        Ok(())
    }

    /// Removes the environment and its mark, the mark first. To be called with the claim.
    pub(super) fn clear(&self, _claim: &Claim) -> Result<(), EnvError> {
        let unless_missing = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        let path = self.mark_path();
        unless_missing(fs::remove_file(&path)).map_err(failed("remove", &path))?;
        self.move_away(&self.env())
    }

    /// Removes all of it, at once for everyone who looks: whoever is killed meanwhile leaves no
    /// part of it where it was. To be called with the claim, which is worth nothing any more.
    pub(super) fn remove(&self, claim: Claim) -> Result<(), EnvError> {
        let removed = self.move_away(&self.folder());
        drop(claim);
        removed
    }

    /// Moves a folder out of the way and removes it: whoever finds it where it was finds all of it.
    fn move_away(&self, path: &Path) -> Result<(), EnvError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{GONE_PREFIX}{}-{count}", std::process::id());
        let away = self.store.root.join(name);
        match fs::rename(path, &away) {
            Ok(()) => match fs::remove_dir_all(&away) {
                // Somebody else sweeps what was moved away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed.map_err(failed("remove", &away)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("remove", path)(error)),
        }
    }
}

impl Claim {
    /// Says who holds it, for others that wait.
    pub(super) fn sign(&self) {
        let mut file: &File = &self.lock;
        let pid = std::process::id();
        // Only the message to others is poorer without it.
        let _: io::Result<()> =
            file.set_len(0).and_then(|()| file.write_all(format!("process {pid}\n").as_bytes()));
    }
}

pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EnvError {
    let path = path.to_owned();
    move |source| EnvError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn entry(root: &Path) -> Entry {
        Store { root: root.to_owned(), shared: false }.entry("k")
    }

    fn access(entry: &Entry) -> Result<Access, EnvError> {
        let never = AtomicBool::new(false);
        let (timeout, cancel) = (Duration::from_millis(180), Cancel::Flag(&never));
        entry.access(Patience { timeout, cancel, told: &|_| () })
    }

    fn build(entry: &Entry, claim: Claim) {
        fs::create_dir_all(entry.env().join("bin")).unwrap();
        symlink("/bin/sh", entry.env().join("bin/python")).unwrap();
        entry
            .complete(&Mark::new(entry.env(), "w", Path::new("/bin/sh"), "3.0", "pip"), claim)
            .unwrap();
    }

    #[test]
    fn one_builds_and_the_others_wait_or_use() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        let Ok(Access::Build(claim)) = access(&entry) else { panic!("nothing is there yet") };
        let error = access(&entry).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(entry.claim().unwrap().is_none());
        build(&entry, claim);
        let Ok(Access::Use(first)) = access(&entry) else { panic!("it is complete") };
        let Ok(Access::Use(second)) = access(&entry) else { panic!("many use it") };
        assert!(entry.claim().unwrap().is_none(), "it is used");
        drop((first, second));
        entry.remove(entry.claim().unwrap().unwrap()).unwrap();
        assert_eq!(0, fs::read_dir(dir.path()).unwrap().count());
        assert!(matches!(access(&entry), Ok(Access::Build(_))));
    }

    #[test]
    fn what_has_no_mark_is_built_anew() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        fs::create_dir_all(entry.env().join("lib")).unwrap();
        let Ok(Access::Build(claim)) = access(&entry) else { panic!("it is half-made") };
        entry.clear(&claim).unwrap();
        assert!(!entry.env().exists());
        build(&entry, claim);
        let moved = dir.path().join("moved");
        let elsewhere = Store { root: moved.clone(), ..entry.store.clone() }.entry("k");
        fs::create_dir(&moved).unwrap();
        fs::rename(entry.folder(), elsewhere.folder()).unwrap();
        assert!(matches!(access(&elsewhere), Ok(Access::Build(_))));
        fs::rename(elsewhere.folder(), entry.folder()).unwrap();
        assert!(matches!(access(&entry), Ok(Access::Use(_))));
        fs::write(entry.mark_path(), "{").unwrap();
        assert!(matches!(access(&entry), Ok(Access::Build(_))));
    }

    #[test]
    fn one_that_was_damaged_is_built_anew_unless_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        let Ok(Access::Build(claim)) = access(&entry) else { panic!("nothing is there yet") };
        build(&entry, claim);
        let Ok(Access::Use(hold)) = access(&entry) else { panic!("it is complete") };
        fs::remove_file(entry.env().join("bin/python")).unwrap();
        assert!(matches!(access(&entry), Err(EnvError::Damaged(_))));
        drop(hold);
        assert!(matches!(access(&entry), Ok(Access::Build(_))));
    }

    #[test]
    fn leftovers_of_a_removal_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let entry = entry(dir.path());
        fs::create_dir_all(dir.path().join(".gone-1-0/env")).unwrap();
        fs::create_dir_all(entry.env()).unwrap();
        entry.store.sweep();
        assert_eq!(vec!["k"], entry.store.entries().iter().map(|e| &e.key).collect::<Vec<_>>());
        assert!(!dir.path().join(".gone-1-0").exists());
    }
}
