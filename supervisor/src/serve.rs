//! `clutch serve`: the daemon from its configuration to its last worker's end.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clutch_protocol::message::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cgroup;
use crate::config::Config;
use crate::door::Door;
use crate::engine::{Engine, PoolUp, Starts, run_on_this_thread};
use crate::envs::Keeper;
use crate::interpreter::Cache;
use crate::package;
use crate::prepare::{self, OpenFiles, Provider, ServeError};
use crate::reload::{Asker, Blueprint, Order};
use crate::service::{self, Activated, Manager};
use crate::socket::Claim;
use crate::sys;
use crate::worker::spawner::Guardian;

/// What a daemon needs.
#[derive(Debug)]
pub struct ServeOptions {
    /// Its configuration.
    pub config: Config,
    /// Where it listens.
    pub socket: PathBuf,
    /// The socket there, if the service manager has opened it already.
    pub activated: Option<Activated>,
    /// What becomes a guardian.
    pub guardian: Guardian,
}

/// A daemon that takes calls.
#[derive(Clone, Debug)]
pub struct ServeReady {
    /// Where it listens.
    pub socket: PathBuf,
    /// Its process id.
    pub pid: u32,
    /// Its pools that take calls.
    pub pools: Vec<PoolUp>,
    /// Its pools that do not, by name, and why.
    pub broken: Vec<(String, String)>,
    /// Its pools that will when their environments are built.
    pub building: Vec<String>,
}

/// The way clients come in.
enum Entrance {
    /// A socket of the daemon's own, made when it is ready and removed at its end.
    Own(Claim),
    /// One that the service manager has made, and keeps.
    Given(Activated),
}

impl Entrance {
    fn open(&mut self) -> Result<Door, ServeError> {
        let listener = match self {
            Entrance::Own(claim) => claim.listen()?,
            Entrance::Given(activated) => activated.listener().map_err(cannot_watch)?,
        };
        Door::at_socket(listener).map_err(cannot_watch)
    }

    /// Whether clients can still connect when the daemon has gone.
    const fn outlives_the_daemon(&self) -> bool {
        matches!(self, Entrance::Given(_))
    }
}

fn cannot_watch(source: std::io::Error) -> ServeError {
    ServeError::System { doing: "watch the socket", source }
}

/// Serves until a signal or a client stops it. Blocks; calls `ready` once calls are taken.
///
/// SIGTERM and SIGINT stop it gracefully; a second one stops it at once. SIGHUP has it read its
/// configuration anew.
///
/// # Errors
///
/// When it cannot start; nothing is left running then.
pub fn serve(options: ServeOptions, ready: impl FnOnce(&ServeReady)) -> Result<(), ServeError> {
    let ServeOptions { mut config, socket, activated, guardian } = options;
    sys::give_large_memory_back();
    // Workers are told of it, who may be in another directory.
    let address = std::path::absolute(&socket)
        .map_err(|source| ServeError::System { doing: "find this directory", source })?;
    let entrance = match activated {
        Some(activated) => Entrance::Given(activated),
        None => Entrance::Own(Claim::take(&socket)?),
    };
    let (package, _hold) = package::keep_in_state(&package::state_dir()?)?;
    package::sweep_temporary();
    let open_files = OpenFiles::raise()?;
    open_files.check(&config)?;
    let connections = open_files.connections(&config);
    if connections < config.daemon.connections {
        tracing::warn!(
            connections,
            wanted = config.daemon.connections,
            limit = open_files.limit,
            "serving fewer connections than configured; raise the hard limit of open files"
        );
    }
    config.daemon.connections = connections;
    let keeper = Keeper::new(guardian.clone(), open_files.inherited);
    let keeper = keeper.telling(service::extend_start);
    // What has to be built is built while the other pools serve.
    let at_hand = keeper.provide_what_is_there(&mut config, &Arc::new(AtomicBool::new(false)));
    let cache = Cache::in_state(&package::state_dir()?);
    let open = open_files.inherited;
    let provider = Provider { keeper: keeper.clone(), source: config.source.clone() };
    let from = (Some(&cache), Some(provider));
    let pools = prepare::pools(&config, &package.boot, open, from, &at_hand)?;
    // Last of all that takes time, so that a start which fails before leaves no trace there.
    let groups = cgroup::open(&config.daemon.cgroup);
    let blueprint = Blueprint { config, boot: package.boot.clone(), open_files, keeper };
    run_on_this_thread(async move {
        let signals = Signals::listen()?;
        let engine = Engine::start(&blueprint.config, pools, guardian, groups, address)?;
        run(engine, entrance, signals, blueprint, |Starts { up, broken, building }| {
            let up = ServeReady { socket, pid: std::process::id(), pools: up, broken, building };
            ready(&up);
            status_of(&up)
        })
        .await
    })?
}

/// A daemon in one line, for the service manager.
fn status_of(up: &ServeReady) -> String {
    let workers: u32 = up.pools.iter().map(|(_, workers, _)| workers).sum();
    let (pools, socket) = (up.pools.len(), up.socket.display());
    let mut text = format!("serving {pools} pools with {workers} workers at {socket}");
    if !up.broken.is_empty() {
        let names = up.broken.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        text += &format!("; broken: {}", names.join(", "));
    }
    if !up.building.is_empty() {
        text += &format!("; building the environment of: {}", up.building.join(", "));
    }
    text
}

/// The daemon's life from its first launches on.
async fn run(
    mut engine: Engine,
    mut entrance: Entrance,
    mut signals: Signals,
    blueprint: Blueprint,
    ready: impl FnOnce(Starts) -> String,
) -> Result<(), ServeError> {
    let manager = Rc::new(Manager::from_environment());
    let started = tokio::select! {
        started = engine.first_starts() => started,
        () = signals.stop() => Err(ServeError::Interrupted),
    };
    let opened = started.and_then(|starts| Ok((starts, entrance.open()?)));
    let (starts, mut door) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let (_, nobody) = mpsc::channel(1);
            engine.stop(Stop::Now, &mut Door::handed(nobody), signals.stop()).await;
            return Err(error);
        }
    };
    let reload = engine.see_to_reloads(blueprint, manager.clone()).await;
    for (pool, reason) in &starts.broken {
        tracing::error!(pool, reason, "the pool is broken; the others are served without it");
    }
    let status = ready(starts);
    manager.ready(&status).await;
    let how = engine
        .serve(&mut door, async {
            signals.stop_or_reload(&reload).await;
            Stop::Graceful
        })
        .await;
    tracing::info!(how = ?how, "stopping");
    manager.stopping().await;
    if entrance.outlives_the_daemon() {
        door.leave_to_the_next();
    }
    engine.stop(how, &mut door, signals.stop()).await;
    tracing::info!("stopped");
    Ok(())
}

/// The signals a daemon obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Signals, ServeError> {
        let watch = |kind| {
            signal(kind).map_err(|source| ServeError::System { doing: "watch for signals", source })
        };
        Ok(Signals {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next one that asks it to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The same, and passes those on that ask for a reload.
    async fn stop_or_reload(&mut self, reload: &mpsc::Sender<Order>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if reload.try_send(Order::new(true, Asker::Signal)).is_err() {
                        tracing::warn!("{}", crate::reload::reloader::BUSY);
                    }
                }
            }
        }
    }
}
