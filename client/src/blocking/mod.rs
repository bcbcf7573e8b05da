//! The client without an async runtime: the same verbs, which block the calling thread. Any number
//! of threads may share one client; there is no thread behind it.
//!
//! - `opening`: connecting.
//! - `connection`: how threads share one socket.
//! - `desk`: who waits for what, and who reads.
//! - `turn`: who writes; `remarks`: what is said by the way.
//! - `map`: the driver of a blocking map; `map_file`: that of a file's.
//! - `stream`: items as they come; `feeding`: how a call is fed.

mod connection;
mod desk;
mod feeding;
mod map;
mod map_file;
mod opening;
mod remarks;
mod stream;
mod turn;

use std::fmt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clutch_protocol::message::{Stop, Welcome};
use clutch_protocol::reload::Reloaded;
use clutch_protocol::status::Status;
use clutch_protocol::{Failure, Frame, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use map::{Enumerated, Ordered, Unordered};
pub use map_file::{FileOrdered, FileUnordered};
pub use stream::ItemStream;

use crate::client::{answer_to, read_reloaded, read_status, reload_meta, stop_meta};
use crate::codec::pack;
use crate::error::ConnectError;
use crate::exchange::{Deadline, Letter, Reply, Target, Trouble, open, open_reply};
use crate::feed::Sources;
use crate::feeding::FeedSink;
use crate::handle::{self, Ref};
use crate::inbox::Delivery;
use crate::limits::{CONTROL_TIMEOUT, RELOAD_TIMEOUT};
use crate::map::Map;
use crate::map_file::{Input, MapFile, SourceFile};
use crate::pending::OutputSink;
use crate::request::{Ready, Request, value};
use crate::transport::ConnectOptions;
use connection::Connection;

/// A connection to a daemon, for programs without an async runtime. Clones share it; the last one
/// dropped closes it.
///
/// A process forked from the one that connected cannot use it: each call fails with
/// [`Disconnected`](crate::Reason::Disconnected). A lost connection stays lost, and says so at once
/// to every call: connect again to go on.
#[derive(Clone)]
pub struct Client {
    connection: Arc<Connection>,
}

/// Connects and says hello, for a program that speaks the protocol itself from then on: `clutch
/// run` sends descriptors, which no other request does.
///
/// # Errors
///
/// See [`ConnectError`].
pub fn connect_raw(options: &ConnectOptions) -> Result<(UnixStream, Welcome), ConnectError> {
    opening::open_raw(options)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("welcome", self.welcome()).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the daemon at `path`.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        Client::connect_with(&ConnectOptions::new(path.as_ref()))
    }

    /// Connects to the daemon at [`default_socket`](crate::default_socket).
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect_default() -> Result<Client, ConnectError> {
        Client::connect_with(&ConnectOptions::from_default()?)
    }

    /// Connects as `options` say.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect_with(options: &ConnectOptions) -> Result<Client, ConnectError> {
        opening::open(options).map(Client::new)
    }

    /// Says hello on a socket that is connected to a daemon already: one end of a socket pair.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn from_stream(stream: UnixStream) -> Result<Client, ConnectError> {
        opening::adopt(stream).map(Client::new)
    }

    fn new(connection: Connection) -> Client {
        Client { connection: Arc::new(connection) }
    }

    /// Calls `function` (`module:qualname`) of the default pool with a tuple of arguments.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`](crate::Reason).
    pub fn call<R: DeserializeOwned>(
        &self,
        function: &str,
        args: impl Serialize,
    ) -> Result<R, Failure> {
        self.request(function).args(args).send()
    }

    /// Calls a generator function, or any that gives an iterator, and gives its items as they come.
    /// [`ItemStream`] says how; a stream of a call with a pool or a timeout of its own begins with
    /// [`request`](Client::request).
    pub fn stream<T: DeserializeOwned>(
        &self,
        function: &str,
        args: impl Serialize,
    ) -> ItemStream<T> {
        self.request(function).args(args).stream()
    }

    /// A call with a pool, a timeout, keywords or output of its own.
    pub fn request(&self, function: impl Into<String>) -> Request<Client> {
        Request::new(self.clone(), function)
    }

    /// Calls `function` once for each item, its only argument, over all workers of the pool. Items
    /// are pulled from the iterator as they are needed, so it may be endless.
    pub fn map<I: IntoIterator, R>(
        &self,
        function: impl Into<String>,
        items: I,
    ) -> Map<Client, I::IntoIter, R> {
        Map::new(self.clone(), function, items.into_iter())
    }

    /// As [`map`](Client::map), with the parts of each item as the function's arguments.
    pub fn starmap<I: IntoIterator, R>(
        &self,
        function: impl Into<String>,
        items: I,
    ) -> Map<Client, I::IntoIter, R> {
        self.map(function, items).star()
    }

    /// Calls `function` once for each chunk of a file, its only argument, over all workers of the
    /// pool: each maps its own chunk into memory, and this side reads nothing of it. [`MapFile`]
    /// says how it is cut.
    pub fn map_file<R>(
        &self,
        function: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> MapFile<Client, R> {
        MapFile::new(self.clone(), function, Input::Path(path.into()))
    }

    /// The same for a file that is open already.
    pub fn map_source<R>(
        &self,
        function: impl Into<String>,
        source: SourceFile,
    ) -> MapFile<Client, R> {
        MapFile::new(self.clone(), function, Input::Open(source))
    }

    /// Puts a value with the daemon once, to be used in many calls: arrays in it are copied into
    /// memory here, and then by nobody. [`Ref`] says how it is used.
    ///
    /// # Errors
    ///
    /// As for the async client's [`put`](crate::Client::put).
    pub fn put(&self, value: impl Serialize) -> Result<Ref, Failure> {
        let packed = pack(&value, self.welcome().attached_bytes_max);
        let packed = packed.map_err(|reason| handle::target().failure(Trouble::unsent(reason)))?;
        let (letter, deadline) = (handle::letter(&packed), Deadline::new(Some(CONTROL_TIMEOUT)));
        let answer = self.connection.exchange(&letter, None, deadline);
        let keeper: Weak<Connection> = Arc::downgrade(&self.connection);
        handle::opened(answer.map(|delivery| delivery.frame), &packed, keeper)
    }

    /// What the daemon, its pools and their workers are doing now.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub fn status(&self) -> Result<Status, Failure> {
        read_status(&self.control("status", Kind::Status, Vec::new())?)
    }

    /// The same as the daemon wrote it, in JSON: a newer daemon may say more than [`Status`] holds.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub fn status_json(&self) -> Result<Bytes, Failure> {
        Ok(self.control("status", Kind::Status, Vec::new())?.payload)
    }

    /// How long it takes the daemon to answer.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub fn ping(&self) -> Result<Duration, Failure> {
        let start = Instant::now();
        self.control("ping", Kind::Ping, Vec::new())?;
        Ok(start.elapsed())
    }

    /// Stops the daemon. Returns when it has begun to stop.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub fn stop(&self, how: Stop) -> Result<(), Failure> {
        self.control("stop", Kind::Stop, stop_meta(how)).map(drop)
    }

    /// Makes the daemon read its configuration anew: as a whole, or not at all, which is no error
    /// of this call's but said by [`Reloaded::result`]. Without `wait`, returns when it is clear
    /// that the configuration is right; with it, when everything that had to be replaced has been,
    /// within the bounds of the daemon.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub fn reload(&self, wait: bool) -> Result<Reloaded, Failure> {
        let deadline = Deadline::new((!wait).then_some(RELOAD_TIMEOUT));
        let meta = reload_meta(wait);
        read_reloaded(&self.control_until("reload", Kind::Reload, meta, deadline)?)
    }

    pub(crate) fn control(&self, verb: &str, kind: Kind, meta: Vec<u8>) -> Result<Frame, Failure> {
        self.control_until(verb, kind, meta, Deadline::new(Some(CONTROL_TIMEOUT)))
    }

    fn control_until(
        &self,
        verb: &str,
        kind: Kind,
        meta: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Frame, Failure> {
        let target = Target::control(verb);
        let letter = Letter { meta, ..Letter::bare(kind) };
        let frame = self.connection.exchange(&letter, None, deadline);
        open(frame.map_err(|trouble| target.failure(trouble))?.frame, answer_to(kind), &target)
    }

    /// Sends a request that is answered piece by piece.
    pub(crate) fn exchange(
        &self,
        letter: &Letter,
        output: OutputSink,
        deadline: Deadline,
    ) -> Result<Delivery, Trouble> {
        self.connection.exchange(letter, Some(output), deadline)
    }

    /// What the daemon said when it accepted this client.
    pub fn welcome(&self) -> &Welcome {
        self.connection.welcome()
    }

    /// Whether the connection is known to have ended. A blocking client notices an end while it
    /// waits for an answer, not before.
    pub fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }

    /// How many answers came for calls nobody waited for any more. They were dropped.
    pub fn late_replies(&self) -> u64 {
        self.connection.late_replies()
    }
}

impl<A: Serialize, K: Serialize> Request<Client, A, K> {
    /// Calls the function and decodes its result.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`](crate::Reason).
    pub fn send<R: DeserializeOwned>(self) -> Result<R, Failure> {
        let mut ready = self.ready()?;
        let reply = ready.send()?;
        value(&reply, &ready.target)
    }

    /// Calls the function and leaves its result encoded.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`](crate::Reason).
    pub fn send_reply(self) -> Result<Reply, Failure> {
        self.ready()?.send()
    }
}

impl Ready<Client> {
    pub(crate) fn send(&mut self) -> Result<Reply, Failure> {
        let output = self.output.take();
        let connection = &self.client.connection;
        // What cannot be sent at all leaves its feeds to another call.
        let frame = self.letter(&**connection).and_then(|letter| {
            let sources = self.sources(connection.welcome(), false)?;
            let output = fed(output, sources.as_ref());
            connection.exchange_fed(&letter, output, self.deadline, sources)
        });
        let delivery = frame.map_err(|trouble| self.target.failure(trouble))?;
        open_reply(delivery, &self.target, connection.welcome())
    }
}

/// With what the call asks for coming to whoever waits for its answer.
fn fed(output: Option<OutputSink>, sources: Option<&Sources>) -> Option<OutputSink> {
    OutputSink::fed(output, sources.map(|sources| FeedSink::to_waiter(sources.count())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_can_be_shared_by_threads() {
        fn shared<T: Send + Sync + Clone>() {}
        shared::<Client>();
        shared::<crate::Client>();
    }
}
