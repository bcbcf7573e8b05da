//! The verbs, one file each. Each has its own arguments and a `run` that gives the exit code.

pub(crate) mod call;
pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod env;
pub(crate) mod explain;
pub(crate) mod logs;
pub(crate) mod map;
pub(crate) mod map_file;
pub(crate) mod ping;
pub(crate) mod plan;
pub(crate) mod pool;
pub(crate) mod pool_wait;
pub(crate) mod pythons;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod stack;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod workers;
