//! Every system call of the guardian that needs `unsafe`, each behind a safe function.
//!
//! Leaves to others: every decision. Nothing here retries, waits or allocates after a fork.
#![expect(unsafe_code, reason = "with `own_sys` the crate's place for it; each block says why")]

use std::ffi::{CString, c_char, c_int};
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
    /// Its standard streams, where they are a client's and not the guardian's own.
    pub(crate) streams: Option<Streams>,
}

/// The standard streams of a client's program, and what belongs to them.
pub(crate) struct Streams {
    /// What 0, 1 and 2 become; none for one that is to be closed.
    pub(crate) standard: [Option<OwnedFd>; 3],
    /// Which of them is its controlling terminal.
    pub(crate) terminal: Option<usize>,
    /// The signals it ignores from its start on; signal 1 is the lowest bit.
    pub(crate) ignored: u64,
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
            let (stage, errno) = exec(image, &argv, &environment, guardian);
            let mut told = [stage as u8, 0, 0, 0, 0];
            told[1..].copy_from_slice(&(errno as i32).to_le_bytes());
            // SAFETY: both calls are safe after a fork, and `told` outlives the first. `_exit`
            // runs no destructor, so nothing of the guardian's is touched twice.
            unsafe {
                libc::write(errors.as_raw_fd(), told.as_ptr().cast(), told.len());
                libc::_exit(127)
            }
        }
    }
}

/// What a child that could not exec wrote; `None` if it wrote nothing, since it could.
pub(crate) fn spawn_error(told: &[u8]) -> Option<(SpawnStage, i32)> {
    let (&stage, errno) = told.split_first()?;
    let stage = STAGES.into_iter().find(|known| *known as u8 == stage)?;
    Some((stage, i32::from_le_bytes(errno.try_into().ok()?)))
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
    image.streams.as_ref().map_or(Ok(()), take_streams)
}

/// Makes a client's streams this process's own.
fn take_streams(streams: &Streams) -> nix::Result<()> {
    if let Some(terminal) = streams.terminal.and_then(|number| streams.standard[number].as_ref()) {
        // In the foreground, as what a shell starts. Every signal is blocked here, SIGTTOU too,
        // which would stop a process that does this from the background.
        // SAFETY: a plain system call on a descriptor that is open.
        Errno::result(unsafe { libc::tcsetpgrp(terminal.as_raw_fd(), libc::getpid()) })?;
    }
    for (number, stream) in (0..).zip(&streams.standard) {
        match stream {
            Some(stream) => {
                // SAFETY: both numbers are ours: the guardian's own streams lead to nothing, and
                // the copies are all above 2. A copy made this way outlives the exec.
                let copied = unsafe { libc::dup2(stream.as_raw_fd(), number) };
                Errno::result(copied)?;
            }
            None => {
                // SAFETY: as above; nobody in this process uses it any more.
                unsafe { libc::close(number) };
            }
        }
    }
    for signal in (1..=31).filter(|signal| streams.ignored >> (signal - 1) & 1 == 1) {
        set_disposition(signal, libc::SIG_IGN);
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
        && let Err(errno) = write_oom_score(&score[..*length])
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

fn write_oom_score(score: &[u8]) -> nix::Result<()> {
    let path = c"/proc/self/oom_score_adj";
    // SAFETY: the path is a string that outlives the call; nothing else is touched.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC) };
    Errno::result(fd)?;
    // SAFETY: `score` outlives the call, and `fd` was just opened, and is nobody else's.
    let written = unsafe { libc::write(fd, score.as_ptr().cast(), score.len()) };
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
    }
}
