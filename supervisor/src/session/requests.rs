//! What a client's frames ask for, and how it is done. Order and pace are the connection's.

use std::time::Instant;

use bytes::Bytes;
use clutch_protocol::message::{Refusal, Refused, Reload, Stop};
use clutch_protocol::reload::{ReloadResult, Reloaded};
use clutch_protocol::{Codec, Frame, Header, Kind, wire};
use tokio::sync::mpsc::error::TrySendError;

use super::connection::Connection;
use super::held::Arrival;
use super::peer::Peer;
use crate::dispatch::Core;
use crate::reload::plan::NO_SOURCE;
use crate::reload::reloader::BUSY;
use crate::reload::{Asker, Order};

impl Connection {
    /// Does what a frame asks for.
    pub(super) fn take(
        &mut self,
        now: Instant,
        Arrival { frame, attached, memory }: Arrival,
    ) -> Result<(), Refused> {
        let core = &self.doorway.core;
        let Header { id, kind, meta_bytes, payload_bytes, .. } = frame.header;
        let protocol = |sentence| Refused { refusal: Refusal::Protocol, sentence };
        let has_payload = matches!(kind, Kind::Call | Kind::Item);
        if payload_bytes > 0 && !has_payload || meta_bytes > 0 && !has_meta(kind) {
            attached.refuse();
            let part = if payload_bytes > 0 && !has_payload { "payload" } else { "meta" };
            return Err(protocol(format!("a {kind:?} frame has no {part}")));
        }
        match kind {
            Kind::Call => {
                let taken = core.call(now, &self.peer, frame, attached, memory);
                return taken.map_err(|fault| protocol(fault.to_string()));
            }
            Kind::Cancel => {
                if !core.cancel(&self.peer, id) && !self.readers.cancel(&self.peer, id) {
                    core.count("cancels_of_unknown_calls");
                }
            }
            Kind::Credit => {
                let taken = core.client_credit(&self.peer, &frame);
                return taken.map_err(|fault| protocol(fault.to_string()));
            }
            Kind::Item => {
                let taken = core.client_item(&self.peer, &frame, &attached, memory);
                return taken.map_err(|fault| protocol(fault.to_string()));
            }
            Kind::ItemsEnd => {
                let taken = core.client_items_end(&self.peer, &frame);
                return taken.map_err(|fault| protocol(fault.to_string()));
            }
            Kind::Ping => {
                self.peer.send(&Header::new(Kind::Pong, id).encode(), &Bytes::new());
            }
            Kind::Pong => {}
            Kind::Status => self.report_status(id),
            Kind::Stop => {
                self.order_stop(&frame).map_err(|error| protocol(error.to_string()))?;
            }
            Kind::Reload => {
                self.order_reload(&frame).map_err(|error| protocol(error.to_string()))?;
            }
            Kind::Operate => {
                self.operate(&frame).map_err(|error| protocol(error.to_string()))?;
            }
            Kind::Logs => {
                let wanted =
                    wire::decode(&frame.meta).map_err(|error| protocol(error.to_string()))?;
                if self.readers.has(id) {
                    return Err(protocol(format!("request id {id} is in use")));
                }
                self.readers.start(core, &self.peer, id, wanted);
            }
            Kind::Put => {
                let put = core.put(&self.peer, id, self.readers.has(id), attached);
                return put.map_err(|fault| protocol(fault.to_string()));
            }
            Kind::Release => core.release(&self.peer, id),
            kind => return Err(protocol(format!("a client may not send a {kind:?} frame"))),
        }
        Ok(())
    }

    /// Tells the status, after a look at the workers if the last one is too old. Other frames are
    /// not kept waiting.
    fn report_status(&self, id: u64) {
        let (core, peer) = (self.doorway.core.clone(), self.peer.clone());
        if !core.must_examine() {
            send_status(&core, &peer, id);
            return;
        }
        peer.reports.set(peer.reports.get() + 1);
        // It ends by itself: looking at workers has a bound.
        tokio::task::spawn_local(async move {
            core.examine().await;
            send_status(&core, &peer, id);
            peer.reports.set(peer.reports.get() - 1);
            peer.changed.notify_one();
        });
    }

    fn order_stop(&self, frame: &Frame) -> Result<(), wire::MetaError> {
        let stop: Stop = wire::decode(&frame.meta)?;
        self.peer.send(&Header::new(Kind::Stopping, frame.header.id).encode(), &Bytes::new());
        // A full channel means that a stop is under way already.
        let _ = self.doorway.stop.try_send(stop);
        Ok(())
    }

    fn order_reload(&self, frame: &Frame) -> Result<(), wire::MetaError> {
        let Reload { wait } = wire::decode(&frame.meta)?;
        let asker = Asker::Client(self.peer.clone(), frame.header.id);
        if let Err(error) = self.doorway.reload.try_send(Order::new(wait, asker)) {
            let (mut order, why) = match error {
                TrySendError::Full(order) => (order, BUSY),
                TrySendError::Closed(order) => (order, NO_SOURCE),
            };
            order.answer(&Reloaded::nothing(ReloadResult::Refused, why));
        }
        Ok(())
    }
}

/// Whether a client's frame of this kind says something beside its kind and id.
const fn has_meta(kind: Kind) -> bool {
    use Kind::{Call, Credit, Item, ItemsEnd, Logs, Operate, Reload, Stop};
    matches!(kind, Call | Stop | Reload | Operate | Logs | Credit | Item | ItemsEnd)
}

fn send_status(core: &Core, peer: &Peer, id: u64) {
    let json = serde_json::to_vec(&core.status()).expect("a status is plain data");
    let payload = Bytes::from(json);
    let header = Header {
        codec: Codec::Json,
        payload_bytes: u32::try_from(payload.len()).expect("a status is far below 4 GiB"),
        ..Header::new(Kind::StatusReport, id)
    };
    peer.send(&header.encode(), &payload);
}
