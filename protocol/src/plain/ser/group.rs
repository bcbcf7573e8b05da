//! Containers being written: how each begins and ends, and serde's seven traits for their items.

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};

use super::super::error::{Error, ErrorKind};
use super::super::opcode;
use super::Serializer;
use crate::path::Step;

pub(super) const LIST: Close = Close::Batch { empty: opcode::EMPTY_LIST, fill: opcode::APPENDS };
pub(super) const DICT: Close = Close::Batch { empty: opcode::EMPTY_DICT, fill: opcode::SETITEMS };
pub(super) const SET: Close = Close::Batch { empty: opcode::EMPTY_SET, fill: opcode::ADDITEMS };

impl<'o> Serializer<'o> {
    /// Begins a container.
    pub(super) fn group<'s>(&'s mut self, close: Close) -> Result<Group<'s, 'o>, Error> {
        self.enter()?;
        match close {
            Close::Batch { empty, .. } => self.out.push(empty),
            Close::Marked(_) => self.out.push(opcode::MARK),
            Close::Tuple(len) if len > 3 => self.out.push(opcode::MARK),
            Close::Tuple(_) => {}
        }
        Ok(Group { serializer: self, close, count: 0, variant: None })
    }

    /// A dict with the variant's name as its only key, up to the point where its value comes.
    pub(super) fn variant<'s>(
        &'s mut self,
        name: &'static str,
        close: Close,
    ) -> Result<Group<'s, 'o>, Error> {
        self.enter()?;
        self.out.push(opcode::EMPTY_DICT);
        self.text(name);
        let mut group = self.group(close)?;
        group.variant = Some(name);
        Ok(group)
    }
}

/// How a container ends.
#[derive(Clone, Copy)]
pub(super) enum Close {
    /// It was made empty; everything since its mark goes into it.
    Batch { empty: u8, fill: u8 },
    /// It is made of everything since its mark.
    Marked(u8),
    /// A tuple of this many items: short ones have opcodes of their own and no mark.
    Tuple(usize),
}

/// A container being written.
pub(super) struct Group<'s, 'o> {
    serializer: &'s mut Serializer<'o>,
    close: Close,
    count: usize,
    /// The enum's variant that the container is in.
    variant: Option<&'static str>,
}

impl Group<'_, '_> {
    fn begin_item(&mut self) {
        if self.count == 0 && matches!(self.close, Close::Batch { .. }) {
            self.serializer.out.push(opcode::MARK);
        }
        self.count += 1;
    }

    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.begin_item();
        value
            .serialize(&mut *self.serializer)
            .map_err(|error| self.locate(error, Step::Index(self.count - 1)))
    }

    fn entry<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.begin_item();
        self.serializer.text(key);
        value
            .serialize(&mut *self.serializer)
            .map_err(|error| self.locate(error, Step::Key(key.into())))
    }

    #[cold]
    fn locate(&self, error: Error, step: Step) -> Error {
        let error = error.inside(step);
        match self.variant {
            Some(name) => error.inside(Step::Key(name.into())),
            None => error,
        }
    }

    fn finish(self) -> Result<(), Error> {
        let out = &mut *self.serializer.out;
        match self.close {
            Close::Batch { fill, .. } if self.count > 0 => out.push(fill),
            Close::Batch { .. } => {}
            Close::Marked(code) => out.push(code),
            Close::Tuple(announced) if announced != self.count => {
                return Err(ErrorKind::ItemCount { announced, written: self.count }.into());
            }
            Close::Tuple(len) => out.push(match len {
                0 => opcode::EMPTY_TUPLE,
                1 => opcode::TUPLE1,
                2 => opcode::TUPLE2,
                3 => opcode::TUPLE3,
                _ => opcode::TUPLE,
            }),
        }
        self.serializer.depth -= 1;
        if self.variant.is_some() {
            self.serializer.out.push(opcode::SETITEM);
            self.serializer.depth -= 1;
        }
        Ok(())
    }
}

/// The serde traits whose items have no names.
macro_rules! items {
    ($($trait:ident::$method:ident)*) => {
        $(impl $trait for Group<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
                self.item(value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
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

/// The serde traits whose items have names known to the compiler.
macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl $trait for Group<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.entry(key, value)
            }

            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }

impl SerializeMap for Group<'_, '_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.begin_item();
        key.serialize(&mut *self.serializer)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value
            .serialize(&mut *self.serializer)
            .map_err(|error| self.locate(error, Step::Other("...".into())))
    }

    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}
