//! Faults of clients, and faults they meet: no daemon, a stopped one, a dead one; clients that are
//! killed, impatient, forgetful, or of another version.

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use clutch_client::{Client, ConnectError, ConnectOptions, Reason, blocking};
use clutch_protocol::Kind;
use clutch_protocol::message::Role;
use clutch_tests::process::memory_bytes;
use clutch_tests::{
    Clutch, Daemon, MILLISECOND, Program, Python, SECOND, Tmp, command, forge, kill, process,
    signal, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// How long something takes at best, in a few rounds: the machine may be busy with other things.
fn at_best(mut something: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        something();
        best = best.min(begun.elapsed());
    }
    best
}

#[test]
fn f093_a_daemon_that_is_not_there_is_said_at_once_with_how_to_start_it() {
    let tmp = Tmp::new();
    let nothing = tmp.join("nothing.sock");
    let stale = tmp.join("stale.sock");
    drop(UnixListener::bind(&stale).expect("the directory is ours"));
    for path in [nothing, stale] {
        let text = path.to_str().expect("test paths are text");
        let took = at_best(|| {
            let error = blocking::Client::connect(&path).expect_err("nobody is there");
            assert!(matches!(error, ConnectError::NoDaemon { .. }), "{error}");
            let said = error.to_string();
            assert!(said.contains(text) && said.contains("clutch serve"), "{said}");
        });
        assert!(took < 100 * MILLISECOND, "{took:?}");
        for words in [&["call", "math:sqrt", "2"][..], &["map", "math:sqrt", "2"], &["status"]] {
            let took = at_best(|| {
                let output = Clutch::command(["--socket", text]).args(words).run().expect_code(3);
                assert!(output.stderr.contains("clutch serve"), "{}", output.stderr);
                assert_eq!("", output.stdout);
            });
            assert!(took < SECOND, "{took:?}");
        }
    }
}

#[test]
fn f094_a_stopped_daemon_and_a_full_backlog_are_waited_for_until_the_deadline_and_no_longer() {
    // All that will have waited are let in, gone or not.
    let builder = Daemon::builder().daemon_key("connections", 10_000);
    let daemon = builder.pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    daemon.signal(Signal::SIGSTOP);
    // As many as the system lets wait: what does not fit says so at once, and does not block.
    let mut waiting = Vec::new();
    let full = loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None);
        // Out of descriptors of our own, the backlog may have room left.
        let Ok(stream) = stream else { break false };
        let address = UnixAddr::new(daemon.socket()).expect("it is short");
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) if waiting.len() < 5_000 => waiting.push(stream),
            Err(nix::Error::EAGAIN) => break true,
            _ => break false,
        }
    };
    let options = ConnectOptions::new(daemon.socket()).timeout(300 * MILLISECOND);
    let begun = Instant::now();
    let error = blocking::Client::connect_with(&options).expect_err("nobody answers");
    let took = begun.elapsed();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error} (backlog full: {full})");
    assert!((300 * MILLISECOND..5 * SECOND).contains(&took), "{took:?}");
    drop(waiting);

    // One that waits longer than the daemon stands still is served.
    let options = ConnectOptions::new(daemon.socket()).timeout(30 * SECOND);
    let patient = std::thread::spawn(move || {
        let client = blocking::Client::connect_with(&options).expect("it goes on");
        client.call::<f64>("math:sqrt", (9,)).map_err(|failure| failure.to_string())
    });
    daemon.signal(Signal::SIGCONT);
    assert_eq!(3.0, patient.join().expect("no panic").expect("it is answered"));
    oracle.judge(daemon);
}

#[test]
fn f095_nothing_a_dead_daemon_leaves_behind_keeps_its_socket_open() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool).start();
    let worker = daemon.worker_pids("default")[0];
    let inode = |text: &String| text.starts_with("socket:").then(|| text.clone());
    let listeners = std::fs::read_to_string("/proc/net/unix").expect("it can be read");
    let socket = daemon.socket().to_str().expect("test paths are text");
    let line = listeners.lines().find(|line| line.ends_with(socket)).expect("it listens");
    let listener = format!("socket:[{}]", line.split_whitespace().nth(6).expect("the inode"));
    let held = process::descriptor_list(worker);
    assert!(!held.values().filter_map(inode).any(|held| held == listener), "{held:?}");

    kill(daemon.pid());
    daemon.wait_exit(5 * SECOND);
    let begun = Instant::now();
    let error = blocking::Client::connect(daemon.socket()).expect_err("nobody listens");
    assert!(matches!(error, ConnectError::NoDaemon { .. }), "{error}");
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    daemon.assert_swept(5 * SECOND);
}

#[test]
fn f096_calls_in_flight_are_told_at_once_when_the_daemon_is_killed() {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let mut daemon = Daemon::builder().pool("default", |pool| pool).start();
        let client = daemon.blocking();
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let client = client.clone();
                std::thread::spawn(move || {
                    let failure = client.call::<()>("job_stuck:sleep", ()).expect_err("killed");
                    (failure, Instant::now())
                })
            })
            .collect();
        wait_for("all are there", 10 * SECOND, || {
            let pool = daemon.status().pools.remove(0);
            pool.running + pool.queued == 10
        });
        let killed = Instant::now();
        kill(daemon.pid());
        for call in calls {
            let (failure, told) = call.join().expect("no panic");
            assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
            assert!(failure.started, "nobody can know: {failure}");
            best = best.min(told - killed);
            assert!(told - killed < 5 * SECOND, "{:?}", told - killed);
        }
        let failure = client.call::<f64>("math:sqrt", (9,)).expect_err("the connection is gone");
        assert!(!failure.started, "{failure}");
        daemon.wait_exit(5 * SECOND);
        daemon.assert_swept(5 * SECOND);
    }
    assert!(best < 100 * MILLISECOND, "at best after {best:?}");
}

/// Two workers that are not replaced for taking an interrupt slowly, on a machine that is busy.
fn patient() -> Daemon {
    let pool = |pool: clutch_tests::Pool| pool.workers(2).limit("interrupt", "20s");
    Daemon::builder().pool("default", pool).start()
}

/// A process that sends bytes to a daemon and stays.
fn stranger(daemon: &Daemon, bytes: &[u8]) -> Child {
    let file = daemon.tmp().write("frames", bytes);
    let script = "import socket, sys, time\n\
                  s = socket.socket(socket.AF_UNIX)\n\
                  s.connect(sys.argv[1])\n\
                  s.sendall(open(sys.argv[2], 'rb').read())\n\
                  time.sleep(1000)\n";
    let program = Program::new(&Python::any().path).args(["-c", script]);
    let program = program.args([daemon.socket(), &*file]);
    program.spawn(Stdio::null(), Stdio::null(), Stdio::null())
}

#[test]
fn f097_a_killed_clients_calls_are_gone_and_its_workers_can_be_used_again() {
    let daemon = patient();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let mut best = Duration::MAX;
    for round in 1..=3 {
        let calls = (1..=100).map(|id| forge::call(id, "default", "job_stuck:sleep", "[]"));
        let bytes = [forge::hello(Role::Client)].into_iter().chain(calls).collect::<Vec<_>>();
        let mut child = stranger(&daemon, &bytes.concat());
        wait_until("two run and the others wait", 20 * SECOND, || {
            let pool = daemon.try_status()?.pools.remove(0);
            if (pool.running, pool.queued) == (2, 98) { Ok(()) } else { Err(format!("{pool:?}")) }
        });
        let killed = Instant::now();
        kill(child.id());
        wait_for("nothing waits and nothing runs", 5 * SECOND, || {
            let pool = daemon.status().pools.remove(0);
            pool.running + pool.queued == 0
        });
        best = best.min(killed.elapsed());
        command::wait(&mut child, 5 * SECOND).expect("it was killed");
        assert_eq!(3.0, daemon.blocking().call::<f64>("math:sqrt", (9,)).expect("one is free"));
        daemon.wait_ready();
        assert_eq!(100 * round, daemon.counter("default", "answered.Cancelled"));
    }
    assert!(best < 500 * MILLISECOND, "at best after {best:?}");
    assert_eq!(before, daemon.worker_pids("default"), "a worker was replaced");
    oracle.judge(daemon);
}

#[test]
fn f097_a_killed_command_cancels_its_call_and_its_map() {
    let daemon = patient();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    for words in [&["call", "job_stuck:sleep"][..], &["map", "job_cancel:stay", "1", "2", "3"]] {
        let mut child = daemon.command(words).spawn(Stdio::null(), Stdio::null(), Stdio::null());
        wait_for("it runs", 20 * SECOND, || daemon.status().pools[0].running > 0);
        signal(child.id(), Signal::SIGKILL);
        command::wait(&mut child, 5 * SECOND).expect("it was killed");
        wait_for("nothing waits and nothing runs", 5 * SECOND, || {
            let pool = daemon.status().pools.remove(0);
            pool.running + pool.queued == 0
        });
    }
    daemon.wait_ready();
    assert_eq!(before, daemon.worker_pids("default"), "a worker was replaced");
    oracle.judge(daemon);
}

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime can be built");
    runtime.block_on(future)
}

/// Waits until a file holds `text`, and gives the time at which it did.
#[track_caller]
fn told(path: &Path, text: &str) -> Instant {
    wait_for(text, 20 * SECOND, || {
        std::fs::read_to_string(path).is_ok_and(|told| told.contains(text))
    });
    Instant::now()
}

#[test]
fn f100_the_callers_deadline_ends_the_work_too() {
    let timeout = 700 * MILLISECOND;
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("interrupt", "5s")).start();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let (mut answered, mut ended) = (Duration::MAX, Duration::MAX);
    for round in 0..5 {
        let marks = daemon.tmp().join(format!("marks-{round}"));
        let client = daemon.blocking();
        let begun = Instant::now();
        let request = client.request("job_stuck:hold").args((marks.to_str().expect("text"),));
        let failure = request.timeout(timeout).send::<()>().expect_err("it does not end");
        let took = begun.elapsed();
        // What the connecting took is taken off.
        assert!(matches!(failure.reason, Reason::TimedOut { timeout_ms: ..=700, .. }), "{failure}");
        assert!(took >= timeout, "it was given up after {took:?}");
        answered = answered.min(took);
        ended = ended.min(told(&marks, "released") - begun);
        daemon.wait_ready();
    }
    // In the best of the rounds; a loaded machine adds to the others.
    assert!(answered < timeout + 100 * MILLISECOND, "the caller was told after {answered:?}");
    assert!(ended < timeout + 200 * MILLISECOND, "the work ended after {ended:?}");
    assert_eq!(before, daemon.worker_pids("default"), "the worker was replaced");
    oracle.judge(daemon);
}

#[test]
fn f102_results_that_nobody_fetches_are_held_nowhere() {
    const CALLS: usize = 40;
    const BYTES: usize = 8 << 20;
    let daemon =
        Daemon::builder().pool("default", |pool| pool.workers(2).limit("interrupt", "5s")).start();
    let oracle = daemon.oracle();
    let (before, mine) = (memory_bytes(daemon.pid()), memory_bytes(std::process::id()));
    block_on(async {
        let client = Client::connect(daemon.socket()).await.expect("it listens");
        for dropped_when_done in [false, true] {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..CALLS {
                let request = client.request("bulk:text").args((BYTES,));
                calls.spawn(request.timeout(60 * SECOND).send::<String>());
            }
            if dropped_when_done {
                // Every result is there, and goes unread.
                while let Some(done) = calls.join_next().await {
                    drop(done.expect("a call is not aborted").expect("it succeeds"));
                }
            } else {
                // Nobody waits any more once the first is there.
                drop(calls.join_next().await);
                calls.abort_all();
                while calls.join_next().await.is_some() {}
            }
            // The connection goes on, behind all of that.
            assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).await.expect("it works"));
        }
    });
    let grown = |pid, before: u64| memory_bytes(pid).saturating_sub(before) >> 20;
    let whole = (CALLS * BYTES) as u64 >> 20;
    wait_for("the daemon holds none of it", 10 * SECOND, || {
        grown(daemon.pid(), before) < 32 && daemon.status().pools[0].running == 0
    });
    let kept = grown(std::process::id(), mine);
    assert!(kept < whole / 4, "the client keeps {kept} MiB of {whole} MiB");
    daemon.wait_ready();
    oracle.memory_budget(32 << 20).judge(daemon);
}

#[test]
fn f104_versions_that_overlap_work_and_others_are_told_both() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    // A client of the next version, which still speaks this one and says more in its hello.
    let mut newer = daemon.stranger();
    newer.say(&forge::hello_of(1, 2, Role::Client, b"fields of version 2"));
    newer.expect(Kind::Welcome, 5 * SECOND);
    newer.say(&forge::call(1, "default", "math:sqrt", "[9]"));
    assert_eq!(3.0, newer.finish(1).value());
    drop(newer);
    for (min, max) in [(2, 2), (0, 0)] {
        let mut other = daemon.stranger();
        other.say(&forge::hello_of(min, max, Role::Client, b""));
        let refused = other.expect_refused(5 * SECOND);
        assert!(refused.sentence.contains("update the older of the two"), "{refused:?}");
        assert!(refused.sentence.contains(&format!("versions {min} to {max}")), "{refused:?}");
    }
    oracle.judge(daemon);
}

#[test]
fn a_daemon_that_dies_while_a_client_connects_is_no_hang() {
    let tmp = Tmp::new();
    let path = tmp.join("silent.sock");
    // It takes connections in and says nothing; its end is heard at once.
    let listener = UnixListener::bind(&path).expect("the directory is ours");
    let accepting = std::thread::spawn(move || {
        let accepted: (UnixStream, _) = listener.accept().expect("a client comes");
        drop((accepted, listener));
    });
    let begun = Instant::now();
    let error = blocking::Client::connect(&path).expect_err("it hangs up");
    assert!(matches!(error, ConnectError::Protocol { .. } | ConnectError::Io { .. }), "{error}");
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    accepting.join().expect("no panic");
}
