//! The async driver of a map: does what the plan says, whenever it is polled. There is no task
//! behind it, so a map that nobody polls sends nothing new.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clutch_protocol::Failure;
use futures_core::Stream;
use futures_util::stream::FuturesUnordered;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep};

use super::{ItemError, Map, Order, Parcel, Plan, Step};
use crate::client::Client;
use crate::exchange::Reply;

type Answer = (Parcel, Result<Reply, Failure>);
type Sending = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Driver<S, R>
where
    S: Stream,
{
    client: Client,
    plan: Plan<R>,
    source: Pin<Box<S>>,
    /// Items pulled for a chunk.
    pulled: Vec<S::Item>,
    sending: FuturesUnordered<Sending>,
    pause: Option<Pin<Box<Sleep>>>,
}

// Only `source`, `sending` and `pause` are pinned, and they are boxed.
impl<S: Stream, R> Unpin for Driver<S, R> {}

impl<S, R> Driver<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    fn new(map: Map<Client, S, R>, order: Order) -> Driver<S, R> {
        let welcome = map.client.welcome();
        let limits = (welcome.payload_bytes_max, welcome.in_flight_max);
        Driver {
            plan: Plan::new(map.settings, order, map.skipped, limits.0, limits.1)
                .for_workers(welcome),
            client: map.client,
            source: Box::pin(map.source),
            pulled: Vec::new(),
            sending: FuturesUnordered::new(),
            pause: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<(u64, Result<R, Failure>)>> {
        let mut may_pull = true;
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.plan.step(may_pull) {
                Step::Item(index, result) => return Poll::Ready(Some((index, result))),
                Step::Done => return Poll::Ready(None),
                Step::Send(parcel) => {
                    self.sending.push(self.send(parcel));
                    // It is written when it is first polled, which shall be now.
                    let _nothing_yet = self.poll_answers(cx);
                }
                Step::Pause(pause) => {
                    self.pause = Some(Box::pin(tokio::time::sleep_until(Instant::now() + pause)));
                }
                Step::Pull(items) => may_pull = self.pull(items, cx),
                // When nothing is under way, it is the source that will wake us.
                Step::Wait => ready!(self.poll_answers(cx)),
            }
        }
    }

    /// Pulls up to `items` items; false when the source has none right now.
    fn pull(&mut self, items: u32, cx: &mut Context<'_>) -> bool {
        let mut open = true;
        while self.pulled.len() < items as usize {
            match self.source.as_mut().poll_next(cx) {
                Poll::Ready(Some(item)) => self.pulled.push(item),
                Poll::Ready(None) => {
                    self.plan.exhaust();
                    break;
                }
                Poll::Pending => {
                    open = false;
                    break;
                }
            }
        }
        self.plan.expect(self.source.size_hint());
        if !self.pulled.is_empty() {
            self.plan.push(&self.pulled);
            self.pulled.clear();
        }
        open
    }

    fn send(&self, parcel: Parcel) -> Sending {
        let settings = self.plan.settings();
        let mut ready = settings.ready(self.client.clone(), &parcel);
        Box::pin(async move {
            let answer = ready.send().await;
            (parcel, answer)
        })
    }

    /// Polls what is under way and takes in one answer.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((parcel, answer)) = ready!(Pin::new(&mut self.sending).poll_next(cx)) else {
            return Poll::Pending;
        };
        if answer.is_err() && self.client.is_closed() {
            // A lost connection does not come back: what was not pulled stays where it is.
            self.plan.exhaust();
        }
        self.plan.answered(parcel, answer);
        Poll::Ready(())
    }
}

/// A map under way, with results in the order of the items: a [`Stream`].
#[must_use = "a map does nothing until it is polled"]
pub struct Ordered<S: Stream, R>(Driver<S, R>);

impl<S, R> Ordered<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    pub(super) fn new(map: Map<Client, S, R>) -> Ordered<S, R> {
        Ordered(Driver::new(map, Order::Items))
    }

    /// The next result; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Result<R, ItemError>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// All results.
    ///
    /// # Errors
    ///
    /// The first item that failed; what was still under way is cancelled.
    pub async fn collect<T: FromIterator<R>>(mut self) -> Result<T, ItemError> {
        let mut all = Vec::new();
        while let Some(result) = self.next().await {
            all.push(result?);
        }
        Ok(all.into_iter().collect())
    }
}

impl<S, R> Stream for Ordered<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = Result<R, ItemError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.0.poll(cx));
        Poll::Ready(
            item.map(|(index, result)| result.map_err(|failure| ItemError { index, failure })),
        )
    }
}

/// A map under way, with results in the order of the items: a [`Stream`] of item index and result.
#[must_use = "a map does nothing until it is polled"]
pub struct Enumerated<S: Stream, R>(Driver<S, R>);

impl<S, R> Enumerated<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    pub(super) fn new(map: Map<Client, S, R>) -> Enumerated<S, R> {
        Enumerated(Driver::new(map, Order::Items))
    }

    /// The next result and the index of its item; `None` when there are no more.
    pub async fn next(&mut self) -> Option<(u64, Result<R, Failure>)> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl<S, R> Stream for Enumerated<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = (u64, Result<R, Failure>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}

/// A map under way, with results as they are done: a [`Stream`] of item index and result.
#[must_use = "a map does nothing until it is polled"]
pub struct Unordered<S: Stream, R>(Driver<S, R>);

impl<S, R> Unordered<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    pub(super) fn new(map: Map<Client, S, R>) -> Unordered<S, R> {
        Unordered(Driver::new(map, Order::Done))
    }

    /// The next result and the index of its item; `None` when there are no more.
    pub async fn next(&mut self) -> Option<(u64, Result<R, Failure>)> {
        poll_fn(|cx| self.0.poll(cx)).await
    }
}

impl<S, R> Stream for Unordered<S, R>
where
    S: Stream,
    S::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = (u64, Result<R, Failure>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll(cx)
    }
}
