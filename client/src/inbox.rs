//! Bytes from the socket, turned into frames, each with the descriptors that came with it. Shared
//! by both clients; who waits for the bytes, and what a frame means, is theirs.
//!
//! [`Inbox::fill`] is the only place of this crate that reads a socket. Descriptors travel with the
//! first byte of their frame, and the kernel ends a receive behind the bytes that descriptors came
//! with. So whatever is held when all whole frames have been taken out belongs to the frame that
//! has come in part, and what no header announces is found out at once.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use bytes::BytesMut;
use clutch_protocol::frame::{Decoder, Step};
use clutch_protocol::limits::PAYLOAD_BYTES_DEFAULT;
use clutch_protocol::{Flags, Frame, FrameError, Header, Kind};
use nix::sys::socket::MsgFlags;
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::limits::READ_BYTES;
use crate::sys;

/// A frame, and the descriptors that came with it: as many as its header says, or none when this
/// process had no room for all of them.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) frame: Frame,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// Why nothing more can be taken in. Descriptors that are held are closed with the inbox.
#[derive(Debug, Error)]
pub(crate) enum InboxError {
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors came that no frame announced.
    #[error("descriptors came that no frame had announced")]
    Unannounced,
    /// A frame announced descriptors that did not come.
    #[error("a frame announced {announced} descriptors, and {came} came")]
    Missing {
        /// What its header says.
        announced: u8,
        /// How many there are.
        came: usize,
    },
    /// A frame that may carry none announced some.
    #[error("a {0:?} announced descriptors, which only what has attachments may carry")]
    Forbidden(Kind),
    /// So many descriptors came at once that the system dropped some.
    #[error("more descriptors came at once than any frame carries")]
    Truncated,
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Bytes, and there may be more.
    Some,
    /// Bytes, and the socket had no more.
    All,
    /// The end: the peer has closed.
    End,
}

/// A receive buffer and the decoder that cuts it into frames.
pub(crate) struct Inbox {
    decoder: Decoder,
    buffer: BytesMut,
    /// Small frames are read here first, then copied behind each other into `buffer`.
    scratch: Box<[u8]>,
    /// A frame larger than `scratch` is read into its own memory, where its payload stays. The
    /// memory comes zeroed from the system, so none of it is touched before its bytes arrive.
    large: Option<Large>,
    /// Descriptors of the frames in the buffer. None stands for those that this process had no room
    /// for, of the frame that those before it belong to: that frame is taken without any.
    descriptors: VecDeque<Option<OwnedFd>>,
    /// Whether more came at once than any frame has.
    truncated: bool,
}

struct Large {
    memory: BytesMut,
    filled: usize,
}

impl Inbox {
    /// For a peer that has not said welcome yet.
    pub(crate) fn before_hello() -> Inbox {
        Inbox {
            // The daemon's answer names its pools, so it may be longer than a hello.
            decoder: Decoder::with_payload_max(0),
            buffer: BytesMut::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            large: None,
            descriptors: VecDeque::new(),
            truncated: false,
        }
    }

    /// From now on, takes frames as long as the daemon announced. A status may be longer than the
    /// longest payload of a call, hence at least the default.
    pub(crate) fn welcome(&mut self, payload_bytes_max: u32) {
        assert!(self.large.is_none(), "a welcome is never a large frame");
        self.decoder = Decoder::with_payload_max(payload_bytes_max.max(PAYLOAD_BYTES_DEFAULT));
    }

    /// Reads once.
    pub(crate) fn fill(&mut self, socket: impl AsFd, flags: MsgFlags) -> io::Result<Filled> {
        let target = match &mut self.large {
            Some(large) => &mut large.memory[large.filled..],
            None => &mut self.scratch[..],
        };
        let wanted = target.len();
        assert!(wanted > 0, "a complete frame is taken out before the next read");
        let held = &mut self.descriptors;
        let received = loop {
            match sys::receive(socket.as_fd(), target, flags, &mut |one| held.push_back(Some(one)))
            {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if received.truncated {
            self.truncated |= received.descriptors >= sys::DESCRIPTOR_ROOM;
            self.descriptors.push_back(None);
        }
        let count = received.bytes;
        match &mut self.large {
            _ if count == 0 => return Ok(Filled::End),
            Some(large) => large.filled += count,
            None => self.buffer.extend_from_slice(&self.scratch[..count]),
        }
        // A receive that brought descriptors ends behind them, whatever follows.
        let all = count < wanted && received.descriptors == 0;
        Ok(if all { Filled::All } else { Filled::Some })
    }

    /// Reads once from an async socket, waiting for something to read.
    pub(crate) async fn receive(&mut self, socket: &UnixStream) -> io::Result<Filled> {
        loop {
            socket.readable().await?;
            let mut all = false;
            let read = socket.try_io(Interest::READABLE, || {
                match self.fill(socket, MsgFlags::MSG_DONTWAIT)? {
                    // A further read would only learn that there is no more. Saying so now makes
                    // tokio wait for the next bytes; ones that came since are not missed, since
                    // tokio notes the moment before this closure runs.
                    Filled::All => {
                        all = true;
                        Err(io::ErrorKind::WouldBlock.into())
                    }
                    other => Ok(other),
                }
            });
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if all {
                        return Ok(Filled::All);
                    }
                }
                other => return other,
            }
        }
    }

    /// Takes the next whole frame, with its descriptors.
    pub(crate) fn next(&mut self) -> Result<Option<Delivery>, InboxError> {
        if self.truncated {
            return Err(InboxError::Truncated);
        }
        let Some(frame) = self.next_frame()? else {
            return self.check_held().map(|()| None);
        };
        check_carrier(&frame.header)?;
        let descriptors = self.take_descriptors(frame.header.descriptors)?;
        if !self.descriptors.is_empty() && self.buffer.is_empty() {
            // They came with this frame, since nothing came behind it.
            return Err(InboxError::Unannounced);
        }
        Ok(Some(Delivery { frame, descriptors }))
    }

    /// Those of the frame at the front.
    fn take_descriptors(&mut self, announced: u8) -> Result<Vec<OwnedFd>, InboxError> {
        let mut taken = Vec::with_capacity(usize::from(announced));
        while taken.len() < usize::from(announced) {
            match self.descriptors.pop_front() {
                Some(Some(one)) => taken.push(one),
                Some(None) => return Ok(Vec::new()),
                None => return Err(InboxError::Missing { announced, came: taken.len() }),
            }
        }
        Ok(taken)
    }

    /// No more descriptors are held than the frame that has come in part says are its own.
    fn check_held(&self) -> Result<(), InboxError> {
        let Some(header) = self.decoder.pending() else {
            // Without a whole header nobody knows yet, but a byte of one must be there.
            let is_owned = self.descriptors.is_empty() || !self.buffer.is_empty();
            return if is_owned { Ok(()) } else { Err(InboxError::Unannounced) };
        };
        check_carrier(header)?;
        if self.descriptors.len() > usize::from(header.descriptors) {
            return Err(InboxError::Unannounced);
        }
        Ok(())
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(large) = self.large.take_if(|large| large.filled == large.memory.len()) {
            self.buffer = large.memory;
        }
        if self.large.is_some() {
            return Ok(None);
        }
        match self.decoder.step(&mut self.buffer)? {
            Step::Frame(frame) => Ok(Some(frame)),
            Step::Need(_) => {
                if let Some(header) = self.decoder.pending()
                    && header.frame_bytes() > READ_BYTES
                {
                    let mut memory = BytesMut::zeroed(header.frame_bytes());
                    let filled = self.buffer.len();
                    memory[..filled].copy_from_slice(&self.buffer);
                    self.buffer.clear();
                    self.large = Some(Large { memory, filled });
                }
                Ok(None)
            }
        }
    }
}

/// Only what has attachments may carry descriptors.
fn check_carrier(header: &Header) -> Result<(), InboxError> {
    let may = header.flags.has(Flags::ATTACHED);
    if header.descriptors > 0 && !may {
        return Err(InboxError::Forbidden(header.kind));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::os::unix::net::UnixStream as StdStream;
    use std::sync::Arc;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::outbound::write_with;

    fn bytes_of(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            payload_bytes: u32::try_from(payload.len()).unwrap(),
            ..Header::new(kind, id)
        };
        [&header.encode()[..], payload].concat()
    }

    #[test]
    fn small_and_large_frames_come_out_as_they_went_in_f078() {
        let large: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut bytes = bytes_of(Kind::Result, 1, b"small");
        bytes.extend(bytes_of(Kind::Result, 2, &large));
        bytes.extend(bytes_of(Kind::Result, 3, b""));
        bytes.extend(bytes_of(Kind::Result, 4, &large[..70_000]));
        let (mut writer, reader) = StdStream::pair().unwrap();
        let sender = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
        let mut inbox = Inbox::before_hello();
        inbox.welcome(1 << 20);
        let mut frames = Vec::new();
        while inbox.fill(&reader, MsgFlags::empty()).unwrap() != Filled::End {
            while let Some(Delivery { frame, .. }) = inbox.next().unwrap() {
                frames.push((frame.header.id, frame.payload));
            }
        }
        sender.join().unwrap();
        let wanted: [(u64, &[u8]); 4] =
            [(1, b"small"), (2, &large), (3, b""), (4, &large[..70_000])];
        assert_eq!(wanted.len(), frames.len());
        for ((id, payload), frame) in wanted.into_iter().zip(&frames) {
            assert!(id == frame.0 && payload == &frame.1[..], "frame {id}");
        }
    }

    #[test]
    fn a_length_beyond_the_limit_allocates_nothing_f071() {
        let (mut writer, reader) = StdStream::pair().unwrap();
        let header = Header { payload_bytes: 1 << 30, ..Header::new(Kind::Result, 1) };
        writer.write_all(&header.encode()).unwrap();
        let mut inbox = Inbox::before_hello();
        inbox.welcome(1 << 20);
        inbox.fill(&reader, MsgFlags::empty()).unwrap();
        assert!(matches!(inbox.next(), Err(InboxError::Frame(FrameError::TooLong { .. }))));
        assert!(inbox.large.is_none());
    }

    /// The read ends of that many pipes, and the other ends, which tell whether those are closed.
    fn pipes(count: usize) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
        (0..count).map(|_| nix::unistd::pipe().unwrap()).unzip()
    }

    fn is_closed(writer: &OwnedFd) -> bool {
        let polled = PollFd::new(writer.as_fd(), PollFlags::POLLOUT);
        let mut polled = [polled];
        poll(&mut polled, PollTimeout::ZERO).unwrap();
        polled[0].revents().unwrap().contains(PollFlags::POLLERR)
    }

    fn attached(id: u64, descriptors: u8, payload: &[u8]) -> Vec<u8> {
        let header = Header {
            flags: Flags::ATTACHED,
            descriptors,
            payload_bytes: u32::try_from(payload.len()).unwrap(),
            ..Header::new(Kind::Result, id)
        };
        [&header.encode()[..], payload].concat()
    }

    fn pass(socket: &StdStream, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        let descriptors: Vec<_> = descriptors.into_iter().map(Arc::new).collect();
        let written = write_with(socket, &[IoSlice::new(bytes)], &descriptors).unwrap();
        assert_eq!(bytes.len(), written);
    }

    fn taken(reader: &StdStream) -> Result<Vec<(u64, usize)>, InboxError> {
        let mut inbox = Inbox::before_hello();
        inbox.welcome(1 << 20);
        let mut frames = Vec::new();
        while inbox.fill(reader, MsgFlags::MSG_DONTWAIT).is_ok_and(|filled| filled != Filled::End) {
            while let Some(Delivery { frame, descriptors }) = inbox.next()? {
                assert_eq!(usize::from(frame.header.descriptors), descriptors.len());
                frames.push((frame.header.id, descriptors.len()));
            }
        }
        Ok(frames)
    }

    #[test]
    fn each_frame_gets_the_descriptors_that_travelled_with_it() {
        let (writer, reader) = StdStream::pair().unwrap();
        let (ends, others) = pipes(5);
        let mut ends = ends.into_iter();
        pass(&writer, &bytes_of(Kind::Result, 1, b"none"), vec![]);
        pass(&writer, &attached(2, 2, b"two"), ends.by_ref().take(2).collect());
        pass(&writer, &attached(3, 3, &[7; 70_000]), ends.collect());
        pass(&writer, &bytes_of(Kind::Result, 4, b"none"), vec![]);
        assert_eq!(vec![(1, 0), (2, 2), (3, 3), (4, 0)], taken(&reader).unwrap());
        assert!(others.iter().all(is_closed), "what nobody kept is closed");
    }

    #[test]
    fn descriptors_of_a_frame_that_comes_byte_by_byte_are_its_own() {
        let (writer, reader) = StdStream::pair().unwrap();
        let (mut ends, _others) = pipes(1);
        let bytes = attached(9, 1, b"slow");
        let mut inbox = Inbox::before_hello();
        inbox.welcome(1 << 20);
        for (at, byte) in bytes.iter().enumerate() {
            let with = if at == 0 { vec![ends.pop().unwrap()] } else { vec![] };
            pass(&writer, &[*byte], with);
            inbox.fill(&reader, MsgFlags::empty()).unwrap();
            let next = inbox.next().unwrap();
            assert_eq!(at + 1 == bytes.len(), next.is_some());
        }
    }

    #[test]
    fn what_is_not_announced_or_does_not_come_ends_the_connection() {
        let (ends, others) = pipes(4);
        let mut ends = ends.into_iter();
        let mut fault = |bytes: &[u8], descriptors: usize| {
            let (writer, reader) = StdStream::pair().unwrap();
            pass(&writer, bytes, ends.by_ref().take(descriptors).collect());
            taken(&reader).unwrap_err()
        };
        let plain = bytes_of(Kind::Result, 1, b"payload");
        assert!(matches!(fault(&plain, 1), InboxError::Unannounced));
        assert!(matches!(fault(&plain[..35], 1), InboxError::Unannounced), "a part is enough");
        assert!(matches!(fault(&attached(1, 1, b""), 2), InboxError::Unannounced));
        let missing = fault(&attached(1, 1, b""), 0);
        assert!(matches!(missing, InboxError::Missing { announced: 1, came: 0 }));
        let forbidden = Header { descriptors: 1, ..Header::new(Kind::Pong, 1) };
        let forbidden = fault(&forbidden.encode(), 0);
        assert!(matches!(forbidden, InboxError::Forbidden(Kind::Pong)));
        assert!(others.iter().all(is_closed));
    }

    #[test]
    fn what_there_was_no_room_for_is_missed_by_its_own_frame_alone() {
        let mut inbox = Inbox::before_hello();
        let end = || nix::unistd::pipe().unwrap().0;
        inbox.descriptors.extend([Some(end()), Some(end()), None, Some(end()), None]);
        assert_eq!(1, inbox.take_descriptors(1).unwrap().len());
        assert_eq!(0, inbox.take_descriptors(3).unwrap().len(), "one of its three came");
        assert_eq!(1, inbox.take_descriptors(1).unwrap().len(), "not that of the frame before");
        assert_eq!(0, inbox.take_descriptors(1).unwrap().len());
        let missing = inbox.take_descriptors(1);
        assert!(matches!(missing, Err(InboxError::Missing { announced: 1, came: 0 })));
    }

    #[test]
    fn more_descriptors_than_fit_are_noticed() {
        let (writer, reader) = StdStream::pair().unwrap();
        let (ends, others) = pipes(usize::from(clutch_protocol::limits::DESCRIPTORS_MAX) + 16);
        pass(&writer, &attached(1, 64, b""), ends);
        assert!(matches!(taken(&reader), Err(InboxError::Truncated)));
        assert!(others.iter().all(is_closed));
    }
}
