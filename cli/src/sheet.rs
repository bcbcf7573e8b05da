//! What a map writes, whatever it maps: results on standard output, on standard error what its
//! function prints, how far it is, and the sum of its failures.

use std::io;

use clutch_client::{Failure, OutputChunk, Reason};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::exit::Exit;
use crate::interrupt::Ask;
use crate::output::{self, Results};
use crate::printed::Prints;
use crate::progress::Progress;
use crate::report::FailureFormat;
use crate::unread::Unread;

/// How a map is asked for.
pub(crate) struct Terms<'a> {
    pub(crate) function: &'a str,
    /// Whether every failure is told when it comes, not only the first in the end.
    pub(crate) verbose: bool,
    /// Whether a failure is told as JSON.
    pub(crate) json: bool,
    /// Whether its supervisor ends with it.
    pub(crate) local: bool,
}

/// Something that is no answer.
pub(crate) enum Heard {
    Piece(OutputChunk),
    /// The beginning of a line was held back for long enough.
    Unfinished,
    /// Nobody reads the results any more.
    Nobody,
}

/// Writes, and counts.
pub(crate) struct Sheet<'a> {
    terms: Terms<'a>,
    results: Results,
    pub(crate) progress: Progress,
    pieces: mpsc::Receiver<OutputChunk>,
    prints: Prints,
    unread: Unread,
    pub(crate) answered: u64,
    written: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl<'a> Sheet<'a> {
    pub(crate) fn new(
        terms: Terms<'a>,
        progress: Progress,
        pieces: mpsc::Receiver<OutputChunk>,
    ) -> Sheet<'a> {
        Sheet {
            terms,
            results: Results::new(),
            progress,
            pieces,
            prints: Prints::default(),
            unread: Unread::new(),
            answered: 0,
            written: 0,
            failed: 0,
            first_failure: None,
        }
    }

    /// Whether the beginning of a line has been held back for long enough. To be asked before
    /// anything is waited for: there may always be something else that is ready.
    pub(crate) fn is_due(&self) -> bool {
        self.prints.due().is_some_and(|due| due <= Instant::now())
    }

    /// What happens beside the answers. Nothing is lost when this is dropped before its end.
    pub(crate) async fn hear(&mut self) -> Heard {
        let due = self.prints.due();
        tokio::select! {
            biased;
            Some(piece) = self.pieces.recv() => Heard::Piece(piece),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                Heard::Unfinished
            }
            () = self.unread.wait() => Heard::Nobody,
        }
    }

    /// Shows what was printed.
    pub(crate) fn show(&mut self, heard: &Heard) {
        self.progress.aside(|| match heard {
            Heard::Piece(piece) => self.prints.print(piece),
            Heard::Unfinished => self.prints.flush(),
            Heard::Nobody => {}
        });
    }

    /// Shows what came with the last answers.
    pub(crate) fn last_prints(&mut self) {
        while let Ok(piece) = self.pieces.try_recv() {
            self.show(&Heard::Piece(piece));
        }
        self.show(&Heard::Unfinished);
    }

    /// Whether writing a line would also show it.
    pub(crate) fn would_flush(&self, line: &[u8]) -> bool {
        self.results.would_flush(line)
    }

    /// Writes a line of results.
    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.written += 1;
        self.results.line(line)
    }

    /// Shows what was written.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.results.is_terminal() {
            self.progress.aside(|| self.results.flush())
        } else {
            self.results.flush()
        }
    }

    /// Makes of a failure what is told: nobody can be asked about a call whose supervisor is gone.
    pub(crate) fn told(&self, failure: &mut Failure) {
        if self.terms.local {
            failure.call = 0;
        }
    }

    pub(crate) fn count_failure(&mut self, sentence: impl FnOnce() -> String) {
        self.failed += 1;
        if self.terms.verbose || self.first_failure.is_none() {
            let sentence = sentence();
            if self.terms.verbose {
                self.progress.aside(|| output::note(&sentence));
            }
            self.first_failure.get_or_insert(sentence);
        }
    }

    /// Says why nothing more is done: the input cannot be gone on with.
    pub(crate) fn bad_input(&self, sentence: &str) -> Exit {
        self.progress.aside(|| match self.format() {
            FailureFormat::Text => output::error(sentence),
            FailureFormat::Json => {
                let reason = json!({"kind": "BadInput", "message": sentence});
                let error = json!({"function": self.terms.function, "reason": reason});
                output::json_note(&json!({"error": error}).to_string());
            }
        });
        Exit::Usage
    }

    /// Says which failure ends it.
    pub(crate) fn last_failure(&self, tell: impl FnOnce(FailureFormat) -> Exit) -> Exit {
        self.progress.aside(|| tell(self.format()))
    }

    fn format(&self) -> FailureFormat {
        if self.terms.json { FailureFormat::Json } else { FailureFormat::Text }
    }

    /// Shows all that belongs above a last word, where both are read in one place. Whether anybody
    /// reads it is asked for by the flush that ends a map.
    fn settle(&mut self) {
        let _unread = self.flush();
        self.last_prints();
    }

    /// Says that somebody wanted it to end.
    pub(crate) fn interrupted(&mut self, ask: Ask) -> Exit {
        self.settle();
        let written = self.written;
        self.progress.aside(|| match self.format() {
            FailureFormat::Text => output::error(&format!(
                "cancelled by {ask} after {written} results; what was in flight is lost"
            )),
            FailureFormat::Json => {
                let reason = json!({"kind": "Cancelled"});
                let error = json!({"function": self.terms.function, "reason": reason});
                output::json_note(&json!({"results": written, "error": error}).to_string());
            }
        });
        Exit::asked(ask)
    }

    /// Says how many of `all` failed. All were tried.
    pub(crate) fn summary(&mut self, all: u64, noun: &str) -> Exit {
        self.settle();
        let Some(first) = &self.first_failure else {
            return Exit::Ok;
        };
        let Self { failed, .. } = self;
        self.progress.aside(|| {
            output::error(&format!("{failed} of {all} {noun} failed; the first: {first}"));
        });
        Exit::Raised
    }
}

/// Whether everything that is left would fail in the same way.
pub(crate) fn fails_the_rest(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Disconnected { .. } | Reason::Protocol { .. } | Reason::ShuttingDown { .. }
    )
}
