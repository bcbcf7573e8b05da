//! The journal of a map: which items are finished, and what came of them, so that a map which was
//! killed goes on where it was.
//!
//! A file of JSON lines that is only ever appended to. The first line says what job it belongs to,
//! each other one that one item is finished:
//!
//! ```text
//!   {"clutch_map":1,"function":"tasks:f","pool":"default","starmap":false,"input":"80 bytes, ..."}
//!   {"index":0,"item":"af63ad4c86019caf","result":[1,2]}
//!   {"index":1,"item":"af63ac4c86019afc","skipped":true}
//! ```
//!
//! A line is written before its result is shown, in one piece, so what was shown is never run
//! again, whoever is killed. It is handed to the disk within a second, so when the machine itself
//! dies, the last second's items may run again. A last line that was cut off is cut away.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use clutch_client::{Outcome, RawValue};
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;
use thiserror::Error;

use crate::exit::Exit;
use crate::items::{Known, hash};

/// How long a line may be without being handed to the disk.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Bytes of lines that may wait for one write.
const BUFFER_BYTES: usize = 64 << 10;

/// What begins every journal.
const MARK: &str = "{\"clutch_map\":";

/// Why a journal cannot be used.
#[derive(Debug, Error)]
pub(crate) enum JournalError {
    #[error("failed to open the journal {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("failed to read the journal {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("failed to write the journal {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{} is in use: another `clutch map` resumes by it; wait for that one, or name another file",
        path.display()
    )]
    Locked { path: PathBuf },
    #[error(
        "{} is no journal of `clutch map`, and stays as it is: name a file that --resume may write",
        path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "line {line} of {} is damaged, and there are good ones behind it: restore the file, or \
         begin anew with another one",
        path.display()
    )]
    Damaged { path: PathBuf, line: u64 },
    #[error(
        "{} belongs to another job: {what} was {was} and is {is} now; name another file, or call \
         it as before",
        path.display()
    )]
    Other { path: PathBuf, what: &'static str, was: String, is: String },
}

impl JournalError {
    /// The exit code that belongs to it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            JournalError::Locked { .. } => Exit::Refused,
            // As for results that cannot be delivered.
            JournalError::Write { .. } => Exit::Raised,
            _ => Exit::Usage,
        }
    }
}

/// What a journal is of.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) function: &'a str,
    pub(crate) pool: &'a str,
    pub(crate) starmap: bool,
    /// What is known of the input before it is read. Another one may go on with what this one
    /// has finished; that is for who can compare their items.
    pub(crate) input: String,
}

impl Job<'_> {
    fn fields(&self) -> [(&'static str, String); 4] {
        let Job { function, pool, starmap, input } = self;
        let text = |text: &str| json!(text).to_string();
        [
            ("function", text(function)),
            ("pool", text(pool)),
            ("starmap", starmap.to_string()),
            ("input", text(input)),
        ]
    }

    fn header(&self) -> String {
        let fields = self.fields();
        let fields = fields.map(|(name, value)| format!(",\"{name}\":{value}"));
        format!("{MARK}1{}}}\n", fields.concat())
    }
}

/// Where the line of a finished item is.
#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    bytes: u32,
}

/// What was finished when the map began.
#[derive(Debug)]
pub(crate) struct Finished {
    file: File,
    path: PathBuf,
    /// What was known of the input with which the journal was begun.
    input: String,
    places: HashMap<u64, Place>,
}

/// Where it is written down what is finished now.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Flock<File>,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Tells the thread that hands lines to the disk.
    written: SyncSender<()>,
}

impl Journal {
    /// Opens a journal, or begins one, and reads it.
    pub(crate) fn open(path: &Path, job: &Job<'_>) -> Result<(Journal, Finished), JournalError> {
        let open = || OpenOptions::new().read(true).append(true).create(true).open(path);
        let opening = |source| JournalError::Open { path: path.to_owned(), source };
        let file = open().map_err(opening)?;
        if !file.metadata().map_err(opening)?.is_file() {
            return Err(JournalError::Foreign { path: path.to_owned() });
        }
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| JournalError::Locked { path: path.to_owned() })?;
        let reading = |source| JournalError::Read { path: path.to_owned(), source };
        let again = file.try_clone().map_err(reading)?;
        let Kept { places, input, good } = Reader { path, job }.read(&again)?;
        let writing = |source| JournalError::Write { path: path.to_owned(), source };
        file.set_len(good).map_err(writing)?;
        let finished = Finished { file: again, path: path.to_owned(), input, places };
        let written = sync_now_and_then(file.try_clone().map_err(writing)?);
        let mut journal = Journal { file, path: path.to_owned(), buffer: Vec::new(), written };
        if good == 0 {
            journal.buffer.extend_from_slice(job.header().as_bytes());
            journal.flush()?;
        }
        Ok((journal, finished))
    }

    /// Writes down that an item is finished. It is in the file when this or the next
    /// [`flush`](Journal::flush) has returned.
    pub(crate) fn finished(
        &mut self,
        index: u64,
        item: u64,
        outcome: &Outcome<Box<RawValue>>,
    ) -> Result<(), JournalError> {
        let line = match outcome {
            Outcome::Result(result) => {
                format!(
                    "{{\"index\":{index},\"item\":\"{item:016x}\",\"result\":{}}}\n",
                    result.get()
                )
            }
            Outcome::Skipped => {
                format!("{{\"index\":{index},\"item\":\"{item:016x}\",\"skipped\":true}}\n")
            }
        };
        self.buffer.extend_from_slice(line.as_bytes());
        match self.buffer.len() >= BUFFER_BYTES {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Whether lines are waiting to be written.
    pub(crate) fn is_behind(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Writes what was noted. From then on only the machine's own death can lose it.
    pub(crate) fn flush(&mut self) -> Result<(), JournalError> {
        let written = self.file.write_all(&self.buffer);
        self.buffer.clear();
        written.map_err(|source| JournalError::Write { path: self.path.clone(), source })?;
        match self.written.try_send(()) {
            // It has been told already, or there is no thread to be told: see below.
            Ok(()) | Err(TrySendError::Full(())) => Ok(()),
            Err(TrySendError::Disconnected(())) => self.sync(),
        }
    }

    /// Hands everything to the disk.
    pub(crate) fn sync(&self) -> Result<(), JournalError> {
        let synced = self.file.sync_data();
        synced.map_err(|source| JournalError::Write { path: self.path.clone(), source })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Whatever ended the map, what is finished is finished; what fails was told already.
        let _ = self.flush();
    }
}

/// A thread that hands a file to the disk, at most once in a while. The disk may take seconds, and
/// nobody shall wait for it.
fn sync_now_and_then(file: File) -> SyncSender<()> {
    let (written, told) = sync_channel::<()>(1);
    let spawned = std::thread::Builder::new().name("clutch-journal".to_owned()).spawn(move || {
        // What it cannot do is told by the last sync, which is the map's own.
        while told.recv().is_ok() && file.sync_data().is_ok() {
            std::thread::park_timeout(SYNC_EVERY);
        }
    });
    // Without a thread, each flush hands to the disk itself.
    drop(spawned);
    written
}

impl Finished {
    /// How many items are.
    pub(crate) fn count(&self) -> u64 {
        self.places.len() as u64
    }

    /// What was known of the input with which the journal was begun.
    pub(crate) fn input(&self) -> &str {
        &self.input
    }

    /// Where that is written.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The first one from this place on.
    pub(crate) fn first_from(&self, index: u64) -> Option<u64> {
        self.places.keys().copied().filter(|place| *place >= index).min()
    }

    /// What came of an item, if it is finished. `Err` if there was another item in its place then.
    pub(crate) fn look_up(&self, index: u64, item: &RawValue) -> io::Result<Option<Known>> {
        let Some(place) = self.places.get(&index) else {
            return Ok(None);
        };
        let mut line = vec![0; place.bytes as usize];
        self.file.read_exact_at(&mut line, place.offset)?;
        let line = Line::parse(&line).ok_or(io::ErrorKind::InvalidData)?;
        if line.item != hash(item.get().as_bytes()) {
            let path = self.path.display();
            let sentence = format!("another item was finished in its place, says {path}");
            return Err(io::Error::other(sentence));
        }
        Ok(Some(Known { index, before: 0, outcome: line.outcome }))
    }
}

/// One line, taken apart.
struct Line {
    index: u64,
    item: u64,
    outcome: Outcome<Box<RawValue>>,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Line> {
        let fields: BTreeMap<&str, &RawValue> = serde_json::from_slice(line).ok()?;
        let item: &str = serde_json::from_str(fields.get("item")?.get()).ok()?;
        let outcome = match (fields.get("result"), fields.get("skipped")) {
            (Some(result), None) => Outcome::Result((*result).to_owned()),
            (None, Some(_)) => Outcome::Skipped,
            _ => return None,
        };
        Some(Line {
            index: fields.get("index")?.get().parse().ok()?,
            item: u64::from_str_radix(item, 16).ok()?,
            outcome,
        })
    }
}

/// What is in a journal.
#[derive(Default)]
struct Kept {
    /// Where the lines of finished items are.
    places: HashMap<u64, Place>,
    /// What its first line says of the input.
    input: String,
    /// How far the file is good.
    good: u64,
}

/// Reads a journal from its beginning.
struct Reader<'a> {
    path: &'a Path,
    job: &'a Job<'a>,
}

impl Reader<'_> {
    fn read(&self, file: &File) -> Result<Kept, JournalError> {
        let reading = |source| JournalError::Read { path: self.path.to_owned(), source };
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
        reader.seek(SeekFrom::Start(0)).map_err(reading)?;
        let (mut kept, mut line, mut number) = (Kept::default(), Vec::new(), 0);
        let (mut offset, mut damaged) = (0, None);
        loop {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(reading)? as u64;
            if bytes == 0 {
                return Ok(kept);
            }
            number += 1;
            let whole = line.strip_suffix(b"\n");
            if number == 1 {
                let Some(input) = self.input_of_ours(whole, &line)? else {
                    // Its writer was killed before there was anything to lose.
                    return Ok(kept);
                };
                (kept.input, kept.good) = (input, bytes);
            } else if let Some(finished) = whole.and_then(Line::parse) {
                if let Some(line) = damaged {
                    return Err(JournalError::Damaged { path: self.path.to_owned(), line });
                }
                let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
                kept.places.insert(finished.index, Place { offset, bytes });
                kept.good = offset + u64::from(bytes);
            } else {
                damaged = damaged.or(Some(number));
            }
            offset += bytes;
        }
    }

    /// What the first line says of the input, if it is whole, and that of this job. What is no
    /// journal is never touched.
    fn input_of_ours(
        &self,
        whole: Option<&[u8]>,
        line: &[u8],
    ) -> Result<Option<String>, JournalError> {
        let foreign = || JournalError::Foreign { path: self.path.to_owned() };
        let Some(whole) = whole else {
            let header = self.job.header();
            let begins = header.as_bytes().starts_with(line) || line.starts_with(MARK.as_bytes());
            return if begins { Ok(None) } else { Err(foreign()) };
        };
        if !whole.starts_with(MARK.as_bytes()) {
            return Err(foreign());
        }
        let fields: BTreeMap<&str, &RawValue> =
            serde_json::from_slice(whole).map_err(|_| foreign())?;
        for (what, is) in self.job.fields() {
            let was = fields.get(what).ok_or_else(foreign)?.get();
            if what != "input" && was != is {
                let (path, was) = (self.path.to_owned(), was.to_owned());
                return Err(JournalError::Other { path, what, was, is });
            }
        }
        let input = fields.get("input").and_then(|input| serde_json::from_str(input.get()).ok());
        input.map(Some).ok_or_else(foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(input: &str) -> Job<'_> {
        Job { function: "m:f", pool: "default", starmap: false, input: input.to_owned() }
    }

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    /// Finishes two items, and is killed.
    fn begun(path: &Path) {
        let (mut journal, finished) = Journal::open(path, &job("a")).unwrap();
        assert!(finished.places.is_empty());
        journal.finished(0, hash(b"7"), &Outcome::Result(raw("null"))).unwrap();
        journal.finished(5, hash(b"8"), &Outcome::Skipped).unwrap();
        journal.flush().unwrap();
        journal.sync().unwrap();
    }

    fn opened(path: &Path) -> Finished {
        Journal::open(path, &job("a")).unwrap().1
    }

    #[test]
    fn what_was_finished_is_known_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        begun(&path);
        let finished = opened(&path);
        let null = finished.look_up(0, &raw("7")).unwrap().unwrap();
        assert!(matches!(null.outcome, Outcome::Result(text) if text.get() == "null"));
        let skipped = finished.look_up(5, &raw("8")).unwrap().unwrap();
        assert!(matches!(skipped.outcome, Outcome::Skipped));
        assert!(finished.look_up(1, &raw("7")).unwrap().is_none());
        let other = finished.look_up(5, &raw("9")).unwrap_err();
        assert!(other.to_string().contains("another item"), "{other}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_cut_away_wherever_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        begun(&path);
        let whole = std::fs::read(&path).unwrap();
        let lines: Vec<usize> = whole
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'\n')
            .map(|it| it.0 + 1)
            .collect();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (journal, finished) = Journal::open(&path, &job("a")).unwrap();
            let good = lines.iter().filter(|end| **end <= cut).count();
            assert_eq!(good.saturating_sub(1), finished.places.len(), "cut at {cut}");
            drop(journal);
            let now = std::fs::read(&path).unwrap();
            assert_eq!(whole[..lines[good.saturating_sub(1)]], now[..], "cut at {cut}");
        }
        // A machine that died may leave zeros where lines were to be.
        std::fs::write(&path, [&whole[..], &[0; 100]].concat()).unwrap();
        assert_eq!(2, opened(&path).places.len());
    }

    #[test]
    fn what_is_no_journal_or_damaged_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        for foreign in ["[1]\n", "1\n2\n", "no newline", "{\"clutch_map\":1}\n", "{\"a\":1}\n"] {
            std::fs::write(&path, foreign).unwrap();
            let error = Journal::open(&path, &job("a")).unwrap_err();
            assert!(matches!(error, JournalError::Foreign { .. }), "{foreign}: {error}");
            assert_eq!(foreign.as_bytes(), std::fs::read(&path).unwrap());
        }
        std::fs::remove_file(&path).unwrap();
        begun(&path);
        let text = std::fs::read_to_string(&path).unwrap().replacen("\"item\"", "\"itme\"", 1);
        std::fs::write(&path, &text).unwrap();
        let error = Journal::open(&path, &job("a")).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { line: 2, .. }), "{error}");
        assert_eq!(text, std::fs::read_to_string(&path).unwrap());
    }

    #[test]
    fn another_job_is_refused_with_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        begun(&path);
        let differs = |job: Job<'_>| match Journal::open(&path, &job).unwrap_err() {
            JournalError::Other { what, was, is, .. } => (what, was, is),
            error => panic!("{error}"),
        };
        let text = |text: &str| format!("\"{text}\"");
        let other = Job { function: "m:g", ..job("a") };
        assert_eq!(("function", text("m:f"), text("m:g")), differs(other));
        assert_eq!("starmap", differs(Job { starmap: true, ..job("a") }).0);
        assert_eq!("pool", differs(Job { pool: "other", ..job("a") }).0);
        let (_, finished) = Journal::open(&path, &job("b")).unwrap();
        assert_eq!(("a", 2), (finished.input(), finished.count()), "its items are to be compared");
        assert_eq!([Some(0), Some(5), None], [0, 1, 6].map(|from| finished.first_from(from)));
    }

    #[test]
    fn two_at_once_are_one_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let first = Journal::open(&path, &job("a")).unwrap();
        let error = Journal::open(&path, &job("a")).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
        drop(first);
        Journal::open(&path, &job("a")).unwrap();
    }
}
