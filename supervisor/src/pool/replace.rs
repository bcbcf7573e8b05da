//! A pool whose settings change while it works: workers that are replaced one by one, new ones
//! first, and slots that come and go.
//!
//! A worker to be replaced leaves its slot when its successor is launched, and works on until the
//! successor is ready. So the pool never has fewer workers that can take a call than before, and a
//! successor that does not come up costs nothing.

use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{Effect, ReplaceCause, StopCause};
use super::policy::{Pool, PoolState, Settings, Worker};
use super::queue::Timer;
use super::state::WorkerState;

/// A replacement under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replacement {
    old: WorkerId,
    new: WorkerId,
}

impl Pool {
    /// How many old workers are still to be replaced.
    pub fn outworn_left(&self) -> u32 {
        let old = self.workers.values().filter(|worker| is_outworn(worker));
        u32::try_from(old.count()).expect("workers are few")
    }

    /// How many successors have died before they were ready, since the last change of settings.
    pub const fn replacement_failures(&self) -> u32 {
        self.replacement_failures
    }

    /// New settings hold from now on. Without `replace`, replacements that have not begun are
    /// called off: the workers that live are those the settings want.
    pub(super) fn reconfigure(
        &mut self,
        now: Instant,
        settings: Settings,
        replace: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.replacement_failures = 0;
        let seed = self.settings.seed;
        self.settings = Settings { seed, ..settings };
        for worker in self.workers.values_mut() {
            if !matches!(worker.state, WorkerState::Stopping(..) | WorkerState::Dead) {
                worker.outworn = replace.then_some(ReplaceCause::Reload);
            }
        }
        if self.state != PoolState::Draining {
            self.resize(now, effects);
            self.replace_next(now, effects);
        }
    }

    /// Starts every slot that waits to be started again.
    pub(super) fn start_what_is_missing(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for slot in 0..self.settings.workers {
            if self.timers.due(Timer::Backoff(slot)).is_some() {
                self.timers.clear(Timer::Backoff(slot));
                self.launch(now, slot, effects);
            }
        }
    }

    /// A worker is to be replaced.
    pub(super) fn outworn(
        &mut self,
        now: Instant,
        worker: WorkerId,
        cause: ReplaceCause,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.outworn = Some(cause);
            self.replace_next(now, effects);
        }
    }

    /// Makes the slots as many as the settings want.
    fn resize(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let wanted = self.settings.workers;
        while self.slots.len() < wanted as usize {
            self.slots.push(super::policy::Slot::default());
        }
        let slots = u32::try_from(self.slots.len()).expect("slots are few");
        for slot in 0..slots {
            let is_empty = self.slots[slot as usize].current.is_none();
            if slot >= wanted {
                self.timers.clear(Timer::Backoff(slot));
                self.slots[slot as usize].empty_since = None;
            } else if is_empty && self.timers.due(Timer::Backoff(slot)).is_none() {
                self.launch(now, slot, effects);
            }
        }
        let surplus: Vec<_> = self.workers.keys().filter(|id| id.slot >= wanted).copied().collect();
        for worker in surplus {
            self.go_when_free(now, worker, effects);
        }
    }

    /// Begins the next replacement, unless one is under way or has failed.
    pub(super) fn replace_next(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.replacement.is_some()
            || self.replacement_failures > 0
            || self.state == PoolState::Draining
        {
            return;
        }
        let next = self.workers.iter().find(|(id, worker)| {
            is_outworn(worker) && self.slots[id.slot as usize].current == Some(id.generation)
        });
        let Some((old, _)) = next.map(|(id, worker)| (*id, worker.state)) else {
            return;
        };
        self.slots[old.slot as usize].current = None;
        self.launch(now, old.slot, effects);
        let generation = self.slots[old.slot as usize].last_generation;
        let new = WorkerId { generation, ..old };
        self.replacement = Some(Replacement { old, new });
    }

    /// A worker has become ready: if it is a successor, the one before it goes.
    pub(super) fn succeeded(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        if let Some(Replacement { old, .. }) = self.replacement.take_if(|r| r.new == worker) {
            self.go_when_free(now, old, effects);
            self.replace_next(now, effects);
        }
    }

    /// A worker has left its slot before it was ready: if it was a successor, the one before it
    /// takes its place back.
    pub(super) fn failed_to_succeed(&mut self, worker: WorkerId) {
        let Some(Replacement { old, .. }) = self.replacement.take_if(|r| r.new == worker) else {
            return;
        };
        self.replacement_failures += 1;
        let lives = self.workers.get(&old).is_some_and(|entry| {
            !matches!(entry.state, WorkerState::Stopping(..) | WorkerState::Dead)
        });
        if lives {
            self.slots[old.slot as usize].current = Some(old.generation);
        }
    }

    /// Lets a worker go now if it has no call, else as soon as it has none.
    fn go_when_free(&mut self, now: Instant, worker: WorkerId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.workers.get(&worker) else {
            return;
        };
        let (state, outworn) = (entry.state, entry.outworn);
        let cause = outworn.map_or(StopCause::Surplus, StopCause::Replaced);
        match state {
            WorkerState::Idle => self.retire_for(now, worker, cause, effects),
            WorkerState::Starting if self.stop(now, worker, cause) => {
                self.kill(now, worker, effects);
            }
            WorkerState::Busy(_) | WorkerState::Interrupting(_) => {
                let entry = self.workers.get_mut(&worker).expect("it was just looked at");
                entry.leaving = Some(cause);
            }
            _ => {}
        }
    }
}

fn is_outworn(worker: &Worker) -> bool {
    worker.outworn.is_some()
        && !matches!(worker.state, WorkerState::Stopping(..) | WorkerState::Dead)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::event::{Budgets, CallKey, Caller, Event, Retry};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(workers: u32) -> Settings {
        let budgets = Budgets { start: 60 * SECOND, interrupt: SECOND, grace: SECOND };
        Settings { workers, queue: 10, budgets, seed: 1 }
    }

    fn id(slot: u32, generation: u32) -> WorkerId {
        WorkerId { slot, generation }
    }

    /// A pool with ready workers, and what it wants done.
    fn ready(workers: u32) -> (Pool, Instant, Vec<Effect>) {
        let (mut pool, now, mut effects) = (Pool::new(settings(workers)), Instant::now(), vec![]);
        pool.handle(now, Event::Start, &mut effects);
        for slot in 0..workers {
            pool.handle(now, Event::Ready { worker: id(slot, 1) }, &mut effects);
        }
        (pool, now, vec![])
    }

    fn reconfigured(workers: u32, replace: bool) -> Event {
        Event::Reconfigured { settings: Box::new(settings(workers)), replace }
    }

    #[test]
    fn workers_are_replaced_one_by_one_and_new_ones_first_f130() {
        let (mut pool, now, mut effects) = ready(2);
        let (call, deadline) = (CallKey(1), now + 30 * SECOND);
        let (caller, retry) = (Caller(1), Retry::default());
        let event = Event::CallArrived { call, deadline, caller, priority: 0, retry };
        pool.handle(now, event, &mut effects);
        assert_eq!(vec![Effect::Assign { worker: id(1, 1), call }], effects);
        effects.clear();
        pool.handle(now, reconfigured(2, true), &mut effects);
        assert_eq!(vec![Effect::Launch { worker: id(0, 2) }], effects);
        assert_eq!(2, pool.outworn_left());
        effects.clear();
        pool.handle(now, Event::Ready { worker: id(0, 2) }, &mut effects);
        let next = [Effect::Retire { worker: id(0, 1) }, Effect::Launch { worker: id(1, 2) }];
        assert_eq!(next.as_slice(), effects);
        effects.clear();
        // The one that is busy finishes its call, and goes then.
        pool.handle(now, Event::Ready { worker: id(1, 2) }, &mut effects);
        assert!(effects.is_empty() && pool.outworn_left() == 1, "{effects:?}");
        pool.handle(now, Event::Answered { worker: id(1, 1), call }, &mut effects);
        assert_eq!(vec![Effect::Retire { worker: id(1, 1) }], effects);
        assert_eq!((0, 0), (pool.outworn_left(), pool.replacement_failures()));
    }

    #[test]
    fn a_successor_that_dies_costs_nothing_f131() {
        let (mut pool, now, mut effects) = ready(1);
        pool.handle(now, reconfigured(1, true), &mut effects);
        pool.handle(now, Event::Died { worker: id(0, 2), begun: false }, &mut effects);
        assert_eq!((1, 1), (pool.outworn_left(), pool.replacement_failures()));
        pool.handle(now, reconfigured(1, false), &mut effects);
        assert_eq!((0, 0), (pool.outworn_left(), pool.replacement_failures()));
        assert_eq!(vec![Effect::Launch { worker: id(0, 2) }], effects);
        assert_eq!(Some(WorkerState::Idle), pool.worker_state(id(0, 1)));
    }

    #[test]
    fn slots_come_and_go_without_a_word() {
        let (mut pool, now, mut effects) = ready(2);
        pool.handle(now, reconfigured(3, false), &mut effects);
        assert_eq!(vec![Effect::Launch { worker: id(2, 1) }], effects);
        effects.clear();
        pool.handle(now, reconfigured(1, false), &mut effects);
        let gone = [Effect::Retire { worker: id(1, 1) }, Effect::Kill { worker: id(2, 1) }];
        assert_eq!(gone.as_slice(), effects);
        for worker in [id(1, 1), id(2, 1)] {
            effects.clear();
            pool.handle(now, Event::Died { worker, begun: false }, &mut effects);
            pool.handle(now, Event::Gone { worker }, &mut effects);
            assert!(effects.is_empty(), "{effects:?}");
        }
    }
}
