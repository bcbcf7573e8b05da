//! What must have become of every call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use clutch_client::Reason;

use crate::Storm;
use crate::callers::Books;

/// Panics unless every call had exactly one answer, a true one, and none ran twice.
pub(crate) fn judge(storm: &Storm<'_>, books: &Books) {
    let seed = storm.seed;
    let asked = storm.numbers.load(Ordering::SeqCst);
    let kills = storm.kills.load(Ordering::SeqCst);
    assert_eq!(asked, books.answers.len() as u64, "every call has one answer (seed {seed})");
    let begun = begun(storm);
    let mapped: BTreeSet<_> = books.mapped.iter().collect();
    let mut died = 0;
    for (number, answer) in &books.answers {
        let times = begun.get(number).copied().unwrap_or(0);
        assert!(times <= 1, "call {number} ran {times} times (seed {seed})");
        let failure = match answer {
            Ok(value) => {
                assert_eq!((number, 1), (value, times), "another call's answer (seed {seed})");
                assert_ne!(0, number % 17, "call {number} should have raised (seed {seed})");
                continue;
            }
            Err(failure) => failure,
        };
        let unseen = "began, and is said not to have";
        assert!(failure.started || times == 0, "call {number} {unseen} (seed {seed}): {failure}");
        match &failure.reason {
            Reason::Raised(exception) => {
                assert_eq!((0, "ValueError"), (number % 17, exception.type_name.as_str()));
            }
            Reason::WorkerDied(_) if mapped.contains(number) => {}
            Reason::WorkerDied(_) => died += 1,
            Reason::TimedOut { .. } | Reason::Cancelled => {}
            _ => panic!("call {number} failed strangely (seed {seed}): {failure}"),
        }
    }
    let Books { suicides, cancelled, .. } = books;
    println!(
        "{asked} calls, {kills} kills, {suicides} calls that killed their worker, {died} calls died \
         with their worker, {cancelled} cancelled"
    );
    assert!(died <= kills + suicides, "{died} calls died in {kills} kills (seed {seed})");
    assert!(kills > 10, "a storm of {kills} kills is none (seed {seed})");
}

/// How often each call began, by the ledger.
fn begun(storm: &Storm<'_>) -> BTreeMap<u64, u32> {
    let mut begun = BTreeMap::new();
    let ledger = std::fs::read_to_string(&storm.ledger).expect("some calls began");
    for line in ledger.lines() {
        *begun.entry(line.parse().expect("lines are whole")).or_default() += 1;
    }
    begun
}
