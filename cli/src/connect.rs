//! The way to a daemon: the one behind the socket, or a private one for this command.
//!
//! Both give the same [`Client`]; no verb knows which it talks to. A private one is stopped by
//! [`Link::close`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clutch_client::{Client, ConnectError, ConnectOptions};
use clutch_supervisor::config::{self, Config, LocalOptions};
use clutch_supervisor::envs::Keeper;
use clutch_supervisor::prepare::OpenFiles;
use clutch_supervisor::{Guardian, Local, Orphans};

use crate::args::{Global, LocalArgs, TargetArgs};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::logging::{self, Log, LogFormat};

/// How long a daemon may take to answer the first frame. It does so in microseconds unless it is
/// stopped or swapped out.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a call that was given up may take to release what it holds, before its private worker
/// is killed. Longer than a pool's default `interrupt`, shorter than a person's patience.
const SETTLE_MAX: Duration = Duration::from_millis(250);

/// What is logged of a private supervisor where nothing else is wanted.
pub(crate) const BUILDS_ONLY: &str = "off,clutch_supervisor::envs=info";

/// How often is looked whether it has.
const SETTLE_STEP: Duration = Duration::from_millis(5);

/// Which socket was named.
#[derive(Clone, Debug)]
pub(crate) struct Socket(Option<PathBuf>);

impl Socket {
    pub(crate) fn of(global: &Global) -> Socket {
        // An empty variable is what a shell makes of an unset one.
        let named = global.socket.clone();
        Socket(named.filter(|path| !path.as_os_str().is_empty()))
    }

    /// The socket that was named.
    pub(crate) fn named(&self) -> Option<PathBuf> {
        self.0.clone()
    }

    /// The socket that was named, else the default one.
    pub(crate) fn path(&self) -> Result<PathBuf, ConnectError> {
        match &self.0 {
            Some(path) => Ok(path.clone()),
            None => clutch_client::default_socket(),
        }
    }
}

/// Connects to the daemon.
pub(crate) async fn daemon(socket: &Socket) -> Result<Client, Error> {
    daemon_within(socket, CONNECT_MAX).await
}

/// Connects to the daemon, and does not wait longer for it than the caller wants to wait at all.
async fn daemon_within(socket: &Socket, patience: Duration) -> Result<Client, Error> {
    let options = ConnectOptions::new(socket.path()?)
        .timeout(patience.min(CONNECT_MAX))
        .program(concat!("clutch ", env!("CARGO_PKG_VERSION")));
    Ok(Client::connect_with(options).await?)
}

/// What guards each worker: this very program, by its hidden verb.
pub(crate) fn guardian() -> Guardian {
    Guardian { program: "/proc/self/exe".into(), args: vec!["shim".into()], orphans: Orphans::All }
}

/// What provides environments to a command that needs no daemon.
pub(crate) fn keeper() -> Result<Keeper, Error> {
    let open_files = OpenFiles::as_they_are()?;
    Ok(Keeper::new(guardian(), open_files.inherited))
}

/// A client, and the private supervisor behind it if there is one.
pub(crate) struct Link {
    pub(crate) client: Client,
    local: Option<Local>,
    _log: Option<Log>,
}

/// Connects to the daemon, or starts a private supervisor.
pub(crate) async fn open(
    target: &TargetArgs,
    global: &Global,
    workers: u32,
    interrupt: &mut Interrupt,
) -> Result<Link, Error> {
    let TargetArgs { local: args, timeout, .. } = target;
    if !args.local {
        let patience = timeout.unwrap_or(CONNECT_MAX);
        let socket = Socket::of(global);
        let client = tokio::select! {
            client = daemon_within(&socket, patience) => client?,
            ask = interrupt.wait() => return Err(Error::Interrupted(ask)),
        };
        return Ok(Link { client, local: None, _log: None });
    }
    let config = local_config(args, workers)?;
    let log = private_log(global, &config)?;
    let local = start(config, interrupt).await?;
    let connected = match local.connect() {
        Ok(stream) => Client::from_stream(stream).await.map_err(Error::Connect),
        Err(error) => Err(Error::Prepare(error)),
    };
    match connected {
        Ok(client) => Ok(Link { client, local: Some(local), _log: log }),
        Err(error) => {
            stop(local, true).await;
            Err(error)
        }
    }
}

/// The log of a private supervisor, where there is one: a build may take minutes, which nobody
/// should have to wait through in silence.
pub(crate) fn private_log(global: &Global, config: &Config) -> Result<Option<Log>, Error> {
    let level = if global.verbose || std::env::var_os("CLUTCH_LOG").is_some() {
        "info"
    } else if config.pools.values().any(|pool| pool.declared.is_some()) {
        BUILDS_ONLY
    } else {
        return Ok(None);
    };
    Ok(Some(logging::start(LogFormat::Text, level)?))
}

/// Starts a private supervisor. Ctrl-C does not leave a half started one behind.
pub(crate) async fn start(config: Config, interrupt: &mut Interrupt) -> Result<Local, Error> {
    let starting = Local::begin(config, guardian())?;
    let abort = starting.abort();
    let mut started = tokio::task::spawn_blocking(move || starting.wait());
    let interrupted = tokio::select! {
        local = &mut started => return Ok(local.expect("starting does not panic")?),
        ask = interrupt.wait() => Error::Interrupted(ask),
    };
    abort.abort();
    if let Ok(local) = started.await.expect("starting does not panic") {
        stop(local, true).await;
    }
    Err(interrupted)
}

impl Link {
    /// Ends the connection, and the private supervisor. A worker that still has a call that was
    /// given up gets a moment to release what it holds.
    pub(crate) async fn close(self, exit: Exit) {
        let Link { client, local, _log } = self;
        let Some(local) = local else { return };
        let given_up = exit.is_given_up();
        if given_up {
            settle(&client).await;
        }
        drop(client);
        stop(local, given_up).await;
    }
}

/// Makes sure that the daemon has read everything this client has sent, within a bound.
pub(crate) async fn delivered(client: &Client) {
    let _ = tokio::time::timeout(SETTLE_MAX, client.ping()).await;
}

/// Waits until no worker has a call, within a bound.
async fn settle(client: &Client) {
    let end = Instant::now() + SETTLE_MAX;
    let mut steps = tokio::time::interval(SETTLE_STEP);
    let idle = async {
        loop {
            steps.tick().await;
            let Ok(status) = client.status().await else {
                return;
            };
            let mut workers = status.pools.iter().flat_map(|pool| &pool.workers);
            if !workers.any(|worker| matches!(&*worker.state, "busy" | "interrupting")) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout_at(end.into(), idle).await;
}

/// Stops a private supervisor, and waits until nothing of it is left.
pub(crate) async fn stop(local: Local, now: bool) {
    tokio::task::spawn_blocking(move || local.stop(now)).await.expect("stopping does not panic");
}

fn local_config(args: &LocalArgs, workers: u32) -> Result<Config, Error> {
    if let Some(file) = &args.config {
        return Ok(config::load(file)?);
    }
    let options = LocalOptions {
        python: args.python.clone(),
        requirements: args.requirements.clone(),
        workers: Some(args.workers.map_or(workers, Into::into)),
        path: args.path.clone(),
        cwd: std::env::current_dir().map_err(Error::CurrentDirectory)?,
        main: args.main.clone(),
    };
    Ok(Config::local(options)?)
}
