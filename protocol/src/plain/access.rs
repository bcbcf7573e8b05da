//! What is inside a container: the serde accessors that `de` hands to a visitor.

use serde::Deserialize;
use serde::de::value::{BytesDeserializer, U32Deserializer};
use serde::de::{
    DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::de::Deserializer;
use super::error::{Error, ErrorKind};
use super::tape::{Items, Node, Shape, Tape};
use crate::path::Step;
use crate::value::{Tag, Value};

/// The items of a list, tuple or set; the keys and values of a dict.
pub(super) struct ItemsAccess<'t, 'de> {
    tape: &'t Tape<'de>,
    items: Items<'t>,
    index: usize,
    key: Node,
    value: Option<Node>,
}

impl<'t, 'de> ItemsAccess<'t, 'de> {
    pub(super) fn new(tape: &'t Tape<'de>, group: u32) -> Self {
        ItemsAccess { tape, items: tape.items(group), index: 0, key: Node::None, value: None }
    }

    /// How many nodes are left: keys and values count apart.
    pub(super) fn left(&self) -> usize {
        self.items.left()
    }

    fn at(&self, node: Node) -> Deserializer<'t, 'de> {
        Deserializer { tape: self.tape, node }
    }

    #[cold]
    fn key_step(&self) -> Step {
        match self.key {
            Node::Str(span) => match self.at(self.key).str(span) {
                Ok(text) => Step::Key(text.into()),
                Err(_) => Step::Other("...".into()),
            },
            _ => Step::Other(match Value::deserialize(self.at(self.key)) {
                Ok(key) => key.to_string(),
                Err(_) => "...".into(),
            }),
        }
    }
}

impl<'de> SeqAccess<'de> for &mut ItemsAccess<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(node) = self.items.next() else {
            return Ok(None);
        };
        match seed.deserialize(self.at(node)) {
            Ok(value) => {
                self.index += 1;
                Ok(Some(value))
            }
            Err(error) => Err(error.inside(Step::Index(self.index))),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.left())
    }
}

impl<'de> MapAccess<'de> for &mut ItemsAccess<'_, 'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let (Some(key), Some(value)) = (self.items.next(), self.items.next()) else {
            return Ok(None);
        };
        self.key = key;
        self.value = Some(value);
        match seed.deserialize(self.at(key)) {
            Ok(key) => Ok(Some(key)),
            Err(error) => Err(error.inside(self.key_step())),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = self.value.take().expect("serde asks for a key first");
        seed.deserialize(self.at(value)).map_err(|error| error.inside(self.key_step()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.left() / 2)
    }
}

/// Bytes, one integer at a time.
pub(super) struct ByteItems<'de>(std::slice::Iter<'de, u8>);

impl<'de> ByteItems<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        ByteItems(bytes.iter())
    }
}

impl<'de> SeqAccess<'de> for ByteItems<'de> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        self.0.next().map(|byte| seed.deserialize((*byte).into_deserializer())).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

/// A variant of one of the caller's enums.
pub(super) struct Variant<'t, 'de> {
    name: Deserializer<'t, 'de>,
    content: Option<Deserializer<'t, 'de>>,
}

impl<'t, 'de> Variant<'t, 'de> {
    pub(super) fn new(name: Deserializer<'t, 'de>, content: Option<Deserializer<'t, 'de>>) -> Self {
        Variant { name, content }
    }

    /// What is in the variant, and the step to it.
    fn content(self) -> Result<(Deserializer<'t, 'de>, Step), Error> {
        let step = match self.name.node {
            Node::Str(span) => Step::Key(self.name.str(span)?.into()),
            _ => Step::Other("...".into()),
        };
        match self.content {
            Some(content) => Ok((content, step)),
            None => Err(ErrorKind::Unfit {
                expected: "a dict with the name of the variant and its fields".into(),
                found: "only its name".into(),
            }
            .into()),
        }
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        Ok((seed.deserialize(self.name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            None => Ok(()),
            Some(content) => <()>::deserialize(content),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let (content, step) = self.content()?;
        seed.deserialize(content).map_err(|error| error.inside(step))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let (content, step) = self.content()?;
        serde::Deserializer::deserialize_tuple(content, len, visitor)
            .map_err(|error| error.inside(step))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (content, step) = self.content()?;
        serde::Deserializer::deserialize_struct(content, "", fields, visitor)
            .map_err(|error| error.inside(step))
    }
}

/// A node as a variant of [`Value`]: its tag, then what it holds.
pub(super) struct ValueAccess<'t, 'de>(Deserializer<'t, 'de>);

impl<'t, 'de> ValueAccess<'t, 'de> {
    pub(super) fn new(node: Deserializer<'t, 'de>) -> Self {
        ValueAccess(node)
    }
}

impl<'de> EnumAccess<'de> for ValueAccess<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        let tag = match self.0.node {
            Node::None => Tag::None,
            Node::Bool(_) => Tag::Bool,
            Node::Int(_) => Tag::Int,
            Node::BigInt(_) => Tag::BigInt,
            Node::Float(_) => Tag::Float,
            Node::Str(_) => Tag::Str,
            Node::Bytes(_) => Tag::Bytes,
            Node::ByteArray(_) => Tag::ByteArray,
            Node::Group(Shape::List, _) => Tag::List,
            Node::Group(Shape::Tuple, _) => Tag::Tuple,
            Node::Group(Shape::Dict, _) => Tag::Dict,
            Node::Group(Shape::Set, _) => Tag::Set,
            Node::Group(Shape::FrozenSet, _) => Tag::FrozenSet,
            Node::Attached(index) if self.0.is_byte_array(index) => Tag::ByteArray,
            Node::Attached(_) => Tag::Bytes,
            Node::Run { .. } => unreachable!("a run is no value"),
        };
        let number: U32Deserializer<Error> = (tag as u32).into_deserializer();
        let tag = seed.deserialize(number)?;
        Ok((tag, self))
    }
}

impl<'de> VariantAccess<'de> for ValueAccess<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        match self.0.node {
            Node::BigInt(span) => seed.deserialize(BytesDeserializer::new(self.0.tape.bytes(span))),
            _ => seed.deserialize(self.0),
        }
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        Err(self.0.unfit(&visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        Err(self.0.unfit(&visitor))
    }
}
