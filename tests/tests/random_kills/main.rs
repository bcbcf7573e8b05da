//! Large data of every kind under way while a worker, the client or the daemon is killed at a
//! random moment: whoever lives on is told so, and has nothing open and nothing mapped of it.
//!
//! Counted from `/proc`, after every kill. Eight kills of each kind usually, a hundred with
//! `CLUTCH_TEST_LONG=1`; `CLUTCH_SEED=7` repeats a run as far as its moments can be repeated.
#![expect(clippy::print_stdout, reason = "a run is repeated by the seed it prints")]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use clutch_tests::process::{Descriptors, descriptor_list};
use clutch_tests::{Daemon, MILLISECOND, Pool, Program, kill, park, wait_until};

mod traffic;

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What memory that is passed on is called in `/proc`; a worker's page is `clutch-page`.
const MEMORY: &str = "/memfd:clutch (deleted)";

/// The longest that traffic goes on before the kill.
const MOMENT_MS_MAX: u64 = 40;

/// Of so many kills, one is the daemon's.
const DAEMON_EVERY: u64 = 8;

/// Numbers that look random, the same for the same seed: xorshift64*.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

fn seed() -> u64 {
    let seed = std::env::var("CLUTCH_SEED").map_or_else(
        |_| std::process::id().into(),
        |text| text.parse().expect("CLUTCH_SEED is a number"),
    );
    println!("CLUTCH_SEED={seed}");
    seed
}

fn daemon() -> Daemon {
    // So many deaths are meant to be, and no reason to wait.
    let restart = [("backoff", "1ms".into()), ("backoff_max", "1ms".into()), ("deaths", 90.into())];
    let pool = |pool: Pool| pool.workers(2).limit("grace", "200ms").table("restart", restart);
    Daemon::builder().pool("default", pool).start()
}

/// What a process has open, and how much of passed-on memory it has mapped.
fn holds(pid: u32) -> (Descriptors, usize, usize) {
    let open = descriptor_list(pid).values().filter(|target| target.contains(MEMORY)).count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = maps.lines().filter(|line| line.contains(MEMORY)).count();
    (Descriptors::of(pid), open, mapped)
}

/// Waits until a process has nothing of passed-on memory, and no more open than before.
#[track_caller]
fn wait_until_empty(what: &str, pid: u32, before: &Descriptors) {
    wait_until(&format!("{what} holds nothing"), PATIENCE, || {
        let (descriptors, open, mapped) = holds(pid);
        let more = descriptors.more_than(before);
        if more.is_empty() && (open, mapped) == (0, 0) {
            return Ok(());
        }
        Err(format!("{more:?}, {open} memfds open, {mapped} mapped"))
    });
}

/// The client's process.
struct Traffic {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    idle: Descriptors,
}

impl Traffic {
    /// Starts this program again, as the client.
    fn start(daemon: &Daemon, file: &Path) -> Traffic {
        let program = std::env::current_exe().expect("a test knows its own path");
        let mut child = Program::new(program)
            .args(["--exact", "the_client_in_its_own_process", "--nocapture"])
            .env("CLUTCH_KILLS_SOCKET", daemon.socket())
            .env("CLUTCH_KILLS_FILE", file)
            .spawn(Stdio::piped(), Stdio::piped(), Stdio::inherit());
        let lines = BufReader::new(child.stdout.take().expect("it has a pipe")).lines();
        let mut traffic = Traffic { child, lines, idle: Descriptors::default() };
        // What is made once and stays, such as the runner's own, is there after this.
        traffic.begin("tensors");
        traffic.stop();
        traffic.idle = Descriptors::of(traffic.child.id());
        traffic
    }

    fn word(&mut self, word: &str) {
        let stdin = self.child.stdin.as_mut().expect("it has a pipe");
        writeln!(stdin, "{word}").expect("the client's process lives");
    }

    fn answer(&mut self, word: &str) -> String {
        let told = self
            .lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix('>').map(str::to_owned));
        let told = told.expect("the client's process lives");
        let rest = told.strip_prefix(word).map(str::to_owned);
        rest.unwrap_or_else(|| panic!("{told:?} instead of {word:?}"))
    }

    /// Begins this kind; back when a first piece of it is over.
    fn begin(&mut self, kind: &str) {
        self.word(kind);
        self.answer("begun");
    }

    /// Ends it; gives what came of it, by the names of its failures.
    fn stop(&mut self) -> Vec<String> {
        self.word("stop");
        let told = self.answer("stopped");
        told.split_whitespace().skip(1).map(str::to_owned).collect()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Only what fits the kill may have failed.
#[track_caller]
fn assert_all(failures: &[String], names: &[&str]) {
    let fits = |failure: &String| names.iter().any(|name| failure.starts_with(name));
    assert!(failures.iter().all(fits), "{failures:?}, expected {names:?}");
}

/// A daemon, its client's process, and what all had when nothing was under way.
struct Scene {
    daemon: Daemon,
    traffic: Traffic,
    file: PathBuf,
    daemon_idle: Descriptors,
    worker_idle: Descriptors,
}

impl Scene {
    fn set() -> Scene {
        let daemon = daemon();
        let lines: String = (0..traffic::LINES).map(|line| format!("{line}\n")).collect();
        let file = daemon.tmp().write("lines.txt", lines);
        let workers = daemon.worker_pids("default");
        let traffic = Traffic::start(&daemon, &file);
        let daemon_idle = Descriptors::of(daemon.pid());
        let worker_idle = Descriptors::of(workers[0]);
        Scene { daemon, traffic, file, daemon_idle, worker_idle }
    }

    /// Kills somebody while this kind of traffic is under way, and counts.
    fn round(mut self, kind: &str, dice: &mut Dice) -> Scene {
        self.traffic.begin(kind);
        // The moment of the kill: this is the fault, and waits for nothing.
        park(MILLISECOND * u32::try_from(dice.below(MOMENT_MS_MAX)).expect("it is small"));
        match dice.below(DAEMON_EVERY) {
            0 => return self.kill_daemon(),
            1..3 => {
                self.traffic = Traffic::start(&self.daemon, &self.file);
            }
            _ => {
                let workers = self.daemon.worker_pids("default");
                if let Some(pid) = workers.get(usize::try_from(dice.below(2)).expect("0 or 1")) {
                    kill(*pid);
                }
                assert_all(&self.traffic.stop(), &["WorkerDied"]);
            }
        }
        self.daemon.wait_ready();
        wait_until_empty("the client", self.traffic.child.id(), &self.traffic.idle);
        wait_until_empty("the daemon", self.daemon.pid(), &self.daemon_idle);
        for pid in self.daemon.worker_pids("default") {
            wait_until_empty("a worker", pid, &self.worker_idle);
        }
        self
    }

    fn kill_daemon(mut self) -> Scene {
        kill(self.daemon.pid());
        assert_all(&self.traffic.stop(), &["Disconnected"]);
        self.daemon.wait_exit(PATIENCE);
        self.daemon.assert_swept(PATIENCE);
        wait_until_empty("the client", self.traffic.child.id(), &self.traffic.idle);
        Scene::set()
    }
}

#[test]
fn whoever_is_killed_nobody_keeps_anything() {
    let kills = if std::env::var_os("CLUTCH_TEST_LONG").is_some() { 100 } else { 8 };
    // Of which no bit is set, it would stay so.
    let mut dice = Dice(seed() | 1 << 63);
    let mut scene = Scene::set();
    for kill in 1..=kills {
        for (kind, _) in traffic::KINDS {
            println!("{kind}, kill {kill} of {kills}");
            scene = scene.round(kind, &mut dice);
        }
    }
}

/// What the test above starts as a process; as a test of its own it has nothing to do.
#[test]
fn the_client_in_its_own_process() {
    let word = |name| std::env::var_os(name).map(PathBuf::from);
    if let (Some(socket), Some(file)) = (word("CLUTCH_KILLS_SOCKET"), word("CLUTCH_KILLS_FILE")) {
        traffic::obey(&socket, &file);
    }
}
