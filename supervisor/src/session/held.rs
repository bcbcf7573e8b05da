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

use clutch_protocol::{Frame, Kind};
use tokio::sync::OwnedSemaphorePermit;

use crate::limits::HELD_BYTES_MAX;
use crate::net::Attached;

/// A frame that came whole, with what came beside it and what it holds of the daemon's memory.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) frame: Frame,
    pub(super) attached: Attached,
    pub(super) memory: Option<OwnedSemaphorePermit>,
}

impl Arrival {
    /// What nothing else accounts for.
    fn bytes(&self) -> usize {
        if self.memory.is_some() { 0 } else { self.frame.header.frame_bytes() }
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Held {
    frames: VecDeque<Arrival>,
    /// The ids of the calls among them.
    calls: HashSet<u64>,
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
        self.frames.len() >= in_flight.saturating_mul(2) || self.bytes >= HELD_BYTES_MAX
    }

    /// Whether a call with this id of its client's is among them.
    pub(super) fn has_call(&self, id: u64) -> bool {
        self.calls.contains(&id)
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
            Kind::Call => _ = self.calls.insert(id),
            Kind::Release => _ = self.releases.insert(id),
            _ => {}
        }
        self.frames.push_back(arrival);
    }

    pub(super) fn pop(&mut self) -> Option<Arrival> {
        self.remove(0)
    }

    /// Takes a call out. What was said of it stays, and is of a call that has ended.
    pub(super) fn take_call(&mut self, id: u64) -> Option<Frame> {
        if !self.has_call(id) {
            return None;
        }
        let is_it = |it: &Arrival| it.frame.header.kind == Kind::Call && it.frame.header.id == id;
        let at = self.frames.iter().position(is_it)?;
        self.remove(at).map(|call| call.frame)
    }

    fn remove(&mut self, at: usize) -> Option<Arrival> {
        let arrival = self.frames.remove(at)?;
        self.bytes -= arrival.bytes();
        self.descriptors -= arrival.attached.len();
        let id = arrival.frame.header.id;
        match arrival.frame.header.kind {
            Kind::Call => _ = self.calls.remove(&id),
            Kind::Release => _ = self.releases.remove(&id),
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
        held.push(arrival(Kind::Release, 3, 0));
        assert!(held.has_release(3) && !held.has_release(1) && !held.has_call(3));
        assert!(held.pop().is_some() && !held.has_release(3));
        held.push(arrival(Kind::Call, 1, u32::try_from(HELD_BYTES_MAX).unwrap()));
        assert!(held.is_long(1000), "bytes count as well");
    }
}
