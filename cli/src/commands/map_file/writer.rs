//! What a map-file writes: results, failures in their place, what the function prints, and the sum.

use clutch_client::{Failure, FileChunk, MapFileError, OutputChunk, Reason};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::words::json_of;
use super::{Answer, Answers, Args, OnError};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::output::{self, Results};
use crate::printed::Prints;
use crate::progress::Progress;
use crate::report::{self, FailureFormat};

/// What happens next.
pub(super) enum Next {
    Answer(Box<Answer>),
    Printed(OutputChunk),
    /// The beginning of a line was held back for long enough.
    Unfinished,
    Interrupted,
    End,
}

/// Writes lines, and counts.
pub(super) struct Writer<'a> {
    args: &'a Args,
    verbose: bool,
    results: Results,
    progress: Progress,
    pieces: mpsc::Receiver<OutputChunk>,
    prints: Prints,
    answered: u64,
    written: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        args: &'a Args,
        bytes_total: u64,
        verbose: bool,
        pieces: mpsc::Receiver<OutputChunk>,
    ) -> Writer<'a> {
        Writer {
            args,
            verbose,
            results: Results::new(),
            progress: Progress::of_bytes(!args.no_progress, bytes_total),
            pieces,
            prints: Prints::default(),
            answered: 0,
            written: 0,
            failed: 0,
            first_failure: None,
        }
    }

    pub(super) async fn next(&mut self, answers: &mut Answers, interrupt: &mut Interrupt) -> Next {
        let due = self.prints.due();
        // Looked at first, since there may always be something else that is ready.
        if due.is_some_and(|due| due <= Instant::now()) {
            return Next::Unfinished;
        }
        tokio::select! {
            biased;
            () = interrupt.wait() => Next::Interrupted,
            Some(piece) = self.pieces.recv() => Next::Printed(piece),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                Next::Unfinished
            }
            answer = answers.next() => match answer {
                Some(answer) => Next::Answer(Box::new(answer)),
                None => Next::End,
            },
        }
    }

    pub(super) fn print(&mut self, piece: &OutputChunk) {
        self.progress.aside(|| self.prints.print(piece));
    }

    pub(super) fn flush_prints(&mut self) {
        self.progress.aside(|| self.prints.flush());
    }

    /// Shows what came with the last answers.
    pub(super) fn last_prints(&mut self) {
        while let Ok(piece) = self.pieces.try_recv() {
            self.print(&piece);
        }
        self.flush_prints();
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        if self.results.is_terminal() {
            self.progress.aside(|| self.results.flush())
        } else {
            self.results.flush()
        }
    }

    /// Writes an answer. Gives the exit code when it is the last.
    pub(super) fn answer(&mut self, answer: Answer) -> std::io::Result<Option<Exit>> {
        self.progress.at(answer.bytes_done);
        self.answered += 1;
        match answer.result {
            Ok((index, value)) => match json_of(&self.args.function, value) {
                Ok(result) => self.result(index, &result).map(|()| None),
                Err(failure) => self.failure(index, None, &failure),
            },
            Err(MapFileError::Chunk { chunk, mut failure }) => {
                if self.args.target.local.local {
                    // Its supervisor will be gone: nobody can be asked about this number.
                    failure.call = 0;
                }
                self.failure(chunk.index, Some(&chunk), &failure)
            }
            Err(MapFileError::File(error)) => {
                self.flush()?;
                self.last_prints();
                self.progress.aside(|| match self.format() {
                    FailureFormat::Text => output::error(&error.to_string()),
                    FailureFormat::Json => {
                        let reason = json!({"kind": "BadInput", "message": error.to_string()});
                        let error = json!({"function": self.args.function, "reason": reason});
                        output::json_note(&json!({"error": error}).to_string());
                    }
                });
                Ok(Some(Exit::Usage))
            }
        }
    }

    fn result(&mut self, index: u64, result: &[u8]) -> std::io::Result<()> {
        if !self.args.index {
            return self.write(result);
        }
        let mut line = format!("{{\"chunk\":{index},\"result\":").into_bytes();
        line.extend_from_slice(result);
        line.push(b'}');
        self.write(&line)
    }

    fn failure(
        &mut self,
        index: u64,
        chunk: Option<&FileChunk>,
        failure: &Failure,
    ) -> std::io::Result<Option<Exit>> {
        let name = chunk.map_or_else(|| format!("chunk {index}"), ToString::to_string);
        let place = match chunk {
            Some(FileChunk { row_group: Some(row_group), .. }) => json!({"index": row_group}),
            Some(FileChunk { index, offset, bytes, .. }) => {
                json!({"index": index, "offset": offset, "bytes": bytes})
            }
            None => json!({"index": index}),
        };
        if self.args.on_error == OnError::Stop || fails_the_rest(&failure.reason) {
            self.flush()?;
            self.last_prints();
            let format = self.format();
            let exit = self.progress.aside(|| report::chunk(&name, &place, failure, format));
            return Ok(Some(exit));
        }
        if self.args.on_error == OnError::Report {
            let line = json!({"chunk": place, "error": failure});
            self.write(line.to_string().as_bytes())?;
        }
        self.failed += 1;
        if self.verbose || self.first_failure.is_none() {
            let sentence = format!("{name}: {}", report::sentence(failure));
            if self.verbose {
                self.progress.aside(|| output::note(&sentence));
            }
            self.first_failure.get_or_insert(sentence);
        }
        Ok(None)
    }

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.written += 1;
        self.results.line(line)
    }

    fn format(&self) -> FailureFormat {
        if self.args.json { FailureFormat::Json } else { FailureFormat::Text }
    }

    pub(super) fn interrupted(&self) -> Exit {
        let Self { written, .. } = self;
        self.progress.aside(|| match self.format() {
            FailureFormat::Text => output::error(&format!(
                "cancelled by Ctrl-C after {written} results; what was in flight is lost"
            )),
            FailureFormat::Json => {
                let reason = json!({"kind": "Cancelled"});
                let error = json!({"function": self.args.function, "reason": reason});
                output::json_note(&json!({"results": written, "error": error}).to_string());
            }
        });
        Exit::Cancelled
    }

    /// Says how many chunks failed. All were tried.
    pub(super) fn summary(&self) -> Exit {
        let Some(first) = &self.first_failure else {
            return Exit::Ok;
        };
        let Self { failed, answered, .. } = self;
        self.progress.aside(|| {
            output::error(&format!("{failed} of {answered} chunks failed; the first: {first}"));
        });
        Exit::Raised
    }
}

/// Whether every later chunk would fail in the same way.
fn fails_the_rest(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Disconnected { .. } | Reason::Protocol { .. } | Reason::ShuttingDown { .. }
    )
}
