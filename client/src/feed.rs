//! Streams that a call reads from its caller: arguments that are iterators in Python.

use std::fmt::{self, Display};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use clutch_protocol::attachment::Content;
use clutch_protocol::limits::FAILURE_TEXT_BYTES_MAX;
use clutch_protocol::{Codec, Reason};
use futures_core::Stream;
use serde::ser::{Error as _, Serialize, Serializer};

use crate::codec::encode;
use crate::exchange::Trouble;
use crate::map::Items;
use crate::memory::Body;
use crate::memory::hand::{self, Enclosure, Place};

/// An argument that is an iterator in Python (for `async def`, an async iterator): its items are
/// sent as the function asks for them, and pulled from here no sooner.
///
/// ```no_run
/// # async fn f(client: clutch_client::Client) -> Result<(), clutch_client::Failure> {
/// use clutch_client::Feed;
///
/// let numbers = Feed::new(1..=1_000_000_u64);
/// let sum: u64 = client.call("builtins:sum", (numbers,)).await?;
/// # Ok(())
/// # }
/// ```
///
/// A call that is fed can answer with a stream too. It may stand anywhere in the arguments, as
/// often as 63 times, in the codec `Plain`; each can be sent once. Where the items break off, the
/// function gets a `clutch.StreamFailed` with the error's text. A call of which the function has
/// asked for items is not tried again.
#[derive(Clone)]
pub struct Feed(Arc<Inner>);

struct Inner {
    /// None once it was sent.
    source: Mutex<Option<Box<dyn Source>>>,
    /// Whether it may have to be waited for, which only a runtime can.
    is_async: bool,
}

/// How items are encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) codec: Codec,
    pub(crate) attached_max: u64,
    pub(crate) payload_max: u32,
}

/// Where items come from: the next one, or why there is none.
pub(crate) trait Source: Send {
    fn poll_next(&mut self, cx: &mut Context<'_>, how: How) -> Poll<Option<Result<Body, String>>>;
}

struct Pulled<S, F> {
    items: Pin<Box<S>>,
    encode: F,
}

impl<S, F> Source for Pulled<S, F>
where
    S: Stream + Send,
    F: Fn(S::Item, How) -> Result<Body, String> + Send,
{
    fn poll_next(&mut self, cx: &mut Context<'_>, how: How) -> Poll<Option<Result<Body, String>>> {
        let next = self.items.as_mut().poll_next(cx);
        next.map(|item| item.map(|item| (self.encode)(item, how)))
    }
}

impl Feed {
    /// The items of an iterator, which may be endless. Pulling them must not block an async
    /// client's thread.
    pub fn new<I>(items: I) -> Feed
    where
        I: IntoIterator<Item: Serialize>,
        I::IntoIter: Send + 'static,
    {
        Feed::of(Items(items.into_iter()), false, |item, how| encoded(&item, how))
    }

    /// The same for items that may be errors: the first one is the end.
    pub fn fallible<I, T, E>(items: I) -> Feed
    where
        I: IntoIterator<Item = Result<T, E>>,
        I::IntoIter: Send + 'static,
        T: Serialize + 'static,
        E: Display + 'static,
    {
        Feed::of(Items(items.into_iter()), false, tried)
    }

    /// The items of an async stream, for the async client.
    pub fn from_stream<S>(items: S) -> Feed
    where
        S: Stream<Item: Serialize> + Send + 'static,
    {
        Feed::of(items, true, |item, how| encoded(&item, how))
    }

    /// The same for items that may be errors: the first one is the end.
    pub fn from_fallible_stream<S, T, E>(items: S) -> Feed
    where
        S: Stream<Item = Result<T, E>> + Send + 'static,
        T: Serialize + 'static,
        E: Display + 'static,
    {
        Feed::of(items, true, tried)
    }

    fn of<S, F>(items: S, is_async: bool, encode: F) -> Feed
    where
        S: Stream + Send + 'static,
        F: Fn(S::Item, How) -> Result<Body, String> + Send + 'static,
    {
        let source: Box<dyn Source> = Box::new(Pulled { items: Box::pin(items), encode });
        Feed(Arc::new(Inner { source: Mutex::new(Some(source)), is_async }))
    }

    fn source(&self) -> MutexGuard<'_, Option<Box<dyn Source>>> {
        self.0.source.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tried<T: Serialize, E: Display>(item: Result<T, E>, how: How) -> Result<Body, String> {
    encoded(&item.map_err(|error| error.to_string())?, how)
}

/// An item's payload, if it can travel.
fn encoded<T: Serialize>(item: &T, how: How) -> Result<Body, String> {
    let too_long =
        |bytes: u64, limit: u64| format!("an item has {bytes} bytes, at most {limit} may be sent");
    let body = encode(how.codec, item, how.attached_max).map_err(|reason| match reason {
        Reason::BadArguments { message } => format!("an item cannot be sent: {message}"),
        Reason::TooLarge { bytes, limit, .. } => too_long(bytes, limit),
        other => format!("an item cannot be sent: {}", other.name()),
    })?;
    if !body.feeds.is_empty() {
        return Err("an item cannot be sent: a feed is an argument, and no item".into());
    }
    if !body.refs.is_empty() {
        return Err("an item cannot be sent: a Ref is an argument, and in no item of a feed".into());
    }
    match body.len() as u64 <= u64::from(how.payload_max) {
        true => Ok(body),
        false => Err(too_long(body.len() as u64, how.payload_max.into())),
    }
}

impl Serialize for Feed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let enclosure = || {
            // Its number is given by who gathers.
            let content = Content::Stream { stream: 0 };
            Ok(Enclosure { content, place: Place::Feed(self.clone()) })
        };
        hand::serialize(serializer, enclosure, Unwritable)
    }
}

/// A feed where it cannot be one.
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("a feed can only be an argument of a call, in the codec Plain"))
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Feed")
    }
}

/// What a call is fed with, by one who has sent it.
pub(crate) struct Sources {
    pub(crate) how: How,
    list: Vec<Slot>,
}

struct Slot {
    /// None when it has ended.
    source: Option<Box<dyn Source>>,
    /// How many items are asked for.
    owed: u32,
    next: u64,
}

/// What is to be sent of a stream.
pub(crate) struct Step {
    pub(crate) stream: u32,
    pub(crate) index: u64,
    pub(crate) what: What,
}

pub(crate) enum What {
    Item(Body),
    /// The end, and why it broke off; empty for a good one.
    End(String),
}

impl Sources {
    /// Takes over what is in `feeds`, all of them or none; none when there are none.
    pub(crate) fn take(
        feeds: &[Feed],
        how: How,
        may_wait: bool,
    ) -> Result<Option<Sources>, Trouble> {
        let refuse = |message: &str| {
            Err(Trouble::unsent(Reason::BadArguments { message: message.to_owned() }))
        };
        if feeds.iter().any(|feed| feed.0.is_async && !may_wait) {
            return refuse("an async stream feeds calls of the async client only");
        }
        let mut list: Vec<Slot> = Vec::new();
        for feed in feeds {
            let source = feed.source().take();
            if source.is_none() {
                for (feed, slot) in feeds.iter().zip(list) {
                    *feed.source() = slot.source;
                }
                return refuse("a feed can be sent once, and this one was; make another");
            }
            list.push(Slot { source, owed: 0, next: 0 });
        }
        Ok((!list.is_empty()).then_some(Sources { how, list }))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.list.len()).expect("they were counted")
    }

    /// More items of a stream are asked for.
    pub(crate) fn ask(&mut self, stream: u32, items: u32) {
        if let Some(slot) = (stream as usize).checked_sub(1).and_then(|at| self.list.get_mut(at)) {
            slot.owed = slot.owed.saturating_add(items);
        }
    }

    /// What is to be sent next; pending while nothing is asked for that is there.
    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let how = self.how;
        for (slot, stream) in self.list.iter_mut().zip(1..) {
            let Some(source) = slot.source.as_mut().filter(|_| slot.owed > 0) else { continue };
            let Poll::Ready(pulled) = source.poll_next(cx, how) else { continue };
            let what = match pulled {
                Some(Ok(body)) => What::Item(body),
                Some(Err(failure)) => What::End(cut(failure)),
                None => What::End(String::new()),
            };
            let index = slot.next;
            if let What::End(_) = what {
                slot.source = None;
            }
            slot.owed -= 1;
            slot.next += 1;
            return Poll::Ready(Step { stream, index, what });
        }
        Poll::Pending
    }
}

/// A failure that says something, and not too much.
fn cut(mut failure: String) -> String {
    if failure.is_empty() {
        return "the stream that feeds the call has failed".into();
    }
    let mut end = FAILURE_TEXT_BYTES_MAX.min(failure.len());
    while !failure.is_char_boundary(end) {
        end -= 1;
    }
    failure.truncate(end);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_leaves_its_feeds_as_they_were() {
        let how = How { codec: Codec::Plain, attached_max: 1 << 20, payload_max: 1 << 20 };
        let take = |feeds: &[Feed], may_wait| Sources::take(feeds, how, may_wait);
        let (fresh, used) = (Feed::new([1, 2]), Feed::new([3]));
        assert!(take(std::slice::from_ref(&used), false).is_ok());
        assert!(take(&[fresh.clone(), used], false).is_err());
        assert!(take(&[fresh.clone(), fresh.clone()], false).is_err(), "it can stand once only");
        let waiting = Feed::from_stream(futures_util::stream::iter([4]));
        assert!(take(&[fresh.clone(), waiting], false).is_err());
        let taken = take(&[fresh], false).ok().flatten().expect("it was never sent");
        assert_eq!(1, taken.count());
    }
}
