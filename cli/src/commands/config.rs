//! `clutch config`: check a configuration file, print the default one, print the schema.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use clutch_supervisor::config::{self, Config, Declared, Python};

use crate::error::Error;
use crate::exit::Exit;
use crate::output;

/// The file that is read when none is named.
pub(crate) const FILE: &str = "clutch.toml";

/// The configuration that an option names, or else the one of this directory, if it has one.
pub(crate) fn named_or_here(named: Option<&Path>) -> Result<Option<Config>, Error> {
    let here = || Some(Path::new(FILE)).filter(|file| file.exists());
    Ok(named.or_else(here).map(config::load).transpose()?)
}

/// Leaves the pool of this name alone, where one is named.
pub(crate) fn keep_only(config: &mut Config, pool: Option<&str>) -> Result<(), Error> {
    let Some(name) = pool else { return Ok(()) };
    let known = config.pools.keys().cloned().collect::<Vec<_>>().join(", ");
    config.pools.retain(|pool, _| pool == name);
    if config.pools.is_empty() {
        return Err(Error::NoSuchPool { name: name.to_owned(), known });
    }
    Ok(())
}

/// Check a configuration file, or print the default one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  clutch config default > clutch.toml     every key, with its default and what it does
  clutch config check                     is ./clutch.toml right?
  clutch config check prod.toml && clutch reload
  clutch config schema > schema.json      for editors that check and complete TOML")]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say whether a configuration file is right and can work here: interpreters are asked who they
    /// are, users, processors and limits are looked up
    Check {
        /// The file
        #[arg(default_value = FILE)]
        file: PathBuf,
    },
    /// Print the default configuration, with every key explained
    Default,
    /// Print the JSON schema of configuration files
    Schema,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Error> {
    match &args.verb {
        Verb::Check { file } => check(file)?,
        Verb::Default => output::page(config::default_text()).map_err(Error::Output)?,
        Verb::Schema => {
            let schema =
                serde_json::to_string_pretty(&config::schema()).expect("a schema is plain data");
            output::page(&(schema + "\n")).map_err(Error::Output)?;
        }
    }
    Ok(Exit::Ok)
}

fn check(file: &Path) -> Result<(), Error> {
    let config = config::load(file)?;
    let findings = clutch_supervisor::findings(&config);
    if !findings.is_empty() {
        return Err(Error::Unworkable { file: file.to_owned(), findings });
    }
    output::page(&summary(&config)).map_err(Error::Output)
}

fn summary(config: &Config) -> String {
    let mut text = String::from("ok\n");
    for pool in config.pools.values() {
        let python = match &pool.python {
            Python::Named(name) => name.clone(),
            Python::File(path) => path.display().to_string(),
            Python::Venv(path) => format!("venv {}", path.display()),
        };
        let installed = pool.declared.as_ref().and_then(Declared::in_words);
        let installed = installed.map_or(String::new(), |words| format!(" with {words}"));
        let spares = match pool.spares {
            0 => String::new(),
            1 => " and a spare".to_owned(),
            count => format!(" and {count} spares"),
        };
        let workers = match (pool.workers_min, pool.workers) {
            (1, 1) => format!("1 worker{spares}"),
            (min, max) if min == max => format!("{max} workers{spares}"),
            (min, max) => format!("{min} to {max} workers{spares}"),
        };
        let main = match &pool.main {
            Some(main) => format!(", main {}", main.argv0),
            None => String::new(),
        };
        text += &format!("pool {}: {python}{installed}, {workers}{main}\n", pool.name);
    }
    output::escape_block(&text).into_owned()
}
