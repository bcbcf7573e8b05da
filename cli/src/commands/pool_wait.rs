//! `clutch pool ORDER --wait`: until an order is carried out, or a bound has passed.
//!
//! An order changes what a pool wants; how far it is, its status shows. That is looked at, at first
//! soon and then less often, since workers take their time and calls even more.

use std::collections::BTreeSet;
use std::time::Duration;

use clutch_client::{Client, PoolOrder, WorkerId};
use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::status::PoolStatus;
use tokio::time::Instant;

use crate::args;
use crate::error::Error;

/// The shortest and longest pause between two looks.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_millis(500)];

/// Whether to wait, and for how long.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// Wait until the order is carried out; exit code 4 when that takes too long
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait [default: 60s]
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = args::timeout)]
    timeout: Option<Duration>,
}

impl WaitArgs {
    /// For orders that are carried out at once.
    pub(crate) const NONE: WaitArgs = WaitArgs { wait: false, timeout: None };
}

/// An order that is being carried out.
pub(crate) struct Waiting<'a> {
    client: &'a Client,
    name: &'a str,
    order: PoolOrder,
    /// The workers that were there before it.
    before: BTreeSet<WorkerId>,
    /// The worker that had died last before it.
    died: Option<WorkerId>,
}

impl<'a> Waiting<'a> {
    /// Notes what is there before the order is given.
    pub(crate) async fn prepare(
        client: &'a Client,
        name: &'a str,
        order: PoolOrder,
    ) -> Result<Waiting<'a>, Error> {
        let pool = look(client, name).await?;
        let before = pool.workers.iter().map(|worker| worker.id).collect();
        let died = pool.last_death.map(|death| death.worker);
        Ok(Waiting { client, name, order, before, died })
    }

    /// Waits until the order is carried out.
    pub(crate) async fn end(self, args: WaitArgs) -> Result<(), Error> {
        let timeout = args.timeout.unwrap_or(Duration::from_secs(60));
        let end = Instant::now() + timeout;
        let mut pause = PAUSES[0];
        loop {
            let pool = look(self.client, self.name).await?;
            let rest = match rest(self.order, &self.before, &pool) {
                Rest::Nothing => return Ok(()),
                Rest::Hopeless => return Err(self.fails(pool.reason)),
                Rest::Some(rest) => rest,
            };
            if let Some(death) = self.failed_start(&pool) {
                return Err(self.fails(death.to_string()));
            }
            let now = Instant::now();
            if now >= end {
                let name = self.name.to_owned();
                return Err(Error::OrderUnderWay { name, timeout, rest });
            }
            tokio::time::sleep_until(end.min(now + pause)).await;
            pause = (pause * 2).min(PAUSES[1]);
        }
    }

    fn fails(&self, reason: String) -> Error {
        Error::OrderFails { name: self.name.to_owned(), reason }
    }

    /// The death of a worker that was started for the order and did not become ready. Those that
    /// were there go on, and the next one is made of the same.
    fn failed_start<'p>(&self, pool: &'p PoolStatus) -> Option<&'p Certificate> {
        let death = pool.last_death.as_ref()?;
        let starts = matches!(self.order, PoolOrder::Recycle | PoolOrder::Resize { .. });
        let failed = matches!(death.cause, Cause::StartFailed | Cause::StartTimedOut);
        (starts && failed && self.died != Some(death.worker)).then_some(death)
    }
}

async fn look(client: &Client, name: &str) -> Result<PoolStatus, Error> {
    let status = client.status().await.map_err(Error::from)?;
    let known: Vec<_> = status.pools.iter().map(|pool| pool.name.clone()).collect();
    let found = status.pools.into_iter().find(|pool| pool.name == name);
    found.ok_or_else(|| Error::NoSuchPool { name: name.to_owned(), known: known.join(", ") })
}

/// What is left to be done.
#[derive(Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    Some(String),
    /// It will not be done by itself: the pool's workers do not start.
    Hopeless,
}

fn rest(order: PoolOrder, before: &BTreeSet<WorkerId>, pool: &PoolStatus) -> Rest {
    let calls = match order {
        PoolOrder::Pause => pool.running,
        PoolOrder::Drain => pool.running + pool.queued,
        PoolOrder::Resize { .. } | PoolOrder::Recycle => {
            return rest_of_workers(order, before, pool);
        }
        PoolOrder::Resume | PoolOrder::Reset => 0,
    };
    match calls {
        0 => Rest::Nothing,
        1 => Rest::Some("1 call is not done".to_owned()),
        calls => Rest::Some(format!("{calls} calls are not done")),
    }
}

fn rest_of_workers(order: PoolOrder, before: &BTreeSet<WorkerId>, pool: &PoolStatus) -> Rest {
    let is_up = |state: &str| matches!(state, "ready" | "busy" | "interrupting");
    let up = pool.workers.iter().filter(|worker| is_up(&worker.state)).count();
    let wanted = usize::try_from(pool.workers_wanted).unwrap_or(usize::MAX);
    let old = match order {
        PoolOrder::Recycle => {
            pool.workers.iter().filter(|worker| before.contains(&worker.id)).count()
        }
        _ => 0,
    };
    if pool.state == "crash_loop" {
        return Rest::Hopeless;
    }
    // Whoever is neither up nor wanted is on its way out.
    if up == wanted && pool.workers.len() == up && old == 0 {
        return Rest::Nothing;
    }
    let going = pool.workers.len() - up;
    Rest::Some(match old {
        0 => format!("{up} of {wanted} workers are ready, {going} others are coming or going"),
        1 => "1 worker is still the old one".to_owned(),
        old => format!("{old} workers are still the old ones"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(states: &[(u32, &str)], calls: (u64, u64)) -> PoolStatus {
        let workers: Vec<_> = states
            .iter()
            .map(|(generation, state)| {
                json!({
                    "slot": 0, "generation": generation, "state": state, "reason": "",
                    "since_ms": 0, "pid": 1, "python": "", "function": null, "call": null,
                    "call_ms": null, "calls_served": 0, "activity": "", "rss_bytes": 0, "cpu_ms": 0,
                })
            })
            .collect();
        let fields = json!({
            "name": "p", "state": "running", "reason": "", "python": "", "workers_wanted": 2,
            "workers": workers, "queued": calls.1, "queued_oldest_ms": 0, "running": calls.0,
            "queue_limit": 9, "counters": {},
        });
        serde_json::from_value(fields).unwrap()
    }

    fn is_done(order: PoolOrder, pool: &PoolStatus) -> bool {
        let before = [WorkerId { slot: 0, generation: 1 }].into();
        rest(order, &before, pool) == Rest::Nothing
    }

    #[test]
    fn a_pause_waits_for_running_calls_and_a_drain_for_all() {
        for (calls, pause, drain) in
            [((1, 0), false, false), ((0, 3), true, false), ((0, 0), true, true)]
        {
            let pool = pool(&[], calls);
            assert_eq!((pause, drain), {
                (is_done(PoolOrder::Pause, &pool), is_done(PoolOrder::Drain, &pool))
            });
        }
    }

    #[test]
    fn a_recycle_waits_for_the_last_old_one_and_a_resize_for_the_last_to_come_or_go() {
        let resize = PoolOrder::Resize { min: 2, max: 2 };
        for (states, resized, recycled) in [
            (&[(1, "ready"), (2, "busy")][..], true, false),
            (&[(3, "ready"), (2, "busy")], true, true),
            (&[(3, "ready"), (2, "starting")], false, false),
            (&[(3, "ready"), (2, "busy"), (4, "retiring")], false, false),
            (&[(3, "ready")], false, false),
        ] {
            let pool = pool(states, (0, 0));
            assert_eq!(
                (resized, recycled),
                (is_done(resize, &pool), is_done(PoolOrder::Recycle, &pool)),
                "{states:?}"
            );
        }
        let mut broken = pool(&[], (0, 0));
        broken.state = "crash_loop".into();
        assert_eq!(Rest::Hopeless, rest(resize, &BTreeSet::new(), &broken));
    }
}
