//! Planned replacement: a worker that is well goes, and nobody notices.
//!
//! ```text
//!   outworn ─► waits for its turn ─► its successor starts ─► the successor is ready ─► it retires,
//!              (at most `at_once`    in the same slot; the    and holds the slot        after its
//!              at a time)            old one goes on serving                            call
//! ```
//!
//! A successor that fails to start is started again after a wait, and the old one goes on serving:
//! a replacement never costs a pool a worker. Only a worker that holds too much memory gets no more
//! calls while its successor starts.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{Effect, ReplaceCause, StopCause};
use super::policy::Pool;
use super::standing::{Opening, PoolState};
use super::starts::Loss;
use super::state::{Move, WorkerState};
use super::timers::Timer;

impl Pool {
    /// How many workers are still to be replaced because an operator or a new configuration wants
    /// it. The end of a recycling is when this is 0.
    pub fn outworn_left(&self) -> usize {
        let is_left = |state: WorkerState| state.is_up() || state == WorkerState::Starting;
        let left = self.workers.values().filter(|worker| {
            is_left(worker.state) && worker.outworn.is_some_and(ReplaceCause::is_recycling)
        });
        left.count()
    }

    /// How many successors have failed to start, ever. When this grows during a recycling, the
    /// new ones do not work; the old ones go on serving.
    pub const fn replacement_failures(&self) -> u64 {
        self.replacement_failures
    }

    /// A worker is to be replaced when its turn comes.
    pub(super) fn outwear(
        &mut self,
        now: Instant,
        worker: WorkerId,
        cause: ReplaceCause,
        effects: &mut Vec<Effect>,
    ) {
        let in_slot = self.slots.get(worker.slot as usize).is_some_and(|place| {
            let generation = Some(worker.generation);
            place.current == generation || place.successor == generation
        });
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        if self.standing.opening == Opening::Ending || !in_slot {
            return;
        }
        if entry.state == WorkerState::Starting {
            // It has done nothing yet that could have worn it out; but what it was started from
            // may be out of date.
            if cause == ReplaceCause::Reload {
                self.start_over(now, worker, effects);
            }
            return;
        }
        match entry.outworn {
            None => {
                entry.outworn = Some(cause);
                self.turns.push_back(worker);
            }
            // Somebody waits for the end of a recycling.
            Some(before) if cause.is_recycling() && !before.is_recycling() => {
                entry.outworn = Some(cause);
                entry.worn = Some(before);
            }
            // A reload can be called off, and what an operator wants stays wanted then.
            Some(ReplaceCause::Reload) if cause == ReplaceCause::Operator => {
                entry.outworn = Some(cause);
            }
            Some(before) if before.is_recycling() && !cause.is_recycling() => {
                entry.worn.get_or_insert(cause);
            }
            Some(_) => {}
        }
    }

    /// A reload is called off: workers that only it wanted to replace go on, and the successors
    /// that are on the way for them do not come.
    pub(super) fn forgive_reload(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for slot in 0..self.slot_count() {
            let Some(generation) = self.slots[slot as usize].current else {
                continue;
            };
            let worker = WorkerId { slot, generation };
            let entry = self.workers.get_mut(&worker).expect("a slot's worker is there");
            if entry.outworn != Some(ReplaceCause::Reload) {
                continue;
            }
            entry.outworn = entry.worn.take();
            if entry.outworn.is_none() {
                self.turns.retain(|outworn| *outworn != worker);
                self.swaps.remove(&worker);
                self.call_back_successor(now, slot, effects);
            }
        }
    }

    fn call_back_successor(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        self.timers.clear(Timer::Successor(slot));
        let place = &mut self.slots[slot as usize];
        place.successor_failures = 0;
        let Some(generation) = place.successor else {
            return;
        };
        let successor = WorkerId { slot, generation };
        if self.stop(now, successor, StopCause::Replaced(ReplaceCause::Reload)) {
            self.kill(now, successor, effects);
        }
    }

    /// A worker that is not ready yet is started again.
    fn start_over(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let is_successor = self.is_successor(worker);
        let cause = StopCause::Replaced(ReplaceCause::Reload);
        if self.stop(now, worker, cause) {
            self.kill(now, worker, effects);
            if is_successor {
                self.start_successor(now, worker.slot, effects);
            } else {
                self.refill(now, worker.slot, Loss::Blameless, effects);
            }
        }
    }

    /// Gives those their turn who have waited longest.
    pub(super) fn replace_next(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.may_replace() {
            return;
        }
        while self.swaps.len() < self.settings.replace.at_once as usize
            && let Some(worker) = self.turns.pop_front()
        {
            let place = &self.slots[worker.slot as usize];
            if place.current != Some(worker.generation) {
                // It goes for another reason.
                continue;
            }
            self.swaps.insert(worker);
            self.start_successor(now, worker.slot, effects);
        }
    }

    fn may_replace(&self) -> bool {
        !matches!(self.state(), PoolState::CrashLoop { .. } | PoolState::Draining)
    }

    /// Starts a successor in a slot whose worker has its turn.
    pub(super) fn start_successor(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        let Some(old) = self.replaced_in(slot) else {
            return;
        };
        if !self.may_replace() {
            let wait = self.backoff(u32::MAX);
            self.timers.set(Timer::Successor(slot), now + wait);
            return;
        }
        let cause = ReplaceCause::Memory;
        if self.workers[&old].outworn == Some(cause)
            && self.step(now, old, Move::Retire(StopCause::Replaced(cause)))
        {
            self.timers.clear(Timer::Idle(old));
        }
        self.timers.clear(Timer::Successor(slot));
        let successor = self.new_worker(now, slot, effects);
        self.workers.get_mut(&successor).expect("it was just made").is_successor = true;
        self.slots[slot as usize].successor = Some(successor.generation);
    }

    /// Whether a worker without a call holds too much memory for another one and has a successor on
    /// the way, which it got for another reason.
    pub(super) fn rests_until_replaced(&mut self, now: Instant, worker: WorkerId) -> bool {
        let cause = ReplaceCause::Memory;
        self.slots[worker.slot as usize].successor.is_some()
            && self.workers[&worker].outworn == Some(cause)
            && self.step(now, worker, Move::Retire(StopCause::Replaced(cause)))
    }

    /// The worker of a slot whose turn it is, and who has no successor yet.
    fn replaced_in(&self, slot: u32) -> Option<WorkerId> {
        let place = &self.slots[slot as usize];
        let old = WorkerId { slot, generation: place.current? };
        (place.successor.is_none() && self.swaps.contains(&old)).then_some(old)
    }

    pub(super) fn is_successor(&self, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|entry| entry.is_successor)
    }

    /// A successor is ready: the slot is its own, and the old worker goes as soon as it is free.
    pub(super) fn take_over(&mut self, now: Instant, new: WorkerId, effects: &mut Vec<Effect>) {
        let place = &mut self.slots[new.slot as usize];
        assert_eq!(Some(new.generation), place.successor, "a slot has one successor");
        place.successor = None;
        place.successor_failures = 0;
        let before = place.current;
        self.seat(new.slot, Some(new.generation));
        let old = WorkerId { slot: new.slot, generation: before.expect("it had a predecessor") };
        let cause = self.leaving_cause(old);
        if self.is_without_calls(old) {
            self.retire(now, old, cause, effects);
        } else {
            // It keeps its turn until its calls have ended.
            self.step(now, old, Move::Retire(cause));
        }
    }

    /// The worker of a slot is lost, and its successor, who is on the way, is its worker now.
    pub(super) fn promote(&mut self, successor: WorkerId) {
        let entry = self.workers.get_mut(&successor).expect("a successor is a worker");
        assert_eq!(WorkerState::Starting, entry.state, "one that is ready has taken over");
        entry.is_successor = false;
        self.starting += 1;
        self.seat(successor.slot, Some(successor.generation));
    }

    /// A successor did not come up: the old worker goes on, and another one is tried later.
    pub(super) fn successor_failed(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        self.replacement_failures += 1;
        let Some(old) = self.replaced_in(slot) else {
            return;
        };
        let place = &mut self.slots[slot as usize];
        place.successor_failures += 1;
        let failures = place.successor_failures;
        let wait = self.backoff(failures);
        if self.standing.opening != Opening::Ending {
            self.timers.set(Timer::Successor(slot), now + wait);
        }
        if self.step(now, old, Move::Recall) {
            self.free(now, old, effects);
        }
    }

    /// After how many calls a new worker is to be replaced: not all at the same time.
    pub(super) fn roll_calls_max(&mut self) -> Option<u64> {
        let max = self.settings.replace.max_calls?;
        Some(self.dice.spread(u64::from(max)))
    }

    /// A worker's age is counted from when it is ready.
    pub(super) fn plan_age(&mut self, since: Instant, worker: WorkerId) {
        let age = self.settings.replace.max_age.map(|age| {
            let age_us = u64::try_from(age.as_micros()).unwrap_or(u64::MAX / 2);
            std::time::Duration::from_micros(self.dice.spread(age_us))
        });
        self.timers.plan(Timer::Age(worker), age.map(|age| since + age));
    }

    /// The rules have changed: they hold for the workers that are there, too.
    pub(super) fn plan_replacements(&mut self) {
        let known =
            self.workers.iter().map(|(id, w)| (*id, w.state, w.lanes.is_empty(), w.ready_at));
        let known: Vec<_> = known.collect();
        for (worker, state, is_empty, ready_at) in known {
            let calls_max = self.roll_calls_max();
            self.workers.get_mut(&worker).expect("it is known").calls_max = calls_max;
            if let Some(ready_at) = ready_at.filter(|_| state.is_up()) {
                self.plan_age(ready_at, worker);
            }
            let is_idle = state == WorkerState::Up && is_empty;
            let idle = self.settings.replace.max_idle.filter(|_| is_idle);
            let since = self.workers[&worker].since;
            self.timers.plan(Timer::Idle(worker), idle.map(|idle| since + idle));
        }
    }
}
