//! The pseudo-terminal of a program that is run at a terminal.
//!
//! ```text
//!   person ══ terminal, raw ══ this process ══ master │ slave ══ the program's 0, 1, 2
//! ```
//!
//! The program's terminal does what the person's would: it turns Ctrl-C into SIGINT, echoes, edits
//! lines, has a size. The person's own only carries bytes meanwhile, and is put back as it was when
//! this ends, by whatever way but SIGKILL.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcgetwinsize,
    tcsetattr, tcsetwinsize, ttyname,
};

/// The most that is read at once in either direction. Nothing more is read before it is written.
const PIECE_BYTES: usize = 16 << 10;

/// How long the person's terminal may take no output after the program's end (Ctrl-S).
const STALL_MAX: Duration = Duration::from_secs(10);

/// Both terminals.
pub(crate) struct Terminal {
    /// The person's, opened anew so that reads and writes do not wait, which others would notice
    /// on the descriptor they share with us.
    person: File,
    master: OwnedFd,
    /// Kept open, so that the master never sees a hang-up while the program lives.
    slave: Option<OwnedFd>,
    /// The person's as it was, while it is raw.
    before: Option<Termios>,
    /// Typed, and not taken by the program's terminal yet.
    typed: Vec<u8>,
    /// Printed, and not taken by the person's terminal yet.
    printed: Vec<u8>,
    /// Whether the person may still type.
    listening: bool,
    /// Whether what was typed asks for this process to stop, too.
    must_suspend: bool,
}

impl Terminal {
    /// A terminal for a program, set up as the person's is.
    pub(crate) fn new(person: BorrowedFd<'_>) -> io::Result<Terminal> {
        let name = ttyname(person, Vec::new())?;
        let path = Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let person =
            OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        tcsetattr(&slave, OptionalActions::Now, &tcgetattr(&person)?)?;
        let mut terminal = Terminal {
            person,
            master,
            slave: Some(slave),
            before: None,
            typed: Vec::new(),
            printed: Vec::new(),
            listening: true,
            must_suspend: false,
        };
        terminal.resize();
        Ok(terminal)
    }

    /// What the program gets.
    pub(crate) fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_ref().expect("it is there until the end").as_fd()
    }

    /// Has the person's terminal carry bytes only, if it is this process's turn to use it: a shell
    /// may have started it in the background.
    pub(crate) fn take(&mut self) {
        let foreground = tcgetpgrp(&self.person)
            .is_ok_and(|group| group.as_raw_nonzero().get() == nix::unistd::getpgrp().as_raw());
        if self.before.is_some() || !foreground {
            return;
        }
        if let Ok(before) = tcgetattr(&self.person) {
            let mut raw = before.clone();
            raw.make_raw();
            if tcsetattr(&self.person, OptionalActions::Now, &raw).is_ok() {
                self.before = Some(before);
            }
        }
    }

    /// Puts the person's terminal back as it was.
    pub(crate) fn give_back(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = tcsetattr(&self.person, OptionalActions::Drain, &before);
        }
    }

    /// Gives the program's terminal the size of the person's, which tells the program.
    pub(crate) fn resize(&mut self) {
        if let Ok(size) = tcgetwinsize(&self.person) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// What to wait for.
    pub(crate) fn events(&self) -> [PollFd<'_>; 2] {
        let mut person = PollFlags::empty();
        let mut program = PollFlags::empty();
        let types = self.listening && self.before.is_some();
        person.set(PollFlags::POLLIN, types && self.typed.is_empty());
        person.set(PollFlags::POLLOUT, !self.printed.is_empty());
        program.set(PollFlags::POLLIN, self.printed.is_empty());
        program.set(PollFlags::POLLOUT, !self.typed.is_empty());
        [PollFd::new(self.person.as_fd(), person), PollFd::new(self.master.as_fd(), program)]
    }

    /// Carries what there is, in both directions, without waiting. `person` and `program` say what
    /// of [`Terminal::events`] has come.
    pub(crate) fn carry(&mut self, person: PollFlags, program: PollFlags) {
        if !person.is_empty() && self.listening && self.before.is_some() && self.typed.is_empty() {
            self.typed = match read_some(&self.person) {
                Ok(typed) => typed,
                Err(Errno::EAGAIN | Errno::EINTR) => Vec::new(),
                Err(_) => {
                    self.listening = false;
                    Vec::new()
                }
            };
            self.must_suspend |= self.typed.iter().any(|byte| Some(*byte) == self.suspend_key());
        }
        write_some(&self.master, &mut self.typed);
        if !program.is_empty() && self.printed.is_empty() {
            self.printed = read_some(&self.master).unwrap_or_default();
        }
        write_some(&self.person, &mut self.printed);
    }

    /// Whether the person has pressed the key that stops a program, since this was asked last. The
    /// program's terminal has stopped it, and a shell waits for this process to stop as well.
    pub(crate) fn must_suspend(&mut self) -> bool {
        let must = self.typed.is_empty() && std::mem::take(&mut self.must_suspend);
        if must && let Some(slave) = &self.slave {
            // The system hands on what was typed in its own time. Looking for input at the other
            // end makes it do so now: else a program could be stopped after it was continued.
            let _ = poll(&mut [PollFd::new(slave.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
            // The key's echo is to be seen before what the shell says, not after going on.
            if self.printed.is_empty() {
                self.printed = read_some(&self.master).unwrap_or_default();
            }
            write_some(&self.person, &mut self.printed);
        }
        must
    }

    /// The key that stops a program; none while the program takes all keys itself.
    fn suspend_key(&self) -> Option<u8> {
        let modes = tcgetattr(&self.master).ok()?;
        let key = modes.special_codes[SpecialCodeIndex::VSUSP];
        (modes.local_modes.contains(LocalModes::ISIG) && key != 0).then_some(key)
    }

    /// Carries what the program has printed last. It has ended, and nothing of it is left.
    pub(crate) fn finish(&mut self) {
        self.slave = None;
        self.listening = false;
        let mut give_up = Instant::now() + STALL_MAX;
        while Instant::now() < give_up {
            if self.printed.is_empty() {
                match read_some(&self.master) {
                    Ok(printed) => self.printed = printed,
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    // Nobody has the other end any more, and all of it has been read.
                    Err(_) => return,
                }
            }
            let before = self.printed.len();
            write_some(&self.person, &mut self.printed);
            if self.printed.len() < before {
                give_up = Instant::now() + STALL_MAX;
            } else if let Ok(wait) = PollTimeout::try_from(give_up - Instant::now()) {
                // A hang-up is reported unasked, and would end every wait at once.
                let mut events = self.events().into_iter().collect::<Vec<_>>();
                events.retain(|event| !event.events().is_empty());
                let _ = poll(&mut events, wait);
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What can be read at once; never nothing. The end of a terminal is an error.
fn read_some(from: &impl AsFd) -> Result<Vec<u8>, Errno> {
    let mut piece = vec![0; PIECE_BYTES];
    match read(from, &mut piece)? {
        0 => Err(Errno::EIO),
        count => {
            piece.truncate(count);
            Ok(piece)
        }
    }
}

/// Writes what is taken at once.
fn write_some(to: &impl AsFd, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        return;
    }
    match write(to, bytes) {
        Ok(count) => drop(bytes.drain(..count)),
        Err(Errno::EAGAIN | Errno::EINTR) => {}
        // It is gone, so nobody will ever see this.
        Err(_) => bytes.clear(),
    }
}
