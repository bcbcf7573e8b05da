//! From the fork to the exec: what becomes python, and what it tells when it cannot.
//!
//! Behind the fork nothing allocates, waits or retries.
#![expect(unsafe_code, reason = "with `sys` the crate's place for it; each block says why")]

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use clutch_protocol::message::SpawnStage;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;
use nix::sched::sched_setaffinity;
use nix::sys::prctl;
use nix::sys::resource::setrlimit;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::umask;
use nix::unistd::{
    ForkResult, Pid, chdir, fork, getpid, getppid, setgroups, setpgid, setresgid, setresuid,
};

use crate::limits::Limits;
use crate::sys::set_disposition;

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

/// Every stage, so that the number of one names it.
const STAGES: [SpawnStage; 4] =
    [SpawnStage::Prepare, SpawnStage::Directory, SpawnStage::Execute, SpawnStage::Limits];

/// How many bytes a child tells at once: what, and an error number.
pub(crate) const TOLD_BYTES: usize = 5;

/// What a child tells that runs all the same: why it could not join its cgroup.
const NOT_JOINED: u8 = u8::MAX;

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

#[cfg(test)]
mod tests {
    use super::*;

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
