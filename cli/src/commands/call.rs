//! `clutch call`: one call, its result on standard output.

mod stream;

use std::io;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use clutch_client::{
    Answer, Client, Codec, Failure, Flags, NoArguments, Phases, Reason, Reply, Request,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::args::{Global, TargetArgs, function_name, stream_window};
use crate::connect;
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::{Ask, Interrupt};
use crate::output;
use crate::printed::{HELD_MAX, Printed};
use crate::progress::CallBar;
use crate::report::{self, FailureFormat};
use crate::value::{self, Arguments};

/// Pieces of output that may wait for the terminal before the daemon is slowed down.
const OUTPUT_PIECES_MAX: usize = 64;

/// How long the daemon may take to say which call Ctrl-C has cancelled.
const CANCEL_MAX: Duration = Duration::from_millis(600);

/// How long the daemon may take to say which Python has answered: a status, which takes it a
/// quarter of a second when workers do not answer.
const STATUS_MAX: Duration = Duration::from_secs(2);

/// Call one function and print its result as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An argument that is JSON is passed as that value, any other word as a string; NAME=VALUE is a
keyword argument by the same rule, and - is one JSON value from standard input. A string that looks
like something else is quoted twice: '\"42\"', '\"a=b\"', '\"-\"'. Words that start with a dash,
other than negative numbers, go behind --.

Arguments and results are JSON, and what JSON cannot say is never sent as something else. A result
with bytes, NaN, an infinity, a complex number or a key that is no text fails (exit code 1), and the
error says where it is and what to return instead; tuples and sets are lists. As an argument, NaN is
a string like any other word.

The result goes to standard output. What the function prints, and why it failed, goes to standard
error. Ctrl-C cancels the call; a second one does not wait for that.

With --stream, the function has to give an iterator, like a generator does. Each of its items is
printed as one line of JSON as soon as it is there, and the function is never more than --window
items ahead. When nobody reads them any more, the call is cancelled and its `finally` blocks run.

With --report, the result comes inside one JSON object: {\"call\": 17, \"pool\": ...,
\"worker\": {\"slot\": 0, \"generation\": 1}, \"pid\": ..., \"python\": \"3.12.1\", \"attempt\": 1,
\"phases\": {\"queue_us\": 3, \"run_us\": 170, \"start_us\": 0}, \"value\": ...}. `python` is null
when that worker was replaced meanwhile, or the daemon does not say.

Examples:
  clutch call --local math:sqrt 2
  clutch call statistics:fmean '[1, 2, 3.5]'
  clutch call --timeout 500ms json:dumps '{\"b\": 1, \"a\": 2}' sort_keys=true
  clutch call --local --main tasks.py __main__:report 2026-11 title='\"a=b\"'
  clutch call --pool cpu mytasks:total - < numbers.json
  clutch call --retry 3 --retry-on worker_died,raised:OSError --retry-backoff 1s mytasks:fetch
  clutch call --stream mytasks:rows big.csv | head -3
  clutch call --report time:sleep 1 | jq .phases.run_us
  clutch call --local builtins:print -- --verbose")]
pub(crate) struct Args {
    /// Print a failure as one JSON object, still on standard error
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the call's number, worker and times together with its result, as one JSON object
    #[arg(long)]
    pub(crate) report: bool,
    /// Print the items that the function gives, one line each, as they come
    #[arg(long, conflicts_with = "report")]
    pub(crate) stream: bool,
    /// Items that may be on their way at once, 4096 at most [default: 32]
    #[arg(long, value_name = "N", value_parser = stream_window, requires = "stream")]
    pub(crate) window: Option<NonZeroU32>,
    /// Show no progress bar (without a terminal there is none anyway)
    #[arg(long)]
    pub(crate) no_progress: bool,
    /// The function, as MODULE:QUALNAME, like math:sqrt or pkg.mod:Class.method
    #[arg(value_parser = function_name)]
    pub(crate) function: String,
    /// Its arguments: JSON or strings, NAME=VALUE, or - for standard input
    #[arg(value_name = "ARGUMENT", allow_negative_numbers = true)]
    pub(crate) arguments: Vec<String>,
    // Last, since its heading would be given to what follows.
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<Exit, Error> {
    args.target.wishes.check()?;
    let mut interrupt = Interrupt::install().map_err(Error::Prepare)?;
    let arguments = value::arguments(&args.arguments, io::stdin())?;
    let link = connect::open(&args.target, global, 1, &mut interrupt).await?;
    if args.stream {
        let ended = stream::run(&link, &args, arguments, &mut interrupt, global).await;
        link.close(*ended.as_ref().unwrap_or(&Exit::Ok)).await;
        return ended;
    }
    let ended = call(&link.client, &args, arguments, &mut interrupt).await;
    let python = match &ended {
        Ended::Answered(reply) if args.report => {
            // The result is there; only a word beside it is not.
            tokio::select! {
                python = python_of(&link.client, &args.target.pool, reply) => python,
                () = tokio::time::sleep_until(Instant::now() + STATUS_MAX) => None,
                _ = interrupt.wait() => None,
            }
        }
        _ => None,
    };
    let shown = show(ended, &args, global, python);
    link.close(*shown.as_ref().unwrap_or(&Exit::Ok)).await;
    shown
}

/// How a call ended here.
enum Ended {
    Answered(Reply),
    /// With the end of what it has printed to standard error.
    Failed(Failure, String),
    /// By Ctrl-C or the like, with how it ended if the daemon said so.
    Interrupted(Ask, Option<Failure>),
}

/// The call as it was asked for.
fn request(
    client: &Client,
    args: &Args,
    arguments: Arguments,
) -> Request<Client, NoArguments, NoArguments> {
    let (flags, text) = match arguments {
        Arguments::Positional(text) => (Flags::NONE, text),
        Arguments::WithKeywords(text) => (Flags::KEYWORDS, text),
    };
    let mut request = client
        .request(&args.function)
        .pool(&args.target.pool)
        .priority(args.target.wishes.priority)
        .encoded(Codec::Json, flags, Bytes::from(text));
    if let Some(timeout) = args.target.timeout {
        request = request.timeout(timeout);
    }
    if let Some(retry) = args.target.wishes.retry() {
        request = request.retry(retry);
    }
    request
}

async fn call(
    client: &Client,
    args: &Args,
    arguments: Arguments,
    interrupt: &mut Interrupt,
) -> Ended {
    let (sink, mut pieces) = mpsc::channel(OUTPUT_PIECES_MAX);
    let mut bar = CallBar::new(!args.no_progress);
    let (request, mut reports) = bar.follow(request(client, args, arguments).output(sink));
    let mut printed = Printed::default();
    let (give_up, given_up) = oneshot::channel::<()>();
    let mut give_up = Some(give_up);
    let (mut settled, mut asked) = (None, None);
    let reply = {
        let mut reply = Box::pin(request.send_reply_until(async {
            // A sender that is dropped with the future tells nobody anything.
            let _ = given_up.await;
        }));
        loop {
            let settle = settled.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                ask = interrupt.wait(), if give_up.is_some() => {
                    // The daemon says which call that was, and it must hear of it before we go.
                    give_up.take().map(|give_up| give_up.send(()));
                    (settled, asked) = (Some(Instant::now() + CANCEL_MAX), Some(ask));
                }
                Some(piece) = pieces.recv() => bar.aside(|| printed.print(&piece)),
                Ok(()) = reports.changed() => bar.show_newest(&mut reports),
                () = tokio::time::sleep_until(Instant::now() + HELD_MAX), if printed.holds() => {
                    bar.aside(|| printed.flush());
                }
                reply = &mut reply => break Some(reply),
                () = tokio::time::sleep_until(settle), if settled.is_some() => break None,
            }
        }
    };
    bar.end();
    while let Ok(piece) = pieces.try_recv() {
        printed.print(&piece);
    }
    printed.flush();
    match (reply, asked) {
        (Some(Ok(reply)), _) => Ended::Answered(reply),
        (Some(Err(failure)), Some(ask)) if failure.reason == Reason::Cancelled => {
            Ended::Interrupted(ask, Some(failure))
        }
        (Some(Err(failure)), _) => Ended::Failed(failure, printed.end()),
        // Nobody stops waiting for an answer but who was asked to end.
        (None, ask) => Ended::Interrupted(ask.unwrap_or(Ask::Interrupt), None),
    }
}

/// The version of the interpreter that has answered, if its worker is still there.
async fn python_of(client: &Client, pool: &str, reply: &Reply) -> Option<String> {
    let status = client.status().await.ok()?;
    let pool = status.pools.into_iter().find(|it| it.name == pool)?;
    let mut workers = pool.workers.into_iter();
    let worker = workers.find(|it| it.id == reply.answer.worker && it.pid == reply.answer.pid)?;
    Some(worker.python)
}

fn show(ended: Ended, args: &Args, global: &Global, python: Option<String>) -> Result<Exit, Error> {
    let format = format(args);
    match ended {
        Ended::Answered(reply) => {
            if args.report {
                let report = reported(&reply, &args.target.pool, python);
                output::result(&report).map_err(Error::Output)?;
            } else {
                output::result(&reply.payload).map_err(Error::Output)?;
            }
            if global.verbose {
                let Answer { phases, worker, call, pid, .. } = reply.answer;
                output::note(&format!(
                    "call {call} was answered by worker {}/{worker} (pid {pid}): {phases}",
                    args.target.pool
                ));
            }
            Ok(Exit::Ok)
        }
        Ended::Failed(mut failure, printed) => {
            if args.target.local.local {
                // Its supervisor is gone now: nobody can be asked about this number.
                failure.call = 0;
            }
            Ok(report::failure(&failure, format, &printed))
        }
        Ended::Interrupted(ask, failure) => {
            let mut failure = failure.unwrap_or_else(|| unanswered(args));
            if args.target.local.local {
                failure.call = 0;
            }
            Ok(report::interrupted(&failure, ask, format))
        }
    }
}

fn format(args: &Args) -> FailureFormat {
    if args.json { FailureFormat::Json } else { FailureFormat::Text }
}

/// A cancelled call of which the daemon has said nothing: it may have begun.
fn unanswered(args: &Args) -> Failure {
    Failure {
        call: 0,
        pool: args.target.pool.clone(),
        function: args.function.clone(),
        attempt: 0,
        started: true,
        phases: Phases::default(),
        reason: Reason::Cancelled,
        quarantined: false,
        item: None,
    }
}

/// A result and how it came about, as one JSON object. The result's own text is not touched.
fn reported(reply: &Reply, pool: &str, python: Option<String>) -> Vec<u8> {
    let Answer { phases, worker, call, attempt, pid } = reply.answer;
    let head = serde_json::json!({
        "call": call,
        "pool": pool,
        "worker": worker,
        "pid": pid,
        "python": python,
        "attempt": attempt,
        "phases": phases,
    });
    let mut json = head.to_string().into_bytes();
    json.pop();
    json.extend_from_slice(b",\"value\":");
    json.extend_from_slice(&reply.payload);
    json.push(b'}');
    json
}

#[cfg(test)]
mod tests {
    use clutch_client::{Beside, WorkerId};

    use super::*;

    #[test]
    fn a_report_holds_the_result_as_it_came() {
        let answer = Answer {
            phases: Phases { queue_us: 1, run_us: 2, start_us: 3 },
            worker: WorkerId { slot: 3, generation: 4 },
            call: 17,
            attempt: 2,
            pid: 4711,
        };
        let payload = Bytes::from_static(b"[1.10, null]");
        let (codec, flags, attached) = (Codec::Json, Flags::NONE, Beside::default());
        let reply = Reply { id: 1, codec, flags, payload, attached, answer };
        let text = String::from_utf8(reported(&reply, "default", Some("3.12.1".into()))).unwrap();
        assert!(text.ends_with(",\"value\":[1.10, null]}"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((17, 2, 4711), {
            let number = |key: &str| json[key].as_u64().unwrap();
            (number("call"), number("attempt"), number("pid"))
        });
        assert_eq!("3.12.1", json["python"]);
        assert_eq!(
            (3, 4),
            (
                json["worker"]["slot"].as_u64().unwrap(),
                json["worker"]["generation"].as_u64().unwrap(),
            )
        );
        assert_eq!(
            [Some(1), Some(2), Some(3)],
            ["queue_us", "run_us", "start_us"].map(|name| json["phases"][name].as_u64())
        );
    }
}
