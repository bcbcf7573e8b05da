//! The pool: a queue, slots, and the workers in them.
//!
//! A *slot* is a place that should hold one worker; it outlives its workers. A worker that was told
//! to go leaves its slot at once, so its successor never waits for its end: that is how a pool of
//! one worker answers the next call while the last one's worker is still being killed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

use super::backoff::{self, CRASH_LOOP_FAILURES, Dice, PROVEN_AFTER};
use super::event::{Budgets, CallKey, Effect, Event, StopCause, Verdict};
use super::queue::{Calls, Place, Timer, Timers};
use super::state::{Move, WorkerState, WorkerView};

/// How long a guardian may take from an order to kill to its report, before it is killed itself.
/// It gives up on an unkillable process after two seconds of its own.
const REAP_BUDGET: Duration = Duration::from_secs(5);

/// What a pool is told once.
#[derive(Clone, Copy, Debug)]
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
struct Slot {
    current: Option<u32>,
    last_generation: u32,
    failures: u32,
}

#[derive(Debug)]
struct Worker {
    state: WorkerState,
    since: Instant,
    ready_at: Option<Instant>,
    served: u64,
}

/// A pool of workers and the calls they owe.
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    state: PoolState,
    slots: Vec<Slot>,
    workers: BTreeMap<WorkerId, Worker>,
    idle: Vec<WorkerId>,
    calls: Calls,
    timers: Timers,
    failed_starts: u32,
    drained: bool,
    dice: Dice,
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
            Event::CallArrived { call, deadline } => self.arrive(now, call, deadline, effects),
            Event::CallCancelled { call } => self.give_up(now, call, Verdict::Cancelled, effects),
            Event::Ready { worker } => self.ready(now, worker, effects),
            Event::Answered { worker, call } => self.answered(now, worker, call, effects),
            Event::Undelivered { worker, call } => self.undelivered(now, worker, call, effects),
            Event::Doomed { worker, cause } => self.doom(now, worker, cause, effects),
            Event::Died { worker } => self.died(now, worker, effects),
            Event::Gone { worker } => self.gone(worker),
            Event::Tick => self.tick(now, effects),
            Event::Drain { until } => self.drain(now, until, effects),
            Event::KillAll => self.kill_all(now, effects),
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

    /// What one worker is doing.
    pub fn worker_state(&self, worker: WorkerId) -> Option<WorkerState> {
        self.workers.get(&worker).map(|w| w.state)
    }

    fn arrive(&mut self, now: Instant, call: CallKey, deadline: Instant, effects: &mut Vec<Effect>) {
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
    fn assign_waiting(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(worker) = self.idle.last().copied() {
            let Some(call) = self.calls.pop_for(worker) else { return };
            self.idle.pop();
            self.step(now, worker, Move::Assign(call));
            effects.push(Effect::Assign { worker, call });
        }
    }

    /// Answers a call with `verdict` now, and makes its worker, if it has one, give it up.
    fn give_up(&mut self, now: Instant, call: CallKey, verdict: Verdict, effects: &mut Vec<Effect>) {
        let Some(place) = self.calls.place(call) else { return };
        self.settle(call, verdict, effects);
        let Place::Running(worker) = place else { return };
        if self.step(now, worker, Move::Interrupt(call)) {
            effects.push(Effect::Interrupt { worker, call });
            self.timers.set(Timer::Interrupt(worker), now + self.settings.budgets.interrupt);
        }
    }

    fn settle(&mut self, call: CallKey, verdict: Verdict, effects: &mut Vec<Effect>) {
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
    }

    fn answered(&mut self, now: Instant, worker: WorkerId, call: CallKey, effects: &mut Vec<Effect>) {
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
        self.idle.push(worker);
        self.assign_waiting(now, effects);
    }

    fn retire(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        if self.stop(now, worker, StopCause::Drain) {
            effects.push(Effect::Retire { worker });
            self.timers.set(Timer::Exit(worker), now + self.settings.budgets.grace);
        }
    }

    fn doom(&mut self, now: Instant, worker: WorkerId, cause: StopCause, effects: &mut Vec<Effect>) {
        let proven = self.is_proven(now, worker);
        if self.stop(now, worker, cause) {
            self.kill(now, worker, effects);
            self.refill(now, worker.slot, proven, effects);
        }
    }

    /// The call goes back to its place in the queue; its caller does not notice.
    fn undelivered(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        if self.calls.place(call) == Some(Place::Running(worker)) {
            self.calls.requeue(call);
        }
        // The worker does not have the call, whatever its state said.
        self.step(now, worker, Move::Answered(call));
        self.doom(now, worker, StopCause::ChannelLost, effects);
        self.assign_waiting(now, effects);
    }

    fn kill(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Kill { worker });
        self.timers.set(Timer::Reap(worker), now + REAP_BUDGET);
    }

    /// Takes a worker out of its slot; it has to die now. False when it was going already.
    fn stop(&mut self, now: Instant, worker: WorkerId, cause: StopCause) -> bool {
        if !self.step(now, worker, Move::Stop(cause)) {
            return false;
        }
        self.leave(worker);
        true
    }

    /// A worker does not fill its slot any more, and nothing is expected of it but its end.
    fn leave(&mut self, worker: WorkerId) {
        self.idle.retain(|idle| *idle != worker);
        self.timers.clear(Timer::Start(worker));
        self.timers.clear(Timer::Interrupt(worker));
        let slot = &mut self.slots[worker.slot as usize];
        if slot.current == Some(worker.generation) {
            slot.current = None;
        }
    }

    fn died(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Some(before) = self.worker_state(worker) else { return };
        let proven = self.is_proven(now, worker);
        if !self.step(now, worker, Move::Die) {
            return;
        }
        self.leave(worker);
        self.timers.clear(Timer::Exit(worker));
        self.timers.set(Timer::Reap(worker), now + REAP_BUDGET);
        if let Some(call) = before.call() {
            self.settle(call, Verdict::WorkerDied { worker }, effects);
        }
        if !matches!(before, WorkerState::Stopping(..)) {
            self.refill(now, worker.slot, proven, effects);
        }
    }

    /// Whether a worker had a good start: only then is its end no sign of a crash loop.
    fn is_proven(&self, now: Instant, worker: WorkerId) -> bool {
        self.workers.get(&worker).is_some_and(|w| {
            w.served > 0 || w.ready_at.is_some_and(|at| now.duration_since(at) >= PROVEN_AFTER)
        })
    }

    /// Starts an empty slot again: at once after a proven worker, else with backoff.
    fn refill(&mut self, now: Instant, slot: u32, proven: bool, effects: &mut Vec<Effect>) {
        if self.state == PoolState::Draining {
            return;
        }
        if proven {
            self.slots[slot as usize].failures = 0;
            self.failed_starts = 0;
            self.launch(now, slot, effects);
            return;
        }
        self.failed_starts += 1;
        let failures = &mut self.slots[slot as usize].failures;
        *failures += 1;
        let wait = backoff::backoff(*failures, &mut self.dice);
        self.timers.set(Timer::Backoff(slot), now + wait);
        if self.failed_starts >= CRASH_LOOP_FAILURES && self.no_worker_left() {
            self.state = PoolState::CrashLoop { failures: self.failed_starts };
            for call in self.calls.take_waiting() {
                effects.push(Effect::Settle { call, verdict: Verdict::CrashLoop });
            }
        }
    }

    /// Whether no worker can take a call: one bad slot must not close a pool that works.
    fn no_worker_left(&self) -> bool {
        use WorkerState::{Busy, Idle, Interrupting};
        !self.workers.values().any(|w| matches!(w.state, Idle | Busy(_) | Interrupting(_)))
    }

    fn launch(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        let place = &mut self.slots[slot as usize];
        assert!(place.current.is_none(), "a slot holds one worker");
        place.last_generation += 1;
        place.current = Some(place.last_generation);
        let worker = WorkerId { slot, generation: place.last_generation };
        let fresh = Worker { state: WorkerState::Starting, since: now, ready_at: None, served: 0 };
        self.workers.insert(worker, fresh);
        self.timers.set(Timer::Start(worker), now + self.settings.budgets.start);
        effects.push(Effect::Launch { worker });
    }

    fn gone(&mut self, worker: WorkerId) {
        assert!(
            matches!(self.worker_state(worker), None | Some(WorkerState::Dead)),
            "a worker's tree is swept after its death"
        );
        self.timers.clear(Timer::Reap(worker));
        self.workers.remove(&worker);
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
                    self.terminate(now, worker, effects);
                    self.refill(now, worker.slot, true, effects);
                }
            }
            Timer::Exit(worker) => self.kill(now, worker, effects),
            Timer::Reap(worker) => effects.push(Effect::Abandon { worker }),
            Timer::Backoff(slot) => {
                if self.state != PoolState::Draining {
                    self.launch(now, slot, effects);
                }
            }
            Timer::Drain => self.end_patience(now, effects),
        }
    }

    fn terminate(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Terminate { worker });
        // The guardian kills by itself when the grace is over; only its silence is our business.
        self.timers.set(Timer::Reap(worker), now + self.settings.budgets.grace + REAP_BUDGET);
    }

    fn drain(&mut self, now: Instant, until: Instant, effects: &mut Vec<Effect>) {
        self.state = PoolState::Draining;
        for slot in 0..self.settings.workers {
            self.timers.clear(Timer::Backoff(slot));
        }
        for call in self.calls.take_waiting() {
            effects.push(Effect::Settle { call, verdict: Verdict::ShuttingDown });
        }
        let workers: Vec<_> = self.workers.iter().map(|(id, w)| (*id, w.state)).collect();
        for (worker, state) in workers {
            match state {
                WorkerState::Idle => self.retire(now, worker, effects),
                WorkerState::Starting if self.stop(now, worker, StopCause::Drain) => {
                    self.kill(now, worker, effects);
                }
                _ => {}
            }
        }
        self.timers.set(Timer::Drain, until);
    }

    /// Running calls have had their time: their callers are told, their workers terminated.
    fn end_patience(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for call in self.calls.running() {
            self.settle(call, Verdict::ShuttingDown, effects);
        }
        let workers: Vec<_> = self.workers.keys().copied().collect();
        for worker in workers {
            if self.stop(now, worker, StopCause::Drain) {
                self.terminate(now, worker, effects);
            }
        }
    }

    fn kill_all(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.drain(now, now, effects);
        for call in self.calls.running() {
            self.settle(call, Verdict::ShuttingDown, effects);
        }
        let workers: Vec<_> = self.workers.iter().map(|(id, w)| (*id, w.state)).collect();
        for (worker, state) in workers {
            self.stop(now, worker, StopCause::Drain);
            if state != WorkerState::Dead {
                self.timers.clear(Timer::Exit(worker));
                self.kill(now, worker, effects);
            }
        }
        self.timers.clear(Timer::Drain);
    }

    fn report_drained(&mut self, effects: &mut Vec<Effect>) {
        if self.state == PoolState::Draining && self.workers.is_empty() && !self.drained {
            assert!(self.calls.is_empty(), "a call ends with its worker at the latest");
            self.drained = true;
            self.timers.clear(Timer::Drain);
            effects.push(Effect::Drained);
        }
    }

    /// Moves a worker along the table. False when the move is illegal; then nothing has changed.
    fn step(&mut self, now: Instant, worker: WorkerId, step: Move) -> bool {
        let Some(entry) = self.workers.get_mut(&worker) else { return false };
        let Some(next) = entry.state.after(step) else { return false };
        entry.state = next;
        entry.since = now;
        true
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
