//! Element types of arrays, as numpy names them, and whether an array's layout fits its bytes.

use std::fmt;

use crate::limits::EMPTY_LISTS_MAX;

/// The element type of an array. Everything that numpy has and is a number; little endian, as every
/// machine is that this runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// `bool`, a byte that is 0 or 1.
    Bool,
    /// `int8`.
    I8,
    /// `int16`.
    I16,
    /// `int32`.
    I32,
    /// `int64`.
    I64,
    /// `uint8`.
    U8,
    /// `uint16`.
    U16,
    /// `uint32`.
    U32,
    /// `uint64`.
    U64,
    /// `float16`. Rust has no such number: it is read as a wider one.
    F16,
    /// `float32`.
    F32,
    /// `float64`.
    F64,
    /// `complex64`: two `float32`, real and imaginary part.
    C64,
    /// `complex128`: two `float64`, real and imaginary part.
    C128,
}

impl DType {
    /// Every element type.
    pub const ALL: [DType; 14] = [
        DType::Bool,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::C64,
        DType::C128,
    ];

    /// Its name in numpy's array interface: `<f8`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::Bool => "|b1",
            DType::I8 => "|i1",
            DType::I16 => "<i2",
            DType::I32 => "<i4",
            DType::I64 => "<i8",
            DType::U8 => "|u1",
            DType::U16 => "<u2",
            DType::U32 => "<u4",
            DType::U64 => "<u8",
            DType::F16 => "<f2",
            DType::F32 => "<f4",
            DType::F64 => "<f8",
            DType::C64 => "<c8",
            DType::C128 => "<c16",
        }
    }

    /// The element type of this name. A single byte has no order, so any may be claimed for it.
    pub fn from_name(name: &str) -> Option<DType> {
        let (order, rest) = name.split_at_checked(1)?;
        let known = DType::ALL.into_iter().find(|dtype| &dtype.name()[1..] == rest)?;
        let fits = match order {
            "<" | "=" => true,
            "|" | ">" => known.item_bytes() == 1,
            _ => false,
        };
        fits.then_some(known)
    }

    /// Bytes of one element.
    pub const fn item_bytes(self) -> usize {
        match self {
            DType::Bool | DType::I8 | DType::U8 => 1,
            DType::I16 | DType::U16 | DType::F16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::U64 | DType::F64 | DType::C64 => 8,
            DType::C128 => 16,
        }
    }
}

/// What numpy's `dtype.name` says.
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::Bool => "bool",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::U8 => "uint8",
            DType::U16 => "uint16",
            DType::U32 => "uint32",
            DType::U64 => "uint64",
            DType::F16 => "float16",
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::C64 => "complex64",
            DType::C128 => "complex128",
        })
    }
}

/// Whether every element of an array lies within its `bytes`, the first at their start. Elements
/// may not share bytes, so that an array never has more of them than its memory paid for. Strides
/// of an array without elements lead nowhere, so they may be anything.
///
/// # Errors
///
/// What is wrong with it, to be read behind "the array".
pub fn check_layout(
    item_bytes: usize,
    shape: &[u64],
    strides: &[i64],
    bytes: u64,
) -> Result<(), &'static str> {
    let item = item_bytes as u64;
    if !strides.is_empty() && strides.len() != shape.len() {
        return Err("has a stride too many or too few");
    }
    if let Some(zero) = shape.iter().position(|length| *length == 0) {
        let before = &shape[..zero];
        let lists = before.iter().try_fold(1, |lists: u64, length| lists.checked_mul(*length));
        return match lists {
            Some(..=EMPTY_LISTS_MAX) => Ok(()),
            _ => Err("has no elements and yet too many rows"),
        };
    }
    let total = shape.iter().try_fold(item, |total, length| total.checked_mul(*length));
    if total.is_none_or(|total| total > bytes) {
        return Err("has more elements than its bytes hold");
    }
    if strides.is_empty() {
        return Ok(());
    }
    let mut end = item;
    for (length, stride) in shape.iter().zip(strides).filter(|(length, _)| **length > 1) {
        let Some(stride) = u64::try_from(*stride).ok().filter(|stride| *stride >= item) else {
            return Err("has elements that lie before it or on each other");
        };
        let reach = stride.checked_mul(length - 1).and_then(|reach| end.checked_add(reach));
        end = reach.ok_or("has strides that lead out of it")?;
    }
    if end > bytes { Err("has strides that lead out of it") } else { Ok(()) }
}

/// Strides of an array in C order, in bytes. The shape must have been checked.
pub fn c_strides(item_bytes: usize, shape: &[u64]) -> Vec<i64> {
    let mut strides = vec![0; shape.len()];
    let mut step = item_bytes as u64;
    for (stride, length) in strides.iter_mut().zip(shape).rev() {
        *stride = i64::try_from(step).unwrap_or(i64::MAX);
        step = step.saturating_mul((*length).max(1));
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numpys() {
        for dtype in DType::ALL {
            assert_eq!(Some(dtype), DType::from_name(dtype.name()));
        }
        assert_eq!(Some(DType::U8), DType::from_name("<u1"));
        for name in ["", "<", "f8", ">f8", "<f3", "|f8", "<M8[ns]", "|S5", "é8"] {
            assert_eq!(None, DType::from_name(name), "{name}");
        }
    }

    #[test]
    fn a_layout_never_leads_out_of_its_bytes() {
        let fits =
            |shape: &[u64], strides: &[i64], bytes| check_layout(8, shape, strides, bytes).is_ok();
        assert!(fits(&[], &[], 8) && !fits(&[], &[], 7));
        assert!(fits(&[2, 3], &[], 48) && !fits(&[2, 3], &[], 47));
        assert!(fits(&[2, 3], &[24, 8], 48) && fits(&[2, 3], &[8, 16], 48));
        assert!(!fits(&[2, 3], &[32, 8], 48) && fits(&[2, 3], &[32, 8], 56));
        assert!(!fits(&[2], &[-8], 48) && !fits(&[2], &[0], 48) && !fits(&[2], &[4], 48));
        assert!(fits(&[1], &[-8], 8), "there is no second element to reach");
        assert!(!fits(&[1 << 40, 1 << 40], &[], u64::MAX));
        assert!(!fits(&[3], &[i64::MAX], 48) && !fits(&[2, 2], &[8], 48));
        assert!(fits(&[0, u64::MAX, u64::MAX], &[], 0));
    }

    #[test]
    fn without_elements_strides_do_not_matter_and_rows_are_limited() {
        let fits = |shape: &[u64], strides: &[i64]| check_layout(8, shape, strides, 0).is_ok();
        assert!(fits(&[3, 0], &[-8, 8]) && fits(&[0], &[i64::MIN]) && !fits(&[3, 0], &[8]));
        assert!(fits(&[1 << 10, 1 << 10, 0], &[]) && !fits(&[1 << 10, 1 << 11, 0], &[]));
        assert!(!fits(&[1 << 60, 0], &[]) && !fits(&[u64::MAX, u64::MAX, 0], &[]));
    }

    #[test]
    fn c_order_is_the_last_index_first() {
        assert_eq!(vec![96, 32, 8], c_strides(8, &[2, 3, 4]));
        assert!(c_strides(8, &[]).is_empty());
    }
}
