//! Workers that die, hang or will not go, and what the supervisor makes of it. F001 to F030, those
//! of them that `deaths.rs` and `timeouts.rs` leave.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clutch_protocol::failure::{Cause, Certificate, Failure, Reason};
use clutch_protocol::message::Exit;
use clutch_tests::process::{Process, alive, descendants, stop};
use clutch_tests::raw::{Reply, call_within};
use clutch_tests::{
    Bystander, Daemon, MILLISECOND, Oracle, Program, RawClient, SECOND, command, kill, park,
    signal, skip, wait_for, wait_until,
};
use nix::libc;
use nix::sys::signal::Signal;

/// A payload just below the longest that is allowed by default.
const LARGE_BYTES: usize = 60 << 20;

fn json_path(path: &Path) -> String {
    serde_json::to_string(path.to_str().expect("test paths are text")).expect("a text is JSON")
}

#[track_caller]
fn death(failure: Failure) -> Certificate {
    assert!(failure.started, "{failure}");
    match failure.reason {
        Reason::WorkerDied(certificate) => *certificate,
        _ => panic!("{failure}"),
    }
}

#[track_caller]
fn killed(failure: Failure, pid: u32) {
    let certificate = death(failure);
    assert_eq!((pid, Some(Exit::Signal(9))), (certificate.pid, certificate.exit), "{certificate}");
    assert_eq!(Cause::Signalled, certificate.cause, "{certificate}");
}

/// Waits until the pool has `count` workers, none of them `victim`.
#[track_caller]
fn wait_replaced(daemon: &Daemon, victim: u32, count: usize) {
    wait_until("the victim is replaced", 20 * SECOND, || {
        let pids = daemon.worker_pids("default");
        if pids.len() == count && !pids.contains(&victim) { Ok(()) } else { Err(pids) }
    });
    daemon.wait_ready();
}

#[test]
fn f001_an_idle_worker_that_is_killed_is_replaced_and_no_caller_sees_anything() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle().expect_event("worker died", 1);
    // One caller at a time: one worker does everything, and the other nothing.
    let bystander = Bystander::start(&daemon, "default");
    let victim = wait_until("one worker does everything", 20 * SECOND, || {
        let mut workers = daemon.status().pools.remove(0).workers;
        workers.sort_by_key(|worker| worker.calls_served);
        let is_clear = workers[0].calls_served + 20 < workers[1].calls_served;
        if is_clear { Ok(workers[0].pid) } else { Err(workers) }
    });
    kill(victim);
    wait_until("the victim is replaced", 20 * SECOND, || {
        let pids = daemon.worker_pids("default");
        if pids.len() == 2 && !pids.contains(&victim) { Ok(()) } else { Err(pids) }
    });
    bystander.assert_unharmed(2 * SECOND);
    daemon.wait_ready();
    assert_eq!(1, daemon.counter("default", "deaths.signalled"));
    assert_eq!(1, daemon.counter("default", "restarts"));
    oracle.judge(daemon);
}

/// Whether strace is there and may trace.
fn can_trace() -> bool {
    let script = "strace -o /dev/null true";
    Program::new("sh").args(["-c", script]).run().code == 0
}

/// Whether a process waits inside a system call that sends.
fn waits_to_send(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let number = call.split(' ').next().and_then(|number| number.parse::<i64>().ok());
    let sends = [libc::SYS_sendmsg, libc::SYS_sendto, libc::SYS_write, libc::SYS_writev];
    let sleeps = Process::find(pid).is_some_and(|process| process.state == 'S');
    sleeps && number.is_some_and(|number| sends.contains(&number))
}

#[test]
fn f004_a_worker_killed_half_way_through_a_result_leaves_no_half_result() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    for round in 0..3 {
        let mark = daemon.tmp().join(format!("mark-{round}"));
        let mut client = daemon.raw();
        let arguments = format!("[{}, {LARGE_BYTES}]", json_path(&mark));
        let id = client.start("default", "faults:text_after", &arguments);
        let victim = daemon.wait_runs("faults:text_after");
        // A daemon that stands still reads nothing, so the worker stays in the middle.
        stop(daemon.pid());
        std::fs::write(&mark, "").expect("our own directory can be written");
        wait_for("the worker is sending", 30 * SECOND, || waits_to_send(victim));
        kill(victim);
        wait_for("the worker is dead", 10 * SECOND, || !alive(victim));
        let begun = Instant::now();
        daemon.signal(Signal::SIGCONT);
        killed(client.finish(id).failure(), victim);
        assert!(begun.elapsed() < 2 * SECOND, "told after {:?}", begun.elapsed());
        drop(client);
        wait_replaced(&daemon, victim, 1);
    }
    oracle.judge(daemon);
}

#[test]
fn f004_a_worker_killed_by_its_own_sending_leaves_no_half_result() {
    if !can_trace() {
        skip!("needs strace, and leave to use it, to kill the worker at a chosen system call");
    }
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let victim = daemon.worker_pids("default")[0];
    // It dies as it enters its first send: the call has run to its end, and nothing of it is told.
    let sends = "inject=sendmsg,sendto:signal=SIGKILL:when=1";
    let out = daemon.tmp().join("strace");
    let mut strace = Program::new("strace")
        .args(["-f", "-e", "trace=sendmsg,sendto", "-e", sends, "-p", &victim.to_string(), "-o"])
        .args([&out])
        .spawn(Stdio::null(), Stdio::null(), Stdio::null());
    let tracer = format!("TracerPid:\t{}", strace.id());
    wait_for("strace has taken hold", 20 * SECOND, || {
        let status = std::fs::read_to_string(format!("/proc/{victim}/status"));
        status.is_ok_and(|status| status.contains(&tracer))
    });
    let mark = daemon.tmp().write("mark", "");
    let mut client = daemon.raw();
    let arguments = format!("[{}, {LARGE_BYTES}]", json_path(&mark));
    killed(client.call("default", "faults:text_after", &arguments).failure(), victim);
    drop(client);
    assert!(command::wait(&mut strace, 10 * SECOND).is_some(), "strace ends with what it traces");
    wait_replaced(&daemon, victim, 1);
    oracle.judge(daemon);
}

/// A call with one large argument.
fn large_call(id: u64, timeout_ms: u64) -> Vec<u8> {
    let arguments = format!("[\"{}\"]", "x".repeat(LARGE_BYTES));
    call_within(id, "default", "faults:length", &arguments, timeout_ms)
}

#[test]
fn f005_a_worker_killed_in_the_middle_of_an_argument_holds_nobody_up() {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let mut times = Vec::new();
    for _ in 0..3 {
        let victim = daemon.deafen();
        let mut client = daemon.raw();
        let id = client.next_id();
        client.send(&large_call(id, 60_000)).expect("the daemon reads calls");
        daemon.wait_runs("faults:length");
        let begun = Instant::now();
        kill(victim);
        let bound = match client.finish(id) {
            Reply::Failed(failure) => {
                killed(*failure, victim);
                SECOND
            }
            // It provably never began, so it may be given to another worker without a word, which
            // has to start first.
            Reply::Value(length) => {
                assert_eq!(LARGE_BYTES, length);
                10 * SECOND
            }
        };
        times.push((begun.elapsed(), bound));
        drop(client);
        wait_replaced(&daemon, victim, 1);
    }
    assert!(times.iter().any(|(took, bound)| took < bound), "too late each time: {times:?}");
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f005_a_worker_that_never_reads_its_argument_is_given_up_at_the_deadline() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.limit("grace", "300ms"))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let victim = daemon.deafen();
    let mut client = daemon.raw();
    let id = client.next_id();
    client.send(&large_call(id, 1_000)).expect("the daemon reads calls");
    let failure = client.finish(id).failure();
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    // The next call need not wait for the end of the one that does not read.
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    drop(client);
    wait_for("the worker that did not read is gone", 10 * SECOND, || !alive(victim));
    wait_replaced(&daemon, victim, 1);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f010_a_worker_that_is_stopped_in_a_call_is_given_up_and_killed() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "500ms")).start();
    let oracle = daemon.oracle();
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut client = daemon.raw();
        let id = client.next_id();
        let begun = Instant::now();
        let call = call_within(id, "default", "job_stuck:sleep", "[]", 1_000);
        client.send(&call).expect("the daemon reads calls");
        let victim = daemon.wait_runs("job_stuck:sleep");
        signal(victim, Signal::SIGSTOP);
        let failure = client.finish(id).failure();
        assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
        assert!(failure.started, "{failure}");
        assert!(begun.elapsed() >= SECOND, "{:?}", begun.elapsed());
        best = best.min(begun.elapsed());
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
        wait_for("the one that stood still is gone", 5 * SECOND, || !alive(victim));
        drop(client);
        wait_replaced(&daemon, victim, 1);
    }
    assert!(best < 1_500 * MILLISECOND, "at best the caller was told after {best:?}");
    oracle.judge(daemon);
}

#[test]
fn f013_a_task_that_ignores_sigterm_is_killed_after_its_grace_and_its_slot_is_not_lost() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "1s")).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("mark");
    let mut client = daemon.raw();
    let id = client.next_id();
    let arguments = format!("[{}]", json_path(&mark));
    let call = call_within(id, "default", "faults:ignore_sigterm", &arguments, 2_000);
    client.send(&call).expect("the daemon reads calls");
    let victim = daemon.wait_runs("faults:ignore_sigterm");
    wait_for("it ignores the signal", 20 * SECOND, || mark.exists());
    let failure = client.finish(id).failure();
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    let told = Instant::now();
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    assert!(alive(victim), "its grace is not over");
    wait_for("it is killed", 10 * SECOND, || !alive(victim));
    // From the answer to the polite signal the interrupt has its own budget.
    assert!(told.elapsed() > 900 * MILLISECOND, "killed after {:?}", told.elapsed());
    drop(client);
    wait_replaced(&daemon, victim, 1);
    let certificate = daemon.status().pools.remove(0).last_death.expect("one died");
    assert_eq!((victim, Some(Exit::Signal(9))), (certificate.pid, certificate.exit));
    oracle.judge(daemon);
}

/// Stops a daemon whose one worker would rather stay: that takes its grace and not much more, and
/// leaves nothing.
#[track_caller]
fn stops_in_its_grace(mut daemon: Daemon, oracle: &Oracle, grace: Duration) {
    let begun = Instant::now();
    assert_eq!(0, daemon.stop(20 * SECOND), "{}", daemon.log());
    let took = begun.elapsed();
    assert!(took < grace + 3 * SECOND, "the stop took {took:?} with a grace of {grace:?}");
    let left = oracle.violations_after_stop(&daemon);
    assert!(left.is_empty(), "{left:#?}");
}

#[test]
fn f014_an_exit_handler_that_sleeps_does_not_hold_up_a_stop() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "500ms")).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("mark");
    let mut client = daemon.raw();
    let arguments = format!("[{}]", json_path(&mark));
    assert_eq!("registered", client.call("default", "faults:sleep_at_exit", &arguments).value());
    drop(client);
    stops_in_its_grace(daemon, &oracle, 500 * MILLISECOND);
}

#[test]
fn f015_a_thread_that_python_waits_for_does_not_hold_up_a_stop() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "500ms")).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("mark");
    let mut client = daemon.raw();
    let arguments = format!("[{}]", json_path(&mark));
    let answer = client.call("default", "faults:leave_thread_running", &arguments).value();
    assert_eq!("running", answer);
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    drop(client);
    stops_in_its_grace(daemon, &oracle, 500 * MILLISECOND);
}

#[test]
fn f019_a_slow_start_delays_its_own_pools_calls_and_nothing_else() {
    let builder = Daemon::builder();
    let mark = builder.tmp().join("slow");
    let slow = format!(
        "import os, time\nwhile os.path.exists({:?}):\n    time.sleep(0.01)\n",
        mark.to_str().expect("test paths are text")
    );
    builder.tmp().write("modules/slow_start.py", slow);
    let modules = builder.tmp().join("modules");
    let daemon = builder
        .pool("default", |pool| pool.path(modules).preload(&["slow_start"]))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    daemon.tmp().write("slow", "");
    let restarts = daemon.counter("default", "restarts");
    let victim = daemon.worker_pids("default")[0];
    kill(victim);
    wait_for("its successor is importing", 20 * SECOND, || {
        let pids = daemon.worker_pids("default");
        pids.len() == 1 && pids[0] != victim
    });

    // Each call waits against its own deadline.
    let (mut patient, mut hasty) = (daemon.raw(), daemon.raw());
    let waits = patient.start("default", "math:sqrt", "[9]");
    for _ in 0..5 {
        let id = hasty.next_id();
        let call = call_within(id, "default", "math:sqrt", "[9]", 300);
        hasty.send(&call).expect("the daemon reads calls");
        let failure = hasty.finish(id).failure();
        assert!(matches!(failure.reason, Reason::TimedOut { timeout_ms: 300, .. }), "{failure}");
        assert!(!failure.started, "{failure}");
    }
    let pool = daemon.status().pools.into_iter().find(|pool| pool.name == "default");
    let pool = pool.expect("it is there");
    assert_eq!("starting", pool.workers[0].state, "{pool:?}");
    std::fs::remove_file(&mark).expect("it was written");
    assert_eq!(3.0, patient.finish(waits).value());
    drop((patient, hasty));
    daemon.wait_ready();
    assert_eq!(restarts + 1, daemon.counter("default", "restarts"), "a storm of restarts");
    bystander.assert_unharmed(2 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f022_a_call_that_kills_every_worker_is_to_blame_itself_and_not_its_pool() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle().expect_event("worker died", 12);
    let mut client = daemon.raw();
    for round in 1..=12 {
        // Whichever worker it is, this is its first call or its second.
        let certificate = death(client.call("default", "job_deaths:exit_now", "[7]").failure());
        assert_eq!(Some("job_deaths:exit_now"), certificate.function.as_deref(), "{certificate}");
        assert_eq!(Some(Exit::Code(7)), certificate.exit, "{certificate}");
        let begun = Instant::now();
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
        // No slot is kept waiting for what a call did to its worker.
        let pool = daemon.status().pools.remove(0);
        assert_eq!("running", pool.state, "round {round}: {pool:?}");
        assert!(begun.elapsed() < 10 * SECOND, "round {round}: {:?}", begun.elapsed());
    }
    drop(client);
    oracle.judge(daemon);
}

/// The threads of a process, by id, with their names.
fn threads(pid: u32) -> BTreeMap<u32, String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.map(|id: u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{id}/comm"));
        (id, name.unwrap_or_default().trim().to_owned())
    })
    .collect()
}

/// The thread that starts guardians, by the daemon's own word.
#[track_caller]
fn spawner(daemon: &Daemon) -> u32 {
    let threads = threads(daemon.pid());
    let found: Vec<_> = threads.iter().filter(|(_, name)| *name == "clutch-spawner").collect();
    assert_eq!(1, found.len(), "{threads:?}");
    *found[0].0
}

#[test]
fn f024_guardians_are_started_by_one_thread_that_lives_as_long_as_the_daemon() {
    if !can_trace() {
        skip!("needs strace, and leave to use it, to see which thread starts a process");
    }
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let spawner_before = spawner(&daemon);
    let out = daemon.tmp().join("strace");
    let trace = "trace=fork,vfork,clone,clone3";
    let mut strace = Program::new("strace")
        .args(["-f", "-e", trace, "-p", &daemon.pid().to_string(), "-o"])
        .args([&out])
        .spawn(Stdio::null(), Stdio::null(), Stdio::null());
    let tracer = format!("TracerPid:\t{}", strace.id());
    wait_for("strace has taken hold of every thread", 20 * SECOND, || {
        threads(daemon.pid()).keys().all(|thread| {
            let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
            status.is_ok_and(|status| status.contains(&tracer))
        })
    });
    for _ in 0..2 {
        let victim = daemon.worker_pids("default")[0];
        kill(victim);
        wait_replaced(&daemon, victim, 2);
    }
    signal(strace.id(), Signal::SIGINT);
    assert!(command::wait(&mut strace, 10 * SECOND).is_some(), "strace lets go when asked");

    let mine = threads(daemon.pid());
    let trace = std::fs::read_to_string(out).expect("strace has written it");
    let mut starters = BTreeSet::new();
    let starts = |line: &&str| line.contains("clone") || line.contains("fork");
    for line in trace.lines().filter(starts) {
        let thread = line.split(' ').next().and_then(|id| id.parse::<u32>().ok());
        starters.extend(thread.filter(|thread| mine.contains_key(thread)));
    }
    assert_eq!(BTreeSet::from([spawner_before]), starters, "{mine:?}\n{trace}");
    assert_eq!(spawner_before, spawner(&daemon), "the thread has ended and begun anew");
    // No other thread is left whose end could be a guardian's death.
    let names: BTreeSet<_> = mine.values().filter(|name| name.contains("tokio")).collect();
    assert!(names.is_empty(), "{mine:?}");
    oracle.judge(daemon);
}

#[test]
fn f025_workers_that_are_busy_in_c_code_do_not_outlive_a_daemon_that_was_killed() {
    let functions = [
        "job_stuck:hold_gil_in_a_loop",
        "job_stuck:hold_gil_in_a_power",
        "job_stuck:hold_gil_in_a_sleep",
        "job_stuck:ignore_everything",
        "job_stuck:sleep",
    ];
    let workers = u32::try_from(functions.len()).expect("a few");
    let mut daemon = Daemon::builder().pool("default", |pool| pool.workers(workers)).start();
    let mut client = daemon.raw();
    for function in functions {
        client.start("default", function, "[]");
        daemon.wait_runs(function);
    }
    // One of them stands still besides.
    stop(daemon.wait_runs("job_stuck:sleep"));
    let below: Vec<u32> = descendants(daemon.pid()).iter().map(|process| process.pid).collect();
    assert!(below.len() >= 2 * functions.len(), "{below:?}");
    daemon.signal(Signal::SIGKILL);
    wait_until("nobody of its tree lives", 2 * SECOND, || {
        let living: Vec<_> = below.iter().filter(|pid| alive(**pid)).collect();
        if living.is_empty() { Ok(()) } else { Err(format!("{living:?}")) }
    });
    assert_eq!(137, daemon.wait_exit(SECOND));
    daemon.assert_swept(SECOND);
}

/// Threads that call while workers are killed.
const CALLERS: u64 = 4;

/// How many workers are killed, each in the middle of a call.
const KILLS: usize = 40;

/// What the calls of [`f030_exactly_the_calls_of_killed_workers_fail`] told of themselves.
#[derive(Default)]
struct Ledger {
    /// By process, the call it has begun and not ended.
    open: BTreeMap<u32, u64>,
    /// The processes that have ended a call.
    proven: BTreeSet<u32>,
    /// Every call that began, and how often.
    begun: BTreeMap<u64, u32>,
}

impl Ledger {
    fn read(path: &Path) -> Ledger {
        let mut ledger = Ledger::default();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let mut words = line.split(' ');
            let what = words.next();
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let (call, pid) = (number().expect("lines are whole"), number().expect("whole"));
            let pid = u32::try_from(pid).expect("a process id");
            if what == Some("begin") {
                *ledger.begun.entry(call).or_default() += 1;
                ledger.open.insert(pid, call);
            } else {
                ledger.open.remove(&pid);
                ledger.proven.insert(pid);
            }
        }
        ledger
    }
}

#[test]
fn f030_exactly_the_calls_of_killed_workers_fail() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(3)).start();
    let oracle = daemon.oracle();
    let ledger = daemon.tmp().join("ledger");
    let (is_over, numbers) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut doomed = BTreeMap::new();
    let mut failed = BTreeMap::new();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| call_until(&daemon, &ledger, &is_over, &numbers)))
            .collect();
        let end = Instant::now() + 60 * SECOND;
        while doomed.len() < KILLS {
            assert!(Instant::now() < end, "only {} kills in a minute", doomed.len());
            kill_one(&daemon, &ledger, &mut doomed);
        }
        is_over.store(true, Ordering::SeqCst);
        for caller in callers {
            failed.append(&mut caller.join().expect("a caller panicked"));
        }
    });
    assert_eq!(doomed, failed, "the calls that failed, and the workers that ran them");
    let ledger = Ledger::read(&ledger);
    assert!(ledger.begun.values().all(|times| *times == 1), "a call ran twice");
    let asked = numbers.load(Ordering::SeqCst);
    assert_eq!(asked, ledger.begun.len() as u64, "every call began once");
    daemon.wait_ready();
    assert_eq!(KILLS as u64, daemon.counter("default", "deaths.signalled"));
    oracle.judge(daemon);
}

#[test]
fn f030_a_kill_is_told_as_one_though_the_guardian_reports_it_late() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle().expect_event("worker died", 1);
    let mut client = daemon.raw();
    let ledger = daemon.tmp().join("ledger");
    let arguments = format!("[{}, 1, 60000]", json_path(&ledger));
    let call = client.start("default", "faults:step", &arguments);
    let python = wait_until("the call has begun", 20 * SECOND, || {
        let open = Ledger::read(&ledger).open;
        open.into_keys().next().ok_or("not yet")
    });
    let guardian = Process::find(python).expect("it lives").parent;
    stop(guardian);
    kill(python);
    wait_until("the daemon has seen its sockets end", 10 * SECOND, || {
        let workers = daemon.status().pools.remove(0).workers;
        let is_stopping = workers.iter().any(|it| it.pid == python && it.state == "stopping");
        if is_stopping { Ok(()) } else { Err(workers) }
    });
    signal(guardian, Signal::SIGCONT);
    killed(client.finish(call).failure(), python);
    drop(client);
    wait_replaced(&daemon, python, 1);
    assert_eq!(1, daemon.counter("default", "deaths.signalled"));
    oracle.judge(daemon);
}

/// Calls until it is over; gives the calls that failed, each with the worker that died of it.
fn call_until(
    daemon: &Daemon,
    ledger: &Path,
    is_over: &AtomicBool,
    numbers: &AtomicU64,
) -> BTreeMap<u64, u32> {
    let mut client = RawClient::hello(daemon.socket());
    let mut failed = BTreeMap::new();
    while !is_over.load(Ordering::SeqCst) {
        let number = numbers.fetch_add(1, Ordering::SeqCst);
        let arguments = format!("[{}, {number}, {}]", json_path(ledger), number % 12);
        match client.call("default", "faults:step", &arguments) {
            Reply::Value(value) => assert_eq!(number, value, "another call's answer"),
            Reply::Failed(failure) => {
                let certificate = death(*failure);
                assert_eq!(Some(Exit::Signal(9)), certificate.exit, "{certificate}");
                failed.insert(number, certificate.pid);
            }
        }
    }
    failed
}

/// Kills a worker that is in the middle of a call for sure, if one is found.
fn kill_one(daemon: &Daemon, ledger: &Path, doomed: &mut BTreeMap<u64, u32>) {
    park(5 * MILLISECOND);
    let known = Ledger::read(ledger);
    // A worker that never answered would count as one that cannot start.
    let candidates = daemon.worker_pids("default");
    let Some(victim) = candidates.into_iter().find(|pid| known.proven.contains(pid)) else {
        return;
    };
    // What stands still ends no call, so that the ledger tells the truth.
    stop(victim);
    match Ledger::read(ledger).open.get(&victim) {
        Some(call) => {
            doomed.insert(*call, victim);
            kill(victim);
            wait_for("the victim is dead", 10 * SECOND, || !alive(victim));
        }
        None => signal(victim, Signal::SIGCONT),
    }
}
