//! What operators ask for, done: orders to pools, a call cancelled by somebody else than its
//! caller. How a call's life is told is in `explain`, how stacks are asked for in `stacks`.

use std::time::Instant;

use clutch_protocol::failure::Missing;
use clutch_protocol::name;
use clutch_protocol::operate::{CancelledCall, Denial, PoolOrder};

use super::core::Core;
use super::dispatcher::Dispatcher;
use super::history::What;
use crate::config;
use crate::pool::{CallKey, Event};
use crate::worker::spawner::PoolIndex;

/// Why an operation is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why, for programs.
    pub denial: Denial,
    /// Why and what to do, for people.
    pub sentence: String,
}

impl Denied {
    /// Says why.
    pub fn new(denial: Denial, sentence: impl Into<String>) -> Denied {
        Denied { denial, sentence: sentence.into() }
    }
}

impl Core {
    /// Has a pool do what an operator wants.
    ///
    /// # Errors
    ///
    /// When there is no such pool, the order makes no sense, or the daemon is stopping.
    pub(crate) fn order_pool(&self, pool: &str, order: PoolOrder) -> Result<(), Denied> {
        let order = check_order(order)?;
        let pool = self.with(|dispatcher| {
            let found = dispatcher.find_pool(pool)?;
            if dispatcher.stopping {
                let sentence = "the daemon is stopping; its pools take no orders any more";
                return Err(Denied::new(Denial::ShuttingDown, sentence));
            }
            dispatcher.pool(found).counters.one("operator_orders");
            if order == PoolOrder::Reset {
                dispatcher.pool(found).failed_build = None;
            }
            tracing::info!(pool, ?order, "an operator's order");
            Ok(found)
        })?;
        self.tell(pool, Event::Operator(order));
        if let PoolOrder::Resize { .. } = order {
            self.unstick_all();
        }
        Ok(())
    }

    /// Cancels a call, whoever sent it.
    ///
    /// # Errors
    ///
    /// When there is no such call, or it was answered already.
    pub(crate) fn cancel_for_operator(&self, call: u64) -> Result<CancelledCall, Denied> {
        let key = CallKey(call);
        let (pool, cancelled) = self.with(|dispatcher| {
            let Some(found) = dispatcher.calls.get(&key) else {
                return Err(dispatcher.no_call(Instant::now(), key));
            };
            let pool = found.pool();
            let cancelled = CancelledCall {
                call,
                pool: dispatcher.pools[pool.0].config.name.clone(),
                function: found.function().to_string(),
                worker: found.worker(),
            };
            dispatcher.pool(pool).counters.one("operator_cancels");
            dispatcher.note_unwanted(key, "an operator cancelled it");
            tracing::info!(
                pool = cancelled.pool,
                call,
                function = cancelled.function,
                "an operator cancels a call"
            );
            Ok((pool, cancelled))
        })?;
        self.tell(pool, Event::CallCancelled { call: key });
        Ok(cancelled)
    }
}

impl Dispatcher {
    /// The pool of that name.
    pub(super) fn find_pool(&self, name: &str) -> Result<PoolIndex, Denied> {
        if let Err(error) = name::check_pool(name) {
            return Err(Denied::new(Denial::Invalid, format!("this is no pool's name: {error}")));
        }
        self.by_name.get(name).copied().ok_or_else(|| {
            let Missing { message, .. } = self.no_such_pool(name);
            Denied::new(Denial::NoSuchPool, message)
        })
    }

    /// Why nothing can be done about a call that is not owed an answer.
    pub(super) fn no_call(&self, now: Instant, call: CallKey) -> Denied {
        if call.0 == 0 || call.0 > self.last_call {
            let sentence = match self.last_call {
                0 => format!("there is no call {}: this daemon has not had any yet", call.0),
                last => format!("there is no call {}: this daemon's calls are 1 to {last}", call.0),
            };
            return Denied::new(Denial::NoSuchCall, sentence);
        }
        let answers = self.history.records().rev();
        let answer = answers.filter(|record| record.about() == Some(call));
        let answer = answer.clone().find(|record| record.what == What::Answered);
        let how = answer.map_or_else(
            || ", too long ago to say how".to_owned(),
            |record| {
                let ago_ms = self.history.since_start(now).saturating_sub(record.at_ns) / 1_000_000;
                let ago = match ago_ms {
                    ..10_000 => format!("{ago_ms} ms"),
                    ms => format!("{} s", ms / 1000),
                };
                format!(" ({}), {ago} ago", self.history.spell(record.word))
            },
        );
        Denied::new(Denial::Ended, format!("call {} was answered already{how}", call.0))
    }
}

/// The order, if it makes sense.
fn check_order(order: PoolOrder) -> Result<PoolOrder, Denied> {
    let most = config::WORKERS_MAX;
    if let PoolOrder::Resize { min, max } = order
        && (min > max || max == 0 || max > most)
    {
        let sentence = format!(
            "a pool cannot have {min} to {max} workers: give a smallest number that is not above \
             the largest, and a largest from 1 to {most}"
        );
        return Err(Denied::new(Denial::Invalid, sentence));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_must_be_one_a_pool_can_have() {
        let resize = |min, max| check_order(PoolOrder::Resize { min, max });
        assert_eq!(Ok(PoolOrder::Resize { min: 0, max: 1 }), resize(0, 1));
        assert_eq!(Ok(PoolOrder::Resize { min: 2, max: 2 }), resize(2, 2));
        assert_eq!(
            Ok(PoolOrder::Resize { min: 1, max: config::WORKERS_MAX }),
            resize(1, config::WORKERS_MAX)
        );
        for (min, max) in [(0, 0), (3, 2), (1, config::WORKERS_MAX + 1), (u32::MAX, u32::MAX)] {
            assert_eq!(Denial::Invalid, resize(min, max).unwrap_err().denial, "{min}..{max}");
        }
    }
}
