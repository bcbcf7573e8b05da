//! What a reload would change: the file read and checked, and compared with what runs. It blocks,
//! so it is worked out on another thread, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clutch_protocol::reload::{ReloadResult, Reloaded};

use crate::config::{self, Config, Daemon};
use crate::dispatch::PoolParts;
use crate::envs::{AtHand, Keeper};
use crate::interpreter::Cache;
use crate::package;
use crate::pool::settings::Size;
use crate::prepare::{self, OpenFiles, PoolFault, Prepared, Provider, ServeError};
use crate::worker::launch::Recipe;

/// What a daemon was made of, so that it can be made anew.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The configuration that is in force.
    pub config: Config,
    /// The script that a worker starts with.
    pub boot: PathBuf,
    /// Limits of open files.
    pub open_files: OpenFiles,
    /// What provides declared environments, and holds them.
    pub keeper: Keeper,
}

/// A pool as it runs.
#[derive(Clone, Debug)]
pub(super) struct RunningPool {
    pub(super) config: config::Pool,
    /// How its workers are made; none when its interpreter cannot be used.
    pub(super) recipe: Option<Recipe>,
    /// How many it has; an operator may have changed that since the file was read.
    pub(super) size: Size,
}

/// The pools that run, by name.
pub(super) type Running = BTreeMap<String, RunningPool>;

/// What becomes of a pool.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing.
    Keep,
    /// Its limits are others, its workers may stay.
    Limits(Box<PoolParts>),
    /// Its workers have to be others.
    Replace(Box<PoolParts>),
    /// It is new.
    Add(Box<PoolParts>),
    /// It goes.
    Remove,
}

/// Everything that a reload changes.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is in force when it is done.
    pub(super) config: Config,
    /// What becomes of each pool, former ones included.
    pub(super) steps: BTreeMap<String, Step>,
    /// Keys of the table `daemon` with new values.
    pub(super) daemon: Vec<String>,
    /// Pools whose environment is missing as it was.
    pub(super) missing: BTreeSet<String>,
}

/// Reads the configuration, prepares everything it names, and compares it with what runs.
///
/// # Errors
///
/// With what is wrong, as a client is told it. Soon, when `cancelled` becomes true.
pub(super) fn plan(
    blueprint: &Blueprint,
    running: &Running,
    cancelled: &Arc<AtomicBool>,
) -> Result<Plan, Reloaded> {
    let wrong = |message: String| Reloaded::nothing(ReloadResult::Wrong, message);
    let Some(source) = &blueprint.config.source else {
        return Err(Reloaded::nothing(ReloadResult::Refused, NO_SOURCE));
    };
    let mut config = config::load(source).map_err(|error| wrong(error.render(false)))?;
    blueprint.open_files.check(&config).map_err(|error| wrong(error.to_string()))?;
    config.daemon.connections = blueprint.open_files.connections(&config);
    let daemon = compare_daemons(&blueprint.config.daemon, &config.daemon).map_err(wrong)?;
    let open_files = blueprint.open_files.inherited;
    // A pool whose environment is missing as it was builds it by itself, and holds up nobody.
    let waits = |pool: &config::Pool| {
        let before = running.get(&pool.name);
        before.is_some_and(|before| before.recipe.is_none() && before.config == *pool)
    };
    let declaring = config.pools.values().filter(|pool| pool.declared.is_some() && waits(pool));
    let missing = declaring.map(|pool| pool.name.clone()).collect();
    let at_hand = AtHand { missing, ..AtHand::default() };
    prepare::environments(&blueprint.keeper, &mut config, cancelled, waits)
        .map_err(|error| wrong(error.to_string()))?;
    let cache = package::state_dir().ok().map(|directory| Cache::in_state(&directory));
    let keeper = blueprint.keeper.clone();
    let from = (cache.as_ref(), Some(Provider { keeper, source: config.source.clone() }));
    let boot = &blueprint.boot;
    let prepared = prepare::pools_until(&config, boot, open_files, from, &at_hand, cancelled);
    let Prepared { pools, unasked, mut faults } =
        prepared.map_err(|error| wrong(error.to_string()))?;
    let mut steps: BTreeMap<String, Step> =
        pools.into_iter().map(|parts| step(parts, running)).collect();
    // What was broken before, and is not touched, hinders nobody.
    faults.retain(|(pool, _)| !matches!(steps.get(pool), Some(Step::Keep)));
    let gone = running.keys().filter(|name| !config.pools.contains_key(*name));
    steps.extend(gone.map(|name| (name.clone(), Step::Remove)).collect::<Vec<_>>());
    // An interpreter that starts a worker is asked who it is now, and not when it fails.
    for unasked in unasked {
        let starts = matches!(steps.get(&unasked.pool), Some(Step::Replace(_) | Step::Add(_)));
        if starts && let Err(fault) = unasked.ask(cancelled) {
            faults.push((unasked.pool.clone(), PoolFault::from(fault)));
        }
    }
    if !faults.is_empty() {
        return Err(wrong(ServeError::Unusable(faults).to_string()));
    }
    Ok(Plan { config, steps, daemon, missing: at_hand.missing })
}

/// What is said when there is no file to read.
pub(crate) const NO_SOURCE: &str = "there is no configuration file to read anew: this supervisor \
    was started without one";

fn step(parts: PoolParts, running: &Running) -> (String, Step) {
    let name = parts.config.name.clone();
    let parts = Box::new(parts);
    let step = match running.get(&name) {
        None => Step::Add(parts),
        Some(pool) if is_made_differently(pool, &parts) => Step::Replace(parts),
        Some(pool) if pool.config != parts.config => Step::Limits(parts),
        Some(pool) if pool.size != prepare::settings(&parts.config).size => Step::Limits(parts),
        Some(_) => Step::Keep,
    };
    (name, step)
}

/// Whether workers of `parts` are others than the pool's. Two pools without an interpreter are made
/// alike if nothing of them differs.
fn is_made_differently(pool: &RunningPool, parts: &PoolParts) -> bool {
    match (&pool.recipe, &parts.make) {
        (Some(old), Ok(new)) => !old.makes_the_same(new),
        (None, Err(_)) => pool.config != parts.config,
        _ => true,
    }
}

/// The keys that differ, or why a reload cannot change one of them.
fn compare_daemons(old: &Daemon, new: &Daemon) -> Result<Vec<String>, String> {
    let restart = |key: &str| {
        Err(format!(
            "daemon.{key} cannot be changed while the daemon runs, restart needed: restart it, or \
             put the former value back"
        ))
    };
    // Every key by its name, so that a new one cannot be forgotten.
    let Daemon {
        connections,
        in_flight,
        stop_grace,
        socket,
        payload,
        memory,
        attached,
        handles,
        log,
        cgroup,
    } = old;
    let fixed = [
        ("socket", *socket != new.socket),
        ("payload", *payload != new.payload),
        ("memory", *memory != new.memory),
        ("attached", *attached != new.attached),
        ("handles", handles.bytes != new.handles.bytes),
        ("handles_per_client", handles.bytes_of_one != new.handles.bytes_of_one),
        ("log", *log != new.log),
        ("cgroup", *cgroup != new.cgroup),
    ];
    if let Some((key, _)) = fixed.into_iter().find(|(_, changed)| *changed) {
        return restart(key);
    }
    let keys = [
        ("connections", *connections != new.connections),
        ("in_flight", *in_flight != new.in_flight),
        ("stop_grace", *stop_grace != new.stop_grace),
    ];
    Ok(keys.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::Log;
    use crate::interpreter::Facts;
    use crate::pool::Pool;
    use crate::prepare::Ingredients;
    use crate::worker::launch::Bounds;

    fn parts(keys: &str) -> PoolParts {
        let config = config::parse(&format!("[pools.a]\n{keys}\n"), None, Path::new("/"));
        let config = config.unwrap().pools.remove("a").unwrap();
        let (python, boot) = (Path::new("/bin/python3"), Path::new("/state/py/boot.py"));
        let recipe = Recipe::new(&config, python, boot, Vec::new(), Bounds::default());
        let (boot_file, provider) = (boot.to_owned(), None);
        let ingredients = Ingredients { boot: boot_file, bounds: Bounds::default(), provider };
        let policy = Pool::new(prepare::settings(&config));
        PoolParts { policy, make: Ok(recipe), ingredients, config }
    }

    fn facts(version: &str) -> Facts {
        let [executable, kind, abi, architecture, prefix, base_prefix] =
            ["/bin/python3", "system", "", "", "/usr", "/usr"].map(str::to_owned);
        let (version, implementation) = (version.to_owned(), "cpython".to_owned());
        let (free_threaded, site_packages, pip) = (false, Vec::new(), None);
        Facts {
            executable,
            version,
            implementation,
            kind,
            prefix,
            base_prefix,
            abi,
            free_threaded,
            architecture,
            site_packages,
            pip,
        }
    }

    fn step_to(keys: &str, resize: impl Fn(&mut Size)) -> Step {
        let PoolParts { config, make, policy, .. } = parts("");
        let mut size = policy.settings().size;
        resize(&mut size);
        let pool = RunningPool { config, recipe: make.ok(), size };
        step(parts(keys), &BTreeMap::from([("a".to_owned(), pool)])).1
    }

    #[test]
    fn keys_that_shape_workers_replace_them_and_others_hold_at_once_f130() {
        for keys in [
            "flags = ['-O']",
            "cwd = '/tmp'",
            "path = ['/tmp']",
            "preload = ['json']",
            "initializer = 'json:dumps'\ninitargs = [1]",
            "warm = ['gc:collect']",
            "logging = 'info'",
            "process = { nice = 1 }",
            "process = { umask = '077' }",
            "process = { open_files = 100 }",
        ] {
            let step = step_to(keys, |_| ());
            assert!(matches!(step, Step::Replace(_)), "{keys}: {step:?}");
        }
        for keys in [
            "workers = 7",
            "workers = { min = 0, max = 1 }",
            "spares = 1",
            "scale = { down_after = '1s' }",
            "restart = { deaths = 9 }",
            "replace = { max_calls = 5 }",
            "nested = { extra = 0 }",
            "allow = ['json:*']",
            "watch = ['*.py']",
            "limits = { call_timeout = '1s', grace = '1s', start_timeout = '9s' }",
            "output = { lines = 1000 }",
            "memory = { kill_above = '1GiB' }",
            "liveness = { after = '9s' }",
        ] {
            let step = step_to(keys, |_| ());
            assert!(matches!(step, Step::Limits(_)), "{keys}: {step:?}");
        }
        assert!(matches!(step_to("", |_| ()), Step::Keep));
        for (version, is_kept) in [("3.12.1", true), ("3.12.2", false)] {
            let PoolParts { config, make, policy, .. } = parts("");
            let recipe = make.ok().map(|recipe| recipe.with_facts(Some(facts("3.12.1"))));
            let pool = RunningPool { config, recipe, size: policy.settings().size };
            let mut new = parts("");
            new.make = new.make.map(|recipe| recipe.with_facts(Some(facts(version))));
            let step = step(new, &BTreeMap::from([("a".to_owned(), pool)])).1;
            assert_eq!(is_kept, matches!(step, Step::Keep), "upgraded to {version}: {step:?}");
        }
        let step = step_to("", |size| size.max += 1);
        assert!(matches!(step, Step::Limits(_)), "an operator has resized it: {step:?}");
    }

    #[test]
    fn keys_of_the_daemon_change_at_once_or_need_a_restart() {
        let old = Daemon::default();
        let grace = Daemon { stop_grace: Duration::from_secs(1), in_flight: 1, ..old.clone() };
        assert_eq!(
            Ok(vec!["in_flight".into(), "stop_grace".into()]),
            compare_daemons(&old, &grace)
        );
        assert_eq!(Ok(vec![]), compare_daemons(&old, &old));
        let moved = Daemon { socket: Some("/elsewhere".into()), ..old.clone() };
        let sentence = compare_daemons(&old, &moved).unwrap_err();
        assert!(sentence.contains("daemon.socket") && sentence.contains("restart needed"));
        let log = Log { level: "debug".to_owned(), ..old.log.clone() };
        for other in [
            Daemon { payload: 1024, ..old.clone() },
            Daemon { memory: 1 << 20, ..old.clone() },
            Daemon { log, ..old.clone() },
        ] {
            assert!(compare_daemons(&old, &other).unwrap_err().contains("restart needed"));
        }
    }
}
