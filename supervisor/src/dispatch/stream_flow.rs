//! What goes on with streams that had to wait, once there is room for more of them.

use clutch_protocol::Header;
use clutch_protocol::failure::{Payload, Reason};

use super::call::Call;
use super::core::Core;
use crate::net::OutboxError;
use crate::pool::CallKey;
use crate::session::Peer;
use crate::worker::link::Link;

impl Core {
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
        self.with(|dispatcher| {
            let all = peer.calls.borrow();
            let gives = |key: &&CallKey| dispatcher.calls.get(key).is_some_and(Call::gives_items);
            let mut calls: Vec<_> = all.values().filter(gives).copied().collect();
            drop(all);
            // In turns would be fairer still; so it is at least the oldest first, and none for
            // ever.
            calls.sort_unstable();
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
}

/// Why a call fails one of whose items did not fit on its way; none if the worker is gone.
pub(super) fn overflow(error: OutboxError, item: &Header, what: Payload) -> Option<Reason> {
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

#[cfg(test)]
mod tests {
    use clutch_protocol::Kind;

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
