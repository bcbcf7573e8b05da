//! Where the chunks of a file are: each a cut, in the file's order, as they are asked for.
//!
//! Ranges of bytes and lines are computed. Those of CSV come from a thread that goes through the
//! file ahead of the workers; the channel between holds it back, so that what it has read is still
//! in memory when a worker comes to it.

use std::task::{Context, Poll, ready};
use std::thread;

use clutch_protocol::attachment::{self, Content};
use clutch_protocol::limits::RECORD_BYTES_MAX;
use tokio::sync::mpsc;

use super::csv::{self, BYTE_ORDER_MARK, Scanner};
use super::parquet::{self, ParquetFault, TAIL_BYTES};
use super::source::{FileError, FileFault, SourceFile};
use super::split::{Csv, Split};
use crate::limits::{CUTS_AHEAD, HEADER_RECORD_BYTES_MAX, PARQUET_FOOTER_BYTES_MAX, SCAN_BYTES};

/// A part of a file that is one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Where it begins.
    pub(crate) offset: u64,
    /// How many bytes it has.
    pub(crate) bytes: u64,
    /// What it is to the worker.
    pub(crate) content: Content,
    /// How many of the file's bytes are done with it: its own, for a row group a guess.
    pub(crate) weight: u64,
}

/// All chunks of a file, and what every call is told beside its chunk.
#[derive(Debug)]
pub(crate) struct Cuts {
    kind: Kind,
    /// The names of the columns.
    header: Option<Vec<String>>,
}

#[derive(Debug)]
enum Kind {
    Even { next: u64, end: u64, chunk: u64, split: attachment::Split },
    Groups { next: u32, count: u32, bytes: u64 },
    Scanned(mpsc::Receiver<Result<Cut, FileError>>),
}

impl Cuts {
    /// Begins to cut. Reads the header of CSV and the footer of Parquet.
    pub(crate) fn begin(source: &SourceFile, split: Split, chunk: u64) -> Result<Cuts, FileError> {
        let (end, chunk) = (source.bytes(), chunk.max(1));
        let even = |split| Kind::Even { next: 0, end, chunk, split };
        let (kind, header) = match split {
            Split::Bytes => (even(attachment::Split::Bytes), None),
            Split::Lines => (even(attachment::Split::Lines), None),
            Split::ParquetRowGroups => {
                let count = if end == 0 { 0 } else { count_row_groups(source)? };
                (Kind::Groups { next: 0, count, bytes: end }, None)
            }
            Split::Csv(csv) => {
                let (start, header) = read_header(source, csv)?;
                (Kind::Scanned(scan(source.clone(), csv, start, chunk)?), header)
            }
        };
        Ok(Cuts { kind, header })
    }

    /// The names of the columns, if they were asked for.
    pub(crate) fn header(&self) -> Option<&[String]> {
        self.header.as_deref()
    }

    /// The next one; none when there are no more, or behind an error.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Cut, FileError>>> {
        Poll::Ready(match &mut self.kind {
            Kind::Scanned(cuts) => ready!(cuts.poll_recv(cx)),
            computed => computed.next().map(Ok),
        })
    }

    /// The same for a thread that waits.
    pub(crate) fn next(&mut self) -> Option<Result<Cut, FileError>> {
        match &mut self.kind {
            Kind::Scanned(cuts) => cuts.blocking_recv(),
            computed => computed.next().map(Ok),
        }
    }
}

impl Kind {
    fn next(&mut self) -> Option<Cut> {
        match self {
            Kind::Even { next, end, chunk, split } => {
                let offset = *next;
                let bytes = (*chunk).min(*end - offset);
                *next += bytes;
                let content = Content::Range { split: *split };
                (bytes > 0).then_some(Cut { offset, bytes, content, weight: bytes })
            }
            Kind::Groups { next, count, bytes } => {
                let (index, bytes) = (*next, *bytes);
                *next = (index + 1).min(*count);
                let share = |groups: u32| {
                    let done = u128::from(bytes) * u128::from(groups) / u128::from(*count);
                    u64::try_from(done).expect("a part is less than the whole")
                };
                (index < *count).then(|| Cut {
                    offset: 0,
                    bytes,
                    content: Content::RowGroup { index },
                    weight: share(index + 1) - share(index),
                })
            }
            Kind::Scanned(_) => unreachable!("those come from a channel"),
        }
    }
}

fn count_row_groups(source: &SourceFile) -> Result<u32, FileError> {
    let fail = |fault| source.fault(FileFault::Parquet(fault));
    let tail_at = source.bytes().checked_sub(TAIL_BYTES as u64);
    let tail_at = tail_at.ok_or_else(|| fail(ParquetFault::Magic))?;
    let mut tail = [0; TAIL_BYTES];
    source.read(&mut tail, tail_at)?;
    let bytes = parquet::footer_bytes(tail).map_err(fail)?;
    let claimed = tail_at.checked_sub(bytes).filter(|_| bytes <= PARQUET_FOOTER_BYTES_MAX as u64);
    let at = claimed.ok_or_else(|| fail(ParquetFault::Length(bytes)))?;
    let mut footer = vec![0; usize::try_from(bytes).expect("it is below its limit")];
    source.read(&mut footer, at)?;
    parquet::row_groups(&footer).map_err(fail)
}

/// Where the first record of data begins, behind a byte order mark in any case, and what the header
/// says, if there is one.
fn read_header(source: &SourceFile, csv: Csv) -> Result<(u64, Option<Vec<String>>), FileError> {
    let most = if csv.has_header { HEADER_RECORD_BYTES_MAX } else { BYTE_ORDER_MARK.len() };
    let size = source.bytes().min(most as u64);
    let mut head = vec![0; usize::try_from(size).expect("it is below its limit")];
    source.read(&mut head, 0)?;
    let mark = if head.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
    if !csv.has_header {
        return Ok((mark as u64, None));
    }
    let mut scanner = Scanner::new(csv.delimiter, mark as u64);
    let end = match scanner.scan(&head[mark..], 0) {
        Some(record) => mark + record,
        None if size < source.bytes() => return Err(source.fault(FileFault::HeaderTooLong)),
        None => head.len(),
    };
    let fields = csv::fields(&head[..end], csv.delimiter);
    let fields = fields.map_err(|at| source.fault(FileFault::HeaderNotText { offset: at }))?;
    Ok((end as u64, Some(fields)))
}

type Sender = mpsc::Sender<Result<Cut, FileError>>;

/// Starts the thread that cuts CSV. It ends with the file, or with the receiver.
fn scan(
    source: SourceFile,
    csv: Csv,
    start: u64,
    chunk: u64,
) -> Result<mpsc::Receiver<Result<Cut, FileError>>, FileError> {
    let (sender, receiver) = mpsc::channel(CUTS_AHEAD);
    let body = {
        let source = source.clone();
        move || {
            if let Err(error) = cut_all(&source, csv, start, chunk, &sender) {
                // Nobody is left to be told, then.
                let _ = sender.blocking_send(Err(error));
            }
        }
    };
    let thread = thread::Builder::new().name("clutch-csv".into()).spawn(body);
    thread.map_err(|error| source.fault(FileFault::Thread(error)))?;
    Ok(receiver)
}

fn cut_all(
    source: &SourceFile,
    csv: Csv,
    mut start: u64,
    chunk: u64,
    sender: &Sender,
) -> Result<(), FileError> {
    let end = source.bytes();
    let mut buffer = vec![0; SCAN_BYTES];
    let mut at = start;
    let mut scanner = Scanner::new(csv.delimiter, at);
    while at < end && !sender.is_closed() {
        let count = usize::try_from(end - at).map_or(SCAN_BYTES, |left| left.min(SCAN_BYTES));
        let mut piece = &mut buffer[..count];
        source.read(piece, at)?;
        at += count as u64;
        while !piece.is_empty() {
            let wanted = start.saturating_add(chunk);
            let Some(done) = scanner.scan(piece, wanted) else { break };
            if sender.blocking_send(Ok(cut(start, scanner.at()))).is_err() {
                return Ok(());
            }
            start = scanner.at();
            piece = &mut piece[done..];
        }
        let wanted = start.saturating_add(chunk);
        if at.saturating_sub(wanted) > RECORD_BYTES_MAX {
            let offset = scanner.open_quote().unwrap_or(wanted);
            return Err(source.fault(FileFault::RecordTooLong { offset }));
        }
    }
    if let Some(offset) = scanner.open_quote() {
        return Err(source.fault(FileFault::OpenQuote { offset }));
    }
    if start < end && !sender.is_closed() {
        let _ = sender.blocking_send(Ok(cut(start, end)));
    }
    Ok(())
}

fn cut(start: u64, end: u64) -> Cut {
    let bytes = end - start;
    let content = Content::Range { split: attachment::Split::Bytes };
    Cut { offset: start, bytes, content, weight: bytes }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn source(bytes: &[u8]) -> (tempfile::NamedTempFile, SourceFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        (file, source)
    }

    fn all(mut cuts: Cuts) -> Result<Vec<Cut>, FileError> {
        std::iter::from_fn(|| cuts.next()).collect()
    }

    /// What each chunk holds.
    fn pieces(bytes: &[u8], split: Split, chunk: u64) -> Result<Vec<String>, FileError> {
        let (_file, source) = source(bytes);
        let cuts = all(Cuts::begin(&source, split, chunk)?)?;
        let text = |cut: &Cut| {
            let start = usize::try_from(cut.offset).unwrap();
            let piece = &bytes[start..start + usize::try_from(cut.bytes).unwrap()];
            String::from_utf8(piece.to_vec()).unwrap()
        };
        Ok(cuts.iter().map(text).collect())
    }

    #[test]
    fn even_ranges_tile_the_file() {
        let (_file, source) = source(&[0; 10]);
        for (split, name) in
            [(Split::Bytes, attachment::Split::Bytes), (Split::Lines, attachment::Split::Lines)]
        {
            let cuts = all(Cuts::begin(&source, split, 4).unwrap()).unwrap();
            let bounds: Vec<_> = cuts.iter().map(|cut| (cut.offset, cut.bytes)).collect();
            assert_eq!([(0, 4), (4, 4), (8, 2)], *bounds);
            assert!(cuts.iter().all(|cut| cut.content == Content::Range { split: name }));
            assert_eq!(10, all(Cuts::begin(&source, split, 0).unwrap()).unwrap().len());
            assert_eq!(1, all(Cuts::begin(&source, split, u64::MAX).unwrap()).unwrap().len());
        }
    }

    #[test]
    fn an_empty_file_has_no_chunks() {
        let (_file, source) = source(b"");
        let csv = Split::Csv(Csv::new().with_header());
        for split in [Split::Bytes, Split::Lines, csv, Split::ParquetRowGroups] {
            assert_eq!(0, all(Cuts::begin(&source, split, 4).unwrap()).unwrap().len());
        }
    }

    #[test]
    fn csv_is_cut_between_records() {
        let csv = Split::Csv(Csv::new());
        let text = b"a,b\n\"1\n1\",2\r\n3,\"\"\"\n\"\n4,4";
        assert_eq!(
            ["a,b\n", "\"1\n1\",2\r\n", "3,\"\"\"\n\"\n", "4,4"],
            *pieces(text, csv, 1).unwrap()
        );
        assert_eq!(["a,b\n\"1\n1\",2\r\n", "3,\"\"\"\n\"\n4,4"], *pieces(text, csv, 9).unwrap());
        assert_eq!(1, pieces(text, csv, 1000).unwrap().len());
        let marked = b"\xef\xbb\xbf\"x\ny\"\n1\n";
        assert_eq!(["\"x\ny\"\n", "1\n"], *pieces(marked, csv, 1).unwrap());
        assert_eq!(0, pieces(b"\xef\xbb\xbf", csv, 1).unwrap().len());
    }

    #[test]
    fn csv_longer_than_a_piece_is_cut_alike() {
        let record = "\"a\nb\",1,5\" disk\n";
        let text = record.repeat(3 * SCAN_BYTES / record.len());
        let cuts = pieces(text.as_bytes(), Split::Csv(Csv::new()), 100_000).unwrap();
        assert_eq!(text, cuts.concat());
        assert!(cuts.iter().all(|cut| cut.len() % record.len() == 0));
        assert!(cuts[..cuts.len() - 1].iter().all(|cut| cut.len() < 100_000 + record.len()));
    }

    #[test]
    fn a_header_is_in_no_chunk() {
        let (_file, source) = source(b"\xef\xbb\xbf\"a\n1\";b\r\n1;2\n");
        let csv = Csv::new().with_header().delimiter(b';');
        let cuts = Cuts::begin(&source, Split::Csv(csv), 100).unwrap();
        assert_eq!(Some(&["a\n1".to_owned(), "b".to_owned()][..]), cuts.header());
        let bounds: Vec<_> = all(cuts).unwrap().iter().map(|cut| (cut.offset, cut.bytes)).collect();
        assert_eq!([(12, 4)], *bounds);
    }

    #[test]
    fn a_header_alone_has_no_chunks() {
        let csv = Split::Csv(Csv::new().with_header());
        assert!(pieces(b"a,b", csv, 1).unwrap().is_empty());
        assert!(pieces(b"a,b\n", csv, 1).unwrap().is_empty());
    }

    #[test]
    fn what_is_no_csv_is_named_by_its_place() {
        let csv = Split::Csv(Csv::new());
        let error = pieces(b"a,b\n1,\"2\n3,4\n", csv, 100).unwrap_err();
        assert!(matches!(error.fault, FileFault::OpenQuote { offset: 6 }), "{error}");
        let header = Split::Csv(Csv::new().with_header());
        let error = pieces(b"a,\xff\n1,2\n", header, 100).unwrap_err();
        assert!(matches!(error.fault, FileFault::HeaderNotText { offset: 2 }), "{error}");
        let long = [b'x'].repeat(HEADER_RECORD_BYTES_MAX + 1);
        let error = pieces(&long, header, 100).unwrap_err();
        assert!(matches!(error.fault, FileFault::HeaderTooLong), "{error}");
    }

    #[test]
    fn a_cut_short_file_is_no_shorter_csv() {
        let (file, source) = source(b"a,b\n1,2\n");
        file.as_file().set_len(4).unwrap();
        let error = all(Cuts::begin(&source, Split::Csv(Csv::new()), 1).unwrap()).unwrap_err();
        assert!(matches!(error.fault, FileFault::Shrunk { before: 8, now: 4 }), "{error}");
    }

    #[test]
    fn row_groups_are_chunks() {
        let footer = b"\x15\x04\x19\x0c\x16\x00\x19\x3c\x00\x00\x00\x00";
        let mut bytes = [&b"PAR1data"[..], footer].concat();
        bytes.extend_from_slice(&u32::try_from(footer.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(b"PAR1");
        let (_file, source) = source(&bytes);
        let cuts = all(Cuts::begin(&source, Split::ParquetRowGroups, 1).unwrap()).unwrap();
        let total = bytes.len() as u64;
        assert_eq!(total, cuts.iter().map(|cut| cut.weight).sum::<u64>());
        let contents: Vec<_> = cuts.into_iter().map(|cut| (cut.bytes, cut.content)).collect();
        let group = |index| (total, Content::RowGroup { index });
        assert_eq!([group(0), group(1), group(2)], *contents);
    }

    #[test]
    fn what_is_no_parquet_says_so() {
        let fault = |bytes: &[u8]| match pieces(bytes, Split::ParquetRowGroups, 1).map(drop) {
            Err(FileError { fault: FileFault::Parquet(fault), .. }) => fault,
            other => panic!("{other:?}"),
        };
        assert_eq!(ParquetFault::Magic, fault(b"a,b\n"));
        assert_eq!(ParquetFault::Magic, fault(b"a,b\n1,2\n3,4\n"));
        assert_eq!(ParquetFault::Length(99), fault(b"PAR1c\0\0\0PAR1"));
        assert_eq!(ParquetFault::Damaged, fault(b"PAR1\0\0\0\0PAR1"));
    }
}
