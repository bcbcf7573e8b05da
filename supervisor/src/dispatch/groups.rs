//! Workers' groups, where the kernel keeps their bounds of memory; and what is said where it does
//! not.

use std::time::Instant;

use clutch_protocol::failure::Cause;

use super::dispatcher::{Dispatcher, PoolState, Worker};
use crate::cgroup::{Group, Ooms};
use crate::config::Memory;
use crate::limits::OOMS_NOTED_EVERY;
use crate::worker::link::Link;
use crate::worker::spawner::{Order, PoolIndex};

/// What a worker's group has counted that matters to its end, from a moment on.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// What had been counted then.
    pub(super) before: Ooms,
    since: Option<Instant>,
}

/// What a death was, by what the kernel has killed in its group since about when its last call
/// began; none if that does not tell. Which bound it was is left in the worker's detail.
///
/// Where the bound takes the whole group, a kill there is this death. Elsewhere it may have been a
/// child's, which the worker has survived: in the middle of a call that is taken for the same
/// misery, while it was idle for another one.
pub(super) fn blame(
    entry: &mut Worker,
    memory: &Memory,
    is_idle: bool,
    ooms: Ooms,
) -> Option<Cause> {
    let ooms = ooms.since(entry.counted.before);
    if ooms.kills == 0 || memory.kill_above.is_none() && is_idle {
        return None;
    }
    let peak = entry.group.as_ref().and_then(Group::peak_bytes);
    let peak = peak.map_or_else(String::new, |bytes| {
        format!(" (they held {} MiB at most, copies of files included)", bytes >> 20)
    });
    let Some(limit) = memory.kill_above.filter(|_| ooms.own > 0) else {
        entry.detail = format!("an outer cgroup or the machine had no memory left{peak}");
        return Some(Cause::OutOfMemory);
    };
    let limit = limit >> 20;
    entry.detail = format!("the kernel ended its processes at kill_above, {limit} MiB{peak}");
    Some(Cause::MemoryLimit)
}

impl Worker {
    /// It is given a call: kills that are older are forgotten. At most one small file is read, and
    /// that seldom, since this is the call path.
    pub(super) fn note_ooms(&mut self, now: Instant) {
        let is_old = |at| now.saturating_duration_since(at) >= OOMS_NOTED_EVERY;
        if self.is_bounded() && self.counted.since.is_none_or(is_old) {
            self.counted.since = Some(now);
            self.forget_ooms();
        }
    }

    fn forget_ooms(&mut self) {
        if let Some(ooms) = self.group.as_ref().and_then(Group::ooms) {
            self.counted.before = ooms;
        }
    }

    /// Whether the kernel keeps its bound of memory.
    fn is_bounded(&self) -> bool {
        self.group.as_ref().is_some_and(Group::counts_memory)
    }

    /// Whether somebody has to look at how much memory it holds.
    pub(super) fn is_weighed(&self, memory: &Memory) -> bool {
        let is_alive = self.pid != 0 && !self.dead;
        let by_looking = memory.kill_above.is_some() && !self.is_bounded();
        is_alive && (memory.recycle_above.is_some() || by_looking)
    }
}

impl Dispatcher {
    /// A worker's python runs, in its group or not.
    pub(super) fn spawned(&mut self, link: &Link, pid: u32, cgroup_errno: i32) {
        let state = &mut self.pools[link.pool.0];
        let Some(entry) = state.workers.get_mut(&link.worker) else {
            return;
        };
        entry.pid = pid;
        if cgroup_errno == 0 {
            return;
        }
        entry.group = None;
        entry.group_fault = Some(cgroup_errno);
        let error = std::io::Error::from_raw_os_error(cgroup_errno);
        state.counters.one("cgroups_not_joined");
        tracing::warn!(pool = state.config.name, worker = %link.worker, pid, %error,
            "a worker could not join its cgroup; its memory is looked at instead");
    }

    /// How the memory of a pool's workers is bounded, and why not by the kernel.
    pub(super) fn memory_bound(&self, pool: &PoolState) -> (&'static str, String) {
        if !pool.config.memory.is_watched() {
            return ("", String::new());
        }
        if let Some(reason) = &self.sampling_because {
            return ("sampling", reason.clone());
        }
        let mut alive = pool.workers.values().filter(|entry| entry.pid != 0 && !entry.dead);
        match alive.find(|entry| !entry.is_bounded()) {
            None => ("cgroup", String::new()),
            Some(entry) => {
                let error = entry.group_fault.map(std::io::Error::from_raw_os_error);
                let why = error.map_or_else(
                    || "could not be made for it; the log says why".to_owned(),
                    |error| format!("could not be joined: {error}"),
                );
                ("sampling", format!("the cgroup of worker {} {why}", entry.pid))
            }
        }
    }

    /// Says once that bounds of memory are kept by looking, as soon as there are any.
    pub(super) fn say_sampling(&mut self) {
        let Some(reason) = self.sampling_because.as_ref().filter(|_| !self.said_sampling) else {
            return;
        };
        let bounded = self.pools.iter().filter(|pool| pool.config.memory.is_watched());
        let names: Vec<_> = bounded.map(|pool| pool.config.name.as_str()).collect();
        if !names.is_empty() {
            tracing::warn!(
                pools = names.join(", "),
                reason,
                "bounds of memory are kept by looking every memory.every, not by the kernel"
            );
            self.said_sampling = true;
        }
    }

    /// A pool's bound of memory has changed: the workers that are there get the new one.
    pub(super) fn bound_anew(&mut self, pool: PoolIndex) {
        let Dispatcher { pools, spawner, .. } = self;
        let pool = &mut pools[pool.0];
        let memory_max = pool.config.memory.kill_above;
        for entry in pool.workers.values_mut().filter(|entry| entry.is_bounded()) {
            // What was killed under the old bound says nothing about a death under the new one.
            entry.forget_ooms();
            let Some(link) = &entry.link else { continue };
            let order = Order::Bound { guardian: link.guardian, memory_max };
            if let Err(error) = spawner.order(order) {
                tracing::warn!(pool = pool.config.name, %error,
                    "a worker's bound of memory could not be changed; recycle its pool");
            }
        }
    }
}
