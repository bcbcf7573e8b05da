//! The dispatcher as everybody on the data-plane thread holds it: telling pools what happened,
//! waking them when their time comes, and waiting for a start or a drain. The state itself is in
//! `dispatcher`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clutch_protocol::message::PoolSize;
use tokio::sync::Notify;

use super::dispatcher::{Dispatcher, FirstStart, Parts};
use super::handles::Handles;
use super::runs::Verdict;
use crate::net::{Account, Holdings, Quotas};
use crate::open_files::descriptors_left;
use crate::pool::Event;
use crate::watch::watcher::Watcher;
use crate::worker::spawner::{Launched, PoolIndex};

/// A timer this late was not kept from running by work: the process has stood still.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How long is listened, after that, before timers run.
const CATCH_UP: Duration = Duration::from_millis(100);

/// What is shared beside the dispatcher itself.
#[derive(Debug)]
struct Shared {
    dispatcher: RefCell<Dispatcher>,
    /// When the timer task will wake by itself.
    armed: Cell<Option<Instant>>,
    rearm: Notify,
    /// Told whenever a first start or a drain may have come to its end.
    progress: Notify,
    /// Told when there may be something to watch that was not there before.
    watch: Notify,
    /// Told when a worker has answered a ping.
    pongs: Notify,
    watcher: Watcher,
    /// What is held of descriptors that travel with calls and answers.
    holdings: Rc<Holdings>,
    /// What is kept for clients beyond that.
    kept: Rc<Quotas>,
}

/// A panic inside the dispatcher leaves it half changed, and a daemon that goes on half alive lies
/// to its callers. It ends instead: guardians see that and leave nothing behind, and whoever
/// supervises the daemon starts it anew.
struct AbortOnPanic {
    /// A panic elsewhere, whose cleaning up has led here, is not the dispatcher's.
    was_panicking: bool,
}

impl AbortOnPanic {
    fn watch() -> AbortOnPanic {
        AbortOnPanic { was_panicking: std::thread::panicking() }
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.was_panicking {
            tracing::error!("the dispatcher panicked; aborting");
            std::process::abort();
        }
    }
}

/// The dispatcher as everybody on the data-plane thread holds it.
#[derive(Clone, Debug)]
pub struct Core(Rc<Shared>);

impl Core {
    /// A dispatcher whose pools have not been started.
    pub fn new(parts: Parts) -> Core {
        let watcher = parts.watcher.clone();
        let workers = parts.pools.iter().map(|pool| u64::from(pool.config.workers)).sum();
        let free = descriptors_left(workers, parts.daemon.connections);
        let (holdings, handles) = (Holdings::new(free), parts.daemon.handles);
        let kept = Quotas::new(handles.bytes, handles.bytes_of_one, free);
        let dispatcher = Dispatcher::new(parts);
        Core(Rc::new(Shared {
            dispatcher: RefCell::new(dispatcher),
            armed: Cell::new(None),
            rearm: Notify::new(),
            progress: Notify::new(),
            watch: Notify::new(),
            pongs: Notify::new(),
            watcher,
            holdings,
            kept,
        }))
    }

    /// Looks at the dispatcher, or changes what no pool decides about.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Dispatcher) -> T) -> T {
        let _guard = AbortOnPanic::watch();
        look(&mut self.0.dispatcher.borrow_mut())
    }

    /// Tells a pool what happened, and does what follows.
    pub(crate) fn tell(&self, pool: PoolIndex, event: Event) {
        self.tell_at(Instant::now(), pool, event);
    }

    /// As [`Core::tell`], for a caller that knows the time.
    pub(crate) fn tell_at(&self, now: Instant, pool: PoolIndex, event: Event) {
        if self.tell_one(now, pool, event) {
            self.tell_nested(now);
        }
    }

    /// Whether something follows for calls that wait for others.
    pub(super) fn tell_one(&self, now: Instant, pool: PoolIndex, event: Event) -> bool {
        let _guard = AbortOnPanic::watch();
        let mut dispatcher = self.0.dispatcher.borrow_mut();
        dispatcher.apply(self, now, pool, event);
        let wake = dispatcher.pools[pool.0].policy.next_wake();
        let removed = dispatcher.pools[pool.0].removed;
        let goes_on = !dispatcher.nested_events.is_empty();
        drop(dispatcher);
        self.arm(wake);
        if removed {
            self.dismiss_when_done(pool);
        }
        goes_on
    }

    /// What is held of descriptors that travel with calls and answers.
    pub(crate) fn holdings(&self) -> &Rc<Holdings> {
        &self.0.holdings
    }

    /// What is kept for clients under handles.
    pub(super) fn kept(&self) -> &Quotas {
        &self.0.kept
    }

    /// The handles of a client that has put nothing.
    pub(crate) fn no_handles(&self) -> Handles {
        Handles::new(Account::new(self.0.kept.clone()))
    }

    /// Counts something that no pool is concerned with.
    pub(crate) fn count(&self, name: &'static str) {
        self.with(|dispatcher| dispatcher.counters.one(name));
    }

    /// How many calls each pool can run at once.
    pub(crate) fn pool_sizes(&self) -> Vec<PoolSize> {
        self.with(|dispatcher| {
            let pools = dispatcher.pools.iter().filter(|pool| !pool.removed);
            let sizes = pools.map(|pool| {
                let (workers, lanes) =
                    (pool.policy.settings().size.max, pool.config.concurrency.lanes());
                PoolSize { name: pool.config.name.clone(), workers: workers.saturating_mul(lanes) }
            });
            sizes.collect()
        })
    }

    /// A client has said hello.
    pub(crate) fn client_came(&self) {
        self.with(|dispatcher| dispatcher.clients += 1);
    }

    /// A client that had said hello is gone.
    pub(crate) fn client_left(&self) {
        self.with(|dispatcher| dispatcher.clients -= 1);
    }

    /// Starts every pool.
    pub fn start(&self) {
        self.with(Dispatcher::say_sampling);
        for pool in self.pools() {
            self.tell(pool, Event::Start);
        }
        self.forget_known_faults();
    }

    /// Lets running calls finish until `until`, and stops everything then.
    pub fn drain(&self, until: Instant) {
        self.with(|dispatcher| {
            dispatcher.stopping = true;
            dispatcher.runs.judge(Verdict::EndBy(until));
        });
        for pool in self.pools() {
            self.tell(pool, Event::Drain { until });
        }
    }

    /// Stops everything at once.
    pub fn kill_all(&self) {
        self.with(|dispatcher| {
            dispatcher.stopping = true;
            dispatcher.runs.judge(Verdict::End);
        });
        for pool in self.pools() {
            self.tell(pool, Event::KillAll);
        }
    }

    /// How every pool's first start went, as far as it is known.
    pub fn first_starts(&self) -> Vec<(String, u32, FirstStart)> {
        self.with(|dispatcher| dispatcher.first_starts())
    }

    /// Resolves when `are` is true of the pools' first starts.
    pub async fn wait_for_starts(&self, are: impl Fn(&[FirstStart]) -> bool) {
        loop {
            let progress = self.0.progress.notified();
            let starts: Vec<_> = self.first_starts().into_iter().map(|(.., start)| start).collect();
            if are(&starts) {
                return;
            }
            progress.await;
        }
    }

    /// Resolves when no worker and no program is left after a drain.
    pub async fn drained(&self) {
        loop {
            let progress = self.0.progress.notified();
            let is_over = |dispatcher: &mut Dispatcher| {
                dispatcher.pools.iter().all(|pool| pool.drained) && dispatcher.runs.is_empty()
            };
            if self.with(is_over) {
                return;
            }
            progress.await;
        }
    }

    /// Wakes pools when their timers are due, for ever.
    pub async fn run_timers(self) {
        loop {
            let rearm = self.0.rearm.notified();
            match self.0.armed.get() {
                None => rearm.await,
                Some(at) => {
                    let due = tokio::time::sleep_until(at.into());
                    tokio::select! {
                        () = rearm => continue,
                        () = due => {}
                    }
                    self.0.armed.set(None);
                    if at.elapsed() > PAUSE_MIN {
                        self.catch_up(at).await;
                    }
                    for pool in self.pools() {
                        self.tell(pool, Event::Tick);
                    }
                }
            }
        }
    }

    /// The whole process has stood still: stopped and continued, or the machine was suspended. What
    /// workers and clients said meanwhile is heard before anybody is blamed for having been silent.
    async fn catch_up(&self, due: Instant) {
        let late = due.elapsed();
        tracing::warn!(late_ms = late.as_millis(), "the daemon itself has stood still");
        self.count("pauses");
        tokio::time::sleep_until(tokio::time::Instant::now() + CATCH_UP).await;
    }

    /// Takes over what the spawner has started, for ever.
    pub async fn run_launches(self, mut launched: tokio::sync::mpsc::Receiver<Launched>) {
        while let Some(outcome) = launched.recv().await {
            self.launched(outcome);
        }
    }

    /// Reaps orphans whenever a child ends, for ever: the duty of process 1 of a container.
    pub async fn run_as_init(self, mut ended: tokio::signal::unix::Signal) {
        while ended.recv().await.is_some() {
            self.with(Dispatcher::reap_strays);
            self.rearm_watch();
        }
    }

    pub(super) fn progress_notify(&self) -> &Notify {
        &self.0.progress
    }

    pub(super) fn watcher(&self) -> &Watcher {
        &self.0.watcher
    }

    pub(super) fn rearm_watch(&self) {
        self.0.watch.notify_one();
    }

    pub(super) fn watch_rearmed(&self) -> impl Future<Output = ()> + '_ {
        self.0.watch.notified()
    }

    pub(super) fn note_pong(&self) {
        self.0.pongs.notify_waiters();
    }

    pub(super) fn ponged(&self) -> impl Future<Output = ()> + '_ {
        self.0.pongs.notified()
    }

    pub(super) fn note_progress(&self) {
        self.0.progress.notify_waiters();
    }

    fn pools(&self) -> impl Iterator<Item = PoolIndex> + use<> {
        (0..self.with(|dispatcher| dispatcher.pools.len())).map(PoolIndex)
    }

    /// Makes sure the timer task wakes at `wake` at the latest.
    fn arm(&self, wake: Option<Instant>) {
        let Some(wake) = wake else { return };
        if self.0.armed.get().is_none_or(|armed| wake < armed) {
            self.0.armed.set(Some(wake));
            self.0.rearm.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const PANIC: &str = "CLUTCH_TEST_PANIC_IN_THE_DISPATCHER";

    #[test]
    fn a_panic_in_the_dispatcher_ends_the_process_f133() {
        if std::env::var_os(PANIC).is_some() {
            let _guard = AbortOnPanic::watch();
            panic!("half changed");
        }
        let this = std::env::current_exe().unwrap();
        let name = "dispatch::core::tests::a_panic_in_the_dispatcher_ends_the_process_f133";
        #[expect(clippy::disallowed_methods, reason = "only another process can be seen to abort")]
        let mut command = std::process::Command::new(this);
        let output = command.args([name, "--exact"]).env(PANIC, "1").output().unwrap();
        assert_eq!(Some(6), output.status.signal(), "it ends by SIGABRT: {output:?}");
    }
}
