//! What a map-file does next. Pure: no clock, no socket, no file; the drivers (`stream` for the
//! async client, `blocking::map_file` for the other) do what [`Plan::step`] says, and tell it what
//! came of it.
//!
//! ```text
//!   cuts ──cut──► to_send ──step: Send──► driver ═══► daemon
//!                   ▲ resend                │
//!   caller ◄──step: Item── done ◄── answered ◄┘
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clutch_protocol::attachment::Content;
use clutch_protocol::message::Welcome;
use clutch_protocol::{Failure, Reason};

use super::builder::{FileChunk, MapFileError};
use super::cuts::Cut;
use super::settings::Settings;
use super::source::FileError;
use crate::limits::{CHUNKS_IN_FLIGHT, RESEND_WAIT, RESENDS_MAX};

/// In which order results come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As the chunks are in the file.
    File,
    /// As they are done.
    Done,
}

/// A chunk on its way.
#[derive(Clone, Debug)]
pub(crate) struct Parcel {
    /// Which chunk, from 0.
    pub(crate) index: u64,
    /// Where it is.
    pub(crate) cut: Cut,
    /// How often it was sent again.
    resends: u32,
}

impl Parcel {
    fn chunk(&self) -> FileChunk {
        let Cut { offset, bytes, content, .. } = &self.cut;
        let row_group = match content {
            Content::RowGroup { index } => Some(*index),
            _ => None,
        };
        FileChunk { index: self.index, offset: *offset, bytes: *bytes, row_group }
    }
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step<R> {
    /// Give this to the caller.
    Item(u64, Result<R, MapFileError>),
    /// Send this.
    Send(Parcel),
    /// Take the next cut.
    Cut,
    /// Ask again after this long: the pool's queue is full of others' calls.
    Pause(Duration),
    /// Wait for an answer.
    Wait,
    /// Give this to the caller, and then nothing more: what is under way is of no use.
    Last(FileError),
    /// All chunks have been given to the caller.
    Done,
}

/// What a driver gives to the caller: a chunk's index and result, or what ends all.
pub(crate) type Item<R> = Result<(u64, Result<R, MapFileError>), FileError>;

/// The same with one error; a failed chunk names itself.
pub(crate) fn indexed<R>(item: Item<R>) -> Result<(u64, R), MapFileError> {
    let (index, result) = item?;
    result.map(|value| (index, value))
}

/// What came of a chunk: nothing where no record begins in it.
type Outcome<R> = Result<Option<R>, MapFileError>;

/// The state of one map-file.
#[derive(Debug)]
pub(crate) struct Plan<R> {
    order: Order,
    in_flight_max: u32,
    /// How many chunks may be unanswered now: halved when the queue is full, grown by successes.
    in_flight_now: u32,
    in_flight: u32,
    /// How many chunks may be cut and not given out.
    window: u64,
    to_send: VecDeque<Parcel>,
    done: BTreeMap<u64, Outcome<R>>,
    /// How many chunks were cut, which is the next one's index.
    cut: u64,
    /// How many were given out, or were nothing.
    given: u64,
    bytes_done: u64,
    exhausted: bool,
    /// What ended the cuts; told when all before it was.
    broken: Option<FileError>,
    /// What makes all results doubtful; told at once.
    changed: Option<FileError>,
    pause: Option<Duration>,
}

impl<R> Plan<R> {
    pub(crate) fn new(settings: &Settings, order: Order, welcome: &Welcome) -> Plan<R> {
        let pools = &welcome.pools;
        let pool = pools.iter().find(|pool| pool.name == settings.target.pool);
        let workers = pool.map_or(1, |pool| pool.workers.max(1));
        // A chunk that waits in the pool's queue spends its deadline there. Without one, each
        // worker finds its next chunk waiting.
        let wanted = match settings.timeout {
            Some(_) => workers,
            None => workers.saturating_mul(2),
        };
        let in_flight_max = wanted.min(CHUNKS_IN_FLIGHT).min(welcome.in_flight_max).max(1);
        Plan {
            order,
            in_flight_max,
            in_flight_now: in_flight_max,
            in_flight: 0,
            window: u64::from(in_flight_max) * 2,
            to_send: VecDeque::new(),
            done: BTreeMap::new(),
            cut: 0,
            given: 0,
            bytes_done: 0,
            exhausted: false,
            broken: None,
            changed: None,
            pause: None,
        }
    }

    /// How many bytes are in chunks that were answered.
    pub(crate) fn bytes_done(&self) -> u64 {
        self.bytes_done
    }

    /// What to do next. `may_cut` is false while the next cut is not known yet.
    pub(crate) fn step(&mut self, may_cut: bool) -> Step<R> {
        if let Some(changed) = self.changed.take() {
            self.stop();
            return Step::Last(changed);
        }
        self.pass_nothing();
        if self.in_flight < self.in_flight_now && self.pause.is_none() {
            if let Some(parcel) = self.to_send.pop_front() {
                self.in_flight += 1;
                return Step::Send(parcel);
            }
            if may_cut && !self.exhausted && self.cut - self.given < self.window {
                return Step::Cut;
            }
        }
        if let Some((index, result)) = self.take_item() {
            return Step::Item(index, result);
        }
        if let Some(pause) = self.pause.take() {
            return Step::Pause(pause);
        }
        if self.in_flight > 0 || !self.to_send.is_empty() || !self.exhausted {
            // Also what is to be sent waits: for an answer that makes room.
            return Step::Wait;
        }
        match self.broken.take() {
            Some(error) => Step::Last(error),
            None => Step::Done,
        }
    }

    /// What is nothing is not given out, and makes room for the next cuts at once: when it is all
    /// that there is, no answer will come to wake anybody.
    fn pass_nothing(&mut self) {
        match self.order {
            Order::File => {
                while matches!(self.done.get(&self.given), Some(Ok(None))) {
                    self.done.remove(&self.given);
                    self.given += 1;
                }
            }
            Order::Done => {
                let before = self.done.len();
                self.done.retain(|_, outcome| !matches!(outcome, Ok(None)));
                self.given += (before - self.done.len()) as u64;
            }
        }
    }

    fn take_item(&mut self) -> Option<(u64, Result<R, MapFileError>)> {
        let (index, outcome) = match self.order {
            Order::File => (self.given, self.done.remove(&self.given)?),
            Order::Done => self.done.pop_first()?,
        };
        self.given += 1;
        Some((index, outcome.transpose().expect("what is nothing was passed")))
    }

    /// Takes the next cut in.
    pub(crate) fn push(&mut self, cut: Cut) {
        assert!(!self.exhausted, "there is nothing behind the end");
        let index = self.cut;
        self.cut += 1;
        self.to_send.push_back(Parcel { index, cut, resends: 0 });
    }

    /// There are no more cuts: the file is at its end, or cannot be cut further.
    pub(crate) fn exhaust(&mut self, broken: Option<FileError>) {
        self.exhausted = true;
        self.broken = self.broken.take().or(broken);
    }

    /// The file is no longer what it was.
    pub(crate) fn change(&mut self, changed: FileError) {
        self.changed.get_or_insert(changed);
    }

    /// Nothing more is sent, and nothing more given out.
    fn stop(&mut self) {
        self.exhausted = true;
        self.broken = None;
        self.in_flight = 0;
        self.to_send.clear();
        self.done.clear();
        self.pause = None;
    }

    /// Takes in what became of a chunk.
    pub(crate) fn answered(&mut self, parcel: Parcel, answer: Result<Option<R>, Failure>) {
        assert!(self.in_flight > 0, "only what was sent is answered");
        self.in_flight -= 1;
        let outcome = match answer {
            Ok(result) => {
                self.in_flight_now = (self.in_flight_now + 1).min(self.in_flight_max);
                Ok(result)
            }
            Err(failure) if may_resend(&parcel, &failure) => {
                self.resend(parcel, &failure);
                return;
            }
            Err(failure) => {
                Err(MapFileError::Chunk { chunk: parcel.chunk(), failure: Box::new(failure) })
            }
        };
        self.bytes_done += parcel.cut.weight;
        self.done.insert(parcel.index, outcome);
    }

    fn resend(&mut self, mut parcel: Parcel, failure: &Failure) {
        let full = matches!(failure.reason, Reason::QueueFull { .. });
        if full {
            self.in_flight_now = (self.in_flight_now / 2).max(1);
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
        let at = self.to_send.partition_point(|other| other.index < parcel.index);
        self.to_send.insert(at, parcel);
    }
}

/// Whether sending it again is safe, may help, and was not tried too often.
fn may_resend(parcel: &Parcel, failure: &Failure) -> bool {
    !failure.started
        && parcel.resends < RESENDS_MAX
        && matches!(failure.reason, Reason::QueueFull { .. } | Reason::WorkerDied(_))
}

#[cfg(test)]
mod tests {
    use clutch_protocol::attachment::Split;
    use clutch_protocol::failure::{Cause, Certificate};
    use clutch_protocol::message::{PoolSize, WorkerId};

    use super::*;
    use crate::exchange::{DEFAULT_POOL, Target, Trouble};
    use crate::map_file::source::FileFault;

    /// A file of so many chunks of 10 bytes, mapped by hand.
    struct Hand {
        plan: Plan<u64>,
        chunks: u64,
        sent: VecDeque<Parcel>,
        got: Vec<(u64, Result<u64, MapFileError>)>,
        pauses: usize,
        last: Option<FileError>,
    }

    impl Hand {
        fn new(chunks: u64, order: Order, edit: impl FnOnce(&mut Settings)) -> Hand {
            let mut settings = Settings::new("m:f");
            edit(&mut settings);
            let welcome = Welcome {
                version: 1,
                pid: 1,
                program: String::new(),
                payload_bytes_max: 1000,
                in_flight_max: 1000,
                pools: vec![PoolSize { name: DEFAULT_POOL.into(), workers: 2 }],
                attached_bytes_max: 0,
            };
            let plan = Plan::new(&settings, order, &welcome);
            let (sent, got) = (VecDeque::new(), Vec::new());
            Hand { plan, chunks, sent, got, pauses: 0, last: None }
        }

        /// Does what the plan says until it waits; false when it is done.
        fn run(&mut self) -> bool {
            loop {
                match self.plan.step(true) {
                    Step::Item(index, result) => self.got.push((index, result)),
                    Step::Send(parcel) => self.sent.push_back(parcel),
                    Step::Cut if self.plan.cut == self.chunks => self.plan.exhaust(None),
                    Step::Cut => {
                        let content = Content::Range { split: Split::Lines };
                        let offset = self.plan.cut * 10;
                        self.plan.push(Cut { offset, bytes: 10, content, weight: 10 });
                    }
                    Step::Pause(_) => self.pauses += 1,
                    Step::Wait => return true,
                    Step::Last(error) => {
                        self.last = Some(error);
                        return false;
                    }
                    Step::Done => return false,
                }
            }
        }

        fn answer(&mut self, at: usize, answer: impl FnOnce(u64) -> Result<Option<u64>, Failure>) {
            let parcel = self.sent.remove(at).unwrap();
            let answer = answer(parcel.index);
            self.plan.answered(parcel, answer);
        }

        fn indices(&self) -> Vec<u64> {
            self.got.iter().map(|(index, _)| *index).collect()
        }
    }

    fn failure(started: bool, reason: Reason) -> Failure {
        let trouble = if started { Trouble::sent(1, reason) } else { Trouble::unsent(reason) };
        Target::new("m:f").failure(trouble)
    }

    fn broken() -> FileError {
        FileError { path: "f".into(), fault: FileFault::Rewritten }
    }

    #[test]
    fn results_come_in_the_files_order_within_a_window() {
        let mut hand = Hand::new(20, Order::File, |_| {});
        assert!(hand.run());
        assert_eq!(4, hand.sent.len(), "two for each worker");
        while hand.run() {
            // The newest is always done first.
            let last = hand.sent.len() - 1;
            hand.answer(last, |index| Ok(Some(index)));
            let open = hand.plan.cut - hand.plan.given;
            assert!(open <= 8 && hand.sent.len() <= 4, "{open}");
        }
        assert_eq!((0..20).collect::<Vec<_>>(), hand.indices());
        assert_eq!(200, hand.plan.bytes_done());
    }

    #[test]
    fn results_come_as_they_are_done_and_nothing_is_left_out_but_nothing() {
        let mut hand = Hand::new(5, Order::Done, |_| {});
        hand.run();
        hand.answer(3, |index| Ok(Some(index)));
        hand.answer(1, |_| Ok(None));
        hand.run();
        assert_eq!([3], *hand.indices());
        while hand.run() {
            hand.answer(0, |index| Ok(Some(index)));
        }
        assert_eq!([3, 0, 2, 4], *hand.indices());
        assert_eq!(50, hand.plan.bytes_done());
    }

    #[test]
    fn with_a_timeout_no_chunk_waits_for_a_worker() {
        let timeout = |settings: &mut Settings| settings.timeout = Some(Duration::from_secs(1));
        let mut hand = Hand::new(9, Order::File, timeout);
        hand.run();
        assert_eq!(2, hand.sent.len());
    }

    #[test]
    fn a_failed_chunk_is_told_by_its_place_and_the_others_go_on() {
        let mut hand = Hand::new(3, Order::File, |_| {});
        hand.run();
        hand.answer(1, |_| Err(failure(true, Reason::NotAllowed)));
        while hand.run() {
            hand.answer(0, |index| Ok(Some(index)));
        }
        let [(0, Ok(0)), (1, Err(error)), (2, Ok(2))] = &hand.got[..] else {
            panic!("{:?}", hand.got)
        };
        assert!(error.to_string().starts_with("chunk 1 (10 bytes at byte 10): "), "{error}");
    }

    #[test]
    fn what_never_began_is_sent_again_but_not_for_ever() {
        let mut hand = Hand::new(1, Order::File, |_| {});
        let mut tries = 0;
        while hand.run() {
            tries += 1;
            hand.answer(0, |_| Err(failure(false, Reason::QueueFull { limit: 1 })));
        }
        assert_eq!((RESENDS_MAX + 1, RESENDS_MAX as usize), (tries, hand.pauses));
        assert!(matches!(&hand.got[..], [(0, Err(MapFileError::Chunk { .. }))]));

        let worker = WorkerId { slot: 0, generation: 1 };
        let died = Certificate::unknown("default", worker, Cause::Signalled);
        let died = |started| failure(started, Reason::WorkerDied(Box::new(died.clone())));
        let mut hand = Hand::new(1, Order::File, |_| {});
        hand.run();
        hand.answer(0, |_| Err(died(false)));
        hand.run();
        assert_eq!((1, 0), (hand.sent.len(), hand.pauses));
        hand.answer(0, |_| Err(died(true)));
        assert!(!hand.run());
        assert!(matches!(&hand.got[..], [(0, Err(_))]));
    }

    #[test]
    fn a_full_queue_holds_back_and_earlier_chunks_go_first() {
        let mut hand = Hand::new(9, Order::File, |_| {});
        hand.run();
        hand.answer(0, |_| Err(failure(false, Reason::QueueFull { limit: 1 })));
        assert!(hand.run());
        assert_eq!(3, hand.sent.len(), "it waits for another to be answered");
        hand.answer(0, |index| Ok(Some(index)));
        hand.answer(0, |index| Ok(Some(index)));
        hand.run();
        assert!(hand.sent.iter().any(|parcel| parcel.index == 0), "{:?}", hand.sent);
        assert_eq!(0, hand.pauses);
    }

    #[test]
    fn what_ends_the_cuts_is_told_behind_all_results() {
        let mut hand = Hand::new(9, Order::File, |_| {});
        hand.run();
        hand.plan.exhaust(Some(broken()));
        while hand.run() {
            assert!(hand.last.is_none());
            hand.answer(0, |index| Ok(Some(index)));
        }
        assert!(hand.last.is_some());
        assert_eq!([0, 1, 2, 3], *hand.indices());
    }

    #[test]
    fn chunks_in_which_nothing_begins_keep_nobody_waiting() {
        for order in [Order::File, Order::Done] {
            let mut hand = Hand::new(1000, order, |_| {});
            let something = |index: u64| index.is_multiple_of(97);
            let mut turns = 0;
            while hand.run() {
                assert!(!hand.sent.is_empty(), "{order:?}: it waits for what will not come");
                // The last one first, so that gaps are filled late.
                let at = hand.sent.len() - 1;
                hand.answer(at, |index| Ok(something(index).then_some(index)));
                turns += 1;
            }
            assert_eq!(1000, turns);
            let mut got: Vec<u64> = hand.got.iter().map(|(index, _)| *index).collect();
            got.sort_unstable();
            let wanted: Vec<u64> = (0..1000).filter(|index| something(*index)).collect();
            assert_eq!(wanted, got, "{order:?}");
        }
    }

    #[test]
    fn a_changed_file_is_told_at_once_and_ends_all() {
        let mut hand = Hand::new(9, Order::File, |_| {});
        hand.run();
        hand.answer(1, |_| Err(failure(true, Reason::NotAllowed)));
        hand.plan.change(broken());
        assert!(!hand.run());
        assert!(hand.last.take().is_some() && hand.got.is_empty());
        assert!(!hand.run());
        assert!(hand.last.is_none() && hand.got.is_empty());
    }
}
