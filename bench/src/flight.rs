//! Many null calls in flight together, from one client on two workers, beside the pools of Python.
//!
//! Each contender sends all calls, then waits for all answers; rounds are taken in turns. The
//! daemon holds most of them in its queue: a worker is never given more than a few ahead.

use std::cell::RefCell;
use std::time::Instant;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::board::{Row, Yardstick, play, print};
use crate::daemon::Daemon;
use crate::peer::Peer;
use crate::{Outcome, milliseconds};

/// So many calls in each of so many rounds.
pub(crate) fn run(calls: usize, rounds: usize) -> Outcome<()> {
    let config = format!("[pools.default]\nworkers = 2\nlimits.queue = {}\n", calls.max(1));
    let mut daemon = Daemon::start(&config, "")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let peer = |name: &str| {
        let args = [name.to_owned(), calls.to_string()];
        Outcome::Ok(RefCell::new(Peer::start("python3".as_ref(), "flight.py", &args)?))
    };
    let (pool, executor) = (peer("pool")?, peer("executor")?);
    let mut tables = [vec![
        Row::new("clutch, Rust client, async", || runtime.block_on(together(&client, calls))),
        Row::new("`multiprocessing.Pool.apply_async`", || pool.borrow_mut().time("go")),
        Row::new("`ProcessPoolExecutor.submit`", || executor.borrow_mut().time("go")),
    ]];
    play(&mut tables, rounds)?;
    let [rows] = &tables;
    let yardsticks = [
        Yardstick::of("`apply_async`", &[&rows[1]]),
        Yardstick::of("`ProcessPoolExecutor`", &[&rows[2]]),
    ];
    print(&format!("{calls} null calls in flight, two workers"), rows, &yardsticks)?;
    drop(tables);
    drop(client);
    daemon.stop()
}

/// How long all of them took, in milliseconds.
async fn together(client: &clutch_client::Client, calls: usize) -> Outcome<f64> {
    let start = Instant::now();
    let mut open: FuturesUnordered<_> =
        (0..calls).map(|_| client.call::<i64>("builtins:abs", (1,))).collect();
    let mut total = 0;
    while let Some(answer) = open.next().await {
        total += usize::try_from(answer?)?;
    }
    match total == calls {
        true => Ok(milliseconds(start)),
        false => Err(format!("{total} of {calls} answers").into()),
    }
}
