//! One call, built piece by piece. The same builder serves both clients: `C` is the client that
//! will send it.

use std::time::Duration;

use bytes::Bytes;
use clutch_protocol::message::Welcome;
use clutch_protocol::stream::Progress;
use clutch_protocol::{Codec, Failure, Flags, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::client::Client;
use crate::codec::{NoArguments, encode_arguments, encoded};
use crate::exchange::{Deadline, Letter, Reply, Target, Trouble, Wishes, open_reply};
use crate::feed::{How, Sources};
use crate::feeding::Feeder;
use crate::handle::Keeper;
use crate::items::{ItemSink, ProgressSink};
use crate::memory::Body;
use crate::pending::{OutputChunk, OutputSink};
use crate::retry::Retry;

/// A call that was not sent yet.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), clutch_client::Failure> {
/// let digits: String = client
///     .request("builtins:format")
///     .args((std::f64::consts::PI, ".3f"))
///     .timeout(std::time::Duration::from_secs(1))
///     .send()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request<C, A = NoArguments, K = NoArguments> {
    pub(crate) client: C,
    args: A,
    kwargs: K,
    parts: Parts,
}

/// What does not depend on the types of the arguments.
#[derive(Clone, Debug)]
struct Parts {
    target: Target,
    wishes: Wishes,
    timeout: Option<Duration>,
    codec: Codec,
    flags: Flags,
    encoded: Option<Bytes>,
    output: Option<mpsc::Sender<OutputChunk>>,
    progress: Option<ProgressSink>,
}

/// A request that is ready to be sent.
pub(crate) struct Ready<C> {
    pub(crate) client: C,
    pub(crate) target: Target,
    wishes: Wishes,
    pub(crate) deadline: Deadline,
    pub(crate) output: Option<OutputSink>,
    payload: (Codec, Flags, Body),
}

/// A client that can send a call.
pub(crate) trait Caller {
    /// What the daemon has told it.
    fn welcome(&self) -> &Welcome;
}

impl Caller for Client {
    fn welcome(&self) -> &Welcome {
        Client::welcome(self)
    }
}

impl Caller for crate::blocking::Client {
    fn welcome(&self) -> &Welcome {
        crate::blocking::Client::welcome(self)
    }
}

impl<C> Request<C> {
    pub(crate) fn new(client: C, function: impl Into<String>) -> Request<C> {
        let parts = Parts {
            target: Target::new(function),
            wishes: Wishes::default(),
            timeout: None,
            codec: Codec::Plain,
            flags: Flags::NONE,
            encoded: None,
            output: None,
            progress: None,
        };
        Request { client, args: NoArguments, kwargs: NoArguments, parts }
    }
}

impl<C, A, K> Request<C, A, K> {
    /// Sends the call to this pool instead of [`DEFAULT_POOL`](crate::DEFAULT_POOL).
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.parts.target.pool = pool.into();
        self
    }

    /// Gives up after this long, queueing included. Without it the pool's own limit holds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.parts.timeout = Some(timeout);
        self
    }

    /// Goes before calls with a lower priority that wait in the same pool; 0 unless said otherwise.
    /// A call that runs is never disturbed by it.
    pub fn priority(mut self, priority: i8) -> Self {
        self.parts.wishes.priority = priority;
        self
    }

    /// Tries again where [`Retry`] says so. All attempts share the call's one timeout; the failure
    /// that is given in the end is the last attempt's, and says which that was.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.parts.wishes.retry = Some(retry);
        self
    }

    /// Encodes the arguments with this codec: [`Codec::Plain`] unless said otherwise, or
    /// [`Codec::Json`]. The result comes in the same one.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.parts.codec = codec;
        self
    }

    /// The positional arguments: a tuple, or a sequence of values of one type.
    pub fn args<B: Serialize>(self, args: B) -> Request<C, B, K> {
        Request { client: self.client, args, kwargs: self.kwargs, parts: self.parts }
    }

    /// The keyword arguments: a struct, or a map with text keys.
    pub fn kwargs<L: Serialize>(mut self, kwargs: L) -> Request<C, A, L> {
        self.parts.flags = self.parts.flags.with(Flags::KEYWORDS);
        Request { client: self.client, args: self.args, kwargs, parts: self.parts }
    }

    /// A payload that is encoded already, instead of arguments. With [`Flags::KEYWORDS`] it is
    /// `(args, kwargs)`, without it `args`.
    pub fn encoded(mut self, codec: Codec, flags: Flags, payload: impl Into<Bytes>) -> Self {
        (self.parts.codec, self.parts.flags) = (codec, flags);
        self.parts.encoded = Some(payload.into());
        self
    }

    /// Has what the call prints sent here. When the channel is full, output is dropped and counted
    /// in the next [`OutputChunk`]: a slow receiver never delays an answer.
    pub fn output(mut self, sender: mpsc::Sender<OutputChunk>) -> Self {
        self.parts.output = Some(sender);
        self
    }

    /// Has `tell` called with how far the call has come, each time its function says so by
    /// `clutch.progress`: at most ten times a second, and with the last one before the call ends.
    /// Whoever reads for the client calls it, so it must not block, nor use the client.
    pub fn on_progress(mut self, tell: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.parts.progress = Some(ProgressSink::new(tell));
        self
    }

    pub(crate) fn target(&self) -> &Target {
        &self.parts.target
    }

    /// Encodes the arguments and starts the clock.
    pub(crate) fn ready(self) -> Result<Ready<C>, Failure>
    where
        A: Serialize,
        K: Serialize,
        C: Caller,
    {
        let attached_max = self.client.welcome().attached_bytes_max;
        let Parts { target, wishes, timeout, codec, mut flags, encoded: ready_made, .. } =
            self.parts;
        let (output, progress) = (self.parts.output, self.parts.progress);
        let deadline = Deadline::new(timeout);
        let payload = match ready_made {
            Some(payload) => encoded(codec, payload, attached_max),
            None => encode_arguments(codec, flags, &self.args, &self.kwargs, attached_max),
        };
        let payload = payload.map_err(|reason| target.failure(Trouble::unsent(reason)))?;
        if output.is_some() {
            flags = flags.with(Flags::OUTPUT);
        }
        let mut output = output.map(OutputSink::new);
        if progress.is_some() {
            flags = flags.with(Flags::PROGRESS);
            output.get_or_insert_default().progress = progress;
        }
        let payload = (codec, flags, payload);
        Ok(Ready { client: self.client, target, wishes, deadline, output, payload })
    }
}

impl<C> Ready<C> {
    /// A call whose payload is ready: a chunk of a map.
    pub(crate) fn encoded(
        client: C,
        target: Target,
        wishes: Wishes,
        timeout: Option<Duration>,
        payload: (Codec, Flags, Body),
    ) -> Ready<C> {
        Ready { client, target, wishes, deadline: Deadline::new(timeout), output: None, payload }
    }

    /// With its answer in items, `window` of them on the way at most.
    pub(crate) fn with_items(mut self, items: ItemSink) -> Ready<C> {
        let (codec, flags, payload) = self.payload;
        self.payload = (codec, flags.with(Flags::STREAM), payload);
        self.output.get_or_insert_default().items = Some(items);
        self
    }

    /// What its caller wants beyond its answer.
    #[cfg(test)]
    pub(crate) fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// With what it prints sent here.
    pub(crate) fn with_output(self, output: Option<OutputSink>) -> Ready<C> {
        Ready { output, ..self }
    }

    /// What feeds the call; `may_wait` says whether its sources may have to be waited for.
    pub(crate) fn sources(
        &self,
        welcome: &Welcome,
        may_wait: bool,
    ) -> Result<Option<Sources>, Trouble> {
        let (codec, _, body) = &self.payload;
        let (attached_max, payload_max) = (welcome.attached_bytes_max, welcome.payload_bytes_max);
        Sources::take(&body.feeds, How { codec: *codec, attached_max, payload_max }, may_wait)
    }

    /// The frame to be sent.
    pub(crate) fn letter<K: Keeper>(&self, connection: &K) -> Result<Letter, Trouble> {
        let (_, _, body) = &self.payload;
        let mine = body.refs.iter().try_for_each(|kept| kept.check(connection));
        mine.map_err(Trouble::unsent)?;
        let welcome = connection.welcome();
        // Cloning a body shares it.
        Letter::call(&self.target, &self.wishes, self.deadline, self.payload.clone(), welcome)
            .map_err(Trouble::unsent)
    }
}

/// Decodes the value of a reply.
pub(crate) fn value<R: DeserializeOwned>(reply: &Reply, target: &Target) -> Result<R, Failure> {
    reply.value().map_err(|reason: Reason| Failure {
        phases: reply.answer.phases,
        ..target.failure(Trouble::sent(reply.answer.call, reason))
    })
}

impl<A: Serialize, K: Serialize> Request<Client, A, K> {
    /// Calls the function and decodes its result. Dropping the future cancels the call.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`].
    pub async fn send<R: DeserializeOwned>(self) -> Result<R, Failure> {
        let mut ready = self.ready()?;
        let reply = ready.send().await?;
        value(&reply, &ready.target)
    }

    /// Calls the function and leaves its result encoded. Dropping the future cancels the call.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`].
    pub async fn send_reply(self) -> Result<Reply, Failure> {
        self.ready()?.send().await
    }

    /// As [`send_reply`](Request::send_reply), but the call is cancelled when `give_up` resolves.
    /// Unlike one whose future is dropped, it still says how it ended: usually with
    /// [`Reason::Cancelled`] and its number in the daemon. While the connection has no room for the
    /// call, `give_up` is not heard; the call's timeout and dropping the future are.
    ///
    /// # Errors
    ///
    /// Every way a call can fail; see [`Reason`].
    pub async fn send_reply_until(
        self,
        give_up: impl Future<Output = ()>,
    ) -> Result<Reply, Failure> {
        self.ready()?.send_until(give_up).await
    }
}

impl Ready<Client> {
    pub(crate) async fn send(&mut self) -> Result<Reply, Failure> {
        self.send_until(std::future::pending()).await
    }

    pub(crate) async fn send_until(
        &mut self,
        give_up: impl Future<Output = ()>,
    ) -> Result<Reply, Failure> {
        let output = self.output.take();
        let connection = self.client.connection();
        // What cannot be sent at all leaves its feeds to another call.
        let letter = self.letter(&**connection);
        let letter = letter.and_then(|it| Ok((it, self.sources(connection.welcome(), true)?)));
        let frame = match letter {
            Ok((letter, sources)) => {
                let (feeder, feeds) = sources.map(Feeder::new).unzip();
                let output = OutputSink::fed(output, feeds);
                connection.exchange_until(&letter, output, self.deadline, feeder, give_up).await
            }
            Err(trouble) => Err(trouble),
        };
        let delivery = frame.map_err(|trouble| self.target.failure(trouble))?;
        open_reply(delivery, &self.target, connection.welcome())
    }
}
