//! `clutch serve`: the daemon from its configuration to its last worker's end.

use std::path::PathBuf;

use clutch_protocol::message::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::door::Door;
use crate::engine::{Engine, PoolUp, run_on_this_thread};
use crate::package;
use crate::prepare::{self, OpenFiles, ServeError};
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
    /// Its pools.
    pub pools: Vec<PoolUp>,
}

/// Serves until a signal or a client stops it. Blocks; calls `ready` once calls are taken.
///
/// SIGTERM, SIGINT and SIGHUP stop it gracefully; a second one stops it at once.
///
/// # Errors
///
/// When it cannot start; nothing is left running then.
pub fn serve(options: ServeOptions, ready: impl FnOnce(&ServeReady)) -> Result<(), ServeError> {
    let ServeOptions { mut config, socket, guardian } = options;
    sys::give_large_memory_back();
    let mut claim = Claim::take(&socket)?;
    let package = package::unpack_to_state(&package::state_dir()?)?;
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
    let pools = prepare::pools(&config, &package.boot, open_files.inherited)?;
    run_on_this_thread(async move {
        let mut signals = StopSignals::listen()?;
        let name = socket.display().to_string();
        let mut engine = Engine::start(&config, pools, guardian, name)?;
        let started = tokio::select! {
            started = engine.first_starts() => started,
            () = signals.next() => Err(ServeError::Interrupted),
        };
        let opened = started.and_then(|pools| {
            let listener = claim.listen()?;
            let door = Door::at_socket(listener)
                .map_err(|source| ServeError::System { doing: "watch the socket", source })?;
            Ok((pools, door))
        });
        let (pools, mut door) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let (_, nobody) = tokio::sync::mpsc::channel(1);
                engine.stop(Stop::Now, &mut Door::handed(nobody), signals.next()).await;
                return Err(error);
            }
        };
        ready(&ServeReady { socket: socket.clone(), pid: std::process::id(), pools });
        let how = engine
            .serve(&mut door, async {
                signals.next().await;
                Stop::Graceful
            })
            .await;
        tracing::info!(how = ?how, "stopping");
        engine.stop(how, &mut door, signals.next()).await;
        tracing::info!("stopped");
        Ok(())
    })?
}

/// The signals that ask a daemon to stop.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> Result<StopSignals, ServeError> {
        let watch = |kind| {
            signal(kind).map_err(|source| ServeError::System { doing: "watch for signals", source })
        };
        Ok(StopSignals {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hangup: watch(SignalKind::hangup())?,
        })
    }

    /// Resolves at the next one.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
