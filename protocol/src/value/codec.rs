//! How a value speaks serde: exactly with `plain`, as near as possible with every other format.

use std::fmt;

use serde::de::{
    Deserialize, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess,
};
use serde::de::{Visitor, value::MapAccessDeserializer, value::SeqAccessDeserializer};
use serde::ser::{Serialize, SerializeTuple, Serializer};

use super::{BigInt, Value};
use crate::plain::{BIG_INT, BYTE_ARRAY, FROZEN_SET, SET, VALUE};

/// The variants of a [`Value`], as `plain`'s reader announces them.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Tag {
    None,
    Bool,
    Int,
    BigInt,
    Float,
    Str,
    Bytes,
    ByteArray,
    List,
    Tuple,
    Dict,
    Set,
    FrozenSet,
}

impl Tag {
    /// In the order of their numbers.
    const ALL: [Tag; 13] = [
        Tag::None,
        Tag::Bool,
        Tag::Int,
        Tag::BigInt,
        Tag::Float,
        Tag::Str,
        Tag::Bytes,
        Tag::ByteArray,
        Tag::List,
        Tag::Tuple,
        Tag::Dict,
        Tag::Set,
        Tag::FrozenSet,
    ];
}

const _: () = {
    let mut at = 0;
    while at < Tag::ALL.len() {
        assert!(Tag::ALL[at] as usize == at);
        at += 1;
    }
};

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::None => serializer.serialize_unit(),
            Value::Bool(bool) => serializer.serialize_bool(*bool),
            Value::Int(int) => serializer.serialize_i64(*int),
            Value::BigInt(int) => match (int.to_i128(), int.to_u128()) {
                (Some(int), _) => serializer.serialize_i128(int),
                (None, Some(int)) => serializer.serialize_u128(int),
                (None, None) => {
                    serializer.serialize_newtype_struct(BIG_INT, &Raw(int.to_le_bytes()))
                }
            },
            Value::Float(float) => serializer.serialize_f64(*float),
            Value::Str(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Value::ByteArray(bytes) => serializer.serialize_newtype_struct(BYTE_ARRAY, &Raw(bytes)),
            Value::List(items) => serializer.collect_seq(items),
            Value::Tuple(items) => {
                let mut tuple = serializer.serialize_tuple(items.len())?;
                for item in items {
                    tuple.serialize_element(item)?;
                }
                tuple.end()
            }
            Value::Dict(items) => serializer.collect_map(items.iter().map(|(k, v)| (k, v))),
            Value::Set(items) => serializer.serialize_newtype_struct(SET, items),
            Value::FrozenSet(items) => serializer.serialize_newtype_struct(FROZEN_SET, items),
        }
    }
}

/// Bytes that are not a list of integers.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_newtype_struct(VALUE, ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// `plain`, which alone knows the name `VALUE`.
    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Value, A::Error> {
        let (tag, content) = data.variant::<u32>()?;
        let Some(tag) = Tag::ALL.get(tag as usize) else {
            return Err(A::Error::custom("an enum is no value"));
        };
        Ok(match tag {
            Tag::None => content.unit_variant().map(|()| Value::None)?,
            Tag::Bool => Value::Bool(content.newtype_variant()?),
            Tag::Int => Value::Int(content.newtype_variant()?),
            Tag::BigInt => Value::int(&content.newtype_variant::<Buf>()?.0),
            Tag::Float => Value::Float(content.newtype_variant()?),
            Tag::Str => Value::Str(content.newtype_variant()?),
            Tag::Bytes => Value::Bytes(content.newtype_variant::<Buf>()?.0),
            Tag::ByteArray => Value::ByteArray(content.newtype_variant::<Buf>()?.0),
            Tag::List => Value::List(content.newtype_variant()?),
            Tag::Tuple => Value::Tuple(content.newtype_variant()?),
            Tag::Dict => Value::Dict(content.newtype_variant::<Pairs>()?.0),
            Tag::Set => Value::Set(content.newtype_variant()?),
            Tag::FrozenSet => Value::FrozenSet(content.newtype_variant()?),
        })
    }

    /// Any other format: what it says it has.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, bool: bool) -> Result<Value, E> {
        Ok(Value::Bool(bool))
    }

    fn visit_i64<E: Error>(self, int: i64) -> Result<Value, E> {
        Ok(Value::Int(int))
    }

    fn visit_i128<E: Error>(self, int: i128) -> Result<Value, E> {
        Ok(int.into())
    }

    fn visit_u64<E: Error>(self, int: u64) -> Result<Value, E> {
        Ok(int.into())
    }

    fn visit_u128<E: Error>(self, int: u128) -> Result<Value, E> {
        Ok(int.into())
    }

    fn visit_f64<E: Error>(self, float: f64) -> Result<Value, E> {
        Ok(Value::Float(float))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Str(text.into()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Str(text))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(bytes.into()))
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(items)).map(Value::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, items: A) -> Result<Value, A::Error> {
        Pairs::deserialize(MapAccessDeserializer::new(items)).map(|pairs| Value::Dict(pairs.0))
    }
}

/// The items of a dict, in their order.
struct Pairs(Vec<(Value, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a dict")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Pairs, A::Error> {
                // A peer's claim is no reason to allocate: the pairs are counted as they come.
                let hint = items.size_hint().unwrap_or(0).min(4096);
                let mut pairs = Vec::with_capacity(hint);
                while let Some(pair) = items.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

/// Bytes that are not a list of integers.
struct Buf(Vec<u8>);

impl<'de> Deserialize<'de> for Buf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Buf, D::Error> {
        struct BufVisitor;

        impl Visitor<'_> for BufVisitor {
            type Value = Buf;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Buf, E> {
                Ok(Buf(bytes.into()))
            }
        }

        deserializer.deserialize_bytes(BufVisitor)
    }
}

/// As a value: an `int`.
impl Serialize for BigInt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Value::BigInt(self.clone()).serialize(serializer)
    }
}
