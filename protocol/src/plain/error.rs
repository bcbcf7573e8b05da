//! Why a value could not be read or written, and where in it.

use std::fmt;

use serde::de::{Expected, Unexpected};
use thiserror::Error as ThisError;

use crate::path::{Cut, Path, Step};

/// Why a value could not be read or written. One word wide, so that a `Result` stays small.
#[derive(Debug)]
pub struct Error(Box<(ErrorKind, Path)>);

/// What was wrong.
#[derive(Clone, Debug, ThisError, PartialEq)]
pub enum ErrorKind {
    /// The bytes end before the value does.
    #[error("the data is cut off: {missing} more bytes were expected after byte {at}")]
    Truncated {
        /// Where the reader was.
        at: usize,
        /// How many bytes are missing at least.
        missing: usize,
    },
    /// Bytes follow the value.
    #[error("{0} bytes follow the end of the value; send one value at a time")]
    Trailing(usize),
    /// They do not start like pickle protocol 4 or 5.
    #[error("the data does not start like a value (pickle protocol 4 or 5); is it another codec?")]
    Protocol,
    /// An opcode of pickle that makes something else than data.
    #[error("the opcode {opcode} at byte {at} is not data; send plain values instead of objects")]
    Refused {
        /// Its name.
        opcode: &'static str,
        /// Where it is.
        at: usize,
    },
    /// A byte that is no opcode.
    #[error("the byte {byte:#04x} at {at} is no opcode; the data is damaged")]
    Opcode {
        /// The byte.
        byte: u8,
        /// Where it is.
        at: usize,
    },
    /// An opcode that does not fit what came before it.
    #[error("the opcode {opcode} at byte {at} does not fit what precedes it; the data is damaged")]
    Misplaced {
        /// Its name.
        opcode: &'static str,
        /// Where it is.
        at: usize,
    },
    /// A container that contains itself.
    #[error("a list, dict or set contains itself; send a value without cycles")]
    Recursive,
    /// It is longer than allowed.
    #[error("the value has more than {limit} bytes of text and data; send less at a time")]
    TooLong {
        /// How many it may have.
        limit: usize,
    },
    /// It has more parts than allowed.
    #[error("the value has more than {limit} parts; send less at a time")]
    TooManyNodes {
        /// How many it may have.
        limit: usize,
    },
    /// It nests deeper than allowed.
    #[error("the value nests deeper than {limit} levels; flatten it")]
    TooDeep {
        /// How deep it may nest.
        limit: usize,
    },
    /// Text with a lone surrogate, which Rust has no text for.
    #[error("a str is not valid UTF-8 (it has a lone surrogate); send it as bytes")]
    NotUtf8,
    /// The value and what came beside it do not belong together.
    #[error("the value refers to {used} attachments, and {attached} came with it")]
    Attachments {
        /// How many it refers to, at least.
        used: usize,
        /// How many there are.
        attached: usize,
    },
    /// Something that came beside the value is not what is asked for.
    #[error("the attachment {fault}")]
    Attachment {
        /// What is wrong with it.
        fault: String,
    },
    /// A part could not be attached. Who was to attach it knows why.
    #[error("a part of the value could not be attached to it")]
    Unattached,
    /// Something of one type where another was asked for.
    #[error("expected {expected}, found {found}")]
    Unfit {
        /// What the Rust type takes.
        expected: String,
        /// What is there, in Python's words.
        found: String,
    },
    /// A list or tuple of another length than asked for.
    #[error("expected {expected}, found {length} items")]
    Length {
        /// What the Rust type takes.
        expected: String,
        /// How many are there.
        length: usize,
    },
    /// A dict without a key that a struct needs.
    #[error("the key {0:?} is missing")]
    MissingField(&'static str),
    /// A dict with a key twice.
    #[error("the key {0:?} is there twice")]
    DuplicateField(&'static str),
    /// A dict with a key that a struct does not take.
    #[error("the key {found:?} is not one of {expected:?}")]
    UnknownField {
        /// The key.
        found: String,
        /// The keys it takes.
        expected: &'static [&'static str],
    },
    /// The name of a variant that the enum does not have.
    #[error("the variant {found:?} is not one of {expected:?}")]
    UnknownVariant {
        /// The name.
        found: String,
        /// The names it has.
        expected: &'static [&'static str],
    },
    /// A type that says it has another number of items than it then writes.
    #[error("a type announced {announced} items and wrote {written}; its Serialize is wrong")]
    ItemCount {
        /// What it said.
        announced: usize,
        /// What it did.
        written: usize,
    },
    /// What the `Serialize` or `Deserialize` of the caller's own type says.
    #[error("{0}")]
    Custom(String),
}

impl Error {
    /// What was wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.0
    }

    /// Where in the value; the root for faults of its bytes.
    pub fn path(&self) -> &Path {
        &self.0.1
    }

    /// Notes that the fault is inside this step.
    #[cold]
    pub(super) fn inside(mut self, step: Step) -> Error {
        self.0.1.enter(step);
        self
    }
}

impl From<ErrorKind> for Error {
    #[cold]
    fn from(kind: ErrorKind) -> Error {
        Error(Box::new((kind, Path::default())))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path().is_root() {
            write!(f, "{}", self.kind())
        } else {
            write!(f, "value{}: {}", self.path(), self.kind())
        }
    }
}

impl std::error::Error for Error {}

impl serde::ser::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        ErrorKind::Custom(message.to_string()).into()
    }
}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Error {
        ErrorKind::Custom(message.to_string()).into()
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Error {
        ErrorKind::Unfit { expected: expected.to_string(), found: python_name(found) }.into()
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Error {
        Error::invalid_type(found, expected)
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Error {
        ErrorKind::Length { expected: expected.to_string(), length }.into()
    }

    fn unknown_variant(found: &str, expected: &'static [&'static str]) -> Error {
        ErrorKind::UnknownVariant { found: Cut(found).to_string(), expected }.into()
    }

    fn unknown_field(found: &str, expected: &'static [&'static str]) -> Error {
        ErrorKind::UnknownField { found: Cut(found).to_string(), expected }.into()
    }

    fn missing_field(field: &'static str) -> Error {
        ErrorKind::MissingField(field).into()
    }

    fn duplicate_field(field: &'static str) -> Error {
        ErrorKind::DuplicateField(field).into()
    }
}

/// What serde found, in the words of the Python side.
fn python_name(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit => "None".into(),
        Unexpected::Bool(true) => "True".into(),
        Unexpected::Bool(false) => "False".into(),
        Unexpected::Unsigned(int) => format!("int {int}"),
        Unexpected::Signed(int) => format!("int {int}"),
        Unexpected::Float(float) => format!("float {float:?}"),
        Unexpected::Char(c) => format!("str {c:?}"),
        Unexpected::Str(text) => format!("str {:?}", Cut(text)),
        Unexpected::Bytes(bytes) => format!("{} bytes", bytes.len()),
        Unexpected::Seq => "list, tuple or set".into(),
        Unexpected::Map => "dict".into(),
        Unexpected::Other(name) => name.into(),
        other => other.to_string(),
    }
}
