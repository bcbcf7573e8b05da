//! Memory for copies that is used again, since new memory costs more than the copy into it: each of
//! its pages has to be found, zeroed and mapped.
//!
//! What was sent by value must never change. So memory is written again only when the kernel says
//! that nobody else can see it any more: receivers are given a descriptor that was opened for
//! reading, and as long as anybody has that, or a mapping of it, in a process, a forked child or a
//! message under way, the file cannot be leased for writing by us. No receiver is trusted or asked.
//! One that keeps an array for ever just keeps its memory.
//!
//! ```text
//!   take ──leased?──► fill ──open for reading──► send          receivers: descriptor, mapping
//!     ▲                 │                                              │
//!     └──── shelf ◄─────┘              the lease is refused until they are gone
//! ```
//!
//! The mapping that writes exists before the seal against writing, and is the only one ever.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::stat::fstat;

use super::memfd::{Pile, huge_length, of_exactly, reopened, reopened_to_write, seal, write_at};
use super::room::allocate;
use super::sys::{Witness, is_held_by_us_alone, prepare_lease};
use crate::limits::{REUSED_BUFFERS_MAX, REUSED_BYTES_MAX, REUSED_BYTES_MIN};
use crate::sys::{FUTURE_SEALS, Own};

/// What may be used again, of all clients of the process that came to this first.
static FIRST: OnceLock<Shelf> = OnceLock::new();

/// What the clients of one process may use again.
#[derive(Default)]
struct Shelf {
    /// Tells a fork, which has the memory's descriptors too, but must leave it alone. It has a
    /// shelf of its own: another thread may have held this one's lock when it was forked. None
    /// where that cannot be told; nothing is used again then.
    witness: Option<Witness>,
    kept: Mutex<Kept>,
    /// That of the fork, and of its forks.
    next: OnceLock<Box<Shelf>>,
}

#[derive(Default)]
struct Kept {
    buffers: Vec<Buffer>,
    /// Clients that there are. With the last one, all is given back.
    clients: usize,
    /// Whether this system cannot say who else has a file.
    is_broken: bool,
}

/// One piece of memory.
struct Buffer {
    own: Own,
    length: usize,
    state: State,
    /// By which it is known when it comes back.
    identity: Identity,
}

/// Device, inode, and the moment of the last change. Numbers of inodes are given again after 2³²
/// of them, perhaps while the first is still there; but not within one moment.
type Identity = (u64, u64, (i64, i64));

/// What is in a buffer.
#[derive(Clone, Copy, Debug)]
enum State {
    /// Nothing: it has no pages yet.
    Absent,
    /// Zeros, in pages.
    Empty,
    /// What was sent last, up to here, and zeros.
    Written(usize),
}

/// Held by each client.
pub(crate) struct Customer(&'static Shelf);

impl Customer {
    pub(crate) fn new() -> Customer {
        Customer::of(shelf())
    }

    fn of(shelf: &'static Shelf) -> Customer {
        shelf.lock().clients += 1;
        Customer(shelf)
    }
}

impl Drop for Customer {
    fn drop(&mut self) {
        if self.0.is_of_a_parent() {
            return;
        }
        let mut kept = self.0.lock();
        kept.clients -= 1;
        if kept.clients == 0 {
            // What receivers still have stays theirs, and nobody can write it any more.
            let buffers = std::mem::take(&mut kept.buffers);
            drop(kept);
            drop(buffers);
        }
    }
}

/// Copies these, one behind the other, and gives what to send together with where each begins.
/// None when new memory is as good or this cannot be had; nobody has to know which.
/// The memory may have `room` bytes.
pub(crate) fn pack(parts: &[&[u8]], room: u64) -> Option<(OwnedFd, Vec<u64>)> {
    shelf().pack(parts, room)
}

/// Whether memory that came is of this shelf, so that nobody writes it while it is looked at.
pub(crate) fn is_ours(descriptor: BorrowedFd<'_>) -> bool {
    shelf().has(descriptor)
}

/// That of this process.
fn shelf() -> &'static Shelf {
    let mut shelf = FIRST.get_or_init(Shelf::new);
    while shelf.is_of_a_parent() {
        shelf = shelf.next.get_or_init(|| Box::new(Shelf::new()));
    }
    shelf
}

impl Shelf {
    fn new() -> Shelf {
        let witness = Witness::new().ok();
        Shelf { witness, ..Shelf::default() }
    }

    fn is_of_a_parent(&self) -> bool {
        self.witness.as_ref().is_some_and(|witness| !witness.is_at_home())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pack(&self, parts: &[&[u8]], room: u64) -> Option<(OwnedFd, Vec<u64>)> {
        let mut end = 0_u64;
        let mut places = Vec::with_capacity(parts.len());
        for part in parts {
            places.push(Pile::next(end));
            end = Pile::next(end).checked_add(part.len() as u64)?;
        }
        let end = usize::try_from(end).ok()?;
        if !(REUSED_BYTES_MIN..=REUSED_BYTES_MAX).contains(&end) {
            return None;
        }
        let length = size_class(end);
        if length as u64 > room {
            return None;
        }
        let mut buffer = self.take(length)?;
        buffer.fill(parts, &places, end).ok()?;
        let reader = reopened(buffer.own.descriptor()).ok()?;
        let mut kept = self.lock();
        if kept.clients > 0 {
            kept.buffers.push(buffer);
        }
        Some((reader, places))
    }

    fn has(&self, descriptor: BorrowedFd<'_>) -> bool {
        identity(descriptor).is_ok_and(|identity| {
            self.lock().buffers.iter().any(|buffer| buffer.identity == identity)
        })
    }

    /// Takes a buffer of this length that nobody else has, or makes one.
    fn take(&self, length: usize) -> Option<Buffer> {
        let mut kept = self.lock();
        if kept.is_broken || self.witness.is_none() {
            return None;
        }
        let is_free = |buffer: &Buffer| {
            buffer.length == length && is_held_by_us_alone(buffer.own.descriptor())
        };
        if let Some(index) = kept.buffers.iter().position(is_free) {
            return Some(kept.buffers.swap_remove(index));
        }
        if !kept.make_room(length) {
            return None;
        }
        drop(kept);
        match Buffer::new(length) {
            Ok(buffer) => Some(buffer),
            Err(error) => {
                if is_for_ever(&error) {
                    self.lock().is_broken = true;
                }
                None
            }
        }
    }
}

/// Whether the system will never be able to. What it has too little of (memory, files that may be
/// open) it may have again.
fn is_for_ever(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotFound, PermissionDenied, Unsupported};
    [InvalidInput, NotFound, PermissionDenied, Unsupported].contains(&error.kind())
}

impl Kept {
    /// Throws away what nobody has, the longest unused first, until there is room for so much more.
    /// What somebody has stays: it is known by us alone that it will not change.
    fn make_room(&mut self, length: usize) -> bool {
        loop {
            let held: usize = self.buffers.iter().map(|buffer| buffer.length).sum();
            if self.buffers.len() < REUSED_BUFFERS_MAX && held + length <= REUSED_BYTES_MAX {
                return true;
            }
            let is_free = |buffer: &Buffer| is_held_by_us_alone(buffer.own.descriptor());
            match self.buffers.iter().position(is_free) {
                Some(index) => drop(self.buffers.remove(index)),
                None => return false,
            }
        }
    }
}

impl Buffer {
    fn new(length: usize) -> io::Result<Buffer> {
        let first = of_exactly(length as u64)?;
        // Opened anew, since the kernel does not count who writes by the first descriptor.
        let writer = reopened_to_write(first.as_fd())?;
        drop(first);
        prepare_lease(writer.as_fd())?;
        if !is_held_by_us_alone(writer.as_fd()) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let own = Own::map(writer)?;
        let state = if own.take_huge_pages() { State::Empty } else { State::Absent };
        let identity = identity(own.descriptor())?;
        Ok(Buffer { own, length, state, identity })
    }

    /// Copies parts to their places. Whatever was there before is not left between or behind them:
    /// it may have been meant for somebody else.
    fn fill(&mut self, parts: &[&[u8]], places: &[u64], end: usize) -> io::Result<()> {
        let written = match self.state {
            State::Absent => {
                // Writing finds new pages without zeroing them, as a mapping would.
                for (part, place) in parts.iter().zip(places) {
                    write_at(self.own.descriptor(), part, *place)?;
                }
                // What is written next may be longer, and through the mapping.
                allocate(self.own.descriptor(), end as u64..self.length as u64)?;
                None
            }
            State::Empty => Some(0),
            State::Written(written) => Some(written),
        };
        if let Some(written) = written {
            let bytes: &mut [u8] = self.own.elements_mut();
            let mut at = 0;
            for (part, place) in parts.iter().zip(places) {
                let place = usize::try_from(*place).expect("it is within the memory");
                bytes[at..place].fill(0);
                at = place + part.len();
                bytes[place..at].copy_from_slice(part);
            }
            assert_eq!(end, at, "the last part ends where all do");
            if end < written {
                bytes[end..written].fill(0);
            }
        }
        if !matches!(self.state, State::Written(_)) {
            seal(self.own.descriptor(), FUTURE_SEALS)?;
        }
        self.state = State::Written(end);
        self.identity = identity(self.own.descriptor())?;
        Ok(())
    }
}

fn identity(descriptor: BorrowedFd<'_>) -> io::Result<Identity> {
    let status = fstat(descriptor)?;
    Ok((status.st_dev, status.st_ino, (status.st_ctime, status.st_ctime_nsec)))
}

/// A length that is a little longer, so that calls of nearly the same size share memory: at most an
/// eighth is left over, or what huge pages need.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(4096);
    let class = bytes.next_multiple_of(step);
    usize::try_from(huge_length(class as u64)).unwrap_or(class)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::memory::memfd::{adopt_ours, adopt_shared};

    /// Each test has a length of its own, since all share the shelf.
    fn sent(byte: u8, length: usize) -> OwnedFd {
        let (descriptor, places) = pack(&[&vec![byte; length]], u64::MAX).expect("it is packed");
        assert_eq!([0], places[..]);
        descriptor
    }

    fn read(descriptor: &OwnedFd, length: usize) -> Vec<u8> {
        let file = std::fs::File::from(descriptor.try_clone().unwrap());
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn inode(descriptor: &OwnedFd) -> u64 {
        identity(descriptor.as_fd()).unwrap().1
    }

    #[test]
    fn memory_is_used_again_when_nobody_has_it() {
        let _customer = Customer::new();
        let length = 300 << 10;
        let first = sent(1, length);
        let known = inode(&first);
        assert!(is_ours(first.as_fd()));
        drop(first);
        let second = sent(2, length - 100);
        assert_eq!(known, inode(&second));
        let bytes = read(&second, length);
        assert!(bytes[..length - 100].iter().all(|byte| *byte == 2));
        assert!(bytes[length - 100..].iter().all(|byte| *byte == 0), "nothing old is left");
    }

    #[test]
    fn memory_that_somebody_has_never_changes() {
        let _customer = Customer::new();
        let length = 400 << 10;
        let kept = sent(1, length);
        let other = sent(2, length);
        assert_ne!(inode(&kept), inode(&other));
        assert!(read(&kept, length).iter().all(|byte| *byte == 1));

        // A mapping alone is enough, whoever has it.
        let mapped = adopt_shared(other, false).unwrap();
        let (known, third) = (inode(&mapped.descriptor), sent(3, length));
        assert_ne!(known, inode(&third));
        drop(mapped);
        assert_eq!(known, inode(&sent(4, length)));

        // So is a message that nobody has received.
        let (one, end) = UnixStream::pair().unwrap();
        let known = inode(&third);
        let numbers = [third.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let bytes = [io::IoSlice::new(b"x")];
        sendmsg::<()>(one.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
        drop(third);
        let (a, b) = (sent(5, length), sent(6, length));
        assert!(inode(&a) != known && inode(&b) != known);
        drop((one, end));
        assert_eq!(known, inode(&sent(7, length)));
    }

    #[test]
    fn what_came_back_stays_what_it_is() {
        let _customer = Customer::new();
        let length = 500 << 10;
        let back = adopt_ours(sent(1, length)).unwrap();
        let others: Vec<_> = (2..6).map(|byte| sent(byte, length)).collect();
        assert!(back.memory.bytes()[..length].iter().all(|byte| *byte == 1));
        drop(others);
    }

    #[test]
    fn its_receiver_can_by_no_means_write_it() {
        let _customer = Customer::new();
        let length = 600 << 10;
        let reader = sent(1, length);
        let writer = std::fs::File::from(reopened_to_write(reader.as_fd()).unwrap());
        assert!(writer.write_all_at(b"changed", 0).is_err());
        let mapped = adopt_shared(writer.into(), true).unwrap();
        assert!(!mapped.memory.is_writable());
        assert!(read(&reader, length).iter().all(|byte| *byte == 1));
    }

    /// A shelf of its own.
    fn alone() -> &'static Shelf {
        Box::leak(Box::new(Shelf::new()))
    }

    fn sent_by(shelf: &Shelf, byte: u8, length: usize) -> OwnedFd {
        shelf.pack(&[&vec![byte; length]], u64::MAX).expect("it is packed").0
    }

    #[test]
    fn with_the_last_client_all_goes_and_receivers_keep_what_they_have() {
        let shelf = alone();
        let (one, other) = (Customer::of(shelf), Customer::of(shelf));
        let length = 300 << 10;
        let (kept, free) = (sent_by(shelf, 1, length), sent_by(shelf, 2, length));
        let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
        drop(free);
        drop(one);
        assert_eq!(2, shelf.lock().buffers.len(), "another client may want them");
        drop(other);
        assert_eq!(0, shelf.lock().buffers.len());
        assert!(read(&kept, length).iter().all(|byte| *byte == 1));
        // Not even who is its owner can write it: the mapping that could has gone.
        let again = std::fs::OpenOptions::new().write(true).open(path);
        assert!(again.is_ok_and(|file| file.write_all_at(b"changed", 0).is_err()));
        // What a thread was filling meanwhile is not kept for nobody.
        drop(sent_by(shelf, 3, length));
        assert_eq!(0, shelf.lock().buffers.len());
    }

    #[test]
    fn the_number_of_an_inode_alone_is_no_proof() {
        let shelf = alone();
        let _customer = Customer::of(shelf);
        let sent = sent_by(shelf, 1, 300 << 10);
        assert!(shelf.has(sent.as_fd()));
        let (device, inode, changed) = identity(sent.as_fd()).unwrap();
        let other = (device, inode, (changed.0 - 1, changed.1));
        shelf.lock().buffers[0].identity = other;
        assert!(!shelf.has(sent.as_fd()), "the same number, of another time");
    }

    #[test]
    fn what_is_used_again_is_there_to_its_end() {
        let shelf = alone();
        let _customer = Customer::of(shelf);
        // One page more than a step, so that most of its class is left over.
        let length = (512 << 10) + 4096;
        let sent = sent_by(shelf, 1, length);
        let status = fstat(&sent).unwrap();
        assert!(status.st_size > i64::try_from(length).unwrap());
        assert_eq!(status.st_size, status.st_blocks * 512, "no store can fail");
    }

    #[test]
    fn what_is_lacking_today_may_be_there_tomorrow() {
        use nix::errno::Errno;
        for lack in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOSPC, Errno::EAGAIN] {
            assert!(!is_for_ever(&lack.into()), "{lack}");
        }
        assert!(is_for_ever(&io::ErrorKind::Unsupported.into()));
        for refusal in [Errno::EACCES, Errno::EINVAL, Errno::ENOENT, Errno::ENOSYS] {
            assert!(is_for_ever(&refusal.into()), "{refusal}");
        }
    }

    #[test]
    fn parts_are_aligned_and_what_is_short_is_left_alone() {
        let _customer = Customer::new();
        let (one, two) = (vec![1; 100], vec![2; 700 << 10]);
        let (descriptor, places) = pack(&[&one, &two], u64::MAX).expect("it is packed");
        assert_eq!([0, 128], places[..]);
        let bytes = read(&descriptor, 128 + two.len());
        assert_eq!(
            (&one[..], &[0; 28][..], &two[..]),
            (&bytes[..100], &bytes[100..128], &bytes[128..])
        );
        assert!(pack(&[&one], u64::MAX).is_none());
        assert!(pack(&[&two], 1000).is_none(), "there is no room for it");
    }
}
