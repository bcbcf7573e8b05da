//! The way out of a connection: written at once if the socket takes it, queued within a limit if
//! not. Never waits; leaves closing to whoever owns the connection.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::attached::Attached;
use super::crowd::{Backlog, Piece, SharedBudget};
use super::lent::Lent;
use crate::limits::JAM_PAUSE;

/// Parts handed to the kernel in one call: two per frame, so this many is half as many frames.
const PARTS_MAX: usize = 64;

/// Why something could not be sent.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum OutboxError {
    /// The peer does not read, and what waits for it has reached the limit.
    #[error("{waiting} bytes wait for a peer that does not read, at most {limit} may")]
    Full {
        /// Bytes that wait.
        waiting: usize,
        /// Bytes that may wait.
        limit: usize,
    },
    /// The peer does not read, and the descriptors that wait for it have reached the limit.
    #[error("{0} file descriptors wait for a peer that does not read, more than may")]
    Crowded(usize),
    /// The connection is gone.
    #[error("the connection is closed")]
    Closed,
}

/// The way out of one connection.
#[derive(Debug)]
pub struct Outbox {
    stream: Rc<UnixStream>,
    backlog: Rc<Backlog>,
    limit_descriptors: usize,
    limit_bytes: usize,
    shared: SharedBudget,
    /// Bytes that have left since the beginning: how a stall is told from slowness.
    sent_bytes: Cell<u64>,
    /// What others have leave to send here.
    lent: Rc<Lent>,
}

impl Outbox {
    /// An outbox that lets `limit_bytes` wait, and no more than `shared` has left.
    pub fn new(stream: Rc<UnixStream>, limit_bytes: usize, shared: SharedBudget) -> Outbox {
        Outbox {
            stream,
            backlog: shared.join(),
            limit_descriptors: usize::MAX,
            limit_bytes,
            shared,
            sent_bytes: Cell::new(0),
            lent: Rc::default(),
        }
    }

    /// The same, but lets no more than `limit` descriptors wait.
    #[must_use]
    pub fn within(mut self, limit: usize) -> Outbox {
        self.limit_descriptors = limit;
        self
    }

    /// What is on its way here by somebody's leave.
    pub fn lent(&self) -> &Rc<Lent> {
        &self.lent
    }

    /// How many descriptors may wait for the peer.
    pub fn limit_descriptors(&self) -> usize {
        self.limit_descriptors
    }

    /// How many do.
    pub fn waiting_descriptors(&self) -> usize {
        self.backlog.descriptors.get()
    }

    /// Whether half as many descriptors wait for the peer as may.
    pub fn is_half_crowded(&self) -> bool {
        self.waiting_descriptors() > self.limit_descriptors / 2
    }

    /// Bytes that wait for the peer to read.
    pub fn waiting_bytes(&self) -> usize {
        self.backlog.bytes.get()
    }

    /// Bytes the peer's socket has taken so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Why it was closed, if that was to make room for others' answers.
    pub fn crowded_out(&self) -> Option<OutboxError> {
        self.backlog.crowded_out.get()
    }

    /// Whether a frame of so many bytes and descriptors fits, beside `reserve` bytes of others.
    ///
    /// # Errors
    ///
    /// What there is too much of. One frame always fits an empty outbox.
    pub fn fits(
        &self,
        bytes: usize,
        descriptors: usize,
        reserve: usize,
    ) -> Result<(), OutboxError> {
        let waiting = self.waiting_bytes();
        if waiting == 0 || self.is_closed() {
            return Ok(());
        }
        if waiting + bytes + reserve > self.limit_bytes {
            return Err(OutboxError::Full { waiting, limit: self.limit_bytes });
        }
        self.fits_crowd(descriptors)
    }

    /// The same, of descriptors only.
    ///
    /// # Errors
    ///
    /// How many wait already.
    pub fn fits_crowd(&self, descriptors: usize) -> Result<(), OutboxError> {
        let crowd = self.waiting_descriptors();
        let is_crowded = descriptors > 0 && crowd + descriptors > self.limit_descriptors;
        if self.waiting_bytes() > 0 && is_crowded && !self.is_closed() {
            return Err(OutboxError::Crowded(crowd));
        }
        Ok(())
    }

    /// Sends a frame: header and meta in `head`, then `payload`. One frame always fits an empty
    /// outbox, however long it is.
    ///
    /// # Errors
    ///
    /// When the peer is gone or reads too slowly; nothing of the frame is sent then.
    pub fn send(&self, head: &[u8], payload: &Bytes) -> Result<(), OutboxError> {
        self.send_attached(head, payload, &Attached::default())
    }

    /// The same, with descriptors, as many as the header says. They leave with its first byte.
    ///
    /// # Errors
    ///
    /// As [`Outbox::send`].
    pub fn send_attached(
        &self,
        head: &[u8],
        payload: &Bytes,
        attached: &Attached,
    ) -> Result<(), OutboxError> {
        let total = head.len() + payload.len();
        self.fits(total, attached.len(), 0)?;
        if self.waiting_bytes() > 0 {
            self.shared.make_room(&self.backlog, total, attached.len())?;
        }
        self.send_unlimited(head, payload, attached)
    }

    /// The same, however much waits already: for frames of which their sender never has more than
    /// a few under way, and that cost nothing more by waiting here.
    ///
    /// # Errors
    ///
    /// When the peer is gone.
    pub fn send_unlimited(
        &self,
        head: &[u8],
        payload: &Bytes,
        attached: &Attached,
    ) -> Result<(), OutboxError> {
        self.send_holding(head, payload, attached, None)
    }

    /// The same, with what its payload holds of the daemon's memory for as long as it waits.
    ///
    /// # Errors
    ///
    /// When the peer is gone.
    pub fn send_holding(
        &self,
        head: &[u8],
        payload: &Bytes,
        attached: &Attached,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), OutboxError> {
        if self.is_closed() {
            return Err(OutboxError::Closed);
        }
        let total = head.len() + payload.len();
        if self.waiting_bytes() > 0 {
            self.keep(Bytes::copy_from_slice(head), attached.clone(), None);
            self.keep(payload.clone(), Attached::default(), memory);
            return Ok(());
        }
        let sent = match self.write(&[IoSlice::new(head), IoSlice::new(payload)], attached) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_jam(&error) => 0,
            Err(_) => {
                self.close();
                return Err(OutboxError::Closed);
            }
        };
        if sent < total {
            let left = if sent == 0 { attached.clone() } else { Attached::default() };
            if let Some(rest) = head.get(sent..) {
                self.keep(Bytes::copy_from_slice(rest), left, None);
            }
            let rest = payload.slice(sent.saturating_sub(head.len())..);
            self.keep(rest, Attached::default(), memory);
            self.backlog.blocked.notify_one();
        }
        Ok(())
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.backlog.is_closed.get()
    }

    /// Drops what waits and refuses everything from now on.
    pub fn close(&self) {
        self.shared.close(&self.backlog);
    }

    /// Resolves when nothing waits any more; at once if nothing does.
    pub async fn drained(&self) {
        loop {
            let notified = self.backlog.lighter.notified();
            if self.waiting_bytes() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Sends what a full socket left over, for as long as the connection lives. The connection's
    /// owner runs this as a task and ends it.
    pub async fn flush_forever(&self) {
        while !self.is_closed() {
            if self.waiting_bytes() == 0 {
                self.backlog.blocked.notified().await;
                continue;
            }
            // It may be closed to make room for others', and then its socket is not waited for.
            let closed = async {
                while !self.is_closed() {
                    self.backlog.blocked.notified().await;
                }
            };
            let written = tokio::select! {
                written = self.stream.async_io(Interest::WRITABLE, || self.write_waiting()) => {
                    written
                }
                () = closed => return,
            };
            match written {
                Ok(()) => {
                    self.backlog.lighter.notify_waiters();
                    self.lent.note_room();
                }
                Err(error) if is_jam(&error) => sleep_until(Instant::now() + JAM_PAUSE).await,
                Err(_) => self.close(),
            }
        }
    }

    fn keep(&self, bytes: Bytes, attached: Attached, memory: Option<OwnedSemaphorePermit>) {
        if !bytes.is_empty() {
            self.shared.keep(&self.backlog, Piece { bytes, attached, _memory: memory });
        }
    }

    fn write_waiting(&self) -> io::Result<()> {
        let sent = {
            let waiting = self.backlog.pieces.borrow();
            let Some(first) = waiting.front() else {
                return Ok(());
            };
            // Descriptors leave with the first byte of a system call, so the next that have some
            // begin another.
            let plain = waiting.iter().skip(1).take_while(|piece| piece.attached.is_empty());
            let parts: Vec<_> = std::iter::once(first)
                .chain(plain)
                .take(PARTS_MAX)
                .map(|piece| IoSlice::new(&piece.bytes))
                .collect();
            self.write(&parts, &first.attached)?
        };
        self.shared.count_down(&self.backlog, sent, 0);
        let mut left = sent;
        let mut waiting = self.backlog.pieces.borrow_mut();
        while left > 0 {
            let front = waiting.front_mut().expect("what was sent was waiting");
            let gone = std::mem::take(&mut front.attached).len();
            self.shared.count_down(&self.backlog, 0, gone);
            if front.bytes.len() > left {
                front.bytes.advance(left);
                return Ok(());
            }
            left -= front.bytes.len();
            waiting.pop_front();
        }
        Ok(())
    }

    /// One system call, past the runtime's own idea of readiness: a socket is nearly always
    /// writable, and asking it is cheaper than asking about it.
    fn write(&self, parts: &[IoSlice<'_>], attached: &Attached) -> io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let numbers = attached.numbers();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control: &[_] = if attached.is_empty() { &[] } else { &rights };
        loop {
            match sendmsg::<()>(self.stream.as_raw_fd(), parts, control, flags, None) {
                Ok(sent) => {
                    self.sent_bytes.set(self.sent_bytes.get() + sent as u64);
                    return Ok(sent);
                }
                Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.forget(&self.backlog);
    }
}

/// Whether the kernel takes no more descriptors just now, because as many are on their way between
/// processes of this user as one may have open. Whoever they are for will read them.
fn is_jam(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32)
}

/// Sends one small frame on a socket that has no outbox, whole or not at all.
///
/// Past the runtime, which takes a socket for full until it has waited for it once.
///
/// # Errors
///
/// When the socket is full or gone.
pub fn send_at_once(stream: &UnixStream, frame: &[u8]) -> nix::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    send(stream.as_raw_fd(), frame, flags).map(drop)
}
