//! What a map over many items costs, beside `multiprocessing.Pool.map` in the same run, and how
//! near it comes to the ideal schedule where items take 1 to 100 ms.
//!
//! Two workers on each side, the same function of one number, rounds taken in turns. The ratio is
//! what to trust. The schedule is measured with items that sleep, so that other programs disturb
//! it less; the ideal is half of their sum.

use std::io::Write;
use std::time::Instant;

use clutch_client::blocking::Client;

use crate::Outcome;
use crate::daemon::Daemon;
use crate::peer::Peer;

/// How often each side maps all items.
const ROUNDS: usize = 5;

/// Items of the schedule, and how long they take.
const NAPS: u64 = 200;

const TASKS: &str = "
import time

def double(x):
    return x + x

def nap(ms):
    time.sleep(ms / 1000)
    return ms
";

/// Maps so many items, and compares.
pub(crate) fn run(items: u64) -> Outcome<()> {
    let config = "[pools.default]\nworkers = 2\npath = [\".\"]\n";
    let mut daemon = Daemon::start(config, TASKS)?;
    let blocking = daemon.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let concurrent = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let mut peer = Peer::start("python3".as_ref(), "pool_map.py", &[items.to_string()])?;
    let mut seconds = [const { Vec::new() }; 3];
    for round in 0..=ROUNDS {
        let took = [
            time_blocking(&blocking, items)?,
            runtime.block_on(time_concurrent(&concurrent, items))?,
            peer.time("go")?,
        ];
        // The first round warms caches and the processor's clock.
        if round > 0 {
            for (all, took) in seconds.iter_mut().zip(took) {
                all.push(took);
            }
        }
    }
    let names = ["clutch, blocking", "clutch, async", "multiprocessing.Pool.map"];
    let [.., peer] = seconds.each_ref().map(|all| crate::percentile(all, 500));
    let mut out = std::io::stdout().lock();
    writeln!(out, "{items} items of x + x, two workers, {ROUNDS} rounds in turns")?;
    writeln!(out, "{:<28} {:>14} {:>8}", "", "items/s", "ratio")?;
    for (name, all) in names.iter().zip(&seconds) {
        let median = crate::percentile(all, 500);
        #[expect(clippy::cast_precision_loss, reason = "it is shown to a person")]
        let rate = items as f64 / median;
        writeln!(out, "{name:<28} {rate:>14.0} {:>8.2}", peer / median)?;
    }
    let (took, ideal) = time_schedule(&blocking)?;
    writeln!(
        out,
        "{NAPS} items of 1 to 100 ms: {took:.3} s, ideally {ideal:.3} s: {:.1} % more",
        (took / ideal - 1.0) * 100.0
    )?;
    drop((blocking, concurrent));
    daemon.stop()
}

fn time_blocking(client: &Client, items: u64) -> Outcome<f64> {
    let start = Instant::now();
    let mut sum = 0;
    for result in client.map::<_, u64>("tasks:double", 0..items).ordered() {
        sum += result?;
    }
    check(sum, items)?;
    Ok(start.elapsed().as_secs_f64())
}

async fn time_concurrent(client: &clutch_client::Client, items: u64) -> Outcome<f64> {
    let start = Instant::now();
    let mut sum = 0;
    let mut results = client.map::<_, u64>("tasks:double", 0..items).ordered();
    while let Some(result) = results.next().await {
        sum += result?;
    }
    check(sum, items)?;
    Ok(start.elapsed().as_secs_f64())
}

fn check(sum: u64, items: u64) -> Outcome<()> {
    match sum == items * items.saturating_sub(1) {
        true => Ok(()),
        false => Err(format!("the sum of all results is {sum}").into()),
    }
}

/// How long the schedule takes, and how long the ideal one.
fn time_schedule(client: &Client) -> Outcome<(f64, f64)> {
    // Numbers that look random, the same in every run.
    let naps = (1..=NAPS).scan(7_u64, |state, _| {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(1 + (*state >> 33) % 100)
    });
    let naps: Vec<u64> = naps.collect();
    let start = Instant::now();
    let slept: Vec<u64> = client.map("tasks:nap", naps.iter().copied()).collect()?;
    let took = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "it is some seconds")]
    let ideal = slept.iter().sum::<u64>() as f64 / 2000.0;
    Ok((took, ideal))
}
