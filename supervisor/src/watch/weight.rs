//! How much memory a worker may hold, judged look by look.

use crate::config::Memory;

/// What a worker's weight means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Nothing.
    Fine,
    /// It is to be replaced, without haste.
    TooMuch,
    /// It is to be killed.
    FarTooMuch,
}

/// The looks so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scale {
    /// Looks in a row that found too much.
    above: u32,
    /// The calls that had been answered at the last one.
    served: u64,
}

impl Scale {
    /// Judges one look. What a call needs while it runs is its own business, so a look counts for
    /// `recycle_above` only after a call: when the worker is idle, or has answered one since the
    /// last look.
    pub fn judge(&mut self, memory: &Memory, bytes: u64, served: u64, idle: bool) -> Weight {
        if memory.kill_above.is_some_and(|limit| bytes > limit) {
            return Weight::FarTooMuch;
        }
        let is_after_call = served > self.served || idle && served > 0;
        self.served = served;
        let Some(limit) = memory.recycle_above.filter(|_| is_after_call) else {
            return Weight::Fine;
        };
        self.above = if bytes > limit { self.above + 1 } else { 0 };
        if self.above < memory.samples {
            return Weight::Fine;
        }
        // Told once: the next word needs as many looks again.
        self.above = 0;
        Weight::TooMuch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Memory = Memory {
        recycle_above: Some(100),
        kill_above: Some(200),
        samples: 3,
        every: std::time::Duration::from_secs(1),
    };

    #[test]
    fn what_leaks_is_replaced_after_some_looks_in_a_row_f027() {
        let mut scale = Scale::default();
        let judged: Vec<_> =
            [101, 101, 99, 101, 101, 101].map(|bytes| scale.judge(&MEMORY, bytes, 1, true)).into();
        let (last, before) = judged.split_last().unwrap();
        assert_eq!(Weight::TooMuch, *last);
        assert!(before.iter().all(|weight| *weight == Weight::Fine), "{judged:?}");
    }

    #[test]
    fn what_a_call_needs_while_it_runs_is_its_own_business_f027() {
        let mut scale = Scale::default();
        for _ in 0..10 {
            assert_eq!(Weight::Fine, scale.judge(&MEMORY, 150, 0, false));
        }
        // With calls all the time there is no idle moment to look at.
        for served in 1..3 {
            assert_eq!(Weight::Fine, scale.judge(&MEMORY, 150, served, false));
        }
        assert_eq!(Weight::TooMuch, scale.judge(&MEMORY, 150, 3, false));
    }

    #[test]
    fn what_is_far_too_much_ends_at_once_f028() {
        assert_eq!(Weight::FarTooMuch, Scale::default().judge(&MEMORY, 201, 0, false));
        let unbounded = Memory { kill_above: None, recycle_above: None, ..MEMORY };
        assert_eq!(Weight::Fine, Scale::default().judge(&unbounded, u64::MAX, 1, true));
    }
}
