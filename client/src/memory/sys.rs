//! Files in memory, as the system maps and leases them: what `crate::sys` gives its shapes to. The
//! other file of this crate that may be unsafe.

#![expect(unsafe_code, reason = "maps memory and asks the system for leases of it")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::libc;

use super::room;
use crate::sys::seals;

/// The size of a huge page, as nearly all systems that run Python have it; with another size, there
/// is just nothing to gain.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Of Linux 6.1 and newer; older ones refuse it.
const MADV_COLLAPSE: i32 = 25;

/// Lets a lease of this file be asked for, of which nobody is told when it is broken: by default
/// that would be a signal that kills.
pub(crate) fn prepare_lease(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    const F_SETSIG: i32 = 10;
    // SAFETY: it takes a number and touches no memory. The signal is one that is ignored by
    // default.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), F_SETSIG, libc::SIGURG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether no other open file of this memory is left, and no mapping of one: the system then lets
/// us lease it for writing, which is given up at once.
pub(crate) fn is_held_by_us_alone(descriptor: BorrowedFd<'_>) -> bool {
    let fd = descriptor.as_raw_fd();
    // SAFETY: both take a number and touch no memory.
    unsafe {
        libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}

/// A mapping of a whole file.
pub(crate) struct Mapping {
    pub(crate) start: NonNull<u8>,
    pub(crate) length: usize,
}

// SAFETY: the memory belongs to the process, not to a thread; how it may be used from several is
// what the types around a mapping decide.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file whose seals include `wanted`, those against shrinking and growing among them.
    pub(crate) fn new(
        descriptor: BorrowedFd<'_>,
        wanted: i32,
        protection: i32,
    ) -> io::Result<Mapping> {
        let seals = seals(descriptor);
        if seals & wanted != wanted {
            let fault = format!("it lacks seals: it has {seals:#x} and should have {wanted:#x}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, fault));
        }
        let of_length = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        assert_eq!(of_length, wanted & of_length, "its length must be fixed");
        let size = nix::sys::stat::fstat(descriptor)?.st_size;
        let length = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if length == 0 {
            return Ok(Mapping { start: NonNull::dangling(), length });
        }
        let fd = descriptor.as_raw_fd();
        // What nobody can write is the same either way, but Linux before 6.7 refuses to share it.
        let is_value = seals & libc::F_SEAL_WRITE != 0;
        let flags = if is_value { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
        let start = match length % HUGE_PAGE_BYTES {
            0 => map_aligned(fd, length, protection, flags)?,
            // SAFETY: a new mapping at an address the kernel chooses touches no memory of ours.
            _ => unsafe { mapped(std::ptr::null_mut(), length, protection, flags, fd)? },
        };
        Ok(Mapping { start, length })
    }

    /// Leaves it out of children that this process forks: a copy of a mapping that can write, in a
    /// child that is about to start a program, keeps the memory from being sealed.
    ///
    /// # Safety
    ///
    /// No fork goes on using it.
    pub(crate) unsafe fn keep_from_forks(&self) -> io::Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        let start = self.start.as_ptr().cast();
        // SAFETY: it is mapped with this length, and nothing changes for this process.
        match unsafe { libc::madvise(start, self.length, libc::MADV_DONTFORK) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Has memory that nobody has written yet made of huge pages, where the system has some: then
    /// it costs next to nothing to map, here and wherever it is sent. Whether it was.
    ///
    /// # Safety
    ///
    /// It is a mapping of this file, and nobody else has the memory.
    pub(crate) unsafe fn take_huge_pages(&self, descriptor: BorrowedFd<'_>) -> bool {
        let is_whole = self.length > 0 && self.length.is_multiple_of(HUGE_PAGE_BYTES);
        if !is_whole || !room::is_possible(self.length) {
            return false;
        }
        // The first one alone: a system that has none says so there.
        let is_made = |from: usize, to: usize| {
            // The system takes no huge page that is empty. What it has no memory for, it says.
            if !room::touch(descriptor, (from..to).step_by(HUGE_PAGE_BYTES)) {
                return false;
            }
            // SAFETY: it is mapped, in whole huge pages, and nobody looks; what the system will not
            // do changes nothing.
            unsafe {
                let start = self.start.as_ptr().add(from).cast();
                from == to || libc::madvise(start, to - from, MADV_COLLAPSE) == 0
            }
        };
        is_made(0, HUGE_PAGE_BYTES) && is_made(HUGE_PAGE_BYTES, self.length)
    }
}

/// A page that the kernel empties in whoever is forked from the process that made it. Numbers of
/// processes do not tell a fork: in a namespace of its own it can have its parent's.
pub(crate) struct Witness(Mapping);

impl Witness {
    pub(crate) fn new() -> io::Result<Witness> {
        // The least that can be mapped is a page, whatever is asked for.
        let length = 1;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address the kernel chooses touches no memory of ours.
        let start = unsafe { mapped(std::ptr::null_mut(), length, protection, flags, -1)? };
        let page = Mapping { start, length };
        // SAFETY: it is mapped, and holds nothing yet that a fork could miss.
        if unsafe { libc::madvise(start.as_ptr().cast(), length, libc::MADV_WIPEONFORK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let witness = Witness(page);
        witness.mark().store(1, Ordering::Relaxed);
        Ok(witness)
    }

    /// Whether this is the process that made it.
    pub(crate) fn is_at_home(&self) -> bool {
        self.mark().load(Ordering::Relaxed) == 1
    }

    fn mark(&self) -> &AtomicU8 {
        // SAFETY: the page is mapped for writing as long as `self` lives, in forks too, and is
        // reached as an atomic only.
        unsafe { self.0.start.cast().as_ref() }
    }
}

/// Maps whole huge pages at an address where they can be mapped as such.
fn map_aligned(fd: RawFd, length: usize, protection: i32, flags: i32) -> io::Result<NonNull<u8>> {
    let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
    let room = length.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_large)?;
    let nothing = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address the kernel chooses touches no memory of ours. Within it,
    // a part is replaced and the rest is given back, before anybody else knows of it.
    unsafe {
        let all = mapped(std::ptr::null_mut(), room, libc::PROT_NONE, nothing, -1)?;
        let before = all.align_offset(HUGE_PAGE_BYTES);
        let start = all.as_ptr().add(before);
        if let Err(error) = mapped(start.cast(), length, protection, flags | libc::MAP_FIXED, fd) {
            libc::munmap(all.as_ptr().cast(), room);
            return Err(error);
        }
        if before > 0 {
            libc::munmap(all.as_ptr().cast(), before);
        }
        libc::munmap(start.add(length).cast(), HUGE_PAGE_BYTES - before);
        Ok(NonNull::new_unchecked(start))
    }
}

/// # Safety
///
/// As `mmap`: with `MAP_FIXED`, what is there now is nobody else's.
unsafe fn mapped(
    at: *mut libc::c_void,
    length: usize,
    protection: i32,
    flags: i32,
    fd: RawFd,
) -> io::Result<NonNull<u8>> {
    // SAFETY: as the caller says.
    let start = unsafe { libc::mmap(at, length, protection, flags, fd, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(start.cast()).expect("the kernel maps nothing at address 0"))
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: it was mapped with this length, and whoever borrows from it is gone.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::memory::memfd::of_length;

    #[test]
    fn what_is_being_filled_is_not_forked() {
        let own = crate::sys::Own::map(of_length(4096).unwrap()).unwrap();
        let start = format!("{:x}-", own.place());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines().skip_while(|line| !line.starts_with(&start));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("it is mapped");
        assert!(flags.split_whitespace().any(|flag| flag == "dc"), "{flags}");
    }

    #[test]
    fn a_fork_is_told_from_the_process_that_it_is_a_copy_of() {
        let witness = Witness::new().unwrap();
        assert!(witness.is_at_home());
        // SAFETY: the child looks at one page of its own and exits.
        let child = unsafe { nix::unistd::fork() }.unwrap();
        let nix::unistd::ForkResult::Parent { child } = child else {
            let code = i32::from(witness.is_at_home());
            // SAFETY: it ends this process and runs nothing else of it.
            unsafe { libc::_exit(code) }
        };
        let ended = nix::sys::wait::waitpid(child, None).unwrap();
        assert_eq!(nix::sys::wait::WaitStatus::Exited(child, 0), ended);
        assert!(witness.is_at_home(), "it goes on");
    }

    #[test]
    #[should_panic(expected = "its length must be fixed")]
    fn half_of_a_fixed_length_is_none() {
        let descriptor = of_length(4096).unwrap();
        let mapped = Mapping::new(descriptor.as_fd(), libc::F_SEAL_GROW, libc::PROT_READ);
        assert!(mapped.is_err());
    }
}
