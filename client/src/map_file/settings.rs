//! What a map-file's caller chose, and how that makes a call of a chunk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clutch_protocol::attachment::{Attachment, Attachments};
use clutch_protocol::{Codec, Failure, Flags, plain};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::cuts::{Cut, Cuts};
use super::source::{FileError, SourceFile};
use super::split::Split;
use crate::exchange::{Reply, Target, Wishes};
use crate::limits::FILE_CHUNK_BYTES;
use crate::memory::Body;
use crate::pending::{OutputChunk, OutputSink};
use crate::request::{Ready, value};

/// `(range,)` in `plain`: protocol 5, the next attachment, a tuple of it. Without the end.
const ARGUMENTS: &[u8] = b"\x80\x05\x97\x85";

/// A tuple of two, and the end.
const PAIR: &[u8] = b"\x86.";

/// The file that is to be read.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    Path(PathBuf),
    Open(SourceFile),
}

/// What the caller chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) wishes: Wishes,
    pub(crate) timeout: Option<Duration>,
    pub(crate) split: Split,
    pub(crate) chunk_bytes: u64,
    /// Where what the function prints goes.
    pub(crate) output: Option<mpsc::Sender<OutputChunk>>,
}

impl Settings {
    pub(crate) fn new(function: impl Into<String>) -> Settings {
        Settings {
            target: Target::new(function),
            wishes: Wishes::default(),
            timeout: None,
            split: Split::default(),
            chunk_bytes: FILE_CHUNK_BYTES,
            output: None,
        }
    }
}

/// Everything that is the same for all chunks.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) settings: Settings,
    pub(crate) source: SourceFile,
    flags: Flags,
    /// The arguments, with a place for the chunk.
    arguments: Vec<u8>,
}

impl Job {
    /// Opens the file and begins to cut it.
    pub(crate) fn begin(settings: Settings, input: Input) -> Result<(Job, Cuts), FileError> {
        let source = match input {
            Input::Path(path) => SourceFile::open(path)?,
            Input::Open(source) => source,
        };
        let cuts = Cuts::begin(&source, settings.split, settings.chunk_bytes)?;
        let (mut flags, arguments) = arguments(cuts.header());
        if settings.output.is_some() {
            flags = flags.with(Flags::OUTPUT);
        }
        Ok((Job { settings, source, flags, arguments }, cuts))
    }

    /// A chunk as a call.
    pub(crate) fn ready<C>(&self, client: C, cut: &Cut) -> Ready<C> {
        let Settings { target, wishes, timeout, output, .. } = &self.settings;
        let (target, wishes) = (target.clone(), wishes.clone());
        let descriptors = vec![Arc::clone(self.source.descriptor())];
        let bytes = self.payload(cut);
        let body = Body { bytes, attached: true, descriptors, ..Body::default() };
        let payload = (Codec::Plain, self.flags, body);
        Ready::encoded(client, target, wishes, *timeout, payload)
            .with_output(output.clone().map(OutputSink::new))
    }

    /// What came of a chunk: nothing where no record begins in it, so that the function was not
    /// called.
    pub(crate) fn read<R: DeserializeOwned>(
        &self,
        answer: Result<Reply, Failure>,
    ) -> Result<Option<R>, Failure> {
        let reply = answer?;
        match reply.codec {
            Codec::None => Ok(None),
            _ => value(&reply, &self.settings.target).map(Some),
        }
    }

    /// A chunk's payload: the table of what is attached, and the arguments.
    fn payload(&self, cut: &Cut) -> Bytes {
        let Cut { offset, bytes, content, .. } = cut.clone();
        let list = vec![Attachment { descriptor: 0, offset, bytes, content }];
        let mut payload = Attachments { list }.encode().expect("one range is a small table");
        payload.extend_from_slice(&self.arguments);
        payload.into()
    }
}

/// What every chunk's call is given: the chunk and, as a keyword, the names of the columns.
fn arguments(header: Option<&[String]>) -> (Flags, Vec<u8>) {
    let flags = Flags::NONE.with(Flags::ATTACHED);
    let Some(names) = header else {
        return (flags, [ARGUMENTS, b"."].concat());
    };
    let keywords = BTreeMap::from([("header", names)]);
    let keywords = plain::to_vec(&keywords).expect("names are text");
    // Without its first opcode, which says that it is protocol 5, and without its end.
    let keywords = &keywords[2..keywords.len() - 1];
    (flags.with(Flags::KEYWORDS), [ARGUMENTS, keywords, PAIR].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_one_range_and_the_names() {
        let (flags, bytes) = arguments(None);
        assert!(flags.has(Flags::ATTACHED) && !flags.has(Flags::KEYWORDS));
        assert_eq!(b"\x80\x05\x97\x85.", &*bytes);
        let (flags, bytes) = arguments(Some(&["a".to_owned(), "b".to_owned()]));
        assert!(flags.has(Flags::ATTACHED) && flags.has(Flags::KEYWORDS));
        // With a value in the attachment's place, it is what everybody reads.
        let marker = bytes.iter().position(|byte| *byte == 0x97).unwrap();
        let readable = [&bytes[..marker], b"N", &bytes[marker + 1..]].concat();
        type Arguments = ((Option<bool>,), BTreeMap<String, Vec<String>>);
        let read: Arguments = plain::from_slice(&readable, plain::Limits::default()).unwrap();
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(((None,), BTreeMap::from([("header".to_owned(), names)])), read);
    }
}
