//! What goes on with streams that had to wait, once there is room for more of them.

use super::core::Core;
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
}
