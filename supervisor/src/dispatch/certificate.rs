//! What is known about a death, written down. Leaves telling it to others.

use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::message::{Exit, Exited, WorkerId};
use nix::sys::signal::Signal;

use super::dispatcher::Worker;
use crate::pool::{StopCause, WorkerState};
use crate::worker::oom::OomWatch;
use crate::worker::output::Asker;
use crate::worker::stack;

/// How a death came about.
pub(super) struct Story<'a> {
    /// What the worker was doing.
    pub(super) before: Option<WorkerState>,
    /// What its guardian reported, if it did.
    pub(super) exited: Option<Exited>,
    /// Whether the kernel did it.
    pub(super) oom: &'a mut OomWatch,
}

/// Writes a worker's certificate.
pub(super) fn write(
    pool: &str,
    worker: WorkerId,
    entry: &mut Worker,
    story: Story<'_>,
) -> Certificate {
    let Story { before, exited, oom } = story;
    let exit = exited.map(|exited| exited.exit);
    let mut cause = cause(entry, before, exit);
    // A SIGKILL that nobody here ordered may be the kernel's.
    let killed = Some(Exit::Signal(Signal::SIGKILL as i32));
    let unordered = matches!(cause, Cause::Signalled | Cause::StartFailed | Cause::ChannelLost);
    if unordered && exit == killed && oom.claim(entry.oom_kills_before) {
        cause = Cause::OutOfMemory;
    }
    let had_call = match before {
        Some(WorkerState::Stopping(StopCause::Interrupted, _)) => true,
        before => before.and_then(WorkerState::call).is_some(),
    };
    let cpu_us = exited.map_or(0, |exited| exited.user_us.saturating_add(exited.system_us));
    Certificate {
        pool: pool.to_owned(),
        worker,
        pid: exited.map_or(entry.pid, |exited| exited.pid),
        cause,
        exit,
        exit_name: exit.map_or_else(|| "unknown".to_owned(), name),
        peak_rss_bytes: exited.map_or(0, |exited| exited.peak_rss_bytes),
        uptime_ms: u64::try_from(entry.born.elapsed().as_millis()).unwrap_or(u64::MAX),
        calls_served: entry.served,
        function: entry.function.as_deref().filter(|_| had_call).map(str::to_owned),
        stderr_tail: entry.tail.text(),
        detail: entry.detail.clone(),
        out_of_memory: cause == Cause::OutOfMemory,
        cpu_ms: cpu_us / 1000,
        call: entry.last_call.filter(|_| had_call).map_or(0, |call| call.0),
        stack: last_stack(entry),
    }
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
    stack::cut(&newest)
}

fn cause(entry: &Worker, before: Option<WorkerState>, exit: Option<Exit>) -> Cause {
    match before {
        // A worker that ends by itself closes its sockets first, and is noticed by that now and
        // then; what its guardian reports is the better story.
        Some(WorkerState::Stopping(StopCause::ChannelLost, _)) => match exit {
            Some(Exit::Signal(signal)) if signal == Signal::SIGKILL as i32 => Cause::ChannelLost,
            Some(Exit::Signal(_)) => Cause::Signalled,
            Some(Exit::Code(_)) => Cause::Exited,
            None => Cause::ChannelLost,
        },
        Some(WorkerState::Stopping(StopCause::StartTimedOut, _)) => Cause::StartTimedOut,
        Some(WorkerState::Stopping(StopCause::Interrupted, _)) => Cause::Interrupted,
        Some(WorkerState::Stopping(StopCause::Protocol, _)) => Cause::Protocol,
        Some(WorkerState::Stopping(
            StopCause::Drain | StopCause::Replaced(_) | StopCause::Surplus,
            _,
        )) => Cause::Stopped,
        Some(WorkerState::Stopping(StopCause::Memory, _)) => Cause::MemoryLimit,
        Some(WorkerState::Stopping(StopCause::Stalled, _)) => Cause::Stalled,
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
    use super::*;

    #[test]
    fn signals_have_their_usual_names_f007() {
        assert_eq!("SIGKILL", name(Exit::Signal(9)));
        assert_eq!("SIGSEGV", name(Exit::Signal(11)));
        assert_eq!("signal 40", name(Exit::Signal(40)));
        assert_eq!("exit code 3", name(Exit::Code(3)));
    }
}
