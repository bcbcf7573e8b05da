//! Pools that change while the daemon runs: new recipes, new pools, pools that go.
//!
//! A pool keeps its place in the list for life. One that was removed stays as a tombstone, which
//! the next new pool takes over.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use clutch_protocol::failure::Certificate;
use clutch_protocol::message::WorkerId;
use tokio::sync::futures::Notified;

use super::core::Core;
use super::dispatcher::{Dispatcher, FirstStart, PoolParts, PoolState};
use crate::config;
use crate::pool::{Event, Order, PoolState as Phase, ReplaceCause, Settings, WorkerState};
use crate::prepare::Ingredients;
use crate::worker::launch::Recipe;
use crate::worker::spawner::PoolIndex;

/// Whether a pool's workers have to be others from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workers {
    /// They may stay.
    Stay,
    /// Each is replaced, the new one first.
    Replaced,
}

/// What a pool is made of now; kept to go back to.
#[derive(Clone, Debug)]
pub(crate) struct Make {
    pub(crate) config: config::Pool,
    /// None when its interpreter cannot be used.
    pub(crate) recipe: Option<Rc<Recipe>>,
    pub(crate) ingredients: Ingredients,
    pub(crate) settings: Settings,
    edition: u64,
    /// The newest death of what was made so.
    last_death: Option<Certificate>,
}

/// How far a pool is with becoming what it was told to be.
#[derive(Debug)]
pub(crate) enum Turnover {
    /// Every worker is of the newest edition.
    Complete,
    /// So many are not.
    Left(u32),
    /// A worker of the newest edition did not become ready.
    Failed(Box<Certificate>),
}

impl Core {
    /// The pools that take calls, by name.
    pub(crate) fn makes(&self) -> BTreeMap<String, (PoolIndex, Make)> {
        self.with(|dispatcher| {
            let named = dispatcher.by_name.iter();
            named.map(|(name, at)| (name.clone(), (*at, dispatcher.pools[at.0].make()))).collect()
        })
    }

    /// Whether the daemon is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        self.with(|dispatcher| dispatcher.stopping)
    }

    /// A pool is made differently from now on. Gives how many workers have to be replaced.
    pub(crate) fn remake(
        &self,
        pool: PoolIndex,
        (config, recipe, ingredients): (config::Pool, Option<Rc<Recipe>>, Ingredients),
        settings: Settings,
        workers: Workers,
    ) -> u32 {
        let old = self.with(|dispatcher| {
            let state = dispatcher.pool(pool);
            let mut edition = state.edition;
            if workers == Workers::Replaced {
                state.last_edition += 1;
                edition = state.last_edition;
            }
            let last_death = state.last_death.clone();
            let make = Make { config, recipe, ingredients, settings, edition, last_death };
            dispatcher.become_made(pool, make);
            dispatcher.old_workers(pool)
        });
        self.rearm_watch();
        if workers == Workers::Replaced {
            self.forget_search(pool);
        }
        let replace = workers == Workers::Replaced;
        self.tell(pool, Event::Reconfigured { settings: Box::new(settings), replace });
        self.unstick_all();
        if !replace {
            self.wear_out(pool, &old);
        }
        self.deal_with_all_stopped(pool);
        u32::try_from(old.len()).expect("workers are few")
    }

    /// A pool becomes what it was again: only workers that were made meanwhile are replaced.
    pub(crate) fn unmake(&self, pool: PoolIndex, make: Make) {
        let settings = Box::new(make.settings);
        let meanwhile = self.with(|dispatcher| {
            dispatcher.become_made(pool, make);
            dispatcher.old_workers(pool)
        });
        self.rearm_watch();
        self.forget_search(pool);
        self.tell(pool, Event::Reconfigured { settings, replace: false });
        self.unstick_all();
        self.wear_out(pool, &meanwhile);
        self.deal_with_all_stopped(pool);
    }

    /// A replacement does not succeed: the workers that there are stay.
    pub(crate) fn call_off(&self, pool: PoolIndex) {
        let settings = self.with(|dispatcher| {
            let state = dispatcher.pool(pool);
            state.failed_start = None;
            for worker in state.workers.values_mut() {
                worker.edition = state.edition;
            }
            Box::new(*state.policy.settings())
        });
        self.tell(pool, Event::Reconfigured { settings, replace: false });
    }

    fn wear_out(&self, pool: PoolIndex, workers: &[WorkerId]) {
        for worker in workers {
            let (worker, cause) = (*worker, ReplaceCause::Reload);
            self.tell(pool, Event::Outworn { worker, cause });
        }
    }

    /// How far a pool is.
    pub(crate) fn turnover(&self, pool: PoolIndex) -> Turnover {
        self.with(|dispatcher| {
            if let Some(certificate) = &dispatcher.pools[pool.0].failed_start {
                return Turnover::Failed(Box::new(certificate.clone()));
            }
            match u32::try_from(dispatcher.old_workers(pool).len()).expect("workers are few") {
                0 if dispatcher.is_first_starting(pool) => Turnover::Left(1),
                0 => Turnover::Complete,
                left => Turnover::Left(left),
            }
        })
    }

    /// How a new pool's first start went, as far as it is known.
    pub(crate) fn first_start(&self, pool: PoolIndex) -> FirstStart {
        self.with(|dispatcher| dispatcher.pools[pool.0].first_start.clone())
    }

    /// The pools whose workers do not live.
    pub(crate) fn broken_pools(&self) -> Vec<String> {
        self.with(|dispatcher| {
            let pools = dispatcher.pools.iter().filter(|pool| !pool.removed);
            let is_broken =
                |pool: &&PoolState| matches!(pool.policy.state(), Phase::CrashLoop { .. });
            pools.filter(is_broken).map(|pool| pool.config.name.clone()).collect()
        })
    }

    /// What these pools have not got is tried again now, as if an operator said so.
    pub(crate) fn try_anew<'a>(&self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            let pool = self.with(|dispatcher| {
                let pool = dispatcher.by_name.get(name).copied()?;
                dispatcher.pool(pool).failed_build = None;
                Some(pool)
            });
            if let Some(pool) = pool {
                self.tell(pool, Event::Operator(Order::Reset));
            }
        }
    }

    /// The daemon's own settings.
    pub(crate) fn daemon(&self) -> config::Daemon {
        self.with(|dispatcher| dispatcher.daemon.clone())
    }

    /// The daemon's own settings are others from now on.
    pub(crate) fn set_daemon(&self, daemon: config::Daemon) {
        self.with(|dispatcher| dispatcher.daemon = daemon);
    }

    /// The longest grace of any pool.
    pub(crate) fn grace_max(&self) -> std::time::Duration {
        self.with(|dispatcher| {
            let graces = dispatcher.pools.iter().map(|pool| pool.config.limits.grace);
            graces.max().unwrap_or_default()
        })
    }

    /// Starts a pool that was not there.
    pub(crate) fn add_pool(&self, parts: PoolParts) -> PoolIndex {
        let pool = self.with(|dispatcher| {
            let pool = dispatcher.place(parts);
            dispatcher.watch_anew();
            pool
        });
        self.tell(pool, Event::Start);
        self.rearm_watch();
        pool
    }

    /// A pool takes no calls any more from now on; it goes when it has finished those it has.
    pub(crate) fn remove_pool(&self, name: &str) {
        let removed = self.with(|dispatcher| {
            let pool = dispatcher.by_name.remove(name)?;
            dispatcher.pool(pool).removed = true;
            Some(pool)
        });
        if let Some(pool) = removed {
            // Nobody can resume it any more, and its calls are still to be finished.
            self.tell(pool, Event::Operator(Order::Resume));
            self.dismiss_when_done(pool);
        }
    }

    /// Ends a removed pool that owes no answer any more.
    pub(crate) fn dismiss_when_done(&self, pool: PoolIndex) {
        let is_done = self.with(|dispatcher| {
            let state = dispatcher.pool(pool);
            let draining = state.policy.state() == Phase::Draining;
            state.removed && !draining && state.policy.calls().is_empty()
        });
        if is_done {
            // Nothing runs, so there is nothing to be patient with.
            self.tell(pool, Event::Drain { until: Instant::now() });
        }
    }

    /// Told when a start, a death or an end may have brought something forward.
    pub(crate) fn progress(&self) -> Notified<'_> {
        self.progress_notify().notified()
    }
}

impl PoolState {
    fn make(&self) -> Make {
        Make {
            config: self.config.clone(),
            recipe: self.recipe.clone(),
            ingredients: self.ingredients.clone(),
            settings: *self.policy.settings(),
            edition: self.edition,
            last_death: self.last_death.clone(),
        }
    }

    fn become_made(&mut self, make: Make) {
        self.config = make.config;
        self.recipe = make.recipe;
        self.ingredients = make.ingredients;
        self.edition = make.edition;
        self.failed_start = None;
        self.last_death = make.last_death;
    }

    /// Whether nothing is left of it but its place.
    pub(super) fn is_tombstone(&self) -> bool {
        self.removed && self.drained
    }
}

impl Dispatcher {
    /// A pool is made differently; when to look at workers, and what they may hold, follows from
    /// that.
    fn become_made(&mut self, pool: PoolIndex, make: Make) {
        let bound = |dispatcher: &Dispatcher| dispatcher.pools[pool.0].config.memory.kill_above;
        let before = bound(self);
        self.pool(pool).become_made(make);
        if bound(self) != before {
            self.bound_anew(pool);
        }
        self.watch_anew();
    }

    /// The workers that may still take calls, and are of another edition than the newest.
    fn old_workers(&self, pool: PoolIndex) -> Vec<WorkerId> {
        let state = &self.pools[pool.0];
        let views = state.policy.workers();
        let working =
            views.filter(|v| !matches!(v.state, WorkerState::Stopping(_) | WorkerState::Dead));
        let is_of_this = |id: &WorkerId| {
            state.workers.get(id).is_some_and(|entry| entry.edition == state.edition)
        };
        working.map(|view| view.id).filter(|id| !is_of_this(id)).collect()
    }

    /// Whether workers are being started while none is ready yet.
    fn is_first_starting(&self, pool: PoolIndex) -> bool {
        let mut views = self.pools[pool.0].policy.workers();
        let is_ready = |state| {
            !matches!(state, WorkerState::Starting | WorkerState::Stopping(_) | WorkerState::Dead)
        };
        let ready = self.pools[pool.0].policy.workers().any(|view| is_ready(view.state));
        !ready && views.any(|view| matches!(view.state, WorkerState::Starting))
    }

    /// Finds a place for a new pool: its own former one, else any that is free, else a new one.
    fn place(&mut self, parts: PoolParts) -> PoolIndex {
        let name = parts.config.name.clone();
        let free = |same: bool| {
            let mut pools = self.pools.iter();
            pools.position(|p| p.is_tombstone() && (!same || p.config.name == name))
        };
        let fresh = PoolState::new(parts);
        let at = match free(true).or_else(|| free(false)) {
            Some(at) => {
                assert!(self.pools[at].workers.is_empty(), "a tombstone has no workers");
                let before = std::mem::replace(&mut self.pools[at], fresh);
                if before.config.name == name {
                    // What is counted only ever grows, and what was printed can still be read.
                    self.pools[at].counters = before.counters;
                    self.pools[at].ring = before.ring;
                    self.pools[at].since = before.since;
                }
                at
            }
            None => {
                self.pools.push(fresh);
                self.pools.len() - 1
            }
        };
        self.by_name.insert(name, PoolIndex(at));
        PoolIndex(at)
    }
}
