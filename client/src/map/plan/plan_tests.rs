//! Maps of 0, 1, 2, ... driven by hand.

use std::num::NonZeroU32;

use bytes::Bytes;
use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::message::{Answer, Phases, WorkerId};
use clutch_protocol::{Codec, Flags};

use clutch_protocol::message::PoolSize;

use super::*;
use crate::exchange::{Beside, DEFAULT_POOL};
use crate::limits::{FOLD_PIECES, RESENDS_MAX};
use crate::retry::Retry;

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
            plan: Plan::new(settings, order, None, 1_000_000, 1000),
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
        let payload = parcel.payload.bytes.clone();
        self.reply(parcel, Flags::NONE, payload);
    }

    fn reply(&mut self, parcel: Parcel, flags: Flags, payload: Bytes) {
        let phases = Phases { queue_us: 0, run_us: parcel.items(), start_us: 0 };
        let worker = WorkerId { slot: 0, generation: 1 };
        let answer = Answer { phases, worker, call: 1, attempt: 1, pid: 7 };
        self.plan.answered(parcel, Ok(reply_with(flags, payload, answer)));
    }

    fn fail(&mut self, parcel: Parcel, started: bool, reason: Reason) {
        let trouble = Trouble { call: 1, started, reason };
        let failure = self.plan.settings.target.failure(trouble);
        self.plan.answered(parcel, Err(failure));
    }

    /// Has the worker of a chunk die with one of its items.
    fn die(&mut self, parcel: Parcel, at: u64) {
        let trouble = Trouble { call: 1, started: true, reason: died() };
        let failure = self.plan.settings.target.failure(trouble);
        self.plan.answered(parcel, Err(Failure { item: Some(at), attempt: 1, ..failure }));
    }

    /// The indices of items that have failed.
    fn lost(&self) -> Vec<u64> {
        let lost = self.got.iter().filter(|(_, result)| result.is_err());
        lost.map(|(index, _)| *index).collect()
    }

    fn values(&self) -> Vec<(u64, u64)> {
        self.got.iter().map(|(index, result)| (*index, *result.as_ref().unwrap())).collect()
    }
}

fn reply_with(flags: Flags, payload: Bytes, answer: Answer) -> Reply {
    let attached = Beside::default();
    Reply { id: 1, codec: Codec::Plain, flags, payload, attached, answer }
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
            let last = parcel.first + parcel.items() == 1000;
            assert!(parcel.items() == items || last);
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
    let failed = |(index, result): &(u64, Result<u64, Failure>)| result.is_err().then_some(*index);
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
        let results = [first, first + 2];
        let payload = encode(Codec::Plain, &(results, [(1, &exception)], [0; 0]), 0).unwrap();
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
    let mut plan: Plan<String> = Plan::new(Settings::new("m:f"), Order::Items, None, 1000, 10);
    plan.sizer = Sizer::new(100);
    plan.push(&["a".into(), "b".repeat(2000), "c".into(), "d".repeat(400)]);
    plan.exhaust();
    let mut sent = Vec::new();
    let mut failed = Vec::new();
    loop {
        match plan.step(true) {
            Step::Send(parcel) => sent.push((parcel.first, parcel.items())),
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
    let mut plan: Plan<u64> = Plan::new(Settings::new("m:f"), Order::Items, None, 1000, 10);
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
        Plan::<u64>::new(settings, Order::Items, None, 1000, 1000).for_workers(&welcome)
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

fn tens() -> impl FnOnce(&mut Settings) {
    |settings| settings.chunk = Chunk::Fixed(NonZeroU32::new(10).unwrap())
}

/// Which items a parcel has, as they will be decoded there.
fn contents(parcel: &Parcel) -> Vec<u64> {
    crate::codec::decode(Codec::Plain, &parcel.payload.bytes, None).unwrap()
}

#[test]
fn items_behind_the_one_that_killed_a_worker_run_elsewhere() {
    let mut hand = Hand::new(20, Order::Items, tens());
    assert!(hand.run());
    let first = hand.sent.pop_front().unwrap();
    hand.die(first, 3);
    assert!(hand.run());
    let rest = hand.sent.pop_back().unwrap();
    assert_eq!((4, (4..10).collect::<Vec<_>>()), (rest.first, contents(&rest)));
    hand.answer(rest);
    let second = hand.sent.pop_front().unwrap();
    hand.answer(second);
    assert!(!hand.run());
    assert_eq!(vec![0, 1, 2, 3], hand.lost(), "what had ended is lost with its worker");
    for (_, result) in &hand.got[..4] {
        assert_eq!(Some(3), result.as_ref().unwrap_err().item, "and is told which did it");
    }
    assert_eq!(20, hand.got.len());
}

#[test]
fn with_a_retry_the_culprit_is_tried_again_alone_and_nobody_else_is_lost() {
    let mut hand = Hand::new(10, Order::Items, |settings| {
        tens()(settings);
        settings.wishes.retry = Some(Retry::new(3).on_worker_died());
    });
    assert!(hand.run());
    let all = hand.sent.pop_front().unwrap();
    let ready = hand.plan.settings.ready((), &all);
    assert!(ready.wishes().retry.is_none(), "the daemon must not repeat the whole chunk");
    hand.die(all, 3);
    assert!(hand.run());
    let sent: [Parcel; 3] = Vec::from(std::mem::take(&mut hand.sent)).try_into().unwrap();
    let [before, culprit, behind] = sent;
    assert_eq!(vec![0, 1, 2], contents(&before));
    assert_eq!(vec![4, 5, 6, 7, 8, 9], contents(&behind));
    assert_eq!(
        (3, 1, 1, true),
        (culprit.first, culprit.items(), culprit.tries, culprit.has_killed)
    );
    hand.answer(before);
    hand.answer(behind);
    hand.die(culprit, 0);
    assert!(!hand.run());
    assert_eq!(vec![3], hand.lost());
    let failure = hand.got[3].1.as_ref().unwrap_err();
    assert_eq!((2, true), (failure.attempt, failure.quarantined));
}

#[test]
fn attempts_of_a_chunk_come_to_an_end() {
    let mut hand = Hand::new(10, Order::Items, |settings| {
        tens()(settings);
        settings.wishes.retry = Some(Retry::new(2).on_worker_died());
    });
    let mut sent = 0;
    while hand.run() {
        // It is not known which item it was at.
        let parcel = hand.sent.pop_front().unwrap();
        hand.fail(parcel, true, died());
        sent += 1;
    }
    assert_eq!((2, 10), (sent, hand.lost().len()));
}

#[test]
fn items_with_a_retry_or_a_timeout_of_their_own_travel_alone() {
    let second = Duration::from_secs(1);
    for retry in [Retry::new(2).on_timed_out(second), Retry::new(2).on_raised("OSError")] {
        let mut hand = Hand::new(30, Order::Items, |settings| {
            tens()(settings);
            settings.wishes.retry = Some(retry);
        });
        while hand.run() {
            let parcel = hand.sent.pop_front().unwrap();
            assert_eq!(1, parcel.items());
            assert!(hand.plan.settings.ready((), &parcel).wishes().retry.is_some());
            hand.answer(parcel);
        }
        assert_eq!(same(30), hand.values());
    }
}

#[test]
fn skipped_items_are_left_out_or_told_of() {
    let skip = |skipped: Option<fn() -> u64>| {
        let mut hand = Hand::new(9, Order::Items, |settings| {
            settings.chunk = Chunk::Fixed(NonZeroU32::new(3).unwrap());
        });
        hand.plan.skipped = skipped;
        while hand.run() {
            let parcel = hand.sent.pop_back().unwrap();
            let (first, none) = (parcel.first, [0; 0]);
            let payload = match first {
                3 => encode(Codec::Plain, &(none, none, [0, 1, 2]), 0).unwrap(),
                _ => encode(Codec::Plain, &([first, first + 2], none, [1]), 0).unwrap(),
            };
            hand.reply(parcel, Flags::ITEMS, payload.bytes);
        }
        hand.values()
    };
    assert_eq!(vec![(0, 0), (2, 2), (6, 6), (8, 8)], skip(None));
    let all = skip(Some(|| 77));
    assert_eq!((0..9).collect::<Vec<_>>(), all.iter().map(|(index, _)| *index).collect::<Vec<_>>());
    assert_eq!(5, all.iter().filter(|(_, value)| *value == 77).count());
}

/// A map that is reduced by concatenation, its chunks answered by `answer`.
fn reduce(
    items: u64,
    mut answer: impl FnMut(&Parcel, Vec<String>) -> (Flags, Body),
) -> Vec<(u64, Result<String, Failure>)> {
    let mut settings = Settings::new("m:f");
    settings.chunk = Chunk::Fixed(NonZeroU32::new(3).unwrap());
    settings.fold = Some("m:join".into());
    let mut plan: Plan<String> = Plan::new(settings, Order::Items, None, 1_000_000, 1000);
    let (mut next, mut sent, mut got) = (0, VecDeque::new(), Vec::new());
    loop {
        match plan.step(true) {
            Step::Item(index, result) => got.push((index, result)),
            Step::Send(parcel) => sent.push_back(parcel),
            Step::Pull(count) => {
                let end = items.min(next + u64::from(count));
                if end < next + u64::from(count) {
                    plan.exhaust();
                }
                let pulled: Vec<_> = (next..end).map(|item| format!("{item},")).collect();
                next = end;
                if !pulled.is_empty() {
                    plan.push(&pulled);
                }
            }
            Step::Pause(_) => panic!("nothing is full"),
            Step::Wait => {
                // Those that came last are answered first.
                let parcel: Parcel = sent.pop_back().unwrap();
                let texts: Vec<String> =
                    crate::codec::decode(Codec::Plain, &parcel.payload.bytes, None).unwrap();
                let (flags, payload) = answer(&parcel, texts);
                let answer = Answer {
                    phases: Phases::default(),
                    worker: WorkerId { slot: 0, generation: 1 },
                    call: 1,
                    attempt: 1,
                    pid: 7,
                };
                let payload = payload.bytes;
                let reply = reply_with(flags, payload, answer);
                plan.answered(parcel, Ok(reply));
            }
            Step::Done => return got,
        }
    }
}

fn joined(texts: &[String]) -> (Flags, Body) {
    (Flags::NONE, encode(Codec::Plain, &[texts.concat()], 0).unwrap())
}

#[test]
fn a_map_is_reduced_in_the_order_of_its_items_whatever_comes_first() {
    for items in [1, 3, 4, 1000] {
        let mut pieces_most = 0;
        let got = reduce(items, |parcel, texts| {
            if parcel.content == Content::Pieces {
                pieces_most = pieces_most.max(texts.len());
            }
            joined(&texts)
        });
        let wanted: String = (0..items).map(|item| format!("{item},")).collect();
        let [(0, Ok(all))] = &got[..] else { panic!("{got:?}") };
        assert_eq!(&wanted, all);
        assert!(pieces_most < 2 * FOLD_PIECES);
    }
    assert!(reduce(0, |_, texts| joined(&texts)).is_empty());
}

#[test]
fn skipped_items_are_no_part_of_what_a_map_is_reduced_to() {
    let none = || (Flags::NONE, encode(Codec::Plain, &[0; 0], 0).unwrap());
    let got = reduce(100, |parcel, texts| match (parcel.content, parcel.first % 2) {
        (Content::Items, 0) => none(),
        _ => joined(&texts),
    });
    let wanted: String =
        (0..100).filter(|item| item / 3 % 2 == 1).map(|item| format!("{item},")).collect();
    let [(_, Ok(all))] = &got[..] else { panic!("{got:?}") };
    assert_eq!(&wanted, all);
    assert!(reduce(100, |_, _| none()).is_empty());
}

#[test]
fn a_failing_item_ends_what_is_reduced_and_is_named() {
    let exception = clutch_protocol::failure::Exception {
        type_name: "ValueError".into(),
        message: "no".into(),
        notes: vec![],
        frames: vec![],
        traceback: String::new(),
        chain: vec![],
        bases: vec![],
    };
    let got = reduce(100, |parcel, texts| match parcel.first {
        33 => {
            let payload = ([0; 0], [(1, &exception)], [0; 0]);
            (Flags::ITEMS, encode(Codec::Plain, &payload, 0).unwrap())
        }
        _ => joined(&texts),
    });
    let [(34, Err(failure))] = &got[..] else { panic!("{got:?}") };
    assert_eq!("Raised", failure.reason.name());
}

/// What becomes of a map on workers that take chunks from one queue: when the last item ends, how
/// long the ideal schedule takes, and how many items the chunks had.
fn simulate(runs_us: &[u64], workers: usize, knows_its_length: bool) -> (u64, u64, Vec<u64>) {
    /// What a chunk costs beside its items, on its ways and in the worker.
    const CALL_US: u64 = 150;
    let (settings, mut chunks) = (Settings::new("m:f"), Vec::new());
    let mut plan: Plan<u64> = Plan::new(settings, Order::Done, None, 1_000_000, 1000);
    plan.workers = u32::try_from(workers).ok();
    let (mut queue, mut busy) = (VecDeque::new(), BTreeMap::new());
    let mut free = vec![0_u64; workers];
    let (mut now, mut next) = (0, 0);
    loop {
        match plan.step(true) {
            Step::Item(..) => {}
            Step::Send(parcel) => queue.push_back(parcel),
            Step::Pull(count) => {
                let end = runs_us.len().min(next + count as usize);
                if end < next + count as usize {
                    plan.exhaust();
                }
                let left = runs_us.len() - end;
                plan.expect((left, knows_its_length.then_some(left)));
                let items: Vec<u64> = (next as u64..end as u64).collect();
                next = end;
                if !items.is_empty() {
                    plan.push(&items);
                }
            }
            Step::Pause(_) => panic!("nothing is full"),
            Step::Done => break,
            Step::Wait => {
                while let Some(worker) = (0..workers).find(|worker| free[*worker] <= now) {
                    let Some(parcel): Option<Parcel> = queue.pop_front() else { break };
                    let items = contents(&parcel);
                    chunks.push(parcel.items());
                    let at = |item: &u64| runs_us[usize::try_from(*item).unwrap()];
                    let run: u64 = items.iter().map(at).sum();
                    free[worker] = now + CALL_US + run;
                    busy.insert((free[worker], worker), (parcel, items, run));
                }
                let ((at, _), (parcel, items, run_us)) = busy.pop_first().unwrap();
                now = at;
                let answer = Answer {
                    phases: Phases { queue_us: 0, run_us, start_us: 0 },
                    worker: WorkerId { slot: 0, generation: 1 },
                    call: 1,
                    attempt: 1,
                    pid: 7,
                };
                let (payload, flags) =
                    (encode(Codec::Plain, &items, 0).unwrap().bytes, Flags::NONE);
                let reply = reply_with(flags, payload, answer);
                plan.answered(parcel, Ok(reply));
            }
        }
    }
    let (all, longest) = (runs_us.iter().sum::<u64>(), *runs_us.iter().max().unwrap());
    (now, longest.max(all / workers as u64), chunks)
}

/// Numbers that look random, the same in every run.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    }
}

#[test]
fn items_of_1_to_100_ms_end_within_5_percent_of_the_ideal_schedule_on_two_workers() {
    for seed in 1..=200 {
        let mut random = random(seed);
        let runs: Vec<u64> = (0..200).map(|_| 1_000 + random(99_001)).collect();
        for knows_its_length in [true, false] {
            let (took, ideal, chunks) = simulate(&runs, 2, knows_its_length);
            assert!(took * 100 <= ideal * 105, "seed {seed}: {took} us instead of {ideal}");
            let alone = chunks.iter().filter(|items| **items == 1).count();
            assert!(alone * 10 >= chunks.len() * 9, "seed {seed}: {chunks:?}");
            // What any schedule is that never lets a worker wait while a chunk is there.
            let longest = runs.iter().max().unwrap();
            assert!(took <= ideal + longest * 4 + 150 * chunks.len() as u64);
        }
    }
}

#[test]
fn short_items_share_the_cost_of_their_calls_and_workers_end_together() {
    for (run_us, items) in [(1, 1_000_000), (20, 50_000), (1_000, 2_000)] {
        for workers in [2, 7] {
            let (took, ideal, chunks) = simulate(&vec![run_us; items], workers, true);
            assert!(took * 100 <= ideal * 108, "{run_us} us on {workers}: {took}, not {ideal}");
            assert!(chunks.len() < items, "{run_us} us on {workers}: every item was alone");
        }
    }
}

#[test]
fn a_few_items_are_divided_among_all_workers() {
    // Known to be short, they would all fit one chunk.
    let mut runs = vec![500; 2_000];
    runs.extend(vec![5_000; 12]);
    let (took, ideal, chunks) = simulate(&runs, 4, true);
    assert!(took <= ideal + 12_000, "{took} instead of {ideal}: {chunks:?}");
}
