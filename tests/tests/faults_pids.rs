//! Process ids that are used again at once: no signal may reach a stranger. F029.
//!
//! The test runs itself a second time in a pid namespace that has a few hundred numbers only.

use std::collections::VecDeque;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clutch_protocol::failure::Reason;
use clutch_tests::process::Process;
use clutch_tests::raw::call_within;
use clutch_tests::{
    Clutch, Daemon, MILLISECOND, Program, SECOND, command, kill, park, skip, wait_until,
};

const TEST: &str = "f029_no_signal_reaches_a_stranger_when_process_ids_are_used_again";

/// Says that this is the second run, inside the namespace.
const INSIDE: &str = "CLUTCH_TEST_INSIDE";

/// The highest number inside. The kernel starts again at 300, and threads take numbers too.
const PID_MAX: &str = "480";

/// How many strangers live at a time, and how many there are at least.
const STRANGERS: usize = 30;
const STRANGERS_IN_ALL: usize = 2_000;

/// How many workers and guardians are killed meanwhile, at least.
const KILLS: usize = 16;

/// Since 6.14 the highest number is a namespace's own; before, it is the whole machine's.
fn has_numbers_of_its_own() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(6), Some(14))
}

#[test]
fn f029_no_signal_reaches_a_stranger_when_process_ids_are_used_again() {
    if std::env::var_os(INSIDE).is_some() {
        std::fs::write("/proc/sys/kernel/pid_max", PID_MAX).expect("it is this namespace's own");
        storm();
        return;
    }
    if !nix::unistd::geteuid().is_root() || !has_numbers_of_its_own() {
        skip!("needs root and Linux 6.14 for a pid namespace with few numbers");
    }
    let unshare = |words: &[&str]| {
        Program::new("unshare").args(["-p", "-f", "--mount-proc", "--kill-child"]).args(words)
    };
    if unshare(&["true"]).run().code != 0 {
        skip!("this machine lets nobody have a pid namespace");
    }
    // It may have to be built first, which takes more processes than there are numbers.
    Clutch::binary();
    let me = std::env::current_exe().expect("a test knows its own path");
    let inside = unshare(&[me.to_str().expect("test paths are text"), TEST, "--exact"])
        .args(["--nocapture"])
        .env(INSIDE, "1")
        .timeout(240 * SECOND)
        .run();
    assert_eq!(0, inside.code, "inside:\n{}\n{}", inside.stdout, inside.stderr);
    assert!(inside.stdout.contains("1 passed"), "{}", inside.stdout);
}

/// Processes of ours that end when their input does, and in no other way.
#[derive(Default)]
struct Strangers {
    alive: VecDeque<Child>,
    born: usize,
}

impl Strangers {
    /// One more is born, and the oldest goes.
    fn churn(&mut self) {
        let null = Stdio::null;
        self.alive.push_back(Program::new("cat").spawn(Stdio::piped(), null(), null()));
        self.born += 1;
        if self.alive.len() > STRANGERS {
            self.end_oldest();
        }
    }

    fn end_oldest(&mut self) {
        let mut oldest = self.alive.pop_front().expect("there are some");
        drop(oldest.stdin.take());
        let status = command::wait(&mut oldest, 20 * SECOND).expect("it ends with its input");
        assert!(status.success(), "a stranger ended with {status}");
    }
}

/// Kills workers and guardians, times out what will not go, and scatters orphans, while numbers
/// are given to strangers as soon as they are free.
fn storm() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool.workers(2).limit("grace", "200ms")).start();
    let oracle = daemon.oracle();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let strangers = scope.spawn(|| {
            let mut strangers = Strangers::default();
            while !is_over.load(Ordering::SeqCst) || strangers.born < STRANGERS_IN_ALL {
                strangers.churn();
            }
            while !strangers.alive.is_empty() {
                strangers.end_oldest();
            }
        });
        scope.spawn(|| call_what_does_harm(&daemon, &is_over));
        let end = Instant::now() + 60 * SECOND;
        for round in 0..KILLS {
            assert!(Instant::now() < end, "only {round} kills in a minute");
            kill_one(&daemon, round % 4 == 0);
        }
        is_over.store(true, Ordering::SeqCst);
        strangers.join().expect("a stranger was harmed");
    });
    daemon.wait_ready();
    oracle.judge(daemon);
}

/// Kills a worker, or the guardian of one, and waits until that is known.
fn kill_one(daemon: &Daemon, its_guardian: bool) {
    let victim = wait_until("there is a worker", 20 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        let mut ready = workers.iter().filter(|worker| worker.state == "ready");
        let found = ready.next().map(|worker| worker.pid);
        found.and_then(Process::find).ok_or(workers)
    });
    let (target, name) =
        if its_guardian { (victim.parent, "shim") } else { (victim.pid, "python") };
    // This test too must not kill a stranger: what was called off meanwhile is left alone.
    if Process::find(target).is_none_or(|process| !process.command.contains(name)) {
        return;
    }
    kill(target);
    wait_until("the death is known", 20 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        if workers.iter().any(|worker| worker.pid == victim.pid) { Err(workers) } else { Ok(()) }
    });
}

/// Calls that have to be interrupted, terminated, killed and swept.
fn call_what_does_harm(daemon: &Daemon, is_over: &AtomicBool) {
    let mut client = daemon.raw();
    while !is_over.load(Ordering::SeqCst) {
        for (function, arguments) in [
            ("job_stuck:spin", "[]"),
            ("faults:scatter", "[3]"),
            ("job_stuck:ignore_everything", "[]"),
            ("math:sqrt", "[9]"),
        ] {
            let id = client.next_id();
            let call = call_within(id, "default", function, arguments, 300);
            client.send(&call).expect("the daemon reads calls");
            if let clutch_tests::raw::Reply::Failed(failure) = client.finish(id) {
                let fits = matches!(
                    failure.reason,
                    Reason::TimedOut { .. } | Reason::WorkerDied(_) | Reason::CrashLoop { .. }
                );
                assert!(fits, "{failure}");
            }
        }
        park(5 * MILLISECOND);
    }
}
