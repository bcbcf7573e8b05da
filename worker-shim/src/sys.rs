//! Every system call of the guardian that needs `unsafe`, each behind a safe function.
//!
//! Leaves to others: every decision. Nothing here retries, waits or allocates after a fork.
#![expect(
    unsafe_code,
    reason = "with `child_sys` and `own_sys` the crate's place for it; each block says why"
)]

use std::ffi::c_int;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use clutch_protocol::limits::DESCRIPTORS_MAX;
use clutch_protocol::message::Exit;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;

/// From this number on descriptors are ours: user code that closes or replaces the first few, as
/// daemons do, does not meet them.
const DESCRIPTOR_FLOOR: u64 = 100;

/// Descriptors kept free below the limit, where the limit is so low that the floor must give way.
const DESCRIPTOR_SPARE: u64 = 8;

/// A child that ended and was waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reaped {
    /// How it ended.
    pub(crate) exit: Exit,
    /// Processor time in user code, in microseconds.
    pub(crate) user_us: u64,
    /// Processor time in the system, in microseconds.
    pub(crate) system_us: u64,
    /// The most memory it held, in bytes.
    pub(crate) peak_rss_bytes: u64,
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) {
    // SAFETY: the call touches no memory. The guardian calls this before it opened anything, so
    // no value of this program owns a descriptor that is closed here.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result != 0 {
        close_each_from(first);
    }
}

/// The same for kernels and sandboxes without `close_range`.
fn close_each_from(first: u32) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    // Collected first: closing while listing would close the listing, which is done by then.
    let open: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd: &RawFd| u32::try_from(*fd).is_ok_and(|fd| fd >= first))
        .collect();
    for fd in open {
        // SAFETY: as in `close_from`; a number that is no longer open is refused by the kernel.
        unsafe { libc::close(fd) };
    }
}

/// A close-on-exec duplicate with a high number.
pub(crate) fn duplicate_high(fd: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let floor = DESCRIPTOR_FLOOR.min(limit.saturating_sub(DESCRIPTOR_SPARE)).max(3);
    let floor = RawFd::try_from(floor).expect("it is at most 100");
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(floor))?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Gives every signal its default disposition, the two the C library keeps for itself included:
/// an ancestor may have ignored those as well, and its `signal` refuses to touch them.
pub(crate) fn reset_dispositions() {
    for signal in 1..=libc::SIGRTMAX() {
        set_disposition(signal, libc::SIG_DFL);
    }
}

/// Sets a signal to its default disposition or to be ignored. Safe after a fork.
pub(crate) fn set_disposition(signal: c_int, disposition: usize) {
    assert!(disposition == libc::SIG_DFL || disposition == libc::SIG_IGN, "no handler is ever set");
    // The kernel's `sigaction`, larger than on any architecture: the disposition, and then all
    // zeroes is no flags and an empty mask.
    let mut action = [0usize; 16];
    // The first word everywhere but on MIPS, where flags come first.
    action[0] = disposition;
    let old = ptr::null_mut::<u64>();
    let mask_bytes = libc::SIGRTMAX() / 8;
    // SAFETY: the kernel reads less than `action` holds and writes nothing. No handler is set, so
    // nothing can run in signal context. SIGKILL and SIGSTOP are refused: harmless.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, old, mask_bytes) };
}

/// Makes a terminal the controlling one of this session, which has none.
pub(crate) fn take_terminal(terminal: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: this request takes a number, and touches no memory of this process.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Receives at most `buffer.len()` bytes without waiting, and whatever descriptors came with them.
///
/// `ENOBUFS` says that more descriptors were sent than any frame may carry.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> nix::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX as usize]);
    let mut pieces = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut pieces,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel just put these descriptors into our table, for this message only.
            let owned = numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
            descriptors.extend(owned);
        }
    }
    Ok(message.bytes)
}

/// Whether any child has ended, and which: it stays unreaped, so its number stays its own.
/// `ECHILD` says that there is no child at all.
pub(crate) fn ended_child() -> nix::Result<Option<Pid>> {
    // SAFETY: all zeroes is a valid `siginfo_t`, the way the kernel leaves it if no child ended.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: `info` is writable for the whole call.
    Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) })?;
    // SAFETY: `waitid` fills the fields of a SIGCHLD, or leaves the zeroes.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then(|| Pid::from_raw(pid)))
}

/// Reaps a child that [`ended_child`] named.
pub(crate) fn reap(child: Pid) -> nix::Result<Reaped> {
    let mut status: c_int = 0;
    // SAFETY: all zeroes is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let flags = libc::WNOHANG | libc::__WALL;
    // SAFETY: both places are writable for the whole call.
    let result = unsafe { libc::wait4(child.as_raw(), &raw mut status, flags, &raw mut usage) };
    assert_eq!(child.as_raw(), Errno::result(result)?, "it was seen to have ended");
    Ok(Reaped {
        exit: if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        },
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        peak_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    })
}

/// Whether a signal has stopped `python`, or it goes on, if that has changed since it was asked
/// last. `python` must not have been reaped.
pub(crate) fn halt_of(python: Pid) -> Option<bool> {
    // SAFETY: all zeroes is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::__WALL;
    let id = libc::id_t::try_from(python.as_raw()).expect("a process id is positive");
    // SAFETY: `info` is writable for the whole call.
    Errno::result(unsafe { libc::waitid(libc::P_PID, id, &raw mut info, flags) }).ok()?;
    // SAFETY: `waitid` fills the fields of a SIGCHLD, or leaves the zeroes.
    let pid = unsafe { info.si_pid() };
    (pid != 0).then_some(info.si_code == libc::CLD_STOPPED)
}

/// A handle on a process that need not be our child.
pub(crate) fn open_process(process: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: the call touches no memory.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let fd = RawFd::try_from(Errno::result(opened)?).expect("a descriptor is an int");
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills the process behind a handle, and never another one.
pub(crate) fn kill_process(process: BorrowedFd<'_>) {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: no memory is passed; the descriptor is open for the whole call.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, info, 0)
    };
}

/// Sends a real-time signal to the main thread of `python`, which must not have been reaped.
pub(crate) fn signal_main_thread(python: Pid, number: c_int) {
    // SAFETY: a plain system call, which touches no memory. A first thread has the number of its
    // process.
    unsafe { libc::syscall(libc::SYS_tgkill, python.as_raw(), python.as_raw(), number) };
}

/// Gives freed memory back to the system: a guardian lives for days with what it needed once.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches free memory of the allocator only, under the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn microseconds(time: libc::timeval) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptors_are_closed_without_close_range_too_f169() {
        let stdin = std::io::stdin();
        let copies: Vec<RawFd> = (500..505)
            .map(|floor| fcntl(stdin.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(floor)).unwrap())
            .collect();
        close_each_from(500);
        for fd in copies {
            assert!(!std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists());
        }
    }
}
