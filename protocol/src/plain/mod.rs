//! The `plain` codec: values as the data-only subset of pickle protocol 5.
//!
//! Python reads and writes it with its own C unpickler and pickler, so a worker needs no package
//! and pays microseconds. Rust has its own writer and reader, and neither can run code: whatever
//! is not data is refused by name. JSON would be 16 times slower on a list of floats and cannot
//! hold bytes, sets or tuples; a codec of our own would be Python code on the worker's side.
//!
//! | Python | written as | read too |
//! |---|---|---|
//! | `None`, `True`, `False` | `NONE`, `NEWTRUE`, `NEWFALSE` | |
//! | int | `BININT1`, `BININT2`, `BININT`, `LONG1`, `LONG4` | |
//! | float | `BINFLOAT` | |
//! | str | `SHORT_BINUNICODE`, `BINUNICODE`, `BINUNICODE8` | |
//! | bytes, bytearray | `SHORT_BINBYTES`, `BINBYTES`, `BINBYTES8`, `BYTEARRAY8` | |
//! | list | `EMPTY_LIST`, `MARK`, `APPENDS` | `APPEND` |
//! | tuple | `EMPTY_TUPLE`, `TUPLE1`, `TUPLE2`, `TUPLE3`, `MARK`, `TUPLE` | |
//! | dict | `EMPTY_DICT`, `MARK`, `SETITEMS` | `SETITEM` |
//! | set, frozenset | `EMPTY_SET`, `MARK`, `ADDITEMS`, `FROZENSET` | |
//! | any, again | in full | `MEMOIZE`, `BINGET`, `LONG_BINGET` |
//! | what is attached | `NEXT_BUFFER` | `READONLY_BUFFER` behind it |
//! | | `PROTO`, `STOP` | `FRAME` |
//!
//! In Rust's terms: structs and maps are dicts, enums are tagged from outside as in `serde_json`,
//! `Option` is the value or `None`, sequences are lists, tuples are tuples, `serialize_bytes` is
//! bytes. On the way back an int fits any integer type that holds it, floats take ints, sequences
//! take tuples and sets too, and texts and bytes can be borrowed from the input. A float type takes
//! the nearest number it has, as in `serde_json`: an int above 2^53 may lose its last digits in an
//! `f64`. What is beyond its range is an error and never becomes infinite. What serde has no word
//! for (sets, bytearrays, ints of any size) a [`Value`](crate::Value) holds.
//!
//! With attachments ([`append_with`], [`from_slice_with`]), bytes from
//! [`ATTACH_BYTES_MIN`](crate::limits::ATTACH_BYTES_MIN) on leave the value, and so does whatever
//! attaches itself. On the way back attached bytes are bytes, and an array is a list of lists of
//! its numbers to every type but those that take it as a whole: also to a [`Value`](crate::Value),
//! so that an array is the same to it whether it was attached or sent as lists. Without
//! attachments the opcode is refused like any other that is not data.
//!
//! The reader is bounded by [`Limits`], which count what the value would be with its shared parts
//! copied. It keeps at most 96 bytes for each byte of input, and takes time in proportion to it.

mod access;
mod array;
mod attach;
mod de;
mod error;
mod limits;
mod machine;
mod opcode;
mod ser;
mod tape;

pub use array::widened;
pub use attach::{ATTACHED, Attach, Attached, Unattached};
pub use de::{check, from_slice, from_slice_with};
pub use error::{Error, ErrorKind};
pub use limits::Limits;
pub use ser::{append, append_with, to_vec};

pub(crate) use de::VALUE;
pub(crate) use ser::{BIG_INT, BYTE_ARRAY, FROZEN_SET, SET};
