//! Memory that is there before anything is stored into it. A page of a file is only found when it
//! is first touched, and where the system has none then (a control group's limit, strict
//! overcommit, a quota), the touch is a SIGBUS that ends the program. Asked for beforehand, it is
//! an error. It costs nothing: to find a hundred megabytes at once is faster than as many faults.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::sysinfo::sysinfo;

use crate::limits::{ALLOCATE_BYTES, BACKED_BLOCK_BYTES};

/// Has the system find memory for these bytes of a file, which go on being what they are.
pub(crate) fn allocate(descriptor: BorrowedFd<'_>, bytes: Range<u64>) -> io::Result<()> {
    if bytes.end - bytes.start > everything() {
        // It would take all there is first, and with it every other program's.
        return Err(Errno::ENOMEM.into());
    }
    let mut at = bytes.start;
    while at < bytes.end {
        let length = ALLOCATE_BYTES.min(bytes.end - at);
        let signed = |place: u64| i64::try_from(place).map_err(|_| io::ErrorKind::FileTooLarge);
        let (offset, length_signed) = (signed(at)?, signed(length)?);
        match fallocate(descriptor, FallocateFlags::empty(), offset, length_signed) {
            Ok(()) => at += length,
            // By any signal, even one that is then ignored.
            Err(Errno::EINTR) => {}
            // A system that knows no such call finds the pages when they are touched.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// All memory that this machine has, used or not.
fn everything() -> u64 {
    sysinfo().map_or(u64::MAX, |info| info.ram_total().saturating_add(info.swap_total()))
}

/// Which blocks of memory that may stay sparse are known to be there.
pub(crate) struct Backing {
    length: u64,
    /// A bit for each block.
    blocks: Box<[AtomicU64]>,
}

impl Backing {
    /// Nothing is known of so many bytes.
    pub(crate) fn unknown(length: u64) -> Backing {
        let words = length.div_ceil(BACKED_BLOCK_BYTES).div_ceil(64);
        Backing { length, blocks: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Sees to it that bytes are there, which are within the memory.
    pub(crate) fn back(&self, descriptor: BorrowedFd<'_>, bytes: Range<u64>) -> io::Result<()> {
        assert!(bytes.end <= self.length, "it is within the memory");
        if bytes.is_empty() {
            return Ok(());
        }
        for block in bytes.start / BACKED_BLOCK_BYTES..=(bytes.end - 1) / BACKED_BLOCK_BYTES {
            let word = usize::try_from(block / 64).expect("each word is in memory");
            let (word, bit) = (&self.blocks[word], 1 << (block % 64));
            // Whoever sees the bit sees it because the system call was over; nothing else of this
            // process's memory hangs on it.
            if word.load(Ordering::Relaxed) & bit == 0 {
                let start = block * BACKED_BLOCK_BYTES;
                allocate(descriptor, start..(start + BACKED_BLOCK_BYTES).min(self.length))?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Writes a zero over the zero at each of these places: whether there was memory for all.
pub(crate) fn touch(descriptor: BorrowedFd<'_>, mut places: impl Iterator<Item = usize>) -> bool {
    places.all(|place| super::memfd::write_at(descriptor, &[0], place as u64).is_ok())
}

/// Whether so much could ever be had.
pub(crate) fn is_possible(bytes: usize) -> bool {
    bytes as u64 <= everything()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::stat::fstat;

    use super::*;
    use crate::memory::memfd::of_exactly;

    fn held(descriptor: BorrowedFd<'_>) -> u64 {
        u64::try_from(fstat(descriptor).unwrap().st_blocks).unwrap() * 512
    }

    #[test]
    fn only_the_blocks_that_are_asked_for_are_there() {
        let length = 10 * BACKED_BLOCK_BYTES + 5000;
        let memory = of_exactly(length).unwrap();
        let backing = Backing::unknown(length);
        backing.back(memory.as_fd(), 7..7).unwrap();
        assert_eq!(0, held(memory.as_fd()));
        backing.back(memory.as_fd(), 100..101).unwrap();
        assert_eq!(BACKED_BLOCK_BYTES, held(memory.as_fd()));
        let edge = 3 * BACKED_BLOCK_BYTES;
        backing.back(memory.as_fd(), edge - 1..edge + 1).unwrap();
        assert_eq!(3 * BACKED_BLOCK_BYTES, held(memory.as_fd()));
        backing.back(memory.as_fd(), length - 1..length).unwrap();
        assert_eq!(3 * BACKED_BLOCK_BYTES + 8192, held(memory.as_fd()));
        backing.back(memory.as_fd(), 0..length).unwrap();
        assert_eq!(length.next_multiple_of(4096), held(memory.as_fd()));
    }

    #[test]
    fn what_is_not_to_be_had_is_an_error() {
        let memory = of_exactly(1 << 46).unwrap();
        let refused = allocate(memory.as_fd(), 0..1 << 46).unwrap_err();
        assert_eq!(io::ErrorKind::OutOfMemory, refused.kind());
        assert_eq!(0, held(memory.as_fd()), "nothing was taken for what cannot be");
        // Huge pages that are reserved are as scarce as a quota; a system may know none.
        let huge = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB;
        if let Ok(memory) = memfd_create("clutch", huge) {
            let bytes = 1_u64 << 40;
            nix::unistd::ftruncate(&memory, i64::try_from(bytes).unwrap()).unwrap();
            let backing = Backing::unknown(bytes);
            let refused = backing.back(memory.as_fd(), bytes - 1..bytes).unwrap_err();
            let kind = refused.kind();
            assert!(matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory));
        }
    }
}
