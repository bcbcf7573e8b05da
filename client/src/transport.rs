//! From a path to a connected socket that has been welcomed. `interprocess` names and connects; the
//! system's own socket is unwrapped from it at once, since its stream has no vectored writes.
//!
//! Connecting a local socket never takes time: it succeeds, fails, or finds the daemon's backlog
//! full. So both clients connect without waiting, and each waits in its own way before the next
//! try.

use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clutch_protocol::limits::{PROGRAM_BYTES_MAX, WORKER_TOKEN_BYTES_MAX};
use clutch_protocol::message::{Hello, Refused, Role, Welcome, version};
use clutch_protocol::{Frame, Header, Kind, wire};
use interprocess::ConnectWaitMode;
use interprocess::local_socket::{
    ConnectOptions as Options, GenericFilePath, Stream, ToFsName as _,
};

use crate::error::{ConnectError, HandshakeError};
use crate::inbox::Inbox;
use crate::limits::{BACKLOG_WAIT, CONNECT_TIMEOUT, SOCKET_PATH_BYTES_MAX};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The daemon's socket.
    pub path: PathBuf,
    /// How long connecting may take, the daemon's welcome included.
    pub timeout: Duration,
    /// The program's name and version, for the daemon's log.
    pub program: String,
}

impl ConnectOptions {
    /// Connects to `path` within [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT).
    pub fn new(path: impl Into<PathBuf>) -> ConnectOptions {
        ConnectOptions { path: path.into(), timeout: CONNECT_TIMEOUT, program: PROGRAM.into() }
    }

    /// Connects to [`default_socket`].
    ///
    /// # Errors
    ///
    /// When there is no default.
    pub fn from_default() -> Result<ConnectOptions, ConnectError> {
        default_socket().map(ConnectOptions::new)
    }

    /// Allows connecting this long.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> ConnectOptions {
        ConnectOptions { timeout, ..self }
    }

    /// Names the program in the daemon's log.
    #[must_use]
    pub fn program(self, program: impl Into<String>) -> ConnectOptions {
        ConnectOptions { program: program.into(), ..self }
    }

    /// For a socket that is connected already.
    pub(crate) fn adopted() -> ConnectOptions {
        ConnectOptions::new("(an inherited socket)")
    }

    /// When connecting is given up.
    pub(crate) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.timeout).unwrap_or(now + CONNECT_TIMEOUT)
    }

    /// The error for a deadline that passed.
    pub(crate) fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut { path: self.path.clone(), timeout: self.timeout }
    }
}

/// What the daemon's log says when the program does not say more.
pub(crate) const PROGRAM: &str = concat!("clutch-client ", env!("CARGO_PKG_VERSION"));

/// The socket of this user's daemon: `CLUTCH_SOCKET`; else `clutch/clutch.sock` in
/// `XDG_RUNTIME_DIR`, in `/run/user/UID`, or for root in `/run`: the first of them that is there
/// already, or else the first.
///
/// # Errors
///
/// When there is none of these.
pub fn default_socket() -> Result<PathBuf, ConnectError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let uid = nix::unistd::getuid();
    let user = Path::new("/run/user").join(uid.to_string());
    // The specification wants a relative XDG_RUNTIME_DIR ignored.
    let bases = [
        set("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()),
        user.is_dir().then_some(user),
        uid.is_root().then(|| "/run".into()),
    ];
    choose_socket(set("CLUTCH_SOCKET"), bases, Path::exists)
}

/// A daemon that was started by the system and one that was started in a session may have other
/// variables than whoever looks for them; so what is there counts, before what would be made.
fn choose_socket(
    named: Option<PathBuf>,
    bases: [Option<PathBuf>; 3],
    exists: impl Fn(&Path) -> bool,
) -> Result<PathBuf, ConnectError> {
    if let Some(path) = named {
        return Ok(path);
    }
    let places: Vec<_> =
        bases.into_iter().flatten().map(|base| base.join("clutch/clutch.sock")).collect();
    let there = places.iter().find(|place| exists(place));
    there.or(places.first()).cloned().ok_or(ConnectError::NoPath)
}

/// Refuses what no socket can be named.
pub(crate) fn check_path(path: &Path) -> Result<(), ConnectError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.starts_with(b"@") || bytes.starts_with(b"\0") {
        return Err(ConnectError::AbstractName { name: path.into() });
    }
    if bytes.len() > SOCKET_PATH_BYTES_MAX {
        return Err(ConnectError::PathTooLong { path: path.into(), bytes: bytes.len() });
    }
    Ok(())
}

/// Connects if the daemon can take a connection right now; `None` when its backlog is full. The
/// socket blocks.
pub(crate) fn connect_now(path: &Path) -> Result<Option<UnixStream>, ConnectError> {
    let fault = |source: io::Error| {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ConnectError::NoDaemon { path, source }
            }
            io::ErrorKind::PermissionDenied => ConnectError::Permission { path, source },
            _ => ConnectError::Io { path, source },
        }
    };
    let name = path.to_fs_name::<GenericFilePath>().map_err(fault)?;
    let options = Options::new().name(name).wait_mode(ConnectWaitMode::Deferred);
    let Stream::UdSocket(stream) = options.connect_sync().map_err(fault)?;
    let stream = UnixStream::from(OwnedFd::from(stream));
    // interprocess takes a full backlog for a connection on its way and returns a socket that will
    // never be connected. Only a connected one has a peer. (Asking for the peer's credentials, as
    // its own documentation suggests, would call a daemon in another pid namespace unconnected.)
    match stream.peer_addr() {
        Ok(_) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(None),
        Err(error) => Err(fault(error)),
    }
}

/// The pauses between tries at a full backlog: doubling, each with jitter, so that a crowd of
/// clients does not come back as one.
pub(crate) struct Backoff {
    pause: Duration,
    seed: u64,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        // A hasher's random key is the only randomness the standard library has.
        let seed = std::hash::RandomState::new().build_hasher().finish() | 1;
        Backoff { pause: BACKLOG_WAIT[0], seed }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    /// Between half of the pause and all of it.
    fn next(&mut self) -> Option<Duration> {
        // xorshift64: no randomness worth the name, but no two clients alike.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let half = self.pause / 2;
        let jitter = half * u32::try_from(self.seed % 1024).expect("below 1024") / 1024;
        self.pause = (self.pause * 2).min(BACKLOG_WAIT[1]);
        Some(half + jitter)
    }
}

/// The first frame of a client.
pub(crate) fn hello(program: &str) -> Vec<u8> {
    let mut program = program.to_owned();
    while program.len() > PROGRAM_BYTES_MAX {
        program.pop();
    }
    let hello = Hello {
        version_min: version::MIN,
        version_max: version::MAX,
        role: Role::Client,
        program,
        worker: worker_token(),
    };
    let meta = wire::encode(&hello).expect("a hello is far below a meta's limit");
    let meta_bytes = u32::try_from(meta.len()).expect("so is its length");
    let header = Header { meta_bytes, ..Header::new(Kind::Hello, 0) };
    [&header.encode()[..], &meta].concat()
}

/// What tells the daemon that this process belongs to one of its workers, whose call waits for what
/// is called here, and which call that is where it was said; empty where it belongs to none.
fn worker_token() -> String {
    let mut token = std::env::var("CLUTCH_WORKER").unwrap_or_default();
    if let Ok(call) = std::env::var("CLUTCH_CALL")
        && !token.is_empty()
        && !call.is_empty()
    {
        token = format!("{token}.{call}");
    }
    if token.len() > WORKER_TOKEN_BYTES_MAX { String::new() } else { token }
}

/// Reads the daemon's answer to it.
pub(crate) fn read_welcome(frame: &Frame, path: &Path) -> Result<Welcome, ConnectError> {
    let fault = |source| ConnectError::Protocol { path: path.into(), source };
    match frame.header.kind {
        Kind::Welcome => {
            // Only a prefix: a newer daemon's welcome may be longer, as its hello may.
            let (welcome, _) =
                wire::decode_prefix::<Welcome>(&frame.meta).map_err(|error| fault(error.into()))?;
            if (version::MIN..=version::MAX).contains(&welcome.version) {
                Ok(welcome)
            } else {
                Err(fault(HandshakeError::Version(welcome.version)))
            }
        }
        Kind::Refused => {
            let (Refused { refusal, sentence }, _) =
                wire::decode_prefix(&frame.meta).map_err(|error| fault(error.into()))?;
            Err(ConnectError::Refused { refusal, sentence })
        }
        kind => Err(fault(HandshakeError::Unexpected(kind))),
    }
}

/// The next frame of a handshake.
pub(crate) fn next_frame(inbox: &mut Inbox, path: &Path) -> Result<Option<Frame>, ConnectError> {
    let next = inbox.next().map(|next| next.map(|delivery| delivery.frame));
    next.map_err(|error| ConnectError::Protocol { path: path.into(), source: error.into() })
}

/// What a failed read or write means during a handshake.
pub(crate) fn greeting_fault(source: io::Error, path: &Path) -> ConnectError {
    let path = path.into();
    if is_hang_up(&source) {
        let source = HandshakeError::Closed;
        ConnectError::Protocol { path, source }
    } else {
        ConnectError::Io { path, source }
    }
}

/// Whether the other side has closed.
pub(crate) fn is_hang_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_socket_is_the_nearest_one_f160() {
        let path = |text: &str| Some(PathBuf::from(text));
        let [runtime, user, root] = [path("/x"), path("/run/user/7"), path("/run")];
        let choose =
            |bases, there: &str| choose_socket(None, bases, |place| place == Path::new(there)).ok();
        let all = [runtime, user.clone(), root.clone()];
        let named = choose_socket(path("n.sock"), all.clone(), |_| true).ok();
        assert_eq!(path("n.sock"), named);
        assert_eq!(path("/x/clutch/clutch.sock"), choose(all.clone(), "nowhere"));
        let session = [None, user, root.clone()];
        assert_eq!(path("/run/user/7/clutch/clutch.sock"), choose(session, "nowhere"));
        // A daemon of the system's is found from a session, too.
        let system = "/run/clutch/clutch.sock";
        assert_eq!(path(system), choose(all, system));
        assert_eq!(path(system), choose([None, None, root], "nowhere"));
        let none = choose_socket(None, [None, None, None], |_| true);
        assert!(matches!(none, Err(ConnectError::NoPath)));
    }

    #[test]
    fn names_no_socket_can_have_are_refused() {
        let long = "/".repeat(SOCKET_PATH_BYTES_MAX + 1);
        let error = check_path(long.as_ref()).unwrap_err();
        assert!(matches!(error, ConnectError::PathTooLong { bytes: 108, .. }));
        assert!(check_path(long[1..].as_ref()).is_ok());
        let error = check_path("@clutch".as_ref()).unwrap_err();
        assert!(matches!(error, ConnectError::AbstractName { .. }));
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        let pauses: Vec<_> = Backoff::new().take(40).collect();
        assert!(pauses.iter().all(|pause| *pause <= BACKLOG_WAIT[1]));
        assert!(pauses[0] >= BACKLOG_WAIT[0] / 2 && pauses[39] >= BACKLOG_WAIT[1] / 2);
    }

    #[test]
    fn a_program_name_of_any_length_makes_a_hello() {
        assert!(hello(&"ä".repeat(10_000)).len() < 400);
    }
}
