//! One element as a number, and back to a type where that is exact.

use clutch_protocol::dtype::DType;
use clutch_protocol::plain::widened;

/// A number of any element type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Bool(bool),
    Int(i128),
    Float(f64),
    Complex([f64; 2]),
}

macro_rules! bytes {
    ($bytes:expr) => {
        $bytes.try_into().expect("it has the bytes of its type")
    };
}

impl Number {
    /// The element in these bytes.
    pub(super) fn read(dtype: DType, bytes: &[u8]) -> Number {
        let single = |at: usize| f64::from(f32::from_le_bytes(bytes!(bytes[at..at + 4])));
        let double = |at: usize| f64::from_le_bytes(bytes!(bytes[at..at + 8]));
        match dtype {
            DType::Bool => Number::Bool(bytes[0] != 0),
            DType::I8 => Number::Int(i8::from_le_bytes(bytes!(bytes)).into()),
            DType::I16 => Number::Int(i16::from_le_bytes(bytes!(bytes)).into()),
            DType::I32 => Number::Int(i32::from_le_bytes(bytes!(bytes)).into()),
            DType::I64 => Number::Int(i64::from_le_bytes(bytes!(bytes)).into()),
            DType::U8 => Number::Int(bytes[0].into()),
            DType::U16 => Number::Int(u16::from_le_bytes(bytes!(bytes)).into()),
            DType::U32 => Number::Int(u32::from_le_bytes(bytes!(bytes)).into()),
            DType::U64 => Number::Int(u64::from_le_bytes(bytes!(bytes)).into()),
            DType::F16 => Number::Float(widened(u16::from_le_bytes(bytes!(bytes))).into()),
            DType::F32 => Number::Float(single(0)),
            DType::F64 => Number::Float(double(0)),
            DType::C64 => Number::Complex([single(0), single(4)]),
            DType::C128 => Number::Complex([double(0), double(8)]),
        }
    }

    /// Writes it as an element of a type into the bytes of one; false when that would be another
    /// number.
    pub(super) fn write(self, dtype: DType, target: &mut [u8]) -> bool {
        macro_rules! int {
            ($type:ty) => {
                self.int().and_then(|int| <$type>::try_from(int).ok()).map(<$type>::to_le_bytes)
            };
        }
        fn put<const N: usize>(target: &mut [u8], bytes: Option<[u8; N]>) -> bool {
            bytes.is_some_and(|bytes| {
                target.copy_from_slice(&bytes);
                true
            })
        }
        match dtype {
            DType::Bool => match self.int() {
                Some(int @ (0 | 1)) => put(target, Some([u8::from(int == 1)])),
                _ => false,
            },
            DType::I8 => put(target, int!(i8)),
            DType::I16 => put(target, int!(i16)),
            DType::I32 => put(target, int!(i32)),
            DType::I64 => put(target, int!(i64)),
            DType::U8 => put(target, int!(u8)),
            DType::U16 => put(target, int!(u16)),
            DType::U32 => put(target, int!(u32)),
            DType::U64 => put(target, int!(u64)),
            DType::F16 => false,
            DType::F32 => put(target, self.float().and_then(narrowed).map(f32::to_le_bytes)),
            DType::F64 => put(target, self.float().map(f64::to_le_bytes)),
            DType::C64 => {
                let parts = self.complex().map(|parts| parts.map(narrowed));
                let [Some(real), Some(imaginary)] = parts.unwrap_or([None; 2]) else {
                    return false;
                };
                target[..4].copy_from_slice(&real.to_le_bytes());
                target[4..].copy_from_slice(&imaginary.to_le_bytes());
                true
            }
            DType::C128 => self.complex().is_some_and(|[real, imaginary]| {
                target[..8].copy_from_slice(&real.to_le_bytes());
                target[8..].copy_from_slice(&imaginary.to_le_bytes());
                true
            }),
        }
    }

    fn int(self) -> Option<i128> {
        match self {
            Number::Bool(bool) => Some(bool.into()),
            Number::Int(int) => Some(int),
            Number::Float(float) => {
                // No element type holds an int beyond 2^64.
                let fits = float.fract() == 0.0 && float.abs() < 1.9e19;
                #[expect(clippy::cast_possible_truncation, reason = "it is an int, and small")]
                fits.then_some(float as i128)
            }
            Number::Complex(_) => None,
        }
    }

    fn float(self) -> Option<f64> {
        match self {
            Number::Bool(bool) => Some(f64::from(u8::from(bool))),
            Number::Int(int) => {
                #[expect(clippy::cast_precision_loss, reason = "whether it does is the question")]
                let float = int as f64;
                (Number::Float(float).int() == Some(int)).then_some(float)
            }
            Number::Float(float) => Some(float),
            Number::Complex(_) => None,
        }
    }

    fn complex(self) -> Option<[f64; 2]> {
        match self {
            Number::Complex(parts) => Some(parts),
            other => other.float().map(|real| [real, 0.0]),
        }
    }
}

/// The `f32` that is the same number.
fn narrowed(float: f64) -> Option<f32> {
    #[expect(clippy::cast_possible_truncation, reason = "whether it loses is the question")]
    let narrow = float as f32;
    (f64::from(narrow) == float || float.is_nan()).then_some(narrow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(number: Number, dtype: DType) -> Option<Number> {
        let mut bytes = vec![0; dtype.item_bytes()];
        number.write(dtype, &mut bytes).then(|| Number::read(dtype, &bytes))
    }

    #[test]
    fn only_the_same_number_is_written() {
        use DType::{C64, F32, F64, I32, I64, U8, U64};
        use Number::{Bool, Complex, Float, Int};
        assert_eq!(Some(Int(5)), converted(Float(5.0), I32));
        assert_eq!(None, converted(Float(5.5), I32));
        assert_eq!(None, converted(Int(300), U8));
        assert_eq!(None, converted(Int(-1), U64));
        assert_eq!(Some(Int(u64::MAX.into())), converted(Int(u64::MAX.into()), U64));
        assert_eq!(Some(Float(0.5)), converted(Float(0.5), F32));
        assert_eq!(None, converted(Float(0.1), F32));
        assert_eq!(None, converted(Int((1 << 53) + 1), F64));
        assert_eq!(Some(Float(9007199254740992.0)), converted(Int(1 << 53), F64));
        assert_eq!(Some(Bool(true)), converted(Int(1), DType::Bool));
        assert_eq!(None, converted(Int(2), DType::Bool));
        assert_eq!(Some(Complex([1.0, 0.0])), converted(Int(1), C64));
        assert_eq!(None, converted(Complex([1.0, 0.0]), F64));
        assert_eq!(None, converted(Float(f64::INFINITY), I64));
        assert_eq!(Some(Float(f64::INFINITY)), converted(Float(f64::INFINITY), F32));
        assert!(converted(Float(f64::NAN), F32).is_some());
    }
}
