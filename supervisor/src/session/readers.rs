//! A client's readers of the output store: a task for each, which sends a portion, lets others have
//! their turn, and waits for the client or for new lines. They end with the connection.

use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use clutch_protocol::message::{LogLines, Logs};
use clutch_protocol::{Codec, Header, Kind, wire};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::peer::Peer;
use crate::dispatch::Core;
use crate::limits::{CLIENT_OUTBOX_BYTES_HIGH, LOG_READER_PAUSE, LOG_READERS_MAX};
use crate::logs::Reader;

/// The readers of one client.
#[derive(Debug, Default)]
pub(super) struct Readers {
    tasks: JoinSet<u64>,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    task: AbortHandle,
    follows: bool,
}

impl Readers {
    /// Whether a reader has this id.
    pub(super) fn has(&mut self, id: u64) -> bool {
        self.forget_ended();
        self.open.contains_key(&id)
    }

    /// Begins to read.
    pub(super) fn start(&mut self, core: &Core, peer: &Rc<Peer>, id: u64, wanted: Logs) {
        self.forget_ended();
        if self.open.len() >= LOG_READERS_MAX {
            let limit = u32::try_from(LOG_READERS_MAX).expect("there are few");
            return core.refuse_logs(peer, id, limit);
        }
        if let Some(reader) = core.open_logs(peer, id, wanted) {
            let follows = reader.follows();
            let task = self.tasks.spawn_local(read(core.clone(), peer.clone(), id, reader));
            self.open.insert(id, Open { task, follows });
        }
    }

    /// Ends a reader, and says so. False when there is none with this id.
    pub(super) fn cancel(&mut self, peer: &Peer, id: u64) -> bool {
        self.forget_ended();
        let Some(open) = self.open.remove(&id) else {
            return false;
        };
        open.task.abort();
        send(peer, id, LogLines { dropped: 0, last: true }, b"[]".to_vec());
        true
    }

    /// Waits for those that come to an end by themselves, and ends the others.
    pub(super) async fn finish(&mut self) {
        for open in self.open.values().filter(|open| open.follows) {
            open.task.abort();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn forget_ended(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Ok(id) = ended {
                self.open.remove(&id);
            }
        }
    }
}

/// Sends lines until there are no more to come, or nobody reads them. Gives its id back.
async fn read(core: Core, peer: Rc<Peer>, id: u64, mut reader: Reader) -> u64 {
    let changed = core.output_changed();
    loop {
        let mut news = pin!(changed.notified());
        // Enlisting before looking: lines that come after the look are not missed.
        news.as_mut().enable();
        let batch = core.read_logs(&mut reader);
        if batch.lines > 0 || batch.dropped > 0 || batch.last {
            let meta = LogLines { dropped: batch.dropped, last: batch.last };
            send(&peer, id, meta, batch.json);
        }
        if batch.last || peer.lost().is_some() {
            return id;
        }
        if peer.outbox.waiting_bytes() > CLIENT_OUTBOX_BYTES_HIGH {
            peer.outbox.drained().await;
        } else if !batch.more {
            news.await;
        }
        sleep_until(Instant::now() + LOG_READER_PAUSE).await;
    }
}

fn send(peer: &Peer, id: u64, meta: LogLines, json: Vec<u8>) {
    let meta = wire::encode(&meta).expect("it has a fixed size");
    let header = Header {
        codec: Codec::Json,
        meta_bytes: u32::try_from(meta.len()).expect("it has a fixed size"),
        payload_bytes: u32::try_from(json.len()).expect("a portion is far below 4 GiB"),
        ..Header::new(Kind::LogLines, id)
    };
    peer.send(&[&header.encode()[..], &meta].concat(), &Bytes::from(json));
}
