//! The interpreter that an environment is built with: which one fits, and what makes it itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::builder::{Builder, Means};
use super::declaration::{self, Content};
use super::error::EnvError;
use super::process::{self, Job};
use super::specifier;
use crate::config::{Declared, Pool, Python};
use crate::environment;
use crate::interpreter::{self, Asker, Interpreter, InterpreterError, Places, Search};
use crate::prepare::PROBE_TIMEOUT;

/// Minor versions of Python that are looked for when the usual one does not fit, newest first.
const MINORS: [u8; 8] = [15, 14, 13, 12, 11, 10, 9, 8];

/// What makes an interpreter's environments its own, beyond its path and version: the names of its
/// compiled files and of its extension modules, which hold its ABI and platform.
const IDENTITY: &str = "import sys, _imp
print('clutch-identity', sys.implementation.cache_tag, _imp.extension_suffixes()[0])";

/// What begins the answer.
const IDENTITY_MARK: &str = "clutch-identity ";

/// The interpreter to build with: what `python` means, as for any pool, or another one if the pool
/// leaves the choice and the declaration does not take the usual one. With the key `python` that
/// stands for it.
pub(super) fn interpreter_for(
    (pool, python): (&Pool, &Python),
    content: &Content,
    cancelled: &AtomicBool,
) -> Result<(Python, Interpreter), EnvError> {
    let account = pool.process.account.as_ref();
    let environment = environment::build(&pool.env, std::env::vars_os(), None, account);
    let search_path = environment::search_path(&environment);
    let (cwd, timeout, cache) = (&pool.cwd, PROBE_TIMEOUT, None);
    let asker = Asker { cwd, environment: &environment, timeout, cancelled, account, cache };
    let search = Search {
        search_path: &search_path,
        cwd: &pool.cwd,
        places: &Places::of_this_machine(),
        ask: &|path| asker.who(path),
    };
    let ask = |python: &Python| -> Result<Interpreter, InterpreterError> {
        let choice = interpreter::choose(python, &search)?;
        choice.asked.map_or_else(|| asker.who(&choice.path), Ok)
    };
    let takes = |found: &Interpreter| match content.requires_python.as_deref() {
        None => Ok(true),
        Some(wanted) => specifier::satisfies(wanted, found.version).ok_or_else(|| {
            let path = PathBuf::from(&content.what);
            let fault = format!(
                "requires-python = {wanted:?} is not understood: write it like \
                                 \">=3.9,<3.14\""
            );
            EnvError::Declaration { path, fault }
        }),
    };
    let usual = ask(python);
    if let Ok(found) = &usual
        && takes(found)?
    {
        return Ok((python.clone(), usual?));
    }
    if *python == Python::default() && content.requires_python.is_some() {
        for minor in MINORS {
            let other = Python::Named(format!("3.{minor}"));
            if let Ok(found) = ask(&other)
                && takes(&found)?
            {
                return Ok((other, found));
            }
        }
    }
    let found = usual?;
    Err(EnvError::Python {
        what: content.what.clone(),
        wanted: content.requires_python.clone().unwrap_or_default(),
        path: found.executable,
        version: found.version,
    })
}

/// What a pool's environment would be made of, whether it is there or not.
#[derive(Debug)]
pub(crate) struct Base {
    /// The key `python` that stands for the interpreter it is made with.
    pub(crate) python: Python,
    /// What is installed in it, in a few words; none where only an interpreter is asked for.
    pub(crate) installs: Option<String>,
}

/// What the environment that a pool declares would be made of; none if it declares none. Builds
/// nothing.
pub(crate) fn base_of(pool: &Pool, cancelled: &AtomicBool) -> Result<Option<Base>, EnvError> {
    let Some(declared) = &pool.declared else { return Ok(None) };
    let uv = matches!(Builder::find(pool.build.tool), Builder::Uv(_));
    let Some(content) = declaration::read(declared, &pool.cwd, uv)? else { return Ok(None) };
    let python = match content.requires_python {
        // It is looked for with the answers that are known, later.
        None => pool.python.clone(),
        Some(_) => interpreter_for((pool, &pool.python), &content, cancelled)?.0,
    };
    let of_script = |path: &Path| format!("what the metadata of {} lists", path.display());
    let installs = content.install.is_some().then(|| match declared {
        Declared::Script(path) => of_script(path),
        other => other.in_words().unwrap_or_default(),
    });
    Ok(Some(Base { python, installs }))
}

/// What makes an interpreter's environments its own.
pub(super) fn identity(found: &Interpreter, means: Means<'_>) -> Result<String, EnvError> {
    let args: Vec<OsString> = ["-I", "-S", "-c", IDENTITY].map(Into::into).into();
    let job = Job {
        program: &found.executable,
        args: &args,
        directory: "/".as_ref(),
        environment: &[],
        open_files: means.open_files,
        deadline: Instant::now() + PROBE_TIMEOUT,
    };
    let program = || found.executable.display().to_string();
    let mut identity = None;
    let mut words = String::new();
    let end = process::run(means.guardian, &job, means.cancel, &mut |line| {
        words = format!("  {line}");
        identity = line.strip_prefix(IDENTITY_MARK).map(str::to_owned).or(identity.take());
    });
    match (end, identity) {
        (Ok(_), Some(identity)) => Ok(identity),
        (Ok(process::End::Cancelled), _) => Err(EnvError::Cancelled),
        (Ok(process::End::TimedOut), None) => Err(EnvError::TimedOut {
            what: "interpreter".to_owned(),
            program: program(),
            timeout: PROBE_TIMEOUT,
            words,
            hint: "",
        }),
        (Ok(process::End::Ended(end)), None) => Err(EnvError::Failed {
            what: "interpreter".to_owned(),
            program: program(),
            end,
            words,
            hint: "",
        }),
        (Err(source), _) => Err(EnvError::Start { program: program(), source }),
    }
}
