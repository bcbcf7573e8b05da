//! Why there is no connection. Why a call failed is the protocol's own [`Failure`](crate::Failure).

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clutch_protocol::message::Refusal;
use clutch_protocol::wire::MetaError;
use clutch_protocol::{FrameError, Kind};
use thiserror::Error;

use crate::inbox::InboxError;
use crate::limits::SOCKET_PATH_BYTES_MAX;

/// Why a client could not connect. Each text says what to do next.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody listens.
    #[error(
        "no daemon listens at {path} ({source}); start one with `clutch serve --socket {path}`, or \
         name another socket with --socket or CLUTCH_SOCKET",
        path = path.display()
    )]
    NoDaemon {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The daemon answered, and does not want this connection.
    #[error("the daemon refused the connection: {sentence}")]
    Refused {
        /// Why, for programs.
        refusal: Refusal,
        /// Why and what to do, for people.
        sentence: String,
    },
    /// There is no socket to look for.
    #[error(
        "no socket is named and this user has no default one; set CLUTCH_SOCKET (or pass --socket) \
         to the daemon's socket, or set XDG_RUNTIME_DIR to a directory of yours"
    )]
    NoPath,
    /// The daemon took too long.
    #[error(
        "the daemon at {path} did not answer within {timeout:?}; it may be stopped or overloaded",
        path = path.display()
    )]
    TimedOut {
        /// Where it listens.
        path: PathBuf,
        /// How long was waited.
        timeout: Duration,
    },
    /// No socket can have this name.
    #[error(
        "the socket path {path} has {bytes} bytes, the system allows {SOCKET_PATH_BYTES_MAX}; \
         choose a shorter one",
        path = path.display()
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
    /// The name is one of Linux's abstract sockets, which have no permissions.
    #[error(
        "{name} names an abstract socket, which any user could open; name a file instead",
        name = name.display()
    )]
    AbstractName {
        /// The name.
        name: PathBuf,
    },
    /// The system does not let this user connect.
    #[error(
        "no permission to connect to {path}; it belongs to another user: run as that user, or \
         start a daemon of your own",
        path = path.display()
    )]
    Permission {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Whoever listens there does not speak this protocol.
    #[error(
        "what listens at {path} is no Clutch daemon this client understands: {source}",
        path = path.display()
    )]
    Protocol {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: HandshakeError,
    },
    /// The system failed in some other way, such as having no descriptors left.
    #[error("cannot connect to {path}: {source}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// How a handshake went wrong.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// It hung up.
    #[error("it closed the connection without a word")]
    Closed,
    /// It sent no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It sent file descriptors, which no welcome has.
    #[error("it sent file descriptors before anything was asked for")]
    Descriptors,
    /// It sent a frame whose meta makes no sense.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// It sent another frame than a welcome.
    #[error("it answered hello with {0:?}")]
    Unexpected(Kind),
    /// It chose a protocol version this client did not offer.
    #[error("it chose protocol version {0}, which was not offered")]
    Version(u16),
}

impl From<InboxError> for HandshakeError {
    fn from(error: InboxError) -> HandshakeError {
        match error {
            InboxError::Frame(error) => error.into(),
            InboxError::Unannounced
            | InboxError::Missing { .. }
            | InboxError::Forbidden(_)
            | InboxError::Truncated => HandshakeError::Descriptors,
        }
    }
}
