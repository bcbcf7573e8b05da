//! One output file with its predecessors: FILE, FILE.1 and so on. Blocks, so it belongs to the
//! thread in `files`.
//!
//! The crates for this end the program when somebody else moves the files, or go on writing to one
//! that was deleted. Here the name is looked up before each write, so whoever moves or deletes a
//! file or its directory gets a new one.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are written in one go.
const CHUNK_BYTES: usize = 64 << 10;

/// An output file.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    bytes_max: u64,
    files: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Whether it is a file at all: devices have no size and are not renamed.
    is_regular: bool,
    bytes: u64,
    /// Whether its last line was cut by a failed write, or by a crash.
    is_torn: bool,
}

impl RotatedFile {
    /// A file at `path` of at most `bytes_max` bytes, and `files` of them, itself included.
    pub fn new(path: &Path, bytes_max: u64, files: u32) -> RotatedFile {
        RotatedFile { path: path.to_owned(), bytes_max, files, open: None }
    }

    /// Whether it goes by other rules.
    pub fn set_rules(&mut self, bytes_max: u64, files: u32) {
        (self.bytes_max, self.files) = (bytes_max, files);
    }

    /// Appends lines, each with its newline. How many of them are in the file, and why not all.
    pub fn append(&mut self, lines: &[Vec<u8>]) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < lines.len() {
            match self.append_some(&lines[done..]) {
                Ok((count, None)) => done += count,
                Ok((count, Some(error))) => return (done + count, Err(error)),
                Err(error) => {
                    self.open = None;
                    return (done, Err(error));
                }
            }
        }
        (done, Ok(()))
    }

    /// Appends at least one line, as many as fit one file and one write.
    fn append_some(&mut self, lines: &[Vec<u8>]) -> io::Result<(usize, Option<io::Error>)> {
        let first = lines.first().map_or(0, Vec::len) as u64;
        self.make_ready(first)?;
        let bytes_max = self.bytes_max;
        let open = self.open.as_mut().expect("it was made ready");
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        if open.is_torn {
            chunk.push(b'\n');
        }
        let mut ends = Vec::new();
        for line in lines {
            let bytes = (chunk.len() + line.len()) as u64;
            let is_full = open.is_regular && open.bytes + bytes > bytes_max;
            if !ends.is_empty() && (is_full || chunk.len() + line.len() > CHUNK_BYTES) {
                break;
            }
            chunk.extend_from_slice(line);
            ends.push(chunk.len());
        }
        let (written, result) = write_all(&mut open.file, &chunk);
        open.bytes += written as u64;
        let whole = ends.iter().take_while(|end| **end <= written).count();
        if written > 0 {
            open.is_torn = ends.get(whole.wrapping_sub(1)).is_none_or(|end| *end != written);
        }
        Ok((whole, result.err()))
    }

    /// Opens the file, if it is not open or its name is another file's now, and changes to a new
    /// one if it is full.
    fn make_ready(&mut self, bytes: u64) -> io::Result<()> {
        if let Some(open) = &self.open {
            let is_same = match (fs::metadata(&self.path), open.file.metadata()) {
                (Ok(named), Ok(held)) => (named.dev(), named.ino()) == (held.dev(), held.ino()),
                _ => false,
            };
            if !is_same {
                self.open = None;
            }
        }
        if self.open.is_none() {
            self.open = Some(open(&self.path)?);
        }
        let open_file = self.open.as_ref().expect("it was opened");
        let is_full = open_file.bytes > 0 && open_file.bytes + bytes > self.bytes_max;
        if open_file.is_regular && is_full {
            self.open = None;
            self.rotate()?;
            self.open = Some(open(&self.path)?);
        }
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        let numbered = |number: u32| -> PathBuf {
            let mut name = OsString::from(&self.path);
            name.push(format!(".{number}"));
            name.into()
        };
        // A predecessor that is not there leaves a gap; that is no fault.
        let lenient = |result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        };
        if self.files <= 1 {
            return lenient(fs::remove_file(&self.path));
        }
        for number in (1..self.files - 1).rev() {
            lenient(fs::rename(numbered(number), numbered(number + 1)))?;
        }
        lenient(fs::rename(&self.path, numbered(1)))
    }
}

/// Opens a file to append to. Made with its directory where they are not there, for their owner
/// alone: output may hold secrets.
fn open(path: &Path) -> io::Result<Open> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    // A pipe that nobody reads must not hold the thread up for ever.
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)?;
    let metadata = file.metadata()?;
    let (is_regular, bytes) = (metadata.is_file(), metadata.len());
    let mut last = [b'\n'];
    if is_regular && bytes > 0 {
        file.read_exact_at(&mut last, bytes - 1)?;
    }
    Ok(Open { file, is_regular, bytes, is_torn: last != [b'\n'] })
}

/// Writes what can be written, and says how much that was.
fn write_all(file: &mut File, mut bytes: &[u8]) -> (usize, io::Result<()>) {
    let whole = bytes.len();
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return (whole - bytes.len(), Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (whole - bytes.len(), Err(error)),
        }
    }
    (whole, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
        numbers.map(|number| format!("line {number:05}\n").into_bytes()).collect()
    }

    fn append(file: &mut RotatedFile, lines: &[Vec<u8>]) {
        let (count, result) = file.append(lines);
        result.unwrap();
        assert_eq!(lines.len(), count);
    }

    /// All files, the oldest first.
    fn text(path: &Path, files: u32) -> String {
        let names = (1..files).rev().map(|number| format!("{}.{number}", path.display()));
        let old: String = names.filter_map(|name| fs::read_to_string(name).ok()).collect();
        old + &fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_newest_bytes_are_kept_in_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/out.jsonl");
        let mut file = RotatedFile::new(&path, 1000, 3);
        for start in (0..2000).step_by(7) {
            append(&mut file, &lines(start..start + 7));
        }
        let kept = text(&path, 3);
        let first: u32 = kept.lines().next().unwrap()[5..].parse().unwrap();
        let wanted: String =
            lines(first..2002).iter().map(|line| String::from_utf8_lossy(line)).collect();
        assert_eq!(wanted, kept);
        assert!(kept.len() > 2000, "two files at least are full: {}", kept.len());
        let names: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(3, names.len(), "{names:?}");
        for name in names {
            assert!(name.unwrap().metadata().unwrap().len() <= 1000);
        }
    }

    #[test]
    fn one_file_alone_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut file = RotatedFile::new(&path, 100, 1);
        append(&mut file, &lines(0..20));
        assert!(text(&path, 1).ends_with("line 00019\n") && text(&path, 1).len() <= 100);
        assert_eq!(1, fs::read_dir(dir.path()).unwrap().count());
    }

    #[test]
    fn a_file_or_directory_that_is_taken_away_is_made_anew_f137() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/out");
        let mut file = RotatedFile::new(&path, 1 << 20, 3);
        append(&mut file, &lines(0..3));
        fs::rename(&path, dir.path().join("moved")).unwrap();
        append(&mut file, &lines(3..5));
        assert_eq!("line 00003\nline 00004\n", text(&path, 3));
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        append(&mut file, &lines(5..6));
        assert_eq!("line 00005\n", text(&path, 3));
        // And not when it cannot be made: something else has its place.
        fs::remove_dir_all(dir.path().join("logs")).unwrap();
        fs::write(dir.path().join("logs"), "a file").unwrap();
        let (count, result) = file.append(&lines(6..8));
        assert!(result.is_err() && count == 0);
        fs::remove_file(dir.path().join("logs")).unwrap();
        append(&mut file, &lines(8..9));
        assert_eq!("line 00008\n", text(&path, 3));
    }

    #[test]
    fn a_full_disk_takes_no_line_and_a_torn_line_is_ended_f137() {
        let mut full = RotatedFile::new(Path::new("/dev/full"), 4096, 3);
        let (count, result) = full.append(&lines(0..5));
        assert_eq!((0, io::ErrorKind::StorageFull), (count, result.unwrap_err().kind()));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        fs::write(&path, "whole\nhal").unwrap();
        append(&mut RotatedFile::new(&path, 4096, 3), &lines(1..2));
        assert_eq!("whole\nhal\nline 00001\n", text(&path, 3));
    }
}
