//! What callers notice of workers that die, are replaced and are fought over.
//!
//! Each measurement has a daemon of its own and ends with the pool as it was at the start. There
//! is no peer to compare with: of those that restart workers at all, none keeps a spare, and an
//! executor whose worker is killed stays broken.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_client::{Reason, WorkerStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, pool, wait_for};
use crate::machine::status_kib;
use crate::{Outcome, percentile};

/// Clients that call without a pause, each over a connection of its own.
const CLIENTS: usize = 8;

/// Kills whose recovery is measured.
const RECOVERIES: usize = 100;

/// How often a worker is killed in a hail of kills.
const HAIL: Duration = Duration::from_millis(100);

/// How many times undisturbed and disturbed stretches take turns.
const TURNS: u32 = 4;

/// Reloads under load.
const RELOADS: u32 = 100;

/// Calls for a pool whose workers are replaced every ten.
const WORN_CALLS: u64 = 10_000;

/// Calls of a client that leaves nobody else a chance, and how many of them are open at a time.
const FLOOD: u64 = 1_000_000;
const FLOOD_OPEN: u64 = 2_000;

/// What the workers run.
const TASKS: &str = "\
import os, time

def begun(path):
    open(path, 'x').close()
    time.sleep(60)

def nap(seconds):
    time.sleep(seconds)
    return os.getpid()
";

/// All measurements; kills last for `span`.
pub(crate) fn run(span: Duration) -> Outcome<()> {
    recovery()?;
    hail(span)?;
    reloads()?;
    worn()?;
    flood()?;
    idle()
}

fn config(pool: &str) -> String {
    format!("[pools.default]\npath = [\".\"]\n{pool}")
}

fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

fn signal(pid: u32, signal: Signal) -> Outcome<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// From `kill -9` of a worker with a call, to the answer of the call that waits behind it.
fn recovery() -> Outcome<()> {
    let mut daemon = Daemon::start(&config("workers = 1\nspares = 1\n"), TASKS)?;
    let (watch, next) = (daemon.client()?, daemon.client()?);
    let doomed = daemon.client()?;
    let mut times = Vec::new();
    for round in 0..RECOVERIES {
        let mark = daemon.path(&format!("mark-{round}"));
        let time = std::thread::scope(|scope| {
            let lost = scope
                .spawn(|| doomed.call::<()>("tasks:begun", (mark.to_str(),)).map_err(Box::new));
            wait_for("a call that has begun", || Ok(mark.exists()))?;
            let answer = scope.spawn(|| -> Outcome<(u32, Instant)> {
                Ok((next.call("os:getpid", ())?, Instant::now()))
            });
            wait_for("a call that waits", || Ok(pool(&watch)?.queued == 1))?;
            let workers = pool(&watch)?.workers;
            let busy =
                workers.iter().find(|worker| worker.state == "busy").ok_or("none is busy")?;
            let killed = Instant::now();
            signal(busy.pid, Signal::SIGKILL)?;
            let (_, answered) = answer.join().expect("it does not panic")?;
            match lost.join().expect("it does not panic") {
                Err(failure) if matches!(failure.reason, Reason::WorkerDied(_)) => {}
                other => return Err(format!("the killed worker's call: {other:?}").into()),
            }
            Outcome::Ok(answered.duration_since(killed))
        })?;
        times.push(time.as_secs_f64() * 1e3);
        wait_for("a spare", || {
            let workers = pool(&watch)?.workers;
            Ok(workers.len() == 2 && workers.iter().all(|worker| worker.state == "ready"))
        })?;
    }
    say(&format!(
        "kill -9 to the next result, with a spare: p50 {:.2} ms, p90 {:.2} ms, max {:.2} ms \
         ({RECOVERIES} kills)",
        percentile(&times, 500),
        percentile(&times, 900),
        percentile(&times, 1000),
    ))?;
    drop((watch, next, doomed));
    daemon.stop()
}

/// What a crowd of clients saw.
#[derive(Default)]
struct Crowd {
    answered: AtomicU64,
    died: AtomicU64,
    failed: AtomicU64,
    /// What the first failure says that is not a worker's death.
    failure: OnceLock<String>,
}

/// Eight clients call for as long as `meanwhile` takes.
fn crowd(daemon: &Daemon, meanwhile: impl FnOnce() -> Outcome<()>) -> Outcome<Crowd> {
    let (crowd, is_over) = (Crowd::default(), AtomicBool::new(false));
    let call_on = |client: Client| {
        while !is_over.load(Ordering::Relaxed) {
            let count = match client.call::<u32>("tasks:nap", (0.004,)) {
                Ok(_) => &crowd.answered,
                Err(failure) if matches!(failure.reason, Reason::WorkerDied(_)) => &crowd.died,
                Err(failure) => {
                    crowd.failure.get_or_init(|| failure.to_string());
                    &crowd.failed
                }
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let client = daemon.client()?;
            scope.spawn(|| call_on(client));
        }
        let outcome = meanwhile();
        is_over.store(true, Ordering::Relaxed);
        outcome
    })?;
    Ok(crowd)
}

/// Throughput under a hail of kills, beside that without, in turns.
fn hail(span: Duration) -> Outcome<()> {
    let mut daemon = Daemon::start(&config("workers = 4\n"), TASKS)?;
    let watch = daemon.client()?;
    let ready = || {
        let workers = pool(&watch)?.workers;
        Ok(workers.len() == 4 && workers.iter().all(|worker| worker.state == "ready"))
    };
    wait_for("four workers", ready)?;
    let descriptors = watch.status()?.daemon.descriptors;
    let (mut quiet, mut hit, mut died, mut failed, mut kills) = (0, 0, 0, 0, 0_usize);
    for _ in 0..TURNS {
        let undisturbed = crowd(&daemon, || {
            std::thread::park_timeout(span / TURNS);
            Ok(())
        })?;
        quiet += undisturbed.answered.into_inner();
        let disturbed = crowd(&daemon, || {
            let end = Instant::now() + span / TURNS;
            while Instant::now() < end {
                let next = Instant::now() + HAIL;
                let workers = pool(&watch)?.workers;
                // One that is killed while it starts, again and again, is a crash loop.
                let is_up = |one: &&WorkerStatus| ["ready", "busy"].contains(&&*one.state);
                let up: Vec<_> = workers.iter().filter(is_up).collect();
                if let Some(victim) = up.get(kills % up.len().max(1)) {
                    // It may have ended since.
                    let _ = signal(victim.pid, Signal::SIGKILL);
                    kills += 1;
                }
                std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
            }
            Ok(())
        })?;
        hit += disturbed.answered.into_inner();
        died += disturbed.died.into_inner();
        failed += disturbed.failed.into_inner();
        if let Some(failure) = disturbed.failure.into_inner() {
            say(&format!("a call failed otherwise: {failure}"))?;
        }
        wait_for("four workers again", ready)?;
    }
    let ratio = hit as f64 / quiet as f64;
    let now = watch.status()?.daemon.descriptors;
    say(&format!(
        "{kills} kills in {:.0} s under {CLIENTS} clients: {hit} of {quiet} calls answered \
         ({ratio:.2}), {died} died with their worker, {failed} failed otherwise; descriptors \
         {descriptors} before, {now} after",
        span.as_secs_f64()
    ))?;
    drop(watch);
    daemon.stop()
}

/// Reloads that replace every worker, under load.
fn reloads() -> Outcome<()> {
    let of =
        |round: u32| config(&format!("workers = 2\nenv = {{ set = {{ ROUND = \"{round}\" }} }}\n"));
    let mut daemon = Daemon::start(&of(0), TASKS)?;
    let watch = daemon.client()?;
    let descriptors = watch.status()?.daemon.descriptors;
    let memory = status_kib(daemon.pid(), "VmRSS")?;
    let begun = Instant::now();
    let crowd =
        crowd(&daemon, || (1..=RELOADS).try_for_each(|round| daemon.reload(&watch, &of(round))))?;
    let took = begun.elapsed();
    wait_for("two workers", || Ok(pool(&watch)?.workers.len() == 2))?;
    let lost = crowd.died.into_inner() + crowd.failed.into_inner();
    say(&format!(
        "{RELOADS} reloads in {:.1} s under {CLIENTS} clients: {} calls answered, {lost} refused \
         or lost; descriptors {descriptors} before, {} after; resident {memory} KiB before, {} \
         KiB after",
        took.as_secs_f64(),
        crowd.answered.into_inner(),
        watch.status()?.daemon.descriptors,
        status_kib(daemon.pid(), "VmRSS")?,
    ))?;
    drop(watch);
    daemon.stop()
}

/// Ten thousand calls for workers that are replaced after ten.
fn worn() -> Outcome<()> {
    let keys = "workers = 2\nreplace = { max_calls = 10 }\n\
                limits = { queue = 20000, call_timeout = \"10m\" }\n[daemon]\nin_flight = 20000\n";
    let mut daemon = Daemon::start(&config(keys), TASKS)?;
    let watch = daemon.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(clutch_client::Client::connect(daemon.socket()))?;
    let is_over = AtomicBool::new(false);
    let begun = Instant::now();
    let least = std::thread::scope(|scope| {
        let least = scope.spawn(|| -> Outcome<usize> {
            let mut least = usize::MAX;
            while !is_over.load(Ordering::Relaxed) {
                let able = ["ready", "busy", "retiring"];
                let workers = pool(&watch)?.workers;
                let count = workers.iter().filter(|one| able.contains(&&*one.state)).count();
                least = least.min(count);
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Ok(least)
        });
        let lost = runtime.block_on(flood_of(&client, WORN_CALLS, WORN_CALLS, &AtomicU64::new(0)));
        is_over.store(true, Ordering::Relaxed);
        let least = least.join().expect("it does not panic")?;
        Outcome::Ok((least, lost?))
    })?;
    say(&format!(
        "{WORN_CALLS} queued calls, workers replaced every 10: all answered in {:.1} s but {}, \
         never fewer than {} of 2 workers up",
        begun.elapsed().as_secs_f64(),
        least.1,
        least.0
    ))?;
    drop((watch, client));
    daemon.stop()
}

/// Makes `calls` calls, `open` at a time; gives how many failed.
async fn flood_of(
    client: &clutch_client::Client,
    calls: u64,
    open: u64,
    done: &AtomicU64,
) -> Outcome<u64> {
    let begun = AtomicU64::new(0);
    let one_after_another = async || {
        let mut lost = 0;
        while begun.fetch_add(1, Ordering::Relaxed) < calls {
            lost += u64::from(client.call::<i64>("builtins:abs", (1,)).await.is_err());
            done.fetch_add(1, Ordering::Relaxed);
        }
        lost
    };
    let all: futures_util::stream::FuturesUnordered<_> =
        (0..open).map(|_| one_after_another()).collect();
    use futures_util::StreamExt as _;
    Ok(all.fold(0, async |sum, lost| sum + lost).await)
}

/// One client's single calls while another makes a million.
fn flood() -> Outcome<()> {
    let mut daemon = Daemon::start(&config("workers = 2\n"), TASKS)?;
    let single = daemon.client()?;
    let socket = daemon.socket();
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let (waits, lost) = std::thread::scope(|scope| {
        let lost = scope.spawn(|| -> Outcome<u64> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let client = runtime.block_on(clutch_client::Client::connect(socket))?;
            let lost = runtime.block_on(flood_of(&client, FLOOD, FLOOD_OPEN, &done));
            is_over.store(true, Ordering::Relaxed);
            lost
        });
        wait_for("the flood", || Ok(done.load(Ordering::Relaxed) > FLOOD_OPEN))?;
        let mut waits = Vec::new();
        while !is_over.load(Ordering::Relaxed) {
            let sent = Instant::now();
            let _: i64 = single.call("builtins:abs", (1,))?;
            waits.push(sent.elapsed().as_secs_f64() * 1e3);
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Outcome::Ok((waits, lost.join().expect("it does not panic")?))
    })?;
    say(&format!(
        "a million calls of one client, {FLOOD_OPEN} open at a time, in {:.1} s ({lost} failed); \
         {} single calls of another beside them: p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        begun.elapsed().as_secs_f64(),
        waits.len(),
        percentile(&waits, 500),
        percentile(&waits, 990),
        percentile(&waits, 1000),
    ))?;
    drop(single);
    daemon.stop()
}

/// What the daemon takes with nothing to do.
fn idle() -> Outcome<()> {
    let pools = ["one", "two", "three", "four"];
    let config: String =
        pools.iter().map(|name| format!("[pools.{name}]\nworkers = 1\n")).collect();
    let mut daemon = Daemon::start(&config, TASKS)?;
    say(&format!(
        "four pools, nothing to do: {} KiB resident",
        status_kib(daemon.pid(), "VmRSS")?
    ))?;
    daemon.stop()
}
