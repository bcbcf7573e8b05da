//! Opening a blocking client's connection: tries, hello and welcome, all before one deadline. What
//! travels is in `transport`; what happens afterwards in `connection`.

use std::io::{self, IoSlice};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use clutch_protocol::message::Welcome;
use nix::poll::PollFlags;
use nix::sys::socket::MsgFlags;

use super::connection::{Connection, wait_for};
use crate::error::ConnectError;
use crate::inbox::{Filled, Inbox};
use crate::outbound::write_now;
use crate::transport::{self, Backoff, ConnectOptions, is_hang_up};

/// Connects and says hello.
pub(super) fn open(options: &ConnectOptions) -> Result<Connection, ConnectError> {
    transport::check_path(&options.path)?;
    let deadline = options.deadline();
    let mut backoff = Backoff::new();
    loop {
        if let Some(socket) = transport::connect_now(&options.path)? {
            return greet(socket, options, deadline);
        }
        if Instant::now() >= deadline {
            return Err(options.timed_out());
        }
        // Parking may end early, which only means that the next try comes sooner.
        std::thread::park_timeout(backoff.next().expect("it never ends"));
    }
}

/// Connects and says hello, for a caller that speaks the protocol itself from then on.
pub(super) fn open_raw(options: &ConnectOptions) -> Result<(UnixStream, Welcome), ConnectError> {
    transport::check_path(&options.path)?;
    let deadline = options.deadline();
    let mut backoff = Backoff::new();
    loop {
        if let Some(socket) = transport::connect_now(&options.path)? {
            // A welcome is the last that a daemon says unasked.
            return welcome(&socket, options, deadline).map(|(welcome, _)| (socket, welcome));
        }
        if Instant::now() >= deadline {
            return Err(options.timed_out());
        }
        // Parking may end early, which only means that the next try comes sooner.
        std::thread::park_timeout(backoff.next().expect("it never ends"));
    }
}

/// Says hello on a socket that is already connected.
pub(super) fn adopt(socket: UnixStream) -> Result<Connection, ConnectError> {
    let options = ConnectOptions::adopted();
    let deadline = options.deadline();
    greet(socket, &options, deadline)
}

fn greet(
    socket: UnixStream,
    options: &ConnectOptions,
    deadline: Instant,
) -> Result<Connection, ConnectError> {
    let (welcome, inbox) = welcome(&socket, options, deadline)?;
    Ok(Connection::start(socket, welcome, inbox))
}

fn welcome(
    socket: &UnixStream,
    options: &ConnectOptions,
    deadline: Instant,
) -> Result<(Welcome, Inbox), ConnectError> {
    let path = options.path.as_path();
    let fault = |source| transport::greeting_fault(source, path);
    let wait = |events| match wait_for(socket, events, Some(deadline)).map_err(fault)? {
        true => Ok(()),
        false => Err(options.timed_out()),
    };
    socket.set_nonblocking(false).map_err(fault)?;
    let hello = transport::hello(&options.program);
    let mut sent = 0;
    while sent < hello.len() {
        match write_now(socket, &[IoSlice::new(&hello[sent..])]) {
            Ok(0) => wait(PollFlags::POLLOUT)?,
            Ok(count) => sent += count,
            // A refusal may be waiting to be read even when no hello is taken any more.
            Err(error) if is_hang_up(&error) => break,
            Err(error) => return Err(fault(error)),
        }
    }
    let mut inbox = Inbox::before_hello();
    let frame = loop {
        if let Some(frame) = transport::next_frame(&mut inbox, path)? {
            break frame;
        }
        wait(PollFlags::POLLIN)?;
        if inbox.fill(socket, MsgFlags::empty()).map_err(fault)? == Filled::End {
            return Err(fault(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let welcome = transport::read_welcome(&frame, path)?;
    inbox.welcome(welcome.payload_bytes_max);
    Ok((welcome, inbox))
}
