//! What part of the machine each worker of a pool gets: threads, processors, devices.
//!
//! Libraries such as OpenBLAS start a thread for each processor they see, in each worker. Four
//! workers on four processors then are sixteen threads that get in one another's way. So each is
//! told its share, unless somebody said something about it already.
//!
//! Processors and devices belong to a slot for its life: whoever takes it over, after a death or by
//! replacement, gets the same ones.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::num::NonZero;

use crate::config::{self, Compute, Threads};

/// A variable that says how many threads a library starts, and others that the same library heeds:
/// whoever has set one of these means this library, too.
pub(crate) const THREAD_VARIABLES: [(&str, &[&str]); 7] = [
    ("OMP_NUM_THREADS", &[]),
    ("OPENBLAS_NUM_THREADS", &["GOTO_NUM_THREADS", "OMP_NUM_THREADS"]),
    ("MKL_NUM_THREADS", &["OMP_NUM_THREADS"]),
    // Its NUMEXPR_MAX_THREADS is a ceiling for what a program asks for later, and stays alone.
    ("NUMEXPR_NUM_THREADS", &["NUMEXPR_MAX_THREADS", "OMP_NUM_THREADS"]),
    ("VECLIB_MAXIMUM_THREADS", &[]),
    ("RAYON_NUM_THREADS", &[]),
    ("POLARS_MAX_THREADS", &[]),
];

/// What a device is named by, for programs of each maker. ROCR_VISIBLE_DEVICES is not among them:
/// it renumbers the devices that HIP_VISIBLE_DEVICES then chooses from, so that with both, device 1
/// would be none.
const DEVICE_VARIABLES: [&str; 3] =
    ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"];

/// Where the affinity of this process is told.
const OWN_STATUS: &str = "/proc/self/status";

/// The processors that workers can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processors {
    /// Those that this process may run on.
    pub allowed: Vec<u32>,
    /// How many of them may be busy at once: a control group may allow fewer.
    pub at_once: u32,
}

impl Processors {
    /// Those of this process, which its workers inherit.
    pub fn of_this_process() -> Processors {
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
        let at_once = u32::try_from(at_once).unwrap_or(u32::MAX);
        let status = std::fs::read_to_string(OWN_STATUS).unwrap_or_default();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed = list.and_then(parse_list).unwrap_or_else(|| (0..at_once).collect());
        Processors { allowed, at_once }
    }

    /// Those that a pool's workers may run on.
    fn of_pool(&self, pool: &config::Pool) -> Processors {
        if pool.process.cpus.is_empty() {
            return self.clone();
        }
        let named: BTreeSet<u32> = pool.process.cpus.iter().copied().collect();
        let allowed: Vec<_> = named.into_iter().collect();
        // Only a control group's quota holds for processors that this process may not run on.
        let has_quota = count(&self.allowed) > self.at_once;
        let quota = if has_quota { self.at_once } else { u32::MAX };
        Processors { at_once: count(&allowed).min(quota), allowed }
    }
}

/// What each worker of a pool gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// As configured.
    compute: Compute,
    /// What the pool's workers may run on.
    processors: Processors,
    /// How many threads libraries start in each worker, if they are told.
    threads: Option<u32>,
    /// The variables that nobody has set, and so can tell them.
    unsaid: Vec<&'static str>,
    /// The variables that name devices.
    device_variables: Vec<&'static str>,
}

impl Share {
    /// The share of each worker of `pool`, whose environment is `environment` otherwise.
    pub fn of(
        pool: &config::Pool,
        environment: &[(OsString, OsString)],
        processors: &Processors,
    ) -> Share {
        let processors = processors.of_pool(pool);
        let compute = pool.compute.clone();
        let threads = threads(&compute, pool.workers, &processors);
        let is_set = |name: &str| environment.iter().any(|(known, _)| known == name);
        let is_said = |name: &str| is_set(name) || pool.env.unset.iter().any(|it| it == name);
        let unsaid = |(name, others): &(&'static str, &[&str])| {
            (!is_said(name) && !others.iter().any(|other| is_said(other))).then_some(*name)
        };
        let told = THREAD_VARIABLES.iter().filter_map(unsaid);
        let devices = DEVICE_VARIABLES.into_iter();
        Share {
            unsaid: told.collect(),
            // What the daemon itself sees is no reason not to divide it.
            device_variables: devices.filter(|name| !pool.env.set.contains_key(*name)).collect(),
            compute,
            processors,
            threads,
        }
    }

    /// Whether workers with either are alike. How many threads they start follows from how many
    /// workers there are, which may change without a restart of those that are there.
    pub fn gives_the_same(&self, other: &Share) -> bool {
        let pins = self.compute.cpus_per_worker > 0;
        self.compute == other.compute
            && (!pins || self.processors.allowed == other.processors.allowed)
            && self.device_variables == other.device_variables
            && self.unsaid == other.unsaid
    }

    /// How many threads libraries are told to start; none if that is left to them.
    pub const fn threads(&self) -> Option<u32> {
        self.threads
    }

    /// The variables that tell them: those that nobody set.
    pub fn thread_variables(&self) -> &[&'static str] {
        if self.threads.is_some() { &self.unsaid } else { &[] }
    }

    /// The processors of the pool.
    pub const fn processors(&self) -> &Processors {
        &self.processors
    }

    /// The processors of a slot, if it has its own.
    pub fn cpus_of(&self, slot: u32) -> Option<Vec<u32>> {
        let there = self.processors.allowed.len();
        let each = usize::try_from(self.compute.cpus_per_worker).unwrap_or(there).min(there);
        if each == 0 {
            return None;
        }
        let first = usize::try_from(slot).unwrap_or(0) % there * each;
        let mut cpus: Vec<_> =
            (first..first + each).map(|index| self.processors.allowed[index % there]).collect();
        cpus.sort_unstable();
        Some(cpus)
    }

    /// The device of a slot, if devices are divided.
    pub fn gpu_of(&self, slot: u32) -> Option<&str> {
        let gpus = &self.compute.gpus;
        let index = usize::try_from(slot).unwrap_or(0).checked_rem(gpus.len())?;
        Some(&gpus[index])
    }

    /// The variables of a slot.
    pub fn variables_of(&self, slot: u32) -> Vec<(&'static str, String)> {
        let threads = self.threads.unwrap_or_default().to_string();
        let threads = self.thread_variables().iter().map(|name| (*name, threads.clone()));
        let gpu = self.gpu_of(slot);
        let gpus =
            self.device_variables.iter().filter_map(|name| gpu.map(|gpu| (*name, gpu.to_owned())));
        threads.chain(gpus).collect()
    }
}

/// How many threads libraries are told to start.
fn threads(compute: &Compute, workers: u32, processors: &Processors) -> Option<u32> {
    let visible = count(&processors.allowed);
    match compute.threads {
        Threads::Off => None,
        Threads::Number(number) => Some(number),
        // Who sees no more than its share chooses the same by itself.
        Threads::Auto if compute.cpus_per_worker > 0 => {
            Some(compute.cpus_per_worker.min(visible).max(1))
        }
        Threads::Auto => {
            let share = (processors.at_once / workers.max(1)).max(1);
            (share < visible).then_some(share)
        }
    }
}

fn count(cpus: &[u32]) -> u32 {
    u32::try_from(cpus.len()).unwrap_or(u32::MAX)
}

/// `0-3,8` as the system writes it.
fn parse_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    (!cpus.is_empty()).then_some(cpus)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn pool(keys: &str) -> config::Pool {
        let config = config::parse(&format!("[pools.a]\n{keys}\n"), None, Path::new("/"));
        config.unwrap().pools.remove("a").unwrap()
    }

    fn share(keys: &str, environment: &[(&str, &str)], allowed: u32, at_once: u32) -> Share {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let processors = Processors { allowed: (0..allowed).collect(), at_once };
        Share::of(&pool(keys), &environment, &processors)
    }

    #[test]
    fn threads_are_the_processors_divided_by_the_workers() {
        for (keys, allowed, at_once, expected) in [
            ("workers = 4", 8, 8, Some(2)),
            ("workers = 3", 8, 8, Some(2)),
            ("workers = 4", 2, 2, Some(1)),
            ("workers = 1", 8, 8, None), // what it would choose itself
            ("workers = 1", 1, 1, None),
            ("workers = 1", 8, 2, Some(2)), // libraries do not know a control group's quota
            ("workers = { min = 0, max = 4 }", 8, 8, Some(2)),
            ("workers = 4\ncompute = { threads = 3 }", 8, 8, Some(3)),
            ("workers = 4\ncompute = { threads = 'off' }", 8, 8, None),
            ("workers = 4\ncompute = { cpus_per_worker = 3 }", 8, 8, Some(3)),
            ("workers = 2\nprocess = { cpus = [0, 1, 2, 3] }", 8, 8, Some(2)),
            ("workers = 1\nprocess = { cpus = [0, 1, 2, 3] }", 8, 8, None),
            ("workers = 2\nprocess = { cpus = [0, 1, 2, 3] }", 8, 2, Some(1)),
        ] {
            let share = share(keys, &[], allowed, at_once);
            assert_eq!(expected, share.threads(), "{keys} on {at_once} of {allowed}");
            assert_eq!(expected.map_or(0, |_| 7), share.thread_variables().len(), "{keys}");
        }
    }

    #[test]
    fn what_somebody_has_set_is_left_alone() {
        let names = |keys: &str, environment: &[(&str, &str)]| {
            share(keys, environment, 8, 8).thread_variables().to_vec()
        };
        let omp = names("workers = 4", &[("OMP_NUM_THREADS", "5")]);
        assert_eq!(vec!["VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS"], omp);
        let numexpr = names("workers = 4", &[("NUMEXPR_MAX_THREADS", "5")]);
        assert!(!numexpr.contains(&"NUMEXPR_NUM_THREADS") && numexpr.len() == 6, "{numexpr:?}");
        let unset = names("workers = 4\nenv = { unset = ['RAYON_NUM_THREADS'] }", &[]);
        assert!(!unset.contains(&"RAYON_NUM_THREADS") && unset.len() == 6, "{unset:?}");
        let told = share("workers = 4", &[("MKL_NUM_THREADS", "9")], 8, 8).variables_of(0);
        assert!(told.contains(&("OMP_NUM_THREADS", "2".to_owned())), "{told:?}");
        assert!(told.iter().all(|(name, _)| *name != "MKL_NUM_THREADS"), "{told:?}");
    }

    #[test]
    fn a_variable_that_is_left_alone_from_now_on_makes_other_workers() {
        let share = |keys| share(keys, &[], 8, 8);
        let unset = "workers = 4\nenv = { unset = ['RAYON_NUM_THREADS'] }";
        assert!(!share("workers = 4").gives_the_same(&share(unset)));
        assert!(share("workers = 4").gives_the_same(&share("workers = 1")), "who was told nothing");
    }

    #[test]
    fn processors_are_dealt_to_slots_for_good() {
        let share = share("workers = 3\ncompute = { cpus_per_worker = 2 }", &[], 4, 4);
        let dealt = [0, 1, 2, 3].map(|slot| share.cpus_of(slot).unwrap());
        assert_eq!([vec![0, 1], vec![2, 3], vec![0, 1], vec![2, 3]], dealt);
        let keys = "process = { cpus = [1, 4, 7] }\ncompute = { cpus_per_worker = 2 }";
        let share = self::share(keys, &[], 8, 8);
        let dealt = [0, 1, 2].map(|slot| share.cpus_of(slot).unwrap());
        assert_eq!([vec![1, 4], vec![1, 7], vec![4, 7]], dealt);
        assert_eq!(None, self::share("", &[], 8, 8).cpus_of(0));
    }

    #[test]
    fn devices_are_dealt_to_slots_for_good() {
        let share =
            share("compute = { gpus = ['0', '2'] }", &[("CUDA_VISIBLE_DEVICES", "7")], 1, 1);
        assert_eq!(["0", "2", "0"], [0, 1, 2].map(|slot| share.gpu_of(slot).unwrap()));
        let variables = share.variables_of(1);
        for name in DEVICE_VARIABLES {
            assert!(variables.contains(&(name, "2".to_owned())), "{name}: {variables:?}");
        }
        let keys = "compute = { gpus = ['0'] }\nenv = { set = { HIP_VISIBLE_DEVICES = '5' } }";
        let variables = self::share(keys, &[], 1, 1).variables_of(0);
        assert!(variables.iter().all(|(name, _)| *name != "HIP_VISIBLE_DEVICES"), "{variables:?}");
        assert!(self::share("", &[], 1, 1).variables_of(0).is_empty());
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(Some(vec![0, 1, 2, 3, 8]), parse_list("\t0-3,8\n"));
        assert_eq!(Some(vec![5]), parse_list("5"));
        assert_eq!(None, parse_list(""));
        let own = Processors::of_this_process();
        assert!(own.at_once >= 1 && !own.allowed.is_empty(), "{own:?}");
    }
}
