//! What makes two environments the same: a hash over everything they are made of.

use std::fmt::Write as _;

/// FNV-1a with 128 bits. It tells accidental differences apart, which is all it has to: whoever
/// writes declarations decides what is installed anyway.
#[derive(Clone, Debug)]
pub(super) struct Hasher(u128);

const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

impl Hasher {
    pub(super) fn new() -> Hasher {
        Hasher(BASIS)
    }

    /// Takes a named part. Lengths keep parts from running into one another.
    pub(super) fn part(&mut self, name: &str, value: &[u8]) {
        for bytes in [name.as_bytes(), value] {
            let length = (bytes.len() as u64).to_le_bytes();
            for byte in length.iter().chain(bytes) {
                self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(PRIME);
            }
        }
    }

    /// The hash in hexadecimal digits, 25 of its 32: folder names end up in the `#!` lines of an
    /// environment's scripts, which the system cuts at 255 bytes.
    pub(super) fn digits(&self) -> String {
        let mut digits = String::new();
        let _ = write!(digits, "{:032x}", self.0);
        digits.truncate(25);
        digits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(parts: &[(&str, &str)]) -> String {
        let mut hasher = Hasher::new();
        for (name, value) in parts {
            hasher.part(name, value.as_bytes());
        }
        hasher.digits()
    }

    #[test]
    fn parts_do_not_run_into_one_another() {
        let all = [
            hash(&[("a", "bc")]),
            hash(&[("ab", "c")]),
            hash(&[("a", "b"), ("c", "")]),
            hash(&[("a", "b"), ("", "c")]),
            hash(&[]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert_eq!(25, one.len());
            assert!(!all[index + 1..].contains(one), "{one}");
        }
        assert_eq!(hash(&[("a", "bc")]), all[0]);
    }
}
