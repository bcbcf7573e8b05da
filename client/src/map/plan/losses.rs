//! What is done about chunks that were not answered with results: which are sent again, and which
//! items are lost.
//!
//! A chunk's worker may die in the middle of it. What is proven then is which item it was at:
//!
//! ```text
//!   ended, results lost │ the one │ not begun
//!   ────────────────────┼─────────┼──────────────
//!   lost; or again, if  │ lost; or again alone, │ sent again, without a word
//!   its caller retries  │ if its caller retries │
//! ```

use clutch_protocol::{Failure, Reason};
use serde::de::DeserializeOwned;

use super::{Content, Parcel, Plan};
use crate::codec::{Piece, decode_pieces};
use crate::limits::{RESEND_WAIT, RESENDS_MAX};
use crate::map::answers::Rest;

impl<R: DeserializeOwned> Plan<R> {
    /// Whether sending it again is safe, may help, and was not tried too often.
    pub(super) fn may_resend(&self, parcel: &Parcel, failure: &Failure) -> bool {
        !failure.started
            && parcel.resends < RESENDS_MAX
            && matches!(failure.reason, Reason::QueueFull { .. } | Reason::WorkerDied(_))
    }

    pub(super) fn resend(&mut self, mut parcel: Parcel, failure: &Failure) {
        let full = matches!(failure.reason, Reason::QueueFull { .. });
        if full {
            self.chunks_now = (self.chunks_now / 2).max(1);
        }
        if full && self.in_flight > 0 {
            // Our own chunks make room when they are answered, so this one costs no try.
        } else {
            if full {
                let pause = RESEND_WAIT[0] * 2_u32.saturating_pow(parcel.resends);
                self.pause = Some(pause.min(RESEND_WAIT[1]));
            }
            parcel.resends += 1;
        }
        self.enqueue(parcel);
    }

    /// Before later items, so that ordered results do not pile up behind it.
    pub(super) fn enqueue(&mut self, parcel: Parcel) {
        let at = self.to_send.partition_point(|other| other.first < parcel.first);
        self.to_send.insert(at, parcel);
    }

    /// A chunk has failed, and can have begun.
    pub(super) fn failed(&mut self, parcel: Parcel, mut failure: Failure) {
        let again = self.may_try_again(&parcel, &failure);
        if parcel.content == Content::Items {
            failure.item = failure.item.map(|at| parcel.first.saturating_add(at));
        }
        if parcel.has_killed && matches!(failure.reason, Reason::WorkerDied(_)) {
            failure.attempt += parcel.tries;
            failure.quarantined = again;
        } else if parcel.items() > 1 && parcel.content == Content::Items {
            if self.split(&parcel, &failure, again) {
                return;
            }
            if again {
                return self.enqueue(Parcel { tries: parcel.tries + 1, ..parcel });
            }
        }
        let items = u32::try_from(parcel.items()).unwrap_or(u32::MAX);
        self.lose(parcel.first, items, failure);
    }

    /// Whether the caller wants a chunk of several items to have another attempt. Those of one
    /// have all their attempts in the daemon.
    fn may_try_again(&self, parcel: &Parcel, failure: &Failure) -> bool {
        let retry = self.settings.wishes.retry.as_ref();
        matches!(failure.reason, Reason::WorkerDied(_))
            && retry.is_some_and(|retry| retry.survives_deaths(parcel.tries + 1))
    }

    /// Takes a chunk apart that a worker has died with, if it is known which item it was at.
    fn split(&mut self, parcel: &Parcel, failure: &Failure, again: bool) -> bool {
        let Parcel { first, end, tries, .. } = *parcel;
        let Some(culprit) = failure.item.filter(|item| (first..end).contains(item)) else {
            return false;
        };
        // Large items have chunks of their own: what they leave beside the payload counts.
        if parcel.payload.attached {
            return false;
        }
        let Ok(items) = decode_pieces(self.settings.codec, &parcel.payload.bytes, None) else {
            return false;
        };
        if items.len() as u64 != parcel.items() {
            return false;
        }
        if first < culprit {
            let lost = u32::try_from(culprit - first).expect("a chunk is bounded");
            match self.part(parcel, &items, first, culprit).filter(|_| again) {
                Some(part) => self.enqueue(Parcel { tries: tries + 1, ..part }),
                None => self.lose(first, lost, failure.clone()),
            }
        }
        match self.part(parcel, &items, culprit, culprit + 1).filter(|_| again) {
            Some(part) => self.enqueue(Parcel { tries: tries + 1, has_killed: true, ..part }),
            None => self.lose(culprit, 1, failure.clone()),
        }
        if culprit + 1 < end {
            match self.part(parcel, &items, culprit + 1, end) {
                Some(part) => self.enqueue(Parcel { tries, ..part }),
                None => {
                    let rest = u32::try_from(end - culprit - 1).expect("a chunk is bounded");
                    self.lose(culprit + 1, rest, failure.clone());
                }
            }
        }
        true
    }

    /// Some items of a chunk, encoded anew.
    fn part(&self, whole: &Parcel, items: &[Piece], first: u64, end: u64) -> Option<Parcel> {
        let at = |index: u64| usize::try_from(index - whole.first).ok();
        let payload = self.encoded(&items.get(at(first)?..at(end)?)?).ok()?;
        Some(Parcel::new(first, end, Content::Items, payload))
    }

    /// Items have failed for good.
    pub(super) fn lose(&mut self, first: u64, items: u32, failure: Failure) {
        if self.settings.fold.is_some() {
            let index = failure.item.unwrap_or(first);
            return self.break_off(index, failure);
        }
        self.done.insert(first, Rest::Failed(items, Box::new(failure)));
    }
}
