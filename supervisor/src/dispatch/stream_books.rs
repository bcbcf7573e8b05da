//! The books of streams: how many items may be sent, and how many were. Whose they are, and what
//! becomes of those who do not keep to them, is in `streams`.

use clutch_protocol::limits::{FAILURE_TEXT_BYTES_MAX, STREAM_CREDIT_MAX, STREAMS_MAX};
use clutch_protocol::stream::{Credit, Item};
use clutch_protocol::wire::MetaError;
use thiserror::Error;

use crate::limits::INPUT_BYTES_HIGH;

/// The stream a call answers with, as its client sees it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Items {
    /// How many more its client takes.
    pub(super) credit: u32,
    /// How many its client was sent.
    pub(super) sent: u64,
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
    pub(super) credit: u32,
    /// How many it has sent.
    sent: u64,
    /// Those of the client's of which the worker wants items.
    pub(super) inputs: Vec<Input>,
    /// Whether somebody waits until the worker has read what there is of them.
    pub(super) is_awaited: bool,
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
    told: u32,
    /// How many it has sent.
    sent: u64,
    /// Bytes of the longest frame among them.
    longest: usize,
    /// Whether there are no more.
    pub(super) has_ended: bool,
}

impl Input {
    /// Takes note of an item; false when it is not the next, or was not asked for.
    pub(super) fn take(&mut self, index: u64, frame_bytes: usize) -> bool {
        if index != self.sent || self.told == 0 {
            return false;
        }
        self.told -= 1;
        self.wanted -= 1;
        self.sent += 1;
        self.longest = self.longest.max(frame_bytes);
        true
    }

    /// Whether the worker takes more than its client was told.
    pub(super) fn is_held_back(&self) -> bool {
        self.told < self.wanted
    }

    /// How many more items the client is told to send, where `waiting` bytes wait for the worker to
    /// read them already. Until one has come, nobody knows how long they are.
    pub(super) fn release(&mut self, waiting: usize) -> u32 {
        let room = INPUT_BYTES_HIGH.saturating_sub(waiting);
        let fitting = room.checked_div(self.longest).unwrap_or(1);
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX).max(u32::from(waiting == 0));
        let more = fitting.saturating_sub(self.told).min(self.wanted - self.told);
        self.told += more;
        more
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
    pub(super) fn new(gives: bool, takes: bool, credit: u32) -> Streams {
        Streams { gives, takes, credit, ..Streams::default() }
    }

    /// How many items the worker has sent; none where it answers otherwise.
    pub(super) fn sent(&self) -> Option<u64> {
        self.gives.then_some(self.sent)
    }

    /// Whether the worker has to wait for its reader before it may send another item.
    pub(super) fn wait_for_reader(&self) -> bool {
        self.gives && self.credit == 0
    }

    /// Takes note of an item of the worker's.
    pub(super) fn give(&mut self, item: Item) -> Result<(), String> {
        let Item { stream, index } = item;
        if !self.gives || stream != 0 {
            return Err(format!("it sent an item of stream {stream}, which is not its to send"));
        }
        if index != self.sent {
            return Err(format!("it sent item {index} where item {} is the next", self.sent));
        }
        if self.credit == 0 {
            return Err(format!("it sent item {index}, which nobody has asked for"));
        }
        self.credit -= 1;
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
            let (wanted, told, sent, longest) = (0, 0, 0, 0);
            self.inputs.push(Input { stream, wanted, told, sent, longest, has_ended: false });
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
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn asked(items: u32) -> Streams {
        let mut streams = Streams::new(false, true, 0);
        streams.ask(Credit { stream: 1, items }).unwrap();
        streams
    }

    #[test]
    fn a_worker_may_send_what_it_was_asked_for_and_in_order() {
        let mut streams = Streams::new(true, false, 2);
        let item = |stream, index| Item { stream, index };
        assert!(streams.give(item(1, 0)).unwrap_err().contains("not its to send"));
        assert!(streams.give(item(0, 1)).unwrap_err().contains("item 0 is the next"));
        streams.give(item(0, 0)).unwrap();
        assert!(!streams.wait_for_reader());
        streams.give(item(0, 1)).unwrap();
        assert!(streams.wait_for_reader() && streams.sent() == Some(2));
        assert!(streams.give(item(0, 2)).unwrap_err().contains("nobody has asked for"));
        let mut none = Streams::new(false, false, 2);
        assert!(none.give(item(0, 0)).is_err() && none.sent().is_none());
        assert!(none.ask(Credit { stream: 1, items: 1 }).is_err());
    }

    #[test]
    fn a_worker_asks_for_so_much_and_of_streams_that_can_be() {
        let mut streams = asked(4000);
        for (stream, items) in [(1, 97), (1, 0), (0, 1), (STREAMS_MAX, 1), (2, 4097)] {
            assert!(streams.ask(Credit { stream, items }).is_err(), "{stream} {items}");
        }
        streams.ask(Credit { stream: 1, items: 96 }).unwrap();
        streams.input(1).unwrap().has_ended = true;
        assert!(streams.input(1).is_none(), "it takes no more");
        streams.ask(Credit { stream: 1, items: 4096 }).expect("it could not know");
    }

    #[test]
    fn a_client_is_told_to_send_what_there_is_room_for() {
        let mut streams = asked(64);
        let input = streams.input(1).unwrap();
        assert_eq!(1, input.release(0), "how long they are is not known yet");
        assert_eq!(0, input.release(0));
        assert!(!input.take(1, 100) && input.take(0, MIB / 4));
        assert!(!input.take(1, 100), "it was not asked for");
        assert_eq!((4, true), (input.release(0), input.is_held_back()));
        assert!(input.take(1, 100) && input.take(2, 100) && input.take(3, 100));
        assert_eq!(0, input.release(MIB * 3 / 4), "that is on its way");
        assert_eq!(1, input.release(MIB / 2));
        assert!(input.take(4, 64 * MIB));
        assert_eq!((0, 0), (input.release(0), input.release(64 * MIB)), "one is on its way");
        assert!(input.take(5, 100));
        assert_eq!((0, 1), (input.release(1), input.release(0)), "one is always let through");
        // Short ones all at once.
        let mut streams = asked(64);
        let input = streams.input(1).unwrap();
        assert!(input.release(0) == 1 && input.take(0, 100));
        assert_eq!((63, false), (input.release(0), input.is_held_back()));
    }
}
