//! The life of a call, read off the history: what happened to it, what became of its worker, and
//! what kept it waiting.
//!
//! The ring is gone through a few times, which takes well under a millisecond when it is full; a
//! session pays for that as it does for a status.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use clutch_protocol::failure::Ancestor;
use clutch_protocol::message::WorkerId;
use clutch_protocol::operate::{Ahead, Denial, Explanation, Step};

use super::call::Call;
use super::core::Core;
use super::dispatcher::{Dispatcher, PoolState};
use super::explain_steps::word;
use super::history::{Record, What};
use super::operate::Denied;
use crate::limits::EXPLAIN_ITEMS_MAX;
use crate::pool::CallKey;
use crate::pool::queue::Place;
use crate::worker::spawner::PoolIndex;

impl Core {
    /// The life of a call.
    ///
    /// # Errors
    ///
    /// When there never was such a call, or nothing is known of it any more.
    pub(crate) fn explain(&self, call: u64) -> Result<Explanation, Denied> {
        self.with(|dispatcher| dispatcher.explain(Instant::now(), CallKey(call)))
    }
}

/// The stretch of the history that a call has lived through.
struct Life {
    call: CallKey,
    pool: PoolIndex,
    /// When the call came in, or its first record if that is lost.
    origin_ns: u64,
    /// Every record about the call itself, with its place in the history.
    own: Vec<(usize, Record)>,
    /// The place of its arrival, if that is known.
    arrived: Option<usize>,
    /// The place at which it was handed to a worker first, or behind everything if it was not.
    assigned: usize,
}

impl Life {
    fn since_us(&self, at_ns: u64) -> i64 {
        let (at, origin) = (at_ns / 1000, self.origin_ns / 1000);
        i64::try_from(at).unwrap_or(i64::MAX) - i64::try_from(origin).unwrap_or(i64::MAX)
    }

    /// Its first record of this kind.
    fn first(&self, what: What) -> Option<&(usize, Record)> {
        self.own.iter().find(|(_, record)| record.what == what)
    }
}

impl Dispatcher {
    fn explain(&self, now: Instant, call: CallKey) -> Result<Explanation, Denied> {
        let Some(life) = self.life(call) else {
            let denied = self.no_call(now, call);
            return Err(match denied.denial {
                Denial::Ended => Denied::new(
                    Denial::Ended,
                    format!(
                        "call {} was answered so long ago that nothing is known of it any more; \
                         the daemon's log may know it",
                        call.0
                    ),
                ),
                _ => denied,
            });
        };
        // The place of a pool that was removed may be another one's by now.
        let is_its_own =
            |state: &&PoolState| self.history.since_start(state.since) <= life.origin_ns;
        let state = self.pools.get(life.pool.0).filter(is_its_own);
        let place = state.and_then(|state| state.policy.calls().place(call));
        let (ahead, ahead_left_out) = self.ahead(&life);
        let answer = life.own.iter().rev().find(|(_, record)| record.what == What::Answered);
        Ok(Explanation {
            call: call.0,
            pool: state.map(|state| state.config.name.clone()).unwrap_or_default(),
            function: self.function_of(&life),
            state: match place {
                Some(Place::Running(_)) => "running",
                Some(_) => "queued",
                // Its pool has done with it, and its answer is on the way to its caller.
                None if self.calls.contains_key(&call) => "running",
                None => "answered",
            }
            .to_owned(),
            outcome: answer.map(|(_, record)| self.history.spell(record.word).to_owned()),
            arrived_unix_ms: self.arrived_unix_ms(now, &life),
            beginning_lost: life.arrived.is_none(),
            steps: self.steps(&life),
            ahead,
            ahead_left_out,
            chain: self.chain_of(&life),
            waits_for: self
                .nesting
                .children(call)
                .map(|(it, _)| it.0)
                .take(EXPLAIN_ITEMS_MAX)
                .collect(),
            phases: self.calls.get(&call).zip(state).map(|(owed, it)| owed.phases(now, &it.policy)),
        })
    }

    /// Where in the history a call is; none when it is not there and not owed an answer.
    fn life(&self, call: CallKey) -> Option<Life> {
        let numbered = self.history.records().enumerate();
        let own: Vec<_> = numbered
            .filter(|(_, record)| record.about() == Some(call))
            .map(|(place, record)| (place, *record))
            .collect();
        let owed = self.calls.get(&call);
        let first = own.first().map(|(_, record)| record);
        let pool = first.map(Record::pool).or(owed.map(Call::pool))?;
        let origin_ns = match owed {
            Some(owed) => self.history.since_start(owed.arrived()),
            None => first?.at_ns,
        };
        let mut life = Life { call, pool, origin_ns, own, arrived: None, assigned: usize::MAX };
        life.arrived = life.first(What::Arrived).map(|(place, _)| *place);
        life.assigned = match life.first(What::Assigned) {
            Some((place, _)) => *place,
            None if owed.is_some_and(|owed| owed.worker().is_some()) => 0,
            None => usize::MAX,
        };
        Some(life)
    }

    fn function_of(&self, life: &Life) -> String {
        if let Some(owed) = self.calls.get(&life.call) {
            return owed.function().to_string();
        }
        let arrival = life.first(What::Arrived);
        arrival.map(|(_, record)| self.name_of(record)).unwrap_or_default()
    }

    /// The function of an arrival.
    pub(super) fn name_of(&self, arrival: &Record) -> String {
        let name = self.history.function_name(arrival.extra);
        name.map(|name| name.to_string()).unwrap_or_default()
    }

    fn arrived_unix_ms(&self, now: Instant, life: &Life) -> Option<u64> {
        if life.arrived.is_none() && !self.calls.contains_key(&life.call) {
            return None;
        }
        let today = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_nanos();
        let ago = self.history.since_start(now).saturating_sub(life.origin_ns);
        u64::try_from(today.saturating_sub(u128::from(ago)) / 1_000_000).ok()
    }

    /// What happened to the call and to its worker, in order.
    fn steps(&self, life: &Life) -> Vec<Step> {
        let mut steps = self.lost_steps(life);
        // Where the beginning is forgotten, nobody has counted.
        let mut attempt = life.arrived.map(|_| 1);
        let mut with: Option<WorkerId> = self.calls.get(&life.call).and_then(Call::worker);
        let mut of_pool = 0;
        let numbered = self.history.records().enumerate();
        for (place, record) in numbered.filter(|(_, record)| record.pool() == life.pool) {
            let own = record.about() == Some(life.call);
            let waits =
                life.arrived.is_some_and(|arrived| place > arrived) && place < life.assigned;
            let of_its_worker = record.what.is_workers() && with.is_some() && record.with() == with;
            if own || (of_its_worker && place > life.assigned) {
                let mut step = self.step(life.since_us(record.at_ns), record);
                if own && matches!(record.what, What::Assigned | What::MovedBack | What::Retried) {
                    step.attempt = attempt;
                }
                if own && record.what == What::Retried {
                    attempt = attempt.map(|attempt| attempt + 1);
                }
                steps.push(step);
            } else if waits && record.what.is_workers() && of_pool < EXPLAIN_ITEMS_MAX {
                of_pool += 1;
                steps.push(self.step(life.since_us(record.at_ns), record));
            }
            with = match record.what {
                What::Assigned if own => record.with(),
                what if what.frees(own) && record.with() == with => None,
                _ => with,
            };
        }
        steps
    }

    /// What is known of a call's beginning though the history has forgotten it.
    fn lost_steps(&self, life: &Life) -> Vec<Step> {
        let (None, Some(owed)) = (life.arrived, self.calls.get(&life.call)) else {
            return Vec::new();
        };
        let mut steps = vec![Step {
            at_us: 0,
            what: word(What::Arrived).to_owned(),
            detail: owed.function().to_string(),
            worker: None,
            pid: None,
            attempt: None,
        }];
        let is_known = life.first(What::Assigned).is_some();
        if let Some((at, worker)) = owed.assigned().filter(|_| !is_known) {
            let at_us = life.since_us(self.history.since_start(at));
            let pid = self.pid(life.pool, worker);
            steps.push(Step {
                at_us: u64::try_from(at_us).unwrap_or(0),
                what: word(What::Assigned).to_owned(),
                detail: String::new(),
                worker: Some(worker),
                pid: (pid != 0).then_some(pid),
                attempt: Some(owed.attempts.number()),
            });
        }
        steps
    }

    /// The calls that wait for it, or waited, as far as they are known.
    fn chain_of(&self, life: &Life) -> Vec<Ancestor> {
        if self.calls.contains_key(&life.call) {
            return self.chain(life.call);
        }
        // Backwards: who waits for a call came in before it.
        let mut youngest = life.call;
        let mut found: Vec<(CallKey, Option<&Record>)> = Vec::new();
        for record in self.history.records().rev() {
            let Some(about) = record.about() else { continue };
            if record.what == What::Nested && record.extra != 0 && about == youngest {
                youngest = CallKey(youngest.0 - u64::from(record.extra));
                found.push((youngest, None));
            } else if record.what == What::Arrived
                && let Some((_, arrival)) = found.iter_mut().find(|(call, _)| *call == about)
            {
                *arrival = Some(record);
            }
        }
        // Of one whose arrival is forgotten, neither it nor who waits for it is told.
        let known = found.into_iter().map_while(|(call, arrival)| {
            let arrival = arrival?;
            let pool = self.pools.get(arrival.pool().0);
            let pool = pool.map(|state| state.config.name.clone()).unwrap_or_default();
            Some(Ancestor { call: call.0, pool, function: self.name_of(arrival) })
        });
        let mut chain: Vec<_> = known.collect();
        chain.reverse();
        chain
    }

    /// What kept the workers of its pool busy while it waited, and how much of that is left out.
    fn ahead(&self, life: &Life) -> (Vec<Ahead>, u64) {
        let Some(arrived) = life.arrived else {
            return (Vec::new(), 0);
        };
        if life.first(What::Queued).is_none() {
            return (Vec::new(), 0);
        }
        let mut open: BTreeMap<CallKey, (WorkerId, u64)> = BTreeMap::new();
        let mut ahead: Vec<Ahead> = Vec::new();
        let mut left_out = 0;
        let numbered = self.history.records().enumerate();
        for (place, record) in numbered.filter(|(_, record)| record.pool() == life.pool) {
            if place == arrived {
                for (call, (worker, at_ns)) in std::mem::take(&mut open) {
                    push_ahead(life, &mut ahead, &mut left_out, (worker, call, at_ns));
                }
            }
            let Some(worker) = record.with() else { continue };
            if place < arrived {
                match (record.what, record.about()) {
                    (What::Assigned, Some(call)) => {
                        open.insert(call, (worker, record.at_ns));
                    }
                    (What::Died, _) => open.retain(|_, (at, _)| *at != worker),
                    (what, Some(call)) if what.frees(true) => {
                        open.remove(&call);
                    }
                    _ => {}
                }
                continue;
            }
            let ends = |one: &&mut Ahead| {
                let own = record.about() == Some(CallKey(one.call));
                one.worker == worker && one.until_us.is_none() && record.what.frees(own)
            };
            for one in ahead.iter_mut().filter(ends) {
                one.until_us = Some(life.since_us(record.at_ns));
            }
            let before = record.what == What::Assigned && place < life.assigned;
            if let Some(call) = record.about().filter(|call| before && *call != life.call) {
                push_ahead(life, &mut ahead, &mut left_out, (worker, call, record.at_ns));
            }
        }
        self.name_ahead(&mut ahead);
        (ahead, left_out)
    }

    /// Looks the functions up of all of them in one go.
    fn name_ahead(&self, ahead: &mut [Ahead]) {
        for record in self.history.records().filter(|record| record.what == What::Arrived) {
            let is = |one: &&mut Ahead| record.about() == Some(CallKey(one.call));
            for one in ahead.iter_mut().filter(is) {
                one.function = self.name_of(record);
            }
        }
    }
}

fn push_ahead(
    life: &Life,
    ahead: &mut Vec<Ahead>,
    left_out: &mut u64,
    (worker, call, at_ns): (WorkerId, CallKey, u64),
) {
    if ahead.len() >= EXPLAIN_ITEMS_MAX {
        *left_out += 1;
        return;
    }
    ahead.push(Ahead {
        call: call.0,
        function: String::new(),
        worker,
        from_us: life.since_us(at_ns),
        until_us: None,
    });
}
