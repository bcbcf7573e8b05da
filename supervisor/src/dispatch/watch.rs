//! Looking at workers: what they are doing, when somebody asks or when one is busy for long; and
//! how much memory they hold, where a pool has bounds. Nobody is ever killed for silence alone.

use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::limits::{ANSWER_TIMEOUT, DUMP_TIMEOUT, EXAMINE_AFTER, EXAMINE_FRESH, LOOK_APART};
use crate::pool::{Event, ReplaceCause, StopCause, WorkerState, WorkerView};
use crate::watch::activity::{Activity, Evidence};
use crate::watch::watcher::{Observation, Subject};
use crate::watch::weight::{Scale, Weight};
use crate::worker::spawner::PoolIndex;

/// What is known of a worker from outside.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// The last ping it was sent, and the last it has answered.
    pings: u64,
    pongs: u64,
    pub(super) activity: Option<Activity>,
    /// What the log says it is doing.
    logged: Option<Activity>,
    pub(super) rss_bytes: u64,
    pub(super) cpu_ms: u64,
    scale: Scale,
    /// When the log has said last that it was stopped, and whether it has of the last time.
    pub(super) said_halted: Option<Instant>,
    pub(super) halt_was_said: bool,
    /// It holds so much that it is being killed.
    condemned: bool,
}

/// Why a round is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occasion {
    /// Somebody wants to know.
    Asked,
    /// Workers of a pool have been busy for long.
    Due,
}

impl Core {
    /// Whether what is known of the workers is too old to be told. Whoever is told so must
    /// [`Core::examine`]; others are not, until that is old again, however often they ask.
    pub(crate) fn must_examine(&self) -> bool {
        let now = Instant::now();
        self.with(|dispatcher| {
            let fresh = |at: Instant| now.duration_since(at) < EXAMINE_FRESH;
            let must = !dispatcher.examined.is_some_and(fresh);
            if must {
                dispatcher.examined = Some(now);
            }
            must
        })
    }

    /// Looks at every worker of which it is not known what it is doing. Takes a few tens of
    /// milliseconds when one is busy, and a quarter of a second when one does not answer.
    pub(crate) async fn examine(&self) {
        let now = Instant::now();
        let busy = self.with(|dispatcher| dispatcher.long_busy(now, |_, _| Some(EXAMINE_AFTER)));
        let others = self.with(|dispatcher| dispatcher.not_busy());
        self.look_at_others(others).await;
        self.look_twice(busy, Occasion::Asked).await;
    }

    /// A worker has answered a ping. False when it was not asked.
    pub(super) fn worker_ponged(&self, pool: PoolIndex, worker: WorkerId, ping: u64) -> bool {
        let known = self.with(|dispatcher| {
            let Some(entry) = dispatcher.worker(pool, worker) else { return true };
            let watched = &mut entry.watched;
            let known = ping > watched.pongs && ping <= watched.pings;
            watched.pongs = if known { ping } else { watched.pongs };
            known
        });
        self.note_pong();
        known
    }

    /// Looks at workers when it is time to, for ever. Nothing wakes it while no worker is busy and
    /// no pool has bounds of memory.
    pub async fn run_watch(self) {
        loop {
            let rearm = self.watch_rearmed();
            let due = self.with(|dispatcher| dispatcher.next_watch());
            match due {
                None => rearm.await,
                Some(at) => {
                    tokio::select! {
                        () = rearm => continue,
                        () = tokio::time::sleep_until(at.into()) => {}
                    }
                    self.watch_once(Instant::now()).await;
                }
            }
        }
    }

    async fn watch_once(&self, now: Instant) {
        self.with(Dispatcher::catch_up_with_reaps);
        let heavy = self.with(|dispatcher| dispatcher.choose_heavy(now));
        if !heavy.is_empty()
            && let Some(seen) = self.watcher().look(heavy).await
        {
            for observation in seen {
                self.weigh(&observation);
            }
        }
        // Only the pools whose time it is: what others want to know is their business.
        let due = self.with(|dispatcher| dispatcher.pools_to_look_at(now));
        if !due.is_empty() {
            let after = |pool: PoolIndex, config: &crate::config::Pool| {
                due.contains(&pool).then_some(config.liveness.after)
            };
            let busy = self.with(|dispatcher| dispatcher.long_busy(now, after));
            self.look_twice(busy, Occasion::Due).await;
            let now = Instant::now();
            self.with(|dispatcher| {
                for pool in due {
                    dispatcher.plan_liveness(now, pool);
                }
            });
        }
    }

    /// One look is enough at workers that have no call.
    async fn look_at_others(&self, subjects: Vec<Subject>) {
        if subjects.is_empty() {
            return;
        }
        let seen = self.watcher().look(subjects).await.unwrap_or_default();
        for observation in seen {
            self.with(|dispatcher| dispatcher.note_other(&observation));
        }
    }

    async fn look_twice(&self, subjects: Vec<Subject>, occasion: Occasion) {
        if subjects.is_empty() {
            return;
        }
        let Some(before) = self.watcher().look(subjects.clone()).await else { return };
        let begun = Instant::now();
        self.with(|dispatcher| subjects.iter().for_each(|subject| dispatcher.ping(subject)));
        tokio::time::sleep_until((begun + LOOK_APART).into()).await;
        let answers = async {
            loop {
                let ponged = self.ponged();
                if self.with(|dispatcher| subjects.iter().all(|s| dispatcher.has_answered(s))) {
                    return;
                }
                ponged.await;
            }
        };
        let rest = ANSWER_TIMEOUT.saturating_sub(begun.elapsed());
        let _ = tokio::time::timeout(rest, answers).await;
        let Some(after) = self.watcher().look(subjects).await else { return };
        let between = begun.elapsed();
        for (before, after) in before.iter().zip(&after) {
            let event =
                self.with(|dispatcher| dispatcher.note_busy(before, after, between, occasion));
            if let Some(event) = event {
                self.tell(after.subject.pool, event);
            }
        }
    }

    fn weigh(&self, seen: &Observation) {
        let event = self.with(|dispatcher| dispatcher.judge_weight(seen));
        match event {
            Some(event @ Event::Doomed { .. }) => {
                self.doom_with_stack(seen.subject.pool, seen.subject.worker, event);
            }
            Some(event) => self.tell(seen.subject.pool, event),
            None => {}
        }
    }

    /// Has a worker killed, once it has said what it was doing or has had its time to.
    fn doom_with_stack(&self, pool: PoolIndex, worker: WorkerId, event: Event) {
        let (reply, told) = tokio::sync::oneshot::channel();
        self.dump_stack(pool, worker, reply);
        let core = self.clone();
        let wait = async move {
            if let Ok(Ok(Ok(text))) = tokio::time::timeout(DUMP_TIMEOUT, told).await {
                core.with(|dispatcher| dispatcher.keep_stack(pool, worker, &text));
            }
            core.tell(pool, event);
        };
        self.with(|dispatcher| {
            // Should it die before, there is nobody left to kill.
            if let Some(entry) = dispatcher.worker(pool, worker) {
                entry.tasks.spawn_local(wait);
            }
        });
    }
}

impl Dispatcher {
    /// When the next round is due, of any kind.
    fn next_watch(&self) -> Option<Instant> {
        let weighs = self.pools.iter().any(|pool| {
            let memory = &pool.config.memory;
            pool.workers.values().any(|worker| worker.is_weighed(memory))
        });
        let liveness = self.pools.iter().filter_map(|pool| pool.liveness_due).min();
        let rest = [self.weighing_due.filter(|_| weighs), liveness, self.reaps.due()];
        rest.into_iter().flatten().min()
    }

    /// Pools have other rules by now, or there are others: when to look is worked out anew.
    pub(super) fn watch_anew(&mut self) {
        let now = Instant::now();
        self.weighing_due = Some(now);
        self.say_sampling();
        for pool in 0..self.pools.len() {
            self.plan_liveness(now, PoolIndex(pool));
        }
    }

    /// A worker was handed a call: it may be busy for long. True when there was no timer before
    /// that goes off as early.
    pub(super) fn watch_call(&mut self, now: Instant, pool: PoolIndex) -> bool {
        let state = &mut self.pools[pool.0];
        let due = now + state.config.liveness.after;
        if state.liveness_due.is_some_and(|at| at <= due) {
            return false;
        }
        state.liveness_due = Some(due);
        true
    }

    /// The pools whose workers are to be looked at now.
    fn pools_to_look_at(&self, now: Instant) -> Vec<PoolIndex> {
        let numbered = self.pools.iter().enumerate();
        let due = numbered.filter(|(_, pool)| pool.liveness_due.is_some_and(|at| at <= now));
        due.map(|(index, _)| PoolIndex(index)).collect()
    }

    /// Works out when a pool's workers are to be looked at next; never while none has a call.
    fn plan_liveness(&mut self, now: Instant, pool: PoolIndex) {
        let state = &mut self.pools[pool.0];
        let liveness = &state.config.liveness;
        let since = state.policy.workers().filter_map(|view| view.had_since());
        let due = since
            .map(|since| (since + liveness.after).max(now + liveness.every.min(liveness.after)));
        state.liveness_due = due.min();
    }

    /// The workers that have had a call for so long.
    fn long_busy(
        &self,
        now: Instant,
        after: impl Fn(PoolIndex, &crate::config::Pool) -> Option<Duration>,
    ) -> Vec<Subject> {
        self.subjects(|index, view| {
            let after = after(index, &self.pools[index.0].config);
            let times = view.had_since().zip(after);
            times.is_some_and(|(since, after)| now.saturating_duration_since(since) >= after)
        })
    }

    fn not_busy(&self) -> Vec<Subject> {
        self.subjects(|_, view| view.is_idle() || view.state == WorkerState::Starting)
    }

    fn subjects(&self, wanted: impl Fn(PoolIndex, &WorkerView<'_>) -> bool) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for (index, pool) in self.pools.iter().enumerate() {
            for view in pool.policy.workers() {
                let Some(entry) = pool.workers.get(&view.id).filter(|entry| entry.pid != 0) else {
                    continue;
                };
                let index = PoolIndex(index);
                if wanted(index, &view) {
                    let (pool, worker, pid) = (index, view.id, entry.pid);
                    subjects.push(Subject { pool, worker, pid, tree: None, group: None });
                }
            }
        }
        subjects
    }

    /// The workers of pools with bounds of memory, if it is time; and sets the time of the next.
    fn choose_heavy(&mut self, now: Instant) -> Vec<Subject> {
        if self.weighing_due.is_none_or(|at| at > now) {
            return Vec::new();
        }
        let watched = self.pools.iter().filter(|pool| pool.config.memory.is_watched());
        self.weighing_due = watched.map(|pool| now + pool.config.memory.every).min();
        let mut subjects = Vec::new();
        for (index, pool) in self.pools.iter().enumerate() {
            let memory = &pool.config.memory;
            let bound = memory.recycle_above.into_iter().chain(memory.kill_above).min();
            let Some(bound) = bound else { continue };
            let alive = pool.workers.iter().filter(|(_, entry)| entry.is_weighed(memory));
            subjects.extend(alive.filter_map(|(worker, entry)| {
                let guardian = entry.link.as_ref()?.guardian;
                let tree = Some((guardian, bound));
                let pool = PoolIndex(index);
                let group = entry.group.clone();
                Some(Subject { pool, worker: *worker, pid: entry.pid, tree, group })
            }));
        }
        subjects
    }

    fn judge_weight(&mut self, seen: &Observation) -> Option<Event> {
        let Subject { pool, worker, .. } = seen.subject;
        let bytes = seen.tree_bytes?;
        let memory = self.pools[pool.0].config.memory.clone();
        let idle = self.pools[pool.0].policy.worker(worker).is_some_and(|view| view.is_idle());
        let entry = self.worker(pool, worker).filter(|it| !it.dead && !it.watched.condemned)?;
        entry.watched.rss_bytes = bytes;
        match entry.watched.scale.judge(&memory, bytes, entry.served, idle) {
            Weight::Fine => None,
            Weight::TooMuch => {
                self.pool(pool).counters.one("memory_recycles");
                Some(Event::Outworn { worker, cause: ReplaceCause::Memory })
            }
            Weight::FarTooMuch => {
                let (held, limit) = (bytes >> 20, memory.kill_above.unwrap_or(0) >> 20);
                entry.watched.condemned = true;
                entry.detail = format!("its processes held {held} MiB, kill_above is {limit} MiB");
                Some(Event::Doomed { worker, cause: StopCause::Memory })
            }
        }
    }

    fn ping(&mut self, subject: &Subject) {
        let Some(entry) = self.worker(subject.pool, subject.worker) else { return };
        // One unanswered ping is enough.
        if entry.watched.pongs == entry.watched.pings
            && let Some(link) = &entry.link
            && link.ping(entry.watched.pings + 1).is_ok()
        {
            entry.watched.pings += 1;
        }
    }

    fn has_answered(&mut self, subject: &Subject) -> bool {
        let entry = self.worker(subject.pool, subject.worker);
        entry.is_none_or(|entry| entry.dead || entry.watched.pongs == entry.watched.pings)
    }

    fn note_other(&mut self, seen: &Observation) {
        let Subject { pool, worker, .. } = seen.subject;
        let view = self.pools[pool.0].policy.worker(worker);
        let rests = view.map(|view| (view.is_idle(), view.state));
        let (Some(look), Some(entry)) = (seen.look, self.worker(pool, worker)) else { return };
        let activity = match rests {
            _ if matches!(look.state, 'T' | 't') => Activity::Stopped,
            Some((true, _)) => Activity::Idle,
            Some((_, WorkerState::Starting)) => Activity::Starting,
            _ => return,
        };
        entry.watched.activity = Some(activity);
        (entry.watched.rss_bytes, entry.watched.cpu_ms) = (look.rss_bytes, look.cpu_ms);
    }

    fn note_busy(
        &mut self,
        before: &Observation,
        after: &Observation,
        between: Duration,
        occasion: Occasion,
    ) -> Option<Event> {
        let subject = &after.subject;
        let answered = self.has_answered(subject);
        let view = self.pools[subject.pool.0].policy.worker(subject.worker);
        let has_call = view.is_some_and(|view| view.has_call());
        let (first, second) = (before.look?, after.look?);
        if !has_call {
            return None;
        }
        let evidence = Evidence { before: first, after: second, between, answered };
        let activity = Activity::of(&evidence);
        let entry = self.worker(subject.pool, subject.worker)?;
        entry.watched.activity = Some(activity);
        (entry.watched.rss_bytes, entry.watched.cpu_ms) = (second.rss_bytes, second.cpu_ms);
        let mut is_news = false;
        if occasion == Occasion::Due {
            is_news = entry.watched.logged.replace(activity) != Some(activity);
        }
        if is_news && activity.is_odd() {
            let function = entry.given.first().map(|given| given.function.clone());
            let calls = entry.given.len();
            let pool = &self.pools[subject.pool.0].config.name;
            tracing::warn!(pool, worker = %subject.worker, pid = subject.pid,
                function = function.as_deref().unwrap_or(""), calls, activity = activity.name(),
                "a worker is busy for long");
        }
        // Also what its guardian has reported, since it still stands still: it was stopped anew
        // meanwhile, or a debugger holds it.
        let is_stopped = occasion == Occasion::Due && activity == Activity::Stopped;
        if is_stopped { self.deal_with_stopped(subject.pool, subject.worker) } else { None }
    }
}
