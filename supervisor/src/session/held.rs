//! Requests of a client for which there is no room yet, and what has to wait behind them.
//!
//! Reading goes on meanwhile, since the calls whose end makes room may wait for what the client
//! says behind: a credit, an item, a cancel. So what wants an answer is kept here in its order, and
//! so is whatever is said of a call that is kept, and the release of a handle that one may have;
//! all else passes by.
//!
//! What is kept has bounds. Beyond them nothing is read any more, as long as no call of the client
//! has streams: then the calls end without a word of their client's. While one has, a call that
//! finds no place is refused instead, for what comes behind it may be what makes
//! room. So no bound here can make a client and its calls wait for one another.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use clutch_protocol::{Frame, Kind};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::{Connection, End};
use crate::limits::{FRAME_TIMEOUT, HELD_BYTES_MAX};
use crate::net::Attached;

impl Connection {
    /// What is to be done next: something that was held, if there is room for it now, else what has
    /// come in, if it need not be held itself.
    pub(super) fn next_arrival(&mut self, now: Instant) -> Result<Next, End> {
        if self.held.first().is_some_and(|first| !self.must_wait(first)) {
            let first = self.held.pop();
            // While something was held, time was not the client's alone.
            let least = now + FRAME_TIMEOUT;
            self.frame_deadline = self.frame_deadline.map(|at| at.max(least));
            return Ok(first.map_or(Next::Nothing, Next::Take));
        }
        let (frame, attached) = match self.inbox.next_frame() {
            Ok(Some(taken)) => taken,
            Ok(None) => return Ok(Next::Nothing),
            Err(error) => return Err(self.inbox_end(&error)),
        };
        (self.frame_deadline, self.claim_deadline) = (None, None);
        let arrival = Arrival { frame, attached, memory: self.memory.take() };
        if self.held.is_empty() && !self.must_wait(&arrival) {
            return Ok(Next::Take(arrival));
        }
        self.hold(arrival)
    }
}

/// A frame that came whole, with what came beside it and what it holds of the daemon's memory.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) frame: Frame,
    pub(super) attached: Attached,
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

impl Arrival {
    /// What it counts. Long ones count too, though their memory is accounted for elsewhere: if they
    /// had all of that, no item of a stream could come in any more.
    fn bytes(&self) -> usize {
        self.frame.header.frame_bytes()
    }

    /// Whether it goes on with the streams of this call.
    fn goes_on_with(&self, call: u64) -> bool {
        let header = &self.frame.header;
        header.id == call && matches!(header.kind, Kind::Credit | Kind::Item | Kind::ItemsEnd)
    }
}

/// What came of looking for the next frame.
#[derive(Debug)]
pub(super) enum Next {
    /// It is to be done.
    Take(Arrival),
    /// It waits, or is done with.
    Kept,
    /// There is none.
    Nothing,
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Held {
    frames: VecDeque<Arrival>,
    /// The ids of the calls and of the readers of output among them: what is said of one waits
    /// behind it.
    calls: HashSet<u64>,
    /// How many of them go on with streams.
    remarks: usize,
    /// The handles that are released by some of them.
    releases: HashSet<u64>,
    bytes: usize,
    descriptors: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Arrival> {
        self.frames.front()
    }

    pub(super) fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Whether there are as many as may be, of a client that may have so many `in_flight`: each of
    /// them, and something said of each.
    pub(super) fn is_long(&self, in_flight: usize) -> bool {
        // There are never more releases than handles, and those have bounds of their own.
        let frames = self.frames.len() - self.releases.len();
        frames >= in_flight.saturating_mul(2) || self.bytes >= HELD_BYTES_MAX
    }

    /// Whether something with this id of its client's is among them that more can be said of.
    pub(super) fn has_call(&self, id: u64) -> bool {
        self.calls.contains(&id)
    }

    /// Whether any handle is released by one of them.
    pub(super) fn has_releases(&self) -> bool {
        !self.releases.is_empty()
    }

    /// Whether the release of this handle is among them.
    pub(super) fn has_release(&self, id: u64) -> bool {
        self.releases.contains(&id)
    }

    pub(super) fn push(&mut self, arrival: Arrival) {
        self.bytes += arrival.bytes();
        self.descriptors += arrival.attached.len();
        let id = arrival.frame.header.id;
        match arrival.frame.header.kind {
            Kind::Call | Kind::Logs => _ = self.calls.insert(id),
            Kind::Release => _ = self.releases.insert(id),
            Kind::Credit | Kind::Item | Kind::ItemsEnd => self.remarks += 1,
            _ => {}
        }
        self.frames.push_back(arrival);
    }

    /// Takes the first one out. What was said of a call is the next then: another that still waits
    /// might wait for what its streams do.
    pub(super) fn pop(&mut self) -> Option<Arrival> {
        let first = self.remove(0)?;
        let header = &first.frame.header;
        if header.kind == Kind::Call && self.remarks > 0 {
            let id = header.id;
            let frames = std::mem::take(&mut self.frames);
            let (its, others): (VecDeque<_>, VecDeque<_>) =
                frames.into_iter().partition(|it| it.goes_on_with(id));
            self.frames = its;
            self.frames.extend(others);
        }
        Some(first)
    }

    /// Takes a call out, and drops what was said of it.
    pub(super) fn take_call(&mut self, id: u64) -> Option<Frame> {
        if !self.has_call(id) {
            return None;
        }
        let is_it = |it: &Arrival| it.frame.header.kind == Kind::Call && it.frame.header.id == id;
        let at = self.frames.iter().position(is_it)?;
        let call = self.remove(at)?;
        while self.remarks > 0
            && let Some(at) = self.frames.iter().position(|it| it.goes_on_with(id))
        {
            self.remove(at);
        }
        Some(call.frame)
    }

    fn remove(&mut self, at: usize) -> Option<Arrival> {
        let arrival = self.frames.remove(at)?;
        self.bytes -= arrival.bytes();
        self.descriptors -= arrival.attached.len();
        let id = arrival.frame.header.id;
        match arrival.frame.header.kind {
            Kind::Call | Kind::Logs => _ = self.calls.remove(&id),
            Kind::Release => _ = self.releases.remove(&id),
            Kind::Credit | Kind::Item | Kind::ItemsEnd => self.remarks -= 1,
            _ => {}
        }
        Some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clutch_protocol::Header;

    use super::*;

    fn arrival(kind: Kind, id: u64, payload_bytes: u32) -> Arrival {
        let header = Header { payload_bytes, ..Header::new(kind, id) };
        let frame = Frame { header, meta: Bytes::new(), payload: Bytes::new() };
        Arrival { frame, attached: Attached::default(), memory: None }
    }

    #[test]
    fn they_keep_their_order_and_have_bounds() {
        let mut held = Held::default();
        held.push(arrival(Kind::Call, 1, 0));
        held.push(arrival(Kind::Credit, 1, 0));
        held.push(arrival(Kind::Call, 2, 0));
        assert!(held.has_call(1) && held.has_call(2) && !held.has_call(3));
        assert!(held.is_long(1) && !held.is_long(2));
        assert_eq!(Some(2), held.take_call(2).map(|frame| frame.header.id));
        assert!(held.take_call(2).is_none() && !held.has_call(2));
        assert_eq!(Some(Kind::Call), held.first().map(|it| it.frame.header.kind));
        assert!(held.pop().is_some() && !held.has_call(1));
        assert_eq!(Some(Kind::Credit), held.pop().map(|it| it.frame.header.kind));
        assert!(held.is_empty() && held.pop().is_none() && held.bytes == 0);
        held.push(arrival(Kind::Logs, 4, 0));
        assert!(held.has_call(4) && held.take_call(4).is_none(), "its cancel waits behind it");
        assert!(held.pop().is_some() && !held.has_call(4));
        held.push(arrival(Kind::Release, 3, 0));
        assert!(held.has_release(3) && !held.has_release(1) && !held.has_call(3));
        assert!(held.pop().is_some() && !held.has_release(3));
        held.push(arrival(Kind::Call, 1, u32::try_from(HELD_BYTES_MAX).unwrap()));
        assert!(held.is_long(1000), "bytes count as well");
    }

    #[test]
    fn what_was_said_of_a_call_comes_right_behind_it() {
        let kinds = |held: &mut Held| {
            let all = std::iter::from_fn(|| held.pop());
            all.map(|it| (it.frame.header.kind, it.frame.header.id)).collect::<Vec<_>>()
        };
        let said = [
            (Kind::Call, 1),
            (Kind::Call, 2),
            (Kind::Credit, 1),
            (Kind::Release, 3),
            (Kind::Credit, 2),
            (Kind::Item, 1),
        ];
        let held = || {
            let mut held = Held::default();
            said.iter().for_each(|(kind, id)| held.push(arrival(*kind, *id, 0)));
            held
        };
        let wanted = [
            (Kind::Call, 1),
            (Kind::Credit, 1),
            (Kind::Item, 1),
            (Kind::Call, 2),
            (Kind::Credit, 2),
            (Kind::Release, 3),
        ];
        assert_eq!(wanted.to_vec(), kinds(&mut held()));
        let mut held = held();
        assert!(held.take_call(1).is_some());
        let rest = [(Kind::Call, 2), (Kind::Credit, 2), (Kind::Release, 3)];
        assert_eq!(rest.to_vec(), kinds(&mut held));
        assert_eq!((0, 0), (held.remarks, held.bytes));
    }
}
