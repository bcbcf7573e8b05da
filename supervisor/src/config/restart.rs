//! How a pool starts again what died: the table `restart`.

use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Deserialize;

use super::bounds::TIMEOUT;
use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;
use super::units::show_duration;
use crate::pool::settings::Restart;

/// Deaths that make a crash loop. One death of a healthy pool is none.
const DEATHS: RangeInclusive<u32> = 2..=10_000;

/// How a pool starts again what died.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRestart {
    /// The wait after the first failed start; doubled after each one that follows, with jitter.
    #[schemars(extend("default" = "100ms"))]
    backoff: Option<String>,
    /// The longest wait, and the wait between two attempts of a pool in a crash loop.
    #[schemars(extend("default" = "5s"))]
    backoff_max: Option<String>,
    /// So many deaths within `window`, without a successful call between them, are a crash loop.
    #[schemars(extend("default" = 5))]
    deaths: Option<i64>,
    /// The time within which deaths are counted together.
    #[schemars(extend("default" = "30s"))]
    window: Option<String>,
}

pub(super) fn check_restart(checker: &mut Checker<'_>, raw: &RawRestart, at: &Key) -> Restart {
    let default = Restart::default();
    let duration = |checker: &mut Checker<'_>, name, text: &Option<String>| {
        checker.duration(&at.child(name), text.as_deref(), &TIMEOUT)
    };
    let backoff_max =
        duration(checker, "backoff_max", &raw.backoff_max).unwrap_or(default.backoff_max);
    // A short maximum alone makes the first wait shorter; only what is written can clash.
    let backoff =
        duration(checker, "backoff", &raw.backoff).unwrap_or(default.backoff.min(backoff_max));
    if backoff > backoff_max {
        let reason = Reason::BackoffAboveMax {
            backoff: show_duration(backoff),
            most: show_duration(backoff_max),
        };
        checker.report(&at.child("backoff"), reason);
    }
    Restart {
        backoff,
        backoff_max,
        deaths: checker.number(&at.child("deaths"), raw.deaths, &DEATHS).unwrap_or(default.deaths),
        window: duration(checker, "window", &raw.window).unwrap_or(default.window),
    }
}
