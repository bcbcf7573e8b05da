//! What has to be known before the first worker is started: each pool's interpreter, environment
//! and recipe. This may block, so it runs before the data plane does.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clutch_protocol::failure::Certificate;
use nix::unistd::geteuid;
use thiserror::Error;

use crate::config::{self, Config};
use crate::dispatch::PoolParts;
use crate::envs::{AtHand, Failures, Keeper};
use crate::interpreter::{Asker, Cache, Interpreter, InterpreterError};
use crate::limits::{DUMP_TIMEOUT, STARTS_AT_ONCE};
use crate::package::{self, PackageError};
use crate::pool::event::Budgets;
use crate::pool::settings::Size;
use crate::pool::{Pool, Settings};
use crate::socket::SocketError;
use crate::worker::launch::Bounds;

pub use crate::ingredients::{Ingredients, PoolFault, Prepared, Provider, Unmade};
pub use crate::open_files::OpenFiles;

mod pool_python;

pub(crate) use pool_python::of_each_pool;
pub use pool_python::{PoolPython, pool_python};
pub(crate) use pool_python::{asked_python, planned_python, try_interpreter};

/// How long an interpreter may take to say what it is.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a daemon does not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The socket that the service manager hands over cannot be served.
    #[error(transparent)]
    Activation(#[from] crate::service::ActivationError),
    /// The worker's Python package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Pools whose interpreter or declaration cannot be used, all of them.
    #[error("{}", list(.0))]
    Unusable(Vec<(String, PoolFault)>),
    /// Pools that do not get the environment they declare, all of them.
    #[error("{}", list(.0))]
    Environments(Failures),
    /// Pools that cannot be used, and pools whose first worker did not become ready.
    #[error("{}", list_both(.0, .1))]
    FirstStart(Vec<(String, PoolFault)>, Vec<Certificate>),
    /// The workers alone need more descriptors than there can be.
    #[error(
        "{workers} workers need {needed} open files, and at most {limit} may be open; configure \
         fewer workers, or raise the hard limit (`ulimit -Hn`, or LimitNOFILE= of a systemd unit)"
    )]
    OpenFiles {
        /// Workers of all pools.
        workers: u64,
        /// What they and the daemon itself need.
        needed: u64,
        /// The limit, as high as it could be raised.
        limit: u64,
    },
    /// A signal came before the daemon was ready.
    #[error("stopped by a signal before every pool was ready")]
    Interrupted,
    /// The system refuses something a daemon cannot do without.
    #[error("failed to {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What kind of failure a [`ServeError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeExit {
    /// The configuration, or what it names, is wrong.
    Configuration,
    /// Somebody else has the socket.
    Refused,
    /// Stopped before it was ready.
    Interrupted,
    /// The system failed.
    Internal,
}

impl ServeError {
    /// What kind of failure it is.
    pub const fn exit(&self) -> ServeExit {
        match self {
            ServeError::Socket(SocketError::Held { .. }) => ServeExit::Refused,
            ServeError::Interrupted => ServeExit::Interrupted,
            ServeError::System { .. } => ServeExit::Internal,
            ServeError::Socket(_)
            | ServeError::Activation(_)
            | ServeError::Package(_)
            | ServeError::Unusable(_)
            | ServeError::Environments(_)
            | ServeError::FirstStart(..)
            | ServeError::OpenFiles { .. } => ServeExit::Configuration,
        }
    }
}

fn list<E: std::fmt::Display>(failures: &[(String, E)]) -> String {
    let lines: Vec<_> =
        failures.iter().map(|(pool, error)| format!("pool '{pool}': {error}")).collect();
    lines.join("\n")
}

fn list_both(failures: &[(String, PoolFault)], certificates: &[Certificate]) -> String {
    let parts = [list(failures), list_certificates(certificates, "its first")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Certificates of workers that did not become ready, each with its pool and its story.
pub(crate) fn list_certificates(certificates: &[Certificate], which: &str) -> String {
    let line = |it: &Certificate| format!("pool '{}': {}", it.pool, story(it, which));
    certificates.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How `which` worker did not become ready, with all that is known.
pub(crate) fn story(certificate: &Certificate, which: &str) -> String {
    let mut text = format!("{which} {certificate}");
    // The traceback says it better than what python printed; without one, that is all there is.
    if certificate.detail.is_empty() && !certificate.stderr_tail.is_empty() {
        text += "\nits last words on standard error:\n";
        text += &certificate.stderr_tail;
    }
    if !certificate.stack.is_empty() {
        text += "\nits stack shortly before:\n";
        text += &certificate.stack;
    }
    text
}

/// An interpreter that was taken at its word, since asking it would cost a start of Python, and
/// what is needed to ask it after all, should its first worker not come up.
#[derive(Clone, Debug)]
pub struct Unasked {
    /// The pool's name.
    pub pool: String,
    path: PathBuf,
    cwd: PathBuf,
    environment: Environment,
    account: Option<config::Account>,
    timeout: Duration,
}

impl Unasked {
    /// Asks it; gives up soon after `cancelled` becomes true.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn ask(&self, cancelled: &AtomicBool) -> Result<Interpreter, InterpreterError> {
        let Unasked { pool: _, path, cwd, environment, account, timeout } = self;
        let (account, timeout, cache) = (account.as_ref(), *timeout, None);
        Asker { cwd, environment, timeout, cancelled, account, cache }.who(path)
    }
}

/// Provides the pools of `config` with the environments they declare, which may take minutes.
/// Pools that `leaves_alone` says true of are left as they are.
///
/// # Errors
///
/// Names every pool that does not get its own.
pub fn environments(
    keeper: &Keeper,
    config: &mut Config,
    cancelled: &Arc<AtomicBool>,
    leaves_alone: impl Fn(&config::Pool) -> bool,
) -> Result<(), ServeError> {
    let (_, failures) = keeper.provide(config, cancelled, leaves_alone);
    if failures.is_empty() { Ok(()) } else { Err(ServeError::Environments(failures)) }
}

/// Works out every pool of `config`; those that are missing in `at_hand` have no recipe.
/// Interpreters that may be launchers are asked who they are, side by side; others are asked only
/// when they do not come up, unless there is a cache, which makes that cheap: then all are asked
/// everything.
///
/// # Errors
///
/// When no pool can be used: names all of them, and why.
pub fn pools(
    config: &Config,
    boot: &Path,
    open_files: u64,
    (cache, provider): (Option<&Cache>, Option<Provider>),
    at_hand: &AtHand,
) -> Result<Prepared, ServeError> {
    let never = AtomicBool::new(false);
    let from = (cache, provider);
    let prepared = pools_until(config, boot, open_files, from, at_hand, &never)?;
    if !prepared.faults.is_empty() && prepared.faults.len() == prepared.pools.len() {
        return Err(ServeError::Unusable(prepared.faults));
    }
    Ok(prepared)
}

/// As [`pools`], whatever becomes of the interpreters; gives up soon after `cancelled` becomes
/// true.
///
/// # Errors
///
/// When the worker's files cannot be unpacked for other users.
pub fn pools_until(
    config: &Config,
    boot: &Path,
    open_files: u64,
    (cache, provider): (Option<&Cache>, Option<Provider>),
    at_hand: &AtHand,
    cancelled: &AtomicBool,
) -> Result<Prepared, ServeError> {
    let probes = of_each_pool(config, |pool| match at_hand.faults.get(&pool.name) {
        _ if at_hand.missing.contains(&pool.name) => Ok(None),
        Some(fault) => Err(PoolFault::from(Arc::clone(fault))),
        None => Ok(Some(pool_python(pool, cache, cancelled)?)),
    });
    let shared = shared_boot(config)?;
    let mut prepared = Prepared { pools: Vec::new(), unasked: Vec::new(), faults: Vec::new() };
    for (pool, probed) in probes {
        let boot = match (&pool.process.account, &shared) {
            (Some(_), Some(shared)) => shared,
            _ => boot,
        };
        let bounds = Bounds::new(&config.daemon, open_files);
        let (boot, provider) = (boot.to_owned(), provider.clone());
        let ingredients = Ingredients { boot, bounds, provider };
        let make = match probed {
            Ok(Some(PoolPython { executable, environment, doubt, facts, place: _ })) => {
                prepared.unasked.extend(doubt);
                Ok(ingredients.mix(pool, &executable, environment).with_facts(facts))
            }
            Ok(None) => Err(Unmade::NotThere),
            Err(error) => {
                let fault = error.to_string();
                prepared.faults.push((pool.name.clone(), error));
                Err(Unmade::Faulty(fault))
            }
        };
        let (policy, config) = (policy(pool), pool.clone());
        prepared.pools.push(PoolParts { config, make, ingredients, policy });
    }
    Ok(prepared)
}

/// Names of variables and their values.
pub type Environment = Vec<(OsString, OsString)>;

/// The script of workers that are another user than this process, which cannot read its own one;
/// none when no pool has such workers.
fn shared_boot(config: &Config) -> Result<Option<PathBuf>, ServeError> {
    if geteuid().is_root() {
        let roots = config.pools.values().filter(|pool| pool.process.account.is_none());
        let pools = roots.map(|pool| pool.name.as_str()).collect::<Vec<_>>().join(", ");
        if !pools.is_empty() {
            tracing::warn!(
                pools,
                "these pools' workers are root, and so is all they call; set \
                process.user to run them as somebody with fewer rights"
            );
        }
    }
    if config.pools.values().all(|pool| pool.process.account.is_none()) {
        return Ok(None);
    }
    Ok(Some(package::unpack_for_everyone(&package::state_dir()?)?.boot))
}

fn policy(pool: &config::Pool) -> Pool {
    Pool::new(settings(pool))
}

/// What a pool's policy is told of its configuration.
pub fn settings(pool: &config::Pool) -> Settings {
    let limits = &pool.limits;
    Settings {
        size: Size { min: pool.workers_min, max: pool.workers, spares: pool.spares },
        lanes: pool.concurrency.lanes(),
        scale: pool.scale,
        starts_at_once: STARTS_AT_ONCE,
        restart: pool.restart,
        replace: pool.replace,
        nested: pool.nested,
        queue: limits.queue,
        budgets: Budgets {
            start: limits.start_timeout,
            dump: DUMP_TIMEOUT,
            cooperate: limits.cooperate,
            interrupt: limits.interrupt,
            grace: limits.grace,
        },
        // The dice only spread restarts; any seed that differs between daemons will do.
        seed: u64::from(std::process::id()) << 32 | u64::from(pool.workers),
    }
}
