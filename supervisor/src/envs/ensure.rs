//! Having an environment there: by somebody who is at it already, by whoever else builds it, or by
//! building it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::{self, Plan};
use super::error::EnvError;
use super::keeper::Keeper;
use super::mark::Mark;
use super::progress::Stage;
use super::store::{Access, Claim, Entry, Patience};
use super::works::{Cancel, Outcome, Part, Wish, Work};
use crate::prepare::PROBE_TIMEOUT;

/// How often somebody may remove what was just built before it could be locked.
const BUILDS_MAX: u32 = 3;

impl Keeper {
    /// Has the environment there and held; whether it was there before.
    pub(super) fn ensure(&self, plan: &Plan, pools: &[String], wish: &Wish) -> Outcome {
        let env = plan.entry.env();
        loop {
            if self.holds().contains_key(&env) && plan.entry.is_usable() {
                return Ok(true);
            }
            let work = match self.works.join(&env, pools, wish) {
                Part::Lead(lead) => {
                    let outcome = self.see_to(plan, &lead.work).map_err(Arc::new);
                    lead.end(&outcome);
                    return outcome;
                }
                Part::Wait(work) => work,
            };
            match work.wait(wish) {
                // Those that wanted it have given up just before, and this one has not.
                Some(Err(error)) if matches!(*error, EnvError::Cancelled) => {}
                Some(Ok(reused)) => return Ok(reused),
                Some(Err(error)) => {
                    let pool = work.pool.clone();
                    return Err(Arc::new(EnvError::AsOf { pool, error }));
                }
                None => return Err(Arc::new(EnvError::Cancelled)),
            }
        }
    }

    /// The same, where nobody else in this process sees to it.
    fn see_to(&self, plan: &Plan, work: &Work) -> Result<bool, EnvError> {
        let entry = &plan.entry;
        entry.store.sweep();
        if !entry.is_usable() {
            (self.tell)(plan.options.timeout + PROBE_TIMEOUT);
        }
        let told = |holder: &str| {
            work.tell(|progress| progress.enter(Stage::Waiting, &plan.what, "waiting", holder));
        };
        let cancel = Cancel::Work(work);
        // As long as others would need to build it.
        let timeout = plan.options.timeout + PROBE_TIMEOUT;
        for built in 0..BUILDS_MAX {
            match entry.access(Patience { timeout, cancel, told: &told })? {
                Access::Use(hold) => {
                    self.holds().insert(entry.env(), hold);
                    return Ok(built == 0);
                }
                Access::Build(claim) => self.build(plan, claim, work)?,
            }
        }
        Err(EnvError::Vanished(entry.env()))
    }

    fn build(&self, plan: &Plan, claim: Claim, work: &Work) -> Result<(), EnvError> {
        let entry = &plan.entry;
        let cancel = Cancel::Work(work);
        let enter = |stage, phase| {
            work.tell(|progress| progress.enter(stage, &plan.what, phase, ""));
        };
        let slot = self.works.slot(cancel, || enter(Stage::Queued, "queued"));
        let Some(_slot) = slot else { return Err(give_up(entry, claim, EnvError::Cancelled)) };
        enter(Stage::Building, "making");
        entry.clear(&claim)?;
        let env = entry.env().display().to_string();
        let (pool, what, python) = (&plan.pool, &plan.what, &plan.python);
        let tool = plan.builder.name();
        tracing::info!(pool, what, python, tool, env, "building an environment");
        let begun = Instant::now();
        match builder::build(plan, self.means(cancel), work) {
            Ok(()) => {
                let mark = Mark::new(entry.env(), what, &plan.interpreter, python, tool);
                entry.complete(&mark, claim)?;
                let seconds = rounded(begun.elapsed());
                tracing::info!(pool, env, seconds, "the environment is built");
                Ok(())
            }
            Err(error) => Err(give_up(entry, claim, error)),
        }
    }
}

/// What is left of a build is of no use, and without a mark never used; if it cannot be removed
/// now, the next build does it.
fn give_up(entry: &Entry, claim: Claim, error: EnvError) -> EnvError {
    if let Err(left) = entry.remove(claim) {
        tracing::warn!(error = %left, "what a failed build has left is still there");
    }
    error
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}
