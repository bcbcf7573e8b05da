//! The pool's policy, tested: first by sentences, then (in `lives`) by years of random trouble.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::endings::REAP_BUDGET;
use super::super::event::{Begun, Budgets, Caller, Order, Retry, StopCause};
use super::super::settings::{Nested, Replace, Restart, Scale, Size};
use super::super::state::WorkerView;
use super::*;

#[path = "lives_tests.rs"]
mod lives;

#[path = "lanes_tests.rs"]
mod lanes;

#[path = "supervision_tests.rs"]
mod supervision;

const SECOND: Duration = Duration::from_secs(1);

/// Deaths that make a crash loop, unless a test says otherwise.
const DEATHS: u32 = 5;

/// The longest wait between two starts.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A pool with a clock of its own, and what it wanted done so far.
struct World {
    pool: Pool,
    now: Instant,
    effects: Vec<Effect>,
}

fn settings(workers: u32, queue: u32) -> Settings {
    let budgets = Budgets {
        start: 60 * SECOND,
        dump: SECOND / 20,
        cooperate: Duration::ZERO,
        interrupt: SECOND / 10,
        grace: 5 * SECOND,
    };
    Settings {
        size: Size { min: workers, max: workers, spares: 0 },
        lanes: 1,
        scale: Scale::default(),
        starts_at_once: 16,
        restart: Restart::default(),
        replace: Replace::default(),
        queue,
        budgets,
        nested: Nested::of(workers),
        seed: 1,
    }
}

fn id(slot: u32, generation: u32) -> WorkerId {
    WorkerId { slot, generation }
}

fn arrival(call: CallKey, deadline: Instant) -> Event {
    let retry = Retry::default();
    Event::CallArrived { call, deadline, caller: Caller(1), priority: 0, retry, nested: false }
}

impl World {
    fn of(settings: Settings) -> World {
        World { pool: Pool::new(settings), now: Instant::now(), effects: vec![] }
    }

    fn new(workers: u32, queue: u32) -> World {
        let mut world = World::of(settings(workers, queue));
        world.tell(Event::Start);
        world
    }

    /// A pool whose first workers are ready.
    fn ready(workers: u32, queue: u32) -> World {
        World::ready_of(settings(workers, queue))
    }

    fn ready_of(settings: Settings) -> World {
        let mut world = World::of(settings);
        for effect in world.tell(Event::Start) {
            if let Effect::Launch { worker } = effect {
                world.tell(Event::Ready { worker });
            }
        }
        world
    }

    /// Where a worker was ready once, a start that fails says less.
    fn that_has_worked(mut self) -> World {
        self.pool.has_worked = true;
        self
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

    fn pass(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.tell(Event::Tick)
    }

    /// Time passes, and every timer is served when it is due.
    fn live(&mut self, time: Duration) -> Vec<Effect> {
        let end = self.now + time;
        let mut all = Vec::new();
        while let Some(at) = self.pool.next_wake().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            all.extend(self.tell(Event::Tick));
        }
        self.now = end;
        all
    }

    fn answer(&mut self, worker: WorkerId, call: u64) -> Vec<Effect> {
        self.tell(Event::Answered { worker, call: CallKey(call) })
    }

    fn die(&mut self, worker: WorkerId) -> Vec<Effect> {
        let effects = self.tell(Event::Died { worker, begun: Begun::All });
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

fn interrupt(worker: WorkerId, call: u64) -> [Effect; 2] {
    let call = CallKey(call);
    [Effect::Warn { worker, call }, Effect::Interrupt { worker, call }]
}

#[test]
fn a_call_goes_to_a_free_worker_and_waits_when_there_is_none() {
    let mut world = World::ready(1, 10);
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
    assert!(world.call(2).is_empty());
    assert_eq!(vec![assign(id(0, 1), 2)], world.answer(id(0, 1), 1));
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
    assert!(world.pool.runs(id(0, 1), CallKey(1)));
}

#[test]
fn a_timed_out_call_is_answered_at_once_and_its_worker_gets_a_chance_to_come_back() {
    let mut world = World::ready(1, 10);
    let worker = id(0, 1);
    world.call_until(1, world.now + SECOND);
    assert_eq!(vec![Effect::DumpStack { worker }], world.pass(SECOND));
    let [warn, interrupt] = interrupt(worker, 1);
    let wanted = vec![settle(1, Verdict::TimedOut), warn, interrupt];
    assert_eq!(wanted, world.tell(Event::StackDumped { worker }));
    world.call(2);
    assert_eq!(vec![assign(worker, 2)], world.answer(worker, 1));
}

#[test]
fn a_worker_that_will_not_give_up_is_replaced_before_it_is_dead() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + SECOND);
    world.pass(SECOND);
    world.tell(Event::StackDumped { worker: id(0, 1) });
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
    assert!(world.answer(id(0, 9), 1).is_empty());
    world.tell(Event::CallCancelled { call: CallKey(1) });
    world.pass(SECOND);
    let before = world.pool.worker_state(id(0, 1));
    assert_eq!(Some(WorkerState::Stopping(StopCause::Interrupted)), before);
    assert!(!world.pool.expects(id(0, 1), CallKey(1)));
    world.answer(id(0, 1), 1);
    assert_eq!(before, world.pool.worker_state(id(0, 1)));
}

#[test]
fn starts_that_fail_wait_longer_each_time_and_close_the_pool_in_the_end_f020() {
    let mut world = World::new(1, 10).that_has_worked();
    world.call(1);
    let mut last = vec![];
    for generation in 1..=DEATHS {
        last = world.die(id(0, generation));
        assert!(!last.contains(&Effect::Launch { worker: id(0, generation + 1) }));
        world.pass(BACKOFF_MAX);
    }
    assert_eq!(vec![settle(1, Verdict::CrashLoop)], last);
    assert_eq!(vec![settle(2, Verdict::CrashLoop)], world.call(2));
    // One start is still tried; a good one opens the pool again.
    world.tell(Event::Ready { worker: id(0, DEATHS + 1) });
    assert_eq!(1, world.call(3).len());
    assert_eq!(PoolState::Running, world.pool.state());
}

#[test]
fn one_bad_slot_does_not_close_a_pool_that_works() {
    let mut world = World::new(2, 10);
    world.tell(Event::Ready { worker: id(0, 1) });
    for generation in 1..20 {
        world.die(id(1, generation));
        world.pass(BACKOFF_MAX);
    }
    assert_eq!(PoolState::Running, world.pool.state());
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
}

#[test]
fn a_start_without_end_is_killed_and_tried_again_f021() {
    let mut world = World::new(1, 10);
    let effects = world.pass(60 * SECOND);
    assert_eq!(vec![Effect::Kill { worker: id(0, 1) }], effects);
    let effects = world.pass(BACKOFF_MAX);
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
fn a_stalled_worker_is_killed_once_and_its_guardian_has_to_report_f031() {
    let mut world = World::ready(1, 10);
    world.call(1);
    let doomed = Event::Doomed { worker: id(0, 1), cause: StopCause::Stalled };
    let effects = world.tell(doomed.clone());
    assert!(effects.contains(&Effect::Kill { worker: id(0, 1) }), "{effects:?}");
    assert!(world.pool.expects(id(0, 1), CallKey(1)), "it had it when it was told to go");
    let view = world.pool.worker(id(0, 1)).unwrap();
    assert_eq!(WorkerState::Stopping(StopCause::Stalled), view.state);
    assert_eq!("a signal had stopped it", view.reason());
    assert!(world.tell(doomed).is_empty(), "it is on its way already");
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
    assert_eq!(vec![Effect::Retire { worker: id(1, 1) }], world.answer(id(1, 1), 1));
    world.die(id(0, 1));
    world.tell(Event::Died { worker: id(1, 1), begun: Begun::All });
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

/// A stopped worker that is idle gets no call; when it goes on, it does.
#[test]
fn a_stopped_worker_gets_no_calls_until_it_goes_on_f031() {
    let mut world = World::ready(2, 5);
    world.tell(Event::Halted { worker: id(1, 1) });
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
    assert!(world.call(2).is_empty() && !world.pool.is_halted_whole());
    let effects = world.tell(Event::Resumed { worker: id(1, 1) });
    assert_eq!(vec![assign(id(1, 1), 2)], effects);

    // One that answers and was stopped right after that is not free either.
    world.tell(Event::Halted { worker: id(0, 1) });
    assert!(world.tell(Event::Answered { worker: id(0, 1), call: CallKey(1) }).is_empty());
    assert!(world.call(3).is_empty());
    world.tell(Event::Halted { worker: id(1, 1) });
    assert!(world.pool.is_halted_whole());
    let effects = world.tell(Event::Resumed { worker: id(0, 1) });
    assert_eq!(vec![assign(id(0, 1), 3)], effects);
    assert!(world.tell(Event::Resumed { worker: id(7, 1) }).is_empty());
}

/// A spare takes over from a stopped worker, as from a lost one.
#[test]
fn a_spare_takes_the_calls_of_a_stopped_worker_f031() {
    let mut with_spare = settings(1, 5);
    with_spare.size.spares = 1;
    let mut world = World::ready_of(with_spare);
    let last = *world.pool.room.idle().last().unwrap();
    world.tell(Event::Halted { worker: last });
    let other = id(1 - last.slot, 1);
    assert_eq!(vec![assign(other, 1)], world.call(1));
}
