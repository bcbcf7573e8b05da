//! The calls of a pool, waiting and running, with their deadlines and every other timer.
//!
//! A call keeps its place number for life, so one that goes back to the queue (its worker died
//! before it can have begun) goes back to its place. Everything is logarithmic in the number of
//! calls; nothing is ever scanned.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Retry};

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Waiting.
    Queued,
    /// With a worker.
    Running(WorkerId),
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    place: Place,
    rank: Rank,
    deadline: Instant,
    retry: Retry,
    attempts: u32,
    deaths: u32,
}

/// A call's place number for life: the higher priorities first, then the order of arrival.
type Rank = (i16, u64);

/// The calls a pool owes an answer for.
#[derive(Debug, Default)]
pub struct Calls {
    entries: HashMap<CallKey, Entry>,
    waiting: BTreeMap<Rank, CallKey>,
    deadlines: BTreeSet<(Instant, CallKey)>,
    next_number: u64,
}

impl Calls {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many there are, waiting or running.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where a call is, if its answer is still owed.
    pub fn place(&self, call: CallKey) -> Option<Place> {
        self.entries.get(&call).map(|entry| entry.place)
    }

    /// The call that waits longest.
    pub fn oldest(&self) -> Option<CallKey> {
        self.waiting.first_key_value().map(|(_, call)| *call)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The call with the earliest deadline, if that has passed.
    pub fn overdue(&self, now: Instant) -> Option<CallKey> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, call)| *call)
    }

    /// Takes a new call in at the end of the queue.
    pub fn push(&mut self, call: CallKey, deadline: Instant, priority: i8, retry: Retry) {
        let rank = (-i16::from(priority), self.next_number);
        self.next_number += 1;
        let place = Place::Queued;
        let entry = Entry { place, rank, deadline, retry, attempts: 0, deaths: 0 };
        let before = self.entries.insert(call, entry);
        assert!(before.is_none(), "a call's id is unique in the daemon's life");
        self.waiting.insert(rank, call);
        self.deadlines.insert((deadline, call));
    }

    /// Gives the call that waits longest to a worker.
    pub fn pop_for(&mut self, worker: WorkerId) -> Option<CallKey> {
        let (_, call) = self.waiting.pop_first()?;
        let entry = self.entries.get_mut(&call).expect("what waits has an entry");
        assert_eq!(Place::Queued, entry.place, "what waits is queued");
        entry.place = Place::Running(worker);
        entry.attempts += 1;
        Some(call)
    }

    /// Puts a call that never reached its worker back where it was in the queue.
    pub fn requeue(&mut self, call: CallKey) {
        let Some(entry) = self.entries.get_mut(&call) else {
            return;
        };
        assert_ne!(Place::Queued, entry.place, "what goes back was given away");
        entry.place = Place::Queued;
        entry.attempts -= 1;
        self.waiting.insert(entry.rank, call);
    }

    /// An attempt failed: the call is nobody's until [`Calls::resume`].
    pub fn hold(&mut self, call: CallKey) {
        let entry = self.entries.get_mut(&call).expect("it is owed an answer");
        assert_ne!(Place::Queued, entry.place, "what failed was with a worker");
        entry.place = Place::Queued;
    }

    /// Lets a call that was held wait for its next attempt.
    pub fn resume(&mut self, call: CallKey) {
        if let Some(entry) = self.entries.get(&call).filter(|entry| entry.place == Place::Queued) {
            self.waiting.insert(entry.rank, call);
        }
    }

    /// Counts a worker that died with this call, and says how many there were.
    pub fn killed(&mut self, call: CallKey) -> u32 {
        let entry = self.entries.get_mut(&call).expect("it is owed an answer");
        entry.deaths += 1;
        entry.deaths
    }

    /// What its caller wants done when an attempt fails.
    pub fn retry(&self, call: CallKey) -> Retry {
        self.entries.get(&call).map_or_else(Retry::default, |entry| entry.retry)
    }

    /// How long to wait before the next attempt; none when there may be none.
    pub fn backoff(&self, now: Instant, call: CallKey) -> Option<Duration> {
        let entry = self.entries.get(&call)?;
        let doublings = entry.attempts.saturating_sub(1).min(31);
        let wait = entry.retry.backoff.saturating_mul(1 << doublings);
        let in_time = now.checked_add(wait).is_some_and(|at| at < entry.deadline);
        (entry.attempts < entry.retry.attempts && in_time).then_some(wait)
    }

    /// Forgets a call, because it was answered. False when it was forgotten before.
    pub fn remove(&mut self, call: CallKey) -> bool {
        let Some(entry) = self.entries.remove(&call) else {
            return false;
        };
        if entry.place == Place::Queued {
            self.waiting.remove(&entry.rank);
        }
        let had = self.deadlines.remove(&(entry.deadline, call));
        assert!(had, "every call has its deadline");
        true
    }

    /// Takes every waiting call out, oldest first.
    pub fn take_waiting(&mut self) -> Vec<CallKey> {
        let queued = self.entries.iter().filter(|(_, entry)| entry.place == Place::Queued);
        let mut calls: Vec<_> = queued.map(|(call, _)| *call).collect();
        calls.sort_unstable();
        for call in &calls {
            self.remove(*call);
        }
        calls
    }

    /// Every call that runs.
    pub fn running(&self) -> Vec<CallKey> {
        let mut calls: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.place != Place::Queued)
            .map(|(call, _)| *call)
            .collect();
        calls.sort_unstable();
        calls
    }
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The start of a worker took too long.
    Start(WorkerId),
    /// An interrupted call did not end.
    Interrupt(WorkerId),
    /// A worker that was asked to exit did not.
    Exit(WorkerId),
    /// A guardian that was told to kill did not report.
    Reap(WorkerId),
    /// A slot may be started again.
    Backoff(u32),
    /// An attempt of a call has had its time.
    Attempt(CallKey),
    /// A call may be tried again.
    Again(CallKey),
    /// The drain's patience with running calls is over.
    Drain,
}

/// Timers of workers and slots, earliest first. There are a few per worker, never per call.
#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(Instant, Timer)>,
    by_timer: BTreeMap<Timer, Instant>,
}

impl Timers {
    /// Sets a timer, in place of the same one if it was set.
    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.clear(timer);
        self.by_timer.insert(timer, at);
        self.by_time.insert((at, timer));
    }

    /// Clears a timer, if it is set.
    pub fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.by_timer.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
        assert_eq!(self.by_time.len(), self.by_timer.len(), "both views hold the same timers");
    }

    /// When a timer is due, if it is set.
    pub fn due(&self, timer: Timer) -> Option<Instant> {
        self.by_timer.get(&timer).copied()
    }

    /// The earliest time.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer out, if it is due.
    pub fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let (at, timer) = self.by_time.first().copied()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }
}
