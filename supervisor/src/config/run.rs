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

#[cfg(test)]
mod tests {
    use super::super::parse;

    fn pool(text: &str) -> Result<crate::config::Pool, String> {
        let text = format!("[pools.default]\n{text}");
        let parsed = parse(&text, None, std::path::Path::new("/"));
        let config = parsed.map_err(|error| error.render(false))?;
        Ok(config.pools.into_values().next().expect("it is one"))
    }

    #[test]
    fn a_list_of_functions_forbids_programs_unless_told_otherwise() {
        let runs = |text: &str| pool(text).unwrap().runs_programs();
        assert!(runs(""));
        assert!(!runs("allow = ['m:*']"));
        assert!(runs("allow = ['m:*']\nrun = { allow = true }"));
        assert!(!runs("run = { allow = false }"));
        assert_eq!(3, pool("run = { at_once = 3 }").unwrap().run.at_once);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let error = pool("run = { allow = 'yes' }").unwrap_err();
        assert!(error.contains("expected true or false, found text"), "{error}");
        assert!(error.contains("allow = true"), "{error}");
        assert!(pool("run = { at_once = 0 }").is_err());
        assert!(pool("run = { at_one = 5 }").unwrap_err().contains("at_once"));
    }
}
