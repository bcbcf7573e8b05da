//! How a connection keeps pace: when it stops reading, what it waits for, and how long.

use std::time::{Duration, Instant};

use clutch_protocol::message::Refusal;
use clutch_protocol::{Frame, Kind};

use super::connection::{Connection, End, refused, wants_answer};
use crate::limits::{
    BUDGETED_BYTES_MIN, CLAIM_TIMEOUT, CLIENT_OUTBOX_BYTES_HIGH, FRAME_BYTES_PER_SEC_MIN,
    FRAME_TIMEOUT, STALL_TIMEOUT,
};
use crate::net::Attached;
use crate::net::hangup::wait_until_closed;

/// How long a client that sends no more may take to read its last answers.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

impl Connection {
    /// Whether nothing may be read now: a request has to wait, or answers are unread.
    pub(super) fn must_pause(&self) -> bool {
        self.held.as_ref().is_some_and(|(frame, attached)| self.must_wait(frame, attached))
            || self.leaves_answers_unread()
    }

    /// Whether a frame asks for more than may be in flight, or brings more descriptors than may be
    /// held. What belongs to calls that are in flight already never waits: they might wait for it.
    pub(super) fn must_wait(&self, frame: &Frame, attached: &Attached) -> bool {
        let kind = frame.header.kind;
        let is_nested = self.peer.home.get().is_some();
        wants_answer(kind) && self.is_full()
            || kind == Kind::Call
                && !attached.is_empty()
                && self.ledger.must_wait(attached.len(), is_nested)
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
            () = self.ledger.freed(), if self.held.is_some() => None,
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

    /// A long frame takes its bytes out of the daemon's memory budget before they come in.
    pub(super) async fn claim_memory(&mut self) -> Result<(), End> {
        let Some(header) = self.inbox.pending() else {
            return Ok(());
        };
        if self.memory.is_some() || header.payload_bytes < BUDGETED_BYTES_MIN {
            return Ok(());
        }
        let bytes = u64::from(header.payload_bytes);
        let kib = u32::try_from(bytes.div_ceil(1024)).expect("a payload is below 4 GiB");
        let claim = self.doorway.memory.clone().acquire_many_owned(kib);
        let stream = self.stream.clone();
        let permit = tokio::select! {
            permit = tokio::time::timeout(CLAIM_TIMEOUT, claim) => permit,
            () = wait_until_closed(&stream) => return Err(End::Broken),
        };
        let Ok(Ok(permit)) = permit else {
            let sentence = "the daemon holds as many request bytes as it may (daemon.memory); try \
                            again later";
            return Err(refused(Refusal::Overloaded, sentence.to_owned()));
        };
        self.memory = Some(permit);
        let allowance = Duration::from_secs(bytes / FRAME_BYTES_PER_SEC_MIN);
        self.frame_deadline = Some(Instant::now() + FRAME_TIMEOUT + allowance);
        Ok(())
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
