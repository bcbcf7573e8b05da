//! Items on their ways, one by one: from a worker to its call's client, and from a client to the
//! worker that runs its call.
//!
//! ```text
//!   client ── Credit ──► session ──► dispatcher ──► link ── Credit ──► worker
//!   client ◄── Item ─────────────── dispatcher ◄── link ◄── Item ──── worker     stream 0
//!
//!   client ◄── Credit ───────────── dispatcher ◄── link ◄── Credit ── worker
//!   client ── Item, ItemsEnd ─────► dispatcher ──► link ── Item ────► worker     streams 1 to 63
//! ```
//!
//! Nothing is kept here: whoever receives items has said before how many, and none are passed on
//! without. A worker that sends more than that has broken the protocol and is killed; a client that
//! does so is refused.
//!
//! The books are kept twice. What a worker may do is a matter of its run, whatever became of the
//! call; what a client may still be sent is a matter of the call, whichever attempt runs. An
//! attempt of which something has passed on is the last one, so the two agree from then on.

use clutch_protocol::limits::{FAILURE_TEXT_BYTES_MAX, STREAM_CREDIT_MAX, STREAMS_MAX};
use clutch_protocol::message::WorkerId;
use clutch_protocol::stream::{Credit, Item, ItemsEnd};
use clutch_protocol::wire::{self, MetaError};
use clutch_protocol::{Frame, Header, Kind, retry};
use thiserror::Error;

use super::call::Call;
use super::core::Core;
use super::dispatcher::Dispatcher;
use super::given::Given;
use crate::net::{Attached, OutboxError};
use crate::pool::{CallKey, Event, StopCause};
use crate::session::Peer;
use crate::worker::link::{Link, frame_head};
use crate::worker::spawner::PoolIndex;

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
    credit: u32,
    /// How many it has sent.
    sent: u64,
    /// Those of the client's of which the worker wants items.
    inputs: Vec<Input>,
    /// Whether anything of them has passed on.
    pub(super) have_moved: bool,
}

/// A stream of a client's.
#[derive(Clone, Debug)]
struct Input {
    stream: u32,
    /// How many more items the client may send.
    credit: u32,
    /// How many it has sent.
    sent: u64,
    has_ended: bool,
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
struct BadCredit;

/// Adds to what is outstanding.
fn add(outstanding: &mut u32, items: u32) -> Result<(), BadCredit> {
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
    fn give(&mut self, item: Item) -> Result<(), String> {
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

    /// Takes note of the worker's wish for items. False when the stream has ended meanwhile.
    fn ask(&mut self, credit: Credit) -> Result<bool, String> {
        let Credit { stream, items } = credit;
        if !self.takes || stream == 0 || stream >= STREAMS_MAX {
            return Err(format!("it asked for items of stream {stream}, which is not there"));
        }
        let found = self.inputs.iter().position(|input| input.stream == stream);
        let at = found.unwrap_or_else(|| {
            self.inputs.push(Input { stream, credit: 0, sent: 0, has_ended: false });
            self.inputs.len() - 1
        });
        let input = &mut self.inputs[at];
        if input.has_ended {
            return Ok(false);
        }
        add(&mut input.credit, items).map_err(|BadCredit| {
            let outstanding = input.credit;
            format!("it asked for {items} items, and {outstanding} are to come already")
        })?;
        Ok(true)
    }

    /// A client's stream that the worker has asked for items of and that has not ended.
    fn input(&mut self, stream: u32) -> Option<&mut Input> {
        let mut inputs = self.inputs.iter_mut();
        inputs.find(|input| input.stream == stream && !input.has_ended)
    }
}

impl Call {
    /// Whether its worker may send no item before its client takes more.
    pub(super) fn waits_for_reader(&self) -> bool {
        self.gives_items() && self.items.credit == 0
    }
}

/// What a worker's frame is for.
struct Owned<'a> {
    call: CallKey,
    streams: &'a mut Streams,
}

impl Core {
    /// A worker sent an item of what it answers.
    pub(super) fn worker_item(
        &self,
        link: &Link,
        frame: &Frame,
        attached: &Attached,
    ) -> Result<Option<Event>, String> {
        let item: Item = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        self.with(|dispatcher| {
            let Owned { call, streams } = dispatcher.streams_of(link, frame.header.id)?;
            streams.give(item)?;
            let most = dispatcher.daemon.attached;
            if attached.bytes() > most {
                let bytes = attached.bytes();
                return Err(format!("an item has {bytes} bytes attached, at most {most} may be"));
            }
            Ok(dispatcher.pass_item_on(link, call, frame, attached))
        })
    }

    /// A worker wants items of a stream of its call's client.
    pub(super) fn worker_credit(
        &self,
        link: &Link,
        frame: &Frame,
    ) -> Result<Option<Event>, String> {
        let credit: Credit = wire::decode(&frame.meta).map_err(|error| error.to_string())?;
        self.with(|dispatcher| {
            let Owned { call, streams } = dispatcher.streams_of(link, frame.header.id)?;
            if !streams.ask(credit)? || !dispatcher.counts(link, call) {
                return Ok(None);
            }
            let entry = dispatcher.calls.get(&call).expect("a call that counts is owed");
            let head = frame_head(Kind::Credit, entry.id, &credit);
            entry.peer.send(&head, &Default::default());
            Ok(dispatcher.note_moved(link, call))
        })
    }

    /// A client takes more of a call's items.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub(crate) fn client_credit(&self, peer: &Peer, frame: &Frame) -> Result<(), StreamFault> {
        let Credit { stream, items } = wire::decode(&frame.meta)?;
        let Some(key) = self.stream_frame(peer, frame.header.id)? else { return Ok(()) };
        let to = self.with(|dispatcher| {
            let entry = dispatcher.calls.get_mut(&key).expect("both books have the same calls");
            let call = entry.id;
            if stream != 0 || !entry.gives_items() {
                return Err(StreamFault::Stream { call, stream });
            }
            let outstanding = entry.items.credit;
            add(&mut entry.items.credit, items).map_err(|BadCredit| StreamFault::Credit {
                call,
                items,
                outstanding,
            })?;
            // While it waits for a worker, it is only added up.
            let Some((pool, worker)) = dispatcher.home_of_call(key) else { return Ok(None) };
            let sent = dispatcher.with_run(pool, worker, key, |link, given| {
                given.streams.credit += items;
                link.credit(given.run, 0, items)
            });
            Ok(sent.map(|sent| (pool, worker, sent)))
        })?;
        self.settle_sent(to);
        Ok(())
    }

    /// A client sends an item of a stream of its own.
    ///
    /// # Errors
    ///
    /// When it may not.
    pub(crate) fn client_item(
        &self,
        peer: &Peer,
        frame: &Frame,
        attached: &Attached,
    ) -> Result<(), StreamFault> {
        let Item { stream, index } = wire::decode(&frame.meta)?;
        let (bytes, limit) = (attached.bytes(), self.with(|dispatcher| dispatcher.daemon.attached));
        if bytes > limit {
            return Err(StreamFault::Attached { bytes, limit });
        }
        let take = |input: &mut Input| {
            if index != input.sent || input.credit == 0 {
                let call = frame.header.id;
                return Err(StreamFault::Item { call, stream, index });
            }
            input.credit -= 1;
            input.sent += 1;
            Ok(())
        };
        self.client_input(peer, (frame, attached), stream, take)
    }

    /// A stream of a client's has ended.
    ///
    /// # Errors
    ///
    /// When it cannot have.
    pub(crate) fn client_items_end(&self, peer: &Peer, frame: &Frame) -> Result<(), StreamFault> {
        let ItemsEnd { stream, failure } = wire::decode(&frame.meta)?;
        if failure.len() > FAILURE_TEXT_BYTES_MAX {
            return Err(StreamFault::Failure(failure.len()));
        }
        let end = |input: &mut Input| {
            input.has_ended = true;
            Ok(())
        };
        self.client_input(peer, (frame, &Attached::default()), stream, end)
    }

    /// Passes a frame of a client's stream on, once it is noted.
    fn client_input(
        &self,
        peer: &Peer,
        (frame, attached): (&Frame, &Attached),
        stream: u32,
        note: impl FnOnce(&mut Input) -> Result<(), StreamFault>,
    ) -> Result<(), StreamFault> {
        let call = frame.header.id;
        let Some(key) = self.stream_frame(peer, call)? else { return Ok(()) };
        let to = self.with(|dispatcher| {
            let nothing = StreamFault::Stream { call, stream };
            let Some((pool, worker)) = dispatcher.home_of_call(key) else { return Err(nothing) };
            let sent = dispatcher.with_run(pool, worker, key, |link, given| {
                let Some(input) = given.streams.input(stream) else { return Err(nothing) };
                note(input)?;
                Ok(link.call.send_attached(&head_of(frame, given.run), &frame.payload, attached))
            });
            Ok(sent.transpose()?.map(|sent| (pool, worker, sent)))
        })?;
        self.settle_sent(to);
        Ok(())
    }

    /// The call that a client's frame is for; none if that was answered already, which its client
    /// could not know.
    fn stream_frame(&self, peer: &Peer, id: u64) -> Result<Option<CallKey>, StreamFault> {
        if id == 0 {
            return Err(StreamFault::Call);
        }
        let key = peer.calls.borrow().get(&id).copied();
        if key.is_none() {
            self.count("stream_frames_of_ended_calls");
        }
        Ok(key)
    }

    /// What follows when a worker could not be sent something of a stream: it is gone, which its
    /// guardian tells, or it does not read what it asked for.
    fn settle_sent(&self, to: Option<(PoolIndex, WorkerId, Result<(), OutboxError>)>) {
        if let Some((pool, worker, Err(error))) = to
            && error != OutboxError::Closed
        {
            self.worker_faulted(pool, worker, StopCause::Protocol, error.to_string());
        }
    }
}

impl Dispatcher {
    /// How many items of a call its client was sent, for the history.
    pub(super) fn items_told(&self, call: CallKey) -> u32 {
        self.calls.get(&call).map_or(0, |entry| entry.items.told())
    }

    /// The streams of a run that a worker has.
    fn streams_of(&mut self, link: &Link, run: u64) -> Result<Owned<'_>, String> {
        let entry = self.worker(link.pool, link.worker);
        let given = entry.and_then(|entry| entry.given.iter_mut().find(|it| it.run == run));
        match given {
            Some(given) => Ok(Owned { call: given.call, streams: &mut given.streams }),
            None => {
                let call = retry::call_of_run(run);
                Err(format!("it sent something of a stream of call {call}, which it does not have"))
            }
        }
    }

    /// Whether a worker's attempt of a call is the one that counts, and its caller waits for it.
    fn counts(&self, link: &Link, call: CallKey) -> bool {
        self.is_with(link.pool, link.worker, call)
            && !self.pools[link.pool.0].policy.is_attempt_over(call)
            && self.calls.contains_key(&call)
    }

    /// Passes an item on to its caller, if that still waits.
    fn pass_item_on(
        &mut self,
        link: &Link,
        call: CallKey,
        frame: &Frame,
        attached: &Attached,
    ) -> Option<Event> {
        if !self.counts(link, call) {
            self.pool(link.pool).counters.one("late_items_dropped");
            return None;
        }
        let entry = self.calls.get_mut(&call).expect("a call that counts is owed");
        assert!(entry.items.credit > 0, "a worker is lent no more than its caller takes");
        entry.items.credit -= 1;
        entry.items.sent += 1;
        entry.peer.send_attached(&head_of(frame, entry.id), &frame.payload, attached);
        let bytes = u64::from(frame.header.payload_bytes);
        let counters = &mut self.pool(link.pool).counters;
        counters.one("items_out");
        counters.add("bytes_out", bytes);
        if !attached.is_empty() {
            counters.add("attached_bytes_out", attached.bytes());
        }
        self.note_moved(link, call)
    }

    /// Something of a run's streams has passed on; the event, if it is the first.
    fn note_moved(&mut self, link: &Link, call: CallKey) -> Option<Event> {
        let entry = self.worker(link.pool, link.worker)?;
        let given = entry.given.iter_mut().find(|given| given.call == call)?;
        let had = std::mem::replace(&mut given.streams.have_moved, true);
        (!had).then_some(Event::Streamed { call })
    }

    /// Where a call runs, unless that attempt has had its time.
    fn home_of_call(&self, key: CallKey) -> Option<(PoolIndex, WorkerId)> {
        let call = self.calls.get(&key)?;
        let (pool, worker) = (call.pool(), call.worker()?);
        let counts =
            self.is_with(pool, worker, key) && !self.pools[pool.0].policy.is_attempt_over(key);
        counts.then_some((pool, worker))
    }

    /// Does something to a run and its worker.
    fn with_run<T>(
        &mut self,
        pool: PoolIndex,
        worker: WorkerId,
        call: CallKey,
        act: impl FnOnce(&Link, &mut Given) -> T,
    ) -> Option<T> {
        let entry = self.worker(pool, worker)?;
        let link = entry.link.clone()?;
        let given = entry.given.iter_mut().find(|given| given.call == call)?;
        Some(act(&link, given))
    }
}

/// A frame's header and meta with another id.
fn head_of(frame: &Frame, id: u64) -> Vec<u8> {
    let header = Header { id, ..frame.header };
    [&header.encode()[..], &frame.meta].concat()
}
