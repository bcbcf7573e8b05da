//! The async client: a handle on one connection. Its verbs are here; what a connection does is in
//! `connection`.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clutch_protocol::message::{Reload, Stop, Welcome};
use clutch_protocol::reload::Reloaded;
use clutch_protocol::status::Status;
use clutch_protocol::{Codec, Failure, Frame, Kind, Reason, wire};
use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::pack;
use crate::connection::Connection;
use crate::error::ConnectError;
use crate::exchange::{Deadline, Letter, Target, Trouble, open};
use crate::handle::{self, Ref};
use crate::limits::{CONTROL_TIMEOUT, RELOAD_TIMEOUT};
use crate::map::{Items, Map};
use crate::map_file::{Input, MapFile, SourceFile};
use crate::opening;
use crate::pending::Closing;
use crate::request::Request;
use crate::stream::ItemStream;
use crate::transport::ConnectOptions;

/// A connection to a daemon. Clones share it; the last one dropped closes it.
///
/// Needs a tokio runtime, of either kind, with I/O and time enabled: the one it connects on reads
/// for it, any other may call. A lost connection stays lost, and says so at once to every call:
/// connect again to go on.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    connection: Arc<Connection>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("welcome", self.connection.welcome())
            .field("closed", &self.connection.is_closed())
            .finish()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection.close(Closing::Lost("the client was dropped".into()));
    }
}

impl Client {
    /// Connects to the daemon at `path`.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Client, ConnectError> {
        Client::connect_with(ConnectOptions::new(path.as_ref())).await
    }

    /// Connects to the daemon at [`default_socket`](crate::default_socket).
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub async fn connect_default() -> Result<Client, ConnectError> {
        Client::connect_with(ConnectOptions::from_default()?).await
    }

    /// Connects as `options` say.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub async fn connect_with(options: ConnectOptions) -> Result<Client, ConnectError> {
        opening::open(&options).await.map(Client::new)
    }

    /// Says hello on a socket that is connected to a daemon already: one end of a socket pair.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub async fn from_stream(stream: UnixStream) -> Result<Client, ConnectError> {
        opening::adopt(stream).await.map(Client::new)
    }

    fn new(connection: Arc<Connection>) -> Client {
        Client { handle: Arc::new(Handle { connection }) }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.handle.connection
    }

    /// Calls `function` (`module:qualname`) of the default pool with a tuple of arguments.
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`].
    pub async fn call<R: DeserializeOwned>(
        &self,
        function: &str,
        args: impl Serialize,
    ) -> Result<R, Failure> {
        self.request(function).args(args).send().await
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
    /// are pulled from the iterator as they are needed, so it may be endless; pulling must not
    /// block. [`Map`] says how items travel together and what happens when one fails.
    pub fn map<I: IntoIterator, R>(
        &self,
        function: impl Into<String>,
        items: I,
    ) -> Map<Client, Items<I::IntoIter>, R> {
        Map::new(self.clone(), function, Items(items.into_iter()))
    }

    /// The same for items that come as a stream. What has come is sent; a chunk never waits for
    /// items that are still to come.
    pub fn map_stream<S: Stream, R>(
        &self,
        function: impl Into<String>,
        items: S,
    ) -> Map<Client, S, R> {
        Map::new(self.clone(), function, items)
    }

    /// As [`map`](Client::map), with the parts of each item as the function's arguments.
    pub fn starmap<I: IntoIterator, R>(
        &self,
        function: impl Into<String>,
        items: I,
    ) -> Map<Client, Items<I::IntoIter>, R> {
        self.map(function, items).star()
    }

    /// Calls `function` once for each chunk of a file, its only argument, over all workers of the
    /// pool: each maps its own chunk into memory, and this side reads nothing of it. [`MapFile`]
    /// says how it is cut.
    ///
    /// ```no_run
    /// # async fn f(client: clutch_client::Client) -> Result<(), clutch_client::MapFileError> {
    /// let counts: Vec<u64> = client.map_file("logs:count_errors", "app.log").collect().await?;
    /// println!("{} errors", counts.iter().sum::<u64>());
    /// # Ok(())
    /// # }
    /// ```
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
    /// [`BadArguments`](Reason::BadArguments) when it cannot be encoded,
    /// [`TooLarge`](Reason::TooLarge) when it is more than may be attached to a call,
    /// [`HandlesFull`](Reason::HandlesFull) when the daemon keeps as much as it may; or when the
    /// connection is lost, or the daemon does not answer.
    pub async fn put(&self, value: impl Serialize) -> Result<Ref, Failure> {
        let packed = pack(&value, self.welcome().attached_bytes_max);
        let packed = packed.map_err(|reason| handle::target().failure(Trouble::unsent(reason)))?;
        let (letter, deadline) = (handle::letter(&packed), Deadline::new(Some(CONTROL_TIMEOUT)));
        let answer = self.connection().exchange(&letter, None, deadline).await;
        let keeper: Weak<Connection> = Arc::downgrade(self.connection());
        handle::opened(answer.map(|delivery| delivery.frame), &packed, keeper)
    }

    /// What the daemon, its pools and their workers are doing now.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub async fn status(&self) -> Result<Status, Failure> {
        let frame = self.control("status", Kind::Status, Vec::new()).await?;
        read_status(&frame)
    }

    /// The same as the daemon wrote it, in JSON: a newer daemon may say more than [`Status`] holds.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub async fn status_json(&self) -> Result<Bytes, Failure> {
        Ok(self.control("status", Kind::Status, Vec::new()).await?.payload)
    }

    /// How long it takes the daemon to answer.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub async fn ping(&self) -> Result<Duration, Failure> {
        let start = Instant::now();
        self.control("ping", Kind::Ping, Vec::new()).await?;
        Ok(start.elapsed())
    }

    /// Stops the daemon. Returns when it has begun to stop; [`closed`](Client::closed) returns when
    /// it is done with this connection.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub async fn stop(&self, how: Stop) -> Result<(), Failure> {
        self.control("stop", Kind::Stop, stop_meta(how)).await.map(drop)
    }

    /// Makes the daemon read its configuration anew: as a whole, or not at all, which is no error
    /// of this call's but said by [`Reloaded::result`]. Without `wait`, returns when it is clear
    /// that the configuration is right; with it, when everything that had to be replaced has been,
    /// within the bounds of the daemon.
    ///
    /// # Errors
    ///
    /// When the connection is lost, or the daemon does not answer.
    pub async fn reload(&self, wait: bool) -> Result<Reloaded, Failure> {
        let deadline = Deadline::new((!wait).then_some(RELOAD_TIMEOUT));
        let meta = reload_meta(wait);
        read_reloaded(&self.control_until("reload", Kind::Reload, meta, deadline).await?)
    }

    pub(crate) async fn control(
        &self,
        verb: &str,
        kind: Kind,
        meta: Vec<u8>,
    ) -> Result<Frame, Failure> {
        self.control_until(verb, kind, meta, Deadline::new(Some(CONTROL_TIMEOUT))).await
    }

    async fn control_until(
        &self,
        verb: &str,
        kind: Kind,
        meta: Vec<u8>,
        deadline: Deadline,
    ) -> Result<Frame, Failure> {
        let target = Target::control(verb);
        let letter = Letter { meta, ..Letter::bare(kind) };
        let frame = self.connection().exchange(&letter, None, deadline).await;
        open(frame.map_err(|trouble| target.failure(trouble))?.frame, answer_to(kind), &target)
    }

    /// What the daemon said when it accepted this client.
    pub fn welcome(&self) -> &Welcome {
        self.connection().welcome()
    }

    /// Whether the connection has ended. It will not come back; connect again.
    pub fn is_closed(&self) -> bool {
        self.connection().is_closed()
    }

    /// Returns when the connection has ended.
    pub async fn closed(&self) {
        self.connection().closed().await;
    }

    /// How many answers came for calls nobody waited for any more. They were dropped.
    pub fn late_replies(&self) -> u64 {
        self.connection().late_replies()
    }
}

/// The meta of a stop.
pub(crate) fn stop_meta(how: Stop) -> Vec<u8> {
    wire::encode(&how).expect("a stop is far below a meta's limit")
}

/// The meta of a reload.
pub(crate) fn reload_meta(wait: bool) -> Vec<u8> {
    wire::encode(&Reload { wait }).expect("it has a fixed size")
}

/// The kind of frame that answers a request without a function.
pub(crate) fn answer_to(kind: Kind) -> Kind {
    match kind {
        Kind::Ping => Kind::Pong,
        Kind::Status => Kind::StatusReport,
        Kind::Stop => Kind::Stopping,
        Kind::Reload => Kind::Reloaded,
        Kind::Operate => Kind::Operated,
        other => unreachable!("{other:?} is not a request for the daemon itself"),
    }
}

/// Reads a status.
pub(crate) fn read_status(frame: &Frame) -> Result<Status, Failure> {
    read_json(frame, "status")
}

/// Reads what a reload did.
pub(crate) fn read_reloaded(frame: &Frame) -> Result<Reloaded, Failure> {
    read_json(frame, "reload")
}

fn read_json<T: DeserializeOwned>(frame: &Frame, verb: &str) -> Result<T, Failure> {
    let fault = |detail| {
        let trouble = Trouble::sent(0, Reason::Protocol { detail });
        Target::control(verb).failure(trouble)
    };
    if frame.header.codec != Codec::Json {
        return Err(fault(format!("the {verb} came as {:?}, not as JSON", frame.header.codec)));
    }
    serde_json::from_slice(&frame.payload)
        .map_err(|error| fault(format!("the {verb} cannot be read: {error}")))
}
