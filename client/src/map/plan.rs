//! What a map does next. Pure: no clock, no socket, no waiting; the drivers (`stream` for the async
//! client, `blocking::map` for the other) do what [`Plan::step`] says and tell it what came of it.
//!
//! ```text
//!   items ──pull──► push ──encode──► to_send ──step: Send──► driver ═══► daemon
//!                                      ▲ resend                │
//!   caller ◄──step: Item── done ◄──decode── answered ◄─────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use clutch_protocol::failure::Payload;
use clutch_protocol::{Codec, Failure, Flags, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::sizer::Sizer;
use crate::codec::{Results, decode_items, encode};
use crate::exchange::{Reply, Target, Trouble};
use crate::limits::{CHUNKS_IN_FLIGHT, RESEND_WAIT, RESENDS_MAX, WINDOW_ITEMS};

/// How many items travel in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunk {
    /// As many as run for a few milliseconds, learnt from the answers; one when the map has a
    /// timeout, which is then the timeout of each item.
    #[default]
    Auto,
    /// This many. A timeout holds for all of them together.
    Fixed(NonZeroU32),
}

/// In which order results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the items came.
    Items,
    /// As they are done.
    Done,
}

/// What the caller chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) timeout: Option<Duration>,
    pub(crate) codec: Codec,
    pub(crate) chunk: Chunk,
    pub(crate) window: NonZeroU32,
}

impl Settings {
    pub(crate) fn new(function: impl Into<String>) -> Settings {
        Settings {
            target: Target::new(function),
            timeout: None,
            codec: Codec::Plain,
            chunk: Chunk::Auto,
            window: NonZeroU32::new(WINDOW_ITEMS).expect("it is not zero"),
        }
    }
}

/// Items on their way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// The index of the first.
    pub(crate) first: u64,
    /// How many there are.
    pub(crate) items: u32,
    /// The list of them, encoded.
    pub(crate) payload: Bytes,
    /// How often it was sent again.
    resends: u32,
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

/// The results of one chunk that were not given out yet.
struct Answers<R> {
    next: u64,
    results: Rest<R>,
}

enum Rest<R> {
    All(std::vec::IntoIter<R>),
    Mixed(std::vec::IntoIter<Result<R, Box<Failure>>>),
    /// This many items share one failure.
    Failed(u32, Box<Failure>),
}

impl<R> Iterator for Answers<R> {
    type Item = (u64, Result<R, Failure>);

    fn next(&mut self) -> Option<Self::Item> {
        let result = match &mut self.results {
            Rest::All(results) => Ok(results.next()?),
            Rest::Mixed(results) => results.next()?.map_err(|failure| *failure),
            Rest::Failed(0, _) => return None,
            Rest::Failed(items, failure) => {
                *items -= 1;
                Err((**failure).clone())
            }
        };
        self.next += 1;
        Some((self.next - 1, result))
    }
}

/// The state of one map.
pub(crate) struct Plan<R> {
    settings: Settings,
    order: Order,
    sizer: Sizer,
    payload_bytes_max: u64,
    chunks_max: u32,
    /// How many chunks may be unanswered now: halved when the queue is full, grown by successes.
    chunks_now: u32,
    in_flight: u32,
    to_send: VecDeque<Parcel>,
    /// Answered chunks by their first index.
    done: BTreeMap<u64, Rest<R>>,
    /// The answered chunk that is being given out.
    current: Option<Answers<R>>,
    /// Items pulled so far, which is the next item's index.
    pulled: u64,
    yielded: u64,
    /// Pulls that may precede giving out results that are there. Without it, a caller that is busy
    /// with a large chunk's results would leave workers without work.
    credit: u32,
    exhausted: bool,
    pause: Option<Duration>,
}

impl<R: DeserializeOwned> Plan<R> {
    pub(crate) fn new(
        settings: Settings,
        order: Order,
        payload_bytes_max: u32,
        in_flight_max: u32,
    ) -> Plan<R> {
        let window = settings.window.get();
        let items_max = match settings.chunk {
            Chunk::Fixed(items) => items.get().min(window),
            Chunk::Auto if settings.timeout.is_some() => 1,
            // A quarter, so that there is always a chunk to work on while another comes back.
            Chunk::Auto => (window / 4).max(1),
        };
        let chunks_max = CHUNKS_IN_FLIGHT.min(in_flight_max).max(1);
        Plan {
            sizer: Sizer::new(items_max),
            settings,
            order,
            payload_bytes_max: payload_bytes_max.into(),
            chunks_max,
            chunks_now: chunks_max,
            in_flight: 0,
            to_send: VecDeque::new(),
            done: BTreeMap::new(),
            current: None,
            pulled: 0,
            yielded: 0,
            credit: chunks_max,
            exhausted: false,
            pause: None,
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What to do next. `may_pull` is false while the source has said that it has nothing yet.
    pub(crate) fn step(&mut self, may_pull: bool) -> Step<R> {
        if self.in_flight < self.chunks_now
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
            self.yielded += 1;
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
        assert_eq!(self.pulled, self.yielded, "every item pulled is given out");
        Step::Done
    }

    /// How many items to pull now: a whole chunk or, unless nothing is under way, none.
    fn room(&self) -> u32 {
        let busy = self.in_flight >= self.chunks_now || !self.to_send.is_empty();
        if self.exhausted || busy || self.pause.is_some() {
            return 0;
        }
        let window = self.settings.window.get();
        let open = u32::try_from(self.pulled - self.yielded).expect("the window bounds it");
        let (room, chunk) = (window - open, self.chunk_items());
        if room >= chunk || self.in_flight == 0 { room.min(chunk) } else { 0 }
    }

    fn chunk_items(&self) -> u32 {
        match self.settings.chunk {
            Chunk::Fixed(items) => items.get().min(self.settings.window.get()),
            Chunk::Auto => self.sizer.items(),
        }
    }

    fn take_item(&mut self) -> Option<(u64, Result<R, Failure>)> {
        if let Some(item) = self.current.as_mut().and_then(Answers::next) {
            return Some(item);
        }
        let (next, results) = match self.order {
            Order::Items => (self.yielded, self.done.remove(&self.yielded)?),
            Order::Done => self.done.pop_first()?,
        };
        self.current.insert(Answers { next, results }).next()
    }

    /// The source has no more items, or nobody is left to send them to.
    pub(crate) fn exhaust(&mut self) {
        self.exhausted = true;
    }

    /// Takes pulled items in and encodes them.
    pub(crate) fn push<A: Serialize>(&mut self, items: &[A]) {
        let count = u32::try_from(items.len()).expect("a pull is bounded");
        assert!(count > 0, "an empty pull is not pushed");
        let first = self.pulled;
        self.pulled += u64::from(count);
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
        let reason = match encode(self.settings.codec, &items) {
            Ok(payload) if payload.len() as u64 <= self.payload_bytes_max => {
                self.sizer.encoded(count, payload.len());
                let parcel = Parcel { first, items: count, payload: payload.into(), resends: 0 };
                self.to_send.push_back(parcel);
                return;
            }
            Ok(payload) => Reason::TooLarge {
                what: Payload::Arguments,
                bytes: payload.len() as u64,
                limit: self.payload_bytes_max,
            },
            Err(reason) => reason,
        };
        if let [_] = items {
            let failure = self.settings.target.failure(Trouble::unsent(0, reason));
            self.done.insert(first, Rest::Failed(1, Box::new(failure)));
        } else {
            let (head, tail) = items.split_at(items.len() / 2);
            self.encode(first, head);
            self.encode(first + head.len() as u64, tail);
        }
    }

    /// Takes in what became of a chunk.
    pub(crate) fn answered(&mut self, parcel: Parcel, answer: Result<Reply, Failure>) {
        assert!(self.in_flight > 0, "only what was sent is answered");
        self.in_flight -= 1;
        self.credit = (self.credit + 2).min(self.chunks_max);
        match answer {
            Ok(reply) => {
                self.chunks_now = (self.chunks_now + 1).min(self.chunks_max);
                self.sizer.ran(parcel.items, reply.answer.phases.run_us);
                self.done.insert(parcel.first, self.decode(&parcel, &reply));
            }
            Err(failure) if self.may_resend(&parcel, &failure) => self.resend(parcel, &failure),
            Err(failure) => {
                self.done.insert(parcel.first, Rest::Failed(parcel.items, Box::new(failure)));
            }
        }
    }

    fn decode(&self, parcel: &Parcel, reply: &Reply) -> Rest<R> {
        let failure = |reason| {
            let trouble = Trouble::sent(reply.id, reason);
            Box::new(Failure {
                phases: reply.answer.phases,
                ..self.settings.target.failure(trouble)
            })
        };
        match decode_items(reply.codec, reply.flags, &reply.payload, parcel.items as usize) {
            Ok(Results::All(results)) => Rest::All(results.into_iter()),
            Ok(Results::Mixed(results)) => {
                let results = results.into_iter();
                let results = results.map(|result| result.map_err(|reason| failure(*reason)));
                Rest::Mixed(results.collect::<Vec<_>>().into_iter())
            }
            Err(reason) => Rest::Failed(parcel.items, failure(reason)),
        }
    }

    /// Whether sending it again is safe, may help, and was not tried too often.
    fn may_resend(&self, parcel: &Parcel, failure: &Failure) -> bool {
        !failure.started
            && parcel.resends < RESENDS_MAX
            && matches!(failure.reason, Reason::QueueFull { .. } | Reason::WorkerDied(_))
    }

    fn resend(&mut self, mut parcel: Parcel, failure: &Failure) {
        let full = matches!(failure.reason, Reason::QueueFull { .. });
        if full {
            self.chunks_now = (self.chunks_now / 2).max(1);
        }
        if full && self.in_flight > 0 {
            // Our own chunks make room when they are answered, so this one costs no try.
        } else {
            if full {
                let pause = RESEND_WAIT[0] * 2_u32.saturating_pow(parcel.resends);
                self.pause = Some(pause.min(RESEND_WAIT[1]));
            }
            parcel.resends += 1;
        }
        // Before later items, so that ordered results do not pile up behind it.
        let at = self.to_send.partition_point(|other| other.first < parcel.first);
        self.to_send.insert(at, parcel);
    }
}
