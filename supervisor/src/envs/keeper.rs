//! From a configuration to environments that are there, and stay there while they are used.
//!
//! A pool's declaration is turned into the virtual environment that it stands for: afterwards its
//! configuration says `venv`, and nobody else has to know.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::base;
use super::builder::{Builder, Means, Plan};
use super::declaration::{self, Content};
use super::error::EnvError;
use super::mark::Use;
use super::progress::Report;
use super::store::{Hold, Store};
use super::works::{AT_ONCE, Cancel, Wish, Works};
use crate::config::{Config, Pool, Python};
use crate::interpreter::Interpreter;
use crate::worker::spawner::Guardian;

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

/// Pools that cannot have what they declare, and why.
pub type Failures = Vec<(String, Arc<EnvError>)>;

/// What is known of declarations before anything is built.
#[derive(Clone, Debug, Default)]
pub struct AtHand {
    /// Pools whose environment is not there, or is being built by somebody.
    pub missing: BTreeSet<String>,
    /// Pools whose declaration cannot be used, and why.
    pub faults: BTreeMap<String, Arc<EnvError>>,
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
    /// What `python` was in the pools that have these environments now.
    bases: Arc<Mutex<BTreeMap<PathBuf, Python>>>,
    /// What is under way.
    pub(super) works: Arc<Works>,
    /// Is told how long a build may take, before it begins or is waited for.
    pub(super) tell: fn(Duration),
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
        let (holds, bases, works) = (Arc::default(), Arc::default(), Arc::default());
        Keeper { guardian, open_files, holds, bases, works, tell: |_| () }
    }

    /// The same, which tells how long a build may take before one begins or is waited for.
    #[must_use]
    pub fn telling(self, tell: fn(Duration)) -> Keeper {
        Keeper { tell, ..self }
    }

    /// Provides every pool of `config` with what it declares, and has it say so: its `python`
    /// becomes the environment's. Gives what was provided, and what could not be. Pools that
    /// `leaves_alone` says true of are left as they are.
    pub fn provide(
        &self,
        config: &mut Config,
        cancelled: &Arc<AtomicBool>,
        leaves_alone: impl Fn(&Pool) -> bool,
    ) -> (Vec<Provided>, Failures) {
        let source = config.source.clone();
        let wish = Wish::until(cancelled);
        let mut failures = Vec::new();
        let mut plans: BTreeMap<PathBuf, (Plan, Vec<String>)> = BTreeMap::new();
        for (name, wanted) in self.want_all(config, cancelled, leaves_alone) {
            match wanted {
                Ok(Wanted::Nothing) => {}
                Ok(Wanted::Interpreter(path)) => {
                    pool_of(config, &name).python = Python::File(path);
                }
                Ok(Wanted::Env(plan)) => {
                    let env = plan.entry.env();
                    plans.entry(env).or_insert_with(|| (*plan, Vec::new())).1.push(name);
                }
                Err(error) => failures.push((name, Arc::new(error))),
            }
        }
        let built = in_parallel(plans.into_values().collect(), |(plan, pools)| {
            let outcome = self.ensure(&plan, &pools, &wish);
            (plan, pools, outcome)
        });
        let mut provided = Vec::new();
        for (plan, pools, outcome) in built {
            match outcome {
                Ok(reused) => provided.extend(pools.into_iter().map(|pool| {
                    let env = self.settle(&plan, pool_of(config, &pool), source.as_deref());
                    Provided { pool, env, reused }
                })),
                Err(error) => failures.extend(each_its_own(pools, &error)),
            }
        }
        provided.sort_by(|a, b| a.pool.cmp(&b.pool));
        failures.sort_by(|(a, _), (b, _)| a.cmp(b));
        (provided, failures)
    }

    /// As [`Keeper::provide`], as far as nothing has to be built or waited for.
    pub fn provide_what_is_there(
        &self,
        config: &mut Config,
        cancelled: &Arc<AtomicBool>,
    ) -> AtHand {
        let source = config.source.clone();
        let mut at_hand = AtHand::default();
        for (name, wanted) in self.want_all(config, cancelled, |_| false) {
            match wanted.and_then(|wanted| self.is_there(&wanted).map(|is| (wanted, is))) {
                Ok((Wanted::Nothing, _)) => {}
                Ok((Wanted::Interpreter(path), _)) => {
                    pool_of(config, &name).python = Python::File(path);
                }
                Ok((Wanted::Env(plan), true)) => {
                    self.settle(&plan, pool_of(config, &name), source.as_deref());
                }
                Ok((Wanted::Env(_), false)) => {
                    at_hand.missing.insert(name);
                }
                Err(error) => {
                    at_hand.faults.insert(name, Arc::new(error));
                }
            }
        }
        at_hand
    }

    /// As [`Keeper::provide`], for one pool.
    ///
    /// # Errors
    ///
    /// When it cannot have what it declares.
    pub fn provide_pool(
        &self,
        pool: &mut Pool,
        source: Option<&Path>,
        wish: &Wish,
    ) -> Result<(), Arc<EnvError>> {
        match self.want(pool, &wish.cancelled)? {
            Wanted::Nothing => {}
            Wanted::Interpreter(path) => pool.python = Python::File(path),
            Wanted::Env(plan) => {
                self.ensure(&plan, std::slice::from_ref(&pool.name), wish)?;
                self.settle(&plan, pool, source);
            }
        }
        Ok(())
    }

    /// How far the environment is that a pool waits for; none if it waits for none.
    pub fn report(&self, pool: &str) -> Option<Report> {
        self.works.report(pool)
    }

    fn want_all(
        &self,
        config: &Config,
        cancelled: &AtomicBool,
        leaves_alone: impl Fn(&Pool) -> bool,
    ) -> Vec<(String, Result<Wanted, EnvError>)> {
        let declaring = config.pools.values().filter(|pool| pool.declared.is_some());
        let declaring = declaring.filter(|pool| !leaves_alone(pool)).collect();
        in_parallel(declaring, |pool: &Pool| (pool.name.clone(), self.want(pool, cancelled)))
    }

    /// Whether there is nothing to be built; what is there is held from now on.
    fn is_there(&self, wanted: &Wanted) -> Result<bool, EnvError> {
        let Wanted::Env(plan) = wanted else { return Ok(true) };
        let hold = plan.entry.hold()?;
        let is_there = hold.is_some();
        self.holds().extend(hold.map(|hold| (plan.entry.env(), hold)));
        Ok(is_there)
    }

    /// A pool uses its environment from now on.
    fn settle(&self, plan: &Plan, pool: &mut Pool, source: Option<&Path>) -> PathBuf {
        let env = plan.entry.env();
        let config = source.map(Path::to_owned);
        plan.entry.note_use(&Use { pool: pool.name.clone(), config });
        let before = std::mem::replace(&mut pool.python, Python::Venv(env.clone()));
        if pool.python != before {
            locked(&self.bases).insert(env.clone(), before);
        }
        env
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
        let builder = Builder::find(pool.build.tool);
        let uv = matches!(builder, Builder::Uv(_));
        let Some(content) = declaration::read(declared, &pool.cwd, uv)? else {
            return Ok(Wanted::Nothing);
        };
        // Of one that was provided before, `python` is the environment by now.
        let python = match &pool.python {
            Python::Venv(env) => locked(&self.bases).get(env).cloned(),
            Python::Named(_) | Python::File(_) => None,
        };
        let python = python.as_ref().unwrap_or(&pool.python);
        let (_, found) = base::interpreter_for((pool, python), &content, cancelled)?;
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
            builder,
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
        let identity = base::identity(found, self.means(Cancel::Flag(cancelled)))?;
        hasher.part("identity", identity.as_bytes());
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

    pub(super) fn means<'a>(&'a self, cancel: Cancel<'a>) -> Means<'a> {
        Means { guardian: &self.guardian, open_files: self.open_files, cancel }
    }

    pub(super) fn holds(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Hold>> {
        locked(&self.holds)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool_of<'a>(config: &'a mut Config, name: &str) -> &'a mut Pool {
    config.pools.get_mut(name).expect("it was just looked at")
}

/// One failure, told to everyone it concerns, with whose it is.
fn each_its_own(pools: Vec<String>, error: &Arc<EnvError>) -> Failures {
    let first = pools.first().cloned().unwrap_or_default();
    let told = pools.into_iter().map(|pool| {
        let (of, error) = (first.clone(), Arc::clone(error));
        let same = if pool == of { error } else { Arc::new(EnvError::AsOf { pool: of, error }) };
        (pool, same)
    });
    told.collect()
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
    fn a_failure_that_concerns_several_is_told_to_each() {
        let pools = vec!["a".to_owned(), "b".to_owned()];
        let told = each_its_own(pools, &Arc::new(EnvError::Cancelled));
        let words = EnvError::Cancelled.to_string();
        assert_eq!(("a", &words), (&*told[0].0, &told[0].1.to_string()));
        assert!(told[1].1.to_string().ends_with(&words));
        assert!(matches!(&*told[1].1, EnvError::AsOf { pool, .. } if pool == "a"));
    }
}
