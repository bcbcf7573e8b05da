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
use super::quota::{Account, Full};
use crate::limits::CLOSED_ELSEWHERE_BYTES_MIN;

/// What a frame brought beside its payload; mostly nothing. Shared by whoever has to keep it: a
/// call until it is answered, an outbox until it is written. Closed when nobody has it any more.
#[derive(Clone, Debug, Default)]
pub struct Attached(Option<Rc<Held>>);

#[derive(Debug)]
struct Held {
    descriptors: Vec<OwnedFd>,
    /// What lies behind, and is held for others, too. Whatever has such parts has nothing else.
    parts: Vec<Attached>,
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
        let mut held = Held { descriptors, parts: Vec::new(), bytes: 0, ledger, is_admitted };
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

    /// The same, to be kept beyond any call: what has just come in, and is nobody else's yet.
    ///
    /// # Errors
    ///
    /// When `account` has no room for it; it is closed then.
    pub fn keep(mut self, account: &Account) -> Result<Attached, Full> {
        let held = self.0.as_mut().and_then(Rc::get_mut);
        if let Some(Held { descriptors, bytes, ledger: Some(ledger), is_admitted, .. }) = held {
            account.take(descriptors.len(), *bytes)?;
            ledger.gone(descriptors.len());
            *ledger = ledger.of_kept(account.clone());
            is_admitted.set(true);
        }
        Ok(self)
    }

    /// All of these in one, in their order. Nothing is copied: it holds them.
    pub fn joined(parts: Vec<Attached>) -> Attached {
        let bytes = parts.iter().map(Attached::bytes).fold(0, u64::saturating_add);
        let (descriptors, is_admitted) = (Vec::new(), Cell::new(true));
        Attached(Some(Rc::new(Held { descriptors, parts, bytes, ledger: None, is_admitted })))
    }

    /// Whether the first is memory that nobody can write any more.
    pub fn begins_with_constants(&self) -> bool {
        let first = self.0.as_ref().and_then(|held| held.descriptors.first());
        first.is_some_and(|first| never_changes(first.as_fd()))
    }

    /// Counts them as refused, and closes them unless somebody else has them.
    pub fn refuse(self) {
        if let Some(ledger) = self.0.as_ref().and_then(|held| held.ledger.as_ref()) {
            ledger.refuse(self.len());
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many descriptors there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |held| {
            held.descriptors.len() + held.parts.iter().map(Attached::len).sum::<usize>()
        })
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
        let mut all = Vec::new();
        self.push_numbers(&mut all);
        all
    }

    fn push_numbers(&self, all: &mut Vec<RawFd>) {
        if let Some(held) = &self.0 {
            all.extend(held.descriptors.iter().map(AsRawFd::as_raw_fd));
            held.parts.iter().for_each(|part| part.push_numbers(all));
        }
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

/// Seals without which memory may not travel.
const SEALED: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Whether a descriptor is memory that is sealed against whatever could change it.
fn never_changes(descriptor: BorrowedFd<'_>) -> bool {
    let seals = fcntl(descriptor, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    seals.is_ok_and(|seals| seals.contains(SEALED.union(SealFlag::F_SEAL_WRITE)))
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
    match fcntl(descriptor, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain) {
        Ok(seals) if seals.contains(SEALED) => Ok(stat.stx_size),
        Ok(_) if stat.stx_nlink == 0 => Err(Why::Unsealed),
        _ if flags & OFlag::O_ACCMODE != OFlag::O_RDONLY => Err(Why::Writable),
        _ => Ok(0),
    }
}
