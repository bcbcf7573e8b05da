//! `clutch plan`: what each worker of each pool will get, before anything starts.

use std::fmt::Write as _;
use std::path::PathBuf;

use clutch_supervisor::plan::{Plan, PoolPlan, SlotPlan, plan};

use crate::commands::config::named_or_here;
use crate::commands::pythons::{cache, described};
use crate::commands::status::{dash, table};
use crate::error::Error;
use crate::exit::Exit;
use crate::{json, output};

/// Show what each worker will get, and warn of what is promised twice
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is started but interpreters that are asked who they are. Warnings go to standard error and
do not change the exit code; a configuration that cannot work ends with 8.

Examples:
  clutch plan
  clutch plan --config prod.toml
  clutch plan --json | jq '.pools[] | {name, threads}'")]
pub(crate) struct Args {
    /// The configuration [default: ./clutch.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print everything as JSON; docs/PYTHONS.md explains the fields
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Exit, Error> {
    let config = named_or_here(args.config.as_deref())?.ok_or(Error::NoConfig)?;
    let plan = plan(&config, Some(&cache()));
    let text = if args.json {
        let text = serde_json::to_string(&plan).expect("a plan is plain data");
        json::pretty(&text) + "\n"
    } else {
        output::escape_block(&page(&plan)).into_owned()
    };
    output::page(&text).map_err(Error::Output)?;
    for warning in &plan.warnings {
        output::warning(warning);
    }
    for problem in &plan.problems {
        output::error(problem);
    }
    Ok(if plan.problems.is_empty() { Exit::Ok } else { Exit::Configuration })
}

fn page(plan: &Plan) -> String {
    let mut page = format!("{} to compute on: {}", processors(plan), ranges(&plan.cpus));
    page.push('\n');
    for pool in &plan.pools {
        page.push('\n');
        page.push_str(&section(pool));
    }
    page
}

fn processors(plan: &Plan) -> String {
    match (plan.cpus_at_once, plan.cpus.len()) {
        (1, 1) => "1 processor".to_owned(),
        (at_once, all) if usize::try_from(at_once) == Ok(all) => format!("{all} processors"),
        (at_once, all) => format!("{at_once} of {all} processors at once"),
    }
}

fn section(pool: &PoolPlan) -> String {
    let workers = match (pool.workers_min, pool.workers_max) {
        (1, 1) => "1 worker".to_owned(),
        (min, max) if min == max => format!("{max} workers"),
        (min, max) => format!("{min} to {max} workers"),
    };
    let spares = match pool.spares {
        0 => String::new(),
        1 => " and a spare".to_owned(),
        count => format!(" and {count} spares"),
    };
    let mut text = format!("pool {}: {workers}{spares}\n", pool.name);
    let python = match &pool.interpreter {
        Some(facts) => described(facts),
        None if pool.executable.is_empty() => "none".to_owned(),
        None => "not known before it is started".to_owned(),
    };
    let _ = writeln!(text, "  python   {python}");
    if !pool.executable.is_empty() {
        let _ = writeln!(text, "           {}", output::escape_line(&pool.executable));
    }
    if let Some(installs) = &pool.installs {
        let words = format!("an environment of it with {installs}");
        let _ = writeln!(text, "           {}", output::escape_line(&words));
    }
    let calls = match (pool.mode, pool.calls_at_once) {
        ("one", _) => "one at a time in each worker".to_owned(),
        (mode, count) => format!("up to {count} at once in each worker ({mode})"),
    };
    let _ = writeln!(text, "  calls    {calls}");
    let threads = pool.threads.map_or("as libraries choose".to_owned(), |threads| {
        format!("{threads} for each worker ({})", pool.threads_from)
    });
    let _ = writeln!(text, "  threads  {threads}");
    let limits: Vec<_> = pool.limits.iter().map(|(key, value)| format!("{key} {value}")).collect();
    let _ = writeln!(text, "  limits   {}", limits.join(", "));
    for line in slots(&pool.slots).lines() {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// The slots; those in a row that get the same are one line.
fn slots(slots: &[SlotPlan]) -> String {
    let same = |one: &SlotPlan, other: &SlotPlan| one.cpus == other.cpus && one.gpus == other.gpus;
    let rows = slots.chunk_by(same).map(|run| {
        let (first, last) = (&run[0], &run[run.len() - 1]);
        let name = match run.len() {
            1 => first.slot.to_string(),
            _ => format!("{} to {}", first.slot, last.slot),
        };
        vec![name, ranges(&first.cpus), dash(first.gpus.as_deref().unwrap_or_default())]
    });
    table(&["slot", "cpus", "gpus"], &[], rows.collect())
}

/// `0-3,8`.
fn ranges(cpus: &[u32]) -> String {
    let runs = cpus.chunk_by(|one, next| one + 1 == *next).map(|run| match run {
        [only] => only.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_shown_as_the_system_writes_them() {
        for (cpus, expected) in
            [(&[0_u32][..], "0"), (&[0, 1, 2, 3, 8], "0-3,8"), (&[1, 3], "1,3"), (&[], "")]
        {
            assert_eq!(expected, ranges(cpus));
        }
    }

    #[test]
    fn slots_that_get_the_same_are_one_line() {
        let slot = |slot, cpus: &[u32], gpus: Option<&str>| SlotPlan {
            slot,
            cpus: cpus.to_vec(),
            gpus: gpus.map(str::to_owned),
        };
        let all = slots(&[slot(0, &[0, 1], None), slot(1, &[0, 1], None)]);
        assert_eq!(vec!["slot", "cpus", "gpus", "0", "to", "1", "0-1", "-"], words(&all));
        let own = slots(&[slot(0, &[0], Some("0")), slot(1, &[1], Some("1"))]);
        assert_eq!(vec!["slot", "cpus", "gpus", "0", "0", "0", "1", "1", "1"], words(&own));
    }

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }
}
