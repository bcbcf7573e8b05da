//! What a pool does for calls that come from workers: the table `nested`.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounds::WORKERS;
use super::checker::Checker;
use super::error::Key;
use crate::pool::settings::Nested;

/// Workers for nested calls; with none of them a call cannot wait for another one of a pool that
/// has a single worker.
const EXTRA: RangeInclusive<u32> = 0..=*WORKERS.end();

/// Calls that wait for one another in a row: a refusal names them all, and has to fit a frame.
const DEPTH: RangeInclusive<u32> = 0..=64;

/// What the pool does for calls that come from workers, while the calls of these wait.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNested {
    /// So many workers more than its size the pool may have, while as many wait for nested calls;
    /// as many as it has workers, without.
    extra: Option<i64>,
    /// How many calls may wait for one another in a row, the first one not counted.
    #[schemars(extend("default" = 8))]
    depth: Option<i64>,
}

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawNested, workers: u32, at: &Key) -> Nested {
    let default = Nested::of(workers);
    let mut number = |name, value, range, default| {
        checker.number(&at.child(name), value, range).unwrap_or(default)
    };
    Nested {
        extra: number("extra", raw.extra, &EXTRA, default.extra),
        depth: number("depth", raw.depth, &DEPTH, default.depth),
    }
}
