//! The way out of a connection: written at once if the socket takes it, queued within a limit if
//! not. Never waits; leaves closing to whoever owns the connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::attached::Attached;
use super::holdings::Holdings;
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

/// What may wait in many outboxes together.
#[derive(Clone, Debug)]
pub struct SharedBudget {
    used_bytes: Rc<Cell<usize>>,
    limit_bytes: usize,
}

impl SharedBudget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: usize) -> SharedBudget {
        SharedBudget { used_bytes: Rc::default(), limit_bytes }
    }
}

/// Bytes that wait, and what leaves with the first of them.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    attached: Attached,
}

/// The way out of one connection.
#[derive(Debug)]
pub struct Outbox {
    stream: Rc<UnixStream>,
    waiting: RefCell<VecDeque<Piece>>,
    waiting_descriptors: Cell<usize>,
    limit_descriptors: usize,
    /// Where descriptors that wait here are counted together with others'.
    holdings: Option<Rc<Holdings>>,
    waiting_bytes: Cell<usize>,
    limit_bytes: usize,
    shared: SharedBudget,
    closed: Cell<bool>,
    /// Bytes that have left since the beginning: how a stall is told from slowness.
    sent_bytes: Cell<u64>,
    blocked: Notify,
    drained: Notify,
}

impl Outbox {
    /// An outbox that lets `limit_bytes` wait, and no more than `shared` has left.
    pub fn new(stream: Rc<UnixStream>, limit_bytes: usize, shared: SharedBudget) -> Outbox {
        Outbox {
            stream,
            waiting: RefCell::default(),
            waiting_descriptors: Cell::new(0),
            limit_descriptors: usize::MAX,
            holdings: None,
            waiting_bytes: Cell::new(0),
            limit_bytes,
            shared,
            closed: Cell::new(false),
            sent_bytes: Cell::new(0),
            blocked: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// The same, but lets no more than `limit` descriptors wait, and none where far too many of
    /// them are held already.
    #[must_use]
    pub fn within(mut self, limit: usize, holdings: Rc<Holdings>) -> Outbox {
        self.limit_descriptors = limit;
        self.holdings = Some(holdings);
        self
    }

    /// Whether half as many descriptors wait for the peer as may.
    pub fn is_half_crowded(&self) -> bool {
        self.waiting_descriptors.get() > self.limit_descriptors / 2
    }

    /// Bytes that wait for the peer to read.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes.get()
    }

    /// Bytes the peer's socket has taken so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.get()
    }

    /// Room left before [`OutboxError::Full`].
    pub fn room(&self) -> usize {
        self.limit_bytes.saturating_sub(self.waiting_bytes.get())
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
        let waiting = self.waiting_bytes.get();
        if waiting > 0 && !self.closed.get() {
            let shared = self.shared.used_bytes.get() + total > self.shared.limit_bytes;
            if shared || waiting + total > self.limit_bytes {
                return Err(OutboxError::Full { waiting, limit: self.limit_bytes });
            }
            if self.is_crowded(attached.len()) {
                return Err(OutboxError::Crowded(self.waiting_descriptors.get()));
            }
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
        if self.closed.get() {
            return Err(OutboxError::Closed);
        }
        let total = head.len() + payload.len();
        if self.waiting_bytes.get() > 0 {
            self.keep(Bytes::copy_from_slice(head), attached.clone());
            self.keep(payload.clone(), Attached::default());
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
                self.keep(Bytes::copy_from_slice(rest), left);
            }
            let rest = payload.slice(sent.saturating_sub(head.len())..);
            self.keep(rest, Attached::default());
            self.blocked.notify_one();
        }
        Ok(())
    }

    /// Whether nothing can be sent any more.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Drops what waits and refuses everything from now on.
    pub fn close(&self) {
        self.closed.set(true);
        self.waiting.borrow_mut().clear();
        self.count_down(self.waiting_bytes.get());
        self.waiting_descriptors.set(0);
        self.blocked.notify_one();
        self.drained.notify_waiters();
    }

    /// Resolves when nothing waits any more; at once if nothing does.
    pub async fn drained(&self) {
        loop {
            let notified = self.drained.notified();
            if self.waiting_bytes.get() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Sends what a full socket left over, for as long as the connection lives. The connection's
    /// owner runs this as a task and ends it.
    pub async fn flush_forever(&self) {
        while !self.closed.get() {
            if self.waiting_bytes.get() == 0 {
                self.blocked.notified().await;
                continue;
            }
            match self.stream.async_io(Interest::WRITABLE, || self.write_waiting()).await {
                Ok(()) => {}
                Err(error) if is_jam(&error) => sleep_until(Instant::now() + JAM_PAUSE).await,
                Err(_) => self.close(),
            }
            if self.waiting_bytes.get() == 0 {
                self.drained.notify_waiters();
            }
        }
    }

    fn is_crowded(&self, more: usize) -> bool {
        let is_overfull = || self.holdings.as_ref().is_some_and(|all| all.is_overfull());
        let waiting = self.waiting_descriptors.get() + more;
        more > 0 && (waiting > self.limit_descriptors || is_overfull())
    }

    fn keep(&self, bytes: Bytes, attached: Attached) {
        if !bytes.is_empty() {
            self.waiting_descriptors.set(self.waiting_descriptors.get() + attached.len());
            self.waiting_bytes.set(self.waiting_bytes.get() + bytes.len());
            self.shared.used_bytes.set(self.shared.used_bytes.get() + bytes.len());
            self.waiting.borrow_mut().push_back(Piece { bytes, attached });
        }
    }

    fn count_down(&self, bytes: usize) {
        self.waiting_bytes.set(self.waiting_bytes.get() - bytes);
        self.shared.used_bytes.set(self.shared.used_bytes.get() - bytes);
    }

    fn write_waiting(&self) -> io::Result<()> {
        let sent = {
            let waiting = self.waiting.borrow();
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
        self.count_down(sent);
        let mut left = sent;
        let mut waiting = self.waiting.borrow_mut();
        while left > 0 {
            let front = waiting.front_mut().expect("what was sent was waiting");
            let gone = std::mem::take(&mut front.attached).len();
            self.waiting_descriptors.set(self.waiting_descriptors.get() - gone);
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
        self.count_down(self.waiting_bytes.get());
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
