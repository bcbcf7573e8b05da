//! What travels beside a payload: large buffers, ranges of files, streams.
//!
//! A payload with the flag `ATTACHED` is
//!
//! ```text
//!   ┌────────────────────┬───────────────────────────┬─────────────────────────────┐
//!   │ bytes of the table │ the table, as a meta:     │ the value, in the payload's  │
//!   │        u32         │ `Attachments`             │ codec                       │
//!   └────────────────────┴───────────────────────────┴─────────────────────────────┘
//! ```
//!
//! In a value in `plain`, the i-th opcode `NEXT_BUFFER` (0x97) stands for the i-th attachment; each
//! is used once, in the order of the table. In `raw`, the value is the only attachment and there is
//! nothing behind the table. `json` knows none.
//!
//! Buffers are in memory that nobody can shrink: sealed memfds (`F_SEAL_SHRINK` and `F_SEAL_GROW`
//! always; `F_SEAL_WRITE` too for what is passed by value). The daemon looks at the descriptors,
//! never at the table.

use crate::limits::{ATTACHMENTS_MAX, DIMENSIONS_MAX, DTYPE_BYTES_MAX, STREAMS_MAX};
use crate::wire::{self, Decode, Encode, MetaError};
use thiserror::Error;

/// Everything that is attached to one payload, in the order in which the value refers to it.
#[derive(Clone, Debug, Decode, Default, Encode, PartialEq, Eq)]
pub struct Attachments {
    /// The table.
    pub list: Vec<Attachment>,
}

/// One thing that is attached.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub struct Attachment {
    /// Which of the frame's descriptors holds it, from 0; 0 for a stream, which has none.
    pub descriptor: u32,
    /// Where in the descriptor it begins.
    pub offset: u64,
    /// How many bytes it has; 0 for a stream.
    pub bytes: u64,
    /// What it is.
    pub content: Content,
}

/// What an attachment is to the receiver.
#[derive(Clone, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Content {
    /// Bytes that nobody changes: `bytes` in Python.
    Bytes,
    /// A copy of one's own to change: `bytearray` in Python.
    ByteArray,
    /// An array.
    Array {
        /// Its element type as in numpy's array interface: `<f8`, `|u1`, `<M8[ns]`.
        dtype: String,
        /// Its length in each dimension; empty for a scalar.
        shape: Vec<u64>,
        /// Bytes from one element to the next in each dimension; empty for C order.
        strides: Vec<i64>,
        /// Whether the receiver may write into the sender's memory.
        writable: bool,
    },
    /// An Arrow IPC stream: a table.
    Arrow,
    /// A range of a file, of which the receiver takes whole records: those that begin in it.
    Range {
        /// Where records end.
        split: Split,
    },
    /// A row group of a Parquet file.
    RowGroup {
        /// Which, from 0.
        index: u32,
    },
    /// An iterator; its items come as frames.
    Stream {
        /// Its number among the call's streams, from 1.
        stream: u32,
    },
    /// A value that its client put with the daemon before: a payload in `plain`, table and value,
    /// written into memory that nobody can write any more. Its own table counts descriptors from
    /// this attachment's on, and has neither a stream nor another value. It may stand in a table
    /// more than once.
    Value,
}

/// How a file is cut into records.
#[derive(Clone, Copy, Debug, Decode, Encode, PartialEq, Eq)]
pub enum Split {
    /// Anywhere: the range is what it says.
    Bytes,
    /// Behind line feeds: the range starts behind the first one at or after its offset less one,
    /// and ends behind the first one at or after its end less one.
    Lines,
}

/// Why a table of attachments cannot be believed.
#[derive(Debug, Error)]
pub enum AttachmentError {
    /// The payload is shorter than its table.
    #[error("the payload ends inside its table of attachments")]
    Short,
    /// The table is no table.
    #[error("the table of attachments: {0}")]
    Meta(#[from] MetaError),
    /// It is too long.
    #[error("{0} attachments, at most {ATTACHMENTS_MAX} may travel with a payload")]
    TooMany(usize),
    /// One refers to a descriptor that did not come.
    #[error("attachment {index} is in descriptor {descriptor}, and {descriptors} came")]
    Descriptor {
        /// Which attachment.
        index: usize,
        /// What it says.
        descriptor: u32,
        /// How many there are.
        descriptors: usize,
    },
    /// One is not possible.
    #[error("attachment {index} {fault}")]
    Invalid {
        /// Which attachment.
        index: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
}

impl Attachments {
    /// The bytes that go in front of the value.
    ///
    /// # Errors
    ///
    /// When the table is longer than a meta may be.
    pub fn encode(&self) -> Result<Vec<u8>, MetaError> {
        let table = wire::encode(self)?;
        let length = u32::try_from(table.len()).expect("a meta is within its limit");
        Ok([&length.to_le_bytes()[..], &table].concat())
    }

    /// Splits a payload into its table, checked as far as that is possible without looking at the
    /// `descriptors` that came with it, and the value.
    ///
    /// # Errors
    ///
    /// When the table is none, or cannot be true.
    pub fn split(
        payload: &[u8],
        descriptors: usize,
    ) -> Result<(Attachments, &[u8]), AttachmentError> {
        let (length, rest) = payload.split_first_chunk::<4>().ok_or(AttachmentError::Short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (table, value) = rest.split_at_checked(length).ok_or(AttachmentError::Short)?;
        let table: Attachments = wire::decode(table)?;
        if table.list.len() > ATTACHMENTS_MAX {
            return Err(AttachmentError::TooMany(table.list.len()));
        }
        for (index, attachment) in table.list.iter().enumerate() {
            let has_descriptor = !matches!(attachment.content, Content::Stream { .. });
            if has_descriptor && attachment.descriptor as usize >= descriptors {
                let descriptor = attachment.descriptor;
                return Err(AttachmentError::Descriptor { index, descriptor, descriptors });
            }
            if let Some(fault) = attachment.fault() {
                return Err(AttachmentError::Invalid { index, fault });
            }
        }
        Ok((table, value))
    }
}

impl Attachment {
    /// The first byte behind it.
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.bytes)
    }

    fn fault(&self) -> Option<&'static str> {
        if self.end().is_none_or(|end| i64::try_from(end).is_err()) {
            return Some("ends behind the end of any file");
        }
        match &self.content {
            Content::Array { dtype, shape, strides, .. } => array_fault(dtype, shape, strides),
            Content::Stream { stream } if *stream == 0 || *stream >= STREAMS_MAX => {
                Some("is a stream whose number cannot be")
            }
            _ => None,
        }
    }
}

/// What is wrong with a description of an array. Whether its elements fit its bytes depends on the
/// element type, and is checked by who knows it.
fn array_fault(dtype: &str, shape: &[u64], strides: &[i64]) -> Option<&'static str> {
    if dtype.is_empty() || dtype.len() > DTYPE_BYTES_MAX {
        return Some("is an array whose element type has no name");
    }
    if shape.len() > DIMENSIONS_MAX {
        return Some("is an array of too many dimensions");
    }
    if !strides.is_empty() && strides.len() != shape.len() {
        return Some("is an array with a stride too many or too few");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(descriptor: u32) -> Attachment {
        let content = Content::Array {
            dtype: "<f8".into(),
            shape: vec![2, 3],
            strides: Vec::new(),
            writable: false,
        };
        Attachment { descriptor, offset: 64, bytes: 48, content }
    }

    #[test]
    fn a_table_is_split_from_its_value() {
        let table = Attachments { list: vec![array(0), array(1)] };
        let mut payload = table.encode().unwrap();
        payload.extend_from_slice(b"value");
        let (read, value) = Attachments::split(&payload, 2).unwrap();
        assert_eq!((&table, &b"value"[..]), (&read, value));
        assert!(matches!(
            Attachments::split(&payload, 1),
            Err(AttachmentError::Descriptor { index: 1, descriptor: 1, descriptors: 1 })
        ));
        assert!(matches!(Attachments::split(&payload[..40], 2), Err(AttachmentError::Short)));
        assert!(matches!(Attachments::split(&[1, 0, 0], 2), Err(AttachmentError::Short)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let invalid = |attachment: Attachment| {
            let payload = Attachments { list: vec![attachment] }.encode().unwrap();
            matches!(Attachments::split(&payload, 1), Err(AttachmentError::Invalid { .. }))
        };
        assert!(!invalid(array(0)));
        assert!(invalid(Attachment { offset: u64::MAX, ..array(0) }));
        assert!(invalid(Attachment { offset: i64::MAX as u64, ..array(0) }));
        let shaped = |dtype: &str, shape: Vec<u64>, strides: Vec<i64>| {
            let content = Content::Array { dtype: dtype.into(), shape, strides, writable: false };
            Attachment { content, ..array(0) }
        };
        assert!(!invalid(shaped("<f8", vec![6], vec![8])));
        assert!(invalid(shaped("", vec![6], vec![8])));
        assert!(invalid(shaped("<f8", vec![6], vec![8, 8])));
        assert!(invalid(shaped("<f8", vec![1; 33], vec![])));
        for (stream, bad) in [(0, true), (1, false), (63, false), (64, true)] {
            let content = Content::Stream { stream };
            assert_eq!(bad, invalid(Attachment { content, ..array(0) }), "{stream}");
        }
        let list = vec![array(0); ATTACHMENTS_MAX + 1];
        let payload = Attachments { list }.encode().unwrap();
        assert!(matches!(Attachments::split(&payload, 1), Err(AttachmentError::TooMany(_))));
    }
}
