//! The way to a program's guardian: through the daemon, or directly with `--local`.
//!
//! Both speak frames over a socket, and both end the program when the socket ends.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use clutch_client::ConnectOptions;
use clutch_protocol::frame::{Decoder, Step};
use clutch_protocol::message::{
    Exit, Exited, Forward, Refused, RunEnded, RunProgram, RunRefusal, RunRefused, SpawnFailed,
};
use clutch_protocol::{Frame, Header, Kind, wire};
use clutch_supervisor::config;
use clutch_supervisor::run::local::{self, LocalProgram};
use clutch_supervisor::run::recipe;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::connect;
use crate::error::Error;
use crate::program::build::Build;

/// How long a daemon may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The one request of this connection.
const ID: u64 = 1;

/// Room for a read: frames of a program are short.
const READ_BYTES: usize = 4096;

/// A way to a program, before there is one.
pub(crate) enum Way {
    /// A connection, and where the next one is made.
    Daemon(UnixStream, PathBuf),
    Local(Box<config::Pool>, PathBuf),
}

/// The way to a program that runs.
pub(crate) struct Running {
    socket: Socket,
    decoder: Decoder,
    buffer: BytesMut,
    /// How it ended, while its tree is swept.
    exited: Option<Exit>,
}

enum Socket {
    Daemon(UnixStream),
    Local(LocalProgram, Box<config::Pool>),
}

impl Way {
    /// Connects to the daemon.
    pub(crate) fn daemon(socket: &Path) -> Result<Way, Error> {
        Ok(Way::Daemon(connect_to(socket)?, socket.to_owned()))
    }

    /// Needs no daemon.
    pub(crate) fn local(pool: config::Pool, executable: PathBuf) -> Way {
        Way::Local(Box::new(pool), executable)
    }

    /// Starts a program with these streams.
    pub(crate) fn start(self, asked: RunProgram, streams: &[OwnedFd]) -> Result<Running, Error> {
        let socket = match self {
            Way::Local(pool, executable) => {
                let program = local::program(&pool, &executable, asked)?;
                let program = LocalProgram::start(&connect::guardian(), &program, streams)?;
                Socket::Local(program, pool)
            }
            Way::Daemon(socket, path) => {
                let socket = ask_patiently(socket, &path, &asked)?;
                hand_over(&socket, streams).map_err(Error::Prepare)?;
                Socket::Daemon(socket)
            }
        };
        let decoder = Decoder::with_payload_max(0);
        Ok(Running { socket, decoder, buffer: BytesMut::new(), exited: None })
    }
}

fn connect_to(socket: &Path) -> Result<UnixStream, Error> {
    let options = ConnectOptions::new(socket)
        .timeout(ANSWER_MAX)
        .program(concat!("clutch run ", env!("CARGO_PKG_VERSION")));
    let (socket, _) = clutch_client::blocking::connect_raw(&options)?;
    Ok(socket)
}

/// Asks the daemon, and again when the environment that is being built for the pool is there, which
/// has a limit of its own. Gives the connection on which it has agreed.
fn ask_patiently(
    mut socket: UnixStream,
    path: &Path,
    asked: &RunProgram,
) -> Result<UnixStream, Error> {
    let mut build = Build::default();
    loop {
        match ask(&socket, asked) {
            Err(Error::NotRun(refused)) if refused.refusal == RunRefusal::NotYet => {
                build.wait(path, &asked.pool)?;
                socket = connect_to(path)?;
            }
            answer => return answer.map(|()| socket),
        }
    }
}

/// Asks the daemon whether it would run this, and waits for its answer.
fn ask(mut socket: &UnixStream, asked: &RunProgram) -> Result<(), Error> {
    let meta = recipe::encode(asked).ok_or(Error::CommandTooLong)?;
    let meta_bytes = u32::try_from(meta.len()).expect("a meta is within its limit");
    let header = Header { meta_bytes, ..Header::new(Kind::RunProgram, ID) };
    socket.set_write_timeout(Some(ANSWER_MAX)).map_err(Error::Prepare)?;
    let sent = socket.write_all(&[&header.encode()[..], &meta].concat());
    // A refusal may be waiting to be read even when no more is taken.
    let frame = read_frame(socket).map_err(|_| Error::ProgramLost)?;
    match frame.header.kind {
        Kind::RunReady => sent.map_err(|_| Error::ProgramLost),
        _ => Err(refusal(&frame)),
    }
}

/// Reads the next frame, within a bound, and nothing behind it.
fn read_frame(mut socket: &UnixStream) -> io::Result<Frame> {
    let end = Instant::now() + ANSWER_MAX;
    let mut decoder = Decoder::with_payload_max(0);
    let mut buffer = BytesMut::new();
    loop {
        let need = match decoder.step(&mut buffer).map_err(io::Error::other)? {
            Step::Frame(frame) => return Ok(frame),
            Step::Need(need) => need,
        };
        let left = end.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut piece = vec![0; need.min(READ_BYTES)];
        match socket.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends the standard streams, in the one frame that carries descriptors.
fn hand_over(socket: &UnixStream, streams: &[OwnedFd]) -> io::Result<()> {
    let descriptors: Vec<_> = streams.iter().map(AsRawFd::as_raw_fd).collect();
    let count = u8::try_from(descriptors.len()).expect("there are at most three");
    let header = Header { descriptors: count, ..Header::new(Kind::RunStreams, ID) }.encode();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(&header)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None)?;
    let mut rest = socket;
    rest.write_all(&header[sent..])
}

/// What a frame says that is not the one hoped for.
fn refusal(frame: &Frame) -> Error {
    match frame.header.kind {
        Kind::RunRefused => match wire::decode::<RunRefused>(&frame.meta) {
            Ok(refused) => Error::NotRun(refused),
            Err(_) => Error::ProgramLost,
        },
        Kind::Refused => match wire::decode::<Refused>(&frame.meta) {
            Ok(Refused { refusal, sentence }) => {
                Error::Connect(clutch_client::ConnectError::Refused { refusal, sentence })
            }
            Err(_) => Error::ProgramLost,
        },
        _ => Error::ProgramLost,
    }
}

impl Running {
    /// Sends the program a signal. That it has ended meanwhile is told by what it sends.
    pub(crate) fn signal(&self, forward: Forward) {
        let (kind, id) = match self.socket {
            Socket::Daemon(_) => (Kind::RunSignal, ID),
            Socket::Local(_, _) => (Kind::Forward, 0),
        };
        let meta = wire::encode(&forward).expect("it has a fixed size");
        let meta_bytes = u32::try_from(meta.len()).expect("it has a fixed size");
        let header = Header { meta_bytes, ..Header::new(kind, id) };
        let _ = self.stream().write_all(&[&header.encode()[..], &meta].concat());
    }

    /// Reads what has come, and says how the program ended if it has. Not before there is
    /// something to be read, or it waits.
    pub(crate) fn read(&mut self) -> Result<Option<Exit>, Error> {
        let mut piece = [0; READ_BYTES];
        let count = match self.stream().read(&mut piece) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(_) => 0,
        };
        if count == 0 {
            return self.lost();
        }
        self.buffer.extend_from_slice(&piece[..count]);
        while let Step::Frame(frame) =
            self.decoder.step(&mut self.buffer).map_err(|_| Error::ProgramLost)?
        {
            if let Some(exit) = self.take(&frame)? {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }

    fn take(&mut self, frame: &Frame) -> Result<Option<Exit>, Error> {
        let broken = |_| Error::ProgramLost;
        match frame.header.kind {
            Kind::RunEnded => {
                let ended: RunEnded = wire::decode(&frame.meta).map_err(broken)?;
                Ok(Some(ended.exit))
            }
            Kind::Exited => {
                let exited: Exited = wire::decode(&frame.meta).map_err(broken)?;
                self.exited = Some(exited.exit);
                Ok(None)
            }
            Kind::Swept => Ok(self.exited),
            Kind::SpawnFailed => {
                let failed: SpawnFailed = wire::decode(&frame.meta).map_err(broken)?;
                let sentence = match &self.socket {
                    Socket::Local(_, pool) => local::describe(failed, pool),
                    // The daemon sends a refusal instead.
                    Socket::Daemon(_) => return Err(Error::ProgramLost),
                };
                let refusal = RunRefusal::CannotStart;
                Err(Error::NotRun(RunRefused { refusal, sentence }))
            }
            // That it was stopped is the daemon's business, where there is one.
            Kind::RunStarted | Kind::Spawned | Kind::Halted | Kind::Ping | Kind::Pong => Ok(None),
            _ => Err(refusal(frame)),
        }
    }

    /// The other end is gone.
    fn lost(&self) -> Result<Option<Exit>, Error> {
        match (self.exited, &self.socket) {
            (Some(exit), _) => Ok(Some(exit)),
            (None, Socket::Daemon(_)) => Err(Error::ProgramLost),
            (None, Socket::Local(..)) => {
                let sentence = "the process that watched over it was killed, and it with that";
                let refusal = RunRefusal::Lost;
                Err(Error::NotRun(RunRefused { refusal, sentence: sentence.to_owned() }))
            }
        }
    }

    fn stream(&self) -> &UnixStream {
        match &self.socket {
            Socket::Daemon(stream) => stream,
            Socket::Local(program, _) => program.report(),
        }
    }
}

impl AsFd for Running {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}
