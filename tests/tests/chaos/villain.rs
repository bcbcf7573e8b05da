//! What happens to workers and guardians: killed, stopped for a while, crashed.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clutch_tests::process::Process;
use clutch_tests::{kill, park, process};
use nix::sys::signal::Signal;

use crate::dice::Dice;
use crate::{STORM, Storm};

/// Does terrible things to random workers for a while.
pub(crate) fn rage(storm: &Storm<'_>) {
    let mut dice = Dice::new(!storm.seed);
    let end = Instant::now() + STORM;
    while Instant::now() < end {
        park(Duration::from_millis(20 + dice.roll(150)));
        let workers = storm.daemon.worker_pids("default");
        if !workers.is_empty() {
            let victim = dice.pick(&workers);
            hurt(storm, victim, &mut dice);
        }
    }
}

fn hurt(storm: &Storm<'_>, victim: u32, dice: &mut Dice) {
    let count = || storm.kills.fetch_add(1, Ordering::SeqCst);
    // The parent of python.
    let guardian = || Process::find(victim).map(|python| python.parent);
    match dice.roll(9) {
        // Stopped for longer than some calls will wait.
        0 => pause(victim),
        1 => {
            count();
            process::signal(victim, Signal::SIGSEGV);
        }
        2 => {
            if let Some(guardian) = guardian() {
                count();
                kill(guardian);
            }
        }
        3 => {
            if let Some(guardian) = guardian() {
                pause(guardian);
            }
        }
        4 => {
            count();
            process::signal(victim, Signal::SIGTERM);
        }
        _ => {
            count();
            kill(victim);
        }
    }
}

fn pause(pid: u32) {
    process::signal(pid, Signal::SIGSTOP);
    park(Duration::from_millis(150));
    process::signal(pid, Signal::SIGCONT);
}
