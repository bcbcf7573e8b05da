//! Workers on their way into the world: told to the spawner, or failed before they had a process.

use std::time::Instant;

use clutch_protocol::Kind;
use clutch_protocol::message::WorkerId;
use tokio::task::JoinSet;

use super::core::Core;
use super::dispatcher::{Dispatcher, Worker};
use super::groups::Counted;
use super::nested::{Token, equip};
use super::watch::Watched;
use crate::pool::{Begun, Event};
use crate::worker::launch::Recipe;
use crate::worker::link::frame_head;
use crate::worker::output::{Allowance, Tail};
use crate::worker::spawner::{GroupWish, Order, PoolIndex};

impl Dispatcher {
    pub(super) fn launch(&mut self, core: &Core, now: Instant, pool: PoolIndex, worker: WorkerId) {
        let state = &mut self.pools[pool.0];
        state.counters.one("launches");
        if worker.generation > 1 {
            state.counters.one("restarts");
        }
        state.workers.insert(
            worker,
            Worker {
                recipe: state.recipe.clone(),
                edition: state.edition,
                link: None,
                tasks: JoinSet::new(),
                born: now,
                pid: 0,
                python: String::new(),
                served: 0,
                calls_had: None,
                given: Vec::new(),
                outlaw: false,
                has_no_interpreter: false,
                was_ending: None,
                tail: Tail::default(),
                allowance: Allowance::new(now),
                detail: String::new(),
                dumping: false,
                imports: Vec::new(),
                dumps: 0,
                stack_readers: Vec::new(),
                last_stack: String::new(),
                token: Token::none(),
                oom_kills_before: 0,
                counted: Counted::default(),
                group: None,
                group_fault: None,
                watched: Watched::default(),
                dead: false,
                certificate: None,
                died_with: Vec::new(),
                swept: false,
            },
        );
        match state.recipe.clone() {
            Some(recipe) => self.order_launch(pool, worker, &recipe),
            None => self.search(core, pool, worker),
        }
    }

    pub(super) fn order_launch(&mut self, pool: PoolIndex, worker: WorkerId, recipe: &Recipe) {
        let mut spawn = Box::new(recipe.spawn(worker));
        let config = &self.pools[pool.0].config;
        let token = equip(&self.address, config, &mut spawn.environment);
        let memory_max = config.memory.kill_above;
        let group = GroupWish { pool: config.name.clone(), memory_max };
        if let Some(entry) = self.worker(pool, worker) {
            entry.token = token;
        }
        if let Err(error) = self.spawner.order(Order::Launch { pool, worker, spawn, group }) {
            self.launch_failed(pool, worker, error.to_string());
        }
    }

    /// A worker that never had a process: it is dead and gone at once.
    pub(super) fn launch_failed(&mut self, pool: PoolIndex, worker: WorkerId, why: String) {
        if let Some(entry) = self.worker(pool, worker) {
            entry.detail = why;
        }
        self.bury(pool, worker, None, &Begun::NONE);
        self.follow_up(pool, Event::Died { worker, begun: Begun::NONE });
        self.follow_up(pool, Event::Gone { worker });
        self.pool(pool).workers.remove(&worker);
    }

    /// What a worker is told first, as a frame. None when nobody remembers it any more.
    pub(super) fn setup_frame(&self, pool: PoolIndex, worker: WorkerId) -> Option<Vec<u8>> {
        let entry = self.pools[pool.0].workers.get(&worker)?;
        Some(frame_head(Kind::Setup, 0, &entry.recipe.as_ref()?.setup(worker)))
    }
}
