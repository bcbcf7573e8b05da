//! Starting what is missing: at once, after a wait, one at a time, or not at all.
//!
//! ```text
//!   a slot is empty ──► at once, when its worker was no failure of its own
//!                   ──► after a wait that doubles, when it was
//!                   ──► not by itself in a crash loop: one probe at a time, after the longest wait
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

use super::backoff::{self, PROVEN_AFTER};
use super::event::{Effect, StopCause, Verdict};
use super::lanes::Lanes;
use super::policy::{Pool, Slot, Worker};
use super::room;
use super::standing::{Opening, PoolMove, PoolState};
use super::state::WorkerState;
use super::timers::Timer;

/// Deaths that all happen within this time may have one cause outside of the pool: somebody kills
/// workers, or the machine has no memory for a moment. The waits between starts last longer.
const STREAK_MIN: Duration = Duration::from_secs(1);

/// How a worker came to leave its slot empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It did nothing wrong, or nothing that says anything about the next one.
    Blameless,
    /// It died with calls, which are to blame first, and the pool only if this goes on.
    WithCall,
    /// It had been ready for long, or had answered calls.
    Proven,
    /// It had only just become ready.
    Early,
    /// It never became ready.
    Unready,
}

/// The deaths that no success has followed.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    alone: VecDeque<Instant>,
    with_call: VecDeque<Instant>,
    /// Starts in a row that failed, over all slots, however long they took: no worker has become
    /// ready between, which would show that they can.
    starts: u32,
    /// When the first of all these deaths was.
    since: Option<Instant>,
    /// Whether calls are to blame for the crash loop, or for the last one as long as no call has
    /// succeeded since.
    is_by_calls: bool,
    /// The worker whose start tells whether the crash loop is over.
    probe: Option<WorkerId>,
}

impl Deaths {
    /// A call succeeded, or an operator forgives.
    pub(super) fn forget(&mut self) {
        self.alone.clear();
        self.with_call.clear();
        self.starts = 0;
        self.since = None;
        self.is_by_calls = false;
    }

    fn forget_before(&mut self, then: Option<Instant>) {
        let Some(then) = then else { return };
        for deaths in [&mut self.alone, &mut self.with_call] {
            while deaths.front().is_some_and(|at| *at < then) {
                deaths.pop_front();
            }
        }
    }

    fn count(&self) -> u32 {
        let count = self.alone.len() + self.with_call.len();
        u32::try_from(count).unwrap_or(u32::MAX).max(self.starts)
    }
}

impl Pool {
    /// A pool that may have no workers starts with one all the same: a configuration that cannot
    /// work is found out at the start and not at the first call.
    pub(super) fn start(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.size = self.settings.size.min.max(1);
        self.fit(now, effects);
    }

    /// Starts a slot's worker now, or as soon as fewer are being started.
    pub(super) fn want_start(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) {
        let place = &self.slots[slot as usize];
        if !place.is_active || place.current.is_some() || !self.may_start() {
            return;
        }
        if self.starting < self.settings.starts_at_once {
            self.launch(now, slot, effects);
        } else if !self.start_queue.contains(&slot) {
            self.start_queue.push_back(slot);
        }
    }

    /// Starts what waits for fewer to be starting.
    pub(super) fn start_queued(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        while self.starting < self.settings.starts_at_once
            && let Some(slot) = self.start_queue.pop_front()
        {
            self.want_start(now, slot, effects);
        }
    }

    fn may_start(&self) -> bool {
        !matches!(self.state(), PoolState::CrashLoop { .. } | PoolState::Draining)
    }

    fn launch(&mut self, now: Instant, slot: u32, effects: &mut Vec<Effect>) -> WorkerId {
        let worker = self.new_worker(now, slot, effects);
        self.seat(slot, Some(worker.generation));
        self.starting += 1;
        worker
    }

    /// A new process for a slot, in whatever role.
    pub(super) fn new_worker(
        &mut self,
        now: Instant,
        slot: u32,
        effects: &mut Vec<Effect>,
    ) -> WorkerId {
        let place = &mut self.slots[slot as usize];
        assert!(place.is_active, "only an active slot gets a worker");
        place.last_generation += 1;
        let worker = WorkerId { slot, generation: place.last_generation };
        let calls_max = self.roll_calls_max();
        self.workers.insert(
            worker,
            Worker {
                state: WorkerState::Starting,
                lanes: Lanes::new(self.settings.lanes),
                standing: room::Standing::Nowhere,
                since: now,
                ready_at: None,
                served: 0,
                calls_max,
                outworn: None,
                worn: None,
                is_successor: false,
                halted: false,
            },
        );
        self.timers.set(Timer::Start(worker), now + self.settings.budgets.start);
        effects.push(Effect::Launch { worker });
        worker
    }

    /// Says which worker a slot holds.
    pub(super) fn seat(&mut self, slot: u32, generation: Option<u32>) {
        let place = &mut self.slots[slot as usize];
        self.filled -= u32::from(place.current.is_some());
        place.current = generation;
        self.filled += u32::from(generation.is_some());
    }

    /// How a worker that is lost now has left.
    pub(super) fn loss(&self, now: Instant, worker: WorkerId) -> Loss {
        let Some(entry) = self.workers.get(&worker) else {
            return Loss::Blameless;
        };
        match entry.ready_at {
            None => Loss::Unready,
            Some(_) if !entry.lanes.is_empty() => Loss::WithCall,
            Some(at) if entry.served > 0 || now.duration_since(at) >= PROVEN_AFTER => Loss::Proven,
            Some(_) => Loss::Early,
        }
    }

    /// An active slot has lost its worker.
    pub(super) fn refill(
        &mut self,
        now: Instant,
        slot: u32,
        loss: Loss,
        effects: &mut Vec<Effect>,
    ) {
        let place = &mut self.slots[slot as usize];
        let is_lost = place.is_active && place.current.is_none();
        if self.standing.opening == Opening::Ending || !is_lost {
            return;
        }
        place.empty_since = Some(now);
        if let Some(successor) = place.successor.take() {
            self.promote(WorkerId { slot, generation: successor });
        }
        self.timers.clear(Timer::Successor(slot));
        let failures = self.record(now, slot, loss, effects);
        if self.slots[slot as usize].current.is_some() {
            return;
        }
        if let PoolState::CrashLoop { .. } = self.state() {
            self.plan_probe(now);
            return;
        }
        let waits = match loss {
            Loss::Blameless | Loss::WithCall => false,
            // What had worked may have been killed by somebody: once is no pattern.
            Loss::Proven => failures > 1,
            Loss::Early | Loss::Unready => true,
        };
        if waits {
            let wait = self.backoff(failures);
            self.timers.set(Timer::Backoff(slot), now + wait);
        } else {
            self.want_start(now, slot, effects);
        }
    }

    pub(super) fn backoff(&mut self, failures: u32) -> Duration {
        let restart = self.settings.restart;
        backoff::backoff(failures, restart.backoff, restart.backoff_max, &mut self.dice)
    }

    /// Counts a loss, and closes the pool when it is one too many. How many this slot has had in a
    /// row.
    fn record(&mut self, now: Instant, slot: u32, loss: Loss, effects: &mut Vec<Effect>) -> u32 {
        if loss == Loss::Blameless {
            return 0;
        }
        let failures = &mut self.slots[slot as usize].failures;
        *failures += 1;
        let failures = *failures;
        match loss {
            Loss::WithCall => self.deaths.with_call.push_back(now),
            Loss::Unready => self.deaths.starts += 1,
            // What had worked may have been killed by somebody: once is no pattern.
            Loss::Proven if failures == 1 => {}
            _ => self.deaths.alone.push_back(now),
        }
        let restart = self.settings.restart;
        self.deaths.forget_before(now.checked_sub(restart.window));
        let alone = u32::try_from(self.deaths.alone.len()).unwrap_or(u32::MAX);
        let since = *self.deaths.since.get_or_insert(now);
        // One bad slot must not close a pool that works, nor must one blow to all of them.
        let is_lasting = now.duration_since(since) >= STREAK_MIN && self.no_worker_is_up();
        let by_starts = is_lasting && alone.max(self.deaths.starts) >= restart.deaths;
        // A call that kills its worker is to blame before the pool is; but when every call does,
        // the pool is, whatever else is up.
        let bar = (2 * restart.deaths).max(self.workers_wanted() + 1);
        let goes_on = self.deaths.count() >= bar || self.deaths.is_by_calls;
        let by_calls = loss == Loss::WithCall && goes_on;
        // Where nothing has ever worked, it is what workers are made of that is wrong, and trying
        // often would only show the same.
        let is_stillborn = loss == Loss::Unready && !self.has_worked;
        if by_starts || by_calls || is_stillborn {
            self.close(now, by_calls, effects);
        }
        self.bound_deaths(bar);
        let count = self.deaths.count();
        if let Some(failures) = &mut self.standing.failures {
            *failures = count.max(*failures);
        }
        failures
    }

    /// No more deaths are remembered than can matter.
    fn bound_deaths(&mut self, bar: u32) {
        for deaths in [&mut self.deaths.alone, &mut self.deaths.with_call] {
            while deaths.len() > bar as usize {
                deaths.pop_front();
            }
        }
    }

    fn no_worker_is_up(&self) -> bool {
        !self.workers.values().any(|worker| worker.state.is_up())
    }

    /// The pool is in a crash loop from now on: callers are told at once, and the machine idles
    /// between single attempts.
    fn close(&mut self, now: Instant, by_calls: bool, effects: &mut Vec<Effect>) {
        let failures = self.deaths.count();
        let Some(standing) = self.standing.after(PoolMove::Fail(failures)) else {
            return;
        };
        self.standing = standing;
        self.deaths.is_by_calls = by_calls;
        self.deaths.probe = None;
        self.start_queue.clear();
        for slot in 0..self.slot_count() {
            self.timers.clear(Timer::Backoff(slot));
        }
        for call in self.calls.unassigned() {
            self.settle(call, Verdict::CrashLoop, effects);
        }
        self.plan_probe(now);
    }

    /// Sees to it that one start is tried, after the longest wait.
    fn plan_probe(&mut self, now: Instant) {
        if self.timers.due(Timer::Probe).is_none() {
            let wait = self.backoff(u32::MAX);
            self.timers.set(Timer::Probe, now + wait);
        }
    }

    /// One start is tried; the next only when this one is known to have failed.
    pub(super) fn probe(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !matches!(self.state(), PoolState::CrashLoop { .. }) {
            return;
        }
        if self.starting > 0 {
            self.plan_probe(now);
            return;
        }
        let is_empty = |slot: &Slot| slot.is_active && slot.current.is_none();
        match (0..).zip(&self.slots).find(|(_, slot)| is_empty(slot)) {
            Some((slot, _)) => self.deaths.probe = Some(self.launch(now, slot, effects)),
            // Whoever is left is the probe.
            None => self.reopen(now, effects),
        }
    }

    /// A worker has become ready, which may be the end of a crash loop. When calls were to blame
    /// it is only if it was started after the pool had closed; and the next death with a call
    /// closes it again unless one has succeeded.
    pub(super) fn mend(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        self.deaths.starts = 0;
        let is_closed = matches!(self.state(), PoolState::CrashLoop { .. });
        if is_closed && (!self.deaths.is_by_calls || self.deaths.probe == Some(worker)) {
            self.reopen(now, effects);
        }
    }

    fn reopen(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.standing = self.standing.after(PoolMove::Mend).expect("a crash loop can be mended");
        self.deaths.probe = None;
        self.timers.clear(Timer::Probe);
        self.start_missing(now, effects);
    }

    fn start_missing(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for slot in 0..self.slot_count() {
            if self.slots[slot as usize].current.is_none() {
                self.timers.clear(Timer::Backoff(slot));
                self.want_start(now, slot, effects);
            }
        }
    }

    /// Forgets all failures and starts what is missing, at once.
    pub(super) fn reset(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.deaths.forget();
        for slot in &mut self.slots {
            slot.failures = 0;
            slot.successor_failures = 0;
        }
        if let PoolState::CrashLoop { .. } = self.state() {
            self.reopen(now, effects);
        } else {
            self.start_missing(now, effects);
        }
        for slot in 0..self.slot_count() {
            if self.timers.due(Timer::Successor(slot)).is_some() {
                self.timers.set(Timer::Successor(slot), now);
            }
        }
    }

    /// A start takes too long.
    pub(super) fn start_timed_out(
        &mut self,
        now: Instant,
        worker: WorkerId,
        effects: &mut Vec<Effect>,
    ) {
        let is_successor = self.is_successor(worker);
        if self.stop(now, worker, StopCause::StartTimedOut) {
            self.kill(now, worker, effects);
            if is_successor {
                self.successor_failed(now, worker.slot, effects);
            } else {
                self.refill(now, worker.slot, Loss::Unready, effects);
            }
        }
    }

    pub(super) fn slot_count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("slots are numbered by u32")
    }
}
