//! Any value that can travel as data: what Python calls plain built-in types.
//!
//! Most callers name a Rust type of their own and never meet a [`Value`]. It is for results whose
//! shape is not known, and for what serde has no word for: sets, bytearrays, integers of any size.
//! How it becomes bytes is in `plain`.

mod codec;
mod display;
mod int;

pub(crate) use codec::Tag;
pub use int::BigInt;
pub(crate) use int::{small_int, trim};

/// A Python value made of built-in types only.
///
/// Equality is that of the parts, in order: two dicts or sets with the same items in another order
/// differ, `1` is not `1.0`, and `nan` is never equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// `None`.
    #[default]
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An `int` that fits.
    Int(i64),
    /// An `int` that does not fit an `i64`; see [`Value::int`].
    BigInt(BigInt),
    /// A `float`.
    Float(f64),
    /// A `str`.
    Str(String),
    /// A `bytes`.
    Bytes(Vec<u8>),
    /// A `bytearray`.
    ByteArray(Vec<u8>),
    /// A `list`.
    List(Vec<Value>),
    /// A `tuple`.
    Tuple(Vec<Value>),
    /// A `dict`, in its order. A key that Python could not hash makes the call fail there.
    Dict(Vec<(Value, Value)>),
    /// A `set`.
    Set(Vec<Value>),
    /// A `frozenset`.
    FrozenSet(Vec<Value>),
}

impl Value {
    /// The `int` with these bytes: two's complement, little endian.
    pub fn int(little_endian: &[u8]) -> Value {
        match (small_int(little_endian), BigInt::new(little_endian)) {
            (Some(int), _) => Value::Int(int),
            (None, Some(int)) => Value::BigInt(int),
            (None, None) => unreachable!("an integer is small or big"),
        }
    }

    /// What Python calls its type.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) | Value::BigInt(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::ByteArray(_) => "bytearray",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Set(_) => "set",
            Value::FrozenSet(_) => "frozenset",
        }
    }

    /// The value under a text key of a dict.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Dict(items) = self else {
            return None;
        };
        // The last one counts, as in Python.
        let mut found = items.iter().rev();
        found
            .find(|(name, _)| matches!(name, Value::Str(name) if name == key))
            .map(|(_, value)| value)
    }

    /// The items of a list, tuple, set or frozenset.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::List(items)
            | Value::Tuple(items)
            | Value::Set(items)
            | Value::FrozenSet(items) => Some(items),
            _ => None,
        }
    }

    /// The integer, if it is one and fits.
    pub const fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($type:ty => |$value:ident| $made:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Value { $made }
        })*
    };
}

from! {
    () => |_unit| Value::None;
    bool => |bool| Value::Bool(bool);
    i8 => |int| Value::Int(int.into());
    i16 => |int| Value::Int(int.into());
    i32 => |int| Value::Int(int.into());
    i64 => |int| Value::Int(int);
    i128 => |int| Value::int(&int.to_le_bytes());
    u8 => |int| Value::Int(int.into());
    u16 => |int| Value::Int(int.into());
    u32 => |int| Value::Int(int.into());
    u64 => |int| Value::from(i128::from(int));
    u128 => |int| {
        // A zero in front keeps the highest bit from being the sign.
        let mut bytes = [0; 17];
        bytes[..16].copy_from_slice(&int.to_le_bytes());
        Value::int(&bytes)
    };
    BigInt => |int| Value::BigInt(int);
    f32 => |float| Value::Float(float.into());
    f64 => |float| Value::Float(float);
    char => |c| Value::Str(c.into());
    &str => |text| Value::Str(text.into());
    String => |text| Value::Str(text);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::None, Into::into)
    }
}

/// A list, also of `u8`: write [`Value::Bytes`] for bytes.
impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

impl<K: Into<Value>, V: Into<Value>> FromIterator<(K, V)> for Value {
    /// A dict.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(items: I) -> Value {
        Value::Dict(items.into_iter().map(|(key, value)| (key.into(), value.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_width_are_one_integer() {
        assert_eq!(Value::Int(5), Value::from(5u64));
        assert_eq!(Value::from(u64::MAX), Value::from(u128::from(u64::MAX)));
        assert_eq!(Value::Int(-1), Value::from(-1i128));
        let Value::BigInt(top) = Value::from(u128::MAX) else { panic!("it fits no i64") };
        assert_eq!(Some(u128::MAX), top.to_u128());
    }

    #[test]
    fn a_dict_is_asked_by_name_and_the_last_one_counts() {
        let dict: Value = [("a", 1), ("b", 2), ("a", 3)].into_iter().collect();
        assert_eq!(Some(&Value::Int(3)), dict.get("a"));
        assert_eq!(None, dict.get("c"));
        assert_eq!(None, Value::Int(1).get("a"));
    }
}
