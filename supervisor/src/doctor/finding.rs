//! What a check says, in the form that machines read: the field names here are a contract.

use serde::{Deserialize, Serialize};

/// How a check ended, from good to bad.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing is wrong.
    Ok,
    /// It could not be looked at, or does not apply here.
    Skipped,
    /// It works, and may surprise.
    Warn,
    /// It does not work.
    Fail,
}

impl Status {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Skipped => "skipped",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The pool it is about; none for what concerns the machine.
    pub pool: Option<String>,
    /// Which check: a word that never changes its meaning.
    pub check: &'static str,
    /// What of several things it looked at: a module, a start method.
    pub subject: Option<String>,
    /// How it ended.
    pub status: Status,
    /// What was found, in one line.
    pub text: String,
    /// What to do about it; empty when there is nothing to do.
    pub advice: String,
    /// All there is to know: a traceback, a stack. Empty when there is no more.
    pub detail: String,
    /// How long what was loaded, called or started took, in milliseconds.
    pub time_ms: Option<u64>,
    /// How much memory what was loaded or called took, in bytes.
    pub memory_bytes: Option<u64>,
}

impl Finding {
    /// A finding without anything but its sentences. Every one that is not good says what to do.
    pub fn new(
        check: &'static str,
        status: Status,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Finding {
        let (text, advice) = (text.into(), advice.into());
        assert!(status <= Status::Skipped || !advice.is_empty(), "{check}: {text}");
        Finding {
            pool: None,
            check,
            subject: None,
            status,
            text,
            advice,
            detail: String::new(),
            time_ms: None,
            memory_bytes: None,
        }
    }

    /// One where nothing is wrong.
    pub fn ok(check: &'static str, text: impl Into<String>) -> Finding {
        Finding::new(check, Status::Ok, text, "")
    }

    /// The same, about a pool.
    #[must_use]
    pub fn of(self, pool: &str) -> Finding {
        Finding { pool: Some(pool.to_owned()), ..self }
    }

    /// The same, with all there is to know.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Finding {
        Finding { detail: detail.into(), ..self }
    }

    /// The check and what it looked at: `import numpy`, `multiprocessing spawn`.
    pub fn title(&self) -> String {
        match &self.subject {
            Some(subject) => format!("{} {subject}", self.check),
            None => self.check.to_owned(),
        }
    }
}

/// The worst of all; good when there is none.
pub fn worst<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Status {
    findings.into_iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts_and_what_was_skipped_is_no_fault() {
        let of = |status| Finding::new("clock", status, "x", "y");
        assert_eq!(Status::Ok, worst(&[]));
        assert_eq!(Status::Fail, worst(&[of(Status::Warn), of(Status::Fail), of(Status::Ok)]));
        assert!(Status::Skipped < Status::Warn);
        assert_eq!(r#""warn""#, serde_json::to_string(&Status::Warn).unwrap());
    }
}
