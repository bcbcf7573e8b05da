//! What the program that stands for another one (`clutch run`) needs of the system, beyond what
//! is safe: how it began, how it stops, and how it ends.
//!
//! Leaves to others: everything about guardians (`sys`).
#![expect(unsafe_code, reason = "with `sys` the crate's place for it; each block says why")]

use std::sync::atomic::{AtomicU8, Ordering};

use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal, raise};

use crate::sys::set_disposition;

/// Ends this process by a signal, as whoever it stands for was ended. Returns only if the signal
/// is none that ends a process.
pub fn die_by(signal: i32) {
    // The dead one's core dump is the one of interest.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    set_disposition(signal, libc::SIG_DFL);
    if let Ok(signal) = Signal::try_from(signal) {
        let mut only = SigSet::empty();
        only.add(signal);
        let _ = only.thread_unblock();
    }
    // SAFETY: a plain system call, which touches no memory.
    unsafe { libc::raise(signal) };
}

/// What became of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// This process was stopped, and somebody has continued it: a SIGCONT is pending.
    AndContinued,
    /// It was not.
    Not,
}

/// Stops this process as the key at a terminal does, with SIGTSTP: the system does not where no
/// shell is that could continue it, or the signal is ignored. SIGTSTP and SIGCONT must be blocked.
pub fn stop_as_by_a_key() -> Stopped {
    let mut only = SigSet::empty();
    only.add(Signal::SIGTSTP);
    // Delivered before the call returns: this process has one thread.
    let _ = raise(Signal::SIGTSTP).and_then(|()| only.thread_unblock());
    let _ = only.thread_block();
    // SAFETY: all zeroes is a valid `sigset_t`, which the call fills.
    let mut pending: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: both calls are given a set that outlives them.
    let continued = unsafe {
        libc::sigpending(&raw mut pending) == 0
            && libc::sigismember(&raw const pending, libc::SIGCONT) == 1
    };
    if continued { Stopped::AndContinued } else { Stopped::Not }
}

/// Which of 0, 1 and 2 were closed when the program began, as bits. By the time `main` runs, the
/// standard library has opened `/dev/null` in their places.
static CLOSED_AT_START: AtomicU8 = AtomicU8::new(0);

/// Has the C library look before anything else of the program runs.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_START: extern "C" fn() = look_at_start;

extern "C" fn look_at_start() {
    for number in 0..3 {
        // SAFETY: it only asks for flags; a number that is no descriptor is refused by the kernel.
        if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
            CLOSED_AT_START.fetch_or(1 << number, Ordering::Relaxed);
        }
    }
}

/// Which of the standard streams were closed when this program began.
pub fn closed_at_start() -> [bool; 3] {
    let closed = CLOSED_AT_START.load(Ordering::Relaxed);
    [0, 1, 2].map(|number| closed >> number & 1 == 1)
}
