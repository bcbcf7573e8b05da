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
use super::queue::{Calls, Newcomer, Place};
use super::settings::Settings;
use super::standing::{Opening, PoolState, Standing};
use super::standstill::Standstill;
use super::starts::Deaths;
use super::state::{Move, WorkerState};
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
    /// Whether a timer of its call may be set.
    pub(super) has_call_timers: bool,
    /// The late call whose answer waits for its stacks.
    pub(super) dumping: Option<CallKey>,
    /// The call it is to give up, which will be tried again.
    pub(super) retrying: Option<CallKey>,
    /// Whether a signal has stopped it: it gets no calls then.
    pub(super) halted: bool,
    /// Whether its call waits for calls of its own.
    pub(super) waits: bool,
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
    /// Workers that may be given a call; the one that was busy last is last.
    pub(super) idle: Vec<WorkerId>,
    pub(super) busy: u32,
    /// Busy ones whose calls wait for calls of their own.
    pub(super) waiting: u32,
    /// Workers that have become ready and were not told to go.
    pub(super) up: u32,
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
            idle: Vec::new(),
            busy: 0,
            waiting: 0,
            up: 0,
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
            Event::Died { worker, begun } => self.died(now, worker, begun, effects),
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
        self.assign_waiting(now, effects);
        if self.extra > 0 || self.calls.nested_waiting() > 0 {
            self.serve_nested(now, effects);
        }
        if !self.start_queue.is_empty() {
            self.start_queued(now, effects);
        }
        if !self.turns.is_empty() {
            self.replace_next(now, effects);
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
            && let Some(worker) = self.next_idle()
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

    /// The worker that gets the next call, if there may be one: the one that was busy last, since
    /// its caches are warm.
    fn next_idle(&self) -> Option<WorkerId> {
        if self.busy >= self.size || !self.standing.assigns() {
            return None;
        }
        self.idle.last().copied()
    }

    /// Hands waiting calls to idle workers: after every event, so that no call ever waits while a
    /// worker may take it.
    pub(super) fn assign_waiting(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while let Some(worker) = self.next_idle() {
            let Some(call) = self.calls.pop_for(worker) else {
                return;
            };
            self.hand_over(now, worker, call, effects);
        }
    }

    pub(super) fn hand_over(
        &mut self,
        now: Instant,
        worker: WorkerId,
        call: CallKey,
        effects: &mut Vec<Effect>,
    ) {
        let taken = self.idle.pop();
        assert_eq!(Some(worker), taken, "the next worker is the last of the idle ones");
        let stepped = self.step(now, worker, Move::Assign(call));
        assert!(stepped, "an idle worker takes a call");
        if self.settings.replace.max_idle.is_some() {
            self.timers.clear(Timer::Idle(worker));
        }
        self.time_attempt(now, worker, call);
        effects.push(Effect::Assign { worker, call });
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
        if !self.step(now, worker, Move::Answered(call)) {
            return;
        }
        self.clear_call_timers(worker);
        let entry = self.workers.get_mut(&worker).expect("it just took a step");
        entry.served += 1;
        entry.retrying = None;
        let is_worn = entry.calls_max.is_some_and(|max| entry.served >= max);
        self.slots[worker.slot as usize].failures = 0;
        self.deaths.forget();
        if is_worn {
            self.outwear(now, worker, ReplaceCause::Calls, effects);
        }
        self.free(now, worker, effects);
    }

    /// A worker has no call any more: it gets the next one, or leaves.
    pub(super) fn free(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let state = self.worker_state(worker).expect("who is freed is there");
        let in_slot = self.slots[worker.slot as usize].current == Some(worker.generation);
        if self.standing.opening == Opening::Ending || !in_slot {
            let cause = self.leaving_cause(worker);
            self.retire(now, worker, cause, effects);
        } else if state == WorkerState::Idle {
            if self.rests_until_replaced(now, worker) || self.is_halted(worker) {
                return;
            }
            self.idle.push(worker);
            if let Some(max_idle) = self.settings.replace.max_idle {
                self.timers.set(Timer::Idle(worker), now + max_idle);
            }
        }
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
            Timer::Attempt(worker) => self.attempt_timed_out(now, worker, effects),
            Timer::Dump(worker) => self.dumped(now, worker, effects),
            Timer::Warned(worker) => self.interrupt(now, worker, effects),
            Timer::Interrupt(worker) => self.interrupt_failed(now, worker, effects),
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
        let Some(entry) = self.workers.get_mut(&worker) else {
            return false;
        };
        let before = entry.state;
        let Some(next) = before.after(step) else {
            return false;
        };
        entry.state = next;
        entry.since = now;
        self.busy = self.busy + u32::from(next.is_busy()) - u32::from(before.is_busy());
        self.up = self.up + u32::from(next.is_up()) - u32::from(before.is_up());
        if entry.waits && !next.is_busy() {
            entry.waits = false;
            self.waiting -= 1;
        }
        if before == WorkerState::Starting && !entry.is_successor {
            self.starting -= 1;
        }
        true
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
