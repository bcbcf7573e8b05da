//! The pool's policy, tested: first by sentences, then by years of random trouble.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use super::super::backoff::{self, CRASH_LOOP_FAILURES};
use super::super::endings::REAP_BUDGET;
use super::super::event::{Caller, Retry};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A pool with a clock of its own, and what it wanted done so far.
struct World {
    pool: Pool,
    now: Instant,
    effects: Vec<Effect>,
}

fn settings(workers: u32, queue: u32) -> Settings {
    let budgets = Budgets { start: 60 * SECOND, interrupt: SECOND / 10, grace: 5 * SECOND };
    Settings { workers, queue, budgets, seed: 1 }
}

fn id(slot: u32, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

fn arrival(call: CallKey, deadline: Instant) -> Event {
    let retry = Retry::default();
    Event::CallArrived { call, deadline, caller: Caller(1), priority: 0, retry }
}

impl World {
    fn new(workers: u32, queue: u32) -> World {
        let now = Instant::now();
        let mut world = World { pool: Pool::new(settings(workers, queue)), now, effects: vec![] };
        world.tell(Event::Start);
        world
    }

    /// A pool whose first workers are ready.
    fn ready(workers: u32, queue: u32) -> World {
        let mut world = World::new(workers, queue);
        for slot in 0..workers {
            world.tell(Event::Ready { worker: id(slot, 1) });
        }
        world
    }

    #[track_caller]
    fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.effects.clear();
        self.pool.handle(self.now, event, &mut self.effects);
        self.effects.clone()
    }

    fn call(&mut self, call: u64) -> Vec<Effect> {
        self.call_until(call, self.now + 30 * SECOND)
    }

    fn call_until(&mut self, call: u64, deadline: Instant) -> Vec<Effect> {
        self.tell(arrival(CallKey(call), deadline))
    }

    /// Lets time pass. A worker that is asked for its stacks writes them at once.
    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        let mut effects = self.tell(Event::Tick);
        let asked: Vec<_> =
            effects.extract_if(.., |effect| matches!(effect, Effect::DumpStack { .. })).collect();
        for effect in asked {
            if let Effect::DumpStack { worker } = effect {
                effects.extend(self.tell(Event::StackDumped { worker }));
            }
        }
        effects
    }

    fn die(&mut self, worker: WorkerId) -> Vec<Effect> {
        let effects = self.tell(Event::Died { worker, begun: true });
        self.tell(Event::Gone { worker });
        effects
    }
}

fn assign(worker: WorkerId, call: u64) -> Effect {
    Effect::Assign { worker, call: CallKey(call) }
}

fn settle(call: u64, verdict: Verdict) -> Effect {
    Effect::Settle { call: CallKey(call), verdict }
}

#[test]
fn a_call_goes_to_a_free_worker_and_waits_when_there_is_none() {
    let mut world = World::ready(1, 10);
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
    assert!(world.call(2).is_empty());
    let answered = Event::Answered { worker: id(0, 1), call: CallKey(1) };
    assert_eq!(vec![assign(id(0, 1), 2)], world.tell(answered));
}

#[test]
fn a_full_queue_refuses_and_keeps_what_it_has() {
    let mut world = World::ready(1, 1);
    world.call(1);
    world.call(2);
    assert_eq!(vec![settle(3, Verdict::QueueFull)], world.call(3));
    assert_eq!(1, world.pool.calls().waiting());
}

#[test]
fn a_queued_call_times_out_without_touching_a_worker() {
    let mut world = World::ready(1, 10);
    world.call(1);
    world.call_until(2, world.now + SECOND);
    assert_eq!(vec![settle(2, Verdict::TimedOut)], world.pass(SECOND));
    assert_eq!(Some(WorkerState::Busy(CallKey(1))), world.pool.worker_state(id(0, 1)));
}

#[test]
fn a_timed_out_call_is_answered_at_once_and_its_worker_gets_a_chance_to_come_back() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + SECOND);
    let interrupt = Effect::Interrupt { worker: id(0, 1), call: CallKey(1) };
    assert_eq!(vec![settle(1, Verdict::TimedOut), interrupt], world.pass(SECOND));
    world.call(2);
    let answered = Event::Answered { worker: id(0, 1), call: CallKey(1) };
    assert_eq!(vec![assign(id(0, 1), 2)], world.tell(answered));
}

#[test]
fn a_call_whose_time_is_over_waits_a_moment_for_what_its_worker_does_f011() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + SECOND);
    world.now += SECOND;
    assert_eq!(vec![Effect::DumpStack { worker: id(0, 1) }], world.tell(Event::Tick));
    assert!(world.tell(Event::Tick).is_empty(), "it is asked once");
    assert_eq!(Some(world.now + DUMP_BUDGET), world.pool.next_wake());
    world.now += DUMP_BUDGET;
    let interrupt = Effect::Interrupt { worker: id(0, 1), call: CallKey(1) };
    assert_eq!(vec![settle(1, Verdict::TimedOut), interrupt], world.tell(Event::Tick));
    assert!(world.tell(Event::StackDumped { worker: id(0, 1) }).is_empty(), "it comes too late");
}

#[test]
fn a_call_that_had_not_begun_is_moved_and_keeps_its_place_f003() {
    let mut world = World::ready(2, 10);
    for call in 1..=3 {
        world.call(call);
    }
    let worker = id(1, 1);
    assert_eq!(Some(WorkerState::Busy(CallKey(1))), world.pool.worker_state(worker));
    let launch = Effect::Launch { worker: id(1, 2) };
    let effects = world.tell(Event::Died { worker, begun: false });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Settle { .. })), "{effects:?}");
    assert_eq!(2, world.pool.calls().waiting());
    let answered = Event::Answered { worker: id(0, 1), call: CallKey(2) };
    assert_eq!(vec![assign(id(0, 1), 1)], world.tell(answered));
    // It is no proof of a good start.
    assert!(!effects.contains(&launch), "{effects:?}");
}

#[test]
fn a_worker_that_will_not_give_up_is_replaced_before_it_is_dead() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + SECOND);
    world.pass(SECOND);
    world.call(2);
    let effects = world.pass(SECOND / 10);
    let wanted = vec![Effect::Terminate { worker: id(0, 1) }, Effect::Launch { worker: id(0, 2) }];
    assert_eq!(wanted, effects);
    assert_eq!(vec![assign(id(0, 2), 2)], world.tell(Event::Ready { worker: id(0, 2) }));
    assert!(world.die(id(0, 1)).is_empty(), "its end changes nothing any more");
}

#[test]
fn a_death_fails_the_call_it_had_and_no_other() {
    let mut world = World::ready(2, 10);
    world.call(1);
    world.call(2);
    world.call(3);
    world.now += 2 * SECOND;
    let effects = world.die(id(1, 1));
    let wanted = vec![
        settle(1, Verdict::WorkerDied { worker: id(1, 1), quarantined: false }),
        Effect::Launch { worker: id(1, 2) },
    ];
    assert_eq!(wanted, effects);
    assert_eq!(vec![assign(id(1, 2), 3)], world.tell(Event::Ready { worker: id(1, 2) }));
}

#[test]
fn a_call_that_never_reached_its_worker_keeps_its_place_f032() {
    let mut world = World::ready(2, 10);
    world.call(1);
    let undelivered = Event::Undelivered { worker: id(1, 1), call: CallKey(1) };
    let effects = world.tell(undelivered);
    assert!(effects.contains(&assign(id(0, 1), 1)), "{effects:?}");
    assert!(effects.contains(&Effect::Kill { worker: id(1, 1) }), "{effects:?}");
}

#[test]
fn a_late_answer_is_nobodys_answer() {
    let mut world = World::ready(1, 10);
    world.call(1);
    assert!(world.tell(Event::Answered { worker: id(0, 9), call: CallKey(1) }).is_empty());
    world.tell(Event::CallCancelled { call: CallKey(1) });
    world.pass(SECOND);
    let before = world.pool.worker_state(id(0, 1));
    world.tell(Event::Answered { worker: id(0, 1), call: CallKey(1) });
    assert_eq!(before, world.pool.worker_state(id(0, 1)));
}

#[test]
fn starts_that_fail_wait_longer_each_time_and_close_the_pool_in_the_end_f020() {
    let mut world = World::new(1, 10);
    world.call(1);
    let mut last = vec![];
    for generation in 1..=CRASH_LOOP_FAILURES {
        last = world.die(id(0, generation));
        assert!(!last.contains(&Effect::Launch { worker: id(0, generation + 1) }));
        world.pass(backoff::BACKOFF_MAX);
    }
    assert_eq!(vec![settle(1, Verdict::CrashLoop)], last);
    assert_eq!(vec![settle(2, Verdict::CrashLoop)], world.call(2));
    // The slot is still tried; one good start opens the pool again.
    world.tell(Event::Ready { worker: id(0, CRASH_LOOP_FAILURES + 1) });
    assert_eq!(1, world.call(3).len());
    assert_eq!(PoolState::Running, world.pool.state());
}

#[test]
fn one_bad_slot_does_not_close_a_pool_that_works() {
    let mut world = World::new(2, 10);
    world.tell(Event::Ready { worker: id(0, 1) });
    for generation in 1..20 {
        world.die(id(1, generation));
        world.pass(backoff::BACKOFF_MAX);
    }
    assert_eq!(PoolState::Running, world.pool.state());
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
}

#[test]
fn a_start_without_end_is_killed_and_tried_again_f021() {
    let mut world = World::new(1, 10);
    let effects = world.pass(60 * SECOND);
    assert_eq!(vec![Effect::Kill { worker: id(0, 1) }], effects);
    let effects = world.pass(backoff::BACKOFF_MAX);
    assert!(effects.contains(&Effect::Launch { worker: id(0, 2) }), "{effects:?}");
}

#[test]
fn a_guardian_that_does_not_report_is_killed_itself() {
    let mut world = World::ready(1, 10);
    world.tell(Event::Doomed { worker: id(0, 1), cause: StopCause::Protocol });
    let effects = world.pass(REAP_BUDGET);
    assert!(effects.contains(&Effect::Abandon { worker: id(0, 1) }), "{effects:?}");
}

#[test]
fn a_drain_lets_running_calls_finish_and_takes_no_new_ones() {
    let mut world = World::ready(2, 10);
    world.call(1);
    let effects = world.tell(Event::Drain { until: world.now + 30 * SECOND });
    assert_eq!(vec![Effect::Retire { worker: id(0, 1) }], effects);
    assert_eq!(vec![settle(2, Verdict::ShuttingDown)], world.call(2));
    let answered = Event::Answered { worker: id(1, 1), call: CallKey(1) };
    assert_eq!(vec![Effect::Retire { worker: id(1, 1) }], world.tell(answered));
    world.die(id(0, 1));
    world.tell(Event::Died { worker: id(1, 1), begun: true });
    assert_eq!(vec![Effect::Drained], world.tell(Event::Gone { worker: id(1, 1) }));
}

#[test]
fn a_drain_has_an_end_whatever_runs_f014() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + 1000 * SECOND);
    world.tell(Event::Drain { until: world.now + 30 * SECOND });
    let effects = world.pass(30 * SECOND);
    let wanted = vec![settle(1, Verdict::ShuttingDown), Effect::Terminate { worker: id(0, 1) }];
    assert_eq!(wanted, effects);

    let mut world = World::ready(1, 10);
    world.tell(Event::Drain { until: world.now + 30 * SECOND });
    assert_eq!(vec![Effect::Kill { worker: id(0, 1) }], world.pass(5 * SECOND));
}

/// What a simulated outside world has to be able to tell at any time.
#[derive(Default)]
struct Model {
    owed: BTreeMap<u64, Instant>,
    alive: BTreeSet<WorkerId>,
    has: BTreeMap<WorkerId, u64>,
    told_to_go: BTreeSet<WorkerId>,
    unswept: Vec<WorkerId>,
}

impl Model {
    #[track_caller]
    fn follow(&mut self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Launch { worker } => {
                    assert!(self.alive.insert(worker), "{worker:?} was started twice");
                }
                Effect::Assign { worker, call } => {
                    assert!(self.alive.contains(&worker), "a dead worker was given a call");
                    assert!(self.owed.contains_key(&call.0), "an answered call was given away");
                    assert!(
                        !self.told_to_go.contains(&worker),
                        "a leaving worker was given a call"
                    );
                    assert!(self.has.insert(worker, call.0).is_none(), "a busy worker got a call");
                }
                Effect::Settle { call, .. } => {
                    assert!(self.owed.remove(&call.0).is_some(), "{call:?} was answered twice");
                }
                Effect::Terminate { worker }
                | Effect::Kill { worker }
                | Effect::Retire { worker } => {
                    self.told_to_go.insert(worker);
                }
                Effect::Warn { .. } | Effect::DumpStack { .. } => {}
                Effect::Interrupt { worker, call } => {
                    assert_eq!(Some(&call.0), self.has.get(&worker), "the wrong call was hit");
                }
                Effect::Abandon { .. } | Effect::Drained => {}
            }
        }
    }
}

/// One long life of a pool under random trouble. Every accepted call gets exactly one answer, none
/// later than its deadline, and in the end nothing is left.
fn live(seed: u64, steps: u32) {
    let mut dice = Dice::new(seed);
    let workers = 1 + u32::try_from(dice.roll() % 4).unwrap();
    let mut world = World::new(workers, 5);
    let mut model = Model::default();
    let first: Vec<_> = (0..workers).map(|slot| Effect::Launch { worker: id(slot, 1) }).collect();
    model.follow(&first);
    let mut next_call = 0;
    for _ in 0..steps {
        let event = trouble(&mut dice, &mut model, &mut next_call, world.now);
        let effects = event.map_or_else(Vec::new, |event| world.tell(event));
        model.follow(&effects);
        let effects = world.pass(Duration::from_millis(dice.roll() % 300));
        model.follow(&effects);
        for (call, deadline) in &model.owed {
            assert!(*deadline > world.now, "call {call} is overdue (seed {seed})");
        }
        // Calls that were given back take nobody's place.
        assert!(world.pool.calls().waiting() <= 9, "the queue has a limit (seed {seed})");
        assert_eq!(model.owed.len(), world.pool.calls().len(), "seed {seed}");
    }
    let effects = world.tell(Event::KillAll);
    model.follow(&effects);
    assert!(model.owed.is_empty(), "unanswered at the end: {:?} (seed {seed})", model.owed);
    for worker in std::mem::take(&mut model.alive) {
        world.die(worker);
    }
    for worker in model.unswept {
        world.tell(Event::Gone { worker });
    }
    assert!(world.pool.calls().is_empty() && world.pool.workers().next().is_none(), "seed {seed}");
}

/// Something that can really happen now.
fn trouble(dice: &mut Dice, model: &mut Model, next: &mut u64, now: Instant) -> Option<Event> {
    let pick = |dice: &mut Dice, count: usize| usize::try_from(dice.roll()).unwrap() % count.max(1);
    let alive: Vec<_> = model.alive.iter().copied().collect();
    let worker = alive.get(pick(dice, alive.len())).copied();
    match dice.roll() % 11 {
        0..4 => {
            *next += 1;
            let deadline = now + Duration::from_millis(500 + dice.roll() % 2000);
            model.owed.insert(*next, deadline);
            Some(arrival(CallKey(*next), deadline))
        }
        4 | 5 => worker.map(|worker| Event::Ready { worker }),
        6 | 7 => {
            let worker = worker.filter(|worker| model.has.contains_key(worker))?;
            let call = model.has.remove(&worker)?;
            model.owed.remove(&call);
            Some(Event::Answered { worker, call: CallKey(call) })
        }
        8 => {
            let worker = worker?;
            model.alive.remove(&worker);
            model.has.remove(&worker);
            model.unswept.push(worker);
            // What it had goes back to the queue, if it had not begun.
            Some(Event::Died { worker, begun: dice.roll().is_multiple_of(2) })
        }
        9 => model.unswept.pop().map(|worker| Event::Gone { worker }),
        _ if dice.roll().is_multiple_of(2) => {
            let call = CallKey(1 + dice.roll() % (*next + 1));
            Some(Event::CallCancelled { call })
        }
        _ => worker.map(|worker| Event::Doomed { worker, cause: StopCause::Protocol }),
    }
}

#[test]
fn years_of_trouble_lose_no_call_and_answer_none_twice() {
    for seed in 0..300 {
        live(seed, 400);
    }
}
