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
//! does so is refused. What a worker asks for is passed on to the client as far as the worker's
//! socket takes it: the items of a client are never more than fit its outbox, however large they
//! are and however long the worker does not read.
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

use super::call::Call;
use super::core::Core;
use super::dispatcher::Dispatcher;
use super::given::Given;
use super::history::{Record, What};
use super::stream_books::{BadCredit, Input, StreamFault, Streams, add};
use crate::net::{Attached, OutboxError};
use crate::pool::{CallKey, Event, StopCause};
use crate::session::Peer;
use crate::worker::link::{Link, frame_head};
use crate::worker::spawner::PoolIndex;

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
            streams.ask(credit)?;
            Ok(dispatcher.release(self, (link.pool, link.worker), call))
        })
    }

    /// A worker has read what was sent to it: there may be room for more.
    fn released(&self, (pool, worker): (PoolIndex, WorkerId), call: CallKey) {
        let event = self.with(|dispatcher| {
            dispatcher.with_run(pool, worker, call, |_, given| given.streams.is_awaited = false);
            dispatcher.release(self, (pool, worker), call)
        });
        if let Some(event) = event {
            self.tell(pool, event);
        }
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
        let call = frame.header.id;
        let take = |input: &mut Input| match input.take(index, frame.header.frame_bytes()) {
            true => Ok(()),
            false => Err(StreamFault::Item { call, stream, index }),
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
        let full = self.with(|dispatcher| {
            let nothing = StreamFault::Stream { call, stream };
            let Some((pool, worker)) = dispatcher.home_of_call(key) else { return Err(nothing) };
            let sent = dispatcher.with_run(pool, worker, key, |link, given| {
                let Some(input) = given.streams.input(stream) else { return Err(nothing) };
                note(input)?;
                let head = head_of(frame, given.run);
                Ok(link.call.send_attached(&head, &frame.payload, attached))
            });
            let sent = sent.transpose()?.unwrap_or(Ok(()));
            if frame.header.kind == Kind::Item {
                let counters = &mut dispatcher.pool(pool).counters;
                counters.one("items_in");
                counters.add("bytes_in", u64::from(frame.header.payload_bytes));
            }
            // The first was told when the first credit was passed on.
            let _had = dispatcher.release(self, (pool, worker), key);
            Ok(dispatcher.overflows(pool, key, frame, sent))
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
    fn counts(&self, (pool, worker): (PoolIndex, WorkerId), call: CallKey) -> bool {
        self.is_with(pool, worker, call)
            && !self.pools[pool.0].policy.is_attempt_over(call)
            && self.calls.contains_key(&call)
    }

    /// Tells a client to send what its worker wants, as far as there is room for it on the way; the
    /// event, if that is the first that has passed on.
    fn release(&mut self, core: &Core, at: (PoolIndex, WorkerId), call: CallKey) -> Option<Event> {
        if !self.counts(at, call) {
            return None;
        }
        let entry = &self.calls[&call];
        let (peer, id) = (entry.peer.clone(), entry.id);
        let worker = self.worker(at.0, at.1)?;
        let link = worker.link.clone()?;
        let streams = &mut worker.given.iter_mut().find(|given| given.call == call)?.streams;
        let mut has_passed = false;
        let mut is_held_back = false;
        for input in streams.inputs.iter_mut().filter(|input| !input.has_ended) {
            let items = input.release(link.call.waiting_bytes());
            if items > 0 {
                let credit = Credit { stream: input.stream, items };
                peer.send(&frame_head(Kind::Credit, id, &credit), &Default::default());
                has_passed = true;
            }
            is_held_back |= input.is_held_back();
        }
        // While nothing waits there, the next item that comes gives the next occasion.
        if is_held_back && link.call.waiting_bytes() > 0 && !streams.is_awaited {
            streams.is_awaited = true;
            let core = core.clone();
            while worker.tasks.try_join_next().is_some() {}
            worker.tasks.spawn_local(async move {
                link.call.drained().await;
                core.released(at, call);
            });
        }
        if has_passed { self.note_moved(at, call) } else { None }
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
        self.note_moved(at, call)
    }

    /// Something of a run's streams has passed on; the event, if it is the first.
    fn note_moved(&mut self, at: (PoolIndex, WorkerId), call: CallKey) -> Option<Event> {
        let entry = self.worker(at.0, at.1)?;
        let given = entry.given.iter_mut().find(|given| given.call == call)?;
        let had = std::mem::replace(&mut given.streams.have_moved, true);
        (!had).then_some(Event::Streamed { call })
    }

    /// A worker's socket did not take an item: its call fails, if the worker is not gone, which is
    /// told otherwise. The pool that is to know.
    fn overflows(
        &mut self,
        pool: PoolIndex,
        call: CallKey,
        frame: &Frame,
        sent: Result<(), OutboxError>,
    ) -> Option<PoolIndex> {
        let reason = overflow(sent.err()?, &frame.header)?;
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

/// Why a call fails one of whose items its worker's socket did not take; none if the worker is
/// gone.
fn overflow(error: OutboxError, item: &Header) -> Option<Reason> {
    match error {
        OutboxError::Full { waiting, limit } => {
            let bytes = (waiting + item.frame_bytes()) as u64;
            Some(Reason::TooLarge { what: Payload::Arguments, bytes, limit: limit as u64 })
        }
        OutboxError::Crowded(waiting) => {
            let message = format!(
                "an item of a stream has {} file descriptors attached, and {waiting} wait for the \
                 worker already: too many of them; attach less to each item",
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
        let Some(Reason::TooLarge { bytes, limit, .. }) = overflow(full, &item) else {
            panic!("too many bytes are too large")
        };
        assert!(bytes >= 1100 && limit == 1024);
        let Some(Reason::BadArguments { message }) = overflow(OutboxError::Crowded(62), &item)
        else {
            panic!("descriptors are no bytes")
        };
        assert!(message.contains("has 3 file descriptors") && message.contains("62 wait"));
        assert_eq!(None, overflow(OutboxError::Closed, &item));
    }
}
