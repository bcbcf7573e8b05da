//! The table `run` of a pool: whether `clutch run` may run programs under its rules, and how many.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Deserialize;

use super::checker::Checker;
use super::error::Key;

/// Each is two processes, two descriptors and a connection.
const AT_ONCE: RangeInclusive<u32> = 1..=4096;

/// Programs that clients run under the pool's rules with `clutch run`, beside its workers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRun {
    /// Whether any program may be run. Without, it may, unless the pool has an `allow` list.
    #[schemars(example = true)]
    allow: Option<bool>,
    /// How many may run at once.
    #[schemars(extend("default" = 16))]
    at_once: Option<i64>,
}

/// Whether programs may be run, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whether any may; none when that depends on whether the pool has an `allow` list.
    pub allow: Option<bool>,
    /// How many at once.
    pub at_once: u32,
}

impl Default for Run {
    fn default() -> Self {
        Self { allow: None, at_once: 16 }
    }
}

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawRun, at: &Key) -> Run {
    let at_once = checker.number(&at.child("at_once"), raw.at_once, &AT_ONCE);
    Run { allow: raw.allow, at_once: at_once.unwrap_or(Run::default().at_once) }
}
