//! `clutch pythons`: the interpreters of this machine, and which pools run which.

use std::path::PathBuf;

use clutch_supervisor::config::Config;
use clutch_supervisor::interpreter::{Cache, Facts, Known, Survey, survey};
use clutch_supervisor::package::state_dir;
use serde_json::{Value, json};

use crate::commands::config::named_or_here;
use crate::commands::status::{dash, table};
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, output};

/// Show the Pythons of this machine, and which pools run which
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks where the key `python` of a pool is looked for: on PATH, in pyenv, in uv and in the system's
directories, and shows what a configuration names beside. What each says of itself is kept in the
state directory, and asked again when its file changes. A Python that cannot run workers is shown
with the reason.

Examples:
  clutch pythons
  clutch pythons --config prod.toml
  clutch pythons --json | jq -r '.pythons[] | select(.interpreter.pip == null) | .path'")]
pub(crate) struct Args {
    /// Show the pools of this configuration [default: ./clutch.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print everything as JSON; docs/PYTHONS.md explains the fields
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Error> {
    let config = named_or_here(args.config.as_deref())?;
    let survey = look(config.as_ref())?;
    let text = if args.json {
        json::pretty(&as_json(&survey).to_string()) + "\n"
    } else {
        output::escape_block(&page(&survey)).into_owned()
    };
    output::page(&text).map_err(Error::Output)?;
    Ok(Exit::Ok)
}

fn look(config: Option<&Config>) -> Result<Survey, Error> {
    let cwd = std::env::current_dir().map_err(Error::CurrentDirectory)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    Ok(survey(config, &path, &cwd, &cache()))
}

/// What is known of interpreters; in memory only, where there is no state directory.
pub(crate) fn cache() -> Cache {
    state_dir().map_or_else(|_| Cache::default(), |directory| Cache::in_state(&directory))
}

fn page(survey: &Survey) -> String {
    let head = ["version", "kind", "found in", "abi", "pip", "pools", "executable"];
    let rows = survey.pythons.iter().filter_map(|known| {
        let facts = known.facts.as_ref().ok()?;
        Some(vec![
            version(facts),
            dash(&facts.kind),
            known.place.name().to_owned(),
            dash(&facts.abi),
            dash(facts.pip.as_deref().unwrap_or_default()),
            dash(&known.pools.join(", ")),
            dash(&known.path.to_string_lossy()),
        ])
    });
    let mut text = match rows.collect::<Vec<_>>() {
        rows if rows.is_empty() => "no Python that can run workers was found\n".to_owned(),
        rows => table(&head, &[], rows),
    };
    for Known { facts, .. } in &survey.pythons {
        if let Err(error) = facts {
            text += &format!("refused: {}\n", output::escape_line(&error.to_string()));
        }
    }
    for choice in &survey.pools {
        if let Err(error) = &choice.executable {
            let error = error.to_string();
            text += &format!("pool {}: {}\n", choice.pool, output::escape_line(&error));
        }
    }
    text
}

/// An interpreter in one line.
pub(crate) fn described(facts: &Facts) -> String {
    let Facts { implementation, kind, abi, pip, .. } = facts;
    let pip = pip.as_ref().map_or("no pip".to_owned(), |version| format!("pip {version}"));
    format!("{implementation} {} ({kind}), {abi}, {pip}", version(facts))
}

/// `3.13.0` or `3.13.0 free-threaded`.
fn version(facts: &Facts) -> String {
    let kind = if facts.free_threaded { " free-threaded" } else { "" };
    format!("{}{kind}", facts.version)
}

fn as_json(survey: &Survey) -> Value {
    let pythons = survey.pythons.iter().map(|known| {
        let refused = known.facts.as_ref().err().map(ToString::to_string);
        json!({
            "path": known.path.to_string_lossy(),
            "found_in": known.place.name(),
            "interpreter": known.facts.as_ref().ok(),
            "refused": refused,
            "pools": known.pools,
        })
    });
    let pools = survey.pools.iter().map(|choice| {
        json!({
            "pool": choice.pool,
            "executable": choice.executable.as_ref().ok().map(|path| path.to_string_lossy()),
            "refused": choice.executable.as_ref().err().map(ToString::to_string),
        })
    });
    json!({ "pythons": pythons.collect::<Vec<_>>(), "pools": pools.collect::<Vec<_>>() })
}
