//! From a configuration to environments that are there, and stay there while they are used.
//!
//! A pool's declaration is turned into the virtual environment that it stands for: afterwards its
//! configuration says `venv`, and nobody else has to know.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::base;
use super::builder::{self, Builder, Means, Plan};
use super::declaration::{self, Content};
use super::error::EnvError;
use super::mark::{Mark, Use};
use super::store::{Access, Claim, Entry, Hold, Patience, Store};
use crate::config::{Config, Pool, Python};
use crate::interpreter::Interpreter;
use crate::prepare::PROBE_TIMEOUT;
use crate::worker::spawner::Guardian;

/// How many builds, or looks at declarations, run side by side. Builders use several processors
/// and the network themselves.
const AT_ONCE: usize = 4;

/// What a pool got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provided {
    /// The pool.
    pub pool: String,
    /// Its virtual environment.
    pub env: PathBuf,
    /// Whether it was there already.
    pub reused: bool,
}

/// Provides environments, and keeps others from removing them as long as it lives.
#[derive(Clone, Debug)]
pub struct Keeper {
    guardian: Guardian,
    /// The soft limit of open files for builders.
    open_files: u64,
    /// By the path of the environment. A pool's former environment stays held, since workers that
    /// leave a pool may use it for as long as their last call takes.
    holds: Arc<Mutex<BTreeMap<PathBuf, Hold>>>,
    /// Is told how long a build may take, before it begins or is waited for.
    tell: fn(Duration),
}

/// What a pool's declaration comes to.
enum Wanted {
    /// An environment.
    Env(Box<Plan>),
    /// No more than an interpreter.
    Interpreter(PathBuf),
    /// Nothing.
    Nothing,
}

impl Keeper {
    /// One that has provided nothing yet. Builders run under `guardian`.
    pub fn new(guardian: Guardian, open_files: u64) -> Keeper {
        Keeper { guardian, open_files, holds: Arc::default(), tell: |_| () }
    }

    /// The same, which tells how long a build may take before one begins or is waited for.
    #[must_use]
    pub fn telling(self, tell: fn(Duration)) -> Keeper {
        Keeper { tell, ..self }
    }

    /// Provides every pool of `config` with what it declares, and has it say so: its `python`
    /// becomes the environment's. Gives what was provided, and what could not be.
    pub fn provide(
        &self,
        config: &mut Config,
        cancelled: &AtomicBool,
    ) -> (Vec<Provided>, Vec<(String, EnvError)>) {
        let source = config.source.clone();
        let declaring: Vec<&Pool> =
            config.pools.values().filter(|pool| pool.declared.is_some()).collect();
        let wanted = in_parallel(declaring, |pool| (pool.name.clone(), self.want(pool, cancelled)));
        let mut failures = Vec::new();
        let mut plans: BTreeMap<PathBuf, (Plan, Vec<String>)> = BTreeMap::new();
        for (name, wanted) in wanted {
            match wanted {
                Ok(Wanted::Nothing) => {}
                Ok(Wanted::Interpreter(path)) => {
                    set_python(config, &name, Python::File(path));
                }
                Ok(Wanted::Env(plan)) => {
                    let env = plan.entry.env();
                    plans.entry(env).or_insert_with(|| (*plan, Vec::new())).1.push(name);
                }
                Err(error) => failures.push((name, error)),
            }
        }
        let built = in_parallel(plans.into_values().collect(), |(plan, pools)| {
            let ensured = self.ensure(&plan, cancelled);
            (plan, pools, ensured)
        });
        let mut provided = Vec::new();
        for (plan, pools, ensured) in built {
            let env = plan.entry.env();
            match ensured {
                Ok(reused) => {
                    for pool in pools {
                        let usage = Use { pool: pool.clone(), config: source.clone() };
                        plan.entry.note_use(&usage);
                        set_python(config, &pool, Python::Venv(env.clone()));
                        provided.push(Provided { pool, env: env.clone(), reused });
                    }
                }
                Err(error) => failures.extend(each_its_own(pools, error)),
            }
        }
        provided.sort_by(|a, b| a.pool.cmp(&b.pool));
        failures.sort_by(|(a, _), (b, _)| a.cmp(b));
        (provided, failures)
    }

    /// The environment that a pool's declaration stands for, and whether it is there; none if it
    /// declares none. Builds nothing.
    ///
    /// # Errors
    ///
    /// When the declaration or the interpreter cannot be used.
    pub fn locate(&self, pool: &Pool) -> Result<Option<(PathBuf, bool)>, EnvError> {
        Ok(match self.want(pool, &AtomicBool::new(false))? {
            Wanted::Env(plan) => Some((plan.entry.env(), plan.entry.is_usable())),
            Wanted::Interpreter(_) | Wanted::Nothing => None,
        })
    }

    /// Reads a declaration and asks its interpreter who it is.
    fn want(&self, pool: &Pool, cancelled: &AtomicBool) -> Result<Wanted, EnvError> {
        let Some(declared) = &pool.declared else { return Ok(Wanted::Nothing) };
        // A tool that is missing is no fault where there is nothing to build.
        let builder = Builder::find(pool.build.tool);
        let uv = matches!(builder, Ok(Builder::Uv(_)));
        let Some(content) = declaration::read(declared, &pool.cwd, uv)? else {
            return Ok(Wanted::Nothing);
        };
        let found = base::interpreter_for(pool, &content, cancelled)?;
        let Some(install) = content.install.clone() else {
            return Ok(Wanted::Interpreter(found.executable));
        };
        let store = match pool.process.account {
            Some(_) => Store::shared()?,
            None => Store::own()?,
        };
        let (major, minor, micro) = found.version;
        let python = format!("{major}.{minor}.{micro}");
        let key = self.key(pool, &content, &found, &python, cancelled)?;
        Ok(Wanted::Env(Box::new(Plan {
            entry: store.entry(&key),
            pool: pool.name.clone(),
            what: content.what,
            install,
            builder: builder?,
            interpreter: found.executable,
            python,
            options: pool.build.clone(),
            base: content.base,
        })))
    }

    /// What everything hangs on. Which tool builds it does not: uv and pip install the same, and a
    /// lock that only one of them follows is part of the content.
    fn key(
        &self,
        pool: &Pool,
        content: &Content,
        found: &Interpreter,
        python: &str,
        cancelled: &AtomicBool,
    ) -> Result<String, EnvError> {
        let mut hasher = content.hasher.clone();
        let real = found.executable.canonicalize().unwrap_or_else(|_| found.executable.clone());
        hasher.part("interpreter", found.executable.as_os_str().as_encoded_bytes());
        hasher.part("real", real.as_os_str().as_encoded_bytes());
        hasher.part("version", python.as_bytes());
        hasher.part("identity", base::identity(found, self.means(cancelled))?.as_bytes());
        let options = &pool.build;
        hasher.part("index", options.index_url.as_deref().unwrap_or_default().as_bytes());
        for url in &options.extra_index_urls {
            hasher.part("extra index", url.as_bytes());
        }
        for link in &options.find_links {
            hasher.part("links", link.as_bytes());
        }
        Ok(hasher.digits())
    }

    /// Has the environment there and held; whether it was there before.
    fn ensure(&self, plan: &Plan, cancelled: &AtomicBool) -> Result<bool, EnvError> {
        let entry = &plan.entry;
        if self.holds().contains_key(&entry.env()) && entry.is_usable() {
            return Ok(true);
        }
        entry.store.sweep();
        if !entry.is_usable() {
            (self.tell)(plan.options.timeout + PROBE_TIMEOUT);
        }
        let mut reused = true;
        // As long as others would need to build it.
        let patience = Patience { timeout: plan.options.timeout + PROBE_TIMEOUT, cancelled };
        loop {
            match entry.access(patience)? {
                Access::Use(hold) => {
                    self.holds().insert(entry.env(), hold);
                    return Ok(reused);
                }
                Access::Build(claim) => {
                    reused = false;
                    self.build(plan, entry, claim, cancelled)?;
                }
            }
        }
    }

    fn build(
        &self,
        plan: &Plan,
        entry: &Entry,
        claim: Claim,
        cancelled: &AtomicBool,
    ) -> Result<(), EnvError> {
        entry.clear(&claim)?;
        let env = entry.env().display().to_string();
        let (pool, what, python) = (&plan.pool, &plan.what, &plan.python);
        let tool = plan.builder.name();
        tracing::info!(pool, what, python, tool, env, "building an environment");
        let begun = Instant::now();
        match builder::build(plan, self.means(cancelled)) {
            Ok(()) => {
                let mark = Mark::new(entry.env(), what, &plan.interpreter, python, tool);
                entry.complete(&mark, claim)?;
                let seconds = rounded(begun.elapsed());
                tracing::info!(pool, env, seconds, "the environment is built");
                Ok(())
            }
            Err(error) => {
                // What is left is of no use, and without a mark never used; if it cannot be removed
                // now, the next build does it.
                if let Err(left) = entry.remove(claim) {
                    tracing::warn!(error = %left, "what a failed build has left is still there");
                }
                Err(error)
            }
        }
    }

    fn means<'a>(&'a self, cancelled: &'a AtomicBool) -> Means<'a> {
        Means { guardian: &self.guardian, open_files: self.open_files, cancelled }
    }

    fn holds(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Hold>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_python(config: &mut Config, pool: &str, python: Python) {
    let pool = config.pools.get_mut(pool).expect("it was just looked at");
    pool.python = python;
}

/// One failure, told to everyone it concerns: errors hold what cannot be copied, so all but the
/// first are pointed to it.
fn each_its_own(pools: Vec<String>, error: EnvError) -> Vec<(String, EnvError)> {
    let mut pools = pools.into_iter();
    let Some(first) = pools.next() else { return Vec::new() };
    let same = |pool| (pool, EnvError::AsOf { pool: first.clone() });
    let mut all: Vec<_> = pools.map(same).collect();
    all.insert(0, (first, error));
    all
}

/// Does each piece of work on one of a few threads, and gives the results in their order.
fn in_parallel<T: Send, R: Send>(work: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = work.len().min(AT_ONCE);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    let queue = Mutex::new(work.into_iter().enumerate());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((index, piece)) = next else { return };
                    let result = each(piece);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_work() {
        let work: Vec<u32> = (0..50).collect();
        let doubled: Vec<u32> = work.iter().map(|number| number * 2).collect();
        assert_eq!(doubled, in_parallel(work, |number| number * 2));
        assert_eq!(Vec::<u32>::new(), in_parallel(Vec::<u32>::new(), |number| number));
    }

    #[test]
    fn a_failure_that_concerns_several_is_told_in_full_once() {
        let pools = vec!["a".to_owned(), "b".to_owned()];
        let told = each_its_own(pools, EnvError::Cancelled);
        assert!(matches!(&told[0], (name, EnvError::Cancelled) if name == "a"));
        assert!(matches!(&told[1], (name, EnvError::AsOf { pool }) if name == "b" && pool == "a"));
    }
}
