//! Anonymous memory with a descriptor: made, filled and sealed. Nothing here has a name in the file
//! system, so nothing can be left behind: the kernel frees it with its last holder.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::pwrite;
use nix::unistd::ftruncate;

use super::room::{Backing, allocate};
use super::sys::HUGE_PAGE_BYTES;
use crate::limits::{HUGE_BYTES_MAX, HUGE_BYTES_MIN, SEAL_PAUSE, SEAL_WAIT};
use crate::sys::{Live, Own, Still};

/// What `/proc` says such memory is.
const NAME: &str = "clutch";

/// Bytes written at once. The system takes no more than 2 GiB less a page, and between two writes
/// a fatal signal is looked at.
const WRITE_BYTES: usize = 1 << 30;

/// Memory whose value is fixed, and its descriptor.
pub(crate) struct StillMemory {
    pub(crate) descriptor: Arc<OwnedFd>,
    pub(crate) memory: Still,
}

/// Memory that several processes share, and its descriptors.
pub(crate) struct SharedMemory {
    /// The one that can do what this process may do with it.
    pub(crate) descriptor: Arc<OwnedFd>,
    /// One that can only read.
    pub(crate) reader: Arc<OwnedFd>,
    pub(crate) memory: Live,
    /// What of it is there; none if all is, or that is not for this process to see to.
    backing: Option<Backing>,
}

impl SharedMemory {
    /// Copies bytes in.
    pub(crate) fn write(&self, at: usize, source: &[u8]) -> io::Result<()> {
        self.back(at, source.len())?;
        self.memory.write(at, source);
        Ok(())
    }

    /// Copies bytes out.
    pub(crate) fn read(&self, at: usize, target: &mut [u8]) -> io::Result<()> {
        // Even a look at a page that was never written makes the system find one.
        self.back(at, target.len())?;
        self.memory.read(at, target);
        Ok(())
    }

    fn back(&self, at: usize, length: usize) -> io::Result<()> {
        match &self.backing {
            Some(backing) => backing.back(self.descriptor.as_fd(), at as u64..(at + length) as u64),
            None => Ok(()),
        }
    }
}

/// New memory of no length.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(memfd_create(NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

/// Adds seals, those that keep its length among them.
pub(crate) fn seal(descriptor: BorrowedFd<'_>, seals: i32) -> io::Result<()> {
    fcntl(descriptor, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals)))?;
    Ok(())
}

/// Seals as a value what was mapped for writing.
fn seal_built(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    // Another thread can have forked between the mapping and its being kept from forks. That copy
    // is gone when the child starts its program, of which nobody is told.
    unless_busy(SEAL_WAIT, || seal(descriptor, crate::sys::VALUE_SEALS))
}

/// Tries until somebody else is done, or this time is over.
fn unless_busy(wait: Duration, mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let end = Instant::now() + wait;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::park_timeout(SEAL_PAUSE);
            }
            done => return done,
        }
    }
}

/// Its length.
pub(crate) fn size(descriptor: BorrowedFd<'_>) -> io::Result<u64> {
    u64::try_from(fstat(descriptor)?.st_size).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Writes all bytes at a place, however many.
pub(crate) fn write_at(descriptor: BorrowedFd<'_>, bytes: &[u8], at: u64) -> io::Result<()> {
    let (mut rest, mut at) = (bytes, at);
    while !rest.is_empty() {
        let offset = i64::try_from(at).map_err(|_| io::ErrorKind::FileTooLarge)?;
        match pwrite(descriptor, &rest[..rest.len().min(WRITE_BYTES)], offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                rest = &rest[count..];
                at += count as u64;
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The length that memory for so many bytes has: whole huge pages, where these pay and what is left
/// over is little.
pub(crate) fn huge_length(bytes: u64) -> u64 {
    if (HUGE_BYTES_MIN..=HUGE_BYTES_MAX).contains(&bytes) {
        return bytes.next_multiple_of(HUGE_PAGE_BYTES as u64);
    }
    bytes
}

/// New memory with room for so many bytes, whose length is sealed and nothing else.
pub(crate) fn of_length(bytes: u64) -> io::Result<OwnedFd> {
    of_exactly(huge_length(bytes))
}

/// New memory of this length, whose length is sealed and nothing else.
pub(crate) fn of_exactly(bytes: u64) -> io::Result<OwnedFd> {
    let descriptor = create()?;
    ftruncate(&descriptor, i64::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge)?)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    seal(descriptor.as_fd(), seals.bits())?;
    Ok(descriptor)
}

/// New memory that is filled where it is, and then never changes.
pub(crate) fn built(bytes: u64, fill: impl FnOnce(&mut Own)) -> io::Result<Arc<StillMemory>> {
    let mut own = Own::map(of_length(bytes)?)?;
    // What is larger may be mostly holes, for which nobody wants memory.
    if !own.take_huge_pages() && bytes <= HUGE_BYTES_MAX {
        allocate(own.descriptor(), 0..size(own.descriptor())?)?;
    }
    fill(&mut own);
    let descriptor = own.into_descriptor();
    // No mapping can write any more, or the system would refuse the seal.
    seal_built(descriptor.as_fd())?;
    let memory = Still::map(descriptor.as_fd())?;
    Ok(Arc::new(StillMemory { descriptor: Arc::new(descriptor), memory }))
}

/// Who may write memory that is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Whoever is given a descriptor that can.
    Given,
    /// This process alone, by the mapping that it has already.
    Us,
}

/// New memory to be shared, zeros.
pub(crate) fn shared(bytes: u64, writers: Writers) -> io::Result<Arc<SharedMemory>> {
    let descriptor = of_length(bytes)?;
    let (memory, is_there) = Live::map_before_its_seals(descriptor.as_fd())?;
    let backing = (!is_there).then(|| Backing::unknown(memory.len() as u64));
    seal(
        descriptor.as_fd(),
        match writers {
            Writers::Given => crate::sys::LENGTH_SEALS,
            Writers::Us => crate::sys::FUTURE_SEALS,
        },
    )?;
    let reader = Arc::new(reopened(descriptor.as_fd())?);
    Ok(Arc::new(SharedMemory { descriptor: Arc::new(descriptor), reader, memory, backing }))
}

/// The same memory, opened for reading only: the kernel then refuses a mapping that can write.
pub(crate) fn reopened(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    reopened_as(descriptor, OFlag::O_RDONLY)
}

/// The same memory, opened anew to be written.
pub(crate) fn reopened_to_write(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    reopened_as(descriptor, OFlag::O_RDWR)
}

fn reopened_as(descriptor: BorrowedFd<'_>, mode: OFlag) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    Ok(open(path.as_str(), mode | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Memory that came from elsewhere and that others may write; or that this process may, if `wish`
/// is to and the descriptor can.
pub(crate) fn adopt_shared(descriptor: OwnedFd, wish: bool) -> io::Result<Arc<SharedMemory>> {
    let mode = OFlag::from_bits_retain(fcntl(&descriptor, FcntlArg::F_GETFL)?) & OFlag::O_ACCMODE;
    let seals = crate::sys::seals(descriptor.as_fd());
    let frozen = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_FUTURE_WRITE;
    let writable = wish && mode == OFlag::O_RDWR && seals & frozen.bits() == 0;
    let memory = Live::map(descriptor.as_fd(), writable)?;
    let backing = writable.then(|| Backing::unknown(memory.len() as u64));
    let descriptor = Arc::new(descriptor);
    let reader = if mode == OFlag::O_RDONLY {
        Arc::clone(&descriptor)
    } else {
        Arc::new(reopened(descriptor.as_fd())?)
    };
    Ok(Arc::new(SharedMemory { descriptor, reader, memory, backing }))
}

/// Memory that came from elsewhere and never changes.
pub(crate) fn adopt_still(descriptor: OwnedFd) -> io::Result<Arc<StillMemory>> {
    let memory = Still::map(descriptor.as_fd())?;
    Ok(Arc::new(StillMemory { descriptor: Arc::new(descriptor), memory }))
}

/// Memory that [`reuse`](super::reuse) has sent and that came back: it is not written again as long
/// as this descriptor, or the mapping, is there.
pub(crate) fn adopt_ours(descriptor: OwnedFd) -> io::Result<Arc<StillMemory>> {
    let memory = Still::map_ours(descriptor.as_fd())?;
    Ok(Arc::new(StillMemory { descriptor: Arc::new(descriptor), memory }))
}

/// What is in shared memory now.
pub(crate) fn copied(shared: &SharedMemory) -> io::Result<Arc<StillMemory>> {
    let length = shared.memory.len();
    built(length as u64, |own| shared.memory.read(0, &mut own.elements_mut()[..length]))
}

/// Memory under construction to which buffers are added one behind the other.
pub(crate) struct Pile {
    /// None as long as nothing was added.
    file: Option<File>,
    /// The end of what is in it.
    end: u64,
}

impl Pile {
    pub(crate) fn new() -> Pile {
        Pile { file: None, end: 0 }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.file.is_none()
    }

    /// Where something of any length would be put.
    pub(crate) fn next(end: u64) -> u64 {
        end.next_multiple_of(clutch_protocol::limits::ATTACHMENT_ALIGNMENT)
    }

    /// Copies bytes to its end, aligned, and says where they are.
    pub(crate) fn add(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let at = Pile::next(self.end);
        self.end = at;
        self.extend(bytes)?;
        Ok(at)
    }

    /// Copies bytes right behind what was added last.
    pub(crate) fn extend(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::from(create()?),
        };
        write_at(self.file.insert(file).as_fd(), bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Seals it as a value.
    pub(crate) fn finish(self) -> io::Result<OwnedFd> {
        let descriptor = match self.file {
            Some(file) => OwnedFd::from(file),
            None => create()?,
        };
        seal(descriptor.as_fd(), crate::sys::VALUE_SEALS)?;
        Ok(descriptor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_for_a_moment_is_tried_again() {
        let outcome = |wait, busy: u32| {
            let mut left = busy;
            unless_busy(wait, || match left {
                0 => Ok(()),
                _ => {
                    left -= 1;
                    Err(io::ErrorKind::ResourceBusy.into())
                }
            })
        };
        assert!(outcome(Duration::from_secs(60), 3).is_ok());
        assert!(outcome(Duration::ZERO, u32::MAX).is_err(), "it is not tried for ever");
        let mut tries = 0;
        let refused = unless_busy(Duration::from_secs(60), || {
            tries += 1;
            Err(io::ErrorKind::PermissionDenied.into())
        });
        assert_eq!((1, io::ErrorKind::PermissionDenied), (tries, refused.unwrap_err().kind()));
    }

    fn held(descriptor: &OwnedFd) -> u64 {
        u64::try_from(fstat(descriptor).unwrap().st_blocks).unwrap() * 512
    }

    #[test]
    fn what_is_built_is_there_before_it_is_filled() {
        // Not of whole huge pages, and of some.
        for bytes in [(3_u64 << 20) + 5, 6 << 20] {
            let whole = of_length(bytes).and_then(|one| size(one.as_fd())).unwrap();
            let descriptor = Arc::clone(
                &built(bytes, |own| {
                    assert_eq!(whole.next_multiple_of(4096), held_by(own), "no store can fail");
                })
                .unwrap()
                .descriptor,
            );
            assert_eq!(whole.next_multiple_of(4096), held(&descriptor));
        }
        let sparse = built(HUGE_BYTES_MAX + 8, |_| ()).unwrap();
        assert_eq!(0, held(&sparse.descriptor), "it may be mostly holes");
    }

    fn held_by(own: &Own) -> u64 {
        held(&own.descriptor().try_clone_to_owned().unwrap())
    }

    #[test]
    fn what_is_shared_takes_the_memory_that_is_written() {
        let shared = shared((5 << 30) + 8, Writers::Us).unwrap();
        assert_eq!(0, held(&shared.descriptor));
        shared.write(4 << 30, &[7; 8]).unwrap();
        let mut back = [0; 9];
        shared.read((4 << 30) - 1, &mut back).unwrap();
        assert_eq!([0, 7, 7, 7, 7, 7, 7, 7, 7], back);
        assert!(held(&shared.descriptor) <= 256 << 10, "it stays sparse");
    }
}
