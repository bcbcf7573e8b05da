//! A line of the output store: what `clutch logs --json` prints, and what output files hold.
//!
//! It travels as JSON, so that fields can be added without a new protocol version; a reader ignores
//! what it does not know.

use crate::wire::{Decode, Encode};
use serde::{Deserialize, Serialize};

use crate::message::WorkerId;

/// Something a worker printed or logged.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// When: RFC 3339 in UTC with milliseconds, `2026-11-23T12:03:04.123Z`.
    pub time: String,
    /// The pool of the worker.
    pub pool: String,
    /// Which worker.
    #[serde(flatten)]
    pub worker: WorkerId,
    /// The daemon's id of the call that ran then; 0 for none.
    pub call: u64,
    /// How it came.
    pub stream: LogStream,
    /// The level of a log record, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// The logger of a log record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logger: Option<String>,
    /// What it says, without control characters; the lines of a log record are separated by
    /// newlines.
    pub text: String,
}

/// How something was said.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// A line on standard output.
    Stdout,
    /// A line on standard error.
    Stderr,
    /// A record of Python's `logging`.
    Log,
    /// A remark of the daemon's own: how much is missing here.
    Daemon,
}

impl LogStream {
    /// Its name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
            LogStream::Log => "log",
            LogStream::Daemon => "daemon",
        }
    }
}

/// Which lines of the output store a client wants.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Logs {
    /// Only of this pool; empty for all.
    pub pool: String,
    /// Only of this call, by the daemon's id; 0 for all.
    pub call: u64,
    /// Only of the workers of this slot.
    pub slot: Option<u32>,
    /// How many of the newest lines that are there already.
    pub lines: u32,
    /// Whether lines to come are wanted, too, until the request is cancelled.
    pub follow: bool,
}

/// Some lines of the output store on their way to a client; the payload is a JSON list.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub struct LogLines {
    /// Lines of the pools asked for, whatever else was asked for, that were forgotten before they
    /// could be sent: this client or the daemon was too slow for them.
    pub dropped: u64,
    /// Whether no more come.
    pub last: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_newer_daemon_is_still_read() {
        let line = LogLine {
            time: "2026-11-23T12:03:04.123Z".into(),
            pool: "default".into(),
            worker: WorkerId { slot: 0, generation: 3 },
            call: 17,
            stream: LogStream::Stderr,
            level: None,
            logger: None,
            text: "text".into(),
        };
        let json = concat!(
            r#"{"time":"2026-11-23T12:03:04.123Z","pool":"default","slot":0,"generation":3,"#,
            r#""call":17,"stream":"stderr","text":"text"}"#
        );
        assert_eq!(json, serde_json::to_string(&line).unwrap());
        let newer = json.replace("}", ",\"host\":\"a\"}");
        assert_eq!(line, serde_json::from_str(&newer).unwrap());
    }
}
