//! What a call prints, on its way to the terminal: whole lines, so that two streams do not mix
//! within one, and the last of standard error remembered for a death's report.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clutch_client::{OutputChunk, OutputStream};
use tokio::time::Instant;

use crate::output;

/// Bytes of printed text that are remembered; a death certificate quotes fewer.
const PRINTED_BYTES_MAX: usize = 64 << 10;

/// The longest beginning of a line that is held back.
const HELD_BYTES_MAX: usize = 8 << 10;

/// How long a line may stay unfinished before its beginning is shown: a prompt, a progress dot.
pub(crate) const HELD_MAX: Duration = Duration::from_millis(50);

/// The same where several calls print at once: nobody waits for a prompt of one of many.
pub(crate) const MIXED_HELD_MAX: Duration = Duration::from_secs(1);

/// What a call has printed.
#[derive(Default)]
pub(crate) struct Printed {
    complaints: VecDeque<u8>,
    /// The unfinished lines of standard output and standard error.
    held: [Vec<u8>; 2],
}

impl Printed {
    /// Shows a piece, but for the line it leaves unfinished.
    pub(crate) fn print(&mut self, piece: &OutputChunk) {
        if piece.dropped_bytes > 0 {
            self.flush();
            output::note(&format!("[{} bytes of output were left out here]", piece.dropped_bytes));
        }
        if let Some(lines) = self.take_lines(piece.stream, &piece.bytes) {
            output::passthrough(&lines);
        }
        if piece.stream == OutputStream::Stderr {
            let start = piece.bytes.len().saturating_sub(PRINTED_BYTES_MAX);
            self.complaints.extend(&piece.bytes[start..]);
            let extra = self.complaints.len().saturating_sub(PRINTED_BYTES_MAX);
            self.complaints.drain(..extra);
        }
    }

    /// Whether the beginning of a line is held back.
    pub(crate) fn holds(&self) -> bool {
        self.held.iter().any(|held| !held.is_empty())
    }

    /// Shows what is held back.
    pub(crate) fn flush(&mut self) {
        for held in &mut self.held {
            if !held.is_empty() {
                output::passthrough(held);
                held.clear();
            }
        }
    }

    /// The last of what went to standard error.
    pub(crate) fn end(mut self) -> String {
        self.flush();
        String::from_utf8_lossy(&Vec::from(self.complaints)).into_owned()
    }

    /// What can be shown now: everything up to the last line's end. A carriage return ends a line,
    /// too: progress bars are drawn with it.
    fn take_lines(&mut self, stream: OutputStream, bytes: &[u8]) -> Option<Vec<u8>> {
        let held = match stream {
            OutputStream::Stdout => &mut self.held[0],
            OutputStream::Stderr => &mut self.held[1],
        };
        held.extend_from_slice(bytes);
        let end = match held.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')) {
            Some(last) => last + 1,
            None if held.len() > HELD_BYTES_MAX => held.len(),
            None => return None,
        };
        let rest = held.split_off(end);
        Some(std::mem::replace(held, rest))
    }
}

/// What several calls print at once, each in lines of its own.
#[derive(Default)]
pub(crate) struct Prints {
    /// Those with an unfinished line, by their number on the connection: no more than begin in
    /// [`MIXED_HELD_MAX`], after which all are shown.
    calls: BTreeMap<u64, Printed>,
    /// Since when there are any.
    held_since: Option<Instant>,
}

impl Prints {
    /// Shows a piece, but for the line it leaves unfinished.
    pub(crate) fn print(&mut self, piece: &OutputChunk) {
        let printed = self.calls.entry(piece.id).or_default();
        printed.print(piece);
        if !printed.holds() {
            self.calls.remove(&piece.id);
        }
        if self.calls.is_empty() {
            self.held_since = None;
        } else if self.held_since.is_none() {
            self.held_since = Some(Instant::now());
        }
    }

    /// When what is held back is to be shown, whatever else happens; none while nothing is.
    pub(crate) fn due(&self) -> Option<Instant> {
        Some(self.held_since? + MIXED_HELD_MAX)
    }

    /// Shows what is held back, in lines of its own.
    pub(crate) fn flush(&mut self) {
        self.held_since = None;
        for (_, printed) in std::mem::take(&mut self.calls) {
            for mut held in printed.held {
                if !held.is_empty() {
                    held.push(b'\n');
                    output::passthrough(&held);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_streams_do_not_mix_within_a_line() {
        let mut printed = Printed::default();
        assert_eq!(None, printed.take_lines(OutputStream::Stdout, b"one"));
        assert_eq!(None, printed.take_lines(OutputStream::Stderr, b"two"));
        assert!(printed.holds());
        assert_eq!(Some(b"one\n".to_vec()), printed.take_lines(OutputStream::Stdout, b"\nth"));
        assert_eq!(Some(b"two\n".to_vec()), printed.take_lines(OutputStream::Stderr, b"\n"));
        assert_eq!(Some(b"th 10%\r".to_vec()), printed.take_lines(OutputStream::Stdout, b" 10%\r"));
        assert!(!printed.holds());
    }

    #[test]
    fn pieces_that_keep_coming_do_not_put_off_what_is_held() {
        let piece = |id, bytes: &'static [u8]| OutputChunk {
            id,
            stream: OutputStream::Stdout,
            bytes: bytes.into(),
            dropped_bytes: 0,
        };
        let mut prints = Prints::default();
        assert_eq!(None, prints.due());
        prints.print(&piece(1, b"one"));
        let due = prints.due();
        assert!(due.is_some_and(|due| due <= Instant::now() + MIXED_HELD_MAX));
        prints.print(&piece(2, b"two"));
        prints.print(&piece(1, b" more"));
        assert_eq!(due, prints.due(), "it was to be shown then");
        prints.print(&piece(2, b"\n"));
        assert_eq!(due, prints.due(), "the first one is still held");
        prints.flush();
        assert_eq!(None, prints.due());
    }

    #[test]
    fn a_line_without_end_is_not_held_for_ever() {
        let mut printed = Printed::default();
        let long = vec![b'x'; HELD_BYTES_MAX + 1];
        assert_eq!(Some(long.clone()), printed.take_lines(OutputStream::Stdout, &long));
    }
}
