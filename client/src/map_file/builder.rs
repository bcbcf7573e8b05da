//! What a map-file is told before it begins. Leaves carrying it out to `stream` and to `blocking`.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use clutch_protocol::Failure;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::mpsc;

use super::settings::{Input, Settings};
use super::source::FileError;
use super::split::Split;
use super::stream::{FileOrdered, FileUnordered};
use crate::client::Client;
use crate::pending::OutputChunk;
use crate::retry::Retry;

/// A chunk of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileChunk {
    /// Which one, counted from 0.
    pub index: u64,
    /// Where it begins; with [`Split::Lines`], the records that begin in it are meant.
    pub offset: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// Which row group it is, if it is one; its bytes are those of the whole file.
    pub row_group: Option<u32>,
}

impl fmt::Display for FileChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileChunk { index, offset, bytes, row_group } = self;
        match row_group {
            Some(row_group) => write!(f, "row group {row_group}"),
            None => write!(f, "chunk {index} ({bytes} bytes at byte {offset})"),
        }
    }
}

/// How a map-file can fail.
#[derive(Debug, Error)]
pub enum MapFileError {
    /// The file cannot be read, or not further. Nothing comes behind it.
    #[error(transparent)]
    File(#[from] FileError),
    /// The call for one chunk failed. The others are not affected.
    #[error("{chunk}: {failure}")]
    Chunk {
        /// Which one.
        chunk: FileChunk,
        /// How.
        #[source]
        failure: Box<Failure>,
    },
}

/// A function to be called once for each chunk of a file; not begun yet.
///
/// The file is opened here, and read by nobody but the workers that are given a chunk (and, for
/// [`Split::Csv`], a thread of this client that goes ahead of them): each maps its own into memory
/// and hands it to the function as its only argument. So the file may be larger than any memory.
/// Twice as many chunks are under way as the pool can run at once; with a timeout, as many.
///
/// A chunk that no record begins in, since a record is longer than a chunk, is left out: there is
/// no call and no result for it. A chunk that found the queue full, or whose worker died before it
/// began, is sent again by itself. Dropping the results cancels what is under way.
#[derive(Clone, Debug)]
#[must_use = "a map does nothing until it is begun"]
pub struct MapFile<C, R> {
    pub(crate) client: C,
    pub(crate) input: Input,
    pub(crate) settings: Settings,
    result: PhantomData<fn() -> R>,
}

impl<C, R> MapFile<C, R> {
    pub(crate) fn new(client: C, function: impl Into<String>, input: Input) -> MapFile<C, R> {
        MapFile { client, input, settings: Settings::new(function), result: PhantomData }
    }

    /// Sends the calls to this pool instead of [`DEFAULT_POOL`](crate::DEFAULT_POOL).
    pub fn pool(mut self, pool: impl Into<String>) -> Self {
        self.settings.target.pool = pool.into();
        self
    }

    /// Where records end: [`Split::Lines`] unless said otherwise.
    pub fn split(mut self, split: Split) -> Self {
        self.settings.split = split;
        self
    }

    /// How many bytes a chunk has, as far as whole records allow: 64 MiB unless said otherwise, 1
    /// at least. Row groups are as large as they were written.
    pub fn chunk_bytes(mut self, bytes: u64) -> Self {
        self.settings.chunk_bytes = bytes;
        self
    }

    /// How long the call of each chunk may take, queueing included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = Some(timeout);
        self
    }

    /// Goes before calls with a lower priority that wait in the same pool; 0 unless said otherwise.
    pub fn priority(mut self, priority: i8) -> Self {
        self.settings.wishes.priority = priority;
        self
    }

    /// Tries the call of a chunk again where [`Retry`] says so.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.settings.wishes.retry = Some(retry);
        self
    }

    /// Has what the function prints sent here, each piece with the number of its chunk's call. When
    /// the channel is full, output is dropped and counted in the next [`OutputChunk`].
    pub fn output(mut self, sender: mpsc::Sender<OutputChunk>) -> Self {
        self.settings.output = Some(sender);
        self
    }
}

impl<R: DeserializeOwned> MapFile<Client, R> {
    /// Results in the order of the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or its header or footer not be read: this thread waits for
    /// the little that takes.
    pub fn ordered(self) -> Result<FileOrdered<R>, FileError> {
        FileOrdered::begin(self)
    }

    /// Results as they are done, each with the index of its chunk.
    ///
    /// # Errors
    ///
    /// As of [`ordered`](MapFile::ordered).
    pub fn unordered(self) -> Result<FileUnordered<R>, FileError> {
        FileUnordered::begin(self)
    }

    /// All results, in the order of the file.
    ///
    /// # Errors
    ///
    /// The first chunk that failed, or what is wrong with the file; what was still under way is
    /// cancelled.
    pub async fn collect<T: FromIterator<R>>(self) -> Result<T, MapFileError> {
        self.ordered()?.collect().await
    }
}
