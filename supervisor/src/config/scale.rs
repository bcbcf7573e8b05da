//! How many workers a pool has, and when it grows and shrinks: `workers`, `spares`, `scale`.

use std::ops::RangeInclusive;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::bounds::{TIMEOUT, WORKERS};
use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;
use crate::pool::settings::{Scale, Size};

/// The least a pool may be: nothing at all until a call comes.
const WORKERS_MIN: RangeInclusive<u32> = 0..=*WORKERS.end();

/// Spares: as many as there may be workers.
const SPARES: RangeInclusive<u32> = 0..=*WORKERS.end();

/// A number of workers, "auto", or two bounds.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawWorkers {
    /// So many.
    Number(i64),
    /// "auto", or a mistake.
    Text(String),
    /// Between two numbers.
    Range(RawRange),
}

/// The bounds of an elastic pool.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRange {
    min: Option<i64>,
    max: Option<i64>,
}

/// When a pool with two bounds grows and shrinks.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawScale {
    /// A call that has waited this long, and that no worker is being started for, starts one.
    #[schemars(extend("default" = "100ms"))]
    up_after: Option<String>,
    /// A worker that was of no use for this long goes.
    #[schemars(extend("default" = "60s"))]
    down_after: Option<String>,
}

pub(super) fn workers_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["integer", "string", "object"],
        "default": "auto",
        "properties": {
            "min": { "description": "At least so many; one without.", "type": "integer" },
            "max": { "description": "At most so many; \"auto\" without.", "type": "integer" }
        },
        "additionalProperties": false
    })
}

pub(super) fn check_size(
    checker: &mut Checker<'_>,
    workers: Option<&RawWorkers>,
    spares: Option<i64>,
    at: &Key,
) -> Size {
    let spares = checker.number(&at.child("spares"), spares, &SPARES).unwrap_or(0);
    let at = at.child("workers");
    let fixed = |count| Size { min: count, max: count, spares };
    match workers {
        Some(RawWorkers::Number(number)) => {
            fixed(checker.number(&at, Some(*number), &WORKERS).unwrap_or_else(cpus))
        }
        Some(RawWorkers::Text(text)) if text != "auto" => {
            let found = text.clone();
            let expected = "a number, \"auto\" for one worker per CPU, or { min = 0, max = 4 }";
            checker.report(&at, Reason::Word { found, expected });
            fixed(cpus())
        }
        Some(RawWorkers::Text(_)) | None => fixed(cpus()),
        Some(RawWorkers::Range(range)) => {
            let min = checker.number(&at.child("min"), range.min, &WORKERS_MIN);
            let max = checker.number(&at.child("max"), range.max, &WORKERS);
            // A large minimum alone makes the maximum larger; only what is written can clash.
            let max = max.unwrap_or_else(|| cpus().max(min.unwrap_or(1)));
            let min = min.unwrap_or(1);
            if min > max {
                checker.report(&at.child("min"), Reason::MinAboveMax { min, max });
            }
            Size { min: min.min(max), max, spares }
        }
    }
}

/// The CPUs this process may use: affinity and cgroup quota count.
fn cpus() -> u32 {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cpus).map_or(*WORKERS.end(), |cpus| cpus.min(*WORKERS.end()))
}

pub(super) fn check_scale(checker: &mut Checker<'_>, raw: &RawScale, at: &Key) -> Scale {
    let default = Scale::default();
    let mut duration = |name, text: &Option<String>, default| {
        checker.duration(&at.child(name), text.as_deref(), &TIMEOUT).unwrap_or(default)
    };
    Scale {
        up_after: duration("up_after", &raw.up_after, default.up_after),
        down_after: duration("down_after", &raw.down_after, default.down_after),
    }
}
