//! The pool: a waiting line, slots, and the workers in them.
//!
//! A *slot* is a place that should hold one worker; it outlives its workers. A worker that was told
//! to go leaves its slot at once, so its successor never waits for its end: that is how a pool of
//! one worker answers the next call while the last one's worker is still being killed. There are as
//! many active slots as the pool is large, and one more for each spare.
//!
//! This file holds the pool and the way of a call through it. What can happen to a worker or to the
//! pool besides is in a file of its own per topic.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::backoff::Dice;
use super::event::{CallKey, Effect, Event, ReplaceCause, Verdict};
use super::lanes::{LaneMove, Lanes};
use super::queue::{Calls, Newcomer, Place};
use super::room::{self, Room};
use super::settings::Settings;
use super::standing::{PoolState, Standing};
use super::standstill::Standstill;
use super::starts::Deaths;
use super::state::{Move, WorkerState};
use super::tally::Tally;
use super::timers::{Timer, Timers};

#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Whether it should hold a worker.
    pub(super) is_active: bool,
    pub(super) current: Option<u32>,
    /// The worker that will take over from the current one when it is ready.
    pub(super) successor: Option<u32>,
    pub(super) last_generation: u32,
    /// Deaths in a row, without an answer between them.
    pub(super) failures: u32,
    pub(super) successor_failures: u32,
    pub(super) empty_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) state: WorkerState,
    /// The calls it has, and how many it may have. What was configured when it was started holds
    /// for its life.
    pub(super) lanes: Lanes,
    /// Where it stands for the next call.
    pub(super) standing: room::Standing,
    pub(super) since: Instant,
    pub(super) ready_at: Option<Instant>,
    pub(super) served: u64,
    /// After how many calls it is replaced.
    pub(super) calls_max: Option<u64>,
    /// Why it is to be replaced, if it is.
    pub(super) outworn: Option<ReplaceCause>,
    /// Why it would have to be replaced besides, even if nobody wanted that any more.
    pub(super) worn: Option<ReplaceCause>,
    /// Whether it is started to take over from another one.
    pub(super) is_successor: bool,
    /// Whether a signal has stopped it: it gets no calls then.
    pub(super) halted: bool,
}

/// A pool of workers and the calls they owe.
#[derive(Debug)]
pub struct Pool {
    pub(super) settings: Settings,
    pub(super) standing: Standing,
    /// How many workers may have calls at once now: between the bounds of the settings.
    pub(super) size: u32,
    pub(super) slots: Vec<Slot>,
    pub(super) inactive: BTreeSet<u32>,
    /// Active slots that hold a worker.
    pub(super) filled: u32,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    /// Workers that may be given a call.
    pub(super) room: Room,
    pub(super) tally: Tally,
    /// How many workers more than its size it has for nested calls.
    pub(super) extra: u32,
    /// Workers being started, successors not counted.
    pub(super) starting: u32,
    /// Slots that may be started as soon as fewer are.
    pub(super) start_queue: VecDeque<u32>,
    pub(super) calls: Calls,
    pub(super) timers: Timers,
    pub(super) deaths: Deaths,
    /// Whether a worker has ever become ready.
    pub(super) has_worked: bool,
    /// Workers that are to be replaced, in the order of their turns.
    pub(super) turns: VecDeque<WorkerId>,
    /// Workers that are being replaced.
    pub(super) swaps: BTreeSet<WorkerId>,
    pub(super) replacement_failures: u64,
    pub(super) grown_at: Option<Instant>,
    pub(super) drained: bool,
    pub(super) standstill: Standstill,
    pub(super) dice: Dice,
}

impl Pool {
    /// A pool that does nothing until it is told to start.
    pub fn new(settings: Settings) -> Pool {
        let size = settings.size;
        assert!(size.max > 0 && size.min <= size.max, "the configuration refuses such a pool");
        Pool {
            settings,
            standing: Standing::NEW,
            size: 0,
            slots: Vec::new(),
            inactive: BTreeSet::new(),
            filled: 0,
            workers: BTreeMap::new(),
            room: Room::default(),
            tally: Tally::default(),
            extra: 0,
            starting: 0,
            start_queue: VecDeque::new(),
            calls: Calls::default(),
            timers: Timers::default(),
            deaths: Deaths::default(),
            has_worked: false,
            turns: VecDeque::new(),
            swaps: BTreeSet::new(),
            replacement_failures: 0,
            grown_at: None,
            drained: false,
            standstill: Standstill::default(),
            dice: Dice::new(settings.seed),
        }
    }

    /// Decides what follows from `event`. Effects are appended in the order they must be done.
    pub fn handle(&mut self, now: Instant, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Start => self.start(now, effects),
            Event::CallArrived { call, deadline, caller, priority, retry, nested } => {
                let newcomer = Newcomer { call, deadline, caller, priority, retry, nested };
                self.arrive(now, newcomer, effects);
            }
            Event::Waits { worker, call, waits } => self.set_waits(worker, call, waits),
            Event::Streamed { call } => self.streamed(call),
            Event::CallStuck { call } => self.give_up(now, call, Verdict::Nested, effects),
            Event::CallCancelled { call } => self.give_up(now, call, Verdict::Cancelled, effects),
            Event::Ready { worker } => self.ready(now, worker, effects),
            Event::Answered { worker, call } => self.answered(now, worker, call, effects),
            Event::AttemptFailed { worker, call } => self.failed(now, worker, call, effects),
            Event::Undelivered { worker, call } => self.undelivered(now, worker, call, effects),
            Event::Doomed { worker, cause } => self.doom(now, worker, cause, effects),
            Event::PutOff { worker, until } => self.put_off(worker, until),
            Event::Halted { worker } => self.halted(worker),
            Event::Resumed { worker } => self.resumed(now, worker, effects),
            Event::StackDumped { worker } => self.dumped(now, worker, effects),
            Event::Outworn { worker, cause } => self.outwear(now, worker, cause, effects),
            Event::Died { worker, begun } => self.died(now, worker, &begun, effects),
            Event::Gone { worker } => self.gone(worker),
            Event::Tick => self.tick(now, effects),
            Event::Drain { until } => self.drain(now, until, effects),
            Event::KillAll => self.kill_all(now, effects),
            Event::Operator(order) => self.obey(now, order, effects),
            Event::Reconfigured { settings, replace } => {
                self.reconfigure(now, *settings, replace, effects);
            }
        }
        self.follow_up(now, effects);
    }

    /// What any event may have made possible. Costs nothing where nothing is wanted.
    fn follow_up(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.serve(now, effects);
        if !self.start_queue.is_empty() {
            self.start_queued(now, effects);
        }
        if !self.turns.is_empty() {
            self.replace_next(now, effects);
            // One of several lanes that gets no more calls is made up for by another worker.
            self.serve(now, effects);
        }
        if self.settings.size.min < self.settings.size.max {
            self.scale(now, effects);
        }
        self.report_drained(effects);
        self.note_standstill(now);
    }

    fn arrive(&mut self, now: Instant, newcomer: Newcomer, effects: &mut Vec<Effect>) {
        let call = newcomer.call;
        let refusal = match self.state() {
            PoolState::Draining | PoolState::Closed => Some(Verdict::ShuttingDown),
            PoolState::CrashLoop { .. } => Some(Verdict::CrashLoop),
            PoolState::Running | PoolState::Paused => None,
        };
        if let Some(verdict) = refusal {
            effects.push(Effect::Settle { call, verdict });
            return;
        }
        // Whoever finds nobody waiting and a worker free passes the line by.
        if self.calls.waiting() == 0
            && let Some(worker) = self.next_worker()
        {
            self.calls.push_for(now, newcomer, worker);
            self.hand_over(now, worker, call, effects);
            return;
        }
        if self.calls.held() >= self.settings.queue as usize {
            let Some(victim) = self.calls.victim(newcomer.caller, newcomer.priority) else {
                effects.push(Effect::Settle { call, verdict: Verdict::QueueFull });
                return;
            };
            self.settle(victim, Verdict::QueueFull, effects);
        }
        self.calls.push(now, newcomer);
    }

    /// Answers a call that is still owed.
    pub(super) fn settle(&mut self, call: CallKey, verdict: Verdict, effects: &mut Vec<Effect>) {
        let Some(place) = self.calls.remove(call) else {
            return;
        };
        if place == Place::Resting {
            self.timers.clear(Timer::Retry(call));
        }
        effects.push(Effect::Settle { call, verdict });
    }

    fn ready(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        if !self.step(now, worker, Move::Ready) {
            return;
        }
        self.timers.clear(Timer::Start(worker));
        self.has_worked = true;
        let entry = self.workers.get_mut(&worker).expect("it just took a step");
        entry.ready_at = Some(now);
        let takes_over = std::mem::take(&mut entry.is_successor);
        self.plan_age(now, worker);
        if takes_over {
            self.take_over(now, worker, effects);
        }
        self.mend(now, worker, effects);
        self.free(now, worker, effects);
    }

    pub(super) fn answered(
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
        self.clear_call_timers(worker, call);
        if !self.step_call(now, worker, call, LaneMove::Answer) {
            return;
        }
        let entry = self.workers.get_mut(&worker).expect("it just took a step");
        if !entry.state.is_up() {
            return;
        }
        entry.served += 1;
        let is_worn = entry.calls_max.is_some_and(|max| entry.served >= max);
        self.slots[worker.slot as usize].failures = 0;
        self.deaths.forget();
        if is_worn {
            self.outwear(now, worker, ReplaceCause::Calls, effects);
        }
        self.free(now, worker, effects);
    }

    fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(call) = self.calls.overdue(now) {
            self.too_late(now, call, effects);
        }
        while let Some(timer) = self.timers.pop_due(now) {
            self.due(now, timer, effects);
        }
    }

    fn due(&mut self, now: Instant, timer: Timer, effects: &mut Vec<Effect>) {
        match timer {
            Timer::Start(worker) => self.start_timed_out(now, worker, effects),
            Timer::Attempt(worker, call) => self.attempt_timed_out(now, worker, call, effects),
            Timer::Dump(worker) => self.dumped(now, worker, effects),
            Timer::Warned(worker, call) => self.interrupt(now, worker, call, effects),
            Timer::Interrupt(worker, call) => self.interrupt_failed(now, worker, call, effects),
            Timer::Exit(worker) => self.kill(now, worker, effects),
            Timer::Reap(worker) => effects.push(Effect::Abandon { worker }),
            Timer::Age(worker) => self.outwear(now, worker, ReplaceCause::Age, effects),
            Timer::Idle(worker) => self.outwear(now, worker, ReplaceCause::Idle, effects),
            Timer::Backoff(slot) => self.want_start(now, slot, effects),
            Timer::Successor(slot) => self.start_successor(now, slot, effects),
            Timer::Retry(call) => self.rested(now, call),
            Timer::Probe => self.probe(now, effects),
            Timer::Grow => self.grow(now, effects),
            Timer::Shrink => self.shrink(now, effects),
            Timer::Extra => self.dismiss_extra(now, effects),
            Timer::Drain => self.end_patience(now, effects),
        }
    }

    /// Moves a worker along the table. False when the move is illegal; then nothing has changed.
    pub(super) fn step(&mut self, now: Instant, worker: WorkerId, step: Move) -> bool {
        let Some(entry) = self.workers.get(&worker) else {
            return false;
        };
        let Some(next) = entry.state.after(step) else {
            return false;
        };
        if entry.state == WorkerState::Starting && !entry.is_successor {
            self.starting -= 1;
        }
        self.change(worker, |entry| {
            entry.state = next;
            entry.since = now;
        });
        true
    }

    /// Moves a call of a worker along its table. False when the move is illegal; then nothing has
    /// changed.
    pub(super) fn step_call(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        step: LaneMove,
    ) -> bool {
        let stepped = self.change(worker, |entry| {
            let before = entry.lanes.name(entry.state);
            let stepped = entry.lanes.step(now, call, step);
            if entry.lanes.name(entry.state) != before {
                entry.since = now;
            }
            stepped
        });
        stepped.unwrap_or(false)
    }

    /// Changes a worker, and with it what is counted and who gets the next call. None when there is
    /// no such worker.
    pub(super) fn change<T>(
        &mut self,
        worker: WorkerId,
        change: impl FnOnce(&mut Worker) -> T,
    ) -> Option<T> {
        let entry = self.workers.get_mut(&worker)?;
        let before = Tally::of(entry);
        let result = change(entry);
        self.tally.replace(before, Tally::of(entry));
        self.room.note(worker, entry);
        Some(result)
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
