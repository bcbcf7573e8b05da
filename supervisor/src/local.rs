//! A private supervisor inside this process: the same data plane as the daemon's, on a thread of
//! its own, with no socket file and nothing left behind. This is what `--local` uses.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc as sync_mpsc};
use std::thread::JoinHandle;

use clutch_protocol::message::Stop;
use tokio::sync::mpsc;

use crate::cgroup::Unavailable;
use crate::config::Config;
use crate::door::Door;
use crate::engine::{Engine, run_on_this_thread};
use crate::envs::{AtHand, Keeper};
use crate::package;
use crate::prepare::{self, OpenFiles, ServeError};
use crate::worker::spawner::Guardian;

/// Connections that may wait to be taken over; they are made by this process alone.
const HANDED_MAX: usize = 64;

/// A running private supervisor. Dropping it stops it at once and waits for its end.
#[derive(Debug)]
pub struct Local {
    streams: mpsc::Sender<UnixStream>,
    stop: mpsc::Sender<Stop>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

/// A private supervisor that is being started.
#[derive(Debug)]
pub struct Starting {
    local: Local,
    is_up: sync_mpsc::Receiver<()>,
    /// Ends what comes before the data plane, which may be the build of an environment.
    give_up: Arc<AtomicBool>,
}

/// Gives a start up, from any thread.
#[derive(Clone, Debug)]
pub struct Abort(mpsc::Sender<Stop>, Arc<AtomicBool>);

impl Abort {
    /// Gives the start up: what was started is killed, and [`Starting::wait`] returns.
    pub fn abort(&self) {
        self.1.store(true, Ordering::Relaxed);
        // A full channel means that it has been told already.
        let _ = self.0.try_send(Stop::Now);
    }
}

impl Starting {
    /// The way to give the start up.
    pub fn abort(&self) -> Abort {
        Abort(self.local.stop.clone(), Arc::clone(&self.give_up))
    }

    /// Waits until every pool has a worker that is ready.
    ///
    /// # Errors
    ///
    /// When an interpreter cannot be used, a first worker does not become ready, or the start was
    /// given up. Nothing is left running then.
    pub fn wait(mut self) -> Result<Local, ServeError> {
        match self.is_up.recv() {
            Ok(()) => Ok(self.local),
            // The sender went with its thread, whose result says why.
            Err(_) => match self.local.join() {
                Err(error) => Err(error),
                Ok(()) => Err(ServeError::Interrupted),
            },
        }
    }
}

impl Local {
    /// Starts a private supervisor and waits until it is up. Its workers' files are in a temporary
    /// directory that goes with it.
    ///
    /// # Errors
    ///
    /// As [`Starting::wait`].
    pub fn start(config: Config, guardian: Guardian) -> Result<Local, ServeError> {
        Local::begin(config, guardian)?.wait()
    }

    /// Begins to start a private supervisor.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn begin(config: Config, guardian: Guardian) -> Result<Starting, ServeError> {
        let (streams, handed) = mpsc::channel(HANDED_MAX);
        let (stop, stopped) = mpsc::channel(4);
        let (up, is_up) = sync_mpsc::sync_channel(1);
        let give_up = Arc::new(AtomicBool::new(false));
        let given_up = Arc::clone(&give_up);
        let thread = std::thread::Builder::new()
            .name("clutch-local".into())
            .spawn(move || run(config, guardian, handed, stopped, (&up, &given_up)))
            .map_err(|source| ServeError::System { doing: "start a thread", source })?;
        Ok(Starting { local: Local { streams, stop, thread: Some(thread) }, is_up, give_up })
    }

    /// A new connection to it.
    ///
    /// # Errors
    ///
    /// When the system has no sockets left, or the supervisor has ended.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = UnixStream::pair()?;
        self.streams
            .try_send(theirs)
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(ours)
    }

    /// Stops it, and waits until no process of it is left: with `now`, running calls are killed;
    /// without, they may finish within the grace.
    pub fn stop(mut self, now: bool) {
        self.finish(if now { Stop::Now } else { Stop::Graceful });
    }

    fn finish(&mut self, how: Stop) {
        // It may have ended by itself, or been told before; both are as good.
        let _ = self.stop.try_send(how);
        if let Err(error) = self.join() {
            tracing::error!(%error, "the private supervisor failed");
        }
    }

    fn join(&mut self) -> Result<(), ServeError> {
        match self.thread.take() {
            Some(thread) => thread.join().unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.finish(Stop::Now);
    }
}

fn run(
    mut config: Config,
    guardian: Guardian,
    handed: mpsc::Receiver<UnixStream>,
    mut stopped: mpsc::Receiver<Stop>,
    (up, given_up): (&sync_mpsc::SyncSender<()>, &Arc<AtomicBool>),
) -> Result<(), ServeError> {
    let (package, _directory) = package::unpack_temporary()?;
    let open_files = OpenFiles::as_they_are()?;
    let keeper = Keeper::new(guardian.clone(), open_files.inherited);
    prepare::environments(&keeper, &mut config, given_up, |_| false)?;
    let at_hand = AtHand::default();
    let open = open_files.inherited;
    let pools = prepare::pools(&config, &package.boot, open, (None, None), &at_hand)?;
    run_on_this_thread(async move {
        let mut engine =
            Engine::start(&config, pools, guardian, Err(Unavailable::Off), PathBuf::new())?;
        engine.refuse_reloads();
        let mut door = Door::handed(handed);
        let started = tokio::select! {
            started = engine.first_starts() => started,
            _ = stopped.recv() => Err(ServeError::Interrupted),
        };
        if let Err(error) = started {
            engine.stop(Stop::Now, &mut door, std::future::pending()).await;
            return Err(error);
        }
        let _ = up.send(());
        // Beside the first call, which must not wait for it.
        tokio::task::spawn_blocking(package::sweep_temporary);
        // A dropped sender means that the owner is gone.
        let until = async { stopped.recv().await.unwrap_or(Stop::Now) };
        let how = engine.serve(&mut door, until).await;
        engine.stop(how, &mut door, std::future::pending()).await;
        Ok(())
    })?
}
