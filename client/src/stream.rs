//! The items of a generator as an async stream. Who may send how many is agreed by credits: the
//! daemon sends no item that was not asked for, so nothing here can overflow.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use clutch_protocol::limits::STREAM_CREDIT_MAX;
use clutch_protocol::message::Welcome;
use clutch_protocol::{Failure, Reason};
use futures_core::Stream;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::codec::decode;
use crate::exchange::{Reply, Target, Trouble};
use crate::inbox::Delivery;
use crate::items::ItemSink;
use crate::limits::STREAM_WINDOW;
use crate::memory::Received;
use crate::request::{Ready, Request, value};

/// The items of a call, as they come: a [`Stream`].
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), clutch_client::Failure> {
/// let mut lines = client.stream::<String>("mytasks:lines", ("big.txt",));
/// while let Some(line) = lines.next().await {
///     println!("{}", line?);
/// }
/// let count: u64 = lines.returned().expect("it has ended well")?;
/// # Ok(())
/// # }
/// ```
///
/// The call is made when the stream is first polled. The function is at most a
/// [`window`](ItemStream::window) of items ahead of its reader, and waits for it then; nothing else
/// on the connection does. The call's timeout covers the whole life of the stream, its reader's
/// time included.
///
/// The stream has ended well only when it gives `None` and [`returned`](ItemStream::returned) gives
/// what the generator returned. Anything else is one failure, after the items that came before it,
/// and then `None`. Dropping it cancels the call: the generator is closed, its `finally` runs.
#[must_use = "a stream does nothing until it is polled"]
pub struct ItemStream<T> {
    state: State,
    target: Target,
    client: Client,
    window: u32,
    reply: Option<Reply>,
    items: PhantomData<fn() -> T>,
}

enum State {
    /// The call was not made yet.
    Idle(Box<Result<Ready<Client>, Failure>>),
    /// It is under way.
    Running(Box<Running>),
    /// There is nothing more.
    Ended,
}

type Answer = Pin<Box<dyn Future<Output = Result<Reply, Failure>> + Send>>;

struct Running {
    items: mpsc::Receiver<Delivery>,
    /// The call, until it is answered; dropping it cancels the call.
    answer: Option<Answer>,
    /// How it failed, if it did: told behind the items.
    failure: Option<Failure>,
    /// Cancels it without a drop.
    give_up: Option<oneshot::Sender<()>>,
    /// Items taken that were not asked for anew.
    taken: u32,
}

impl<A: Serialize, K: Serialize> Request<Client, A, K> {
    /// Calls a function that gives an iterator, and gives its items as they come.
    pub fn stream<T: DeserializeOwned>(self) -> ItemStream<T> {
        let (client, target) = (self.client.clone(), self.target().clone());
        ItemStream {
            state: State::Idle(Box::new(self.ready())),
            target,
            client,
            window: STREAM_WINDOW,
            reply: None,
            items: PhantomData,
        }
    }
}

/// How many items may be on their way, if so many are wished for.
pub(crate) fn window_of(items: NonZeroU32) -> u32 {
    items.get().min(STREAM_CREDIT_MAX)
}

/// After how many items taken as many are asked for: half a window, so that the way there and back
/// of one half is the time in which the other is read.
pub(crate) const fn refill_of(window: u32) -> u32 {
    window.div_ceil(2)
}

/// Decodes an item.
pub(crate) fn item_of<T: DeserializeOwned>(
    delivery: Delivery,
    target: &Target,
    welcome: &Welcome,
) -> Result<T, Failure> {
    let codec = delivery.frame.header.codec;
    let taken = Received::take(delivery, welcome.attached_bytes_max);
    let item = taken.and_then(|(bytes, attached)| decode(codec, &bytes, attached.as_ref()));
    item.map_err(|reason: Reason| {
        let reason = match reason {
            Reason::Unserializable { path, type_name, message } => Reason::Unserializable {
                path: path.replacen("result", "item", 1),
                type_name,
                message,
            },
            other => other,
        };
        target.failure(Trouble::sent(0, reason))
    })
}

impl<T: DeserializeOwned> ItemStream<T> {
    /// How many items may be on their way, read by nobody: 32 unless said otherwise, 4096 at most.
    /// Only before the first item was asked for. Items that wait here hold their descriptors, one
    /// for each memory; beyond `ulimit -n` the stream fails.
    pub fn window(mut self, items: NonZeroU32) -> Self {
        self.window = window_of(items);
        self
    }

    /// The next item; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Result<T, Failure>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// All items.
    ///
    /// # Errors
    ///
    /// The failure that ended the stream; a call that goes on is cancelled.
    pub async fn collect<C: FromIterator<T>>(mut self) -> Result<C, Failure> {
        let mut all = Vec::new();
        while let Some(item) = self.next().await {
            all.push(item?);
        }
        Ok(all.into_iter().collect())
    }

    /// Cancels the call without leaving it: items that are on their way still come, and how it
    /// ended, usually [`Reason::Cancelled`].
    pub fn cancel(&mut self) {
        match &mut self.state {
            State::Running(running) => {
                // A receiver that is gone has been answered.
                let _gone = running.give_up.take().map(|give_up| give_up.send(()));
            }
            State::Idle(_) => {
                let failure = self.target.failure(Trouble::unsent(Reason::Cancelled));
                self.state = State::Idle(Box::new(Err(failure)));
            }
            State::Ended => {}
        }
    }

    /// What the generator returned: none as long as the stream has not ended, or if it ended by a
    /// failure.
    pub fn returned<R: DeserializeOwned>(&self) -> Option<Result<R, Failure>> {
        self.reply.as_ref().map(|reply| value(reply, &self.target))
    }

    /// The same, encoded, with how the call went.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    fn start(&mut self) {
        let State::Idle(ready) = std::mem::replace(&mut self.state, State::Ended) else {
            unreachable!("it is started once");
        };
        let (sink, items) = ItemSink::channel(self.window);
        let (give_up, given_up) = oneshot::channel();
        let mut running =
            Running { items, answer: None, failure: None, give_up: Some(give_up), taken: 0 };
        match *ready {
            Err(failure) => running.failure = Some(failure),
            Ok(ready) => {
                let mut ready = ready.with_items(sink);
                running.answer = Some(Box::pin(async move {
                    let given_up = async {
                        if given_up.await.is_err() {
                            // A sender that is dropped with the stream gives nothing up by itself.
                            std::future::pending::<()>().await;
                        }
                    };
                    ready.send_until(given_up).await
                }));
            }
        }
        self.state = State::Running(Box::new(running));
    }
}

impl Running {
    /// An item was taken out: when half a window was, as many are asked for.
    fn refill(&mut self, client: &Client, window: u32, id: u64) {
        self.taken += 1;
        if self.answer.is_some() && self.taken >= refill_of(window) {
            client.connection().credit(id, self.taken);
            self.taken = 0;
        }
    }
}

// Only the answer is pinned, and it is boxed.
impl<T> Unpin for ItemStream<T> {}

impl<T: DeserializeOwned> Stream for ItemStream<T> {
    type Item = Result<T, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let running = match &mut this.state {
                State::Idle(_) => {
                    this.start();
                    continue;
                }
                State::Ended => return Poll::Ready(None),
                State::Running(running) => running,
            };
            match running.items.poll_recv(cx) {
                Poll::Ready(Some(delivery)) => {
                    let id = delivery.frame.header.id;
                    let item = item_of(delivery, &this.target, this.client.welcome());
                    if item.is_ok() {
                        running.refill(&this.client, this.window, id);
                    } else {
                        this.state = State::Ended;
                    }
                    return Poll::Ready(Some(item));
                }
                // The channel ends when the call is answered, and all before that was taken out.
                Poll::Ready(None) if running.answer.is_none() => {
                    let failure = running.failure.take();
                    this.state = State::Ended;
                    return Poll::Ready(failure.map(Err));
                }
                Poll::Pending if running.answer.is_none() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => {}
            }
            let answer = running.answer.as_mut().expect("it was just looked at");
            match ready!(answer.as_mut().poll(cx)) {
                Ok(reply) => this.reply = Some(reply),
                Err(failure) => running.failure = Some(failure),
            }
            running.answer = None;
            // What came before the answer may only now be in the channel: look again.
        }
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream")
            .field("function", &self.target.function)
            .field("ended", &matches!(self.state, State::Ended))
            .finish_non_exhaustive()
    }
}
