//! A tensor as lists of lists of numbers, where it cannot be attached; and such lists as a tensor.

use std::fmt;

use clutch_protocol::dtype::DType;
use clutch_protocol::limits::DIMENSIONS_MAX;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq as _, Serializer};

use super::array::Tensor;
use super::number::Number;

/// A tensor that is written as lists.
pub(super) struct AsLists<'a>(pub(super) &'a Tensor);

impl Serialize for AsLists<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.bytes_in_order();
        let Tensor { dtype, shape, .. } = self.0;
        Part { dtype: *dtype, shape, bytes: &bytes }.serialize(serializer)
    }
}

/// Some dimensions of it, in C order.
struct Part<'a> {
    dtype: DType,
    shape: &'a [usize],
    bytes: &'a [u8],
}

impl Serialize for Part<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some((length, shape)) = self.shape.split_first() else {
            return match Number::read(self.dtype, self.bytes) {
                Number::Bool(bool) => serializer.serialize_bool(bool),
                Number::Int(int) => match i64::try_from(int) {
                    Ok(int) => serializer.serialize_i64(int),
                    Err(_) => serializer.serialize_i128(int),
                },
                Number::Float(float) => serializer.serialize_f64(float),
                Number::Complex(parts) => parts.serialize(serializer),
            };
        };
        let mut list = serializer.serialize_seq(Some(*length))?;
        let step = self.bytes.len() / (*length).max(1);
        for index in 0..*length {
            let bytes = &self.bytes[index * step..(index + 1) * step];
            list.serialize_element(&Part { dtype: self.dtype, shape, bytes })?;
        }
        list.end()
    }
}

/// Takes lists, one number or bytes.
pub(super) struct ListsVisitor;

impl<'de> Visitor<'de> for ListsVisitor {
    type Value = Tensor;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array, or lists of numbers")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Tensor, E> {
        Ok(bytes.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Tensor, A::Error> {
        let mut lists = Lists::default();
        Level { lists: &mut lists, depth: 0 }.visit_seq(items)?;
        lists.finish()
    }

    fn visit_bool<E: serde::de::Error>(self, bool: bool) -> Result<Tensor, E> {
        single(Number::Bool(bool))
    }

    fn visit_i64<E: serde::de::Error>(self, int: i64) -> Result<Tensor, E> {
        single(Number::Int(int.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, int: u64) -> Result<Tensor, E> {
        single(Number::Int(int.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, float: f64) -> Result<Tensor, E> {
        single(Number::Float(float))
    }
}

fn single<E: serde::de::Error>(number: Number) -> Result<Tensor, E> {
    let mut lists = Lists::default();
    lists.push(number, 0)?;
    lists.finish()
}

/// Lists that have been read so far.
#[derive(Default)]
struct Lists {
    /// How many dimensions there are, once a number or an empty list has said so.
    dimensions: Option<usize>,
    /// The length of the first list of each dimension.
    lengths: [Option<usize>; DIMENSIONS_MAX],
    numbers: Numbers,
}

/// The numbers in the narrowest of numpy's default types that holds all of them.
enum Numbers {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Unsigned(Vec<u64>),
    Float(Vec<f64>),
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers::Bool(Vec::new())
    }
}

const RAGGED: &str = "lists of different lengths or depths are no array";

impl Lists {
    fn push<E: serde::de::Error>(&mut self, number: Number, depth: usize) -> Result<(), E> {
        if *self.dimensions.get_or_insert(depth) != depth {
            return Err(E::custom(RAGGED));
        }
        self.numbers.push(number).map_err(E::custom)
    }

    /// A list of a dimension has ended.
    fn close<E: serde::de::Error>(&mut self, depth: usize, length: usize) -> Result<(), E> {
        let is_deep_enough = match self.dimensions {
            None => {
                self.dimensions = Some(depth + 1);
                true
            }
            Some(dimensions) => depth < dimensions,
        };
        if !is_deep_enough || *self.lengths[depth].get_or_insert(length) != length {
            return Err(E::custom(RAGGED));
        }
        Ok(())
    }

    fn finish<E: serde::de::Error>(self) -> Result<Tensor, E> {
        let dimensions = self.dimensions.unwrap_or(0);
        let shape: Vec<usize> =
            self.lengths[..dimensions].iter().map(|length| length.unwrap_or(0)).collect();
        let made = match self.numbers {
            // numpy's type for no numbers at all.
            Numbers::Bool(none) if none.is_empty() => Tensor::from_shape(&shape, Vec::<f64>::new()),
            Numbers::Bool(numbers) => Tensor::from_shape(&shape, numbers),
            Numbers::Int(numbers) => Tensor::from_shape(&shape, numbers),
            Numbers::Unsigned(numbers) => Tensor::from_shape(&shape, numbers),
            Numbers::Float(numbers) => Tensor::from_shape(&shape, numbers),
        };
        made.map_err(E::custom)
    }
}

impl Numbers {
    fn push(&mut self, number: Number) -> Result<(), &'static str> {
        loop {
            match (&mut *self, number) {
                (Numbers::Bool(all), Number::Bool(bool)) => all.push(bool),
                (Numbers::Int(all), Number::Bool(bool)) => all.push(bool.into()),
                (Numbers::Unsigned(all), Number::Bool(bool)) => all.push(bool.into()),
                (Numbers::Float(all), Number::Bool(bool)) => all.push(u8::from(bool).into()),
                (Numbers::Int(all), Number::Int(int)) if i64::try_from(int).is_ok() => {
                    all.push(i64::try_from(int).expect("it was just tried"));
                }
                (Numbers::Unsigned(all), Number::Int(int)) if u64::try_from(int).is_ok() => {
                    all.push(u64::try_from(int).expect("it was just tried"));
                }
                #[expect(clippy::cast_precision_loss, reason = "numpy does the same")]
                (Numbers::Float(all), Number::Int(int)) => all.push(int as f64),
                (Numbers::Float(all), Number::Float(float)) => all.push(float),
                (_, Number::Complex(_)) => return Err("a complex number is no list's item"),
                (_, _) => {
                    self.widen(number);
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Goes to a type that holds what there is and, in the end, the number too.
    #[expect(clippy::cast_precision_loss, reason = "numpy does the same")]
    fn widen(&mut self, number: Number) {
        let is_large = matches!(number, Number::Int(int) if int > i64::MAX.into());
        *self = match std::mem::take(self) {
            Numbers::Bool(all) if is_large => {
                Numbers::Unsigned(all.into_iter().map(u64::from).collect())
            }
            Numbers::Bool(all) => Numbers::Int(all.into_iter().map(i64::from).collect()),
            Numbers::Int(all) if is_large && all.iter().all(|int| *int >= 0) => {
                Numbers::Unsigned(all.into_iter().map(i64::unsigned_abs).collect())
            }
            Numbers::Int(all) => Numbers::Float(all.into_iter().map(|int| int as f64).collect()),
            Numbers::Unsigned(all) => {
                Numbers::Float(all.into_iter().map(|int| int as f64).collect())
            }
            Numbers::Float(all) => Numbers::Float(all),
        };
    }
}

/// An item at some depth: a number, or a list of them.
struct Level<'a> {
    lists: &'a mut Lists,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, or a list of numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Level { lists, depth } = self;
        if depth >= DIMENSIONS_MAX {
            return Err(A::Error::custom("lists nest deeper than an array has dimensions"));
        }
        let mut length = 0;
        while items.next_element_seed(Level { lists: &mut *lists, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        lists.close(depth, length)
    }

    fn visit_bool<E: serde::de::Error>(self, bool: bool) -> Result<(), E> {
        self.lists.push(Number::Bool(bool), self.depth)
    }

    fn visit_i64<E: serde::de::Error>(self, int: i64) -> Result<(), E> {
        self.lists.push(Number::Int(int.into()), self.depth)
    }

    fn visit_u64<E: serde::de::Error>(self, int: u64) -> Result<(), E> {
        self.lists.push(Number::Int(int.into()), self.depth)
    }

    fn visit_f64<E: serde::de::Error>(self, float: f64) -> Result<(), E> {
        self.lists.push(Number::Float(float), self.depth)
    }
}
