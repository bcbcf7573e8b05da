//! What came beside a value, as a part of it.

use serde::de::{Unexpected, Visitor};

use super::super::array::Array;
use super::super::attach::Attached;
use super::super::error::{Error, ErrorKind};
use super::Deserializer;
use crate::attachment::Content;

impl<'de> Deserializer<'_, 'de> {
    /// What is attached.
    pub(super) fn attached(self, index: u32) -> (&'de dyn Attached, usize) {
        let attached = self.tape.attached.expect("the tape refers to none if there are none");
        (attached, index as usize)
    }

    #[cold]
    pub(super) fn unexpected(self, index: u32) -> Unexpected<'de> {
        let (attached, index) = self.attached(index);
        Unexpected::Other(match attached.content(index) {
            Content::Bytes => "bytes",
            Content::ByteArray => "bytearray",
            Content::Array { .. } => "array",
            Content::Arrow => "Arrow table",
            Content::Range { .. } | Content::RowGroup { .. } => "part of a file",
            Content::Stream { .. } => "stream",
            Content::Value => "value that is kept",
        })
    }

    /// The bytes of what is attached, if bytes is what it is.
    pub(in super::super) fn attached_bytes(self, index: u32) -> Result<Option<&'de [u8]>, Error> {
        let (attached, index) = self.attached(index);
        let is_bytes =
            matches!(attached.content(index), Content::Bytes | Content::ByteArray | Content::Arrow);
        if !is_bytes {
            return Ok(None);
        }
        attached.bytes(index).map(Some).map_err(attachment)
    }

    pub(in super::super) fn is_byte_array(self, index: u32) -> bool {
        let (attached, index) = self.attached(index);
        matches!(attached.content(index), Content::ByteArray)
    }

    /// What is attached, as what it says it is.
    pub(super) fn visit_attached<V: Visitor<'de>>(
        self,
        index: u32,
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Some(bytes) = self.attached_bytes(index)? {
            return visitor.visit_borrowed_bytes(bytes);
        }
        let (attached, index) = self.attached(index);
        let Content::Array { dtype, shape, strides, .. } = attached.content(index) else {
            return Err(self.unfit(&visitor));
        };
        let bytes = attached.bytes(index).map_err(attachment)?;
        Array::new(dtype, shape, strides, bytes)?.visit(visitor)
    }
}

#[cold]
fn attachment(fault: &'static str) -> Error {
    ErrorKind::Attachment { fault: fault.into() }.into()
}
