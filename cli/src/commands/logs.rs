//! `clutch logs`: what workers have printed and logged.

use std::num::NonZeroU64;

use clutch_client::{
    Client, Explanation, Failure, LogBatch, LogLine, LogQuery, LogStream, LogTail, OperateError,
};
use futures_util::{FutureExt, StreamExt};

use crate::args::{NumberError, pool_name};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::{Ask, Interrupt};
use crate::output::{self, Results};
use crate::{connect, report};

/// How many lines are shown of a whole daemon or pool.
const LINES: u32 = 200;

/// Show what workers have printed and logged
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Each line shows when it was printed (UTC), by which worker (POOL/SLOT.GENERATION), during which
call, and how: on stdout or stderr, or as a record of Python's logging, if the pool forwards those
(its key `logging`). The daemon keeps the newest lines of each pool; [daemon.output] says how many,
and whether they go to files, too.

Exit code 2 when there is no such pool or never was such a call, 7 when the call is forgotten.

With -f it goes on with the lines that come, until Ctrl-C.

Examples:
  clutch logs
  clutch logs --pool default -n 1000 | less
  clutch logs --call 17
  clutch logs -f --worker 0
  clutch logs --json | jq -r 'select(.stream == \"stderr\").text'")]
pub(crate) struct Args {
    /// Only of this pool
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pool: Option<String>,
    /// Only of the call with this id
    #[arg(long, value_name = "ID", value_parser = call_number)]
    call: Option<NonZeroU64>,
    /// Only of the workers in this slot
    #[arg(long, value_name = "SLOT")]
    worker: Option<u32>,
    /// How many lines, the newest ones [default: 200; all with --call]
    #[arg(short = 'n', long, value_name = "LINES")]
    lines: Option<u32>,
    /// Go on with the lines that come
    #[arg(short, long)]
    follow: bool,
    /// Print each line as a JSON object
    #[arg(long)]
    json: bool,
}

/// The number of a call; 0 stands for none wherever lines are.
fn call_number(word: &str) -> Result<NonZeroU64, NumberError> {
    word.parse().map_err(|_| NumberError::Call)
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let mut interrupt = Interrupt::install().map_err(Error::Prepare)?;
    let client = connect::daemon(socket).await?;
    if args.follow
        && let Some(call) = args.call
    {
        // Of a call that never was, nothing will ever come.
        known(&client, call).await?;
    }
    let all = if args.call.is_some() { u32::MAX } else { LINES };
    let query = LogQuery {
        pool: args.pool.clone(),
        call: args.call.map(NonZeroU64::get),
        slot: args.worker,
        lines: args.lines.unwrap_or(all),
    };
    let mut tail = if args.follow { client.follow_logs(query) } else { client.logs(query) };
    let mut results = Results::new();
    let mut is_empty = true;
    loop {
        let next = match tail.next().now_or_never() {
            Some(next) => next,
            None => {
                // Whoever reads along sees what is there before more is waited for.
                results.flush().map_err(Error::Output)?;
                match wait(&mut tail, &mut interrupt).await {
                    Ok(next) => next,
                    // Ctrl-C is how following ends; nothing else is left undone by it.
                    Err(_) if args.follow => return Ok(Exit::Ok),
                    Err(ask) => return Ok(Exit::asked(ask)),
                }
            }
        };
        let Some(batch) = next else {
            results.flush().map_err(Error::Output)?;
            if is_empty {
                say_why(&client, &args).await?;
            }
            return Ok(Exit::Ok);
        };
        match batch.map_err(Box::new).and_then(|batch| show(&batch, args.json)) {
            Ok(lines) => {
                is_empty &= lines.is_empty();
                for line in lines {
                    results.text(&line).map_err(Error::Output)?;
                }
            }
            Err(failure) => {
                results.flush().map_err(Error::Output)?;
                return Ok(report::failure(&failure, report::FailureFormat::Text, ""));
            }
        }
    }
}

/// Says on standard error why there is no line, so that nobody takes a wrong name for silence.
async fn say_why(client: &Client, args: &Args) -> Result<(), Error> {
    let Some(call) = args.call else {
        let of = match (&args.pool, args.worker) {
            (Some(pool), Some(slot)) => format!(" of slot {slot} of pool '{pool}'"),
            (Some(pool), None) => format!(" of pool '{pool}'"),
            (None, Some(slot)) => format!(" of slot {slot} of any pool"),
            (None, None) => String::new(),
        };
        output::note(&format!("no line{of} is kept"));
        return Ok(());
    };
    let life = known(client, call).await?;
    let what = match &*life.state {
        "queued" => "waits for a worker",
        "running" => "has not printed anything yet, or its lines are not kept any more",
        _ => "has printed nothing, or its lines are not kept any more ([daemon.output])",
    };
    output::note(&format!("{} {what}", call_with_name(call, &life.function)));
    Ok(())
}

/// A call, and its function unless that is forgotten.
fn call_with_name(call: NonZeroU64, function: &str) -> String {
    match function {
        "" => format!("call {call}"),
        name => format!("call {call} ({name})"),
    }
}

/// What is known of a call; an error when there never was one, or it is forgotten.
async fn known(client: &Client, call: NonZeroU64) -> Result<Explanation, Error> {
    match client.explain(call.get()).await {
        Ok(life) => Ok(life),
        Err(OperateError::Refused { denial, sentence }) => {
            let sentence = format!("no line of call {call} is kept: {sentence}");
            Err(Error::Refused { denial, sentence })
        }
        Err(error) => Err(error.into()),
    }
}

/// The next batch, unless Ctrl-C comes first.
async fn wait(
    tail: &mut LogTail,
    interrupt: &mut Interrupt,
) -> Result<Option<Result<LogBatch, Failure>>, Ask> {
    tokio::select! {
        next = tail.next() => Ok(next),
        ask = interrupt.wait() => Err(ask),
    }
}

fn show(batch: &LogBatch, json: bool) -> Result<Vec<String>, Box<Failure>> {
    if batch.dropped > 0 {
        let dropped = batch.dropped;
        output::note(&format!(
            "{dropped} lines are missing here: they came faster than this reads"
        ));
    }
    if json {
        let lines = batch.raw_lines()?;
        return Ok(lines.iter().map(|line| output::escape_json(line.get()).into_owned()).collect());
    }
    Ok(batch.lines()?.iter().map(text).collect())
}

/// A line for people: `12:03:04.123 default/0.3 call 17 stderr| text`.
fn text(line: &LogLine) -> String {
    // Of the date and time only the time, without its zone.
    let time = line.time.get(11..23).unwrap_or(&line.time);
    let call = match line.call {
        0 => "-".to_owned(),
        call => format!("call {call}"),
    };
    let how = match (line.stream, &line.level, &line.logger) {
        (LogStream::Log, Some(level), Some(logger)) => format!("{level} {logger}"),
        (stream, ..) => stream.name().to_owned(),
    };
    let head = format!("{time} {}/{} {call} {how}| ", line.pool, line.worker);
    let mut text = output::escape_line(&head).into_owned();
    for (number, part) in line.text.split('\n').enumerate() {
        // The further lines of a record stand below its first, where they cannot pass for another.
        if number > 0 {
            text.push_str("\n    | ");
        }
        text.push_str(&output::escape_block(part));
    }
    text
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message::WorkerId;

    use super::*;

    fn line(stream: LogStream, call: u64, text: &str) -> LogLine {
        let is_log = stream == LogStream::Log;
        LogLine {
            time: "2026-11-23T12:03:04.123Z".into(),
            pool: "default".into(),
            worker: WorkerId { slot: 0, generation: 3 },
            call,
            stream,
            level: is_log.then(|| "INFO".into()),
            logger: is_log.then(|| "mytasks\x1b[2J".into()),
            text: text.into(),
        }
    }

    #[test]
    fn a_forgotten_function_leaves_no_gap() {
        let call = NonZeroU64::new(17).unwrap();
        assert_eq!("call 17", call_with_name(call, ""));
        assert_eq!("call 17 (m:f)", call_with_name(call, "m:f"));
    }

    #[test]
    fn a_line_shows_when_who_and_how() {
        let shown = |stream, call, words| text(&line(stream, call, words));
        assert_eq!(
            "12:03:04.123 default/0.3 call 17 stderr| text",
            shown(LogStream::Stderr, 17, "text")
        );
        assert_eq!("12:03:04.123 default/0.3 - stdout| a\tb", shown(LogStream::Stdout, 0, "a\tb"));
    }

    #[test]
    fn no_line_can_pass_for_another_f170() {
        let forged = "two\n12:00:00.000 default/0.1 call 1 stdout| forged\x1b[31m\r";
        assert_eq!(
            "12:03:04.123 default/0.3 call 17 INFO mytasks\\x1b[2J| two\n    | \
             12:00:00.000 default/0.1 call 1 stdout| forged\\x1b[31m\\r",
            text(&line(LogStream::Log, 17, forged))
        );
    }
}
