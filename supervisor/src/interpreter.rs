//! Which interpreter a pool's workers run: found on disk, then asked who it is.
//!
//! `choose.rs` says where it is looked for, `facts.rs` what it is asked, `cache.rs` what is kept of
//! the answers, and `survey.rs` lists all there are.
//!
//! All of it blocks (asking for as long as its timeout), so it belongs on another thread than the
//! data plane. What is exec'd for a worker later is [`Interpreter::executable`]: what the
//! probed interpreter itself calls `sys.executable`. So a launcher on `PATH` (a pyenv shim, a
//! wrapper script) is followed to the real interpreter, while the `python` of a virtual environment
//! stays what it is: its link is never followed, or it would lose its environment.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nix::unistd::{AccessFlags, eaccess};

use crate::config::{Account, Python};

mod cache;
mod choose;
mod error;
mod facts;
mod places;
mod run;
mod survey;
mod wanted;

pub(crate) use run::probed;

pub use cache::Cache;
pub use choose::{Choice, Search, choose};
pub use clutch_protocol::status::Interpreter as Facts;
pub use error::{End, InterpreterError};
pub use facts::kind;
pub use places::{Candidate, Place, Places};
pub use survey::{Known, PoolChoice, Survey, survey};
pub use wanted::Wanted;

/// How long an interpreter may take to say everything about itself. One that takes longer is
/// started all the same, and what is wrong with it shows then.
const FACTS_TIMEOUT: Duration = Duration::from_secs(5);

/// The oldest Python that the worker runs on.
const OLDEST: (u8, u8) = (3, 8);

/// How much of what a failed probe said is shown.
const WORDS_CHARS_MAX: usize = 300;

/// How many links of a chain are followed; the kernel's own limit.
const LINKS_MAX: u32 = 40;

/// What an answer starts with, so that other output is never taken for one.
const MARK: &[u8] = b"clutch-probe ";

/// Says who it is; valid in Python 2.7 too, so that an old one can be named. It imports nothing but
/// the built-in `sys`, so no file in the working directory can get in its way.
const SCRIPT: &str = "\
import sys
v = sys.version_info
i = getattr(sys, 'implementation', None)
n = i.name if i else (hasattr(sys, 'pypy_version_info') and 'pypy' or 'cpython')
e = sys.executable or ''
if not isinstance(e, bytes):
    e = e.encode(sys.getfilesystemencoding(), 'surrogateescape')
o = getattr(sys.stdout, 'buffer', sys.stdout)
o.write(('clutch-probe %d.%d.%d %s ' % (v[0], v[1], v[2], n)).encode('ascii') + e
        + '\\0'.encode('ascii'))
o.flush()
";

/// An interpreter that a worker can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// What is exec'd: its own `sys.executable`.
    pub executable: PathBuf,
    /// Major, minor, micro.
    pub version: (u8, u8, u8),
    /// `cpython`.
    pub implementation: String,
    /// `sys.executable` as text, for people.
    pub sys_executable: String,
}

/// Asks interpreters, and remembers what they say where there is a cache.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Where it is asked: a launcher may choose by its directory.
    pub cwd: &'a Path,
    /// The variables it is asked with.
    pub environment: &'a [(OsString, OsString)],
    /// How long it may take.
    pub timeout: Duration,
    /// When this becomes true, nobody waits for the answer any more.
    pub cancelled: &'a AtomicBool,
    /// Whose rights it is asked with, if not this process's own: what workers may write to, such as
    /// an environment of theirs, must not be run by the daemon's user.
    pub account: Option<&'a Account>,
    /// What is known already.
    pub cache: Option<&'a Cache>,
}

impl Asker<'_> {
    /// Who an interpreter is; the least that can be asked, unless all is known.
    ///
    /// # Errors
    ///
    /// As [`probe`].
    pub fn who(&self, path: &Path) -> Result<Interpreter, InterpreterError> {
        if self.cache.is_some()
            && is_binary(path)
            && let Ok(facts) = self.facts(path)
        {
            return Ok(Interpreter {
                executable: path.to_owned(),
                version: facts::numbers(&facts.version),
                implementation: facts.implementation,
                sys_executable: facts.executable,
            });
        }
        self.version(path)
    }

    /// Everything about an interpreter that is no launcher.
    ///
    /// # Errors
    ///
    /// As [`probe`].
    pub fn facts(&self, path: &Path) -> Result<Facts, InterpreterError> {
        let asker = Asker { timeout: self.timeout.min(FACTS_TIMEOUT), ..*self };
        let ask = || facts::ask(path, &asker);
        match self.cache {
            Some(cache) => cache.get(path, ask),
            None => ask().map(facts::refresh),
        }
    }

    /// The least that can be asked, without the cache.
    fn version(&self, path: &Path) -> Result<Interpreter, InterpreterError> {
        // Isolated: since 3.13 even `-c` imports modules, and would take them from the working
        // directory.
        let mut answer = run::run(path, &["-I", "-S", "-c", SCRIPT], self)?;
        if parse(&answer.stdout).is_none() && knows_no_isolation(&answer) {
            // Python 2.7, which is to be named, too.
            answer = run::run(path, &["-E", "-s", "-S", "-c", SCRIPT], self)?;
        }
        let Some((version, implementation, executable)) = parse(&answer.stdout) else {
            return Err(no_answer(path, &answer));
        };
        let path = path.to_owned();
        if implementation != "cpython" {
            return Err(InterpreterError::Implementation { path, implementation, version });
        }
        if (version.0, version.1) < OLDEST {
            return Err(InterpreterError::TooOld { path, version });
        }
        // An interpreter that does not know its own name is run by the one it was found under.
        let known = executable.is_absolute() && executable.exists();
        let executable = if known { executable } else { path };
        Ok(Interpreter {
            sys_executable: executable.to_string_lossy().into_owned(),
            executable,
            version,
            implementation,
        })
    }
}

/// Finds the file to run. A relative directory on the search path starts at `cwd`.
///
/// # Errors
///
/// When there is none, or it cannot be a program.
pub fn resolve(
    python: &Python,
    search_path: &OsStr,
    cwd: &Path,
) -> Result<PathBuf, InterpreterError> {
    match python {
        Python::Named(name) => on_path(&file_name(name), search_path, cwd),
        Python::File(path) => {
            check_executable(path)?;
            Ok(path.clone())
        }
        Python::Venv(path) => {
            if !path.is_dir() {
                return Err(InterpreterError::NoVenv(path.clone()));
            }
            let python = path.join("bin/python");
            match check_executable(&python) {
                Ok(()) => Ok(python),
                Err(InterpreterError::Missing(_)) => {
                    Err(InterpreterError::VenvWithoutPython(path.clone()))
                }
                Err(error) => Err(error),
            }
        }
    }
}

/// Runs an interpreter in `cwd` to ask it who it is. A launcher such as pyenv's may choose by the
/// directory it is in, as it would for a person, so it is asked where the workers will run.
///
/// # Errors
///
/// When it cannot be run, does not answer as a Python within the timeout, or is none that workers
/// can run on.
pub fn probe(
    path: &Path,
    cwd: &Path,
    env: &[(OsString, OsString)],
    timeout: Duration,
) -> Result<Interpreter, InterpreterError> {
    probe_until(path, cwd, env, timeout, &AtomicBool::new(false))
}

/// As [`probe`], but given up soon after `cancelled` becomes true.
///
/// # Errors
///
/// As [`probe`]; a cancelled one is as one that hung.
pub fn probe_until(
    path: &Path,
    cwd: &Path,
    env: &[(OsString, OsString)],
    timeout: Duration,
    cancelled: &AtomicBool,
) -> Result<Interpreter, InterpreterError> {
    let cache = None;
    let asker = Asker { cwd, environment: env, timeout, cancelled, account: None, cache };
    asker.version(path)
}

/// Whether a program says that it does not know the option `-I`.
fn knows_no_isolation(answer: &run::Answer) -> bool {
    let stderr = String::from_utf8_lossy(&answer.stderr);
    stderr.contains("option") && stderr.contains("-I")
}

/// Whether a file is a program itself, and no script that may choose another one.
pub fn is_binary(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"\x7fELF"
}

/// `3.12` stands for `python3.12`, and `3` for `python3`.
fn file_name(name: &str) -> String {
    let version = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if version { format!("python{name}") } else { name.to_owned() }
}

/// The first executable file of that name, as a shell would find it.
fn on_path(name: &str, search_path: &OsStr, cwd: &Path) -> Result<PathBuf, InterpreterError> {
    let mut refused = None;
    for directory in std::env::split_paths(search_path) {
        let path = cwd.join(directory).join(name);
        match check_executable(&path) {
            Ok(()) => return Ok(path),
            // A shell passes over what it cannot run. If there is nothing else, it is the reason.
            Err(InterpreterError::Missing(_) | InterpreterError::Unreadable { .. }) => {}
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| InterpreterError::NotOnPath {
        name: name.to_owned(),
        search_path: search_path.to_string_lossy().into_owned(),
    }))
}

fn check_executable(path: &Path) -> Result<(), InterpreterError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Err(InterpreterError::Directory(path.to_owned())),
        // Looking into a named pipe would wait for somebody to write to it.
        Ok(metadata) if !metadata.is_file() => Err(InterpreterError::NotFile(path.to_owned())),
        // Root may read anything, but may only execute what somebody may: the system knows.
        Ok(_) => eaccess(path, AccessFlags::X_OK)
            .map_err(|_| InterpreterError::NotExecutable(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(path)),
        Err(source) => Err(InterpreterError::Unreadable { path: path.to_owned(), source }),
    }
}

/// Nothing at all, or a chain of links whose last one leads nowhere.
fn missing(path: &Path) -> InterpreterError {
    let mut target = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(next) = fs::read_link(&target) else {
            break;
        };
        target = target.parent().unwrap_or(Path::new("/")).join(next);
    }
    let path = path.to_owned();
    if target == path {
        InterpreterError::Missing(path)
    } else {
        InterpreterError::Dangling { path, target }
    }
}

/// The version, the implementation and `sys.executable` of an answer.
fn parse(stdout: &[u8]) -> Option<((u8, u8, u8), String, PathBuf)> {
    let start = stdout.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let mut fields = stdout[start..].splitn(3, |byte| *byte == b' ');
    let mut version = std::str::from_utf8(fields.next()?).ok()?.splitn(3, '.');
    let mut number = || version.next()?.parse().ok();
    let version = (number()?, number()?, number()?);
    let implementation = std::str::from_utf8(fields.next()?).ok()?.to_owned();
    let executable = fields.next()?;
    let end = executable.iter().position(|byte| *byte == 0)?;
    let executable = PathBuf::from(OsStr::from_bytes(&executable[..end]));
    Some((version, implementation, executable))
}

fn no_answer(path: &Path, answer: &run::Answer) -> InterpreterError {
    let (path, end) = (path.to_owned(), end(answer));
    if end != End::Code(0) && !words(&answer.stderr).is_empty() && is_script(&path) {
        return InterpreterError::Launcher { path, words: words(&answer.stderr) };
    }
    InterpreterError::NotPython { path, end, words: said(answer) }
}

fn end(answer: &run::Answer) -> End {
    match (answer.status.code(), answer.status.signal()) {
        (Some(code), _) => End::Code(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

/// What it complained, else what it printed.
fn said(answer: &run::Answer) -> String {
    let said = [&answer.stderr, &answer.stdout].map(|stream| words(stream));
    said.into_iter().find(|words| !words.is_empty()).unwrap_or_else(|| "nothing".to_owned())
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!"
}

/// What a program said, as a part of one line that cannot disturb a terminal.
fn words(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.replace(char::is_control, "\u{fffd}");
    match text.char_indices().nth(WORDS_CHARS_MAX) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}
