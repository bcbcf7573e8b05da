//! What a worker is doing, told from two looks at its process and from its control thread's answer.
//!
//! The control thread needs the interpreter to answer, so its silence says that another thread
//! holds it. Whether that one computes or sleeps, processor time says.

use std::time::Duration;

use super::process::Look;

/// The share of a processor, in percent, above which a process computes. What sleeps uses none.
const BUSY_PERCENT: u128 = 10;

/// What a worker's process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// It has no call.
    Idle,
    /// It is being started; user code may be imported.
    Starting,
    /// It computes, and lets others run.
    Running,
    /// It computes, in C code that lets no other thread of Python run.
    HoldingGil,
    /// It sleeps in C code, and lets no other thread of Python run.
    BlockedHoldingGil,
    /// It sleeps in a system call.
    Blocked,
    /// It was stopped by a signal or a debugger.
    Stopped,
}

/// Two looks, some time apart, and whether the control thread has answered meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    /// The first look.
    pub before: Look,
    /// The second.
    pub after: Look,
    /// The time between them.
    pub between: Duration,
    /// Whether the control thread has answered.
    pub answered: bool,
}

impl Activity {
    /// What a worker with a call is doing.
    pub fn of(evidence: &Evidence) -> Activity {
        let Evidence { before, after, between, answered } = evidence;
        if matches!(after.state, 'T' | 't') {
            return Activity::Stopped;
        }
        let main_ns = u128::from(after.main_ns.saturating_sub(before.main_ns));
        let all_ns = u128::from(after.cpu_ms.saturating_sub(before.cpu_ms)) * 1_000_000;
        let bound = between.as_nanos() * BUSY_PERCENT / 100;
        // The whole process is counted in steps of ten milliseconds: one step is no sign.
        // On a busy machine one may wait for a processor all the time.
        let wants_to = before.state == 'R' || after.state == 'R';
        let computes = wants_to || main_ns > bound || all_ns > bound.max(10_000_000);
        match (answered, computes) {
            (true, true) => Activity::Running,
            (true, false) => Activity::Blocked,
            (false, true) => Activity::HoldingGil,
            (false, false) => Activity::BlockedHoldingGil,
        }
    }

    /// Its name in `status`.
    pub const fn name(self) -> &'static str {
        match self {
            Activity::Idle => "idle",
            Activity::Starting => "starting",
            Activity::Running => "running",
            Activity::HoldingGil => "holding_gil",
            Activity::BlockedHoldingGil => "blocked_holding_gil",
            Activity::Blocked => "blocked",
            Activity::Stopped => "stopped",
        }
    }

    /// Whether an operator wants to know without having asked.
    pub const fn is_odd(self) -> bool {
        matches!(self, Activity::HoldingGil | Activity::BlockedHoldingGil | Activity::Stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_kinds_are_told_apart_f145() {
        let look =
            |state, main_ms: u64| Look { state, main_ns: main_ms * 1_000_000, ..Look::default() };
        let between = Duration::from_millis(50);
        let of = |state, main_ms: u64, answered| {
            let (before, after) = (look('S', 100), look(state, 100 + main_ms));
            Activity::of(&Evidence { before, after, between, answered })
        };
        assert_eq!(Activity::Running, of('R', 40, true));
        assert_eq!(Activity::Blocked, of('S', 1, true));
        assert_eq!(Activity::HoldingGil, of('R', 40, false));
        assert_eq!(Activity::HoldingGil, of('R', 0, false), "it waits for a processor");
        assert_eq!(Activity::BlockedHoldingGil, of('S', 0, false));
        assert_eq!(Activity::Stopped, of('T', 0, false));
        assert_eq!(Activity::Stopped, of('t', 40, true));
    }

    #[test]
    fn other_threads_count_when_they_compute_f145() {
        let look = |cpu_ms| Look { state: 'S', cpu_ms, ..Look::default() };
        let of = |cpu_ms| {
            let between = Duration::from_millis(50);
            let (before, after) = (look(0), look(cpu_ms));
            Activity::of(&Evidence { before, after, between, answered: true })
        };
        assert_eq!(Activity::Blocked, of(10), "one step may be the answer itself");
        assert_eq!(Activity::Running, of(50));
    }
}
