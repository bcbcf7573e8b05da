//! The table `compute` of a pool: how its workers share processors and devices.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;

/// More than any machine has processors.
const THREADS: RangeInclusive<u32> = 1..=1024;
/// As many as a set of processors holds; 0 pins nobody.
const CPUS: RangeInclusive<u32> = 0..=1024;

/// How the workers of a pool share processors and devices.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCompute {
    /// How many threads libraries like OpenBLAS, MKL, numexpr and polars start in each worker:
    /// "auto" is the processors divided by the workers, "off" leaves it to the libraries.
    #[schemars(schema_with = "threads_schema")]
    threads: Option<RawThreads>,
    /// How many processors each worker has for itself; 0 lets all use all.
    #[schemars(extend("default" = 0))]
    cpus_per_worker: Option<i64>,
    /// Devices that are given to the workers in turn, by number or name. Without, all see all.
    #[schemars(extend("default" = []))]
    gpus: Option<Vec<String>>,
}

/// A number of threads, or a word.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum RawThreads {
    Number(i64),
    Text(String),
}

fn threads_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["integer", "string"], "default": "auto" })
}

/// How workers share processors and devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compute {
    /// Threads that libraries start.
    pub threads: Threads,
    /// Processors that each worker has for itself; 0 for none.
    pub cpus_per_worker: u32,
    /// Devices, given to slots in turn.
    pub gpus: Vec<String>,
}

/// How many threads libraries start in each worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// The worker's share of the processors.
    #[default]
    Auto,
    /// So many.
    Number(u32),
    /// What the libraries choose.
    Off,
}

pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: &RawCompute,
    cpus: &[u32],
    at: &Key,
) -> Compute {
    let threads_at = at.child("threads");
    let threads = match &raw.threads {
        None => Threads::Auto,
        Some(RawThreads::Number(number)) => checker
            .number(&threads_at, Some(*number), &THREADS)
            .map_or(Threads::Auto, Threads::Number),
        Some(RawThreads::Text(text)) => match text.as_str() {
            "auto" => Threads::Auto,
            "off" => Threads::Off,
            _ => {
                let expected = "a number, \"auto\" for the worker's share of the processors, or \
                    \"off\" for what the libraries choose";
                checker.report(&threads_at, Reason::Word { found: text.clone(), expected });
                Threads::Auto
            }
        },
    };
    let cpus_at = at.child("cpus_per_worker");
    let cpus_per_worker = checker.number(&cpus_at, raw.cpus_per_worker, &CPUS).unwrap_or(0);
    let there = cpus.iter().collect::<BTreeSet<_>>().len();
    if there > 0 && usize::try_from(cpus_per_worker).is_ok_and(|wanted| wanted > there) {
        let most = format!("{there}, as many as process.cpus names");
        let (value, least) = (cpus_per_worker.to_string(), "0".to_owned());
        checker.report(&cpus_at, Reason::Range { value, least, most });
    }
    Compute { threads, cpus_per_worker, gpus: gpus(checker, raw, &at.child("gpus")) }
}

fn gpus(checker: &mut Checker<'_>, raw: &RawCompute, at: &Key) -> Vec<String> {
    let gpus = raw.gpus.clone().unwrap_or_default();
    checker.short_enough(at, gpus.len());
    checker.no_duplicates(at, &gpus);
    for (index, gpu) in gpus.iter().enumerate() {
        let at = at.child(&index.to_string());
        if gpu.is_empty() {
            checker.report(&at, Reason::Empty);
        } else if gpu.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let expected = "a device as CUDA_VISIBLE_DEVICES takes it, like \"0\", \"0,1\" or \
                \"GPU-8932f937\"";
            checker.report(&at, Reason::Word { found: gpu.clone(), expected });
        }
    }
    gpus
}
