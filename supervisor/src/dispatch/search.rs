//! Starts of a pool whose interpreter cannot be used: each looks for it anew, on another thread, so
//! that the pool heals when the interpreter appears.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clutch_protocol::failure::Cause;
use clutch_protocol::message::WorkerId;

use super::core::Core;
use super::dispatcher::{Dispatcher, FirstStart};
use crate::pool::{Event, StopCause, WorkerState};
use crate::worker::launch::Recipe;
use crate::worker::spawner::PoolIndex;

/// What is said of a start that was given up before it was known what to start.
const GIVEN_UP: &str = "its interpreter was still being looked for";

/// A search for an interpreter, and the workers whose starts wait for its end.
#[derive(Debug)]
pub(super) struct Search {
    waiting: Vec<WorkerId>,
    /// Becomes true when nobody waits any more; it also tells this search from the next.
    cancelled: Arc<AtomicBool>,
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
        let Some(mut search) = self.with(|dispatcher| dispatcher.pool(pool).search.take()) else {
            return;
        };
        self.fail_starts(pool, &std::mem::take(&mut search.waiting), GIVEN_UP);
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

    /// The search that knows `cancelled` has come to its end.
    fn searched(
        &self,
        pool: PoolIndex,
        cancelled: &Arc<AtomicBool>,
        found: Result<Recipe, String>,
    ) {
        let waiting = self.with(|dispatcher| {
            let search = &mut dispatcher.pool(pool).search;
            let is_this = search.as_ref().is_some_and(|s| Arc::ptr_eq(&s.cancelled, cancelled));
            let mut search = search.take_if(|_| is_this)?;
            Some(std::mem::take(&mut search.waiting))
        });
        // Without it, nobody waits for its end any more.
        let Some(waiting) = waiting else { return };
        match found {
            Ok(recipe) => {
                self.with(|dispatcher| dispatcher.found(pool, &waiting, Rc::new(recipe)));
                // So that what followed from it is done now.
                self.tell(pool, Event::Tick);
            }
            Err(fault) => self.fail_starts(pool, &waiting, &fault),
        }
    }
}

impl Dispatcher {
    /// A worker is to be started whose interpreter is not known.
    pub(super) fn search(&mut self, core: &Core, pool: PoolIndex, worker: WorkerId) {
        let state = self.pool(pool);
        if let Some(fault) = state.known_fault.clone() {
            return self.launch_failed(pool, worker, fault);
        }
        if let Some(search) = &mut state.search {
            return search.waiting.push(worker);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        state.search = Some(Search { waiting: vec![worker], cancelled: cancelled.clone() });
        let (ingredients, config) = (state.ingredients.clone(), state.config.clone());
        let core = core.clone();
        tokio::task::spawn_local(async move {
            let flag = cancelled.clone();
            let work =
                move || ingredients.recipe(&config, &flag).map_err(|fault| fault.to_string());
            let found = tokio::task::spawn_blocking(work).await;
            let found = found.unwrap_or_else(|error| Err(error.to_string()));
            core.searched(pool, &cancelled, found);
        });
    }

    /// A worker that is to be killed may have no process yet.
    pub(super) fn give_search_up(&mut self, pool: PoolIndex, worker: WorkerId) {
        let Some(search) = &mut self.pool(pool).search else { return };
        let before = search.waiting.len();
        search.waiting.retain(|waiting| *waiting != worker);
        let (is_in_it, is_over) = (search.waiting.len() < before, search.waiting.is_empty());
        if is_over {
            self.pool(pool).search = None;
        }
        if is_in_it {
            self.launch_failed(pool, worker, GIVEN_UP.to_owned());
        }
    }

    fn found(&mut self, pool: PoolIndex, waiting: &[WorkerId], recipe: Rc<Recipe>) {
        let state = self.pool(pool);
        state.recipe = Some(recipe.clone());
        tracing::info!(pool = state.config.name, "its interpreter can be used now");
        for worker in waiting {
            if let Some(entry) = self.worker(pool, *worker) {
                entry.recipe = Some(recipe.clone());
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
            FirstStart::Pending | FirstStart::Ready(_) => None,
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
