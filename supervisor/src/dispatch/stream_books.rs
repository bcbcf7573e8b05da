//! The books of streams: how many items may be sent, and how many were. Whose they are, and what
//! becomes of those who do not keep to them, is in `streams`.

use clutch_protocol::limits::{FAILURE_TEXT_BYTES_MAX, STREAM_CREDIT_MAX, STREAMS_MAX};
use clutch_protocol::stream::{Credit, Item};
use clutch_protocol::wire::MetaError;
use thiserror::Error;

use super::stream_gate::{Gate, Room};

/// The stream a call answers with, as its client sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Items {
    /// How many more its client takes.
    pub(super) credit: u32,
    /// How many its client was sent.
    pub(super) sent: u64,
    /// Whether its worker may send none since its client has not read what came before.
    pub(super) are_withheld: bool,
}

impl Items {
    /// How many its client was sent, as far as the history counts.
    pub(super) fn told(self) -> u32 {
        u32::try_from(self.sent).unwrap_or(u32::MAX)
    }
}

/// The streams of a run, as its worker may use them.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    /// Whether it answers with one.
    gives: bool,
    /// Whether its arguments can stand for some.
    takes: bool,
    /// How many more items the worker may send.
    pub(super) output: Gate,
    /// How many it has sent.
    sent: u64,
    /// Those of the client's of which the worker wants items.
    pub(super) inputs: Vec<Input>,
    /// Whether anything of them has passed on.
    pub(super) have_moved: bool,
}

/// A stream of a client's.
#[derive(Clone, Debug)]
pub(super) struct Input {
    /// Its number in the call.
    pub(super) stream: u32,
    /// How many more items the worker takes.
    wanted: u32,
    /// How many of them the client was told to send.
    told: Gate,
    /// How many it has sent.
    sent: u64,
    /// Whether there are no more.
    pub(super) has_ended: bool,
}

impl Input {
    /// Takes note of an item; false when it is not the next, or was not asked for.
    pub(super) fn take(&mut self, index: u64, bytes: usize, descriptors: usize) -> bool {
        if index != self.sent || self.told.under_way() == 0 {
            return false;
        }
        self.told.came(bytes, descriptors);
        self.wanted -= 1;
        self.sent += 1;
        true
    }

    /// There are no more.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        self.told = Gate::default();
    }

    /// How many more items the client is told to send.
    pub(super) fn release(&mut self, room: &Room<'_>) -> u32 {
        self.told.release(self.wanted, room)
    }
}

/// How a client breaks the rules of streams; its connection ends with this sentence.
#[derive(Debug, Error)]
pub(crate) enum StreamFault {
    /// Its meta is none of its kind.
    #[error("{0}")]
    Meta(#[from] MetaError),
    /// Calls are counted from 1.
    #[error("there is no call 0")]
    Call,
    /// The call has no such stream.
    #[error("call {call} has no stream {stream} that takes this")]
    Stream {
        /// The client's id of it.
        call: u64,
        /// Which.
        stream: u32,
    },
    /// It takes more than it may.
    #[error(
        "a credit of {items} for call {call}, of which {outstanding} items are to come; 1 to \
         {STREAM_CREDIT_MAX} may be"
    )]
    Credit {
        /// The client's id of it.
        call: u64,
        /// How many more.
        items: u32,
        /// How many there are.
        outstanding: u32,
    },
    /// It sends what nobody has asked for.
    #[error("item {index} of stream {stream} of call {call} is not the next, or without credit")]
    Item {
        /// The client's id of it.
        call: u64,
        /// Which.
        stream: u32,
        /// What it says.
        index: u64,
    },
    /// There is too much beside an item.
    #[error("an item has {bytes} bytes attached, at most {limit} may be")]
    Attached {
        /// How many there are.
        bytes: u64,
        /// How many there may be.
        limit: u64,
    },
    /// What is to be said of a stream's end is a novel.
    #[error("a stream's failure may have {FAILURE_TEXT_BYTES_MAX} bytes, not {0}")]
    Failure(usize),
}

/// A credit that makes no sense.
pub(super) struct BadCredit;

/// Adds to what is outstanding.
pub(super) fn add(outstanding: &mut u32, items: u32) -> Result<(), BadCredit> {
    let sum = outstanding.saturating_add(items);
    if items == 0 || sum > STREAM_CREDIT_MAX {
        return Err(BadCredit);
    }
    *outstanding = sum;
    Ok(())
}

impl Streams {
    pub(super) fn new(gives: bool, takes: bool) -> Streams {
        Streams { gives, takes, ..Streams::default() }
    }

    /// How many items the worker has sent; none where it answers otherwise.
    pub(super) fn sent(&self) -> Option<u64> {
        self.gives.then_some(self.sent)
    }

    /// Whether the worker has to wait for its reader before it may send another item.
    pub(super) fn wait_for_reader(&self) -> bool {
        self.gives && self.output.under_way() == 0
    }

    /// Takes note of an item of the worker's.
    pub(super) fn give(
        &mut self,
        item: Item,
        bytes: usize,
        descriptors: usize,
    ) -> Result<(), String> {
        let Item { stream, index } = item;
        if !self.gives || stream != 0 {
            return Err(format!("it sent an item of stream {stream}, which is not its to send"));
        }
        if index != self.sent {
            return Err(format!("it sent item {index} where item {} is the next", self.sent));
        }
        if self.output.under_way() == 0 {
            return Err(format!("it sent item {index}, which nobody has asked for"));
        }
        self.output.came(bytes, descriptors);
        self.sent += 1;
        Ok(())
    }

    /// Takes note of the worker's wish for items.
    pub(super) fn ask(&mut self, credit: Credit) -> Result<(), String> {
        let Credit { stream, items } = credit;
        if !self.takes || stream == 0 || stream >= STREAMS_MAX {
            return Err(format!("it asked for items of stream {stream}, which is not there"));
        }
        let found = self.inputs.iter().position(|input| input.stream == stream);
        let at = found.unwrap_or_else(|| {
            let (wanted, told, sent) = (0, Gate::default(), 0);
            self.inputs.push(Input { stream, wanted, told, sent, has_ended: false });
            self.inputs.len() - 1
        });
        let input = &mut self.inputs[at];
        if input.has_ended {
            // It could not know.
            return Ok(());
        }
        add(&mut input.wanted, items).map_err(|BadCredit| {
            let outstanding = input.wanted;
            format!("it asked for {items} items, and {outstanding} are to come already")
        })
    }

    /// A client's stream that the worker has asked for items of and that has not ended.
    pub(super) fn input(&mut self, stream: u32) -> Option<&mut Input> {
        let mut inputs = self.inputs.iter_mut();
        inputs.find(|input| input.stream == stream && !input.has_ended)
    }
}

#[cfg(test)]
#[path = "stream_books_tests.rs"]
mod tests;
