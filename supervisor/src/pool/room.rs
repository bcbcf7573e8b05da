//! Workers that may be given a call, and which of them is given the next one.
//!
//! One without a call goes before one that has some, so that calls share a worker only when they
//! must; among the former the one that was busy last, since its caches are warm, among the latter
//! the one that has the fewest. A worker that was told to give up a call goes last: should it hang,
//! its other calls may with it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use clutch_protocol::message::WorkerId;

use super::policy::Worker;
use super::state::WorkerState;

/// Where a worker stands that has calls and room for more. The first one is the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seat {
    /// Whether it was told to give up one of its calls.
    is_doubtful: bool,
    load: u32,
    /// The larger, the later it has come to stand here.
    warmth: Reverse<u64>,
    worker: WorkerId,
}

/// Where a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is given no calls.
    Nowhere,
    /// It has none.
    Idle,
    /// It has some.
    Shared(Seat),
}

impl Worker {
    /// Whether it may be given one more call.
    pub(super) fn is_open(&self) -> bool {
        self.state == WorkerState::Up && !self.halted && self.lanes.load() < self.lanes.count()
    }
}

/// Workers that may be given a call.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Those without a call; the one that was busy last is last.
    idle: Vec<WorkerId>,
    shared: BTreeSet<Seat>,
    clock: u64,
}

impl Room {
    /// Those without a call, the one that has had none for longest first.
    pub(super) fn idle(&self) -> &[WorkerId] {
        &self.idle
    }

    /// Those with calls, the next one first.
    pub(super) fn shared(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.shared.iter().map(|seat| seat.worker)
    }

    /// A worker may have changed: it stands where it belongs after this.
    pub(super) fn note(&mut self, worker: WorkerId, entry: &mut Worker) {
        let (load, is_open) = (entry.lanes.load(), entry.is_open());
        let is_doubtful = load > entry.lanes.running();
        match entry.standing {
            Standing::Nowhere if !is_open => return,
            Standing::Idle if is_open && load == 0 => return,
            Standing::Shared(seat)
                if is_open && (seat.load, seat.is_doubtful) == (load, is_doubtful) =>
            {
                return;
            }
            Standing::Nowhere => {}
            // The next one is the last.
            Standing::Idle if self.idle.last() == Some(&worker) => {
                self.idle.pop();
            }
            Standing::Idle => self.idle.retain(|idle| *idle != worker),
            Standing::Shared(seat) => {
                self.shared.remove(&seat);
            }
        }
        entry.standing = if !is_open {
            Standing::Nowhere
        } else if load == 0 {
            self.idle.push(worker);
            Standing::Idle
        } else {
            self.clock += 1;
            let seat = Seat { is_doubtful, load, warmth: Reverse(self.clock), worker };
            self.shared.insert(seat);
            Standing::Shared(seat)
        };
    }
}
