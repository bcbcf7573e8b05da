//! What is known about a death, written down. Leaves telling it to others.

use clutch_protocol::failure::{Cause, Certificate};
use clutch_protocol::message::{Exit, Exited, WorkerId};
use nix::sys::signal::Signal;

use super::dispatcher::Worker;
use crate::pool::{StopCause, WorkerState};

/// Writes a worker's certificate: from what the guardian reported, if it did, and from what the
/// worker was doing `before`.
pub(super) fn write(
    pool: &str,
    worker: WorkerId,
    entry: &Worker,
    before: Option<WorkerState>,
    exited: Option<Exited>,
    function: Option<String>,
) -> Certificate {
    let exit = exited.map(|exited| exited.exit);
    Certificate {
        pool: pool.to_owned(),
        worker,
        pid: exited.map_or(entry.pid, |exited| exited.pid),
        cause: cause(entry, before, exit),
        exit,
        exit_name: exit.map_or_else(|| "unknown".to_owned(), name),
        peak_rss_bytes: exited.map_or(0, |exited| exited.peak_rss_bytes),
        uptime_ms: u64::try_from(entry.born.elapsed().as_millis()).unwrap_or(u64::MAX),
        calls_served: entry.served,
        function,
        stderr_tail: entry.tail.text(),
        detail: entry.detail.clone(),
    }
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
            StopCause::Drain | StopCause::Replaced(_) | StopCause::Surplus | StopCause::Memory,
            _,
        )) => Cause::Stopped,
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
