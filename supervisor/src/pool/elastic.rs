//! How large the pool is: slots come and go with its size, and its size with what waits.
//!
//! It grows when a call has waited for long and no worker is being started for it, and shrinks by
//! one worker when one was of no use for long. Between the two lies the time `scale.down_after`
//! since the last growth, so that a pool does not swing.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{Effect, StopCause};
use super::policy::{Pool, Slot};
use super::standing::PoolState;
use super::state::{Move, WorkerState};
use super::timers::Timer;

impl Pool {
    /// Brings the number of active slots to what is wanted.
    pub(super) fn fit(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let wanted = self.workers_wanted();
        while self.active_slots() < wanted {
            let slot = self.activate();
            self.want_start(now, slot, effects);
        }
        let surplus = self.active_slots() - wanted;
        if surplus > 0 {
            for slot in self.least_useful(surplus) {
                self.vacate(now, slot, effects);
            }
        }
    }

    pub(super) fn active_slots(&self) -> u32 {
        let inactive = u32::try_from(self.inactive.len()).expect("no more than slots");
        self.slot_count() - inactive
    }

    fn activate(&mut self) -> u32 {
        let slot = self.inactive.pop_first().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slot_count() - 1
        });
        self.slots[slot as usize].is_active = true;
        slot
    }

    /// The slots that are missed least: empty ones, then those whose workers can do nothing, idle
    /// (the longest first), and at last those at work, with few calls before those with many.
    fn least_useful(&self, count: u32) -> Vec<u32> {
        let rank = |slot: u32, place: &Slot| {
            let generation = place.current?;
            let entry = &self.workers[&WorkerId { slot, generation }];
            let rank = match entry.state {
                WorkerState::Starting => 0,
                _ if entry.halted => 0,
                _ if entry.lanes.is_empty() => 1,
                _ => 2,
            };
            Some((rank, entry.lanes.running(), entry.since))
        };
        let active = (0..).zip(&self.slots).filter(|(_, place)| place.is_active);
        let mut ranked: Vec<_> = active.map(|(slot, place)| (rank(slot, place), slot)).collect();
        ranked.sort_unstable();
        ranked.into_iter().take(count as usize).map(|(_, slot)| slot).collect()
    }

    /// A slot is not wanted any more: its worker goes, after its calls if it has any.
    pub(super) fn vacate(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        let place = &mut self.slots[slot as usize];
        assert!(place.is_active, "a slot is vacated once");
        place.is_active = false;
        place.failures = 0;
        place.successor_failures = 0;
        let (current, successor) = (place.current, place.successor);
        self.inactive.insert(slot);
        self.start_queue.retain(|queued| *queued != slot);
        self.timers.clear(Timer::Backoff(slot));
        self.timers.clear(Timer::Successor(slot));
        for generation in successor.into_iter().chain(current) {
            self.dismiss(now, WorkerId { slot, generation }, effects);
        }
        self.seat(slot, None);
    }

    fn dismiss(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let entry = &self.workers[&worker];
        if entry.state == WorkerState::Starting {
            if self.stop(now, worker, StopCause::Surplus) {
                self.kill(now, worker, effects);
            }
        } else if entry.lanes.is_empty() {
            self.retire(now, worker, StopCause::Surplus, effects);
        } else if entry.lanes.running() > 0 {
            self.step(now, worker, Move::Retire(StopCause::Surplus));
        } else if self.stop(now, worker, StopCause::Surplus) {
            // Nobody waits for its calls, so nothing is lost if it goes at once.
            self.terminate(now, worker, effects);
        }
    }

    /// Grows from nothing when a call waits, and sees to the timers of growth.
    pub(super) fn scale(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.size == 0 && self.calls.waiting() > 0 && self.standing.assigns() {
            self.grow(now, effects);
        }
        let at = self.grow_at();
        self.timers.plan(Timer::Grow, at);
        let at = self.shrink_at();
        self.timers.plan(Timer::Shrink, at);
    }

    /// When a call will have waited for too long: the first one that no worker is on its way for.
    fn grow_at(&self) -> Option<Instant> {
        if self.size >= self.settings.size.max || !self.standing.assigns() {
            return None;
        }
        let coming = self.workers_coming() * self.settings.lanes;
        let since = self.calls.waiting_since(coming as usize)?;
        Some(since + self.settings.scale.up_after)
    }

    /// How many workers are being started, or wait to be.
    pub(super) fn workers_coming(&self) -> u32 {
        self.starting + (self.active_slots() - self.filled)
    }

    pub(super) fn grow(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.size >= self.settings.size.max || !self.standing.assigns() {
            return;
        }
        self.size += 1;
        self.grown_at = Some(now);
        self.fit(now, effects);
        self.assign_waiting(now, effects);
    }

    /// When a worker will have been of no use for long. Spares are idle by profession: what counts
    /// is the one that would be idle without them.
    fn shrink_at(&self) -> Option<Instant> {
        let is_running = self.state() == PoolState::Running;
        let is_busy = self.busy_workers() >= self.size;
        if self.size <= self.settings.size.min || is_busy || !is_running {
            return None;
        }
        let judged = self.room.idle().get((self.settings.size.spares + self.extra) as usize)?;
        let since = self.workers[judged].since;
        Some(self.grown_at.map_or(since, |at| at.max(since)) + self.settings.scale.down_after)
    }

    pub(super) fn shrink(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.shrink_at().is_some_and(|at| at <= now) {
            self.size -= 1;
            let slot = self.room.idle().first().expect("one was judged to be idle").slot;
            self.vacate(now, slot, effects);
        }
    }
}
