//! The raw system calls of this crate, and all of its `unsafe`.
//!
//! nix and rustix cover nearly everything; what is left is a receive into memory that has not been
//! written yet, together with ancillary data, and taking ownership of descriptors the kernel made.

#![expect(unsafe_code, reason = "the one file of this crate that may")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use bytes::{BufMut, BytesMut};
use clutch_protocol::limits::DESCRIPTORS_MAX;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Room for this many descriptors in one receive: as many as one frame may have. The kernel says
/// when there were more, and closes those.
const DESCRIPTOR_ROOM: usize = DESCRIPTORS_MAX as usize;

/// Bytes of ancillary data for them, as `CMSG_LEN` would say, in words for their alignment: not one
/// descriptor more fits.
const CONTROL_WORDS: usize = 2 + (DESCRIPTOR_ROOM * size_of::<RawFd>()) / 8;

/// What one receive brought.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes appended to the buffer; 0 is the end of the stream.
    pub bytes: usize,
    /// Whether descriptors came along.
    pub descriptors: bool,
    /// Whether more came than there was room for, or than this process may have open.
    pub truncated: bool,
}

/// Makes large pieces of memory go back to the system as soon as they are free. The allocator of
/// the GNU C library keeps pieces of up to 32 MiB once a larger one was freed (`mallopt(3)`, the
/// dynamic threshold), and a daemon that passed a few large payloads on would stay large for ever.
/// For the program as a whole: not for a library.
pub fn give_large_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE_BYTES: libc::c_int = 1 << 20;
        // SAFETY: it sets two numbers of the allocator, under the allocator's own lock.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
            libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * LARGE_BYTES);
        }
    }
}

/// Watches a descriptor that nothing but this program's own kind of end can make readable.
///
/// # Errors
///
/// When the runtime cannot watch it.
pub fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, stays the same descriptor, and is closed by nobody else, for as
    // long as the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)
}

/// Receives at most `room` bytes into the spare room of `buffer` without waiting, and the
/// descriptors of at most one message with them. Every connection is read with this: a plain
/// `read` would drop descriptors without anybody being told.
///
/// # Errors
///
/// What `recvmsg` says; `WouldBlock` when there is nothing.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut BytesMut,
    room: usize,
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<Received> {
    let spare = buffer.chunk_mut();
    assert!(spare.len() > 0 && room > 0, "a receive needs room, or its zero would mean the end");
    let iov_len = spare.len().min(room);
    let mut part = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len };
    let mut control = [MaybeUninit::<u64>::uninit(); CONTROL_WORDS];
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message points at memory that outlives the call, with its true lengths; the
    // kernel writes at most that much of it.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let Ok(bytes) = usize::try_from(got) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: the kernel has written `bytes` bytes at the start of the spare room.
    unsafe { buffer.advance_mut(bytes) };
    let truncated = message.msg_flags & libc::MSG_CTRUNC != 0;
    let before = descriptors.len();
    // SAFETY: the header was filled in by the kernel, and is walked with the kernel's own macros.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let bytes = (*header).cmsg_len - libc::CMSG_LEN(0) as usize;
                let first = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes / size_of::<RawFd>() {
                    // The kernel has just made it for this message, and nobody else owns it.
                    descriptors.push(OwnedFd::from_raw_fd(first.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    assert!(descriptors.len() <= before + DESCRIPTOR_ROOM, "there is room for no more");
    Ok(Received { bytes, descriptors: descriptors.len() > before, truncated })
}

/// Takes a descriptor over that this process was started with.
///
/// # Errors
///
/// When it is not open.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: it only asks for flags; a number that is no descriptor is refused by the kernel.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and its owner is whoever was told its number at the start of this
    // process: the caller, who asks once, before anything else could have been given that number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
