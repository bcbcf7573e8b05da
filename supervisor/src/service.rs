//! The service manager (systemd, or whoever speaks its protocols): what it is told, and the socket
//! it may have opened already.
//!
//! What it put into the environment for the daemon is left there, and kept from workers by
//! `environment`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use sd_notify::NotifyState;
use thiserror::Error;
use tokio::net::UnixDatagram;

use crate::sys;

/// Whether the service manager knows that the start is over: from then on it is not asked for more
/// time to start, nor told another status than that of a running daemon.
static STARTED: AtomicBool = AtomicBool::new(false);

/// How long a word to the service manager may take. It reads them as they come.
const TELL_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

/// Asks the service manager for so much more time to start, if there is one. This may be before
/// there is a data plane; it is one datagram.
pub fn extend_start(time: Duration) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() || STARTED.load(Ordering::Relaxed) {
        return;
    }
    let micros = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let states = [
        NotifyState::ExtendTimeoutUsec(micros),
        NotifyState::Status("preparing the pools' environments"),
    ];
    if let Err(error) = sd_notify::notify(&states) {
        tracing::warn!(%error, "the service manager cannot be asked for time");
    }
}

impl Manager {
    /// The one that the environment names. To be called on the data plane.
    pub fn from_environment() -> Manager {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Manager::default();
        };
        match open(&name) {
            Ok(socket) => Manager { socket: Some(socket), watchdog: sd_notify::watchdog_enabled() },
            Err(error) => {
                let name = name.to_string_lossy().into_owned();
                tracing::warn!(%error, name, "the service manager cannot be told anything");
                Manager::default()
            }
        }
    }

    /// Tells it that calls are taken now.
    pub async fn ready(&self, status: &str) {
        STARTED.store(true, Ordering::Relaxed);
        self.tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]).await;
    }

    /// Tells it that the configuration is being read anew; [`Manager::ready`] ends that.
    pub async fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]).await,
            Err(error) => tracing::warn!(%error, "the monotonic clock cannot be read"),
        }
    }

    /// Tells it that the daemon is stopping.
    pub async fn stopping(&self) {
        let status = NotifyState::Status("stopping: running calls are finished");
        self.tell(&[NotifyState::Stopping, status]).await;
    }

    async fn tell(&self, states: &[NotifyState<'_>]) {
        let Some(socket) = &self.socket else { return };
        let message = message(states);
        match tokio::time::timeout(TELL_TIMEOUT, socket.send(&message)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to tell the service manager"),
            Err(_) => tracing::warn!("the service manager does not listen"),
        }
    }

    /// Tells it for ever that the data plane turns, twice as often as it wants to hear that. Runs
    /// on the data plane itself: should that be stuck, the manager hears nothing and restarts it.
    pub async fn pat_watchdog(&self) {
        let (Some(socket), Some(limit)) = (&self.socket, self.watchdog) else {
            return std::future::pending().await;
        };
        let mut beats = tokio::time::interval((limit / 2).max(Duration::from_millis(1)));
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            // One that does not fit is made up for by those that wait to be read.
            let _ = socket.try_send(&message(&[NotifyState::Watchdog]));
        }
    }
}

fn open(name: &OsString) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::from(io::ErrorKind::Unsupported)),
    };
    let socket = StdDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

fn message(states: &[NotifyState<'_>]) -> Vec<u8> {
    let mut text = String::new();
    for state in states {
        let _ = writeln!(text, "{state}");
    }
    text.into_bytes()
}

/// A status is one line; another line would be another word to the manager.
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// Why a socket that was handed over cannot be served.
#[derive(Debug, Error)]
pub enum ActivationError {
    /// What the environment says makes no sense.
    #[error("the sockets the service manager hands over cannot be read: {0}")]
    Environment(#[source] io::Error),
    /// There is more than one.
    #[error(
        "the service manager hands over {0} sockets, and the daemon serves one: give its socket \
         unit one ListenStream"
    )]
    TooMany(usize),
    /// It is not one to serve.
    #[error("the socket that the service manager hands over {0}")]
    Unfit(&'static str),
    /// Somebody else could take its place.
    #[error("the socket {path} that the service manager hands over is not safe: {why}",
        path = path.display())]
    Unsafe {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Another socket was named as well.
    #[error(
        "the service manager hands over {given}, and {named} was named; name the same, or none",
        given = given.display(), named = named.display()
    )]
    Other {
        /// The one that is there.
        given: PathBuf,
        /// The one that was asked for.
        named: PathBuf,
    },
}

/// A listening socket that the service manager has opened, and keeps.
#[derive(Debug)]
pub struct Activated {
    listener: UnixListener,
    path: PathBuf,
}

impl Activated {
    /// Takes the socket over that was handed to this process, if one was. To be called once, and
    /// before anything else opens files: descriptors are named by number.
    ///
    /// # Errors
    ///
    /// When it is not a listening Unix stream socket with a path that nobody else can change.
    pub fn take() -> Result<Option<Activated>, ActivationError> {
        let mut given = sd_notify::listen_fds().map_err(ActivationError::Environment)?;
        let (Some(number), 0) = (given.next(), given.len()) else {
            return match given.len() {
                0 => Ok(None),
                more => Err(ActivationError::TooMany(more + 1)),
            };
        };
        let descriptor = sys::adopt(number).map_err(ActivationError::Environment)?;
        Activated::check(descriptor).map(Some)
    }

    fn check(descriptor: OwnedFd) -> Result<Activated, ActivationError> {
        let unfit = |why| Err(ActivationError::Unfit(why));
        if getsockopt(&descriptor, sockopt::SockType) != Ok(SockType::Stream) {
            return unfit("is no stream socket: use ListenStream");
        }
        if getsockopt(&descriptor, sockopt::AcceptConn) != Ok(true) {
            return unfit("does not listen: use Accept=no");
        }
        let family = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(
            descriptor.as_raw_fd(),
        );
        if !family.is_ok_and(|address| address.as_unix_addr().is_some()) {
            return unfit("is no Unix socket: use a path with ListenStream");
        }
        let listener = UnixListener::from(descriptor);
        let address = listener.local_addr().map_err(ActivationError::Environment)?;
        let Some(path) = address.as_pathname().map(Path::to_owned) else {
            return unfit("has no path, and so no permissions: use a path with ListenStream");
        };
        match why_unsafe(&path) {
            None => Ok(Activated { listener, path }),
            Some(why) => Err(ActivationError::Unsafe { path, why }),
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses to serve another socket than the one that was asked for, if one was.
    ///
    /// # Errors
    ///
    /// When they differ.
    pub fn must_be(&self, named: Option<&Path>) -> Result<(), ActivationError> {
        match named {
            Some(named) if named != self.path => {
                let (given, named) = (self.path.clone(), named.to_owned());
                Err(ActivationError::Other { given, named })
            }
            _ => Ok(()),
        }
    }

    /// The socket itself.
    pub(crate) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

/// What is wrong with a socket's file, if anything is: connecting needs the right to write.
fn why_unsafe(path: &Path) -> Option<&'static str> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Some("nothing is there any more");
    };
    let me = nix::unistd::geteuid().as_raw();
    if !found.file_type().is_socket() {
        return Some("something else is in its place");
    }
    if found.uid() != me && found.uid() != 0 {
        return Some("it belongs to another user; set SocketUser");
    }
    (found.mode() & 0o007 != 0).then_some("everybody may connect to it; set SocketMode=0600")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refusal(descriptor: impl Into<OwnedFd>) -> String {
        Activated::check(descriptor.into()).unwrap_err().to_string()
    }

    #[test]
    fn only_a_safe_listener_with_a_path_is_served() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        mode(0o600);
        let activated = Activated::check(listener.try_clone().unwrap().into()).unwrap();
        assert_eq!(path, activated.path());
        assert!(activated.must_be(None).is_ok() && activated.must_be(Some(&path)).is_ok());
        assert!(activated.must_be(Some(Path::new("/elsewhere"))).is_err());

        mode(0o666);
        assert!(refusal(listener.try_clone().unwrap()).contains("SocketMode=0600"));
        std::fs::remove_file(&path).unwrap();
        assert!(refusal(listener).contains("nothing is there"));

        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(refusal(tcp).contains("no Unix socket"));
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(refusal(one).contains("does not listen"));
        assert!(refusal(StdDatagram::unbound().unwrap()).contains("no stream socket"));
        let name = format!("clutch-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        let nameless = UnixListener::bind_addr(&address).unwrap();
        assert!(refusal(nameless).contains("no path"));
    }

    #[test]
    fn a_status_cannot_say_another_word() {
        let states = [NotifyState::Ready, NotifyState::Status(&one_line("a\nSTOPPING=1"))];
        assert_eq!(b"READY=1\nSTATUS=a\n".as_slice(), message(&states));
    }
}
