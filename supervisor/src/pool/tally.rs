//! What a pool counts of its workers and their calls, kept up with every change of one.

use super::policy::Worker;
use super::state::WorkerState;

/// What one worker adds to its pool's counts, or their sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Workers that have become ready and were not told to go.
    pub(super) up: u32,
    /// Those that may be given one more call and run some that somebody waits for.
    pub(super) busy: u32,
    /// Calls that somebody waits for, in workers that are up.
    pub(super) running: u32,
    /// Those of them in workers that are given no more now: such as leave, stand still, or have a
    /// call in every lane.
    pub(super) closed: u32,
    /// Those of them that wait for calls of their own.
    pub(super) waiting: u32,
    /// Workers that are up and take no call before one of theirs, which all wait for others, ends.
    pub(super) tied: u32,
}

impl Tally {
    /// What a worker adds.
    pub(super) fn of(worker: &Worker) -> Tally {
        let (running, waiting) = (worker.lanes.running(), worker.lanes.waiting());
        let counted = match worker.state {
            WorkerState::Up => Tally {
                busy: if worker.is_open() { u32::from(running > 0) } else { 0 },
                closed: if worker.is_open() { 0 } else { running },
                tied: u32::from(waiting == worker.lanes.count()),
                ..Tally::default()
            },
            WorkerState::Retiring(_) => Tally {
                closed: running,
                tied: u32::from(waiting > 0 && waiting == running),
                ..Tally::default()
            },
            WorkerState::Starting | WorkerState::Stopping(_) | WorkerState::Dead => {
                return Tally::default();
            }
        };
        Tally { up: 1, running, waiting, ..counted }
    }

    /// One worker adds something else than before.
    pub(super) fn replace(&mut self, before: Tally, after: Tally) {
        let change = |sum: &mut u32, before: u32, after: u32| *sum = *sum + after - before;
        change(&mut self.up, before.up, after.up);
        change(&mut self.busy, before.busy, after.busy);
        change(&mut self.running, before.running, after.running);
        change(&mut self.closed, before.closed, after.closed);
        change(&mut self.waiting, before.waiting, after.waiting);
        change(&mut self.tied, before.tied, after.tied);
        assert!(self.waiting <= self.running, "only what runs waits");
    }
}
