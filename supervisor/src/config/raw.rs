//! The keys as they are written in the file, and the JSON schema made from them.
//!
//! Nothing is judged here: durations are still text, numbers may be negative, paths relative. The
//! doc comments are the schema's descriptions, so they speak to the person who writes the file;
//! the schema's defaults are what a wrong type is told to write instead, and a test compares them
//! with the checked types' own.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};
use serde::Deserialize;
use serde_json::Value;

use super::compute::RawCompute;
use super::declared::{RawBuild, RawRequirements, requirements_schema};
use super::liveness::RawLiveness;
use super::log::RawLog;
use super::memory::RawMemory;
use super::nested::RawNested;
use super::output::RawOutput;
use super::process::RawProcess;
use super::replace::RawReplace;
use super::restart::RawRestart;
use super::run::RawRun;
use super::scale::{RawScale, RawWorkers, workers_schema};

/// The configuration of a clutch daemon.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "clutch.toml")]
pub(super) struct RawConfig {
    /// What concerns the daemon as a whole.
    pub(super) daemon: RawDaemon,
    /// The pools of workers by name. A call names its pool, or goes to the one named `default`.
    pub(super) pools: BTreeMap<String, RawPool>,
}

/// What concerns the daemon as a whole.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDaemon {
    /// Where the daemon listens. Without, the default of the user who starts it.
    #[schemars(example = "/run/clutch/clutch.sock")]
    pub(super) socket: Option<String>,
    /// How many connections are served at once.
    #[schemars(extend("default" = 2048))]
    pub(super) connections: Option<i64>,
    /// How many calls one connection may have in flight.
    #[schemars(extend("default" = 8192))]
    pub(super) in_flight: Option<i64>,
    /// The longest payload of one call or result; at most 1GiB.
    #[schemars(extend("default" = "64MiB"))]
    pub(super) payload: Option<String>,
    /// How many bytes of requests the daemon holds in all, waiting or running.
    #[schemars(extend("default" = "1GiB"))]
    pub(super) memory: Option<String>,
    /// How many bytes of large buffers, such as arrays, one call, result or item may have beside
    /// its payload. They are in memory of their own, which the daemon passes on.
    #[schemars(extend("default" = "16GiB"))]
    pub(super) attached: Option<String>,
    /// How many bytes of values the daemon keeps for all clients that have put them with it.
    #[schemars(extend("default" = "16GiB"))]
    pub(super) handles: Option<String>,
    /// How many of them for one client: at most `handles`, which is also the default where that is
    /// less.
    #[schemars(extend("default" = "8GiB"))]
    pub(super) handles_per_client: Option<String>,
    /// How long a graceful stop waits for running calls.
    #[schemars(extend("default" = "30s"))]
    pub(super) stop_grace: Option<String>,
    /// Whether workers get cgroups of their own: "auto" where the daemon's own is delegated to it,
    /// "off", or the directory of a cgroup to make them in.
    #[schemars(extend("default" = "auto"))]
    pub(super) cgroup: Option<String>,
    /// The daemon's own log.
    pub(super) log: RawLog,
    /// What is kept of the output of every pool that does not say otherwise.
    pub(super) output: RawOutput,
}

/// One pool of workers.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPool {
    /// The interpreter: a version ("3.12", "3.12.1", "3.13t"), a name on PATH, or a path. Not
    /// together with `venv`.
    #[schemars(extend("default" = "python3"))]
    pub(super) python: Option<String>,
    /// The directory of a virtual or conda environment whose interpreter is used. Not together with
    /// `python`.
    #[schemars(example = ".venv")]
    pub(super) venv: Option<String>,
    /// What is to be installed: a list of requirements, or the path of a requirements file. The
    /// environment is built once and shared by all who want the same. Not together with `venv`.
    #[schemars(schema_with = "requirements_schema")]
    pub(super) requirements: Option<RawRequirements>,
    /// A `pyproject.toml`, or its directory, whose dependencies are to be installed, as its lock
    /// says if uv is there. Not together with `venv` or `requirements`.
    #[schemars(example = "pyproject.toml")]
    pub(super) project: Option<String>,
    /// Whether the metadata in `main` itself (PEP 723) says what is installed where no other key
    /// does: "use" or "ignore".
    #[schemars(extend("default" = "use"))]
    pub(super) script_metadata: Option<String>,
    /// How a declared environment is built.
    pub(super) build: RawBuild,
    /// How many workers run; "auto" is one for each CPU, { min = 0, max = 4 } grows and shrinks.
    #[schemars(schema_with = "workers_schema")]
    pub(super) workers: Option<RawWorkers>,
    /// How many more are kept ready, to take over at once when a worker is lost.
    #[schemars(extend("default" = 0))]
    pub(super) spares: Option<i64>,
    /// How many calls each worker runs at once, each on a thread of its own. Without this,
    /// `async` and `subinterpreters`, one at a time. Not together with either.
    #[schemars(example = 8)]
    pub(super) threads: Option<i64>,
    /// How many calls each worker runs at once on one event loop, for functions that are
    /// `async def`. Not together with `threads` or `subinterpreters`.
    #[serde(rename = "async")]
    #[schemars(example = 100)]
    pub(super) tasks: Option<i64>,
    /// How many calls each worker runs at once, each in an interpreter of its own in the same
    /// process. Needs CPython 3.13 or newer. Not together with `threads` or `async`.
    #[schemars(example = 4)]
    pub(super) subinterpreters: Option<i64>,
    /// Directories added to `sys.path`.
    #[schemars(extend("default" = []))]
    pub(super) path: Option<Vec<String>>,
    /// A script that is `__main__` in every worker.
    #[schemars(example = "main.py")]
    pub(super) main: Option<String>,
    /// What follows the script in `sys.argv`. Only with `main`.
    #[schemars(extend("default" = []))]
    pub(super) args: Option<Vec<String>>,
    /// Options of the interpreter itself, such as "-X", "dev".
    #[schemars(extend("default" = []))]
    pub(super) flags: Option<Vec<String>>,
    /// Which functions may be called, as patterns over MODULE:QUALNAME. Without, every function.
    #[schemars(example = ["mytasks:*"])]
    pub(super) allow: Option<Vec<String>>,
    /// The directory that workers start in.
    #[schemars(extend("default" = "."))]
    pub(super) cwd: Option<String>,
    /// Modules imported before the first call.
    #[schemars(extend("default" = []))]
    pub(super) preload: Option<Vec<String>>,
    /// A function that each worker calls once, before its first call.
    #[schemars(example = "mytasks:connect")]
    pub(super) initializer: Option<String>,
    /// The arguments of `initializer`: text, numbers, truth values, lists and tables.
    #[schemars(with = "Option<Vec<Value>>", extend("default" = []))]
    pub(super) initargs: Option<Vec<toml::Value>>,
    /// Functions that each worker calls once, after `initializer` and without arguments.
    #[schemars(extend("default" = []))]
    pub(super) warm: Option<Vec<String>>,
    /// Files whose change makes the workers be replaced, as patterns; for development.
    #[schemars(extend("default" = []))]
    pub(super) watch: Option<Vec<String>>,
    /// How the environment of workers is made: inherit, then unset, then set.
    pub(super) env: RawEnv,
    /// When a pool whose `workers` are { min, max } grows and shrinks.
    pub(super) scale: RawScale,
    /// How what died is started again.
    pub(super) restart: RawRestart,
    /// When workers that are well are replaced.
    pub(super) replace: RawReplace,
    /// What it does for calls that come from workers.
    pub(super) nested: RawNested,
    /// The pool's limits.
    pub(super) limits: RawLimits,
    /// What is kept of the pool's output; what is not written is as in `[daemon.output]`.
    pub(super) output: RawOutput,
    /// From which level on records of Python's `logging` are forwarded to the daemon: "debug",
    /// "info", "warning", "error" or "critical". "off" leaves `logging` alone.
    #[schemars(extend("default" = "off"))]
    pub(super) logging: Option<String>,
    /// What the worker processes are made of and may use.
    pub(super) process: RawProcess,
    /// How the workers share processors and devices.
    pub(super) compute: RawCompute,
    /// How much memory a worker may hold.
    pub(super) memory: RawMemory,
    /// When a busy worker is looked at.
    pub(super) liveness: RawLiveness,
    /// Programs that clients run under the pool's rules with `clutch run`.
    pub(super) run: RawRun,
}

/// How the environment of workers is made.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEnv {
    /// What is taken from the daemon's environment: "all" (but what bends an interpreter, such as
    /// PYTHONHOME), "minimal" (PATH, HOME, USER, LANG, LC_*, TZ, TMPDIR), or a list of names and of
    /// patterns with `*`.
    #[schemars(schema_with = "inherit_schema")]
    pub(super) inherit: Option<RawInherit>,
    /// What is set, whatever was inherited.
    #[schemars(extend("default" = {}))]
    pub(super) set: BTreeMap<String, String>,
    /// What is removed from what was inherited.
    #[schemars(extend("default" = []))]
    pub(super) unset: Option<Vec<String>>,
}

/// What is inherited.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawInherit {
    /// "all", "minimal", or a mistake.
    Text(String),
    /// These names.
    List(Vec<String>),
}

/// The limits of a pool.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    /// How many calls may wait for a worker.
    #[schemars(extend("default" = 4096))]
    pub(super) queue: Option<i64>,
    /// How long a call may take, waiting included, when its caller does not say.
    #[schemars(extend("default" = "30s"))]
    pub(super) call_timeout: Option<String>,
    /// The longest time a caller may ask for.
    #[schemars(extend("default" = "1d"))]
    pub(super) call_timeout_max: Option<String>,
    /// How long a worker may take to become ready.
    #[schemars(extend("default" = "60s"))]
    pub(super) start_timeout: Option<String>,
    /// The time between SIGTERM and SIGKILL; "0s" kills at once.
    #[schemars(extend("default" = "5s"))]
    pub(super) grace: Option<String>,
    /// How long a call that nobody waits for any more may go on after it was told so by its flag
    /// only, before it is interrupted.
    #[schemars(extend("default" = "0s"))]
    pub(super) cooperate: Option<String>,
    /// How long an interrupted call may take to end before its worker is replaced.
    #[schemars(extend("default" = "100ms"))]
    pub(super) interrupt: Option<String>,
}

/// The JSON schema (draft 2020-12) of the file.
#[must_use]
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        // One tree without references: small, and easy to walk.
        settings.inline_subschemas = true;
    });
    let schema = settings.into_generator().into_root_schema_for::<RawConfig>();
    let mut value = schema.to_value();
    tidy(&mut value);
    value
}

/// TOML has no null, so no key may be one; and a 64-bit format says nothing to a person.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|kind| kind != "null");
                if let [only] = types.as_mut_slice() {
                    let only = only.take();
                    object.insert("type".to_owned(), only);
                }
            }
            if object.get("format") == Some(&Value::from("int64")) {
                object.remove("format");
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

fn inherit_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "array"],
        "items": { "type": "string" },
        "default": "all"
    })
}
