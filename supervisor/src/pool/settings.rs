//! What a pool is told: how many workers, how they are restarted and replaced, how long it waits
//! for what. Leaves how a configuration file says so to `config`.

use std::time::Duration;

use super::event::Budgets;

/// What a pool is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many workers it has.
    pub size: Size,
    /// How many calls each of them may have at once; at least 1.
    pub lanes: u32,
    /// When it grows and shrinks between its bounds.
    pub scale: Scale,
    /// How many workers may be starting at once, successors not counted.
    pub starts_at_once: u32,
    /// How it starts again what died.
    pub restart: Restart,
    /// When it replaces what is well.
    pub replace: Replace,
    /// What it does for calls that come from workers.
    pub nested: Nested,
    /// How many calls may wait.
    pub queue: u32,
    /// How long it waits for what.
    pub budgets: Budgets,
    /// Where its dice start.
    pub seed: u64,
}

/// How many workers a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// At least so many; may be 0.
    pub min: u32,
    /// At most so many are given calls at once; at least 1.
    pub max: u32,
    /// So many more are kept ready, for when one of the others is lost.
    pub spares: u32,
}

/// When a pool grows and shrinks between its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// A call that has waited this long, and that no worker is being started for, starts one.
    pub up_after: Duration,
    /// A worker that was of no use for this long goes.
    pub down_after: Duration,
}

/// How a pool starts again what died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The wait after the first failure.
    pub backoff: Duration,
    /// The longest wait.
    pub backoff_max: Duration,
    /// So many deaths make a crash loop, ...
    pub deaths: u32,
    /// ... when they happen within this time, and no call succeeds between them.
    pub window: Duration,
}

/// When a pool replaces workers that are well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replace {
    /// After about so many calls; none means never.
    pub max_calls: Option<u32>,
    /// At about this age.
    pub max_age: Option<Duration>,
    /// After this long without a call.
    pub max_idle: Option<Duration>,
    /// How many are replaced at the same time.
    pub at_once: u32,
}

/// What a pool does for nested calls: those that another call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nested {
    /// So many workers more than its size it may have, while as many wait for nested calls.
    pub extra: u32,
    /// How many calls may wait for one another in a row, the first one not counted.
    pub depth: u32,
}

impl Nested {
    /// What holds for a pool of so many workers when nothing else was said.
    pub const fn of(workers: u32) -> Nested {
        Nested { extra: workers, depth: 8 }
    }
}

impl Default for Scale {
    fn default() -> Scale {
        Scale { up_after: Duration::from_millis(100), down_after: Duration::from_secs(60) }
    }
}

/// The numbers are those of the field: OTP gives up after 5 restarts in its own tuning example.
impl Default for Restart {
    fn default() -> Restart {
        Restart {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            deaths: 5,
            window: Duration::from_secs(30),
        }
    }
}

impl Default for Replace {
    fn default() -> Replace {
        Replace { max_calls: None, max_age: None, max_idle: None, at_once: 1 }
    }
}
