//! What a map's caller chose, and how that makes a call of a chunk.

use std::num::NonZeroU32;
use std::time::Duration;

use clutch_protocol::{Codec, Flags};
use tokio::sync::mpsc;

use crate::exchange::{Target, Wishes};
use crate::limits::WINDOW_ITEMS;
use crate::memory::Body;
use crate::pending::{OutputChunk, OutputSink};
use crate::request::Ready;

/// How many items travel in one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunk {
    /// As many as run for a few milliseconds, learnt from the answers; one when the map has a
    /// timeout or a retry, which is then that of each item.
    #[default]
    Auto,
    /// This many. A timeout and a retry hold for all of them together; an item that raises among
    /// others fails alone, and is not tried again.
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
        }
    }

    /// A chunk as a call.
    pub(crate) fn ready<C>(&self, client: C, payload: Body) -> Ready<C> {
        let (target, wishes) = (self.target.clone(), self.wishes.clone());
        let (flags, sink) = match &self.output {
            Some(sender) => {
                (Flags::ITEMS.with(Flags::OUTPUT), Some(OutputSink::new(sender.clone())))
            }
            None => (Flags::ITEMS, None),
        };
        let payload = (self.codec, flags, payload);
        Ready::encoded(client, target, wishes, self.timeout, payload).with_output(sink)
    }
}
