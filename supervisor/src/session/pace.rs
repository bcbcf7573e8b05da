//! How a connection keeps pace: when it stops reading, what it waits for, and how long.

use std::pin::pin;
use std::time::{Duration, Instant};

use clutch_protocol::failure::Reason;
use clutch_protocol::message::Refusal;
use clutch_protocol::{Frame, Header, Kind};

use super::connection::{Connection, End, refused, wants_answer};
use super::held::{Arrival, Next};
use crate::limits::{
    BUDGETED_BYTES_MIN, CLAIM_TIMEOUT, CLIENT_OUTBOX_BYTES_HIGH, FRAME_BYTES_PER_SEC_MIN,
    FRAME_TIMEOUT, STALL_TIMEOUT,
};
use crate::net::hangup::wait_until_closed;

/// How long a client that sends no more may take to read its last answers.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a frame's claim to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It has its memory, or needs none.
    Settled,
    /// Something else may be done first.
    Waited,
}

impl Connection {
    /// Whether nothing may be read now: too many requests wait for room, or answers are unread.
    pub(super) fn must_pause(&self) -> bool {
        self.leaves_answers_unread()
            || self.held.first().is_some_and(|first| self.must_wait(first))
                && self.holds_enough()
                && !self.doorway.core.has_streams(&self.peer)
    }

    /// Whether a frame asks for more than may be in flight, or brings more descriptors than may be
    /// held. What belongs to calls that are in flight already never waits: they might wait for it.
    pub(super) fn must_wait(&self, arrival: &Arrival) -> bool {
        let kind = arrival.frame.header.kind;
        let is_nested = self.peer.home.get().is_some();
        wants_answer(kind) && self.is_full()
            || kind == Kind::Call
                && !arrival.attached.is_empty()
                && self.ledger.must_wait(arrival.attached.len(), is_nested)
    }

    /// Keeps a frame that has to wait, for room or behind others, and lets the others pass.
    pub(super) fn hold(&mut self, arrival: Arrival) -> Result<Next, End> {
        let Header { kind, id, .. } = arrival.frame.header;
        if kind == Kind::Cancel
            && let Some(call) = self.held.take_call(id)
        {
            return self.turn_away(&call, Reason::Cancelled);
        }
        if kind == Kind::Release && self.doorway.core.has_handle(&self.peer, id) {
            // Calls before it may have the value. There are no more of these than handles.
            if !self.held.has_release(id) {
                self.held.push(arrival);
            }
            return Ok(Next::Kept);
        }
        let is_behind_release = kind == Kind::Put && self.held.has_releases();
        if !wants_answer(kind) && !self.held.has_call(id) && !is_behind_release {
            return Ok(Next::Take(arrival));
        }
        if !self.holds_enough() {
            self.held.push(arrival);
            return Ok(Next::Kept);
        }
        if kind != Kind::Call {
            // Of a call that was refused, or a question: it cannot wait, and need not.
            return Ok(Next::Take(arrival));
        }
        let message = "too many of its client's calls wait for room already, while others of them \
                       have streams; let some be answered before you make more";
        self.turn_away(&arrival.frame, Reason::BadArguments { message: message.to_owned() })
    }

    /// Answers a call that no pool has seen.
    fn turn_away(&self, call: &Frame, reason: Reason) -> Result<Next, End> {
        let answered = self.doorway.core.turn_away(&self.peer, call, reason);
        answered.map(|()| Next::Kept).map_err(|fault| refused(Refusal::Protocol, fault.to_string()))
    }

    /// Whether as many requests are held as may be.
    fn holds_enough(&self) -> bool {
        self.held.is_long(self.doorway.daemon.in_flight as usize)
            || !self.ledger.may_queue(self.held.descriptors())
    }

    fn leaves_answers_unread(&self) -> bool {
        let outbox = &self.peer.outbox;
        outbox.waiting_bytes() > CLIENT_OUTBOX_BYTES_HIGH || outbox.is_half_crowded()
    }

    /// Whether no more may be in flight.
    fn is_full(&self) -> bool {
        self.peer.in_flight() >= self.doorway.daemon.in_flight as usize
    }

    /// Waits until the client has got on with its answers. A client that does not read at all is
    /// dropped.
    pub(super) async fn pause(&mut self) -> Option<End> {
        let begun = Instant::now();
        let end = self.pause_until_changed().await;
        // The client could not go on with its frame meanwhile, so that time is not its own.
        if let Some(deadline) = &mut self.frame_deadline {
            *deadline += begun.elapsed();
        }
        end
    }

    async fn pause_until_changed(&self) -> Option<End> {
        let (peer, stream) = (self.peer.clone(), self.stream.clone());
        let sent = peer.outbox.sent_bytes();
        let unread = self.leaves_answers_unread();
        let stalled = async {
            if unread {
                tokio::time::sleep_until(tokio::time::Instant::now() + STALL_TIMEOUT).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = peer.changed.notified() => None,
            () = self.ledger.freed(), if !self.held.is_empty() => None,
            // Only when there is something to drain: an empty outbox is drained at once, and a wait
            // that is over at once is a loop that never gives the thread back.
            () = peer.outbox.drained(), if unread => None,
            () = wait_until_closed(&stream) => Some(End::Broken),
            () = stalled => (peer.outbox.sent_bytes() == sent).then(|| {
                let sentence = format!("answers unread for {} s", STALL_TIMEOUT.as_secs());
                refused(Refusal::TooSlow, sentence)
            }),
        }
    }

    /// A long frame takes its bytes out of the daemon's memory budget before they come in. What is
    /// held meanwhile is looked at whenever there is more room.
    pub(super) async fn claim_memory(&mut self) -> Result<Claim, End> {
        let Some(header) = self.inbox.pending() else {
            return Ok(Claim::Settled);
        };
        if self.memory.is_some() || header.payload_bytes < BUDGETED_BYTES_MIN {
            return Ok(Claim::Settled);
        }
        let bytes = u64::from(header.payload_bytes);
        let kib = u32::try_from(bytes.div_ceil(1024)).expect("a payload is below 4 GiB");
        let deadline =
            *self.claim_deadline.get_or_insert_with(|| tokio::time::Instant::now() + CLAIM_TIMEOUT);
        let claim = self.doorway.memory.clone().acquire_many_owned(kib);
        let stream = self.stream.clone();
        let mut claim = pin!(tokio::time::timeout_at(deadline, claim));
        let mut closed = pin!(wait_until_closed(&stream));
        let permit = loop {
            tokio::select! {
                biased;
                permit = &mut claim => break permit,
                () = &mut closed => return Err(End::Broken),
                () = self.ledger.freed(), if !self.held.is_empty() => {}
                () = self.peer.changed.notified(), if !self.held.is_empty() => {}
            }
            // Its place among those that claim is given up only for what can be done.
            let first = self.held.first();
            if self.peer.lost().is_some() || first.is_some_and(|it| !self.must_wait(it)) {
                return Ok(Claim::Waited);
            }
        };
        let Ok(Ok(permit)) = permit else {
            let sentence = "the daemon holds as many request bytes as it may (daemon.memory); try \
                            again later";
            return Err(refused(Refusal::Overloaded, sentence.to_owned()));
        };
        self.memory = Some(permit);
        let allowance = Duration::from_secs(bytes / FRAME_BYTES_PER_SEC_MIN);
        self.frame_deadline = Some(Instant::now() + FRAME_TIMEOUT + allowance);
        Ok(if self.held.is_empty() { Claim::Settled } else { Claim::Waited })
    }

    /// The client sends no more. It may have closed only that half, and still read its answers.
    pub(super) async fn leave(&mut self) -> End {
        if self.inbox.partial_bytes() > 0 {
            return End::Broken;
        }
        let (peer, stream) = (self.peer.clone(), self.stream.clone());
        let mut errands = std::mem::take(&mut self.errands);
        let readers = &mut self.readers;
        let answered = async {
            while peer.in_flight() > 0 {
                peer.changed.notified().await;
                if peer.lost().is_some() {
                    return;
                }
            }
            // Each has a bound of its own.
            while errands.join_next().await.is_some() {}
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, async {
                readers.finish().await;
                peer.outbox.drained().await;
            })
            .await;
        };
        tokio::select! {
            () = answered => End::Closed,
            () = wait_until_closed(&stream) => End::Closed,
        }
    }
}
