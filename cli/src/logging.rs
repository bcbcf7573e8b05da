//! The log: records of `tracing` as lines on standard error, or in systemd's journal.
//!
//! Whoever logs never waits for whoever reads the log: records go through a bounded queue to a
//! thread that writes them. What does not fit, or cannot be written, is counted instead: where the
//! log goes on, and in `status`. A record is one line, whatever text is in it. Which levels are
//! logged is read from `CLUTCH_LOG`, or else is what the caller says.

mod journal;

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use clutch_supervisor::config;
use clutch_supervisor::logs::own::note_dropped;
use thiserror::Error;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use journal::{Journal, JournalLayer};

use crate::output;

/// The variable that says what is logged.
const VARIABLE: &str = "CLUTCH_LOG";

/// What a filter looks like.
const GOOD_FILTERS: &str = "set it to a level (error, warn, info, debug, trace), as in \
                            CLUTCH_LOG=debug, or to levels by target, as in \
                            CLUTCH_LOG=info,clutch::output=off";

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
    /// Records in systemd's journal.
    Journald,
}

impl From<config::LogFormat> for LogFormat {
    fn from(format: config::LogFormat) -> LogFormat {
        match format {
            config::LogFormat::Text => LogFormat::Text,
            config::LogFormat::Json => LogFormat::Json,
            config::LogFormat::Journald => LogFormat::Journald,
        }
    }
}

/// Why there is no log.
#[derive(Debug, Error)]
pub(crate) enum LogError {
    #[error("CLUTCH_LOG is not a log filter: {0}; {good}", good = GOOD_FILTERS)]
    Filter(String),
    #[error("CLUTCH_LOG is not UTF-8; {good}", good = GOOD_FILTERS)]
    FilterText,
    #[error(
        "there is no journal to log to ({0}); write format = \"text\" in [daemon.log], or give \
         --log-format text"
    )]
    Journal(#[source] io::Error),
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
        Ok(text) if !text.trim().is_empty() => config::log_filter(&text),
        Ok(_) | Err(std::env::VarError::NotPresent) => config::log_filter(level),
        Err(std::env::VarError::NotUnicode(_)) => return Err(LogError::FilterText),
    };
    let filter = filter.map_err(LogError::Filter)?;
    let place = match format {
        LogFormat::Text | LogFormat::Json => Place::Stderr(format),
        LogFormat::Journald => Place::Journal(Journal::open().map_err(LogError::Journal)?),
    };
    let (lines, receiver) = sync_channel(LINES_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    let queue = Queue { lines, dropped: Arc::clone(&dropped), shape: Shape::of(format) };
    std::thread::Builder::new()
        .name("log".into())
        .spawn(move || write_lines(&receiver, &dropped, &place))
        .map_err(LogError::Thread)?;
    let builder = tracing_subscriber::fmt()
        .with_writer(queue.clone())
        .log_internal_errors(false)
        .with_target(false);
    match format {
        LogFormat::Text => {
            builder.with_env_filter(filter).with_ansi(output::stderr_has_color()).init();
        }
        LogFormat::Json => builder.with_env_filter(filter).json().flatten_event(true).init(),
        LogFormat::Journald => {
            tracing_subscriber::registry().with(filter).with(JournalLayer(queue.clone())).init();
        }
    }
    Ok(Log { queue, format })
}

/// Where records go.
enum Place {
    Stderr(LogFormat),
    Journal(Journal),
}

impl Place {
    fn write(&self, record: &[u8]) -> io::Result<()> {
        match self {
            Place::Stderr(_) => output::log(record),
            Place::Journal(journal) => journal.send(record),
        }
    }

    /// The record that stands for those that were dropped.
    fn remark(&self, count: u64) -> Vec<u8> {
        let text = format!("{count} log lines were dropped here");
        match self {
            Place::Stderr(LogFormat::Json) => {
                let json = serde_json::json!({"level": "WARN", "message": text, "dropped": count});
                format!("{json}\n").into_bytes()
            }
            Place::Stderr(_) => format!("{text}\n").into_bytes(),
            Place::Journal(_) => journal::message(Level::WARN, &text),
        }
    }
}

impl Log {
    /// Writes a line that is no record: shown whatever `CLUTCH_LOG` says.
    pub(crate) fn line(&self, text: &str, json: &serde_json::Value) {
        let line = match self.format {
            LogFormat::Text => format!("{text}\n"),
            LogFormat::Json => format!("{json}\n"),
            LogFormat::Journald => {
                return self.queue.push(journal::message(Level::INFO, text));
            }
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

fn write_lines(lines: &Receiver<Message>, dropped: &AtomicU64, place: &Place) {
    while let Ok(message) = lines.recv() {
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 && place.write(&place.remark(lost)).is_err() {
            dropped.fetch_add(lost, Ordering::Relaxed);
        }
        match message {
            Message::Line(line) => {
                if place.write(&line).is_err() {
                    count_dropped(dropped);
                }
            }
            Message::Flush(done) => {
                let _ = done.try_send(());
            }
        }
    }
}

/// Counts a record that nobody will read.
fn count_dropped(dropped: &AtomicU64) {
    dropped.fetch_add(1, Ordering::Relaxed);
    note_dropped(1);
}

/// What has to be done to a formatted record, so that whatever is in it cannot pass for another
/// record or for an order to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// A line of text; with colours, its own escape sequences stay.
    Text { has_color: bool },
    /// A JSON object, of which the formatter has made one line.
    Json,
    /// Nothing: it was made fit when it was formatted.
    Done,
}

impl Shape {
    fn of(format: LogFormat) -> Shape {
        match format {
            LogFormat::Text => Shape::Text { has_color: output::stderr_has_color() },
            LogFormat::Json => Shape::Json,
            LogFormat::Journald => Shape::Done,
        }
    }

    fn fit(self, record: Vec<u8>) -> Vec<u8> {
        match self {
            Shape::Text { has_color } => one_line(&record, has_color),
            Shape::Json => match std::str::from_utf8(&record).map(output::escape_json) {
                Ok(Cow::Owned(escaped)) => escaped.into_bytes(),
                Ok(Cow::Borrowed(_)) | Err(_) => record,
            },
            Shape::Done => record,
        }
    }
}

#[derive(Clone)]
struct Queue {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    shape: Shape,
}

impl Queue {
    fn push(&self, line: Vec<u8>) {
        if self.lines.try_send(Message::Line(line)).is_err() {
            count_dropped(&self.dropped);
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
        self.queue.push(self.queue.shape.fit(bytes));
    }
}

/// The record as exactly one line, its line ends written as `\n`. With colours, escape sequences of
/// ours are in it and stay; those of others were escaped by the formatter.
fn one_line(record: &[u8], has_color: bool) -> Vec<u8> {
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
            b'\x1b' if has_color => line.push(b'\x1b'),
            b'\t' => line.push(b'\t'),
            byte if byte.is_ascii_control() => {
                line.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
            }
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
            b"said a\\n{\"level\":\"error\"}\\r\\x00\\x1b[2J\t\n".as_slice(),
            one_line(b"said a\n{\"level\":\"error\"}\r\0\x1b[2J\t\n", false)
        );
        assert_eq!(b"\x1b[1mours\x1b[0m\n".as_slice(), one_line(b"\x1b[1mours\x1b[0m", true));
        let line = one_line(&vec![b'x'; LINE_BYTES_MAX + 1], false);
        assert_eq!(LINE_BYTES_MAX + "... (cut)\n".len(), line.len());
    }

    #[test]
    fn a_json_record_keeps_its_value_and_shows_no_control_character_f170() {
        let record = "{\"message\":\"a\\nTraceback\u{9b}31m\"}\n";
        let shown = String::from_utf8(Shape::Json.fit(record.as_bytes().to_vec())).unwrap();
        assert_eq!("{\"message\":\"a\\nTraceback\\u009b31m\"}\n", shown);
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(record), value(&shown));
    }

    #[test]
    fn a_full_queue_drops_and_counts_f137() {
        let (lines, receiver) = sync_channel(1);
        let queue =
            Queue { lines, dropped: Arc::default(), shape: Shape::Text { has_color: false } };
        for _ in 0..3 {
            drop(Record { queue: queue.clone(), bytes: b"x".to_vec() });
        }
        assert_eq!(2, queue.dropped.load(Ordering::Relaxed));
        assert!(matches!(receiver.try_recv(), Ok(Message::Line(line)) if line == b"x\n"));
    }
}
