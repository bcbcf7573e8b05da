//! Integers of any size, as bytes: nothing here computes with them, it only carries them.

/// An integer that does not fit an `i64`, in two's complement.
///
/// Every integer has one form only: the small ones are [`super::Value::Int`], and this one has no
/// byte too many. So equal integers are equal values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct BigInt {
    little_endian: Box<[u8]>,
}

impl BigInt {
    /// The integer with these bytes (two's complement, little endian), unless an `i64` holds it.
    pub fn new(little_endian: &[u8]) -> Option<BigInt> {
        let bytes = trim(little_endian);
        (bytes.len() > 8).then(|| BigInt { little_endian: bytes.into() })
    }

    /// Its bytes: two's complement, little endian, as few as possible.
    pub fn to_le_bytes(&self) -> &[u8] {
        &self.little_endian
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        is_negative(&self.little_endian)
    }

    /// It, if it fits.
    pub fn to_i128(&self) -> Option<i128> {
        extend(&self.little_endian).map(i128::from_le_bytes)
    }

    /// It, if it fits.
    pub fn to_u128(&self) -> Option<u128> {
        if self.is_negative() {
            return None;
        }
        // The highest bit of a `u128` is no sign, so the byte that holds the sign may go.
        let bytes = match &*self.little_endian {
            [bytes @ .., 0] => bytes,
            bytes => bytes,
        };
        let mut wide = [0; 16];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(u128::from_le_bytes(wide))
    }

    /// The nearest float, if it is within their range. Rounded like a sum of its parts, which may
    /// differ in the last bit from Python's `float(int)`.
    pub fn to_f64(&self) -> Option<f64> {
        let magnitude = self.magnitude();
        let float = magnitude.iter().rev().fold(0.0, |sum, byte| sum * 256.0 + f64::from(*byte));
        let float = if self.is_negative() { -float } else { float };
        float.is_finite().then_some(float)
    }

    /// The bytes of its absolute value, little endian and without a sign.
    pub(super) fn magnitude(&self) -> Vec<u8> {
        let mut bytes = self.little_endian.to_vec();
        if self.is_negative() {
            let mut carry = true;
            for byte in &mut bytes {
                (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
            }
        }
        while bytes.last() == Some(&0) {
            bytes.pop();
        }
        bytes
    }
}

/// The integer with these bytes, if an `i64` holds it.
pub(crate) fn small_int(little_endian: &[u8]) -> Option<i64> {
    extend(trim(little_endian)).map(i64::from_le_bytes)
}

/// As few bytes of an integer as say the same.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let sign = if is_negative(bytes) { 0xff } else { 0 };
    let mut bytes = bytes;
    while let [rest @ .., last] = bytes
        && *last == sign
        && is_negative(rest) == (sign == 0xff)
    {
        bytes = rest;
    }
    bytes
}

fn is_negative(bytes: &[u8]) -> bool {
    bytes.last().is_some_and(|last| last & 0x80 != 0)
}

/// The same integer in exactly `N` bytes, if they are enough.
fn extend<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    let mut wide = [if is_negative(bytes) { 0xff } else { 0 }; N];
    wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(wide)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_the_same_integer() {
        for int in [0i64, 1, -1, 127, 128, -128, -129, 255, 256, i64::MAX, i64::MIN] {
            let wide = i128::from(int).to_le_bytes();
            assert_eq!(Some(int), small_int(&wide), "{int}");
            assert_eq!(Some(int), small_int(trim(&wide)), "{int}");
            assert_eq!(None, BigInt::new(&wide), "{int}");
        }
        assert_eq!(Some(0), small_int(&[]));
    }

    #[test]
    fn what_an_i64_does_not_hold_is_kept_whole() {
        for int in
            [i128::from(i64::MAX) + 1, i128::from(i64::MIN) - 1, i128::MAX, i128::MIN, -(1 << 72)]
        {
            let big = BigInt::new(&int.to_le_bytes()).unwrap();
            assert_eq!((Some(int), u128::try_from(int).ok()), (big.to_i128(), big.to_u128()));
            #[expect(clippy::cast_precision_loss, reason = "these are powers of two, nearly")]
            let float = int as f64;
            assert_eq!(Some(float.to_bits()), big.to_f64().map(f64::to_bits), "{int}");
        }
        let top = BigInt::new(&[&[0xff; 16][..], &[0]].concat()).unwrap();
        assert_eq!((None, Some(u128::MAX)), (top.to_i128(), top.to_u128()));
        let huge = BigInt::new(&[&[0; 400][..], &[0x80]].concat()).unwrap();
        assert_eq!((None, None), (huge.to_i128(), huge.to_u128()));
        assert_eq!(None, huge.to_f64());
    }
}
