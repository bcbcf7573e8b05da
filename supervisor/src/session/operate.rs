//! What operators send: decoded, done, and answered. Doing it is the dispatcher's.

use std::rc::Rc;

use bytes::Bytes;
use clutch_protocol::operate::{Denial, Operation, Outcome};
use clutch_protocol::{Codec, Frame, Header, Kind, wire};
use serde::Serialize;

use super::connection::Connection;
use super::peer::Peer;
use crate::dispatch::operate::Denied;
use crate::limits::OPERATIONS_MAX;

impl Connection {
    /// Does what an operator wants.
    pub(super) fn operate(&mut self, frame: &Frame) -> Result<(), wire::MetaError> {
        let id = frame.header.id;
        let core = &self.doorway.core;
        match wire::decode(&frame.meta)? {
            Operation::Pool { name, order } => {
                answer(&self.peer, id, &told(core.order_pool(&name, order).map(|()| None::<()>)));
            }
            Operation::Cancel { call } => {
                answer(&self.peer, id, &told(core.cancel_for_operator(call).map(Some)));
            }
            Operation::Explain { call } => {
                answer(&self.peer, id, &told(core.explain(call).map(Some)));
            }
            Operation::Stack { pool, slot } => self.stack(id, pool, slot),
        }
        Ok(())
    }

    /// A worker's stacks take a moment; the client is served meanwhile.
    fn stack(&mut self, id: u64, pool: String, slot: u32) {
        while self.errands.try_join_next().is_some() {}
        if self.errands.len() >= OPERATIONS_MAX {
            let sentence = format!(
                "{OPERATIONS_MAX} questions of this client are open; wait for an answer first"
            );
            answer(
                &self.peer,
                id,
                &told(Err::<Option<()>, _>(Denied::new(Denial::Busy, sentence))),
            );
            return;
        }
        let (core, peer) = (self.doorway.core.clone(), self.peer.clone());
        self.errands.spawn_local(async move {
            let stack = core.request_stack(&pool, slot).await;
            answer(&peer, id, &told(stack.map(Some)));
        });
    }
}

/// An outcome and what there is to tell.
type Told = (Outcome, Bytes);

fn told<T: Serialize>(done: Result<Option<T>, Denied>) -> Told {
    match done {
        Ok(None) => (Outcome::Done, Bytes::new()),
        Ok(Some(answer)) => {
            let json = serde_json::to_vec(&answer).expect("an answer is plain data");
            (Outcome::Done, json.into())
        }
        Err(Denied { denial, sentence }) => (Outcome::Refused { denial, sentence }, Bytes::new()),
    }
}

fn answer(peer: &Rc<Peer>, id: u64, (outcome, json): &Told) {
    let meta = wire::encode(outcome).expect("a sentence made here is short");
    let header = Header {
        codec: if json.is_empty() { Codec::None } else { Codec::Json },
        meta_bytes: u32::try_from(meta.len()).expect("a meta is within its limit"),
        payload_bytes: u32::try_from(json.len()).expect("an answer is far below 4 GiB"),
        ..Header::new(Kind::Operated, id)
    };
    peer.send(&[&header.encode()[..], &meta].concat(), json);
}
