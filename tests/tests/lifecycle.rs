//! The daemon's own life: how it stops under load, what it makes of a pause, what it finds of a
//! former one, what it says when nothing works.

use std::fs::{self, File};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use clutch_client::{Failure, Reason, blocking};
use clutch_tests::process::{self, Process};
use clutch_tests::{Daemon, MILLISECOND, SECOND, wait_for, wait_until};
use nix::sys::signal::Signal;

/// A call on a thread of its own, and how it ended.
type Waiting<T> = JoinHandle<Result<T, Box<Failure>>>;

fn nap(daemon: &Daemon, span: f64, timeout: Duration) -> Waiting<String> {
    let client: blocking::Client = daemon.blocking();
    std::thread::spawn(move || {
        let request = client.request("bulk:nap").args((span, "done")).timeout(timeout);
        request.send().map_err(Box::new)
    })
}

#[track_caller]
fn wait_counts(daemon: &Daemon, running: u64, queued: u64) {
    wait_until("so many run and wait", 10 * SECOND, || {
        let pool = daemon.try_status()?.pools.remove(0);
        let found = (pool.running, pool.queued);
        if found == (running, queued) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[track_caller]
fn is_shutting_down(call: Waiting<String>) -> Box<Failure> {
    let failure = call.join().expect("it does not panic").expect_err("it was refused");
    assert!(matches!(failure.reason, Reason::ShuttingDown { .. }), "{failure}");
    failure
}

#[test]
fn f128_a_stop_under_load_finishes_what_runs_and_refuses_what_waits() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let running: Vec<_> = (0..2).map(|_| nap(&daemon, 2.0, 60 * SECOND)).collect();
    wait_counts(&daemon, 2, 0);
    let queued: Vec<_> = (0..10).map(|_| nap(&daemon, 2.0, 60 * SECOND)).collect();
    wait_counts(&daemon, 2, 10);
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    for call in queued {
        let failure = is_shutting_down(call);
        assert!(!failure.started, "{failure}");
    }
    let took = begun.elapsed();
    assert!(took < SECOND, "what waits is told at once, not after {took:?}");
    for call in running {
        assert_eq!("done", call.join().expect("no panic").expect("it has its grace"));
    }
    assert_eq!(0, daemon.wait_exit(10 * SECOND));
    assert!(!daemon.socket().exists() && !lock_of(&daemon).exists());
    daemon.assert_swept(SECOND);
}

#[test]
fn f128_a_second_signal_forces_and_a_third_does_no_harm() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let running: Vec<_> = (0..2).map(|_| nap(&daemon, 1000.0, 60 * SECOND)).collect();
    wait_counts(&daemon, 2, 0);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_log("stopping", 5 * SECOND);
    assert!(running.iter().all(|call| !call.is_finished()), "the first one lets them run");
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGTERM);
    for call in running {
        assert!(is_shutting_down(call).started);
    }
    assert_eq!(0, daemon.wait_exit(10 * SECOND));
    let took = begun.elapsed();
    assert!(took < 5 * SECOND, "it took {took:?}");
    assert!(!daemon.socket().exists() && !lock_of(&daemon).exists());
    daemon.assert_swept(SECOND);
}

fn lock_of(daemon: &Daemon) -> std::path::PathBuf {
    let mut path = daemon.socket().as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

#[test]
fn f134_a_daemon_that_stood_still_blames_nobody() {
    let builder = Daemon::builder();
    let mark = builder.tmp().join("slow");
    let text = format!("import os, time\nif os.path.exists({mark:?}):\n    time.sleep(1.5)\n");
    builder.tmp().write("modules/slow_start.py", text);
    let modules = builder.tmp().join("modules");
    let daemon = builder
        .pool("default", |pool| pool.workers(3).limit("interrupt", "300ms"))
        .pool("slow", |pool| {
            pool.path(&modules).preload(&["slow_start"]).limit("start_timeout", "3s")
        })
        .start();
    let oracle = daemon.oracle();
    let pids = daemon.worker_pids("default");
    // A worker that is being started, and will be ready while nobody listens.
    daemon.tmp().write("slow", "");
    let victim = daemon.worker_pids("slow")[0];
    process::kill(victim);
    let starting = wait_until("its successor starts", 10 * SECOND, || {
        let status = daemon.try_status()?;
        let pool = status.pools.iter().find(|pool| pool.name == "slow").expect("it is there");
        let fresh = pool.workers.iter().find(|w| w.state == "starting" && w.pid > 0);
        fresh.map(|w| w.pid).ok_or_else(|| format!("{:?}", pool.workers))
    });
    let patient = nap(&daemon, 1.0, 60 * SECOND);
    let late = nap(&daemon, 8.0, 2 * SECOND);
    wait_counts(&daemon, 2, 0);
    daemon.signal(Signal::SIGSTOP);
    wait_for("the daemon is stopped", 5 * SECOND, || {
        Process::find(daemon.pid()).is_some_and(|daemon| daemon.state == 'T')
    });
    // The pause is what is tested; it ends by the clock and by nothing else.
    let end = Instant::now() + 4 * SECOND;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|r| !r.is_zero()) {
        clutch_tests::park(rest);
    }
    daemon.signal(Signal::SIGCONT);
    assert_eq!("done", patient.join().unwrap().expect("it was done in time"));
    let failure = late.join().unwrap().expect_err("its time is over");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    daemon.wait_for_log("the daemon itself has stood still", 5 * SECOND);
    daemon.wait_ready();
    assert_eq!(pids, daemon.worker_pids("default"), "workers that are fine are kept");
    assert_eq!(vec![starting], daemon.worker_pids("slow"), "so is the one that was started");
    assert_eq!(0, daemon.counter("slow", "deaths.start_timed_out"));
    oracle.judge(daemon);
}

#[test]
fn f139_what_killed_ones_have_left_is_cleaned_by_who_holds_it() {
    let mut first = Daemon::builder().pool("default", |pool| pool).start();
    first.signal(Signal::SIGKILL);
    first.wait_exit(5 * SECOND);
    first.assert_swept(5 * SECOND);
    let lock = lock_of(&first);
    assert!(first.socket().exists() && lock.exists(), "a killed daemon leaves both");
    // The id in the lock may be anybody's by now: it decides nothing.
    fs::write(&lock, std::process::id().to_string()).expect("it is ours");
    let state = first.tmp().join("state/clutch");
    let old = state.join("py-0.0.1-0123456789abcdef");
    fs::create_dir(&old).expect("the state directory is there");
    fs::write(old.join("boot.py"), "").expect("it is ours");
    let temporary = left_by_a_killed_command(&first);

    let socket = first.socket().to_owned();
    let environment =
        [("XDG_STATE_HOME", first.tmp().join("state")), ("TMPDIR", first.tmp().join("tmp"))];
    let mut builder = Daemon::builder().pool("default", |pool| pool).socket(&socket);
    for (name, path) in environment {
        builder = builder.env(name, path);
    }
    let mut second = builder.start();
    second.cli(["call", "math:sqrt", "9"]).expect_code(0);
    assert!(!old.exists(), "a package nobody uses goes");
    assert!(!temporary.exists(), "a private supervisor's files go with it, or after it");
    assert_eq!(0, second.stop(20 * SECOND));
    assert!(!socket.exists() && !lock.exists());
}

/// The files of a private supervisor that was killed an hour ago and more.
fn left_by_a_killed_command(daemon: &Daemon) -> std::path::PathBuf {
    let tmp = daemon.tmp().join("tmp");
    let find = || {
        let entries = fs::read_dir(&tmp).expect("it is there").flatten();
        let mut paths = entries.map(|entry| entry.path());
        paths.find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().contains("-local-")))
    };
    let mut child = daemon.command(["call", "--local", "--timeout=1m", "time:sleep", "50"]).spawn(
        std::process::Stdio::null(),
        std::process::Stdio::null(),
        std::process::Stdio::null(),
    );
    let path = wait_until("it has its files", 20 * SECOND, || {
        let path = find().ok_or("there are none")?;
        if path.join("boot.py").exists() { Ok(path) } else { Err("they are being written") }
    });
    // While it lives, nobody removes them, whatever their age.
    age(&path);
    let other = daemon.command(["call", "--local", "math:sqrt", "9"]).run();
    other.expect_code(0);
    assert!(path.exists(), "its files are in use");
    child.kill().expect("it is our child");
    child.wait().expect("it was killed");
    assert!(path.exists(), "a killed command leaves them");
    age(&path);
    path
}

/// Makes a directory look as if nobody had touched it for long.
fn age(path: &Path) {
    let then = SystemTime::now() - 7200 * SECOND;
    File::open(path).and_then(|dir| dir.set_modified(then)).expect("it is ours");
}

#[test]
fn f140_the_truth_is_told_at_once_while_every_worker_is_stuck() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let client = daemon.blocking();
    let marks = ["one", "two"].map(|name| daemon.tmp().join(name));
    let calls: Vec<_> = marks
        .iter()
        .map(|mark| {
            let (client, mark) = (client.clone(), mark.display().to_string());
            std::thread::spawn(move || {
                let stuck = client.request("job_stuck:hold_gil_in_a_loop").args((mark,));
                stuck.timeout(60 * SECOND).send::<()>().map_err(Box::new)
            })
        })
        .collect();
    // A call that has not begun when its worker dies would go to another worker.
    wait_for("both calls to begin", 20 * SECOND, || marks.iter().all(|mark| mark.exists()));
    wait_counts(&daemon, 2, 0);
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let status = client.status().expect("it answers");
        best = best.min(begun.elapsed());
        let states: Vec<_> = status.pools[0].workers.iter().map(|w| w.state.as_str()).collect();
        assert_eq!(vec!["busy", "busy"], states, "none is ready");
    }
    assert!(best < 100 * MILLISECOND, "at best it took {best:?}");
    for pid in daemon.worker_pids("default") {
        process::kill(pid);
    }
    for call in calls {
        let failure = call.join().expect("no panic").expect_err("its worker was killed");
        assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    }
}
