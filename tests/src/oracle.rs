//! The oracle: what must hold after every fault. It looks at everything and reports every
//! violation at once, so that one failed run tells the whole story.
//!
//! | rule | what must hold |
//! |---|---|
//! | V1 | every accepted call was answered exactly once, by the daemon's own counters |
//! | V2 | only the daemon, its guardians and its workers live, no zombies; after the stop, nobody |
//! | V3 | the daemon holds no more descriptors of any kind than before |
//! | V4 | after the stop no socket, lock, temporary file or shared memory is left |
//! | V5 | every pool is back at its size, and a sentinel call works, in 2 s plus a worker's start |
//! | V6 | calls elsewhere succeeded meanwhile: see [`crate::bystander`] |
//! | V8 | the daemon's memory is within its budget, and it does not spin |
//! | V9 | the log tells what happened, once, and of no panic |
//!
//! V7 is about the store of durable jobs; there is none yet.
//!
//! A pool with an `allow` list may refuse the sentinel call: that too is an answer of a healthy
//! pool, and its workers are counted like all others.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use clutch_protocol::failure::Reason;
use clutch_protocol::status::Status;

use crate::SECOND;
use crate::baseline::{Baseline, Violation, forgotten_shared_memory, leftovers, none_or};
use crate::daemon::{Daemon, files_below, unready};
use crate::process::Process;
use crate::raw::{RawClient, Reply};
use crate::wait::try_until;

/// How much more memory than before a daemon may hold after a fault: what an allocator keeps for
/// the next storm, and no more.
const MEMORY_BUDGET_BYTES: u64 = 16 << 20;

/// How long things may take to settle after the last thing a test did.
const SETTLE: Duration = Duration::from_secs(2);

/// How long shared memory may stay that nobody holds. Names there do not say whose they are, and
/// Python's own trackers, of other tests too, take their time on a busy machine.
const SHARED_MEMORY_SETTLE: Duration = Duration::from_secs(20);

/// How long a stop may take: the default grace, and the ladder behind it.
const STOP_BOUND: Duration = Duration::from_secs(20);

/// Programs that stay below a python for as long as it lives, once it has used them.
const HELPERS: [&str; 3] = [
    "from multiprocessing.resource_tracker import main",
    "from multiprocessing.forkserver import main",
    "joblib.externals.loky",
];

/// A daemon as it was before the fault.
#[derive(Clone, Debug)]
pub struct Oracle {
    baseline: Baseline,
    memory_budget_bytes: u64,
    log_bytes: usize,
    events: Vec<(String, usize)>,
}

impl Oracle {
    /// Warms the daemon up (a call on each pool), and remembers what it is like.
    #[track_caller]
    pub(crate) fn of(daemon: &Daemon) -> Oracle {
        let status = daemon.status();
        for pool in &status.pools {
            if let Err(why) = sentinel(daemon, &pool.name) {
                panic!("pool '{}' was not well before the fault: {why}", pool.name);
            }
        }
        daemon.wait_ready();
        Oracle {
            baseline: Baseline::of(daemon.pid(), daemon.token()),
            memory_budget_bytes: MEMORY_BUDGET_BYTES,
            log_bytes: daemon.log().len(),
            events: Vec::new(),
        }
    }

    /// Another memory budget than 16 MiB, for a test that has a reason.
    #[must_use]
    pub fn memory_budget(mut self, bytes: u64) -> Oracle {
        self.memory_budget_bytes = bytes;
        self
    }

    /// V9: since the baseline, exactly `count` log lines hold `text`.
    #[must_use]
    pub fn expect_event(mut self, text: &str, count: usize) -> Oracle {
        self.events.push((text.to_owned(), count));
        self
    }

    /// The end of a test: the daemon must have healed, must stop with code 0, and must leave
    /// nothing. Panics with every violation.
    #[track_caller]
    pub fn judge(self, daemon: Daemon) {
        self.judge_but_for(daemon, |_| false);
    }

    /// As [`Oracle::judge`], where workers may live on with helpers of `multiprocessing` and of
    /// joblib below them, which stay for as long as their python does. At the daemon's end they too
    /// must be gone.
    #[track_caller]
    pub fn judge_with_helpers(self, daemon: Daemon) {
        self.judge_but_for(daemon, |stray| HELPERS.iter().any(|helper| stray.contains(helper)));
    }

    #[track_caller]
    fn judge_but_for(self, mut daemon: Daemon, may_stay: impl Fn(&str) -> bool) {
        let mut violations = self.violations(&daemon);
        // The first line is a heading.
        let has_stranger = |found: &str| found.lines().skip(1).any(|line| !may_stay(line));
        violations.retain(|it| it.rule != "V2" || has_stranger(&it.found));
        let code = daemon.stop(STOP_BOUND);
        if code != 0 {
            let found = format!("asked to stop, it ended with {code}");
            violations.push(Violation { rule: "V5", found });
        }
        violations.extend(self.violations_after_stop(&daemon));
        report(&violations, &daemon);
    }

    /// The middle of a test: as [`Oracle::judge`], but the daemon lives on.
    #[track_caller]
    pub fn check(&self, daemon: &Daemon) {
        report(&self.violations(daemon), daemon);
    }

    /// Everything wrong with a daemon that should be at rest.
    pub fn violations(&self, daemon: &Daemon) -> Vec<Violation> {
        let mut all = Vec::new();
        let mut note = |result: Result<(), Violation>| all.extend(result.err());
        note(self.healed(daemon));
        note(try_until(SETTLE, || accounted(daemon)));
        note(try_until(SETTLE, || {
            self.baseline.strays(&expected_processes(daemon, daemon.try_status().ok().as_ref()))
        }));
        note(try_until(SETTLE, || self.baseline.descriptors()));
        note(try_until(SETTLE, || self.baseline.memory(self.memory_budget_bytes)));
        note(self.baseline.idle());
        let log = daemon.log();
        let since = log.get(self.log_bytes..).unwrap_or_default();
        for (text, count) in &self.events {
            let seen = since.lines().filter(|line| line.contains(text)).count();
            if seen != *count {
                let found = format!("{seen} log lines with {text:?}, not {count}");
                note(Err(Violation { rule: "V9", found }));
            }
        }
        if since.contains("panicked at") {
            note(Err(Violation { rule: "V9", found: "the daemon panicked".to_owned() }));
        }
        all
    }

    /// V5.
    fn healed(&self, daemon: &Daemon) -> Result<(), Violation> {
        let bound = SETTLE + daemon.started_in();
        let status = try_until(bound, || {
            let status = daemon.try_status()?;
            unready(&status).map(|()| status)
        });
        let status = status.map_err(|state| Violation {
            rule: "V5",
            found: format!("not healed within {bound:?}: {state}"),
        })?;
        for pool in &status.pools {
            sentinel(daemon, &pool.name).map_err(|why| Violation {
                rule: "V5",
                found: format!("pool '{}' does not work: {why}", pool.name),
            })?;
        }
        Ok(())
    }

    /// Everything left of a daemon that has stopped.
    pub fn violations_after_stop(&self, daemon: &Daemon) -> Vec<Violation> {
        let tmp = daemon.tmp();
        let (run, temporary) = (tmp.join("run"), tmp.join("tmp"));
        let checks = [
            try_until(SETTLE, || self.baseline.strays(&BTreeSet::new())),
            leftovers(&[daemon.socket()], &[&run, &temporary]),
            leftovers_by_name(&tmp.join("state")),
            try_until(SHARED_MEMORY_SETTLE, || {
                forgotten_shared_memory(daemon.shared_memory_before())
            }),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }
}

#[track_caller]
fn report(violations: &[Violation], daemon: &Daemon) {
    if violations.is_empty() {
        return;
    }
    let all: Vec<_> = violations.iter().map(ToString::to_string).collect();
    panic!("the oracle found, about daemon {}:\n{}", daemon.pid(), all.join("\n"));
}

/// V1: by each pool's counters, what was accepted was answered, waits or runs.
fn accounted(daemon: &Daemon) -> Result<(), Violation> {
    let wrong = |found| Violation { rule: "V1", found };
    let status = daemon.try_status().map_err(wrong)?;
    for pool in &status.pools {
        let accepted = pool.counters.get("accepted").copied().unwrap_or(0);
        let answered = pool.counters.iter().filter(|(name, _)| name.starts_with("answered."));
        let answered: u64 = answered.map(|(_, count)| count).sum();
        if accepted != answered + pool.queued + pool.running {
            return Err(wrong(format!(
                "pool '{}' accepted {accepted} calls, answered {answered}, {} wait, {} run: {:?}",
                pool.name, pool.queued, pool.running, pool.counters
            )));
        }
    }
    Ok(())
}

/// The workers as `status` has them, and their guardians: the processes right below the daemon
/// that are a worker's parent.
fn expected_processes(daemon: &Daemon, status: Option<&Status>) -> BTreeSet<u32> {
    let pools = status.iter().flat_map(|status| &status.pools);
    let mut expected = BTreeSet::new();
    for worker in pools.flat_map(|pool| &pool.workers) {
        expected.insert(worker.pid);
        if let Some(process) = Process::find(worker.pid)
            && Process::find(process.parent).is_some_and(|parent| parent.parent == daemon.pid())
        {
            expected.insert(process.parent);
        }
    }
    expected
}

/// A call whose answer is known.
fn sentinel(daemon: &Daemon, pool: &str) -> Result<(), String> {
    let (mut client, _) = RawClient::try_hello(daemon.socket())?;
    let id = client.next_id();
    let call = crate::raw::call(id, pool, "math:sqrt", "[2]");
    client.send(&call).map_err(|error| error.to_string())?;
    let frame = client.read(10 * SECOND).map_err(|end| format!("no answer: {end:?}"))?;
    match crate::raw::reply(&frame) {
        Reply::Value(value) if value.as_f64() == Some(std::f64::consts::SQRT_2) => Ok(()),
        Reply::Value(value) => Err(format!("math:sqrt of 2 is {value}")),
        Reply::Failed(failure)
            if matches!(failure.reason, Reason::NotAllowed)
                && daemon.restricted_pools().iter().any(|name| name == pool) =>
        {
            Ok(())
        }
        Reply::Failed(failure) => Err(failure.to_string()),
    }
}

/// V4: the state directory may keep the unpacked Python package, and nothing that belonged to a
/// running daemon.
pub(crate) fn leftovers_by_name(state: &Path) -> Result<(), Violation> {
    let ends = [".lock", ".pid", ".sock", ".tmp"];
    let files = files_below(state).into_iter().map(|file| file.display().to_string());
    let found = files.filter(|file| ends.iter().any(|end| file.ends_with(end)));
    none_or("V4", "left in the state directory", found.collect())
}
