//! `clutch pool`: the pools in a table, and an operator's orders to one of them.

use std::num::ParseIntError;

use clap::Subcommand;
use clutch_client::PoolOrder;
use clutch_protocol::status::{PoolStatus, Status};

use crate::args::pool_name;
use crate::commands::pool_wait::{WaitArgs, Waiting};
use crate::commands::status::{dash, span, table};
use crate::error::Error;
use crate::exit::Exit;
use crate::{connect, json, output};

/// List the pools, or give one an order: pause, resume, drain, resize, recycle, reset
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An order is carried out from now on; with --wait the command returns when it is done: no call runs
(pause), none is left (drain), every worker is there (resize) or a new one (recycle). Without it,
`clutch pool list` and `clutch workers` show how far it is. Orders are forgotten when the daemon
stops; what shall last belongs into the configuration.

Examples:
  clutch pool list
  clutch pool pause default          calls wait, none is started; running ones go on
  clutch pool resume default         go on after a pause or a drain
  clutch pool drain default --wait   refuse new calls, finish those that are there
  clutch pool resize default 4       four workers
  clutch pool resize default 1..8    one to eight, as many as there is work for
  clutch pool recycle default        replace every worker, without refusing a call
  clutch pool reset default          forget failures: try a pool in crash_loop again, now")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show every pool: its state and why, its workers, its queue
    List {
        /// Print them as a JSON list; docs/STATUS.md explains the fields
        #[arg(long)]
        json: bool,
    },
    /// Let calls wait and start none; running ones go on
    Pause(Waited),
    /// Go on after a pause or a drain
    Resume(Name),
    /// Refuse new calls and finish those that are there; the workers stay
    Drain(Waited),
    /// Have another number of workers
    Resize {
        /// The pool
        #[arg(value_parser = pool_name)]
        name: String,
        /// How many workers: a number, or the least and the most, like 1..8
        #[arg(value_name = "MIN[..MAX]", value_parser = size)]
        size: (u32, u32),
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Replace every worker by a new one, new ones first
    Recycle(Waited),
    /// Forget all failures, and start what is missing at once
    Reset(Name),
}

#[derive(Debug, clap::Args)]
struct Name {
    /// The pool
    #[arg(value_parser = pool_name)]
    name: String,
}

#[derive(Debug, clap::Args)]
struct Waited {
    /// The pool
    #[arg(value_parser = pool_name)]
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Why a word is no number of workers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum SizeError {
    #[error("{0}: write a number of workers, like 4, or the least and the most, like 1..8")]
    Number(#[from] ParseIntError),
    #[error("a pool needs at least one worker: the number, or the second of two, is 1 or more")]
    Zero,
    #[error("the least comes first: 1..8, not 8..1")]
    Order,
}

fn size(word: &str) -> Result<(u32, u32), SizeError> {
    let (min, max) = match word.split_once("..") {
        Some((min, max)) => (min.parse()?, max.parse()?),
        None => {
            let count = word.parse()?;
            (count, count)
        }
    };
    match (min, max) {
        (_, 0) => Err(SizeError::Zero),
        (min, max) if min > max => Err(SizeError::Order),
        size => Ok(size),
    }
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let (name, order, wait) = match args.verb {
        Verb::List { json } => return list(json, socket).await,
        Verb::Pause(Waited { name, wait }) => (name, PoolOrder::Pause, wait),
        Verb::Resume(Name { name }) => (name, PoolOrder::Resume, WaitArgs::NONE),
        Verb::Drain(Waited { name, wait }) => (name, PoolOrder::Drain, wait),
        Verb::Resize { name, size: (min, max), wait } => {
            (name, PoolOrder::Resize { min, max }, wait)
        }
        Verb::Recycle(Waited { name, wait }) => (name, PoolOrder::Recycle, wait),
        Verb::Reset(Name { name }) => (name, PoolOrder::Reset, WaitArgs::NONE),
    };
    let client = connect::daemon(socket).await?;
    let waiting = match wait.wait {
        true => Some(Waiting::prepare(&client, &name, order).await?),
        false => None,
    };
    client.order_pool(&name, order).await?;
    output::note(&format!("pool {name}: {}", said(&name, order)));
    if matches!(order, PoolOrder::Pause | PoolOrder::Resume | PoolOrder::Drain) {
        let pools = client.status().await.map_err(Error::from)?.pools;
        if pools.iter().any(|pool| pool.name == name && pool.state == "crash_loop") {
            output::note(&format!(
                "pool {name}: its workers do not start, and until they do every call is refused; \
                 they are tried at once after: clutch pool reset {name}"
            ));
        }
    }
    if let Some(waiting) = waiting {
        waiting.end(wait).await?;
        output::note(&format!("pool {name}: done"));
    }
    Ok(Exit::Ok)
}

/// What an order means from now on.
fn said(name: &str, order: PoolOrder) -> String {
    match order {
        PoolOrder::Pause => format!("paused; calls wait until: clutch pool resume {name}"),
        PoolOrder::Resume => "takes calls and runs them".to_owned(),
        PoolOrder::Drain => {
            format!(
                "refuses new calls and finishes those that are there; back with: clutch pool \
                 resume {name}"
            )
        }
        PoolOrder::Resize { min, max } if min == max => {
            format!("is to have {min} worker{}", if min == 1 { "" } else { "s" })
        }
        PoolOrder::Resize { min, max } => format!("is to have {min} to {max} workers"),
        PoolOrder::Recycle => "its workers are being replaced".to_owned(),
        PoolOrder::Reset => "its failures are forgotten; what is missing is started now".to_owned(),
    }
}

async fn list(json: bool, socket: &connect::Socket) -> Result<Exit, Error> {
    let client = connect::daemon(socket).await?;
    let status = client.status().await.map_err(Error::from)?;
    let text = if json {
        let pools = serde_json::to_string(&status.pools).expect("a status is plain data");
        json::pretty(&pools) + "\n"
    } else {
        page(&status)
    };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn page(status: &Status) -> String {
    let head = ["pool", "state", "ready", "wanted", "running", "queued", "oldest", "reason"];
    let rows = status.pools.iter().map(|pool| {
        let oldest = if pool.queued == 0 { String::new() } else { span(pool.queued_oldest_ms) };
        vec![
            dash(&pool.name),
            dash(&pool.state),
            ready(pool).to_string(),
            wanted(pool),
            pool.running.to_string(),
            format!("{}/{}", pool.queued, pool.queue_limit),
            dash(&oldest),
            dash(pool.reason.lines().next().unwrap_or_default()),
        ]
    });
    table(&head, &[2, 3, 4, 5, 6], rows.collect())
}

/// How many workers a pool wants, those apart that it has beyond its size.
pub(crate) fn wanted(pool: &PoolStatus) -> String {
    let (spares, extra) = (pool.spares, pool.extra);
    let mut text = pool.workers_wanted.saturating_sub(spares + extra).to_string();
    for (count, what) in [(spares, "spare"), (extra, "extra")] {
        if count > 0 {
            text += &format!("+{count} {what}");
        }
    }
    text
}

/// How many workers can take a call, or have one.
fn ready(pool: &PoolStatus) -> usize {
    let ready = |state: &str| matches!(state, "ready" | "busy" | "interrupting");
    pool.workers.iter().filter(|worker| ready(&worker.state)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_or_two() {
        assert_eq!(Ok((4, 4)), size("4"));
        assert_eq!(Ok((0, 8)), size("0..8"));
        assert_eq!(Ok((3, 3)), size("3..3"));
        for (word, error) in [("0", SizeError::Zero), ("0..0", SizeError::Zero)] {
            assert_eq!(Err(error), size(word), "{word}");
        }
        assert_eq!(Err(SizeError::Order), size("8..1"));
        for word in ["", "..", "1..", "..3", "-1", "1...3", "many", "4294967296"] {
            assert!(matches!(size(word), Err(SizeError::Number(_))), "{word}");
        }
    }

    #[test]
    fn each_order_is_said_with_the_way_back() {
        assert!(said("a", PoolOrder::Pause).contains("clutch pool resume a"));
        assert!(said("a", PoolOrder::Drain).contains("clutch pool resume a"));
        assert_eq!("is to have 1 worker", said("a", PoolOrder::Resize { min: 1, max: 1 }));
        assert_eq!("is to have 2 workers", said("a", PoolOrder::Resize { min: 2, max: 2 }));
        assert_eq!("is to have 1 to 8 workers", said("a", PoolOrder::Resize { min: 1, max: 8 }));
    }
}
