//! `clutch env`: the environments that are built for pools: list, build, find, clean up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use clutch_supervisor::ServeError;
use clutch_supervisor::config::{Config, Pool, Python};
use clutch_supervisor::envs::{self, Failures, Found, Kept, Provided, Removal};

use crate::args::{self, Global};
use crate::commands::config::{keep_only, named_or_here};
use crate::commands::status::{dash, span, table};
use crate::error::Error;
use crate::exit::Exit;
use crate::interrupt::Interrupt;
use crate::logging::{self, LogFormat};
use crate::{connect, json, output};

/// List, build, find and remove the environments that pools declare
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A pool with `requirements`, `project` or a script's own metadata has an environment that is built
once for its contents and its interpreter, and shared by all that want the same. `clutch serve`
builds what is missing; docs/ENVIRONMENTS.md explains the rest. No daemon is asked.

Examples:
  clutch env build                     what ./clutch.toml declares, before a daemon needs it
  clutch env list
  $(clutch env path --pool cpu)/bin/python -m pip list
  clutch env gc --dry-run              what would go
  clutch env gc --max-age 7d           what no daemon uses, and none has used for a week")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show every environment: what it was made of, its size, who uses it
    List {
        /// Print them as a JSON list
        #[arg(long)]
        json: bool,
    },
    /// Build what a configuration declares and is not there yet
    Build {
        #[command(flatten)]
        source: Source,
    },
    /// Remove environments that nobody uses, and what killed builds have left
    Gc {
        /// Keep what was used within this time
        #[arg(long, value_name = "TIME", value_parser = args::duration, default_value = "30d")]
        max_age: Duration,
        /// Keep nothing that is not in use
        #[arg(long, conflicts_with = "max_age")]
        all: bool,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Print what is decided about each as a JSON list
        #[arg(long)]
        json: bool,
    },
    /// Print where the environment of a pool is
    Path {
        #[command(flatten)]
        source: Source,
    },
}

/// Which pools.
#[derive(Clone, Debug, clap::Args)]
struct Source {
    /// This pool only
    #[arg(long, value_name = "NAME", value_parser = args::pool_name)]
    pool: Option<String>,
    /// The configuration [default: ./clutch.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Source {
    /// The configuration, with the pools that are meant alone.
    fn load(&self) -> Result<Config, Error> {
        let mut config = named_or_here(self.config.as_deref())?.ok_or(Error::NoConfig)?;
        keep_only(&mut config, self.pool.as_deref())?;
        Ok(config)
    }
}

pub(crate) async fn run(args: Args, global: &Global) -> Result<Exit, Error> {
    match args.verb {
        Verb::List { json } => list(json),
        Verb::Build { source } => build(source.load()?, global).await,
        Verb::Gc { max_age, all, dry_run, json } => {
            let removals = envs::collect(if all { Duration::ZERO } else { max_age }, dry_run)?;
            gc(&removals, dry_run, json)
        }
        Verb::Path { source } => path(&source.load()?),
    }
}

/// What came of declarations.
pub(crate) struct Built {
    /// The configuration, whose pools now have what they declare, where that could be had.
    pub(crate) config: Config,
    pub(crate) provided: Vec<Provided>,
    pub(crate) failures: Failures,
}

/// Builds what the pools of a configuration declare. Ctrl-C leaves nothing half-made behind.
pub(crate) async fn provide(mut config: Config, interrupt: &mut Interrupt) -> Result<Built, Error> {
    let keeper = connect::keeper()?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&cancelled);
    let mut building = tokio::task::spawn_blocking(move || {
        let (provided, failures) = keeper.provide(&mut config, &told, |_| false);
        Built { config, provided, failures }
    });
    tokio::select! {
        built = &mut building => Ok(built.expect("building does not panic")),
        ask = interrupt.wait() => {
            cancelled.store(true, Ordering::Relaxed);
            // What was begun is killed first.
            let _ = building.await;
            Err(Error::Interrupted(ask))
        }
    }
}

async fn build(config: Config, global: &Global) -> Result<Exit, Error> {
    let level = if global.verbose { "debug" } else { "info" };
    let _log = logging::start(LogFormat::Text, level)?;
    let mut interrupt = Interrupt::install().map_err(Error::Prepare)?;
    let Built { provided, failures, .. } = provide(config, &mut interrupt).await?;
    let text = provided.iter().fold(String::new(), |text, one| {
        let how = if one.reused { "was there" } else { "built" };
        text + &format!("pool {}: {how}: {}\n", one.pool, one.env.display())
    });
    output::page(&output::escape_block(&text)).map_err(Error::Output)?;
    if provided.is_empty() && failures.is_empty() {
        output::note("no pool declares an environment: there is nothing to build");
    }
    if failures.is_empty() { Ok(Exit::Ok) } else { Err(ServeError::Environments(failures).into()) }
}

fn path(config: &Config) -> Result<Exit, Error> {
    let Some((_, pool)) = config.pools.first_key_value() else { return Err(Error::NoConfig) };
    if config.pools.len() > 1 {
        let known = config.pools.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::WhichPool { known });
    }
    let path = match (&pool.python, connect::keeper()?.locate(pool)?) {
        (_, Some((path, true))) => path,
        (_, Some((_, false))) => return Err(Error::EnvNotBuilt { pool: pool.name.clone() }),
        (Python::Venv(path), None) => path.clone(),
        (_, None) => return Err(no_env(pool)),
    };
    output::page(&format!("{}\n", path.display())).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn no_env(pool: &Pool) -> Error {
    Error::NoEnv { pool: pool.name.clone() }
}

fn list(as_json: bool) -> Result<Exit, Error> {
    let found = envs::list()?;
    let text = if as_json { laid_out(serde_json::to_string(&found)) } else { page(&found) };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn laid_out(json: serde_json::Result<String>) -> String {
    json::pretty(&json.expect("it is plain data")) + "\n"
}

fn page(found: &[Found]) -> String {
    let head = ["key", "state", "python", "size", "last used", "pools", "made of"];
    let rows = found.iter().map(|env| {
        vec![
            dash(&env.key),
            state(env).to_owned(),
            dash(&env.python),
            size(env.bytes),
            dash(&env.last_used.map_or_else(String::new, |at| ago(at) + " ago")),
            dash(&env.pools.join(", ")),
            dash(&env.made_of),
        ]
    });
    table(&head, &[3], rows.collect())
}

const fn state(env: &Found) -> &'static str {
    match (env.complete, env.in_use) {
        (true, true) => "in use",
        (true, false) => "unused",
        (false, true) => "building",
        (false, false) => "leftover",
    }
}

fn gc(removals: &[Removal], dry: bool, as_json: bool) -> Result<Exit, Error> {
    let text =
        if as_json { laid_out(serde_json::to_string(removals)) } else { gc_page(removals, dry) };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn gc_page(removals: &[Removal], dry: bool) -> String {
    let mut text = String::new();
    let mut freed = 0;
    for Removal { found, kept } in removals {
        let what = if found.complete { found.made_of.as_str() } else { "a leftover" };
        let decision = match kept {
            Some(Kept::InUse) => "kept, in use",
            Some(Kept::Young) => "kept, used lately",
            None if dry => "would be removed",
            None => "removed",
        };
        if kept.is_none() {
            freed += found.bytes;
        }
        let line = format!("{} ({}, {what}): {decision}", found.key, size(found.bytes));
        text += &format!("{}\n", output::escape_line(&line));
    }
    let verb = if dry { "would be freed" } else { "freed" };
    text + &format!("{} {verb}\n", size(freed))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn ago(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    span(now.saturating_sub(seconds) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(complete: bool, in_use: bool) -> Found {
        Found {
            key: "0123".to_owned(),
            path: "/s/0123/env".into(),
            complete,
            in_use,
            python: "3.12.1".to_owned(),
            interpreter: "/usr/bin/python3".into(),
            made_of: "requirements = [\"numpy>=2\"]".to_owned(),
            bytes: 3 << 20,
            last_used: None,
            pools: vec!["a".to_owned(), "b".to_owned()],
        }
    }

    #[test]
    fn each_environment_is_one_line() {
        let page = page(&[found(true, true), found(false, false)]);
        let lines: Vec<_> = page.lines().collect();
        assert_eq!(3, lines.len(), "{page}");
        for word in ["0123", "in use", "3.12.1", "3 MiB", "a, b", "numpy>=2"] {
            assert!(lines[1].contains(word), "{word} in {page}");
        }
        assert!(lines[2].contains("leftover"), "{page}");
    }

    #[test]
    fn what_goes_and_what_stays_is_said_with_the_reason() {
        let removals = [
            Removal { found: found(true, true), kept: Some(Kept::InUse) },
            Removal { found: found(true, false), kept: Some(Kept::Young) },
            Removal { found: found(false, false), kept: None },
        ];
        let text = gc_page(&removals, false);
        assert!(text.contains("numpy>=2\"]): kept, in use\n"), "{text}");
        assert!(text.contains(": kept, used lately\n"), "{text}");
        assert!(text.ends_with("a leftover): removed\n3 MiB freed\n"), "{text}");
        assert!(gc_page(&removals, true).ends_with("would be removed\n3 MiB would be freed\n"));
        assert!(laid_out(serde_json::to_string(&removals)).contains("\"kept\": \"in_use\""));
    }
}
