//! Opening an async client's connection: tries, hello and welcome, all before one deadline. What
//! travels is in `transport`; what happens afterwards in `connection`.

use std::io;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::connection::Connection;
use crate::error::ConnectError;
use crate::inbox::{Filled, Inbox};
use crate::transport::{self, Backoff, ConnectOptions, is_hang_up};

/// Connects and says hello.
pub(crate) async fn open(options: &ConnectOptions) -> Result<Arc<Connection>, ConnectError> {
    transport::check_path(&options.path)?;
    let deadline = Instant::from_std(options.deadline());
    let opening = async {
        let mut backoff = Backoff::new();
        loop {
            if let Some(socket) = transport::connect_now(&options.path)? {
                return greet(socket, &options.path, &options.program).await;
            }
            let pause = backoff.next().expect("it never ends");
            sleep_until(Instant::now() + pause).await;
        }
    };
    let opened = timeout_at(deadline, opening).await;
    opened.unwrap_or_else(|_| Err(options.timed_out()))
}

/// Says hello on a socket that is already connected.
pub(crate) async fn adopt(socket: StdStream) -> Result<Arc<Connection>, ConnectError> {
    let options = ConnectOptions::adopted();
    let deadline = Instant::from_std(options.deadline());
    let greeting = greet(socket, &options.path, &options.program);
    let greeted = timeout_at(deadline, greeting).await;
    greeted.unwrap_or_else(|_| Err(options.timed_out()))
}

async fn greet(
    socket: StdStream,
    path: &Path,
    program: &str,
) -> Result<Arc<Connection>, ConnectError> {
    let fault = |source| transport::greeting_fault(source, path);
    socket.set_nonblocking(true).map_err(fault)?;
    let socket = UnixStream::from_std(socket).map_err(fault)?;
    let hello = transport::hello(program);
    let mut sent = 0;
    while sent < hello.len() {
        socket.writable().await.map_err(fault)?;
        match socket.try_write(&hello[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
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
        if inbox.receive(&socket).await.map_err(fault)? == Filled::End {
            return Err(fault(io::ErrorKind::UnexpectedEof.into()));
        }
    };
    let welcome = transport::read_welcome(&frame, path)?;
    inbox.welcome(welcome.payload_bytes_max);
    Ok(Connection::start(socket, welcome, inbox))
}
