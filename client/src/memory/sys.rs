//! Memory that is mapped.
//!
//! It is of three kinds, since a reference in Rust promises more than memory that another process
//! holds can keep: [`Still`], which is sealed against every change, so that it may be borrowed as a
//! slice; [`Live`], which others may write at any moment, so that bytes are only copied in and out;
//! and [`Own`], which nobody else has yet. None can become shorter, which each constructor checks
//! by the seals of the memory itself: a page behind the end would be a SIGBUS.

#![expect(unsafe_code, reason = "one of the three files of this crate that may")]

use std::io;
use std::mem::{align_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::tensor::Element;

/// Seals that keep memory as long as it is, for ever.
pub(crate) const LENGTH_SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Those, and the one that keeps what is in it.
pub(crate) const VALUE_SEALS: i32 = LENGTH_SEALS | libc::F_SEAL_WRITE;

/// Those, and the one that lets only mappings write that exist already.
pub(crate) const FUTURE_SEALS: i32 = LENGTH_SEALS | libc::F_SEAL_FUTURE_WRITE;

/// The seals of a file; none for one that is no memory.
pub(crate) fn seals(descriptor: BorrowedFd<'_>) -> i32 {
    fcntl(descriptor, FcntlArg::F_GET_SEALS).unwrap_or(0)
}

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
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the process, not to a thread; how it may be used from several is
// what the types around a mapping decide.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file whose seals include `wanted`, those against shrinking and growing among them.
    fn new(descriptor: BorrowedFd<'_>, wanted: i32, protection: i32) -> io::Result<Mapping> {
        let seals = seals(descriptor);
        if seals & wanted != wanted {
            let fault = format!("it lacks seals: it has {seals:#x} and should have {wanted:#x}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, fault));
        }
        assert!(
            wanted & (libc::F_SEAL_SHRINK | libc::F_SEAL_GROW) != 0,
            "its length must be fixed"
        );
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

    /// Has memory that nobody has written yet made of huge pages, where the system has some: then
    /// it costs next to nothing to map, here and wherever it is sent. Whether it was.
    ///
    /// # Safety
    ///
    /// The mapping can be written, and nobody else has the memory.
    unsafe fn take_huge_pages(&self) -> bool {
        if self.length == 0 || !self.length.is_multiple_of(HUGE_PAGE_BYTES) {
            return false;
        }
        // The first one alone: a system that has none says so there.
        let is_made = |from: usize, to: usize| {
            // SAFETY: it is mapped for writing, in whole huge pages, and nobody looks. A zero is
            // written over a zero, since the system takes no huge page that is empty; what it will
            // not do changes nothing.
            unsafe {
                for at in (from..to).step_by(HUGE_PAGE_BYTES) {
                    self.start.as_ptr().add(at).write_volatile(0);
                }
                let start = self.start.as_ptr().add(from).cast();
                from == to || libc::madvise(start, to - from, MADV_COLLAPSE) == 0
            }
        };
        is_made(0, HUGE_PAGE_BYTES) && is_made(HUGE_PAGE_BYTES, self.length)
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

/// Memory that nobody can change any more.
pub(crate) struct Still(Mapping);

impl Still {
    /// Maps memory that is sealed against everything.
    pub(crate) fn map(descriptor: BorrowedFd<'_>) -> io::Result<Still> {
        Mapping::new(descriptor, VALUE_SEALS, libc::PROT_READ).map(Still)
    }

    /// Maps memory that only `memory::reuse` of this process could write, and does not as long as
    /// there is another open file of it: one that this mapping holds.
    pub(crate) fn map_ours(reader: BorrowedFd<'_>) -> io::Result<Still> {
        Mapping::new(reader, FUTURE_SEALS, libc::PROT_READ).map(Still)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: that many bytes are mapped as long as `self` lives, and sealed: no process can
        // shorten the file or write into it, not even through a mapping it had before; or, if it is
        // ours, none but this one, which does not.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.length) }
    }
}

/// Memory that others may write while we look.
pub(crate) struct Live {
    mapping: Mapping,
    writable: bool,
}

impl Live {
    /// Maps memory whose length is sealed.
    pub(crate) fn map(descriptor: BorrowedFd<'_>, writable: bool) -> io::Result<Live> {
        let write = if writable { libc::PROT_WRITE } else { 0 };
        let mapping = Mapping::new(descriptor, LENGTH_SEALS, libc::PROT_READ | write)?;
        Ok(Live { mapping, writable })
    }

    /// The same for memory of our own that is not to be sealed further before it is mapped.
    pub(crate) fn map_before_its_seals(descriptor: BorrowedFd<'_>) -> io::Result<Live> {
        let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        let mapping = Mapping::new(descriptor, wanted, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: it is mapped for writing, and of our own: its seals show that nobody has it.
        unsafe { mapping.take_huge_pages() };
        Ok(Live { mapping, writable: true })
    }

    pub(crate) fn len(&self) -> usize {
        self.mapping.length
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Copies bytes out. What others write meanwhile may be seen in part, in pieces of eight
    /// aligned bytes at best.
    pub(crate) fn read(&self, at: usize, target: &mut [u8]) {
        let words = self.words(at, target.len());
        let (head, rest) = target.split_at_mut(words.head);
        let (body, tail) = rest.split_at_mut(words.body.len() * 8);
        for (byte, from) in head.iter_mut().zip(self.bytes(at, words.head)) {
            *byte = from.load(Ordering::Relaxed);
        }
        let (chunks, _) = body.as_chunks_mut::<8>();
        for (chunk, from) in chunks.iter_mut().zip(words.body) {
            *chunk = from.load(Ordering::Relaxed).to_ne_bytes();
        }
        let end = at + words.head + words.body.len() * 8;
        for (byte, from) in tail.iter_mut().zip(self.bytes(end, words.tail)) {
            *byte = from.load(Ordering::Relaxed);
        }
    }

    /// Copies bytes in, with the same caveat for who reads meanwhile.
    pub(crate) fn write(&self, at: usize, source: &[u8]) {
        assert!(self.writable, "it was mapped for reading only");
        let words = self.words(at, source.len());
        let (head, rest) = source.split_at(words.head);
        let (body, tail) = rest.split_at(words.body.len() * 8);
        for (byte, to) in head.iter().zip(self.bytes(at, words.head)) {
            to.store(*byte, Ordering::Relaxed);
        }
        let (chunks, _) = body.as_chunks::<8>();
        for (chunk, to) in chunks.iter().zip(words.body) {
            to.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
        let end = at + words.head + words.body.len() * 8;
        for (byte, to) in tail.iter().zip(self.bytes(end, words.tail)) {
            to.store(*byte, Ordering::Relaxed);
        }
    }

    /// The bytes from `at`, as what may change under us.
    fn bytes(&self, at: usize, length: usize) -> &[AtomicU8] {
        let end = at.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.mapping.length), "it is within the memory");
        // SAFETY: they are mapped, for reading at least, as long as `self` lives, and the length of
        // the file is sealed. Atomics may be changed by others at any moment. A store into memory
        // that is mapped for reading only is refused by `write` above.
        unsafe { std::slice::from_raw_parts(self.mapping.start.as_ptr().add(at).cast(), length) }
    }

    /// Cuts a range into the bytes before the first whole word, the words, and the bytes behind.
    fn words(&self, at: usize, length: usize) -> Words<'_> {
        let bytes = self.bytes(at, length);
        // SAFETY: atomics of both widths have no invalid values, and this process reaches the
        // memory through nothing but atomics.
        let (head, body, tail) = unsafe { bytes.align_to::<AtomicU64>() };
        Words { head: head.len(), body, tail: tail.len() }
    }
}

struct Words<'a> {
    head: usize,
    body: &'a [AtomicU64],
    tail: usize,
}

/// Memory of our own that is being filled, before anybody else has it.
pub(crate) struct Own {
    mapping: Mapping,
    descriptor: OwnedFd,
}

impl Own {
    /// Maps a new memfd, whose length has been sealed and whose descriptor was given to nobody.
    pub(crate) fn map(descriptor: OwnedFd) -> io::Result<Own> {
        let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let mapping = Mapping::new(descriptor.as_fd(), wanted, protection)?;
        Ok(Own { mapping, descriptor })
    }

    /// Its bytes, as elements; as many as there are whole ones.
    pub(crate) fn elements_mut<T: Element>(&mut self) -> &mut [T] {
        let count = self.mapping.length / size_of::<T>();
        assert!(align_of::<T>() <= 64, "a mapping is aligned far better than any element");
        let start = match count {
            0 => NonNull::<T>::dangling(),
            _ => self.mapping.start.cast(),
        };
        // SAFETY: they are mapped as long as `self` lives and borrowed once; its length is sealed;
        // a new memfd is zeros, which is a value of every element; nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), count) }
    }

    /// Has the system make it of huge pages, before it is written; whether it did.
    pub(crate) fn take_huge_pages(&self) -> bool {
        // SAFETY: it is mapped for writing, and was given to nobody.
        unsafe { self.mapping.take_huge_pages() }
    }

    /// What it is a mapping of.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Gives the memory back, no longer mapped.
    pub(crate) fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }
}
