//! A pool before any worker of it runs: its interpreter, its variables, its rights; and the pool as
//! its checks need it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::elf;
use super::finding::{Finding, Status};
use crate::config::{Concurrency, Pool, Python, Threads, WarmUp};
use crate::environment;
use crate::envs::EnvError;
use crate::interpreter::InterpreterError;
use crate::pool::settings::{Replace, Restart};
use crate::worker::share::{Processors, Share};
use crate::{prepare, trial};

/// What changes where an interpreter looks for its own files.
const BENDING: [&str; 3] = ["PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONEXECUTABLE"];

/// How long a worker that is to go may take: nothing a check leaves behind is worth waiting for.
const GRACE: Duration = Duration::from_secs(1);

/// Workers of checks start anew this soon, and so often.
const BACKOFF: Duration = Duration::from_millis(10);

/// The name of the check for the interpreter.
pub const INTERPRETER: &str = "interpreter";

/// The name of the check for the environment of packages.
pub const ENVIRONMENT: &str = "environment";

/// The name of the check for variables.
pub const VARIABLES: &str = "variables";

/// Looks at a pool without a worker. Asks its interpreter who it is, so it blocks, for some seconds
/// at most.
pub fn findings(pool: &Pool) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Err(error) = prepare::try_interpreter(pool, &AtomicBool::new(false)) {
        found.push(interpreter(&error, &pool.python));
    }
    found.push(variables(pool));
    let rights = trial::of_process(&pool.process).into_iter();
    found.extend(rights.map(|(key, sentence)| {
        let advice = format!("change `{key}` in [pools.{}.process]", pool.name);
        Finding::new("process", Status::Fail, format!("{key}: {sentence}"), advice)
    }));
    found.into_iter().map(|finding| finding.of(&pool.name)).collect()
}

/// How many processors the workers of a pool have together.
pub fn processors(pool: &Pool) -> u32 {
    share(pool).processors().at_once
}

fn share(pool: &Pool) -> Share {
    Share::of(pool, &[], &Processors::of_this_process())
}

/// The pool as its checks need it: nothing of the user's own is loaded, each call gets a worker of
/// its own, and workers that die are replaced `deaths` times.
pub fn patient(pool: &Pool, call_timeout: Duration, deaths: u32) -> Pool {
    let mut patient = pool.clone();
    // What libraries are told of threads follows from the number of workers there will be.
    patient.compute.threads = share(pool).threads().map_or(Threads::Off, Threads::Number);
    (patient.workers, patient.workers_min, patient.spares) = (1, 1, 0);
    // What it declares has been built, and is its interpreter.
    (patient.main, patient.allow, patient.declared) = (None, None, None);
    (patient.preload, patient.watch, patient.args) = (Vec::new(), Vec::new(), Vec::new());
    patient.warm_up = WarmUp::default();
    // What a start does, it does on the main thread, where no event loop runs yet.
    patient.concurrency = Concurrency::One;
    patient.replace = Replace { max_calls: Some(1), ..Replace::default() };
    patient.restart =
        Restart { deaths, backoff: BACKOFF, backoff_max: BACKOFF, ..Restart::default() };
    patient.limits.grace = patient.limits.grace.min(GRACE);
    patient.limits.call_timeout_max = patient.limits.call_timeout_max.max(call_timeout);
    patient
}

/// An interpreter that cannot be used.
pub fn interpreter(error: &InterpreterError, python: &Python) -> Finding {
    use InterpreterError as E;
    let key = if matches!(python, Python::Venv(_)) { "venv" } else { "python" };
    let path = match error {
        E::Exec { path, .. } | E::NotPython { path, .. } => Some(path),
        _ => None,
    };
    if let Some((path, (its, ours))) = path.and_then(|path| Some((path, elf::foreign(path)?))) {
        let text = format!("{} is a program for {its}, and this machine is {ours}", path.display());
        let advice = format!("install a Python for {ours}, and name it with the key `{key}`");
        return Finding::new(INTERPRETER, Status::Fail, text, advice);
    }
    let advice = match error {
        E::Dangling { path, .. } => match python {
            Python::Venv(venv) => format!(
                "its base Python is gone: install that again, or make the environment anew with \
                 python3 -m venv --clear {}",
                venv.display()
            ),
            _ => format!("install that Python again, or make {} anew", path.display()),
        },
        E::TooOld { .. } | E::Implementation { .. } => {
            format!("install CPython 3.8 or newer, and name it with the key `{key}`")
        }
        E::NoVenv(venv) | E::VenvWithoutPython(venv) => {
            format!("make it: python3 -m venv --clear {}", venv.display())
        }
        _ => format!("name a Python that is there and works with the key `{key}`"),
    };
    Finding::new(INTERPRETER, Status::Fail, error.to_string(), advice)
}

/// An environment that a pool declares and does not get.
pub fn not_provided(error: &EnvError, pool: &str) -> Finding {
    let advice = format!(
        "mend what [pools.{pool}] declares (`requirements`, `project`, its script's metadata), and \
         try it: clutch env build --pool {pool}"
    );
    let text = error.to_string();
    let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
    let first = first.trim_end_matches("; its last words:");
    Finding::new(ENVIRONMENT, Status::Fail, first, advice).with_detail(rest.trim_end()).of(pool)
}

fn bends() -> impl Iterator<Item = &'static str> {
    BENDING.into_iter().filter(|name| std::env::var_os(name).is_some())
}

/// What bends the interpreter of workers, and what would if it were inherited.
fn variables(pool: &Pool) -> Finding {
    let venv = match &pool.python {
        Python::Venv(path) => Some(path.as_path()),
        _ => None,
    };
    let account = pool.process.account.as_ref();
    let environment = environment::build(&pool.env, std::env::vars_os(), venv, account);
    let value = |name: &str| {
        let (_, value) = environment.iter().find(|(known, _)| known == name)?;
        Some(format!("{name}={}", value.to_string_lossy()))
    };
    let bent: Vec<_> = BENDING.iter().filter_map(|name| value(name)).collect();
    if !bent.is_empty() {
        let text = format!("workers get {}, and look for their own files there", bent.join(", "));
        let advice = format!(
            "take it out of `env.set` and `env.inherit` of [pools.{}]: a Python finds its own \
             files",
            pool.name
        );
        return Finding::new(VARIABLES, Status::Warn, text, advice);
    }
    if let Some(path) = value("PYTHONPATH").filter(|text| text != "PYTHONPATH=") {
        let text = format!("workers get {path}, which comes before what is installed");
        let advice = "name folders with the key `path`, and leave PYTHONPATH out of `env`";
        return Finding::new(VARIABLES, Status::Warn, text, advice);
    }
    let kept_out: Vec<_> = bends().collect();
    if kept_out.is_empty() {
        return Finding::ok(VARIABLES, "nothing bends the interpreter");
    }
    let kept_out = kept_out.join(", ");
    Finding::ok(VARIABLES, format!("{kept_out} is set here, and workers do not get it"))
}
