//! What a pool's workers are started with: worked out once per pool, before its first start.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use clutch_protocol::message::{
    Identity, OomScore, ProcessLimits, Resource, ResourceLimit, Setup, Spawn, WorkerId, version,
};

use crate::config;

/// The recipe for every worker of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    spawn: Spawn,
    setup: Setup,
    package: String,
}

impl Recipe {
    /// Works out the recipe of `pool`: run by the interpreter `executable`, started with the `boot`
    /// script of the worker's package, in the finished `environment`, with `open_files` as its soft
    /// limit of descriptors.
    pub fn new(
        pool: &config::Pool,
        executable: &Path,
        boot: &Path,
        environment: Vec<(OsString, OsString)>,
        payload_bytes_max: u32,
        open_files: u64,
    ) -> Recipe {
        // Every key by its name: a new one has to be put here if it shapes workers, which a reload
        // then replaces when it changes; the others hold for the workers that are there.
        let config::Pool {
            name,
            python: _, // it is the executable
            env: _,    // it is the environment
            path,
            main,
            args,
            flags,
            cwd,
            preload,
            logging,
            process,
            limits: timings, // of them only what the worker itself is told
            workers: _,
            workers_min: _,
            spares: _,
            scale: _,
            restart: _,
            replace: _,
            allow: _,
            watch: _,
            output: _,
            memory: _,
            liveness: _,
        } = pool;
        let program = executable.as_os_str();
        let mut argv = vec![bytes(program)];
        argv.extend(flags.iter().map(|flag| flag.clone().into_bytes()));
        argv.push(bytes(boot.as_os_str()));
        argv.extend(["{call}", "{control}", "{page}", "{stack}"].map(|name| name.into()));
        let spawn = Spawn {
            program: bytes(program),
            argv,
            environment: environment
                .into_iter()
                .map(|(name, value)| [&name.into_vec()[..], b"=", value.as_bytes()].concat())
                .collect(),
            directory: bytes(cwd.as_os_str()),
            grace_ms: millis(timings.grace),
            open_files,
            limits: limits(process),
        };
        let argv0 = main.as_ref().map_or(String::new(), |main| main.argv0.clone());
        let args = args.iter().cloned();
        let setup = Setup {
            version: version::MAX,
            pool: name.clone(),
            worker: WorkerId { slot: 0, generation: 0 },
            argv: std::iter::once(argv0).chain(args).map(String::into_bytes).collect(),
            main: main.as_ref().map_or(Vec::new(), |main| bytes(main.file.as_os_str())),
            path: path.iter().map(|path| bytes(path.as_os_str())).collect(),
            preload: preload.clone(),
            payload_bytes_max,
            start_stack_ms: millis(stack_after(timings.start_timeout)),
            log_level: *logging,
        };
        let package = boot.parent().and_then(Path::file_name).unwrap_or_default();
        Recipe { spawn, setup, package: package.to_string_lossy().into_owned() }
    }

    /// Whether workers made by either are alike, once they are started: how long one may take to
    /// start and to stop shapes no worker.
    pub fn makes_the_same(&self, other: &Recipe) -> bool {
        let spawn = Spawn { grace_ms: self.spawn.grace_ms, ..other.spawn.clone() };
        let start_stack_ms = self.setup.start_stack_ms;
        let setup = Setup { start_stack_ms, ..other.setup.clone() };
        self.spawn == spawn && self.setup == setup
    }

    /// What the guardian of a worker is told.
    pub fn spawn(&self) -> Spawn {
        self.spawn.clone()
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
