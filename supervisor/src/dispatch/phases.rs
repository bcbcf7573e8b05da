//! What a call's time was spent on, and what kept it from being done in time.

use std::time::{Duration, Instant};

use clutch_protocol::Reason;
use clutch_protocol::failure::{Hindrance, Shutdown};
use clutch_protocol::message::Phases;

use super::call::Call;
use super::dispatcher::Dispatcher;
use super::metas::micros;
use crate::pool::{CallKey, Pool, PoolState};
use crate::worker::spawner::PoolIndex;

/// How much of a call's waiting was for a start: differences of what its pool's clock of
/// standstills has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    for_starts: Duration,
    mark: Duration,
}

impl Waited {
    /// A call begins to wait.
    pub(super) fn new(now: Instant, pool: &Pool) -> Waited {
        Waited { for_starts: Duration::ZERO, mark: pool.stood_still(now) }
    }

    /// It is given to a worker. The clock may go on while that has it, but then the call does not
    /// wait: what it shows at the next look counts only up to what the call has waited at all.
    pub(super) fn end(&mut self, now: Instant, pool: &Pool) {
        self.for_starts = self.until(now, pool);
        self.mark = pool.stood_still(now);
    }

    fn until(self, now: Instant, pool: &Pool) -> Duration {
        self.for_starts + pool.stood_still(now).saturating_sub(self.mark)
    }
}

impl Call {
    /// What the time until now was spent on.
    pub(super) fn phases(&self, now: Instant, pool: &Pool) -> Phases {
        let run = self.attempts.ran(now);
        let waited = now.saturating_duration_since(self.arrived).saturating_sub(run);
        let start = match self.worker() {
            Some(_) => self.waited.for_starts,
            None => self.waited.until(now, pool),
        };
        let start = start.min(waited);
        Phases { queue_us: micros(waited - start), run_us: micros(run), start_us: micros(start) }
    }

    /// Whether the time that has passed was that of its last attempt, and not its own.
    fn is_attempt_late(&self, now: Instant) -> bool {
        self.attempts.timeout().is_some() && now < self.arrived + self.timeout
    }

    /// What the time was that has passed.
    fn passed(&self, now: Instant) -> Duration {
        let attempt = self.attempts.timeout().filter(|_| self.is_attempt_late(now));
        attempt.unwrap_or(self.timeout)
    }

    fn hindrance(&self, now: Instant, pool: &Pool) -> Hindrance {
        let waits = self.worker().is_none();
        match pool.state() {
            PoolState::Paused if waits => Hindrance::Paused,
            _ if waits && pool.stands_still() => Hindrance::NoWorker,
            _ if !waits && self.waits_for_reader() => Hindrance::Reader { items: self.items.sent },
            _ if self.is_attempt_late(now) => Hindrance::Attempt,
            _ if self.is_cut_short => Hindrance::Caller,
            _ => self.wished.map_or(Hindrance::Work, |wished| Hindrance::Capped {
                wished_ms: micros(wished) / 1000,
            }),
        }
    }
}

impl Dispatcher {
    /// Why a pool does not finish a call.
    pub(super) fn shutdown(&self, pool: PoolIndex, key: CallKey) -> Shutdown {
        match self.pools[pool.0].policy.state() {
            PoolState::Closed => Shutdown::Drain,
            _ if self.calls.get(&key).is_some_and(|call| call.worker().is_some()) => {
                Shutdown::Ended
            }
            _ => Shutdown::Daemon,
        }
    }

    fn is_building(&self, pool: PoolIndex) -> bool {
        self.pools[pool.0].is_building()
    }

    /// What a caller wishes, if that is more than its pool allows.
    pub(super) fn wished(&self, pool: PoolIndex, timeout_ms: u64) -> Option<Duration> {
        let wished = Duration::from_millis(timeout_ms);
        (wished > self.pools[pool.0].config.limits.call_timeout_max).then_some(wished)
    }

    /// What a caller is told whose call is late.
    pub(super) fn timed_out(&mut self, now: Instant, pool: PoolIndex, key: CallKey) -> Reason {
        let call = self.calls.get(&key);
        let policy = &self.pools[pool.0].policy;
        let timeout = call.map_or(Duration::ZERO, |call| call.passed(now));
        let worker = call.and_then(Call::worker);
        let hindrance = match self.stopped(pool, worker) {
            // A worker that is late with its call is replaced: nobody has to let it go on.
            Some(pids) if worker.is_some() => {
                Hindrance::Frozen { pid: pids.first().copied().unwrap_or(0) }
            }
            Some(pids) => Hindrance::Stopped { pids },
            None if worker.is_none() && policy.stands_still() && self.is_building(pool) => {
                Hindrance::Building
            }
            None => call.map_or(Hindrance::Work, |call| call.hindrance(now, policy)),
        };
        let stack = call
            .and_then(Call::worker)
            .map_or_else(String::new, |worker| self.stack_of_call(pool, worker, key));
        Reason::TimedOut { timeout_ms: micros(timeout) / 1000, stack, hindrance }
    }
}
