//! Clients without manners: they send garbage, stop in the middle, do not read, are killed. Nobody
//! owes them anything, and nobody else may notice them.

use std::process::Stdio;
use std::time::Duration;

use clutch_tests::raw::call_within;
use clutch_tests::{kill, park, process};
use nix::sys::signal::Signal;

use crate::Storm;
use crate::dice::Dice;

/// Misbehaves until the storm is over.
pub(crate) fn misbehave(storm: &Storm<'_>, rude: u64) {
    let mut dice = Dice::new(storm.seed.wrapping_mul(1000) + 500 + rude);
    while !storm.is_over() {
        match dice.roll(6) {
            0 => garbage(storm, &mut dice),
            1 => half_a_frame(storm, &mut dice),
            2 => silence(storm, &mut dice),
            3 => no_reader(storm, &mut dice),
            4 => sudden_leave(storm, &mut dice),
            _ => killed_program(storm, &mut dice),
        }
    }
}

fn moment(dice: &mut Dice) {
    park(Duration::from_millis(dice.roll(60)));
}

fn garbage(storm: &Storm<'_>, dice: &mut Dice) {
    let length = dice.roll(5000) + 1;
    let bytes: Vec<u8> = (0..length).map(|_| dice.roll(256).to_le_bytes()[0]).collect();
    let mut client = if dice.roll(2) == 0 { storm.daemon.raw() } else { storm.daemon.stranger() };
    client.say(&bytes);
    moment(dice);
}

fn half_a_frame(storm: &Storm<'_>, dice: &mut Dice) {
    let mut client = storm.daemon.raw();
    let frame = call_within(1, "default", "math:sqrt", "[2]", 0);
    let cut = usize::try_from(dice.roll(frame.len() as u64)).expect("a short frame");
    client.say(&frame[..cut]);
    moment(dice);
}

fn silence(storm: &Storm<'_>, dice: &mut Dice) {
    let client = storm.daemon.stranger();
    moment(dice);
    drop(client);
}

/// Asks for much and reads nothing of it.
fn no_reader(storm: &Storm<'_>, dice: &mut Dice) {
    let mut client = storm.daemon.raw();
    for id in 1..=8 {
        client.say(&call_within(id, "default", "bulk:text", "[2000000]", 4000));
    }
    moment(dice);
    moment(dice);
}

/// Leaves with calls queued and running.
fn sudden_leave(storm: &Storm<'_>, dice: &mut Dice) {
    let mut client = storm.daemon.raw();
    for id in 1..=20 {
        client.say(&call_within(id, "default", "bulk:nap", "[0.05]", 4000));
    }
    moment(dice);
}

/// A client's process that is killed, or stopped for a while first.
fn killed_program(storm: &Storm<'_>, dice: &mut Dice) {
    let numbers: Vec<String> = (0..200).map(|number: u32| number.to_string()).collect();
    let program = storm.daemon.command(["map", "math:sqrt"]).args(numbers);
    let mut child = program.spawn(Stdio::null(), Stdio::null(), Stdio::null());
    moment(dice);
    if dice.roll(2) == 0 {
        process::signal(child.id(), Signal::SIGSTOP);
        moment(dice);
    }
    kill(child.id());
    child.wait().expect("it is our child");
}
