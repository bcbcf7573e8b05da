//! The data plane on its thread: dispatcher, timers, launches, and the doorway for clients. Both
//! the daemon and the private supervisor of `--local` are this, with different doors.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clutch_protocol::message::Stop;
use tokio::signal::unix::SignalKind;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::cgroup::{Groups, Unavailable};
use crate::config::Config;
use crate::dispatch::{Core, FirstStart, Parts};
use crate::door::Door;
use crate::limits::{GROUPS_CLOSE_TIMEOUT, KILL_TIMEOUT, SPAWNER_ORDERS_MAX};
use crate::net::SharedBudget;
use crate::prepare::{PoolFault, Prepared, ServeError, Unasked, story};
use crate::reload::{self, Blueprint, Reloader};
use crate::service::Manager;
use crate::session::connection::Doorway;
use crate::watch::watcher::Watcher;
use crate::worker::spawner::{Guardian, Order, Spawner};

/// How long a cancelled probe or build may take to clean up. What is killed has ended before; this
/// is for a busy machine.
const PROBE_END_TIMEOUT: Duration = Duration::from_secs(4);

/// A start that takes this long makes one ask whether the interpreter is one at all.
const SLOW_START: Duration = Duration::from_secs(1);

/// A pool that is up: its name, how many workers it has, and their version of Python.
pub type PoolUp = (String, u32, String);

/// How the first starts of all pools went.
#[derive(Clone, Debug, Default)]
pub struct Starts {
    /// Pools that take calls.
    pub up: Vec<PoolUp>,
    /// Pools that do not, by name, and why.
    pub broken: Vec<(String, String)>,
    /// Pools whose environment is being built: calls wait for it.
    pub building: Vec<String>,
}

/// The data plane. Lives on one thread, inside a [`LocalSet`].
#[derive(Debug)]
pub struct Engine {
    core: Core,
    doorway: Doorway,
    stop_orders: mpsc::Receiver<Stop>,
    /// Reloads that are wanted, until somebody sees to them.
    reloads: Option<mpsc::Receiver<reload::Order>>,
    unasked: Vec<Unasked>,
    /// What is wrong with pools, whatever their workers do, as far as that is known.
    faults: RefCell<Vec<(String, PoolFault)>>,
    asking_is_over: CancelOnDrop,
    close: watch::Sender<bool>,
    /// Ends timers and launches when the engine ends.
    tasks: JoinSet<()>,
    /// The way to have the workers' groups removed at the end.
    closer: Spawner,
    spawner_thread: std::thread::JoinHandle<()>,
}

/// A flag that becomes true when its owner is gone.
#[derive(Debug, Default)]
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `work` on a data plane of its own, on this thread, until it is done.
///
/// # Errors
///
/// When the runtime cannot be made.
pub fn run_on_this_thread<F: Future>(work: F) -> Result<F::Output, ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::System { doing: "start the runtime", source })?;
    let output = LocalSet::new().block_on(&runtime, work);
    // An interpreter that is still being asked who it is has been told to stop, and kills what it
    // has started; it is not waited for any longer than that takes.
    runtime.shutdown_timeout(PROBE_END_TIMEOUT);
    Ok(output)
}

impl Engine {
    /// Starts the data plane with `pools`; their workers are being started when this returns.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn start(
        config: &Config,
        Prepared { pools, unasked, faults }: Prepared,
        guardian: Guardian,
        groups: Result<Arc<Groups>, Unavailable>,
        socket: PathBuf,
    ) -> Result<Engine, ServeError> {
        let system = |doing| move |source: io::Error| ServeError::System { doing, source };
        // A guardian that is killed leaves its tree to this process, which then ends it.
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|errno| system("adopt orphans")(errno.into()))?;
        let (launched, outcomes) = mpsc::channel(SPAWNER_ORDERS_MAX);
        let sampling_because = match &groups {
            Ok(groups) => groups.without_memory().map(ToString::to_string),
            Err(reason) => Some(reason.to_string()),
        };
        let groups = groups.ok();
        let (spawner, spawner_thread) = Spawner::start(guardian, groups, launched)
            .map_err(system("start the spawner thread"))?;
        let watcher = Watcher::start().map_err(system("start the watch thread"))?;
        let daemon = config.daemon.clone();
        let closer = spawner.clone();
        let core = Core::new(Parts { daemon, pools, spawner, watcher, socket, sampling_because });
        let mut tasks = JoinSet::new();
        tasks.spawn_local(core.clone().run_timers());
        tasks.spawn_local(core.clone().run_watch());
        tasks.spawn_local(core.clone().run_launches(outcomes));
        let holdings = core.holdings().clone();
        tasks.spawn_local(async move { holdings.settle_forever().await });
        if std::process::id() == 1 {
            let ended = tokio::signal::unix::signal(SignalKind::child());
            let ended = ended.map_err(system("watch for signals"))?;
            tasks.spawn_local(core.clone().run_as_init(ended));
        }
        let memory_kib = usize::try_from(config.daemon.memory / 1024).unwrap_or(usize::MAX);
        let memory = Arc::new(Semaphore::new(memory_kib.min(Semaphore::MAX_PERMITS)));
        let memory_bytes = usize::try_from(config.daemon.memory).unwrap_or(usize::MAX);
        let answers = SharedBudget::new(memory_bytes, core.holdings().limit_of_answers());
        let (stop, stop_orders) = mpsc::channel(4);
        let (reload, reloads) = mpsc::channel(reload::reloader::ORDERS_MAX);
        let (close, closing) = watch::channel(false);
        let doorway = Doorway {
            core: core.clone(),
            daemon: config.daemon.clone(),
            memory,
            answers,
            closing,
            stop,
            reload,
        };
        core.start();
        Ok(Engine {
            core,
            doorway,
            stop_orders,
            reloads: Some(reloads),
            unasked,
            faults: RefCell::new(faults),
            asking_is_over: CancelOnDrop::default(),
            close,
            tasks,
            closer,
            spawner_thread,
        })
    }

    /// Waits until it is known of every pool whether it has a worker that is ready; a start takes
    /// `limits.start_timeout` at most. Pools whose environment is being built are not waited for
    /// as soon as another pool is up.
    ///
    /// # Errors
    ///
    /// When no pool has one: what the first workers of all of them died of, or what is wrong with
    /// their interpreters or environments, if that is it.
    pub async fn first_starts(&self) -> Result<Starts, ServeError> {
        let are_known = |starts: &[FirstStart]| {
            let is_up = |start: &FirstStart| matches!(start, FirstStart::Ready(_));
            let is_open = |start: &FirstStart| match start {
                FirstStart::Pending => true,
                // Should it fail, nobody can be served, and that is worth waiting for.
                FirstStart::Building => !starts.iter().any(is_up),
                FirstStart::Ready(_) | FirstStart::Failed(_) => false,
            };
            !starts.iter().any(is_open)
        };
        tokio::select! {
            () = self.core.wait_for_starts(are_known) => {}
            never = self.find_fault_with_slow_starts() => match never {},
        }
        let failed = |start: &FirstStart| matches!(start, FirstStart::Failed(_));
        self.distrust_faulty(self.pools_whose_start(failed)).await;
        let mut faults = self.faults.borrow_mut().drain(..).collect::<Vec<_>>();
        let mut starts = Starts::default();
        let mut certificates = Vec::new();
        for (name, workers, start) in self.core.first_starts() {
            match start {
                FirstStart::Ready(python) => starts.up.push((name, workers, python)),
                FirstStart::Failed(certificate) => {
                    let is_known = faults.iter().any(|(pool, _)| *pool == name);
                    if !is_known && self.core.has_no_recipe(&name) {
                        faults.push((name.clone(), PoolFault::Told(certificate.detail.clone())));
                    }
                    let fault = faults.iter().find(|(pool, _)| *pool == name);
                    let reason = fault
                        .map_or_else(|| story(&certificate, "its first"), |(_, it)| it.to_string());
                    if fault.is_none() {
                        certificates.push(*certificate);
                    }
                    starts.broken.push((name, reason));
                }
                FirstStart::Building => starts.building.push(name),
                FirstStart::Pending => {}
            }
        }
        match (starts.up.is_empty(), starts.broken.is_empty(), certificates.is_empty()) {
            (false, ..) | (_, true, _) => Ok(starts),
            (.., true) => Err(ServeError::Unusable(faults)),
            (.., false) => Err(ServeError::FirstStart(faults, certificates)),
        }
    }

    fn pools_whose_start(&self, is: impl Fn(&FirstStart) -> bool) -> Vec<String> {
        let starts = self.core.first_starts().into_iter();
        starts.filter(|(.., start)| is(start)).map(|(name, ..)| name).collect()
    }

    /// Asks the interpreters of pools that take their time; one that is none does not get more.
    async fn find_fault_with_slow_starts(&self) -> Infallible {
        tokio::time::sleep_until(tokio::time::Instant::now() + SLOW_START).await;
        let pending = self.pools_whose_start(|start| matches!(start, FirstStart::Pending));
        self.distrust_faulty(pending).await;
        std::future::pending().await
    }

    /// Asks the interpreters of these pools who they are, and gives up on those that are none.
    async fn distrust_faulty(&self, mut pools: Vec<String>) {
        pools.retain(|pool| self.faults.borrow().iter().all(|(faulty, _)| faulty != pool));
        let faults = self.ask_interpreters(&pools).await;
        for (pool, fault) in &faults {
            self.core.distrust(pool, &fault.to_string());
        }
        self.faults.borrow_mut().extend(faults);
    }

    /// What is wrong with the interpreters of these pools, if anything.
    async fn ask_interpreters(&self, pools: &[String]) -> Vec<(String, PoolFault)> {
        let mut questions = JoinSet::new();
        for unasked in self.unasked.iter().filter(|unasked| pools.contains(&unasked.pool)) {
            let unasked = unasked.clone();
            let cancelled = self.asking_is_over.0.clone();
            questions.spawn_blocking(move || (unasked.pool.clone(), unasked.ask(&cancelled)));
        }
        let mut faults = Vec::new();
        while let Some(answer) = questions.join_next().await {
            if let Ok((pool, Err(fault))) = answer {
                faults.push((pool, PoolFault::from(fault)));
            }
        }
        faults.sort_by(|(a, _), (b, _)| a.cmp(b));
        faults
    }

    /// From now on, configurations are read anew when somebody wants that; the service manager is
    /// told about it, and that the data plane turns. Gives the way to want it.
    pub async fn see_to_reloads(
        &mut self,
        blueprint: Blueprint,
        manager: Rc<Manager>,
    ) -> mpsc::Sender<reload::Order> {
        let orders = self.reloads.take().expect("it is seen to once");
        let cancelled = self.asking_is_over.0.clone();
        let core = self.core.clone();
        let reloader = Reloader::new(core, blueprint, manager.clone(), cancelled).await;
        self.tasks.spawn_local(reloader.run(orders));
        self.tasks.spawn_local(async move { manager.pat_watchdog().await });
        self.doorway.reload.clone()
    }

    /// Nobody will see to reloads: they are refused.
    pub fn refuse_reloads(&mut self) {
        self.reloads = None;
    }

    /// Lets clients in and serves them until `until` says how to stop, or a client does.
    pub async fn serve(&mut self, door: &mut Door, until: impl Future<Output = Stop>) -> Stop {
        let doorway = self.doorway.clone();
        let serving = door.let_in(&doorway);
        tokio::select! {
            never = serving => match never {},
            stop = until => stop,
            Some(stop) = self.stop_orders.recv() => stop,
        }
    }

    /// Stops every worker: after the grace, or at once, or at once when `hurry` says so. Clients
    /// are served until their last answer; new ones are told that the daemon is stopping.
    pub async fn stop(mut self, how: Stop, door: &mut Door, hurry: impl Future<Output = ()>) {
        let now = Instant::now();
        // What a reload builds or asks is of no use any more.
        self.asking_is_over.0.store(true, Ordering::Relaxed);
        let stop_grace = self.core.daemon().stop_grace;
        // How long a stop may take before everything is killed.
        let stop_bound = stop_grace + self.core.grace_max() * 2 + KILL_TIMEOUT;
        match how {
            Stop::Graceful => self.core.drain(now + stop_grace),
            Stop::Now => self.core.kill_all(),
        }
        let doorway = self.doorway.clone();
        let core = self.core.clone();
        let serving = door.let_in(&doorway);
        let second_order = async {
            while let Some(order) = self.stop_orders.recv().await {
                if order == Stop::Now {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            never = serving => match never {},
            () = core.drained() => {}
            () = async { tokio::select! {
                () = hurry => {},
                () = second_order => {},
                // Every step of a drain has its own bound; this one is for all of them.
                () = tokio::time::sleep_until((now + stop_bound).into()) => {}
            } } => {
                core.kill_all();
                if tokio::time::timeout(KILL_TIMEOUT, core.drained()).await.is_err() {
                    tracing::error!("some workers would not die; their guardians are left to it");
                }
            }
        }
        core.finish_output();
        let (done, closed) = tokio::sync::oneshot::channel();
        // After every order to reap, so nobody is in them any more.
        if self.closer.order(Order::Close(done)).is_ok() {
            let _ = tokio::time::timeout(GROUPS_CLOSE_TIMEOUT, closed).await;
        }
        self.close.send_replace(true);
        door.finish().await;
        core.holdings().finish();
        drop(self.doorway);
        drop(self.tasks);
        drop(core);
        drop(self.core);
        drop(self.closer);
        // The spawner ends when the last handle to it is gone, unless a task of a connection that
        // is being torn down still holds one; it holds nothing of value then.
        if self.spawner_thread.is_finished() {
            let _ = self.spawner_thread.join();
        }
    }
}
