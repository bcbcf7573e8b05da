//! The standard streams of this process, and what else of it a program has that python would
//! inherit: its file mode creation mask, and the signals it ignores.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::{array, io};

use nix::sys::signal::Signal;
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{dup2_stdin, dup2_stdout};
use rustix::termios::isatty;

/// 0, 1 and 2 of this process, as far as they were open when it began.
pub(crate) struct Stdio {
    streams: [Option<OwnedFd>; 3],
}

impl Stdio {
    /// Copies of the standard streams.
    pub(crate) fn of_this_process() -> Stdio {
        let closed = clutch_worker_shim::closed_at_start();
        let copies = [
            io::stdin().as_fd().try_clone_to_owned(),
            io::stdout().as_fd().try_clone_to_owned(),
            io::stderr().as_fd().try_clone_to_owned(),
        ];
        let mut copies = copies.map(Result::ok);
        Stdio { streams: array::from_fn(|n| copies[n].take().filter(|_| !closed[n])) }
    }

    /// The numbers of those that are open.
    pub(crate) fn open(&self) -> Vec<u8> {
        (0..3).filter(|number| self.streams[usize::from(*number)].is_some()).collect()
    }

    /// The terminal that a person types at, if this process has it to itself. In a pipeline it is
    /// shared with others, who may set it up in their own way.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        let stdin = self.streams[0].as_ref().filter(|stdin| isatty(stdin))?;
        let is_pipe = |stream: &OwnedFd| {
            fstat(stream).is_ok_and(|stat| {
                let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
                kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK
            })
        };
        (!self.streams.iter().flatten().any(is_pipe)).then_some(stdin.as_fd())
    }

    /// The streams in order, with another terminal in the place of the one at which a person types.
    pub(crate) fn into_streams(self, terminal: Option<BorrowedFd<'_>>) -> io::Result<Vec<OwnedFd>> {
        let device = |stream: &OwnedFd| fstat(stream).ok().map(|stat| stat.st_rdev);
        let typed_at = self.streams[0].as_ref().and_then(device);
        let replaced = |stream: OwnedFd| match terminal {
            Some(terminal) if isatty(&stream) && device(&stream) == typed_at => {
                terminal.try_clone_to_owned()
            }
            _ => Ok(stream),
        };
        self.streams.into_iter().flatten().map(replaced).collect()
    }
}

/// Lets go of this process's own input and output once the program has them: what is at their other
/// ends sees the program close them, and not this process. Errors are still to be said.
pub(crate) fn let_go() {
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        // On failure they are let go of at the end.
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
    }
}

/// What else a program has of whoever started it.
pub(crate) struct Own {
    pub(crate) umask: u32,
    /// Signal 1 is the lowest bit.
    pub(crate) ignored: u64,
}

impl Own {
    /// As the system tells it.
    pub(crate) fn read() -> Own {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Own::parse(&status)
    }

    fn parse(status: &str) -> Own {
        let number = |name: &str, radix| {
            let text = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(text.trim(), radix).ok()
        };
        let umask = number("Umask:", 8).and_then(|mask| u32::try_from(mask).ok());
        // Rust's own runtime ignores this one, and nobody asked for that.
        let pipe = 1 << (Signal::SIGPIPE as u64 - 1);
        let ignored = number("SigIgn:", 16).unwrap_or(0) & !pipe;
        Own { umask: umask.unwrap_or(0o022), ignored }
    }

    /// Whether a signal is ignored.
    pub(crate) fn ignores(&self, signal: Signal) -> bool {
        self.ignored >> (signal as u64 - 1) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_understood() {
        let own = Own::parse("Name:\tclutch\nUmask:\t0027\nSigIgn:\t0000000000001001\n");
        assert_eq!(0o027, own.umask);
        assert!(own.ignores(Signal::SIGHUP));
        assert!(!own.ignores(Signal::SIGPIPE) && !own.ignores(Signal::SIGINT));
        assert_eq!((0o022, 0), (Own::parse("").umask, Own::parse("").ignored));
    }
}
