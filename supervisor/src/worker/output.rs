//! What a worker prints, cut into lines and bounded. Who the line belongs to is said beside it,
//! never inside it; where it goes is the dispatcher's business.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

use tokio::net::unix::pipe::Receiver;

use crate::limits::{
    OUTPUT_LINE_BYTES_MAX, OUTPUT_LINES_BURST, OUTPUT_LINES_PER_SEC, STDERR_TAIL_BYTES_MAX,
};

/// Taken from a pipe in one go: little enough that a flood of empty lines delays nobody.
pub const READ_BYTES: usize = 4 << 10;

/// One pipe of a worker, and the line that is not finished yet.
#[derive(Debug)]
pub struct Pipe {
    pipe: Rc<Receiver>,
    partial: Vec<u8>,
    open: bool,
}

/// Who asks for what a pipe holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The task that was told by the runtime that there is something, and must tell it when there
    /// is nothing any more.
    Task,
    /// Somebody who cannot wait for the runtime to notice.
    Dispatcher,
}

impl Pipe {
    /// Reads `pipe` without ever waiting on it.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn new(pipe: PipeReader) -> io::Result<Pipe> {
        let pipe = Rc::new(Receiver::from_owned_fd(OwnedFd::from(pipe))?);
        Ok(Pipe { pipe, partial: Vec::new(), open: true })
    }

    /// Whether the other end may still write.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What to wait for. It can be waited for while the pipe is read by others.
    pub fn source(&self) -> Rc<Receiver> {
        self.pipe.clone()
    }

    /// Reads what is there into `buffer`, and no more than that. Whole lines and overlong pieces go
    /// to `line`, all bytes as they came to `raw`. Whether anything was read.
    pub fn read(
        &mut self,
        asker: Asker,
        buffer: &mut [u8],
        raw: &mut dyn FnMut(&[u8]),
        line: &mut dyn FnMut(&[u8]),
    ) -> bool {
        let got = match asker {
            Asker::Task => self.pipe.try_read(buffer),
            Asker::Dispatcher => {
                nix::unistd::read(self.pipe.as_fd(), buffer).map_err(io::Error::from)
            }
        };
        match got {
            Ok(0) => {
                self.open = false;
                self.finish(line);
                false
            }
            Ok(count) => {
                raw(&buffer[..count]);
                self.split(&buffer[..count], line);
                true
            }
            Err(error) => {
                let wait = [io::ErrorKind::Interrupted, io::ErrorKind::WouldBlock];
                self.open = wait.contains(&error.kind());
                false
            }
        }
    }

    /// Gives an unfinished last line away.
    pub fn finish(&mut self, line: &mut dyn FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }

    fn split(&mut self, bytes: &[u8], line: &mut dyn FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (body, ended) = match piece.split_last() {
                Some((b'\n', body)) => (body, true),
                _ => (piece, false),
            };
            let mut body = body;
            while self.partial.len() + body.len() > OUTPUT_LINE_BYTES_MAX {
                let (now, later) = body.split_at(OUTPUT_LINE_BYTES_MAX - self.partial.len());
                self.partial.extend_from_slice(now);
                line(&self.partial);
                self.partial.clear();
                body = later;
            }
            self.partial.extend_from_slice(body);
            if ended {
                line(&self.partial);
                self.partial.clear();
            }
        }
    }
}

/// The last lines of a worker's standard error, within a bound.
#[derive(Debug, Default)]
pub struct Tail(VecDeque<u8>);

impl Tail {
    /// Adds a line, and forgets the oldest bytes beyond the bound.
    pub fn push(&mut self, line: &[u8]) {
        self.0.extend(line);
        self.0.push_back(b'\n');
        let extra = self.0.len().saturating_sub(STDERR_TAIL_BYTES_MAX);
        self.0.drain(..extra);
    }

    /// The lines as one text, fit for a terminal. The first may have lost its beginning.
    pub fn text(&self) -> String {
        let bytes: Vec<u8> = self.0.iter().copied().collect();
        let lines: Vec<_> = bytes.split(|byte| *byte == b'\n').map(escape).collect();
        lines.join("\n").trim_end().to_owned()
    }
}

/// A line as it may be shown: UTF-8, and no control character but the tab. What a terminal or a
/// reader of lines could take for an order, C1 included, is written as Python and C write it.
pub fn escape(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for c in String::from_utf8_lossy(line).chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            c if c.is_control() && c != '\t' => {
                let _ = write!(text, "\\x{:02x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

/// A token bucket for a worker's log lines.
#[derive(Debug)]
pub struct Allowance {
    tokens: u32,
    refilled: Instant,
    dropped: u64,
}

impl Allowance {
    /// A full bucket.
    pub fn new(now: Instant) -> Allowance {
        Allowance { tokens: OUTPUT_LINES_BURST, refilled: now, dropped: 0 }
    }

    /// Whether a line may be logged now, and how many were left out before it.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let elapsed = now.duration_since(self.refilled);
        let earned = elapsed.as_millis().saturating_mul(u128::from(OUTPUT_LINES_PER_SEC)) / 1000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(OUTPUT_LINES_BURST);
            self.tokens = self.tokens.saturating_add(earned).min(OUTPUT_LINES_BURST);
            self.refilled = now;
        }
        if self.tokens == 0 {
            self.dropped += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.dropped))
    }

    /// Lines left out since the last one that was logged.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn lines_come_whole_however_they_were_written() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut pipe = Pipe::new(reader).unwrap();
        let mut lines = Vec::new();
        let mut all = 0;
        for part in ["one\ntw", "o\n\nthr", "ee"] {
            writer.write_all(part.as_bytes()).unwrap();
            let raw = &mut |raw: &[u8]| all += raw.len();
            pipe.read(Asker::Dispatcher, &mut [0; READ_BYTES], raw, &mut |line| {
                lines.push(line.to_vec())
            });
        }
        drop(writer);
        pipe.read(Asker::Dispatcher, &mut [0; READ_BYTES], &mut |_| {}, &mut |line| {
            lines.push(line.to_vec())
        });
        assert_eq!(vec![&b"one"[..], b"two", b"", b"three"], lines);
        assert_eq!(14, all);
        assert!(!pipe.is_open());
    }

    #[tokio::test]
    async fn an_endless_line_is_cut_and_never_kept_whole() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut pipe = Pipe::new(reader).unwrap();
        let mut longest = 0;
        let mut total = 0;
        for _ in 0..10 {
            writer.write_all(&[b'x'; 50_000]).unwrap();
            let mut line = |line: &[u8]| {
                longest = longest.max(line.len());
                total += line.len();
            };
            while pipe.read(Asker::Dispatcher, &mut [0; READ_BYTES], &mut |_| {}, &mut line) {}
        }
        pipe.finish(&mut |line| total += line.len());
        assert_eq!((OUTPUT_LINE_BYTES_MAX, 500_000), (longest, total));
    }

    #[test]
    fn a_log_line_cannot_forge_another_one_f170() {
        assert_eq!("a\\n\\r{\\x1b[31m\\x9b\t\u{fffd}", escape(b"a\n\r{\x1b[31m\xc2\x9b\t\xff"));
    }

    #[test]
    fn the_tail_keeps_the_last_lines_within_its_bound() {
        let mut tail = Tail::default();
        for index in 0..10_000 {
            tail.push(format!("line {index}").as_bytes());
        }
        assert!(tail.text().len() <= STDERR_TAIL_BYTES_MAX);
        assert!(tail.text().ends_with("line 9999"));
    }

    #[test]
    fn a_flood_is_counted_not_logged() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let logged = (0..100_000).filter(|_| allowance.take(start).is_some()).count();
        assert_eq!(OUTPUT_LINES_BURST as usize, logged);
        let later = start + Duration::from_secs(1);
        assert_eq!(Some(100_000 - u64::from(OUTPUT_LINES_BURST)), allowance.take(later));
    }
}
