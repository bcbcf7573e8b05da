//! One pool's interpreter and the environment of its workers.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Environment, PROBE_TIMEOUT, PoolFault, Unasked};
use crate::config::{self, Config, Python};
use crate::interpreter::{self, Asker, Cache, Facts, InterpreterError, Place, Places};
use crate::{environment, envs};

/// What a pool's workers are started with, as far as its interpreter decides it.
#[derive(Clone, Debug)]
pub struct PoolPython {
    /// What is executed.
    pub executable: PathBuf,
    /// Where it was found.
    pub place: Place,
    /// The variables it gets, those of its slot not counted.
    pub environment: Environment,
    /// What it says of itself, if it was asked.
    pub facts: Option<Facts>,
    /// How to ask it, if it was not.
    pub(super) doubt: Option<Unasked>,
}

/// What `ask` finds out about each pool of a configuration, in its order; they are asked about side
/// by side.
pub(crate) fn of_each_pool<T: Send>(
    config: &Config,
    ask: impl Fn(&config::Pool) -> T + Sync,
) -> Vec<(&config::Pool, T)> {
    let ask = &ask;
    std::thread::scope(|scope| {
        let start = |pool| (pool, scope.spawn(move || ask(pool)));
        let threads: Vec<_> = config.pools.values().map(start).collect();
        let joined = threads.into_iter().map(|(pool, thread)| {
            (pool, thread.join().expect("probing an interpreter does not panic"))
        });
        joined.collect()
    })
}

/// Finds a pool's interpreter, and works out the environment of its workers.
///
/// # Errors
///
/// When there is no interpreter that workers can run.
pub fn pool_python(
    pool: &config::Pool,
    cache: Option<&Cache>,
    cancelled: &AtomicBool,
) -> Result<PoolPython, InterpreterError> {
    let venv = match &pool.python {
        Python::Venv(path) => Some(path.as_path()),
        _ => None,
    };
    let account = pool.process.account.as_ref();
    let mut environment = environment::build(&pool.env, std::env::vars_os(), venv, account);
    let search_path = environment::search_path(&environment);
    let timeout = PROBE_TIMEOUT.min(pool.limits.start_timeout);
    let cwd = &pool.cwd;
    let asker = Asker { cwd, environment: &environment, timeout, cancelled, account, cache };
    let search = interpreter::Search {
        search_path: &search_path,
        cwd: &pool.cwd,
        places: &Places::of_this_machine(),
        ask: &|path| asker.who(path),
    };
    let choice = interpreter::choose(&pool.python, &search)?;
    let facts = match cache.map(|_| asker.facts(&choice.path)) {
        Some(Ok(facts)) => Some(facts),
        Some(Err(error)) if is_certain(&error) => return Err(error),
        Some(Err(_)) | None => None,
    };
    let unasked = Unasked {
        pool: pool.name.clone(),
        path: choice.path.clone(),
        cwd: pool.cwd.clone(),
        environment: environment.clone(),
        account: account.cloned(),
        timeout,
    };
    let active = environment::active(|name| std::env::var_os(name));
    environment::settle(&mut environment, &pool.env, &active, &choice.path);
    Ok(PoolPython {
        executable: choice.path,
        place: choice.place,
        environment,
        facts,
        doubt: choice.asked.is_none().then_some(unasked),
    })
}

/// The same before the environment is there that the pool declares: the interpreter that this is
/// made with, which `requires-python` has a say in, and what is installed in it.
pub(crate) fn planned_python(
    pool: &config::Pool,
    cache: Option<&Cache>,
    cancelled: &AtomicBool,
) -> Result<(PoolPython, Option<String>), PoolFault> {
    let Some(base) = envs::base_of(pool, cancelled).map_err(Arc::new)? else {
        return Ok((pool_python(pool, cache, cancelled)?, None));
    };
    let pool = config::Pool { python: base.python, ..pool.clone() };
    Ok((pool_python(&pool, cache, cancelled)?, base.installs))
}

/// Looks for a pool's interpreter and asks it who it is. Blocks; gives up soon after `cancelled`
/// becomes true.
pub(crate) fn try_interpreter(
    pool: &config::Pool,
    cancelled: &AtomicBool,
) -> Result<(), InterpreterError> {
    asked_python(pool, None, cancelled).map(|_| ())
}

/// The same, and gives what it is. What a cache knows is not asked again.
pub(crate) fn asked_python(
    pool: &config::Pool,
    cache: Option<&Cache>,
    cancelled: &AtomicBool,
) -> Result<PoolPython, InterpreterError> {
    let mut python = pool_python(pool, cache, cancelled)?;
    if let Some(unasked) = python.doubt.take() {
        unasked.ask(cancelled)?;
    }
    Ok(python)
}

/// Whether a worker could not run either. A slow machine, or packages that cannot be listed, are
/// no reason not to try: what is wrong then shows when the first worker starts.
fn is_certain(error: &InterpreterError) -> bool {
    match error {
        InterpreterError::Hung { .. }
        | InterpreterError::Probe { .. }
        | InterpreterError::Reticent { .. } => false,
        // Asked with the worker's user, but without that user's supplementary groups.
        InterpreterError::Exec { source, .. } => source.kind() != ErrorKind::PermissionDenied,
        _ => true,
    }
}
