//! The log: records of `tracing` as lines on standard error.
//!
//! Whoever logs never waits for whoever reads the log: lines go through a bounded queue to a thread
//! that writes them, and when the queue is full they are counted instead. A record is one line,
//! whatever text is in it. Which levels are logged is read from `CLUTCH_LOG`.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use crate::output;

/// The variable that says what is logged.
const VARIABLE: &str = "CLUTCH_LOG";

/// Lines that may wait for the writing thread; about 200 KiB of usual lines.
const LINES_MAX: usize = 1024;

/// The longest line of a text log. What is cut is in the failure that the caller got.
const LINE_BYTES_MAX: usize = 16 << 10;

/// How long the end of the program waits for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// How a record is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// Time, level, message and fields, for people.
    #[default]
    Text,
    /// One JSON object in each line, for programs.
    Json,
}

/// Why there is no log.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    #[error("CLUTCH_LOG is not a log filter: {0}; write a level (error, warn, info, debug, trace)")]
    Filter(#[from] ParseError),
    #[error("CLUTCH_LOG is not UTF-8")]
    FilterText,
    #[error("failed to start the thread that writes the log: {0}")]
    Thread(#[source] io::Error),
}

enum Message {
    Line(Vec<u8>),
    /// Everything before is written; say so.
    Flush(SyncSender<()>),
}

/// The way to the log. The last lines are written when it is dropped.
pub(crate) struct Log {
    queue: Queue,
    format: LogFormat,
}

/// Starts to log what `CLUTCH_LOG` names, else everything from `level` on.
pub(crate) fn start(format: LogFormat, level: &str) -> Result<Log, LogError> {
    let filter = match std::env::var(VARIABLE) {
        Ok(text) if !text.trim().is_empty() => EnvFilter::try_new(text)?,
        Ok(_) | Err(std::env::VarError::NotPresent) => EnvFilter::try_new(level)?,
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogError::FilterText),
    };
    let (lines, receiver) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { lines, dropped: Arc::clone(&dropped), one_line: format == LogFormat::Text };
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_lines(&receiver, &dropped))
        .map_err(LogError::Thread)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue.clone())
        .log_internal_errors(false)
        .with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(output::stderr_has_color()).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(Log { queue, format })
}

impl Log {
    /// Writes a line that is no record: shown whatever `CLUTCH_LOG` says.
    pub(crate) fn line(&self, text: &str, json: &serde_json::Value) {
        let line = match self.format {
            LogFormat::Text => format!("{text}\n"),
            LogFormat::Json => format!("{json}\n"),
        };
        self.queue.push(line.into_bytes());
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        // A full queue means that nobody reads the log: there is nothing to wait for.
        if self.queue.lines.try_send(Message::Flush(done)).is_ok() {
            let _ = written.recv_timeout(FLUSH_MAX);
        }
    }
}

fn write_lines(lines: &Receiver<Message>, dropped: &AtomicU64) {
    while let Ok(message) = lines.recv() {
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            output::passthrough(format!("{lost} log lines were dropped here\n").as_bytes());
        }
        match message {
            Message::Line(line) => output::passthrough(&line),
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

#[derive(Clone)]
struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    one_line: bool,
}

impl Queue {
    fn push(&self, line: Vec<u8>) {
        if self.lines.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = Record;

    fn make_writer(&'a self) -> Record {
        Record { queue: self.clone(), bytes: Vec::with_capacity(256) }
    }
}

/// One record while it is formatted. It is a line when it is dropped.
struct Record {
    queue: Queue,
    bytes: Vec<u8>,
}

impl Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.is_empty() {
            return;
        }
        self.queue.push(if self.queue.one_line { one_line(&bytes) } else { bytes });
    }
}

/// The record as exactly one line. Escape sequences of ours are in it and stay; those of others
/// were escaped by the formatter.
fn one_line(record: &[u8]) -> Vec<u8> {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let (record, cut) = match record.get(..LINE_BYTES_MAX) {
        Some(start) => (start, true),
        None => (record, false),
    };
    let mut line = Vec::with_capacity(record.len() + 16);
    for byte in record {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            byte => line.push(*byte),
        }
    }
    if cut {
        line.extend_from_slice(b"... (cut)");
    }
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_f170() {
        assert_eq!(
            b"said a\\n{\"level\":\"error\"}\\r\n".as_slice(),
            one_line(b"said a\n{\"level\":\"error\"}\r\n")
        );
        let line = one_line(&vec![b'x'; LINE_BYTES_MAX + 1]);
        assert_eq!(LINE_BYTES_MAX + "... (cut)\n".len(), line.len());
    }

    #[test]
    fn a_full_queue_drops_and_counts_f137() {
        let (lines, receiver) = sync_channel(1);
        let queue = Queue { lines, dropped: Arc::default(), one_line: true };
        for _ in 0..3 {
            drop(Record { queue: queue.clone(), bytes: b"x".to_vec() });
        }
        assert_eq!(2, queue.dropped.load(Ordering::Relaxed));
        assert!(matches!(receiver.try_recv(), Ok(Message::Line(line)) if line == b"x\n"));
    }
}
