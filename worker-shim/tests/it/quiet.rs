//! What a guardian costs while nothing happens.

use std::fs;
use std::io::Read;

use clutch_protocol::message::{Exit, Signal};
use nix::unistd::Pid;

use crate::harness::{Guardian, script, spawn, status, wait_for};

fn wake_ups(pid: Pid) -> u64 {
    let status = status(pid);
    ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
        .iter()
        .map(|name| status[*name].parse::<u64>().unwrap())
        .sum()
}

fn private_kib(pid: Pid) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn an_idle_guardian_never_wakes() {
    // The guardian has nothing to do while its python counts a second and a half.
    let mut guardian = Guardian::start(script(
        "import os, sys, time\n\
         call = int(sys.argv[1])\n\
         os.write(call, b'.')\n\
         time.sleep(1.5)\n\
         os.write(call, b'.')\n\
         time.sleep(1000)",
    ));
    guardian.spawned();
    let pid = guardian.pid();
    guardian.call.read_exact(&mut [0]).unwrap();
    wait_for("an idle guardian", || status(pid)["State"].starts_with('S').then_some(()));
    let before = wake_ups(pid);
    guardian.call.read_exact(&mut [0]).unwrap();
    assert_eq!(before, wake_ups(pid));
    guardian.order(Signal::Kill);
    assert_eq!(Exit::Signal(9), guardian.exited().exit);
    guardian.swept();
}

/// Two at once, as in any pool: what one of them maps from the program's file is then not its own.
#[test]
fn a_guardian_stays_far_below_a_mebibyte_whatever_it_was_told() {
    let mut asked = spawn("/bin/sleep", &["1000"]);
    let large = |number: i32| [format!("V{number}=").as_bytes(), &[b'x'; 100_000]].concat();
    let small = asked.clone();
    asked.environment.extend((0..8).map(large));
    let mut guardians = [small, asked].map(Guardian::start);
    for guardian in &mut guardians {
        guardian.spawned();
        let pid = guardian.pid();
        wait_for("an idle guardian", || status(pid)["State"].starts_with('S').then_some(()));
    }
    for guardian in &guardians {
        let private = private_kib(guardian.pid());
        assert!((1..512).contains(&private), "{private} KiB");
    }
    for mut guardian in guardians {
        guardian.order(Signal::Kill);
        assert_eq!(Exit::Signal(9), guardian.exited().exit);
        guardian.swept();
    }
}
