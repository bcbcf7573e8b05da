//! What a call prints, on its way to the terminal: whole lines, so that two streams do not mix
//! within one, and the last of standard error remembered for a death's report.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use clutch_client::{OutputChunk, OutputStream};

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
}

impl Prints {
    /// Shows a piece, but for the line it leaves unfinished.
    pub(crate) fn print(&mut self, piece: &OutputChunk) {
        let printed = self.calls.entry(piece.id).or_default();
        printed.print(piece);
        if !printed.holds() {
            self.calls.remove(&piece.id);
        }
    }

    /// Whether the beginning of a line is held back.
    pub(crate) fn holds(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Shows what is held back, in lines of its own.
    pub(crate) fn flush(&mut self) {
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
    fn a_line_without_end_is_not_held_for_ever() {
        let mut printed = Printed::default();
        let long = vec![b'x'; HELD_BYTES_MAX + 1];
        assert_eq!(Some(long.clone()), printed.take_lines(OutputStream::Stdout, &long));
    }
}
