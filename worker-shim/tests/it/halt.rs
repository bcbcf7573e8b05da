//! A python that a signal has stopped.

use clutch_protocol::message::{Exit, Halted, Signal};
use clutch_protocol::{Kind, wire};
use nix::sys::signal::{Signal as Unix, kill};

use crate::harness::{Guardian, spawn, status, wait_for};

#[test]
fn a_python_that_is_stopped_and_continued_is_said_to_be_f031() {
    let mut guardian = Guardian::start(spawn("/bin/sleep", &["1000"]));
    let pid = guardian.spawned();
    for stop in [Unix::SIGSTOP, Unix::SIGTSTP] {
        kill(pid, stop).unwrap();
        assert!(guardian.halted());
        kill(pid, Unix::SIGCONT).unwrap();
        assert!(!guardian.halted());
    }
    kill(pid, Unix::SIGSTOP).unwrap();
    assert!(guardian.halted());
    guardian.order(Signal::Continue);
    assert!(!guardian.halted());
    kill(pid, Unix::SIGSTOP).unwrap();
    assert!(guardian.halted());
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    guardian.swept();
}

/// Whoever does not read is told the last word, and nothing is kept for him meanwhile.
#[test]
fn a_flood_of_stops_ends_with_the_truth() {
    let mut guardian = Guardian::start(spawn("/bin/sleep", &["1000"]));
    let pid = guardian.spawned();
    for _ in 0..2000 {
        kill(pid, Unix::SIGSTOP).unwrap();
        kill(pid, Unix::SIGCONT).unwrap();
    }
    kill(pid, Unix::SIGSTOP).unwrap();
    // A stop is said anew where the going on between was not seen; the last word is the truth.
    assert!(guardian.halted());
    wait_for("it to stand still", || status(pid)["State"].starts_with('T').then_some(()));
    kill(pid, Unix::SIGKILL).unwrap();
    let mut last = true;
    loop {
        let (kind, meta) = guardian.next().expect("a report");
        if kind == Kind::Exited {
            break;
        }
        let halted: Halted = wire::decode(&meta).unwrap();
        last = halted.stopped;
    }
    assert!(last, "it stood still at the end");
    guardian.swept();
}
