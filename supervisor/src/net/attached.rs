//! Descriptors that travel beside a payload: memory and files that the daemon hands on and never
//! looks into. What one must be like is checked here, on receipt, without reading or mapping it.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use thiserror::Error;

use super::closer::Owed;
use super::holdings::Ledger;
use crate::limits::CLOSED_ELSEWHERE_BYTES_MIN;

/// What a frame brought beside its payload; mostly nothing. Shared by whoever has to keep it: a
/// call until it is answered, an outbox until it is written. Closed when nobody has it any more.
#[derive(Clone, Debug, Default)]
pub struct Attached(Option<Rc<Held>>);

#[derive(Debug)]
struct Held {
    descriptors: Vec<OwnedFd>,
    bytes: u64,
    ledger: Option<Ledger>,
    /// Whether it is held for its sender; before that it is still coming in.
    is_admitted: Cell<bool>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(ledger) = self.ledger.take() else { return };
        let descriptors = std::mem::take(&mut self.descriptors);
        let (count, bytes) = (descriptors.len(), self.bytes);
        let owed = Owed { ledger, count, bytes, is_admitted: self.is_admitted.get() };
        if bytes < CLOSED_ELSEWHERE_BYTES_MIN {
            drop(descriptors);
            owed.give_back();
        } else {
            Ledger::close(descriptors, owed);
        }
    }
}

impl Attached {
    /// Takes descriptors over that `ledger` knows to be coming in, if each is one that may travel.
    ///
    /// # Errors
    ///
    /// Which one may not, and why; all of them are closed then.
    pub(super) fn checked(
        descriptors: Vec<OwnedFd>,
        ledger: Option<&Ledger>,
    ) -> Result<Attached, Unfit> {
        let (ledger, is_admitted) = (ledger.cloned(), Cell::new(false));
        // From here on it is counted, whatever becomes of it.
        let mut held = Held { descriptors, bytes: 0, ledger, is_admitted };
        for (index, descriptor) in held.descriptors.iter().enumerate() {
            let memory = memory_bytes(descriptor.as_fd()).map_err(|why| Unfit { index, why })?;
            held.bytes = held.bytes.saturating_add(memory);
        }
        Ok(Attached(Some(Rc::new(held))))
    }

    /// It is not coming in any more, but held for its sender.
    pub fn admit(&self) {
        let Some(held) = &self.0 else { return };
        if let Some(ledger) = held.ledger.as_ref().filter(|_| !held.is_admitted.replace(true)) {
            ledger.gone(held.descriptors.len());
            ledger.take(held.descriptors.len(), held.bytes);
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many descriptors there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.descriptors.len())
    }

    /// How many there are, as a header says it.
    pub fn count(&self) -> u8 {
        u8::try_from(self.len()).expect("a frame has few: its header said how many")
    }

    /// Bytes of the memory among them. Files are not counted: they are nobody's memory.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |held| held.bytes)
    }

    /// Their numbers, for the kernel.
    pub(super) fn numbers(&self) -> Vec<RawFd> {
        let held = self.0.iter().flat_map(|held| &held.descriptors);
        held.map(AsRawFd::as_raw_fd).collect()
    }
}

/// A descriptor that may not travel.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("descriptor {index} {why}")]
pub struct Unfit {
    /// Which of the frame's.
    pub index: usize,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a descriptor.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Why {
    /// Whoever maps it and looks is killed when somebody else shrinks it.
    #[error(
        "is memory that can still change its size; seal it against shrinking, growing and seals"
    )]
    Unsealed,
    /// A pipe, a socket, a directory, a device.
    #[error("is no file; only sealed memfds and files opened for reading may travel")]
    NoFile,
    /// It could be written to.
    #[error("is a file that is open for writing; open it for reading only")]
    Writable,
    /// It was opened with `O_PATH`.
    #[error("names a file without having it open")]
    PathOnly,
    /// The system does not tell.
    #[error("cannot be looked at: {0}")]
    Unknown(Errno),
}

/// How many bytes of memory a descriptor stands for: those of a sealed memfd, and none for a file
/// that is open for reading.
///
/// A memfd that was opened anew through `/proc` looks like any file that is open for reading. Two
/// things give it away: it has seals, as all that lives on a `tmpfs` or `hugetlbfs` has, and no
/// name.
fn memory_bytes(descriptor: BorrowedFd<'_>) -> Result<u64, Why> {
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).map_err(Why::Unknown)?;
    let flags = OFlag::from_bits_retain(flags);
    if flags.contains(OFlag::O_PATH) {
        return Err(Why::PathOnly);
    }
    // What is cached is enough: asking a network or FUSE file system might take for ever.
    let how = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let wanted = StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::SIZE;
    let stat = statx(descriptor, c"", how, wanted)
        .map_err(|errno| Why::Unknown(Errno::from_raw(errno.raw_os_error())))?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Err(Why::NoFile);
    }
    let sealed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    match fcntl(descriptor, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain) {
        Ok(seals) if seals.contains(sealed) => Ok(stat.stx_size),
        Ok(_) if stat.stx_nlink == 0 => Err(Why::Unsealed),
        _ if flags & OFlag::O_ACCMODE != OFlag::O_RDONLY => Err(Why::Writable),
        _ => Ok(0),
    }
}
