//! Pools as patients: a private supervisor for some of them, and the calls that are their checks.

use std::collections::BTreeMap;
use std::time::Duration;

use clutch_client::{Client, Failure};
use clutch_protocol::failure::Reason;
use clutch_supervisor::config::{Config, Pool};
use clutch_supervisor::doctor::pool::{self as outside, INTERPRETER, VARIABLES};
use clutch_supervisor::doctor::{Finding, Status};
use clutch_supervisor::prepare::PoolFault;
use clutch_supervisor::{Local, ServeError};
use serde_json::Value;

use super::checks::{CHECK_TIMEOUT, Check, Checks, Next};
use super::judge;
use crate::connect;
use crate::error::Error;
use crate::interrupt::Interrupt;

/// Deaths that are forgiven beyond one for each check, so that the last one is still made.
const DEATHS_MORE: u32 = 8;

/// Some pools, looked at side by side.
pub(super) struct Round<'a> {
    pub(super) config: &'a Config,
    pub(super) pools: &'a [Pool],
    /// What is imported in each of them.
    pub(super) modules: &'a [String],
    pub(super) import_timeout: Duration,
}

impl Round<'_> {
    /// What is found of each pool, in the order of their names.
    pub(super) async fn findings(&self, interrupt: &mut Interrupt) -> Result<Vec<Finding>, Error> {
        let mut of_pools = self.outside().await;
        let is_usable = |pool: &&Pool| {
            let found = &of_pools[&pool.name];
            !found.iter().any(|it| it.check == INTERPRETER && it.status == Status::Fail)
        };
        let usable: Vec<&Pool> = self.pools.iter().filter(is_usable).collect();
        let mut broken = BTreeMap::new();
        let mut inside = BTreeMap::new();
        if !usable.is_empty() {
            match connect::start(self.private(&usable), interrupt).await {
                Ok(local) => inside = self.inside(local, &usable, interrupt).await?,
                Err(Error::Serve(error)) => broken = reasons(&error, &usable),
                Err(error) => return Err(error),
            }
        }
        let mut all = Vec::new();
        for pool in self.pools {
            let mut found = of_pools.remove(&pool.name).unwrap_or_default();
            let starts = inside.contains_key(&pool.name) && !broken.contains_key(&pool.name);
            found.extend(broken.remove(&pool.name));
            found.extend(inside.remove(&pool.name).unwrap_or_default());
            if !starts || found.iter().any(|it| it.check == "start") {
                blame_variables(&mut found);
                found.extend(self.skipped(pool));
            }
            all.extend(found);
        }
        Ok(all)
    }

    /// What can be seen without workers, of all pools at once.
    async fn outside(&self) -> BTreeMap<String, Vec<Finding>> {
        let looking: Vec<_> = self
            .pools
            .iter()
            .cloned()
            .map(|pool| {
                tokio::task::spawn_blocking(move || (pool.name.clone(), outside::findings(&pool)))
            })
            .collect();
        let mut found = BTreeMap::new();
        for one in looking {
            found.extend([one.await.expect("looking does not panic")]);
        }
        found
    }

    /// The configuration of a private supervisor for these pools.
    fn private(&self, usable: &[&Pool]) -> Config {
        let mut config = self.config.clone();
        config.pools = usable
            .iter()
            .map(|pool| {
                let timeout = self.import_timeout.saturating_mul(2).max(CHECK_TIMEOUT);
                let checks = u32::try_from(self.checks(pool).count()).unwrap_or(u32::MAX);
                let deaths = checks.saturating_add(DEATHS_MORE);
                (pool.name.clone(), outside::patient(pool, timeout, deaths))
            })
            .collect();
        config
    }

    /// Asks workers of all pools, a check at a time in each pool, and stops them.
    async fn inside(
        &self,
        local: Local,
        usable: &[&Pool],
        interrupt: &mut Interrupt,
    ) -> Result<BTreeMap<String, Vec<Finding>>, Error> {
        let stream = local.connect().map_err(Error::Prepare)?;
        let client = Client::from_stream(stream).await?;
        let asked =
            usable.iter().map(|pool| async { (pool.name.clone(), self.ask(&client, pool).await) });
        let found = tokio::select! {
            found = futures_util::future::join_all(asked) => Ok(found.into_iter().collect()),
            ask = interrupt.wait() => Err(Error::Interrupted(ask)),
        };
        drop(client);
        connect::stop(local, true).await;
        found
    }

    async fn ask(&self, client: &Client, pool: &Pool) -> Vec<Finding> {
        let checks = self.checks(pool);
        let mut found: Vec<Finding> = Vec::new();
        let mut python = "python3".to_owned();
        for number in 0.. {
            let check = match checks.next(number, &found) {
                Some(Next::Ask(check)) => check,
                Some(Next::Skip(finding)) => {
                    found.push(finding.of(&pool.name));
                    continue;
                }
                None => break,
            };
            let answer = call(client, &pool.name, &check).await;
            if let Err(failure) = &answer
                && let Reason::CrashLoop { last, .. } = &failure.reason
            {
                let finding = judge::no_start(&last.to_string(), &last.stderr_tail);
                found.push(finding.of(&pool.name));
                return found;
            }
            if let Some(path) = answer.as_ref().ok().and_then(|it| it["executable"].as_str()) {
                path.clone_into(&mut python);
            }
            let finding = match answer {
                Ok(value) => judge::answered(check.id, &value),
                Err(failure) => {
                    judge::failed(check.id, check.subject.as_deref(), &python, &failure)
                }
            };
            found.push(Finding { subject: check.subject, ..finding.of(&pool.name) });
        }
        found
    }

    fn checks<'a>(&'a self, pool: &'a Pool) -> Checks<'a> {
        Checks { pool, modules: self.modules, import_timeout: self.import_timeout }
    }

    /// What could not be looked at, since no worker starts.
    fn skipped(&self, pool: &Pool) -> Vec<Finding> {
        let checks = self.checks(pool);
        let modules = checks.modules().into_iter().map(|module| ("import", module));
        let skipped = modules.chain(checks.starts()).map(|(id, subject)| Finding {
            subject: Some(subject),
            ..Finding::new(id, Status::Skipped, "no worker starts", "").of(&pool.name)
        });
        skipped.collect()
    }
}

async fn call(client: &Client, pool: &str, check: &Check) -> Result<Value, Failure> {
    let request = client.request(check.function).pool(pool).timeout(check.timeout);
    request.args(&check.arguments).send().await
}

/// Where no worker starts, a variable that bends the interpreter is the fault.
fn blame_variables(found: &mut [Finding]) {
    for finding in found {
        if finding.check == VARIABLES && finding.status == Status::Warn {
            finding.status = Status::Fail;
        }
    }
}

/// Why no worker of any of these pools starts, by pool.
fn reasons(error: &ServeError, usable: &[&Pool]) -> BTreeMap<String, Finding> {
    let mut found = BTreeMap::new();
    if let ServeError::Unusable(faults) | ServeError::FirstStart(faults, _) = error {
        for (name, fault) in faults {
            if let Some(pool) = usable.iter().find(|pool| pool.name == *name) {
                let finding = match fault {
                    PoolFault::Interpreter(fault) => outside::interpreter(fault, &pool.python),
                    fault => judge::no_start(&fault.to_string(), ""),
                };
                found.insert(name.clone(), finding.of(name));
            }
        }
    }
    if let ServeError::FirstStart(_, certificates) = error {
        for last in certificates {
            let finding = judge::no_start(&last.to_string(), &last.stderr_tail);
            found.insert(last.pool.clone(), finding.of(&last.pool));
        }
    }
    for pool in usable {
        let name = &pool.name;
        let general = || judge::no_start(&error.to_string(), "").of(name);
        found.entry(name.clone()).or_insert_with(general);
    }
    found
}
