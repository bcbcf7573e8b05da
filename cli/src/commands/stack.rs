//! `clutch stack`: what every thread of a worker is doing in Python, now.

use std::fmt::Write as _;
use std::num::ParseIntError;

use clutch_client::Stack;
use clutch_protocol::name;

use crate::args::pool_name;
use crate::error::Error;
use crate::exit::Exit;
use crate::{connect, json, output};

/// Show the Python stack of every thread of a worker, now
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The worker goes on with what it is doing; it does not notice. Exit code 7 when there is no python in
the slot just now, 4 when it does not answer: it is stopped, or deep in the system.

Examples:
  clutch stack 0                     the worker in slot 0 of the pool `default`
  clutch stack cpu/2
  clutch stack --pool cpu 2          the same
  clutch workers                     lists them")]
pub(crate) struct Args {
    /// The worker: SLOT or POOL/SLOT, as `clutch workers` shows them
    #[arg(value_name = "WORKER", value_parser = place)]
    worker: Place,
    /// The pool, unless it stands before the slot [default: default]
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pool: Option<String>,
    /// Print them as one JSON object
    #[arg(long)]
    json: bool,
}

/// A worker as a person names it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    pool: Option<String>,
    slot: u32,
}

/// Why a word is no worker's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum PlaceError {
    #[error(transparent)]
    Pool(#[from] name::NameError),
    #[error("{0}: name a worker by its slot, like 0 or default/0")]
    Slot(#[from] ParseIntError),
}

fn place(word: &str) -> Result<Place, PlaceError> {
    let (pool, slot) = match word.rsplit_once('/') {
        Some((pool, slot)) => (Some(pool_name(pool)?), slot),
        None => (None, word),
    };
    // `clutch workers` shows the generation too; whoever is in the slot now is meant.
    let slot = match slot.split_once('.') {
        Some((slot, generation)) => {
            generation.parse::<u32>()?;
            slot
        }
        None => slot,
    };
    Ok(Place { pool, slot: slot.parse()? })
}

pub(crate) async fn run(args: Args, socket: &connect::Socket) -> Result<Exit, Error> {
    let Place { pool, slot } = args.worker;
    let pool = match (pool, args.pool) {
        (Some(one), Some(other)) if one != other => return Err(Error::TwoPools { one, other }),
        (Some(pool), _) | (None, Some(pool)) => pool,
        (None, None) => clutch_client::DEFAULT_POOL.to_owned(),
    };
    let client = connect::daemon(socket).await?;
    let stack = client.stack(&pool, slot).await?;
    let text = if args.json {
        let json = serde_json::to_string(&stack).expect("a stack is plain data");
        json::pretty(&json) + "\n"
    } else {
        output::escape_block(&page(&stack)).into_owned()
    };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn page(stack: &Stack) -> String {
    let mut text = format!("worker {}/{} (pid {})", stack.pool, stack.worker, stack.pid);
    if let Some(call) = stack.call {
        let function = stack.function.as_deref().unwrap_or_default();
        let _ = write!(text, ", call {call} ({})", output::escape_line(function));
    }
    text.push_str(":\n");
    text + stack.text.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use clutch_protocol::message::WorkerId;

    use super::*;

    #[test]
    fn a_worker_is_named_by_its_slot_with_or_without_pool_and_generation() {
        let is = |pool: Option<&str>, slot| Ok(Place { pool: pool.map(Into::into), slot });
        assert_eq!(is(None, 0), place("0"));
        assert_eq!(is(None, 2), place("2.17"));
        assert_eq!(is(Some("cpu"), 3), place("cpu/3"));
        assert_eq!(is(Some("cpu"), 3), place("cpu/3.1"));
        for word in ["", "a", "0.x", "-1", "cpu/", "cpu", "0.1.2"] {
            assert!(matches!(place(word), Err(PlaceError::Slot(_))), "{word:?}");
        }
        for word in ["/0", "a b/0", "../0/1"] {
            assert!(matches!(place(word), Err(PlaceError::Pool(_))), "{word:?}");
        }
    }

    #[test]
    fn the_first_line_says_whose_stack_it_is() {
        let stack = Stack {
            pool: "default".into(),
            worker: WorkerId { slot: 0, generation: 1 },
            pid: 7,
            call: Some(17),
            function: Some("time:sleep".into()),
            text: "Thread 0x1 (most recent call first):\n  File \"x\", line 1 in f\n".into(),
        };
        let page = page(&stack);
        assert!(page.starts_with("worker default/0.1 (pid 7), call 17 (time:sleep):\nThread 0x1"));
        assert!(page.ends_with("in f\n"), "{page:?}");
    }
}
