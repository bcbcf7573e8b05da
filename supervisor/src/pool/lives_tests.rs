//! Years of random trouble, with seeds: what must hold of a pool whatever happens, and that it
//! comes back to its full strength when the trouble ends.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::pool::lanes::Held;
use crate::pool::standing::Opening;

/// More workers than any life has at once: four, two spares, two for nested calls, and two being
/// replaced, each of which may have a predecessor that is being interrupted; and, where they have
/// lanes, as many that would not give up a call as others run in them.
const WORKERS_MAX: usize = 44;

/// What the outside world can tell at any time.
#[derive(Default)]
struct Model {
    owed: BTreeMap<u64, Instant>,
    alive: BTreeSet<WorkerId>,
    ready: BTreeSet<WorkerId>,
    has: BTreeSet<(WorkerId, u64)>,
    lanes: BTreeMap<WorkerId, usize>,
    /// How many lanes workers have by the newest settings, and the most they ever had.
    lanes_now: usize,
    lanes_max: usize,
    told_to_go: BTreeSet<WorkerId>,
    halted: BTreeSet<WorkerId>,
    unswept: Vec<WorkerId>,
    dumping: Vec<WorkerId>,
    next_call: u64,
    at_once_max: usize,
}

impl Model {
    fn follow(&mut self, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Effect::Launch { worker } => {
                    assert!(self.alive.insert(worker), "{worker:?} was started twice");
                    self.lanes.insert(worker, self.lanes_now);
                }
                Effect::Assign { worker, call } => {
                    assert!(self.ready.contains(&worker), "{worker:?} cannot take a call");
                    assert!(self.owed.contains_key(&call.0), "an answered call was given away");
                    let is_leaving = self.told_to_go.contains(&worker);
                    assert!(!is_leaving, "a leaving worker was given a call");
                    assert!(!self.halted.contains(&worker), "a stopped worker was given a call");
                    let is_elsewhere = self.has.iter().any(|(_, has)| *has == call.0);
                    assert!(!is_elsewhere, "a call runs once at a time");
                    self.has.insert((worker, call.0));
                    let lanes = self.lanes[&worker];
                    assert!(self.calls_of(worker).len() <= lanes, "a full worker got a call");
                }
                Effect::Settle { call, .. } => {
                    assert!(self.owed.remove(&call.0).is_some(), "{call:?} was answered twice");
                }
                Effect::Terminate { worker }
                | Effect::Kill { worker }
                | Effect::Retire { worker } => {
                    self.told_to_go.insert(worker);
                }
                Effect::Warn { worker, call } | Effect::Interrupt { worker, call } => {
                    assert!(self.has.contains(&(worker, call.0)), "the wrong call was hit");
                }
                Effect::DumpStack { worker } => self.dumping.push(worker),
                Effect::Abandon { .. } | Effect::Drained => {}
            }
        }
    }

    fn dies(&mut self, worker: WorkerId) {
        self.alive.remove(&worker);
        self.ready.remove(&worker);
        self.has.retain(|(at, _)| *at != worker);
        self.halted.remove(&worker);
        self.unswept.push(worker);
    }

    fn calls_of(&self, worker: WorkerId) -> Vec<u64> {
        self.has.iter().filter(|(at, _)| *at == worker).map(|(_, call)| *call).collect()
    }
}

/// One life: a pool, its outside world, and what decides what happens.
struct Life {
    world: World,
    model: Model,
    dice: Dice,
}

impl Life {
    fn new(seed: u64) -> Life {
        let mut dice = Dice::new(seed);
        let settings = some_settings(&mut dice);
        let world = World::of(settings);
        let at_once_max = settings.replace.at_once as usize;
        let lanes = settings.lanes as usize;
        let (lanes_now, lanes_max) = (lanes, lanes);
        let model = Model { at_once_max, lanes_now, lanes_max, ..Model::default() };
        let mut life = Life { model, world, dice };
        life.tell(Event::Start);
        life
    }

    fn tell(&mut self, event: Event) {
        let before = self.running();
        let effects = self.world.tell(event);
        self.model.follow(&effects);
        self.check(before);
    }

    /// Calls that somebody waits for, in workers that are up.
    fn running(&self) -> usize {
        let up = self.world.pool.workers().filter(|worker| worker.state.is_up());
        up.flat_map(|worker| worker.calls).filter(|held| held.is_running()).count()
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.dice.roll() % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = usize::try_from(self.dice.roll()).unwrap() % from.len().max(1);
        from.get(at).copied()
    }

    /// What must hold after every event.
    fn check(&self, before: usize) {
        let pool = &self.world.pool;
        check_books(pool);
        assert_eq!(self.model.owed.len(), pool.calls().len(), "both sides owe the same");
        let size = pool.size() as usize;
        let extra = pool.settings().nested.extra as usize;
        let lanes = pool.settings().lanes as usize;
        let most = if pool.waiting_calls() > 0 { size + extra } else { size };
        let (running, most_calls) = (self.running(), most * lanes);
        assert!(running <= most_calls.max(before), "{running} of {most_calls} run");
        // What a smaller pool has no slot for any more only finishes its call.
        let is_surplus = |worker: &WorkerView<'_>| {
            let is_interrupted = worker.name() == "interrupting"
                && pool.slots[worker.id.slot as usize].current != Some(worker.id.generation)
                && !pool.swaps.contains(&worker.id);
            let is_left = worker.state == WorkerState::Retiring(StopCause::Surplus);
            is_left || is_interrupted || worker.state == WorkerState::CONDEMNED
        };
        let counted = pool.workers().filter(|worker| {
            let lives = worker.state.is_up() || worker.state == WorkerState::Starting;
            lives && !is_surplus(worker)
        });
        let (counted, wanted) = (counted.count(), pool.workers_wanted() as usize);
        assert!(counted <= wanted + self.model.at_once_max, "{counted} for {wanted}");
        // Calls that were with workers may come back to a full queue, whatever became of these.
        let queue = pool.settings().queue as usize + WORKERS_MAX * self.model.lanes_max;
        assert!(pool.calls().held() <= queue, "the queue has a limit");
        let is_waiting = pool.calls().waiting() > 0 && pool.standing.assigns();
        let is_free = |worker: &WorkerView<'_>| {
            let has_room = worker.calls.len() < worker.lanes as usize;
            worker.state == WorkerState::Up && !worker.halted && has_room
        };
        let has_lane = || pool.workers().any(|worker| is_free(&worker));
        if is_waiting && running < size * lanes {
            assert!(!has_lane(), "a call waits while a lane is free: {pool:#?}");
        }
        let at_work = running - pool.waiting_calls() as usize;
        let has_place = at_work < size * lanes && running < (size + extra) * lanes;
        if is_waiting && pool.calls().nested_waiting() > 0 && has_place {
            assert!(!has_lane(), "a nested call waits while a lane is free: {pool:#?}");
        }
        if is_waiting {
            let is_moving = |worker: WorkerView<'_>| {
                let is_retiring = matches!(worker.state, WorkerState::Retiring(_));
                worker.state == WorkerState::Starting || is_retiring || worker.has_call()
            };
            let slots = 0..pool.slot_count();
            let is_coming = pool.workers().any(is_moving)
                || pool.is_halted_whole()
                || slots.into_iter().any(|s| pool.timers.due(Timer::Backoff(s)).is_some());
            assert!(is_coming, "a call waits and nothing will happen: {pool:#?}");
        }
        if let PoolState::CrashLoop { .. } = pool.state() {
            assert_eq!(0, pool.calls().held(), "nobody waits in a crash loop");
            let is_probing = pool.timers.due(Timer::Probe).is_some() || pool.starting > 0;
            assert!(is_probing, "a crash loop is left by itself: {pool:#?}");
        }
    }

    /// Something that can really happen now.
    fn trouble(&mut self) -> Option<Event> {
        let alive: Vec<_> = self.model.alive.iter().copied().collect();
        let worker = self.pick(&alive);
        match self.below(34) {
            0..8 => Some(self.arrival()),
            8..11 => {
                let worker = worker.filter(|worker| !self.model.ready.contains(worker))?;
                self.model.ready.insert(worker);
                Some(Event::Ready { worker })
            }
            11..17 => self.answer(),
            17 | 18 => {
                let worker = worker?;
                let calls = self.model.calls_of(worker).into_iter().map(CallKey);
                let begun = calls.filter(|_| self.below(4) > 0).collect();
                self.model.dies(worker);
                Some(Event::Died { worker, begun: Begun::Only(begun) })
            }
            19 | 20 => self.model.unswept.pop().map(|worker| Event::Gone { worker }),
            21 => {
                let call = CallKey(1 + self.below(self.model.next_call + 1));
                Some(Event::CallCancelled { call })
            }
            22 => worker.map(|worker| Event::Doomed { worker, cause: StopCause::Protocol }),
            23 => {
                let causes = [ReplaceCause::Memory, ReplaceCause::OwnRequest, ReplaceCause::Reload];
                let cause = self.pick(&causes)?;
                worker.map(|worker| Event::Outworn { worker, cause })
            }
            24 | 25 => self.model.dumping.pop().map(|worker| Event::StackDumped { worker }),
            26 => self.order(),
            30 | 31 => {
                self.model.halted.insert(worker?);
                worker.map(|worker| Event::Halted { worker })
            }
            32 => {
                let halted: Vec<_> = self.model.halted.iter().copied().collect();
                let worker = self.pick(&halted)?;
                self.model.halted.remove(&worker);
                Some(Event::Resumed { worker })
            }
            27..30 => {
                let (worker, waits) = (worker?, self.below(3) > 0);
                let call = CallKey(self.pick(&self.model.calls_of(worker))?);
                Some(Event::Waits { worker, call, waits })
            }
            _ => self.undeliver(worker?),
        }
    }

    fn arrival(&mut self) -> Event {
        self.model.next_call += 1;
        let call = self.model.next_call;
        let deadline = self.world.now + Duration::from_millis(300 + self.below(3000));
        self.model.owed.insert(call, deadline);
        let caller = Caller(self.below(4));
        let priority = i8::try_from(self.below(3)).unwrap() - 1;
        let mut retry = Retry::default();
        if self.below(2) == 0 {
            retry.attempts = 1 + u32::try_from(self.below(4)).unwrap();
            retry.on_death = self.below(2) == 0;
            retry.on_timeout = self.below(2) == 0;
            retry.backoff = Duration::from_millis(self.below(3) * 50);
            let timeout = Duration::from_millis(50 + self.below(300));
            retry.attempt_timeout = (self.below(2) == 0).then_some(timeout);
        }
        let nested = self.below(3) == 0;
        Event::CallArrived { call: CallKey(call), deadline, caller, priority, retry, nested }
    }

    /// A worker answers, well or badly.
    fn answer(&mut self) -> Option<Event> {
        let busy: Vec<_> = self.model.has.iter().copied().collect();
        let (worker, call) = self.pick(&busy)?;
        self.model.has.remove(&(worker, call));
        let pool = &self.world.pool;
        let key = CallKey(call);
        // As the dispatcher does it: what a worker says that was told to go is late, and what a
        // caller wants to be tried again is not told to it.
        if !pool.expects(worker, key) {
            return None;
        }
        let may_retry = pool.may_retry(self.world.now, key) || pool.is_attempt_over(key);
        if may_retry && self.below(2) == 0 {
            return Some(Event::AttemptFailed { worker, call: key });
        }
        self.model.owed.remove(&call);
        Some(Event::Answered { worker, call: key })
    }

    fn undeliver(&mut self, worker: WorkerId) -> Option<Event> {
        let call = CallKey(self.pick(&self.model.calls_of(worker))?);
        let state = self.world.pool.worker_state(worker);
        if state != Some(WorkerState::Up) || !self.world.pool.runs(worker, call) {
            return None;
        }
        self.model.has.remove(&(worker, call.0));
        Some(Event::Undelivered { worker, call })
    }

    fn order(&mut self) -> Option<Event> {
        if self.below(4) == 0 {
            let settings = some_settings(&mut self.dice);
            let at_once = settings.replace.at_once as usize;
            self.model.at_once_max = self.model.at_once_max.max(at_once);
            let lanes = settings.lanes as usize;
            self.model.lanes_now = lanes;
            self.model.lanes_max = self.model.lanes_max.max(lanes);
            let replace = self.below(2) == 0;
            return Some(Event::Reconfigured { settings: Box::new(settings), replace });
        }
        let max = 1 + u32::try_from(self.below(4)).unwrap();
        let min = u32::try_from(self.below(u64::from(max) + 1)).unwrap();
        let resize = Order::Resize { min, max };
        let orders = [Order::Pause, Order::Resume, Order::Resume, Order::Drain, resize];
        let more = [Order::Recycle, Order::Reset];
        self.pick(&[orders.as_slice(), &more].concat()).map(Event::Operator)
    }

    /// Time passes, and every timer is served when it is due.
    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        let mut ticks = 0;
        while let Some(at) = self.world.pool.next_wake().filter(|at| *at <= end) {
            self.world.now = self.world.now.max(at);
            self.tell(Event::Tick);
            ticks += 1;
            assert!(ticks < 1000, "a timer that is served stays served");
        }
        self.world.now = end;
        let late = self.world.pool.settings().budgets.dump;
        for (call, deadline) in &self.model.owed {
            assert!(*deadline + late > self.world.now, "call {call} is overdue");
        }
    }

    /// No more trouble: everything does what it is asked to do.
    fn peace(&mut self) {
        self.tell(Event::Operator(Order::Resume));
        for worker in std::mem::take(&mut self.model.halted) {
            self.tell(Event::Resumed { worker });
        }
        for _ in 0..600 {
            for worker in self.model.alive.clone() {
                if self.model.told_to_go.contains(&worker) {
                    self.model.dies(worker);
                    self.tell(Event::Died { worker, begun: Begun::All });
                } else if self.model.ready.insert(worker) {
                    self.tell(Event::Ready { worker });
                }
            }
            while let Some(event) = self.answer() {
                self.tell(event);
            }
            for worker in std::mem::take(&mut self.model.dumping) {
                self.tell(Event::StackDumped { worker });
            }
            for worker in std::mem::take(&mut self.model.unswept) {
                self.tell(Event::Gone { worker });
            }
            self.pass(Duration::from_millis(50));
        }
        let pool = &self.world.pool;
        assert_eq!(PoolState::Running, pool.state(), "it is mended by itself");
        assert!(self.model.owed.is_empty(), "nobody waits: {:?}", self.model.owed);
        let size = pool.settings().size;
        assert!((size.min..=size.max).contains(&pool.size()));
        assert_eq!(pool.workers_wanted(), pool.filled, "it has its full strength");
        let up = pool.workers().filter(|worker| worker.state.is_up()).count();
        assert!(up >= pool.workers_wanted() as usize, "its workers are ready");
        assert_eq!(0, pool.outworn_left(), "every recycling ends");
        let left = (pool.extra, pool.waiting_calls());
        assert_eq!((0, 0), left, "nothing is left of nested calls");
        let replace = pool.settings().replace;
        if size.min == size.max && replace.max_age.is_none() && replace.max_idle.is_none() {
            assert_eq!(None, pool.next_wake(), "an idle pool sleeps: {:?}", pool.timers);
        }
    }

    /// The end of the pool: nothing is left of it.
    fn end(mut self) {
        self.tell(Event::KillAll);
        assert!(self.model.owed.is_empty(), "unanswered at the end: {:?}", self.model.owed);
        for worker in std::mem::take(&mut self.model.alive) {
            self.model.dies(worker);
            self.tell(Event::Died { worker, begun: Begun::All });
        }
        for worker in std::mem::take(&mut self.model.unswept) {
            self.tell(Event::Gone { worker });
        }
        let pool = &self.world.pool;
        assert!(pool.calls().is_empty() && pool.workers().next().is_none());
        assert!(pool.drained && pool.next_wake().is_none(), "{:?}", pool.timers);
    }
}

/// What the pool keeps beside its workers' states agrees with them.
fn check_books(pool: &Pool) {
    let count = |wanted: &dyn Fn(&Worker) -> bool| {
        u32::try_from(pool.workers.values().filter(|worker| wanted(worker)).count()).unwrap()
    };
    let mut tally = Tally::default();
    for worker in pool.workers.values() {
        tally.replace(Tally::default(), Tally::of(worker));
    }
    assert_eq!(tally, pool.tally);
    assert_eq!(pool.tally.up, count(&|worker| worker.state.is_up()));
    for lanes in pool.workers.values().map(|worker| &worker.lanes) {
        let waiting = lanes.held().iter().filter(|held| held.waits);
        assert!(waiting.clone().all(Held::is_running), "what waits runs");
        let running = lanes.held().iter().filter(|held| held.is_running());
        let counted = (running.count(), waiting.count());
        assert_eq!(counted, (lanes.running() as usize, lanes.waiting() as usize));
    }
    assert!(pool.extra <= pool.settings().nested.extra, "extra workers are bounded");
    let is_starting = |w: &Worker| w.state == WorkerState::Starting && !w.is_successor;
    assert_eq!(pool.starting, count(&is_starting));
    let active: Vec<_> = (0..).zip(&pool.slots).filter(|(_, slot)| slot.is_active).collect();
    let filled = active.iter().filter(|(_, slot)| slot.current.is_some()).count();
    assert_eq!(pool.filled as usize, filled);
    if pool.standing.opening != Opening::Ending {
        assert_eq!(pool.workers_wanted() as usize, active.len(), "slots are as many as wanted");
    }
    let mut open: Vec<_> = pool.room.idle().iter().copied().chain(pool.room.shared()).collect();
    open.sort_unstable();
    let is_open = |worker: &Worker| {
        let has_room = worker.lanes.load() < worker.lanes.count();
        worker.state == WorkerState::Up && !worker.halted && has_room
    };
    let wanted = pool.workers.iter().filter(|(_, worker)| is_open(worker)).map(|(id, _)| *id);
    assert_eq!(wanted.collect::<Vec<_>>(), open, "who is free stands for the next call");
    for worker in pool.room.idle() {
        assert!(pool.workers[worker].lanes.is_empty());
    }
    for (id, _) in pool.workers.iter().filter(|(_, it)| it.state == WorkerState::Up) {
        assert_eq!(Some(id.generation), pool.slots[id.slot as usize].current);
    }
    for (slot, place) in active {
        let successor = place.successor.map(|generation| WorkerId { slot, generation });
        if let Some(successor) = successor {
            assert_eq!(Some(WorkerState::Starting), pool.worker_state(successor));
        }
    }
    assert!(pool.swaps.len() <= 3, "{:?}", pool.swaps);
}

fn some_settings(dice: &mut Dice) -> Settings {
    let mut below = |bound: u64| u32::try_from(dice.roll() % bound).unwrap();
    let max = 1 + below(4);
    let min = if below(2) == 0 { max } else { below(u64::from(max) + 1) };
    let mut settings = settings(max, 5);
    settings.size.min = min;
    settings.lanes = if below(2) == 0 { 1 } else { 1 + below(4) };
    settings.size.spares = below(3);
    settings.scale.down_after = Duration::from_millis(500);
    settings.starts_at_once = 1 + below(4);
    settings.nested.extra = below(3);
    settings.restart.backoff_max = SECOND;
    let millis = |value: u32| Duration::from_millis(u64::from(value));
    settings.replace.max_calls = (below(3) == 0).then_some(3);
    settings.replace.max_age = (below(3) == 0).then_some(2 * SECOND);
    settings.replace.max_idle = (below(3) == 0).then_some(SECOND);
    settings.replace.at_once = 1 + below(2);
    settings.budgets.cooperate = millis(below(2) * 30);
    settings.budgets.start = millis(500);
    settings.budgets.grace = millis(200);
    settings
}

/// Every accepted call gets exactly one answer, none later than its deadline and the time for its
/// stacks; and afterwards the pool is what it was.
#[test]
fn years_of_trouble_lose_no_call_and_answer_none_twice() {
    let first = std::env::var("CLUTCH_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..250, |first| first..first + 1);
    for seed in seeds {
        let lived = std::panic::catch_unwind(|| {
            let mut life = Life::new(seed);
            for _ in 0..400 {
                if let Some(event) = life.trouble() {
                    life.tell(event);
                }
                let step = life.below(120);
                life.pass(Duration::from_millis(step));
            }
            life.peace();
            life.end();
        });
        assert!(lived.is_ok(), "seed {seed}; CLUTCH_SEED={seed} runs this life alone");
    }
}
