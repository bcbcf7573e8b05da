//! How long a slot waits before it is started again: exponential, with jitter.
//!
//! The numbers are those of the field: OTP gives up after 5 restarts in its own tuning example, s6
//! restarts at once what had been up for a second. The jitter is "full jitter" over the upper half
//! (AWS architecture blog, "Exponential backoff and jitter"), so that the slots of a pool that fell
//! together do not rise together.

use std::time::Duration;

/// The wait after the first failure in a row.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// The longest wait.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A worker that was ready for this long, or answered a call, had a good start: its death does not
/// count against the next one.
pub const PROVEN_AFTER: Duration = Duration::from_secs(1);

/// Failed starts in a row, over all slots of a pool, that make a crash loop.
pub const CRASH_LOOP_FAILURES: u32 = 5;

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
}

/// The wait after `failures` failures in a row (at least one).
pub fn backoff(failures: u32, dice: &mut Dice) -> Duration {
    assert!(failures > 0, "a wait follows a failure");
    let doublings = (failures - 1).min(16);
    let full = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    let half = full / 2;
    let half_ns = u64::try_from(half.as_nanos()).expect("seconds fit");
    half + Duration::from_nanos(dice.roll() % half_ns.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_maximum_and_is_never_the_same() {
        let mut dice = Dice::new(7);
        let mut last = Duration::ZERO;
        for failures in 1..40 {
            let full = BACKOFF_FIRST.saturating_mul(1 << (failures - 1).min(16)).min(BACKOFF_MAX);
            let wait = backoff(failures, &mut dice);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
            assert_ne!(last, wait);
            last = wait;
        }
    }
}
