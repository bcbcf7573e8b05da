//! `clutch doctor`: does everything a pool needs work here? No daemon is asked.
//!
//! Most checks are calls to the worker's own package, through a private supervisor: so they run
//! under the pool's rules, and one that crashes or hangs is told with all that is known about it.
//!
//! - [`ward`]: pools as patients: a private supervisor for some of them, and their calls.
//! - [`checks`]: what is asked of a worker, in which order.
//! - [`judge`]: from how a call ended to a finding.
//! - [`table`]: findings for people.

use std::path::PathBuf;
use std::time::Duration;

use clutch_supervisor::config::{Config, LocalOptions, Pool, Python};
use clutch_supervisor::doctor::finding::worst;
use clutch_supervisor::doctor::{Finding, Status, machine, pool};
use clutch_supervisor::socket::make_directory;

use crate::args::{Global, pool_name, timeout};
use crate::commands::config::{keep_only, named_or_here};
use crate::commands::env::{self, Built};
use crate::connect::{self, Socket};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::output;

mod checks;
mod judge;
mod table;
mod ward;

/// How many pools are looked at side by side: each has a worker, and imports may be heavy.
const POOLS_AT_ONCE: usize = 4;

/// Modules of one command line.
const MODULES_MAX: usize = 256;

/// Check that pools can work here: interpreter, environment, imports, machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at every pool of ./clutch.toml (or of --config); without one, at the pool that --local would
make. Each MODULE, and what a pool loads and calls before its first call (`preload`, `main`,
`initializer`, `warm`), has a fresh worker of its own, so one that crashes or hangs is named and
harms nothing else. No daemon is needed, and none is disturbed. What a pool calls has its effects.

Exit codes: 0 when nothing failed, 8 when something did; with --strict, warnings count as failures.

Examples:
  clutch doctor
  clutch doctor numpy pandas
  clutch doctor --pool gpu torch --import-timeout 2m
  clutch doctor --venv ~/envs/ml sklearn
  clutch doctor --json | jq '.findings[] | select(.status == \"fail\")'")]
pub(crate) struct Args {
    /// Look at this pool alone
    #[arg(long, value_name = "NAME", value_parser = pool_name)]
    pool: Option<String>,
    /// The configuration [default: ./clutch.toml, if it is there]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["venv", "python"])]
    config: Option<PathBuf>,
    /// Look at a virtual environment instead of a configuration
    #[arg(long, value_name = "DIR", conflicts_with = "python")]
    venv: Option<PathBuf>,
    /// Look at an interpreter instead of a configuration: 3.12, python3.12 or a path
    #[arg(long, value_name = "PYTHON")]
    python: Option<String>,
    /// How long one import, or one function of a pool's start, may take
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    import_timeout: Duration,
    /// Exit with 8 for warnings, too
    #[arg(long)]
    strict: bool,
    /// Print the findings as one JSON object
    #[arg(long)]
    json: bool,
    /// Modules to import in every pool
    #[arg(value_name = "MODULE", num_args = 0..=MODULES_MAX, value_parser = module_name)]
    modules: Vec<String>,
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<Exit, Error> {
    let mut interrupt = Interrupt::install().map_err(Error::Prepare)?;
    let config = chosen(&args)?;
    let _log = connect::private_log(global, &config)?;
    let mut findings = machine::findings(&config, socket(global, &config));
    // One that cannot be built is its pool's fault alone.
    let Built { mut config, failures, .. } = env::provide(config, &mut interrupt).await?;
    for (name, error) in failures {
        config.pools.remove(&name);
        findings.push(pool::not_provided(&error, &name));
    }
    let pools: Vec<Pool> = config.pools.values().cloned().collect();
    for some in pools.chunks(POOLS_AT_ONCE) {
        let round = ward::Round {
            config: &config,
            pools: some,
            modules: &args.modules,
            import_timeout: args.import_timeout,
        };
        findings.extend(round.findings(&mut interrupt).await?);
    }
    show(&args, &findings)?;
    Ok(verdict(worst(&findings), args.strict))
}

fn verdict(worst: Status, strict: bool) -> Exit {
    match worst {
        Status::Fail => Exit::Configuration,
        Status::Warn if strict => Exit::Configuration,
        Status::Warn | Status::Skipped | Status::Ok => Exit::Ok,
    }
}

fn show(args: &Args, findings: &[Finding]) -> Result<(), Error> {
    if args.json {
        let report = serde_json::json!({
            "version": 1, "status": worst(findings), "findings": findings,
        });
        return output::result(report.to_string().as_bytes()).map_err(Error::Output);
    }
    let text = table::table(findings, output::width());
    output::page(&output::escape_block(&text)).map_err(Error::Output)
}

/// The configuration that is meant, with the pools that are to be looked at.
fn chosen(args: &Args) -> Result<Config, Error> {
    let is_explicit = args.venv.is_some() || args.python.is_some();
    let written = if is_explicit { None } else { named_or_here(args.config.as_deref())? };
    let mut config = written.map_or_else(|| implicit(args), Ok)?;
    keep_only(&mut config, args.pool.as_deref())?;
    Ok(config)
}

fn implicit(args: &Args) -> Result<Config, Error> {
    let cwd = std::env::current_dir().map_err(Error::CurrentDirectory)?;
    let options =
        LocalOptions { python: args.python.clone(), cwd: cwd.clone(), ..LocalOptions::default() };
    let mut config = Config::local(options)?;
    if let Some(venv) = &args.venv {
        for pool in config.pools.values_mut() {
            pool.python = Python::Venv(cwd.join(venv));
        }
    }
    Ok(config)
}

/// Where a daemon with this configuration would listen.
fn socket(global: &Global, config: &Config) -> Result<PathBuf, String> {
    let named = Socket::of(global);
    if let Some(path) = named.named().or_else(|| config.daemon.socket.clone()) {
        return Ok(path);
    }
    let path = named.path().map_err(|error| error.to_string())?;
    // As the daemon would: nobody was asked to make the default directory.
    make_directory(&path).map_err(|error| error.to_string())?;
    Ok(path)
}

/// A module's name, checked: words of letters, joined by dots.
fn module_name(word: &str) -> Result<String, &'static str> {
    let is_word = |part: &str| {
        let mut letters = part.chars();
        letters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
            && letters.all(|letter| letter.is_alphanumeric() || letter == '_')
    };
    if word.split('.').all(is_word) {
        Ok(word.to_owned())
    } else {
        Err("a module is named as in an import statement, like numpy or sklearn.svm")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_as_in_an_import_statement() {
        for good in ["numpy", "a.b_c.d1", "_x", "naïve"] {
            assert_eq!(Ok(good.to_owned()), module_name(good));
        }
        for bad in ["", "a.", ".a", "a-b", "a b", "1a", "a;b", "m:f"] {
            assert!(module_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn warnings_fail_only_where_that_is_asked_for() {
        let codes = |strict| {
            [Status::Ok, Status::Skipped, Status::Warn, Status::Fail]
                .map(|worst| verdict(worst, strict).code())
        };
        assert_eq!([0, 0, 0, 8], codes(false));
        assert_eq!([0, 0, 8, 8], codes(true));
    }
}
