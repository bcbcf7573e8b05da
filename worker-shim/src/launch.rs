//! From a `Spawn` to a running python.
//!
//! Leaves to others: the fork itself (`sys`), and what to do when python ends (`guardian`).

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use clutch_protocol::message::{Spawn, SpawnFailed, SpawnProgram, SpawnStage, Streams};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, pipe2, read};

use crate::child_sys::{self, Image};
use crate::limits;
use crate::report::SPAWN_DESCRIPTORS;
use crate::sys;

/// What stands in arguments for the numbers of the descriptors, in their order.
const PLACEHOLDERS: [&[u8]; SPAWN_DESCRIPTORS] = [b"{call}", b"{control}", b"{page}", b"{stack}"];

/// A python that was forked and has not been reaped.
pub(crate) struct Python {
    /// Its process id.
    pub(crate) pid: Pid,
    /// How its exec went.
    pub(crate) launch: Launch,
    /// Why it could not join its cgroup; 0 if it did, or was not to.
    pub(crate) cgroup_errno: i32,
}

/// What is known about the exec of a forked child.
pub(crate) enum Launch {
    /// Nothing yet. The pipe ends at the exec, or carries why there was none.
    Pending(OwnedFd),
    /// It runs.
    Done,
    /// It ends without ever having been python.
    Failed,
}

/// Forks, without waiting for the exec: a working directory on a dead file server can hold that up
/// for ever, and the guardian must hear the daemon meanwhile.
pub(crate) fn launch(
    spawn: Spawn,
    handed: &[OwnedFd; SPAWN_DESCRIPTORS],
) -> Result<Python, SpawnFailed> {
    let open_files = spawn.open_files;
    start(&image(spawn, handed).map_err(refused)?, open_files)
}

/// As [`launch`], for a program whose standard streams are a client's.
pub(crate) fn launch_program(
    program: SpawnProgram,
    streams: Vec<OwnedFd>,
) -> Result<Python, SpawnFailed> {
    let SpawnProgram { spawn, streams: Streams { open, terminal, ignored } } = program;
    let open_files = spawn.open_files;
    let image = image(spawn, &[]).and_then(|image| {
        let mut standard = [None, None, None];
        for (number, stream) in open.iter().zip(streams) {
            let place = standard.get_mut(usize::from(*number)).ok_or(Errno::EINVAL)?;
            // Above the numbers that are theirs in the end, so that none replaces another.
            *place = Some(sys::duplicate_high(stream.as_fd())?);
        }
        let terminal = terminal.and_then(|number| usize::try_from(number).ok());
        if let Some(number) = terminal {
            let terminal = standard.get(number).and_then(Option::as_ref).ok_or(Errno::EINVAL)?;
            sys::take_terminal(terminal.as_fd())?;
        }
        Ok(Image { streams: Some(child_sys::Streams { standard, terminal, ignored }), ..image })
    });
    start(&image.map_err(refused)?, open_files)
}

fn refused(errno: Errno) -> SpawnFailed {
    SpawnFailed { stage: SpawnStage::Prepare, errno: errno as i32 }
}

fn start(image: &Image, open_files: u64) -> Result<Python, SpawnFailed> {
    limit_open_files(open_files).map_err(refused)?;
    // Only this end may stay open here, or the pipe would not end at the exec.
    let (told, errors) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(refused)?;
    let pid = child_sys::fork_exec(image, errors.as_fd()).map_err(refused)?;
    Ok(Python { pid, launch: Launch::Pending(told), cgroup_errno: 0 })
}

impl Python {
    /// What to wait for while the launch is pending.
    pub(crate) fn pending(&self) -> Option<BorrowedFd<'_>> {
        match &self.launch {
            Launch::Pending(pipe) => Some(pipe.as_fd()),
            Launch::Done | Launch::Failed => None,
        }
    }

    /// How the launch went, once, if it is known by now.
    pub(crate) fn launched(&mut self) -> Option<Result<Pid, SpawnFailed>> {
        let Launch::Pending(pipe) = &self.launch else {
            return None;
        };
        loop {
            // What a child writes is shorter than what a pipe keeps in one piece.
            let mut told = [0; child_sys::TOLD_BYTES];
            let count = match read(pipe, &mut told) {
                Ok(count) => count,
                Err(Errno::EAGAIN | Errno::EINTR) => return None,
                Err(errno) => {
                    // The pipe is broken, and python may well run: say so, and let its end tell
                    // more.
                    assert_ne!(errno, Errno::EBADF, "the pipe is ours");
                    0
                }
            };
            if let Some((stage, errno)) = child_sys::spawn_error(&told[..count]) {
                self.launch = Launch::Failed;
                return Some(Err(SpawnFailed { stage, errno }));
            }
            if let Some(errno) = child_sys::cgroup_error(&told[..count]) {
                self.cgroup_errno = errno;
                continue;
            }
            self.launch = Launch::Done;
            return Some(Ok(self.pid));
        }
    }
}

/// Gives this process, and so python, the soft limit of open files that a person would have. The
/// guardian itself needs a dozen, and has them by now.
fn limit_open_files(soft: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)
}

fn image(spawn: Spawn, handed: &[OwnedFd]) -> nix::Result<Image> {
    let inherited: Vec<OwnedFd> = handed
        .iter()
        .map(|descriptor| sys::duplicate_high(descriptor.as_fd()))
        .collect::<nix::Result<_>>()?;
    let argument = |bytes: Vec<u8>| {
        let numbered = PLACEHOLDERS.iter().zip(&inherited);
        numbered.fold(bytes, |bytes, (name, descriptor)| {
            replace(&bytes, name, descriptor.as_raw_fd().to_string().as_bytes())
        })
    };
    if spawn.argv.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(Image {
        program: text(spawn.program)?,
        argv: spawn.argv.into_iter().map(argument).map(text).collect::<Result<_, _>>()?,
        environment: spawn.environment.into_iter().map(text).collect::<Result<_, _>>()?,
        directory: text(spawn.directory)?,
        inherited,
        limits: limits::prepare(spawn.limits)?,
        cgroup: match spawn.cgroup {
            none if none.is_empty() => None,
            directory => Some(text([&directory[..], b"/cgroup.procs"].concat())?),
        },
        streams: None,
    })
}

/// A string without a zero in it, since the system would read one as its end.
fn text(bytes: Vec<u8>) -> nix::Result<CString> {
    CString::new(bytes).map_err(|_| Errno::EINVAL)
}

/// `bytes` with every `from` replaced by `to`.
fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut result = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, behind)) = rest.split_first() {
        if let Some(behind) = rest.strip_prefix(from) {
            result.extend_from_slice(to);
            rest = behind;
        } else {
            result.push(*first);
            rest = behind;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced_wherever_they_stand() {
        let replaced = |bytes: &[u8]| replace(bytes, b"{call}", b"101");
        assert_eq!(b"--call=101,101".to_vec(), replaced(b"--call={call},{call}"));
        assert_eq!(b"{cal{101}".to_vec(), replaced(b"{cal{{call}}"));
        assert_eq!(b"\xff{calx}".to_vec(), replaced(b"\xff{calx}"));
        assert_eq!(b"".to_vec(), replaced(b""));
    }
}
