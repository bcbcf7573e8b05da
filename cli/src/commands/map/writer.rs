//! What a map writes: results, failures in their place, what the function prints, and the sum.

use std::collections::VecDeque;

use clutch_client::{Failure, OutputChunk, RawValue, Reason};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Answers, Args, OnError};
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::items::{Bad, BadReason, Input};
use crate::output::{self, Results};
use crate::printed::Prints;
use crate::progress::Progress;
use crate::report::{self, FailureFormat};

/// Bad lines that may wait for the results before them.
const BADS_MAX: usize = 256;

/// What happens next.
pub(super) enum Next {
    Answer(u64, Result<Box<RawValue>, Failure>),
    Bad(Bad),
    Printed(OutputChunk),
    /// The beginning of a line was held back for long enough.
    Unfinished,
    Interrupted,
    End,
}

/// Writes lines, and counts.
pub(super) struct Writer<'a> {
    args: &'a Args,
    input: Input,
    verbose: bool,
    results: Results,
    progress: Progress,
    pieces: mpsc::Receiver<OutputChunk>,
    prints: Prints,
    /// Bad lines that wait for the results before them.
    pub(super) bads: VecDeque<Bad>,
    answered: u64,
    written: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        args: &'a Args,
        input: Input,
        verbose: bool,
        pieces: mpsc::Receiver<OutputChunk>,
    ) -> Writer<'a> {
        Writer {
            args,
            input,
            verbose,
            results: Results::new(),
            progress: Progress::new(!args.no_progress),
            pieces,
            prints: Prints::default(),
            bads: VecDeque::new(),
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
            Some(bad) = self.input.bads.recv(), if self.bads.len() < BADS_MAX => Next::Bad(bad),
            Some(piece) = self.pieces.recv() => Next::Printed(piece),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                Next::Unfinished
            }
            answer = answers.next() => match answer {
                Some((number, answer)) => Next::Answer(number, answer),
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
    pub(super) fn answer(
        &mut self,
        number: u64,
        answer: Result<Box<RawValue>, Failure>,
    ) -> std::io::Result<Option<Exit>> {
        let index = self.input.positions.answered(number);
        self.answered += 1;
        self.progress.done();
        self.progress.total(self.input.positions.total());
        match answer {
            Ok(result) if self.args.index => {
                let line = format!("{{\"index\":{index},\"result\":{}}}", result.get());
                self.write(line.as_bytes())?;
            }
            Ok(result) => self.write(result.get().as_bytes())?,
            Err(mut failure) => {
                if self.args.target.local.local {
                    // Its supervisor will be gone: nobody can be asked about this number.
                    failure.call = 0;
                }
                return self.failure(index, &failure);
            }
        }
        Ok(None)
    }

    pub(super) fn failure(
        &mut self,
        index: u64,
        failure: &Failure,
    ) -> std::io::Result<Option<Exit>> {
        if self.args.on_error == OnError::Stop || fails_the_rest(&failure.reason) {
            self.flush()?;
            self.last_prints();
            let format = self.format();
            return Ok(Some(self.progress.aside(|| report::item(index, failure, format))));
        }
        if self.args.on_error == OnError::Report {
            let line = json!({"index": index, "error": failure});
            self.write(line.to_string().as_bytes())?;
        }
        self.count_failure(|| format!("item {index}: {}", report::sentence(failure)));
        Ok(None)
    }

    /// Writes the bad lines whose turn it is. Gives the exit code when one is the last.
    pub(super) fn ready_bads(&mut self) -> std::io::Result<Option<Exit>> {
        let in_order = !self.args.unordered;
        while let Some(bad) = self.bads.pop_front() {
            if in_order && bad.before > self.answered {
                self.bads.push_front(bad);
                break;
            }
            if let Some(exit) = self.bad(bad)? {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }

    /// Writes the bad lines behind the last result.
    pub(super) fn last_bads(&mut self) -> std::io::Result<Option<Exit>> {
        loop {
            if let Some(exit) = self.ready_bads()? {
                return Ok(Some(exit));
            }
            match self.input.bads.try_recv() {
                Ok(bad) => self.bads.push_back(bad),
                Err(_) => return Ok(None),
            }
        }
    }

    pub(super) fn bad(&mut self, bad: Bad) -> std::io::Result<Option<Exit>> {
        let unreadable = matches!(bad.reason, BadReason::Unreadable(_) | BadReason::TooLong { .. });
        if self.args.on_error == OnError::Stop || unreadable {
            self.flush()?;
            self.progress.aside(|| output::error(&bad.to_string()));
            return Ok(Some(Exit::Usage));
        }
        if self.args.on_error == OnError::Report {
            let reason = json!({"kind": "BadInput", "message": bad.reason.to_string()});
            let line = json!({
                "index": bad.index,
                "line": bad.line,
                "error": {"function": self.args.function, "started": false, "reason": reason},
            });
            self.write(line.to_string().as_bytes())?;
        }
        self.progress.done();
        self.count_failure(|| bad.to_string());
        Ok(None)
    }

    pub(super) fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.written += 1;
        self.results.line(line)
    }

    pub(super) fn count_failure(&mut self, sentence: impl FnOnce() -> String) {
        self.failed += 1;
        if self.verbose || self.first_failure.is_none() {
            let sentence = sentence();
            if self.verbose {
                self.progress.aside(|| output::note(&sentence));
            }
            self.first_failure.get_or_insert(sentence);
        }
    }

    pub(super) fn format(&self) -> FailureFormat {
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

    /// Says how many items failed. All were tried.
    pub(super) fn summary(&self) -> Exit {
        let Some(first) = &self.first_failure else {
            return Exit::Ok;
        };
        let all = self.input.positions.total().unwrap_or(self.answered);
        let Self { failed, .. } = self;
        self.progress.aside(|| {
            output::error(&format!("{failed} of {all} items failed; the first: {first}"));
        });
        Exit::Raised
    }
}

/// Whether every later item would fail in the same way.
fn fails_the_rest(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Disconnected { .. } | Reason::Protocol { .. } | Reason::ShuttingDown { .. }
    )
}
