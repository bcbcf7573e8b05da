//! Who waits for whom, over all pools: calls that run, and the nested calls they wait for.
//!
//! Whether a call that waits in a pool will ever get a worker there follows from this alone:
//!
//! - a pool that has a call at work, or a lane free, or may have one more, will have a free one;
//! - so will a pool all of whose lanes wait, if enough of their calls will end, which is one unless
//!   it has been made smaller;
//! - a call ends when all it waits for do: those that run by the same rules, those that wait for a
//!   worker if their pool will have a free one.
//!
//! What does not follow from these never happens. So a call is refused exactly when it would wait
//! for ever, whichever way round the pools the circle goes.

use std::collections::{BTreeMap, HashMap, HashSet};

use clutch_protocol::message::WorkerId;

use super::event::CallKey;
use super::policy::Pool;

/// A call that runs and waits for others.
#[derive(Debug)]
struct Parent {
    pool: usize,
    worker: WorkerId,
    /// What it waits for, and in which pool that is.
    children: BTreeMap<CallKey, usize>,
    /// How many of them are in which pool.
    by_pool: BTreeMap<usize, u32>,
}

/// A call with the worker that it is with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runner {
    /// The pool's place in the list.
    pub pool: usize,
    /// Which worker.
    pub worker: WorkerId,
    /// Which call.
    pub call: CallKey,
}

/// Who waits for whom. Calls that have nothing to do with nesting are not in here.
#[derive(Debug, Default)]
pub struct Nesting {
    parents: HashMap<CallKey, Parent>,
    parent_of: HashMap<CallKey, CallKey>,
}

impl Nesting {
    /// Whether no call waits for another.
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty() && self.parent_of.is_empty()
    }

    /// A running call waits for one more.
    pub fn enter(&mut self, parent: Runner, child: CallKey, pool: usize) {
        let entry = self.parents.entry(parent.call).or_insert_with(|| Parent {
            pool: parent.pool,
            worker: parent.worker,
            children: BTreeMap::new(),
            by_pool: BTreeMap::new(),
        });
        // It may be another attempt than the one that called before.
        entry.worker = parent.worker;
        let before = entry.children.insert(child, pool);
        assert!(before.is_none(), "a call is sent once");
        *entry.by_pool.entry(pool).or_insert(0) += 1;
        self.parent_of.insert(child, parent.call);
    }

    /// A nested call is answered. Who waits for nothing any more by that.
    pub fn leave(&mut self, child: CallKey) -> Option<Runner> {
        let call = self.parent_of.remove(&child)?;
        let parent = self.parents.get_mut(&call)?;
        let pool = parent.children.remove(&child).expect("both books have the same calls");
        let count = parent.by_pool.get_mut(&pool).expect("every child is counted");
        *count -= 1;
        if *count == 0 {
            parent.by_pool.remove(&pool);
        }
        if !parent.children.is_empty() {
            return None;
        }
        let Parent { pool, worker, .. } = self.parents.remove(&call).expect("it was just there");
        Some(Runner { pool, worker, call })
    }

    /// What a call waits for, each with its pool's place in the list.
    pub fn children(&self, parent: CallKey) -> impl Iterator<Item = (CallKey, usize)> + '_ {
        let entry = self.parents.get(&parent);
        entry.into_iter().flat_map(|entry| entry.children.iter().map(|(call, pool)| (*call, *pool)))
    }

    /// How many calls a call waits for.
    pub fn count(&self, parent: CallKey) -> usize {
        self.parents.get(&parent).map_or(0, |entry| entry.children.len())
    }

    /// The calls that wait for this one, the nearest first.
    pub fn ancestors(&self, call: CallKey) -> impl Iterator<Item = CallKey> + '_ {
        std::iter::successors(self.parent_of.get(&call), |call| self.parent_of.get(call)).copied()
    }

    /// Whether no worker of a pool will ever be free for the nested calls that wait there.
    pub fn is_stuck(&self, target: usize, pools: &[&Pool]) -> bool {
        let mut too_many: Vec<_> = pools.iter().map(|pool| pool.waiting_too_many()).collect();
        if too_many[target] == 0 {
            return false;
        }
        // Of what each call waits for: what runs, by pool, and which of that waits in its turn.
        let mut running: HashMap<(CallKey, usize), u32> = HashMap::new();
        let mut waiting: HashMap<CallKey, Vec<CallKey>> = HashMap::new();
        for (place, pool) in pools.iter().enumerate() {
            let held = pool.workers().filter(|it| it.state.is_up()).flat_map(|it| it.calls);
            for child in held.filter(|held| held.is_running()).map(|held| held.call) {
                let Some(parent) = self.parent_of.get(&child) else { continue };
                *running.entry((*parent, place)).or_insert(0) += 1;
                if self.parents.contains_key(&child) {
                    waiting.entry(*parent).or_default().push(child);
                }
            }
        }
        let runs = |call: &CallKey, parent: &Parent| pools[parent.pool].runs(parent.worker, *call);
        let mut ending: HashSet<CallKey> = HashSet::new();
        loop {
            let before = ending.len();
            for (call, parent) in self.parents.iter().filter(|(call, parent)| runs(call, parent)) {
                let is_queued = |(pool, count): (&usize, &u32)| {
                    *count > running.get(&(*call, *pool)).copied().unwrap_or(0)
                };
                let is_served =
                    |place: (&usize, &u32)| !is_queued(place) || too_many[*place.0] == 0;
                let all_end = parent.by_pool.iter().all(is_served)
                    && waiting.get(call).is_none_or(|w| w.iter().all(|it| ending.contains(it)));
                if all_end && ending.insert(*call) {
                    let left = &mut too_many[parent.pool];
                    *left = left.saturating_sub(1);
                }
            }
            if too_many[target] == 0 || ending.len() == before {
                return too_many[target] > 0;
            }
        }
    }
}

#[cfg(test)]
#[path = "nesting_tests.rs"]
mod tests;
