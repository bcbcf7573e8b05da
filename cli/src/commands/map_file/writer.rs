//! What a map-file writes: results, failures in their place, what the function prints, and the sum.

use clutch_client::{Failure, FileChunk, MapFileError, OutputChunk};
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc;

use super::words::json_of;
use super::{Answer, Answers, Args, OnError};
use crate::exit::Exit;
use crate::interrupt::{Ask, Interrupt};
use crate::progress::Progress;
use crate::report;
use crate::sheet::{Heard, Sheet, Terms, fails_the_rest};

/// What happens next.
pub(super) enum Next {
    Answer(Box<Answer>),
    Heard(Heard),
    Interrupted(Ask),
    End,
}

/// Writes lines, and counts.
pub(super) struct Writer<'a> {
    args: &'a Args,
    pub(super) sheet: Sheet<'a>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        args: &'a Args,
        bytes_total: u64,
        verbose: bool,
        pieces: mpsc::Receiver<OutputChunk>,
    ) -> Writer<'a> {
        let terms = Terms {
            function: &args.function,
            verbose,
            json: args.json,
            local: args.target.local.local,
        };
        let progress = Progress::of_bytes(!args.no_progress, bytes_total);
        Writer { args, sheet: Sheet::new(terms, progress, pieces) }
    }

    pub(super) async fn next(&mut self, answers: &mut Answers, interrupt: &mut Interrupt) -> Next {
        if self.sheet.is_due() {
            return Next::Heard(Heard::Unfinished);
        }
        tokio::select! {
            biased;
            ask = interrupt.wait() => Next::Interrupted(ask),
            heard = self.sheet.hear() => Next::Heard(heard),
            answer = answers.next() => match answer {
                Some(answer) => Next::Answer(Box::new(answer)),
                None => Next::End,
            },
        }
    }

    /// Writes an answer. Gives the exit code when it is the last.
    pub(super) fn answer(&mut self, answer: Answer) -> std::io::Result<Option<Exit>> {
        self.sheet.progress.at(answer.bytes_done);
        self.sheet.answered += 1;
        match answer.result {
            Ok((index, value)) => match json_of(&self.args.function, value) {
                Ok(result) => self.result(index, &result).map(|()| None),
                Err(failure) => self.failure(index, None, &failure),
            },
            Err(MapFileError::Chunk { chunk, mut failure }) => {
                self.sheet.told(&mut failure);
                self.failure(chunk.index, Some(&chunk), &failure)
            }
            Err(MapFileError::File(error)) => {
                self.sheet.flush()?;
                self.sheet.last_prints();
                Ok(Some(self.sheet.bad_input(&error.to_string())))
            }
        }
    }

    fn result(&mut self, index: u64, result: &[u8]) -> std::io::Result<()> {
        if !self.args.index {
            return self.sheet.write(result);
        }
        let mut line = format!("{{\"chunk\":{index},\"result\":").into_bytes();
        line.extend_from_slice(result);
        line.push(b'}');
        self.sheet.write(&line)
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
            self.sheet.flush()?;
            self.sheet.last_prints();
            let tell = |format| report::chunk(&name, &place, failure, format);
            return Ok(Some(self.sheet.last_failure(tell)));
        }
        if self.args.on_error == OnError::Report {
            let line = json!({"chunk": place, "error": failure});
            self.sheet.write(line.to_string().as_bytes())?;
        }
        self.sheet.count_failure(|| format!("{name}: {}", report::sentence(failure)));
        Ok(None)
    }
}
