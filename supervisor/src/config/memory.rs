//! The table `memory` of a pool: how much its workers may hold, and how often one looks.

use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;
use super::units::show_size;

/// An interpreter alone holds about ten mebibytes.
const BYTES: RangeInclusive<u64> = 16 << 20..=1 << 50;
const SAMPLES: RangeInclusive<u32> = 1..=1000;
/// Looking costs a read of `/proc` for each process.
const EVERY: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// How much memory a worker may hold, with all processes it has started. Nothing is looked at
/// unless one of the two bounds is set.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMemory {
    /// A worker that holds more after its calls is replaced, silently and between two calls.
    #[schemars(example = "1GiB")]
    recycle_above: Option<String>,
    /// A worker that holds more is killed at once, whatever it is doing.
    #[schemars(example = "4GiB")]
    kill_above: Option<String>,
    /// In how many looks in a row `recycle_above` must be exceeded.
    #[schemars(extend("default" = 3))]
    samples: Option<i64>,
    /// How often one looks.
    #[schemars(extend("default" = "1s"))]
    every: Option<String>,
}

/// How much memory a worker's processes may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Above this it is replaced after a call, in bytes.
    pub recycle_above: Option<u64>,
    /// Above this it is killed, in bytes.
    pub kill_above: Option<u64>,
    /// Looks in a row that must exceed `recycle_above`.
    pub samples: u32,
    /// How often one looks.
    pub every: Duration,
}

impl Memory {
    /// Whether anybody wants to know.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.recycle_above.is_some() || self.kill_above.is_some()
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { recycle_above: None, kill_above: None, samples: 3, every: Duration::from_secs(1) }
    }
}

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawMemory, at: &Key) -> Memory {
    let default = Memory::default();
    let recycle_at = at.child("recycle_above");
    let recycle_above = checker.size(&recycle_at, raw.recycle_above.as_deref(), &BYTES);
    let kill_above = checker.size(&at.child("kill_above"), raw.kill_above.as_deref(), &BYTES);
    if let (Some(recycle), Some(kill)) = (recycle_above, kill_above)
        && recycle >= kill
    {
        let (value, most) =
            (show_size(recycle), format!("less than kill_above ({})", show_size(kill)));
        let least = show_size(*BYTES.start());
        checker.report(&recycle_at, Reason::Range { value, least, most });
    }
    Memory {
        recycle_above,
        kill_above,
        samples: checker
            .number(&at.child("samples"), raw.samples, &SAMPLES)
            .unwrap_or(default.samples),
        every: checker
            .duration(&at.child("every"), raw.every.as_deref(), &EVERY)
            .unwrap_or(default.every),
    }
}
