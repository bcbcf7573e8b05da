//! What makes one result of all items: which pieces are sent to be folded, and how it ends.

use clutch_protocol::Failure;
use serde::de::DeserializeOwned;

use super::{Content, Parcel, Plan, Step};
use crate::codec::{Folded, decode_folded};
use crate::exchange::{Reply, Trouble};
use crate::map::fold::{Folder, Run};

impl<R: DeserializeOwned> Plan<R> {
    /// Nothing is under way, and nothing is left to be sent.
    pub(super) fn end(&mut self) -> Step<R> {
        let Some(run) = self.folder.last() else {
            assert_eq!(self.pulled, self.yielded, "every item pulled is given out");
            return Step::Done;
        };
        match &run.pieces[..] {
            [] => Step::Done,
            [one] => {
                let failure = |reason| self.settings.target.failure(Trouble::sent(0, reason));
                Step::Item(run.first, one.decode().map_err(failure))
            }
            _ => {
                self.send_run(&run);
                self.step(false)
            }
        }
    }

    /// Nothing more is sent, or given out.
    pub(super) fn give_up(&mut self) {
        (self.is_over, self.exhausted) = (true, true);
        self.to_send.clear();
        self.folder = Folder::default();
        self.yielded = self.pulled;
    }

    /// Takes in what came of a chunk, or of the folding of pieces.
    pub(super) fn fold_in(&mut self, parcel: &Parcel, reply: &Reply) {
        let payload = (&reply.payload[..], reply.attached.get());
        match decode_folded(reply.codec, reply.flags, payload) {
            Ok(Folded::Partial(piece)) => {
                if parcel.content == Content::Items {
                    self.yielded += parcel.items();
                }
                if let Some(run) = self.folder.insert(parcel.first, parcel.end, piece) {
                    self.send_run(&run);
                }
            }
            Ok(Folded::Failed(at, reason)) => {
                let index = parcel.first + at.min(parcel.items() - 1);
                self.break_off(index, self.failure_in(reply, *reason));
            }
            Err(reason) => self.break_off(parcel.first, self.failure_in(reply, reason)),
        }
    }

    /// Has pieces folded.
    fn send_run(&mut self, run: &Run) {
        match self.encoded(&run.pieces) {
            Ok(payload) => self.enqueue(Parcel::new(run.first, run.end, Content::Pieces, payload)),
            Err(reason) => {
                let failure = self.settings.target.failure(Trouble::unsent(reason));
                self.break_off(run.first, failure);
            }
        }
    }

    /// A map that is reduced has no result: this item has ended it.
    pub(super) fn break_off(&mut self, index: u64, failure: Failure) {
        self.broken.get_or_insert((index, Box::new(failure)));
    }
}
