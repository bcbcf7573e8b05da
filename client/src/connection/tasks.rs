//! The two tasks behind one connection of an async client: one reads, one writes what a full
//! socket has left over.

use std::sync::Arc;

use tokio::io::Interest;

use super::{Connection, lock};
use crate::exchange::garbage;
use crate::inbox::{Filled, Inbox};
use crate::limits::CROWDED_WAIT;
use crate::outbound::is_crowded;
use crate::pending::Closing;

impl Connection {
    /// The writer task: sleeps until a socket was full.
    pub(super) async fn write(self: Arc<Self>) {
        loop {
            self.flush.notified().await;
            if lock(&self.outbound).is_closed() {
                return;
            }
            let flushed = self
                .socket
                .async_io(Interest::WRITABLE, || {
                    let (result, has_room) = {
                        let mut outbound = lock(&self.outbound);
                        (outbound.flush(&self.socket), outbound.has_room())
                    };
                    if has_room {
                        self.room.notify_waiters();
                    }
                    result
                })
                .await;
            match flushed {
                Ok(()) => {}
                Err(error) if is_crowded(&error) => {
                    tokio::time::sleep_until(tokio::time::Instant::now() + CROWDED_WAIT).await;
                    self.flush.notify_one();
                }
                Err(error) => return self.hung_up(&error).await,
            }
        }
    }
}

/// The reader task.
pub(super) async fn read(connection: CloseOnDrop, mut inbox: Inbox) {
    let CloseOnDrop(connection) = &connection;
    let closing = loop {
        match inbox.next() {
            Ok(Some(delivery)) => {
                if let Err(closing) = connection.receive(delivery) {
                    break closing;
                }
                continue;
            }
            Ok(None) => {}
            Err(error) => break garbage(&error),
        }
        match inbox.receive(&connection.socket).await {
            Ok(Filled::End) => break Closing::Lost("the daemon closed it".into()),
            Ok(_) => tokio::task::coop::consume_budget().await,
            Err(error) => break Closing::Lost(error.to_string().into()),
        }
    };
    connection.close(closing);
}

/// Belongs to the reader task, begun or not: when the runtime ends before the client does, nobody
/// reads any more.
pub(super) struct CloseOnDrop(pub(super) Arc<Connection>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let reason = "the runtime that read for this client has ended";
        self.0.close(Closing::Lost(reason.into()));
    }
}
