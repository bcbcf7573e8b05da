//! What can be wrong with a key or its value, and what to write instead.

use std::fmt;
use std::io;
use std::path::PathBuf;

use clutch_protocol::name::NameError;
use thiserror::Error;
use toml::de::DeValue;

use super::allow::AllowError;
use super::concurrency::ConcurrencyError;
use super::declared::DeclaredError;
use super::units::{DurationError, SizeError};
use super::warm_up::WarmUpError;

/// What is wrong with a key or its value.
#[derive(Debug, Error)]
pub enum Reason {
    /// It is not TOML, or a key stands twice; the parser's own words.
    #[error("{message}")]
    Syntax {
        /// The parser's message.
        message: String,
    },
    /// There is no such key.
    #[error("unknown key `{name}`")]
    UnknownKey {
        /// The key.
        name: String,
        /// What may have been meant.
        meant: Option<String>,
        /// What is known here.
        allowed: Vec<String>,
    },
    /// Its value has the wrong type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What it should be.
        expected: String,
        /// What it is.
        found: Found,
        /// What one would write.
        written: String,
    },
    /// No pool is configured.
    #[error("no pool is configured")]
    NoPools,
    /// The pool's name cannot be used.
    #[error("{0}")]
    PoolName(#[source] NameError),
    /// It is no duration.
    #[error(transparent)]
    Duration(DurationError),
    /// It is no size.
    #[error(transparent)]
    Size(SizeError),
    /// It is outside of its range.
    #[error("{value} is out of range")]
    Range {
        /// What it is.
        value: String,
        /// The least it may be.
        least: String,
        /// The most it may be.
        most: String,
    },
    /// It is none of the words that are understood.
    #[error("\"{found}\" is not understood here")]
    Word {
        /// What is there.
        found: String,
        /// What one may write.
        expected: &'static str,
    },
    /// Two ways to name an interpreter.
    #[error("`python` and `venv` both name an interpreter")]
    PythonAndVenv,
    /// What is to be installed cannot be.
    #[error(transparent)]
    Declared(DeclaredError),
    /// The default timeout is longer than the longest.
    #[error("call_timeout ({timeout}) is longer than call_timeout_max ({most})")]
    TimeoutAboveMax {
        /// The default timeout.
        timeout: String,
        /// The longest timeout.
        most: String,
    },
    /// The bounds of an elastic pool are the wrong way round.
    #[error("min ({min}) is more than max ({max})")]
    MinAboveMax {
        /// The minimum.
        min: u32,
        /// The maximum.
        max: u32,
    },
    /// The first wait is longer than the longest.
    #[error("backoff ({backoff}) is longer than backoff_max ({most})")]
    BackoffAboveMax {
        /// The first wait.
        backoff: String,
        /// The longest wait.
        most: String,
    },
    /// One payload would not fit into the memory for requests.
    #[error("memory ({memory}) is less than one payload ({payload})")]
    PayloadAboveMemory {
        /// The memory.
        memory: String,
        /// The payload.
        payload: String,
    },
    /// Two pools write one file by different rules.
    #[error("pool `{owner}` writes the same file, with another file_bytes or files")]
    SharedFile {
        /// The other pool.
        owner: String,
    },
    /// Not a filter for the log.
    #[error("it is not a log filter: {message}")]
    LogFilter {
        /// What the parser says.
        message: String,
    },
    /// Arguments without a script to give them to.
    #[error("`args` are given, but no `main` to give them to")]
    ArgsWithoutMain,
    /// A variable is both set and unset.
    #[error("{name} is both set and unset")]
    SetAndUnset {
        /// Its name.
        name: String,
    },
    /// An empty text.
    #[error("it is empty")]
    Empty,
    /// A NUL, which no path, argument or variable can hold.
    #[error("it holds a NUL character, which the system cannot pass on")]
    Nul,
    /// It stands twice in a list.
    #[error("\"{text}\" stands twice in this list")]
    Duplicate {
        /// What stands twice.
        text: String,
    },
    /// A list is too long.
    #[error("the list has {length} items, at most {limit} are allowed")]
    TooMany {
        /// Items it has.
        length: usize,
        /// Items it may have.
        limit: usize,
    },
    /// No option that a worker's interpreter can have.
    #[error("\"{flag}\" is no interpreter option that a worker can have")]
    Flag {
        /// The option.
        flag: String,
    },
    /// An option lacks its value.
    #[error("the option \"{flag}\" lacks its value")]
    FlagValue {
        /// The option.
        flag: String,
    },
    /// No pattern.
    #[error(transparent)]
    Allow(AllowError),
    /// Not a pattern of files.
    #[error("\"{pattern}\" is no pattern of files: {fault}")]
    Watch {
        /// What is there.
        pattern: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Not a module's name.
    #[error("\"{name}\" is not the name of a module")]
    Module {
        /// What is there.
        name: String,
    },
    /// Nothing that a worker can call before it is ready.
    #[error(transparent)]
    WarmUp(WarmUpError),
    /// Nothing that a worker can run calls like.
    #[error(transparent)]
    Concurrency(ConcurrencyError),
    /// Not a variable's name.
    #[error("{name:?} cannot be the name of an environment variable")]
    Variable {
        /// What is there.
        name: String,
    },
    /// A user or group that is not there.
    #[error("there is no {what} \"{name}\" on this machine")]
    Account {
        /// What was looked for.
        what: &'static str,
        /// What is there.
        name: String,
    },
    /// A path leads nowhere.
    #[error("there is no {}", path.display())]
    PathMissing {
        /// The whole path.
        path: PathBuf,
    },
    /// A path leads to something one cannot look at.
    #[error("{} cannot be looked at: {source}", path.display())]
    PathUnreadable {
        /// The whole path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory is needed.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// The whole path.
        path: PathBuf,
    },
    /// A file is needed.
    #[error("{} is not a file", path.display())]
    NotFile {
        /// The whole path.
        path: PathBuf,
    },
    /// `~` and a name.
    #[error("`~` stands for the home of the daemon's own user only")]
    HomeOfAnother,
    /// `~` without a home.
    #[error("`~` cannot be expanded, since HOME is not set")]
    NoHome,
    /// A path that cannot be told to Python.
    #[error("{} is not UTF-8", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A socket's path is longer than the system takes.
    #[error("the socket's path has {length} bytes, the system takes at most {limit}: {}",
            path.display())]
    SocketTooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        limit: usize,
        /// The whole path.
        path: PathBuf,
    },
}

/// The type of a value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Text in quotes.
    Text,
    /// A whole number.
    Integer,
    /// A number with a fraction.
    Float,
    /// `true` or `false`.
    Boolean,
    /// A date or a time.
    Date,
    /// A list in brackets.
    List,
    /// A table.
    Table,
}

impl Reason {
    /// What to write instead, where the reason itself does not say it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::UnknownKey { meant, allowed, .. } => {
                let allowed = allowed.join(", ");
                match meant {
                    Some(meant) => format!("did you mean `{meant}`? Known here: {allowed}"),
                    None => format!("known here: {allowed}"),
                }
            }
            Self::WrongType { written, .. } => format!("write it like this: {written}"),
            Self::NoPools => "add the line [pools.default]; `clutch config default` prints a \
                              whole configuration"
                .to_owned(),
            Self::Range { least, most, .. } => format!("write {least} to {most}"),
            Self::Word { expected, .. } => format!("write {expected}"),
            Self::PythonAndVenv => "keep one: `venv` for a virtual environment's own \
                                    interpreter, `python` for any other"
                .to_owned(),
            Self::Declared(error) => error.help().to_owned(),
            Self::TimeoutAboveMax { .. } => {
                "make call_timeout shorter or call_timeout_max longer".to_owned()
            }
            Self::MinAboveMax { .. } => "make min smaller or max larger".to_owned(),
            Self::BackoffAboveMax { .. } => "make backoff shorter or backoff_max longer".to_owned(),
            Self::PayloadAboveMemory { .. } => "make memory larger or payload smaller".to_owned(),
            Self::SharedFile { .. } => {
                "give each pool a file of its own, or write the rules once, \
                                        in [daemon.output]"
                    .to_owned()
            }
            Self::LogFilter { .. } => "write a level (error, warn, info, debug, trace), or levels \
                                       by target, like \"info,clutch::output=off\""
                .to_owned(),
            Self::ArgsWithoutMain => "add main = \"SCRIPT.py\", or leave `args` out".to_owned(),
            Self::SetAndUnset { .. } => "keep it in one of `set` and `unset`".to_owned(),
            Self::Empty => "write something, or leave the key out".to_owned(),
            Self::Duplicate { .. } => "leave one of them out".to_owned(),
            Self::Flag { .. } => "options that replace the script or end python at once (-c, -m, \
                                  -i, -h, -V) have no place here; arguments of the script go to \
                                  `args`"
                .to_owned(),
            Self::FlagValue { .. } => "write its value, too: [\"-X\", \"dev\"]".to_owned(),
            Self::Module { .. } => "write dotted names, like \"numpy\" or \"pkg.tasks\"".to_owned(),
            Self::Watch { .. } => "write it like this: \"src/**/*.py\"".to_owned(),
            Self::Variable { .. } => {
                "a name has at least one character, none of them = or NUL".to_owned()
            }
            Self::Account { what, .. } => format!("write the name of a {what}, or its number"),
            Self::PathMissing { .. } => "relative paths start at the directory of the \
                                         configuration file; create it or correct the path"
                .to_owned(),
            Self::NotDirectory { .. } => "name a directory".to_owned(),
            Self::NotFile { .. } => "name a file".to_owned(),
            Self::NoHome | Self::HomeOfAnother => "write the path in full".to_owned(),
            Self::SocketTooLong { .. } => "choose a shorter directory".to_owned(),
            Self::Syntax { .. }
            | Self::PoolName(_)
            | Self::Duration(_)
            | Self::Size(_)
            | Self::Nul
            | Self::TooMany { .. }
            | Self::Allow(_)
            | Self::WarmUp(_)
            | Self::Concurrency(_)
            | Self::PathUnreadable { .. }
            | Self::NotUtf8 { .. } => return None,
        };
        Some(help)
    }
}

impl Found {
    /// Whether it is what the schema calls so.
    pub(super) fn is(self, kind: &str) -> bool {
        matches!(
            (self, kind),
            (Self::Text, "string")
                | (Self::Integer, "integer")
                | (Self::Boolean, "boolean")
                | (Self::List, "array")
                | (Self::Table, "object")
        )
    }
}

impl From<&DeValue<'_>> for Found {
    fn from(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(_) => Self::Text,
            DeValue::Integer(_) => Self::Integer,
            DeValue::Float(_) => Self::Float,
            DeValue::Boolean(_) => Self::Boolean,
            DeValue::Datetime(_) => Self::Date,
            DeValue::Array(_) => Self::List,
            DeValue::Table(_) => Self::Table,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Integer => "a whole number",
            Self::Float => "a number with a fraction",
            Self::Boolean => "a truth value",
            Self::Date => "a date or time",
            Self::List => "a list",
            Self::Table => "a table",
        })
    }
}
