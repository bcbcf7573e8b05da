//! The pool: a queue, slots, and the workers in them.
//!
//! A *slot* is a place that should hold one worker; it outlives its workers. A worker that was told
//! to go leaves its slot at once, so its successor never waits for its end: that is how a pool of
//! one worker answers the next call while the last one's worker is still being killed.

use std::collections::BTreeMap;
use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::backoff::Dice;
use super::event::{Budgets, CallKey, Effect, Event, Order, ReplaceCause, StopCause, Verdict};
use super::queue::{Calls, Place, Timer, Timers};
use super::replace::Replacement;
use super::state::{EmptySlot, Move, WorkerState, WorkerView};

/// What a pool is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many slots it has.
    pub workers: u32,
    /// How many calls may wait.
    pub queue: u32,
    /// How long it waits for what.
    pub budgets: Budgets,
    /// Where its dice start.
    pub seed: u64,
}

/// What a pool as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Taking calls.
    Running,
    /// Refusing calls, because no worker stays alive; slots are still tried, with backoff.
    CrashLoop {
        /// Failed starts in a row.
        failures: u32,
    },
    /// Taking nothing new.
    Draining,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) current: Option<u32>,
    pub(super) last_generation: u32,
    pub(super) failures: u32,
    pub(super) empty_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) state: WorkerState,
    pub(super) since: Instant,
    pub(super) ready_at: Option<Instant>,
    pub(super) served: u64,
    /// Why it is to be replaced, if it is.
    pub(super) outworn: Option<ReplaceCause>,
    /// Why it goes as soon as it has no call, if it does.
    pub(super) leaving: Option<StopCause>,
}

/// A pool of workers and the calls they owe.
#[derive(Debug)]
pub struct Pool {
    pub(super) settings: Settings,
    pub(super) state: PoolState,
    pub(super) slots: Vec<Slot>,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) idle: Vec<WorkerId>,
    pub(super) calls: Calls,
    pub(super) timers: Timers,
    pub(super) failed_starts: u32,
    pub(super) drained: bool,
    pub(super) dice: Dice,
    pub(super) replacement: Option<Replacement>,
    pub(super) replacement_failures: u32,
}

impl Pool {
    /// A pool that does nothing until it is told to start.
    pub fn new(settings: Settings) -> Pool {
        assert!(settings.workers > 0, "the configuration refuses a pool without workers");
        Pool {
            settings,
            state: PoolState::Running,
            slots: (0..settings.workers).map(|_| Slot::default()).collect(),
            workers: BTreeMap::new(),
            idle: Vec::new(),
            calls: Calls::default(),
            timers: Timers::default(),
            failed_starts: 0,
            drained: false,
            dice: Dice::new(settings.seed),
            replacement: None,
            replacement_failures: 0,
        }
    }

    /// Decides what follows from `event`. Effects are appended in the order they must be done.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Start => {
                for slot in 0..self.settings.workers {
                    self.launch(now, slot, effects);
                }
            }
            Event::CallArrived { call, deadline, .. } => self.arrive(now, call, deadline, effects),
            Event::CallCancelled { call } => self.give_up(now, call, Verdict::Cancelled, effects),
            Event::Ready { worker } => self.ready(now, worker, effects),
            Event::Answered { worker, call } => self.answered(now, worker, call, effects),
            Event::Undelivered { worker, call } => self.undelivered(now, worker, call, effects),
            Event::Doomed { worker, cause } => self.doom(now, worker, cause, effects),
            Event::Died { worker, .. } => self.died(now, worker, effects),
            Event::Gone { worker } => self.gone(worker),
            Event::Tick => self.tick(now, effects),
            Event::Drain { until } => self.drain(now, until, effects),
            Event::KillAll => self.kill_all(now, effects),
            Event::AttemptFailed { worker, call } => self.answered(now, worker, call, effects),
            Event::Outworn { worker, cause } => self.outworn(now, worker, cause, effects),
            Event::Reconfigured { settings, replace } => {
                self.reconfigure(now, *settings, replace, effects);
            }
            Event::Operator(Order::Reset) => self.start_what_is_missing(now, effects),
            Event::StackDumped { .. } | Event::Operator(_) => {}
        }
        self.report_drained(effects);
    }

    /// When [`Event::Tick`] is wanted next.
    pub fn next_wake(&self) -> Option<Instant> {
        match (self.calls.next_deadline(), self.timers.next()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Whether a call that failed may be tried again.
    pub const fn may_retry(&self, _now: Instant, _call: CallKey) -> bool {
        false
    }

    /// What the pool is doing.
    pub const fn state(&self) -> PoolState {
        self.state
    }

    /// What it was told.
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its calls.
    pub const fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Its workers, those being replaced included.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> + '_ {
        self.workers.iter().map(|(id, worker)| WorkerView {
            id: *id,
            state: worker.state,
            since: worker.since,
        })
    }

    /// The slots that hold no worker now.
    pub fn empty_slots(&self) -> impl Iterator<Item = EmptySlot> + '_ {
        let numbered = (0..).zip(&self.slots).filter(|(_, slot)| slot.current.is_none());
        numbered.map(|(number, slot)| EmptySlot {
            id: WorkerId { slot: number, generation: slot.last_generation },
            failures: slot.failures,
            since: slot.empty_since,
            until: self.timers.due(Timer::Backoff(number)),
        })
    }

    /// What one worker is doing.
    pub fn worker_state(&self, worker: WorkerId) -> Option<WorkerState> {
        self.workers.get(&worker).map(|w| w.state)
    }

    fn arrive(
        &mut self,
        now: Instant,
        call: CallKey,
        deadline: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let refusal = match self.state {
            PoolState::Draining => Some(Verdict::ShuttingDown),
            PoolState::CrashLoop { .. } => Some(Verdict::CrashLoop),
            PoolState::Running
                if self.idle.is_empty() && self.calls.waiting() >= self.settings.queue as usize =>
            {
                Some(Verdict::QueueFull)
            }
            PoolState::Running => None,
        };
        if let Some(verdict) = refusal {
            effects.push(Effect::Settle { call, verdict });
            return;
        }
        self.calls.push(call, deadline);
        self.assign_waiting(now, effects);
    }

    /// Hands waiting calls to idle workers, the one that was busy last first: its caches are warm.
    pub(super) fn assign_waiting(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(worker) = self.idle.last().copied() {
            let Some(call) = self.calls.pop_for(worker) else {
                return;
            };
            self.idle.pop();
            self.step(now, worker, Move::Assign(call));
            effects.push(Effect::Assign { worker, call });
        }
    }

    /// Answers a call with `verdict` now, and makes its worker, if it has one, give it up.
    fn give_up(
        &mut self,
        now: Instant,
        call: CallKey,
        verdict: Verdict,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.calls.place(call) else {
            return;
        };
        self.settle(call, verdict, effects);
        let Place::Running(worker) = place else {
            return;
        };
        if self.step(now, worker, Move::Interrupt(call)) {
            effects.push(Effect::Interrupt { worker, call });
            self.timers.set(Timer::Interrupt(worker), now + self.settings.budgets.interrupt);
        }
    }

    pub(super) fn settle(&mut self, call: CallKey, verdict: Verdict, effects: &mut Vec<Effect>) {
        if self.calls.remove(call) {
            effects.push(Effect::Settle { call, verdict });
        }
    }

    fn ready(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        if !self.step(now, worker, Move::Ready) {
            return;
        }
        self.timers.clear(Timer::Start(worker));
        self.workers.get_mut(&worker).expect("it just took a step").ready_at = Some(now);
        if let PoolState::CrashLoop { .. } = self.state {
            self.state = PoolState::Running;
        }
        self.free(now, worker, effects);
        self.succeeded(now, worker, effects);
    }

    fn answered(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        // A worker can settle its own call only, whatever it says and whatever state it is in.
        if self.calls.place(call) == Some(Place::Running(worker)) {
            self.calls.remove(call);
        }
        if !self.step(now, worker, Move::Answered(call)) {
            return;
        }
        self.timers.clear(Timer::Interrupt(worker));
        self.workers.get_mut(&worker).expect("it just took a step").served += 1;
        self.slots[worker.slot as usize].failures = 0;
        self.failed_starts = 0;
        self.free(now, worker, effects);
    }

    /// A worker has no call any more: it gets the next one, or leaves when the pool is draining.
    fn free(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        assert_eq!(Some(WorkerState::Idle), self.worker_state(worker), "a free worker is idle");
        if self.state == PoolState::Draining {
            self.retire(now, worker, effects);
            return;
        }
        if let Some(cause) = self.workers.get(&worker).and_then(|entry| entry.leaving) {
            self.retire_for(now, worker, cause, effects);
            return;
        }
        self.idle.push(worker);
        self.assign_waiting(now, effects);
    }

    pub(super) fn launch(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        let place = &mut self.slots[slot as usize];
        assert!(place.current.is_none(), "a slot holds one worker");
        place.last_generation += 1;
        place.current = Some(place.last_generation);
        let worker = WorkerId { slot, generation: place.last_generation };
        let fresh = Worker {
            state: WorkerState::Starting,
            since: now,
            ready_at: None,
            served: 0,
            outworn: None,
            leaving: None,
        };
        self.workers.insert(worker, fresh);
        self.timers.set(Timer::Start(worker), now + self.settings.budgets.start);
        effects.push(Effect::Launch { worker });
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(call) = self.calls.overdue(now) {
            self.give_up(now, call, Verdict::TimedOut, effects);
        }
        while let Some(timer) = self.timers.pop_due(now) {
            self.due(now, timer, effects);
        }
    }

    fn due(&mut self, now: Instant, timer: Timer, effects: &mut Vec<Effect>) {
        match timer {
            Timer::Start(worker) => {
                if self.stop(now, worker, StopCause::StartTimedOut) {
                    self.kill(now, worker, effects);
                    self.refill(now, worker.slot, false, effects);
                }
            }
            Timer::Interrupt(worker) => {
                if self.stop(now, worker, StopCause::Interrupted) {
                    self.hurry_predecessors(now, worker, effects);
                    self.terminate(now, worker, effects);
                    self.refill(now, worker.slot, true, effects);
                }
            }
            Timer::Exit(worker) => self.kill(now, worker, effects),
            Timer::Reap(worker) => effects.push(Effect::Abandon { worker }),
            Timer::Backoff(slot) => {
                if self.state != PoolState::Draining && slot < self.settings.workers {
                    self.launch(now, slot, effects);
                }
            }
            Timer::Drain => self.end_patience(now, effects),
        }
    }

    /// Moves a worker along the table. False when the move is illegal; then nothing has changed.
    pub(super) fn step(&mut self, now: Instant, worker: WorkerId, step: Move) -> bool {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return false;
        };
        let Some(next) = entry.state.after(step) else {
            return false;
        };
        entry.state = next;
        entry.since = now;
        true
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
