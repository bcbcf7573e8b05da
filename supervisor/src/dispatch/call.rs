//! A call on its way: from its client's frame to a worker, and from its answer to the client.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clutch_protocol::failure::{Failure, Reason};
use clutch_protocol::message::{self, Answer, WorkerId};
use clutch_protocol::wire::{self, MetaError};
use clutch_protocol::{Codec, Flags, Frame, Header, Kind, retry};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;

use super::attempts::Attempts;
use super::core::Core;
use super::counters::{Counters, answered};
use super::dispatcher::Dispatcher;
use super::given::Given;
use super::history::{OK, Record, What};
use super::metas::{ANSWER_BYTES, encode_each, push_answer, push_run, run_bytes};
use super::phases::Waited;
use super::refusal::{early_failure, send_failure};
use super::stream_books::{Items, Streams};
use crate::net::Attached;
use crate::pool::{CallKey, Caller, Event, StopCause};
use crate::session::Peer;
use crate::worker::spawner::PoolIndex;

/// A call that is owed an answer.
#[derive(Debug)]
pub struct Call {
    pub(super) peer: Rc<Peer>,
    /// The id its client gave it.
    pub(super) id: u64,
    pool: PoolIndex,
    function: Rc<str>,
    /// What it does with its items, encoded.
    each: Option<Box<[u8]>>,
    flags: Flags,
    codec: Codec,
    payload: Bytes,
    /// What is attached to it. Kept until it is answered: another attempt needs it again.
    attached: Attached,
    pub(super) timeout: Duration,
    /// Whether that is all that the call has left that waits for it.
    pub(super) is_cut_short: bool,
    /// What its caller wished, where its pool allows no more than `timeout`.
    pub(super) wished: Option<Duration>,
    pub(super) arrived: Instant,
    pub(super) waited: Waited,
    pub(super) attempts: Attempts,
    /// Whether it is written down why nobody wants it.
    pub(super) is_unwanted: bool,
    /// What its client may still be sent of its items, and how many there were.
    pub(super) items: Items,
    /// Output bytes its client has missed because it read too slowly.
    pub(super) output_dropped: u64,
    /// The bytes it holds of the daemon's memory budget.
    _memory: Option<OwnedSemaphorePermit>,
}

impl Call {
    /// The function it calls.
    pub fn function(&self) -> &Rc<str> {
        &self.function
    }

    /// When it came in.
    pub fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Its pool.
    pub fn pool(&self) -> PoolIndex {
        self.pool
    }

    /// When it was handed to the worker it is with, and to which.
    pub fn assigned(&self) -> Option<(Instant, WorkerId)> {
        self.attempts.running()
    }

    /// The worker it is with, if it is with one.
    pub fn worker(&self) -> Option<WorkerId> {
        self.attempts.running().map(|(_, worker)| worker)
    }

    /// Whether the caller wants to see what it prints.
    pub fn wants_output(&self) -> bool {
        self.flags.has(Flags::OUTPUT)
    }

    /// Whether it answers with a stream.
    pub fn gives_items(&self) -> bool {
        self.flags.has(Flags::STREAM)
    }

    /// Whether an argument of it can stand for a stream of its client's.
    pub fn may_take_items(&self) -> bool {
        self.flags.has(Flags::ATTACHED)
    }

    /// Whether the caller wants to know how far it has come.
    pub fn wants_progress(&self) -> bool {
        self.flags.has(Flags::PROGRESS)
    }
}

/// Why a call's frame breaks the protocol; its connection ends with this sentence.
#[derive(Debug, Error)]
pub enum CallFault {
    /// Its meta is no call's.
    #[error("{0}")]
    Meta(#[from] MetaError),
    /// The client uses an id twice at the same time.
    #[error("call id {0} is in use; give every unanswered call its own id, from 1")]
    Id(u64),
    /// Without a codec nobody can read the arguments.
    #[error("a call needs arguments and a codec; an empty list is a list, too")]
    NoCodec,
}

impl Core {
    /// Takes a call in.
    ///
    /// # Errors
    ///
    /// When the frame breaks the protocol. Everything else that is wrong with a call is answered.
    pub fn call(
        &self,
        now: Instant,
        peer: &Rc<Peer>,
        frame: Frame,
        attached: Attached,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Result<(), CallFault> {
        let meta: message::Call = wire::decode(&frame.meta)?;
        let id = frame.header.id;
        if id == 0 || peer.calls.borrow().contains_key(&id) {
            return Err(CallFault::Id(id));
        }
        if frame.header.codec == Codec::None {
            return Err(CallFault::NoCodec);
        }
        let taken =
            self.with(|dispatcher| dispatcher.take_in(now, peer, (frame, attached), meta, memory));
        if let Some((pool, event)) = taken {
            let nested = matches!(event, Event::CallArrived { nested: true, .. });
            if nested {
                self.tell_nested(now);
            }
            self.tell_at(now, pool, event);
            if nested {
                self.unstick(now, pool);
            }
        }
        Ok(())
    }
}

/// Counts a call that has come.
fn count_in(counters: &mut Counters, frame: &Frame, attached: &Attached) {
    counters.one("accepted");
    counters.add("bytes_in", u64::from(frame.header.payload_bytes));
    if !attached.is_empty() {
        counters.add("attached_bytes_in", attached.bytes());
    }
}

impl Dispatcher {
    /// Judges a call by what no pool's state is needed for, and keeps it. What is to be told to
    /// which pool, unless it was answered.
    fn take_in(
        &mut self,
        now: Instant,
        peer: &Rc<Peer>,
        (frame, attached): (Frame, Attached),
        meta: message::Call,
        memory: Option<OwnedSemaphorePermit>,
    ) -> Option<(PoolIndex, Event)> {
        let message::Call { pool: pool_name, function, timeout_ms, priority, .. } = meta;
        let (id, retry, each) = (frame.header.id, meta.retry, meta.each);
        let Some(pool) = self.by_name.get(&pool_name).copied() else {
            let reason = Reason::NotFound(Box::new(self.no_such_pool(&pool_name)));
            self.counters.one("calls_without_pool");
            send_failure(peer, id, &early_failure(pool_name, function, reason));
            return None;
        };
        let (attached, fault) = peer.handles.behind(attached, &meta.handles, &frame.header);
        let state = &mut self.pools[pool.0];
        count_in(&mut state.counters, &frame, &attached);
        let wishes = (retry.as_ref(), each.as_ref());
        let refused =
            fault.or_else(|| self.refusal(pool, &function, (&frame.header, &attached), wishes));
        let parent = match refused.map_or_else(|| self.parent_of(peer, pool), Err) {
            Ok(parent) => parent,
            Err(reason) => {
                self.pool(pool).counters.one(answered(&reason));
                send_failure(peer, id, &early_failure(pool_name, function, reason));
                return None;
            }
        };
        let (timeout, is_cut_short) = self.time_for(now, pool, timeout_ms, parent);
        let attempts = Attempts::new(retry);
        let policy = attempts.policy();
        self.last_call += 1;
        let key = CallKey(self.last_call);
        let (function, number) = self.history.function(&function);
        self.history.note(now, Record::new(What::Arrived, pool).call(key).extra(number));
        peer.calls.borrow_mut().insert(id, key);
        self.calls.insert(
            key,
            Call {
                peer: peer.clone(),
                id,
                pool,
                function,
                each: encode_each(each),
                flags: frame.header.flags,
                codec: frame.header.codec,
                payload: frame.payload,
                attached,
                timeout,
                is_cut_short,
                wished: self.wished(pool, timeout_ms),
                arrived: now,
                waited: Waited::new(now, &self.pools[pool.0].policy),
                attempts,
                is_unwanted: false,
                items: Items::default(),
                output_dropped: 0,
                _memory: memory,
            },
        );
        if let Some(parent) = parent {
            self.wait_for(now, parent, key, pool);
        }
        let (caller, nested) = (Caller(peer.id), parent.is_some());
        let deadline = now + timeout;
        let retry = policy;
        Some((pool, Event::CallArrived { call: key, deadline, caller, priority, retry, nested }))
    }

    /// Hands a call to a free worker.
    pub(super) fn assign(&mut self, now: Instant, pool: PoolIndex, worker: WorkerId, key: CallKey) {
        if let Some(link) = self.worker(pool, worker).and_then(|entry| entry.link.clone()) {
            // What was printed before it must not be taken for its own.
            self.catch_up_with_output(now, &link);
        }
        let call = self.calls.get_mut(&key).expect("the pool assigns calls that are owed");
        call.waited.end(now, &self.pools[pool.0].policy);
        let run = retry::run_id(key.0, call.attempts.begin(now, worker));
        let left = (call.arrived + call.timeout).saturating_duration_since(now);
        let left = call.attempts.timeout().map_or(left, |timeout| timeout.min(left));
        let payload = call.payload.clone();
        // The meta's layout is `message::Run`; written out here since this is the call path, and
        // pinned to the struct by a test.
        let head = &mut self.head;
        head.clear();
        let meta_bytes = run_bytes(&call.function, call.each.as_deref());
        head.extend_from_slice(
            &Header {
                flags: call.flags,
                codec: call.codec,
                descriptors: call.attached.count(),
                meta_bytes: u32::try_from(meta_bytes).expect("a function's name is short"),
                payload_bytes: u32::try_from(payload.len()).expect("it came in one frame"),
                ..Header::new(Kind::Run, run)
            }
            .encode(),
        );
        push_run(head, left, &call.function, call.each.as_deref());
        let state = &mut self.pools[pool.0];
        let entry = state.workers.get_mut(&worker).expect("the pool assigns to live workers");
        let had = entry.calls_had.take().unwrap_or(key..=key);
        entry.calls_had = Some(key.min(*had.start())..=key.max(*had.end()));
        entry.note_ooms(now);
        let is_only = entry.given.is_empty();
        if is_only {
            entry.begin_stack();
        }
        let (credit, function) = (call.items.credit, call.function.clone());
        let streams = Streams::new(call.gives_items(), call.may_take_items());
        entry.given.push(Given { call: key, run, function, streams, progress: None });
        let record = Record::new(What::Assigned, pool).call(key).worker(worker);
        self.history.note(now, record.extra(entry.pid));
        let link = entry.link.as_ref().expect("a ready worker has a link");
        link.followed.begin(call.wants_progress(), is_only);
        // The payload is kept: a worker that dies before it has begun is followed by another. So it
        // costs nothing to wait behind items of an earlier call that the worker did not read, and
        // a worker is given one call for each of its lanes at most.
        if link.call.send_unlimited(head, &payload, &call.attached).is_err() {
            // Nothing of it has left, so it has not been with a worker at all.
            call.attempts.never_began();
            entry.given.pop();
            self.follow_up(pool, Event::Undelivered { worker, call: key });
        } else if credit > 0 && self.lend(key).is_err() {
            // The call has left, so that it is lost with its worker.
            self.follow_up(pool, Event::Doomed { worker, cause: StopCause::ChannelLost });
        }
    }

    /// Passes a worker's result on to its caller. False when nobody waits for it any more.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        worker: WorkerId,
        key: CallKey,
        frame: &Frame,
        attached: &Attached,
    ) -> bool {
        let Some(call) = self.forget(key) else {
            return false;
        };
        let record = Record::new(What::Answered, call.pool).call(key).worker(worker);
        self.history.note(now, record.word(OK).extra(call.items.told()));
        let state = &mut self.pools[call.pool.0];
        state.counters.one("answered.ok");
        state.counters.add("bytes_out", u64::from(frame.header.payload_bytes));
        if !attached.is_empty() {
            state.counters.add("attached_bytes_out", attached.bytes());
        }
        let meta = Answer {
            phases: call.phases(now, &state.policy),
            worker,
            call: key.0,
            attempt: call.attempts.number(),
            pid: state.workers.get(&worker).map_or(0, |entry| entry.pid),
        };
        let head = &mut self.head;
        head.clear();
        head.extend_from_slice(
            &Header {
                flags: frame.header.flags,
                codec: frame.header.codec,
                descriptors: attached.count(),
                meta_bytes: ANSWER_BYTES,
                payload_bytes: frame.header.payload_bytes,
                ..Header::new(Kind::Result, call.id)
            }
            .encode(),
        );
        push_answer(head, &meta);
        call.peer.send_attached(head, &frame.payload, attached);
        true
    }

    /// Tells a caller that its call failed. False when nobody waits for it any more.
    pub(super) fn fail(
        &mut self,
        now: Instant,
        key: CallKey,
        reason: Reason,
        quarantined: bool,
    ) -> bool {
        self.tell_last_progress(key);
        let Some(call) = self.forget(key) else {
            return false;
        };
        let begins =
            call.worker().is_some_and(|it| self.can_have_begun(call.pool, it, key, &reason));
        let item = self.item_of(call.pool, key, call.flags, &reason);
        let state = &mut self.pools[call.pool.0];
        state.counters.one(answered(&reason));
        let failure = Failure {
            call: key.0,
            pool: state.config.name.clone(),
            function: call.function.to_string(),
            attempt: call.attempts.number(),
            started: begins || call.attempts.have_begun(),
            phases: call.phases(now, &state.policy),
            reason,
            quarantined,
            item,
        };
        send_failure(&call.peer, call.id, &failure);
        true
    }

    /// Takes a call out of the books. It is owed no answer after this.
    fn forget(&mut self, key: CallKey) -> Option<Call> {
        let call = self.calls.remove(&key)?;
        self.end_waiting(key);
        let had = call.peer.calls.borrow_mut().remove(&call.id);
        assert_eq!(Some(key), had, "both books have the same calls");
        call.peer.changed.notify_one();
        Some(call)
    }
}
