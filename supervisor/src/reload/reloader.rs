//! The task that carries reloads out, one at a time. It runs on the data plane and waits for
//! nothing there but for events; whatever may block is done on another thread.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use clutch_protocol::reload::{PoolChange, ReloadResult, Reloaded};
use clutch_protocol::{Codec, Header, Kind};
use tokio::sync::mpsc;

use super::plan::{Blueprint, Plan, Running, RunningPool, Step, plan};
use super::turnover::Kind as Wait;
use super::turnover::{End, Under, bound, wait};
use crate::config;
use crate::dispatch::{Core, Make, PoolParts, Workers};
use crate::prepare::{self, Ingredients, list_certificates};
use crate::service::Manager;
use crate::session::Peer;
use crate::source_watch::{Changes, Watching};
use crate::worker::launch::Recipe;
use crate::worker::spawner::PoolIndex;

/// Reloads that may wait for the one that is carried out. More would only read the same file again.
pub const ORDERS_MAX: usize = 1;

/// What is said to one too many.
pub(crate) const BUSY: &str = "a reload is under way and another one waits already; try again when \
    they are done";

/// What is said of pools that wait for their environment and are not touched by a reload.
const STILL_MISSING: &str = "what these pools declare is not there yet and is tried again now, \
    `clutch status` shows how far that is: ";

/// A wish that the configuration be read anew.
#[derive(Debug)]
pub struct Order {
    /// Whether to answer only when everything that has to be replaced has been.
    pub wait: bool,
    /// Who is answered; none once they have been.
    asker: Option<Asker>,
}

impl Order {
    /// A wish of somebody's.
    pub const fn new(wait: bool, asker: Asker) -> Order {
        Order { wait, asker: Some(asker) }
    }

    /// Tells how it went, once.
    pub(crate) fn answer(&mut self, reloaded: &Reloaded) {
        if let Some(asker) = self.asker.take() {
            asker.answer(reloaded);
        }
    }
}

/// Who wants a reload.
#[derive(Debug)]
pub enum Asker {
    /// A client, by the id of its request.
    Client(Rc<Peer>, u64),
    /// Somebody with a signal, who reads the log.
    Signal,
}

impl Asker {
    fn answer(&self, reloaded: &Reloaded) {
        if let Asker::Client(peer, id) = self {
            let json = serde_json::to_vec(reloaded).expect("a report is plain data");
            let header = Header {
                codec: Codec::Json,
                payload_bytes: u32::try_from(json.len()).expect("a report is far below 4 GiB"),
                ..Header::new(Kind::Reloaded, *id)
            };
            peer.send(&header.encode(), &Bytes::from(json));
        }
    }
}

/// Carries reloads out.
#[derive(Debug)]
pub struct Reloader {
    core: Core,
    blueprint: Blueprint,
    manager: Rc<Manager>,
    changes: Changes,
    watching: Watching,
    /// True when the daemon ends, and nobody waits for a plan any more.
    cancelled: Arc<AtomicBool>,
}

/// What has to be undone when a reload fails.
#[derive(Debug, Default)]
struct Undo {
    made: Vec<(PoolIndex, Make)>,
    added: Vec<String>,
}

impl Reloader {
    /// One that knows what the daemon was made of. Files are watched from now on.
    pub async fn new(
        core: Core,
        blueprint: Blueprint,
        manager: Rc<Manager>,
        cancelled: Arc<AtomicBool>,
    ) -> Reloader {
        let changes = Changes::default();
        let watching = match watch(&blueprint.config, &changes).await {
            Ok(watching) => watching,
            Err(error) => {
                tracing::error!(error, "files are not watched");
                Watching::default()
            }
        };
        Reloader { core, blueprint, manager, changes, watching, cancelled }
    }

    /// Does what is ordered, for ever.
    pub async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let changes = self.changes.clone();
        loop {
            tokio::select! {
                Some(order) = orders.recv() => self.obey(order).await,
                () = changes.begun() => self.renew(changes.settled().await).await,
            }
        }
    }

    async fn obey(&mut self, mut order: Order) {
        self.manager.reloading().await;
        let reloaded = self.reload(&mut order).await;
        let result = reloaded.result;
        let message = reloaded.message.as_str();
        let pools: Vec<_> = reloaded.pools.iter().map(|(n, c)| format!("{n} {c}")).collect();
        match result {
            ReloadResult::Done | ReloadResult::UnderWay => {
                tracing::info!(pools = pools.join(", "), message, "the configuration is reloaded");
            }
            ReloadResult::Wrong | ReloadResult::Failed | ReloadResult::Refused => {
                tracing::error!(message, "the configuration is not reloaded");
            }
        }
        let status = match result {
            ReloadResult::Done | ReloadResult::UnderWay => "running",
            _ => "running; the last reload failed and has changed nothing",
        };
        if !self.core.is_stopping() {
            let broken = self.core.broken_pools().join(", ");
            let broken = if broken.is_empty() { broken } else { format!("; broken: {broken}") };
            self.manager.ready(&format!("{status}{broken}")).await;
        }
        order.answer(&reloaded);
    }

    /// One reload, from the file to the last worker. Without waiting, a client is answered here as
    /// soon as the outcome is only a matter of time.
    async fn reload(&mut self, order: &mut Order) -> Reloaded {
        let refused = |message| Reloaded::nothing(ReloadResult::Refused, message);
        let (plan, watching) = match self.think().await {
            Ok(thought) => thought,
            Err(reloaded) => return reloaded,
        };
        if self.core.is_stopping() {
            return refused("the daemon is stopping");
        }
        let Plan { config, steps, daemon, missing } = plan;
        let mut pools = BTreeMap::new();
        let mut undo = Undo::default();
        let mut last = Vec::new();
        let mut under = Vec::new();
        for (name, step) in steps {
            let (change, waits) = self.take(&name, step, &mut undo, &mut last);
            pools.insert(name, change);
            under.extend(waits);
        }
        if !order.wait {
            let (result, message) = (ReloadResult::UnderWay, String::new());
            let (pools, daemon) = (pools.clone(), daemon.clone());
            order.answer(&Reloaded { result, message, pools, daemon });
        }
        let end = wait(&self.core, &under, std::future::pending()).await;
        let mut message = match end {
            End::Complete => String::new(),
            End::Late(left) => late(&left),
            End::Failed(certificates) => {
                self.undo(undo);
                let message = format!(
                    "the new workers do not start; the former configuration is in force\n{}",
                    list_certificates(&certificates, "a new")
                );
                return Reloaded::nothing(ReloadResult::Failed, message);
            }
            End::GivenUp => return refused("the daemon is stopping"),
        };
        self.settle(last);
        if !missing.is_empty() {
            self.core.try_anew(missing.iter());
            let names = missing.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let line = format!("{STILL_MISSING}{names}");
            message = [message, line]
                .into_iter()
                .filter(|m| !m.is_empty())
                .collect::<Vec<_>>()
                .join("\n");
        }
        self.core.set_daemon(config.daemon.clone());
        self.blueprint.config = config;
        self.watching = watching;
        Reloaded { result: ReloadResult::Done, message, pools, daemon }
    }

    /// Works out on another thread what is to be done.
    async fn think(&self) -> Result<(Plan, Watching), Reloaded> {
        let running: Running = self
            .core
            .makes()
            .into_iter()
            .map(|(name, (_, Make { config, recipe, settings, .. }))| {
                let recipe = recipe.map(|recipe| (*recipe).clone());
                (name, RunningPool { config, recipe, size: settings.size })
            })
            .collect();
        let (blueprint, changes) = (self.blueprint.clone(), self.changes.clone());
        let cancelled = self.cancelled.clone();
        let thought = tokio::task::spawn_blocking(move || {
            let plan = plan(&blueprint, &running, &cancelled)?;
            let watching = Watching::begin(plan.config.pools.values(), &changes);
            let watching = watching
                .map_err(|error| Reloaded::nothing(ReloadResult::Wrong, error.to_string()))?;
            Ok((plan, watching))
        });
        thought.await.unwrap_or_else(|error| {
            let message = format!("reading the configuration has failed: {error}");
            Err(Reloaded::nothing(ReloadResult::Refused, message))
        })
    }

    /// Begins what has to succeed first; what comes after that is put into `last`.
    fn take(
        &self,
        name: &str,
        step: Step,
        undo: &mut Undo,
        last: &mut Vec<(String, Step)>,
    ) -> (PoolChange, Option<Under>) {
        match step {
            Step::Keep => (PoolChange::Unchanged, None),
            Step::Limits(_) => {
                last.push((name.to_owned(), step));
                (PoolChange::Limits, None)
            }
            Step::Remove => {
                last.push((name.to_owned(), step));
                (PoolChange::Removed, None)
            }
            Step::Add(parts) => {
                let size = parts.policy.settings().size;
                let workers = size.min.max(1) + size.spares;
                let bound = bound(1, parts.config.limits.start_timeout);
                let pool = self.core.add_pool(*parts);
                undo.added.push(name.to_owned());
                let under = Under { name: name.to_owned(), pool, kind: Wait::Added, bound };
                (PoolChange::Added { workers }, Some(under))
            }
            Step::Replace(parts) => {
                let makes = self.core.makes();
                let (pool, before) = makes.get(name).cloned().expect("it runs, or it were added");
                let start_timeout = parts.config.limits.start_timeout;
                let settings = prepare::settings(&parts.config);
                let made = made_of(*parts);
                let workers = self.core.remake(pool, made, settings, Workers::Replaced);
                undo.made.push((pool, before));
                let bound = bound(workers, start_timeout);
                let under = Under { name: name.to_owned(), pool, kind: Wait::Replaced, bound };
                (PoolChange::Replaced { workers }, Some(under))
            }
        }
    }

    /// What cannot fail, and what cannot be undone.
    fn settle(&self, last: Vec<(String, Step)>) {
        for (name, step) in last {
            match (step, self.core.makes().get(&name)) {
                (Step::Limits(parts), Some((pool, _))) => {
                    let settings = prepare::settings(&parts.config);
                    let made = made_of(*parts);
                    self.core.remake(*pool, made, settings, Workers::Stay);
                }
                (Step::Remove, Some(_)) => self.core.remove_pool(&name),
                _ => {}
            }
        }
    }

    fn undo(&self, undo: Undo) {
        for (pool, make) in undo.made {
            self.core.unmake(pool, make);
        }
        for name in undo.added {
            self.core.remove_pool(&name);
        }
    }

    /// Files of these pools have changed: their workers are replaced by others of the same make.
    /// A further change makes it pointless to wait for the end of that, and begins it anew.
    async fn renew(&mut self, mut pools: BTreeSet<String>) {
        loop {
            let under = self.begin_renewal(&pools);
            match wait(&self.core, &under, self.changes.begun()).await {
                End::Complete => {
                    let names: Vec<_> = under.iter().map(|under| under.name.as_str()).collect();
                    tracing::info!(pools = names.join(", "), "the changed code is in force");
                }
                End::Late(left) => tracing::warn!(message = late(&left), "watched files changed"),
                End::Failed(certificates) => {
                    for Under { pool, .. } in under {
                        self.core.call_off(pool);
                    }
                    let message = list_certificates(&certificates, "a new");
                    tracing::error!(
                        message,
                        "the changed code does not start; the former serves on"
                    );
                }
                End::GivenUp if self.core.is_stopping() => {}
                End::GivenUp => {
                    pools.extend(self.changes.settled().await);
                    continue;
                }
            }
            return;
        }
    }

    fn begin_renewal(&self, pools: &BTreeSet<String>) -> Vec<Under> {
        let mut makes = self.core.makes();
        let known = pools.iter().filter_map(|name| Some((name.clone(), makes.remove(name)?)));
        let mut under = Vec::new();
        for (name, (pool, make)) in known {
            tracing::info!(pool = name, "watched files have changed; replacing the workers");
            let start_timeout = make.config.limits.start_timeout;
            let made = (make.config, make.recipe, make.ingredients);
            let workers = self.core.remake(pool, made, make.settings, Workers::Replaced);
            let bound = bound(workers, start_timeout);
            under.push(Under { name, pool, kind: Wait::Replaced, bound });
        }
        under
    }
}

fn made_of(parts: PoolParts) -> (config::Pool, Option<Rc<Recipe>>, Ingredients) {
    (parts.config, parts.make.ok().map(Rc::new), parts.ingredients)
}

fn late(left: &[(String, u32)]) -> String {
    let lines: Vec<_> =
        left.iter().map(|(name, left)| format!("pool '{name}': {left} left")).collect();
    format!(
        "old workers are still at work and are replaced when their calls have ended: {}",
        lines.join(", ")
    )
}

async fn watch(config: &config::Config, changes: &Changes) -> Result<Watching, String> {
    if config.pools.values().all(|pool| pool.watch.is_empty()) {
        return Ok(Watching::default());
    }
    let (config, changes) = (config.clone(), changes.clone());
    let begun = tokio::task::spawn_blocking(move || {
        Watching::begin(config.pools.values(), &changes).map_err(|error| error.to_string())
    });
    begun.await.unwrap_or_else(|error| Err(error.to_string()))
}
