//! Starts of a pool whose interpreter cannot be used, or whose environment is not there: each looks
//! for it anew and builds what is missing, on another thread, so that the pool heals when it can.
//!
//! While an environment is built, the starts that wait for it are put off: what bounds them is the
//! build's own limit of time.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clutch_protocol::failure::Cause;
use clutch_protocol::message::WorkerId;

use super::core::Core;
use super::dispatcher::{Dispatcher, FirstStart, PoolState};
use crate::config;
use crate::envs::{Progress, Report, Stage, Wish};
use crate::pool::{Event, StopCause, WorkerState};
use crate::prepare::{PROBE_TIMEOUT, PoolFault};
use crate::worker::launch::Recipe;
use crate::worker::spawner::PoolIndex;

/// What is said of a start that was given up before it was known what to start.
const GIVEN_UP: &str = "its interpreter was still being looked for";

/// The same, while its environment was being built.
const GIVEN_UP_BUILD: &str = "its environment was still being built";

/// How much longer than an environment may take is waited for whoever provides it. They end by
/// themselves, unless a file system does not answer them.
const PROVIDER_SLACK: Duration = Duration::from_secs(30);

/// After a build that failed, so many times as long as it took passes before the next: what fails
/// for good must not keep a processor busy, and probes come as often as `restart.backoff_max` says.
const REST_FACTOR: u32 = 4;

/// But no more than this.
const REST_MAX: Duration = Duration::from_secs(600);

/// A failed build, for as long as no other is tried.
#[derive(Debug)]
pub(super) struct Failed {
    fault: String,
    until: Instant,
}

/// A search for an interpreter, and the workers whose starts wait for its end.
#[derive(Debug)]
pub(super) struct Search {
    waiting: Vec<WorkerId>,
    /// Becomes true when nobody waits any more; it also tells this search from the next.
    cancelled: Arc<AtomicBool>,
    /// How far the environment is that has to be there before.
    progress: Progress,
    /// Until when the starts are put off, since that is not there.
    put_off: Option<Instant>,
    begun: Instant,
}

impl Search {
    /// What is said of a start that waits for it and is given up.
    const fn given_up(&self) -> &'static str {
        if self.put_off.is_some() { GIVEN_UP_BUILD } else { GIVEN_UP }
    }
}

impl PoolState {
    /// Whether its workers are not started since its environment is being built.
    pub(super) fn is_building(&self) -> bool {
        self.search.as_ref().is_some_and(|search| search.put_off.is_some())
    }

    /// When the build that failed is tried again, while that is to come.
    pub(super) fn builds_again(&self, now: Instant) -> Option<Instant> {
        self.failed_build.as_ref().map(|failed| failed.until).filter(|until| now < *until)
    }

    fn note_failed_build(&mut self, fault: &str, took: Duration) {
        let (pool, rest) = (&self.config.name, (took * REST_FACTOR).min(REST_MAX));
        let rest_s = rest.as_secs();
        tracing::error!(pool, reason = fault, rest_s, "the pool has no environment");
        let (fault, until) = (fault.to_owned(), Instant::now() + rest);
        self.failed_build = Some(Failed { fault, until });
    }

    /// How far the environment is that it waits for, or that a reload has built for it.
    pub(super) fn building(&self) -> Option<Report> {
        match &self.search {
            Some(search) if search.put_off.is_some() => Some(search.progress.report()),
            _ => self.ingredients.provider.as_ref()?.keeper.report(&self.config.name),
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Core {
    /// Of every pool's first start, what was known before is used up: the next one looks anew.
    pub(super) fn forget_known_faults(&self) {
        self.with(|dispatcher| {
            for pool in &mut dispatcher.pools {
                pool.known_fault = None;
            }
        });
    }

    /// Whether it is not known how a pool's workers are started.
    pub(crate) fn has_no_recipe(&self, name: &str) -> bool {
        self.with(|dispatcher| {
            let pool = dispatcher.by_name.get(name).copied();
            pool.is_some_and(|pool| dispatcher.pool(pool).recipe.is_none())
        })
    }

    /// What was taken for a pool's interpreter is none. Starts that are under way end, and the next
    /// ones look for it anew.
    pub(crate) fn distrust(&self, name: &str, fault: &str) {
        let doomed = self.with(|dispatcher| dispatcher.distrust(name, fault));
        for (pool, worker) in doomed {
            self.tell(pool, Event::Doomed { worker, cause: StopCause::ChannelLost });
        }
    }

    /// The pool is made differently now: what the search that is under way may find is of no use.
    pub(super) fn forget_search(&self, pool: PoolIndex) {
        let search = self.with(|dispatcher| {
            let state = dispatcher.pool(pool);
            state.failed_build = None;
            state.search.take()
        });
        let Some(mut search) = search else { return };
        self.fail_starts(pool, &std::mem::take(&mut search.waiting), search.given_up());
    }

    fn fail_starts(&self, pool: PoolIndex, workers: &[WorkerId], why: &str) {
        self.with(|dispatcher| {
            for worker in workers {
                dispatcher.launch_failed(pool, *worker, why.to_owned());
            }
        });
        // Told as an event of its own, so that what the failures queued is done now.
        self.tell(pool, Event::Tick);
        self.note_progress();
    }

    /// The environment that a search waits for is at another stage: the starts are put off, or put
    /// off longer.
    fn put_off(&self, pool: PoolIndex, cancelled: &Arc<AtomicBool>, report: &Report) {
        let now = Instant::now();
        let waiting = self.with(|dispatcher| {
            let until = now + dispatcher.patience(pool, report.stage)?;
            let search = dispatcher.pool(pool).search.as_mut();
            let search = search.filter(|search| Arc::ptr_eq(&search.cancelled, cancelled))?;
            search.put_off = Some(until);
            Some((search.waiting.clone(), until))
        });
        let Some((waiting, until)) = waiting else { return };
        for worker in waiting {
            self.tell_at(now, pool, Event::PutOff { worker, until });
        }
        self.note_progress();
    }

    /// The search that knows `cancelled` has come to its end.
    fn searched(
        &self,
        pool: PoolIndex,
        cancelled: &Arc<AtomicBool>,
        found: Result<(config::Pool, Recipe), PoolFault>,
    ) {
        let ended = self.with(|dispatcher| {
            let search = &mut dispatcher.pool(pool).search;
            let is_this = search.as_ref().is_some_and(|s| Arc::ptr_eq(&s.cancelled, cancelled));
            let mut search = search.take_if(|_| is_this)?;
            Some((std::mem::take(&mut search.waiting), search.begun.elapsed()))
        });
        // Without it, nobody waits for its end any more.
        let Some((waiting, took)) = ended else { return };
        match found {
            Ok((config, recipe)) => {
                self.with(|dispatcher| {
                    dispatcher.pool(pool).config.python = config.python;
                    dispatcher.found(pool, &waiting, Rc::new(recipe));
                });
                // So that what followed from it is done now.
                self.tell(pool, Event::Tick);
            }
            Err(fault) => {
                let reason = fault.to_string();
                if let PoolFault::Environment(_) = fault {
                    self.with(|dispatcher| dispatcher.pool(pool).note_failed_build(&reason, took));
                }
                self.fail_starts(pool, &waiting, &reason);
            }
        }
    }
}

impl Dispatcher {
    /// A worker is to be started whose interpreter is not known.
    pub(super) fn search(&mut self, core: &Core, pool: PoolIndex, worker: WorkerId) {
        let state = self.pool(pool);
        let failed = state.failed_build.as_ref().filter(|failed| Instant::now() < failed.until);
        let failed = failed.map(|failed| failed.fault.clone());
        if let Some(fault) = state.known_fault.clone().or(failed) {
            return self.launch_failed(pool, worker, fault);
        }
        if let Some(search) = &mut state.search {
            search.waiting.push(worker);
            if let Some(until) = search.put_off {
                self.follow_up(pool, Event::PutOff { worker, until });
            }
            return;
        }
        let wish = Wish::default();
        let (cancelled, progress) = (wish.cancelled.clone(), wish.progress.clone());
        let waiting = vec![worker];
        let (put_off, begun) = (None, Instant::now());
        state.search = Some(Search { waiting, cancelled, progress, put_off, begun });
        let (ingredients, config) = (state.ingredients.clone(), state.config.clone());
        let core = core.clone();
        tokio::task::spawn_local(async move {
            let mut stages = wish.progress.stages();
            let cancelled = wish.cancelled.clone();
            let mut work = tokio::task::spawn_blocking(move || ingredients.recipe(&config, &wish));
            let found = loop {
                tokio::select! {
                    found = &mut work => break found,
                    Ok(()) = stages.changed() => {
                        let report = stages.borrow_and_update().clone();
                        core.put_off(pool, &cancelled, &report);
                    }
                }
            };
            // It ends without a result only by a fault of its own, which is a panic here as well.
            core.searched(pool, &cancelled, found.expect("a search does not panic"));
        });
    }

    /// How long a pool's environment may stay at a stage; none where nothing has to be built.
    fn patience(&self, pool: PoolIndex, stage: Stage) -> Option<Duration> {
        let builds = || self.pools.iter().map(|pool| pool.config.build.timeout);
        let time = match stage {
            Stage::Looking => return None,
            // It may take its turn after everybody else.
            Stage::Queued => builds().fold(Duration::ZERO, Duration::saturating_add),
            Stage::Waiting | Stage::Building => self.pools[pool.0].config.build.timeout,
        };
        Some(time + PROBE_TIMEOUT + PROVIDER_SLACK)
    }

    /// A worker that is to be killed may have no process yet.
    pub(super) fn give_search_up(&mut self, pool: PoolIndex, worker: WorkerId) {
        let Some(search) = &mut self.pool(pool).search else { return };
        let before = search.waiting.len();
        search.waiting.retain(|waiting| *waiting != worker);
        let (is_in_it, is_over) = (search.waiting.len() < before, search.waiting.is_empty());
        let why = search.given_up();
        if is_over {
            self.pool(pool).search = None;
        }
        if is_in_it {
            self.launch_failed(pool, worker, why.to_owned());
        }
    }

    fn found(&mut self, pool: PoolIndex, waiting: &[WorkerId], recipe: Rc<Recipe>) {
        let state = self.pool(pool);
        state.recipe = Some(recipe.clone());
        tracing::info!(pool = state.config.name, "its interpreter can be used now");
        let until = Instant::now() + state.policy.settings().budgets.start;
        for worker in waiting {
            if let Some(entry) = self.worker(pool, *worker) {
                entry.recipe = Some(recipe.clone());
                self.follow_up(pool, Event::PutOff { worker: *worker, until });
                self.order_launch(pool, *worker, &recipe);
            }
        }
    }

    fn distrust(&mut self, name: &str, fault: &str) -> Vec<(PoolIndex, WorkerId)> {
        let Some(pool) = self.by_name.get(name).copied() else {
            return Vec::new();
        };
        let state = self.pool(pool);
        state.recipe = None;
        // What python did not say about itself, its certificates say.
        let first = match &mut state.first_start {
            FirstStart::Failed(certificate) => Some(&mut **certificate),
            FirstStart::Pending | FirstStart::Ready(_) | FirstStart::Building => None,
        };
        for certificate in state.last_death.as_mut().into_iter().chain(first) {
            certificate.cause = Cause::StartFailed;
            fault.clone_into(&mut certificate.detail);
        }
        let views = state.policy.workers();
        let starting = views.filter(|view| view.state == WorkerState::Starting);
        let starting: Vec<_> = starting.map(|view| view.id).collect();
        for worker in &starting {
            if let Some(entry) = self.worker(pool, *worker) {
                entry.has_no_interpreter = true;
                fault.clone_into(&mut entry.detail);
            }
        }
        starting.into_iter().map(|worker| (pool, worker)).collect()
    }
}
