//! The way in of a connection: receives what is there and cuts frames out of it.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use bytes::BytesMut;
use clutch_protocol::frame::{Decoder, Step};
use clutch_protocol::{Frame, FrameError, Header, Kind};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::attached::Attached;
use super::holdings::Ledger;
use super::intake::{Intake, IntakeError};
use crate::limits::BUDGETED_BYTES_MIN;
use crate::sys;

/// Room for the first receives of a connection: enough for dozens of small calls, and little enough
/// for thousands of idle clients.
const RECEIVE_BYTES_MIN: usize = 4 << 10;

/// Room for one receive of a busy connection. A local socket's own buffer is 208 KiB by default, so
/// a few receives empty it.
const RECEIVE_BYTES_MAX: usize = 64 << 10;

/// How much is taken in one turn before others get theirs.
const TURN_BYTES: usize = 512 << 10;

/// Why nothing more comes in.
#[derive(Debug, Error)]
pub enum InboxError {
    /// The bytes are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Descriptors came that are not taken.
    #[error(transparent)]
    Descriptors(#[from] IntakeError),
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(io::Error),
}

/// What a turn of receiving ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing more is there now.
    Empty,
    /// The turn is over, but there may be more.
    More,
    /// The peer will send nothing more.
    End,
}

/// The way in of one connection.
#[derive(Debug)]
pub struct Inbox {
    stream: Rc<UnixStream>,
    buffer: BytesMut,
    decoder: Decoder,
    intake: Intake,
    /// Room for the next receive; doubled whenever one was filled.
    room: usize,
}

impl Inbox {
    /// An inbox that judges frames by `decoder`, and takes no descriptors.
    pub fn new(stream: Rc<UnixStream>, decoder: Decoder) -> Inbox {
        let intake = Intake::default();
        Inbox { stream, buffer: BytesMut::new(), decoder, intake, room: RECEIVE_BYTES_MIN }
    }

    /// The same, but takes what is attached to frames of these kinds, and counts on `ledger` what
    /// it refuses. Only between frames.
    #[must_use]
    pub fn taking(self, kinds: &'static [Kind], ledger: Ledger) -> Inbox {
        Inbox { intake: Intake::new(kinds, ledger), ..self }
    }

    /// From now on, takes what is attached to frames of these kinds. Only between frames.
    pub fn take_attached(&mut self, kinds: &'static [Kind], ledger: Ledger) {
        assert!(self.intake.is_empty(), "what has come is judged by one rule");
        self.intake = Intake::new(kinds, ledger);
    }

    /// Judges the frames that follow by another decoder. Only between frames.
    pub fn set_decoder(&mut self, decoder: Decoder) {
        assert!(self.decoder.pending().is_none(), "a frame is judged by one decoder");
        self.decoder = decoder;
    }

    /// The header of a frame that has come in part.
    pub fn pending(&self) -> Option<&Header> {
        self.decoder.pending()
    }

    /// Bytes of a frame that has come in part.
    pub fn partial_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame that has been received whole, and what is attached to it.
    ///
    /// # Errors
    ///
    /// When the bytes are no frame, or the descriptors not its own.
    pub fn next_frame(&mut self) -> Result<Option<(Frame, Attached)>, InboxError> {
        if self.buffer.is_empty() {
            self.intake.settle(false, None)?;
            return Ok(None);
        }
        match self.decoder.step(&mut self.buffer).inspect_err(|_| self.intake.close())? {
            Step::Frame(frame) => {
                let attached = self.intake.claim(&frame.header, self.buffer.is_empty())?;
                if frame.header.payload_bytes >= BUDGETED_BYTES_MIN {
                    // What follows a long frame must not keep its memory, which is given back when
                    // its call is answered.
                    self.buffer = BytesMut::from(&self.buffer[..]);
                }
                Ok(Some((frame, attached)))
            }
            Step::Need(_) => {
                self.intake.settle(true, self.decoder.pending())?;
                Ok(None)
            }
        }
    }

    /// Receives once, without waiting.
    ///
    /// # Errors
    ///
    /// When the socket fails or brings descriptors that cannot be taken.
    pub fn receive(&mut self) -> Result<Pumped, InboxError> {
        self.make_room();
        let (stream, buffer, intake) = (&self.stream, &mut self.buffer, &mut self.intake);
        let room = buffer.capacity() - buffer.len();
        let mut filled = false;
        let mut outcome = Ok(Pumped::Empty);
        // The closure says "would block" after a short read as well: a stream socket that gave less
        // than there was room for is empty, and saying so saves the call that would find out.
        let _ = stream.try_io(Interest::READABLE, || {
            let received = sys::receive(stream.as_fd(), buffer, usize::MAX, intake.room());
            match received {
                // A receive ends with the message that has descriptors, so there may be more.
                Ok(got) if got.descriptors || got.truncated => {
                    outcome = intake.came(got.truncated).map(|()| Pumped::More).map_err(Into::into);
                    Ok(())
                }
                Ok(got) if got.bytes == 0 => {
                    outcome = Ok(Pumped::End);
                    Ok(())
                }
                Ok(got) => {
                    outcome = Ok(Pumped::More);
                    filled = got.bytes == room;
                    if filled { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    outcome = Ok(Pumped::More);
                    Ok(())
                }
                Err(error) => {
                    outcome = Err(InboxError::Socket(error));
                    Ok(())
                }
            }
        });
        if filled {
            // A peer that fills the room has more to say.
            self.room = (self.room * 2).min(RECEIVE_BYTES_MAX);
        }
        outcome
    }

    /// Receives until nothing is there or the turn is over, handing every frame to `take`.
    ///
    /// # Errors
    ///
    /// As [`Inbox::receive`] and [`Inbox::next_frame`]; the frames before the fault were handed on.
    pub fn pump(&mut self, mut take: impl FnMut(Frame, Attached)) -> Result<Pumped, InboxError> {
        let mut turn = 0;
        loop {
            while let Some((frame, attached)) = self.next_frame()? {
                take(frame, attached);
            }
            if turn >= TURN_BYTES {
                return Ok(Pumped::More);
            }
            let before = self.buffer.len();
            match self.receive()? {
                Pumped::More => turn += (self.buffer.len() - before).max(1),
                done => return Ok(done),
            }
        }
    }

    /// Takes what has been sent, without regard for turns or for what the runtime knows: the last
    /// words of a peer that is dead already. At most `bytes_max`, since something that has
    /// inherited the socket may go on talking.
    ///
    /// # Errors
    ///
    /// As [`Inbox::pump`].
    pub fn drain(
        &mut self,
        bytes_max: usize,
        mut take: impl FnMut(Frame, Attached),
    ) -> Result<(), InboxError> {
        let mut taken = 0;
        while taken <= bytes_max {
            while let Some((frame, attached)) = self.next_frame()? {
                take(frame, attached);
            }
            self.make_room();
            let room = self.intake.room();
            match sys::receive(self.stream.as_fd(), &mut self.buffer, usize::MAX, room) {
                Ok(got) if got.bytes == 0 => return Ok(()),
                Ok(got) => {
                    if got.descriptors || got.truncated {
                        self.intake.came(got.truncated)?;
                    }
                    taken += got.bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(InboxError::Socket(error)),
            }
        }
        Ok(())
    }

    /// Room for what the pending frame still needs, but never much more than has been received: a
    /// length that was only claimed must not cost memory.
    fn make_room(&mut self) {
        let missing = self.decoder.pending().map_or(0, |h| h.frame_bytes() - self.buffer.len());
        let received = self.buffer.len().max(self.room);
        let wanted = missing.clamp(self.room, received);
        if self.buffer.capacity() - self.buffer.len() < self.room / 2 {
            self.buffer.reserve(wanted);
        }
    }
}
