//! `clutch run`: `python`, under a pool's rules.
//!
//! Whatever follows the options of this verb is python's, byte for byte: its own options, a script,
//! `-m module`, `-c code` or `-`, and their arguments. So `python` on the left of any command line
//! can be replaced by `clutch run`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use clap::CommandFactory;
use clutch_protocol::message::{Exit as End, RunProgram, RunRefusal, RunRefused, Streams};
use clutch_supervisor::ServeError;
use clutch_supervisor::config::{self, Config, LocalOptions, Python};
use clutch_supervisor::envs::{Keeper, Wish};
use clutch_supervisor::run::local::{self, Found};

use crate::args::{Cli, Global, pool_name};
use crate::connect::{self, Socket};
use crate::error::Error;
use crate::logging::{self, LogFormat};
use crate::output;
use crate::program::{Own, Relay, Stdio, Way};

/// Run Python, as `python` does, under a pool's rules
///
/// A fresh interpreter, outside of the pool's workers: the pool's interpreter, environment rules,
/// limits and user; your directory, your standard streams, your signals. Everything after clutch's
/// own options is python's. The exit code is python's own; a failure of clutch itself is said on
/// standard error, and has one of the codes below.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  clutch run train.py --epochs 3
  clutch run -m http.server 8000
  clutch run -X dev -c 'import sys; print(sys.flags)'
  echo 'print(1)' | clutch run -
  clutch run                                   an interactive interpreter
  clutch run --pool analytics report.py        by another pool's rules
  clutch run --python 3.12 script.py           with another interpreter
  clutch run --local --venv .venv script.py    without a daemon")]
pub(crate) struct Args {
    /// The pool whose rules hold
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = pool_name)]
    pool: String,
    /// Another interpreter than the pool's: 3.12, python3.12 or a path
    #[arg(long, value_name = "PYTHON", conflicts_with = "venv")]
    python: Option<String>,
    /// The interpreter of this virtual environment
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// The directory to start in; without it, the current one
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set a variable of its environment; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<OsString>,
    /// Ask no daemon
    #[arg(long)]
    local: bool,
    /// With --local, take the pool from this configuration file
    #[arg(long, value_name = "FILE", requires = "local")]
    config: Option<PathBuf>,
    /// Python's own options, then a script, -m MODULE, -c CODE or -, then their arguments
    #[arg(value_name = "PYTHON'S ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<OsString>,
}

/// Puts a `--` in front of what is python's, so that nothing of it is taken for an option of ours.
pub(crate) fn shield(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<_> = words.collect();
    let command = Cli::command();
    let verb = command.find_subcommand("run").expect("it is one of the verbs");
    let options: Vec<(String, bool)> = command
        .get_arguments()
        .chain(verb.get_arguments())
        .filter_map(|arg| Some((arg.get_long()?.to_owned(), arg.get_action().takes_values())))
        .collect();
    // Past options of ours, from `start` on; to the first word that is none.
    let past_options = |start: usize| {
        let mut at = start;
        while let Some(long) = words.get(at).and_then(|word| word.to_str()?.strip_prefix("--")) {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
            match options.iter().find(|(known, _)| known == name) {
                Some((_, true)) if value.is_none() => at += 2,
                Some(_) => at += 1,
                None => break,
            }
        }
        at
    };
    let mut verb_at = past_options(1);
    while words.get(verb_at).is_some_and(|word| word == "-v") {
        verb_at = past_options(verb_at + 1);
    }
    if words.get(verb_at).is_some_and(|word| word == "run") {
        let first = past_options(verb_at + 1);
        let is_help = |word: &OsString| word == "-h" || word == "--help";
        if first < words.len() && !is_help(&words[first]) {
            words.insert(first, "--".into());
        }
    }
    words
}

/// Runs the verb to the program's end.
pub(crate) fn run(args: &Args, global: &Global) -> ExitCode {
    match try_run(args, global) {
        Ok(End::Code(code)) => u8::try_from(code).unwrap_or(u8::MAX).into(),
        Ok(End::Signal(signal)) => {
            // So that whoever waits for this process sees what became of that one.
            clutch_worker_shim::die_by(signal);
            u8::try_from(128 + signal).unwrap_or(u8::MAX).into()
        }
        Err(error @ Error::Config(_)) => error.report().into(),
        Err(error) => {
            output::error_with_details(&format!("clutch run: {error}"));
            error.exit().into()
        }
    }
}

fn try_run(args: &Args, global: &Global) -> Result<End, Error> {
    let stdio = Stdio::of_this_process();
    let (own, cwd) = (Own::read(), args.directory()?);
    let mut asked = RunProgram {
        pool: args.pool.clone(),
        arguments: args.program.iter().map(|word| word.as_bytes().to_vec()).collect(),
        environment: std::env::vars_os()
            .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
            .collect(),
        set: args.variables()?,
        directory: cwd.clone().into_os_string().into_vec(),
        interpreter: Vec::new(),
        venv: Vec::new(),
        umask: own.umask,
        streams: Streams { open: stdio.open(), terminal: None, ignored: own.ignored },
    };
    // Holds the pool's environment until the program has ended.
    let keeper;
    let way = if args.local {
        let mut pool = local_pool(args, &cwd)?;
        keeper = connect::keeper()?;
        if args.python.is_none() && args.venv.is_none() {
            provide(&keeper, &mut pool, args.config.as_deref())?;
        }
        check_directory(&cwd)?;
        let Found { executable, venv } = local::find(&pool.python, &pool.env, &cwd)?;
        asked.interpreter = bytes(executable.clone());
        asked.venv = venv.map_or_else(Vec::new, bytes);
        Way::local(pool, executable)
    } else {
        if let Some(python) = named_python(args, &cwd)? {
            check_directory(&cwd)?;
            let Found { executable, venv } = local::find(&python, &config::Env::default(), &cwd)?;
            asked.interpreter = bytes(executable);
            asked.venv = venv.map_or_else(Vec::new, bytes);
        }
        Way::daemon(&Socket::of(global).path()?)?
    };
    let ended = Relay::start(way, asked, stdio, &own).and_then(Relay::run);
    ended.map_err(|error| naming(error, &cwd))
}

/// An error that says which working directory it means.
fn naming(error: Error, cwd: &Path) -> Error {
    const MEANT: &str = "the working directory";
    match error {
        Error::NotRun(RunRefused { refusal: refusal @ RunRefusal::CannotStart, sentence }) => {
            let named = format!("{MEANT} {}", cwd.display());
            Error::NotRun(RunRefused { refusal, sentence: sentence.replacen(MEANT, &named, 1) })
        }
        error => error,
    }
}

/// Says no to a directory that nothing can be started in. A daemon may see other ones, so it is
/// only asked where something is started from here.
fn check_directory(cwd: &Path) -> Result<(), Error> {
    let failed = |source| Error::Directory { path: cwd.to_owned(), source };
    match fs::metadata(cwd).map_err(failed)?.is_dir() {
        true => Ok(()),
        false => Err(failed(nix::errno::Errno::ENOTDIR.into())),
    }
}

/// Provides a pool with the environment it declares; a build is told of on standard error.
fn provide(keeper: &Keeper, pool: &mut config::Pool, file: Option<&Path>) -> Result<(), Error> {
    if pool.declared.is_none() {
        return Ok(());
    }
    let _log = logging::start(LogFormat::Text, connect::BUILDS_ONLY)?;
    let failed = |error| ServeError::Environments(vec![(pool.name.clone(), error)]);
    let mut provided = pool.clone();
    keeper.provide_pool(&mut provided, file, &Wish::default()).map_err(failed)?;
    *pool = provided;
    Ok(())
}

fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

impl Args {
    fn directory(&self) -> Result<PathBuf, Error> {
        let current = std::env::current_dir().map_err(Error::CurrentDirectory)?;
        Ok(self.cwd.as_ref().map_or(current.clone(), |cwd| current.join(cwd)))
    }

    fn variables(&self) -> Result<Vec<Vec<u8>>, Error> {
        let is_pair = |word: &OsString| word.as_bytes().iter().skip(1).any(|byte| *byte == b'=');
        match self.env.iter().find(|word| !is_pair(word)) {
            Some(word) => Err(Error::Variable(word.to_string_lossy().into_owned())),
            None => Ok(self.env.iter().map(|word| word.as_bytes().to_vec()).collect()),
        }
    }
}

/// The interpreter that was named on the command line.
fn named_python(args: &Args, cwd: &Path) -> Result<Option<Python>, Error> {
    if let Some(venv) = &args.venv {
        return Ok(Some(Python::Venv(cwd_of_person(cwd)?.join(venv))));
    }
    let Some(python) = args.python.clone() else { return Ok(None) };
    Ok(Some(options_pool(Some(python), cwd)?.python))
}

/// Paths on the command line start where the person is, whatever `--cwd` says.
fn cwd_of_person(cwd: &Path) -> Result<PathBuf, Error> {
    std::env::current_dir()
        .or_else(|_: io::Error| fs::canonicalize(cwd))
        .map_err(Error::CurrentDirectory)
}

fn options_pool(python: Option<String>, cwd: &Path) -> Result<config::Pool, Error> {
    let options = LocalOptions { python, cwd: cwd_of_person(cwd)?, ..LocalOptions::default() };
    let pools = Config::local(options)?.pools;
    Ok(pools.into_values().next().expect("it makes one pool"))
}

fn local_pool(args: &Args, cwd: &Path) -> Result<config::Pool, Error> {
    let Some(file) = &args.config else {
        let mut pool = options_pool(args.python.clone(), cwd)?;
        if args.pool != pool.name {
            let known = pool.name;
            return Err(Error::NoSuchPool { name: args.pool.clone(), known });
        }
        if let Some(python) = named_python(args, cwd)? {
            pool.python = python;
        }
        return Ok(pool);
    };
    let mut pools = config::load(file)?.pools;
    let known = pools.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(mut pool) = pools.remove(&args.pool) else {
        return Err(Error::NoSuchPool { name: args.pool.clone(), known });
    };
    if !pool.runs_programs() {
        let sentence = format!("pool '{}' runs no programs; see its key run.allow", pool.name);
        return Err(Error::NotRun(RunRefused { refusal: RunRefusal::NotAllowed, sentence }));
    }
    if let Some(python) = named_python(args, cwd)? {
        pool.python = python;
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Verb;

    fn shielded(words: &[&str]) -> Vec<String> {
        let words = ["clutch"].iter().chain(words).map(OsString::from);
        shield(words).into_iter().skip(1).map(|word| word.into_string().unwrap()).collect()
    }

    fn program(words: &[&str]) -> Vec<OsString> {
        let words = ["clutch"].iter().chain(words).map(OsString::from);
        match Cli::try_parse_from(shield(words)).unwrap().verb {
            Verb::Run(args) => args.program,
            _ => panic!("it is a run"),
        }
    }

    #[test]
    fn what_is_pythons_is_passed_as_it_is() {
        for words in [
            &["x.py", "--pool", "p", "-h"][..],
            &["-v", "x.py"],
            &["-V"],
            &["--version"],
            &["-m", "m", "--", "--local"],
            &["--", "x.py"],
            &["-"],
            &["-c", "--help", "--socket"],
            &["--check-hash-based-pycs", "always"],
            &[""],
            &[],
        ] {
            let line = [&["--socket", "/s", "run", "--pool=p", "--env", "A=1"], words].concat();
            assert_eq!(words, program(&line), "{words:?}");
        }
    }

    #[test]
    fn other_verbs_and_help_are_left_alone() {
        for words in [&["call", "m:f", "run", "x"][..], &["run", "--help"], &["run"], &[]] {
            assert_eq!(words, shielded(words));
        }
        assert_eq!(["-v", "run", "--", "-v"].as_slice(), shielded(&["-v", "run", "-v"]));
        assert_eq!(
            ["run", "--local", "--", "run", "--local"].as_slice(),
            shielded(&["run", "--local", "run", "--local"])
        );
    }
}
