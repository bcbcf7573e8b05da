//! `[daemon.log]`: the daemon's own log.

use schemars::JsonSchema;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

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
        match log_filter(level) {
            Ok(_) if level.trim().is_empty() => checker.report(&at.child("level"), Reason::Empty),
            Ok(_) => log.level.clone_from(level),
            Err(message) => checker.report(&at.child("level"), Reason::LogFilter { message }),
        }
    }
    log
}

/// Reads a filter of the log, or says what is wrong with it. A word alone is a level, also by the
/// name Python gives it: as the name of a target, which the filter's own parser takes it for, it
/// would silence everything else. Our own targets may stand alone.
pub fn log_filter(text: &str) -> Result<EnvFilter, String> {
    let mut parts = Vec::new();
    for part in text.split(',') {
        let (target, level) = match part.rsplit_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, part),
        };
        let word = level.trim();
        if word.eq_ignore_ascii_case("warning") {
            parts.push(target.map_or_else(|| "warn".to_owned(), |target| format!("{target}=warn")));
            continue;
        }
        let is_target = word.starts_with("clutch") || word.contains("::") || word.contains('[');
        let is_level = word.is_empty() || word.parse::<LevelFilter>().is_ok();
        if target.is_none() && !is_target && !is_level {
            return Err(format!("\"{word}\" is no level"));
        }
        parts.push(part.to_owned());
    }
    EnvFilter::try_new(parts.join(",")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_alone_is_a_level_and_never_a_target_that_silences_all() {
        for text in ["warn", "WARNING", "info,clutch::output=off", "clutch=warning", "off", "2"] {
            let filter = log_filter(text).unwrap().to_string();
            assert!(!filter.to_lowercase().contains("warning"), "{filter}");
        }
        assert_eq!("warn", log_filter("warning").unwrap().to_string());
        for text in ["loud", "info,loud", "warn ing", "clutch=loud", "inf[o"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
    }
}
