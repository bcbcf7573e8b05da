//! A running `clutch serve` of one test's own: what it says, what it printed, what is below it, and
//! its end. How it comes to be is in `builder.rs`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use clutch_protocol::status::Status;
use nix::sys::signal::Signal;

use crate::SECOND;
use crate::binary::Clutch;
use crate::builder::{Builder, private_environment};
use crate::command::{self, Output, Program};
use crate::log::Log;
use crate::oracle::Oracle;
use crate::process::{self, Process};
use crate::raw::RawClient;
use crate::tmp::Tmp;
use crate::wait::{try_until, wait_for, wait_until};

/// How long a daemon may take until every worker is ready. The daemon's own bounds are shorter;
/// this is for a machine that compiles something else meanwhile.
pub(crate) const START_BOUND: Duration = Duration::from_secs(60);

/// How long after the daemon's end its last process may live: the promise is one second.
pub(crate) const SWEEP_BOUND: Duration = Duration::from_secs(5);

/// A running `clutch serve`. Dropping it kills it and everything below it.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    pub(crate) log: Log,
    pub(crate) socket: PathBuf,
    pub(crate) token: String,
    pub(crate) restricted: Vec<String>,
    pub(crate) started_in: Duration,
    pub(crate) shared_memory: BTreeSet<String>,
    pub(crate) tmp: Tmp,
}

impl Daemon {
    /// A daemon without pools yet.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its own directory; `home`, `run`, `state` and `tmp` are in it.
    pub fn tmp(&self) -> &Tmp {
        &self.tmp
    }

    /// What marks its processes.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// How long it took from its start until every worker was ready.
    pub fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The pools with an `allow` list.
    pub fn restricted_pools(&self) -> &[String] {
        &self.restricted
    }

    /// What was forgotten in `/dev/shm` before it started.
    pub(crate) fn shared_memory_before(&self) -> &BTreeSet<String> {
        &self.shared_memory
    }

    /// A baseline of everything a fault could damage, taken now. Take it before the fault.
    #[track_caller]
    pub fn oracle(&self) -> Oracle {
        Oracle::of(self)
    }

    /// Runs a command line against this daemon, for at most a minute.
    #[track_caller]
    pub fn cli<I, S>(&self, args: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command(args).run()
    }

    /// A command line against this daemon, to be given an input or another bound first.
    pub fn command<I, S>(&self, args: I) -> Program
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        Clutch::command([OsStr::new("--socket"), self.socket.as_os_str()])
            .args(args)
            .envs(private_environment(&self.tmp))
    }

    /// The client library, connected to this daemon.
    pub async fn client(&self) -> clutch_client::Client {
        match clutch_client::Client::connect(&self.socket).await {
            Ok(client) => client,
            Err(error) => panic!("no client: {error}\n{}", self.log()),
        }
    }

    /// The client library's blocking twin, connected to this daemon.
    #[track_caller]
    pub fn blocking(&self) -> clutch_client::blocking::Client {
        match clutch_client::blocking::Client::connect(&self.socket) {
            Ok(client) => client,
            Err(error) => panic!("no client: {error}\n{}", self.log()),
        }
    }

    /// A connection that has said hello.
    #[track_caller]
    pub fn raw(&self) -> RawClient {
        RawClient::hello(&self.socket)
    }

    /// A connection that has said nothing.
    #[track_caller]
    pub fn stranger(&self) -> RawClient {
        RawClient::connect(&self.socket)
    }

    /// What it says of itself.
    #[track_caller]
    pub fn status(&self) -> Status {
        match self.try_status() {
            Ok(status) => status,
            Err(why) => panic!("no status: {why}\n{}", self.log()),
        }
    }

    /// What it says of itself, or why it says nothing.
    ///
    /// # Errors
    ///
    /// When it cannot be reached or answers nonsense.
    pub fn try_status(&self) -> Result<Status, String> {
        RawClient::try_hello(&self.socket)?.0.status()
    }

    /// Waits until every pool has all its workers, ready and idle.
    #[track_caller]
    pub fn wait_ready(&self) {
        wait_until("every worker is ready", START_BOUND, || unready(&self.try_status()?));
    }

    /// The process ids of a pool's living workers, by slot.
    #[track_caller]
    pub fn worker_pids(&self, pool: &str) -> Vec<u32> {
        let status = self.status();
        let found = status.pools.iter().find(|one| one.name == pool);
        let workers = &found.unwrap_or_else(|| panic!("no pool '{pool}'")).workers;
        let alive = workers.iter().filter(|worker| worker.pid != 0 && process::alive(worker.pid));
        alive.map(|worker| worker.pid).collect()
    }

    /// Makes an idle worker of the pool `default` deaf: it is ready, gets calls, and reads none,
    /// since a thread of its own lets no other run. Gives its process id.
    #[track_caller]
    pub fn deafen(&self) -> u32 {
        let (go, gone) = (self.tmp().join("deaf-go"), self.tmp().join("deaf-gone"));
        for mark in [&go, &gone] {
            let _ = fs::remove_file(mark);
        }
        let client = self.blocking();
        let pid = client.call("job_begun:go_deaf", (&go, &gone)).expect("it answers first");
        fs::write(&go, "").expect("the directory is there");
        wait_for("the worker is deaf", 10 * SECOND, || gone.exists());
        pid
    }

    /// Waits until a worker runs `function`, and gives that worker's process id.
    #[track_caller]
    pub fn wait_runs(&self, function: &str) -> u32 {
        wait_until(&format!("{function} runs"), 20 * SECOND, || {
            let workers = self.try_status()?.pools.into_iter().flat_map(|pool| pool.workers);
            let mut busy = workers.filter(|worker| worker.function.as_deref() == Some(function));
            busy.next().map(|worker| worker.pid).ok_or_else(|| "nobody runs it".to_owned())
        })
    }

    /// Every process below it, zombies included.
    pub fn descendants(&self) -> Vec<Process> {
        process::descendants(self.pid)
    }

    /// A counter of a pool, as `status` shows it; 0 when it is not there.
    #[track_caller]
    pub fn counter(&self, pool: &str, name: &str) -> u64 {
        let status = self.status();
        let found = status.pools.iter().find(|one| one.name == pool);
        let counters = &found.unwrap_or_else(|| panic!("no pool '{pool}'")).counters;
        counters.get(name).copied().unwrap_or(0)
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until a printed line holds `text`, and gives that line.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str, deadline: Duration) -> String {
        match self.log.wait_for_line(text, deadline) {
            Some(line) => line,
            None => panic!("no line with {text:?} within {deadline:?} in:\n{}", self.log()),
        }
    }

    /// Sends the daemon itself a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid, signal);
    }

    /// Waits for the daemon's end; panics with its log when it does not come.
    #[track_caller]
    pub fn wait_exit(&mut self, deadline: Duration) -> i32 {
        match command::wait(&mut self.child, deadline) {
            Some(status) => command::shell_code(status),
            None => panic!("the daemon still runs after {deadline:?}:\n{}", self.log()),
        }
    }

    /// Asks it to stop with SIGTERM and waits for its end; gives its exit code.
    #[track_caller]
    pub fn stop(&mut self, deadline: Duration) -> i32 {
        // A child that was waited for already has given its process id back.
        if self.child.try_wait().expect("our own child can be waited for").is_none() {
            self.signal(Signal::SIGTERM);
        }
        let code = self.wait_exit(deadline);
        self.log.wait_for_end(SECOND);
        code
    }

    /// Waits until none of its processes lives; panics with those that do.
    #[track_caller]
    pub fn assert_swept(&self, deadline: Duration) {
        wait_until("no process of the daemon's tree lives", deadline, || self.left_alive());
    }

    fn left_alive(&self) -> Result<(), Vec<String>> {
        let alive: Vec<_> =
            process::with_token(&self.token).iter().map(ToString::to_string).collect();
        if alive.is_empty() { Ok(()) } else { Err(alive) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let swept = try_until(SWEEP_BOUND, || self.left_alive());
        for process in process::with_token(&self.token) {
            process::kill(process.pid);
        }
        if std::thread::panicking() {
            self.log.show();
        } else if let Err(alive) = swept {
            panic!("these outlived the daemon by {SWEEP_BOUND:?}: {alive:#?}");
        }
    }
}

/// Which pool is not at its full size with idle workers, if any.
pub fn unready(status: &Status) -> Result<(), String> {
    for pool in &status.pools {
        let ready = pool.workers.iter().filter(|worker| worker.state == "ready").count();
        let idle = pool.workers.len() == ready && pool.queued == 0 && pool.running == 0;
        if !idle || u32::try_from(ready) != Ok(pool.workers_wanted) {
            return Err(format!("{pool:?}"));
        }
    }
    Ok(())
}

/// Every file below `dir`, as paths relative to it; directories only where they are empty.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next = vec![dir.to_owned()];
    while let Some(current) = next.pop() {
        let Ok(entries) = fs::read_dir(&current) else {
            continue;
        };
        for entry in entries.flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir {
                next.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(dir).expect("it is below").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Waits until a process does not live any more.
#[track_caller]
pub fn wait_dead(pid: u32, deadline: Duration) {
    wait_for(&format!("process {pid} is dead"), deadline, || !process::alive(pid));
}
