//! How a tensor is sent and received: as its memory by who attaches, as lists by everybody else.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use clutch_protocol::attachment::Content;
use clutch_protocol::dtype::DType;
use clutch_protocol::plain::ATTACHED;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

use super::array::{Memory, Owner, Tensor, wide};
use super::lists::{AsLists, ListsVisitor};
use crate::memory::hand::{self, Enclosure, Offer, Place};

impl Serialize for Tensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        hand::serialize(serializer, || Ok(self.enclosure()), AsLists(self))
    }
}

impl Tensor {
    fn enclosure(&self) -> Enclosure {
        let (offset, bytes) = (self.offset as u64, self.bytes as u64);
        let (place, writable) = match &self.memory {
            Memory::Owned(owner) => {
                let range = self.offset..self.offset + self.bytes;
                (Place::Here(Arc::new(Part { owner: Arc::clone(owner), range })), false)
            }
            Memory::Still(memory) => {
                (Place::Still { memory: Arc::clone(memory), offset, bytes }, false)
            }
            Memory::Shared { memory, writable } => {
                let one = if *writable { &memory.descriptor } else { &memory.reader };
                let (descriptor, size) = (Arc::clone(one), memory.memory.len() as u64);
                (Place::Descriptor { descriptor, size, offset, bytes }, *writable)
            }
        };
        let strides = match self.is_contiguous() {
            true => Vec::new(),
            false => self.strides.iter().map(|s| i64::try_from(*s).unwrap_or(i64::MAX)).collect(),
        };
        let (dtype, shape) = (self.dtype.name().to_owned(), wide(&self.shape));
        Enclosure { content: Content::Array { dtype, shape, strides, writable }, place }
    }
}

/// A part of what somebody owns.
struct Part {
    owner: Arc<dyn Owner>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.owner.bytes()[self.range.clone()]
    }
}

impl<'de> Deserialize<'de> for Tensor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tensor, D::Error> {
        deserializer.deserialize_newtype_struct(ATTACHED, TensorVisitor)
    }
}

struct TensorVisitor;

impl<'de> Visitor<'de> for TensorVisitor {
    type Value = Tensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array, or lists of numbers")
    }

    /// It was attached.
    fn visit_unit<E: Error>(self) -> Result<Tensor, E> {
        let offer = hand::take_offer().ok_or_else(|| E::custom("expected an array, found None"))?;
        received(offer).map_err(|fault| E::custom(format!("the attachment {fault}")))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Tensor, D::Error> {
        inner.deserialize_any(ListsVisitor)
    }
}

fn received(offer: Offer) -> Result<Tensor, String> {
    let Offer { content, memory, offset, bytes } = offer;
    let bytes_shape = [bytes as u64];
    let (dtype, shape, strides, may_write) = match &content {
        Content::Array { dtype, shape, strides, writable } => {
            let known = DType::from_name(dtype).ok_or_else(|| {
                format!(
                    "is an array of {dtype:?}, which Rust has no number for; return it as another \
                     type (`array.astype`, `array.view`)"
                )
            })?;
            (known, &shape[..], &strides[..], *writable)
        }
        Content::Bytes | Content::ByteArray => (DType::U8, &bytes_shape[..], &[][..], false),
        _ => return Err("is no array".into()),
    };
    let memory = match memory {
        hand::Memory::Still(memory) => Memory::Still(memory),
        hand::Memory::Shared(memory) => {
            let writable = may_write && memory.memory.is_writable();
            Memory::Shared { memory, writable }
        }
    };
    let layout = (dtype, shape, strides);
    Tensor::over(layout, memory, (offset, bytes)).map_err(|what| format!("is an array that {what}"))
}
