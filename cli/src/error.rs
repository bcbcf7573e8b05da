//! Everything that can keep a verb from doing its work, with the exit code of each.
//!
//! A call that fails is not here when a verb shows it in its own way; see `report`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clutch_client::{ConnectError, Denial, Failure, FileError, OperateError};
use clutch_protocol::limits::META_BYTES_MAX;
use clutch_protocol::message::RunRefused;
use clutch_supervisor::config::ConfigError;
use clutch_supervisor::envs::EnvError;
use clutch_supervisor::interpreter::InterpreterError;
use clutch_supervisor::run::local::LocalFault;
use clutch_supervisor::{Finding, ServeError, ServeExit};
use thiserror::Error;

use crate::exit::Exit;
use crate::interrupt::Ask;
use crate::items::InputError;
use crate::logging::LogError;
use crate::report::{self, FailureFormat};
use crate::value::ValueError;
use crate::wishes::WishError;
use crate::{commands, output};

/// Why a verb failed.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Value(#[from] ValueError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Journal(#[from] commands::map::JournalError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("--header and --delimiter are only for --split csv")]
    OnlyCsv,
    #[error(transparent)]
    Wish(#[from] WishError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Failure(Box<Failure>),
    #[error("{sentence}")]
    Refused { denial: Denial, sentence: String },
    #[error("there is no pool '{name}'; the pools are: {known}")]
    NoSuchPool { name: String, known: String },
    #[error(
        "pool '{name}' is not there yet after {timeout:?}: {rest}; the order stays in force, \
         `clutch pool list` and `clutch workers` show how far it is"
    )]
    OrderUnderWay { name: String, timeout: Duration, rest: String },
    #[error("the workers of pool '{name}' do not start: {reason}")]
    OrderFails { name: String, reason: String },
    #[error("'{one}' and '{other}' are two pools; name one")]
    TwoPools { one: String, other: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "there is no configuration: name a file with --config, or write ./{} with: \
         clutch config default > {0}",
        commands::config::FILE
    )]
    NoConfig,
    #[error("{} cannot work here:\n{}", file.display(), lines(findings))]
    Unworkable { file: PathBuf, findings: Vec<Finding> },
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error(transparent)]
    Env(#[from] EnvError),
    #[error("the configuration has several pools; name one with --pool: {known}")]
    WhichPool { known: String },
    #[error("the environment of pool '{pool}' is not built yet: run `clutch env build`")]
    EnvNotBuilt { pool: String },
    #[error(
        "pool '{pool}' has no environment: it declares none with `requirements`, `project`, \
             the metadata of its `main`, or `venv`"
    )]
    NoEnv { pool: String },
    #[error("cancelled by {0} before anything was called")]
    Interrupted(Ask),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("failed to find the current directory: {0}")]
    CurrentDirectory(#[source] io::Error),
    #[error("failed to enter the working directory {}: {source}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("failed to write to standard output: {0}")]
    Output(#[source] io::Error),
    #[error("{}", .0.sentence)]
    NotRun(RunRefused),
    #[error("the connection to the daemon was lost, and the program ends with it")]
    ProgramLost,
    #[error(
        "the arguments and the environment together are too long: more than {META_BYTES_MAX} \
         bytes, where each word counts as a few dozen more; pass long data in a file"
    )]
    CommandTooLong,
    #[error("'{0}' is no variable; write --env NAME=VALUE")]
    Variable(String),
    #[error(transparent)]
    Interpreter(#[from] InterpreterError),
    #[error(transparent)]
    LocalProgram(#[from] LocalFault),
    #[error("failed to prepare: {0}")]
    Prepare(#[source] io::Error),
    #[error("the daemon (pid {pid}) at {} is still stopping after {wait:?}; \
             wait longer with --wait, or end what runs with: clutch stop --now", socket.display())]
    StillStopping { pid: u32, socket: PathBuf, wait: Duration },
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Error::Failure(Box::new(failure))
    }
}

impl From<OperateError> for Error {
    fn from(error: OperateError) -> Self {
        match error {
            OperateError::Failed(failure) => failure.into(),
            OperateError::Refused { denial, sentence } => Error::Refused { denial, sentence },
        }
    }
}

impl Error {
    /// Shows the error, and gives the exit code that belongs to it.
    pub(crate) fn report(&self) -> Exit {
        match self {
            // Whoever read our output has seen enough.
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Error::Failure(failure) => {
                report::failure(failure, FailureFormat::Text, "");
            }
            Error::Config(error @ ConfigError::Invalid { problems, .. }) => {
                output::rendered(&error.render(output::stderr_has_color()));
                let plural = if problems.len() == 1 { "" } else { "s" };
                output::error(&format!(
                    "the configuration is wrong: {} problem{plural}, shown above",
                    problems.len()
                ));
            }
            error => output::error_with_details(&error.to_string()),
        }
        self.exit()
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Error::Value(_)
            | Error::Input(_)
            | Error::File(_)
            | Error::OnlyCsv
            | Error::Wish(_)
            | Error::CommandTooLong
            | Error::Variable(_)
            | Error::NoSuchPool { .. }
            | Error::TwoPools { .. }
            | Error::WhichPool { .. }
            | Error::EnvNotBuilt { .. }
            | Error::NoEnv { .. } => Exit::Usage,
            Error::Refused { denial, .. } => Exit::of_denial(*denial),
            Error::Connect(error) => Exit::of_connect(error),
            Error::Failure(failure) => Exit::of(&failure.reason),
            // What is logged, and where to, is configuration, if only a variable's.
            Error::Config(_)
            | Error::NoConfig
            | Error::Unworkable { .. }
            | Error::Env(_)
            | Error::Log(_) => Exit::Configuration,
            Error::Serve(error) => match error.exit() {
                ServeExit::Refused => Exit::Refused,
                ServeExit::Interrupted => Exit::Cancelled,
                ServeExit::Configuration | ServeExit::Internal => Exit::Configuration,
            },
            Error::NotRun(refused) => Exit::of_program(refused.refusal),
            Error::ProgramLost => Exit::NoDaemon,
            Error::Interpreter(_) | Error::LocalProgram(_) => Exit::Configuration,
            Error::Interrupted(ask) => Exit::asked(*ask),
            // As the daemon says it.
            Error::CurrentDirectory(_) | Error::Directory { .. } | Error::Prepare(_) => {
                Exit::Configuration
            }
            Error::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
            Error::Output(_) => Exit::Raised,
            Error::Journal(error) => error.exit(),
            Error::StillStopping { .. } | Error::OrderUnderWay { .. } => Exit::TimedOut,
            Error::OrderFails { .. } => Exit::Refused,
        }
    }
}
