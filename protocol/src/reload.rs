//! What a reload answers: what changed, or why nothing did.
//!
//! It travels as JSON, so that fields can be added without a new protocol version; a reader ignores
//! what it does not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer to a reload.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// How it ended.
    pub result: ReloadResult,
    /// Why nothing was changed, or what is still under way; empty when there is nothing to say. It
    /// may have many lines: an error's drawing of the file, Python's traceback.
    pub message: String,
    /// What became of each pool, by name; empty when nothing was changed.
    pub pools: BTreeMap<String, PoolChange>,
    /// Keys of the table `daemon` that have new values now.
    pub daemon: Vec<String>,
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// The configuration is in force, and everything that had to be replaced was.
    Done,
    /// The configuration is in force; what has to be replaced is being replaced.
    UnderWay,
    /// The configuration, or something it names, is wrong. Nothing was changed.
    Wrong,
    /// The configuration is right, but a new worker did not become ready. The former configuration
    /// is in force.
    Failed,
    /// It was not tried.
    Refused,
}

/// What a reload did to a pool.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "change")]
pub enum PoolChange {
    /// Nothing.
    Unchanged,
    /// Its limits, size or permissions are others; its workers are the same.
    Limits,
    /// Its workers are others.
    Replaced {
        /// How many were replaced.
        workers: u32,
    },
    /// It is new.
    Added {
        /// How many workers it has.
        workers: u32,
    },
    /// It takes no calls any more, and goes when it has finished those it has.
    Removed,
}

impl std::fmt::Display for PoolChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |count: u32| if count == 1 { "" } else { "s" };
        match *self {
            PoolChange::Unchanged => f.write_str("unchanged"),
            PoolChange::Limits => f.write_str("limits"),
            PoolChange::Replaced { workers } => {
                write!(f, "replaced {workers} worker{}", plural(workers))
            }
            PoolChange::Added { workers } => {
                write!(f, "added, {workers} worker{}", plural(workers))
            }
            PoolChange::Removed => f.write_str("removed"),
        }
    }
}

impl Reloaded {
    /// One that has changed nothing.
    pub fn nothing(result: ReloadResult, message: impl Into<String>) -> Reloaded {
        let message = message.into();
        Reloaded { result, message, pools: BTreeMap::new(), daemon: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_plain_json_that_scripts_can_read() {
        let pools = BTreeMap::from([
            ("a".to_owned(), PoolChange::Replaced { workers: 4 }),
            ("b".to_owned(), PoolChange::Unchanged),
        ]);
        let (result, message) = (ReloadResult::UnderWay, String::new());
        let report = Reloaded { result, message, pools, daemon: vec!["stop_grace".into()] };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(
            r#"{"result":"under_way","message":"","pools":{"a":{"change":"replaced","workers":4},"#
                .to_owned()
                + r#""b":{"change":"unchanged"}},"daemon":["stop_grace"]}"#,
            json
        );
        assert_eq!(report, serde_json::from_str(&json).unwrap());
        assert_eq!("replaced 4 workers", report.pools["a"].to_string());
    }
}
