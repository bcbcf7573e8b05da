//! A configuration that cannot be used: where it is wrong, drawn for a person.
//!
//! What can be wrong is in `reason.rs`.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{
    Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode,
    ThemeCharacters, ThemeStyles,
};
use thiserror::Error;

use super::reason::Reason;

/// The width that reports are wrapped to, in columns.
const WIDTH: usize = 100;

/// A configuration that cannot be used: the file, or what is in it.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read, or must not be trusted.
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: FileReason,
    },
    /// What is in it is wrong.
    Invalid {
        /// The text with the name of its file; none for `--local`.
        text: Option<Box<NamedSource<String>>>,
        /// All that was found; never empty.
        problems: Vec<Problem>,
    },
}

/// Why a configuration file is not read.
#[derive(Debug, Error)]
pub enum FileReason {
    /// There is none.
    #[error("there is no such file: write one with `clutch config default > {}`", .0.display())]
    Missing(PathBuf),
    /// It cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] io::Error),
    /// It is a directory.
    #[error("it is a directory: name the file in it, like {}", .0.join("clutch.toml").display())]
    Directory(PathBuf),
    /// It is a pipe, a device or a socket.
    #[error("it is no regular file: write the configuration to one")]
    NotRegular,
    /// It is larger than any configuration.
    #[error("it has more than {limit} bytes, a configuration has fewer")]
    TooLarge {
        /// Bytes it may have.
        limit: u64,
    },
    /// It is not UTF-8.
    #[error("it is not UTF-8 from byte {0} on: save it as UTF-8")]
    NotUtf8(usize),
    /// Anybody may write to it.
    #[error(
        "anybody may write to it (mode {mode:03o}), and so decide what is run here: \
             run `chmod o-w` on it"
    )]
    WorldWritable {
        /// Its permission bits.
        mode: u32,
    },
    /// The daemon runs as root, and somebody else owns it.
    #[error(
        "it belongs to the user with id {owner}, who would decide what root runs: \
             run `chown root` on it, or start the daemon as that user"
    )]
    ForeignOwner {
        /// Its owner.
        owner: u32,
    },
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// Which key.
    pub key: Key,
    /// Why.
    pub reason: Reason,
    /// Where in the text, in bytes.
    pub span: Option<Range<usize>>,
}

/// A dotted key, such as `pools.default.workers`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key(Vec<String>);

impl ConfigError {
    /// The report for a person: the file, the line, a caret, and what to write instead.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        // A terminal that shows colours shows box-drawing characters; a log may show neither.
        let theme = GraphicalTheme {
            characters: if color { ThemeCharacters::unicode() } else { ThemeCharacters::ascii() },
            styles: if color { ThemeStyles::ansi() } else { ThemeStyles::none() },
        };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(WIDTH)
            .with_break_words(false)
            .without_cause_chain();
        let mut out = String::new();
        match handler.render_report(&mut out, self) {
            Ok(()) => out,
            Err(fmt::Error) => self.to_string(),
        }
    }

    /// What is wrong with the contents; empty when the file itself was refused.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::File { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }

    /// The one problem, when there is just one.
    fn only(&self) -> Option<&Problem> {
        match self.problems() {
            [problem] => Some(problem),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, reason } => {
                write!(f, "the configuration {} is not used: {reason}", path.display())
            }
            Self::Invalid { text, problems } => match (problems.as_slice(), text) {
                ([problem], _) => problem.fmt(f),
                (problems, Some(text)) => {
                    write!(f, "{} problems in {}", problems.len(), text.name())
                }
                (problems, None) => {
                    write!(f, "{} problems", problems.len())?;
                    problems.iter().try_for_each(|problem| write!(f, "; {problem}"))
                }
            },
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { reason, .. } => Some(reason),
            Self::Invalid { problems, .. } => problems.first().map(|first| &first.reason as _),
        }
    }
}

impl Diagnostic for ConfigError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.only().and_then(Diagnostic::help)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self {
            Self::File { .. } | Self::Invalid { text: None, .. } => None,
            Self::Invalid { text: Some(text), .. } => Some(&**text),
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.only().and_then(Diagnostic::labels)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self.problems() {
            [] | [_] => None,
            many => Some(Box::new(many.iter().map(|problem| problem as &dyn Diagnostic))),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.reason, self.key.last()) {
            (Reason::Syntax { .. } | Reason::UnknownKey { .. } | Reason::NoPools, _)
            | (_, None) => self.reason.fmt(f),
            _ => write!(f, "{}: {}", self.key, self.reason),
        }
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        let help = self.reason.help()?;
        Some(Box::new(help))
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span.clone()?;
        let label = LabeledSpan::new_primary_with_span(Some("here".to_owned()), span);
        Some(Box::new(std::iter::once(label)))
    }
}

impl Key {
    /// A key from its parts.
    pub(super) fn new(parts: &[&str]) -> Self {
        Self(parts.iter().map(|part| (*part).to_owned()).collect())
    }

    /// The key below it.
    pub(super) fn child(&self, name: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.to_owned());
        Self(parts)
    }

    /// Its parts, the outermost first.
    #[must_use]
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    pub(super) fn last(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.iter().enumerate() {
            let dot = if index == 0 { "" } else { "." };
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if !part.is_empty() && part.chars().all(bare) {
                write!(f, "{dot}{part}")?;
            } else {
                write!(f, "{dot}{part:?}")?;
            }
        }
        Ok(())
    }
}

impl FileReason {
    /// The reason behind an error of opening or reading.
    pub(super) fn from_io(error: io::Error, path: &Path) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing(path.to_owned()),
            _ => Self::Unreadable(error),
        }
    }
}
