//! The table `liveness` of a pool: when a busy worker is looked at, and what then.

use std::ops::RangeInclusive;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;

const AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 3600);

/// When a busy worker is looked at. Nothing is ever killed for its silence alone: code may compute
/// for hours without letting anything else run.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLiveness {
    /// After how long with one call a worker is looked at.
    #[schemars(extend("default" = "10s"))]
    after: Option<String>,
    /// How often from then on.
    #[schemars(extend("default" = "5s"))]
    every: Option<String>,
    /// What is done about a worker that is stopped (SIGSTOP, a debugger): "report" it, "continue"
    /// it, or "replace" it.
    #[schemars(extend("default" = "report"))]
    stopped: Option<String>,
}

/// When a busy worker is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Liveness {
    /// After how long with one call.
    pub after: Duration,
    /// How often from then on.
    pub every: Duration,
    /// What is done about a stopped one.
    pub stopped: Stopped,
}

/// What is done about a worker that is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Say so.
    Report,
    /// Send it SIGCONT.
    Continue,
    /// Kill it.
    Replace,
}

impl Default for Liveness {
    fn default() -> Self {
        let (after, every) = (Duration::from_secs(10), Duration::from_secs(5));
        Self { after, every, stopped: Stopped::Report }
    }
}

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawLiveness, at: &Key) -> Liveness {
    let default = Liveness::default();
    let stopped = match raw.stopped.as_deref() {
        None | Some("report") => Stopped::Report,
        Some("continue") => Stopped::Continue,
        Some("replace") => Stopped::Replace,
        Some(text) => {
            let expected = "\"report\", \"continue\" or \"replace\"";
            let found = text.to_owned();
            checker.report(&at.child("stopped"), Reason::Word { found, expected });
            default.stopped
        }
    };
    let after = checker.duration(&at.child("after"), raw.after.as_deref(), &AFTER);
    let every = checker.duration(&at.child("every"), raw.every.as_deref(), &AFTER);
    Liveness {
        after: after.unwrap_or(default.after),
        every: every.unwrap_or(default.every),
        stopped,
    }
}
