//! Failures as people read them: one sentence each, with what to do next.

use std::fmt;

use crate::failure::{
    Ancestor, Cause, Certificate, Exception, Failure, HandleQuota, Hindrance, NestedBound, Payload,
    Reason, Shutdown,
};
use crate::limits::{PAYLOAD_BYTES_MAX, WORKERS_KILLED_MAX};
use crate::message::Phases;

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say_what_happened(f)?;
        if self.quarantined {
            write!(f, "; not tried again: it has killed {WORKERS_KILLED_MAX} workers")
        } else if self.attempt > 1 {
            write!(f, "; that was attempt {}", self.attempt)
        } else {
            Ok(())
        }
    }
}

impl Failure {
    fn say_what_happened(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { pool, function, phases, .. } = self;
        match &self.reason {
            Reason::Raised(exception) => write!(f, "{function} raised {exception}"),
            Reason::TimedOut { timeout_ms, hindrance, .. } => {
                let span = Span(timeout_ms.saturating_mul(1000));
                write!(f, "{function} timed out after {span}")?;
                // Where nobody answered, nobody has told what the time was spent on.
                if *hindrance != Hindrance::Unanswered {
                    write!(f, " ({phases})")?;
                }
                f.write_str("; ")?;
                what_to_do(f, hindrance, pool)
            }
            Reason::Cancelled => write!(f, "{function} was cancelled ({phases})"),
            Reason::WorkerDied(certificate) => {
                write!(f, "the worker running {function} died: {certificate}; ")?;
                match self.item {
                    _ if !self.started => f.write_str("it had not begun"),
                    None => f.write_str("it may have run in part"),
                    Some(item) => write!(f, "it was at item {item}"),
                }
            }
            Reason::QueueFull { limit } => write!(
                f,
                "the queue of pool '{pool}' is full ({limit} calls wait); call slower, or raise \
                 limits.queue"
            ),
            Reason::CrashLoop { failures, last } => crash_loop(f, pool, *failures, last),
            Reason::NotAllowed => write!(
                f,
                "pool '{pool}' does not allow {function}; add it to the pool's allow list"
            ),
            Reason::NotFound(missing) => f.write_str(&missing.message),
            Reason::BadArguments { message } => {
                write!(f, "bad arguments for {function}: {message}")
            }
            Reason::Unserializable { path, type_name, message } => {
                write!(
                    f,
                    "{function} returned something that cannot be sent: {path}: {type_name} \
                     ({message})"
                )
            }
            Reason::TooLarge { what, bytes, limit } => {
                too_large(f, function, *what, [*bytes, *limit])
            }
            Reason::ShuttingDown { why } => {
                what_ended(f, *why, pool, function)?;
                f.write_str(if self.started { "; it may have run in part" } else { "" })
            }
            Reason::Disconnected { detail } => {
                write!(f, "the connection to the daemon was lost: {detail}")?;
                f.write_str(if self.started { "; the call may have run" } else { "" })
            }
            Reason::Protocol { detail } => write!(f, "protocol error: {detail}"),
            Reason::Nested { chain, bound, limit } => {
                write!(f, "{function} was not run, it is a nested call and ")?;
                what_was_too_much(f, *bound, *limit, pool)?;
                write!(f, "; the chain is {}{function}", Chain(chain))
            }
            Reason::HandlesFull { quota, needed, held, limit } => {
                handles_full(f, *quota, [*needed, *held, *limit])
            }
        }
    }
}

fn too_large(
    f: &mut fmt::Formatter<'_>,
    function: &str,
    what: Payload,
    [bytes, limit]: [u64; 2],
) -> fmt::Result {
    let (subject, has, advice) = match what {
        Payload::Arguments => ("arguments", "have", "pass"),
        Payload::Result => ("result", "has", "return"),
    };
    write!(
        f,
        "the {subject} of {function} {has} {bytes} bytes, at most {limit} are allowed; {advice} \
         less at once, or raise {}",
        key_of(limit)
    )
}

/// The key to raise. A payload is never allowed to be longer than a bound of the protocol; below
/// it, both may be meant.
fn key_of(limit: u64) -> &'static str {
    if limit > u64::from(PAYLOAD_BYTES_MAX) {
        "daemon.attached"
    } else {
        "daemon.payload (daemon.attached, for arrays and large bytes beside it)"
    }
}

/// Why a value was not kept.
fn handles_full(
    f: &mut fmt::Formatter<'_>,
    quota: HandleQuota,
    [needed, held, limit]: [u64; 3],
) -> fmt::Result {
    let (unit, whose, key) = match quota {
        HandleQuota::ClientBytes => ("bytes", "this client", "daemon.handles_per_client"),
        HandleQuota::Bytes => ("bytes", "all clients", "daemon.handles"),
        HandleQuota::ClientDescriptors => {
            ("open files", "this client", "the daemon's limit of open files")
        }
        HandleQuota::Descriptors => {
            ("open files", "all clients", "the daemon's limit of open files")
        }
    };
    write!(
        f,
        "the daemon keeps {held} of at most {limit} {unit} for {whose}, and the value would add \
         {needed}; drop handles that are no longer used, or raise {key}"
    )
}

/// Why a pool takes no more calls, or did not finish one.
fn what_ended(
    f: &mut fmt::Formatter<'_>,
    why: Shutdown,
    pool: &str,
    function: &str,
) -> fmt::Result {
    match why {
        Shutdown::Daemon => {
            write!(f, "pool '{pool}' takes no more calls: the daemon is shutting down")
        }
        Shutdown::Ended => write!(
            f,
            "{function} was running while the daemon was shutting down, and was ended when \
             daemon.stop_grace was over, or by a second signal"
        ),
        Shutdown::Drain => write!(
            f,
            "pool '{pool}' takes no more calls: an operator drains it; `clutch pool resume \
             {pool}` opens it again"
        ),
    }
}

/// Calls that wait for one another, and for what is written behind.
struct Chain<'a>(&'a [Ancestor]);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Ancestor { call, pool, function } in self.0 {
            write!(f, "{function} (call {call}, pool '{pool}') -> ")?;
        }
        Ok(())
    }
}

/// Which bound of nested calls a call would have gone beyond.
fn what_was_too_much(
    f: &mut fmt::Formatter<'_>,
    bound: NestedBound,
    limit: u32,
    pool: &str,
) -> fmt::Result {
    match bound {
        NestedBound::Depth => write!(
            f,
            "pool '{pool}' lets no more than {limit} calls wait for one another; raise \
             nested.depth, or nest less deeply"
        ),
        NestedBound::Extra => write!(
            f,
            "would wait for ever: all workers of pool '{pool}', the {limit} that it may start for \
             nested calls included, wait for such calls; raise nested.extra, or call another pool"
        ),
    }
}

/// What helps against being late, which is not always more time.
fn what_to_do(f: &mut fmt::Formatter<'_>, hindrance: &Hindrance, pool: &str) -> fmt::Result {
    match hindrance {
        Hindrance::Work => write!(
            f,
            "pass a longer timeout (at most limits.call_timeout_max of pool '{pool}'), or raise \
             its limits.call_timeout for calls that pass none"
        ),
        Hindrance::Attempt => f.write_str(
            "that was the time of its last attempt; pass a longer attempt timeout, or more \
             attempts within the call's own timeout",
        ),
        Hindrance::Paused => {
            write!(f, "pool '{pool}' is paused; `clutch pool resume {pool}` lets it go on")
        }
        Hindrance::NoWorker => write!(
            f,
            "pool '{pool}' had no worker ready; `clutch workers --pool {pool}` shows how their \
             starts go, and `clutch status` how the last one failed"
        ),
        Hindrance::Caller => f.write_str(
            "the call that waits for it has no more time; give that one a longer timeout",
        ),
        Hindrance::Capped { wished_ms } => write!(
            f,
            "a timeout of {} was wished for, and limits.call_timeout_max of pool '{pool}' allows \
             no more than that; raise that key",
            Span(wished_ms.saturating_mul(1000))
        ),
        Hindrance::Reader { items } => write!(
            f,
            "its stream waited for its reader after {items} items; read faster, or pass a longer \
             timeout: a stream's covers its whole life"
        ),
        Hindrance::Unanswered => f.write_str(
            "the daemon did not answer: it may be stopped or overloaded, `clutch ping` asks it",
        ),
        Hindrance::Frozen { pid } => write!(
            f,
            "its worker (pid {pid}) was stopped by a signal (SIGSTOP) while it ran the call, and \
             is being replaced"
        ),
        Hindrance::Building => write!(
            f,
            "the environment of pool '{pool}' was still being built; `clutch status` shows how far \
             that is, and `clutch env build` before the daemon's start spares callers the wait"
        ),
        Hindrance::Stopped { pids } => {
            let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            let (whose, are) = if pids.contains(' ') { ("es", "are") } else { ("", "is") };
            write!(
                f,
                "worker process{whose} {pids} {are} stopped by a signal (SIGSTOP): continue with \
                 `kill -CONT {pids}`, or set liveness.stopped of pool '{pool}' to \"continue\" or \
                 \"replace\""
            )
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => f.write_str(&self.type_name),
            message => write!(f, "{}: {message}", self.type_name),
        }
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Certificate { pool, worker, pid, exit_name, calls_served, .. } = self;
        write!(f, "worker {pool}/{}.{} ", worker.slot, worker.generation)?;
        if *pid != 0 {
            write!(f, "(pid {pid}) ")?;
        }
        match self.cause {
            Cause::Exited => write!(f, "ended with {exit_name}")?,
            Cause::Signalled => write!(f, "was ended by {exit_name}")?,
            Cause::StartFailed if self.exit.is_some() => {
                write!(f, "could not be started, it ended with {exit_name}")?;
            }
            // It never ran, so there is no time and there are no calls to tell of.
            Cause::StartFailed if self.uptime_ms == 0 || *pid == 0 => {
                f.write_str("could not be started")?;
                return self.say_detail(f);
            }
            Cause::StartFailed => f.write_str("could not be started")?,
            Cause::StartTimedOut => {
                f.write_str("took longer to start than limits.start_timeout and was killed")?;
            }
            Cause::Interrupted => f.write_str("would not give up a call and was killed")?,
            Cause::Protocol => f.write_str("broke the protocol and was killed")?,
            Cause::ChannelLost => f.write_str("closed its sockets and was killed")?,
            Cause::GuardianLost => f.write_str("lost its guardian and was killed")?,
            Cause::Stopped => f.write_str("was stopped")?,
            Cause::OutOfMemory => {
                let peak = self.peak_rss_bytes >> 20;
                write!(f, "was killed by the system, which was out of memory (peak {peak} MiB),")?;
            }
            Cause::MemoryLimit => {
                f.write_str("held more memory than memory.kill_above and was killed")?;
            }
            Cause::Stalled => f.write_str("had been stopped by a signal and was killed")?,
        }
        let plural = if *calls_served == 1 { "" } else { "s" };
        write!(f, " after {} and {calls_served} call{plural}", Span(self.uptime_ms * 1000))?;
        match exit_name.as_str() {
            "SIGXCPU" => f.write_str(" (the processor time of process.cpu_time is used up)")?,
            // As good as always the end of a mapping without anything behind it.
            "SIGBUS" => f.write_str(
                " (a file that it had mapped was cut short, or the disk or /dev/shm is full)",
            )?,
            _ => {}
        }
        self.say_detail(f)
    }
}

impl Certificate {
    fn say_detail(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail.as_str() {
            "" => Ok(()),
            detail => write!(f, ": {detail}"),
        }
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Phases { queue_us, run_us, start_us } = *self;
        write!(f, "queue {}, start {}, run {}", Span(queue_us), Span(start_us), Span(run_us))
    }
}

fn crash_loop(
    f: &mut fmt::Formatter<'_>,
    pool: &str,
    failures: u32,
    last: &Certificate,
) -> fmt::Result {
    write!(f, "pool '{pool}' is in a crash loop: ")?;
    // Where there was nothing to start, nothing has died.
    if last.cause == Cause::StartFailed && last.pid == 0 {
        f.write_str("its workers cannot be started")?;
    } else {
        write!(f, "{}", Deaths(failures))?;
    }
    write!(
        f,
        "; a start is tried now and then, and at once after `clutch pool reset {pool}`; the last: \
         {last}"
    )
}

/// Deaths that no success has followed: the same words in errors, in `status` and in the log.
#[derive(Clone, Copy, Debug)]
pub struct Deaths(pub u32);

impl fmt::Display for Deaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("its workers died and no call succeeded since"),
            1 => f.write_str("1 worker died and no call succeeded after it"),
            count => write!(f, "{count} workers died and no call succeeded between"),
        }
    }
}

/// A time span in microseconds, shown with the unit a reader expects.
struct Span(u64);

impl fmt::Display for Span {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            us @ ..1_000 => write!(f, "{us} us"),
            us @ ..1_000_000 => write!(f, "{:.1} ms", us as f64 / 1e3),
            us => write!(f, "{:.1} s", us as f64 / 1e6),
        }
    }
}
