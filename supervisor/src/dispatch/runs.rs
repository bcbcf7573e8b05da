//! Programs that clients run: whether one may start, which of them are there, and what a stop of
//! the daemon means to them. What one does is between its session and its guardian.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use clutch_protocol::message::{
    RunProgram, RunRefusal, RunRefused, Spawn, SpawnFailed, SpawnProgram,
};
use clutch_protocol::status::RunStatus;
use tokio::sync::{oneshot, watch};

use super::core::Core;
use super::dispatcher::{Dispatcher, PoolState};
use super::guardians::describe_program_failure;
use crate::config;
use crate::pool;
use crate::run::recipe;
use crate::worker::spawner::{LaunchError, Order, ProgramStarted};

/// What the daemon wants of every program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    GoOn,
    /// To have ended by then; whoever has not is asked to, and killed after its pool's grace.
    EndBy(Instant),
    /// To end at once.
    End,
}

/// The programs that run, or are about to.
#[derive(Debug)]
pub(super) struct Runs {
    list: BTreeMap<u64, Run>,
    last: u64,
    verdict: watch::Sender<Verdict>,
}

#[derive(Debug)]
struct Run {
    pool: String,
    command: String,
    since: Instant,
    /// 0 before it has one.
    pid: u32,
}

impl Default for Runs {
    fn default() -> Runs {
        let verdict = watch::Sender::new(Verdict::GoOn);
        Runs { list: BTreeMap::new(), last: 0, verdict }
    }
}

impl Runs {
    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Tells all of them, and those to come.
    pub(super) fn judge(&self, verdict: Verdict) {
        self.verdict.send_replace(verdict);
    }

    /// Those of a pool, oldest first.
    pub(super) fn of_pool(&self, pool: &str, now: Instant) -> Vec<RunStatus> {
        let runs = self.list.values().filter(|run| run.pool == pool);
        let status = runs.map(|run| RunStatus {
            pid: run.pid,
            command: run.command.clone(),
            since_ms: u64::try_from(now.saturating_duration_since(run.since).as_millis())
                .unwrap_or(u64::MAX),
        });
        status.collect()
    }
}

/// Whose rules hold for a program that may run.
#[derive(Debug)]
pub(crate) struct Admitted {
    pool: config::Pool,
    base: Spawn,
}

impl Admitted {
    /// Works out the program's process. It looks at paths that its client names, which may be on a
    /// file server that is dead: never on a thread that others wait for.
    pub(crate) fn program(self, asked: RunProgram) -> Result<Box<SpawnProgram>, String> {
        let program = recipe::program(&self.pool, self.base, asked);
        program.map(Box::new).map_err(|fault| fault.to_string())
    }
}

/// A program's place among those that run. It is free when this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    core: Core,
    id: u64,
    pub(crate) pool: String,
    pub(crate) command: String,
    pub(crate) verdict: watch::Receiver<Verdict>,
}

impl Ticket {
    /// The program has been started.
    pub(crate) fn note_started(&self, pid: u32) {
        self.core.with(|dispatcher| {
            if let Some(run) = dispatcher.runs.list.get_mut(&self.id) {
                run.pid = pid;
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.core.with(|dispatcher| dispatcher.runs.list.remove(&self.id));
        // Somebody may be waiting for the last one.
        self.core.note_progress();
    }
}

impl Core {
    /// Judges whether a program may be run.
    pub(crate) fn admit_run(&self, asked: &RunProgram) -> Result<(Admitted, Ticket), RunRefused> {
        let admitted = self.with(|dispatcher| dispatcher.admit_run(asked));
        let (admitted, id, command) = admitted.inspect_err(|_| self.count("runs_refused"))?;
        let verdict = self.with(|dispatcher| dispatcher.runs.verdict.subscribe());
        let pool = admitted.pool.name.clone();
        Ok((admitted, Ticket { core: self.clone(), id, pool, command, verdict }))
    }

    /// What a guardian could not do for a program of this pool, in words.
    pub(crate) fn describe_program_failure(&self, pool: &str, failed: SpawnFailed) -> String {
        self.with(|dispatcher| {
            let config =
                dispatcher.by_name.get(pool).map(|index| &dispatcher.pools[index.0].config);
            config.map_or_else(String::new, |config| describe_program_failure(failed, config))
        })
    }

    /// Has a program started. What became of it is told there.
    pub(crate) fn start_program(
        &self,
        program: Box<SpawnProgram>,
        streams: Vec<OwnedFd>,
    ) -> Result<oneshot::Receiver<Result<ProgramStarted, LaunchError>>, LaunchError> {
        let (started, outcome) = oneshot::channel();
        let order = Order::Program { program, streams, started };
        self.with(|dispatcher| dispatcher.spawner.order(order))?;
        Ok(outcome)
    }

    /// A program's guardian has ended.
    pub(crate) fn reap_program(&self, guardian: u32, orphans: bool) {
        self.with(|dispatcher| dispatcher.reap(guardian, orphans));
    }
}

/// Why a pool cannot run a program for want of an interpreter or an environment.
fn without_recipe(state: &PoolState) -> String {
    let pool = &state.config.name;
    if state.is_building() {
        return format!(
            "the environment of pool '{pool}' is being built; `clutch status` shows how far that \
             is: try again when it is there"
        );
    }
    match &state.last_death {
        Some(death) if !death.detail.is_empty() => {
            format!("pool '{pool}' cannot start anything: {}", death.detail)
        }
        _ => format!("the interpreter of pool '{pool}' cannot be used; `clutch status` says why"),
    }
}

impl Dispatcher {
    fn admit_run(&mut self, asked: &RunProgram) -> Result<(Admitted, u64, String), RunRefused> {
        let refuse = |refusal, sentence| Err(RunRefused { refusal, sentence });
        if self.stopping {
            return refuse(RunRefusal::ShuttingDown, "the daemon is stopping".to_owned());
        }
        let Some(index) = self.by_name.get(&asked.pool).copied() else {
            let pools = self.pools.iter().filter(|pool| !pool.removed);
            let known: Vec<_> = pools.map(|pool| pool.config.name.as_str()).collect();
            let name = asked.pool.escape_debug();
            let sentence =
                format!("there is no pool '{name}'; the pools are: {}", known.join(", "));
            return refuse(RunRefusal::NoSuchPool, sentence);
        };
        let state = &self.pools[index.0];
        self.may_run(state)?;
        let pool = state.config.name.clone();
        let command = recipe::command(&asked.arguments);
        let Some(base) = state.recipe.as_ref().map(|recipe| recipe.spawn_without_slot()) else {
            let refusal = match state.is_building() {
                true => RunRefusal::NotYet,
                false => RunRefusal::CannotStart,
            };
            return refuse(refusal, without_recipe(state));
        };
        let admitted = Admitted { pool: state.config.clone(), base };
        self.pools[index.0].counters.one("runs");
        self.runs.last += 1;
        let id = self.runs.last;
        let (since, pid) = (Instant::now(), 0);
        let run = Run { pool, command: command.clone(), since, pid };
        self.runs.list.insert(id, run);
        Ok((admitted, id, command))
    }

    fn may_run(&self, state: &PoolState) -> Result<(), RunRefused> {
        let refuse = |refusal, sentence| Err(RunRefused { refusal, sentence });
        let name = &state.config.name;
        if !state.config.runs_programs() {
            let why = match state.config.run.allow {
                Some(_) => format!("pool '{name}' runs no programs (run.allow = false)"),
                None => format!(
                    "pool '{name}' has an `allow` list, so it runs no programs unless its \
                     configuration says run.allow = true"
                ),
            };
            return refuse(RunRefusal::NotAllowed, why);
        }
        if matches!(state.policy.state(), pool::PoolState::Closed) {
            let sentence = format!("an operator drains pool '{name}'; resume it first");
            return refuse(RunRefusal::NotAllowed, sentence);
        }
        let at_once = state.config.run.at_once;
        let running = self.runs.list.values().filter(|run| run.pool == *name).count();
        if running >= at_once as usize {
            let sentence = format!(
                "pool '{name}' runs {running} programs already; wait for one to end, or raise \
                 run.at_once"
            );
            return refuse(RunRefusal::TooMany, sentence);
        }
        Ok(())
    }
}
