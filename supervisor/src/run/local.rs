//! A program without a daemon: the guardian is this process's own child, and everything else is as
//! with one. Nothing of it outlives this process, however that ends.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use clutch_protocol::message::{RunProgram, SpawnFailed, SpawnProgram};

use super::recipe::{self, ProgramFault};
use crate::config::{self, Env, Python};
use crate::dispatch::describe_program_failure;
use crate::interpreter::{self, Asker, InterpreterError, Places};
use crate::prepare::{OpenFiles, ServeError};
use crate::worker::launch::{Bounds, Recipe};
use crate::worker::spawner::{Guardian, LaunchError};
use crate::{environment, run};

/// How long a launcher script may take to say which interpreter it starts.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// An interpreter, found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What is exec'd.
    pub executable: PathBuf,
    /// The virtual environment it is of.
    pub venv: Option<PathBuf>,
}

/// Finds an interpreter, as a pool's is found, with this process's environment under `env`'s rules.
/// A launcher script is asked which one it starts.
///
/// # Errors
///
/// When there is none, or it is none.
pub fn find(python: &Python, env: &Env, cwd: &Path) -> Result<Found, InterpreterError> {
    let venv = recipe::venv_of(python);
    let environment = environment::build(env, std::env::vars_os(), venv, None);
    let search_path = environment::search_path(&environment);
    let asker = Asker {
        cwd,
        environment: &environment,
        timeout: PROBE_TIMEOUT,
        cancelled: &AtomicBool::new(false),
        account: None,
        cache: None,
    };
    let search = interpreter::Search {
        search_path: &search_path,
        cwd,
        places: &Places::of_this_machine(),
        ask: &|path| asker.who(path),
    };
    let choice = interpreter::choose(python, &search)?;
    Ok(Found { executable: choice.path, venv: venv.map(Path::to_owned) })
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LocalFault {
    /// What is asked for contradicts itself.
    #[error(transparent)]
    Program(#[from] ProgramFault),
    /// The limits of this process are not known.
    #[error(transparent)]
    Limits(#[from] ServeError),
    /// The guardian could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Works out the process that `asked` becomes under the rules of `pool`, run by `executable`.
///
/// # Errors
///
/// When what is asked for contradicts itself.
pub fn program(
    pool: &config::Pool,
    executable: &Path,
    asked: RunProgram,
) -> Result<SpawnProgram, LocalFault> {
    let open_files = OpenFiles::as_they_are()?.inherited;
    let bounds = Bounds { open_files, ..Bounds::default() };
    // Of a worker's process only what it shares with a program is of interest.
    let base = Recipe::new(pool, executable, Path::new(""), Vec::new(), bounds);
    let base = base.spawn_without_slot();
    Ok(recipe::program(pool, base, asked)?)
}

/// What a guardian could not do for a program of `pool`, in words.
pub fn describe(fault: SpawnFailed, pool: &config::Pool) -> String {
    describe_program_failure(fault, pool)
}

/// A program's guardian, this process's child. Dropping it ends the program and waits for that.
#[derive(Debug)]
pub struct LocalProgram {
    report: Option<UnixStream>,
    guardian: Child,
}

impl LocalProgram {
    /// Starts a program. The calling thread must live as long as it.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor or process left.
    pub fn start(
        guardian: &Guardian,
        program: &SpawnProgram,
        streams: &[OwnedFd],
    ) -> Result<LocalProgram, LocalFault> {
        let (guardian, report) = run::guardian::start(guardian, program, streams)?;
        Ok(LocalProgram { report: Some(report), guardian })
    }

    /// The guardian's frames, and the way of orders to it.
    pub fn report(&self) -> &UnixStream {
        self.report.as_ref().expect("it is there until this is dropped")
    }
}

impl Drop for LocalProgram {
    fn drop(&mut self) {
        // Its end is an order to end.
        drop(self.report.take());
        let _ = self.guardian.wait();
    }
}
