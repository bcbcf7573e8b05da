//! How many row groups a Parquet file has: the only thing this side must know of it. Pure.
//!
//! A file ends with its metadata (a struct in Thrift's compact protocol), their length, and `PAR1`.
//! The metadata's fourth field is the list of row groups; what is before it is stepped over.

use thiserror::Error;

/// What a Parquet file ends with: the length of its metadata, and its magic.
pub(super) const TAIL_BYTES: usize = 8;

/// The number of the field that lists the row groups.
const ROW_GROUPS: i64 = 4;

/// How deep values may nest. Metadata is a list of structs that hold a struct or two.
const DEPTH_MAX: u32 = 32;

/// Why a file's row groups cannot be counted.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum ParquetFault {
    /// It is something else.
    #[error("it does not end as a Parquet file does; choose another split")]
    Magic,
    /// Its metadata are secret.
    #[error("its footer is encrypted; store it with a plain footer")]
    Encrypted,
    /// Its metadata are longer than it, or than anybody may read.
    #[error("its footer claims {0} bytes, more than it can have; the file is damaged")]
    Length(u64),
    /// They make no sense.
    #[error("its footer cannot be read; the file is damaged")]
    Damaged,
}

/// How long the metadata are, from the file's last bytes.
pub(super) fn footer_bytes(tail: [u8; TAIL_BYTES]) -> Result<u64, ParquetFault> {
    let (length, magic) = tail.split_at(4);
    match magic {
        b"PAR1" => Ok(length.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))),
        b"PARE" => Err(ParquetFault::Encrypted),
        _ => Err(ParquetFault::Magic),
    }
}

/// How many row groups there are, from the metadata.
pub(super) fn row_groups(footer: &[u8]) -> Result<u32, ParquetFault> {
    count(&mut Reader { rest: footer }).ok_or(ParquetFault::Damaged)
}

fn count(reader: &mut Reader<'_>) -> Option<u32> {
    let mut number = 0;
    loop {
        let kind = reader.field(&mut number)?;
        match (kind, number) {
            (Kind::Stop, _) => return None,
            (Kind::List, ROW_GROUPS) => {
                let (kind, items) = reader.list()?;
                // Each takes a byte at least.
                let fits = kind == Kind::Struct && items <= reader.rest.len() as u64;
                return fits.then(|| u32::try_from(items).ok()).flatten();
            }
            (kind, _) => reader.skip(kind, true, DEPTH_MAX)?,
        }
    }
}

/// The types of Thrift's compact protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stop,
    Bool,
    Byte,
    Int,
    Double,
    Binary,
    List,
    Map,
    Struct,
    Uuid,
}

impl Kind {
    fn of(nibble: u8) -> Option<Kind> {
        Some(match nibble {
            0 => Kind::Stop,
            1 | 2 => Kind::Bool,
            3 => Kind::Byte,
            4..=6 => Kind::Int,
            7 => Kind::Double,
            8 => Kind::Binary,
            9 | 10 => Kind::List,
            11 => Kind::Map,
            12 => Kind::Struct,
            13 => Kind::Uuid,
            _ => return None,
        })
    }
}

/// Takes values off the front; none when there are not enough bytes, or they mean nothing. Every
/// value but a bool in a struct takes a byte at least, so a claimed length costs no more than the
/// bytes that are there.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn bytes(&mut self, count: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// The head of a struct's next field. Its number is told by what it is more than the last one.
    fn field(&mut self, number: &mut i64) -> Option<Kind> {
        let head = self.byte()?;
        let kind = Kind::of(head & 0x0f)?;
        if kind == Kind::Stop {
            return Some(kind);
        }
        match head >> 4 {
            0 => {
                let zigzag = self.varint()?;
                *number = i64::try_from(zigzag >> 1).ok()?;
            }
            more => *number = number.checked_add(i64::from(more))?,
        }
        Some(kind)
    }

    fn list(&mut self) -> Option<(Kind, u64)> {
        let head = self.byte()?;
        let items = match head >> 4 {
            15 => self.varint()?,
            items => u64::from(items),
        };
        Some((Kind::of(head & 0x0f)?, items))
    }

    fn skip(&mut self, kind: Kind, is_field: bool, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            Kind::Stop => None,
            // A field's type is its value.
            Kind::Bool if is_field => Some(()),
            Kind::Bool | Kind::Byte => self.bytes(1),
            Kind::Int => self.varint().map(drop),
            Kind::Double => self.bytes(8),
            Kind::Uuid => self.bytes(16),
            Kind::Binary => {
                let bytes = self.varint()?;
                self.bytes(bytes)
            }
            Kind::List => {
                let (kind, items) = self.list()?;
                (0..items).try_for_each(|_| self.skip(kind, false, depth))
            }
            Kind::Map => match self.varint()? {
                0 => Some(()),
                pairs => {
                    let kinds = self.byte()?;
                    let (key, value) = (Kind::of(kinds >> 4)?, Kind::of(kinds & 0x0f)?);
                    (0..pairs).try_for_each(|_| {
                        self.skip(key, false, depth)?;
                        self.skip(value, false, depth)
                    })
                }
            },
            Kind::Struct => {
                let mut number = 0;
                loop {
                    match self.field(&mut number)? {
                        Kind::Stop => return Some(()),
                        kind => self.skip(kind, true, depth)?,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metadata with everything in front of the row groups: version 2, a schema of two columns
    /// (with a nested struct, a bool, a double, a map and a set beside what is usual), 7 rows.
    fn footer(groups: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x15, 0x04, 0x19, 0x2c];
        bytes.extend_from_slice(b"\x48\x06schema\x15\x04\x00");
        bytes.extend_from_slice(b"\x15\x02\x48\x01x\x11\x17\x01\x02\x03\x04\x05\x06\x07\x08");
        bytes.extend_from_slice(b"\x1c\x15\x02\x1a\x21\x01\x02\x00\x1b\x01\x85\x01k\x08\x00");
        bytes.extend_from_slice(&[0x16, 0x0e, 0x19]);
        bytes.extend_from_slice(groups);
        bytes.push(0);
        bytes
    }

    #[test]
    fn row_groups_are_counted() {
        assert_eq!(Ok(0), row_groups(&footer(&[0x0c])));
        assert_eq!(Ok(2), row_groups(&footer(&[0x2c, 0, 0])));
        let many: Vec<u8> = [0xfc, 0xac, 0x02].into_iter().chain([0; 300]).collect();
        assert_eq!(Ok(300), row_groups(&footer(&many)));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_survived() {
        let whole = footer(&[0x2c, 0, 0]);
        for end in 0..whole.len() - 3 {
            assert_eq!(Err(ParquetFault::Damaged), row_groups(&whole[..end]), "{end}");
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _either = row_groups(&changed);
            }
        }
        let deep = [0x1c].repeat(100_000);
        assert_eq!(Err(ParquetFault::Damaged), row_groups(&deep));
        let endless = [&[0x19, 0xfc][..], &[0xff; 9], &[0x01]].concat();
        assert_eq!(Err(ParquetFault::Damaged), row_groups(&endless));
    }

    #[test]
    fn the_tail_says_what_it_is() {
        assert_eq!(Ok(0x0403_0201), footer_bytes(*b"\x01\x02\x03\x04PAR1"));
        assert_eq!(Err(ParquetFault::Encrypted), footer_bytes(*b"\x01\x02\x03\x04PARE"));
        assert_eq!(Err(ParquetFault::Magic), footer_bytes(*b"a,b\n1,2\n"));
    }
}
