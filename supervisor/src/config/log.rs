//! `[daemon.log]`: the daemon's own log.

use schemars::JsonSchema;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;

/// The daemon's own log.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    /// How it is written: "text" or "json" to standard error, or "journald" to systemd's journal.
    #[schemars(extend("default" = "text"))]
    format: Option<String>,
    /// What is logged: a level (error, warn, info, debug, trace), or a filter by target, like
    /// "info,clutch::output=off". The variable CLUTCH_LOG and the option --verbose come first.
    #[schemars(extend("default" = "info"))]
    level: Option<String>,
}

/// The daemon's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// How it is written.
    pub format: LogFormat,
    /// What is logged; a filter that can be parsed.
    pub level: String,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Time, level, message and fields on standard error, for people.
    #[default]
    Text,
    /// One JSON object in each line on standard error, for programs.
    Json,
    /// To systemd's journal, with fields of its own.
    Journald,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

/// Checks the table.
pub(super) fn check_log(checker: &mut Checker<'_>, raw: &RawLog, at: &Key) -> Log {
    let mut log = Log::default();
    match raw.format.as_deref() {
        None | Some("text") => {}
        Some("json") => log.format = LogFormat::Json,
        Some("journald") => log.format = LogFormat::Journald,
        Some(word) => {
            let found = word.to_owned();
            let expected = "\"text\", \"json\" or \"journald\"";
            checker.report(&at.child("format"), Reason::Word { found, expected });
        }
    }
    if let Some(level) = &raw.level {
        match EnvFilter::try_new(level) {
            Ok(_) if level.trim().is_empty() => checker.report(&at.child("level"), Reason::Empty),
            Ok(_) => log.level.clone_from(level),
            Err(error) => {
                let message = error.to_string();
                checker.report(&at.child("level"), Reason::LogFilter { message });
            }
        }
    }
    log
}
