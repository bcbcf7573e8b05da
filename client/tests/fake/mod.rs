//! A daemon that says what a test tells it to: a thread for each connection, blocking sockets, and
//! the protocol's own frames. It runs no function; the test decides what a call answers.

#![expect(dead_code, reason = "each test program uses another part of it")]

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clutch_protocol::frame::{Decoder, Step};
use clutch_protocol::message::{Answer, Call, Hello, Phases, Refusal, Refused, Welcome, WorkerId};
use clutch_protocol::wire::{self, Encode};
use clutch_protocol::{Codec, Failure, Flags, Frame, Header, Kind, Reason};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// A listening daemon in a directory of its own.
pub(crate) struct Daemon {
    pub(crate) path: PathBuf,
    stop: Arc<AtomicBool>,
    accepting: Option<std::thread::JoinHandle<()>>,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// Serves each connection with `serve`, after a proper welcome.
    pub(crate) fn new(serve: impl Fn(Peer) + Clone + Send + 'static) -> Daemon {
        Daemon::raw(move |stream| {
            let mut peer = Peer::new(stream);
            if peer.welcome(1 << 20) {
                serve(peer);
            }
        })
    }

    /// Serves each connection with `serve`, from the first byte.
    pub(crate) fn raw(serve: impl Fn(UnixStream) + Clone + Send + 'static) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("clutch.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream.unwrap()));
            }
        });
        Daemon { path, stop, accepting: Some(accepting), directory }
    }

    /// Answers every call at once as `answer` says.
    pub(crate) fn answering(answer: impl Fn(&Received) -> Say + Clone + Send + 'static) -> Daemon {
        Daemon::new(move |mut peer| {
            while let Some(received) = peer.receive() {
                match received.frame.header.kind {
                    Kind::Call => peer.say(received.id(), answer(&received)),
                    Kind::Ping => peer.send(Kind::Pong, received.id(), &[], b""),
                    Kind::Stop => peer.send(Kind::Stopping, received.id(), &[], b""),
                    _ => {}
                }
            }
        })
    }

    /// Answers every call with its own arguments, as a function that returns them would.
    pub(crate) fn echo() -> Daemon {
        Daemon::answering(|received| Say::Payload(received.frame.payload.to_vec()))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(UnixStream::connect(&self.path));
        self.accepting.take().unwrap().join().unwrap();
    }
}

/// What a call is answered with.
pub(crate) enum Say {
    /// A result.
    Payload(Vec<u8>),
    /// A result with failures.
    Items(Vec<u8>),
    /// A failure, and whether the call had started.
    Fail(bool, Reason),
    /// Nothing.
    Nothing,
}

/// A frame from the client.
pub(crate) struct Received {
    pub(crate) frame: Frame,
}

impl Received {
    pub(crate) fn id(&self) -> u64 {
        self.frame.header.id
    }

    pub(crate) fn kind(&self) -> Kind {
        self.frame.header.kind
    }

    pub(crate) fn call(&self) -> Call {
        wire::decode(&self.frame.meta).unwrap()
    }
}

/// A frame from the client, and what travelled beside it.
pub(crate) struct Parcel {
    pub(crate) frame: Frame,
    pub(crate) descriptors: Vec<OwnedFd>,
}

/// One connection, seen from the daemon.
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    buffer: bytes::BytesMut,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Peer {
        // A test that goes wrong ends instead of hanging.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        Peer { stream, decoder: Decoder::before_hello(), buffer: bytes::BytesMut::new() }
    }

    /// Reads the hello and answers it.
    pub(crate) fn welcome(&mut self, payload_bytes_max: u32) -> bool {
        self.welcome_with(payload_bytes_max, 1000)
    }

    pub(crate) fn welcome_with(&mut self, payload_bytes_max: u32, in_flight_max: u32) -> bool {
        self.welcome_all(payload_bytes_max, in_flight_max, 1 << 40)
    }

    /// The same, with a limit for what is attached.
    pub(crate) fn welcome_limited(&mut self, payload_bytes_max: u32, attached: u64) -> bool {
        self.welcome_all(payload_bytes_max, 1000, attached)
    }

    fn welcome_all(&mut self, payload_bytes_max: u32, in_flight_max: u32, attached: u64) -> bool {
        let Some(hello) = self.receive() else {
            return false;
        };
        assert_eq!(Kind::Hello, hello.kind());
        let (hello, _) = wire::decode_prefix::<Hello>(&hello.frame.meta).unwrap();
        assert!(hello.program.starts_with("clutch-client "));
        let welcome = Welcome {
            version: hello.version_max,
            pid: std::process::id(),
            program: "fake".into(),
            payload_bytes_max,
            in_flight_max,
            pools: Vec::new(),
            attached_bytes_max: attached,
        };
        self.decoder = Decoder::with_payload_max(payload_bytes_max);
        self.send(Kind::Welcome, 0, &wire::encode(&welcome).unwrap(), b"");
        true
    }

    /// The next frame; none when the client has gone.
    pub(crate) fn receive(&mut self) -> Option<Received> {
        loop {
            if let Step::Frame(frame) = self.decoder.step(&mut self.buffer).unwrap() {
                return Some(Received { frame });
            }
            let mut bytes = [0; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
            }
        }
    }

    /// The next frame with its descriptors; none when the client has gone.
    pub(crate) fn receive_with(&mut self) -> Option<Parcel> {
        let mut descriptors = Vec::new();
        loop {
            if let Step::Frame(frame) = self.decoder.step(&mut self.buffer).unwrap() {
                assert_eq!(usize::from(frame.header.descriptors), descriptors.len());
                return Some(Parcel { frame, descriptors });
            }
            let mut bytes = [0; 65_536];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::empty());
            let count = received.ok()?.bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(came) = message {
                    descriptors.extend(came);
                }
            }
            if count == 0 {
                return None;
            }
            self.buffer.extend_from_slice(&bytes[..count]);
        }
    }

    /// Sends bytes with descriptors. A client that has gone is not the fake's concern.
    pub(crate) fn pass(&mut self, bytes: &[u8], descriptors: &[OwnedFd]) {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        let socket = self.stream.as_raw_fd();
        let parts = [IoSlice::new(bytes)];
        let Ok(sent) = sendmsg::<()>(socket, &parts, rights, flags, None) else { return };
        let _gone = self.stream.write_all(&bytes[sent..]);
    }

    /// Answers a call with a payload that begins with a table, and descriptors.
    pub(crate) fn answer_attached(&mut self, id: u64, payload: &[u8], descriptors: &[OwnedFd]) {
        let count = u8::try_from(descriptors.len()).unwrap();
        self.pass(&attached(Codec::Plain, id, payload, count), descriptors);
    }

    /// The id of the next frame, which must put a value.
    pub(crate) fn expect_put(&mut self) -> u64 {
        let Parcel { frame, descriptors } = self.receive_with().expect("the client is still there");
        assert!(frame.header.kind == Kind::Put && !descriptors.is_empty());
        frame.header.id
    }

    /// Waits until the next frame has begun to arrive, and leaves the rest of it in the socket.
    pub(crate) fn begin_to_receive(&mut self) {
        let mut byte = [0];
        self.stream.read_exact(&mut byte).unwrap();
        self.buffer.extend_from_slice(&byte);
    }

    /// The next frame, which must be of this kind.
    pub(crate) fn expect(&mut self, kind: Kind) -> Received {
        let received = self.receive().expect("the client is still there");
        assert_eq!(kind, received.kind());
        received
    }

    /// Sends a frame. A client that has gone is not the fake's concern.
    pub(crate) fn send(&mut self, kind: Kind, id: u64, meta: &[u8], payload: &[u8]) {
        self.send_flagged(kind, Flags::NONE, id, meta, payload);
    }

    fn send_flagged(&mut self, kind: Kind, flags: Flags, id: u64, meta: &[u8], payload: &[u8]) {
        let _gone = self.stream.write_all(&frame(kind, flags, id, meta, payload));
    }

    pub(crate) fn say(&mut self, id: u64, say: Say) {
        let answer = answer();
        match say {
            Say::Payload(payload) => self.send(Kind::Result, id, &answer, &payload),
            Say::Items(payload) => {
                self.send_flagged(Kind::Result, Flags::ITEMS, id, &answer, &payload);
            }
            Say::Fail(started, reason) => {
                self.send(Kind::Error, id, &failure(id, started, reason), b"")
            }
            Say::Nothing => {}
        }
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal, sentence: &str) {
        let refused = Refused { refusal, sentence: sentence.into() };
        self.send(Kind::Refused, 0, &wire::encode(&refused).unwrap(), b"");
    }
}

/// The bytes of a frame.
pub(crate) fn frame(kind: Kind, flags: Flags, id: u64, meta: &[u8], payload: &[u8]) -> Vec<u8> {
    let codec = match kind {
        Kind::Result => Codec::Plain,
        Kind::StatusReport => Codec::Json,
        Kind::Output => Codec::Raw,
        _ => Codec::None,
    };
    let header = Header {
        flags,
        codec,
        meta_bytes: u32::try_from(meta.len()).unwrap(),
        payload_bytes: u32::try_from(payload.len()).unwrap(),
        ..Header::new(kind, id)
    };
    [&header.encode()[..], meta, payload].concat()
}

/// The bytes of a result that begins with a table.
pub(crate) fn attached(codec: Codec, id: u64, payload: &[u8], descriptors: u8) -> Vec<u8> {
    let meta = answer();
    let header = Header {
        flags: Flags::ATTACHED,
        codec,
        descriptors,
        meta_bytes: u32::try_from(meta.len()).unwrap(),
        payload_bytes: u32::try_from(payload.len()).unwrap(),
        ..Header::new(Kind::Result, id)
    };
    [&header.encode()[..], &meta, payload].concat()
}

/// The meta of a result.
pub(crate) fn answer() -> Vec<u8> {
    let phases = Phases { queue_us: 1, run_us: 100, start_us: 0 };
    let worker = WorkerId { slot: 0, generation: 1 };
    encode(&Answer { phases, worker, call: 17, attempt: 1, pid: 4711 })
}

/// The meta of an error.
pub(crate) fn failure(call: u64, started: bool, reason: Reason) -> Vec<u8> {
    encode(&Failure {
        call,
        pool: "default".into(),
        function: "m:f".into(),
        attempt: u32::from(started),
        started,
        phases: Phases::default(),
        reason,
        quarantined: false,
        item: None,
    })
}

fn encode<T: Encode>(meta: &T) -> Vec<u8> {
    wire::encode(meta).unwrap()
}

/// A bounded channel from the fake to its test.
pub(crate) fn channel<T>() -> (SyncSender<T>, Receiver<T>) {
    sync_channel(10_000)
}

/// What the fake reports next; a test that goes wrong ends instead of hanging.
pub(crate) fn next<T>(receiver: &Receiver<T>) -> T {
    receiver.recv_timeout(Duration::from_secs(30)).expect("the fake reports")
}
