//! Why there is no interpreter to run, each reason with what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use thiserror::Error;

/// Why there is no interpreter to run; each says what to do.
#[derive(Debug, Error)]
pub enum InterpreterError {
    /// The name is on no directory of `PATH`.
    #[error(
        "there is no {name} on PATH ({search_path}): install it, or write the interpreter's \
             own path"
    )]
    NotOnPath {
        /// The name that was looked for.
        name: String,
        /// The directories searched.
        search_path: String,
    },
    /// No interpreter of the version that is asked for is anywhere.
    #[error(
        "there is no {wanted} on this machine: looked {looked}; found {found}; install it (as with \
             `uv python install` or `pyenv install`), name another version, or write the \
             interpreter's own path{passed}"
    )]
    NoneFits {
        /// What was asked for.
        wanted: String,
        /// Where it was looked for.
        looked: String,
        /// The versions that are there.
        found: String,
        /// What may have been it, but cannot be used; empty if there is none.
        passed: String,
    },
    /// There is nothing at the path.
    #[error("there is no interpreter at {}: correct the path, or install it there", .0.display())]
    Missing(PathBuf),
    /// The path is a link to nothing.
    #[error("{} is a link to {}, which does not exist: was that Python removed? Make the link or \
             its virtual environment anew", path.display(), target.display())]
    Dangling {
        /// The path.
        path: PathBuf,
        /// Where it leads, by one link or several.
        target: PathBuf,
    },
    /// The path cannot be looked at.
    #[error("{} cannot be looked at: {source}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The virtual environment is no directory.
    #[error("there is no virtual environment at {path}: make one with `python3 -m venv {path}`",
            path = .0.display())]
    NoVenv(PathBuf),
    /// The virtual environment has no `bin/python`.
    #[error("{path} has no bin/python, so it is no virtual environment: make it anew with \
             `python3 -m venv --clear {path}`", path = .0.display())]
    VenvWithoutPython(PathBuf),
    /// A directory.
    #[error("{} is a directory: write the path of the interpreter in it, or use `venv`",
            .0.display())]
    Directory(PathBuf),
    /// A socket, a named pipe or a device.
    #[error("{} is no file: write the path of the interpreter", .0.display())]
    NotFile(PathBuf),
    /// A file without the permission.
    #[error("{} is not executable: name the interpreter itself, or run `chmod +x` on it",
            .0.display())]
    NotExecutable(PathBuf),
    /// The system cannot execute it.
    #[error("{} cannot be executed: {source}; is it a program for this machine, and its `#!` line \
             right?", path.display())]
    Exec {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It could not be watched while it ran.
    #[error("{} could not be probed: {source}; try again", path.display())]
    Probe {
        /// The path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A script stands in for an interpreter, and found none.
    #[error("{} is a script (a launcher, as of pyenv or asdf?) that ran no interpreter: {words}; \
             select a version there, or write the interpreter's own path", path.display())]
    Launcher {
        /// The path.
        path: PathBuf,
        /// Its own words.
        words: String,
    },
    /// It ended without answering as a Python does.
    #[error("{} is not a working Python interpreter: asked for its version, it {end} and said \
             {words}; write the path of one that works", path.display())]
    NotPython {
        /// The path.
        path: PathBuf,
        /// How it ended.
        end: End,
        /// What it said.
        words: String,
    },
    /// It works, but did not say what it is beyond its version.
    #[error("{} says its version, but nothing about its packages: asked for them, it {end} and \
             said {words}; does something in its `site-packages` (a `.pth` file?) fail?",
            path.display())]
    Reticent {
        /// The path.
        path: PathBuf,
        /// How it ended.
        end: End,
        /// What it said.
        words: String,
    },
    /// It never answered.
    #[error("{} did not say its version within {timeout:?}, so it was killed: is it an \
             interpreter?", path.display())]
    Hung {
        /// The path.
        path: PathBuf,
        /// How long it was waited for.
        timeout: Duration,
    },
    /// An old Python.
    #[error("unsupported Python {}.{}.{} at {}: 3.8 or newer is needed",
            version.0, version.1, version.2, path.display())]
    TooOld {
        /// The path.
        path: PathBuf,
        /// Its version.
        version: (u8, u8, u8),
    },
    /// Not CPython.
    #[error("unsupported interpreter {implementation} {}.{}.{} at {}: CPython 3.8 or newer is \
             needed", version.0, version.1, version.2, path.display())]
    Implementation {
        /// The path.
        path: PathBuf,
        /// What it is.
        implementation: String,
        /// Its version.
        version: (u8, u8, u8),
    },
}

/// How a probed program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by {signal}"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
        }
    }
}
