//! `clutch map`: one call for each item, results as JSON lines.
//!
//! One loop takes what comes next (a result, a bad line, Ctrl-C) and writes it. Standard output is
//! flushed whenever nothing more is there at once, so a reader never waits for a full buffer, and
//! a slow reader slows down the reading of items.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::pin::Pin;

use clutch_client::{Chunk, Client, Codec, Failure, RawValue, Reason};
use futures_util::{FutureExt, Stream, StreamExt};
use serde_json::json;

use crate::args::{Global, TargetArgs, function_name};
use crate::connect::{self, Link};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::items::{AfterBad, Bad, BadReason, Input, Source};
use crate::output::{self, Results};
use crate::progress::Progress;
use crate::report;
use crate::wishes::WishError;

/// Bad lines that may wait for the results before them.
const BADS_MAX: usize = 256;

/// Call a function once for each item and print the results as JSON lines
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Items are arguments (JSON if they are JSON, else strings) or the lines of --input, one JSON value in
each; blank lines do not count. A file of any length is read as it is needed. Results are in the
order of the items; a result of the function is one line, as JSON.

When items fail, --on-error decides: stop (no more items; the exit code says why), skip (no line for
them) or report (a line {\"index\": 5, \"error\": {...}} in their place). With skip and report the
other items are not affected, and the exit code is 1 when any has failed. Indices count from 0.

With --timeout or --retry each item is a call of its own, unless --chunk says otherwise.

What the function prints goes to the daemon's log. With --local, --verbose shows that log.

Examples:
  clutch map --local math:factorial 5 6 7
  clutch map mytasks:square --input numbers.jsonl > squares.jsonl
  seq 1000000 | clutch map --local --workers 2 math:sqrt --input - --no-progress | tail -1
  clutch map mytasks:fetch --input urls.jsonl --unordered --index --on-error report")]
pub(crate) struct Args {
    /// Read items from this file of JSON lines; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "items")]
    input: Option<PathBuf>,
    /// Print results as they come instead of in the order of the items
    #[arg(long)]
    unordered: bool,
    /// Print each result as {"index": ..., "result": ...}
    #[arg(long)]
    index: bool,
    /// Items that are sent together: auto, or a number
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = chunk)]
    chunk: Chunk,
    /// Items that may be on their way at once [default: as many as keep the workers busy]
    #[arg(long, value_name = "N")]
    window: Option<NonZeroU32>,
    /// What to do when an item fails
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_error: OnError,
    /// Show no progress bar (without a terminal there is none anyway)
    #[arg(long)]
    no_progress: bool,
    /// The function, as MODULE:QUALNAME; it is called with one item
    #[arg(value_parser = function_name)]
    function: String,
    /// The items: JSON or strings
    #[arg(value_name = "ITEM", allow_negative_numbers = true)]
    items: Vec<String>,
    // Last, since its heading would be given to what follows.
    #[command(flatten)]
    target: TargetArgs,
}

/// What to do when an item fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// Take no more items.
    Stop,
    /// Go on without it.
    Skip,
    /// Go on, with a line that says what happened.
    Report,
}

fn chunk(word: &str) -> Result<Chunk, std::num::ParseIntError> {
    match word {
        "auto" => Ok(Chunk::Auto),
        number => number.parse().map(Chunk::Fixed),
    }
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<Exit, Error> {
    args.target.wishes.check()?;
    if args.target.wishes.names_exceptions()
        && matches!(args.chunk, Chunk::Fixed(items) if items.get() > 1)
    {
        return Err(WishError::Chunk.into());
    }
    let mut interrupt = Interrupt::install().map_err(Error::Prepare)?;
    // First, so that no worker is started for a file that is not there.
    let source = match &args.input {
        Some(file) => Source::open(file)?,
        None => Source::words(&args.items)?,
    };
    let link = connect::open(&args.target.local, global, processors(), &mut interrupt).await?;
    let ended = map(&link, &args, source, &mut interrupt, global.verbose).await;
    link.close(*ended.as_ref().unwrap_or(&Exit::Cancelled)).await;
    ended
}

fn processors() -> u32 {
    let processors = std::thread::available_parallelism();
    processors.map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

async fn map(
    link: &Link,
    args: &Args,
    source: Source,
    interrupt: &mut Interrupt,
    verbose: bool,
) -> Result<Exit, Error> {
    let client = &link.client;
    let after = match args.on_error {
        OnError::Stop => AfterBad::Stop,
        OnError::Skip | OnError::Report => AfterBad::Continue,
    };
    let mut input = source.start(client.welcome().payload_bytes_max, after);
    let mut answers = answers(client, args, &mut input);
    let mut writer = Writer::new(args, input, verbose);
    let ended = loop {
        let next = match writer.next(&mut answers, interrupt).now_or_never() {
            Some(next) => next,
            None => {
                writer.flush().map_err(Error::Output)?;
                writer.next(&mut answers, interrupt).await
            }
        };
        match next {
            Next::Answer(number, answer) => {
                if let Some(exit) = writer.answer(number, answer).map_err(Error::Output)? {
                    break exit;
                }
            }
            Next::Bad(bad) => writer.bads.push_back(bad),
            Next::Interrupted => break writer.interrupted(),
            Next::End => {
                break match writer.last_bads().map_err(Error::Output)? {
                    Some(exit) => exit,
                    None => writer.summary(),
                };
            }
        }
        if let Some(exit) = writer.ready_bads().map_err(Error::Output)? {
            break exit;
        }
    };
    writer.flush().map_err(Error::Output)?;
    // Dropping the stream cancels what is in flight; the daemon must hear of that before we go.
    drop(answers);
    connect::delivered(client).await;
    Ok(ended)
}

/// Answers by the number of their item, in order or as they come.
type Answers = Pin<Box<dyn Stream<Item = (u64, Result<Box<RawValue>, Failure>)>>>;

fn answers(client: &Client, args: &Args, input: &mut Input) -> Answers {
    let items = std::mem::replace(&mut input.items, Box::pin(futures_util::stream::empty()));
    let mut map = client
        .map_stream(&args.function, items)
        .pool(&args.target.pool)
        .priority(args.target.wishes.priority)
        .codec(Codec::Json)
        .chunk(args.chunk);
    if let Some(timeout) = args.target.timeout {
        map = map.timeout(timeout);
    }
    if let Some(retry) = args.target.wishes.retry() {
        map = map.retry(retry);
    }
    if let Some(window) = args.window {
        map = map.window(window);
    }
    if args.unordered {
        return Box::pin(map.unordered());
    }
    let numbers = futures_util::stream::iter(0..);
    Box::pin(
        numbers
            .zip(map.ordered())
            .map(|(number, answer)| (number, answer.map_err(|error| error.failure))),
    )
}

/// What happens next.
enum Next {
    Answer(u64, Result<Box<RawValue>, Failure>),
    Bad(Bad),
    Interrupted,
    End,
}

/// Writes lines, and counts.
struct Writer<'a> {
    args: &'a Args,
    input: Input,
    verbose: bool,
    results: Results,
    progress: Progress,
    /// Bad lines that wait for the results before them.
    bads: VecDeque<Bad>,
    answered: u64,
    written: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl<'a> Writer<'a> {
    fn new(args: &'a Args, input: Input, verbose: bool) -> Writer<'a> {
        Writer {
            args,
            input,
            verbose,
            results: Results::new(),
            progress: Progress::new(!args.no_progress),
            bads: VecDeque::new(),
            answered: 0,
            written: 0,
            failed: 0,
            first_failure: None,
        }
    }

    async fn next(&mut self, answers: &mut Answers, interrupt: &mut Interrupt) -> Next {
        tokio::select! {
            biased;
            () = interrupt.wait() => Next::Interrupted,
            Some(bad) = self.input.bads.recv(), if self.bads.len() < BADS_MAX => Next::Bad(bad),
            answer = answers.next() => match answer {
                Some((number, answer)) => Next::Answer(number, answer),
                None => Next::End,
            },
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.results.is_terminal() {
            self.progress.aside(|| self.results.flush())
        } else {
            self.results.flush()
        }
    }

    /// Writes an answer. Gives the exit code when it is the last.
    fn answer(
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
            Err(failure) => return self.failure(index, &failure),
        }
        Ok(None)
    }

    fn failure(&mut self, index: u64, failure: &Failure) -> std::io::Result<Option<Exit>> {
        if self.args.on_error == OnError::Stop || fails_the_rest(&failure.reason) {
            self.flush()?;
            return Ok(Some(self.progress.aside(|| report::item(index, failure))));
        }
        if self.args.on_error == OnError::Report {
            let line = json!({"index": index, "error": failure});
            self.write(line.to_string().as_bytes())?;
        }
        self.count_failure(|| format!("item {index}: {}", report::sentence(failure)));
        Ok(None)
    }

    /// Writes the bad lines whose turn it is. Gives the exit code when one is the last.
    fn ready_bads(&mut self) -> std::io::Result<Option<Exit>> {
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
    fn last_bads(&mut self) -> std::io::Result<Option<Exit>> {
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

    fn bad(&mut self, bad: Bad) -> std::io::Result<Option<Exit>> {
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

    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        self.written += 1;
        self.results.line(line)
    }

    fn count_failure(&mut self, sentence: impl FnOnce() -> String) {
        self.failed += 1;
        if self.verbose || self.first_failure.is_none() {
            let sentence = sentence();
            if self.verbose {
                self.progress.aside(|| output::note(&sentence));
            }
            self.first_failure.get_or_insert(sentence);
        }
    }

    fn interrupted(&self) -> Exit {
        let Self { written, .. } = self;
        self.progress.aside(|| {
            output::error(&format!(
                "cancelled by Ctrl-C after {written} results; what was in flight is lost"
            ));
        });
        Exit::Cancelled
    }

    /// Says how many items failed. All were tried.
    fn summary(&self) -> Exit {
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
    matches!(reason, Reason::Disconnected { .. } | Reason::Protocol { .. } | Reason::ShuttingDown)
}
