//! Pools whose calls call one another at random, with simulated time and seeds: every call ends
//! long before its deadline, by its result or refused because it never could, whatever dies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::backoff::Dice;
use super::super::event::{Begun, Budgets, Caller, Effect, Event, Retry, Verdict};
use super::super::settings::{Nested, Replace, Restart, Scale, Settings, Size};
use super::*;

const MILLI: Duration = Duration::from_millis(1);

/// Nothing in these worlds takes a minute, unless it never ends.
const DEADLINE: Duration = Duration::from_secs(3600);

/// What will happen.
#[derive(Clone, Copy, Debug)]
enum Coming {
    Ready(usize, WorkerId),
    Death(usize, WorkerId),
    Gone(usize, WorkerId),
    /// A call does the next thing it has to do.
    Step(CallKey),
    /// A worker has given up a call.
    GivenUp(usize, WorkerId, CallKey),
}

#[derive(Debug)]
struct Task {
    pool: usize,
    parent: Option<CallKey>,
    depth: u32,
    worker: Option<WorkerId>,
    /// How often it will call others.
    rounds: u64,
    awaited: u32,
}

struct World {
    pools: Vec<Pool>,
    nesting: Nesting,
    now: Instant,
    coming: BTreeMap<(Instant, u64), Coming>,
    tasks: HashMap<CallKey, Task>,
    /// What pools are still to be told, as the dispatcher keeps it until it is done with an event.
    untold: VecDeque<(usize, Event)>,
    dice: Dice,
    depth: u32,
    last: u64,
    refused: u32,
    done: u32,
}

fn settings(size: u32, extra: u32, lanes: u32) -> Settings {
    Settings {
        size: Size { min: size, max: size, spares: 0 },
        lanes,
        scale: Scale::default(),
        starts_at_once: 16,
        restart: Restart::default(),
        replace: Replace::default(),
        nested: Nested { extra, depth: 8 },
        queue: 4096,
        budgets: Budgets {
            start: 60_000 * MILLI,
            dump: 50 * MILLI,
            cooperate: Duration::ZERO,
            interrupt: 100 * MILLI,
            grace: 5_000 * MILLI,
        },
        seed: 1,
    }
}

impl World {
    fn new(seed: u64, sizes: &[(u32, u32)], depth: u32) -> World {
        let sizes: Vec<_> = sizes.iter().map(|(size, extra)| (*size, *extra, 1)).collect();
        World::with_lanes(seed, &sizes, depth)
    }

    fn with_lanes(seed: u64, sizes: &[(u32, u32, u32)], depth: u32) -> World {
        let pool = |&(size, extra, lanes): &_| Pool::new(settings(size, extra, lanes));
        let pools = sizes.iter().map(pool);
        let mut world = World {
            pools: pools.collect(),
            nesting: Nesting::default(),
            now: Instant::now(),
            coming: BTreeMap::new(),
            tasks: HashMap::new(),
            untold: VecDeque::new(),
            dice: Dice::new(seed),
            depth,
            last: 0,
            refused: 0,
            done: 0,
        };
        for pool in 0..world.pools.len() {
            world.tell(pool, Event::Start);
        }
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.roll() % bound
    }

    fn later(&mut self, millis: u64, coming: Coming) {
        self.last += 1;
        self.coming.insert((self.now + Duration::from_millis(millis), self.last), coming);
    }

    fn tell(&mut self, pool: usize, event: Event) {
        self.tell_one(pool, event);
        while let Some((pool, event)) = self.untold.pop_front() {
            self.tell_one(pool, event);
        }
    }

    fn tell_one(&mut self, pool: usize, event: Event) {
        let mut effects = Vec::new();
        self.pools[pool].handle(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Launch { worker } => self.later(50, Coming::Ready(pool, worker)),
                Effect::Assign { worker, call } => {
                    self.tasks.get_mut(&call).expect("it is owed").worker = Some(worker);
                    self.later(1, Coming::Step(call));
                }
                Effect::Interrupt { worker, call } => {
                    self.later(1, Coming::GivenUp(pool, worker, call));
                }
                Effect::Settle { call, verdict } => {
                    let known = [Verdict::Nested, Verdict::Cancelled];
                    let is_death = matches!(verdict, Verdict::WorkerDied { .. });
                    assert!(is_death || known.contains(&verdict), "{call:?}: {verdict:?}");
                    self.refused += u32::from(verdict == Verdict::Nested);
                    self.end(call);
                }
                Effect::Retire { worker }
                | Effect::Terminate { worker }
                | Effect::Kill { worker } => {
                    self.later(5, Coming::Death(pool, worker));
                }
                _ => {}
            }
        }
    }

    /// As the dispatcher does it.
    fn send(&mut self, parent: Option<CallKey>, pool: usize) {
        self.last += 1;
        let call = CallKey(self.last);
        let depth = parent.map_or(0, |parent| self.tasks[&parent].depth + 1);
        let rounds = if depth < self.depth { self.below(3) } else { 0 };
        let task = Task { pool, parent, depth, worker: None, rounds, awaited: 0 };
        self.tasks.insert(call, task);
        if let Some(parent) = parent {
            let by = self.tasks.get_mut(&parent).expect("it runs");
            by.awaited += 1;
            let (by_pool, worker) = (by.pool, by.worker.expect("it runs"));
            self.nesting.enter(Runner { pool: by_pool, worker, call: parent }, call, pool);
            self.tell(by_pool, Event::Waits { worker, call: parent, waits: true });
        }
        let event = Event::CallArrived {
            call,
            deadline: self.now + DEADLINE,
            caller: Caller(call.0),
            priority: 0,
            retry: Retry::default(),
            nested: parent.is_some(),
        };
        self.tell(pool, event);
        while self.pools[pool].calls().nested_waiting() > 0 {
            let pools: Vec<_> = self.pools.iter().collect();
            if !self.nesting.is_stuck(pool, &pools) {
                break;
            }
            let call = self.pools[pool].calls().newest_nested().expect("one was counted");
            self.tell(pool, Event::CallStuck { call });
        }
    }

    /// A call is answered, somehow.
    fn end(&mut self, call: CallKey) {
        let task = self.tasks.remove(&call).expect("a call is answered once");
        self.done += 1;
        for (child, pool) in self.nesting.children(call).collect::<Vec<_>>() {
            self.untold.push_back((pool, Event::CallCancelled { call: child }));
        }
        if let Some(Runner { pool, worker, call }) = self.nesting.leave(call) {
            self.untold.push_back((pool, Event::Waits { worker, call, waits: false }));
        }
        let Some(parent) = task.parent else { return };
        if let Some(by) = self.tasks.get_mut(&parent) {
            by.awaited -= 1;
            if by.awaited == 0 {
                self.later(1, Coming::Step(parent));
            }
        }
    }

    fn step(&mut self, call: CallKey) {
        let Some(task) = self.tasks.get_mut(&call) else { return };
        let Some(worker) = task.worker.filter(|_| task.awaited == 0) else { return };
        let pool = task.pool;
        if task.rounds == 0 {
            self.end(call);
            self.tell(pool, Event::Answered { worker, call });
            return;
        }
        task.rounds -= 1;
        for _ in 0..=self.below(2) {
            let to = usize::try_from(self.below(self.pools.len() as u64)).unwrap();
            if self.tasks.contains_key(&call) {
                self.send(Some(call), to);
            }
        }
    }

    fn happen(&mut self, coming: Coming) {
        match coming {
            Coming::Ready(pool, worker) => self.tell(pool, Event::Ready { worker }),
            Coming::Death(pool, worker) => {
                self.tell(pool, Event::Died { worker, begun: Begun::All });
                self.later(1, Coming::Gone(pool, worker));
            }
            Coming::Gone(pool, worker) => self.tell(pool, Event::Gone { worker }),
            Coming::Step(call) => self.step(call),
            Coming::GivenUp(pool, worker, call) => {
                self.tell(pool, Event::Answered { worker, call });
            }
        }
        for pool in &self.pools {
            let most = (pool.size() + pool.settings().nested.extra) * pool.settings().lanes;
            let held = pool.workers().filter(|it| it.state.is_up()).flat_map(|it| it.calls);
            let running = held.filter(|held| held.is_running()).count();
            assert!(running <= most as usize, "{running} of {most} run");
            assert!(pool.extra() <= pool.settings().nested.extra);
        }
    }

    /// Time passes until `end`, and everything happens that comes until then.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.coming.first_key_value().map(|(key, _)| *key);
            let wake = self.pools.iter().filter_map(Pool::next_wake).min();
            match (next, wake) {
                (Some((at, _)), _) if at <= end && wake.is_none_or(|wake| at <= wake) => {
                    self.now = self.now.max(at);
                    let (_, coming) = self.coming.pop_first().expect("it was just seen");
                    self.happen(coming);
                }
                (_, Some(at)) if at <= end => {
                    self.now = self.now.max(at);
                    for pool in 0..self.pools.len() {
                        self.tell(pool, Event::Tick);
                    }
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Some worker that has a call dies.
    fn kill(&mut self) {
        let mut running: Vec<_> =
            self.tasks.values().filter_map(|task| Some((task.pool, task.worker?))).collect();
        running.sort_unstable();
        if !running.is_empty() {
            let index = usize::try_from(self.below(running.len() as u64)).unwrap();
            let (pool, worker) = running[index];
            self.happen(Coming::Death(pool, worker));
        }
    }

    /// Everything ends, and nothing is left of it.
    fn rest(&mut self) {
        self.pass(Duration::from_secs(1800));
        assert!(self.tasks.is_empty(), "these never end: {:?}", self.tasks);
        assert!(self.nesting.is_empty(), "{:?}", self.nesting);
        for pool in &self.pools {
            assert_eq!((0, 0), (pool.extra(), pool.waiting_calls()), "nothing is left");
            assert_eq!(None, pool.next_wake(), "an idle pool sleeps");
        }
    }
}

#[test]
fn a_nested_call_is_given_a_worker_beyond_the_size_and_that_goes_again_f055() {
    let mut world = World::new(1, &[(1, 1)], 0);
    world.pass(100 * MILLI);
    world.send(None, 0);
    let call = CallKey(world.last - 1);
    assert!(world.tasks.contains_key(&call), "{:?}", world.tasks);
    world.tasks.get_mut(&call).unwrap().rounds = 1;
    world.pass(10 * MILLI);
    assert_eq!((1, 1), (world.pools[0].extra(), world.pools[0].waiting_calls()));
    assert!(world.pools[0].stands_still(), "the nested call waits for a start");
    world.pass(1000 * MILLI);
    assert_eq!(0, world.refused);
    assert!(world.tasks.is_empty());
    let clock = world.pools[0].stood_still(world.now);
    assert!((90 * MILLI..=110 * MILLI).contains(&clock), "both starts: {clock:?}");
    assert_eq!(2, world.pools[0].workers().count(), "it is kept for a while");
    world.rest();
    assert_eq!(1, world.pools[0].workers().count());
}

#[test]
fn what_is_not_nested_gets_no_freed_place() {
    let worker = WorkerId { slot: 0, generation: 1 };
    let (now, call) = (Instant::now(), CallKey(9_000));
    let deadline = now + DEADLINE;
    let arrival = |call, nested| Event::CallArrived {
        call,
        deadline,
        caller: Caller(1),
        priority: 0,
        retry: Retry::default(),
        nested,
    };
    let mut pool = Pool::new(settings(1, 4, 1));
    let mut effects = Vec::new();
    pool.handle(now, Event::Start, &mut effects);
    pool.handle(now, Event::Ready { worker }, &mut effects);
    pool.handle(now, arrival(call, false), &mut effects);
    pool.handle(now, Event::Waits { worker, call, waits: true }, &mut effects);
    effects.clear();
    pool.handle(now, arrival(CallKey(9_001), false), &mut effects);
    assert!(effects.is_empty(), "it waits until the first is done: {effects:?}");
    pool.handle(now, arrival(CallKey(9_002), true), &mut effects);
    let extra = WorkerId { slot: 1, generation: 1 };
    assert_eq!(vec![Effect::Launch { worker: extra }], effects);
    effects.clear();
    pool.handle(now, Event::Ready { worker: extra }, &mut effects);
    let assigned = Effect::Assign { worker: extra, call: CallKey(9_002) };
    assert_eq!(vec![assigned], effects, "it goes ahead of the one that came before it");
}

/// Two calls in two pools of one worker each call the other pool: no chain goes in a circle, but
/// without free places both would wait for ever.
#[test]
fn a_circle_of_two_chains_is_broken_f055() {
    for (extra, refused) in [(1, 0), (0, 1)] {
        let mut world = World::new(1, &[(1, extra), (1, extra)], 0);
        world.pass(100 * MILLI);
        for pool in 0..2 {
            world.send(None, pool);
        }
        let calls: Vec<_> = world.tasks.iter().map(|(call, task)| (*call, task.pool)).collect();
        for (call, pool) in calls {
            world.send(Some(call), 1 - pool);
        }
        world.pass(1000 * MILLI);
        assert_eq!((refused, 4), (world.refused, world.done), "extra = {extra}");
        world.rest();
    }
}

/// Layers that never call back queue up as any calls do; none is refused.
#[test]
fn layers_wait_for_one_another_and_are_not_refused() {
    let mut world = World::new(1, &[(16, 0), (1, 0), (1, 0)], 0);
    world.pass(100 * MILLI);
    for _ in 0..16 {
        world.send(None, 0);
    }
    let outer: Vec<_> = world.tasks.keys().copied().collect();
    for call in outer {
        world.send(Some(call), 1);
        let inner = world.tasks.iter().find(|(_, task)| task.pool == 1 && task.worker.is_some());
        let (inner, task) = inner.expect("the first runs");
        if task.awaited == 0 {
            let inner = *inner;
            world.send(Some(inner), 2);
        }
    }
    world.pass(1000 * MILLI);
    assert_eq!((0, 33), (world.refused, world.done));
    world.rest();
}

#[test]
fn whatever_calls_whatever_every_call_ends_f055() {
    let first = std::env::var("CLUTCH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..300, |first| first..first + 1);
    let (mut refused, mut done) = (0, 0);
    for seed in seeds {
        let lived = std::panic::catch_unwind(|| {
            let mut dice = Dice::new(seed);
            let mut below = |bound: u64| u32::try_from(dice.roll() % bound).unwrap();
            let count = 1 + below(3);
            let mut size =
                || (1 + below(3), below(4), if below(2) == 0 { 1 } else { 1 + below(4) });
            let sizes: Vec<_> = (0..count).map(|_| size()).collect();
            let mut world = World::with_lanes(seed, &sizes, 1 + below(5));
            let deaths = seed % 2 == 1;
            for _ in 0..30 {
                let pool = usize::try_from(world.below(u64::from(count))).unwrap();
                world.send(None, pool);
                if deaths && world.below(4) == 0 {
                    world.kill();
                }
                let step = world.below(60);
                world.pass(Duration::from_millis(step));
            }
            world.rest();
            (world.refused, world.done)
        });
        let Ok((r, d)) = lived else {
            panic!("seed {seed}; CLUTCH_SEED={seed} runs this world alone");
        };
        (refused, done) = (refused + r, done + d);
    }
    assert!(first.is_some() || refused > 0 && done > 2 * refused, "{refused} of {done} refused");
}
