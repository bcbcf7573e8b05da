//! Descriptors on their way in, until the frame is whole that they belong to.
//!
//! The kernel hands a message's descriptors over together with its first byte, and what was sent
//! before may come in the same receive. So descriptors never come later than their frame, and in
//! the frames' order: a queue, from which each frame takes as many as its header says. What is
//! left when no frame is under way that could want it was sent against the rules.

use std::os::fd::OwnedFd;

use clutch_protocol::limits::DESCRIPTORS_MAX;
use clutch_protocol::{Flags, Header, Kind};
use thiserror::Error;

use super::attached::{Attached, Unfit};
use super::holdings::Ledger;

/// Frames by which a client attaches something.
pub const OF_CLIENTS: &[Kind] = &[Kind::Call, Kind::Item, Kind::Put];

/// Frames by which a worker does.
pub const OF_WORKERS: &[Kind] = &[Kind::Result, Kind::Item];

/// Why descriptors are not taken. Each is the sender's fault but the last.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum IntakeError {
    /// The frame is none that anything is attached to.
    #[error("file descriptors came with a {0:?} frame, which may have none")]
    Kind(Kind),
    /// They came where none ever may.
    #[error("file descriptors came where none may")]
    Nowhere,
    /// The header claims more than came.
    #[error("the frame claims {claimed} file descriptors, and {came} came with it")]
    TooFew {
        /// How many the header claims.
        claimed: u8,
        /// How many came.
        came: usize,
    },
    /// More came than any frame may have.
    #[error("more than {DESCRIPTORS_MAX} file descriptors came at once")]
    TooMany,
    /// More came than the header claims.
    #[error("{0} file descriptors came that no frame claims")]
    Unclaimed(usize),
    /// One is of a sort that may not travel.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// There is no room for them.
    #[error("the daemon has as many files open as it may; try again later")]
    Exhausted,
}

/// The descriptors of one connection that no frame has claimed yet.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Frames that may bring some.
    kinds: &'static [Kind],
    unclaimed: Vec<OwnedFd>,
    /// How many of them are known to the ledger.
    noted: usize,
    ledger: Option<Ledger>,
}

impl Intake {
    /// For a peer that may attach something to frames of these kinds.
    pub(super) fn new(kinds: &'static [Kind], ledger: Ledger) -> Intake {
        Intake { kinds, unclaimed: Vec::new(), noted: 0, ledger: Some(ledger) }
    }

    /// Where a receive puts what it brings.
    pub(super) fn room(&mut self) -> &mut Vec<OwnedFd> {
        &mut self.unclaimed
    }

    /// Whether descriptors are there whose frame is not whole.
    pub(super) fn is_empty(&self) -> bool {
        self.unclaimed.is_empty()
    }

    /// A receive has brought some, or had to leave some out.
    pub(super) fn came(&mut self, truncated: bool) -> Result<(), IntakeError> {
        let count = self.unclaimed.len() - self.noted;
        if self.kinds.is_empty() {
            return Err(self.refuse(IntakeError::Nowhere));
        }
        if truncated {
            // There is room for as many as any frame may have. Fewer came through only where the
            // kernel could not open them here.
            let is_full = count == usize::from(DESCRIPTORS_MAX);
            let error = if is_full { IntakeError::TooMany } else { IntakeError::Exhausted };
            return Err(self.refuse(error));
        }
        self.noted += count;
        if let Some(ledger) = &self.ledger
            && !ledger.come(count)
        {
            return Err(self.refuse(IntakeError::Exhausted));
        }
        Ok(())
    }

    /// What belongs to a frame that is whole. If it is the last one that was begun, nobody else
    /// can want what it leaves.
    pub(super) fn claim(
        &mut self,
        header: &Header,
        is_last: bool,
    ) -> Result<Attached, IntakeError> {
        let left = self.unclaimed.len().saturating_sub(usize::from(header.descriptors));
        if is_last && left > 0 {
            return Err(self.refuse(IntakeError::Unclaimed(left)));
        }
        if header.descriptors == 0 {
            return Ok(Attached::default());
        }
        self.may_claim(header)?;
        let (claimed, came) = (header.descriptors, self.unclaimed.len());
        if came < usize::from(claimed) {
            return Err(self.refuse(IntakeError::TooFew { claimed, came }));
        }
        let own: Vec<_> = self.unclaimed.drain(..usize::from(claimed)).collect();
        let count = own.len();
        self.noted -= count;
        Attached::checked(own, self.ledger.as_ref()).map_err(|unfit| {
            if let Some(ledger) = &self.ledger {
                ledger.refuse(count);
            }
            self.refuse(unfit.into())
        })
    }

    /// No frame is whole any more: what is there must belong to the one whose header is `pending`,
    /// or whose header has come in part, if `is_begun`.
    pub(super) fn settle(
        &mut self,
        is_begun: bool,
        pending: Option<&Header>,
    ) -> Result<(), IntakeError> {
        if self.unclaimed.is_empty() {
            return Ok(());
        }
        let most = match pending {
            Some(header) => {
                self.may_claim(header)?;
                header.descriptors
            }
            None if is_begun => DESCRIPTORS_MAX,
            None => 0,
        };
        let left = self.unclaimed.len().saturating_sub(usize::from(most));
        if left > 0 { Err(self.refuse(IntakeError::Unclaimed(left))) } else { Ok(()) }
    }

    /// Closes what is there, and counts it.
    pub(super) fn close(&mut self) {
        let (count, noted) = (self.unclaimed.len(), std::mem::take(&mut self.noted));
        self.unclaimed.clear();
        if let Some(ledger) = &self.ledger {
            ledger.gone(noted);
            ledger.refuse(count);
        }
    }

    fn may_claim(&mut self, header: &Header) -> Result<(), IntakeError> {
        // The flag is about a payload; what is put has none.
        let is_said = header.kind == Kind::Put || header.flags.has(Flags::ATTACHED);
        let may = self.kinds.contains(&header.kind) && is_said;
        if may { Ok(()) } else { Err(self.refuse(IntakeError::Kind(header.kind))) }
    }

    fn refuse(&mut self, error: IntakeError) -> IntakeError {
        tracing::debug!(%error, open = self.unclaimed.len(), "refused file descriptors");
        self.close();
        error
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.close();
    }
}
