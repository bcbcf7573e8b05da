//! What a map writes: results, failures in their place, what the function prints, and the sum.

use std::collections::VecDeque;

use clutch_client::{Failure, Outcome, OutputChunk, RawValue, Reason};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::journal::Journal;
use super::{Answers, Args, OnError};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::items::{Bad, Beside, Input, Known};
use crate::output::{self, Results};
use crate::printed::Prints;
use crate::progress::Progress;
use crate::report::{self, FailureFormat};

/// Bad lines and finished items that may wait for the results before them.
const BESIDE_MAX: usize = 256;

/// What happens next.
pub(super) enum Next {
    Answer(u64, Result<Outcome<Box<RawValue>>, Failure>),
    Beside(Beside),
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
    /// Bad lines and finished items that wait for the results before them.
    pub(super) beside: VecDeque<Beside>,
    /// Where it is written down what is finished.
    journal: Option<Journal>,
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
        journal: Option<Journal>,
    ) -> Writer<'a> {
        Writer {
            args,
            input,
            verbose,
            results: Results::new(),
            // How many of the items are done is not told where all have one result.
            progress: Progress::new(!args.no_progress && args.reduce.is_none()),
            pieces,
            prints: Prints::default(),
            beside: VecDeque::new(),
            journal,
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
            Some(beside) = self.input.beside.recv(), if self.beside.len() < BESIDE_MAX => {
                Next::Beside(beside)
            }
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

    /// Shows what was written. What is shown is never run again, so the journal goes first.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if let Some(journal) = self.journal.as_mut().filter(|journal| journal.is_behind()) {
            journal.flush()?;
        }
        let flushed = match self.results.is_terminal() {
            true => self.progress.aside(|| self.results.flush()),
            false => self.results.flush(),
        };
        flushed.map_err(Error::Output)
    }

    /// Shows what was written, and hands to the disk what is finished. Nothing more comes.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.last_prints();
        // Also when nobody reads the results any more.
        let flushed = self.flush();
        if let Some(journal) = &self.journal {
            journal.sync()?;
        }
        flushed
    }

    /// Writes an answer. Gives the exit code when it is the last.
    pub(super) fn answer(
        &mut self,
        number: u64,
        answer: Result<Outcome<Box<RawValue>>, Failure>,
    ) -> Result<Option<Exit>, Error> {
        let (index, item) = self.input.positions.answered(number);
        self.answered += 1;
        match answer {
            Ok(outcome) => {
                if let Some(journal) = &mut self.journal {
                    journal.finished(index, item, &outcome)?;
                }
                self.outcome(index, &outcome)?;
                Ok(None)
            }
            Err(mut failure) => {
                if self.args.target.local.local {
                    // Its supervisor will be gone: nobody can be asked about this number.
                    failure.call = 0;
                }
                self.done();
                self.failure(index, &failure)
            }
        }
    }

    fn done(&mut self) {
        self.progress.done();
        self.progress.total(self.input.positions.total());
    }

    /// Writes what came of an item, now or before.
    fn outcome(&mut self, index: u64, outcome: &Outcome<Box<RawValue>>) -> Result<(), Error> {
        self.done();
        match outcome {
            Outcome::Result(result) if self.args.index => {
                let line = format!("{{\"index\":{index},\"result\":{}}}", result.get());
                self.write(line.as_bytes())
            }
            Outcome::Result(result) => self.write(result.get().as_bytes()),
            Outcome::Skipped => Ok(()),
        }
    }

    pub(super) fn failure(&mut self, index: u64, failure: &Failure) -> Result<Option<Exit>, Error> {
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

    /// Writes the bad lines and finished items whose turn it is. Gives the exit code when one is
    /// the last.
    pub(super) fn ready_beside(&mut self) -> Result<Option<Exit>, Error> {
        let in_order = !self.args.unordered && self.args.reduce.is_none();
        while let Some(beside) = self.beside.pop_front() {
            if in_order && beside.before() > self.answered {
                self.beside.push_front(beside);
                break;
            }
            match beside {
                Beside::Known(Known { index, outcome, .. }) => self.outcome(index, &outcome)?,
                Beside::Bad(bad) => {
                    if let Some(exit) = self.bad(bad)? {
                        return Ok(Some(exit));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Writes those behind the last result.
    pub(super) fn last_beside(&mut self) -> Result<Option<Exit>, Error> {
        loop {
            if let Some(exit) = self.ready_beside()? {
                return Ok(Some(exit));
            }
            match self.input.beside.try_recv() {
                Ok(beside) => self.beside.push_back(beside),
                Err(_) => return Ok(None),
            }
        }
    }

    pub(super) fn bad(&mut self, bad: Bad) -> Result<Option<Exit>, Error> {
        if self.args.on_error == OnError::Stop || bad.reason.ends_input() {
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

    pub(super) fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        self.written += 1;
        if self.results.would_flush(line)
            && let Some(journal) = &mut self.journal
        {
            journal.flush()?;
        }
        self.results.line(line).map_err(Error::Output)
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
