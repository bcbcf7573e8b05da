//! The reader's second half: a serde `Deserializer` over the tape.
//!
//! Recursion is as deep as the value, which the tape has already found to be within its limit.

mod attached;

use serde::Deserialize;
use serde::de::{Error as _, Expected, Unexpected, Visitor};

use super::Limits;
use super::access::{ByteItems, ItemsAccess, ValueAccess, Variant};
use super::attach::{ATTACHED, Attached};
use super::error::{Error, ErrorKind};
use super::tape::{Node, Shape, Span, Tape};
use crate::value::BigInt;

/// The name under which a [`Value`](crate::Value) asks for itself, so that it can tell tuples
/// from lists.
pub(crate) const VALUE: &str = "$clutch::Value";

/// Reads a value. Texts and bytes in `T` may borrow from `bytes`.
///
/// # Errors
///
/// When the bytes are no value, exceed a limit, or hold something `T` does not take.
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8], limits: Limits) -> Result<T, Error> {
    read(bytes, None, limits)
}

/// Reads a value that refers to what is attached. Bytes in `T` may borrow from that too.
///
/// # Errors
///
/// As [`from_slice`], and when the value does not use every attachment once.
pub fn from_slice_with<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    attached: &'de dyn Attached,
    limits: Limits,
) -> Result<T, Error> {
    read(bytes, Some(attached), limits)
}

fn read<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
    attached: Option<&'de dyn Attached>,
    limits: Limits,
) -> Result<T, Error> {
    let tape = Tape::read(bytes, attached, limits)?;
    T::deserialize(Deserializer { tape: &tape, node: tape.root() })
}

/// Checks that bytes are one value within the limits, without making anything of it.
///
/// # Errors
///
/// When they are not.
pub fn check(bytes: &[u8], limits: Limits) -> Result<(), Error> {
    Tape::read(bytes, None, limits).map(drop)
}

/// One node of the tape.
#[derive(Clone, Copy)]
pub(super) struct Deserializer<'t, 'de> {
    pub(super) tape: &'t Tape<'de>,
    pub(super) node: Node,
}

impl<'t, 'de> Deserializer<'t, 'de> {
    pub(super) fn str(self, span: Span) -> Result<&'de str, Error> {
        std::str::from_utf8(self.tape.bytes(span)).map_err(|_| ErrorKind::NotUtf8.into())
    }

    fn seq<V: Visitor<'de>>(self, group: u32, visitor: V) -> Result<V::Value, Error> {
        let mut access = ItemsAccess::new(self.tape, group);
        let total = access.left();
        // A tuple or array takes what it needs; what is left would be lost without a word. It is
        // judged only afterwards, since serde asks for the visitor by value: hence the wording.
        let value = visitor.visit_seq(&mut access)?;
        match access.left() {
            0 => Ok(value),
            left => Err(Error::invalid_length(total, &Exactly(total - left))),
        }
    }

    fn map<V: Visitor<'de>>(self, group: u32, visitor: V) -> Result<V::Value, Error> {
        let mut access = ItemsAccess::new(self.tape, group);
        let total = access.left() / 2;
        let value = visitor.visit_map(&mut access)?;
        match access.left() / 2 {
            0 => Ok(value),
            left => Err(Error::invalid_length(total, &Exactly(total - left))),
        }
    }

    #[cold]
    pub(super) fn unfit(self, expected: &dyn Expected) -> Error {
        let found = match self.node {
            Node::None => Unexpected::Unit,
            Node::Bool(bool) => Unexpected::Bool(bool),
            Node::Int(int) => Unexpected::Signed(int),
            Node::Float(float) => Unexpected::Float(float),
            Node::BigInt(_) => Unexpected::Other("int of more than 64 bits"),
            Node::Str(span) => match self.str(span) {
                Ok(text) => Unexpected::Str(text),
                Err(error) => return error,
            },
            Node::Bytes(span) | Node::ByteArray(span) => Unexpected::Bytes(self.tape.bytes(span)),
            Node::Attached(index) => self.unexpected(index),
            Node::Group(Shape::List, _) => Unexpected::Other("list"),
            Node::Group(Shape::Tuple, _) => Unexpected::Other("tuple"),
            Node::Group(Shape::Dict, _) => Unexpected::Other("dict"),
            Node::Group(Shape::Set, _) => Unexpected::Other("set"),
            Node::Group(Shape::FrozenSet, _) => Unexpected::Other("frozenset"),
            Node::Run { .. } => unreachable!("a run is no value"),
        };
        Error::invalid_type(found, expected)
    }

    fn wide(self, span: Span) -> BigInt {
        BigInt::new(self.tape.bytes(span)).expect("the tape keeps small ints as such")
    }

    fn big_int<V: Visitor<'de>>(self, span: Span, visitor: V) -> Result<V::Value, Error> {
        let big = self.wide(span);
        if let Some(int) = big.to_i128() {
            match u64::try_from(int) {
                Ok(int) => visitor.visit_u64(int),
                Err(_) => visitor.visit_i128(int),
            }
        } else if let Some(int) = big.to_u128() {
            visitor.visit_u128(int)
        } else {
            Err(self.unfit(&visitor))
        }
    }
}

/// An int whose nearest float would be infinite.
const BEYOND_FLOATS: Unexpected<'_> = Unexpected::Other("int beyond its range");

/// Whether the nearest `f32` is infinite.
fn is_beyond_f32(float: f64) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "what becomes of it is the question")]
    let nearest = float as f32;
    nearest.is_infinite()
}

/// Refuses a float that no `f32` is near to.
pub(super) fn check_f32(float: f64, expected: &dyn Expected) -> Result<(), Error> {
    if float.is_finite() && is_beyond_f32(float) {
        return Err(Error::invalid_value(Unexpected::Float(float), expected));
    }
    Ok(())
}

/// What a type took of a container that holds more.
struct Exactly(usize);

impl Expected for Exactly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} items", self.0)
    }
}

/// Deserializes by what is there, whatever is asked for: the visitor knows what it takes.
macro_rules! forward {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                self.deserialize_any(visitor)
            }
        )*
    };
}

macro_rules! texts {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                match self.node {
                    Node::Str(span) => visitor.visit_borrowed_str(self.str(span)?),
                    _ => Err(self.unfit(&visitor)),
                }
            }
        )*
    };
}

impl<'de> serde::Deserializer<'de> for Deserializer<'_, 'de> {
    type Error = Error;

    forward! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128 deserialize_unit deserialize_map deserialize_identifier
    }

    // Text is text and bytes are bytes, in Python as here, whatever serde's own types would take.
    texts! { deserialize_char deserialize_str deserialize_string }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::Str(_) => Err(self.unfit(&"bytes")),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::None => visitor.visit_unit(),
            Node::Bool(bool) => visitor.visit_bool(bool),
            Node::Int(int) => match u64::try_from(int) {
                Ok(int) => visitor.visit_u64(int),
                Err(_) => visitor.visit_i64(int),
            },
            Node::Float(float) => visitor.visit_f64(float),
            Node::BigInt(span) => self.big_int(span, visitor),
            Node::Str(span) => visitor.visit_borrowed_str(self.str(span)?),
            Node::Bytes(span) | Node::ByteArray(span) => {
                visitor.visit_borrowed_bytes(self.tape.bytes(span))
            }
            Node::Attached(index) => self.visit_attached(index, visitor),
            Node::Group(Shape::Dict, group) => self.map(group, visitor),
            Node::Group(_, group) => self.seq(group, visitor),
            Node::Run { .. } => unreachable!("a run is no value"),
        }
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::Float(float) => visitor.visit_f64(float),
            Node::BigInt(span) => match self.wide(span).to_f64() {
                Some(float) => visitor.visit_f64(float),
                None => Err(Error::invalid_value(BEYOND_FLOATS, &visitor)),
            },
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // serde's own `f32` would take what is beyond its range for infinite.
        match self.node {
            Node::Float(float) => {
                check_f32(float, &visitor)?;
                visitor.visit_f64(float)
            }
            Node::BigInt(span) if self.wide(span).to_f64().is_none_or(is_beyond_f32) => {
                Err(Error::invalid_value(BEYOND_FLOATS, &visitor))
            }
            _ => self.deserialize_f64(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::None => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            // A `Vec<u8>` asks for a sequence, and bytes are one.
            Node::Bytes(span) | Node::ByteArray(span) => {
                visitor.visit_seq(ByteItems::new(self.tape.bytes(span)))
            }
            Node::Attached(index) => match self.attached_bytes(index)? {
                Some(bytes) => visitor.visit_seq(ByteItems::new(bytes)),
                None => self.deserialize_any(visitor),
            },
            Node::Group(Shape::Dict, _) => Err(self.unfit(&visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            // The items of a set have no order, so none of them is the first.
            Node::Group(Shape::Set | Shape::FrozenSet, _) => Err(self.unfit(&visitor)),
            Node::Bytes(_) | Node::ByteArray(_) | Node::Attached(_) => {
                self.deserialize_seq(visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.node {
            Node::Group(Shape::Dict, _) => self.deserialize_any(visitor),
            _ => self.deserialize_tuple(fields.len(), visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_any(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match (name, self.node) {
            (ATTACHED, Node::Attached(index)) => {
                let (attached, index) = self.attached(index);
                attached.offer(index);
                visitor.visit_unit()
            }
            // An array is nested lists to a value.
            (VALUE, Node::Attached(index)) if self.attached_bytes(index)?.is_none() => {
                visitor.visit_newtype_struct(self)
            }
            (VALUE, _) => visitor.visit_enum(ValueAccess::new(self)),
            (_, _) => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.node {
            Node::Str(_) => visitor.visit_enum(Variant::new(self, None)),
            Node::Group(Shape::Dict, group) => {
                let mut items = self.tape.items(group);
                let at = |node| Deserializer { node, ..self };
                match (items.next(), items.next(), items.next()) {
                    (Some(name), Some(content), None) => {
                        visitor.visit_enum(Variant::new(at(name), Some(at(content))))
                    }
                    _ => Err(ErrorKind::Unfit {
                        expected: "a dict with one key, the name of the variant".into(),
                        found: format!("a dict with {} keys", self.tape.items(group).left() / 2),
                    }
                    .into()),
                }
            }
            _ => Err(self.unfit(&"the name of a variant, or a dict with it")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}
