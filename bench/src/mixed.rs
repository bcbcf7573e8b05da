//! Calls of mixed length: what the short ones wait while long ones run, beside the ideal.
//!
//! Calls arrive at fixed times, one in eight of them long. What each waited is the time from its
//! arrival to its answer without the time its function took, which the function itself measures.
//! The ideal is one queue for all workers, without any cost: simulated, with the same arrivals and
//! the same times. Functions sleep, so that other programs disturb it less.

use std::io::Write as _;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use crate::Outcome;
use crate::daemon::Daemon;

/// Workers that share the calls.
const WORKERS: usize = 4;

/// One call in so many is long.
const LONG_EVERY: usize = 8;

/// How long functions sleep, in milliseconds.
const SHORT_MS: f64 = 4.0;
const LONG_MS: f64 = 60.0;

/// Of the workers' time, how much is asked for.
const LOAD: f64 = 0.8;

const TASKS: &str = "
import time

def nap(ms):
    start = time.perf_counter()
    time.sleep(ms / 1000)
    return (time.perf_counter() - start) * 1000
";

/// A call that has been answered; times in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Done {
    index: usize,
    /// Since the first call.
    sent: f64,
    answered: f64,
    /// What the function took.
    took: f64,
}

impl Done {
    const fn is_long(&self) -> bool {
        is_long(self.index)
    }
}

const fn is_long(index: usize) -> bool {
    index % LONG_EVERY == LONG_EVERY / 2
}

/// So many calls in each of so many rounds.
pub(crate) fn run(calls: usize, rounds: usize) -> Outcome<()> {
    let config = format!("[pools.default]\nworkers = {WORKERS}\npath = [\".\"]\n");
    let mut daemon = Daemon::start(&config, TASKS)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let (mut waited, mut ideals, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let trace = runtime.block_on(play(&client, calls))?;
        if round > 0 {
            let (real, ideal) = (waits(&trace), ideal(&trace));
            waited.push(real);
            ideals.push(ideal);
            ratios.push(real / ideal);
        }
    }
    let middle = |values: &[f64]| crate::percentile(values, 500);
    writeln!(
        std::io::stdout().lock(),
        "{calls} calls on {WORKERS} workers, one in {LONG_EVERY} of {LONG_MS} ms, the others of \
         {SHORT_MS} ms: short ones wait {:.2} ms on average, ideally {:.2} ms; ratio {:.2} \
         ({rounds} rounds)",
        middle(&waited),
        middle(&ideals),
        middle(&ratios),
    )?;
    drop(client);
    daemon.stop()
}

/// Sends every call at its time; gives them in the order of their arrival.
async fn play(client: &clutch_client::Client, calls: usize) -> Outcome<Vec<Done>> {
    #[expect(clippy::cast_precision_loss, reason = "they are a handful")]
    let (long_every, workers) = (LONG_EVERY as f64, WORKERS as f64);
    let mean = (LONG_MS + SHORT_MS * (long_every - 1.0)) / long_every;
    let gap = Duration::from_secs_f64(mean / (workers * LOAD) / 1e3);
    let start = Instant::now();
    let since = move || start.elapsed().as_secs_f64() * 1e3;
    let one = async |index: usize| {
        let turn = u32::try_from(index)?;
        tokio::time::sleep_until((start + gap * turn).into()).await;
        let sent = since();
        let ms = if is_long(index) { LONG_MS } else { SHORT_MS };
        let took = client.call::<f64>("tasks:nap", (ms,)).await?;
        Outcome::Ok(Done { index, sent, answered: since(), took })
    };
    let mut open: FuturesUnordered<_> = (0..calls).map(one).collect();
    let mut trace = Vec::with_capacity(calls);
    while let Some(done) = open.next().await {
        trace.push(done?);
    }
    trace.sort_by(|one, other| one.sent.total_cmp(&other.sent));
    Ok(trace)
}

/// What short calls waited on average.
fn waits(trace: &[Done]) -> f64 {
    mean(
        trace
            .iter()
            .filter(|done| !done.is_long())
            .map(|done| done.answered - done.sent - done.took),
    )
}

/// What they would have waited for one queue before all workers.
fn ideal(trace: &[Done]) -> f64 {
    let mut free = [0.0_f64; WORKERS];
    let waits: Vec<(bool, f64)> = trace
        .iter()
        .map(|done| {
            let next = free.iter_mut().min_by(|one, other| one.total_cmp(other));
            let next = next.expect("there are workers");
            let begun = next.max(done.sent);
            *next = begun + done.took;
            (done.is_long(), begun - done.sent)
        })
        .collect();
    mean(waits.into_iter().filter(|(is_long, _)| !is_long).map(|(_, waited)| waited))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}
