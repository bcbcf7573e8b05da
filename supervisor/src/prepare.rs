//! What has to be known before the first worker is started: each pool's interpreter, environment
//! and recipe. This may block, so it runs before the data plane does.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use clutch_protocol::failure::Certificate;
use thiserror::Error;

use crate::config::{self, Config, Python};
use crate::dispatch::PoolParts;
use crate::environment;
use crate::interpreter::{self, Interpreter, InterpreterError};
use crate::package::PackageError;
use crate::pool::event::Budgets;
use crate::pool::{Pool, Settings};
use crate::socket::SocketError;
use crate::worker::launch::Recipe;

/// How long an interpreter may take to say what it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a daemon does not start.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The worker's Python package cannot be unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// Pools whose interpreter cannot be used, all of them.
    #[error("{}", list(.0))]
    Interpreters(Vec<(String, InterpreterError)>),
    /// Pools whose first worker did not become ready.
    #[error("{}", list_certificates(.0))]
    FirstStart(Vec<Certificate>),
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
            | ServeError::Package(_)
            | ServeError::Interpreters(_)
            | ServeError::FirstStart(_) => ServeExit::Configuration,
        }
    }
}

fn list(failures: &[(String, InterpreterError)]) -> String {
    let lines: Vec<_> =
        failures.iter().map(|(pool, error)| format!("pool '{pool}': {error}")).collect();
    lines.join("\n")
}

fn list_certificates(certificates: &[Certificate]) -> String {
    let lines = certificates.iter().map(|certificate| {
        let mut text = format!("pool '{}': its first {certificate}", certificate.pool);
        // The traceback says it better than what python printed; without one, that is all there is.
        if certificate.detail.is_empty() && !certificate.stderr_tail.is_empty() {
            text += "\nits last words on standard error:\n";
            text += &certificate.stderr_tail;
        }
        text
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Works out every pool of `config`. Interpreters are asked side by side.
///
/// # Errors
///
/// Names every pool whose interpreter cannot be used.
pub fn pools(config: &Config, boot: &Path) -> Result<Vec<PoolParts>, ServeError> {
    let probes = std::thread::scope(|scope| {
        let threads: Vec<_> = config
            .pools
            .values()
            .map(|pool| (pool, scope.spawn(move || probe(pool))))
            .collect();
        let joined = threads.into_iter().map(|(pool, thread)| {
            (pool, thread.join().expect("probing an interpreter does not panic"))
        });
        joined.collect::<Vec<_>>()
    });
    let mut parts = Vec::new();
    let mut failures = Vec::new();
    for (pool, probed) in probes {
        match probed {
            Ok((interpreter, environment)) => {
                let payload_max = config.daemon.payload;
                let recipe = Recipe::new(pool, &interpreter, boot, environment, payload_max);
                parts.push(PoolParts { recipe, policy: policy(pool), config: pool.clone() });
            }
            Err(error) => failures.push((pool.name.clone(), error)),
        }
    }
    if failures.is_empty() { Ok(parts) } else { Err(ServeError::Interpreters(failures)) }
}

type Environment = Vec<(OsString, OsString)>;

fn probe(pool: &config::Pool) -> Result<(Interpreter, Environment), InterpreterError> {
    let venv = match &pool.python {
        Python::Venv(path) => Some(path.as_path()),
        _ => None,
    };
    let environment = environment::build(&pool.env, std::env::vars_os(), venv);
    let search_path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or_else(OsString::new, |(_, value)| value.clone());
    let path = interpreter::resolve(&pool.python, &search_path, &pool.cwd)?;
    let timeout = PROBE_TIMEOUT.min(pool.limits.start_timeout);
    let interpreter = interpreter::probe(&path, &pool.cwd, &environment, timeout)?;
    Ok((interpreter, environment))
}

fn policy(pool: &config::Pool) -> Pool {
    let limits = &pool.limits;
    // The dice only spread restarts; any seed that differs between daemons will do.
    let seed = u64::from(std::process::id()) << 32 | u64::from(pool.workers);
    Pool::new(Settings {
        workers: pool.workers,
        queue: limits.queue,
        budgets: Budgets {
            start: limits.start_timeout,
            interrupt: limits.interrupt,
            grace: limits.grace,
        },
        seed,
    })
}
