//! Records for systemd's journal, in its native protocol: a datagram each, of lines `NAME=value`.
//!
//! The crate for this waits for a journal that does not read, on the thread that logs. Here a
//! record goes through the log's own queue to its own thread, like the lines for standard error.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{LINE_BYTES_MAX, Queue};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// How long one record may wait for a journal that does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest name of a field that the journal takes.
const NAME_BYTES_MAX: usize = 64;

/// The way to the journal. It has no connection, so a journal that is started anew is found again.
pub(super) struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Journal {
    /// The system's journal, if there is one.
    pub(super) fn open() -> io::Result<Journal> {
        Journal::at(Path::new(SOCKET))
    }

    fn at(path: &Path) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        let journal = Journal { socket, path: path.to_owned() };
        // A journal ignores an empty datagram, and without one this fails.
        journal.send(b"")?;
        Ok(journal)
    }

    pub(super) fn send(&self, record: &[u8]) -> io::Result<()> {
        self.socket.send_to(record, &self.path).map(drop)
    }
}

/// Turns events into records.
pub(super) struct JournalLayer(pub(super) Queue);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record::new(*metadata.level());
        record.field("TARGET", metadata.target());
        event.record(&mut record);
        self.0.push(record.bytes);
    }
}

/// A record that says one thing.
pub(super) fn message(level: Level, text: &str) -> Vec<u8> {
    let mut record = Record::new(level);
    record.field("MESSAGE", text);
    record.bytes
}

struct Record {
    bytes: Vec<u8>,
}

impl Record {
    fn new(level: Level) -> Record {
        let priority = match level {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let mut record = Record { bytes: Vec::with_capacity(256) };
        record.field("PRIORITY", priority);
        record.field("SYSLOG_IDENTIFIER", "clutch");
        record
    }

    /// Adds a field. Without control characters its value has no line end, so it is one line.
    fn field(&mut self, name: &str, value: &str) {
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'=');
        let start = self.bytes.len();
        for c in value.chars() {
            if self.bytes.len() - start > LINE_BYTES_MAX {
                self.bytes.extend_from_slice(b"... (cut)");
                break;
            }
            match c {
                '\n' => self.bytes.extend_from_slice(b"\\n"),
                '\r' => self.bytes.extend_from_slice(b"\\r"),
                c if c.is_control() && c != '\t' => {
                    self.bytes.extend(format!("\\x{:02x}", u32::from(c)).into_bytes());
                }
                c => self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        self.bytes.push(b'\n');
    }

    fn own_field(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.field("MESSAGE", value);
        }
        let name = field.name().chars().map(|c| match c.to_ascii_uppercase() {
            c @ ('A'..='Z' | '0'..='9') => c,
            _ => '_',
        });
        let name: String = "CLUTCH_".chars().chain(name).take(NAME_BYTES_MAX).collect();
        self.field(&name, value);
    }
}

impl Visit for Record {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.own_field(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string fails only when the value itself does; what there is of it is shown.
        let _ = write!(text, "{value:?}");
        self.own_field(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::{Message, Shape};
    use super::*;

    #[test]
    fn a_record_is_one_datagram_that_cannot_be_forged_f170() {
        let (lines, receiver) = sync_channel(8);
        let queue = Queue { lines, dropped: Arc::default(), shape: Shape::Done };
        let subscriber = tracing_subscriber::registry().with(JournalLayer(queue));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "clutch::output", pool = "p", call = 7, worker = %"0.1",
                "said a\nPRIORITY=0\x1b[2J");
        });
        let Ok(Message::Line(record)) = receiver.try_recv() else { panic!("it was logged") };
        assert_eq!(
            "PRIORITY=4\nSYSLOG_IDENTIFIER=clutch\nTARGET=clutch::output\n\
             MESSAGE=said a\\nPRIORITY=0\\x1b[2J\nCLUTCH_POOL=p\nCLUTCH_CALL=7\n\
             CLUTCH_WORKER=0.1\n",
            String::from_utf8(record).unwrap()
        );
    }

    #[test]
    fn a_long_value_is_cut() {
        let record = message(Level::ERROR, &"ü".repeat(1 << 20));
        assert!(record.len() < LINE_BYTES_MAX + 100 && record.ends_with(b"... (cut)\n"));
    }

    #[test]
    fn a_journal_that_is_gone_or_does_not_read_is_an_error_f137() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert!(Journal::at(&path).is_err());
        let theirs = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::at(&path).unwrap();
        journal.send(b"MESSAGE=one\n").unwrap();
        let mut buffer = [0; 64];
        let got = [theirs.recv(&mut buffer).unwrap(), theirs.recv(&mut buffer).unwrap()];
        assert_eq!([0, 12], got);
        journal.socket.set_write_timeout(Some(Duration::from_millis(10))).unwrap();
        let refused = (0..10_000).find_map(|_| journal.send(b"MESSAGE=unread\n").err());
        assert_eq!(io::ErrorKind::WouldBlock, refused.unwrap().kind());
        drop(theirs);
        assert!(journal.send(b"MESSAGE=gone\n").is_err());
        std::fs::remove_file(&path).unwrap();
        let again = UnixDatagram::bind(&path).unwrap();
        journal.send(b"MESSAGE=back\n").unwrap();
        assert_eq!(13, again.recv(&mut buffer).unwrap());
    }
}
