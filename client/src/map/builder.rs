//! What a map is told before it begins. Leaves carrying it out to `stream` and to `blocking`.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use clutch_protocol::{Codec, Failure};
use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::mpsc;

use super::settings::{Chunk, Settings};
use super::stream::{Ordered, Unordered};
use crate::client::Client;
use crate::pending::OutputChunk;
use crate::retry::Retry;

/// An item that failed.
#[derive(Clone, Debug, Error)]
#[error("item {index}: {failure}")]
pub struct ItemError {
    /// Which one, counted from 0.
    pub index: u64,
    /// How. When the function raised, the exception is that item's own. When a chunk of several
    /// items failed as a whole (its worker died, it timed out), all of them have that failure, and
    /// any of them may have run; [`Chunk::Fixed`] with 1 keeps items apart.
    #[source]
    pub failure: Failure,
}

/// A function to be called once for each item; not begun yet.
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
    result: PhantomData<fn() -> R>,
}

impl<C, S, R> Map<C, S, R> {
    pub(crate) fn new(client: C, function: impl Into<String>, source: S) -> Map<C, S, R> {
        Map { client, source, settings: Settings::new(function), result: PhantomData }
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

    /// Results as they are done, each with the index of its item.
    pub fn unordered(self) -> Unordered<S, R> {
        Unordered::new(self)
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
