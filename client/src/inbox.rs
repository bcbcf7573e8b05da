//! Bytes from the socket, turned into frames. Shared by both clients; who waits for the bytes, and
//! what a frame means, is theirs.
//!
//! [`Inbox::fill`] is the only place of this crate that reads a socket, so that a later version in
//! which the daemon sends descriptors replaces one `recv` by one `recvmsg`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use bytes::BytesMut;
use clutch_protocol::frame::{Decoder, Step};
use clutch_protocol::limits::PAYLOAD_BYTES_DEFAULT;
use clutch_protocol::{Frame, FrameError};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::limits::READ_BYTES;

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
        let count = loop {
            match recv(socket.as_fd().as_raw_fd(), target, flags) {
                Err(Errno::EINTR) => {}
                other => break other?,
            }
        };
        match &mut self.large {
            _ if count == 0 => return Ok(Filled::End),
            Some(large) => large.filled += count,
            None => self.buffer.extend_from_slice(&self.scratch[..count]),
        }
        Ok(if count < wanted { Filled::All } else { Filled::Some })
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

    /// Takes the next whole frame.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream as StdStream;

    use clutch_protocol::{Header, Kind};

    use super::*;

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
            while let Some(frame) = inbox.next().unwrap() {
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
        assert!(matches!(inbox.next(), Err(FrameError::TooLong { .. })));
        assert!(inbox.large.is_none());
    }
}
