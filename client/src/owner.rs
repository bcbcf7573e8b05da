//! Which process a connection belongs to. After a fork, parent and child hold the same socket: if
//! both used it, their frames would interleave and each would read the other's answers. So only the
//! process that connected may use it.

use crate::pending::Closing;

/// The process that connected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pid: u32,
}

impl Owner {
    pub(crate) fn current() -> Owner {
        Owner { pid: std::process::id() }
    }

    /// Refuses any other process. Asked before any lock is touched, since a lock that some thread
    /// held during the fork stays locked in the child for ever.
    pub(crate) fn check(self) -> Result<(), Closing> {
        if std::process::id() == self.pid {
            return Ok(());
        }
        let detail = format!(
            "process {} connected, this is its fork; connect again after forking",
            self.pid
        );
        Err(Closing::Lost(detail.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_connected_may_go_on_f098() {
        assert!(Owner::current().check().is_ok());
        assert!(Owner { pid: 1 }.check().is_err());
    }
}
