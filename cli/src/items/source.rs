//! Where the items of a map come from, before any is read, and what tells one input from another.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use futures_util::stream;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{AfterBad, Input, InputError, Line, Positions, from_reader, sorted};
use crate::commands::map::Finished;
use crate::value;

/// How much of a file's beginning and end is looked at to tell it from another.
const SAMPLE_BYTES: u64 = 64 << 10;

/// Where items come from, before any is read.
pub(crate) enum Source {
    Words(Vec<Box<RawValue>>),
    Lines { reader: Box<dyn Read + Send>, bytes_total: Option<u64>, sample: Option<u64> },
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
            let (bytes_total, sample) = (None, None);
            return Ok(Source::Lines { reader: Box::new(io::stdin()), bytes_total, sample });
        }
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let bytes_total = metadata.is_file().then_some(metadata.len());
            let sample = bytes_total.map(|bytes| sample(&file, bytes)).transpose()?;
            Ok(Source::Lines { bytes_total, sample, reader: Box::new(file) })
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
            Source::Lines { bytes_total: Some(bytes), sample: Some(sample), .. } => {
                format!("{bytes} bytes, {sample:016x}")
            }
            Source::Lines { .. } => "a stream".to_owned(),
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
            Source::Lines { reader, bytes_total, .. } => {
                from_reader(reader, bytes_total, line_bytes_max, after, finished)
            }
        }
    }
}
