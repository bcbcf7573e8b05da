//! Receiving bytes together with descriptors, which nix does only by number. All other `unsafe` of
//! the crate is in `memory::sys` (memory that is mapped) and `tensor::sys` (numbers seen as bytes).

#![expect(unsafe_code, reason = "one of the three files of this crate that may")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use clutch_protocol::limits::DESCRIPTORS_MAX;
use nix::libc;
use nix::sys::socket::MsgFlags;

/// Room for this many descriptors in one receive. One more than any frame may carry, so that a
/// daemon that sends more is found out.
const DESCRIPTOR_ROOM: usize = DESCRIPTORS_MAX as usize + 1;

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
