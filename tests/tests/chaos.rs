//! A seeded storm: workers and guardians are killed, stopped and continued under load, and every
//! call is accounted for. `CHAOS_SEED=N cargo test -p clutch-tests --test chaos` repeats one.

#![expect(clippy::print_stdout, reason = "a storm is repeated by the seed it prints")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clutch_client::{Failure, Reason};
use clutch_tests::wait::park;
use clutch_tests::{Daemon, SECOND, kill, process, wait_for};
use nix::sys::signal::Signal;

/// Threads that call, each over a connection of its own.
const CALLERS: u64 = 6;

/// How long the storm lasts.
const STORM: Duration = Duration::from_secs(6);

/// No answer may come later than this: the calls' own timeout, the interrupt's budget, and what a
/// loaded machine adds.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What became of the calls, by number.
type Answers = BTreeMap<u64, Result<u64, Failure>>;

#[test]
fn a_storm_loses_no_call_and_runs_none_twice_f030() {
    let seed = match std::env::var("CHAOS_SEED") {
        Ok(text) => text.parse().expect("CHAOS_SEED is a number"),
        Err(_) => u64::from(std::process::id()),
    };
    println!("seed {seed}");
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(3)).start();
    let oracle = daemon.oracle();
    let ledger = daemon.tmp().path().join("ledger");
    let (storm_is_over, numbers, kills) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));

    let answers = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (daemon, ledger) = (&daemon, &ledger);
                let (storm_is_over, numbers) = (&storm_is_over, &numbers);
                scope.spawn(move || {
                    call_through(daemon, ledger, seed ^ caller, storm_is_over, numbers)
                })
            })
            .collect();
        rage(&daemon, seed, &kills);
        storm_is_over.store(true, Ordering::SeqCst);
        let joined = callers.into_iter().map(|caller| caller.join().expect("a caller panicked"));
        joined.flatten().collect::<Answers>()
    });

    judge(&answers, numbers.load(Ordering::SeqCst), kills.load(Ordering::SeqCst), &ledger, seed);
    wait_for("the pool is whole again", 20 * SECOND, || daemon.worker_pids("default").len() == 3);
    daemon.wait_ready();
    oracle.judge(daemon);
}

/// Calls until the storm is over; every call is answered in time.
fn call_through(
    daemon: &Daemon,
    ledger: &Path,
    seed: u64,
    storm_is_over: &AtomicBool,
    numbers: &AtomicU64,
) -> Answers {
    let mut dice = Dice(seed);
    let client = daemon.blocking();
    let mut answers = Answers::new();
    while !storm_is_over.load(Ordering::SeqCst) {
        let number = numbers.fetch_add(1, Ordering::SeqCst) + 1;
        let ms = if dice.roll(10) == 0 { 200 } else { dice.roll(4) };
        // One in five gives up before its call can be done.
        let timeout = if dice.roll(5) == 0 { 100 } else { 4000 };
        let begun = Instant::now();
        let answer = client
            .request("chaos:step")
            .args((ledger.to_str().expect("a path of ours is text"), number, ms))
            .timeout(Duration::from_millis(timeout))
            .send::<u64>();
        assert!(begun.elapsed() < ANSWER_MAX, "call {number} took {:?}", begun.elapsed());
        answers.insert(number, answer);
    }
    answers
}

/// Does terrible things to random workers for a while.
fn rage(daemon: &Daemon, seed: u64, kills: &AtomicU64) {
    let mut dice = Dice(!seed);
    let end = Instant::now() + STORM;
    while Instant::now() < end {
        park(Duration::from_millis(20 + dice.roll(150)));
        let workers = daemon.worker_pids("default");
        if workers.is_empty() {
            continue;
        }
        let index = usize::try_from(dice.roll(workers.len() as u64)).expect("a few");
        let victim = workers[index];
        match dice.roll(8) {
            0 => {
                // Stopped for longer than some calls will wait.
                process::signal(victim, Signal::SIGSTOP);
                park(Duration::from_millis(150));
                process::signal(victim, Signal::SIGCONT);
            }
            1 => {
                kills.fetch_add(1, Ordering::SeqCst);
                process::signal(victim, Signal::SIGSEGV);
            }
            2 => {
                // Its guardian: the parent of python.
                if let Some(python) = process::Process::find(victim) {
                    kills.fetch_add(1, Ordering::SeqCst);
                    kill(python.parent);
                }
            }
            _ => {
                kills.fetch_add(1, Ordering::SeqCst);
                kill(victim);
            }
        }
    }
}

fn judge(answers: &Answers, asked: u64, kills: u64, ledger: &Path, seed: u64) {
    assert_eq!(asked, answers.len() as u64, "every call has one answer (seed {seed})");
    let mut begun: BTreeMap<u64, u32> = BTreeMap::new();
    for line in std::fs::read_to_string(ledger).expect("some calls began").lines() {
        *begun.entry(line.parse().expect("lines are whole")).or_default() += 1;
    }
    let mut died = 0;
    for (number, answer) in answers {
        let times = begun.get(number).copied().unwrap_or(0);
        assert!(times <= 1, "call {number} ran {times} times (seed {seed})");
        match answer {
            Ok(value) => {
                assert_eq!((number, 1), (value, times), "another call's answer (seed {seed})");
                assert_ne!(0, number % 17, "call {number} should have raised (seed {seed})");
            }
            Err(failure) => {
                assert!(
                    failure.started || times == 0,
                    "call {number} began, and is said not to have (seed {seed}): {failure}"
                );
                match &failure.reason {
                    Reason::Raised(exception) => {
                        assert_eq!((0, "ValueError"), (number % 17, exception.type_name.as_str()));
                    }
                    Reason::WorkerDied(_) => died += 1,
                    Reason::TimedOut { .. } => {}
                    _ => panic!("call {number} failed strangely (seed {seed}): {failure}"),
                }
            }
        }
    }
    println!("{asked} calls, {kills} kills, {died} calls died with their worker");
    assert!(died <= kills, "{died} calls died in {kills} kills (seed {seed})");
    assert!(kills > 10, "a storm of {kills} kills is none (seed {seed})");
}
