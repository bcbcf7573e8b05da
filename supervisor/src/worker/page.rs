//! The page on which a worker says which calls it has begun: each has a place there, whichever, of
//! as many as the worker may have calls at once. Read when the worker is dead: a call whose id is
//! not there has not begun, and may be given to another worker.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use clutch_protocol::limits::LANES_MAX;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::uio::pread;
use nix::unistd::ftruncate;

/// One page of memory, the least that can be shared.
const PAGE_BYTES: u32 = 4096;

/// As many places as a worker can have lanes.
const PLACES: usize = LANES_MAX as usize;

const _: () = assert!(LANES_MAX * u64::BITS / 8 <= PAGE_BYTES);

/// A page that the daemon shares with one worker.
#[derive(Debug)]
pub struct Page(OwnedFd);

impl Page {
    /// A page on which no call has begun.
    ///
    /// # Errors
    ///
    /// When the system has no memory or descriptor left.
    pub fn new() -> io::Result<Page> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let page = match memfd_create(c"clutch-page", flags) {
            Ok(page) => page,
            // A sandbox may deny them.
            Err(Errno::EPERM | Errno::ENOSYS) => return Page::of_file(),
            Err(errno) => return Err(errno.into()),
        };
        ftruncate(&page, PAGE_BYTES.into())?;
        // A page that shrinks would end whoever looks at it, and one that grows take our memory.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&page, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Page(page))
    }

    /// The same in a file without a name. It cannot be sealed, but it is never mapped here, so a
    /// worker that shrinks it only proves nothing any more.
    fn of_file() -> io::Result<Page> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let page = open(&std::env::temp_dir(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        ftruncate(&page, PAGE_BYTES.into())?;
        Ok(Page(page))
    }

    /// Whether the worker can have begun a call. Both run on one machine, so the numbers are in its
    /// order of bytes.
    pub fn has_begun(&self, call: u64) -> bool {
        let mut bytes = [0; PLACES * size_of::<u64>()];
        match pread(&self.0, &mut bytes, 0) {
            Ok(count) if count == bytes.len() => {
                bytes.as_chunks().0.iter().any(|place| u64::from_ne_bytes(*place) == call)
            }
            // Memory of our own can be read; should it not be, nothing is proven.
            _ => true,
        }
    }

    /// What is handed to the worker.
    pub fn descriptor(&self) -> impl AsFd + '_ {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(page: &Page, place: i64, call: u64) {
        nix::sys::uio::pwrite(page.descriptor(), &call.to_ne_bytes(), place * 8).unwrap();
    }

    #[test]
    fn a_page_says_what_was_written_and_keeps_its_size() {
        let page = Page::new().unwrap();
        assert!(!page.has_begun(7));
        write(&page, 0, 7);
        write(&page, i64::from(LANES_MAX) - 1, 9);
        assert_eq!([true, true, false], [7, 9, 8].map(|call| page.has_begun(call)));
        write(&page, 0, 8);
        assert_eq!([false, true, true], [7, 9, 8].map(|call| page.has_begun(call)));
        assert!(ftruncate(page.descriptor(), 0).is_err());
        assert!(ftruncate(page.descriptor(), 1 << 20).is_err());
    }

    #[test]
    fn where_memory_cannot_be_shared_a_file_is_f147() {
        let page = Page::of_file().unwrap();
        assert!(!page.has_begun(7));
        write(&page, 0, 7);
        assert!(page.has_begun(7));
        ftruncate(page.descriptor(), 0).unwrap();
        assert!(page.has_begun(8), "nothing is proven any more");
    }
}
