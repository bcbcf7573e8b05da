//! What recipes are made of, and what is known of pools before their first start.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::config;
use crate::dispatch::PoolParts;
use crate::interpreter::InterpreterError;
use crate::prepare::{Environment, Unasked, try_interpreter};
use crate::worker::launch::Recipe;

/// What is known of a configuration's pools before any worker is started.
#[derive(Debug)]
pub struct Prepared {
    /// Every pool; one whose interpreter cannot be used has no recipe.
    pub pools: Vec<PoolParts>,
    /// Interpreters that were taken at their word.
    pub unasked: Vec<Unasked>,
    /// Pools without a recipe, and why.
    pub faults: Vec<(String, InterpreterError)>,
}

/// What a recipe is made of beside its pool's configuration.
#[derive(Clone, Debug)]
pub struct Ingredients {
    /// The script that a worker starts with.
    pub boot: PathBuf,
    /// The longest payload.
    pub payload_max: u32,
    /// The soft limit of open files that workers get.
    pub open_files: u64,
}

impl Ingredients {
    /// The recipe of a pool whose interpreter and environment are known.
    pub(crate) fn mix(
        &self,
        pool: &config::Pool,
        executable: &Path,
        environment: Environment,
    ) -> Recipe {
        let Ingredients { boot, payload_max, open_files } = self;
        Recipe::new(pool, executable, boot, environment, *payload_max, *open_files)
    }

    /// Works a pool's recipe out anew, after it could not be before: its interpreter is looked for
    /// and asked who it is. Blocks; gives up soon after `cancelled` becomes true.
    ///
    /// # Errors
    ///
    /// What is wrong with the interpreter.
    pub fn recipe(
        &self,
        pool: &config::Pool,
        cancelled: &AtomicBool,
    ) -> Result<Recipe, InterpreterError> {
        let (executable, environment) = try_interpreter(pool, cancelled)?;
        Ok(self.mix(pool, &executable, environment))
    }
}
