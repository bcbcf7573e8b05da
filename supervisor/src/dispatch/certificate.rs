//! What is known about a death, written down. Leaves telling it to others.

use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::message::{Exit, Exited, WorkerId};
use nix::sys::signal::Signal;

use super::dispatcher::{Dispatcher, PoolState, Worker};
use super::given::Given;
use super::groups;
use crate::cgroup::Group;
use crate::config;
use crate::pool::{Begun, CallKey, StopCause, WorkerState};
use crate::watch::process;
use crate::worker::oom::OomWatch;
use crate::worker::output::Asker;
use crate::worker::spawner::PoolIndex;
use crate::worker::stack;

/// How many other calls a certificate names.
const OTHERS_NAMED_MAX: usize = 8;

/// How a death came about.
pub(super) struct Story<'a> {
    /// What the worker was doing.
    pub(super) before: Option<WorkerState>,
    /// Whether it had no call.
    pub(super) is_idle: bool,
    /// What its guardian reported, if it did.
    pub(super) exited: Option<Exited>,
    /// Which of the calls it had can have begun. Those that had not are not to blame.
    pub(super) begun: &'a Begun,
    /// Whether the kernel did it.
    pub(super) oom: &'a mut OomWatch,
}

/// Writes a worker's certificate.
pub(super) fn write(
    config: &config::Pool,
    worker: WorkerId,
    entry: &mut Worker,
    story: Story<'_>,
) -> Certificate {
    let Story { before, is_idle, exited, begun, oom } = story;
    let exit = exited.map(|exited| exited.exit);
    let mut cause = cause(entry, before, exit);
    // A SIGKILL that nobody here ordered may be the kernel's.
    let killed = Some(Exit::Signal(Signal::SIGKILL as i32));
    let unordered = matches!(cause, Cause::Signalled | Cause::StartFailed | Cause::ChannelLost);
    if unordered && exit == killed {
        match entry.group.as_ref().and_then(Group::ooms) {
            // Nobody else is in its group, so that its count is the better one.
            Some(ooms) => {
                cause = groups::blame(entry, &config.memory, is_idle, ooms).unwrap_or(cause)
            }
            None if oom.claim(entry.oom_kills_before) => cause = Cause::OutOfMemory,
            None => {}
        }
    }
    // It may have been at one that nobody waited for any more.
    let is_hung = before == Some(WorkerState::Stopping(StopCause::Interrupted));
    let had = entry.given.iter().filter(|given| is_hung || begun.has(given.call));
    entry.died_with = had.cloned().collect();
    if cause == Cause::StartTimedOut {
        entry.detail = super::imports::of_late_start(&config.limits, entry);
    }
    let cpu_us = exited.map_or(0, |exited| exited.user_us.saturating_add(exited.system_us));
    let certificate = Certificate {
        pool: config.name.clone(),
        worker,
        pid: exited.map_or(entry.pid, |exited| exited.pid),
        cause,
        exit,
        exit_name: exit.map_or_else(|| "unknown".to_owned(), name),
        peak_rss_bytes: exited.map_or(0, |exited| exited.peak_rss_bytes),
        uptime_ms: uptime_ms(entry),
        calls_served: entry.served,
        function: None,
        stderr_tail: entry.tail.text(),
        detail: entry.detail.clone(),
        out_of_memory: cause == Cause::OutOfMemory,
        cpu_ms: cpu_us / 1000,
        call: 0,
        stack: last_stack(entry),
    };
    match entry.died_with.first() {
        Some(first) => of_call(certificate, &entry.died_with, first),
        None => certificate,
    }
}

/// A certificate as it is for one of the calls that its worker died with: it names this one as the
/// call, and the others beside it.
fn of_call(certificate: Certificate, all: &[Given], own: &Given) -> Certificate {
    let function = Some(own.function.to_string());
    let mut certificate = Certificate { call: own.call.0, function, ..certificate };
    if all.len() > 1 {
        let others = all.iter().filter(|given| given.call != own.call);
        let named = others.take(OTHERS_NAMED_MAX);
        let named: Vec<_> = named.map(|it| format!("{} ({})", it.call.0, it.function)).collect();
        let left_out = match all.len() - 1 - named.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let beside = format!("it also ran: call {}{left_out}", named.join(", call "));
        let detail = certificate.detail.lines().chain([&*beside]).collect::<Vec<_>>().join("\n");
        certificate.detail = detail;
    }
    certificate
}

impl Dispatcher {
    /// A worker is about to be killed: was it ending before? Its guardian's report, which is the
    /// better story, may come later than the end of its sockets.
    pub(super) fn note_ending(&mut self, pool: PoolIndex, worker: WorkerId) {
        if let Some(entry) = self.worker(pool, worker)
            && entry.pid != 0
            && entry.was_ending.is_none()
        {
            entry.was_ending = Some(process::is_ending(entry.pid));
        }
    }
}

impl PoolState {
    /// The death of a worker, or its loss where it is not dead yet, as a call that was lost with it
    /// is told.
    pub(super) fn death_of(&self, worker: WorkerId, call: CallKey) -> Certificate {
        let name = &self.config.name;
        let Some(entry) = self.workers.get(&worker) else {
            return Certificate::unknown(name, worker, Cause::ChannelLost);
        };
        let known = entry.certificate.as_deref().cloned();
        let known = known.unwrap_or_else(|| of_lost(name, worker, entry));
        match entry.died_with.iter().find(|given| given.call == call) {
            Some(own) if entry.died_with.len() > 1 => {
                let bare = Certificate { detail: entry.detail.clone(), ..known };
                of_call(bare, &entry.died_with, own)
            }
            _ => known,
        }
    }

    /// The newest death that nobody here ordered. A start that is only just being given up has no
    /// certificate of its own yet, and stands for itself.
    pub(super) fn newest_death(&self) -> Certificate {
        self.last_death.clone().unwrap_or_else(|| {
            let first = WorkerId { slot: 0, generation: 1 };
            Certificate::unknown(&self.config.name, first, Cause::StartTimedOut)
        })
    }
}

/// Writes the certificate of a worker that is lost and not dead yet: as much as is known of it.
fn of_lost(pool: &str, worker: WorkerId, entry: &Worker) -> Certificate {
    Certificate {
        pid: entry.pid,
        uptime_ms: uptime_ms(entry),
        calls_served: entry.served,
        stderr_tail: entry.tail.text(),
        detail: entry.detail.clone(),
        ..Certificate::unknown(pool, worker, Cause::ChannelLost)
    }
}

fn uptime_ms(entry: &Worker) -> u64 {
    u64::try_from(entry.born.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The newest there is: that of a crash, of a start that took too long, or of a call that timed
/// out and would not end.
fn last_stack(entry: &mut Worker) -> String {
    let written = entry.link.as_ref().map_or_else(String::new, |link| {
        let mut pipe = link.stack().borrow_mut();
        pipe.read(Asker::Dispatcher);
        pipe.take()
    });
    let newest = if written.is_empty() { std::mem::take(&mut entry.last_stack) } else { written };
    stack::of_death(&newest)
}

fn cause(entry: &Worker, before: Option<WorkerState>, exit: Option<Exit>) -> Cause {
    match before {
        _ if entry.has_no_interpreter => Cause::StartFailed,
        // A worker that ends by itself closes its sockets first, and is noticed by that now and
        // then; what its guardian reports is the better story. A SIGKILL is ours, unless the worker
        // was ending when we sent it.
        Some(WorkerState::Stopping(StopCause::ChannelLost)) => match exit {
            Some(Exit::Signal(signal))
                if signal == Signal::SIGKILL as i32 && entry.was_ending != Some(true) =>
            {
                Cause::ChannelLost
            }
            Some(Exit::Signal(_)) => Cause::Signalled,
            Some(Exit::Code(_)) => Cause::Exited,
            None => Cause::ChannelLost,
        },
        Some(WorkerState::Stopping(StopCause::StartTimedOut)) => Cause::StartTimedOut,
        Some(WorkerState::Stopping(StopCause::Interrupted)) => Cause::Interrupted,
        Some(WorkerState::Stopping(StopCause::Protocol)) => Cause::Protocol,
        Some(WorkerState::Stopping(
            StopCause::Drain | StopCause::Replaced(_) | StopCause::Surplus,
        )) => Cause::Stopped,
        Some(WorkerState::Stopping(StopCause::Memory)) => Cause::MemoryLimit,
        Some(WorkerState::Stopping(StopCause::Stalled)) => Cause::Stalled,
        Some(WorkerState::Starting) => Cause::StartFailed,
        _ if entry.pid == 0 => Cause::StartFailed,
        _ => match exit {
            Some(Exit::Code(_)) => Cause::Exited,
            Some(Exit::Signal(_)) => Cause::Signalled,
            None => Cause::GuardianLost,
        },
    }
}

/// The usual name of an exit: `SIGKILL`, `exit code 3`.
fn name(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exit code {code}"),
        Exit::Signal(number) => Signal::try_from(number)
            .map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::rc::Rc;
    use std::time::Instant;

    use bytes::{Bytes, BytesMut};
    use clutch_protocol::failure::{Failure, Reason};
    use clutch_protocol::frame::{Decoder, Step};
    use clutch_protocol::{Codec, Frame, Header, Kind, message, wire};
    use tokio::net::UnixStream;
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::cgroup::Ooms;
    use crate::config::Memory;
    use crate::dispatch::{Core, Parts, PoolParts};
    use crate::net::{Attached, Outbox, SharedBudget};
    use crate::pool::{Pool, Verdict};
    use crate::prepare::Ingredients;
    use crate::session::Peer;
    use crate::worker::launch::{Bounds, Recipe};
    use crate::worker::spawner::{Guardian, Launched, Orphans, Spawner};

    const POOL: PoolIndex = PoolIndex(0);

    /// A pool of two workers that are being started, and what the spawner says, which nobody hears.
    fn core() -> (Core, Receiver<Launched>) {
        let config = "[pools.a]\nworkers = 2\n";
        let mut config = config::parse(config, None, Path::new("/")).unwrap();
        let (python, boot) = (Path::new("/bin/python3"), Path::new("/state/py/boot.py"));
        let (daemon, config) = (config.daemon, config.pools.remove("a").unwrap());
        let recipe = Recipe::new(&config, python, boot, Vec::new(), Bounds::default());
        let policy = Pool::new(crate::prepare::settings(&config));
        let guardian =
            Guardian { program: "/nowhere".into(), args: vec![], orphans: Orphans::OfItsSession };
        let (launched, outcomes) = tokio::sync::mpsc::channel(2);
        let (spawner, _) = Spawner::start(guardian, None, launched).unwrap();
        let watcher = crate::watch::watcher::Watcher::start().unwrap();
        let ingredients =
            Ingredients { boot: boot.to_owned(), bounds: Bounds::default(), provider: None };
        let pools = vec![PoolParts { config, make: Ok(recipe), ingredients, policy }];
        let core = Core::new(Parts {
            daemon,
            pools,
            spawner,
            watcher,
            socket: std::path::PathBuf::new(),
            sampling_because: None,
        });
        core.start();
        (core, outcomes)
    }

    /// What the caller of a call is told that was with a worker which was lost.
    fn told(core: &Core, call: u64, worker: WorkerId) -> Certificate {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = Rc::new(UnixStream::from_std(ours).unwrap());
        let outbox = Outbox::new(ours, 1 << 20, SharedBudget::new(1 << 20, 64));
        let peer = Rc::new(Peer::new(1, outbox, core.no_handles()));
        let (pool, function) = ("a".to_owned(), "m:f".to_owned());
        let (retry, each, handles) = (None, None, Vec::new());
        let (timeout_ms, priority) = (0, 0);
        let meta = message::Call { pool, function, timeout_ms, priority, retry, each, handles };
        let meta = Bytes::from(wire::encode(&meta).unwrap());
        let header = Header { codec: Codec::Raw, ..Header::new(Kind::Call, 1) };
        let frame = Frame { header, meta, payload: Bytes::new() };
        core.call(Instant::now(), &peer, frame, Attached::default(), None).unwrap();
        let verdict = Verdict::WorkerDied { worker, quarantined: false };
        core.with(|d| d.settle(Instant::now(), POOL, CallKey(call), verdict));
        let mut bytes = [0; 4096];
        let count = std::io::Read::read(&mut &theirs, &mut bytes).unwrap();
        let mut bytes = BytesMut::from(&bytes[..count]);
        let Step::Frame(frame) = Decoder::with_payload_max(1024).step(&mut bytes).unwrap() else {
            panic!("an answer comes at once");
        };
        match wire::decode::<Failure>(&frame.meta).unwrap().reason {
            Reason::WorkerDied(certificate) => *certificate,
            reason => panic!("{reason:?}"),
        }
    }

    #[test]
    fn a_lost_call_is_told_of_its_own_worker_and_of_no_stranger() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (core, _outcomes) = core();
        let [first, second] = [0, 1].map(|slot| WorkerId { slot, generation: 1 });
        core.with(|dispatcher| {
            dispatcher.worker(POOL, first).unwrap().pid = 11;
            dispatcher.worker(POOL, second).unwrap().pid = 22;
            dispatcher.bury(POOL, second, None, &Begun::All);
        });
        // It is lost and not dead yet: what is known of it is told.
        let lost = told(&core, 1, first);
        assert_eq!((first, 11, Cause::ChannelLost), (lost.worker, lost.pid, lost.cause));
        // Dead, its own certificate counts, though another one is newer.
        let dead = told(&core, 2, second);
        assert_eq!((second, 22, Cause::StartFailed), (dead.worker, dead.pid, dead.cause));
        core.with(|dispatcher| dispatcher.bury(POOL, first, None, &Begun::All));
        assert_eq!(dead, told(&core, 3, second));
        let gone = WorkerId { slot: 1, generation: 9 };
        assert_eq!(Certificate::unknown("a", gone, Cause::ChannelLost), told(&core, 4, gone));
    }

    #[test]
    fn an_old_kill_in_its_group_explains_no_later_death_f028() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (core, _outcomes) = core();
        let killed = |kills, own| Ooms { kills, own };
        core.with(|dispatcher| {
            let mut memory = dispatcher.pools[0].config.memory.clone();
            let entry = dispatcher.worker(POOL, WorkerId { slot: 0, generation: 1 }).unwrap();
            let mut blame = |before, ooms, memory: &Memory| {
                entry.counted.before = before;
                [false, true].map(|is_idle| groups::blame(entry, memory, is_idle, ooms))
            };
            let old = killed(1, 1);
            assert_eq!([None; 2], blame(old, old, &memory), "a child was, before this call");
            assert_eq!([Some(Cause::OutOfMemory), None], blame(old, killed(2, 1), &memory));
            memory.kill_above = Some(1 << 20);
            assert_eq!([None; 2], blame(old, old, &memory));
            assert_eq!([Some(Cause::OutOfMemory); 2], blame(old, killed(2, 1), &memory));
            assert_eq!([Some(Cause::MemoryLimit); 2], blame(old, killed(2, 2), &memory));
        });
    }

    #[test]
    fn signals_have_their_usual_names_f007() {
        assert_eq!("SIGKILL", name(Exit::Signal(9)));
        assert_eq!("SIGSEGV", name(Exit::Signal(11)));
        assert_eq!("signal 40", name(Exit::Signal(40)));
        assert_eq!("exit code 3", name(Exit::Code(3)));
    }
}
