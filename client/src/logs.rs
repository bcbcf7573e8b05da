//! What workers have printed and logged, read from the daemon's output store: once, or as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use clutch_protocol::logs::LogLine;
use clutch_protocol::message::{LogLines, Logs};
use clutch_protocol::{Failure, Frame, Kind, Reason, wire};
use futures_core::Stream;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::blocking;
use crate::client::Client;
use crate::exchange::{Deadline, Letter, Target, Trouble, open};
use crate::limits::{LOG_BATCHES_MAX, LOGS_TIMEOUT};
use crate::pending::{LogChunk, OutputSink};

/// Which lines are wanted. The default is the newest 200 of all pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Only of this pool.
    pub pool: Option<String>,
    /// Only of the call with this id, as the daemon counts calls.
    pub call: Option<u64>,
    /// Only of the workers of this slot.
    pub slot: Option<u32>,
    /// How many of the lines that are there already, the newest ones.
    pub lines: u32,
}

impl Default for LogQuery {
    fn default() -> LogQuery {
        LogQuery { pool: None, call: None, slot: None, lines: 200 }
    }
}

impl LogQuery {
    fn letter(self, follow: bool) -> Letter {
        let LogQuery { pool, call, slot, lines } = self;
        let (pool, call) = (pool.unwrap_or_default(), call.unwrap_or(0));
        let meta = Logs { pool, call, slot, lines, follow };
        // A name that is longer than any pool's is none, and the daemon would say so.
        let meta = wire::encode(&meta).unwrap_or_default();
        Letter { meta, ..Letter::bare(Kind::Logs) }
    }
}

/// Some lines, oldest first.
#[derive(Clone, Debug)]
pub struct LogBatch {
    /// Lines that are missing before these: they were forgotten before they could be read. All
    /// lines of the pools asked for count, whatever else was asked for.
    pub dropped: u64,
    json: Bytes,
}

impl LogBatch {
    /// The lines.
    ///
    /// # Errors
    ///
    /// When the daemon sent something else.
    pub fn lines(&self) -> Result<Vec<LogLine>, Failure> {
        serde_json::from_slice(&self.json).map_err(|error| unreadable(&error))
    }

    /// The lines as the daemon wrote them, in JSON: a newer daemon may say more than [`LogLine`]
    /// holds.
    ///
    /// # Errors
    ///
    /// When the daemon sent something else.
    pub fn raw_lines(&self) -> Result<Vec<Box<RawValue>>, Failure> {
        serde_json::from_slice(&self.json).map_err(|error| unreadable(&error))
    }
}

impl From<LogChunk> for LogBatch {
    fn from(LogChunk { dropped, json }: LogChunk) -> LogBatch {
        LogBatch { dropped, json }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Frame, Failure>> + Send>>;

/// Lines as they come. Dropping it ends the request.
pub struct LogTail {
    batches: mpsc::Receiver<LogChunk>,
    /// The request, until it is answered.
    request: Option<Answer>,
    end: Option<Result<LogBatch, Failure>>,
    /// Keeps the connection open.
    _client: Client,
}

impl std::fmt::Debug for LogTail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogTail").field("ended", &self.request.is_none()).finish_non_exhaustive()
    }
}

impl Client {
    /// The lines that are there now, as a stream that ends with them. A receiver that is slow for
    /// them is told how many it has missed.
    pub fn logs(&self, query: LogQuery) -> LogTail {
        self.read_logs(query.letter(false), Deadline::new(Some(LOGS_TIMEOUT)))
    }

    /// The same, and then the lines that come, until the stream is dropped.
    pub fn follow_logs(&self, query: LogQuery) -> LogTail {
        self.read_logs(query.letter(true), Deadline::new(None))
    }

    fn read_logs(&self, letter: Letter, deadline: Deadline) -> LogTail {
        let (sender, batches) = mpsc::channel(LOG_BATCHES_MAX);
        let connection = Arc::clone(self.connection());
        let request = Box::pin(async move {
            let sink = OutputSink::lines(sender);
            let frame = connection.exchange(&letter, Some(sink), deadline).await;
            let target = Target::control("logs");
            open(frame.map_err(|trouble| target.failure(trouble))?.frame, Kind::LogLines, &target)
        });
        LogTail { batches, request: Some(request), end: None, _client: self.clone() }
    }
}

impl Stream for LogTail {
    type Item = Result<LogBatch, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Poll::Ready(Some(chunk)) = self.batches.poll_recv(cx) {
                return Poll::Ready(Some(Ok(chunk.into())));
            }
            let Some(request) = &mut self.request else {
                return Poll::Ready(self.end.take());
            };
            let Poll::Ready(answer) = request.as_mut().poll(cx) else {
                return Poll::Pending;
            };
            self.request = None;
            // What came before the answer may only now be in the channel: look again.
            self.end = match answer.and_then(|frame| last_batch(&frame)) {
                Ok(batch) if batch.dropped == 0 && &*batch.json == b"[]" => None,
                end => Some(end),
            };
        }
    }
}

impl blocking::Client {
    /// The lines that are there now, oldest first.
    ///
    /// # Errors
    ///
    /// When there is no such pool, the connection is lost, or the daemon does not answer.
    pub fn logs(&self, query: LogQuery) -> Result<Vec<LogLine>, Failure> {
        let (sender, mut batches) = mpsc::channel(LOG_BATCHES_MAX);
        let (letter, deadline) = (query.letter(false), Deadline::new(Some(LOGS_TIMEOUT)));
        let target = Target::control("logs");
        let frame = self.exchange(&letter, OutputSink::lines(sender), deadline);
        let frame = frame.map_err(|trouble| target.failure(trouble))?;
        let end = last_batch(&open(frame.frame, Kind::LogLines, &target)?)?;
        let mut lines = Vec::new();
        while let Ok(chunk) = batches.try_recv() {
            lines.append(&mut LogBatch::from(chunk).lines()?);
        }
        lines.append(&mut end.lines()?);
        Ok(lines)
    }
}

fn last_batch(frame: &Frame) -> Result<LogBatch, Failure> {
    let meta: LogLines = wire::decode(&frame.meta).map_err(|error| unreadable(&error))?;
    Ok(LogBatch { dropped: meta.dropped, json: frame.payload.clone() })
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    let detail = format!("the daemon sent lines that cannot be read: {error}");
    Target::control("logs").failure(Trouble::sent(0, Reason::Protocol { detail }))
}
