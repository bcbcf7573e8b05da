//! Deaths of every kind: of a worker, of its guardian, of the daemon. Who was waiting is told at
//! once and exactly, nobody else notices, and nothing is left alive.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clutch_client::{Failure, Reason, blocking};
use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::message::Exit;
use clutch_tests::process::{Process, alive, descendants};
use clutch_tests::{
    Bystander, Daemon, MILLISECOND, Pool, Python, SECOND, Tmp, kill, wait_for, wait_until,
};
use nix::sys::signal::Signal;

/// The pid of the worker that runs `function`, once one does.
#[track_caller]
fn runs(daemon: &Daemon, function: &str) -> u32 {
    wait_until(&format!("{function} runs"), 10 * SECOND, || {
        let status = daemon.try_status()?;
        let workers = status.pools.into_iter().flat_map(|pool| pool.workers);
        let mut busy = workers.filter(|worker| worker.function.as_deref() == Some(function));
        busy.next().map(|worker| worker.pid).ok_or_else(|| "nobody runs it".to_owned())
    })
}

fn client(daemon: &Daemon) -> blocking::Client {
    blocking::Client::connect(daemon.socket()).expect("the daemon listens")
}

#[track_caller]
fn death(failure: Failure) -> Certificate {
    match failure.reason {
        Reason::WorkerDied(certificate) => *certificate,
        _ => panic!("{failure}"),
    }
}

/// Calls a function that cannot answer, and gives what is known of its worker's death.
#[track_caller]
fn dies(daemon: &Daemon, function: &str, args: &[i64]) -> Certificate {
    let failure = client(daemon).call::<()>(function, args).expect_err("it cannot answer");
    assert!(failure.started, "{failure}");
    assert_eq!((1, "default"), (failure.attempt, &*failure.pool), "{failure}");
    let certificate = death(failure);
    assert_eq!(Some(function), certificate.function.as_deref(), "{certificate}");
    certificate
}

/// A call on a thread of its own: how it failed, and when.
fn in_background(daemon: &Daemon, function: &str, args: Vec<String>) -> Waiting {
    let client = client(daemon);
    let function = function.to_owned();
    let thread = std::thread::spawn(move || {
        let request = client.request(function).args(args).timeout(60 * SECOND);
        let failure = request.send::<()>().expect_err("it cannot answer");
        (failure, Instant::now())
    });
    Waiting { thread }
}

/// A call that has begun and does not end, and the pid of its worker.
fn begun(daemon: &Daemon) -> (Waiting, u32) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let file = daemon.tmp().join(format!("begun-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let path = file.to_str().expect("test paths are text").to_owned();
    let waiting = in_background(daemon, "job_begun:mark_and_sleep", vec![path]);
    wait_for("the call has begun", 20 * SECOND, || file.exists());
    (waiting, runs(daemon, "job_begun:mark_and_sleep"))
}

struct Waiting {
    thread: std::thread::JoinHandle<(Failure, Instant)>,
}

impl Waiting {
    #[track_caller]
    fn failure(self) -> (Failure, Instant) {
        self.thread.join().expect("a call fails, it does not panic")
    }
}

#[test]
fn f002_a_worker_killed_in_a_call_is_reported_at_once_and_nobody_else_notices() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let mut best = Duration::MAX;
    for round in 1..=5 {
        // The other worker of the same pool is at work too, and must not notice.
        let beside = client(&daemon);
        let beside = std::thread::spawn(move || {
            let answer = beside.call::<String>("bulk:nap", (0.4, "done"));
            answer.expect("the other worker is unharmed")
        });
        runs(&daemon, "bulk:nap");
        let (waiting, victim) = begun(&daemon);

        let killed = Instant::now();
        kill(victim);
        let (failure, told) = waiting.failure();
        let took = told - killed;
        assert!(took < SECOND, "the caller was told after {took:?}");
        best = best.min(took);
        assert!(failure.started && failure.attempt == 1, "{failure}");
        let text = failure.to_string();
        assert!(text.contains("SIGKILL"), "{text}");
        let certificate = death(failure);
        assert_eq!((victim, "SIGKILL"), (certificate.pid, &*certificate.exit_name));
        assert_eq!(Cause::Signalled, certificate.cause, "{certificate}");
        assert_eq!(Some(Exit::Signal(9)), certificate.exit);

        assert_eq!("done", beside.join().expect("it was answered"));
        wait_for("the pool is back at its size", 5 * SECOND, || {
            let pids = daemon.worker_pids("default");
            pids.len() == 2 && !pids.contains(&victim)
        });
        daemon.wait_ready();
        assert_eq!(round, daemon.counter("default", "deaths.signalled"));
    }
    assert!(best < 100 * MILLISECOND, "at best the caller was told after {best:?}");
    bystander.assert_unharmed(2 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_waits_behind_a_death_is_run_by_the_replacement() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let (waiting, victim) = begun(&daemon);
    let behind = client(&daemon);
    let behind = std::thread::spawn(move || {
        let answer = behind.call::<f64>("math:sqrt", (9,));
        answer.expect("the replacement answers")
    });
    wait_for("a call waits", 5 * SECOND, || daemon.status().pools[0].queued == 1);
    kill(victim);
    death(waiting.failure().0);
    assert_eq!(3.0, behind.join().expect("it was answered"));
    oracle.judge(daemon);
}

/// Starts a call whose worker has children of every kind, and gives the pids of all of them.
#[track_caller]
fn family(daemon: &Daemon, at: &Path) -> (Waiting, Vec<u32>) {
    let file = at.to_str().expect("test paths are text").to_owned();
    let waiting = in_background(daemon, "job_deaths:grow_family", vec![file]);
    let pids: Vec<u32> = wait_until("the family is there", 20 * SECOND, || {
        let text = std::fs::read_to_string(at).map_err(|error| error.to_string())?;
        let pids: Result<_, _> = text.lines().map(str::parse).collect();
        pids.map_err(|error: std::num::ParseIntError| error.to_string())
    });
    assert_eq!(5, pids.len());
    for pid in &pids {
        assert!(alive(*pid), "{pid} should live");
    }
    (waiting, pids)
}

/// A pool whose user code may leave files behind where nobody looks: a forkserver that is killed
/// cannot remove its own socket.
fn littering(pool: Pool, tmp: &Tmp) -> Pool {
    pool.env("TMPDIR", tmp.path().to_str().expect("test paths are text"))
}

/// Waits until none of these lives.
#[track_caller]
fn wait_all_dead(pids: &[u32], deadline: Duration) {
    wait_until("all of them are dead", deadline, || {
        let living = pids.iter().filter(|pid| alive(**pid));
        let living: Vec<_> = living.filter_map(|pid| Process::find(*pid)).collect();
        if living.is_empty() {
            return Ok(());
        }
        Err(living.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
}

#[test]
fn f025_nothing_outlives_a_daemon_that_was_killed() {
    let pythons = Python::supported();
    let (oldest, newest) = (pythons[0], Python::any());
    let mut daemon = Daemon::builder()
        .pool("old", |pool| pool.python(oldest).workers(2))
        .pool("default", |pool| pool.python(newest).workers(2))
        .start();
    let (waiting, family) = family(&daemon, &daemon.tmp().join("family"));
    let below: Vec<u32> = descendants(daemon.pid()).iter().map(|process| process.pid).collect();
    // Four guardians, four workers, five members of the family, and helpers of multiprocessing.
    assert!(below.len() >= 13, "{below:?}");
    for pid in &family {
        assert!(below.contains(pid), "{pid} has left the tree");
    }
    let killed = Instant::now();
    daemon.signal(Signal::SIGKILL);
    wait_all_dead(&below, SECOND);
    assert_eq!(137, daemon.wait_exit(SECOND));
    daemon.assert_swept(SECOND);
    let (failure, told) = waiting.failure();
    assert!(told - killed < SECOND, "the caller was told after {:?}", told - killed);
    assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
    assert!(failure.started, "it may have run in part: {failure}");
}

#[test]
fn f016_f017_f018_nothing_outlives_a_worker_that_was_killed() {
    let tmp = Tmp::new();
    let daemon = Daemon::builder().pool("default", |pool| littering(pool, &tmp)).start();
    let oracle = daemon.oracle();
    let (waiting, family) = family(&daemon, &daemon.tmp().join("family"));
    kill(runs(&daemon, "job_deaths:grow_family"));
    wait_all_dead(&family, SECOND);
    assert_eq!("SIGKILL", death(waiting.failure().0).exit_name);
    oracle.judge(daemon);
}

#[test]
fn nothing_outlives_a_guardian_that_was_killed() {
    let tmp = Tmp::new();
    let daemon = Daemon::builder()
        .pool("default", |pool| littering(pool, &tmp))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let (waiting, mut family) = family(&daemon, &daemon.tmp().join("family"));
    let python = runs(&daemon, "job_deaths:grow_family");
    let guardian = Process::find(python).expect("it lives").parent;
    let guardian = Process::find(guardian).expect("it lives");
    assert_eq!(daemon.pid(), guardian.parent, "{guardian}");
    assert!(guardian.command.contains("shim"), "{guardian}");

    family.push(python);
    let killed = Instant::now();
    kill(guardian.pid);
    wait_all_dead(&family, SECOND);
    let (failure, told) = waiting.failure();
    assert!(told - killed < SECOND, "the caller was told after {:?}", told - killed);
    let certificate = death(failure);
    assert_eq!(Cause::GuardianLost, certificate.cause, "{certificate}");
    bystander.assert_unharmed(2 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f008_a_process_that_ends_by_itself_is_reported_with_its_code() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    for code in [3_u8, 0, 255] {
        let certificate = dies(&daemon, "job_deaths:exit_now", &[code.into()]);
        assert_eq!(Cause::Exited, certificate.cause, "{certificate}");
        assert_eq!(Some(Exit::Code(code.into())), certificate.exit, "{certificate}");
        assert_eq!(format!("exit code {code}"), certificate.exit_name);
        daemon.wait_ready();
    }
    let certificate = dies(&daemon, "faults:end_in_c", &[0]);
    assert_eq!(Some(Exit::Code(0)), certificate.exit, "{certificate}");
    daemon.wait_ready();
    let certificate = dies(&daemon, "job_deaths:last_words", &[1]);
    let tail = certificate.stderr_tail.trim_end();
    assert!(tail.ends_with("these are my last words"), "{tail}");
    let output = daemon.cli(["call", "job_deaths:last_words", "3"]).expect_code(6);
    for part in ["these are my last words", "exit code 3", "error: "] {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
    oracle.judge(daemon);
}

#[test]
fn f007_a_process_that_ends_by_a_signal_is_reported_with_its_name() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let signals = [
        Signal::SIGTERM,
        Signal::SIGKILL,
        Signal::SIGUSR1,
        Signal::SIGALRM,
        Signal::SIGABRT,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGSYS,
        Signal::SIGXCPU,
    ];
    // For these `faulthandler` writes where Python was.
    let fatal = [Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL];
    for signal in signals {
        let certificate = dies(&daemon, "job_deaths:kill_self", &[signal as i64]);
        assert_eq!(signal.as_str(), certificate.exit_name);
        assert_eq!(Cause::Signalled, certificate.cause, "{certificate}");
        assert!(!certificate.out_of_memory && certificate.call > 0, "{certificate:?}");
        assert_eq!(fatal.contains(&signal), certificate.stack.contains("in kill_self"), "{signal}");
        daemon.wait_ready();
        assert_eq!(1, daemon.counter("default", &format!("deaths.signalled.{signal}")));
    }
    assert_eq!(signals.len() as u64, daemon.counter("default", "deaths.signalled"));
    let last = daemon.status().pools[0].last_death.clone().expect("there were some");
    assert_eq!("SIGXCPU", last.exit_name, "{last}");
    oracle.judge(daemon);
}

#[test]
fn f006_a_crash_is_reported_with_the_python_stack() {
    let mut builder = Daemon::builder();
    let pythons = Python::supported();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder.pool(&format!("p{index}"), |pool| pool.python(python));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for (index, python) in pythons.iter().enumerate() {
        let request = client(&daemon).request("job_deaths:crash").pool(format!("p{index}"));
        let certificate = death(request.send::<()>().expect_err("it cannot answer"));
        assert_eq!("SIGSEGV", certificate.exit_name, "{python}");
        let stack = &certificate.stack;
        assert!(stack.contains("Fatal Python error: Segmentation fault"), "{python}: {stack}");
        assert!(stack.contains("in crash"), "{python}: {stack}");
    }
    let pool = format!("--pool=p{}", pythons.len() - 1);
    let output = daemon.cli(["call", &*pool, "job_deaths:crash"]).expect_code(6);
    for part in ["Segmentation fault", "in crash", "SIGSEGV"] {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
    oracle.judge(daemon);
}
