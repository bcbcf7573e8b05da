//! The report socket: orders in, reports out, never waiting.
//!
//! Leaves to others: what an order means (`guardian`), and waiting for the socket (it is given to
//! `poll` through `AsFd`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clutch_protocol::frame::{Decoder, Frame, FrameError, Step};
use clutch_protocol::limits::DESCRIPTORS_MAX;
use clutch_protocol::message::{Forward, Signal, Spawn, SpawnProgram};
use clutch_protocol::wire::{self, Encode, MetaError};
use clutch_protocol::{Header, Kind};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use thiserror::Error;

use crate::sys;

/// How long the daemon may leave reports unread once the socket's buffer is full. There are a few
/// short ones in a guardian's life, and two more for each time that python is stopped, so a full
/// buffer means that nobody reads at all.
const UNREAD_MAX: Duration = Duration::from_secs(5);

/// Bytes read at once. A usual `Spawn` takes two reads, and the stack stays small.
const CHUNK_BYTES: usize = 4096;

/// How many descriptors come with a `Spawn`.
pub(crate) const SPAWN_DESCRIPTORS: usize = 4;

/// What the daemon wants.
#[derive(Debug)]
pub(crate) enum Order {
    /// Start python, and give it these: call socket, control socket, page, pipe for stacks.
    Spawn(Box<Spawn>, [OwnedFd; SPAWN_DESCRIPTORS]),
    /// Start a client's program, and give it these streams.
    Program(Box<SpawnProgram>, Vec<OwnedFd>),
    /// Signal it.
    Signal(Signal),
    /// Send a client's program a signal of the client's.
    Forward(Forward),
}

/// Why there will be no further order.
#[derive(Debug, Error)]
pub(crate) enum Lost {
    /// The daemon closed its end, or died.
    #[error("the daemon closed the report socket")]
    Closed,
    /// The socket failed.
    #[error("failed to receive: {0}; the daemon must not pass more descriptors than it says")]
    Socket(Errno),
    /// What came is no frame.
    #[error("failed to read a frame: {0}; daemon and guardian must be of one build")]
    Frame(#[from] FrameError),
    /// What came is no order.
    #[error("failed to read an order: {0}; daemon and guardian must be of one build")]
    Meta(#[from] MetaError),
    /// A frame that nobody sends to a guardian, or with the wrong number of descriptors.
    #[error(
        "unexpected {kind:?} with {descriptors} descriptors; send one `Spawn` with four \
         or one `SpawnProgram` with its streams, then only `Signal` and `Forward`"
    )]
    Unexpected {
        /// What it was.
        kind: Kind,
        /// How many descriptors came with it.
        descriptors: usize,
    },
}

/// The guardian's end of the report socket.
pub(crate) struct Report {
    socket: OwnedFd,
    decoder: Decoder,
    incoming: BytesMut,
    /// Received, and not yet claimed by a whole frame.
    descriptors: Vec<OwnedFd>,
    outgoing: Vec<u8>,
    /// When to stop trying to send; set while the socket takes nothing.
    give_up: Option<Instant>,
    /// Whether the daemon can be told nothing any more.
    deaf: bool,
}

impl Report {
    pub(crate) fn new(socket: OwnedFd) -> Report {
        Report {
            socket,
            decoder: Decoder::with_payload_max(0),
            incoming: BytesMut::new(),
            descriptors: Vec::new(),
            outgoing: Vec::new(),
            give_up: None,
            deaf: false,
        }
    }

    /// The next order, if a whole one has come.
    ///
    /// # Errors
    ///
    /// Once, and then nothing more is to be read.
    pub(crate) fn next(&mut self) -> Result<Option<Order>, Lost> {
        loop {
            // Exactly one frame is read at a time, so what descriptors came belong to it.
            let need = match self.decoder.step(&mut self.incoming)? {
                Step::Frame(frame) => {
                    if self.incoming.is_empty() {
                        // It may share its memory with a frame of a megabyte.
                        self.incoming = BytesMut::new();
                    }
                    let descriptors = std::mem::take(&mut self.descriptors);
                    return order(&frame, descriptors).map(Some);
                }
                Step::Need(need) => need,
            };
            // The decoder has checked the length against its limit.
            self.incoming.reserve(need);
            let mut chunk = [0; CHUNK_BYTES];
            let piece = &mut chunk[..need.min(CHUNK_BYTES)];
            match sys::receive(self.socket.as_fd(), piece, &mut self.descriptors) {
                // The second is what is left of a daemon that died with reports unread.
                Ok(0) | Err(Errno::ECONNRESET) => return Err(Lost::Closed),
                Ok(count) => self.incoming.extend_from_slice(&piece[..count]),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Lost::Socket(errno)),
            }
            if self.descriptors.len() > usize::from(DESCRIPTORS_MAX) {
                return Err(Lost::Socket(Errno::ENOBUFS));
            }
        }
    }

    /// Sends a report, or keeps it until the socket takes it.
    pub(crate) fn send<T: Encode>(&mut self, kind: Kind, meta: &T) {
        if self.deaf {
            return;
        }
        let meta = wire::encode(meta).expect("reports are a few numbers");
        let mut header = Header::new(kind, 0);
        header.meta_bytes = u32::try_from(meta.len()).expect("the encoder has a limit");
        self.outgoing.extend_from_slice(&header.encode());
        self.outgoing.extend_from_slice(&meta);
        self.flush();
    }

    /// Sends what the socket takes of what is left.
    pub(crate) fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), &self.outgoing, flags) {
                Ok(count) => {
                    self.outgoing.drain(..count);
                    self.give_up = None;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    let give_up = *self.give_up.get_or_insert_with(|| Instant::now() + UNREAD_MAX);
                    if Instant::now() >= give_up {
                        self.fall_silent();
                    }
                    return;
                }
                Err(_) => self.fall_silent(),
            }
        }
    }

    /// When [`flush`](Self::flush) is to be called at the latest; `None` if nothing is left.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.give_up
    }

    /// Whether nothing reaches the daemon any more.
    pub(crate) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// A report may be cut in two by now, so none may follow.
    fn fall_silent(&mut self) {
        self.deaf = true;
        self.outgoing = Vec::new();
        self.give_up = None;
    }
}

impl AsFd for Report {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn order(frame: &Frame, descriptors: Vec<OwnedFd>) -> Result<Order, Lost> {
    let unexpected = |descriptors: usize| Lost::Unexpected { kind: frame.header.kind, descriptors };
    let count = descriptors.len();
    if count != usize::from(frame.header.descriptors) || frame.header.payload_bytes > 0 {
        return Err(unexpected(count));
    }
    match frame.header.kind {
        Kind::Spawn => {
            let handed = descriptors.try_into().map_err(|_| unexpected(count))?;
            Ok(Order::Spawn(Box::new(wire::decode(&frame.meta)?), handed))
        }
        Kind::SpawnProgram => {
            let program: SpawnProgram = wire::decode(&frame.meta)?;
            if program.streams.open.len() != count {
                return Err(unexpected(count));
            }
            Ok(Order::Program(Box::new(program), descriptors))
        }
        Kind::Forward if count == 0 => Ok(Order::Forward(wire::decode(&frame.meta)?)),
        Kind::Signal if count == 0 => Ok(Order::Signal(wire::decode(&frame.meta)?)),
        _ => Err(unexpected(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, Report) {
        let (daemon, guardian) = UnixStream::pair().unwrap();
        (daemon, Report::new(guardian.into()))
    }

    #[test]
    fn a_daemon_that_does_not_read_is_given_up_f025() {
        let (_daemon, mut report) = pair();
        while report.deadline().is_none() {
            report.send(Kind::Swept, &0u64);
        }
        assert!(!report.is_deaf());
        report.give_up = Some(Instant::now());
        report.flush();
        assert!(report.is_deaf() && report.deadline().is_none());
        report.send(Kind::Swept, &0u64);
        assert!(report.outgoing.is_empty());
    }

    #[test]
    fn a_daemon_that_is_gone_is_no_error_to_report_to_f025() {
        let (daemon, mut report) = pair();
        drop(daemon);
        report.send(Kind::Swept, &0u64);
        assert!(report.is_deaf());
        assert!(matches!(report.next(), Err(Lost::Closed)));
    }

    #[test]
    fn a_reader_that_comes_late_still_gets_everything() {
        use std::io::Read;
        let (mut daemon, mut report) = pair();
        let mut sent = 0;
        while report.deadline().is_none() {
            report.send(Kind::Swept, &0u64);
            sent += Header::new(Kind::Swept, 0).frame_bytes() + 8;
        }
        let mut got = vec![0; sent];
        while !report.outgoing.is_empty() {
            let left = report.outgoing.len();
            daemon.read_exact(&mut got[..sent - left]).unwrap();
            got.truncate(left);
            sent = left;
            report.flush();
        }
        assert!(!report.is_deaf() && report.deadline().is_none());
        daemon.read_exact(&mut got[..sent]).unwrap();
    }
}
