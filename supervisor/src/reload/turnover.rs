//! Workers that are replaced, and waiting until they have been.

use std::time::{Duration, Instant};

use clutch_protocol::failure::Certificate;

use crate::dispatch::{Core, FirstStart, Turnover};
use crate::worker::spawner::PoolIndex;

/// How much longer than its starts a replacement may take: stops, and a machine that is busy.
const SLACK: Duration = Duration::from_secs(10);

/// A pool that is becoming what it was told to be.
#[derive(Clone, Debug)]
pub(super) struct Under {
    pub(super) name: String,
    pub(super) pool: PoolIndex,
    pub(super) kind: Kind,
    /// How long it may take, all in all.
    pub(super) bound: Duration,
}

/// What it is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its first worker.
    Added,
    /// The last of its old workers.
    Replaced,
}

/// How it went.
#[derive(Debug)]
pub(super) enum End {
    /// Everything is as it should be.
    Complete,
    /// Time is over: in these pools, so many old workers are still at work.
    Late(Vec<(String, u32)>),
    /// New workers did not come up.
    Failed(Vec<Certificate>),
    /// The daemon is stopping, or something newer is wanted.
    GivenUp,
}

/// How long a pool may take, when its workers are replaced one after the other.
pub(super) fn bound(workers: u32, start_timeout: Duration) -> Duration {
    start_timeout.saturating_mul(workers.max(1)).saturating_add(SLACK)
}

/// Waits for pools to become what they were told to be, until `over` resolves.
pub(super) async fn wait(core: &Core, pools: &[Under], over: impl Future<Output = ()>) -> End {
    let bound = pools.iter().map(|under| under.bound).max().unwrap_or_default();
    let deadline = Instant::now().checked_add(bound);
    let mut over = std::pin::pin!(over);
    loop {
        let progress = core.progress();
        if core.is_stopping() {
            return End::GivenUp;
        }
        let failed: Vec<_> = pools.iter().filter_map(|under| failure(core, under)).collect();
        if !failed.is_empty() {
            return End::Failed(failed);
        }
        let left: Vec<_> = pools
            .iter()
            .map(|under| (under.name.clone(), left(core, under)))
            .filter(|(_, left)| *left > 0)
            .collect();
        if left.is_empty() {
            return End::Complete;
        }
        let late = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = progress => {}
            () = &mut over => return End::GivenUp,
            () = late => return End::Late(left),
        }
    }
}

fn failure(core: &Core, under: &Under) -> Option<Certificate> {
    match under.kind {
        Kind::Added => match core.first_start(under.pool) {
            FirstStart::Failed(certificate) => Some(*certificate),
            FirstStart::Pending | FirstStart::Ready(_) | FirstStart::Building => None,
        },
        Kind::Replaced => match core.turnover(under.pool) {
            Turnover::Failed(certificate) => Some(*certificate),
            Turnover::Complete | Turnover::Left(_) => None,
        },
    }
}

fn left(core: &Core, under: &Under) -> u32 {
    match under.kind {
        Kind::Added => u32::from(matches!(core.first_start(under.pool), FirstStart::Pending)),
        Kind::Replaced => match core.turnover(under.pool) {
            Turnover::Left(left) => left,
            Turnover::Complete | Turnover::Failed(_) => 0,
        },
    }
}
