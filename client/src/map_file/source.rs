//! The file that is read: opened once, by its reader's own rights, and watched for changes.
//!
//! Workers map parts of it, and who touches a mapping behind the end of its file dies. So it is
//! looked at again before each chunk is sent: that makes such a death unlikely, and what is left of
//! it understandable.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clutch_protocol::limits::RECORD_BYTES_MAX;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use thiserror::Error;

use super::parquet::ParquetFault;
use crate::limits::HEADER_RECORD_BYTES_MAX;

/// What is wrong with a file that is to be read in chunks.
#[derive(Debug, Error)]
#[error("{}: {fault}", path.display())]
pub struct FileError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: FileFault,
}

/// What can be wrong with a file.
#[derive(Debug, Error)]
pub enum FileFault {
    /// It cannot be opened.
    #[error("it cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// It has no ranges.
    #[error(
        "it is {0}; only a regular file can be read in ranges: write what comes from it into one"
    )]
    NotRegular(&'static str),
    /// It cannot be read.
    #[error("it cannot be read at byte {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// It became shorter.
    #[error(
        "it changed while it was read: it had {before} bytes and has {now}; results so far may be \
         of both states, read it again when nobody cuts it short"
    )]
    Shrunk {
        /// Its bytes when it was opened.
        before: u64,
        /// Its bytes now.
        now: u64,
    },
    /// It was written to, and not only appended.
    #[error(
        "it changed while it was read: it was written to, and is no longer than before; results \
         so far may be of both states, read it again when nobody writes to it"
    )]
    Rewritten,
    /// A record is longer than anybody may look for its end.
    #[error(
        "the record at byte {offset} has no end within {RECORD_BYTES_MAX} bytes; is there a quote \
         too many, or does another split fit this file?"
    )]
    RecordTooLong {
        /// Where it was looked for.
        offset: u64,
    },
    /// A quoted field is not closed.
    #[error("the quoted field that begins at byte {offset} has no end; there is a quote too many")]
    OpenQuote {
        /// Where it begins.
        offset: u64,
    },
    /// The record with the names of the columns is none.
    #[error(
        "its first record, the header, has no end within {HEADER_RECORD_BYTES_MAX} bytes; does it \
         have one?"
    )]
    HeaderTooLong,
    /// The names of the columns cannot be text.
    #[error("its header is not UTF-8 (byte {offset}); convert the file, or read it without header")]
    HeaderNotText {
        /// Where.
        offset: usize,
    },
    /// It is no Parquet file.
    #[error(transparent)]
    Parquet(ParquetFault),
    /// There is nobody to read ahead.
    #[error("no thread could be started to look for the ends of its records: {0}")]
    Thread(#[source] io::Error),
}

/// A regular file, open for reading: what `map_file` takes beside a path, for a caller who wants to
/// know first whether there is one. Clones share it.
#[derive(Clone, Debug)]
pub struct SourceFile(Arc<Source>);

#[derive(Debug)]
struct Source {
    path: PathBuf,
    file: File,
    /// The same, to be sent.
    descriptor: Arc<OwnedFd>,
    bytes: u64,
    modified: (i64, i64),
}

impl SourceFile {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// When it is not there, may not be read, or is no regular file.
    pub fn open(path: impl AsRef<Path>) -> Result<SourceFile, FileError> {
        let path = path.as_ref();
        let fail = |fault| FileError { path: path.to_owned(), fault };
        // A pipe that nobody writes to would keep us waiting here.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
        let file = file.map_err(|error| fail(FileFault::Open(error)))?;
        let metadata = file.metadata().map_err(|error| fail(FileFault::Open(error)))?;
        if let Some(what) = irregular(&metadata.file_type()) {
            return Err(fail(FileFault::NotRegular(what)));
        }
        let is_empty = || file.metadata().is_ok_and(|metadata| metadata.len() == 0);
        // Unless somebody appends to it just now.
        if metadata.len() == 0 && matches!(file.read_at(&mut [0], 0), Ok(1..)) && is_empty() {
            return Err(fail(FileFault::NotRegular("made up by the system as it is read")));
        }
        // The flags travel with the descriptor, and nobody else has a use for these.
        let cleared = fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()));
        cleared.map_err(|error| fail(FileFault::Open(error.into())))?;
        let descriptor = file.try_clone().map_err(|error| fail(FileFault::Open(error)))?;
        Ok(SourceFile(Arc::new(Source {
            path: path.to_owned(),
            file,
            descriptor: Arc::new(descriptor.into()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })))
    }

    /// How many bytes it had when it was opened. What is appended later is not read, except for the
    /// rest of a line that had begun.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its descriptor, to be sent.
    pub(super) fn descriptor(&self) -> &Arc<OwnedFd> {
        &self.0.descriptor
    }

    /// Whether it is still what was opened, as far as that shows: appending to it is no change.
    pub(crate) fn check(&self) -> Result<(), FileError> {
        let Source { file, bytes: before, modified, .. } = &*self.0;
        let metadata = file.metadata();
        let metadata = metadata.map_err(|source| self.fault(FileFault::Read { offset: 0, source }));
        let metadata = metadata?;
        let (before, now) = (*before, metadata.len());
        if now < before {
            return Err(self.fault(FileFault::Shrunk { before, now }));
        }
        if now == before && *modified != (metadata.mtime(), metadata.mtime_nsec()) {
            return Err(self.fault(FileFault::Rewritten));
        }
        Ok(())
    }

    /// Reads until the buffer is full: there must be that much.
    pub(super) fn read(&self, buffer: &mut [u8], offset: u64) -> Result<(), FileError> {
        let read = self.0.file.read_exact_at(buffer, offset);
        read.map_err(|source| match self.check() {
            Err(changed) => changed,
            Ok(()) => self.fault(FileFault::Read { offset, source }),
        })
    }

    pub(super) fn fault(&self, fault: FileFault) -> FileError {
        FileError { path: self.0.path.clone(), fault }
    }
}

/// What a file is that is not regular.
fn irregular(kind: &std::fs::FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a directory"),
        kind if kind.is_fifo() => Some("a pipe"),
        kind if kind.is_block_device() || kind.is_char_device() => Some("a device"),
        _ => Some("no regular file"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn fault(result: Result<SourceFile, FileError>) -> FileFault {
        result.unwrap_err().fault
    }

    #[test]
    fn only_regular_files_that_may_be_read_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(
            fault(SourceFile::open(dir.path())),
            FileFault::NotRegular("a directory")
        ));
        assert!(matches!(fault(SourceFile::open("/dev/null")), FileFault::NotRegular("a device")));
        let made_up = fault(SourceFile::open("/proc/version"));
        assert!(matches!(made_up, FileFault::NotRegular("made up by the system as it is read")));
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(fault(SourceFile::open(&pipe)), FileFault::NotRegular("a pipe")));
        let error = SourceFile::open(dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("none: it cannot be opened: No such file"), "{error}");
    }

    #[test]
    fn what_is_sent_is_open_for_reading_only_and_without_flags() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        let flags = fcntl(source.descriptor(), FcntlArg::F_GETFL).unwrap();
        let flags = OFlag::from_bits_truncate(flags);
        assert_eq!(OFlag::O_RDONLY, flags & OFlag::O_ACCMODE);
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        assert_eq!((3, file.path()), (source.bytes(), source.path()));
    }

    #[test]
    fn a_change_is_noticed_and_an_append_is_none() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"abc").unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        file.as_file().set_modified(old).unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        source.check().unwrap();
        file.write_all(b"d").unwrap();
        source.check().unwrap();
        file.as_file().set_len(3).unwrap();
        assert!(matches!(source.check().unwrap_err().fault, FileFault::Rewritten));
        file.as_file().set_modified(old).unwrap();
        source.check().unwrap();
        file.as_file().set_len(2).unwrap();
        let shrunk = source.check().unwrap_err().fault;
        assert!(matches!(shrunk, FileFault::Shrunk { before: 3, now: 2 }));
        // Reading behind the end says so as well.
        let error = source.read(&mut [0; 3], 0).unwrap_err().fault;
        assert!(matches!(error, FileFault::Shrunk { .. }));
    }
}
