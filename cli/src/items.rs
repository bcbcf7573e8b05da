//! The items of a map: words, or JSON lines read as they are needed.
//!
//! ```text
//!   file ──thread──► Batch ──bounded channel──► stream of items ──► Map
//!                                                    └── Beside ──bounded channel──► output loop
//! ```
//!
//! A thread reads ahead by a few batches and no more, so a file of any length needs little memory.
//! Every line that is not blank has an index, those that are no JSON included; since only good
//! items that are not finished yet are sent, [`Positions`] translates between the two ways of
//! counting.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use clutch_client::Outcome;
use futures_util::{Stream, stream};
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::commands::map::Finished;

/// Lines in one batch. Large enough that handing it over costs little for each.
const BATCH_LINES_MAX: usize = 256;

/// Bytes in one batch before it is handed over.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Batches that are read ahead.
const BATCHES_MAX: usize = 4;

/// Bad lines and finished items that may wait to be told.
const BESIDE_MAX: usize = 256;

mod source;

pub(crate) use source::{Source, hash};

/// Items as the client library takes them.
pub(crate) type Items = Pin<Box<dyn Stream<Item = Box<RawValue>> + Send>>;

/// Why the items cannot be read.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    #[error("there are no items: give them as arguments, or as JSON lines with --input FILE")]
    NoItems,
    #[error("'-' is no item: write --input - to read items from standard input, or '\"-\"'")]
    Dash,
    #[error(
        "failed to open {}: {source}; name a file of JSON lines, or - for standard input",
        path.display()
    )]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "item {index} was finished, says {}, and the input ends before it: give it the whole \
         input, or begin anew with another file for --resume",
        journal.display()
    )]
    Missing { index: u64, journal: PathBuf },
    #[error(transparent)]
    Bad(#[from] Bad),
}

/// A line that is no item.
#[derive(Debug, Error)]
#[error("item {index}, line {line}: {reason}")]
pub(crate) struct Bad {
    /// Its place among all lines that are not blank, from 0.
    pub(crate) index: u64,
    /// Its line, from 1.
    pub(crate) line: u64,
    /// How many items that are sent stand before it.
    pub(crate) before: u64,
    pub(crate) reason: BadReason,
}

/// Why a line is no item.
#[derive(Debug, Error)]
pub(crate) enum BadReason {
    #[error("it is not JSON: {what} at column {column}; each line is one value, text in quotes")]
    NotJson { what: String, column: usize },
    #[error("it is not UTF-8 (byte {at}); JSON must be")]
    NotText { at: usize },
    #[error(
        "it is longer than {limit} bytes, the most that the daemon takes; raise `payload` under \
         [daemon] in the configuration"
    )]
    TooLong { limit: u32 },
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    #[error(
        "it cannot be resumed: {0}; make the input what it was up to there, or begin anew with \
         another file for --resume"
    )]
    Resumed(#[source] io::Error),
}

impl BadReason {
    /// Whether nothing behind it can be read.
    pub(crate) fn ends_input(&self) -> bool {
        use BadReason::{Resumed, TooLong, Unreadable};
        matches!(self, TooLong { .. } | Unreadable(_) | Resumed(_))
    }
}

/// An item that was finished before.
#[derive(Debug)]
pub(crate) struct Known {
    /// Its place among all lines that are not blank, from 0.
    pub(crate) index: u64,
    /// How many items that are sent stand before it.
    pub(crate) before: u64,
    pub(crate) outcome: Outcome<Box<RawValue>>,
}

/// What is told beside the items that are sent.
#[derive(Debug)]
pub(crate) enum Beside {
    Bad(Bad),
    Known(Known),
}

impl Beside {
    /// How many items that are sent stand before it.
    pub(crate) fn before(&self) -> u64 {
        match self {
            Beside::Bad(bad) => bad.before,
            Beside::Known(known) => known.before,
        }
    }
}

/// What to do with the input behind a line that is no item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterBad {
    Stop,
    Continue,
}

/// Items on their way, and what becomes known about them.
pub(crate) struct Input {
    pub(crate) items: Items,
    pub(crate) beside: mpsc::Receiver<Beside>,
    pub(crate) positions: Positions,
}

/// Where each item that was sent stands among all of them, and how many there may be.
#[derive(Clone, Default)]
pub(crate) struct Positions(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// From the number of an item that was sent to its index and hash, where those are of interest.
    /// Holds what is in flight only.
    sent_items: HashMap<u64, (u64, u64)>,
    sent: u64,
    beside: u64,
    bytes: u64,
    /// All the bytes there are, for a regular file.
    bytes_total: Option<u64>,
    /// All the items there are, once that is known.
    items_total: Option<u64>,
}

impl Positions {
    /// The index of an item that was sent and is now answered, and its hash if that is kept.
    pub(crate) fn answered(&self, number: u64) -> (u64, u64) {
        self.lock().sent_items.remove(&number).unwrap_or((number, 0))
    }

    /// How many items there are: known, or guessed from the part that was read.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a guess, of positive numbers"
    )]
    pub(crate) fn total(&self) -> Option<u64> {
        let state = self.lock();
        if state.items_total.is_some() {
            return state.items_total;
        }
        let read = state.sent + state.beside;
        let part = state.bytes as f64 / state.bytes_total? as f64;
        (part > 0.0).then(|| (read as f64 / part) as u64)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Plain numbers: they are whole whatever happened to another holder.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn from_reader(
    reader: impl Read + Send + 'static,
    bytes_total: Option<u64>,
    line_bytes_max: u32,
    after: AfterBad,
    finished: Option<Finished>,
) -> Input {
    let (batches, batches_receiver) = mpsc::channel(BATCHES_MAX);
    // The thread ends with the input, or when nobody takes its batches any more. It is not waited
    // for: it may sit in a read of a terminal that never comes back.
    std::thread::spawn(move || read_batches(reader, line_bytes_max, &batches));
    sorted(batches_receiver, bytes_total, after, finished)
}

fn sorted(
    batches: mpsc::Receiver<Vec<Line>>,
    bytes_total: Option<u64>,
    after: AfterBad,
    finished: Option<Finished>,
) -> Input {
    let (beside, beside_receiver) = mpsc::channel(BESIDE_MAX);
    let positions = Positions::default();
    positions.lock().bytes_total = bytes_total;
    let batch = Vec::new().into_iter();
    let sorter = Sorter { batches, batch, beside, positions: positions.clone(), after, finished };
    let items = stream::unfold(sorter, |mut sorter| async {
        let item = sorter.next().await?;
        Some((item, sorter))
    });
    Input { items: Box::pin(items), beside: beside_receiver, positions }
}

/// One line that is not blank.
struct Line {
    number: u64,
    /// Of the input up to its end.
    bytes: u64,
    item: Result<Box<RawValue>, BadReason>,
}

/// Sorts lines into items, which it gives, and bad or finished ones, which it sends aside.
struct Sorter {
    batches: mpsc::Receiver<Vec<Line>>,
    batch: std::vec::IntoIter<Line>,
    beside: mpsc::Sender<Beside>,
    positions: Positions,
    after: AfterBad,
    finished: Option<Finished>,
}

impl Sorter {
    async fn next(&mut self) -> Option<Box<RawValue>> {
        loop {
            let Some(line) = self.batch.next() else {
                match self.batches.recv().await {
                    Some(batch) => self.batch = batch.into_iter(),
                    None => {
                        self.end();
                        return None;
                    }
                }
                continue;
            };
            match self.sort(line) {
                Ok(item) => return Some(item),
                Err(beside) => {
                    let last = match &beside {
                        Beside::Bad(bad) => self.after == AfterBad::Stop || bad.reason.ends_input(),
                        Beside::Known(_) => false,
                    };
                    // When nobody wants to know of them any more, nobody wants items either.
                    self.beside.send(beside).await.ok()?;
                    if last {
                        self.end();
                        return None;
                    }
                }
            }
        }
    }

    fn sort(&self, line: Line) -> Result<Box<RawValue>, Beside> {
        let mut state = self.positions.lock();
        state.bytes = line.bytes;
        let (index, before) = (state.sent + state.beside, state.sent);
        let known = |item: &RawValue, finished: &Finished| {
            finished.look_up(index, item).map_err(BadReason::Resumed)
        };
        let known = line.item.and_then(|item| match &self.finished {
            Some(finished) => Ok((known(&item, finished)?, item)),
            None => Ok((None, item)),
        });
        let beside = match known {
            Ok((None, item)) => {
                if self.finished.is_some() || state.beside > 0 {
                    let hash = self.finished.as_ref().map_or(0, |_| hash(item.get().as_bytes()));
                    state.sent_items.insert(before, (index, hash));
                }
                state.sent += 1;
                return Ok(item);
            }
            Ok((Some(known), _)) => Beside::Known(Known { before, ..known }),
            Err(reason) => Beside::Bad(Bad { index, line: line.number, before, reason }),
        };
        state.beside += 1;
        Err(beside)
    }

    fn end(&self) {
        let mut state = self.positions.lock();
        state.items_total = Some(state.sent + state.beside);
    }
}

fn read_batches(reader: impl Read, line_bytes_max: u32, batches: &mpsc::Sender<Vec<Line>>) {
    let mut reader = BufReader::with_capacity(BATCH_BYTES_MAX, reader);
    let mut batch = Vec::new();
    let (mut number, mut bytes, mut batch_bytes) = (0, 0, 0);
    loop {
        let line = read_line(&mut reader, line_bytes_max);
        number += 1;
        let (item, length) = match line {
            Ok(None) => break,
            Ok(Some(line)) => (parse(&line, number), line.len()),
            Err(reason) => (Some(Err(reason)), 0),
        };
        bytes += length as u64;
        batch_bytes += length;
        let last = matches!(&item, Some(Err(reason)) if reason.ends_input());
        if let Some(item) = item {
            batch.push(Line { number, bytes, item });
        }
        // An empty buffer means that the next line may be long in coming: a person types it.
        let full = batch.len() >= BATCH_LINES_MAX || batch_bytes >= BATCH_BYTES_MAX;
        if (full || last || reader.buffer().is_empty()) && !batch.is_empty() {
            batch_bytes = 0;
            if batches.blocking_send(std::mem::take(&mut batch)).is_err() || last {
                return;
            }
        }
    }
    if !batch.is_empty() {
        // Whether anybody takes it is no longer of interest.
        let _ = batches.blocking_send(batch);
    }
}

/// The next line with its newline; none at the end.
fn read_line(reader: &mut impl BufRead, bytes_max: u32) -> Result<Option<Vec<u8>>, BadReason> {
    let mut line = Vec::new();
    reader
        .take(u64::from(bytes_max) + 2)
        .read_until(b'\n', &mut line)
        .map_err(BadReason::Unreadable)?;
    if line.trim_ascii().len() > bytes_max as usize {
        return Err(BadReason::TooLong { limit: bytes_max });
    }
    Ok((!line.is_empty()).then_some(line))
}

/// What some editors put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The item in a line, counted from 1; none in a blank one.
fn parse(line: &[u8], number: u64) -> Option<Result<Box<RawValue>, BadReason>> {
    let mark: &[u8] = if number == 1 { BYTE_ORDER_MARK } else { b"" };
    let line = line.strip_prefix(mark).unwrap_or(line);
    if line.trim_ascii().is_empty() {
        return None;
    }
    let text = match std::str::from_utf8(line.trim_ascii_end()) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            return Some(Err(BadReason::NotText { at }));
        }
    };
    Some(serde_json::from_str(text).map_err(|error: serde_json::Error| {
        let what = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        BadReason::NotJson {
            what: what.strip_suffix(&place).unwrap_or(&what).to_owned(),
            column: error.column(),
        }
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn input(text: &'static str, after: AfterBad) -> Input {
        from_reader(text.as_bytes(), Some(text.len() as u64), 64, after, None)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    fn all(mut input: Input) -> (Vec<String>, Vec<Bad>, Positions) {
        block_on(async {
            let mut items = Vec::new();
            while let Some(item) = input.items.next().await {
                items.push(item.get().to_owned());
            }
            let mut bads = Vec::new();
            while let Ok(Beside::Bad(bad)) = input.beside.try_recv() {
                bads.push(bad);
            }
            (items, bads, input.positions)
        })
    }

    #[test]
    fn lines_are_items_and_blank_ones_are_not() {
        let text = "1\n\n  \n {\"a\": 1.50} \r\n123456789012345678901234567890";
        let (items, bads, positions) = all(input(text, AfterBad::Stop));
        assert_eq!(["1", "{\"a\": 1.50}", "123456789012345678901234567890"], *items);
        assert!(bads.is_empty());
        assert_eq!(Some(3), positions.total());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_item() {
        let (items, bads, _) = all(input("\u{feff}1\n\u{feff}2\n3", AfterBad::Continue));
        assert_eq!(["1", "3"], *items);
        assert_eq!([2], *bads.iter().map(|bad| bad.line).collect::<Vec<_>>());
    }

    #[test]
    fn a_bad_line_is_named_and_ends_the_input_or_does_not() {
        let text = "1\n\nnope\n2\n[1,\n3\n";
        let (items, bads, _) = all(input(text, AfterBad::Stop));
        assert_eq!(["1"], *items);
        assert_eq!(
            "item 1, line 3: it is not JSON: expected ident at column 2; each line is one value, \
             text in quotes",
            bads[0].to_string()
        );
        let (items, bads, positions) = all(input(text, AfterBad::Continue));
        assert_eq!(["1", "2", "3"], *items);
        let places: Vec<_> = bads.iter().map(|bad| (bad.index, bad.line, bad.before)).collect();
        assert_eq!([(1, 3, 1), (3, 5, 2)], *places);
        let indices: Vec<_> = (0..3).map(|number| positions.answered(number).0).collect();
        assert_eq!([0, 2, 4], *indices);
    }

    #[test]
    fn a_line_without_end_is_refused_and_not_read() {
        let endless = io::repeat(b'1');
        let (items, bads, _) = all(from_reader(endless, None, 1000, AfterBad::Continue, None));
        assert!(items.is_empty());
        assert!(matches!(bads[0].reason, BadReason::TooLong { limit: 1000 }));
    }

    #[test]
    fn little_is_read_ahead() {
        struct Counting(Arc<Mutex<usize>>);
        impl Read for Counting {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                for pair in buffer.chunks_mut(2) {
                    pair.copy_from_slice(&b"1\n"[..pair.len()]);
                }
                *self.0.lock().unwrap() += buffer.len();
                Ok(buffer.len())
            }
        }
        let read = Arc::new(Mutex::new(0));
        let reader = Counting(Arc::clone(&read));
        let mut input = from_reader(reader, None, 1000, AfterBad::Stop, None);
        block_on(async {
            for _ in 0..1000 {
                input.items.next().await.unwrap();
            }
        });
        let lines_max = 1000 + (BATCHES_MAX + 2) * BATCH_LINES_MAX + BATCH_BYTES_MAX;
        assert!(*read.lock().unwrap() <= lines_max * 2);
    }

    #[test]
    fn words_are_json_or_strings_and_never_a_dash() {
        let words =
            |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let source = Source::words(&words(&["1", "a=b", "x"])).unwrap();
        let (items, _, positions) = all(source.start(64, AfterBad::Stop, None));
        assert_eq!(["1", "\"a=b\"", "\"x\""], *items);
        assert_eq!(Some(3), positions.total());
        assert!(matches!(Source::words(&words(&["1", "-"])), Err(InputError::Dash)));
        assert!(matches!(Source::words(&[]), Err(InputError::NoItems)));
    }
}
