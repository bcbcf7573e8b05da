//! The calls of a pool, waiting and running, with their deadlines and every other timer.
//!
//! A call keeps its place number for life, so one that goes back to the queue (its worker died
//! before it can have begun) goes back to its place. Everything is logarithmic in the number of
//! calls; nothing is ever scanned.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::CallKey;

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
    number: u64,
    deadline: Instant,
    /// Whether its time is over and its worker is being asked what it does.
    is_over: bool,
}

/// The calls a pool owes an answer for.
#[derive(Debug, Default)]
pub struct Calls {
    entries: HashMap<CallKey, Entry>,
    waiting: BTreeMap<u64, CallKey>,
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
    pub fn push(&mut self, call: CallKey, deadline: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        let entry = Entry { place: Place::Queued, number, deadline, is_over: false };
        let before = self.entries.insert(call, entry);
        assert!(before.is_none(), "a call's id is unique in the daemon's life");
        self.waiting.insert(number, call);
        self.deadlines.insert((deadline, call));
    }

    /// Gives the call that waits longest to a worker.
    pub fn pop_for(&mut self, worker: WorkerId) -> Option<CallKey> {
        let (_, call) = self.waiting.pop_first()?;
        let entry = self.entries.get_mut(&call).expect("what waits has an entry");
        assert_eq!(Place::Queued, entry.place, "what waits is queued");
        entry.place = Place::Running(worker);
        Some(call)
    }

    /// Puts a call that never reached its worker back where it was in the queue.
    pub fn requeue(&mut self, call: CallKey) {
        let Some(entry) = self.entries.get_mut(&call) else {
            return;
        };
        assert_ne!(Place::Queued, entry.place, "what goes back was given away");
        entry.place = Place::Queued;
        self.waiting.insert(entry.number, call);
    }

    /// Grants a running call that is overdue a last moment, once. False when it was granted before.
    pub fn grant(&mut self, call: CallKey, until: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&call) else {
            return false;
        };
        if entry.is_over || entry.place == Place::Queued {
            return false;
        }
        self.deadlines.remove(&(entry.deadline, call));
        (entry.is_over, entry.deadline) = (true, until);
        self.deadlines.insert((until, call));
        true
    }

    /// Whether a call's time is over.
    pub fn is_over(&self, call: CallKey) -> bool {
        self.entries.get(&call).is_some_and(|entry| entry.is_over)
    }

    /// Forgets a call, because it was answered. False when it was forgotten before.
    pub fn remove(&mut self, call: CallKey) -> bool {
        let Some(entry) = self.entries.remove(&call) else {
            return false;
        };
        if entry.place == Place::Queued {
            self.waiting.remove(&entry.number);
        }
        let had = self.deadlines.remove(&(entry.deadline, call));
        assert!(had, "every call has its deadline");
        true
    }

    /// Takes every waiting call out, oldest first.
    pub fn take_waiting(&mut self) -> Vec<CallKey> {
        let calls: Vec<_> = self.waiting.values().copied().collect();
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
