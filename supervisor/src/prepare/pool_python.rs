//! One pool's interpreter and the environment of its workers.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use super::{Environment, PROBE_TIMEOUT, Unasked};
use crate::config::{self, Python};
use crate::environment;
use crate::interpreter::{self, Asker, Cache, Facts, InterpreterError, Place, Places};

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
    let search_path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or_else(OsString::new, |(_, value)| value.clone());
    let timeout = PROBE_TIMEOUT.min(pool.limits.start_timeout);
    let asker = Asker { cwd: &pool.cwd, environment: &environment, timeout, cancelled, cache };
    let search = interpreter::Search {
        search_path: &search_path,
        cwd: &pool.cwd,
        places: &Places::of_this_machine(),
        ask: &|path| asker.who(path),
    };
    let choice = interpreter::choose(&pool.python, &search)?;
    // What goes wrong here for another reason than its version shows when its first worker starts.
    let facts = match cache.map(|_| asker.facts(&choice.path)) {
        Some(Err(
            error @ (InterpreterError::TooOld { .. } | InterpreterError::Implementation { .. }),
        )) => return Err(error),
        Some(Ok(facts)) => Some(facts),
        Some(Err(_)) | None => None,
    };
    let unasked = Unasked {
        pool: pool.name.clone(),
        path: choice.path.clone(),
        cwd: pool.cwd.clone(),
        environment: environment.clone(),
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
