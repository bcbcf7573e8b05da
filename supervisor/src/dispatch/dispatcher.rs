//! The dispatcher's state, and how effects are carried out. What callers and workers say is in
//! `call` and `workers`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use clutch_protocol::failure::Certificate;
use clutch_protocol::message::{ImportTime, Signal, WorkerId};
use tokio::task::JoinSet;

use super::call::Call;
use super::core::Core;
use super::counters::Counters;
use super::given::Given;
use super::groups::Counted;
use super::history::History;
use super::logs::Store;
use super::nested::{Address, Token};
use super::reaps::Reaps;
use super::runs::Runs;
use super::search::{Failed, Search};
use super::stacks::StackReply;
use super::watch::Watched;
use crate::cgroup::Group;
use crate::config;
use crate::logs::{Ring, Sink};
use crate::pool::nesting::Nesting;
use crate::pool::{CallKey, Effect, Event, Pool};
use crate::prepare::{Ingredients, Unmade};
use crate::watch::watcher::Watcher;
use crate::worker::launch::Recipe;
use crate::worker::link::Link;
use crate::worker::oom::OomWatch;
use crate::worker::output::{Allowance, READ_BYTES, Tail};
use crate::worker::spawner::{PoolIndex, Spawner};

/// What a dispatcher is made of.
#[derive(Debug)]
pub struct Parts {
    /// The daemon's settings.
    pub daemon: config::Daemon,
    /// Its pools.
    pub pools: Vec<PoolParts>,
    /// Who starts processes.
    pub spawner: Spawner,
    /// Who looks at processes.
    pub watcher: Watcher,
    /// The socket's path, absolute; empty for a private supervisor.
    pub socket: PathBuf,
    /// Why the kernel keeps no bounds of memory for its workers, if it does not.
    pub sampling_because: Option<String>,
}

/// What a pool is made of.
#[derive(Debug)]
pub struct PoolParts {
    /// Its configuration.
    pub config: config::Pool,
    /// How its workers are started, or why that is not known.
    pub make: Result<Recipe, Unmade>,
    /// What a recipe is made of, should there be none yet.
    pub ingredients: Ingredients,
    /// Who decides.
    pub policy: Pool,
}

/// How a pool's first start went.
#[derive(Clone, Debug)]
pub enum FirstStart {
    /// It is not known yet.
    Pending,
    /// A worker is ready; it runs this version of Python.
    Ready(String),
    /// No worker was ever ready, and one has died.
    Failed(Box<Certificate>),
    /// It is not known yet, and will not be for long: its environment is being built.
    Building,
}

/// A worker process, beside what the policy knows of it.
#[derive(Debug)]
pub(super) struct Worker {
    /// How it was made: the pool's recipe may be another one by now. None while its interpreter is
    /// being looked for.
    pub(super) recipe: Option<Rc<Recipe>>,
    /// Which edition of the pool's workers it is of.
    pub(super) edition: u64,
    pub(super) link: Option<Rc<Link>>,
    /// Dropping it ends the link's tasks.
    pub(super) tasks: JoinSet<()>,
    pub(super) born: Instant,
    pub(super) pid: u32,
    pub(super) python: String,
    pub(super) served: u64,
    /// Between which ids all calls are that it was given. They need not come in their order.
    pub(super) calls_had: Option<RangeInclusive<CallKey>>,
    /// The calls it has, the one it was given first first.
    pub(super) given: Vec<Given>,
    pub(super) tail: Tail,
    pub(super) allowance: Allowance,
    /// It broke the protocol: nothing it says is heard any more.
    pub(super) outlaw: bool,
    /// What was to be its interpreter is none; `detail` says why.
    pub(super) has_no_interpreter: bool,
    /// Whether it was ending by itself when it was first to be killed; none if it never was.
    pub(super) was_ending: Option<bool>,
    /// What is known about its failure: a traceback, a fault.
    pub(super) detail: String,
    /// Whether its stacks were asked for and are not all there.
    pub(super) dumping: bool,
    /// Where its start took long: its slowest imports.
    pub(super) imports: Vec<ImportTime>,
    /// How often it was asked.
    pub(super) dumps: u64,
    /// Who wants to see them besides.
    pub(super) stack_readers: Vec<StackReply>,
    /// What user code was doing when a call of its timed out last.
    pub(super) last_stack: String,
    /// What a connection of its processes shows.
    pub(super) token: Token,
    /// How often the kernel had killed for want of memory when it was started.
    pub(super) oom_kills_before: u64,
    /// What was killed in its group before its last call.
    pub(super) counted: Counted,
    /// Its group, where it is in one.
    pub(super) group: Option<Group>,
    /// Why it is in none, if it was to be in one.
    pub(super) group_fault: Option<i32>,
    /// What is known of it from outside.
    pub(super) watched: Watched,
    pub(super) dead: bool,
    /// What is known of its death, once it is dead.
    pub(super) certificate: Option<Box<Certificate>>,
    /// The calls that it had begun then.
    pub(super) died_with: Vec<Given>,
    pub(super) swept: bool,
}

/// A pool, beside what its policy knows.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) config: config::Pool,
    /// None when its interpreter cannot be used, or its environment is not there: every start
    /// looks for it anew, and builds what is missing.
    pub(super) recipe: Option<Rc<Recipe>>,
    pub(super) ingredients: Ingredients,
    /// What is wrong with its interpreter or its declaration, when that is known before its first
    /// start.
    pub(super) known_fault: Option<String>,
    /// The build of its environment that has failed last, if it was tried since nothing changed.
    pub(super) failed_build: Option<Failed>,
    /// Its interpreter is being looked for, or its environment built.
    pub(super) search: Option<Search>,
    /// Workers of another edition than this have to be replaced.
    pub(super) edition: u64,
    pub(super) last_edition: u64,
    pub(super) policy: Pool,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) counters: Counters,
    pub(super) first_start: FirstStart,
    pub(super) last_death: Option<Certificate>,
    pub(super) drained: bool,
    /// Since when its place in the list is its own; what happened there before was another pool's.
    pub(super) since: Instant,
    /// It was taken out of the configuration.
    pub(super) removed: bool,
    /// How a worker of this edition failed to start, if one did.
    pub(super) failed_start: Option<Certificate>,
    /// What its workers have printed and logged.
    pub(super) ring: Ring,
    pub(super) sink: Option<Arc<Sink>>,
    /// When workers that are busy for long are looked at; none while nobody is busy.
    pub(super) liveness_due: Option<Instant>,
}

/// All of it.
#[derive(Debug)]
pub struct Dispatcher {
    pub(super) daemon: config::Daemon,
    /// Where workers' own calls go.
    pub(super) address: Address,
    pub(super) started: Instant,
    pub(super) stopping: bool,
    pub(super) pools: Vec<PoolState>,
    pub(super) by_name: HashMap<String, PoolIndex>,
    pub(super) calls: HashMap<CallKey, Call>,
    pub(super) last_call: u64,
    pub(super) counters: Counters,
    pub(super) clients: u64,
    pub(super) head: Vec<u8>,
    /// What happened lately.
    pub(super) history: History,
    pub(super) store: Store,
    /// Room for one read of a pipe.
    pub(super) pipe_buffer: Vec<u8>,
    pub(super) oom: OomWatch,
    /// Why the kernel keeps no bounds of memory, if it does not.
    pub(super) sampling_because: Option<String>,
    /// Whether that was said.
    pub(super) said_sampling: bool,
    /// When somebody who asked for the status had all workers looked at.
    pub(super) examined: Option<Instant>,
    /// When workers of pools with bounds of memory are weighed.
    pub(super) weighing_due: Option<Instant>,
    pub(super) spawner: Spawner,
    /// Ended guardians that the spawner has not been told about.
    pub(super) reaps: Reaps,
    /// Programs that clients run.
    pub(super) runs: Runs,
    effects: Vec<Effect>,
    pending: VecDeque<(PoolIndex, Event)>,
    /// Which running call waits for which nested ones.
    pub(super) nesting: Nesting,
    /// What pools are still to be told about that.
    pub(super) nested_events: VecDeque<(PoolIndex, Event)>,
}

impl PoolState {
    pub(super) fn new(parts: PoolParts) -> PoolState {
        let (recipe, known_fault) = match parts.make {
            Ok(recipe) => (Some(Rc::new(recipe)), None),
            Err(Unmade::Faulty(fault)) => (None, Some(fault)),
            Err(Unmade::NotThere) => (None, None),
        };
        PoolState {
            config: parts.config,
            recipe,
            ingredients: parts.ingredients,
            known_fault,
            failed_build: None,
            search: None,
            edition: 0,
            last_edition: 0,
            policy: parts.policy,
            workers: BTreeMap::new(),
            counters: Counters::default(),
            first_start: FirstStart::Pending,
            last_death: None,
            drained: false,
            since: Instant::now(),
            removed: false,
            failed_start: None,
            ring: Ring::default(),
            sink: None,
            liveness_due: None,
        }
    }

    fn first_start(&self) -> FirstStart {
        match &self.first_start {
            FirstStart::Pending if self.is_building() => FirstStart::Building,
            known => known.clone(),
        }
    }
}

impl Dispatcher {
    pub(super) fn new(parts: Parts) -> Dispatcher {
        let pools: Vec<_> = parts.pools.into_iter().map(PoolState::new).collect();
        let names = pools.iter().enumerate();
        let by_name = names.map(|(i, pool)| (pool.config.name.clone(), PoolIndex(i))).collect();
        let started = Instant::now();
        Dispatcher {
            daemon: parts.daemon,
            address: Address::at(parts.socket),
            started,
            stopping: false,
            pools,
            by_name,
            calls: HashMap::new(),
            last_call: 0,
            counters: Counters::default(),
            clients: 0,
            head: Vec::new(),
            history: History::new(started),
            store: Store::default(),
            pipe_buffer: vec![0; READ_BYTES],
            oom: OomWatch::new(),
            sampling_because: parts.sampling_because,
            said_sampling: false,
            examined: None,
            weighing_due: Some(Instant::now()),
            spawner: parts.spawner,
            reaps: Reaps::default(),
            runs: Runs::default(),
            effects: Vec::new(),
            pending: VecDeque::new(),
            nesting: Nesting::default(),
            nested_events: VecDeque::new(),
        }
    }

    pub(super) fn pool(&mut self, pool: PoolIndex) -> &mut PoolState {
        &mut self.pools[pool.0]
    }

    pub(super) fn worker(&mut self, pool: PoolIndex, worker: WorkerId) -> Option<&mut Worker> {
        self.pools[pool.0].workers.get_mut(&worker)
    }

    pub(super) fn first_starts(&self) -> Vec<(String, u32, FirstStart)> {
        self.pools
            .iter()
            .map(|p| (p.config.name.clone(), p.config.workers, p.first_start()))
            .collect()
    }

    /// Tells a pool's policy what happened, and carries out what it decides, and what follows from
    /// that, until nothing follows any more.
    pub(super) fn apply(&mut self, core: &Core, now: Instant, pool: PoolIndex, event: Event) {
        self.catch_up_with_reaps();
        let mut next = Some((pool, event));
        while let Some((pool, event)) = next {
            let mut effects = std::mem::take(&mut self.effects);
            self.before(now, pool, &event);
            let prospects = self.foresee(now, pool, &event);
            self.pools[pool.0].policy.handle(now, event, &mut effects);
            for prospect in prospects {
                self.witness(now, pool, prospect);
            }
            for effect in effects.drain(..) {
                self.carry_out(core, now, pool, effect);
            }
            self.effects = effects;
            next = self.pending.pop_front();
        }
    }

    fn carry_out(&mut self, core: &Core, now: Instant, pool: PoolIndex, effect: Effect) {
        self.witness_effect(now, pool, &effect);
        match effect {
            Effect::Assign { worker, call } => {
                self.assign(now, pool, worker, call);
                if self.watch_call(now, pool) {
                    core.rearm_watch();
                }
            }
            Effect::Settle { call, verdict } => self.settle(now, pool, call, verdict),
            Effect::Launch { worker } => self.launch(core, now, pool, worker),
            Effect::Interrupt { worker, call } => {
                let run = self.run_of(pool, worker, call);
                self.order(pool, worker, |link| link.interrupt(run));
            }
            Effect::Warn { worker, call } => {
                self.cancel_nested(call, "the call that waits for it is being ended");
                let run = self.run_of(pool, worker, call);
                self.order(pool, worker, |link| link.warn(run));
            }
            Effect::DumpStack { worker } => self.dump_stack(core, pool, worker),
            Effect::Retire { worker } => self.order(pool, worker, Link::exit),
            Effect::Terminate { worker } => {
                self.order(pool, worker, |link| link.signal(Signal::Terminate));
            }
            Effect::Kill { worker } => {
                self.note_ending(pool, worker);
                self.order(pool, worker, |link| link.signal(Signal::Kill));
                self.give_search_up(pool, worker);
            }
            Effect::Abandon { worker } => {
                tracing::error!(pool = self.pools[pool.0].config.name, %worker,
                    "its guardian does not report; killing the guardian");
                self.order(pool, worker, |link| {
                    link.abandon();
                    Ok(())
                });
            }
            Effect::Drained => {
                self.pool(pool).drained = true;
                core.note_progress();
            }
        }
    }

    /// Gives a worker's link an order. One that cannot be given goes to a worker whose sockets are
    /// gone; its guardian's end, which is watched, settles the rest.
    fn order(
        &mut self,
        pool: PoolIndex,
        worker: WorkerId,
        order: impl FnOnce(&Link) -> Result<(), crate::net::OutboxError>,
    ) {
        let Some(link) = self.worker(pool, worker).and_then(|w| w.link.clone()) else {
            return;
        };
        if order(&link).is_err() {
            self.pool(pool).counters.one("orders_undeliverable");
        }
    }

    /// A follow-up of what is being done now, told to its pool right after it.
    pub(super) fn follow_up(&mut self, pool: PoolIndex, event: Event) {
        self.pending.push_back((pool, event));
    }
}
