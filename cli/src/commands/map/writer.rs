//! What a map writes: results, failures in their place, what the function prints, and the sum.

use std::collections::VecDeque;

use clutch_client::{Failure, Outcome, OutputChunk, RawValue};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

use super::journal::Journal;
use super::{Answers, Args, OnError};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::{Ask, Interrupt};
use crate::items::{Bad, Beside, Input, Known};
use crate::output;
use crate::progress::Progress;
use crate::report;
use crate::sheet::{Heard, Sheet, Terms, fails_the_rest};

/// Bad lines and finished items that may wait for the results before them.
const BESIDE_MAX: usize = 256;

/// What happens next.
pub(super) enum Next {
    Answer(u64, Result<Outcome<Box<RawValue>>, Failure>),
    Beside(Beside),
    Heard(Heard),
    Interrupted(Ask),
    End,
}

/// Writes lines, and counts.
pub(super) struct Writer<'a> {
    args: &'a Args,
    input: Input,
    pub(super) sheet: Sheet<'a>,
    /// Bad lines and finished items that wait for the results before them.
    pub(super) beside: VecDeque<Beside>,
    /// Where it is written down what is finished.
    journal: Option<Journal>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        args: &'a Args,
        input: Input,
        verbose: bool,
        pieces: mpsc::Receiver<OutputChunk>,
        journal: Option<Journal>,
    ) -> Writer<'a> {
        let terms = Terms {
            function: &args.function,
            verbose,
            json: args.json,
            local: args.target.local.local,
        };
        // How many of the items are done is not told where all have one result.
        let progress = Progress::new(!args.no_progress && args.reduce.is_none());
        let sheet = Sheet::new(terms, progress, pieces);
        Writer { args, input, sheet, beside: VecDeque::new(), journal }
    }

    pub(super) async fn next(&mut self, answers: &mut Answers, interrupt: &mut Interrupt) -> Next {
        if self.sheet.is_due() {
            return Next::Heard(Heard::Unfinished);
        }
        tokio::select! {
            biased;
            ask = interrupt.wait() => Next::Interrupted(ask),
            Some(beside) = self.input.beside.recv(), if self.beside.len() < BESIDE_MAX => {
                Next::Beside(beside)
            }
            heard = self.sheet.hear() => Next::Heard(heard),
            answer = answers.next() => match answer {
                Some((number, answer)) => Next::Answer(number, answer),
                None => Next::End,
            },
        }
    }

    /// Shows what was written. What is shown is never run again, so the journal goes first.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.flush_journal()?;
        self.sheet.flush().map_err(Error::Output)
    }

    fn flush_journal(&mut self) -> Result<(), Error> {
        if let Some(journal) = self.journal.as_mut().filter(|journal| journal.is_behind()) {
            journal.flush()?;
        }
        Ok(())
    }

    /// Shows what was written, and hands to the disk what is finished. Nothing more comes.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.sheet.last_prints();
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
        self.sheet.answered += 1;
        match answer {
            Ok(outcome) => {
                if let Some(journal) = &mut self.journal {
                    journal.finished(index, item, &outcome)?;
                }
                self.outcome(index, &outcome)?;
                Ok(None)
            }
            Err(mut failure) => {
                self.done();
                self.sheet.told(&mut failure);
                self.failure(index, &failure)
            }
        }
    }

    fn done(&mut self) {
        self.sheet.progress.done();
        self.sheet.progress.total(self.input.positions.total());
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
            self.sheet.last_prints();
            let tell = |format| report::item(index, failure, format);
            return Ok(Some(self.sheet.last_failure(tell)));
        }
        if self.args.on_error == OnError::Report {
            let line = json!({"index": index, "error": failure});
            self.write(line.to_string().as_bytes())?;
        }
        self.sheet.count_failure(|| format!("item {index}: {}", report::json_sentence(failure)));
        Ok(None)
    }

    /// Writes the bad lines and finished items whose turn it is. Gives the exit code when one is
    /// the last.
    pub(super) fn ready_beside(&mut self) -> Result<Option<Exit>, Error> {
        let in_order = !self.args.unordered && self.args.reduce.is_none();
        while let Some(beside) = self.beside.pop_front() {
            if in_order && beside.before() > self.sheet.answered {
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
            self.sheet.progress.aside(|| output::error(&bad.to_string()));
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
        self.sheet.progress.done();
        self.sheet.count_failure(|| bad.to_string());
        Ok(None)
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Error> {
        if self.sheet.would_flush(line)
            && let Some(journal) = &mut self.journal
        {
            journal.flush()?;
        }
        self.sheet.write(line).map_err(Error::Output)
    }

    /// Says that somebody wanted it to end.
    pub(super) fn interrupted(&mut self, ask: Ask) -> Result<Exit, Error> {
        self.flush_journal()?;
        Ok(self.sheet.interrupted(ask))
    }

    /// Says how many items failed. All were tried.
    pub(super) fn summary(&mut self) -> Result<Exit, Error> {
        self.flush_journal()?;
        let all = self.input.positions.total().unwrap_or(self.sheet.answered);
        Ok(self.sheet.summary(all, "items"))
    }
}
