//! What a map does next. Pure: no clock, no socket, no waiting; the drivers (`stream` for the async
//! client, `blocking::map` for the other) do what [`Plan::step`] says and tell it what came of it.
//!
//! ```text
//!   items ──pull──► push ──encode──► to_send ──step: Send──► driver ═══► daemon
//!                                      ▲ resend                │
//!   caller ◄──step: Item── done ◄──decode── answered ◄─────────┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clutch_protocol::failure::Payload;
use clutch_protocol::message::Welcome;
use clutch_protocol::{Failure, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::settings::{Chunk, Settings};
use super::sizer::Sizer;
use crate::codec::{Results, decode_items, encode};
use crate::exchange::{Reply, Trouble};
use crate::limits::{CHUNKS_IN_FLIGHT, RESEND_WAIT, RESENDS_MAX, SHORT_CHUNK_US};
use crate::memory::Body;

/// In which order results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the items came.
    Items,
    /// As they are done.
    Done,
}

/// Items on their way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// The index of the first.
    pub(crate) first: u64,
    /// How many there are.
    pub(crate) items: u32,
    /// The list of them, encoded.
    pub(crate) payload: Body,
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
            Chunk::Auto if settings.timeout.is_some() || settings.wishes.retry.is_some() => 1,
            // A quarter, so that there is always a chunk to work on while another comes back.
            Chunk::Auto => (window / 4).max(1),
        };
        let chunks_max = CHUNKS_IN_FLIGHT.min(in_flight_max).max(1);
        Plan {
            sizer: Sizer::new(items_max),
            settings,
            order,
            payload_bytes_max: payload_bytes_max.into(),
            attached_bytes_max: 0,
            chunks_max,
            workers: None,
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
        let reason = match encode(self.settings.codec, &items, self.attached_bytes_max) {
            Ok(payload) if payload.len() as u64 <= self.payload_bytes_max => {
                let beside = usize::try_from(payload.beside).unwrap_or(usize::MAX);
                self.sizer.encoded(count, payload.len().saturating_add(beside));
                let parcel = Parcel { first, items: count, payload, resends: 0 };
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
            let failure = self.settings.target.failure(Trouble::unsent(reason));
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
            let trouble = Trouble::sent(reply.answer.call, reason);
            Box::new(Failure {
                phases: reply.answer.phases,
                ..self.settings.target.failure(trouble)
            })
        };
        let payload = (&reply.payload[..], reply.attached.get());
        match decode_items(reply.codec, reply.flags, payload, parcel.items as usize) {
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use bytes::Bytes;
    use clutch_protocol::failure::{Cause, Certificate};
    use clutch_protocol::message::{Answer, Phases, WorkerId};
    use clutch_protocol::{Codec, Flags};

    use clutch_protocol::message::PoolSize;

    use super::*;
    use crate::exchange::{Beside, DEFAULT_POOL};

    /// A map of 0, 1, 2, ... driven by hand.
    struct Hand {
        plan: Plan<u64>,
        items: u64,
        sent: VecDeque<Parcel>,
        got: Vec<(u64, Result<u64, Failure>)>,
        pauses: usize,
        window: u64,
    }

    impl Hand {
        fn new(items: u64, order: Order, edit: impl FnOnce(&mut Settings)) -> Hand {
            let mut settings = Settings::new("m:f");
            edit(&mut settings);
            Hand {
                window: settings.window.get().into(),
                plan: Plan::new(settings, order, 1_000_000, 1000),
                items,
                sent: VecDeque::new(),
                got: Vec::new(),
                pauses: 0,
            }
        }

        /// Does what the plan says until it waits; false when it is done.
        fn run(&mut self) -> bool {
            loop {
                match self.plan.step(true) {
                    Step::Item(index, result) => self.got.push((index, result)),
                    Step::Send(parcel) => self.sent.push_back(parcel),
                    Step::Pull(count) => self.pull(count.into()),
                    Step::Pause(_) => self.pauses += 1,
                    Step::Wait => return true,
                    Step::Done => return false,
                }
            }
        }

        fn pull(&mut self, count: u64) {
            let first = self.plan.pulled;
            let items: Vec<u64> = (first..self.items.min(first + count)).collect();
            if (items.len() as u64) < count {
                self.plan.exhaust();
            }
            if !items.is_empty() {
                self.plan.push(&items);
            }
            let open = self.plan.pulled - self.got.len() as u64;
            assert!(open <= self.window, "{open} items are pulled and not yielded");
        }

        /// Answers a chunk with its items, one microsecond each.
        fn answer(&mut self, parcel: Parcel) {
            let payload = parcel.payload.clone();
            self.reply(parcel, Flags::NONE, payload.bytes);
        }

        fn reply(&mut self, parcel: Parcel, flags: Flags, payload: Bytes) {
            let phases = Phases { queue_us: 0, run_us: parcel.items.into(), start_us: 0 };
            let worker = WorkerId { slot: 0, generation: 1 };
            let answer = Answer { phases, worker, call: 1, attempt: 1, pid: 7 };
            let codec = Codec::Plain;
            self.plan.answered(
                parcel,
                Ok(Reply { id: 1, codec, flags, payload, attached: Beside::default(), answer }),
            );
        }

        fn fail(&mut self, parcel: Parcel, started: bool, reason: Reason) {
            let trouble = Trouble { call: 1, started, reason };
            let failure = self.plan.settings.target.failure(trouble);
            self.plan.answered(parcel, Err(failure));
        }

        fn values(&self) -> Vec<(u64, u64)> {
            self.got.iter().map(|(index, result)| (*index, *result.as_ref().unwrap())).collect()
        }
    }

    fn same(items: u64) -> Vec<(u64, u64)> {
        (0..items).map(|item| (item, item)).collect()
    }

    fn died() -> Reason {
        let worker = WorkerId { slot: 0, generation: 1 };
        Reason::WorkerDied(Box::new(Certificate::unknown("default", worker, Cause::Signalled)))
    }

    fn window(items: u32) -> impl FnOnce(&mut Settings) {
        move |settings| settings.window = NonZeroU32::new(items).unwrap()
    }

    #[test]
    fn ordered_results_come_in_order_whatever_is_answered_first() {
        let mut hand = Hand::new(5000, Order::Items, |_| {});
        while hand.run() {
            let parcel = hand.sent.pop_back().unwrap();
            hand.answer(parcel);
        }
        assert_eq!(same(5000), hand.values());
    }

    #[test]
    fn unordered_results_come_as_they_are_done_and_none_is_lost() {
        let mut hand = Hand::new(5000, Order::Done, |_| {});
        while hand.run() {
            let parcel = hand.sent.pop_back().unwrap();
            hand.answer(parcel);
        }
        let mut values = hand.values();
        assert_ne!(same(5000), values);
        values.sort_unstable();
        assert_eq!(same(5000), values);
    }

    #[test]
    fn no_more_is_pulled_than_the_window_holds() {
        for size in [1, 2, 3, 7, 100] {
            let mut hand = Hand::new(500, Order::Items, window(size));
            assert!(hand.run());
            assert!(hand.plan.pulled <= u64::from(size) && hand.plan.pulled > 0);
            while hand.run() {
                let parcel = hand.sent.pop_front().unwrap();
                hand.answer(parcel);
            }
            assert_eq!(same(500), hand.values(), "window {size}");
        }
    }

    #[test]
    fn a_result_does_not_wait_for_a_slow_neighbour_when_unordered() {
        let mut hand = Hand::new(100, Order::Done, window(2));
        assert!(hand.run());
        let _slow = hand.sent.pop_front().unwrap();
        for done in 1..50 {
            let parcel = hand.sent.pop_front().unwrap();
            hand.answer(parcel);
            assert!(hand.run());
            assert_eq!(done, hand.got.len());
        }
    }

    #[test]
    fn a_timeout_keeps_items_apart_and_a_fixed_chunk_is_kept() {
        let fixed = Chunk::Fixed(NonZeroU32::new(7).unwrap());
        for items in [1, 7] {
            let mut hand = Hand::new(1000, Order::Items, |settings| match items {
                1 => settings.timeout = Some(Duration::from_secs(1)),
                _ => settings.chunk = fixed,
            });
            while hand.run() {
                let parcel = hand.sent.pop_front().unwrap();
                let last = parcel.first + u64::from(parcel.items) == 1000;
                assert!(parcel.items == items || last);
                hand.answer(parcel);
            }
            assert_eq!(same(1000), hand.values());
        }
    }

    #[test]
    fn a_full_queue_slows_the_map_and_fails_no_item() {
        let mut hand = Hand::new(300, Order::Items, |settings| {
            settings.chunk = Chunk::Fixed(NonZeroU32::MIN);
        });
        let mut most = 0;
        while hand.run() {
            most = most.max(hand.sent.len());
            // A queue that takes two.
            while hand.sent.len() > 2 {
                let refused = hand.sent.pop_back().unwrap();
                hand.fail(refused, false, Reason::QueueFull { limit: 2 });
            }
            let parcel = hand.sent.pop_front().unwrap();
            hand.answer(parcel);
        }
        assert_eq!((same(300), 0), (hand.values(), hand.pauses));
        assert_eq!(most, CHUNKS_IN_FLIGHT as usize);
    }

    #[test]
    fn a_queue_that_stays_full_of_others_calls_is_an_error_in_the_end() {
        let mut hand = Hand::new(3, Order::Items, |_| {});
        while hand.run() {
            while let Some(refused) = hand.sent.pop_back() {
                hand.fail(refused, false, Reason::QueueFull { limit: 2 });
            }
        }
        assert_eq!(3, hand.got.len());
        assert!(hand.got.iter().all(|(_, result)| result.is_err()));
        assert!(hand.pauses >= RESENDS_MAX as usize && hand.pauses <= 4 * RESENDS_MAX as usize);
    }

    #[test]
    fn what_never_started_is_sent_again_and_what_did_fails_with_each_items_index() {
        let mut hand = Hand::new(20, Order::Items, |settings| {
            settings.chunk = Chunk::Fixed(NonZeroU32::new(10).unwrap());
        });
        assert!(hand.run());
        let first = hand.sent.pop_front().unwrap();
        hand.fail(first, false, died());
        assert!(hand.run());
        assert_eq!(10, hand.sent[0].first, "the second chunk still waits for its answer");
        let again = hand.sent.pop_back().unwrap();
        assert_eq!(0, again.first);
        hand.fail(again, true, died());
        let second = hand.sent.pop_front().unwrap();
        hand.answer(second);
        assert!(!hand.run());
        let failed =
            |(index, result): &(u64, Result<u64, Failure>)| result.is_err().then_some(*index);
        let failed: Vec<u64> = hand.got.iter().filter_map(failed).collect();
        assert_eq!((0..10).collect::<Vec<_>>(), failed);
        assert_eq!(20, hand.got.len());
    }

    #[test]
    fn a_failing_item_has_its_own_index_and_its_neighbours_their_results() {
        let mut hand = Hand::new(9, Order::Items, |settings| {
            settings.chunk = Chunk::Fixed(NonZeroU32::new(3).unwrap());
        });
        assert!(hand.run());
        let exception = clutch_protocol::failure::Exception {
            type_name: "ValueError".into(),
            message: "no".into(),
            notes: vec![],
            frames: vec![],
            traceback: String::new(),
            chain: vec![],
            bases: vec![],
        };
        for parcel in std::mem::take(&mut hand.sent) {
            let first = parcel.first;
            let results = [Some(first), None, Some(first + 2)];
            let payload = encode(Codec::Plain, &(results, [(1, &exception)]), 0).unwrap();
            hand.reply(parcel, Flags::ITEMS, payload.bytes);
        }
        assert!(!hand.run());
        for (index, result) in hand.got {
            match result {
                Ok(value) => assert!(value == index && index % 3 != 1),
                Err(failure) => assert!(failure.reason.name() == "Raised" && index % 3 == 1),
            }
        }
    }

    #[test]
    fn an_item_too_large_to_send_fails_alone() {
        let mut plan: Plan<String> = Plan::new(Settings::new("m:f"), Order::Items, 1000, 10);
        plan.sizer = Sizer::new(100);
        plan.push(&["a".into(), "b".repeat(2000), "c".into(), "d".repeat(400)]);
        plan.exhaust();
        let mut sent = Vec::new();
        let mut failed = Vec::new();
        loop {
            match plan.step(true) {
                Step::Send(parcel) => sent.push((parcel.first, parcel.items)),
                Step::Item(index, result) => failed.push((index, result.unwrap_err().reason)),
                _ => break,
            }
        }
        assert_eq!(vec![(0, 1), (2, 2)], sent);
        assert!(failed.is_empty(), "item 0 comes first");
        assert!(matches!(plan.done.get(&1), Some(Rest::Failed(1, _))));
    }

    #[test]
    fn a_source_that_has_nothing_yet_is_not_the_end() {
        let mut plan: Plan<u64> = Plan::new(Settings::new("m:f"), Order::Items, 1000, 10);
        assert!(matches!(plan.step(true), Step::Pull(1)));
        assert!(matches!(plan.step(false), Step::Wait));
        plan.exhaust();
        assert!(matches!(plan.step(false), Step::Done));
    }

    #[test]
    fn no_more_chunks_are_under_way_than_can_run() {
        let welcome = Welcome {
            version: 1,
            pid: 1,
            program: String::new(),
            payload_bytes_max: 1000,
            in_flight_max: 1000,
            pools: vec![PoolSize { name: DEFAULT_POOL.into(), workers: 3 }],
            attached_bytes_max: 0,
        };
        let plan = |timeout| {
            let settings = Settings { timeout, ..Settings::new("m:f") };
            Plan::<u64>::new(settings, Order::Items, 1000, 1000).for_workers(&welcome)
        };
        let mut long = plan(None);
        assert_eq!(3, long.chunks_allowed(), "nothing is known yet");
        long.sizer.ran(1, 2_000_000);
        assert_eq!(3, long.chunks_allowed());
        let mut short = plan(None);
        short.sizer.ran(1, 100);
        assert_eq!(6, short.chunks_allowed());
        // With a timeout of its own, an item must not spend it waiting for its siblings.
        let mut strict = plan(Some(Duration::from_millis(300)));
        strict.sizer.ran(1, 100);
        assert_eq!(3, strict.chunks_allowed());
    }
}
