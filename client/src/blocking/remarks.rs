//! What a blocking client says by the way: cancels, pongs and releases. They never make anybody
//! wait, and are kept, within a bound, for as long as the socket is full.

use std::io::IoSlice;

use clutch_protocol::Kind;
use clutch_protocol::limits::HEADER_BYTES;
use clutch_protocol::message::Welcome;

use super::connection::Connection;
use super::desk::lock;
use crate::exchange::Letter;
use crate::handle::Keeper;
use crate::outbound::write_now;
use crate::pending::Closing;

impl Connection {
    /// Sends a frame without meta that nobody waits for. Never waits: what a full socket does not
    /// take is left to whoever writes or reads next.
    pub(super) fn remark(&self, id: u64, kind: Kind) {
        lock(&self.desk).remark(id, kind);
        self.flush_remarks();
    }

    /// Sends the remarks that wait, unless another thread is writing: that one calls this when it
    /// has given back its turn, and so after the remark was noted.
    pub(super) fn flush_remarks(&self) {
        while lock(&self.desk).has_remarks() {
            let Some(_turn) = self.writing.try_take() else {
                return;
            };
            if !self.send_remarks() {
                return;
            }
        }
    }

    /// Sends remarks in a turn that was taken; false when the socket takes no more of them.
    fn send_remarks(&self) -> bool {
        loop {
            let Some((id, kind)) = lock(&self.desk).take_remark() else {
                return true;
            };
            let header = Letter::bare(kind).header(id).encode();
            match write_now(&self.socket, &[IoSlice::new(&header)]) {
                Ok(HEADER_BYTES) => {}
                Ok(0) => {
                    lock(&self.desk).put_back(id, kind);
                    return false;
                }
                Ok(_) => {
                    // So few bytes are one buffer of the system's, which it takes or does not.
                    self.close(&Closing::Lost("a frame was cut in two".into()));
                    return false;
                }
                // The daemon is gone, which the next reader or writer will tell.
                Err(_) => return false,
            }
        }
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
