//! `clutch map`: one call for each item, results as JSON lines.
//!
//! One loop takes what comes next (a result, a bad line, Ctrl-C) and writes it. Standard output is
//! flushed whenever nothing more is there at once, so a reader never waits for a full buffer, and
//! a slow reader slows down the reading of items.

mod journal;

mod writer;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::pin::Pin;

use clutch_client::{Chunk, Client, Codec, Failure, Map, Outcome, OutputChunk, RawValue};
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;

use crate::args::{Global, NumberError, TargetArgs, count, function_name};
use crate::connect::{self, Link};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::items::{AfterBad, Input, Items, Source};
use crate::sheet::Heard;
use crate::wishes::WishError;
pub(crate) use journal::{Finished, JournalError};
use journal::{Job, Journal};
use writer::{Next, Writer};

/// Pieces of output that may wait for the terminal; what comes faster is left out, and counted.
const OUTPUT_PIECES_MAX: usize = 256;

/// Call a function once for each item and print the results as JSON lines
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Items are arguments (JSON if they are JSON, else strings) or the lines of --input, one JSON value in
each; blank lines do not count. A file of any length is read as it is needed. Results are in the
order of the items; a result of the function is one line, as JSON. An item whose result JSON cannot
hold (bytes, NaN, complex) has failed, and its error says where that is and what to return instead.

When items fail, --on-error decides: stop (no more items; the exit code says why), skip (no line for
them) or report (a line {\"index\": 5, \"error\": {...}} in their place). With skip and report the
other items are not affected, and the exit code is 1 when any has failed. Indices count from 0.

An item for which the function returns clutch.SKIP has no result, and no line: so a map can filter.
With --reduce the results become one, from left to right, by a function of two that workers call;
it must be associative. The first item that fails ends it.

With --timeout or --retry each item is a call of its own, unless --chunk says otherwise.

With --resume each finished item is written to FILE before its result is shown. The same command
again, after Ctrl-C, a failure, kill -9 or a crash of the machine, prints all results as if nothing
had happened, and calls the function only for items that are not in FILE (in the last second before
the machine died, some may be lost). Items that failed are tried again. FILE belongs to one
function, pool and input; for another it is refused. More items may have been added behind those of
before, and they may come from elsewhere (a pipe, a file), as long as those that are finished are
the same; a finished item that changed or is missing is named, and nothing is called. Delete FILE to
begin anew.

What the function prints goes to standard error, in whole lines, as far as that keeps up with it;
all of it is in `clutch logs`. Ctrl-C cancels what is under way.

Examples:
  clutch map --local math:factorial 5 6 7
  clutch map mytasks:square --input numbers.jsonl > squares.jsonl
  seq 1000000 | clutch map --local --workers 2 math:sqrt --input - --no-progress | tail -1
  clutch map mytasks:fetch --input urls.jsonl --unordered --index --on-error report
  clutch map --starmap math:pow '[2, 3]' '[5, 2]'
  clutch map mytasks:count --input files.jsonl --reduce operator:add
  clutch map mytasks:render --input frames.jsonl --resume frames.journal > frames.out")]
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
    /// Items that are sent together: auto, or a number up to 4294967295; never more than --window
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = chunk)]
    chunk: Chunk,
    /// Items that may be read and have no printed result yet [default: 65536]
    #[arg(long, value_name = "N", value_parser = count)]
    window: Option<NonZeroU32>,
    /// What to do when an item fails
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_error: OnError,
    /// Each item is the list of the function's arguments
    #[arg(long)]
    starmap: bool,
    /// Make one result of all, by this function of two
    #[arg(
        long,
        value_name = "FUNCTION",
        value_parser = function_name,
        conflicts_with_all = ["unordered", "index", "resume"],
    )]
    reduce: Option<String>,
    /// Keep in this file what is finished, and do not call the function for that again
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Print the failure that ends the map as one JSON object, still on standard error
    #[arg(long)]
    json: bool,
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

fn chunk(word: &str) -> Result<Chunk, NumberError> {
    match word {
        "auto" => Ok(Chunk::Auto),
        number => count(number).map(Chunk::Fixed).map_err(|error| match error {
            NumberError::Count => NumberError::Chunk,
            error => error,
        }),
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
    if args.reduce.is_some() && args.on_error != OnError::Stop {
        return Err(WishError::Reduce.into());
    }
    // First, so that no worker is started for a file that is not there.
    let source = match &args.input {
        Some(file) => Source::open(file)?,
        None => Source::words(&args.items)?,
    };
    let resumed = match &args.resume {
        Some(path) => {
            let (journal, finished) = Journal::open(path, &args.job(&source))?;
            source.check(&finished)?;
            Some((journal, finished))
        }
        None => None,
    };
    let link = connect::open(&args.target, global, processors(), &mut interrupt).await?;
    let ended = map(&link, &args, (source, resumed), &mut interrupt, global.verbose).await;
    link.close(*ended.as_ref().unwrap_or(&Exit::Cancelled)).await;
    ended
}

pub(super) fn processors() -> u32 {
    let processors = std::thread::available_parallelism();
    processors.map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

async fn map(
    link: &Link,
    args: &Args,
    (source, resumed): (Source, Option<(Journal, Finished)>),
    interrupt: &mut Interrupt,
    verbose: bool,
) -> Result<Exit, Error> {
    let client = &link.client;
    let after = match args.on_error {
        OnError::Stop => AfterBad::Stop,
        OnError::Skip | OnError::Report => AfterBad::Continue,
    };
    let (journal, finished) = resumed.unzip();
    let mut input = source.start(client.welcome().payload_bytes_max, after, finished);
    let (sink, pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let mut answers = answers(client, args, &mut input, sink);
    let mut writer = Writer::new(args, input, verbose, pieces, journal);
    let ended = loop {
        let next = match writer.next(&mut answers, interrupt).now_or_never() {
            Some(next) => next,
            None => {
                writer.flush()?;
                writer.next(&mut answers, interrupt).await
            }
        };
        match next {
            Next::Answer(number, answer) => {
                if let Some(exit) = writer.answer(number, answer)? {
                    break exit;
                }
            }
            Next::Beside(beside) => writer.beside.push_back(beside),
            // As when there is something to write: whoever has read enough is content.
            Next::Heard(Heard::Nobody) => break Exit::Ok,
            Next::Heard(heard) => writer.sheet.show(&heard),
            Next::Interrupted(ask) => break writer.interrupted(ask)?,
            Next::End => {
                break match writer.last_beside()? {
                    Some(exit) => exit,
                    None => writer.summary()?,
                };
            }
        }
        if let Some(exit) = writer.ready_beside()? {
            break exit;
        }
    };
    writer.end()?;
    // Dropping the stream cancels what is in flight; the daemon must hear of that before we go.
    drop(answers);
    connect::delivered(client).await;
    Ok(ended)
}

impl Args {
    /// What a journal is of.
    fn job(&self, source: &Source) -> Job<'_> {
        let Args { function, starmap, target, .. } = self;
        Job { function, pool: &target.pool, starmap: *starmap, input: source.identity() }
    }
}

/// Answers by the number of their item, in order or as they come.
type Answers = Pin<Box<dyn Stream<Item = (u64, Result<Outcome<Box<RawValue>>, Failure>)>>>;

fn answers(
    client: &Client,
    args: &Args,
    input: &mut Input,
    sink: mpsc::Sender<OutputChunk>,
) -> Answers {
    let items = std::mem::replace(&mut input.items, Box::pin(futures_util::stream::empty()));
    let map = configured(client.map_stream(&args.function, items), args).output(sink);
    if let Some(fold) = args.reduce.clone() {
        let reduced = async {
            match map.reduce(fold).await {
                Ok(all) => all.map(|all| (0, Ok(Outcome::Result(all)))),
                Err(error) => Some((error.index, Err(error.failure))),
            }
        };
        return Box::pin(futures_util::stream::once(reduced).filter_map(std::future::ready));
    }
    match args.unordered {
        true => Box::pin(map.outcomes().unordered()),
        false => Box::pin(map.outcomes().enumerated()),
    }
}

type Calls = Map<Client, Items, Box<RawValue>>;

fn configured(map: Calls, args: &Args) -> Calls {
    let mut map = map
        .pool(&args.target.pool)
        .priority(args.target.wishes.priority)
        .codec(Codec::Json)
        .chunk(args.chunk);
    if args.starmap {
        map = map.star();
    }
    if let Some(timeout) = args.target.timeout {
        map = map.timeout(timeout);
    }
    if let Some(retry) = args.target.wishes.retry() {
        map = map.retry(retry);
    }
    match args.window {
        Some(window) => map.window(window),
        None => map,
    }
}
