//! Sentences about supervision: spares, size, crash loops, replacement, orders, ladder, retries.

use super::*;
use crate::pool::Retry;

const MILLI: Duration = Duration::from_millis(1);
const NOTHING: Vec<Effect> = Vec::new();

fn retried(attempts: u32) -> Retry {
    Retry { attempts, on_death: true, on_timeout: true, ..Retry::default() }
}

impl World {
    fn send(&mut self, call: u64, caller: u64, priority: i8, retry: Retry) -> Vec<Effect> {
        let deadline = self.now + 30 * SECOND;
        let (call, caller) = (CallKey(call), Caller(caller));
        self.tell(Event::CallArrived { call, deadline, caller, priority, retry, nested: false })
    }

    fn order(&mut self, order: Order) -> Vec<Effect> {
        self.tell(Event::Operator(order))
    }

    fn up(&self) -> usize {
        self.pool.workers().filter(|worker: &WorkerView<'_>| worker.state.is_up()).count()
    }

    fn is_ready(&mut self, worker: WorkerId) -> Vec<Effect> {
        self.tell(Event::Ready { worker })
    }
}

fn launch(slot: u32, generation: u32) -> Effect {
    Effect::Launch { worker: id(slot, generation) }
}

fn elastic(min: u32, max: u32) -> Settings {
    let mut settings = settings(max, 100);
    settings.size.min = min;
    settings
}

fn replacing(workers: u32, replace: Replace) -> Settings {
    Settings { replace, ..settings(workers, 10_000) }
}

#[test]
fn a_spare_takes_the_next_call_at_once_when_a_worker_dies() {
    let mut settings = settings(1, 10);
    settings.size.spares = 1;
    let mut world = World::ready_of(settings);
    assert_eq!(vec![assign(id(1, 1), 1)], world.call(1));
    assert!(world.call(2).is_empty(), "no more calls at once than workers are wanted");
    let effects = world.die(id(1, 1));
    let died = settle(1, Verdict::WorkerDied { worker: id(1, 1), quarantined: false });
    assert_eq!(vec![died, launch(1, 2), assign(id(0, 1), 2)], effects);
}

#[test]
fn a_spare_takes_over_while_a_worker_is_being_interrupted() {
    let mut settings = settings(1, 10);
    settings.size.spares = 1;
    let mut world = World::ready_of(settings);
    world.call(1);
    world.call(2);
    let effects = world.tell(Event::CallCancelled { call: CallKey(1) });
    let [warn, stop] = interrupt(id(1, 1), 1);
    assert_eq!(vec![settle(1, Verdict::Cancelled), warn, stop, assign(id(0, 1), 2)], effects);
    let effects = world.pass(SECOND / 10);
    assert_eq!(vec![Effect::Terminate { worker: id(1, 1) }, launch(1, 2)], effects);
}

#[test]
fn a_pool_grows_when_calls_wait_and_shrinks_when_workers_do() {
    let mut world = World::ready_of(elastic(1, 3));
    assert_eq!(1, world.up());
    for call in 1..=10 {
        world.tell(arrival(CallKey(call), world.now + 1000 * SECOND));
    }
    assert_eq!(NOTHING, world.pass(99 * MILLI));
    // Two calls have waited, one worker is being started for each.
    assert_eq!(vec![launch(1, 1), launch(2, 1)], world.live(MILLI));
    assert_eq!(NOTHING, world.live(10 * SECOND), "no more than the most");
    world.is_ready(id(1, 1));
    world.is_ready(id(2, 1));
    for call in 1..=10 {
        let busy = world.pool.workers().find(|it| world.pool.runs(it.id, CallKey(call)));
        let busy = busy.unwrap().id;
        world.answer(busy, call);
    }
    assert_eq!(NOTHING, world.live(59 * SECOND));
    let gone = world.live(2 * SECOND);
    assert_eq!(2, gone.len(), "{gone:?}");
    assert!(gone.iter().all(|effect| matches!(effect, Effect::Retire { .. })), "{gone:?}");
    assert_eq!((1, 1), (world.pool.size(), world.up()));
}

#[test]
fn a_pool_of_none_starts_one_at_once_when_a_call_comes() {
    let mut world = World::ready_of(elastic(0, 2));
    assert_eq!(1, world.up(), "its configuration is tried at the start");
    world.live(61 * SECOND);
    world.die(id(0, 1));
    assert_eq!((0, 0), (world.pool.size(), world.up()));
    assert_eq!(None, world.pool.next_wake(), "nothing is left to wake up for");
    assert_eq!(vec![launch(0, 2)], world.call(1));
    assert_eq!(vec![assign(id(0, 2), 1)], world.is_ready(id(0, 2)));
}

#[test]
fn a_pool_that_just_grew_does_not_shrink_again() {
    let mut world = World::ready_of(elastic(1, 2));
    world.call(1);
    world.call(2);
    world.live(SECOND);
    world.is_ready(id(1, 1));
    world.answer(id(0, 1), 1);
    world.answer(id(1, 1), 2);
    assert_eq!(NOTHING, world.live(59 * SECOND));
    assert_eq!(1, world.live(2 * SECOND).len());
}

#[test]
fn no_more_workers_start_at_once_than_may() {
    let mut settings = settings(5, 10);
    settings.starts_at_once = 2;
    let mut world = World::of(settings);
    assert_eq!(vec![launch(0, 1), launch(1, 1)], world.tell(Event::Start));
    assert_eq!(vec![launch(2, 1)], world.is_ready(id(0, 1)));
    assert_eq!(vec![launch(3, 1)], world.die(id(1, 1)), "a start that failed has ended, too");
    assert_eq!(vec![launch(4, 1)], world.is_ready(id(2, 1)));
}

#[test]
fn a_pool_that_fell_as_a_whole_once_is_no_crash_loop() {
    let mut world = World::ready(8, 10);
    world.call(1);
    world.answer(id(7, 1), 1);
    world.now += 2 * SECOND;
    for slot in 0..8 {
        assert_eq!(vec![launch(slot, 2)], world.die(id(slot, 1)));
    }
    assert_eq!(PoolState::Running, world.pool.state());
}

#[test]
fn a_blow_to_all_workers_that_start_is_no_crash_loop() {
    let mut world = World::new(6, 10).that_has_worked();
    for slot in 0..6 {
        world.die(id(slot, 1));
    }
    assert_eq!(PoolState::Running, world.pool.state());
    assert_eq!(6, world.live(SECOND / 5).len());
}

#[test]
fn a_pool_in_a_crash_loop_tries_one_start_at_a_time_f020() {
    let mut world = World::new(4, 10).that_has_worked();
    for slot in 0..4 {
        world.die(id(slot, 1));
    }
    let mut launched = world.live(SECOND / 5);
    assert_eq!(4, launched.len(), "{launched:?}");
    world.live(SECOND);
    world.die(id(0, 2));
    let state = PoolState::CrashLoop { failures: 5 };
    assert_eq!(state, world.pool.state());
    for slot in 1..4 {
        world.die(id(slot, 2));
    }
    let state = PoolState::CrashLoop { failures: 8 };
    assert_eq!(state, world.pool.state(), "those that follow count, too");
    let begun = world.now;
    for _ in 0..5 {
        launched = world.live(BACKOFF_MAX);
        let [Effect::Launch { worker }] = launched[..] else { panic!("{launched:?}") };
        world.die(worker);
    }
    assert_eq!(5 * BACKOFF_MAX, world.now - begun);
    launched = world.live(BACKOFF_MAX);
    let [Effect::Launch { worker }] = launched[..] else { panic!("{launched:?}") };
    assert_eq!(3, world.is_ready(worker).len(), "the others follow at once");
    assert_eq!(PoolState::Running, world.pool.state());
}

#[test]
fn a_pool_that_never_worked_is_closed_by_its_first_failed_start_f149() {
    let mut world = World::new(2, 10);
    world.call(1);
    assert_eq!(vec![settle(1, Verdict::CrashLoop)], world.die(id(0, 1)));
    assert_eq!(vec![settle(2, Verdict::CrashLoop)], world.call(2));
    world.die(id(1, 1));
    // One start at a time, with the longest wait between.
    for _ in 0..3 {
        let launched = world.live(BACKOFF_MAX);
        let [Effect::Launch { worker }] = launched[..] else { panic!("{launched:?}") };
        world.die(worker);
    }
    // An operator has it tried at once, and it is closed again as fast.
    let launched = world.order(Order::Reset);
    let [Effect::Launch { worker }, Effect::Launch { .. }] = launched[..] else {
        panic!("{launched:?}")
    };
    world.call(3);
    assert_eq!(vec![settle(3, Verdict::CrashLoop)], world.die(worker));
    let PoolState::CrashLoop { .. } = world.pool.state() else { panic!("it is closed") };
}

#[test]
fn a_pool_without_workers_that_is_remade_starts_one_to_see_whether_it_can() {
    let settings = elastic(0, 2);
    let mut world = World::ready_of(settings);
    world.live(100 * SECOND);
    assert_eq!(0, world.up());
    let again = |replace| Event::Reconfigured { settings: Box::new(settings), replace };
    assert_eq!(NOTHING, world.tell(again(false)));
    assert_eq!(vec![launch(0, 2)], world.tell(again(true)));
}

/// Kills a pool's worker with each of `calls`; gives the last call's effects.
fn kill_with_calls(world: &mut World, calls: std::ops::Range<u64>) -> Vec<Effect> {
    let mut last = vec![];
    for call in calls {
        let effects = world.call(call);
        let [Effect::Assign { worker, .. }] = effects[..] else { panic!("{effects:?}") };
        last = world.die(worker);
        for effect in &last {
            if let Effect::Launch { worker } = *effect {
                world.is_ready(worker);
            }
        }
    }
    last
}

#[test]
fn calls_that_kill_their_workers_close_the_pool_only_when_all_do() {
    let mut world = World::ready(1, 10);
    kill_with_calls(&mut world, 1..10);
    world.call(10);
    let worker = world.pool.workers().next().unwrap().id;
    world.answer(worker, 10);
    kill_with_calls(&mut world, 11..20);
    assert_eq!(PoolState::Running, world.pool.state(), "one call in ten is well");

    kill_with_calls(&mut world, 20..21);
    assert_eq!(PoolState::CrashLoop { failures: 10 }, world.pool.state());
    assert_eq!(vec![settle(21, Verdict::CrashLoop)], world.call(21));
    // The probe opens it, and the next death closes it again, until a call succeeds.
    for call in 22..25 {
        let launched = world.live(BACKOFF_MAX);
        let [Effect::Launch { worker }] = launched[..] else { panic!("{launched:?}") };
        world.is_ready(worker);
        assert_eq!(PoolState::Running, world.pool.state());
        kill_with_calls(&mut world, call..call + 1);
        assert!(matches!(world.pool.state(), PoolState::CrashLoop { .. }), "after {call}");
    }
    world.order(Order::Reset);
    let worker = world.pool.workers().next().unwrap().id;
    world.is_ready(worker);
    kill_with_calls(&mut world, 30..39);
    assert_eq!(PoolState::Running, world.pool.state(), "all is forgotten after a reset");
}

#[test]
fn a_worker_that_was_starting_already_does_not_reopen_a_pool_that_calls_have_closed() {
    let mut world = World::ready(2, 10);
    kill_with_calls(&mut world, 1..9);
    let mut started = vec![];
    for call in [9, 10] {
        let effects = world.call(call);
        let [Effect::Assign { worker, .. }] = effects[..] else { panic!("{effects:?}") };
        started.extend(world.die(worker));
    }
    assert_eq!(PoolState::CrashLoop { failures: 10 }, world.pool.state());
    let launches = started.iter().filter_map(|effect| match *effect {
        Effect::Launch { worker } => Some(worker),
        _ => None,
    });
    let early: Vec<_> = launches.collect();
    assert_eq!(1, early.len(), "the last death starts nobody: {started:?}");
    world.is_ready(early[0]);
    assert_eq!(PoolState::CrashLoop { failures: 10 }, world.pool.state());
    let launched = world.live(BACKOFF_MAX);
    let [Effect::Launch { worker }] = launched[..] else { panic!("{launched:?}") };
    world.is_ready(worker);
    assert_eq!(PoolState::Running, world.pool.state());
}

#[test]
fn a_large_pool_is_not_closed_by_fewer_deaths_than_it_has_workers() {
    let mut world = World::ready(20, 30);
    kill_with_calls(&mut world, 1..21);
    assert_eq!(PoolState::Running, world.pool.state());
    kill_with_calls(&mut world, 21..22);
    assert_eq!(PoolState::CrashLoop { failures: 21 }, world.pool.state());
}

#[test]
fn deaths_that_are_long_past_do_not_count() {
    let mut world = World::ready(1, 10);
    for call in 1..30 {
        kill_with_calls(&mut world, call..call + 1);
        world.live(4 * SECOND);
    }
    assert_eq!(PoolState::Running, world.pool.state());
}

#[test]
fn a_worn_worker_serves_until_its_successor_is_ready() {
    let replace = Replace { max_calls: Some(2), ..Replace::default() };
    let mut world = World::ready_of(replacing(1, replace));
    world.call(1);
    world.answer(id(0, 1), 1);
    world.call(2);
    assert_eq!(vec![launch(0, 2)], world.answer(id(0, 1), 2));
    assert_eq!(vec![assign(id(0, 1), 3)], world.call(3), "the old one goes on");
    assert_eq!(NOTHING, world.is_ready(id(0, 2)));
    let retiring = WorkerState::Retiring(StopCause::Replaced(ReplaceCause::Calls));
    assert_eq!(Some(retiring), world.pool.worker_state(id(0, 1)));
    world.call(4);
    let effects = world.answer(id(0, 1), 3);
    assert_eq!(vec![Effect::Retire { worker: id(0, 1) }, assign(id(0, 2), 4)], effects);
}

#[test]
fn ten_thousand_calls_with_ten_per_worker_lose_nothing_and_no_capacity() {
    let replace = Replace { max_calls: Some(10), ..Replace::default() };
    let mut world = World::ready_of(replacing(4, replace));
    let mut running = BTreeMap::new();
    let mut starting = VecDeque::new();
    let mut answered = 0;
    let mut queued: Vec<Effect> = (1..=10_000).flat_map(|call| world.call(call)).collect();
    let mut launches = 0;
    while answered < 10_000 {
        for effect in std::mem::take(&mut queued) {
            match effect {
                Effect::Assign { worker, call } => {
                    running.insert(worker, call);
                }
                Effect::Launch { worker } => {
                    launches += 1;
                    starting.push_back((worker, answered + 3));
                }
                Effect::Retire { worker } => {
                    world.die(worker);
                }
                other => panic!("{other:?}"),
            }
        }
        let left = 10_000 - answered;
        assert!(running.len() as u64 >= left.min(4), "{} of 4 work", running.len());
        assert!(starting.len() <= 1, "one is replaced at a time");
        if let Some((worker, _)) = starting.front().copied().filter(|(_, at)| answered >= *at) {
            starting.pop_front();
            queued = world.is_ready(worker);
            continue;
        }
        let (worker, call) = running.pop_first().unwrap();
        answered += 1;
        queued = world.tell(Event::Answered { worker, call });
    }
    assert!(launches > 400, "{launches} replacements");
    assert!(world.pool.calls().is_empty());
}

#[test]
fn a_worker_with_too_much_memory_gets_no_more_calls_when_its_turn_has_come() {
    let mut world = World::ready(2, 10);
    let (cause, worker) = (ReplaceCause::Memory, id(1, 1));
    assert_eq!(vec![launch(1, 2)], world.tell(Event::Outworn { worker, cause }));
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
    assert_eq!(NOTHING, world.call(2));
    let effects = world.is_ready(id(1, 2));
    assert_eq!(vec![Effect::Retire { worker }, assign(id(1, 2), 2)], effects);
}

#[test]
fn a_worker_with_too_much_memory_gets_no_more_calls_when_its_call_was_given_up_either() {
    let memory = ReplaceCause::Memory;
    let mut world = World::ready(1, 10);
    world.call(1);
    let worker = id(0, 1);
    assert_eq!(vec![launch(0, 2)], world.tell(Event::Outworn { worker, cause: memory }));
    world.tell(Event::CallCancelled { call: CallKey(1) });
    assert_eq!(NOTHING, world.answer(worker, 1));
    assert_eq!(NOTHING, world.call(2), "its successor is on the way");
    let retiring = WorkerState::Retiring(StopCause::Replaced(memory));
    assert_eq!(Some(retiring), world.pool.worker_state(worker));
    // While there is no successor it is better than none.
    assert_eq!(vec![assign(worker, 2)], world.die(id(0, 2)));
    world.tell(Event::CallCancelled { call: CallKey(2) });
    assert_eq!(NOTHING, world.answer(worker, 2));
    assert_eq!(vec![assign(worker, 3)], world.call(3));
    world.answer(worker, 3);
    assert_eq!(vec![launch(0, 3)], world.live(BACKOFF_MAX));
    assert_eq!(NOTHING, world.call(4));
    let effects = world.is_ready(id(0, 3));
    assert_eq!(vec![Effect::Retire { worker }, assign(id(0, 3), 4)], effects);
}

#[test]
fn a_successor_that_does_not_start_leaves_the_old_one_serving() {
    let mut world = World::ready(1, 10);
    for cause in [ReplaceCause::Memory, ReplaceCause::Operator] {
        world.tell(Event::Outworn { worker: id(0, 1), cause });
    }
    for generation in 2..20 {
        assert_eq!(u64::from(generation) - 2, world.pool.replacement_failures());
        world.die(id(0, generation));
        let call = u64::from(generation);
        assert_eq!(vec![assign(id(0, 1), call)], world.call(call));
        world.answer(id(0, 1), call);
        assert_eq!(1, world.pool.outworn_left());
        assert_eq!(vec![launch(0, generation + 1)], world.live(BACKOFF_MAX));
    }
    assert_eq!(PoolState::Running, world.pool.state());
    assert_eq!(vec![Effect::Retire { worker: id(0, 1) }], world.is_ready(id(0, 20)));
    assert_eq!(0, world.pool.outworn_left());
}

#[test]
fn a_worker_that_dies_while_it_is_replaced_has_its_successor_already() {
    let mut world = World::ready(1, 10);
    world.order(Order::Recycle);
    world.call(1);
    world.call(2);
    let died = settle(1, Verdict::WorkerDied { worker: id(0, 1), quarantined: false });
    assert_eq!(vec![died], world.die(id(0, 1)));
    assert_eq!(vec![assign(id(0, 2), 2)], world.is_ready(id(0, 2)));
    assert_eq!(0, world.pool.outworn_left());
}

#[test]
fn a_recycling_replaces_all_one_after_the_other() {
    let mut world = World::ready(3, 10);
    let mut launched = world.order(Order::Recycle);
    let mut seen = vec![];
    while let [.., Effect::Launch { worker }] = launched[..] {
        assert_eq!(3, world.up(), "never fewer than before");
        seen.push(worker);
        launched = world.is_ready(worker);
    }
    assert_eq!(vec![id(0, 2), id(1, 2), id(2, 2)], seen);
    assert_eq!((0, 3), (world.pool.outworn_left(), world.up()));
}

#[test]
fn old_and_idle_workers_are_replaced_each_at_its_own_time() {
    let (age, idle) = (Some(100 * SECOND), Some(50 * SECOND));
    let replace = Replace { max_age: age, at_once: 4, ..Replace::default() };
    let mut world = World::ready_of(replacing(4, replace));
    assert_eq!(NOTHING, world.live(89 * SECOND));
    assert_eq!(4, world.live(22 * SECOND).len());
    let replace = Replace { max_idle: idle, ..Replace::default() };
    let mut world = World::ready_of(replacing(2, replace));
    world.live(30 * SECOND);
    world.call(1);
    world.answer(id(1, 1), 1);
    assert_eq!(vec![launch(0, 2)], world.live(30 * SECOND));
}

#[test]
fn a_paused_pool_takes_calls_and_runs_none() {
    let mut world = World::ready(1, 2);
    world.call(1);
    world.order(Order::Pause);
    assert_eq!(PoolState::Paused, world.pool.state());
    world.answer(id(0, 1), 1);
    assert_eq!(NOTHING, world.call(2));
    assert_eq!(NOTHING, world.call(3));
    assert_eq!(vec![settle(4, Verdict::QueueFull)], world.call(4));
    assert_eq!(vec![assign(id(0, 1), 2)], world.order(Order::Resume));
}

#[test]
fn a_drained_pool_finishes_what_it_has_and_keeps_its_workers() {
    let mut world = World::ready(1, 10);
    world.call(1);
    world.call(2);
    world.order(Order::Drain);
    assert_eq!(vec![settle(3, Verdict::ShuttingDown)], world.call(3));
    assert_eq!(vec![assign(id(0, 1), 2)], world.answer(id(0, 1), 1));
    world.answer(id(0, 1), 2);
    assert_eq!((1, PoolState::Closed), (world.up(), world.pool.state()));
    world.order(Order::Resume);
    assert_eq!(vec![assign(id(0, 1), 4)], world.call(4));
}

#[test]
fn a_smaller_pool_lets_idle_workers_go_first_and_busy_ones_finish() {
    let mut world = World::ready(3, 10);
    world.call(1);
    world.call(2);
    let effects = world.order(Order::Resize { min: 1, max: 1 });
    assert_eq!(vec![Effect::Retire { worker: id(0, 1) }], effects);
    world.call(3);
    let effects = world.answer(id(2, 1), 1);
    let effects = [effects, world.answer(id(1, 1), 2)].concat();
    let retired = effects.iter().filter(|effect| matches!(effect, Effect::Retire { .. })).count();
    let assigned = effects.iter().filter(|effect| matches!(effect, Effect::Assign { .. })).count();
    assert_eq!((1, 1), (retired, assigned), "{effects:?}");
    assert_eq!(2, world.order(Order::Resize { min: 3, max: 3 }).len());
    assert!(world.order(Order::Resize { min: 3, max: 2 }).is_empty(), "nonsense changes nothing");
    assert_eq!(3, world.pool.workers_wanted());
}

#[test]
fn a_new_configuration_replaces_what_was_started_from_the_old_one() {
    let mut world = World::ready(2, 10);
    world.die(id(0, 1));
    world.pass(BACKOFF_MAX);
    let wanted = Box::new(settings(3, 1));
    let effects = world.tell(Event::Reconfigured { settings: wanted, replace: true });
    for effect in [launch(2, 1), launch(0, 3), launch(1, 2)] {
        assert!(effects.contains(&effect), "{effects:?}");
    }
    assert!(effects.contains(&Effect::Kill { worker: id(0, 2) }), "it was not ready yet");
    assert_eq!(1, world.pool.outworn_left());
    assert_eq!(1, world.pool.settings().queue);
}

fn reconfigured(workers: u32, replace: bool) -> Event {
    Event::Reconfigured { settings: Box::new(settings(workers, 100)), replace }
}

#[test]
fn a_reload_that_is_called_off_forgives_the_workers_it_wanted_to_replace_f131() {
    let mut world = World::ready(2, 100);
    assert_eq!(vec![launch(0, 2)], world.tell(reconfigured(2, true)));
    assert_eq!(2, world.pool.outworn_left());
    let stopped = vec![Effect::Kill { worker: id(0, 2) }];
    assert_eq!(stopped, world.tell(reconfigured(2, false)));
    assert_eq!((0, 0), (world.pool.outworn_left(), world.pool.replacement_failures()));
    world.die(id(0, 2));
    assert_eq!(NOTHING, world.live(1000 * SECOND), "nothing is tried again");
    assert_eq!(2, world.up());
}

#[test]
fn a_successor_that_died_is_not_tried_again_when_the_reload_is_called_off_f131() {
    let mut world = World::ready(1, 100);
    world.tell(reconfigured(1, true));
    assert_eq!(NOTHING, world.die(id(0, 2)));
    assert_eq!(NOTHING, world.tell(reconfigured(1, false)));
    assert_eq!(NOTHING, world.live(1000 * SECOND));
    assert_eq!(vec![assign(id(0, 1), 1)], world.call(1));
}

#[test]
fn what_else_wants_a_worker_replaced_outlives_a_reload_that_is_called_off() {
    let causes = [ReplaceCause::Age, ReplaceCause::Operator];
    for (first, second) in causes
        .iter()
        .flat_map(|other| [(*other, ReplaceCause::Reload), (ReplaceCause::Reload, *other)])
    {
        let mut world = World::ready(1, 100);
        for cause in [first, second] {
            world.tell(Event::Outworn { worker: id(0, 1), cause });
        }
        assert_eq!(NOTHING, world.tell(reconfigured(1, false)), "{first:?} and {second:?}");
        assert_eq!(vec![Effect::Retire { worker: id(0, 1) }], world.is_ready(id(0, 2)));
    }
}

#[test]
fn a_call_may_end_by_itself_before_it_is_interrupted() {
    let mut settings = settings(1, 10);
    settings.budgets.cooperate = SECOND;
    let mut world = World::ready_of(settings);
    world.call(1);
    let effects = world.tell(Event::CallCancelled { call: CallKey(1) });
    let [warn, stop] = interrupt(id(0, 1), 1);
    assert_eq!(vec![settle(1, Verdict::Cancelled), warn], effects);
    assert_eq!(vec![stop], world.live(SECOND));
    assert_eq!(vec![Effect::Terminate { worker: id(0, 1) }, launch(0, 2)], world.live(SECOND / 10));
}

#[test]
fn stacks_are_waited_for_but_not_for_long() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + SECOND);
    assert_eq!(vec![Effect::DumpStack { worker: id(0, 1) }], world.pass(SECOND));
    assert_eq!(NOTHING, world.pass(49 * MILLI));
    assert_eq!(settle(1, Verdict::TimedOut), world.pass(MILLI)[0]);
    assert_eq!(NOTHING, world.tell(Event::StackDumped { worker: id(0, 1) }), "too late");
}

#[test]
fn a_late_call_is_answered_when_its_worker_dies_over_its_stacks() {
    let mut world = World::ready(1, 10);
    world.call_until(1, world.now + SECOND);
    world.pass(SECOND);
    assert_eq!(settle(1, Verdict::TimedOut), world.die(id(0, 1))[0]);
}

#[test]
fn a_failed_attempt_is_followed_by_another_one_after_its_rest() {
    let mut world = World::ready(1, 10);
    let retry = Retry { backoff: SECOND, ..retried(3) };
    world.send(1, 1, 0, retry);
    let key = CallKey(1);
    for rest in [SECOND, 2 * SECOND] {
        assert!(world.pool.may_retry(world.now, key));
        assert_eq!(NOTHING, world.tell(Event::AttemptFailed { worker: id(0, 1), call: key }));
        assert_eq!(vec![assign(id(0, 1), 2)], world.send(2, 1, 0, Retry::default()));
        world.answer(id(0, 1), 2);
        assert_eq!(NOTHING, world.live(rest - MILLI));
        assert_eq!(vec![assign(id(0, 1), 1)], world.live(rest / 4 + MILLI));
    }
    assert!(!world.pool.may_retry(world.now, key), "three attempts are three");
    world.answer(id(0, 1), 1);
    assert_eq!(None, world.pool.next_wake());
}

#[test]
fn a_call_that_is_cancelled_while_it_rests_leaves_nothing_behind() {
    let mut world = World::ready(1, 10);
    world.send(1, 1, 0, Retry { backoff: SECOND, ..retried(3) });
    world.tell(Event::AttemptFailed { worker: id(0, 1), call: CallKey(1) });
    let effects = world.tell(Event::CallCancelled { call: CallKey(1) });
    assert_eq!(vec![settle(1, Verdict::Cancelled)], effects);
    assert_eq!(None, world.pool.next_wake());
}

#[test]
fn an_attempt_that_could_only_begin_after_the_deadline_is_none() {
    let mut world = World::ready(1, 10);
    world.send(1, 1, 0, Retry { backoff: 40 * SECOND, ..retried(3) });
    assert!(!world.pool.may_retry(world.now, CallKey(1)));
    let died = Verdict::WorkerDied { worker: id(0, 1), quarantined: false };
    assert_eq!(settle(1, died), world.die(id(0, 1))[0]);
}

#[test]
fn a_call_that_killed_two_workers_is_not_given_a_third() {
    let mut world = World::ready(1, 10);
    world.send(1, 1, 0, retried(9));
    assert_eq!(vec![launch(0, 2)], world.die(id(0, 1)));
    assert_eq!(vec![assign(id(0, 2), 1)], world.is_ready(id(0, 2)));
    let died = Verdict::WorkerDied { worker: id(0, 2), quarantined: true };
    assert_eq!(settle(1, died), world.die(id(0, 2))[0]);
}

#[test]
fn a_call_of_which_something_was_streamed_is_not_tried_again_f068() {
    let streamed = Event::Streamed { call: CallKey(1) };
    let mut world = World::ready(1, 10);
    world.send(1, 1, 0, retried(9));
    assert!(world.pool.may_retry(world.now, CallKey(1)));
    assert_eq!(NOTHING, world.tell(streamed.clone()));
    assert!(!world.pool.may_retry(world.now, CallKey(1)));
    let died = Verdict::WorkerDied { worker: id(0, 1), quarantined: false };
    assert_eq!(settle(1, died), world.die(id(0, 1))[0]);
    assert_eq!(NOTHING, world.tell(streamed.clone()), "it is over");
    // An attempt's own time is then as good as the call's.
    let mut world = World::ready(1, 10);
    world.send(1, 1, 0, Retry { attempt_timeout: Some(SECOND), ..retried(2) });
    world.tell(streamed);
    assert_eq!(vec![Effect::DumpStack { worker: id(0, 1) }], world.live(SECOND));
    let effects = world.tell(Event::StackDumped { worker: id(0, 1) });
    assert_eq!(settle(1, Verdict::TimedOut), effects[0]);
}

#[test]
fn a_call_that_never_began_moves_silently_but_not_for_ever_f003() {
    let mut world = World::ready(1, 10);
    world.call(1);
    for generation in 1..=10 {
        let effects = world.tell(Event::Died { worker: id(0, generation), begun: Begun::NONE });
        assert!(!effects.iter().any(|effect| matches!(effect, Effect::Settle { .. })));
        world.live(BACKOFF_MAX / 5);
        assert_eq!(vec![assign(id(0, generation + 1), 1)], world.is_ready(id(0, generation + 1)));
        world.call(2);
        world.tell(Event::CallCancelled { call: CallKey(2) });
        world.now += 2 * SECOND;
        world.order(Order::Reset);
    }
    let effects = world.tell(Event::Died { worker: id(0, 11), begun: Begun::NONE });
    let died = Verdict::WorkerDied { worker: id(0, 11), quarantined: false };
    assert_eq!(settle(1, died), effects[0]);
}

#[test]
fn an_attempt_over_its_time_is_given_up_and_followed_by_another() {
    let mut world = World::ready(2, 10);
    let retry = Retry { attempt_timeout: Some(SECOND), ..retried(2) };
    assert_eq!(vec![assign(id(1, 1), 1)], world.send(1, 1, 0, retry));
    assert_eq!(interrupt(id(1, 1), 1).to_vec(), world.live(SECOND), "its caller is not told");
    assert!(world.pool.is_attempt_over(CallKey(1)));
    let failed = Event::AttemptFailed { worker: id(1, 1), call: CallKey(1) };
    assert_eq!(vec![assign(id(1, 1), 1)], world.tell(failed));
    // The second attempt is the last: its time is the call's.
    assert_eq!(vec![Effect::DumpStack { worker: id(1, 1) }], world.live(SECOND));
    let effects = world.tell(Event::StackDumped { worker: id(1, 1) });
    assert_eq!(settle(1, Verdict::TimedOut), effects[0]);
}

#[test]
fn an_attempt_that_will_not_end_is_followed_only_by_its_workers_end() {
    let mut world = World::ready(2, 10);
    let retry = Retry { attempt_timeout: Some(SECOND), ..retried(2) };
    world.send(1, 1, 0, retry);
    world.live(SECOND);
    let effects = world.live(SECOND / 10);
    assert_eq!(vec![Effect::Terminate { worker: id(1, 1) }, launch(1, 2)], effects);
    assert_eq!(vec![assign(id(0, 1), 1)], world.die(id(1, 1)), "it runs once at a time");
}

#[test]
fn a_full_queue_refuses_the_caller_who_fills_it() {
    let mut world = World::ready(1, 3);
    for call in 1..=4 {
        world.send(call, 1, 0, Retry::default());
    }
    assert_eq!(vec![settle(5, Verdict::QueueFull)], world.send(5, 1, 0, Retry::default()));
    let effects = world.send(6, 2, 0, Retry::default());
    assert_eq!(vec![settle(4, Verdict::QueueFull)], effects, "the newest of the largest holder");
    assert_eq!(vec![assign(id(0, 1), 2)], world.answer(id(0, 1), 1));
    assert_eq!(vec![assign(id(0, 1), 6)], world.answer(id(0, 1), 2), "callers take turns");
}

#[test]
fn an_idle_pool_has_no_timer() {
    let mut world = World::ready(4, 10);
    assert_eq!(None, world.pool.next_wake());
    world.call(1);
    world.answer(id(3, 1), 1);
    assert_eq!(None, world.pool.next_wake());
}
