//! How a meta struct becomes bytes and back. The only file that names the serializer.
//!
//! The layout is bincode's `legacy` one: little endian, fixed-width integers, a `u64` length before
//! text and lists, a `u32` index before an enum's fields, one byte before an option. PROTOCOL.md
//! writes it out, and the golden bytes in `testdata/` pin it, so another serializer with the same
//! layout could take its place and no peer would notice.

use thiserror::Error;

use crate::limits::META_BYTES_MAX;

/// The derives that make a struct a meta.
pub use bincode::{Decode, Encode};

/// Fixed integers, and a limit on what a length inside a meta may make the decoder allocate.
const LAYOUT: bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Fixint,
    bincode::config::Limit<{ META_BYTES_MAX as usize }>,
> = bincode::config::legacy().with_limit::<{ META_BYTES_MAX as usize }>();

/// Why bytes are not the meta they should be.
#[derive(Debug, Error)]
pub enum MetaError {
    /// The bytes do not follow the layout.
    #[error("not a valid {what}: {source}")]
    Invalid {
        /// The struct that was expected.
        what: &'static str,
        /// What the serializer says.
        source: bincode::error::DecodeError,
    },
    /// Bytes are left over.
    #[error("{extra} bytes too many behind a {what}")]
    Trailing {
        /// The struct that was expected.
        what: &'static str,
        /// How many bytes are left.
        extra: usize,
    },
    /// What is to be sent is longer than a meta may be.
    #[error("a {what} is longer than the {META_BYTES_MAX} bytes a meta may have")]
    TooLong {
        /// The struct that was to be sent.
        what: &'static str,
    },
}

/// The struct's own name, without its path.
fn name_of<T>() -> &'static str {
    std::any::type_name::<T>().rsplit("::").next().unwrap_or("meta")
}

/// Encodes a meta.
///
/// # Errors
///
/// When it is longer than [`META_BYTES_MAX`].
pub fn encode<T: Encode>(meta: &T) -> Result<Vec<u8>, MetaError> {
    let bytes = bincode::encode_to_vec(meta, LAYOUT)
        .map_err(|_| MetaError::TooLong { what: name_of::<T>() })?;
    if bytes.len() > META_BYTES_MAX as usize {
        return Err(MetaError::TooLong { what: name_of::<T>() });
    }
    Ok(bytes)
}

/// Decodes a meta that must fill `bytes` exactly.
///
/// # Errors
///
/// When the bytes are anything else.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, MetaError> {
    let (meta, used) = decode_prefix(bytes)?;
    if used < bytes.len() {
        return Err(MetaError::Trailing { what: name_of::<T>(), extra: bytes.len() - used });
    }
    Ok(meta)
}

/// Decodes a meta that a newer peer may have made longer, and says how many bytes were used. Only
/// a hello is read this way: it is how versions that do not know each other yet can still talk.
///
/// # Errors
///
/// When the bytes do not start with such a meta.
pub fn decode_prefix<T: Decode<()>>(bytes: &[u8]) -> Result<(T, usize), MetaError> {
    bincode::decode_from_slice(bytes, LAYOUT)
        .map_err(|source| MetaError::Invalid { what: name_of::<T>(), source })
}
