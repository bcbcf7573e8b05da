//! One line of the output store, and how it is shown.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clutch_protocol::logs::{LogLine, LogStream};
use clutch_protocol::message::{Stream, WorkerId};

use crate::worker::output::escape;

/// What an entry takes beside its text: the struct, the ring's slot and the text's allocation.
const OVERHEAD_BYTES: usize = 112;

/// What a record takes besides, beside its names: the struct, its two counts and the allocations of
/// the names.
const LOGGER_OVERHEAD_BYTES: usize = size_of::<Logger>() + 48;

/// Something a worker printed or logged, as it came.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place among the lines of all pools.
    pub order: u64,
    /// When it came, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who said it.
    pub worker: WorkerId,
    /// The call that ran then; 0 for none.
    pub call: u64,
    /// How it was said.
    pub source: Source,
    /// What was said: any bytes.
    pub text: Bytes,
}

/// How something was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Printed.
    Printed(Stream),
    /// Logged.
    Logged(Arc<Logger>),
    /// A remark of the daemon's own.
    Daemon,
}

/// Where in Python's `logging` a record came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logger {
    /// The level's name.
    pub level: String,
    /// The logger's name.
    pub name: String,
}

impl Entry {
    /// The bytes it takes.
    pub fn cost_bytes(&self) -> usize {
        let logger_bytes = match &self.source {
            Source::Logged(logger) => {
                LOGGER_OVERHEAD_BYTES + logger.level.len() + logger.name.len()
            }
            Source::Printed(_) | Source::Daemon => 0,
        };
        self.text.len() + logger_bytes + OVERHEAD_BYTES
    }

    /// The line as it is shown.
    pub fn show(&self, pool: &str) -> LogLine {
        let (stream, logger) = match &self.source {
            Source::Printed(Stream::Stdout) => (LogStream::Stdout, None),
            Source::Printed(Stream::Stderr) => (LogStream::Stderr, None),
            Source::Logged(logger) => (LogStream::Log, Some(logger)),
            Source::Daemon => (LogStream::Daemon, None),
        };
        let name = |text: &str| escape(text.as_bytes());
        LogLine {
            time: rfc3339(self.at_ms),
            pool: pool.to_owned(),
            worker: self.worker,
            call: self.call,
            stream,
            level: logger.map(|logger| name(&logger.level)),
            logger: logger.map(|logger| name(&logger.name)),
            text: match stream {
                LogStream::Log => self
                    .text
                    .split(|byte| *byte == b'\n')
                    .map(escape)
                    .collect::<Vec<_>>()
                    .join("\n"),
                _ => escape(&self.text),
            },
        }
    }
}

/// The wall clock, in milliseconds since 1970.
pub fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time as people and programs read it: `2026-11-23T12:03:04.123Z`.
pub fn rfc3339(at_ms: u64) -> String {
    let (days, ms) = (at_ms / 86_400_000, at_ms % 86_400_000);
    let (year, month, day) = date(days);
    let (hour, minute) = (ms / 3_600_000, ms / 60_000 % 60);
    let (second, ms) = (ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// The date `days` days after 1970-01-01, by the calendar of eras of 400 years that start in March,
/// so that the leap day is the last day of a year.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(text, rfc3339(ms));
        }
    }

    #[test]
    fn the_names_of_a_record_are_counted_f137() {
        let mut entry = Entry {
            order: 1,
            at_ms: 0,
            worker: WorkerId { slot: 0, generation: 1 },
            call: 0,
            source: Source::Printed(Stream::Stdout),
            text: Bytes::from_static(b"text"),
        };
        let printed = entry.cost_bytes();
        let logger = Logger { level: "L".repeat(512), name: "n".repeat(500) };
        entry.source = Source::Logged(Arc::new(logger));
        let names_and_struct = 512 + 500 + size_of::<Logger>();
        assert!(entry.cost_bytes() >= printed + names_and_struct, "{}", entry.cost_bytes());
    }

    #[test]
    fn a_line_is_shown_without_control_characters_f170() {
        let logger = Logger { level: "IN\x1bFO".into(), name: "a\nb".into() };
        let mut entry = Entry {
            order: 1,
            at_ms: 0,
            worker: WorkerId { slot: 0, generation: 1 },
            call: 7,
            source: Source::Printed(Stream::Stderr),
            text: Bytes::from_static(b"a\n\x1b[2Jb\xff"),
        };
        assert_eq!("a\\n\\x1b[2Jb\u{fffd}", entry.show("p").text);
        entry.source = Source::Logged(Arc::new(logger));
        let shown = entry.show("p");
        assert_eq!("a\n\\x1b[2Jb\u{fffd}", shown.text);
        assert_eq!((Some("IN\\x1bFO"), Some("a\\nb")), {
            (shown.level.as_deref(), shown.logger.as_deref())
        });
    }
}
