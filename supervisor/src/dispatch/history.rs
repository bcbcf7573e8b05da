//! What happened to calls and workers lately: a ring of small records that the call path writes in
//! a few nanoseconds, without allocating. Leaves making sense of them to `explain`.
//!
//! The ring grows piece by piece up to its limit, so a daemon that was never busy stays small; then
//! the newest record takes the oldest one's place.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Instant;

use clutch_protocol::message::WorkerId;

use crate::limits::{HISTORY_FUNCTIONS_MAX, HISTORY_RECORDS_MAX};
use crate::pool::CallKey;
use crate::worker::spawner::PoolIndex;

/// Records that are allocated together: 32 KiB.
const PIECE_RECORDS: usize = 1024;

const _: () = assert!(HISTORY_RECORDS_MAX.is_multiple_of(PIECE_RECORDS));

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A call came in; `extra` is its function.
    Arrived,
    /// A call waits for it; `extra` is how much smaller the number of that is, or 0 if that is not
    /// known.
    Nested,
    /// It has to wait; `word` says for what, `extra` is how many calls wait with it.
    Queued,
    /// It was handed to a worker; `extra` is the worker's pid.
    Assigned,
    /// Its worker was told that it is not wanted any more.
    Warned,
    /// Its worker was told to interrupt it.
    Interrupted,
    /// It cannot have begun with its worker, and waits again.
    MovedBack,
    /// An attempt failed; there will be another one.
    Retried,
    /// Somebody does not want it any more; `word` says who.
    Unwanted,
    /// Its caller has its answer; `word` says which, `extra` is how many items came before it. The
    /// worker is set if it has done with it.
    Answered,
    /// Its worker has answered when nobody waited any more.
    LateAnswer,
    /// A worker is being started.
    Launched,
    /// A worker is ready; `extra` is its pid.
    Ready,
    /// A worker was told to go; `word` says how.
    Stopping,
    /// A worker's process has ended; `word` says why, `extra` is its pid.
    Died,
}

impl What {
    /// Whether this happens to a worker, whatever call it has.
    pub const fn is_workers(self) -> bool {
        matches!(self, What::Launched | What::Ready | What::Stopping | What::Died)
    }

    /// Whether the record's worker has not got a call after it any more: one that is the record's
    /// own, or another one of the same worker.
    pub const fn frees(self, own: bool) -> bool {
        use What::{Answered, Died, LateAnswer, MovedBack, Retried};
        matches!(self, Died) || own && matches!(self, Answered | LateAnswer | MovedBack | Retried)
    }
}

/// A word of a record: an index into the ring's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u8);

/// The word for a good answer, the one that is written most.
pub const OK: Word = Word(1);

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// When, in nanoseconds since the daemon's start.
    pub at_ns: u64,
    call: u64,
    slot: u32,
    /// 0 for no worker.
    generation: u32,
    /// What [`What`] says.
    pub extra: u32,
    pool: u16,
    /// What.
    pub what: What,
    /// What [`What`] says.
    pub word: Word,
}

// Two to a cache line.
const _: () = assert!(size_of::<Record>() == 32);

impl Record {
    /// Something that happened in a pool.
    pub fn new(what: What, pool: PoolIndex) -> Record {
        Record {
            at_ns: 0,
            call: 0,
            slot: 0,
            generation: 0,
            extra: 0,
            pool: u16::try_from(pool.0).unwrap_or(u16::MAX),
            what,
            word: Word(0),
        }
    }

    /// To a call.
    #[must_use]
    pub const fn call(mut self, call: CallKey) -> Record {
        self.call = call.0;
        self
    }

    /// With a worker.
    #[must_use]
    pub const fn worker(mut self, worker: WorkerId) -> Record {
        (self.slot, self.generation) = (worker.slot, worker.generation);
        self
    }

    /// With a number beside it.
    #[must_use]
    pub const fn extra(mut self, extra: u32) -> Record {
        self.extra = extra;
        self
    }

    /// With a word beside it.
    #[must_use]
    pub const fn word(mut self, word: Word) -> Record {
        self.word = word;
        self
    }

    /// The call it is about, if it is about one.
    pub fn about(&self) -> Option<CallKey> {
        (self.call != 0).then_some(CallKey(self.call))
    }

    /// The worker it is about, if it is about one.
    pub fn with(&self) -> Option<WorkerId> {
        let id = WorkerId { slot: self.slot, generation: self.generation };
        (id.generation != 0).then_some(id)
    }

    /// The pool it happened in.
    pub fn pool(&self) -> PoolIndex {
        PoolIndex(self.pool.into())
    }
}

/// The ring.
#[derive(Debug)]
pub struct History {
    started: Instant,
    pieces: Vec<Box<[Record]>>,
    written: u64,
    functions: Functions,
    words: Vec<&'static str>,
}

impl History {
    /// An empty one, whose clock starts now.
    pub fn new(started: Instant) -> History {
        History {
            started,
            pieces: Vec::new(),
            written: 0,
            functions: Functions::default(),
            words: vec!["", "ok"],
        }
    }

    /// Writes down what happened.
    pub fn note(&mut self, now: Instant, mut record: Record) {
        record.at_ns = self.since_start(now);
        let place = self.place(self.written);
        if place / PIECE_RECORDS == self.pieces.len() {
            self.pieces.push(vec![record; PIECE_RECORDS].into_boxed_slice());
        }
        self.pieces[place / PIECE_RECORDS][place % PIECE_RECORDS] = record;
        self.written += 1;
    }

    /// The time as records have it.
    pub fn since_start(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Everything that is still known, oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> + Clone {
        let first = self.written.saturating_sub(HISTORY_RECORDS_MAX as u64);
        (first..self.written).map(|number| {
            let place = self.place(number);
            &self.pieces[place / PIECE_RECORDS][place % PIECE_RECORDS]
        })
    }

    /// A function's name, shared by all calls of it, and its number in records.
    pub fn function(&mut self, name: &str) -> (Rc<str>, u32) {
        self.functions.intern(name)
    }

    /// The function with a number, if it is still known.
    pub fn function_name(&self, number: u32) -> Option<&Rc<str>> {
        self.functions.name(number)
    }

    /// The number of a word. There are as many as there are reasons and causes: a few dozen.
    pub fn word(&mut self, word: &'static str) -> Word {
        let place = self.words.iter().position(|known| *known == word).unwrap_or_else(|| {
            self.words.push(word);
            self.words.len() - 1
        });
        Word(u8::try_from(place).unwrap_or(0))
    }

    /// The word with a number.
    pub fn spell(&self, word: Word) -> &'static str {
        self.words.get(usize::from(word.0)).copied().unwrap_or_default()
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder of a small number is small")]
    const fn place(&self, number: u64) -> usize {
        (number % HISTORY_RECORDS_MAX as u64) as usize
    }
}

/// The names of functions, each kept once. The oldest is forgotten when there are too many; one
/// that is still in use gets a new number then.
#[derive(Debug, Default)]
struct Functions {
    numbers: HashMap<Rc<str>, u32>,
    names: VecDeque<Rc<str>>,
    first: u32,
}

impl Functions {
    fn intern(&mut self, name: &str) -> (Rc<str>, u32) {
        if let Some((name, number)) = self.numbers.get_key_value(name) {
            return (name.clone(), *number);
        }
        if self.names.len() >= HISTORY_FUNCTIONS_MAX {
            let oldest = self.names.pop_front().expect("it is full");
            self.numbers.remove(&oldest);
            self.first = self.first.wrapping_add(1);
        }
        let length = u32::try_from(self.names.len()).expect("it is bounded");
        let (name, number) = (Rc::<str>::from(name), self.first.wrapping_add(length));
        self.names.push_back(name.clone());
        self.numbers.insert(name.clone(), number);
        (name, number)
    }

    fn name(&self, number: u32) -> Option<&Rc<str>> {
        self.names.get(number.wrapping_sub(self.first) as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const POOL: PoolIndex = PoolIndex(3);

    #[test]
    fn it_grows_piece_by_piece_and_keeps_the_newest() {
        let start = Instant::now();
        let mut history = History::new(start);
        assert_eq!(0, history.records().count());
        let total = HISTORY_RECORDS_MAX as u64 + 5;
        for call in 1..=total {
            let record = Record::new(What::Arrived, POOL).call(CallKey(call));
            history.note(start + Duration::from_nanos(call), record);
            let pieces = usize::try_from(call).unwrap().div_ceil(PIECE_RECORDS);
            assert_eq!(
                pieces.min(HISTORY_RECORDS_MAX / PIECE_RECORDS),
                history.pieces.len(),
                "after {call}"
            );
        }
        let calls: Vec<_> = history.records().map(|record| record.about().unwrap().0).collect();
        assert_eq!((6..=total).collect::<Vec<_>>(), calls);
        let newest = history.records().next_back().unwrap();
        assert_eq!((total, POOL, None), (newest.at_ns, newest.pool(), newest.with()));
    }

    #[test]
    fn names_are_kept_once_and_the_oldest_is_forgotten() {
        let mut functions = Functions::default();
        let (first, number) = functions.intern("m:f");
        let (again, same) = functions.intern("m:f");
        assert!(Rc::ptr_eq(&first, &again) && number == same);
        for index in 0..HISTORY_FUNCTIONS_MAX {
            functions.intern(&format!("m:f{index}"));
        }
        assert_eq!(None, functions.name(number), "it is forgotten");
        assert_eq!(HISTORY_FUNCTIONS_MAX, functions.names.len());
        assert_eq!(functions.names.len(), functions.numbers.len());
        let (_, newer) = functions.intern("m:f");
        assert_ne!(number, newer);
        assert_eq!(Some("m:f"), functions.name(newer).map(|name| &**name));
    }

    #[test]
    fn numbers_of_names_may_start_over() {
        let mut functions = Functions { first: u32::MAX, ..Functions::default() };
        let (_, last) = functions.intern("m:last");
        let (_, over) = functions.intern("m:over");
        assert_eq!((u32::MAX, 0), (last, over));
        assert_eq!(Some("m:over"), functions.name(over).map(|name| &**name));
    }

    #[test]
    fn words_are_found_again() {
        let mut history = History::new(Instant::now());
        assert_eq!("ok", history.spell(OK));
        assert_eq!(OK, history.word("ok"));
        let word = history.word("Raised");
        assert_eq!(word, history.word("Raised"));
        assert_eq!(("Raised", ""), (history.spell(word), history.spell(Word(200))));
    }
}
