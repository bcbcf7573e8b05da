//! From raw keys to the checked types: names, ranges and contradictions.
//!
//! A check that fails reports its problem and goes on with the default, so that one run finds all
//! there is; the caller uses the result only when nothing was reported. The checks of single
//! values are in `checker.rs`.

use std::path::{Path, PathBuf};

use clutch_protocol::name::{check_function, check_pool};
use toml::de::DeTable;

use super::allow::Allow;
use super::bounds;
use super::checker::Checker;
use super::error::{Key, Problem};
use super::flags::check_flags;
use super::log::check_log;
use super::model::{Config, Daemon, Env, Inherit, Limits, Main, Pool, Python};
use super::output::{Output, check_logging, check_output, check_shared_files};
use super::raw::{RawConfig, RawDaemon, RawEnv, RawInherit, RawLimits, RawPool};
use super::reason::Reason;
use super::replace::check_replace;
use super::restart::check_restart;
use super::scale::{check_scale, check_size};
use super::units::{show_duration, show_size};
use super::watch::check_watch;
use super::{
    cgroup, compute, concurrency, declared, handles, liveness, memory, nested, process, run,
    warm_up,
};

/// Checks all keys. `places` is the table they were read from.
pub(super) fn check_config(
    raw: &RawConfig,
    places: &DeTable<'_>,
    base_dir: &Path,
    problems: &mut Vec<Problem>,
) -> Config {
    let mut checker = Checker::new(Some(places), base_dir, problems);
    let root = Key::default();
    let daemon = check_daemon(&mut checker, &raw.daemon, &root.child("daemon"));
    let at = root.child("pools");
    // An empty table may be what is left after wrong pools were taken out.
    if raw.pools.is_empty() && !checker.has_problems() {
        checker.report(&at, Reason::NoPools);
    }
    if raw.pools.len() > bounds::POOLS_MAX {
        let length = raw.pools.len();
        let limit = bounds::POOLS_MAX;
        checker.report(&at, Reason::TooMany { length, limit });
    }
    let output_at = root.child("daemon").child("output");
    let output = check_output(&mut checker, &raw.daemon.output, &output_at, &Output::default());
    let pools = raw
        .pools
        .iter()
        .map(|(name, raw)| (name.clone(), pool(&mut checker, name, raw, &output, &at.child(name))))
        .collect();
    check_shared_files(&mut checker, &pools, &at);
    Config { source: None, daemon, pools }
}

fn check_daemon(checker: &mut Checker<'_>, raw: &RawDaemon, at: &Key) -> Daemon {
    let default = Daemon::default();
    let number = |checker: &mut Checker<'_>, name, value, range, default| {
        checker.number(&at.child(name), value, &range).unwrap_or(default)
    };
    let connections =
        number(checker, "connections", raw.connections, bounds::CONNECTIONS, default.connections);
    let in_flight =
        number(checker, "in_flight", raw.in_flight, bounds::IN_FLIGHT, default.in_flight);
    let memory_at = at.child("memory");
    let memory =
        checker.size(&memory_at, raw.memory.as_deref(), &bounds::MEMORY).unwrap_or(default.memory);
    // A small memory alone makes the default payload smaller; only what is written can clash.
    let payload = checker
        .size(&at.child("payload"), raw.payload.as_deref(), &bounds::PAYLOAD)
        .unwrap_or(u64::from(default.payload).min(memory));
    if payload > memory {
        let memory = show_size(memory);
        let payload = show_size(payload);
        checker.report(&memory_at, Reason::PayloadAboveMemory { memory, payload });
    }
    let attached = checker
        .size(&at.child("attached"), raw.attached.as_deref(), &bounds::ATTACHED)
        .unwrap_or(default.attached);
    let stop_grace = checker
        .duration(&at.child("stop_grace"), raw.stop_grace.as_deref(), &bounds::GRACE)
        .unwrap_or(default.stop_grace);
    Daemon {
        connections,
        in_flight,
        payload: u32::try_from(payload).expect("the range of payloads ends at 1 GiB"),
        memory,
        attached,
        handles: handles::check(checker, raw, at),
        stop_grace,
        socket: socket(checker, raw.socket.as_deref(), &at.child("socket")),
        log: check_log(checker, &raw.log, &at.child("log")),
        cgroup: cgroup::check(checker, raw.cgroup.as_deref(), &at.child("cgroup")),
    }
}

fn socket(checker: &mut Checker<'_>, text: Option<&str>, at: &Key) -> Option<PathBuf> {
    let path = checker.path(at, text?)?;
    let length = path.as_os_str().len();
    if length > bounds::SOCKET_PATH_BYTES_MAX {
        let limit = bounds::SOCKET_PATH_BYTES_MAX;
        checker.report(at, Reason::SocketTooLong { length, limit, path });
        return None;
    }
    Some(path)
}

fn pool(checker: &mut Checker<'_>, name: &str, raw: &RawPool, output: &Output, at: &Key) -> Pool {
    if let Err(error) = check_pool(name) {
        checker.report(at, Reason::PoolName(error));
    }
    let cwd =
        checker.directory(&at.child("cwd"), raw.cwd.as_deref().unwrap_or(".")).unwrap_or_default();
    let main_at = at.child("main");
    let main = raw.main.as_deref().and_then(|text| main(checker, &main_at, text, &cwd));
    let args = texts(checker, raw.args.as_ref(), &at.child("args"));
    if !args.is_empty() && raw.main.is_none() {
        checker.report(&at.child("args"), Reason::ArgsWithoutMain);
    }
    let flags_at = at.child("flags");
    let flags = texts(checker, raw.flags.as_ref(), &flags_at);
    if let Err((index, reason)) = check_flags(&flags) {
        checker.report(&flags_at.child(&index.to_string()), reason);
    }
    let size = check_size(checker, raw.workers.as_ref(), raw.spares, at);
    let process = process::check(checker, &raw.process, &at.child("process"));
    Pool {
        name: name.to_owned(),
        python: python(checker, raw, at),
        declared: declared::check(checker, raw, main.as_ref(), at),
        build: declared::check_build(checker, &raw.build, &at.child("build")),
        workers: size.max,
        workers_min: size.min,
        spares: size.spares,
        concurrency: concurrency::check(checker, raw, at),
        scale: check_scale(checker, &raw.scale, &at.child("scale")),
        restart: check_restart(checker, &raw.restart, &at.child("restart")),
        replace: check_replace(checker, &raw.replace, &at.child("replace")),
        nested: nested::check(checker, &raw.nested, size.max, &at.child("nested")),
        path: path(checker, raw.path.as_ref(), &at.child("path")),
        main,
        args,
        flags,
        allow: allow(checker, raw.allow.as_ref(), &at.child("allow")),
        cwd,
        preload: preload(checker, raw.preload.as_ref(), &at.child("preload")),
        warm_up: warm_up::check(checker, raw, at),
        watch: check_watch(checker, raw.watch.as_ref(), &at.child("watch")),
        env: env(checker, &raw.env, &at.child("env")),
        limits: limits(checker, &raw.limits, &at.child("limits")),
        output: check_output(checker, &raw.output, &at.child("output"), output),
        logging: check_logging(checker, raw.logging.as_deref(), &at.child("logging")),
        compute: compute::check(checker, &raw.compute, &process.cpus, &at.child("compute")),
        process,
        memory: memory::check(checker, &raw.memory, &at.child("memory")),
        liveness: liveness::check(checker, &raw.liveness, &at.child("liveness")),
        run: run::check(checker, &raw.run, &at.child("run")),
    }
}

fn python(checker: &mut Checker<'_>, raw: &RawPool, at: &Key) -> Python {
    match (&raw.python, &raw.venv) {
        (Some(_), Some(_)) => {
            checker.report(&at.child("venv"), Reason::PythonAndVenv);
            Python::default()
        }
        (Some(text), None) => checker.python(&at.child("python"), text).unwrap_or_default(),
        (None, Some(text)) => {
            let path = checker.path(&at.child("venv"), text);
            path.map_or_else(Python::default, Python::Venv)
        }
        (None, None) => Python::default(),
    }
}

fn path(checker: &mut Checker<'_>, raw: Option<&Vec<String>>, at: &Key) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for (index, text) in texts(checker, raw, at).iter().enumerate() {
        let at = at.child(&index.to_string());
        paths.extend(checker.path(&at, text).filter(|path| checker.exists(&at, path)));
    }
    checker.no_duplicates(at, raw.map_or(&[], Vec::as_slice));
    paths
}

/// The script, and how a person in `cwd` would type it.
fn main(checker: &mut Checker<'_>, at: &Key, text: &str, cwd: &Path) -> Option<Main> {
    let file = checker.file(at, text)?;
    let relative = !text.starts_with(['/', '~']);
    let argv0 = match file.strip_prefix(cwd) {
        _ if relative && cwd == checker.base_dir() => Path::new(text),
        Ok(below) if relative => below,
        _ => &file,
    };
    match argv0.to_str() {
        Some(argv0) => Some(Main { argv0: argv0.to_owned(), file }),
        None => {
            checker.report(at, Reason::NotUtf8 { path: file });
            None
        }
    }
}

fn allow(checker: &mut Checker<'_>, raw: Option<&Vec<String>>, at: &Key) -> Option<Allow> {
    let patterns = texts(checker, Some(raw?), at);
    checker.no_duplicates(at, &patterns);
    for (index, pattern) in patterns.iter().enumerate() {
        if let Err(error) = Allow::new([pattern.as_str()]) {
            checker.report(&at.child(&index.to_string()), Reason::Allow(error));
        }
    }
    Allow::new(patterns.iter().map(String::as_str)).ok()
}

fn preload(checker: &mut Checker<'_>, raw: Option<&Vec<String>>, at: &Key) -> Vec<String> {
    let modules = texts(checker, raw, at);
    checker.no_duplicates(at, &modules);
    for (index, name) in modules.iter().enumerate() {
        // A module's name is what a function's name may have before its colon.
        let long = name.len() > bounds::MODULE_NAME_BYTES_MAX;
        if long || check_function(&format!("{name}:f")).is_err() {
            let name = name.clone();
            checker.report(&at.child(&index.to_string()), Reason::Module { name });
        }
    }
    modules
}

fn env(checker: &mut Checker<'_>, raw: &RawEnv, at: &Key) -> Env {
    let inherit_at = at.child("inherit");
    let inherit = match &raw.inherit {
        None => Inherit::All,
        Some(RawInherit::Text(text)) => match text.as_str() {
            "all" => Inherit::All,
            "minimal" => Inherit::Minimal,
            _ => {
                let found = text.clone();
                let expected = "\"all\", \"minimal\", or a list of names like [\"PATH\", \"HOME\"]";
                checker.report(&inherit_at, Reason::Word { found, expected });
                Inherit::All
            }
        },
        Some(RawInherit::List(names)) => {
            Inherit::List(variables(checker, Some(names), &inherit_at))
        }
    };
    let unset = variables(checker, raw.unset.as_ref(), &at.child("unset"));
    let set_at = at.child("set");
    for (name, value) in &raw.set {
        let at = set_at.child(name);
        checker.variable(&at, name);
        checker.no_nul(&at, value);
        if unset.contains(name) {
            checker.report(&at, Reason::SetAndUnset { name: name.clone() });
        }
    }
    Env { inherit, set: raw.set.clone(), unset }
}

fn variables(checker: &mut Checker<'_>, raw: Option<&Vec<String>>, at: &Key) -> Vec<String> {
    let names = raw.cloned().unwrap_or_default();
    checker.short_enough(at, names.len());
    checker.no_duplicates(at, &names);
    for (index, name) in names.iter().enumerate() {
        checker.variable(&at.child(&index.to_string()), name);
    }
    names
}

fn limits(checker: &mut Checker<'_>, raw: &RawLimits, at: &Key) -> Limits {
    let default = Limits::default();
    let timeout = |checker: &mut Checker<'_>, name, text: &Option<String>| {
        checker.duration(&at.child(name), text.as_deref(), &bounds::TIMEOUT)
    };
    let grace = |checker: &mut Checker<'_>, name, text: &Option<String>| {
        checker.duration(&at.child(name), text.as_deref(), &bounds::GRACE)
    };
    let call_timeout_max = timeout(checker, "call_timeout_max", &raw.call_timeout_max)
        .unwrap_or(default.call_timeout_max);
    // A short maximum alone makes the default shorter; only what is written can clash.
    let call_timeout = timeout(checker, "call_timeout", &raw.call_timeout)
        .unwrap_or(default.call_timeout.min(call_timeout_max));
    if call_timeout > call_timeout_max {
        let reason = Reason::TimeoutAboveMax {
            timeout: show_duration(call_timeout),
            most: show_duration(call_timeout_max),
        };
        checker.report(&at.child("call_timeout"), reason);
    }
    Limits {
        queue: checker
            .number(&at.child("queue"), raw.queue, &bounds::QUEUE)
            .unwrap_or(default.queue),
        call_timeout,
        call_timeout_max,
        start_timeout: timeout(checker, "start_timeout", &raw.start_timeout)
            .unwrap_or(default.start_timeout),
        grace: grace(checker, "grace", &raw.grace).unwrap_or(default.grace),
        cooperate: grace(checker, "cooperate", &raw.cooperate).unwrap_or(default.cooperate),
        interrupt: grace(checker, "interrupt", &raw.interrupt).unwrap_or(default.interrupt),
    }
}

/// A list of texts that the system can pass on.
fn texts(checker: &mut Checker<'_>, raw: Option<&Vec<String>>, at: &Key) -> Vec<String> {
    let texts = raw.cloned().unwrap_or_default();
    checker.short_enough(at, texts.len());
    for (index, text) in texts.iter().enumerate() {
        checker.no_nul(&at.child(&index.to_string()), text);
    }
    texts
}
