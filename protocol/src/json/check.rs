//! Walks a value before it becomes JSON, and says where the first part is that JSON cannot hold.
//!
//! It writes nothing: a serde `Serializer` whose every result is "fine so far".

use std::fmt;

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};

use super::{Error, Unfit};
use crate::limits::DEPTH_MAX;
use crate::path::{Path, Step};
use crate::plain::{BIG_INT, BYTE_ARRAY, FROZEN_SET, SET};

/// The deepest that `serde_json` reads back.
const LEVELS_MAX: usize = DEPTH_MAX - 1;

/// Whether a value can become JSON.
pub(super) fn check<T: Serialize + ?Sized>(value: &T) -> Result<(), Error> {
    value.serialize(Check { depth: 0 })
}

impl Error {
    fn unfit(what: Unfit) -> Error {
        Error::Unfit { path: Path::default(), what }
    }

    #[cold]
    fn inside(mut self, step: Step) -> Error {
        match &mut self {
            Error::Unfit { path, .. }
            | Error::TooDeep { path, .. }
            | Error::Custom { path, .. } => path.enter(step),
            Error::Invalid(_) => {}
        }
        self
    }
}

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        Error::Custom { path: Path::default(), message: message.to_string() }
    }
}

#[derive(Clone, Copy)]
struct Check {
    depth: usize,
}

impl Check {
    fn group(self, variant: Option<&'static str>) -> Result<Group, Error> {
        // A variant's fields are two levels down: the object with its name, and what is in that.
        let depth = self.depth + 1 + usize::from(variant.is_some());
        if depth > LEVELS_MAX {
            return Err(Error::TooDeep { path: Path::default(), limit: LEVELS_MAX });
        }
        Ok(Group { check: Check { depth }, index: 0, key: Step::Index(0), variant })
    }
}

/// A container being walked.
struct Group {
    check: Check,
    index: usize,
    key: Step,
    variant: Option<&'static str>,
}

impl Group {
    fn part<T: Serialize + ?Sized>(&self, step: impl Fn() -> Step, value: &T) -> Result<(), Error> {
        value.serialize(self.check).map_err(|error| {
            let error = error.inside(step());
            match self.variant {
                Some(name) => error.inside(Step::Key(name.into())),
                None => error,
            }
        })
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.index += 1;
        self.part(|| Step::Index(self.index - 1), value)
    }
}

macro_rules! fine {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, _: $type) -> Result<(), Error> { Ok(()) })*
    };
}

impl serde::Serializer for Check {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Group;
    type SerializeTuple = Group;
    type SerializeTupleStruct = Group;
    type SerializeTupleVariant = Group;
    type SerializeMap = Group;
    type SerializeStruct = Group;
    type SerializeStructVariant = Group;

    fine! {
        serialize_bool(bool) serialize_i8(i8) serialize_i16(i16) serialize_i32(i32)
        serialize_i64(i64) serialize_i128(i128) serialize_u8(u8) serialize_u16(u16)
        serialize_u32(u32) serialize_u64(u64) serialize_u128(u128) serialize_char(char)
        serialize_str(&str) serialize_unit_struct(&'static str)
    }

    fn serialize_f32(self, float: f32) -> Result<(), Error> {
        self.serialize_f64(float.into())
    }

    fn serialize_f64(self, float: f64) -> Result<(), Error> {
        if float.is_nan() {
            Err(Error::unfit(Unfit::NotANumber))
        } else if float.is_infinite() {
            Err(Error::unfit(Unfit::Infinite))
        } else {
            Ok(())
        }
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Error> {
        Err(Error::unfit(Unfit::Bytes))
    }

    fn serialize_none(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        match name {
            SET | FROZEN_SET => Err(Error::unfit(Unfit::Set)),
            BYTE_ARRAY => Err(Error::unfit(Unfit::Bytes)),
            BIG_INT => Err(Error::unfit(Unfit::BigInt)),
            _ => value.serialize(self),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.group(None)?.part(|| Step::Key(variant.into()), value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Group, Error> {
        self.group(None)
    }

    fn serialize_tuple(self, _: usize) -> Result<Group, Error> {
        self.group(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Group, Error> {
        self.group(None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Group, Error> {
        self.group(Some(variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Group, Error> {
        self.group(None)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Group, Error> {
        self.group(None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Group, Error> {
        self.group(Some(variant))
    }
}

macro_rules! items {
    ($($trait:ident::$method:ident)*) => {
        $(impl $trait for Group {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.item(value)
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        })*
    };
}

items! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl $trait for Group {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.part(|| Step::Key(key.into()), value)
            }

            fn end(self) -> Result<(), Error> {
                Ok(())
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }

impl SerializeMap for Group {
    type Ok = ();
    type Error = Error;

    /// What `serde_json` would make of the key, judged by its own rules.
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.key = match serde_json::to_value(key) {
            Ok(serde_json::Value::String(text)) => Step::Key(text),
            Ok(serde_json::Value::Number(number)) => Step::Other(number.to_string()),
            Ok(serde_json::Value::Bool(bool)) => Step::Other(bool.to_string()),
            _ => return Err(Error::unfit(Unfit::Key)),
        };
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.part(|| self.key.clone(), value)
    }

    fn end(self) -> Result<(), Error> {
        Ok(())
    }
}
