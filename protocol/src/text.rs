//! Failures as people read them: one sentence each, with what to do next.

use std::fmt;

use crate::failure::{Cause, Certificate, Exception, Failure, Payload, Reason};
use crate::limits::WORKERS_KILLED_MAX;
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
            Reason::TimedOut { timeout_ms, .. } => write!(
                f,
                "{function} timed out after {} ({phases}); pass a longer timeout (at most \
                 limits.call_timeout_max of pool '{pool}'), or raise its limits.call_timeout for \
                 calls that pass none",
                Span(timeout_ms * 1000)
            ),
            Reason::Cancelled => write!(f, "{function} was cancelled ({phases})"),
            Reason::WorkerDied(certificate) => {
                let again =
                    if self.started { "it may have run in part" } else { "it had not begun" };
                write!(f, "the worker running {function} died: {certificate}; {again}")
            }
            Reason::QueueFull { limit } => write!(
                f,
                "the queue of pool '{pool}' is full ({limit} calls wait); call slower, or raise \
                 limits.queue"
            ),
            Reason::CrashLoop { failures, last } => write!(
                f,
                "pool '{pool}' is in a crash loop (workers died {failures} time{} without a \
                 success between; one is tried now and then, and calls are taken again once it is \
                 ready); the last: {last}",
                if *failures == 1 { "" } else { "s" }
            ),
            Reason::NotAllowed => {
                write!(
                    f,
                    "pool '{pool}' does not allow {function}; add it to the pool's allow list"
                )
            }
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
            Reason::TooLarge { what, bytes, limit } => write!(
                f,
                "the {} of {function} have {bytes} bytes, at most {limit} are allowed \
                 (daemon.payload)",
                match what {
                    Payload::Arguments => "arguments",
                    Payload::Result => "result's bytes",
                }
            ),
            Reason::ShuttingDown => {
                write!(
                    f,
                    "pool '{pool}' takes no more calls: the daemon is shutting down, or an \
                     operator drains the pool (`clutch status` says which)"
                )?;
                if self.started { f.write_str("; it may have run in part") } else { Ok(()) }
            }
            Reason::Disconnected { detail } => {
                write!(f, "the connection to the daemon was lost: {detail}")
            }
            Reason::Protocol { detail } => write!(f, "protocol error: {detail}"),
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
        write!(f, " after {} and {calls_served} calls", Span(self.uptime_ms * 1000))?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {}, run {}", Span(self.queue_us), Span(self.run_us))
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
