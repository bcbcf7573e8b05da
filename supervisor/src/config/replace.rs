//! When a pool replaces workers that are well: the table `replace`.

use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounds::{TIMEOUT, WORKERS};
use super::checker::Checker;
use super::error::Key;
use crate::pool::settings::Replace;

/// Calls of one worker; 0 is no bound.
const CALLS: RangeInclusive<u32> = 0..=u32::MAX;

/// Ages; "0s" is no bound.
const AGE: RangeInclusive<Duration> = Duration::ZERO..=*TIMEOUT.end();

/// When workers that are well are replaced. The new one is started first, and takes over when it
/// is ready.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawReplace {
    /// After about so many calls (up to a tenth more or fewer); 0 means never.
    #[schemars(extend("default" = 0))]
    max_calls: Option<i64>,
    /// At about this age (up to a tenth more or less); "0s" means never.
    #[schemars(extend("default" = "0s"))]
    max_age: Option<String>,
    /// After this long without a call; "0s" means never.
    #[schemars(extend("default" = "0s"))]
    max_idle: Option<String>,
    /// How many workers are replaced at the same time.
    #[schemars(extend("default" = 1))]
    at_once: Option<i64>,
}

pub(super) fn check_replace(checker: &mut Checker<'_>, raw: &RawReplace, at: &Key) -> Replace {
    let duration = |checker: &mut Checker<'_>, name, text: &Option<String>| {
        let found = checker.duration(&at.child(name), text.as_deref(), &AGE);
        found.filter(|age| !age.is_zero())
    };
    let max_calls = checker.number(&at.child("max_calls"), raw.max_calls, &CALLS);
    Replace {
        max_calls: max_calls.filter(|calls| *calls > 0),
        max_age: duration(checker, "max_age", &raw.max_age),
        max_idle: duration(checker, "max_idle", &raw.max_idle),
        at_once: checker
            .number(&at.child("at_once"), raw.at_once, &WORKERS)
            .unwrap_or(Replace::default().at_once),
    }
}
