//! An attached array as serde sees it when it is not taken as a whole: a list of lists of numbers.

use serde::de::{DeserializeSeed, SeqAccess, Visitor};

use super::error::{Error, ErrorKind};
use crate::dtype::{DType, c_strides, check_layout};
use crate::path::Step;

/// A checked array over bytes.
#[derive(Debug)]
pub(super) struct Array<'a> {
    dtype: DType,
    shape: &'a [u64],
    strides: Vec<i64>,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    pub(super) fn new(
        dtype: &str,
        shape: &'a [u64],
        strides: &'a [i64],
        bytes: &'a [u8],
    ) -> Result<Array<'a>, Error> {
        let fault = |fault: String| Error::from(ErrorKind::Attachment { fault });
        let known = DType::from_name(dtype).ok_or_else(|| {
            fault(format!(
                "is an array of {dtype:?}, which Rust has no number for; send it as another type \
                 (`array.astype`, `array.view`)"
            ))
        })?;
        check_layout(known.item_bytes(), shape, strides, bytes.len() as u64)
            .map_err(|what| fault(format!("is an array that {what}")))?;
        let strides = match strides {
            // No step leads to an element, wherever it leads.
            _ if shape.contains(&0) => vec![0; shape.len()],
            [] => c_strides(known.item_bytes(), shape),
            strides => strides.to_vec(),
        };
        Ok(Array { dtype: known, shape, strides, bytes })
    }

    /// Gives a visitor the list, or the number of an array without dimensions.
    pub(super) fn visit<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, Error> {
        Part { array: self, dimension: 0, at: 0 }.visit(visitor)
    }

    fn chunk<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.bytes[at..].first_chunk().expect("the layout was checked")
    }
}

/// Some dimensions of an array, from the element at byte `at`.
#[derive(Clone, Copy)]
struct Part<'a> {
    array: &'a Array<'a>,
    dimension: usize,
    at: usize,
}

impl Part<'_> {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Part { array, dimension, at } = self;
        if dimension < array.shape.len() {
            let mut items = Items { part: self, index: 0 };
            let value = visitor.visit_seq(&mut items)?;
            return match items.left() {
                0 => Ok(value),
                left => {
                    let length = usize::try_from(array.shape[dimension]).unwrap_or(usize::MAX);
                    let expected = format!("{} items", length as u64 - left);
                    Err(ErrorKind::Length { expected, length }.into())
                }
            };
        }
        match array.dtype {
            DType::Bool => visitor.visit_bool(array.bytes[at] != 0),
            DType::I8 => visitor.visit_i8(i8::from_le_bytes(array.chunk(at))),
            DType::I16 => visitor.visit_i16(i16::from_le_bytes(array.chunk(at))),
            DType::I32 => visitor.visit_i32(i32::from_le_bytes(array.chunk(at))),
            DType::I64 => visitor.visit_i64(i64::from_le_bytes(array.chunk(at))),
            DType::U8 => visitor.visit_u8(array.bytes[at]),
            DType::U16 => visitor.visit_u16(u16::from_le_bytes(array.chunk(at))),
            DType::U32 => visitor.visit_u32(u32::from_le_bytes(array.chunk(at))),
            DType::U64 => visitor.visit_u64(u64::from_le_bytes(array.chunk(at))),
            DType::F16 => visitor.visit_f32(widened(u16::from_le_bytes(array.chunk(at)))),
            DType::F32 => visitor.visit_f32(f32::from_le_bytes(array.chunk(at))),
            DType::F64 => visitor.visit_f64(f64::from_le_bytes(array.chunk(at))),
            DType::C64 => {
                let part = |at| f64::from(f32::from_le_bytes(array.chunk(at)));
                visit_complex(visitor, [part(at), part(at + 4)])
            }
            DType::C128 => {
                let part = |at| f64::from_le_bytes(array.chunk(at));
                visit_complex(visitor, [part(at), part(at + 8)])
            }
        }
    }
}

/// A complex number is its two parts.
fn visit_complex<'de, V: Visitor<'de>>(visitor: V, parts: [f64; 2]) -> Result<V::Value, Error> {
    visitor.visit_seq(serde::de::value::SeqDeserializer::new(parts.into_iter()))
}

/// A `float16` as the `f32` that is the same number.
pub fn widened(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    match (exponent, fraction) {
        // Too small for an exponent: so many of the smallest step, 2^-24, which is exact.
        (0, _) => {
            let magnitude = f32::from(half & 0x3ff) / 16_777_216.0;
            f32::from_bits(magnitude.to_bits() | sign)
        }
        (0x1f, _) => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        (_, _) => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

impl<'de> serde::Deserializer<'de> for Part<'_> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let is_number = self.dimension == self.array.shape.len();
        if is_number && self.array.dtype == DType::F64 {
            // serde's own `f32` would take what is beyond its range for infinite.
            super::de::check_f32(f64::from_le_bytes(self.array.chunk(self.at)), &visitor)?;
        }
        self.visit(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The items of one dimension.
struct Items<'a> {
    part: Part<'a>,
    index: u64,
}

impl Items<'_> {
    fn left(&self) -> u64 {
        self.part.array.shape[self.part.dimension] - self.index
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if self.left() == 0 {
            return Ok(None);
        }
        let Part { array, dimension, at } = self.part;
        let index = usize::try_from(self.index).expect("the layout was checked");
        match seed.deserialize(Part { array, dimension: dimension + 1, at }) {
            Ok(value) => {
                self.index += 1;
                if self.left() > 0 {
                    let stride = usize::try_from(array.strides[dimension]);
                    self.part.at += stride.expect("the layout was checked");
                }
                Ok(Some(value))
            }
            Err(error) => Err(error.inside(Step::Index(index))),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        usize::try_from(self.left()).ok()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[test]
    fn an_array_without_elements_is_empty_lists() {
        let lists = |shape: &[u64], strides: &[i64]| {
            let array = Array::new("<f8", shape, strides, &[])?;
            Vec::<Vec<f64>>::deserialize(Part { array: &array, dimension: 0, at: 0 })
        };
        assert_eq!(vec![Vec::<f64>::new(); 3], lists(&[3, 0], &[-8, 8]).unwrap());
        assert_eq!(vec![Vec::<f64>::new(); 3], lists(&[3, 0], &[i64::MAX, 8]).unwrap());
        assert_eq!(vec![Vec::<f64>::new(); 3], lists(&[3, 0, 1 << 62], &[]).unwrap());
        assert!(lists(&[0, 5], &[]).unwrap().is_empty());
        assert!(lists(&[1 << 60, 0], &[]).is_err());
    }

    #[test]
    fn every_half_is_the_number_ieee_says() {
        let samples: [(u16, f32); 9] = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x3555, 0.333_251_95),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (half, float) in samples {
            assert_eq!(float, widened(half), "{half:#06x}");
        }
        assert!(widened(0x7e00).is_nan() && widened(0x8000).is_sign_negative());
    }
}
