//! Values that clients put with the daemon once, to use them in many calls.
//!
//! A value is kept until its client releases it or goes, and beyond that for as long as a call has
//! it: a call that came while the handle was good may have to be tried again. What is kept counts
//! in its client's [`Account`] until its last descriptor is closed.

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::Bytes;
use clutch_protocol::failure::{Payload, Reason};
use clutch_protocol::limits::DESCRIPTORS_MAX;
use clutch_protocol::{Flags, Header, Kind};
use thiserror::Error;

use super::core::Core;
use super::refusal::{early_failure, send_failure, too_large};
use crate::net::{Account, Attached, Full};
use crate::session::Peer;

/// Descriptors of one value: a call that has it can still have one of its own.
const OF_A_VALUE_MAX: u8 = DESCRIPTORS_MAX - 1;

/// What one client has put with the daemon, by its own ids.
#[derive(Debug)]
pub struct Handles {
    account: Account,
    kept: RefCell<HashMap<u64, Attached>>,
}

/// Why a frame with a value breaks the protocol; its connection ends with this sentence.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum PutFault {
    /// Something else has this id.
    #[error(
        "handle {0} cannot be given; take an id from 1 that no unanswered request and no other \
         handle has"
    )]
    Id(u64),
    /// A value is in memory; with nothing there is none, and with too much no call could have it.
    #[error("{0} file descriptors came with a value; it must have 1 to {OF_A_VALUE_MAX}")]
    Count(usize),
    /// A worker maps it long after it was looked at, and so do others.
    #[error(
        "descriptor 0 of a value is no memory that stays as it is; seal a memfd against writing, \
         shrinking, growing and seals"
    )]
    Changeable,
}

impl Handles {
    /// Those of a client that has put nothing.
    pub(super) fn new(account: Account) -> Handles {
        Handles { account, kept: RefCell::default() }
    }

    /// What a call brought, and behind it the values of these handles; what is wrong with them, if
    /// something is.
    pub(super) fn behind(
        &self,
        attached: Attached,
        handles: &[u64],
        header: &Header,
    ) -> (Attached, Option<Reason>) {
        if handles.is_empty() {
            return (attached, None);
        }
        match self.join(&attached, handles, header) {
            Ok(joined) => (joined, None),
            Err(reason) => (attached, Some(reason)),
        }
    }

    fn join(
        &self,
        attached: &Attached,
        handles: &[u64],
        header: &Header,
    ) -> Result<Attached, Reason> {
        let bad = |message| Err(Reason::BadArguments { message });
        if !header.flags.has(Flags::ATTACHED) {
            return bad("only a call with attachments has handles; set the flag ATTACHED".into());
        }
        // Each value has a descriptor at least, so more handles are too many descriptors, too.
        if attached.len() + handles.len() > usize::from(DESCRIPTORS_MAX) {
            return bad(too_many(attached.len() + handles.len()));
        }
        let kept = self.kept.borrow();
        let mut parts = Vec::with_capacity(1 + handles.len());
        parts.push(attached.clone());
        for (index, handle) in handles.iter().enumerate() {
            if handles[..index].contains(handle) {
                let message = "is named twice; name it once, and use its value as often as need be";
                return bad(format!("handle {handle} {message}"));
            }
            let Some(value) = kept.get(handle) else {
                let message = "is not there: it was released, or never put on this connection; \
                               put the value again";
                return bad(format!("handle {handle} {message}"));
            };
            parts.push(value.clone());
        }
        let joined = Attached::joined(parts);
        if joined.len() > usize::from(DESCRIPTORS_MAX) {
            return bad(too_many(joined.len()));
        }
        Ok(joined)
    }

    /// Keeps nothing any more but what calls have.
    pub(crate) fn release_all(&self) {
        self.kept.take();
    }

    fn has(&self, id: u64) -> bool {
        self.kept.borrow().contains_key(&id)
    }

    fn keep(&self, id: u64, attached: Attached) -> Result<(), Reason> {
        let full = |Full { quota, needed, held, limit }| Reason::HandlesFull {
            quota,
            needed,
            held,
            limit,
        };
        let kept = attached.keep(&self.account).map_err(full)?;
        self.kept.borrow_mut().insert(id, kept);
        Ok(())
    }

    fn release(&self, id: u64) -> bool {
        // Closed when the books are: that may wake others.
        let released = self.kept.borrow_mut().remove(&id);
        released.is_some()
    }
}

fn too_many(count: usize) -> String {
    format!(
        "a call and the values of its handles have {count} file descriptors or more, at most \
         {DESCRIPTORS_MAX} may be; put fewer, larger buffers"
    )
}

impl Core {
    /// Keeps a value for its client, unless the id is one that a reader of logs has.
    ///
    /// # Errors
    ///
    /// When the frame breaks the protocol. Everything else that is wrong with it is answered.
    pub fn put(
        &self,
        peer: &Peer,
        id: u64,
        is_readers: bool,
        attached: Attached,
    ) -> Result<(), PutFault> {
        let is_calls = peer.calls.borrow().contains_key(&id);
        let is_in_use = id == 0 || is_readers || is_calls || peer.handles.has(id);
        let count = attached.len();
        let fault = match count {
            _ if is_in_use => Some(PutFault::Id(id)),
            0 => Some(PutFault::Count(0)),
            _ if count > usize::from(OF_A_VALUE_MAX) => Some(PutFault::Count(count)),
            _ => (!attached.begins_with_constants()).then_some(PutFault::Changeable),
        };
        if let Some(fault) = fault {
            attached.refuse();
            return Err(fault);
        }
        let limit = self.with(|dispatcher| dispatcher.daemon.attached);
        let kept = too_large(&attached, Payload::Arguments, limit)
            .map_or_else(|| peer.handles.keep(id, attached), Err);
        match kept {
            Ok(()) => {
                self.count("puts");
                peer.send(&Header::new(Kind::Kept, id).encode(), &Bytes::new());
            }
            Err(reason) => {
                self.count("puts_refused");
                send_failure(peer, id, &early_failure(String::new(), String::new(), reason));
            }
        }
        Ok(())
    }

    /// Whether a client has put a value by this handle, and not released it.
    pub fn has_handle(&self, peer: &Peer, id: u64) -> bool {
        peer.handles.has(id)
    }

    /// A client needs a value no more.
    pub fn release(&self, peer: &Peer, id: u64) {
        if !peer.handles.release(id) {
            self.count("releases_of_unknown_handles");
        }
    }
}
