//! Frames on their way out of an async client: written at once when the socket takes them, kept in
//! order when it does not. No waiting here; the writer task and the callers do that.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use clutch_protocol::limits::HEADER_BYTES;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::limits::{OUTBOUND_BYTES_MAX, WRITE_PIECES_MAX};

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The system has all of it.
    Written,
    /// The socket is full; somebody must flush.
    Queued,
}

/// A frame before it is sent.
pub(crate) struct Outgoing<'a> {
    /// The request it belongs to.
    pub(crate) id: u64,
    /// Its header.
    pub(crate) header: &'a [u8; HEADER_BYTES],
    /// Its meta.
    pub(crate) meta: &'a [u8],
    /// Its payload.
    pub(crate) payload: &'a Bytes,
    /// What travels with its first byte.
    pub(crate) descriptors: &'a [Arc<OwnedFd>],
}

/// What the socket has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    queue: VecDeque<Unsent>,
    queued_bytes: usize,
    closed: Option<Vec<u64>>,
}

#[derive(Debug)]
struct Unsent {
    id: u64,
    head: Bytes,
    payload: Bytes,
    /// Whether its first bytes are gone, so that it can no longer be taken back.
    begun: bool,
    /// What its first byte will take along; empty when that is gone.
    descriptors: Vec<Arc<OwnedFd>>,
}

impl Outbound {
    /// Whether another frame may be sent; if not, the caller waits until bytes have left.
    pub(crate) fn has_room(&self) -> bool {
        self.queued_bytes < OUTBOUND_BYTES_MAX
    }

    /// Whether nothing more will be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Writes a frame with one system call, or queues what the socket does not take.
    pub(crate) fn send(&mut self, socket: impl AsFd, frame: &Outgoing<'_>) -> io::Result<Sent> {
        if self.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let pieces =
            [IoSlice::new(frame.header), IoSlice::new(frame.meta), IoSlice::new(frame.payload)];
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let written = match self.queue.is_empty() {
            true => write_with(socket, &pieces, frame.descriptors)?,
            false => 0,
        };
        if written == length {
            return Ok(Sent::Written);
        }
        let mut head = Bytes::from([&frame.header[..], frame.meta].concat());
        let mut payload = frame.payload.clone();
        payload.advance(written.saturating_sub(head.len()));
        head.advance(written.min(head.len()));
        self.queued_bytes += length - written;
        let begun = written > 0;
        let descriptors = if begun { Vec::new() } else { frame.descriptors.to_vec() };
        self.queue.push_back(Unsent { id: frame.id, head, payload, begun, descriptors });
        Ok(Sent::Queued)
    }

    /// Writes until nothing is left or the socket is full, which is `WouldBlock`.
    pub(crate) fn flush(&mut self, socket: impl AsFd) -> io::Result<()> {
        while let Some(first) = self.queue.front() {
            let mut pieces = Vec::with_capacity(WRITE_PIECES_MAX);
            // A frame with descriptors begins a message of its own, and is alone in it.
            let alone = !first.descriptors.is_empty();
            let most = if alone { 1 } else { WRITE_PIECES_MAX / 2 };
            let is_plain = |unsent: &&Unsent| alone || unsent.descriptors.is_empty();
            for unsent in self.queue.iter().take(most).take_while(is_plain) {
                pieces.push(IoSlice::new(&unsent.head));
                pieces.push(IoSlice::new(&unsent.payload));
            }
            let written = write_with(&socket, &pieces, &first.descriptors)?;
            if written == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.advance(written);
        }
        Ok(())
    }

    /// Takes back a frame of which nothing was written.
    pub(crate) fn withdraw(&mut self, id: u64) -> bool {
        let Some(at) = self.queue.iter().position(|unsent| unsent.id == id && !unsent.begun) else {
            return false;
        };
        let unsent = self.queue.remove(at).expect("it was just found");
        self.queued_bytes -= unsent.head.len() + unsent.payload.len();
        true
    }

    /// Sends nothing more, and says whose frames never left in full: the same every time.
    pub(crate) fn close(&mut self) -> &[u64] {
        self.queued_bytes = 0;
        let queue = std::mem::take(&mut self.queue);
        self.closed.get_or_insert_with(|| queue.iter().map(|unsent| unsent.id).collect())
    }

    fn advance(&mut self, mut written: usize) {
        assert!(written <= self.queued_bytes, "no more was written than was queued");
        self.queued_bytes -= written;
        while let Some(first) = self.queue.front_mut() {
            let head = written.min(first.head.len());
            first.head.advance(head);
            written -= head;
            let payload = written.min(first.payload.len());
            first.payload.advance(payload);
            written -= payload;
            if head + payload > 0 {
                first.begun = true;
                first.descriptors.clear();
            }
            if !(first.head.is_empty() && first.payload.is_empty()) {
                return;
            }
            self.queue.pop_front();
        }
    }
}

/// Writes what the socket takes right now; 0 when it is full. A peer that is gone is an error and
/// never a signal, whatever the program around us does with SIGPIPE.
pub(crate) fn write_now(socket: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    send(socket.as_fd().as_raw_fd(), pieces, &[])
}

/// The same, and passes descriptors with the first byte.
pub(crate) fn write_with(
    socket: impl AsFd,
    pieces: &[IoSlice<'_>],
    descriptors: &[Arc<OwnedFd>],
) -> io::Result<usize> {
    if descriptors.is_empty() {
        return write_now(socket, pieces);
    }
    let numbers: Vec<RawFd> = descriptors.iter().map(|one| one.as_raw_fd()).collect();
    send(socket.as_fd().as_raw_fd(), pieces, &[ControlMessage::ScmRights(&numbers)])
}

/// Whether a write failed only because too many descriptors of this user's are between two sockets.
/// Nothing was written then; the next try may succeed when one of them has been read.
pub(crate) fn is_crowded(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32)
}

fn send(
    socket: RawFd,
    pieces: &[IoSlice<'_>],
    control: &[ControlMessage<'_>],
) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket, pieces, control, flags, None) {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Ok(0),
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use clutch_protocol::{Flags, Header, Kind};

    use super::*;

    fn send(outbound: &mut Outbound, socket: &UnixStream, id: u64, payload: &[u8]) -> Sent {
        let header = [u8::try_from(id).unwrap(); HEADER_BYTES];
        let frame = Outgoing {
            id,
            header: &header,
            meta: b"meta",
            payload: &Bytes::copy_from_slice(payload),
            descriptors: &[],
        };
        outbound.send(socket, &frame).unwrap()
    }

    #[test]
    fn frames_leave_whole_and_in_order_through_a_full_socket() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut outbound = Outbound::default();
        assert_eq!(Sent::Written, send(&mut outbound, &ours, 1, b"a"));
        let large = vec![7; 1_000_000];
        assert_eq!(Sent::Queued, send(&mut outbound, &ours, 2, &large));
        assert_eq!(Sent::Queued, send(&mut outbound, &ours, 3, b"c"));
        assert_eq!(Sent::Queued, send(&mut outbound, &ours, 4, b"d"));
        assert!(!outbound.withdraw(2), "its first bytes are gone");
        assert!(outbound.withdraw(3) && !outbound.withdraw(3));
        let expected = 3 * (HEADER_BYTES + 4) + 1 + large.len() + 1;
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![0; expected];
            theirs.read_exact(&mut bytes).unwrap();
            (bytes, theirs)
        });
        while outbound.flush(&ours).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            std::thread::yield_now();
        }
        let (bytes, theirs) = reader.join().unwrap();
        assert_eq!(0, outbound.queued_bytes);
        let second = HEADER_BYTES + 4 + 1;
        let last = expected - HEADER_BYTES - 4 - 1;
        assert_eq!((1, 2, 4), (bytes[0], bytes[second], bytes[last]));
        assert!(bytes[second + HEADER_BYTES + 4..last].iter().all(|&byte| byte == 7));
        drop(theirs);
    }

    #[test]
    fn a_close_names_the_frames_that_never_left() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut outbound = Outbound::default();
        send(&mut outbound, &ours, 1, b"");
        send(&mut outbound, &ours, 2, &vec![0; OUTBOUND_BYTES_MAX + 1_000_000]);
        assert!(!outbound.has_room());
        send(&mut outbound, &ours, 3, b"");
        assert_eq!([2, 3], outbound.close());
        assert_eq!([2, 3], outbound.close());
        assert!(outbound.is_closed() && outbound.has_room());
    }

    #[test]
    fn a_gone_peer_is_an_error_and_no_signal() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let error = write_now(&ours, &[IoSlice::new(b"x")]).unwrap_err();
        assert_eq!(io::ErrorKind::BrokenPipe, error.kind());
    }

    #[test]
    fn descriptors_that_found_the_socket_full_leave_with_their_own_frame() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut outbound = Outbound::default();
        let (end, other) = nix::unistd::pipe().unwrap();
        let descriptors = [Arc::new(end)];
        let with = |outbound: &mut Outbound, kind, payload: &[u8], descriptors| {
            let header = Header {
                flags: Flags::ATTACHED,
                descriptors: u8::from(!<[Arc<OwnedFd>]>::is_empty(descriptors)),
                payload_bytes: u32::try_from(payload.len()).unwrap(),
                ..Header::new(kind, 1)
            };
            let header = header.encode();
            let payload = &Bytes::copy_from_slice(payload);
            let frame = Outgoing { id: 1, header: &header, meta: b"", payload, descriptors };
            outbound.send(&ours, &frame).unwrap()
        };
        let large = vec![7; 1_000_000];
        assert_eq!(Sent::Queued, with(&mut outbound, Kind::Result, &large, &[]));
        assert_eq!(Sent::Queued, with(&mut outbound, Kind::Result, b"", &descriptors));
        assert_eq!(Sent::Queued, with(&mut outbound, Kind::Result, &large, &descriptors));
        assert_eq!(Sent::Queued, with(&mut outbound, Kind::Result, b"", &[]));
        drop(descriptors);
        let reader = std::thread::spawn(move || {
            let mut inbox = crate::inbox::Inbox::before_hello();
            inbox.welcome(1 << 20);
            let mut counts = Vec::new();
            while counts.len() < 4 {
                inbox.fill(&theirs, MsgFlags::empty()).unwrap();
                while let Some(delivery) = inbox.next().unwrap() {
                    counts.push(delivery.descriptors.len());
                }
            }
            counts
        });
        while outbound.flush(&ours).is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock) {
            std::thread::yield_now();
        }
        assert_eq!(vec![0, 1, 1, 0], reader.join().unwrap());
        let error = nix::unistd::write(&other, b"x").unwrap_err();
        assert_eq!(Errno::EPIPE, error, "both copies and ours are closed");
    }
}
