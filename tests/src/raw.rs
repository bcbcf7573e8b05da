//! A socket peer that may send anything: whole frames, half frames, forged frames, descriptors,
//! nothing. Everything it waits for has a deadline.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clutch_protocol::failure::Failure;
use clutch_protocol::frame::{Decoder, Frame, FrameError, Header, Kind, Step};
use clutch_protocol::limits::PAYLOAD_BYTES_MAX;
use clutch_protocol::message::{Refused, Role, Welcome};
use clutch_protocol::status::Status;
use clutch_protocol::wire;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

pub use crate::forge::*;
use crate::{MILLISECOND, SECOND};

/// How long a well-behaved daemon may take for anything, on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Why no further frame came.
#[derive(Debug)]
pub enum End {
    /// The daemon closed the connection in an orderly way.
    Closed,
    /// The connection broke: reset, or closed with bytes unread.
    Broken(io::Error),
    /// The deadline passed.
    Silent,
    /// What came is no frame.
    NoFrame(FrameError),
}

/// What became of a call.
#[derive(Debug)]
pub enum Reply {
    /// Its result, as JSON.
    Value(serde_json::Value),
    /// Its failure.
    Failed(Box<Failure>),
}

impl Reply {
    /// The result; panics with the failure.
    #[track_caller]
    pub fn value(self) -> serde_json::Value {
        match self {
            Reply::Value(value) => value,
            Reply::Failed(failure) => panic!("the call failed: {failure}"),
        }
    }

    /// The failure; panics with the result.
    #[track_caller]
    pub fn failure(self) -> Failure {
        match self {
            Reply::Failed(failure) => *failure,
            Reply::Value(value) => panic!("the call succeeded with {value}"),
        }
    }
}

/// One connection to a daemon's socket, without any manners of its own.
#[derive(Debug)]
pub struct RawClient {
    stream: UnixStream,
    decoder: Decoder,
    buffer: BytesMut,
    /// Descriptors that came and that no frame has claimed.
    descriptors: VecDeque<OwnedFd>,
    last_id: u64,
}

impl RawClient {
    /// Connects and says nothing.
    ///
    /// # Errors
    ///
    /// What the system says: nobody listens, no permission, a full backlog.
    pub fn try_connect(socket: &Path) -> io::Result<RawClient> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(RawClient {
            stream,
            decoder: Decoder::with_payload_max(PAYLOAD_BYTES_MAX),
            buffer: BytesMut::new(),
            descriptors: VecDeque::new(),
            last_id: 0,
        })
    }

    /// Connects and says nothing.
    #[track_caller]
    pub fn connect(socket: &Path) -> RawClient {
        match RawClient::try_connect(socket) {
            Ok(client) => client,
            Err(error) => panic!("cannot connect to {}: {error}", socket.display()),
        }
    }

    /// Connects and says hello as a client of this version; gives what it was told too.
    ///
    /// # Errors
    ///
    /// When no connection can be made, or the daemon does not welcome it.
    pub fn try_hello(socket: &Path) -> Result<(RawClient, Welcome), String> {
        let mut client = RawClient::try_connect(socket).map_err(|error| error.to_string())?;
        client.send(&hello(Role::Client)).map_err(|error| error.to_string())?;
        let frame = client.read(PATIENCE).map_err(|end| format!("no welcome: {end:?}"))?;
        if frame.header.kind != Kind::Welcome {
            return Err(format!("no welcome: {:?} {:?}", frame.header, frame.meta));
        }
        let welcome = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        Ok((client, welcome))
    }

    /// Connects and says hello as a client of this version.
    #[track_caller]
    pub fn hello(socket: &Path) -> RawClient {
        match RawClient::try_hello(socket) {
            Ok((client, _)) => client,
            Err(why) => panic!("no hello at {}: {why}", socket.display()),
        }
    }

    /// The socket itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Sends bytes, whatever they are; gives up after [`PATIENCE`] when nobody reads them.
    ///
    /// # Errors
    ///
    /// What the system says; a daemon that has closed already is a broken pipe.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes as far as they go: the daemon may have had enough after the first of them, and
    /// what it says then can still be read.
    pub fn say(&mut self, bytes: &[u8]) {
        let _ = self.send(bytes);
    }

    /// Sends bytes until nobody reads them any more; gives how many went.
    pub fn send_until_full(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.stream.set_write_timeout(Some(patience)).expect("a timeout can be set");
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => sent += count,
            }
        }
        self.stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        sent
    }

    /// Sends bytes with descriptors attached.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn send_with_descriptors(&mut self, bytes: &[u8], all: &[RawFd]) -> io::Result<usize> {
        let control = [ControlMessage::ScmRights(all)];
        let slices = [IoSlice::new(bytes)];
        let socket = self.stream.as_raw_fd();
        Ok(sendmsg::<()>(socket, &slices, &control, MsgFlags::MSG_NOSIGNAL, None)?)
    }

    /// The next frame, whatever it is.
    ///
    /// # Errors
    ///
    /// When none comes within `deadline`.
    pub fn read(&mut self, deadline: Duration) -> Result<Frame, End> {
        self.read_attached(deadline).map(|(frame, _)| frame)
    }

    /// The next frame, and the descriptors that came with it: just as many as it claims.
    ///
    /// # Errors
    ///
    /// When none comes within `deadline`.
    pub fn read_attached(&mut self, deadline: Duration) -> Result<(Frame, Vec<OwnedFd>), End> {
        let end = Instant::now() + deadline;
        loop {
            match self.decoder.step(&mut self.buffer) {
                Ok(Step::Frame(frame)) => {
                    let claimed = usize::from(frame.header.descriptors);
                    assert!(claimed <= self.descriptors.len(), "they came: {:?}", frame.header);
                    return Ok((frame, self.descriptors.drain(..claimed).collect()));
                }
                Ok(Step::Need(_)) => {}
                Err(error) => return Err(End::NoFrame(error)),
            }
            assert!(
                !self.buffer.is_empty() || self.descriptors.is_empty(),
                "descriptors came that no frame claims"
            );
            let rest = end.saturating_duration_since(Instant::now()).max(MILLISECOND);
            self.stream.set_read_timeout(Some(rest)).expect("a timeout can be set");
            let mut chunk = [0; 64 << 10];
            match self.receive(&mut chunk) {
                Ok(0) => return Err(End::Closed),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if Instant::now() >= end {
                        return Err(End::Silent);
                    }
                }
                Err(error) => return Err(End::Broken(error)),
            }
        }
    }

    fn receive(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(chunk)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(&self.stream, &mut parts, &mut control, flags)?;
        assert!(!got.flags.contains(ReturnFlags::CTRUNC), "more descriptors than a frame may have");
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(got.bytes)
    }

    /// The next frame, which must be of this kind.
    #[track_caller]
    pub fn expect(&mut self, kind: Kind, deadline: Duration) -> Frame {
        match self.read(deadline) {
            Ok(frame) if frame.header.kind == kind => frame,
            Ok(frame) => panic!("expected {kind:?}, got {:?} {:?}", frame.header, frame.meta),
            Err(end) => panic!("expected {kind:?}, got {end:?}"),
        }
    }

    /// The daemon must say why it refuses this peer, and close, both within `deadline`.
    #[track_caller]
    pub fn expect_refused(&mut self, deadline: Duration) -> Refused {
        let frame = self.expect(Kind::Refused, deadline);
        let refused = wire::decode(&frame.meta).expect("a refusal has its meta");
        self.expect_closed(deadline);
        refused
    }

    /// The daemon must close the connection within `deadline`, and say nothing more before.
    #[track_caller]
    pub fn expect_closed(&mut self, deadline: Duration) {
        match self.read(deadline) {
            Err(End::Closed | End::Broken(_)) => {}
            other => panic!("expected the end of the connection, got {other:?}"),
        }
    }

    /// The daemon must close the connection within `deadline`; what it says before is given.
    #[track_caller]
    pub fn drain(&mut self, deadline: Duration) -> Vec<Frame> {
        let end = Instant::now() + deadline;
        let mut frames = Vec::new();
        loop {
            match self.read(end.saturating_duration_since(Instant::now())) {
                Ok(frame) => frames.push(frame),
                Err(End::Closed | End::Broken(_)) => return frames,
                Err(why) => {
                    panic!("still open after {deadline:?} and {} frames: {why:?}", frames.len())
                }
            }
        }
    }

    /// Nothing more will be sent from here; answers can still be read.
    pub fn close_sending(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("an open socket can be half closed");
    }

    /// A fresh call id.
    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Sends a call with JSON arguments (a list: `"[2]"`) and gives its id.
    #[track_caller]
    pub fn start(&mut self, pool: &str, function: &str, arguments: &str) -> u64 {
        let id = self.next_id();
        self.send(&call(id, pool, function, arguments)).expect("the daemon reads calls");
        id
    }

    /// The answer to a call; frames of other calls in between are an error.
    #[track_caller]
    pub fn finish(&mut self, id: u64) -> Reply {
        let frame = match self.read(PATIENCE) {
            Ok(frame) => frame,
            Err(end) => panic!("no answer to call {id}: {end:?}"),
        };
        assert_eq!(id, frame.header.id, "an answer to another call: {:?}", frame.header);
        reply(&frame)
    }

    /// Calls a function with JSON arguments and waits for its answer.
    #[track_caller]
    pub fn call(&mut self, pool: &str, function: &str, arguments: &str) -> Reply {
        let id = self.start(pool, function, arguments);
        self.finish(id)
    }

    /// Asks the daemon for its status.
    ///
    /// # Errors
    ///
    /// When it does not answer, or not with a status.
    pub fn status(&mut self) -> Result<Status, String> {
        let id = self.next_id();
        self.send(&Header::new(Kind::Status, id).encode()).map_err(|error| error.to_string())?;
        let frame = self.read(PATIENCE).map_err(|end| format!("no status: {end:?}"))?;
        if (frame.header.kind, frame.header.id) != (Kind::StatusReport, id) {
            return Err(format!("no status: {:?}", frame.header));
        }
        serde_json::from_slice(&frame.payload).map_err(|error| error.to_string())
    }

    /// Whether the daemon still answers this peer, within a second.
    pub fn is_served(&mut self) -> bool {
        let id = self.next_id();
        self.send(&Header::new(Kind::Ping, id).encode()).is_ok()
            && self
                .read(SECOND)
                .is_ok_and(|frame| (frame.header.kind, frame.header.id) == (Kind::Pong, id))
    }
}

/// What a result or an error frame says.
#[track_caller]
pub fn reply(frame: &Frame) -> Reply {
    match frame.header.kind {
        Kind::Result => Reply::Value(
            serde_json::from_slice(&frame.payload).expect("JSON arguments get a JSON result"),
        ),
        Kind::Error => {
            Reply::Failed(Box::new(wire::decode(&frame.meta).expect("an error has its meta")))
        }
        _ => panic!("no answer to a call: {:?}", frame.header),
    }
}
