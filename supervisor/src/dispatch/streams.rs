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
//! does so is refused. Leave to send is passed on only as far as there is room for the items in the
//! outbox that they go through (`stream_gate`), both ways: so a reader that does not read slows
//! whoever sends, and costs the daemon little memory. What resumes them is the outbox's own flush,
//! or the end of another stream: see `Lent`.
//!
//! The books are kept twice. What a worker may do is a matter of its run, whatever became of the
//! call; what a client may still be sent is a matter of the call, whichever attempt runs. An
//! attempt of which something has passed on is the last one, so the two agree from then on.

use std::time::Instant;

use clutch_protocol::failure::{Payload, Reason};
use clutch_protocol::limits::FAILURE_TEXT_BYTES_MAX;
use clutch_protocol::message::WorkerId;
use clutch_protocol::stream::{Credit, Item, ItemsEnd};
use clutch_protocol::wire;
use clutch_protocol::{Frame, Header, Kind, retry};
use tokio::sync::OwnedSemaphorePermit;

use super::call::Call;
use super::core::Core;
use super::dispatcher::Dispatcher;
use super::given::Given;
use super::history::{Record, What};
use super::stream_books::{BadCredit, Input, StreamFault, Streams, add};
use super::stream_gate::Room;
use crate::limits::ANSWERS_RESERVE_BYTES;
use crate::net::{Attached, OutboxError};
use crate::pool::{CallKey, Event};
use crate::session::Peer;
use crate::worker::link::{Link, frame_head};
use crate::worker::spawner::PoolIndex;

impl Call {
    /// Whether its worker may send no item before its client takes more.
    pub(super) fn waits_for_reader(&self) -> bool {
        self.gives_items() && (self.items.credit == 0 || self.items.are_withheld)
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
            streams.give(item, frame.header.frame_bytes(), attached.len())?;
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
            streams.ask(credit)?;
            Ok(dispatcher.release((link.pool, link.worker), call))
        })
    }

    /// A worker has read some of what was sent to it: there may be room for more of what it wants.
    pub(crate) fn resume_inputs(&self, link: &Link) {
        let (pool, worker) = (link.pool, link.worker);
        let calls = self.with(|dispatcher| dispatcher.running_in(pool, worker));
        for call in calls {
            let event = self.with(|dispatcher| dispatcher.release((pool, worker), call));
            if let Some(event) = event {
                self.tell(pool, event);
            }
        }
    }

    /// A client has read some of what was sent to it: its streams may go on.
    pub(crate) fn resume_outputs(&self, peer: &Peer) {
        let mut calls: Vec<_> = peer.calls.borrow().values().copied().collect();
        // In turns would be fairer still; so it is at least the oldest first, and none for ever.
        calls.sort_unstable();
        self.with(|dispatcher| {
            for call in calls {
                // Without its socket a worker is gone, which its guardian tells.
                let _ = dispatcher.lend(call);
            }
        });
    }

    /// Whether any of a client's calls may wait for what it says of its streams.
    pub(crate) fn has_streams(&self, peer: &Peer) -> bool {
        self.with(|dispatcher| {
            peer.calls.borrow().values().any(|key| {
                let Some(call) = dispatcher.calls.get(key) else { return false };
                let mut given = call.worker().into_iter().flat_map(|worker| {
                    let entry = dispatcher.pools[call.pool().0].workers.get(&worker);
                    entry.into_iter().flat_map(|entry| &entry.given)
                });
                call.gives_items() || given.any(|it| it.call == *key && it.streams.have_moved)
            })
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
        self.with(|dispatcher| {
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
            // Without its socket a worker is gone, which its guardian tells.
            let _ = dispatcher.lend(key);
            Ok(())
        })
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
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), StreamFault> {
        let Item { stream, index } = wire::decode(&frame.meta)?;
        let (bytes, limit) = (attached.bytes(), self.with(|dispatcher| dispatcher.daemon.attached));
        if bytes > limit {
            return Err(StreamFault::Attached { bytes, limit });
        }
        let call = frame.header.id;
        let size = (frame.header.frame_bytes(), attached.len());
        let take = |input: &mut Input| match input.take(index, size.0, size.1) {
            true => Ok(()),
            false => Err(StreamFault::Item { call, stream, index }),
        };
        self.client_input(peer, (frame, attached, memory), stream, take)
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
            input.end();
            Ok(())
        };
        self.client_input(peer, (frame, &Attached::default(), None), stream, end)
    }

    /// Passes a frame of a client's stream on, once it is noted.
    fn client_input(
        &self,
        peer: &Peer,
        (frame, attached, memory): (&Frame, &Attached, Option<OwnedSemaphorePermit>),
        stream: u32,
        note: impl FnOnce(&mut Input) -> Result<(), StreamFault>,
    ) -> Result<(), StreamFault> {
        let call = frame.header.id;
        let Some(key) = self.stream_frame(peer, call)? else { return Ok(()) };
        let full = self.with(|dispatcher| {
            let nothing = StreamFault::Stream { call, stream };
            let Some((pool, worker)) = dispatcher.home_of_call(key) else { return Err(nothing) };
            let sent = dispatcher.with_run(pool, worker, key, |link, given| {
                let Some(input) = given.streams.input(stream) else { return Err(nothing) };
                note(input)?;
                let head = head_of(frame, given.run);
                // Its bytes may be any number: they were asked for, and hold what they take of the
                // daemon's memory until the worker has them.
                let sent = link
                    .call
                    .fits_crowd(attached.len())
                    .and_then(|()| link.call.send_holding(&head, &frame.payload, attached, memory));
                Ok(sent)
            });
            let sent = sent.transpose()?.unwrap_or(Ok(()));
            if frame.header.kind == Kind::Item {
                let counters = &mut dispatcher.pool(pool).counters;
                counters.one("items_in");
                counters.add("bytes_in", u64::from(frame.header.payload_bytes));
            }
            // The first was told when the first credit was passed on.
            let _had = dispatcher.release((pool, worker), key);
            Ok(dispatcher.overflows(pool, key, (frame, Payload::Arguments), sent))
        })?;
        if let Some(pool) = full {
            self.tell(pool, Event::CallCancelled { call: key });
        }
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
    fn counts(&self, (pool, worker): (PoolIndex, WorkerId), call: CallKey) -> bool {
        self.is_with(pool, worker, call)
            && !self.pools[pool.0].policy.is_attempt_over(call)
            && self.calls.contains_key(&call)
    }

    /// Tells a client to send what its worker wants, as far as there is room for it on the way; the
    /// event, if that is the first that has passed on.
    fn release(&mut self, at: (PoolIndex, WorkerId), call: CallKey) -> Option<Event> {
        if !self.counts(at, call) {
            return None;
        }
        let entry = &self.calls[&call];
        let (peer, id) = (entry.peer.clone(), entry.id);
        let worker = self.worker(at.0, at.1)?;
        let link = worker.link.clone()?;
        let streams = &mut worker.given.iter_mut().find(|given| given.call == call)?.streams;
        let mut has_passed = false;
        for input in streams.inputs.iter_mut().filter(|input| !input.has_ended) {
            let items = input.release(&Room::to_worker(&link.call));
            if items > 0 {
                let credit = Credit { stream: input.stream, items };
                peer.send(&frame_head(Kind::Credit, id, &credit), &Default::default());
                has_passed = true;
            }
        }
        if !has_passed {
            return None;
        }
        let event = self.note_moved(at, call);
        if event.is_some() {
            // Its session may have to read on: there are items to come.
            peer.changed.notify_one();
        }
        event
    }

    /// Lets a call's worker send what its client takes, as far as there is room for it on the way.
    /// While the call waits for a worker, that is only added up.
    ///
    /// # Errors
    ///
    /// When its worker's socket is gone.
    pub(super) fn lend(&mut self, key: CallKey) -> Result<(), OutboxError> {
        let Some((pool, worker)) = self.home_of_call(key) else { return Ok(()) };
        let entry = &self.calls[&key];
        let (peer, wanted) = (entry.peer.clone(), entry.items.credit);
        if !entry.gives_items() {
            return Ok(());
        }
        let sent = self.with_run(pool, worker, key, |link, given| {
            let output = &mut given.streams.output;
            let items = output.release(wanted, &Room::to_client(&peer.outbox));
            let sent = if items > 0 { link.credit(given.run, 0, items) } else { Ok(()) };
            (sent, output.under_way())
        });
        let Some((sent, under_way)) = sent else { return Ok(()) };
        let entry = self.calls.get_mut(&key).expect("it was there");
        entry.items.are_withheld = under_way == 0 && wanted > 0;
        sent
    }

    /// Passes an item on to its caller, if that still waits.
    fn pass_item_on(
        &mut self,
        link: &Link,
        call: CallKey,
        frame: &Frame,
        attached: &Attached,
    ) -> Option<Event> {
        let at = (link.pool, link.worker);
        if !self.counts(at, call) {
            self.pool(link.pool).counters.one("late_items_dropped");
            return None;
        }
        let entry = self.calls.get_mut(&call).expect("a call that counts is owed");
        assert!(entry.items.credit > 0, "a worker is lent no more than its caller takes");
        let bytes = frame.header.frame_bytes();
        let fits = entry.peer.outbox.fits(bytes, attached.len(), ANSWERS_RESERVE_BYTES);
        if let Err(error) = fits {
            let overflows = self.overflows(link.pool, call, (frame, Payload::Result), Err(error));
            return overflows.map(|_| Event::CallCancelled { call });
        }
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
        // Mostly it has been lent all that its client takes, and this is a look at two numbers.
        let _ = self.lend(call);
        self.note_moved(at, call)
    }

    /// Something of a run's streams has passed on; the event, if it is the first.
    fn note_moved(&mut self, at: (PoolIndex, WorkerId), call: CallKey) -> Option<Event> {
        let entry = self.worker(at.0, at.1)?;
        let given = entry.given.iter_mut().find(|given| given.call == call)?;
        let had = std::mem::replace(&mut given.streams.have_moved, true);
        (!had).then_some(Event::Streamed { call })
    }

    /// An item was too much for what waits on its way already: its call fails, unless the worker is
    /// gone, which is told otherwise. The pool that is to know.
    fn overflows(
        &mut self,
        pool: PoolIndex,
        call: CallKey,
        (frame, what): (&Frame, Payload),
        sent: Result<(), OutboxError>,
    ) -> Option<PoolIndex> {
        let reason = overflow(sent.err()?, &frame.header, what)?;
        let (now, items) = (Instant::now(), self.items_told(call));
        let word = self.history.word(reason.name());
        if self.fail(now, call, reason, false) {
            let record = Record::new(What::Answered, pool).call(call);
            self.history.note(now, record.word(word).extra(items));
        }
        Some(pool)
    }

    /// Where a call runs, unless that attempt has had its time.
    fn home_of_call(&self, key: CallKey) -> Option<(PoolIndex, WorkerId)> {
        let call = self.calls.get(&key)?;
        let at = (call.pool(), call.worker()?);
        self.counts(at, key).then_some(at)
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

/// Why a call fails one of whose items did not fit on its way; none if the worker is gone.
fn overflow(error: OutboxError, item: &Header, what: Payload) -> Option<Reason> {
    match error {
        OutboxError::Full { waiting, limit } => {
            let bytes = (waiting + item.frame_bytes()) as u64;
            Some(Reason::TooLarge { what, bytes, limit: limit as u64 })
        }
        OutboxError::Crowded(waiting) => {
            let message = format!(
                "an item of a stream has {} file descriptors attached, and {waiting} wait for its \
                 reader already: too many of them; attach less to each item",
                item.descriptors
            );
            Some(Reason::BadArguments { message })
        }
        OutboxError::Closed => None,
    }
}

/// A frame's header and meta with another id.
fn head_of(frame: &Frame, id: u64) -> Vec<u8> {
    let header = Header { id, ..frame.header };
    [&header.encode()[..], &frame.meta].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_told_as_what_it_is() {
        let item = Header { descriptors: 3, payload_bytes: 100, ..Header::new(Kind::Item, 1) };
        let full = OutboxError::Full { waiting: 1000, limit: 1024 };
        let Some(Reason::TooLarge { bytes, limit, .. }) = overflow(full, &item, Payload::Result)
        else {
            panic!("too many bytes are too large")
        };
        assert!(bytes >= 1100 && limit == 1024);
        let Some(Reason::BadArguments { message }) =
            overflow(OutboxError::Crowded(62), &item, Payload::Result)
        else {
            panic!("descriptors are no bytes")
        };
        assert!(message.contains("has 3 file descriptors") && message.contains("62 wait"));
        assert_eq!(None, overflow(OutboxError::Closed, &item, Payload::Result));
    }
}
