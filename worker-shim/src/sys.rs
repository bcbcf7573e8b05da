//! Every system call of the guardian that needs `unsafe`, each behind a safe function.
//!
//! Leaves to others: every decision. Nothing here retries, waits or allocates after a fork.
#![expect(unsafe_code, reason = "the crate's one file for it; each block says why it is sound")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use clutch_protocol::limits::DESCRIPTORS_MAX;
use clutch_protocol::message::{Exit, SpawnStage};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sched::sched_setaffinity;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::umask;
use nix::unistd::{
    ForkResult, Pid, chdir, fork, getpid, getppid, setgroups, setpgid, setresgid, setresuid,
};

use crate::limits::Limits;

/// From this number on descriptors are ours: user code that closes or replaces the first few, as
/// daemons do, does not meet them.
const DESCRIPTOR_FLOOR: u64 = 100;

/// Descriptors kept free below the limit, where the limit is so low that the floor must give way.
const DESCRIPTOR_SPARE: u64 = 8;

/// What python's process is made of, allocated before the fork.
pub(crate) struct Image {
    /// The interpreter.
    pub(crate) program: CString,
    /// Its arguments.
    pub(crate) argv: Vec<CString>,
    /// Its environment.
    pub(crate) environment: Vec<CString>,
    /// Its working directory.
    pub(crate) directory: CString,
    /// The descriptors it keeps.
    pub(crate) inherited: Vec<OwnedFd>,
    /// What its pool asks for it.
    pub(crate) limits: Limits,
    /// The file that makes whoever writes to it a member of a cgroup.
    pub(crate) cgroup: Option<CString>,
}

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

/// Every stage, so that the number of one names it.
const STAGES: [SpawnStage; 4] =
    [SpawnStage::Prepare, SpawnStage::Directory, SpawnStage::Execute, SpawnStage::Limits];

/// How many bytes a child tells at once: what, and an error number.
pub(crate) const TOLD_BYTES: usize = 5;

/// What a child tells that runs all the same: why it could not join its cgroup.
const NOT_JOINED: u8 = u8::MAX;

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
    // The kernel's `sigaction`, larger than on any architecture: all zeroes is `SIG_DFL`, no flags
    // and an empty mask.
    let default = [0u64; 8];
    let mask_bytes = libc::SIGRTMAX() / 8;
    for signal in 1..=libc::SIGRTMAX() {
        let old = ptr::null_mut::<u64>();
        // SAFETY: the kernel reads less than `default` holds and writes nothing. No handler is set,
        // so nothing can run in signal context. SIGKILL and SIGSTOP are refused: harmless.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, old, mask_bytes)
        };
    }
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

/// Forks, and makes the child the process `image` describes. A child that fails writes what
/// [`spawn_error`] reads to `errors`, which must be close-on-exec.
pub(crate) fn fork_exec(image: &Image, errors: BorrowedFd<'_>) -> nix::Result<Pid> {
    let argv = pointers(&image.argv);
    let environment = pointers(&image.environment);
    assert!(argv.last() == Some(&ptr::null()), "execve reads up to a null");
    assert!(environment.last() == Some(&ptr::null()), "execve reads up to a null");
    let guardian = getpid();
    // SAFETY: this process has one thread, so no lock can be held by another one, and the child
    // goes on with system calls only, none of which allocates.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => {
            // The child does this too; whoever is first, the group exists when we return.
            let _ = setpgid(child, child);
            Ok(child)
        }
        ForkResult::Child => {
            // First, while it may: python's user need not be the daemon's.
            if let Some(procs) = &image.cgroup
                && let Err(errno) = write_text(procs, b"0")
            {
                tell(errors, NOT_JOINED, errno);
            }
            let (stage, errno) = exec(image, &argv, &environment, guardian);
            tell(errors, stage as u8, errno);
            // SAFETY: safe after a fork. It runs no destructor, so nothing of the guardian's is
            // touched twice.
            unsafe { libc::_exit(127) }
        }
    }
}

fn tell(errors: BorrowedFd<'_>, what: u8, errno: Errno) {
    let mut told = [what, 0, 0, 0, 0];
    told[1..].copy_from_slice(&(errno as i32).to_le_bytes());
    // SAFETY: safe after a fork, and `told` outlives the call.
    unsafe { libc::write(errors.as_raw_fd(), told.as_ptr().cast(), told.len()) };
}

/// Why a child could not exec, from one piece of what it told; `None` if this says something else.
pub(crate) fn spawn_error(told: &[u8]) -> Option<(SpawnStage, i32)> {
    let (&stage, errno) = told.split_first()?;
    let stage = STAGES.into_iter().find(|known| *known as u8 == stage)?;
    Some((stage, i32::from_le_bytes(errno.try_into().ok()?)))
}

/// Why a child could not join its cgroup, from one piece of what it told.
pub(crate) fn cgroup_error(told: &[u8]) -> Option<i32> {
    let (&NOT_JOINED, errno) = told.split_first()? else {
        return None;
    };
    Some(i32::from_le_bytes(errno.try_into().ok()?))
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

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// The child's half: returns only if it failed.
fn exec(
    image: &Image,
    argv: &[*const c_char],
    environment: &[*const c_char],
    guardian: Pid,
) -> (SpawnStage, Errno) {
    if let Err(errno) = prepare(image, guardian) {
        return (SpawnStage::Prepare, errno);
    }
    if let Err(errno) = apply(&image.limits, guardian) {
        return (SpawnStage::Limits, errno);
    }
    // With python's own rights: a directory it may not enter is of no use to it.
    if let Err(errno) = chdir(image.directory.as_c_str()) {
        return (SpawnStage::Directory, errno);
    }
    // Last, so that no signal ends the child where it could not have said why.
    if let Err(errno) = SigSet::empty().thread_set_mask() {
        return (SpawnStage::Prepare, errno);
    }
    // SAFETY: the strings belong to `image`, which outlives the call, and both lists end in null.
    unsafe { libc::execve(image.program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    (SpawnStage::Execute, Errno::last())
}

fn prepare(image: &Image, guardian: Pid) -> nix::Result<()> {
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    die_with(guardian)?;
    for fd in &image.inherited {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

/// Has the kernel kill this process when its guardian dies.
fn die_with(guardian: Pid) -> nix::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() != guardian {
        // It died before the line above, so its death signal was lost.
        return Err(Errno::ESRCH);
    }
    Ok(())
}

/// Applies what the pool asks for: first what may need rights, then what takes them away.
fn apply(limits: &Limits, guardian: Pid) -> nix::Result<()> {
    if let Some((score, length, required)) = &limits.oom_score
        && let Err(errno) = write_text(c"/proc/self/oom_score_adj", &score[..*length])
        && *required
    {
        return Err(errno);
    }
    if let Some(cpus) = &limits.cpus {
        sched_setaffinity(Pid::from_raw(0), cpus)?;
    }
    if let Some(nice) = limits.nice {
        // SAFETY: a plain system call, which touches no memory.
        Errno::result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    }
    if let Some(mask) = limits.umask {
        umask(mask);
    }
    for (resource, soft, hard) in &limits.resources {
        setrlimit(*resource, *soft, *hard)?;
    }
    let Some(identity) = &limits.identity else {
        return Ok(());
    };
    setgroups(&identity.groups)?;
    setresgid(identity.group, identity.group, identity.group)?;
    setresuid(identity.user, identity.user, identity.user)?;
    // A change of user takes the death signal away; and no set-user-id program may undo it.
    die_with(guardian)?;
    prctl::set_no_new_privs()
}

/// Writes to a file of the kernel's, without allocating.
fn write_text(path: &CStr, text: &[u8]) -> nix::Result<()> {
    // SAFETY: the path is a string that outlives the call; nothing else is touched.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    Errno::result(fd)?;
    // SAFETY: `text` outlives the call, and `fd` was just opened, and is nobody else's.
    let written = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
    let result = Errno::result(written).map(drop);
    // SAFETY: as above; it is closed once.
    unsafe { libc::close(fd) };
    result
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

    #[test]
    fn what_a_child_tells_is_what_is_read() {
        let told = [&[SpawnStage::Execute as u8][..], &2i32.to_le_bytes()].concat();
        assert_eq!(Some((SpawnStage::Execute, 2)), spawn_error(&told));
        assert_eq!(None, spawn_error(&[]));
        assert_eq!(None, spawn_error(&[9, 0, 0, 0, 0]));
        let note = [NOT_JOINED, 13, 0, 0, 0];
        assert_eq!((None, Some(13)), (spawn_error(&note), cgroup_error(&note)));
        assert_eq!(None, cgroup_error(&told));
    }
}
