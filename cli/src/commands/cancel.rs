//! `clutch cancel`: end a call, whoever sent it.

use crate::args::CallArgs;
use crate::error::Error;
use crate::exit::Exit;
use crate::{connect, json, output};

/// Cancel a call by its number, whoever sent it
#[derive(Clone, Copy, Debug, clap::Args)]
#[command(after_help = "\
The number is the one in error messages (call 17), in the log and in `clutch workers`. Its caller is
told at once that it was cancelled. A call that waits is dropped; in one that runs, clutch.Cancelled
is raised, and a worker that does not give it up is replaced.

Exit code 2 when there never was such a call, 7 when it was answered already.

Examples:
  clutch workers                     which calls run, and for how long
  clutch cancel 17")]
pub(crate) struct Args {
    #[command(flatten)]
    of: CallArgs,
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let client = connect::daemon(socket).await?;
    let cancelled = client.cancel_call(args.of.call).await?;
    if args.of.json {
        let json = serde_json::to_string(&cancelled).expect("an answer is plain data");
        output::page(&(json::pretty(&json) + "\n")).map_err(Error::Output)?;
    } else {
        let place = match cancelled.worker {
            Some(worker) => format!("worker {}/{worker} had it", cancelled.pool),
            None => format!("it waited in pool {}", cancelled.pool),
        };
        output::note(&format!(
            "call {} ({}) was cancelled; {place}",
            cancelled.call, cancelled.function
        ));
    }
    Ok(Exit::Ok)
}
