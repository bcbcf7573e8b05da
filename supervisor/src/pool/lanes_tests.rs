//! Sentences about workers that have several calls at once.

use super::*;
use crate::pool::ReplaceCause;

const MILLI: Duration = Duration::from_millis(1);
const NOTHING: Vec<Effect> = Vec::new();

fn shared(workers: u32, lanes: u32) -> Settings {
    Settings { lanes, ..settings(workers, 100) }
}

fn launch(slot: u32, generation: u32) -> Effect {
    Effect::Launch { worker: id(slot, generation) }
}

fn died(call: u64, worker: WorkerId) -> Effect {
    settle(call, Verdict::WorkerDied { worker, quarantined: false })
}

impl World {
    fn cancel(&mut self, call: u64) -> Vec<Effect> {
        self.tell(Event::CallCancelled { call: CallKey(call) })
    }

    fn nested(&mut self, call: u64) -> Vec<Effect> {
        let deadline = self.now + 30 * SECOND;
        let (call, caller, retry) = (CallKey(call), Caller(1), Retry::default());
        let (priority, nested) = (0, true);
        self.tell(Event::CallArrived { call, deadline, caller, priority, retry, nested })
    }

    fn dies_having_begun(&mut self, worker: WorkerId, begun: &[u64]) -> Vec<Effect> {
        let begun = Begun::Only(begun.iter().copied().map(CallKey).collect());
        let effects = self.tell(Event::Died { worker, begun });
        self.tell(Event::Gone { worker });
        effects
    }

    fn state_of(&self, worker: WorkerId) -> &'static str {
        self.pool.worker(worker).map_or("gone", |view| view.name())
    }
}

#[test]
fn calls_are_spread_over_the_workers_before_they_share_one() {
    let mut world = World::ready_of(shared(2, 2));
    let order = [id(1, 1), id(0, 1), id(0, 1), id(1, 1)];
    for (call, worker) in (1..).zip(order) {
        assert_eq!(vec![assign(worker, call)], world.call(call));
    }
    assert_eq!(NOTHING, world.call(5), "all lanes are taken");
    assert_eq!(vec![assign(id(1, 1), 5)], world.answer(id(1, 1), 4), "each answers when it can");
    assert_eq!(NOTHING, world.answer(id(0, 1), 2));
    assert_eq!(NOTHING, world.answer(id(0, 1), 3));
    assert_eq!(vec![assign(id(0, 1), 6)], world.call(6), "the one without a call goes first");
}

#[test]
fn a_spare_stays_one_while_others_have_lanes_free() {
    let mut settings = shared(1, 2);
    settings.size.spares = 1;
    let mut world = World::ready_of(settings);
    assert_eq!(vec![assign(id(1, 1), 1)], world.call(1));
    assert_eq!(vec![assign(id(1, 1), 2)], world.call(2));
    assert_eq!(NOTHING, world.call(3));
    let effects = world.dies_having_begun(id(1, 1), &[1, 2]);
    let worker = id(1, 1);
    let [first, second] = [died(1, worker), died(2, worker)];
    assert_eq!(vec![first, second, launch(1, 2), assign(id(0, 1), 3)], effects);
}

#[test]
fn a_death_fails_all_that_had_begun_and_moves_the_others() {
    let mut world = World::ready_of(shared(2, 3));
    for call in 1..=6 {
        world.call(call);
    }
    let calls = world.pool.worker(id(1, 1)).unwrap().calls;
    let [one, two, three] = [0, 1, 2].map(|at| calls[at].call.0);
    for call in [10, 11] {
        world.call(call);
    }
    let effects = world.dies_having_begun(id(1, 1), &[one, three]);
    let worker = id(1, 1);
    assert_eq!(vec![died(one, worker), died(three, worker), launch(1, 2)], effects);
    let effects = world.tell(Event::Ready { worker: id(1, 2) });
    let wanted: Vec<_> = [two, 10, 11].map(|call| assign(id(1, 2), call)).into();
    assert_eq!(wanted, effects, "what had not begun keeps its place");
}

#[test]
fn one_call_is_given_up_and_the_others_in_its_worker_do_not_notice() {
    let mut world = World::ready_of(shared(1, 3));
    let worker = id(0, 1);
    for call in [1, 2] {
        world.call(call);
    }
    let [warn, stop] = interrupt(worker, 1);
    assert_eq!(vec![settle(1, Verdict::Cancelled), warn, stop], world.cancel(1));
    assert_eq!("busy", world.state_of(worker));
    assert_eq!(vec![assign(worker, 3)], world.call(3), "its lane is not free, others are");
    assert_eq!(NOTHING, world.call(4));
    assert_eq!(vec![assign(worker, 4)], world.answer(worker, 1), "late, and its lane is free");
    assert_eq!(NOTHING, world.live(SECOND), "nothing more is due");
}

#[test]
fn a_call_that_hangs_ends_its_worker_when_the_others_have_ended() {
    let mut world = World::ready_of(shared(1, 3));
    let worker = id(0, 1);
    for call in [1, 2, 3] {
        world.call(call);
    }
    world.cancel(1);
    assert_eq!(NOTHING, world.call(4));
    assert_eq!(vec![launch(0, 2)], world.live(SECOND / 10), "a successor is started at once");
    assert_eq!("retiring", world.state_of(worker));
    let effects = world.tell(Event::Ready { worker: id(0, 2) });
    assert_eq!(vec![assign(id(0, 2), 4)], effects);
    assert_eq!(NOTHING, world.answer(worker, 2));
    assert_eq!(vec![assign(id(0, 2), 5)], world.call(5), "it gets no more calls");
    assert_eq!(vec![Effect::Terminate { worker }], world.answer(worker, 3));
    assert_eq!("stopping", world.state_of(worker));
    assert!(!world.pool.expects(worker, CallKey(1)), "what it says of it now is late");
    assert_eq!(NOTHING, world.die(worker), "its slot was seen to");
}

#[test]
fn a_call_beside_a_hanging_one_is_given_its_chance_too() {
    let mut world = World::ready_of(shared(1, 2));
    let worker = id(0, 1);
    world.call(1);
    world.call_until(2, world.now + SECOND);
    world.cancel(1);
    assert_eq!(vec![launch(0, 2)], world.live(SECOND / 2));
    assert_eq!(vec![Effect::DumpStack { worker }], world.live(SECOND / 2));
    let effects = world.tell(Event::StackDumped { worker });
    let [warn, stop] = interrupt(worker, 2);
    assert_eq!(vec![settle(2, Verdict::TimedOut), warn, stop], effects);
    assert_eq!(vec![Effect::Terminate { worker }], world.live(SECOND / 10));
}

#[test]
fn a_hanging_call_that_ends_late_saves_nobody_and_a_death_meanwhile_costs_no_slot() {
    let mut world = World::ready_of(shared(1, 2));
    let worker = id(0, 1);
    world.call(1);
    world.call(2);
    world.cancel(1);
    world.live(SECOND / 10);
    assert_eq!(NOTHING, world.answer(worker, 1));
    assert_eq!("retiring", world.state_of(worker), "its successor is on the way");
    world.tell(Event::Ready { worker: id(0, 2) });
    let effects = world.dies_having_begun(worker, &[2]);
    assert_eq!(vec![died(2, worker)], effects);
    assert_eq!(NOTHING, world.live(100 * SECOND));
    assert_eq!(1, world.pool.workers().count());
}

#[test]
fn calls_that_are_late_together_share_the_stacks() {
    let mut world = World::ready_of(shared(1, 3));
    let worker = id(0, 1);
    let late = world.now + SECOND;
    world.call_until(1, late);
    world.call_until(2, late + 10 * MILLI);
    world.call(3);
    assert_eq!(vec![Effect::DumpStack { worker }], world.live(SECOND));
    assert_eq!(NOTHING, world.live(10 * MILLI), "they are being written already");
    let effects = world.tell(Event::StackDumped { worker });
    let mut wanted = Vec::new();
    for call in [1, 2] {
        wanted.push(settle(call, Verdict::TimedOut));
        wanted.extend(interrupt(worker, call));
    }
    assert_eq!(wanted, effects);
    for call in [1, 2] {
        assert_eq!(NOTHING, world.answer(worker, call));
    }
    assert_eq!("busy", world.state_of(worker));
}

#[test]
fn a_replaced_worker_finishes_its_calls_and_its_free_lanes_are_made_up_for() {
    let mut world = World::ready_of(shared(1, 3));
    let (old, new) = (id(0, 1), id(0, 2));
    for call in [1, 2, 3] {
        world.call(call);
    }
    world.call(4);
    world.call(5);
    world.tell(Event::Outworn { worker: old, cause: ReplaceCause::Age });
    assert_eq!(NOTHING, world.tell(Event::Ready { worker: new }), "as many run as may");
    assert_eq!(vec![assign(new, 4)], world.answer(old, 2));
    assert_eq!(vec![assign(new, 5)], world.answer(old, 1));
    assert_eq!(vec![Effect::Retire { worker: old }], world.answer(old, 3));
}

#[test]
fn a_pool_grows_when_more_calls_wait_than_those_that_start_have_lanes() {
    let mut settings = shared(3, 2);
    settings.size.min = 1;
    let mut world = World::ready_of(settings);
    for call in 1..=4 {
        world.call(call);
    }
    assert_eq!(vec![launch(1, 1)], world.live(SECOND), "one has two lanes for the two");
    world.call(5);
    assert_eq!(vec![launch(2, 1)], world.live(SECOND));
}

#[test]
fn a_smaller_pool_lets_those_go_that_have_fewest_calls() {
    let mut world = World::ready_of(shared(2, 2));
    for call in [1, 2, 3] {
        world.call(call);
    }
    world.tell(Event::Operator(Order::Resize { min: 1, max: 1 }));
    assert_eq!(["busy", "retiring"], [0, 1].map(|slot| world.state_of(id(slot, 1))));
    assert_eq!(vec![Effect::Retire { worker: id(1, 1) }], world.answer(id(1, 1), 1));
}

#[test]
fn a_waiting_call_frees_its_place_and_not_its_lane() {
    let mut world = World::ready_of(shared(1, 2));
    let worker = id(0, 1);
    world.call(1);
    world.call(2);
    let waits = |call, waits| Event::Waits { worker, call: CallKey(call), waits };
    world.tell(waits(1, true));
    assert_eq!(NOTHING, world.call(3), "an ordinary call gets no freed place");
    assert_eq!(vec![launch(1, 1)], world.nested(4));
    assert!(!world.pool.stands_still(), "the other call is at work");
    let effects = world.tell(Event::Ready { worker: id(1, 1) });
    assert_eq!(vec![assign(id(1, 1), 4)], effects);
    assert_eq!(NOTHING, world.nested(5), "one place is freed, not two");
    world.tell(waits(2, true));
    assert!(world.pool.runs(id(1, 1), CallKey(5)), "now it is two");
    assert_eq!(0, world.pool.waiting_too_many());
    for call in [4, 5] {
        world.tell(Event::Waits { worker: id(1, 1), call: CallKey(call), waits: true });
    }
    assert_eq!(1, world.pool.waiting_too_many(), "one of them has to end");
}

#[test]
fn each_attempt_has_its_own_time() {
    let mut world = World::ready_of(shared(1, 2));
    let worker = id(0, 1);
    let attempt_timeout = Some(SECOND);
    let retry = Retry { attempts: 2, on_timeout: true, attempt_timeout, ..Retry::default() };
    let deadline = world.now + 30 * SECOND;
    for call in [1, 2] {
        let (call, caller) = (CallKey(call), Caller(1));
        let (priority, nested) = (0, false);
        world.tell(Event::CallArrived { call, deadline, caller, priority, retry, nested });
        world.now += SECOND / 2;
    }
    assert_eq!(interrupt(worker, 1).to_vec(), world.pass(Duration::ZERO));
    let failed = Event::AttemptFailed { worker, call: CallKey(1) };
    assert_eq!(vec![assign(worker, 1)], world.tell(failed));
    assert_eq!(interrupt(worker, 2).to_vec(), world.pass(SECOND / 2));
}

#[test]
fn a_call_is_blamed_less_for_a_death_beside_others() {
    let mut world = World::ready_of(shared(1, 2));
    let retry = Retry { attempts: 9, on_death: true, ..Retry::default() };
    let deadline = world.now + 1000 * SECOND;
    let arrival = |call| {
        let (call, caller, priority) = (CallKey(call), Caller(1), 0);
        Event::CallArrived { call, deadline, caller, priority, retry, nested: false }
    };
    world.tell(arrival(1));
    for round in 1..=3 {
        world.tell(arrival(round + 1));
        let worker = id(0, u32::try_from(round).unwrap());
        let effects = world.dies_having_begun(worker, &[1, round + 1]);
        assert!(!effects.iter().any(|it| matches!(it, Effect::Settle { .. })), "{effects:?}");
        world.cancel(round + 1);
        world.live(BACKOFF_MAX);
        world.tell(Event::Ready { worker: id(0, u32::try_from(round).unwrap() + 1) });
        assert!(world.pool.runs(id(0, u32::try_from(round).unwrap() + 1), CallKey(1)));
    }
    world.call(9);
    let effects = world.dies_having_begun(id(0, 4), &[1, 9]);
    let verdict = Verdict::WorkerDied { worker: id(0, 4), quarantined: true };
    assert!(effects.contains(&settle(1, verdict)), "{effects:?}");
}

#[test]
fn a_stopped_worker_gets_no_more_calls_and_keeps_those_it_has() {
    let mut world = World::ready_of(shared(1, 2));
    world.call(1);
    world.tell(Event::Halted { worker: id(0, 1) });
    assert_eq!(NOTHING, world.call(2));
    assert_eq!(vec![assign(id(0, 1), 2)], world.tell(Event::Resumed { worker: id(0, 1) }));
}

#[test]
fn a_spare_makes_up_for_lanes_that_nobody_can_use() {
    let mut settings = shared(1, 2);
    settings.size.spares = 1;
    let (worker, spare) = (id(1, 1), id(0, 1));
    let mut world = World::ready_of(settings);
    world.call(1);
    world.call(2);
    world.cancel(1);
    assert_eq!(vec![assign(spare, 3)], world.call(3), "a lane is busy with what nobody wants");
    assert_eq!(NOTHING, world.call(4), "as many run as may");

    let mut world = World::ready_of(settings);
    world.call(1);
    world.tell(Event::Halted { worker });
    assert_eq!(vec![assign(spare, 2)], world.call(2), "its other lane stands still");
    assert_eq!(NOTHING, world.call(3), "as many run as may");
    assert_eq!(NOTHING, world.tell(Event::Resumed { worker }));
    assert_eq!(vec![assign(spare, 3)], world.answer(worker, 1));
}

#[test]
fn a_drain_lets_every_call_of_a_worker_finish() {
    let mut world = World::ready_of(shared(1, 2));
    world.call(1);
    world.call(2);
    assert_eq!(NOTHING, world.tell(Event::Drain { until: world.now + 30 * SECOND }));
    assert_eq!(NOTHING, world.answer(id(0, 1), 2));
    assert_eq!(vec![Effect::Retire { worker: id(0, 1) }], world.answer(id(0, 1), 1));
}

#[test]
fn workers_keep_the_lanes_they_were_started_with() {
    let mut world = World::ready_of(shared(1, 1));
    world.call(1);
    let settings = Box::new(shared(1, 2));
    world.tell(Event::Reconfigured { settings, replace: true });
    assert_eq!(NOTHING, world.call(2), "the old one has one");
    assert_eq!(vec![assign(id(0, 2), 2)], world.tell(Event::Ready { worker: id(0, 2) }));
    world.answer(id(0, 1), 1);
    assert_eq!(vec![assign(id(0, 2), 3)], world.call(3));
}
