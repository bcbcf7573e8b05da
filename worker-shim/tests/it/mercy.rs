//! Who may finish before it is killed: resource trackers, which remove the shared memory that a
//! killed process leaves behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clutch_protocol::message::Exit;
use nix::sys::signal::{Signal as Unix, kill};
use nix::unistd::Pid;

use crate::harness::{Guardian, children, script, wait_for};

/// Shared memory and a semaphore with names; says them, and the tracker's number.
const SHARER: &str = "import os, sys, time\n\
     from multiprocessing import Process, resource_tracker, shared_memory\n\
     memory = shared_memory.SharedMemory(create=True, size=4096)\n\
     tracker = resource_tracker._resource_tracker._pid\n\
     os.write(int(sys.argv[1]), f'{memory.name} {tracker}\\n'.encode())\n\
     time.sleep(1000)";

/// The same, with a child in a session of its own that holds the tracker's pipe open.
const SHARER_WITH_A_LEAVER: &str = "import os, sys, time\n\
     from multiprocessing import resource_tracker, shared_memory\n\
     memory = shared_memory.SharedMemory(create=True, size=4096)\n\
     tracker = resource_tracker._resource_tracker._pid\n\
     if os.fork() == 0:\n\
     \x20   os.setsid()\n\
     \x20   os.write(int(sys.argv[1]), f'{memory.name} {tracker}\\n'.encode())\n\
     \x20   os.fork()\n\
     time.sleep(1000)";

/// Looks like a tracker, and stays for ever.
const IMPOSTOR: &str = "import os, subprocess, sys, time\n\
     mark = 'from multiprocessing.resource_tracker import main'\n\
     code = f'import os, time; os.write({sys.argv[1]}, b\"impostor %d\\\\n\" % os.getpid()); \
     time.sleep(1000) # {mark}'\n\
     subprocess.Popen([sys.executable, '-IS', '-c', code], pass_fds=[int(sys.argv[1])])\n\
     time.sleep(1000)";

/// The segment's file and the tracker, as the script says.
fn told(guardian: &Guardian) -> (PathBuf, Pid) {
    let mut line = String::new();
    BufReader::new(&guardian.call).read_line(&mut line).unwrap();
    let (name, tracker) = line.trim().split_once(' ').unwrap();
    let file = PathBuf::from("/dev/shm").join(name);
    // Before its exec it is a copy of python, and nobody could tell.
    wait_for("the tracker to be itself", || {
        let arguments = fs::read_to_string(format!("/proc/{tracker}/cmdline")).ok()?;
        arguments.contains("resource_tracker").then_some(())
    });
    (file, Pid::from_raw(tracker.parse().unwrap()))
}

#[test]
fn shared_memory_of_a_killed_python_is_removed_f066() {
    for by_order in [false, true] {
        for sharer in [SHARER, SHARER_WITH_A_LEAVER] {
            let mut guardian = Guardian::start(script(sharer));
            let pid = guardian.spawned();
            let (file, tracker) = told(&guardian);
            assert!(file.exists());
            assert!(children(pid).contains(&tracker));
            guardian.end(pid, by_order);
            let swept = guardian.swept();
            assert!(!file.exists(), "{} is left", file.display());
            assert_eq!(0, swept.survivors);
        }
    }
}

#[test]
fn a_tracker_that_was_stopped_goes_on_and_does_its_work_f066() {
    let mut guardian = Guardian::start(script(SHARER));
    let pid = guardian.spawned();
    let (file, tracker) = told(&guardian);
    kill(tracker, Unix::SIGSTOP).unwrap();
    kill(pid, Unix::SIGKILL).unwrap();
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    guardian.swept();
    assert!(!file.exists(), "{} is left", file.display());
}

#[test]
fn a_tracker_that_hangs_is_killed_like_anybody_else_f066() {
    for by_order in [false, true] {
        let mut guardian = Guardian::start(script(IMPOSTOR));
        let pid = guardian.spawned();
        told(&guardian);
        let start = Instant::now();
        guardian.end(pid, by_order);
        assert!(start.elapsed() < Duration::from_millis(400), "{:?}", start.elapsed());
        let swept = guardian.swept();
        assert_eq!((1, 0), (swept.killed, swept.survivors));
        let took = start.elapsed();
        assert!((Duration::from_millis(500)..Duration::from_secs(2)).contains(&took), "{took:?}");
    }
}
