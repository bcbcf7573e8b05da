//! Orders, and the daemon's death.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clutch_protocol::Kind;
use clutch_protocol::message::{Exit, Signal, Spawn};
use nix::sys::signal::{Signal as Unix, kill};
use nix::unistd::Pid;

use crate::harness::{
    GUARDIAN, Guardian, Tree, command, frame, python, script, send, shell, spawn, status, wait_for,
};

/// Ignores SIGTERM, and says so on the call socket once it does.
const DEAF: &str = "import os, signal, sys, time\n\
     signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
     os.write(int(sys.argv[1]), b'.')\n\
     time.sleep(1000)";

/// A daemon of its own: starts a guardian, says so, and reads until it is killed. It keeps the
/// worker's sockets open for the guardian's whole life, as ours does.
const DAEMON: &str = "import array, socket, subprocess, sys\n\
     ours, theirs = socket.socketpair()\n\
     call, control = socket.socketpair(), socket.socketpair()\n\
     guardian = subprocess.Popen([sys.argv[1]], stdin=theirs)\n\
     theirs.close()\n\
     with open(sys.argv[2], 'rb') as file: frame = file.read()\n\
     null = open('/dev/null')\n\
     handed = [call[1], control[1], null, null]\n\
     rights = array.array('i', [file.fileno() for file in handed])\n\
     ours.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])\n\
     ours.recv(32)\n\
     print(guardian.pid, flush=True)\n\
     while ours.recv(1): pass";

/// Forks twice, leaves the session, closes what it can, ignores SIGTERM: a proper daemon.
pub(crate) const LEAVER: &str = "import os, signal, sys, time\n\
     for _ in range(3):\n\
     \x20   if os.fork() == 0:\n\
     \x20       os.setsid()\n\
     \x20       if os.fork() == 0:\n\
     \x20           signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
     \x20           signal.signal(signal.SIGHUP, signal.SIG_IGN)\n\
     \x20           os.write(int(sys.argv[1]), b'.')\n\
     \x20           os.closerange(0, 1000)\n\
     \x20           while True: time.sleep(1000)\n\
     \x20       os._exit(0)\n\
     \x20   os.wait()\n\
     time.sleep(1000)";

fn heard(guardian: &mut Guardian, count: usize) {
    guardian.call.read_exact(&mut vec![0; count]).unwrap();
}

fn gone_since(start: Instant) -> bool {
    start.elapsed() < Duration::from_secs(2)
}

#[test]
fn a_terminated_python_may_end_in_its_own_way() {
    let mut guardian = Guardian::start(script(
        "import os, signal, sys, time\n\
         signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n\
         os.write(int(sys.argv[1]), b'.')\n\
         time.sleep(1000)",
    ));
    guardian.spawned();
    heard(&mut guardian, 1);
    guardian.order(Signal::Terminate);
    guardian.order(Signal::Terminate);
    assert_eq!(Exit::Code(5), guardian.exited().exit);
    assert_eq!(0, guardian.swept().survivors);
}

#[test]
fn a_terminate_before_the_exec_is_not_lost() {
    for _ in 0..20 {
        let mut guardian = Guardian::start(spawn("/bin/sleep", &["1000"]));
        guardian.order(Signal::Terminate);
        guardian.spawned();
        assert_eq!(Exit::Signal(15), guardian.exited().exit);
        guardian.swept();
    }
}

#[test]
fn terminate_reaches_the_whole_group() {
    let mut guardian = Guardian::start(shell("trap 'wait; exit 6' TERM; sleep 1000 & sleep 1000"));
    guardian.spawned();
    // A shell that has forked and not yet executed still has the other's trap.
    wait_for("both children to be themselves", || {
        let sleeps = |pid: &Pid| status(*pid).get("Name").is_some_and(|name| name == "sleep");
        (guardian.tree().into_iter().filter(sleeps).count() == 2).then_some(())
    });
    guardian.order(Signal::Terminate);
    assert_eq!(Exit::Code(6), guardian.exited().exit);
    assert_eq!(0, guardian.swept().killed);
}

#[test]
fn a_python_that_ignores_sigterm_is_killed_when_its_grace_is_over_f014() {
    let grace = Duration::from_millis(300);
    let mut guardian = Guardian::start(Spawn { grace_ms: 300, ..script(DEAF) });
    guardian.spawned();
    heard(&mut guardian, 1);
    let start = Instant::now();
    guardian.order(Signal::Terminate);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    assert!(start.elapsed() >= grace && gone_since(start), "{:?}", start.elapsed());
    guardian.swept();
}

#[test]
fn a_second_terminate_does_not_start_the_grace_again() {
    let mut guardian = Guardian::start(Spawn { grace_ms: 400, ..script(DEAF) });
    guardian.spawned();
    heard(&mut guardian, 1);
    let start = Instant::now();
    guardian.report.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut byte = [0];
    while guardian.report.read(&mut byte).is_err() {
        assert!(gone_since(start));
        guardian.order(Signal::Terminate);
    }
    assert!(gone_since(start));
    guardian.wait();
}

#[test]
fn a_kill_does_not_wait_for_the_grace() {
    let mut guardian = Guardian::start(script(DEAF));
    guardian.spawned();
    heard(&mut guardian, 1);
    let start = Instant::now();
    guardian.order(Signal::Terminate);
    guardian.order(Signal::Kill);
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    assert!(gone_since(start));
    guardian.swept();
}

#[test]
fn a_stopped_python_hears_sigterm_and_dies_of_sigkill_f010() {
    for (order, signal) in [(Signal::Terminate, 15), (Signal::Kill, 9)] {
        let mut guardian = Guardian::start(spawn("/bin/sleep", &["1000"]));
        let pid = guardian.spawned();
        kill(pid, Unix::SIGSTOP).unwrap();
        wait_for("a stopped python", || status(pid)["State"].starts_with('T').then_some(()));
        guardian.order(order);
        assert_eq!(Exit::Signal(signal), guardian.exited().exit);
        guardian.swept();
    }
}

#[test]
fn whoever_left_the_session_is_killed_with_python_f016_f018() {
    for end in [Signal::Kill, Signal::Terminate] {
        let mut guardian = Guardian::start(script(LEAVER));
        guardian.spawned();
        heard(&mut guardian, 3);
        guardian.wait_for_tree(4);
        let start = Instant::now();
        guardian.order(end);
        guardian.exited();
        let swept = guardian.swept();
        assert_eq!((3, 0), (swept.killed, swept.survivors));
        assert!(gone_since(start));
    }
}

#[test]
fn a_closed_report_socket_kills_the_tree_f025() {
    let mut guardian = Guardian::start(script(LEAVER));
    guardian.spawned();
    heard(&mut guardian, 3);
    let start = Instant::now();
    assert!(guardian.hang_up().success());
    assert!(gone_since(start));
}

#[test]
fn a_daemon_that_dies_with_reports_unread_is_no_broken_daemon_f025() {
    let mut guardian = Guardian::start(script(LEAVER));
    heard(&mut guardian, 3);
    guardian.report = UnixStream::pair().unwrap().0;
    assert!(guardian.wait().success());
}

#[test]
fn a_half_closed_report_socket_kills_the_tree_and_is_still_told_f025() {
    let mut guardian = Guardian::start(script(LEAVER));
    guardian.spawned();
    heard(&mut guardian, 3);
    guardian.report.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    assert_eq!(3, guardian.swept().killed);
}

#[test]
fn a_daemon_that_stops_reading_holds_nothing_up_f025() {
    let (report, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    while (&theirs).write(&[0; 4096]).is_ok() {}
    while (&theirs).write(&[0]).is_ok() {}
    theirs.set_nonblocking(false).unwrap();
    let mut guardian = Guardian::start_with(
        &mut command(GUARDIAN),
        spawn("/bin/sleep", &["1000"]),
        report,
        theirs.into(),
    );
    guardian.wait_for_tree(1);
    guardian.order(Signal::Kill);
    guardian.wait();
}

#[test]
fn a_daemon_that_breaks_the_protocol_loses_its_worker() {
    let bad = [
        frame(Kind::Ping, 0, &()),
        frame(Kind::Signal, 0, &9u32),
        frame(Kind::Spawn, 4, &spawn("/bin/true", &[])),
        b"CLU2".to_vec(),
    ];
    for bytes in bad {
        let mut guardian = Guardian::start(script(LEAVER));
        guardian.spawned();
        heard(&mut guardian, 3);
        send(&guardian.report, &bytes, &[]);
        assert_eq!(Exit::Signal(9), guardian.exited().exit);
        guardian.swept();
    }
}

#[test]
fn the_daemons_sigkill_kills_the_tree_f025() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::new();
    let ready = dir.path().join("ready");
    let told =
        LEAVER.replace("os.write(int(sys.argv[1]), b'.')", "open(sys.argv[3], 'a').write('.')");
    assert_ne!(LEAVER, told);
    let mut asked = script(&told);
    asked.argv.push(ready.to_str().unwrap().into());
    asked.environment.push(tree.variable());
    let path = dir.path().join("spawn");
    fs::write(&path, frame(Kind::Spawn, 4, &asked)).unwrap();

    let mut daemon = command(python())
        .args(["-IS", "-c", DAEMON, GUARDIAN])
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let guardian: i32 = line.trim().parse().unwrap();
    wait_for("the tree", || (fs::read(&ready).ok()?.len() == 3).then_some(()));
    assert_eq!(4, tree.processes().len());

    let start = Instant::now();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    wait_for("the tree's end", || tree.processes().is_empty().then_some(()));
    assert!(gone_since(start), "{:?}", start.elapsed());
    wait_for("the guardian's end", || {
        let name = fs::read_to_string(format!("/proc/{guardian}/comm")).unwrap_or_default();
        (name.trim() != "clutch-guardian").then_some(())
    });
}

/// A service manager signals daemon and guardians together, and the daemon decides what ends when.
#[test]
fn a_stray_sigterm_is_not_the_daemons_death() {
    let mut guardian = Guardian::start(spawn("/bin/sleep", &["1000"]));
    let pid = guardian.spawned();
    for signal in [Unix::SIGTERM, Unix::SIGINT, Unix::SIGHUP, Unix::SIGQUIT, Unix::SIGPIPE] {
        kill(guardian.pid(), signal).unwrap();
    }
    let taken = || u64::from_str_radix(&status(guardian.pid())["ShdPnd"], 16).unwrap() >> 14 & 1;
    wait_for("the guardian to take its SIGTERM", || (taken() == 0).then_some(()));
    // Whatever it decided, it has acted on it by the time it obeys the next order.
    guardian.order(Signal::Terminate);
    let exited = guardian.exited();
    assert_eq!((pid.as_raw(), Exit::Signal(15)), (exited.pid.try_into().unwrap(), exited.exit));
    guardian.swept();
}

/// The death signal is tied to the thread that spawned, which may end before the daemon does.
#[test]
fn the_end_of_the_spawning_thread_is_not_the_daemons_death() {
    let mut guardian =
        std::thread::spawn(|| Guardian::start(spawn("/bin/sleep", &["1000"]))).join().unwrap();
    guardian.spawned();
    guardian.order(Signal::Terminate);
    assert_eq!(Exit::Signal(15), guardian.exited().exit);
    guardian.swept();
}

#[test]
fn a_killed_guardian_takes_python_with_it() {
    let mut guardian = Guardian::start(script(DEAF));
    guardian.spawned();
    heard(&mut guardian, 1);
    kill(guardian.pid(), Unix::SIGKILL).unwrap();
    wait_for("python's end", || guardian.tree().is_empty().then_some(()));
    assert!(!guardian.gone().success());
}
