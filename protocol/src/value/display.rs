//! A value as Python would write it: what this prints, Python reads back as the same value.
//!
//! Big integers are written in hexadecimal, since decimal digits would take arithmetic on them.

use std::fmt::{self, Display, Write};

use super::{BigInt, Value};

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(int) => write!(f, "{int}"),
            Value::BigInt(int) => write!(f, "{int}"),
            Value::Float(float) => write_float(f, *float),
            Value::Str(text) => write_str(f, text),
            Value::Bytes(bytes) => write_bytes(f, bytes),
            Value::ByteArray(bytes) => {
                f.write_str("bytearray(")?;
                write_bytes(f, bytes)?;
                f.write_char(')')
            }
            Value::List(items) => write_items(f, "[", items, "]"),
            Value::Tuple(items) if items.len() == 1 => write_items(f, "(", items, ",)"),
            Value::Tuple(items) => write_items(f, "(", items, ")"),
            Value::Set(items) if items.is_empty() => f.write_str("set()"),
            Value::Set(items) => write_items(f, "{", items, "}"),
            Value::FrozenSet(items) if items.is_empty() => f.write_str("frozenset()"),
            Value::FrozenSet(items) => write_items(f, "frozenset({", items, "})"),
            Value::Dict(items) => {
                f.write_char('{')?;
                for (index, (key, value)) in items.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{key}: {value}")?;
                }
                f.write_char('}')
            }
        }
    }
}

impl Display for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_negative() { "-0x" } else { "0x" })?;
        let magnitude = self.magnitude();
        let mut bytes = magnitude.iter().rev();
        if let Some(first) = bytes.next() {
            write!(f, "{first:x}")?;
        }
        bytes.try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BigInt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The shortest digits that are this float, as Python and Rust both print.
fn write_float(f: &mut fmt::Formatter<'_>, float: f64) -> fmt::Result {
    if float.is_nan() {
        f.write_str("nan")
    } else if float.is_infinite() {
        f.write_str(if float > 0.0 { "inf" } else { "-inf" })
    } else {
        write!(f, "{float:?}")
    }
}

fn write_str(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('\'')?;
    for c in text.chars() {
        match c {
            '\'' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            ' '..='~' => f.write_char(c)?,
            c if c.is_alphanumeric() => f.write_char(c)?,
            c if (c as u32) < 0x100 => write!(f, "\\x{:02x}", c as u32)?,
            c if (c as u32) < 0x1_0000 => write!(f, "\\u{:04x}", c as u32)?,
            c => write!(f, "\\U{:08x}", c as u32)?,
        }
    }
    f.write_char('\'')
}

fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("b'")?;
    for byte in bytes {
        match byte {
            b'\'' | b'\\' => write!(f, "\\{}", char::from(*byte))?,
            b' '..=b'~' => f.write_char(char::from(*byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_char('\'')
}

fn write_items(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    items: &[Value],
    close: &str,
) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        write!(f, "{comma}{item}")?;
    }
    f.write_str(close)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_prints_what_python_reads() {
        let value = Value::Tuple(vec![
            Value::Dict(vec![(1.into(), "it's \n ☃ é".into())]),
            Value::Set(vec![]),
            Value::FrozenSet(vec![Value::Bytes(b"\0'a".into())]),
            Value::Tuple(vec![Value::Float(-0.0)]),
            Value::from(1u64 << 63),
            Value::from(i128::from(i64::MIN) - 1),
            Value::Float(1e300),
        ]);
        assert_eq!(
            [
                r"({1: 'it\'s \n \u2603 é'}, set(), frozenset({b'\x00\'a'}), (-0.0,)",
                "0x8000000000000000, -0x8000000000000001, 1e300)",
            ]
            .join(", "),
            value.to_string()
        );
    }
}
