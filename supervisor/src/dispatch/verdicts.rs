//! What a pool itself decides about a call: that it has waited or run for too long, that nobody
//! wants it, or that there is no worker for it.

use std::time::Instant;

use clutch_protocol::failure::Reason;
use clutch_protocol::message::WorkerId;

use super::dispatcher::Dispatcher;
use super::history::{Record, What};
use crate::pool::{CallKey, PoolState, Verdict};
use crate::worker::spawner::PoolIndex;

impl Dispatcher {
    /// Carries a pool's own verdict on a call out.
    pub(super) fn settle(&mut self, now: Instant, pool: PoolIndex, key: CallKey, verdict: Verdict) {
        let reason = match verdict {
            Verdict::TimedOut => self.timed_out(now, pool, key),
            Verdict::Nested => self.no_worker_ever(pool, key),
            Verdict::Cancelled => Reason::Cancelled,
            Verdict::QueueFull => {
                Reason::QueueFull { limit: self.pools[pool.0].config.limits.queue }
            }
            Verdict::ShuttingDown => Reason::ShuttingDown { why: self.shutdown(pool, key) },
            Verdict::WorkerDied { worker, .. } => {
                Reason::WorkerDied(Box::new(self.pools[pool.0].death_of(worker, key)))
            }
            Verdict::CrashLoop => Reason::CrashLoop {
                failures: match self.pools[pool.0].policy.state() {
                    PoolState::CrashLoop { failures } => failures,
                    _ => 0,
                },
                last: Box::new(self.pools[pool.0].newest_death()),
            },
        };
        let quarantined = matches!(verdict, Verdict::WorkerDied { quarantined: true, .. });
        if quarantined {
            self.pool(pool).counters.one("quarantined");
        }
        let word = self.history.word(reason.name());
        let items = self.items_told(key);
        if self.fail(now, key, reason, quarantined) {
            let record = Record::new(What::Answered, pool).call(key).word(word).extra(items);
            self.history.note(now, record);
        }
    }

    /// Whether user code can have run, or can still run, for a call that a worker has. A worker
    /// that answered has done with it, and its page tells; one that lives may yet begin. A function
    /// that was not found has not begun; the import that looked for it is as good to run again.
    pub(super) fn can_have_begun(
        &self,
        pool: PoolIndex,
        worker: WorkerId,
        call: CallKey,
        reason: &Reason,
    ) -> bool {
        match reason {
            Reason::NotFound(_) => false,
            Reason::BadArguments { .. } => self.has_begun(pool, worker, call),
            _ => true,
        }
    }
}
