//! What a null call costs, beside `ProcessPoolExecutor` and a bare forwarder in the same run.
//!
//! One worker on each side, the same function (`abs(1)`), rounds taken in turns so that whatever
//! else the machine does hits all alike. Prints percentiles of every call and the ratios of the
//! medians; the ratios are what to trust.

use std::io::Write;
use std::time::Instant;

use crate::daemon::Daemon;
use crate::forward::Forwarder;
use crate::peer::Peer;
use crate::{Outcome, percentile};

/// Compares `rounds` rounds of `calls` calls each.
pub(crate) fn run(rounds: usize, calls: usize) -> Outcome<()> {
    let mut daemon = Daemon::start("[pools.default]\nworkers = 1\n", "")?;
    let blocking = daemon.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let concurrent = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let mut forwarder = Forwarder::start()?;
    let mut executor = Peer::start("python3".as_ref(), "executor.py", &["1"])?;

    let mut series = [
        Series::new("clutch, Rust client, blocking"),
        Series::new("clutch, Rust client, async"),
        Series::new("a bare forwarder"),
        Series::new("ProcessPoolExecutor"),
    ];
    for round in 0..=rounds {
        let samples = [
            time_blocking(&blocking, calls)?,
            runtime.block_on(time_concurrent(&concurrent, calls))?,
            forwarder.time(calls)?,
            numbers(&executor.ask(&calls.to_string())?)?,
        ];
        // The first round warms caches, branch predictors and the processor's clock.
        if round > 0 {
            for (series, samples) in series.iter_mut().zip(samples) {
                series.add(samples);
            }
        }
    }
    report(&series, rounds, calls)?;
    drop((blocking, concurrent));
    daemon.stop()
}

/// The numbers in a peer's answer.
fn numbers(line: &str) -> Outcome<Vec<f64>> {
    line.split_whitespace().map(|time| Ok(time.parse()?)).collect()
}

fn time_blocking(client: &clutch_client::blocking::Client, calls: usize) -> Outcome<Vec<f64>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let one: i64 = client.call("builtins:abs", (1,))?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(1, one, "abs(1) is 1");
    }
    Ok(times)
}

async fn time_concurrent(client: &clutch_client::Client, calls: usize) -> Outcome<Vec<f64>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let start = Instant::now();
        let one: i64 = client.call("builtins:abs", (1,)).await?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(1, one, "abs(1) is 1");
    }
    Ok(times)
}

/// All samples of one contender, and the median of each round.
struct Series {
    name: &'static str,
    samples: Vec<f64>,
    medians: Vec<f64>,
}

impl Series {
    const fn new(name: &'static str) -> Series {
        Series { name, samples: Vec::new(), medians: Vec::new() }
    }

    fn add(&mut self, mut samples: Vec<f64>) {
        samples.sort_by(f64::total_cmp);
        self.medians.push(samples[samples.len() / 2]);
        self.samples.extend(samples);
    }

    /// The median over rounds of the rounds' medians.
    fn median(&self) -> f64 {
        let mut medians = self.medians.clone();
        medians.sort_by(f64::total_cmp);
        medians[medians.len() / 2]
    }
}

fn report(series: &[Series; 4], rounds: usize, calls: usize) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    let [.., forwarder, executor] = series.each_ref().map(Series::median);
    writeln!(out, "null call, one worker, one client, {rounds} rounds of {calls} calls in turns")?;
    writeln!(
        out,
        "{:<30} {:>8} {:>8} {:>8} {:>12} {:>12}",
        "", "p50 us", "p99 us", "p99.9 us", "/ executor", "/ forwarder"
    )?;
    for one in series {
        writeln!(
            out,
            "{:<30} {:>8.1} {:>8.1} {:>8.1} {:>12.2} {:>12.2}",
            one.name,
            one.median(),
            percentile(&one.samples, 990),
            percentile(&one.samples, 999),
            one.median() / executor,
            one.median() / forwarder
        )?;
    }
    Ok(())
}
