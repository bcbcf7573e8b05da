//! The command line as clap reads it: the program, the options every verb takes, and the groups of
//! options that several verbs share. What a verb takes beyond that is in its own file.
//!
//! These are raw arguments: each word is right by itself. What must agree between words is checked
//! by the verbs.

use std::num::{IntErrorKind, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand};
use clutch_protocol::limits::STREAM_CREDIT_MAX;
use clutch_protocol::name;

use crate::commands::{
    call, cancel, completions, config, doctor, env, explain, logs, map, map_file, ping, plan, pool,
    pythons, reload, run as program, serve, stack, status, stop, workers,
};
use crate::exit;
use crate::output::Color;
use crate::wishes::WishArgs;

/// Calls Python functions in supervised pools of real Python processes.
///
/// `clutch serve` keeps the pools, the other verbs use them. `clutch call --local` and
/// `clutch map --local` need no daemon: they start workers for this one command.
#[derive(Debug, Parser)]
#[command(
    name = "clutch",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = after_help()
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options every verb takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The daemon's socket; without it, one for each user
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "CLUTCH_SOCKET",
        value_parser = OsStringValueParser::new().map(PathBuf::from), // it lets an empty one pass
    )]
    pub(crate) socket: Option<PathBuf>,
    /// Say more on standard error
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Color,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Serve(serve::Args),
    Call(call::Args),
    Map(map::Args),
    MapFile(map_file::Args),
    Run(program::Args),
    Status(status::Args),
    Workers(workers::Args),
    Pool(pool::Args),
    Stack(stack::Args),
    Explain(explain::Args),
    Cancel(cancel::Args),
    Logs(logs::Args),
    Ping(ping::Args),
    Plan(plan::Args),
    Pythons(pythons::Args),
    Reload(reload::Args),
    Stop(stop::Args),
    Config(config::Args),
    Env(env::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
}

/// Where a call goes and how long it may take.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TargetArgs {
    /// The pool that is to run it
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = pool_name)]
    pub(crate) pool: String,
    /// How long a call may take in all, like 500ms or 1m30s; without it, what the pool says
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) wishes: WishArgs,
    #[command(flatten)]
    pub(crate) local: LocalArgs,
}

/// A private supervisor for one command.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Without a daemon")]
pub(crate) struct LocalArgs {
    /// Start workers for this command alone; no daemon is asked
    #[arg(long)]
    pub(crate) local: bool,
    /// The interpreter: 3.12, 3.12.1, python3.12 or a path [default: python3]
    #[arg(long, value_name = "PYTHON", requires = "local", conflicts_with = "config")]
    pub(crate) python: Option<String>,
    /// A package to install for it, like "numpy>=2"; may be given several times
    #[arg(long, value_name = "REQUIREMENT", requires = "local", conflicts_with = "config")]
    pub(crate) requirements: Vec<String>,
    /// How many workers
    #[arg(
        long,
        value_name = "N",
        requires = "local",
        conflicts_with = "config",
        value_parser = count,
    )]
    pub(crate) workers: Option<NonZeroU32>,
    /// A script whose functions are called as __main__:NAME; what its metadata (PEP 723) asks for
    /// is installed
    #[arg(long, value_name = "FILE", requires = "local", conflicts_with = "config")]
    pub(crate) main: Option<PathBuf>,
    /// A directory to import modules from; may be given several times
    #[arg(long, value_name = "DIR", requires = "local", conflicts_with = "config")]
    pub(crate) path: Vec<PathBuf>,
    /// Take the pools from this configuration file
    #[arg(long, value_name = "FILE", requires = "local")]
    pub(crate) config: Option<PathBuf>,
}

/// A call, as an operator names it.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct CallArgs {
    /// The call's number
    #[arg(value_name = "CALL", value_parser = call_number)]
    pub(crate) call: u64,
    /// Print the answer as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// A function's name, checked.
pub(crate) fn function_name(word: &str) -> Result<String, name::NameError> {
    name::check_function(word).map(|_| word.to_owned())
}

/// A pool's name, checked.
pub(crate) fn pool_name(word: &str) -> Result<String, name::NameError> {
    name::check_pool(word).map(|()| word.to_owned())
}

/// A call's number. That there was such a call is the daemon's to say.
pub(crate) fn call_number(word: &str) -> Result<u64, NumberError> {
    word.parse().map_err(|_| NumberError::Call)
}

/// How many of something: at least one.
pub(crate) fn count(word: &str) -> Result<NonZeroU32, NumberError> {
    word.parse::<NonZeroU32>().map_err(|error| match error.kind() {
        IntErrorKind::PosOverflow => NumberError::Most(u32::MAX),
        _ => NumberError::Count,
    })
}

/// How many items of a stream may be on their way.
pub(crate) fn stream_window(word: &str) -> Result<NonZeroU32, NumberError> {
    match count(word) {
        Ok(items) if items.get() <= STREAM_CREDIT_MAX => Ok(items),
        Ok(_) | Err(NumberError::Most(_)) => Err(NumberError::Most(STREAM_CREDIT_MAX)),
        Err(error) => Err(error),
    }
}

/// Why a text is no number.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(crate) enum NumberError {
    #[error("write the number of a call, like 17; `clutch workers` shows those that run")]
    Call,
    #[error("write a whole number from 1")]
    Count,
    #[error("write auto, or a whole number from 1")]
    Chunk,
    #[error("{0} is the most; write a smaller number")]
    Most(u32),
}

/// A time span with units, 0 included.
pub(crate) fn duration(word: &str) -> Result<Duration, clutch_supervisor::config::DurationError> {
    clutch_supervisor::config::duration(word)
}

/// A time span with units, 0 excluded.
pub(crate) fn timeout(word: &str) -> Result<Duration, TimeoutError> {
    match duration(word)? {
        Duration::ZERO => Err(TimeoutError::Zero),
        duration => Ok(duration),
    }
}

/// Why a text is no timeout.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TimeoutError {
    #[error(transparent)]
    Duration(#[from] clutch_supervisor::config::DurationError),
    #[error("a call cannot take no time at all: write a positive time, like 500ms")]
    Zero,
}

fn after_help() -> String {
    format!(
        "\
Examples:
  clutch call --local math:sqrt 2              one call, no daemon
  clutch config default > clutch.toml          a configuration to start from
  clutch serve                                 the daemon, with ./clutch.toml
  clutch call statistics:fmean '[1, 2, 3.5]'   a call to it
  clutch map math:factorial 5 6 7              one call for each item
  clutch map-file logs:count app.log           one call for each chunk of a file
  clutch run script.py                         as python does, by a pool's rules
  clutch status                                what everyone is doing
  clutch workers                               which call each worker runs
  clutch explain 17                            what became of a call
  clutch pythons                               the Pythons of this machine
  clutch plan                                  what each worker will get
  clutch logs -f                               what they print
  clutch doctor numpy                          can pools work here, and import this?

{}",
        exit::help()
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn negative_numbers_are_arguments_and_unknown_options_are_not() {
        let parse = |words: &[&str]| Cli::try_parse_from(["clutch"].iter().chain(words));
        let Verb::Call(call) = parse(&["call", "m:f", "-1", "-1.5e3", "-", "--json"]).unwrap().verb
        else {
            panic!("it is a call")
        };
        assert_eq!(["-1", "-1.5e3", "-"], call.arguments.as_slice());
        assert!(parse(&["call", "m:f", "--x"]).is_err());
        let Verb::Call(call) = parse(&["call", "m:f", "--", "--x", "-y"]).unwrap().verb else {
            panic!("it is a call")
        };
        assert_eq!(["--x", "-y"], call.arguments.as_slice());
    }

    #[test]
    fn names_and_times_are_checked_at_the_door_f167() {
        let parse = |words: &[&str]| Cli::try_parse_from(["clutch", "call"].iter().chain(words));
        for bad in ["math", "a:b\n", ";id:x", "$(id)"] {
            assert!(parse(&["--", bad]).is_err(), "{bad:?}");
        }
        for bad in ["--help", "a b", "$(id)", ""] {
            assert!(parse(&[&format!("--pool={bad}"), "m:f"]).is_err(), "{bad:?}");
        }
        for bad in ["0s", "5", "-1s", "1.5s", "soon"] {
            assert!(parse(&[&format!("--timeout={bad}"), "m:f"]).is_err(), "{bad:?}");
        }
        assert!(parse(&["--stream", "--window=4096", "m:f"]).is_ok(), "it is the most");
        assert!(parse(&["--python", "3.12", "m:f"]).is_err(), "needs --local");
        let says = |words: &[&str]| {
            let words = ["clutch"].iter().chain(words);
            Cli::try_parse_from(words).unwrap_err().to_string()
        };
        for (words, next) in [
            (&["explain", "x"][..], "number of a call, like 17"),
            (&["logs", "--call", "0"], "number of a call, like 17"),
            (&["map", "m:f", "--chunk", "0", "1"], "write auto, or a whole number"),
            (&["map", "m:f", "--window", "x", "1"], "write a whole number from 1"),
            (&["map", "m:f", "--chunk", "99999999999", "1"], "4294967295 is the most"),
            (&["map", "m:f", "--chunk", "x", "1"], "write auto, or a whole number"),
            (&["call", "m:f", "--stream", "--window", "5000"], "'5000' for '--window <N>': 4096"),
            (&["call", "m:f", "--stream", "--window", "5000000000"], "4096 is the most"),
            (&["call", "m:f", "--stream", "--window", "0"], "write a whole number from 1"),
            (&["ping", "--count", "0"], "write a whole number from 1"),
        ] {
            let error = says(words);
            assert!(error.contains(next), "{words:?}: {error}");
        }
    }

    #[test]
    fn wishes_are_checked_at_the_door() {
        let parse = |words: &[&str]| {
            let words = ["clutch", "call", "m:f"].iter().chain(words);
            match Cli::try_parse_from(words).map(|cli| cli.verb) {
                Ok(Verb::Call(call)) => Ok(call.target.wishes.check()),
                Ok(_) => panic!("it is a call"),
                Err(error) => Err(error),
            }
        };
        let on = "--retry-on=worker_died,timed_out,raised:pkg.Transient";
        let full =
            ["--retry=3", on, "--retry-backoff=100ms", "--attempt-timeout=2s", "--priority", "-5"];
        assert!(parse(&full).unwrap().is_ok());
        assert!(parse(&["--retry=3", "--retry-on=raised:A", "--retry-on=raised:B"]).is_ok());
        for bad in [
            &["--retry=3"][..],
            &["--retry-on=worker_died"],
            &["--retry=0", "--retry-on=worker_died"],
            &["--retry=101", "--retry-on=worker_died"],
            &["--retry=3", "--retry-on=died"],
            &["--retry=3", "--retry-on=raised:"],
            &["--retry=3", "--retry-on=raised:a b"],
            &["--attempt-timeout=2s"],
            &["--retry-backoff=2s"],
            &["--retry=3", "--retry-on=worker_died", "--retry-backoff=5"],
            &["--priority=128"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let says = |words: &[&str]| parse(words).unwrap().unwrap_err().to_string();
        let error = says(&["--retry=3", "--retry-on=timed_out"]);
        assert!(error.contains("needs --attempt-timeout"), "{error}");
        let error = says(&["--retry=3", "--retry-on=worker_died", "--attempt-timeout=1s"]);
        assert!(error.contains("only for --retry-on timed_out"), "{error}");
        let error = says(&["--retry=3", "--retry-on=worker_died", "--retry-backoff=61m"]);
        assert!(error.contains("3600000 ms"), "{error}");
    }
}
