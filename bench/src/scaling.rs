//! Calls that need a whole processor: what more workers bring.
//!
//! As many calls as there are workers, each with the same work; the time all of them take on one
//! worker, one after the other, against their time on all.

use std::time::Instant;

use futures_util::future::try_join_all;

use crate::board::{Row, Yardstick, play, print};
use crate::daemon::Daemon;
use crate::{Outcome, milliseconds};

/// Work of the size of some 200 ms.
const TASKS: &str = "
def spin(rounds):
    x = 0
    for i in range(rounds):
        x = (x * 31 + i) % 1000003
    return x
";

const LOOPS: u64 = 3_000_000;

/// So many rounds.
pub(crate) fn run(rounds: usize) -> Outcome<()> {
    let workers = std::thread::available_parallelism()?.get();
    let pool = |name: &str, workers: usize| {
        format!("[pools.{name}]\npath = [\".\"]\nworkers = {workers}\n")
    };
    let config = pool("one", 1) + &pool("all", workers);
    let mut daemon = Daemon::start(&config, TASKS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let spin = |pool: &'static str| {
        let (client, runtime) = (&client, &runtime);
        move || {
            let start = Instant::now();
            let calls = (0..workers)
                .map(|_| client.request("tasks:spin").pool(pool).args((LOOPS,)).send::<u64>());
            runtime.block_on(try_join_all(calls))?;
            Ok(milliseconds(start))
        }
    };
    let all = format!("on {workers} workers");
    let mut tables = [vec![Row::new("on one worker", spin("one")), Row::new(&all, spin("all"))]];
    play(&mut tables, rounds)?;
    let [rows] = &tables;
    let yardstick = [Yardstick::of("one worker", &[&rows[0]])];
    print(&format!("{workers} calls that need a processor"), rows, &yardstick)?;
    drop(tables);
    drop(client);
    daemon.stop()
}
