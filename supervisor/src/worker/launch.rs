//! What a pool's workers are started with: worked out once per pool, before its first start.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clutch_protocol::message::{
    Identity, OomScore, ProcessLimits, Resource, ResourceLimit, Setup, Spawn, WorkerId, version,
};

use super::share::{Processors, Share};
use crate::config;
use crate::interpreter::Facts;

/// The recipe for every worker of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    spawn: Spawn,
    setup: Setup,
    package: String,
    share: Share,
    facts: Option<Arc<Facts>>,
}

/// What bounds every worker, whatever its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The longest payload of a result, in bytes.
    pub payload_bytes: u32,
    /// How many bytes may be attached to one.
    pub attached_bytes: u64,
    /// The soft limit of open files.
    pub open_files: u64,
}

impl Bounds {
    /// Those that `daemon` gives.
    pub const fn new(daemon: &config::Daemon, open_files: u64) -> Bounds {
        Bounds { payload_bytes: daemon.payload, attached_bytes: daemon.attached, open_files }
    }
}

impl Recipe {
    /// Works out the recipe of `pool`: run by the interpreter `executable`, started with the `boot`
    /// script of the worker's package, in the finished `environment`, within `bounds`.
    //
    // Each key is named, so that no new one is forgotten: a reload replaces what those shape.
    pub fn new(
        pool: &config::Pool,
        executable: &Path,
        boot: &Path,
        environment: Vec<(OsString, OsString)>,
        bounds: Bounds,
    ) -> Recipe {
        let config::Pool {
            name,
            python: _,   // it is the executable
            declared: _, // it is the executable as well
            build: _,    // how that came to be
            env: _,      // it is the environment
            path,
            main,
            args,
            flags,
            cwd,
            preload,
            warm_up,
            logging,
            process,
            limits: timings, // of them only what the worker itself is told
            workers: _,
            workers_min: _,
            spares: _,
            scale: _,
            concurrency,
            restart: _,
            replace: _,
            nested: _,
            allow: _,
            watch: _,
            output: _,
            memory: _,
            liveness: _,
            compute: _, // it is the share
            run: _,
        } = pool;
        let share = Share::of(pool, &environment, &Processors::of_this_process());
        let spawn = Spawn {
            program: bytes(executable.as_os_str()),
            argv: command_line(executable.as_os_str(), flags, boot),
            environment: variables(environment),
            directory: bytes(cwd.as_os_str()),
            grace_ms: millis(timings.grace),
            open_files: bounds.open_files,
            limits: limits(process),
            cgroup: Vec::new(),
        };
        let setup = Setup {
            version: version::MAX,
            pool: name.clone(),
            worker: WorkerId { slot: 0, generation: 0 },
            argv: arguments(main.as_ref(), args),
            main: main_file(main.as_ref()),
            path: path.iter().map(|path| bytes(path.as_os_str())).collect(),
            preload: preload.clone(),
            payload_bytes_max: bounds.payload_bytes,
            start_stack_ms: millis(stack_after(timings.start_timeout)),
            log_level: *logging,
            initializer: warm_up.initializer.clone().unwrap_or_default(),
            initargs: warm_up.initargs.clone().into_bytes(),
            warm: warm_up.warm.clone(),
            mode: concurrency.mode(),
            lanes: concurrency.lanes(),
            attached_bytes_max: bounds.attached_bytes,
        };
        Recipe { spawn, setup, package: folder_name(boot), share, facts: None }
    }

    /// The same, with what its interpreter says of itself.
    #[must_use]
    pub fn with_facts(self, facts: Option<Facts>) -> Recipe {
        Recipe { facts: facts.map(Arc::new), ..self }
    }

    /// What its interpreter says of itself, if it was asked.
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    /// How many threads numerical libraries are told to start in each worker.
    pub const fn threads(&self) -> Option<u32> {
        self.share.threads()
    }

    /// Whether workers made by either are alike, once they are started: how long one may take to
    /// start and to stop shapes no worker.
    pub fn makes_the_same(&self, other: &Recipe) -> bool {
        let spawn = Spawn { grace_ms: self.spawn.grace_ms, ..other.spawn.clone() };
        let start_stack_ms = self.setup.start_stack_ms;
        let setup = Setup { start_stack_ms, ..other.setup.clone() };
        self.spawn == spawn
            && self.setup == setup
            && self.share.gives_the_same(&other.share)
            && self.runs_the_same(other)
    }

    /// Whether the interpreter is no other one under the same path, as after an upgrade. One that
    /// was not asked is taken for the same.
    fn runs_the_same(&self, other: &Recipe) -> bool {
        let (Some(one), Some(other)) = (self.facts(), other.facts()) else {
            return true;
        };
        let build = |it: &Facts| {
            let Facts { version, implementation, abi, base_prefix, free_threaded, .. } = it;
            let texts = [version, implementation, abi, base_prefix].map(String::clone);
            (texts, *free_threaded)
        };
        build(one) == build(other)
    }

    /// What workers have in common with other programs of the pool, which have no slot.
    pub fn spawn_without_slot(&self) -> Spawn {
        self.spawn.clone()
    }

    /// What the guardian of a worker is told. Processors and devices belong to its slot, whichever
    /// generation it is.
    pub fn spawn(&self, worker: WorkerId) -> Spawn {
        let mut spawn = self.spawn.clone();
        if let Some(cpus) = self.share.cpus_of(worker.slot) {
            spawn.limits.cpus = cpus;
        }
        for (name, value) in self.share.variables_of(worker.slot) {
            let start = format!("{name}=");
            spawn.environment.retain(|entry| !entry.starts_with(start.as_bytes()));
            spawn.environment.push(format!("{start}{value}").into_bytes());
        }
        spawn
    }

    /// The name of the folder that holds the worker's own files.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// What a worker is told first.
    pub fn setup(&self, worker: WorkerId) -> Setup {
        Setup { worker, ..self.setup.clone() }
    }
}

/// When a start that hangs writes its stacks, counted from the moment when the interpreter is up:
/// early enough that they are there when the start is given up, though a busy machine may take a
/// second until the interpreter is.
fn stack_after(start_timeout: Duration) -> Duration {
    let margin = (start_timeout / 10).max(Duration::from_secs(1).min(start_timeout / 2));
    start_timeout - margin
}

/// The script that becomes `__main__`, if there is one.
fn main_file(main: Option<&config::Main>) -> Vec<u8> {
    main.map_or(Vec::new(), |main| bytes(main.file.as_os_str()))
}

/// What `sys.argv` shall be.
fn arguments(main: Option<&config::Main>, args: &[String]) -> Vec<Vec<u8>> {
    let argv0 = main.map_or("", |main| &main.argv0);
    std::iter::once(argv0).chain(args.iter().map(String::as_str)).map(Into::into).collect()
}

/// How python is started: the guardian puts the numbers of descriptors in.
fn command_line(program: &OsStr, flags: &[String], boot: &Path) -> Vec<Vec<u8>> {
    let mut argv = vec![bytes(program)];
    argv.extend(flags.iter().map(|flag| flag.clone().into_bytes()));
    argv.push(bytes(boot.as_os_str()));
    argv.extend(["{call}", "{control}", "{page}", "{stack}"].map(|name| name.into()));
    argv
}

fn folder_name(file: &Path) -> String {
    let name = file.parent().and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// How much likelier than the daemon a worker is picked when memory runs out.
const OOM_SCORE_ABOVE: i32 = 500;

fn limits(process: &config::Process) -> ProcessLimits {
    let resource = |resource, value: Option<u64>| value.map(|value| (resource, value));
    let resources = [
        resource(Resource::Core, Some(process.core)),
        resource(Resource::OpenFiles, process.open_files.map(u64::from)),
        resource(Resource::AddressSpace, process.address_space),
        resource(Resource::CpuTime, process.cpu_time.map(|time| time.as_secs())),
        resource(Resource::FileSize, process.file_size),
        resource(Resource::Processes, process.processes.map(u64::from)),
    ];
    let oom_score_adj = match process.oom_score_adj {
        Some(value) => OomScore { value, required: true },
        None => {
            let value = (own_oom_score() + OOM_SCORE_ABOVE).min(1000);
            OomScore { value, required: false }
        }
    };
    ProcessLimits {
        resources: resources
            .into_iter()
            .flatten()
            .map(|(resource, value)| ResourceLimit { resource, value })
            .collect(),
        cpus: process.cpus.clone(),
        nice: process.nice,
        umask: process.umask,
        identity: process.account.as_ref().map(|account| Identity {
            user: account.user,
            group: account.group,
            groups: account.groups.clone(),
        }),
        oom_score_adj: Some(oom_score_adj),
    }
}

/// Variables as the system wants them.
fn variables(environment: Vec<(OsString, OsString)>) -> Vec<Vec<u8>> {
    let one = |(name, value): (OsString, OsString)| {
        [&name.into_vec()[..], b"=", value.as_bytes()].concat()
    };
    environment.into_iter().map(one).collect()
}

fn own_oom_score() -> i32 {
    let text = std::fs::read_to_string("/proc/self/oom_score_adj");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn bytes(text: &OsStr) -> Vec<u8> {
    text.as_bytes().to_vec()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_of_a_start_are_written_well_before_it_is_given_up_f021() {
        let after = |millis| stack_after(Duration::from_millis(millis)).as_millis();
        assert_eq!([50, 1_000, 2_000, 54_000], [100, 2_000, 3_000, 60_000].map(after));
    }
}
