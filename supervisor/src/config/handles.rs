//! How much the daemon keeps for its clients beyond their calls: `daemon.handles` and
//! `daemon.handles_per_client`.

use super::bounds::ATTACHED;
use super::checker::Checker;
use super::error::Key;
use super::raw::RawDaemon;
use super::reason::Reason;
use super::units::show_size;

/// Bytes of memory that may be kept under handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handles {
    /// For all clients.
    pub bytes: u64,
    /// For one client.
    pub bytes_of_one: u64,
}

impl Default for Handles {
    fn default() -> Self {
        Self { bytes: 16 << 30, bytes_of_one: 8 << 30 }
    }
}

pub(super) fn check(checker: &mut Checker<'_>, raw: &RawDaemon, at: &Key) -> Handles {
    let default = Handles::default();
    let bytes = checker
        .size(&at.child("handles"), raw.handles.as_deref(), &ATTACHED)
        .unwrap_or(default.bytes);
    let one_at = at.child("handles_per_client");
    // A small total alone makes a client's share smaller; only what is written can clash.
    let bytes_of_one = checker
        .size(&one_at, raw.handles_per_client.as_deref(), &ATTACHED)
        .unwrap_or(default.bytes_of_one.min(bytes));
    if bytes_of_one > bytes {
        let (value, least) = (show_size(bytes_of_one), show_size(*ATTACHED.start()));
        let most = format!("daemon.handles ({})", show_size(bytes));
        checker.report(&one_at, Reason::Range { value, least, most });
    }
    Handles { bytes, bytes_of_one }
}
