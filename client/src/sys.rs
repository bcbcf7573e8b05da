//! The raw system calls of this crate, and all of its `unsafe` but for `memory::sys`.
//!
//! nix covers nearly everything; what is left is a receive together with descriptors, memory that
//! is mapped, and numbers seen as bytes and back.
//!
//! Mapped memory is of three kinds, since a reference in Rust promises more than memory that
//! another process holds can keep: [`Still`], which is sealed against every change, so that it may
//! be borrowed as a slice; [`Live`], which others may write at any moment, so that bytes are only
//! copied in and out; and [`Own`], which nobody else has yet. None can become shorter, which each
//! constructor checks by the seals of the memory itself: a page behind the end would be a SIGBUS.

#![expect(unsafe_code, reason = "the file of this crate that may")]

use std::io;
use std::mem::{MaybeUninit, align_of, size_of};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use clutch_protocol::dtype::DType;
use clutch_protocol::limits::DESCRIPTORS_MAX;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::socket::MsgFlags;

use crate::memory::sys::Mapping;

/// Room for this many descriptors in one receive. One more than any frame may carry, so that a
/// daemon that sends more is found out.
pub(crate) const DESCRIPTOR_ROOM: usize = DESCRIPTORS_MAX as usize + 1;

/// Bytes of ancillary data for them, as `CMSG_SPACE` would say, in words for their alignment.
const CONTROL_WORDS: usize = 2 + (DESCRIPTOR_ROOM * size_of::<RawFd>()).div_ceil(8) + 2;

/// What one receive brought.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    /// Bytes at the start of the buffer; 0 is the end of the stream.
    pub(crate) bytes: usize,
    /// Descriptors that came along. The kernel ends a receive behind the bytes that they came with.
    pub(crate) descriptors: usize,
    /// Whether more came than there was room for. The kernel has closed those.
    pub(crate) truncated: bool,
}

/// Receives bytes, and gives the descriptors that come along to `keep`. Every connection is read
/// with this: a plain `read` would drop descriptors without anybody being told.
///
/// # Errors
///
/// What `recvmsg` says.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: MsgFlags,
    keep: &mut dyn FnMut(OwnedFd),
) -> io::Result<Received> {
    assert!(!buffer.is_empty(), "a receive needs room, or its zero would mean the end");
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [MaybeUninit::<u64>::uninit(); CONTROL_WORDS];
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = (flags | MsgFlags::MSG_CMSG_CLOEXEC).bits();
    // SAFETY: the message points at memory that outlives the call, with its true lengths; the
    // kernel writes at most that much of it.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(bytes) = usize::try_from(got) else {
        return Err(io::Error::last_os_error());
    };
    let truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let mut descriptors = 0;
    // SAFETY: the header was filled in by the kernel, and is walked with the kernel's own macros.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    // The kernel has just made it for this message, and nobody else owns it.
                    keep(OwnedFd::from_raw_fd(first.add(index).read_unaligned()));
                    descriptors += 1;
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received { bytes, descriptors, truncated })
}

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

    /// The same for memory of our own that is not to be sealed further before it is mapped; and
    /// whether all of it is there already.
    pub(crate) fn map_before_its_seals(descriptor: BorrowedFd<'_>) -> io::Result<(Live, bool)> {
        let wanted = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        let mapping = Mapping::new(descriptor, wanted, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: it is mapped for writing, and of our own: its seals show that nobody has it.
        let is_there = unsafe { mapping.take_huge_pages(descriptor) };
        Ok((Live { mapping, writable: true }, is_there))
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
        let Words { head, body, tail } = self.words(at, target.len());
        let (first, rest) = target.split_at_mut(head.as_ref().map_or(0, Part::len));
        let (middle, last) = rest.split_at_mut(body.len() * 8);
        for (bytes, part) in [(first, head), (last, tail)] {
            if let Some(part) = part {
                bytes.copy_from_slice(&part.word.load(Ordering::Relaxed).to_ne_bytes()[part.bytes]);
            }
        }
        let (chunks, _) = middle.as_chunks_mut::<8>();
        for (chunk, from) in chunks.iter_mut().zip(body) {
            *chunk = from.load(Ordering::Relaxed).to_ne_bytes();
        }
    }

    /// Copies bytes in, with the same caveat for who reads meanwhile.
    pub(crate) fn write(&self, at: usize, source: &[u8]) {
        assert!(self.writable, "it was mapped for reading only");
        let Words { head, body, tail } = self.words(at, source.len());
        let (first, rest) = source.split_at(head.as_ref().map_or(0, Part::len));
        let (middle, last) = rest.split_at(body.len() * 8);
        for (bytes, part) in [(first, head), (last, tail)] {
            if let Some(part) = part {
                part.write(bytes);
            }
        }
        let (chunks, _) = middle.as_chunks::<8>();
        for (chunk, to) in chunks.iter().zip(body) {
            to.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
    }

    /// Cuts a range into a part of a word, whole words, and a part of a word. Memory that changes
    /// under us is reached by atomics of this one width only: what two threads do to the same bytes
    /// with different widths has no meaning in Rust.
    fn words(&self, at: usize, length: usize) -> Words<'_> {
        let end = at.checked_add(length).filter(|end| *end <= self.mapping.length);
        let end = end.expect("it is within the memory");
        if length == 0 {
            return Words { head: None, body: &[], tail: None };
        }
        // SAFETY: it is mapped, for reading at least, as long as `self` lives, and the length of
        // the file is sealed; its last word may go beyond that, but not beyond the page, of which
        // a mapping has whole ones. No mapping is aligned worse than a page. Atomics may be changed
        // by others at any moment, and have no invalid values. A store into memory that is mapped
        // for reading only is refused by `write` above.
        let all: &[AtomicU64] = unsafe {
            let start = self.mapping.start.cast().as_ptr();
            std::slice::from_raw_parts(start, self.mapping.length.div_ceil(8))
        };
        let part = |word: usize, bytes: Range<usize>| {
            (!bytes.is_empty()).then(|| Part { word: &all[word], bytes })
        };
        if length < 8 && at / 8 == (end - 1) / 8 {
            let head = part(at / 8, at % 8..at % 8 + length);
            return Words { head, body: &[], tail: None };
        }
        let (from, to) = (at.div_ceil(8), end / 8);
        let head = part(at / 8, at % 8..if at.is_multiple_of(8) { 0 } else { 8 });
        Words { head, body: all.get(from..to).unwrap_or(&[]), tail: part(to, 0..end % 8) }
    }
}

struct Words<'a> {
    head: Option<Part<'a>>,
    body: &'a [AtomicU64],
    tail: Option<Part<'a>>,
}

/// Some bytes of a word.
struct Part<'a> {
    word: &'a AtomicU64,
    bytes: Range<usize>,
}

impl Part<'_> {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Changes these, and leaves the others what they are, whoever writes them meanwhile.
    fn write(&self, source: &[u8]) {
        let changed = |word: u64| {
            let mut bytes = word.to_ne_bytes();
            bytes[self.bytes.clone()].copy_from_slice(source);
            Some(u64::from_ne_bytes(bytes))
        };
        let written = self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        assert!(written.is_ok(), "it is always changed");
    }
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
        // SAFETY: it is this process that fills it; what a fork has of the shelf, that forgets.
        unsafe { mapping.keep_from_forks()? };
        Ok(Own { mapping, descriptor })
    }

    /// Where it is mapped.
    #[cfg(test)]
    pub(crate) fn place(&self) -> usize {
        self.mapping.start.addr().get()
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
        unsafe { self.mapping.take_huge_pages(self.descriptor.as_fd()) }
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

/// What an array's elements are in Rust.
///
/// # Safety
///
/// Zeros are a value of it, it has no padding and no interior mutability, and every value of its
/// bytes is a value of it unless it is `bool`.
pub unsafe trait Element: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// What numpy calls it.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($type:ty = $dtype:ident,)*) => {
        $(
            // SAFETY: it is a number, or two of them without anything between.
            unsafe impl Element for $type {
                const DTYPE: DType = DType::$dtype;
            }
            const _: () = assert!(size_of::<$type>() == DType::$dtype.item_bytes());
        )*
    };
}

elements! {
    bool = Bool,
    i8 = I8, i16 = I16, i32 = I32, i64 = I64,
    u8 = U8, u16 = U16, u32 = U32, u64 = U64,
    f32 = F32, f64 = F64,
    [f32; 2] = C64, [f64; 2] = C128,
}

/// Elements as the bytes they are.
pub(crate) fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: an element has no padding, so each of its bytes is a byte.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Elements as bytes to be filled with bytes of valid elements.
pub(crate) fn fill_bytes<T: Element>(elements: &mut [T], fill: impl FnOnce(&mut [u8])) {
    let length = size_of_val(elements);
    if T::DTYPE == DType::Bool {
        let mut bytes = vec![0_u8; length];
        fill(&mut bytes);
        for (index, byte) in bytes.iter().enumerate() {
            let one: &[T] = elements_of(std::slice::from_ref(if *byte == 0 { &0 } else { &1 }))
                .expect("0 and 1 are booleans");
            elements[index] = one[0];
        }
        return;
    }
    // SAFETY: the bytes are borrowed once and have no padding, and whatever is written into them is
    // a value of an element that is no `bool`.
    fill(unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), length) });
}

/// Bytes as the elements they are; none where they are not whole ones, not aligned as these have to
/// be, or no booleans.
pub(crate) fn elements_of<T: Element>(bytes: &[u8]) -> Option<&[T]> {
    if T::DTYPE == DType::Bool && bytes.iter().any(|byte| *byte > 1) {
        return None;
    }
    // SAFETY: every value of its bytes is a value of an element, and of `bool` 0 and 1 are.
    let (head, body, tail) = unsafe { bytes.align_to::<T>() };
    (head.is_empty() && tail.is_empty()).then_some(body)
}
