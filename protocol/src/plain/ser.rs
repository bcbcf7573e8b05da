//! The writer: a serde `Serializer` that appends opcodes to a buffer, with no tree in between.
//!
//! A container is opened when its first item comes, so one of unknown length costs nothing more.

mod group;

use serde::Serialize;

use self::group::{Close, Group};
use super::attach::{ATTACHED, Attach, Unattached};
use super::error::{Error, ErrorKind};
use super::opcode;
use crate::attachment::Content;
use crate::limits::{ATTACH_BYTES_MIN, DEPTH_MAX};
use crate::path::Step;
use crate::value::trim;

/// Newtype structs of these names are what Python has and serde has no word for.
pub(crate) const SET: &str = "$clutch::set";
pub(crate) const FROZEN_SET: &str = "$clutch::frozenset";
pub(crate) const BYTE_ARRAY: &str = "$clutch::bytearray";
pub(crate) const BIG_INT: &str = "$clutch::int";

/// Writes a value.
///
/// # Errors
///
/// When it nests too deep, or its own `Serialize` fails.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(64);
    append(&mut out, value)?;
    Ok(out)
}

/// Writes a value behind what `out` already holds. When that fails, `out` is as it was.
///
/// # Errors
///
/// When it nests too deep, or its own `Serialize` fails.
pub fn append<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), Error> {
    write(out, value, None)
}

/// The same, with its large parts attached instead of written.
///
/// # Errors
///
/// When it nests too deep, something cannot be attached, or its own `Serialize` fails.
pub fn append_with<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    value: &T,
    attach: &mut dyn Attach,
) -> Result<(), Error> {
    write(out, value, Some(attach))
}

fn write<'a, T: Serialize + ?Sized>(
    out: &'a mut Vec<u8>,
    value: &T,
    attach: Option<&'a mut (dyn Attach + 'a)>,
) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[opcode::PROTO, 5]);
    let mut serializer = Serializer { out, depth: 0, wish: Wish::Usual, attach };
    match value.serialize(&mut serializer) {
        Ok(()) => {
            serializer.out.push(opcode::STOP);
            Ok(())
        }
        Err(error) => {
            serializer.out.truncate(start);
            Err(error)
        }
    }
}

/// What the newtype struct around the next sequence or bytes asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Usual,
    Set,
    FrozenSet,
    ByteArray,
    BigInt,
}

struct Serializer<'o> {
    out: &'o mut Vec<u8>,
    depth: usize,
    wish: Wish,
    attach: Option<&'o mut dyn Attach>,
}

impl Serializer<'_> {
    /// An opcode and its operand.
    fn put<const N: usize>(&mut self, code: u8, operand: [u8; N]) {
        self.out.push(code);
        self.out.extend_from_slice(&operand);
    }

    /// Bytes under the shortest of three opcodes that holds their length.
    fn sized(&mut self, [short, medium, long]: [u8; 3], bytes: &[u8]) {
        if let Ok(len) = u8::try_from(bytes.len()) {
            self.put(short, [len]);
        } else if let Ok(len) = u32::try_from(bytes.len()) {
            self.put(medium, len.to_le_bytes());
        } else {
            self.put(long, (bytes.len() as u64).to_le_bytes());
        }
        self.out.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        let codes = [opcode::SHORT_BINUNICODE, opcode::BINUNICODE, opcode::BINUNICODE8];
        self.sized(codes, text.as_bytes());
    }

    /// An integer that fits no fixed width.
    fn long(&mut self, little_endian: &[u8]) -> Result<(), Error> {
        let bytes = trim(little_endian);
        if let Ok(len) = u8::try_from(bytes.len()) {
            self.put(opcode::LONG1, [len]);
        } else if let Ok(len) = i32::try_from(bytes.len()) {
            self.put(opcode::LONG4, len.to_le_bytes());
        } else {
            return Err(ErrorKind::TooLong { limit: i32::MAX as usize }.into());
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Attaches bytes instead of writing them, where that can be and pays.
    fn attach(&mut self, bytes: &[u8], content: Content) -> Result<bool, Error> {
        let Some(attach) = self.attach.as_mut().filter(|_| bytes.len() >= ATTACH_BYTES_MIN) else {
            return Ok(false);
        };
        let attached = attach.bytes(bytes, content).map_err(|Unattached| ErrorKind::Unattached)?;
        if attached {
            self.out.push(opcode::NEXT_BUFFER);
        }
        Ok(attached)
    }

    /// Writes a part that may attach itself as a whole.
    fn attachable<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        let start = self.out.len();
        if let Some(attach) = &mut self.attach {
            attach.invite();
        }
        value.serialize(&mut *self)?;
        if let Some(attach) = &mut self.attach
            && attach.accept().map_err(|Unattached| ErrorKind::Unattached)?
        {
            self.out.truncate(start);
            self.out.push(opcode::NEXT_BUFFER);
        }
        Ok(())
    }

    /// Goes one level down.
    fn enter(&mut self) -> Result<(), Error> {
        if self.depth == DEPTH_MAX {
            return Err(ErrorKind::TooDeep { limit: DEPTH_MAX }.into());
        }
        self.depth += 1;
        Ok(())
    }
}

/// Integers that fit 64 bits with a sign.
macro_rules! integers {
    ($($method:ident($type:ty))*) => {
        $(
            fn $method(self, int: $type) -> Result<(), Error> {
                self.serialize_i64(i64::from(int))
            }
        )*
    };
}

impl<'s, 'o> serde::Serializer for &'s mut Serializer<'o> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Group<'s, 'o>;
    type SerializeTuple = Group<'s, 'o>;
    type SerializeTupleStruct = Group<'s, 'o>;
    type SerializeTupleVariant = Group<'s, 'o>;
    type SerializeMap = Group<'s, 'o>;
    type SerializeStruct = Group<'s, 'o>;
    type SerializeStructVariant = Group<'s, 'o>;

    integers! {
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32)
    }

    fn serialize_bool(self, bool: bool) -> Result<(), Error> {
        self.out.push(if bool { opcode::NEWTRUE } else { opcode::NEWFALSE });
        Ok(())
    }

    fn serialize_i64(self, int: i64) -> Result<(), Error> {
        if let Ok(int) = u8::try_from(int) {
            self.put(opcode::BININT1, [int]);
        } else if let Ok(int) = u16::try_from(int) {
            self.put(opcode::BININT2, int.to_le_bytes());
        } else if let Ok(int) = i32::try_from(int) {
            self.put(opcode::BININT, int.to_le_bytes());
        } else {
            self.long(&int.to_le_bytes())?;
        }
        Ok(())
    }

    fn serialize_u64(self, int: u64) -> Result<(), Error> {
        match i64::try_from(int) {
            Ok(int) => self.serialize_i64(int),
            Err(_) => self.serialize_u128(int.into()),
        }
    }

    fn serialize_i128(self, int: i128) -> Result<(), Error> {
        match i64::try_from(int) {
            Ok(int) => self.serialize_i64(int),
            Err(_) => self.long(&int.to_le_bytes()),
        }
    }

    fn serialize_u128(self, int: u128) -> Result<(), Error> {
        match i128::try_from(int) {
            Ok(int) => self.serialize_i128(int),
            Err(_) => {
                // A zero in front keeps the highest bit from being the sign.
                let mut bytes = [0; 17];
                bytes[..16].copy_from_slice(&int.to_le_bytes());
                self.long(&bytes)
            }
        }
    }

    fn serialize_f32(self, float: f32) -> Result<(), Error> {
        self.serialize_f64(float.into())
    }

    fn serialize_f64(self, float: f64) -> Result<(), Error> {
        let mut bytes = [opcode::BINFLOAT; 9];
        bytes[1..].copy_from_slice(&float.to_be_bytes());
        self.out.extend_from_slice(&bytes);
        Ok(())
    }

    fn serialize_char(self, c: char) -> Result<(), Error> {
        self.text(c.encode_utf8(&mut [0; 4]));
        Ok(())
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.text(text);
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        match std::mem::replace(&mut self.wish, Wish::Usual) {
            Wish::ByteArray if self.attach(bytes, Content::ByteArray)? => Ok(()),
            Wish::ByteArray => {
                self.put(opcode::BYTEARRAY8, (bytes.len() as u64).to_le_bytes());
                self.out.extend_from_slice(bytes);
                Ok(())
            }
            Wish::BigInt => self.long(bytes),
            Wish::Usual if self.attach(bytes, Content::Bytes)? => Ok(()),
            Wish::Usual | Wish::Set | Wish::FrozenSet => {
                let codes = [opcode::SHORT_BINBYTES, opcode::BINBYTES, opcode::BINBYTES8];
                self.sized(codes, bytes);
                Ok(())
            }
        }
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.out.push(opcode::NONE);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        let wish = match name {
            SET => Wish::Set,
            FROZEN_SET => Wish::FrozenSet,
            BYTE_ARRAY => Wish::ByteArray,
            BIG_INT => Wish::BigInt,
            ATTACHED => return self.attachable(value),
            _ => return value.serialize(self),
        };
        self.wish = wish;
        let written = value.serialize(&mut *self);
        self.wish = Wish::Usual;
        written
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.enter()?;
        self.out.push(opcode::EMPTY_DICT);
        self.text(variant);
        value.serialize(&mut *self).map_err(|error| error.inside(Step::Key(variant.into())))?;
        self.out.push(opcode::SETITEM);
        self.depth -= 1;
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Error> {
        match std::mem::replace(&mut self.wish, Wish::Usual) {
            Wish::Set => self.group(group::SET),
            Wish::FrozenSet => self.group(Close::Marked(opcode::FROZENSET)),
            Wish::Usual | Wish::ByteArray | Wish::BigInt => self.group(group::LIST),
        }
    }

    fn serialize_tuple(self, len: usize) -> Result<Self::SerializeTuple, Error> {
        self.group(Close::Tuple(len))
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleStruct, Error> {
        self.group(Close::Tuple(len))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        self.variant(variant, Close::Tuple(len))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Error> {
        self.group(group::DICT)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Error> {
        self.group(group::DICT)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        self.variant(variant, group::DICT)
    }
}
