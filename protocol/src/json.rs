//! The `json` codec: standard JSON in UTF-8, and nothing that JSON has no word for.
//!
//! `serde_json` writes `null` for NaN and a list of numbers for bytes: the other side would then
//! compute with something else than what was sent. So a value is walked once before it is written,
//! and what would not arrive as it is, is refused with the place where it is.

mod check;

use serde::{Deserialize, Serialize};
use thiserror::Error as ThisError;

use crate::path::Path;

/// Why a value cannot be JSON, or JSON not the value that was asked for.
#[derive(Debug, ThisError)]
pub enum Error {
    /// A part of the value that JSON has no word for.
    #[error("value{path}: JSON cannot hold {what}; {}", what.remedy())]
    Unfit {
        /// Where it is.
        path: Path,
        /// What it is.
        what: Unfit,
    },
    /// The value nests too deep.
    #[error("value{path}: the value nests deeper than {limit} levels; flatten it")]
    TooDeep {
        /// Where that is.
        path: Path,
        /// How deep it may nest.
        limit: usize,
    },
    /// The text is no JSON, or not what the Rust type takes; or a type's own code says no.
    #[error("{0}")]
    Invalid(#[from] serde_json::Error),
    /// The value's own `Serialize` fails.
    #[error("value{path}: {message}")]
    Custom {
        /// Where that is.
        path: Path,
        /// What it says.
        message: String,
    },
}

/// What JSON has no word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ThisError)]
pub enum Unfit {
    /// Not a number.
    #[error("NaN")]
    NotANumber,
    /// An infinity.
    #[error("an infinite float")]
    Infinite,
    /// Bytes, or a bytearray.
    #[error("bytes")]
    Bytes,
    /// A set, or a frozenset.
    #[error("a set")]
    Set,
    /// An integer of more than 128 bits.
    #[error("an int of more than 128 bits")]
    BigInt,
    /// A key that is neither text nor a number.
    #[error("a key that is no text")]
    Key,
}

impl Unfit {
    /// What to send instead.
    const fn remedy(self) -> &'static str {
        match self {
            Unfit::NotANumber | Unfit::Infinite => "send null or text, or use the plain codec",
            Unfit::Bytes => "send text (base64), or use the plain codec",
            Unfit::Set => "send a list, or use the plain codec",
            Unfit::BigInt => "send text, or use the plain codec",
            Unfit::Key => "send a list of pairs, or use the plain codec",
        }
    }
}

/// Writes a value as JSON.
///
/// # Errors
///
/// When a part of it would not arrive as it is: NaN, infinities, bytes, sets, keys that are no
/// text; when it nests too deep; when its own `Serialize` fails.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    check::check(value)?;
    Ok(serde_json::to_vec(value)?)
}

/// Reads a value from JSON text, which must hold nothing else and nest at most 127 levels.
///
/// Integers of more than 64 bits need a type that names them (`i128`): serde would hand a
/// [`Value`](crate::Value) the nearest float.
///
/// # Errors
///
/// When the text is not JSON, or holds something `T` does not take.
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Error> {
    Ok(serde_json::from_slice(bytes)?)
}
