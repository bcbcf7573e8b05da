//! Calls that nobody wants any more: their caller has cancelled them or has gone, or an operator
//! ends them. What becomes of them, their pool decides; who it was, the history keeps.

use std::time::Instant;

use super::core::Core;
use super::dispatcher::Dispatcher;
use super::history::{Record, What};
use crate::pool::{CallKey, Event};
use crate::session::Peer;
use crate::worker::spawner::PoolIndex;

impl Core {
    /// A client does not want a call any more. False when there is no such call (any more).
    pub fn cancel(&self, peer: &Peer, id: u64) -> bool {
        self.give_up(peer, id, "its caller cancelled it")
    }

    fn give_up(&self, peer: &Peer, id: u64, why: &'static str) -> bool {
        let Some(key) = peer.calls.borrow().get(&id).copied() else {
            return false;
        };
        if let Some(pool) = self.with(|dispatcher| dispatcher.note_unwanted(key, why)) {
            self.tell(pool, Event::CallCancelled { call: key });
        }
        true
    }

    /// A client is gone: nobody waits for its calls.
    pub fn abandon_calls(&self, peer: &Peer) {
        let mut ids: Vec<_> = peer.calls.borrow().keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.give_up(peer, id, "its caller has gone, and nobody waits for it");
        }
    }
}

impl Dispatcher {
    /// Writes down, once, that somebody does not want a call any more; gives the call's pool.
    pub(super) fn note_unwanted(&mut self, call: CallKey, by: &'static str) -> Option<PoolIndex> {
        let entry = self.calls.get_mut(&call)?;
        let pool = entry.pool();
        if std::mem::replace(&mut entry.is_unwanted, true) {
            return Some(pool);
        }
        let record = Record::new(What::Unwanted, pool).call(call);
        let word = self.history.word(by);
        self.history.note(Instant::now(), record.word(word));
        Some(pool)
    }
}
