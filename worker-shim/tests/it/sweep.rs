//! What becomes of processes that python started.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use clutch_protocol::message::{Exit, Signal};
use nix::sys::signal::{Signal as Unix, kill};

use crate::harness::{Guardian, children, command, python, script, shell, wait_for};
use crate::stop::LEAVER;

/// Three children each, four levels deep: 1 + 3 + 9 + 27 + 81 processes.
const TREE: &str = "import os, sys, time\n\
     def grow(level):\n\
     \x20   for _ in range(3 if level else 0):\n\
     \x20       if os.fork() == 0: return grow(level - 1)\n\
     grow(4)\n\
     os.write(int(sys.argv[1]), b'.')\n\
     time.sleep(1000)";

/// Forks and ends, for ever: there is never anyone to kill for long.
const COMET: &str = "import os, sys\n\
     if os.fork() == 0:\n\
     \x20   os.setsid()\n\
     \x20   os.write(int(sys.argv[1]), b'.')\n\
     \x20   while True:\n\
     \x20       if os.fork(): os._exit(0)\n\
     import time; time.sleep(1000)";

/// Lets anyone trace it, and says its number.
const TRACED: &str = "import ctypes, os, sys, time\n\
     libc = ctypes.CDLL(None, use_errno=True)\n\
     if os.fork() == 0:\n\
     \x20   libc.prctl(0x59616d61, ctypes.c_ulong(-1), 0, 0, 0)\n\
     \x20   os.write(int(sys.argv[1]), b'%d\\n' % os.getpid())\n\
     \x20   while True: time.sleep(1000)\n\
     time.sleep(1000)";

/// Traces a process without ever waiting for it, which keeps it from being reaped by its parent.
const TRACER: &str = "import ctypes, sys\n\
     libc = ctypes.CDLL(None, use_errno=True)\n\
     assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0, ctypes.get_errno()\n\
     print('tracing', flush=True)\n\
     sys.stdin.read()";

fn heard(guardian: &mut Guardian, count: usize) {
    guardian.call.read_exact(&mut vec![0; count]).unwrap();
}

#[test]
fn whoever_left_the_session_dies_after_python_f016_f018() {
    let mut guardian = Guardian::start(script(LEAVER));
    let pid = guardian.spawned();
    heard(&mut guardian, 3);
    let start = Instant::now();
    kill(pid, Unix::SIGKILL).unwrap();
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    let swept = guardian.swept();
    assert_eq!((3, 0), (swept.killed, swept.survivors));
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn children_die_with_a_python_that_ends_by_itself_f017() {
    let mut guardian = Guardian::start(shell("(trap '' TERM HUP; sleep 1000; :) & exit 3"));
    guardian.spawned();
    assert_eq!(Exit::Code(3), guardian.exited().exit);
    assert_eq!(0, guardian.swept().survivors);
}

#[test]
fn a_tree_that_forks_happily_is_swept_f017() {
    let all = 1 + 3 + 9 + 27 + 81;
    for by_order in [true, false] {
        let mut guardian = Guardian::start(script(TREE));
        let pid = guardian.spawned();
        heard(&mut guardian, all);
        assert_eq!(all, guardian.tree().len());
        let start = Instant::now();
        guardian.end(pid, by_order);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        let swept = guardian.swept();
        assert_eq!((all - 1, 0), (swept.killed as usize, swept.survivors));
    }
}

#[test]
fn a_tree_that_never_stops_forking_is_swept_too() {
    let mut guardian = Guardian::start(script(COMET));
    guardian.spawned();
    heard(&mut guardian, 1);
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    assert_eq!(0, guardian.swept().survivors);
}

#[test]
fn a_python_that_closes_everything_is_still_watched() {
    let mut guardian = Guardian::start(script(
        "import os, sys, time\n\
         os.write(int(sys.argv[1]), b'.')\n\
         os.closerange(0, 5000)\n\
         time.sleep(1000)",
    ));
    guardian.spawned();
    heard(&mut guardian, 1);
    // Its output ends although it lives: the guardian holds none of it.
    assert_eq!("", guardian.output());
    assert_eq!(0, guardian.call.read(&mut [0]).unwrap());
    assert_eq!(1, guardian.tree().len());
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    guardian.swept();
}

#[test]
fn orphans_are_reaped_while_python_lives() {
    let mut guardian = Guardian::start(script(
        "import os, sys, time\n\
         for _ in range(20):\n\
         \x20   if os.fork() == 0:\n\
         \x20       if os.fork() == 0: time.sleep(0.01)\n\
         \x20       os._exit(0)\n\
         \x20   os.wait()\n\
         os.write(int(sys.argv[1]), b'.')\n\
         time.sleep(1000)",
    ));
    let pid = guardian.spawned();
    heard(&mut guardian, 1);
    wait_for("orphans to be reaped", || (children(guardian.pid()) == [pid]).then_some(()));
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    assert_eq!(0, guardian.swept().killed);
}

#[test]
fn orphans_are_not_killed_while_python_lives() {
    let mut guardian = Guardian::start(script(LEAVER));
    let pid = guardian.spawned();
    heard(&mut guardian, 3);
    wait_for("orphans to move up", || (children(guardian.pid()).len() == 4).then_some(()));
    kill(pid, Unix::SIGTERM).unwrap();
    assert_eq!(Exit::Signal(15), guardian.exited().exit);
    assert_eq!(3, guardian.swept().killed);
}

/// A process that a debugger holds cannot be reaped, just as one that sleeps in the kernel.
#[test]
fn what_will_not_die_is_counted_and_left() {
    let mut guardian = Guardian::start(script(TRACED));
    guardian.spawned();
    let mut stubborn = String::new();
    BufReader::new(&guardian.call).read_line(&mut stubborn).unwrap();
    let mut tracer = command(python())
        .args(["-IS", "-c", TRACER, stubborn.trim()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!("tracing\n", line);

    guardian.order(Signal::Kill);
    let start = Instant::now();
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(1, guardian.swept().survivors);
    assert!(start.elapsed() >= Duration::from_secs(2));
    tracer.kill().unwrap();
    tracer.wait().unwrap();
}
