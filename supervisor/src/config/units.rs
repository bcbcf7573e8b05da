//! Durations (`30s`, `1h30m`) and sizes (`2GiB`, `10MB`) as they are written in the configuration.
//!
//! A number never stands without its unit, 0 included: `0` would have to be explained, `0s` is
//! clear. Numbers are whole; `1.5s` is written `1s500ms`. Ranges are checked by the caller.

use std::time::Duration;

use thiserror::Error;

/// Units of time from the longest to the shortest, in milliseconds.
const TIMES: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size: the powers of 1000, then the powers of 1024.
const SIZES: [(&str, u64); 9] = [
    ("B", 1),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Why a text is no duration; each says what to write instead.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// Nothing is written.
    #[error("the duration is empty: write a number and a unit, like \"30s\"")]
    Empty,
    /// A number stands alone.
    #[error(
        "{number} has no unit: write \"{number}s\" for seconds, \"{number}ms\" for milliseconds"
    )]
    NoUnit {
        /// The number.
        number: String,
    },
    /// A number was expected.
    #[error("\"{found}\" does not start with a whole number: write durations like \"1h30m\"")]
    NoNumber {
        /// What is there.
        found: String,
    },
    /// There is no such unit.
    #[error("\"{unit}\" is no unit of time: the units are d, h, m, s and ms")]
    Unit {
        /// What is there.
        unit: String,
    },
    /// Fractions are not understood.
    #[error("fractions are not understood: write 1.5s as \"1s500ms\" or \"1500ms\"")]
    Fraction,
    /// A unit is named twice, or after a shorter one.
    #[error("\"{unit}\" comes after a shorter or equal unit: write the longest first, \"1h30m\"")]
    Order {
        /// The unit out of place.
        unit: String,
    },
    /// It does not fit.
    #[error("the duration is too long to count: write at most \"8784h\", a year")]
    TooLong,
}

/// Why a text is no size; each says what to write instead.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SizeError {
    /// Nothing is written.
    #[error("the size is empty: write a number and a unit, like \"64MiB\"")]
    Empty,
    /// A number stands alone.
    #[error("{number} has no unit: write \"{number}B\" for bytes, \"{number}MiB\" for mebibytes")]
    NoUnit {
        /// The number.
        number: String,
    },
    /// A number was expected.
    #[error("\"{found}\" does not start with a whole number: write sizes like \"64MiB\"")]
    NoNumber {
        /// What is there.
        found: String,
    },
    /// There is no such unit.
    #[error(
        "\"{unit}\" is no unit of size: write B, KB, MB, GB, TB (powers of 1000) or KiB, \
             MiB, GiB, TiB (powers of 1024)"
    )]
    Unit {
        /// What is there.
        unit: String,
    },
    /// Fractions are not understood.
    #[error("fractions are not understood: write 1.5GiB as \"1536MiB\"")]
    Fraction,
    /// It does not fit.
    #[error("the size is too large to count")]
    TooLarge,
}

/// Reads a duration.
///
/// # Errors
///
/// When it is not made of whole numbers and units, the longest unit first.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(DurationError::Empty);
    }
    let mut total_ms = 0_u64;
    let mut units = TIMES.as_slice();
    while !rest.is_empty() {
        let (number, after) = split_digits(rest);
        if number.is_empty() {
            return Err(DurationError::NoNumber { found: rest.to_owned() });
        }
        let (unit, after) = split_letters(after);
        if unit.is_empty() {
            return Err(if after.starts_with(['.', ',']) {
                DurationError::Fraction
            } else if after.is_empty() {
                DurationError::NoUnit { number: number.to_owned() }
            } else {
                DurationError::Unit { unit: after.to_owned() }
            });
        }
        let factor_ms = match units.iter().position(|(name, _)| *name == unit) {
            Some(at) => {
                let factor_ms = units[at].1;
                units = &units[at + 1..];
                factor_ms
            }
            None if TIMES.iter().any(|(name, _)| *name == unit) => {
                return Err(DurationError::Order { unit: unit.to_owned() });
            }
            None => {
                return Err(DurationError::Unit { unit: unit.to_owned() });
            }
        };
        total_ms = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor_ms))
            .and_then(|ms| total_ms.checked_add(ms))
            .ok_or(DurationError::TooLong)?;
        rest = after;
    }
    Ok(Duration::from_millis(total_ms))
}

/// Reads a size in bytes.
///
/// # Errors
///
/// When it is not a whole number and a unit.
pub fn size(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(SizeError::Empty);
    }
    let (number, unit) = split_digits(text);
    if number.is_empty() {
        return Err(SizeError::NoNumber { found: text.to_owned() });
    }
    if unit.is_empty() {
        return Err(SizeError::NoUnit { number: number.to_owned() });
    }
    if unit.starts_with(['.', ',']) {
        return Err(SizeError::Fraction);
    }
    let factor = SIZES
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .ok_or_else(|| SizeError::Unit { unit: unit.to_owned() })?;
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or(SizeError::TooLarge)
}

/// A duration as one would write it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis();
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, factor_ms) in TIMES {
        let count = rest_ms / u128::from(factor_ms);
        if count > 0 {
            text += &format!("{count}{name}");
            rest_ms %= u128::from(factor_ms);
        }
    }
    text
}

/// A size as one would write it: in the largest unit that leaves no fraction.
pub(crate) fn show_size(bytes: u64) -> String {
    let (name, factor) = SIZES
        .iter()
        .filter(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor))
        .max_by_key(|(_, factor)| *factor)
        .copied()
        .unwrap_or(("B", 1));
    format!("{}{name}", bytes / factor)
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn split_letters(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_alphabetic).count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1s500ms", 1500),
            ("1d", 86_400_000),
            (" 5s ", 5000),
        ] {
            assert_eq!(Ok(Duration::from_millis(ms)), duration(text), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_is_told_what_to_write() {
        let number = |text: &str| text.to_owned();
        let bad = [
            ("", DurationError::Empty),
            ("30", DurationError::NoUnit { number: number("30") }),
            ("0", DurationError::NoUnit { number: number("0") }),
            ("-1s", DurationError::NoNumber { found: number("-1s") }),
            ("soon", DurationError::NoNumber { found: number("soon") }),
            ("30 s", DurationError::Unit { unit: number(" s") }),
            ("30sec", DurationError::Unit { unit: number("sec") }),
            ("5us", DurationError::Unit { unit: number("us") }),
            ("1.5s", DurationError::Fraction),
            ("30m1h", DurationError::Order { unit: number("h") }),
            ("1s1s", DurationError::Order { unit: number("s") }),
            ("99999999999999999999s", DurationError::TooLong),
            ("9999999999999999999d", DurationError::TooLong),
        ];
        for (text, error) in bad {
            assert_eq!(Err(error), duration(text), "{text}");
        }
    }

    #[test]
    fn sizes_are_numbers_with_units() {
        for (text, bytes) in [
            ("0B", 0),
            ("1B", 1),
            ("10MB", 10_000_000),
            ("64MiB", 64 << 20),
            ("2GiB", 2 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(Ok(bytes), size(text), "{text}");
        }
    }

    #[test]
    fn a_bad_size_is_told_what_to_write() {
        let text = |text: &str| text.to_owned();
        let bad = [
            ("", SizeError::Empty),
            ("64", SizeError::NoUnit { number: text("64") }),
            ("-1B", SizeError::NoNumber { found: text("-1B") }),
            ("64M", SizeError::Unit { unit: text("M") }),
            ("64mib", SizeError::Unit { unit: text("mib") }),
            ("64 MiB", SizeError::Unit { unit: text(" MiB") }),
            ("1.5GiB", SizeError::Fraction),
            ("99999999TiB", SizeError::TooLarge),
        ];
        for (text, error) in bad {
            assert_eq!(Err(error), size(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read(ms in 0..=u64::from(u32::MAX), bytes: u64) {
            let time = Duration::from_millis(ms);
            prop_assert_eq!(Ok(time), duration(&show_duration(time)));
            prop_assert_eq!(Ok(bytes), size(&show_size(bytes)));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = (duration(&text), size(&text));
        }
    }
}
