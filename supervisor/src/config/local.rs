//! The configuration of `--local`: one pool for one command, made of its options.

use std::collections::BTreeMap;
use std::path::Path;

use super::bounds;
use super::checker::{Checker, absolute};
use super::compute::Compute;
use super::concurrency::Concurrency;
use super::declared::{Build, Declared, check_requirements};
use super::error::{ConfigError, Key, Problem};
use super::liveness::Liveness;
use super::memory::Memory;
use super::model::{Config, Daemon, Env, Limits, LocalOptions, Main, Pool, Python};
use super::output::Output;
use super::process::Process;
use super::reason::Reason;
use super::run::Run;
use super::warm_up::WarmUp;
use crate::pool::settings::{Nested, Replace, Restart, Scale};

/// The one pool's name, which a call goes to when it names none.
const POOL: &str = "default";

impl Config {
    /// One pool named `default`, for one command.
    ///
    /// A call has no shorter default timeout than the longest a caller may ask for: a person waits
    /// at the terminal and can interrupt it.
    ///
    /// # Errors
    ///
    /// When the options name something that is not there or cannot be.
    pub fn local(options: LocalOptions) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let config = Self::local_into(&options, &mut problems);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError::Invalid { text: None, problems })
        }
    }

    fn local_into(options: &LocalOptions, problems: &mut Vec<Problem>) -> Self {
        let cwd = options.cwd.as_path();
        let mut checker = Checker::new(None, cwd, problems);
        checker.is_directory(&Key::new(&["cwd"]), cwd);
        let python = match &options.python {
            Some(text) => checker.python(&Key::new(&["python"]), text).unwrap_or_default(),
            None => Python::default(),
        };
        let workers = options.workers.map(i64::from).or(Some(1));
        let workers = checker.number(&Key::new(&["workers"]), workers, &bounds::WORKERS);
        let path = options.path.iter().map(|path| absolute(cwd, path)).collect::<Vec<_>>();
        for path in &path {
            checker.exists(&Key::new(&["path"]), path);
        }
        let main = options.main.as_deref().and_then(|main| local_main(&mut checker, main));
        let declared = if options.requirements.is_empty() {
            main.as_ref().map(|main| Declared::Script(main.file.clone()))
        } else {
            let at = Key::new(&["requirements"]);
            let list = check_requirements(&mut checker, &options.requirements, &at);
            Some(Declared::Requirements(list))
        };
        let limits = Limits::default();
        let pool = Pool {
            name: POOL.to_owned(),
            python,
            declared,
            build: Build::default(),
            workers: workers.unwrap_or(1),
            workers_min: workers.unwrap_or(1),
            spares: 0,
            concurrency: Concurrency::One,
            scale: Scale::default(),
            restart: Restart::default(),
            replace: Replace::default(),
            nested: Nested::of(workers.unwrap_or(1)),
            path,
            main,
            args: Vec::new(),
            flags: Vec::new(),
            allow: None,
            cwd: cwd.to_owned(),
            preload: Vec::new(),
            warm_up: WarmUp::default(),
            watch: Vec::new(),
            env: Env::default(),
            limits: Limits { call_timeout: limits.call_timeout_max, ..limits },
            output: Output::default(),
            logging: 0,
            process: Process::default(),
            compute: Compute::default(),
            memory: Memory::default(),
            liveness: Liveness::default(),
            run: Run::default(),
        };
        Self {
            source: None,
            daemon: Daemon::default(),
            pools: BTreeMap::from([(POOL.to_owned(), pool)]),
        }
    }
}

fn local_main(checker: &mut Checker<'_>, typed: &Path) -> Option<Main> {
    let at = Key::new(&["main"]);
    let file = absolute(checker.base_dir(), typed);
    if !checker.is_file(&at, &file) {
        return None;
    }
    let Some(argv0) = typed.to_str() else {
        checker.report(&at, Reason::NotUtf8 { path: file });
        return None;
    };
    Some(Main { argv0: argv0.to_owned(), file })
}
