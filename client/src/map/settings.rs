//! What a map's caller chose, and how that makes a call of a chunk.

use std::num::NonZeroU32;
use std::time::Duration;

use clutch_protocol::message::{Apply, Each};
use clutch_protocol::{Codec, Flags};
use tokio::sync::mpsc;

use super::plan::{Content, Parcel};
use crate::exchange::{Target, Wishes};
use crate::limits::WINDOW_ITEMS;
use crate::pending::{OutputChunk, OutputSink};
use crate::request::Ready;
use crate::retry::Retry;

/// How many items travel in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunk {
    /// As many as run for about ten milliseconds, learnt from the answers, and fewer near the end,
    /// so that all workers end together; one when the map has a timeout or a retry, which is then
    /// that of each item.
    #[default]
    Auto,
    /// This many. A timeout holds for all of them together. With a retry after a worker's death,
    /// the items that had not ended are tried again, and those whose results died with their
    /// worker, too; with one after exceptions or after timeouts, items travel alone all the same.
    Fixed(NonZeroU32),
}

/// What the caller chose.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) wishes: Wishes,
    pub(crate) timeout: Option<Duration>,
    pub(crate) codec: Codec,
    pub(crate) chunk: Chunk,
    pub(crate) window: NonZeroU32,
    /// Where what the function prints goes.
    pub(crate) output: Option<mpsc::Sender<OutputChunk>>,
    /// How the function is called with an item.
    pub(crate) apply: Apply,
    /// What makes one result of all, if the map is reduced.
    pub(crate) fold: Option<String>,
}

impl Settings {
    pub(crate) fn new(function: impl Into<String>) -> Settings {
        Settings {
            target: Target::new(function),
            wishes: Wishes::default(),
            timeout: None,
            codec: Codec::Plain,
            chunk: Chunk::Auto,
            window: NonZeroU32::new(WINDOW_ITEMS).expect("it is not zero"),
            output: None,
            apply: Apply::Item,
            fold: None,
        }
    }

    /// How many items may travel together.
    pub(super) fn chunk_items_max(&self) -> u32 {
        let (window, retry) = (self.window.get(), self.wishes.retry.as_ref());
        match self.chunk {
            _ if retry.is_some_and(Retry::is_of_one_item) => 1,
            Chunk::Fixed(items) => items.get().min(window),
            Chunk::Auto if self.timeout.is_some() || retry.is_some() => 1,
            // A quarter, so that there is always a chunk to work on while another comes back.
            Chunk::Auto => (window / 4).max(1),
        }
    }

    /// A chunk as a call.
    pub(crate) fn ready<C>(&self, client: C, parcel: &Parcel) -> Ready<C> {
        let (mut target, mut wishes) = (self.target.clone(), self.wishes.clone());
        let fold = self.fold.clone().unwrap_or_default();
        wishes.each = match (parcel.content, self.apply) {
            (Content::Items, Apply::Item) if fold.is_empty() => None,
            (Content::Items, apply) => Some(Each { apply, fold }),
            (Content::Pieces, _) => {
                target.function.clone_from(&fold);
                Some(Each { apply: Apply::Nothing, fold })
            }
        };
        wishes.retry = match wishes.retry {
            // The second worker that it may kill is its last.
            _ if parcel.has_killed => None,
            Some(retry) if parcel.items() == 1 || parcel.content == Content::Pieces => {
                Some(retry.after(parcel.tries))
            }
            // What is tried again of several items is the plan's to say.
            _ => None,
        };
        let (flags, sink) = match &self.output {
            Some(sender) => {
                (Flags::ITEMS.with(Flags::OUTPUT), Some(OutputSink::new(sender.clone())))
            }
            None => (Flags::ITEMS, None),
        };
        let payload = (self.codec, flags, parcel.payload.clone());
        Ready::encoded(client, target, wishes, self.timeout, payload).with_output(sink)
    }
}
