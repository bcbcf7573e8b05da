//! What a null call costs, beside `ProcessPoolExecutor` in the same run.
//!
//! One worker on each side, the same function (`abs(1)`), rounds taken in turns so that whatever
//! else the machine does hits both alike. Prints percentiles of every call and the ratio of the
//! medians; the ratio is what to trust.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use crate::daemon::{Daemon, program};
use crate::{Outcome, percentile};

/// Compares `rounds` rounds of `calls` calls each.
pub(crate) fn run(rounds: usize, calls: usize) -> Outcome<()> {
    let mut daemon = Daemon::start("[pools.default]\nworkers = 1\n", "")?;
    let blocking = daemon.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let concurrent = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let mut executor = Executor::start()?;

    let mut series = [
        Series::new("clutch, Rust client, blocking"),
        Series::new("clutch, Rust client, async"),
        Series::new("ProcessPoolExecutor"),
    ];
    for round in 0..=rounds {
        let samples = [
            time_blocking(&blocking, calls)?,
            runtime.block_on(time_concurrent(&concurrent, calls))?,
            executor.time(calls)?,
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

fn report(series: &[Series; 3], rounds: usize, calls: usize) -> Outcome<()> {
    let mut out = std::io::stdout().lock();
    let peer = series[2].median();
    writeln!(out, "null call, one worker, one client, {rounds} rounds of {calls} calls in turns")?;
    writeln!(out, "{:<32} {:>8} {:>8} {:>8}  {:>6}", "", "p50 us", "p99 us", "p99.9 us", "ratio")?;
    for one in series {
        writeln!(
            out,
            "{:<32} {:>8.1} {:>8.1} {:>8.1}  {:>6.2}",
            one.name,
            one.median(),
            percentile(&one.samples, 990),
            percentile(&one.samples, 999),
            one.median() / peer
        )?;
    }
    Ok(())
}

/// The peer, in a python of its own.
struct Executor {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Executor {
    fn start() -> Outcome<Executor> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/executor.py");
        let mut child = program(Path::new("python3"))
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("it has a pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        lines.next().ok_or("the peer ended")??;
        Ok(Executor { child, lines })
    }

    fn time(&mut self, calls: usize) -> Outcome<Vec<f64>> {
        writeln!(self.child.stdin.as_mut().ok_or("it has a pipe")?, "{calls}")?;
        let line = self.lines.next().ok_or("the peer ended")??;
        line.split_whitespace().map(|time| Ok(time.parse()?)).collect()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
