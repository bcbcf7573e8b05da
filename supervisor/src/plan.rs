//! What each worker of each pool will get, worked out before anything starts: `clutch plan`.
//!
//! It is made with what the daemon itself would use, so it cannot promise something else; and it
//! counts what all pools together would use, which no pool sees by itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::atomic::AtomicBool;

use clutch_protocol::status::Interpreter as Facts;
use serde::Serialize;

use crate::config::{self, Concurrency, Config, Threads};
use crate::interpreter::Cache;
use crate::prepare::{self, OpenFiles, PoolPython};
use crate::worker::share::{Processors, Share, THREAD_VARIABLES};

/// The plan for a whole configuration.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The processors that workers may run on.
    pub cpus: Vec<u32>,
    /// How many of them may be busy at once; a control group may allow fewer.
    pub cpus_at_once: u32,
    /// The pools.
    pub pools: Vec<PoolPlan>,
    /// What works, and may be slower than it looks.
    pub warnings: Vec<String>,
    /// What cannot work.
    pub problems: Vec<String>,
}

/// The plan for one pool.
#[derive(Clone, Debug, Serialize)]
pub struct PoolPlan {
    /// Its name.
    pub name: String,
    /// What is executed; empty when nothing that fits was found.
    pub executable: String,
    /// What that says of itself, if it could be asked.
    pub interpreter: Option<Facts>,
    /// What is installed in an environment of its own, which that interpreter is then the base of.
    pub installs: Option<String>,
    /// At least so many workers.
    pub workers_min: u32,
    /// At most so many.
    pub workers_max: u32,
    /// How many more are kept ready.
    pub spares: u32,
    /// How a worker runs calls: `one`, `threads`, `async` or `subinterpreters`.
    pub mode: &'static str,
    /// How many calls a worker runs at once.
    pub calls_at_once: u32,
    /// How many threads libraries are told to start in each worker; none if they choose.
    pub threads: Option<u32>,
    /// Who says so: `auto`, `compute.threads`, `environment` or `off`.
    pub threads_from: &'static str,
    /// The variables that tell them; what was set by somebody else is not among them.
    pub thread_variables: Vec<&'static str>,
    /// Its limits, by key.
    pub limits: BTreeMap<&'static str, String>,
    /// What is different for each slot.
    pub slots: Vec<SlotPlan>,
}

/// The plan for one slot, whoever is in it.
#[derive(Clone, Debug, Serialize)]
pub struct SlotPlan {
    /// Its number.
    pub slot: u32,
    /// The processors it may run on.
    pub cpus: Vec<u32>,
    /// Its devices; none if it sees all there are.
    pub gpus: Option<String>,
}

/// Works out what each worker would get.
#[must_use]
pub fn plan(config: &Config, cache: Option<&Cache>) -> Plan {
    plan_on(config, cache, &Processors::of_this_process())
}

fn plan_on(config: &Config, cache: Option<&Cache>, processors: &Processors) -> Plan {
    let mut plan = Plan {
        cpus: processors.allowed.clone(),
        cpus_at_once: processors.at_once,
        pools: Vec::new(),
        warnings: Vec::new(),
        problems: Vec::new(),
    };
    let mut rooms = Vec::new();
    let never = AtomicBool::new(false);
    let ask = |pool: &config::Pool| prepare::planned_python(pool, cache, &never);
    for (pool, prepared) in prepare::of_each_pool(config, ask) {
        if let Err(error) = &prepared {
            plan.problems.push(format!("pool '{}': {error}", pool.name));
        }
        let (prepared, installs) = prepared.map_or((None, None), |it| (Some(it.0), it.1));
        let environment = prepared.as_ref().map_or(&[][..], |it| &it.environment);
        let share = Share::of(pool, environment, processors);
        let planned = pool_plan(pool, (prepared.as_ref(), installs), &share);
        pool_warnings(&mut plan, pool, &share, planned.threads);
        plan.pools.push(planned);
        rooms.push(share.processors().clone());
    }
    // As the daemon will; here it changes nothing that anybody sees.
    let enough = OpenFiles::raise().and_then(|open_files| open_files.check(config));
    if let Err(error) = enough {
        plan.problems.push(error.to_string());
    }
    threads_of_all(&mut plan, &rooms);
    devices_of_all(&mut plan, config);
    plan
}

fn pool_plan(
    pool: &config::Pool,
    (prepared, installs): (Option<&PoolPython>, Option<String>),
    share: &Share,
) -> PoolPlan {
    let slots = pool.workers.saturating_add(pool.spares);
    let (threads, threads_from) = threads(pool, prepared, share);
    PoolPlan {
        name: pool.name.clone(),
        executable: prepared.map_or(String::new(), |it| it.executable.display().to_string()),
        interpreter: prepared.and_then(|it| it.facts.clone()),
        installs,
        workers_min: pool.workers_min,
        workers_max: pool.workers,
        spares: pool.spares,
        mode: match pool.concurrency {
            Concurrency::One => "one",
            Concurrency::Threads(_) => "threads",
            Concurrency::Async(_) => "async",
            Concurrency::Subinterpreters(_) => "subinterpreters",
        },
        calls_at_once: pool.concurrency.lanes(),
        threads,
        threads_from,
        thread_variables: share.thread_variables().to_vec(),
        limits: limits(pool),
        slots: (0..slots)
            .map(|slot| SlotPlan {
                slot,
                cpus: share.cpus_of(slot).unwrap_or_else(|| share.processors().allowed.clone()),
                gpus: share.gpu_of(slot).map(str::to_owned),
            })
            .collect(),
    }
}

/// How many threads each worker computes with, and who says so.
fn threads(
    pool: &config::Pool,
    prepared: Option<&PoolPython>,
    share: &Share,
) -> (Option<u32>, &'static str) {
    let environment = prepared.map_or(&[][..], |it| &it.environment);
    let set = |name: &str| environment.iter().find(|(known, _)| known == name).map(|(_, it)| it);
    // `4,2` is for loops within loops.
    let number = |text: &OsString| text.to_str()?.split(',').next()?.trim().parse::<u32>().ok();
    if let Some(text) = set("OMP_NUM_THREADS") {
        return (number(text), "environment");
    }
    let (threads, threads_from) = match pool.compute.threads {
        Threads::Off => (None, "off"),
        Threads::Number(number) => (Some(number), "compute.threads"),
        // Where nothing has to be said, that is what it sees.
        Threads::Auto => (Some(share.threads().unwrap_or_else(|| all(share))), "auto"),
    };
    let most = THREAD_VARIABLES.iter().filter_map(|(name, _)| number(set(name)?)).max();
    if most > threads && threads.is_some() {
        (most, "environment")
    } else {
        (threads, threads_from)
    }
}

fn all(share: &Share) -> u32 {
    count(&share.processors().allowed)
}

fn count(cpus: &[u32]) -> u32 {
    u32::try_from(cpus.len()).unwrap_or(u32::MAX)
}

/// What a pool's workers may use, as far as it is limited.
fn limits(pool: &config::Pool) -> BTreeMap<&'static str, String> {
    let process = &pool.process;
    let mut limits = BTreeMap::new();
    let mut limit = |key, value: Option<String>| {
        if let Some(value) = value {
            limits.insert(key, value);
        }
    };
    let bytes = |value: Option<u64>| value.map(config::show_size);
    limit("memory.recycle_above", bytes(pool.memory.recycle_above));
    limit("memory.kill_above", bytes(pool.memory.kill_above));
    limit("process.address_space", bytes(process.address_space));
    limit("process.file_size", bytes(process.file_size));
    limit("process.cpu_time", process.cpu_time.map(config::show_duration));
    limit("process.open_files", process.open_files.map(|it| it.to_string()));
    limit("process.processes", process.processes.map(|it| it.to_string()));
    limit("process.nice", process.nice.map(|it| it.to_string()));
    let user = |it: &config::Account| it.name.clone().unwrap_or_else(|| it.user.to_string());
    limit("process.user", process.account.as_ref().map(user));
    limit("limits.call_timeout", Some(config::show_duration(pool.limits.call_timeout)));
    limits
}

fn pool_warnings(plan: &mut Plan, pool: &config::Pool, share: &Share, threads: Option<u32>) {
    let name = &pool.name;
    let there = all(share);
    let each = pool.compute.cpus_per_worker;
    if each > there {
        plan.warnings.push(format!(
            "pool '{name}': compute.cpus_per_worker is {each}, but there are {there} processors: \
             each worker gets all of them"
        ));
    }
    let workers = pool.workers.saturating_add(pool.spares);
    if each > 0 && u64::from(each) * u64::from(workers) > u64::from(there) {
        plan.warnings.push(format!(
            "pool '{name}': {workers} workers with {each} of {there} processors each have to \
             share them: lower `workers`, `spares` or compute.cpus_per_worker"
        ));
    }
    if let Some(threads) = threads.filter(|threads| each > 0 && *threads > each) {
        plan.warnings.push(format!(
            "pool '{name}': each worker computes with {threads} threads on {each} of the \
             processors: lower compute.threads or the variable that says so, or raise \
             compute.cpus_per_worker"
        ));
    }
    let missing: Vec<_> = pool.process.cpus.iter().filter(|cpu| !is_there(**cpu)).collect();
    if !missing.is_empty() {
        plan.problems.push(format!(
            "pool '{name}': process.cpus names processors that this machine does not have: \
             {missing:?}"
        ));
    }
}

/// Whether the machine has a processor. Where that is not told, the start of a worker will.
fn is_there(cpu: u32) -> bool {
    let all = std::path::Path::new("/sys/devices/system/cpu");
    !all.join("cpu0").exists() || all.join(format!("cpu{cpu}")).exists()
}

/// Whether workers together compute with more threads than there are processors: all of them, and
/// those that have to make do with some processors, with all that may use no others.
fn threads_of_all(plan: &mut Plan, rooms: &[Processors]) {
    let everywhere = ((0..rooms.len()).collect(), plan.cpus_at_once, String::new());
    let somewhere = rooms.iter().map(|room| {
        let is_within =
            |other: &Processors| other.allowed.iter().all(|cpu| room.allowed.contains(cpu));
        let pools: Vec<_> = (0..rooms.len()).filter(|index| is_within(&rooms[*index])).collect();
        (pools, room.at_once, format!(" of process.cpus {:?}", room.allowed))
    });
    let mut told: Vec<Vec<usize>> = Vec::new();
    for (pools, at_once, named) in std::iter::once(everywhere).chain(somewhere) {
        if let Some(warning) = oversubscribed(plan, &pools, at_once, &named)
            && !told.contains(&pools)
        {
            told.push(pools);
            plan.warnings.push(warning);
        }
    }
}

/// The warning that some pools together have more threads than processors, if they do.
fn oversubscribed(plan: &Plan, pools: &[usize], at_once: u32, named: &str) -> Option<String> {
    let threads = |pool: &PoolPlan| {
        let sees = pool.slots.first().map_or(at_once, |slot| count(&slot.cpus));
        pool.threads.unwrap_or(sees)
    };
    let pools = || pools.iter().map(|index| &plan.pools[*index]);
    let wanted: u64 =
        pools().map(|pool| u64::from(pool.workers_max) * u64::from(threads(pool))).sum();
    if wanted <= u64::from(at_once) {
        return None;
    }
    let parts: Vec<_> = pools()
        .map(|pool| format!("{} {} x {}", pool.name, pool.workers_max, threads(pool)))
        .collect();
    let processors = if at_once == 1 { "processor" } else { "processors" };
    Some(format!(
        "oversubscribed: {wanted} threads would compute on {at_once} {processors}{named} when all \
         workers are busy (workers x threads: {}); lower `workers` or compute.threads",
        parts.join(", ")
    ))
}

/// Devices that several workers have.
fn devices_of_all(plan: &mut Plan, config: &Config) {
    let mut users: BTreeMap<&str, Vec<(&str, u32)>> = BTreeMap::new();
    for pool in &plan.pools {
        for slot in &pool.slots {
            let gpus = slot.gpus.iter().flat_map(|gpus| gpus.split(','));
            gpus.for_each(|gpu| users.entry(gpu).or_default().push((&pool.name, slot.slot)));
        }
    }
    for (gpu, users) in users.into_iter().filter(|(_, users)| users.len() > 1) {
        let shown: Vec<_> =
            users.iter().take(8).map(|(pool, slot)| format!("{pool} slot {slot}")).collect();
        let more = if users.len() > shown.len() { ", ..." } else { "" };
        plan.warnings.push(format!(
            "GPU {gpu} is shared by {} workers ({}{more}): its memory has to suffice for all",
            users.len(),
            shown.join(", ")
        ));
    }
    for pool in config.pools.values() {
        let slots = pool.workers.saturating_add(pool.spares);
        let gpus = u32::try_from(pool.compute.gpus.len()).unwrap_or(u32::MAX);
        if gpus > slots {
            plan.warnings.push(format!(
                "pool '{}': {} of {gpus} entries in compute.gpus are used by nobody: there are \
                 {slots} slots",
                pool.name,
                gpus - slots
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan_of(text: &str, cpus: u32) -> Plan {
        let config = config::parse(text, None, Path::new("/")).unwrap();
        let processors = Processors { allowed: (0..cpus).collect(), at_once: cpus };
        plan_on(&config, None, &processors)
    }

    #[test]
    fn what_is_planned_fits_the_machine_or_is_warned_of() {
        let good = plan_of("[pools.a]\nworkers = 4\nenv = { inherit = 'minimal' }\n", 8);
        assert_eq!((Some(2), "auto"), (good.pools[0].threads, good.pools[0].threads_from));
        assert_eq!(Vec::<String>::new(), good.warnings);
        let minimal = "env = { inherit = 'minimal' }";
        let two = format!("[pools.a]\nworkers = 4\n{minimal}\n[pools.b]\nworkers = 1\n{minimal}\n");
        let plan = plan_of(&two, 8);
        assert_eq!(1, plan.warnings.len(), "{:?}", plan.warnings);
        assert!(plan.warnings[0].contains("16 threads would compute on 8"), "{:?}", plan.warnings);
        assert!(plan.warnings[0].contains("a 4 x 2, b 1 x 8"), "{:?}", plan.warnings);
    }

    #[test]
    fn shared_processors_and_devices_are_warned_of() {
        let text = "[pools.a]\nworkers = 3\nspares = 1\n\
            compute = { cpus_per_worker = 2, gpus = ['0', '1'], threads = 1 }\n\
            [pools.b]\nworkers = 1\ncompute = { gpus = ['1', '2'], threads = 1 }\n";
        let plan = plan_of(text, 4);
        let warnings = plan.warnings.join("\n");
        for expected in [
            "pool 'a': 4 workers with 2 of 4 processors each",
            "GPU 0 is shared by 2 workers (a slot 0, a slot 2)",
            "GPU 1 is shared by 3 workers (a slot 1, a slot 3, b slot 0)",
            "pool 'b': 1 of 2 entries in compute.gpus are used by nobody",
        ] {
            assert!(warnings.contains(expected), "{expected:?} in {warnings}");
        }
        let slots: Vec<_> = plan.pools[0].slots.iter().map(|slot| slot.cpus.clone()).collect();
        assert_eq!(vec![vec![0, 1], vec![2, 3], vec![0, 1], vec![2, 3]], slots);
    }

    #[test]
    fn pools_that_share_few_of_many_processors_are_warned_of() {
        let on = |cpus: &str| format!("workers = 1\nprocess = {{ cpus = {cpus} }}\n");
        let own = format!("[pools.a]\n{}[pools.b]\n{}", on("[0, 1]"), on("[2]"));
        assert_eq!(Vec::<String>::new(), plan_of(&own, 8).warnings);
        let both = format!("[pools.a]\n{}[pools.b]\n{}", on("[0, 1]"), on("[1]"));
        let warnings = plan_of(&both, 8).warnings;
        assert_eq!(1, warnings.len(), "{warnings:?}");
        let expected = "3 threads would compute on 2 processors of process.cpus [0, 1]";
        assert!(warnings[0].contains(expected), "{warnings:?}");
        let many = plan_of("[pools.a]\nworkers = 4\nprocess = { cpus = [0] }\n", 8).warnings;
        assert!(
            many[0].contains("4 threads would compute on 1 processor of process.cpus [0]"),
            "{many:?}"
        );
        let off = "[pools.a]\nworkers = 2\nprocess = { cpus = [0, 1] }\n\
            compute = { threads = 'off' }\n";
        assert!(plan_of(off, 8).warnings[0].contains("(workers x threads: a 2 x 2)"));
    }

    #[test]
    fn what_the_environment_says_is_counted() {
        let with = |set: &str, more: &str| {
            let text = format!("[pools.a]\nworkers = 4\nenv = {{ set = {{ {set} }} }}\n{more}");
            let plan = plan_of(&text, 8);
            let pool = &plan.pools[0];
            (pool.threads, pool.threads_from, plan.warnings.join("\n"))
        };
        let (threads, from, warnings) = with("OMP_NUM_THREADS = '2,1'", "");
        assert_eq!((Some(2), "environment", ""), (threads, from, &*warnings));
        let (threads, from, warnings) = with("MKL_NUM_THREADS = '8'", "");
        assert_eq!((Some(8), "environment"), (threads, from));
        assert!(warnings.contains("32 threads would compute on 8"), "{warnings}");
        let pinned = "compute = { cpus_per_worker = 2 }\n";
        let (.., warnings) = with("OMP_NUM_THREADS = '3'", pinned);
        assert!(warnings.contains("3 threads on 2 of the processors"), "{warnings}");
    }

    #[test]
    fn what_cannot_work_is_a_problem() {
        let text = "[pools.a]\npython = '3.99'\n[pools.b]\nprocess = { cpus = [1023] }\n";
        let problems = plan_of(text, 2).problems.join("\n");
        assert!(problems.contains("pool 'a': there is no Python 3.99"), "{problems}");
        assert!(problems.contains("does not have: [1023]"), "{problems}");
    }
}
