//! What an operator is promised, seen over some time: capacity under a hail of kills, and quiet
//! when there is nothing to do.

#![expect(clippy::print_stdout, reason = "measured ratios are for people")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clutch_client::Reason;
use clutch_tests::process::{self, Process};
use clutch_tests::{Daemon, MILLISECOND, SECOND, kill, park, wait_for};

/// Clients that call without a pause, each over a connection of its own.
const CLIENTS: usize = 8;

/// Comparisons of a while with kills and a while without, one after the other: what else the
/// machine does is the same for both. The first that shows what is promised is enough: a machine
/// that is busy otherwise starts workers late.
const ROUNDS_MAX: usize = 8;

/// How long one half of a round takes. `CLUTCH_TEST_LONG=1` makes a minute of kills of it.
fn span() -> Duration {
    if std::env::var_os("CLUTCH_TEST_LONG").is_some() { 15 * SECOND } else { 2 * SECOND }
}

/// The tests of this file measure; one at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// What one crowd of clients saw.
#[derive(Default)]
struct Crowd {
    answered: u64,
    /// The processes that certificates name, and how many calls each took with it.
    died: BTreeMap<u32, u64>,
}

/// Eight clients call for a while; `meanwhile` is done beside them.
fn crowd(daemon: &Daemon, meanwhile: impl FnOnce()) -> Crowd {
    let is_over = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let mut died = BTreeMap::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| call_through(daemon, &is_over, &answered)))
            .collect();
        meanwhile();
        is_over.store(true, Ordering::SeqCst);
        for client in clients {
            for pid in client.join().expect("a client panicked") {
                *died.entry(pid).or_default() += 1;
            }
        }
    });
    Crowd { answered: answered.load(Ordering::SeqCst), died }
}

/// Calls until it is over. Gives the process of each worker that died with a call of this client.
fn call_through(daemon: &Daemon, is_over: &AtomicBool, answered: &AtomicU64) -> Vec<u32> {
    let client = daemon.blocking();
    let mut died = Vec::new();
    while !is_over.load(Ordering::SeqCst) {
        match client.call::<u64>("bulk:nap", (0.004, 7)) {
            Ok(7) => {
                answered.fetch_add(1, Ordering::SeqCst);
            }
            Ok(other) => panic!("7 came back as {other}"),
            Err(failure) => match &failure.reason {
                Reason::WorkerDied(certificate) => {
                    assert!(failure.started, "{failure}");
                    died.push(certificate.pid);
                }
                _ => panic!("only a worker's death may fail a call: {failure}"),
            },
        }
    }
    died
}

/// Kills a worker every tenth of a second, of those that serve: where others keep the machine busy,
/// all may be starting, and starts that end again and again are a crash loop. Gives the processes
/// that were killed.
fn hail(daemon: &Daemon) -> Vec<u32> {
    let mut killed = Vec::new();
    let end = Instant::now() + span();
    while Instant::now() < end {
        let next = Instant::now() + 100 * MILLISECOND;
        let mut workers = daemon.status().pools.remove(0).workers;
        workers.retain(|worker| matches!(worker.state.as_str(), "ready" | "busy"));
        if let Some(victim) = workers.get(killed.len() % workers.len().max(1)) {
            kill(victim.pid);
            killed.push(victim.pid);
        }
        park(next.saturating_duration_since(Instant::now()));
    }
    killed
}

#[test]
fn a_kill_every_tenth_of_a_second_takes_the_calls_of_the_killed_and_nothing_else_f030() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(4)).start();
    let oracle = daemon.oracle();
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS_MAX {
        let undisturbed = crowd(&daemon, || park(span()));
        assert!(undisturbed.died.is_empty(), "{:?}", undisturbed.died);
        let mut killed = Vec::new();
        let disturbed = crowd(&daemon, || killed = hail(&daemon));
        for (pid, calls) in &disturbed.died {
            assert!(killed.contains(pid), "nobody killed worker process {pid}");
            assert_eq!(1, *calls, "worker process {pid} had one call");
        }
        let ratio = disturbed.answered as f64 / undisturbed.answered as f64;
        println!(
            "{} calls, {} under {} kills ({} calls died): {ratio:.2}",
            undisturbed.answered,
            disturbed.answered,
            killed.len(),
            disturbed.died.len()
        );
        best = best.max(ratio);
        wait_for("the pool is full again", 10 * SECOND, || {
            daemon.worker_pids("default").len() == 4
        });
        daemon.wait_ready();
        if best > 0.6 {
            break;
        }
    }
    assert!(best > 0.6, "throughput fell to {best:.2} of the undisturbed at best");
    oracle.judge(daemon);
}

/// How often the threads of a process have gone to sleep of themselves.
fn sleeps(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let of_task = |task: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum()
}

/// What a process has in memory, its program's file included, in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has some");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

/// What a process has to itself, in KiB.
fn private_kib(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it lives");
    let lines = rollup.lines().filter_map(|line| line.strip_prefix("Private_Dirty:"));
    lines.filter_map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).sum()
}

#[test]
fn with_nothing_to_do_nobody_wakes_up_and_nobody_is_large() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = Daemon::builder();
    for name in ["default", "one", "two", "three"] {
        builder = builder.pool(name, |pool| pool.workers(1));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    let all = || {
        let mut pids: Vec<_> = daemon.descendants().iter().map(|one: &Process| one.pid).collect();
        pids.push(daemon.pid());
        pids
    };
    let pids = all();
    assert_eq!(1 + 4 * 2, pids.len(), "a daemon, four guardians, four workers");
    // What was asked of them before has to be over: the sockets of the oracle's own questions.
    wait_for("everybody sleeps for half a second", 20 * SECOND, || {
        let before: Vec<_> = pids.iter().map(|pid| sleeps(*pid)).collect();
        park(500 * MILLISECOND);
        before == pids.iter().map(|pid| sleeps(*pid)).collect::<Vec<_>>()
    });
    let before: BTreeMap<_, _> = pids.iter().map(|pid| (*pid, sleeps(*pid))).collect();
    park(3 * SECOND);
    for (pid, count) in &before {
        let woken = sleeps(*pid) - count;
        let who = Process::find(*pid).map(|process| process.to_string());
        assert_eq!(0, woken, "{who:?} woke up {woken} times in three seconds of nothing");
    }
    let own_mib = process::memory_bytes(daemon.pid()) >> 20;
    assert!(own_mib < 8, "the daemon holds {own_mib} MiB with nothing to do");
    let resident_kib = resident_kib(daemon.pid());
    println!("the daemon has {resident_kib} KiB resident, {own_mib} MiB of them its own");
    // An unoptimized program is several times as large as what people run.
    if !cfg!(debug_assertions) {
        assert!(resident_kib < 15 << 10, "the daemon has {resident_kib} KiB resident");
    }
    for process in daemon.descendants() {
        if process.parent == daemon.pid() {
            // Most of it is relocated tables; an unoptimized program has four times as many.
            let most_kib = if cfg!(debug_assertions) { 2048 } else { 1024 };
            let kib = private_kib(process.pid);
            assert!(kib < most_kib, "{process} has {kib} KiB to itself");
        }
    }
    oracle.judge(daemon);
}
