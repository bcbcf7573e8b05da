//! What is behind a request of an async client that its caller has dropped, and behind a value that
//! it put and needs no more.

use clutch_protocol::Kind;
use clutch_protocol::message::Welcome;

use super::{Connection, lock};
use crate::handle::Keeper;

/// A request that is under way. Dropped before its answer came, it cleans up behind itself.
pub(super) struct Ticket<'a> {
    pub(super) connection: &'a Connection,
    pub(super) id: u64,
    pub(super) left: Left,
}

/// What a request that is dropped leaves behind.
pub(super) enum Left {
    /// An entry in the table.
    Unsent,
    /// That, and a call the daemon may be running, or lines it may be sending.
    Call,
    /// That, and a value the daemon may keep, also when it has said so and nobody heard it.
    Kept,
    /// Nothing: it was answered.
    Nothing,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let Ticket { connection, id, left } = self;
        if matches!(left, Left::Nothing) || connection.owner.check().is_err() {
            return;
        }
        let waiting = lock(&connection.pending).forget(*id);
        match left {
            Left::Call if waiting => connection.take_back(*id, Kind::Cancel),
            Left::Kept => connection.take_back(*id, Kind::Release),
            _ => return,
        };
    }
}

impl Keeper for Connection {
    fn welcome(&self) -> &Welcome {
        Connection::welcome(self)
    }

    fn release(&self, handle: u64) {
        if self.owner.check().is_ok() {
            self.remark(handle, Kind::Release);
        }
    }
}
