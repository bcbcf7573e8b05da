//! What can be asked of a pool: read off the state that decides.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::CallKey;
use super::lanes::Held;
use super::policy::{Pool, Slot, Worker};
use super::queue::Calls;
use super::settings::Settings;
use super::standing::{Opening, PoolState};
use super::state::{EmptySlot, WorkerState, WorkerView};
use super::timers::Timer;

impl Pool {
    /// When [`super::Event::Tick`] is wanted next.
    pub fn next_wake(&self) -> Option<Instant> {
        match (self.calls.next_deadline(), self.timers.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// What the pool is doing.
    pub const fn state(&self) -> PoolState {
        self.standing.state()
    }

    /// What it was told.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How many workers may have calls at once now.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How many workers it should have now, spares and those for nested calls included.
    pub const fn workers_wanted(&self) -> u32 {
        self.size + self.settings.size.spares + self.extra
    }

    /// How many workers it has now for nested calls alone, beyond its size.
    pub const fn extra(&self) -> u32 {
        self.extra
    }

    /// What is wanted of it, whether or not its workers live.
    pub const fn opening(&self) -> Opening {
        self.standing.opening
    }

    /// Whether a worker, or one that was to follow another, is tried again because it failed.
    pub fn tries_again(&self) -> bool {
        self.slots.iter().any(|slot| {
            let is_missing = slot.current.is_none() && slot.failures > 0;
            slot.is_active && (slot.successor_failures > 0 || is_missing)
        })
    }

    /// How many of its running calls wait for nested calls.
    pub const fn waiting_calls(&self) -> u32 {
        self.tally.waiting
    }

    /// Its calls.
    pub const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Its workers, those being replaced included.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView<'_>> + '_ {
        self.workers.iter().map(|(id, worker)| view(*id, worker))
    }

    /// One of them.
    pub fn worker(&self, id: WorkerId) -> Option<WorkerView<'_>> {
        self.workers.get(&id).map(|worker| view(id, worker))
    }

    /// Whether a worker runs a call that it was not told to give up.
    pub fn runs(&self, worker: WorkerId, call: CallKey) -> bool {
        self.workers.get(&worker).is_some_and(|entry| {
            entry.state.is_up() && entry.lanes.get(call).is_some_and(Held::is_running)
        })
    }

    /// Whether a worker's answer to a call would be one: it has the call, and was not told to go
    /// for not giving it up.
    pub fn expects(&self, worker: WorkerId, call: CallKey) -> bool {
        self.workers.get(&worker).is_some_and(|entry| {
            let held = entry.lanes.get(call);
            held.is_some_and(|held| entry.state.is_up() || held.is_running())
        })
    }

    /// The slots that should hold a worker and hold none now.
    pub fn empty_slots(&self) -> impl Iterator<Item = EmptySlot> + '_ {
        let is_empty = |slot: &Slot| slot.is_active && slot.current.is_none();
        let numbered = (0..).zip(&self.slots).filter(move |(_, slot)| is_empty(slot));
        let probe = self.timers.due(Timer::Probe);
        numbered.map(move |(number, slot)| EmptySlot {
            id: WorkerId { slot: number, generation: slot.last_generation },
            failures: slot.failures,
            since: slot.empty_since,
            until: self.timers.due(Timer::Backoff(number)).or(probe),
        })
    }

    /// Whether calls wait because every worker that could take one is stopped by a signal.
    pub fn is_halted_whole(&self) -> bool {
        let mut up = self.workers.values().filter(|worker| worker.state.is_up()).peekable();
        up.peek().is_some() && up.all(|worker| worker.halted)
    }

    /// What one worker is doing.
    pub fn worker_state(&self, worker: WorkerId) -> Option<WorkerState> {
        self.workers.get(&worker).map(|w| w.state)
    }
}

fn view(id: WorkerId, worker: &Worker) -> WorkerView<'_> {
    WorkerView {
        id,
        state: worker.state,
        since: worker.since,
        halted: worker.halted,
        lanes: worker.lanes.count(),
        calls: worker.lanes.held(),
    }
}
