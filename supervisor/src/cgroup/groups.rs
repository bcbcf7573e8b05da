//! The daemon's part of the tree of groups, from its start to its end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use thiserror::Error;

use super::find;
use super::group::Group;
use super::kernel::{Kernel, Tree};
use crate::config::Cgroup;
use crate::watch::process::started;

/// The group that the daemon and its guardians move to.
const OWN_LEAF: &str = "clutch-daemon";

/// How the group of a daemon's workers begins; its process id and the time of its start follow.
const PREFIX: &str = "clutch-";

/// How many left groups are looked at, at the start and at the end. More than any daemon has
/// workers; the next start goes on.
const LEFT_MAX: usize = 4096;

/// Why there are no groups, or none that keep a bound of memory.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// Nobody wants them.
    #[error("daemon.cgroup is \"off\"")]
    Off,
    /// There is no version 2 here.
    #[error("this process is in no cgroup of version 2 that is mounted here")]
    NoVersion2,
    /// It is the root, which is nobody's to divide.
    #[error("this process is in the root cgroup, which is not its own to divide")]
    Root,
    /// Others are in it.
    #[error(
        "{count} other processes are in this process's cgroup, so it is not its own to divide \
         (start it as a unit with Delegate=yes, or name a directory in daemon.cgroup)"
    )]
    Shared {
        /// How many.
        count: usize,
    },
    /// Memory is not passed on to it.
    #[error(
        "the memory controller is not available in {} (Delegate=yes in its unit gives it, where \
         the kernel has it in version 2)",
        path.display()
    )]
    NoMemory {
        /// Where.
        path: PathBuf,
    },
    /// The system refuses something.
    #[error("failed to {doing} {}: {source} (is it delegated to this user?)", path.display())]
    Refused {
        /// What.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The groups of a daemon's workers. Dropping it removes them.
#[derive(Debug)]
pub struct Groups {
    tree: Arc<dyn Tree>,
    /// Where they are.
    dir: PathBuf,
    /// The group that the daemon left for a leaf of it.
    left: Option<PathBuf>,
    /// Why the kernel does not account for memory, if it does not.
    memory: Result<(), Unavailable>,
    /// So that no two have one name.
    made: AtomicU64,
    /// Whether somebody was told that one could not be made.
    complained: AtomicBool,
    closed: AtomicBool,
}

/// Makes a place for workers' groups, as the configuration wants it. Takes a few milliseconds.
///
/// # Errors
///
/// Why there is none; the daemon does without.
pub fn open(wanted: &Cgroup) -> Result<Arc<Groups>, Unavailable> {
    let tree: Arc<dyn Tree> = Arc::new(Kernel);
    let groups = match wanted {
        Cgroup::Off => return Err(Unavailable::Off),
        Cgroup::At(path) => Groups::below(tree, path.clone(), own_name())?,
        Cgroup::Auto => {
            let own = find::own().ok_or(Unavailable::NoVersion2)?;
            Groups::in_own(tree, own, own_name(), std::process::id())?
        }
    };
    Ok(Arc::new(groups))
}

/// Tells this daemon from every other one, those that are long dead included.
fn own_name() -> String {
    let pid = std::process::id();
    format!("{PREFIX}{pid}-{}", started(pid).unwrap_or(0))
}

impl Groups {
    /// Below the daemon's own group, which it leaves for a leaf.
    fn in_own(
        tree: Arc<dyn Tree>,
        own: PathBuf,
        name: String,
        pid: u32,
    ) -> Result<Groups, Unavailable> {
        let refused = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Unavailable::Refused { doing, path, source }
        };
        // The kernel's root has no such file.
        if tree.read(&own.join("cgroup.events")).is_err() {
            return Err(Unavailable::Root);
        }
        let members = own.join("cgroup.procs");
        let inside = tree.read(&members).map_err(refused("read", &members))?;
        let others = inside.split_ascii_whitespace().filter(|other| **other != pid.to_string());
        let count = others.count();
        if count > 0 {
            return Err(Unavailable::Shared { count });
        }
        if !has_memory(&*tree, &own.join("cgroup.controllers")) {
            return Err(Unavailable::NoMemory { path: own });
        }
        let leaf = own.join(OWN_LEAF);
        make_or_keep(&*tree, &leaf).map_err(refused("make", &leaf))?;
        let entry = leaf.join("cgroup.procs");
        if let Err(source) = tree.write(&entry, &pid.to_string()) {
            let _ = tree.remove(&leaf);
            return Err(refused("move into", &leaf)(source));
        }
        let opened = Groups::below(tree.clone(), own.clone(), name);
        match opened {
            Ok(mut groups) if groups.memory.is_ok() => {
                groups.left = Some(own);
                Ok(groups)
            }
            // Back to where it was, as if nothing had been tried.
            Ok(mut groups) => {
                groups.left = Some(own.clone());
                let memory = std::mem::replace(&mut groups.memory, Ok(()));
                Err(memory.err().unwrap_or(Unavailable::NoMemory { path: own }))
            }
            Err(error) => {
                go_back(&*tree, &own, pid);
                Err(error)
            }
        }
    }

    /// Below a directory that somebody else has made.
    fn below(tree: Arc<dyn Tree>, base: PathBuf, name: String) -> Result<Groups, Unavailable> {
        let refused = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| Unavailable::Refused { doing, path, source }
        };
        let controllers = base.join("cgroup.controllers");
        tree.read(&controllers).map_err(refused("read", &controllers))?;
        sweep(&*tree, &base, |pid, start| started(pid) == Some(start));
        let memory = if has_memory(&*tree, &controllers) {
            let control = base.join("cgroup.subtree_control");
            tree.write(&control, "+memory").map_err(refused("enable memory in", &control))
        } else {
            Err(Unavailable::NoMemory { path: base.clone() })
        };
        let dir = base.join(name);
        tree.make(&dir).map_err(refused("make", &dir))?;
        let memory = memory.and_then(|()| {
            let control = dir.join("cgroup.subtree_control");
            tree.write(&control, "+memory").map_err(refused("enable memory in", &control))
        });
        let (made, complained) = (AtomicU64::new(0), AtomicBool::new(false));
        let closed = AtomicBool::new(false);
        Ok(Groups { tree, dir, left: None, memory, made, complained, closed })
    }

    /// Why the kernel keeps no bounds of memory here, if it does not.
    pub fn without_memory(&self) -> Option<&Unavailable> {
        self.memory.as_ref().err()
    }

    /// Makes a worker's group, with a bound of memory if it is to have one. None if that cannot be
    /// done, which is said in the log once.
    pub fn make(&self, worker: &str, memory_max: Option<u64>) -> Option<Group> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{worker}.{number}"));
        let made = self.tree.make(&path).and_then(|()| {
            let bounded = self.bound(&path, memory_max);
            if bounded.is_err() {
                let _ = self.tree.remove(&path);
            }
            bounded
        });
        match made {
            Ok(()) => Some(Group { path: path.into(), counts_memory: self.memory.is_ok() }),
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, group = %path.display(),
                        "a worker gets no cgroup of its own; its memory is looked at instead");
                }
                None
            }
        }
    }

    /// Sets a group's bound of memory, or takes it away.
    ///
    /// # Errors
    ///
    /// The system's reason.
    pub fn bound(&self, group: &Path, memory_max: Option<u64>) -> io::Result<()> {
        if self.memory.is_err() {
            return Ok(());
        }
        let write = |name: &str, text: &str| self.tree.write(&group.join(name), text);
        let Some(bytes) = memory_max else {
            write("memory.max", "max")?;
            // As in a group that never had a bound. An older kernel, or one without swap, lacks
            // these.
            let _ = write("memory.swap.max", "max");
            let _ = write("memory.oom.group", "0");
            return Ok(());
        };
        // What could be swapped out would not count; a kernel without swap has no such file.
        let _ = write("memory.swap.max", "0");
        // The whole tree goes, and not the one process that asked last.
        write("memory.oom.group", "1")?;
        write("memory.max", &bytes.to_string())
    }

    /// Kills whatever is in a group.
    pub fn kill(&self, group: &Path) {
        // Since Linux 5.14; before that, somebody else kills them one by one.
        let _ = self.tree.write(&group.join("cgroup.kill"), "1");
    }

    /// Removes a group whose processes are gone. False when it is still needed.
    pub fn remove(&self, group: &Path) -> bool {
        match self.tree.remove(group) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes what is left, and goes back to where the daemon was.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        remove_whole(&*self.tree, &self.dir);
        if let Some(own) = &self.left {
            go_back(&*self.tree, own, std::process::id());
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.close();
    }
}

fn has_memory(tree: &dyn Tree, controllers: &Path) -> bool {
    let list = tree.read(controllers).unwrap_or_default();
    list.split_ascii_whitespace().any(|name| name == "memory")
}

fn make_or_keep(tree: &dyn Tree, group: &Path) -> io::Result<()> {
    match tree.make(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Moves this process out of its leaf, into the group that it had left.
fn go_back(tree: &dyn Tree, own: &Path, pid: u32) {
    // A group that passes memory on can hold no process.
    let _ = tree.write(&own.join("cgroup.subtree_control"), "-memory");
    if tree.write(&own.join("cgroup.procs"), &pid.to_string()).is_ok() {
        let _ = tree.remove(&own.join(OWN_LEAF));
    }
}

/// Removes the groups of daemons that are dead, and kills what is in them: their guardians should
/// have, and are dead as well.
fn sweep(tree: &dyn Tree, base: &Path, lives: impl Fn(u32, u64) -> bool) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    for entry in entries.flatten().take(LEFT_MAX) {
        let name = entry.file_name();
        let whose = name.to_str().and_then(|name| {
            let (pid, start) = name.strip_prefix(PREFIX)?.split_once('-')?;
            Some((pid.parse().ok()?, start.parse().ok()?))
        });
        if let Some((pid, start)) = whose
            && !lives(pid, start)
        {
            tracing::info!(group = %entry.path().display(), "removing what a dead daemon left");
            remove_whole(tree, &entry.path());
        }
    }
}

/// Kills what is in the groups of a daemon's workers, and removes them and their parent.
fn remove_whole(tree: &dyn Tree, dir: &Path) {
    let groups: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .take(LEFT_MAX)
        .collect();
    for group in &groups {
        // An empty one goes at once; in another one there is somebody to be killed.
        if tree.remove(group).is_err() {
            let _ = tree.write(&group.join("cgroup.kill"), "1");
        }
    }
    for group in groups.iter().filter(|group| group.exists()) {
        // They die soon; what is left is the next daemon's, or goes with the service.
        let _ = tree.remove(group);
    }
    if let Err(error) = tree.remove(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::info!(%error, group = %dir.display(), "a cgroup could not be removed yet");
    }
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
