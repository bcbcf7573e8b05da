//! What machine a program was made for, by the first bytes of its file.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The bytes of the header up to the machine's number.
const HEADER_BYTES: usize = 20;

/// Where the file says in which order its bytes are; 2 is the most significant first.
const ORDER_AT: usize = 5;
const BIG_ENDIAN: u8 = 2;

/// Where the machine's number is.
const MACHINE_AT: usize = 18;

/// The names of both machines, when a program was made for another one than this program.
pub(super) fn foreign(path: &Path) -> Option<(String, String)> {
    let (its, ours) = (machine(path)?, machine(Path::new("/proc/self/exe"))?);
    (its != ours).then(|| (name(its), name(ours)))
}

fn machine(path: &Path) -> Option<u16> {
    let mut header = [0; HEADER_BYTES];
    File::open(path).and_then(|mut file| file.read_exact(&mut header)).ok()?;
    machine_of(&header)
}

fn machine_of(header: &[u8; HEADER_BYTES]) -> Option<u16> {
    let number = [header[MACHINE_AT], header[MACHINE_AT + 1]];
    header.starts_with(b"\x7fELF").then(|| match header[ORDER_AT] {
        BIG_ENDIAN => u16::from_be_bytes(number),
        _ => u16::from_le_bytes(number),
    })
}

fn name(machine: u16) -> String {
    match machine {
        3 => "x86".to_owned(),
        8 => "mips".to_owned(),
        20 | 21 => "powerpc".to_owned(),
        22 => "s390".to_owned(),
        40 => "arm".to_owned(),
        62 => "x86_64".to_owned(),
        183 => "aarch64".to_owned(),
        243 => "riscv".to_owned(),
        258 => "loongarch".to_owned(),
        other => format!("machine number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_in_either_order_of_bytes() {
        let mut header = [0; HEADER_BYTES];
        assert_eq!(None, machine_of(&header));
        header[..4].copy_from_slice(b"\x7fELF");
        header[MACHINE_AT] = 183;
        assert_eq!(Some(183), machine_of(&header));
        (header[ORDER_AT], header[MACHINE_AT], header[MACHINE_AT + 1]) = (BIG_ENDIAN, 0, 22);
        assert_eq!(Some("s390".to_owned()), machine_of(&header).map(name));
    }

    #[test]
    fn this_program_was_made_for_this_machine() {
        assert_eq!(None, foreign(Path::new("/proc/self/exe")));
        assert_eq!(None, foreign(Path::new("/dev/null")));
    }
}
