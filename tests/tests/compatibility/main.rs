//! A worker is a place where ordinary Python programs run unchanged: what they do is done in plain
//! `python` and in a worker of the same interpreter, environment and directory, and must come to
//! the same. What came of it is the tables of `docs/COMPATIBILITY.md`.
//!
//! - `stdlib`: the standard library, on every interpreter of this machine.
//! - `regrtest`: some of CPython's own tests, in a worker.
//! - `packages`: numpy and its friends, from the package index.
//! - `differences`: what is not the same, and the way round.

mod differences;
mod packages;
mod regrtest;
mod stdlib;

use std::ffi::OsString;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clutch_client::{Failure, Reason, blocking};
use clutch_tests::process::environment;
use clutch_tests::table::{self, dotted};
use clutch_tests::{Daemon, Output, Program};
use serde_json::Value as Json;

/// How long one thing may take, on a machine that builds something beside it.
const BOUND: Duration = Duration::from_secs(300);

/// Held by a test whose programs leave names in `/dev/shm` while they run: such names do not say
/// whose they are, and another test would take them for forgotten.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thing that was tried in plain `python`, as `job_compat.py` tells it.
#[derive(Clone, Debug)]
struct Check {
    group: String,
    what: String,
    function: String,
    args: Vec<String>,
    /// Whether it is tried as a function of `__main__`, too.
    in_script: bool,
    outcome: Outcome,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Returned(Json),
    /// The name of the exception's type, without its module.
    Raised(String),
}

impl Check {
    #[track_caller]
    fn parse(line: &str) -> Check {
        let told: Json = serde_json::from_str(line).expect("a line of JSON");
        let text = |name: &str| told[name].as_str().expect("it is text").to_owned();
        let args = told["args"].as_array().expect("a list").iter();
        Check {
            group: text("group"),
            what: text("what"),
            function: text("function"),
            args: args.map(|arg| arg.as_str().expect("it is text").to_owned()).collect(),
            in_script: told["script"].as_bool().expect("a truth value"),
            outcome: match told.get("raised") {
                Some(raised) => Outcome::Raised(raised.as_str().expect("a name").to_owned()),
                None => Outcome::Returned(told["result"].clone()),
            },
        }
    }

    /// Whether this interpreter cannot do it at all: it was built without the module.
    fn is_missing(&self) -> bool {
        let Outcome::Raised(name) = &self.outcome else { return false };
        ["ImportError", "ModuleNotFoundError"].contains(&name.as_str())
    }

    /// The same in a worker; what differs otherwise.
    fn differs(&self, daemon: &Daemon, pool: &str, module: &str) -> Option<String> {
        let function = format!("{module}:{}", self.function);
        let called = match call(daemon, pool, &function, Json::from(self.args.clone())) {
            Ok(answer) => Outcome::Returned(answer),
            Err(failure) => match &failure.reason {
                Reason::Raised(exception) => {
                    let name = exception.type_name.rsplit('.').next().unwrap_or_default();
                    Outcome::Raised(name.to_owned())
                }
                _ => return Some(format!("{function}{:?}: {failure}", self.args)),
            },
        };
        let is_same = called == self.outcome;
        (!is_same).then(|| {
            let args = &self.args;
            format!("{function}{args:?}\n  plain  {:?}\n  called {called:?}", self.outcome)
        })
    }
}

fn call(daemon: &Daemon, pool: &str, function: &str, args: Json) -> Result<Json, Box<Failure>> {
    let client = blocking::Client::connect(daemon.socket()).expect("the daemon listens");
    let request = client.request(function).pool(pool).args(args);
    request.timeout(BOUND).send().map_err(Box::new)
}

/// Plain `python` where the pool's worker is, with the worker's own environment.
#[track_caller]
fn plain<S: AsRef<std::ffi::OsStr>>(daemon: &Daemon, pool: &str, words: &[S]) -> Output {
    let pid = daemon.worker_pids(pool)[0];
    let words = words.iter().map(|word| word.as_ref().to_owned());
    let all = environment(pid).into_iter().map(OsString::from).chain(words);
    // Signals that this test's own runner ignores would be ignored by python, too.
    let plain = Program::new("env").args(["-i", "--default-signal"]);
    let program = plain.args(all).dir(daemon.tmp().path());
    program.timeout(BOUND).run()
}

/// What a script of checks tells in plain `python`.
#[track_caller]
fn told(daemon: &Daemon, pool: &str, python: &Path, script: &Path) -> Vec<Check> {
    let output = plain(daemon, pool, &[python, script]).expect_code(0);
    let checks: Vec<Check> = output.stdout.lines().map(Check::parse).collect();
    for check in &checks {
        let is_fine = check.is_missing() || matches!(check.outcome, Outcome::Returned(_));
        assert!(is_fine, "plain python cannot do it:\n{check:?}\n{}", output.stderr);
    }
    checks
}

/// One row for each function of the checks; the cell says with which arguments it differs.
fn column(checks: &[Check], differs: impl Fn(&Check) -> bool) -> table::Column {
    let mut column: table::Column = Vec::new();
    let mut rest = checks;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|check| check.function == first.function).count();
        let (row, behind) = rest.split_at(count);
        rest = behind;
        let with = |check: &Check| check.args.join(", ");
        let all: Vec<String> = row.iter().map(with).filter(|args| !args.is_empty()).collect();
        let what = first.what.trim_end_matches('.');
        let what = match all.is_empty() {
            true => what.to_owned(),
            false => format!("{what} ({})", all.join(", ")),
        };
        let wrong: Vec<String> = row.iter().filter(|check| differs(check)).map(with).collect();
        let cell = match (wrong.is_empty(), first.is_missing()) {
            (true, true) => "-".to_owned(),
            (true, false) => "same".to_owned(),
            (false, _) => format!("differs {}", wrong.join(", ")).trim_end().to_owned(),
        };
        column.push(((first.group.clone(), what), cell));
    }
    column
}
