//! `clutch map-file`: one call for each chunk of a file, results as JSON lines.
//!
//! The file is opened here and read by the workers; what they are given is not printed. One loop
//! takes what comes next (a result, a print, Ctrl-C) and writes it.

mod words;
mod writer;

use std::path::PathBuf;
use std::pin::Pin;

use clutch_client::{Csv, MapFileError, OutputChunk, SourceFile, Split};
use clutch_protocol::value::Value;
use futures_util::{FutureExt, Stream};
use tokio::sync::mpsc;

use crate::args::{Global, TargetArgs, function_name};
use crate::connect::{self, Link};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::sheet::Heard;
use words::{chunk_size, delimiter};
use writer::{Next, Writer};

/// Pieces of output that may wait for the terminal; what comes faster is left out, and counted.
const OUTPUT_PIECES_MAX: usize = 256;

/// Call a function once for each chunk of a file and print the results as JSON lines
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The function is called with one argument: a memoryview of the whole records that begin in a chunk,
which its worker maps from the file; so the file may be larger than any memory. --split says where
records end:

  lines               behind each line feed; jsonl is the same
  bytes               anywhere: --chunk is the length of each chunk
  csv                 behind line feeds that are not in quotes
  parquet-row-groups  a chunk is a row group, given as a pyarrow.Table

With --header the first record of CSV names the columns: it is in no chunk, and the function is
given the names as the keyword argument `header`, a list of text.

Results are in the order of the file; a result of the function is one line, as JSON. A chunk whose
result JSON cannot hold (bytes, NaN, complex) has failed, and its error says where that is and what
to return instead. A chunk that no
record begins in, since one is longer than --chunk, has no call and no line. The file must not
change meanwhile; what is appended is not read.

When chunks fail, --on-error decides: stop (no more chunks; the exit code says why), skip (no line
for them) or report (a line {\"chunk\": {...}, \"error\": {...}} in their place). Ctrl-C cancels
what is under way.

Examples:
  clutch map-file logs:count_errors app.log | paste -sd+ | bc
  clutch map-file --local --path . shop:revenue sales.csv --split csv --header
  clutch map-file shop:mean sales.parquet --split parquet-row-groups --index")]
pub(crate) struct Args {
    /// Where records end
    #[arg(long, value_name = "WHERE", default_value = "lines")]
    split: SplitArg,
    /// How much of the file one call is given, like 64MiB; whole records may be more
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = chunk_size)]
    chunk: u64,
    /// The first record names the columns (csv)
    #[arg(long)]
    header: bool,
    /// What separates fields, like ';' or '\t' (csv) [default: ,]
    #[arg(long, value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: Option<u8>,
    /// Print results as they come instead of in the order of the file
    #[arg(long)]
    unordered: bool,
    /// Print each result as {"chunk": ..., "result": ...}
    #[arg(long)]
    index: bool,
    /// What to do when a chunk fails
    #[arg(long, value_name = "WHAT", default_value = "stop")]
    on_error: OnError,
    /// Print the failure that ends the map as one JSON object, still on standard error
    #[arg(long)]
    json: bool,
    /// Show no progress bar (without a terminal there is none anyway)
    #[arg(long)]
    no_progress: bool,
    /// The function, as MODULE:QUALNAME; it is called with one chunk
    #[arg(value_parser = function_name)]
    function: String,
    /// The file
    file: PathBuf,
    // Last, since its heading would be given to what follows.
    #[command(flatten)]
    target: TargetArgs,
}

/// Where records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SplitArg {
    /// Behind line feeds.
    Lines,
    /// Anywhere.
    Bytes,
    /// Behind line feeds that are not in quotes.
    Csv,
    /// Behind line feeds.
    Jsonl,
    /// A chunk is a row group.
    ParquetRowGroups,
}

/// What to do when a chunk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// Take no more chunks.
    Stop,
    /// Go on without it.
    Skip,
    /// Go on, with a line that says what happened.
    Report,
}

impl Args {
    fn split(&self) -> Result<Split, Error> {
        if self.split != SplitArg::Csv && (self.header || self.delimiter.is_some()) {
            return Err(Error::OnlyCsv);
        }
        Ok(match self.split {
            SplitArg::Lines | SplitArg::Jsonl => Split::Lines,
            SplitArg::Bytes => Split::Bytes,
            SplitArg::ParquetRowGroups => Split::ParquetRowGroups,
            SplitArg::Csv => {
                let csv = if self.header { Csv::new().with_header() } else { Csv::new() };
                Split::Csv(self.delimiter.map_or(csv, |delimiter| csv.delimiter(delimiter)))
            }
        })
    }
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<Exit, Error> {
    args.target.wishes.check()?;
    let split = args.split()?;
    let mut interrupt = Interrupt::install().map_err(Error::Prepare)?;
    // First, so that no worker is started for a file that is not there.
    let source = SourceFile::open(&args.file)?;
    let link =
        connect::open(&args.target, global, super::map::processors(), &mut interrupt).await?;
    let ended = map(&link, &args, (source, split), &mut interrupt, global.verbose).await;
    link.close(*ended.as_ref().unwrap_or(&Exit::Cancelled)).await;
    ended
}

async fn map(
    link: &Link,
    args: &Args,
    (source, split): (SourceFile, Split),
    interrupt: &mut Interrupt,
    verbose: bool,
) -> Result<Exit, Error> {
    let client = &link.client;
    let (sink, pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let bytes_total = source.bytes();
    let mut answers = answers(link, args, (source, split), sink)?;
    let mut writer = Writer::new(args, bytes_total, verbose, pieces);
    let ended = loop {
        let next = match writer.next(&mut answers, interrupt).now_or_never() {
            Some(next) => next,
            None => {
                writer.sheet.flush().map_err(Error::Output)?;
                writer.next(&mut answers, interrupt).await
            }
        };
        match next {
            Next::Answer(answer) => {
                if let Some(exit) = writer.answer(*answer).map_err(Error::Output)? {
                    break exit;
                }
            }
            // As when there is something to write: whoever has read enough is content.
            Next::Heard(Heard::Nobody) => break Exit::Ok,
            Next::Heard(heard) => writer.sheet.show(&heard),
            Next::Interrupted(ask) => break writer.sheet.interrupted(ask),
            Next::End => break writer.sheet.summary(writer.sheet.answered, "chunks"),
        }
    };
    writer.sheet.last_prints();
    writer.sheet.flush().map_err(Error::Output)?;
    // Dropping the stream cancels what is in flight; the daemon must hear of that before we go.
    drop(answers);
    connect::delivered(client).await;
    Ok(ended)
}

/// What comes next of the map: a result, and how many bytes are done.
struct Answer {
    /// The chunk's index and its result.
    result: Result<(u64, Value), MapFileError>,
    bytes_done: u64,
}

type Answers = Pin<Box<dyn Stream<Item = Answer>>>;

fn answers(
    link: &Link,
    args: &Args,
    (source, split): (SourceFile, Split),
    sink: mpsc::Sender<OutputChunk>,
) -> Result<Answers, Error> {
    let mut map = link
        .client
        .map_source::<Value>(&args.function, source)
        .pool(&args.target.pool)
        .priority(args.target.wishes.priority)
        .split(split)
        .chunk_bytes(args.chunk)
        .output(sink);
    if let Some(timeout) = args.target.timeout {
        map = map.timeout(timeout);
    }
    if let Some(retry) = args.target.wishes.retry() {
        map = map.retry(retry);
    }
    // One state for both orders: results with their index, and what is done.
    Ok(if args.unordered {
        let stream = map.unordered()?;
        Box::pin(futures_util::stream::unfold(stream, |mut stream| async {
            let result = stream.next().await?;
            let bytes_done = stream.bytes_done();
            Some((Answer { result, bytes_done }, stream))
        }))
    } else {
        let stream = map.ordered()?;
        Box::pin(futures_util::stream::unfold(stream, |mut stream| async {
            let result = stream.next_indexed().await?;
            let bytes_done = stream.bytes_done();
            Some((Answer { result, bytes_done }, stream))
        }))
    })
}
