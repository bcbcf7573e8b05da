//! Waiting for a condition, with a deadline. Never waits for a time to pass and hopes.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How often a condition is looked at. Short beside every bound that is tested, long beside what
/// looking costs.
const POLL: Duration = Duration::from_millis(5);

/// Lets this thread rest for `span`. Only for pacing a loop that looks at a condition.
pub fn park(span: Duration) {
    let end = Instant::now() + span;
    // Whoever ended a scope of threads may have left a token that ends one wait early.
    while let Some(rest) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(rest);
    }
}

/// Waits until `condition` holds; panics with `what` when it does not within `deadline`. Gives
/// the time that took.
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    wait_until(what, deadline, || if condition() { Ok(()) } else { Err("still false") });
    begun.elapsed()
}

/// Waits until `probe` gives a value; panics with `what` and the last state when it does not
/// within `deadline`.
#[track_caller]
pub fn wait_until<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    match try_until(deadline, &mut probe) {
        Ok(value) => value,
        Err(state) => panic!("not within {deadline:?}: {what}; last state: {state:?}"),
    }
}

/// Waits until `probe` gives a value, or gives its last state at the deadline. The probe is called
/// at least once, and once more when the deadline has passed.
pub fn try_until<T, E>(
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let end = Instant::now() + deadline;
    loop {
        let late = Instant::now() >= end;
        match probe() {
            Ok(value) => return Ok(value),
            Err(state) if late => return Err(state),
            Err(_) => park(POLL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_is_waited_for() {
        let mut looks = 0;
        wait_for("three looks", Duration::from_secs(5), || {
            looks += 1;
            looks == 3
        });
        assert_eq!(3, looks);
    }

    #[test]
    #[should_panic(expected = "not within 20ms: pigs fly; last state: \"on the ground\"")]
    fn a_condition_that_does_not_come_is_reported_with_its_last_state() {
        wait_until::<(), _>("pigs fly", Duration::from_millis(20), || Err("on the ground"));
    }
}
