//! The page on which a worker says which calls it has begun: each has a place there, whichever, of
//! as many as the worker may have calls at once. Read when the worker is dead: a call whose id is
//! not there has not begun, and may be given to another worker. As many places behind those say how
//! many items of the call have begun.

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

const _: () = assert!(2 * LANES_MAX * u64::BITS / 8 == PAGE_BYTES);

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
        // Memory of our own can be read; should it not be, nothing is proven.
        self.places(0).is_none_or(|places| places.contains(&call))
    }

    /// Which item of a call was the last to begin, from 0. None if none has, or if it has no items.
    pub fn item_of(&self, call: u64) -> Option<u64> {
        let place = self.places(0)?.iter().position(|place| *place == call)?;
        self.places(PLACES)?[place].checked_sub(1)
    }

    /// As many places as there are lanes.
    fn places(&self, first: usize) -> Option<[u64; PLACES]> {
        let mut bytes = [0; PLACES * size_of::<u64>()];
        let at = i64::try_from(first * size_of::<u64>()).expect("it is within a page");
        let count = pread(&self.0, &mut bytes, at).ok()?;
        let mut places = bytes.as_chunks().0.iter().map(|place| u64::from_ne_bytes(*place));
        (count == bytes.len()).then(|| std::array::from_fn(|_| places.next().unwrap_or_default()))
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
    fn a_call_has_the_item_of_its_own_place() {
        let page = Page::new().unwrap();
        let lanes = i64::from(LANES_MAX);
        write(&page, 1, 7);
        write(&page, lanes - 1, 9);
        assert_eq!([None, None], [7, 9].map(|call| page.item_of(call)), "no item has begun");
        write(&page, lanes + 1, 1);
        write(&page, 2 * lanes - 1, 500);
        assert_eq!([Some(0), Some(499), None], [7, 9, 8].map(|call| page.item_of(call)));
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
