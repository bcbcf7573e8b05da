//! Where the items of a map come from, before any is read, and what tells one input from another.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use clutch_protocol::limits::PAYLOAD_BYTES_MAX;
use futures_util::stream;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    AfterBad, BATCH_BYTES_MAX, Bad, BadReason, Input, InputError, Line, Positions, from_reader,
    parse, read_line, sorted,
};
use crate::commands::map::Finished;
use crate::value;

/// How much of a file's beginning and end is looked at to tell it from another.
const SAMPLE_BYTES: u64 = 64 << 10;

/// Where items come from, before any is read.
pub(crate) enum Source {
    Words(Vec<Box<RawValue>>),
    Lines { reader: Box<dyn Read + Send>, regular: Option<Regular> },
}

/// A file that can be looked at before it is read.
pub(crate) struct Regular {
    file: File,
    bytes: u64,
    sample: u64,
}

/// Reads a file from its beginning, and leaves the place where others read on as it is.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read_at(buffer, self.at)?;
        self.at += bytes as u64;
        Ok(bytes)
    }
}

/// A number that says whether two texts are the same: FNV-1a of 64 bits, which stays the same in
/// every version of this program. It notices mistakes, not malice.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The hash of a file's beginning and end.
fn sample(file: &File, bytes: u64) -> io::Result<u64> {
    let length = usize::try_from(SAMPLE_BYTES.min(bytes)).unwrap_or(0);
    let mut both = vec![0; 2 * length];
    file.read_exact_at(&mut both[..length], 0)?;
    file.read_exact_at(&mut both[length..], bytes - length as u64)?;
    Ok(hash(&both))
}

impl Source {
    /// Items from words: JSON, or strings.
    pub(crate) fn words(words: &[String]) -> Result<Source, InputError> {
        if words.is_empty() {
            return Err(InputError::NoItems);
        }
        if words.iter().any(|word| word == "-") {
            return Err(InputError::Dash);
        }
        Ok(Source::Words(words.iter().map(|word| value::raw(word)).collect()))
    }

    /// Items from a file of JSON lines; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Source, InputError> {
        if path == Path::new("-") {
            return Ok(Source::Lines { reader: Box::new(io::stdin()), regular: None });
        }
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let regular = |bytes| {
                let (sample, file) = (sample(&file, bytes)?, file.try_clone()?);
                io::Result::Ok(Regular { file, bytes, sample })
            };
            let regular = metadata.is_file().then(|| regular(metadata.len())).transpose()?;
            Ok(Source::Lines { regular, reader: Box::new(file) })
        };
        open().map_err(|source| InputError::Open { path: path.to_owned(), source })
    }

    /// What can be told from another input before any of it is read.
    pub(crate) fn identity(&self) -> String {
        match self {
            Source::Words(items) => {
                let text: String = items.iter().flat_map(|item| [item.get(), "\n"]).collect();
                format!("{} items, {:016x}", items.len(), hash(text.as_bytes()))
            }
            Source::Lines { regular: Some(Regular { bytes, sample, .. }), .. } => {
                format!("{bytes} bytes, {sample:016x}")
            }
            Source::Lines { .. } => "a stream".to_owned(),
        }
    }

    /// Says no, before anything is called, to an input in which an item that was finished is
    /// another one now, or is missing. What comes through a pipe cannot be looked at ahead, and
    /// what looks as it did at first need not be: there, items are compared when they come.
    pub(crate) fn check(&self, finished: &Finished) -> Result<(), InputError> {
        match self {
            _ if finished.count() == 0 || finished.input() == self.identity() => Ok(()),
            Source::Words(items) => {
                for (index, item) in (0..).zip(items) {
                    agrees(finished, (index, index + 1), item)?;
                }
                reaches(finished, items.len() as u64)
            }
            Source::Lines { regular: Some(regular), .. } => regular.check(finished),
            Source::Lines { regular: None, .. } => Ok(()),
        }
    }

    /// Starts to give items. Lines may have so many bytes. Items that are finished are told beside.
    pub(crate) fn start(
        self,
        line_bytes_max: u32,
        after: AfterBad,
        finished: Option<Finished>,
    ) -> Input {
        match self {
            Source::Words(items) if finished.is_none() => {
                let positions = Positions::default();
                positions.lock().items_total = Some(items.len() as u64);
                let beside = mpsc::channel(1).1;
                Input { items: Box::pin(stream::iter(items)), beside, positions }
            }
            Source::Words(items) => {
                let line = |(at, item)| Line { number: at as u64 + 1, bytes: 0, item: Ok(item) };
                let (batches, receiver) = mpsc::channel(1);
                let all = items.into_iter().enumerate().map(line).collect();
                batches.try_send(all).expect("the channel is empty");
                sorted(receiver, None, after, finished)
            }
            Source::Lines { reader, regular } => {
                let bytes_total = regular.map(|regular| regular.bytes);
                from_reader(reader, bytes_total, line_bytes_max, after, finished)
            }
        }
    }
}

impl Regular {
    fn check(&self, finished: &Finished) -> Result<(), InputError> {
        let from_start = FromStart { file: &self.file, at: 0 };
        let mut reader = BufReader::with_capacity(BATCH_BYTES_MAX, from_start);
        let (mut index, mut left) = (0, finished.count());
        for number in 1.. {
            // What cannot be read is told when its turn comes.
            let Ok(line) = read_line(&mut reader, PAYLOAD_BYTES_MAX) else { return Ok(()) };
            let Some(line) = line else { break };
            let Some(item) = parse(&line, number) else { continue };
            if let Ok(item) = item
                && agrees(finished, (index, number), &item)?
            {
                left -= 1;
            }
            if left == 0 {
                return Ok(());
            }
            index += 1;
        }
        reaches(finished, index)
    }
}

/// Whether an item is finished. Says no to one in whose place another one was.
fn agrees(finished: &Finished, place: (u64, u64), item: &RawValue) -> Result<bool, InputError> {
    let (index, line) = place;
    let known = finished.look_up(index, item).map_err(|error| {
        let reason = BadReason::Resumed(error);
        Bad { index, line, before: 0, reason }
    })?;
    Ok(known.is_some())
}

/// Says no to an input of so many items when later ones were finished.
fn reaches(finished: &Finished, items: u64) -> Result<(), InputError> {
    match finished.first_from(items) {
        None => Ok(()),
        Some(index) => Err(InputError::Missing { index, journal: finished.path().to_owned() }),
    }
}
