//! What recipes are made of, and what is known of pools before their first start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::config;
use crate::dispatch::PoolParts;
use crate::envs::{EnvError, Keeper, Wish};
use crate::interpreter::{Cache, InterpreterError};
use crate::package;
use crate::prepare::{Environment, Unasked, asked_python};
use crate::worker::launch::{Bounds, Recipe};

/// What is known of a configuration's pools before any worker is started.
#[derive(Debug)]
pub struct Prepared {
    /// Every pool; one whose interpreter cannot be used has no recipe.
    pub pools: Vec<PoolParts>,
    /// Interpreters that were taken at their word.
    pub unasked: Vec<Unasked>,
    /// Pools that cannot start, and why.
    pub faults: Vec<(String, PoolFault)>,
}

/// Why a pool cannot start, whatever its workers would do.
#[derive(Debug, Error)]
pub enum PoolFault {
    /// Its interpreter cannot be used.
    #[error(transparent)]
    Interpreter(#[from] InterpreterError),
    /// It does not get the environment it declares.
    #[error(transparent)]
    Environment(#[from] Arc<EnvError>),
    /// One of these, as it was told.
    #[error("{0}")]
    Told(String),
}

/// Why a pool has no recipe yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmade {
    /// This is wrong with its interpreter or its declaration.
    Faulty(String),
    /// Its environment is not there.
    NotThere,
}

/// What recipes are made of beside their pools' configurations.
#[derive(Clone, Debug)]
pub struct Ingredients {
    /// The script that a worker starts with.
    pub boot: PathBuf,
    /// What bounds its workers.
    pub bounds: Bounds,
    /// Who provides a declared environment that is not there; nobody where all are.
    pub provider: Option<Provider>,
}

/// Who provides declared environments.
#[derive(Clone, Debug)]
pub struct Provider {
    /// What builds and holds them.
    pub keeper: Keeper,
    /// The configuration that declares them.
    pub source: Option<PathBuf>,
}

impl Ingredients {
    /// The recipe of a pool whose interpreter and environment are known.
    pub(crate) fn mix(
        &self,
        pool: &config::Pool,
        executable: &Path,
        environment: Environment,
    ) -> Recipe {
        let Ingredients { boot, bounds, provider: _ } = self;
        Recipe::new(pool, executable, boot, environment, *bounds)
    }

    /// Works a pool's recipe out anew, after it could not be before: the environment it declares is
    /// built if it is not there, and its interpreter is looked for and asked who it is. Gives the
    /// pool as it is then, too. Blocks; gives up soon after the wish is cancelled.
    ///
    /// # Errors
    ///
    /// What is wrong with the environment or the interpreter.
    pub fn recipe(
        &self,
        pool: &config::Pool,
        wish: &Wish,
    ) -> Result<(config::Pool, Recipe), PoolFault> {
        let mut pool = pool.clone();
        let mut cache = None;
        if let Some(Provider { keeper, source }) = &self.provider
            && pool.declared.is_some()
        {
            keeper.provide_pool(&mut pool, source.as_deref(), wish)?;
            cache = package::state_dir().ok().map(|directory| Cache::in_state(&directory));
        }
        let python = asked_python(&pool, cache.as_ref(), &wish.cancelled)?;
        let recipe = self.mix(&pool, &python.executable, python.environment);
        Ok((pool, recipe.with_facts(python.facts)))
    }
}
