//! The daemon's socket: where it may be, who holds it, and how it is taken over from the dead.
//!
//! One daemon per socket is kept by a lock on a file beside it, which the kernel gives back however
//! its holder ends. With the lock held, a socket file that is still there belongs to nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use interprocess::local_socket::GenericFilePath;
use interprocess::local_socket::{ListenerOptions, ToFsName, tokio::Listener as NamedListener};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use nix::fcntl::{Flock, FlockArg, OFlag};
use thiserror::Error;

/// The longest path a Unix socket's address can hold, its final NUL taken off (`sun_path`).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why the socket cannot be had.
#[derive(Debug, Error)]
pub enum SocketError {
    /// The path does not fit a socket's address.
    #[error(
        "the socket path {path} has {length} bytes, at most {SOCKET_PATH_BYTES_MAX} fit; choose a \
         shorter one"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// It is the name of an abstract socket, which anybody may connect to.
    #[error(
        "{0:?} names an abstract socket, which has no permissions; give a path in a directory of \
         yours"
    )]
    Abstract(PathBuf),
    /// Its directory is not there.
    #[error(
        "the directory of the socket, {path}, cannot be used: {source}; create it with mode 0700"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others could replace the socket.
    #[error(
        "{path} is not safe to put a socket at: {why}; use a directory of your own with mode 0700"
    )]
    Unsafe {
        /// The directory or file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another daemon serves it.
    #[error("a daemon{} already serves {path}; stop it with `clutch stop --socket {path}`",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held {
        /// The socket.
        path: PathBuf,
        /// The daemon, if it can be told.
        pid: Option<u32>,
    },
    /// Something else is in its place.
    #[error("{0} exists and is not a socket; remove it or choose another path")]
    NotASocket(PathBuf),
    /// The system refuses.
    #[error("failed to {doing} {path}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The right to serve a socket. Dropping it removes socket and lock.
#[derive(Debug)]
pub struct Claim {
    path: PathBuf,
    lock_path: PathBuf,
    lock: Flock<File>,
    bound: bool,
}

impl Claim {
    /// Takes the right to serve `path`, and removes what a dead daemon left there.
    ///
    /// # Errors
    ///
    /// When another daemon has it, or when the place is not safe.
    pub fn take(path: &Path) -> Result<Claim, SocketError> {
        check_place(path)?;
        let lock_path = lock_path_of(path);
        let lock = lock(path, &lock_path)?;
        let claim = Claim { path: path.to_owned(), lock_path, lock, bound: false };
        claim.remove_stale()?;
        Ok(claim)
    }

    /// Starts listening. Until then nobody can connect.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn listen(&mut self) -> Result<std::os::unix::net::UnixListener, SocketError> {
        let system =
            |source| SocketError::System { doing: "listen on", path: self.path.clone(), source };
        let name = self.path.as_path().to_fs_name::<GenericFilePath>().map_err(system)?;
        // The mode is set before the socket gets its name, so no umask can open it for a moment.
        // The name is given back by us, under the lock, and not by the listener.
        let listener: NamedListener = ListenerOptions::new()
            .name(name)
            .mode(0o600)
            .reclaim_name(false)
            .create_tokio()
            .map_err(system)?;
        self.bound = true;
        let NamedListener::UdSocket(listener) = listener;
        let descriptor = std::os::fd::OwnedFd::try_from(listener)
            .map_err(|_| system(io::Error::other("the listener could not be taken over")))?;
        Ok(descriptor.into())
    }

    fn remove_stale(&self) -> Result<(), SocketError> {
        let system = |doing, source| SocketError::System { doing, path: self.path.clone(), source };
        let found = match std::fs::symlink_metadata(&self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(system("look at", error)),
        };
        if !found.file_type().is_socket() {
            return Err(SocketError::NotASocket(self.path.clone()));
        }
        // The lock is ours, so no daemon of this kind serves it. Another program might.
        if std::os::unix::net::UnixStream::connect(&self.path).is_ok() {
            return Err(SocketError::Held { path: self.path.clone(), pid: None });
        }
        tracing::info!(socket = %self.path.display(), "removing the socket of a dead daemon");
        std::fs::remove_file(&self.path).map_err(|error| system("remove", error))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // In this order, and the lock's file before its lock is given back: whoever gets the lock
        // next finds nothing of ours.
        if self.bound {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = std::fs::remove_file(&self.lock_path);
        let _ = self.lock.flush();
    }
}

/// Refuses paths no socket of this daemon may have.
///
/// # Errors
///
/// When it is too long, or names an abstract socket.
pub fn check_path(path: &Path) -> Result<(), SocketError> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.first().is_none_or(|first| matches!(first, b'@' | 0)) || bytes.contains(&0) {
        return Err(SocketError::Abstract(path.to_owned()));
    }
    if bytes.len() > SOCKET_PATH_BYTES_MAX {
        return Err(SocketError::TooLong { path: path.to_owned(), length: bytes.len() });
    }
    Ok(())
}

/// Refuses paths where a socket would not be safe, or has no directory.
///
/// # Errors
///
/// As [`check_path`]; and when others could put another file in the socket's place.
pub fn check_place(path: &Path) -> Result<(), SocketError> {
    check_path(path)?;
    check_directory(&parent_of(path))
}

/// Makes the directory of a default socket, with mode 0700, if it is not there.
///
/// # Errors
///
/// When it cannot be made.
pub fn make_directory(path: &Path) -> Result<(), SocketError> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = parent_of(path);
    match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(SocketError::Directory { path: directory, source }),
    }
}

fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn lock_path_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// The directory must be one where nobody else can put another file in our socket's place.
fn check_directory(directory: &Path) -> Result<(), SocketError> {
    let fail = |source| SocketError::Directory { path: directory.to_owned(), source };
    let unsafe_because = |why| Err(SocketError::Unsafe { path: directory.to_owned(), why });
    let found = std::fs::symlink_metadata(directory).map_err(fail)?;
    if found.is_symlink() {
        return unsafe_because("it is a symbolic link");
    }
    if !found.is_dir() {
        return Err(fail(io::ErrorKind::NotADirectory.into()));
    }
    let me = nix::unistd::geteuid().as_raw();
    if found.uid() != me && found.uid() != 0 {
        return unsafe_because("it belongs to another user");
    }
    let mode = found.permissions().mode();
    let sticky = mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky {
        return unsafe_because("others may write to it");
    }
    Ok(())
}

fn lock(path: &Path, lock_path: &Path) -> Result<Flock<File>, SocketError> {
    let system = |doing, source| SocketError::System { doing, path: lock_path.to_owned(), source };
    // A loser of the race below may hold a lock on a file that was just removed; it tries again.
    for _ in 0..16 {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits())
            .open(lock_path)
            .map_err(|error| system("open", error))?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, nix::Error::EWOULDBLOCK)) => {
                return Err(SocketError::Held { path: path.to_owned(), pid: read_pid(file) });
            }
            Err((_, errno)) => return Err(system("lock", errno.into())),
        };
        let held = lock.metadata().map_err(|error| system("look at", error))?;
        let me = nix::unistd::geteuid().as_raw();
        if held.uid() != me || held.nlink() > 1 || !held.is_file() {
            let why = "it is a lock file that somebody else has put there";
            return Err(SocketError::Unsafe { path: lock_path.to_owned(), why });
        }
        let named = std::fs::symlink_metadata(lock_path).ok();
        if named.is_some_and(|n| (n.dev(), n.ino()) == (held.dev(), held.ino())) {
            let pid = std::process::id().to_string();
            let written = lock.set_len(0).and_then(|()| lock.write_all(pid.as_bytes()));
            written.map_err(|error| system("write", error))?;
            return Ok(lock);
        }
    }
    Err(system("lock", io::ErrorKind::ResourceBusy.into()))
}

fn read_pid(mut file: File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_claim_at_a_time_and_the_loser_learns_who_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let claim = Claim::take(&path).unwrap();
        let refusal = Claim::take(&path).unwrap_err();
        let SocketError::Held { pid: Some(pid), .. } = refusal else { panic!("{refusal}") };
        assert_eq!(std::process::id(), pid);
        drop(claim);
        assert_eq!(0, std::fs::read_dir(directory.path()).unwrap().count());
        Claim::take(&path).unwrap();
    }

    #[test]
    fn names_without_permissions_and_names_too_long_are_refused_f156_f164() {
        for name in ["@clutch", "\0clutch", "", "a\0b"] {
            assert!(
                matches!(check_path(Path::new(name)), Err(SocketError::Abstract(_))),
                "{name:?}"
            );
        }
        let long = PathBuf::from("/".to_owned() + &"x".repeat(107));
        assert!(matches!(check_path(&long), Err(SocketError::TooLong { length: 108, .. })));
    }

    #[test]
    fn nothing_but_a_dead_socket_is_removed_f163() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(Claim::take(&path), Err(SocketError::NotASocket(_))));
        assert_eq!("precious", std::fs::read_to_string(&path).unwrap());
        let link = directory.path().join("l");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(Claim::take(&link), Err(SocketError::NotASocket(_))));
        let lock = directory.path().join("m.lock");
        std::os::unix::fs::symlink(&path, &lock).unwrap();
        assert!(matches!(
            Claim::take(&directory.path().join("m")),
            Err(SocketError::System { .. })
        ));
        assert_eq!("precious", std::fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn a_directory_others_write_to_is_refused_f162() {
        let directory = tempfile::tempdir().unwrap();
        let open = directory.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Claim::take(&open.join("s")), Err(SocketError::Unsafe { .. })));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        assert!(matches!(Claim::take(&link.join("s")), Err(SocketError::Unsafe { .. })));
    }
}
