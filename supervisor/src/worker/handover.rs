//! The first frame of a guardian, with the descriptors that are its python's.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clutch_protocol::{Header, Kind};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// How long a guardian may take to read what it is to start. It reads first thing.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the guardian its first frame, with the descriptors that are python's.
pub(crate) fn hand_over(
    report: &UnixStream,
    kind: Kind,
    meta: &[u8],
    handed: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let meta_bytes = u32::try_from(meta.len()).expect("a meta is within its limit");
    let descriptors = u8::try_from(handed.len()).expect("there are at most four");
    let header = Header { descriptors, meta_bytes, ..Header::new(kind, 0) };
    let frame = [&header.encode()[..], meta].concat();
    let descriptors: Vec<_> = handed.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if handed.is_empty() { &[][..] } else { &rights[..] };
    report.set_write_timeout(Some(HANDOVER_TIMEOUT))?;
    let parts = [IoSlice::new(&frame)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    let sent = sendmsg::<()>(report.as_raw_fd(), &parts, rights, flags, None)?;
    let mut rest: &UnixStream = report;
    rest.write_all(&frame[sent..])
}
