//! What a map does next. Pure: no clock, no socket, no waiting; the drivers (`stream` for the async
//! client, `blocking::map` for the other) do what [`Plan::step`] says and tell it what came of it.
//!
//! ```text
//!   items ──pull──► push ──encode──► to_send ──step: Send──► driver ═══► daemon
//!                                      ▲ resend                │
//!   caller ◄──step: Item── done ◄──decode── answered ◄─────────┘
//!                     └─── folder, of a map that is reduced: pieces to be folded are sent, too
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clutch_protocol::failure::Payload;
use clutch_protocol::message::Welcome;
use clutch_protocol::{Failure, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::answers::{Answers, Rest};
use super::fold::Folder;
use super::settings::{Chunk, Settings};
use super::sizer::Sizer;
use crate::codec::{Results, decode_items, encode};
use crate::exchange::{Reply, Trouble};
use crate::limits::{CHUNKS_IN_FLIGHT, QUICK_ITEMS, SHORT_CHUNK_US};
use crate::memory::Body;

mod folding;

mod losses;

/// In which order results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the items came.
    Items,
    /// As they are done.
    Done,
}

/// What is in a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Items.
    Items,
    /// What has come of neighbouring items, to be folded.
    Pieces,
}

/// Items on their way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// The index of the first item.
    pub(crate) first: u64,
    /// The index behind that of the last one.
    end: u64,
    pub(crate) content: Content,
    /// The list of them, encoded.
    pub(crate) payload: Body,
    /// How often it was sent again, never having begun.
    resends: u32,
    /// How many attempts it has behind it.
    pub(crate) tries: u32,
    /// Whether it is the one item that a worker has died with.
    pub(crate) has_killed: bool,
}

impl Parcel {
    fn new(first: u64, end: u64, content: Content, payload: Body) -> Parcel {
        assert!(first < end, "a parcel has items");
        Parcel { first, end, content, payload, resends: 0, tries: 0, has_killed: false }
    }

    /// How many items it has, or stands for.
    pub(crate) fn items(&self) -> u64 {
        self.end - self.first
    }
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step<R> {
    /// Give this to the caller.
    Item(u64, Result<R, Failure>),
    /// Send this.
    Send(Parcel),
    /// Pull up to this many items and [`push`](Plan::push) them.
    Pull(u32),
    /// Ask again after this long: the pool's queue is full of others' calls.
    Pause(Duration),
    /// Wait for an answer.
    Wait,
    /// All items have been given to the caller.
    Done,
}

/// The state of one map.
pub(crate) struct Plan<R> {
    settings: Settings,
    order: Order,
    /// What stands for an item that was skipped, where such are to be given out.
    skipped: Option<fn() -> R>,
    sizer: Sizer,
    payload_bytes_max: u64,
    attached_bytes_max: u64,
    chunks_max: u32,
    /// How many calls the pool's workers can run at once, if the daemon said so.
    workers: Option<u32>,
    /// How many chunks may be unanswered now: halved when the queue is full, grown by successes.
    chunks_now: u32,
    in_flight: u32,
    to_send: VecDeque<Parcel>,
    /// Answered chunks by their first index.
    done: BTreeMap<u64, Rest<R>>,
    /// The answered chunk that is being given out.
    current: Option<Answers<R>>,
    /// How many results may be given out before anything else is looked at.
    quick: u32,
    /// Items pulled so far, which is the next item's index.
    pulled: u64,
    /// Items given out so far or, of a map that is reduced, folded into a piece.
    yielded: u64,
    /// How many the source still has, if it knows.
    left: Option<u64>,
    /// Pulls that may precede giving out results that are there. Without it, a caller that is busy
    /// with a large chunk's results would leave workers without work.
    credit: u32,
    exhausted: bool,
    pause: Option<Duration>,
    /// Of a map that is reduced: what came of its items.
    folder: Folder,
    /// Of a map that is reduced: the item that has ended it, and how.
    broken: Option<(u64, Box<Failure>)>,
    /// Whether that was told, so that nothing else is.
    is_over: bool,
}

impl<R: DeserializeOwned> Plan<R> {
    pub(crate) fn new(
        settings: Settings,
        order: Order,
        skipped: Option<fn() -> R>,
        payload_bytes_max: u32,
        in_flight_max: u32,
    ) -> Plan<R> {
        let chunks_max = CHUNKS_IN_FLIGHT.min(in_flight_max).max(1);
        Plan {
            sizer: Sizer::new(settings.chunk_items_max()),
            settings,
            order,
            skipped,
            payload_bytes_max: payload_bytes_max.into(),
            attached_bytes_max: 0,
            chunks_max,
            workers: None,
            chunks_now: chunks_max,
            in_flight: 0,
            to_send: VecDeque::new(),
            done: BTreeMap::new(),
            current: None,
            quick: 0,
            pulled: 0,
            yielded: 0,
            left: None,
            credit: chunks_max,
            exhausted: false,
            pause: None,
            folder: Folder::default(),
            broken: None,
            is_over: false,
        }
    }

    /// Keeps about as many chunks under way as the pool can run at once.
    pub(crate) fn for_workers(mut self, welcome: &Welcome) -> Plan<R> {
        let pools = &welcome.pools;
        let pool = pools.iter().find(|pool| pool.name == self.settings.target.pool);
        self.workers = pool.map(|pool| pool.workers.max(1));
        self.attached_bytes_max = welcome.attached_bytes_max;
        self
    }

    /// How many chunks may be under way now. A chunk that waits in the pool's queue spends its
    /// deadline there and keeps other callers waiting, so there are only as many as can run; twice
    /// that when chunks are short, so that no worker waits for the next one.
    fn chunks_allowed(&self) -> u32 {
        let Some(workers) = self.workers else { return self.chunks_now };
        let is_short = self.sizer.chunk_run_us().is_some_and(|run| run < SHORT_CHUNK_US);
        let wanted = match self.settings.timeout {
            None if is_short => workers.saturating_mul(2),
            _ => workers,
        };
        self.chunks_now.min(wanted)
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What to do next. `may_pull` is false while the source has said that it has nothing yet.
    pub(crate) fn step(&mut self, may_pull: bool) -> Step<R> {
        if self.quick > 0 {
            self.quick -= 1;
            if let Some((index, result)) = self.take_item() {
                return Step::Item(index, result);
            }
            self.quick = 0;
        }
        if let Some((index, failure)) = self.broken.take() {
            self.give_up();
            return Step::Item(index, Err(*failure));
        }
        if self.in_flight < self.chunks_allowed()
            && self.pause.is_none()
            && let Some(parcel) = self.to_send.pop_front()
        {
            self.in_flight += 1;
            return Step::Send(parcel);
        }
        let pull = if may_pull { self.room() } else { 0 };
        if pull > 0 && self.credit > 0 {
            self.credit -= 1;
            return Step::Pull(pull);
        }
        if let Some((index, result)) = self.take_item() {
            // Until the next answer is heard, only the window changes, and a little late will do.
            self.quick = QUICK_ITEMS;
            return Step::Item(index, result);
        }
        if pull > 0 {
            return Step::Pull(pull);
        }
        if let Some(pause) = self.pause.take() {
            return Step::Pause(pause);
        }
        if self.in_flight > 0 || !self.exhausted {
            return Step::Wait;
        }
        assert!(self.to_send.is_empty(), "what can be sent is sent before the end");
        self.end()
    }

    /// How many items to pull now: a whole chunk or, unless nothing is under way, none.
    fn room(&self) -> u32 {
        let busy = self.in_flight >= self.chunks_allowed() || !self.to_send.is_empty();
        if self.exhausted || busy || self.pause.is_some() {
            return 0;
        }
        let window = self.settings.window.get();
        let open = u32::try_from(self.pulled - self.yielded).expect("the window bounds it");
        let (room, chunk) = (window - open, self.chunk_items());
        if room >= chunk || self.in_flight == 0 { room.min(chunk) } else { 0 }
    }

    fn chunk_items(&self) -> u32 {
        match (self.settings.chunk, self.left) {
            (Chunk::Fixed(_), _) => self.settings.chunk_items_max(),
            (Chunk::Auto, None) => self.sizer.items(),
            (Chunk::Auto, Some(left)) => {
                self.sizer.items().min(self.sizer.share(left, self.workers.unwrap_or(1)))
            }
        }
    }

    /// The next item that is not skipped, or that the caller wants to know of all the same.
    fn take_item(&mut self) -> Option<(u64, Result<R, Failure>)> {
        loop {
            let Some((index, result)) = self.current.as_mut().and_then(Answers::next) else {
                let (next, results) = match self.order {
                    Order::Items => (self.yielded, self.done.remove(&self.yielded)?),
                    Order::Done => self.done.pop_first()?,
                };
                self.current = Some(Answers::new(next, results));
                continue;
            };
            self.yielded += 1;
            match (result, self.skipped) {
                (Some(result), _) => return Some((index, result)),
                (None, Some(skipped)) => return Some((index, Ok(skipped()))),
                (None, None) => {}
            }
        }
    }

    /// Hears how many items the source still has, as its `size_hint` says.
    pub(crate) fn expect(&mut self, (least, most): (usize, Option<usize>)) {
        self.left = (Some(least) == most).then_some(least as u64);
    }

    /// The source has no more items, or nobody is left to send them to.
    pub(crate) fn exhaust(&mut self) {
        self.exhausted = true;
    }

    /// Takes pulled items in and encodes them.
    pub(crate) fn push<A: Serialize>(&mut self, items: &[A]) {
        assert!(!items.is_empty(), "an empty pull is not pushed");
        let first = self.pulled;
        self.pulled += items.len() as u64;
        assert!(
            self.pulled - self.yielded <= u64::from(self.settings.window.get()),
            "the window bounds what was pulled and not given out"
        );
        self.encode(first, items);
    }

    /// Encodes items as one chunk or, when that cannot be, halves them until the one item that is
    /// at fault stands alone.
    fn encode<A: Serialize>(&mut self, first: u64, items: &[A]) {
        let count = u32::try_from(items.len()).expect("a pull is bounded");
        match self.encoded(&items) {
            Ok(payload) => {
                let beside = usize::try_from(payload.beside).unwrap_or(usize::MAX);
                self.sizer.encoded(count, payload.len().saturating_add(beside));
                let end = first + u64::from(count);
                self.to_send.push_back(Parcel::new(first, end, Content::Items, payload));
            }
            Err(reason) if items.len() == 1 => {
                let failure = self.settings.target.failure(Trouble::unsent(reason));
                self.lose(first, 1, failure);
            }
            Err(_) => {
                let (head, tail) = items.split_at(items.len() / 2);
                self.encode(first, head);
                self.encode(first + head.len() as u64, tail);
            }
        }
    }

    fn encoded<T: Serialize>(&self, value: &T) -> Result<Body, Reason> {
        let payload = encode(self.settings.codec, value, self.attached_bytes_max)?;
        let (bytes, limit) = (payload.len() as u64, self.payload_bytes_max);
        if bytes > limit {
            return Err(Reason::TooLarge { what: Payload::Arguments, bytes, limit });
        }
        Ok(payload)
    }

    /// Takes in what became of a chunk.
    pub(crate) fn answered(&mut self, parcel: Parcel, answer: Result<Reply, Failure>) {
        assert!(self.in_flight > 0, "only what was sent is answered");
        self.in_flight -= 1;
        self.quick = 0;
        if self.is_over {
            return;
        }
        self.credit = (self.credit + 2).min(self.chunks_max);
        match answer {
            Ok(reply) => {
                self.chunks_now = (self.chunks_now + 1).min(self.chunks_max);
                if parcel.content == Content::Items {
                    self.sizer.ran(parcel.items(), reply.answer.phases.run_us);
                }
                if self.settings.fold.is_some() {
                    return self.fold_in(&parcel, &reply);
                }
                let results = self.decode(&parcel, &reply);
                self.done.insert(parcel.first, results);
            }
            Err(failure) if self.may_resend(&parcel, &failure) => self.resend(parcel, &failure),
            Err(failure) => self.failed(parcel, failure),
        }
    }

    fn failure_in(&self, reply: &Reply, reason: Reason) -> Failure {
        let trouble = Trouble::sent(reply.answer.call, reason);
        Failure { phases: reply.answer.phases, ..self.settings.target.failure(trouble) }
    }

    fn decode(&self, parcel: &Parcel, reply: &Reply) -> Rest<R> {
        let items = u32::try_from(parcel.items()).expect("a pull is bounded");
        let failure = |reason| Box::new(self.failure_in(reply, reason));
        let payload = (&reply.payload[..], reply.attached.get());
        match decode_items(reply.codec, reply.flags, payload, items as usize) {
            Ok(Results::All(results)) => Rest::All(results.into_iter()),
            Ok(Results::Mixed(results)) => {
                let results = results.into_iter();
                let results = results
                    .map(|result| result.map(|result| result.map_err(|reason| failure(*reason))));
                Rest::Mixed(results.collect::<Vec<_>>().into_iter())
            }
            Err(reason) => Rest::Failed(items, failure(reason)),
        }
    }
}

#[cfg(test)]
mod plan_tests;
