//! Why a pool does not get the environment it declares; each reason says what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clutch_protocol::message::Exit;
use thiserror::Error;

use crate::interpreter::InterpreterError;
use crate::package::PackageError;

/// Why a pool does not get the environment it declares.
#[derive(Debug, Error)]
pub enum EnvError {
    /// The interpreter to build it with cannot be used.
    #[error(transparent)]
    Interpreter(#[from] InterpreterError),
    /// The interpreter is not one that the declaration takes.
    #[error(
        "{what} requires Python {wanted}, and {} is {}.{}.{}: set `python` to one that fits",
        path.display(), version.0, version.1, version.2
    )]
    Python {
        /// The declaration.
        what: String,
        /// What it takes.
        wanted: String,
        /// The interpreter.
        path: PathBuf,
        /// Its version.
        version: (u8, u8, u8),
    },
    /// A file of the declaration cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A declaration includes too much.
    #[error("{} is one file too many: requirements may include {limit}", path.display())]
    TooManyFiles {
        /// The file that is not read any more.
        path: PathBuf,
        /// How many may be.
        limit: usize,
    },
    /// A file says something that cannot be used.
    #[error("{}: {fault}", path.display())]
    Declaration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        fault: String,
    },
    /// There is nowhere to keep environments.
    #[error(transparent)]
    Store(#[from] PackageError),
    /// The system refused something about the store.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Somebody else builds it, and does not come to an end.
    #[error(
        "its environment {} is being built or removed by {holder}, and was not free within \
         {waited:?}: wait for it or end it, or make build.timeout longer", path.display()
    )]
    Busy {
        /// The environment.
        path: PathBuf,
        /// Who holds it.
        holder: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Something was taken out of an environment that is in use.
    #[error(
        "the environment {} has been damaged (it has no interpreter any more) while others use \
         it: stop them, so that it can be built anew", .0.display()
    )]
    Damaged(PathBuf),
    /// It was built, and is not there.
    #[error(
        "the environment {} was built and cannot be used: it has no interpreter that may be \
         executed, or somebody removes it; see what is mounted there, and who else writes there",
        .0.display()
    )]
    Vanished(PathBuf),
    /// uv is wanted, and is not there.
    #[error(
        "build.tool = \"uv\", and there is no uv on PATH ({search_path}): install it \
         (`pip install uv`), or leave build.tool out"
    )]
    NoUv {
        /// The directories searched.
        search_path: String,
    },
    /// The builder cannot be started.
    #[error("{program} cannot be started to build its environment: {source}")]
    Start {
        /// What was to run.
        program: String,
        /// Why it does not.
        source: io::Error,
    },
    /// The builder failed.
    #[error(
        "the environment of its {what} could not be built: {program} {end}{hint}{}",
        said(words)
    )]
    Failed {
        /// The declaration.
        what: String,
        /// What ran.
        program: String,
        /// How it ended.
        end: BuilderEnd,
        /// Its last words.
        words: String,
        /// What may be done about it; empty, or in parentheses.
        hint: &'static str,
    },
    /// The build took too long.
    #[error(
        "the environment of its {what} was not built within {timeout:?}, so {program} was killed; \
         make build.timeout longer, or see what it waits for{hint}{}",
        said(words)
    )]
    TimedOut {
        /// The declaration.
        what: String,
        /// What ran.
        program: String,
        /// How long it was given.
        timeout: Duration,
        /// Its last words.
        words: String,
        /// What may be done about it; empty, or in parentheses.
        hint: &'static str,
    },
    /// Another pool declares the same, and is told why it cannot have it.
    #[error("its environment is the one of pool '{pool}', which cannot be built: {error}")]
    AsOf {
        /// The other pool.
        pool: String,
        /// Why that one cannot have it.
        error: Arc<EnvError>,
    },
    /// Whoever wanted it does not any more.
    #[error("the build of its environment was given up")]
    Cancelled,
}

/// How a builder ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuilderEnd {
    /// By itself, or by a signal.
    Exited(Exit),
    /// Its guardian was killed, and so was it.
    Lost,
}

impl fmt::Display for BuilderEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuilderEnd::Exited(Exit::Code(code)) => write!(f, "exited with code {code}"),
            BuilderEnd::Exited(Exit::Signal(signal)) => write!(f, "was ended by signal {signal}"),
            BuilderEnd::Lost => f.write_str("was killed together with its guardian"),
        }
    }
}

fn said(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; its last words:\n{words}") }
}
