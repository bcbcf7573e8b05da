//! What a map is told before it begins. Leaves carrying it out to `stream` and to `blocking`.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clutch_protocol::message::Apply;
use clutch_protocol::{Codec, Failure};
use futures_core::Stream;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use tokio::sync::mpsc;

use super::settings::{Chunk, Settings};
use super::stream::{Enumerated, Ordered, Unordered};
use crate::client::Client;
use crate::pending::OutputChunk;
use crate::retry::Retry;

/// An item that failed.
#[derive(Clone, Debug, Error)]
#[error("item {index}: {failure}")]
pub struct ItemError {
    /// Which one, counted from 0.
    pub index: u64,
    /// How. When the function raised, the exception is that item's own. When a worker died, the
    /// item that it was at has that failure, and so have those before it in the same chunk, which
    /// had ended: their results died with it. Those behind it run elsewhere. When it is not known
    /// which item it was at, or when a chunk timed out, all of them have that failure, and any may
    /// have run. [`Chunk::Fixed`] with 1 keeps items apart, and so does a timeout or a retry.
    #[source]
    pub failure: Failure,
}

/// What came of an item; see [`Map::outcomes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome<R> {
    /// This.
    Result(R),
    /// The function returned `clutch.SKIP`.
    Skipped,
}

impl<'de, R: Deserialize<'de>> Deserialize<'de> for Outcome<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        R::deserialize(deserializer).map(Outcome::Result)
    }
}

/// A function to be called once for each item; not begun yet.
///
/// An item for which the function returns `clutch.SKIP` has no result: it is left out. So a map can
/// filter as well.
///
/// Items travel in chunks, so that a call's cost is shared by many small ones. At most
/// [`window`](Map::window) items are pulled and not yet yielded, so memory is bounded and the
/// source may be endless. A chunk that found the queue full, or whose worker died before it began,
/// is sent again by itself. When the connection is lost, items under way fail, and no more are
/// pulled. Dropping the map cancels what is under way.
#[derive(Clone, Debug)]
#[must_use = "a map does nothing until it is polled"]
pub struct Map<C, S, R> {
    pub(crate) client: C,
    pub(crate) source: S,
    pub(crate) settings: Settings,
    /// What stands for an item that was skipped, where such are to be given out.
    pub(crate) skipped: Option<fn() -> R>,
    result: PhantomData<fn() -> R>,
}

impl<C, S, R> Map<C, S, R> {
    pub(crate) fn new(client: C, function: impl Into<String>, source: S) -> Map<C, S, R> {
        let settings = Settings::new(function);
        Map { client, source, settings, skipped: None, result: PhantomData }
    }

    /// Calls the function with the parts of each item as its arguments: an item is a tuple, or
    /// whatever else is a list in Python.
    pub fn star(mut self) -> Self {
        self.settings.apply = Apply::Star;
        self
    }

    /// Tells of items that were skipped, too, instead of leaving them out.
    pub fn outcomes(self) -> Map<C, S, Outcome<R>> {
        let Map { client, source, settings, .. } = self;
        Map { client, source, settings, skipped: Some(|| Outcome::Skipped), result: PhantomData }
    }

    /// As a map that is reduced, whose results are partial ones.
    pub(crate) fn folding(mut self, fold: impl Into<String>) -> Self {
        self.settings.fold = Some(fold.into());
        self.skipped = None;
        self
    }

    /// Sends the calls to this pool instead of [`DEFAULT_POOL`](crate::DEFAULT_POOL).
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.settings.target.pool = pool.into();
        self
    }

    /// How long each call may take, queueing included. With [`Chunk::Auto`] each item is then a
    /// call of its own.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Goes before calls with a lower priority that wait in the same pool; 0 unless said otherwise.
    pub fn priority(mut self, priority: i8) -> Self {
        self.settings.wishes.priority = priority;
        self
    }

    /// Tries again where [`Retry`] says so. With [`Chunk::Auto`] each item is then a call of its
    /// own.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.wishes.retry = Some(retry);
        self
    }

    /// Encodes items and results with this codec: [`Codec::Plain`] unless said otherwise, or
    /// [`Codec::Json`]. With JSON, items and results may be `Box<RawValue>`: text that passes
    /// through untouched.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.settings.codec = codec;
        self
    }

    /// How many items travel together.
    pub fn chunk(mut self, chunk: Chunk) -> Self {
        self.settings.chunk = chunk;
        self
    }

    /// Has what the function prints sent here, each piece with the number of its chunk's call. When
    /// the channel is full, output is dropped and counted in the next [`OutputChunk`].
    pub fn output(mut self, sender: mpsc::Sender<OutputChunk>) -> Self {
        self.settings.output = Some(sender);
        self
    }

    /// How many items may be pulled and not yet yielded.
    pub fn window(mut self, items: NonZeroU32) -> Self {
        self.settings.window = items;
        self
    }
}

impl<S, R> Map<Client, S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    /// Results in the order of the items.
    pub fn ordered(self) -> Ordered<S, R> {
        Ordered::new(self)
    }

    /// Results in the order of the items, each with the index of its item.
    pub fn enumerated(self) -> Enumerated<S, R> {
        Enumerated::new(self)
    }

    /// Results as they are done, each with the index of its item.
    pub fn unordered(self) -> Unordered<S, R> {
        Unordered::new(self)
    }

    /// One result of all: `fold` (`module:qualname`) is a function of two, what came of the items
    /// so far and of the next ones. It is called by the workers, for the items of a chunk where
    /// they are and then for what came of chunks, always with neighbours in the order of the items.
    /// So it must be associative (`operator:add`, `builtins:max`, one that concatenates), and need
    /// not be commutative; and it takes what it gives. None without items, or if all were skipped.
    ///
    /// # Errors
    ///
    /// The first item that was seen to fail; or, when it was folding that failed, the first of
    /// those that were being folded. What was still under way is cancelled.
    pub async fn reduce(self, fold: impl Into<String>) -> Result<Option<R>, ItemError> {
        self.folding(fold).ordered().next().await.transpose()
    }

    /// All results, in the order of the items.
    ///
    /// # Errors
    ///
    /// The first item that failed; what was still under way is cancelled.
    pub async fn collect<T: FromIterator<R>>(self) -> Result<T, ItemError> {
        self.ordered().collect().await
    }
}

/// An iterator as a stream that always has its next item.
#[derive(Clone, Debug)]
pub struct Items<I>(pub(crate) I);

// Nothing is ever pinned inside it.
impl<I> Unpin for Items<I> {}

impl<I: Iterator> Stream for Items<I> {
    type Item = I::Item;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<I::Item>> {
        Poll::Ready(self.0.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}
