//! The grammar of names: functions, pools and exceptions.
//!
//! A name is checked before it is looked up anywhere, so nothing behind this file ever sees a NUL,
//! a newline, a path or a shell's special characters in one.

use std::fmt;

use thiserror::Error;

use crate::limits::{FUNCTION_NAME_BYTES_MAX, POOL_NAME_BYTES_MAX, RETRY_NAME_BYTES_MAX};

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// It is empty.
    #[error("the name is empty")]
    Empty,
    /// It is too long.
    #[error("the name has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// A function without its module.
    #[error("a function is named MODULE:QUALNAME, like math:sqrt or pkg.mod:Class.method")]
    NoModule,
    /// A part between dots or the colon is no Python identifier.
    #[error("the part {0} is not a Python identifier")]
    NotIdentifier(Part),
    /// A pool name holds something else than letters, digits, `_`, `.` and `-`.
    #[error(
        "a pool name holds only letters, digits, '_', '.' and '-', and starts with no '-' or '.'"
    )]
    PoolCharacter,
}

/// Which dotted part of a name is meant, counted from 1, left to right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part(pub u16);

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Checks a function's name, `module:qualname`, and gives its two halves.
///
/// # Errors
///
/// When it is anything else than dotted identifiers around one colon.
pub fn check_function(name: &str) -> Result<(&str, &str), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > FUNCTION_NAME_BYTES_MAX {
        return Err(NameError::TooLong { length: name.len(), limit: FUNCTION_NAME_BYTES_MAX });
    }
    let (module, qualname) = name.split_once(':').ok_or(NameError::NoModule)?;
    for (index, part) in module.split('.').chain(qualname.split('.')).enumerate() {
        if !is_identifier(part) {
            let index = u16::try_from(index + 1).expect("a name has fewer parts than bytes");
            return Err(NameError::NotIdentifier(Part(index)));
        }
    }
    Ok((module, qualname))
}

/// Checks a pool's name.
///
/// # Errors
///
/// When it is empty, too long, or not made of letters, digits, `_`, `.` and `-`.
pub fn check_pool(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > POOL_NAME_BYTES_MAX {
        return Err(NameError::TooLong { length: name.len(), limit: POOL_NAME_BYTES_MAX });
    }
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-');
    if !name.bytes().all(plain) || name.starts_with(['-', '.']) {
        return Err(NameError::PoolCharacter);
    }
    Ok(())
}

/// Checks the name of an exception's type, as Python prints it: `KeyError`, `pkg.mod.Transient`,
/// `mod.make.<locals>.Local`.
///
/// # Errors
///
/// When it is anything else than dotted identifiers.
pub fn check_exception(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > RETRY_NAME_BYTES_MAX {
        return Err(NameError::TooLong { length: name.len(), limit: RETRY_NAME_BYTES_MAX });
    }
    let mut parts = (1..).zip(name.split('.'));
    match parts.find(|(_, part)| !is_identifier(part) && *part != "<locals>") {
        Some((index, _)) => Err(NameError::NotIdentifier(Part(index))),
        None => Ok(()),
    }
}

/// Close to Python's own rule (XID_Start, then XID_Continue): a letter or `_`, then letters,
/// digits and `_`. What passes here and is no identifier after all is simply not found.
fn is_identifier(part: &str) -> bool {
    let mut chars = part.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_module_colon_qualname() {
        assert_eq!(Ok(("pkg.mod", "Class.method")), check_function("pkg.mod:Class.method"));
        assert_eq!(Ok(("__main__", "größe")), check_function("__main__:größe"));
    }

    #[test]
    fn what_could_reach_a_shell_a_path_or_a_log_is_refused_f083_f167() {
        let long = "a".repeat(FUNCTION_NAME_BYTES_MAX) + ":b";
        let bad = [
            "",
            "math",
            "math.sqrt",
            ":",
            "a:",
            ":b",
            "a:b:c",
            "a b:c",
            "a:b\n",
            "a\0:b",
            "../x:y",
            "--help",
            "-c",
            "a:-c",
            ";id",
            "$(id)",
            "a:b;id",
            "a..b:c",
            "a:b.",
            "1a:b",
            "a:<lambda>",
            long.as_str(),
        ];
        for name in bad {
            assert!(check_function(name).is_err(), "{name:?}");
        }
        for name in [
            "",
            "--help",
            "-c",
            ";id",
            "$(id)",
            "a\nb",
            "a\0",
            "../x",
            ".hidden",
            "a b",
            &"p".repeat(65),
        ] {
            assert!(check_pool(name).is_err(), "{name:?}");
        }
        for name in ["default", "cpu-3.12", "a_b", "9"] {
            assert!(check_pool(name).is_ok(), "{name:?}");
        }
    }
}
