//! How long to wait before trying again: exponential, with jitter.
//!
//! The jitter of restarts is "full jitter" over the upper half (AWS architecture blog, "Exponential
//! backoff and jitter"), so that the slots of a pool that fell together do not rise together.

use std::time::Duration;

/// A worker that was ready for this long, or answered a call, had a good start: its death does not
/// count against the next one.
pub const PROVEN_AFTER: Duration = Duration::from_secs(1);

/// The longest a call rests between two attempts.
pub const REST_MAX: Duration = Duration::from_secs(60);

/// A small generator of pseudo-random numbers (SplitMix64), so that policy stays reproducible.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    pub const fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A part of `whole`, from nothing to all of it.
    pub fn share(&mut self, whole: Duration) -> Duration {
        let whole_ns = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.roll() % whole_ns.max(1))
    }

    /// A number up to a tenth larger or smaller than `number`.
    pub const fn spread(&mut self, number: u64) -> u64 {
        let tenth = number / 10;
        number - tenth + self.roll() % (2 * tenth + 1)
    }
}

/// The wait after `failures` failures in a row (at least one), doubling from `first` to `most`.
pub fn backoff(failures: u32, first: Duration, most: Duration, dice: &mut Dice) -> Duration {
    let half = doubled(failures, first, most) / 2;
    half + dice.share(half)
}

/// The wait before a call is tried again after its attempt number `attempts`: never shorter than
/// its caller asked for, and up to a quarter longer, so that calls that failed together are not
/// tried together.
pub fn rest(attempts: u32, first: Duration, dice: &mut Dice) -> Duration {
    let full = doubled(attempts, first, REST_MAX);
    full + dice.share(full / 4)
}

/// `first`, doubled for each failure after the first, up to `most`.
pub fn doubled(failures: u32, first: Duration, most: Duration) -> Duration {
    assert!(failures > 0, "a wait follows a failure");
    first.saturating_mul(1 << (failures - 1).min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(5);

    #[test]
    fn the_wait_doubles_up_to_its_maximum_and_is_never_the_same() {
        let mut dice = Dice::new(7);
        let mut last = Duration::ZERO;
        for failures in 1..40 {
            let full = FIRST.saturating_mul(1 << (failures - 1).min(16)).min(MOST);
            let wait = backoff(failures, FIRST, MOST, &mut dice);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
            assert_ne!(last, wait);
            last = wait;
        }
    }

    #[test]
    fn a_rest_is_never_shorter_than_asked_for_and_nothing_when_nothing_was() {
        let mut dice = Dice::new(7);
        for attempts in 1..40 {
            let full = doubled(attempts, FIRST, REST_MAX);
            let wait = rest(attempts, FIRST, &mut dice);
            assert!(wait >= full && wait <= full + full / 4, "{attempts}: {wait:?}");
        }
        assert_eq!(Duration::ZERO, rest(3, Duration::ZERO, &mut dice));
    }

    #[test]
    fn what_is_spread_stays_within_a_tenth() {
        let mut dice = Dice::new(7);
        let spread: Vec<_> = (0..100).map(|_| dice.spread(1000)).collect();
        assert!(spread.iter().all(|value| (900..=1100).contains(value)), "{spread:?}");
        assert!(spread.iter().min() < spread.iter().max());
        assert_eq!(1, dice.spread(1), "one call is one call");
    }
}
