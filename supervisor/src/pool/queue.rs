//! The calls of a pool, waiting, resting and running, with their deadlines. Whose turn it is is
//! the business of `line`.
//!
//! A call keeps its place in the line for life, so one that goes back (its worker died before it
//! can have begun, or it is tried again) goes back to its place. Everything is logarithmic in the
//! number of calls; nothing is ever scanned.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use clutch_protocol::message::WorkerId;

use super::event::{CallKey, Caller, Retry};
use super::line::{Line, Spot, Ticket};

/// Where a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Waiting.
    Queued,
    /// Waiting until it may be tried again.
    Resting,
    /// With a worker.
    Running(WorkerId),
}

/// A call as it comes in.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// Which.
    pub call: CallKey,
    /// When its caller stops waiting.
    pub deadline: Instant,
    /// Who sent it.
    pub caller: Caller,
    /// Its priority.
    pub priority: i8,
    /// What is to be done when an attempt fails.
    pub retry: Retry,
    /// Whether another call waits for it.
    pub nested: bool,
}

/// A call whose answer is owed.
#[derive(Debug)]
pub(super) struct Entry {
    place: Place,
    ticket: Ticket,
    /// The spot it had when it was handed out first, and comes back to.
    spot: Option<Spot>,
    /// Until when; none once that has passed and only its worker's stacks are waited for.
    deadline: Option<Instant>,
    /// When it joined the line.
    since: Instant,
    /// What its caller said, if it was anything; most callers want one attempt.
    retry: Option<Box<Retry>>,
    /// Attempts that were begun.
    pub(super) attempts: u32,
    /// How often its worker died with it before it can have begun.
    pub(super) moves: u32,
    /// What it is blamed for the workers that died with it.
    pub(super) blame: u32,
    /// The attempt that runs has had its time, and another one is wanted.
    pub(super) is_attempt_over: bool,
    /// Something of its streams has passed on, so that there can be no other attempt.
    pub(super) has_streamed: bool,
    /// Whether another call waits for it.
    is_nested: bool,
}

impl Entry {
    /// What is to be done when an attempt fails.
    pub(super) fn retry(&self) -> Retry {
        self.retry.as_deref().copied().unwrap_or_default()
    }

    /// Whether its caller said anything about attempts.
    pub(super) const fn may_have_retries(&self) -> bool {
        self.retry.is_some()
    }

    /// Until when, if that has not passed.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

/// The calls a pool owes an answer for.
#[derive(Debug, Default)]
pub struct Calls {
    entries: HashMap<CallKey, Entry>,
    line: Line,
    /// Those in the line, by arrival.
    ages: BTreeMap<u64, CallKey>,
    /// Those of them that another call waits for.
    nested: BTreeMap<u64, CallKey>,
    deadlines: BTreeSet<(Instant, CallKey)>,
    resting: usize,
    next_number: u64,
}

impl Calls {
    /// How many wait for a worker.
    pub const fn waiting(&self) -> usize {
        self.line.len()
    }

    /// How many of them another call waits for.
    pub fn nested_waiting(&self) -> usize {
        self.nested.len()
    }

    /// The nested call that came last of those that wait for a worker.
    pub fn newest_nested(&self) -> Option<CallKey> {
        self.nested.last_key_value().map(|(_, call)| *call)
    }

    /// How many wait, those that rest between two attempts included.
    pub const fn held(&self) -> usize {
        self.line.len() + self.resting
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

    /// The call that came first of those that wait for a worker.
    pub fn oldest(&self) -> Option<CallKey> {
        self.ages.first_key_value().map(|(_, call)| *call)
    }

    /// Since when the call that came as number `rank` of those that wait has waited.
    pub fn waiting_since(&self, rank: usize) -> Option<Instant> {
        let (_, call) = self.ages.iter().nth(rank)?;
        Some(self.entries[call].since)
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The call with the earliest deadline, if that has passed.
    pub fn overdue(&self, now: Instant) -> Option<CallKey> {
        self.deadlines.first().filter(|(at, _)| *at <= now).map(|(_, call)| *call)
    }

    /// Who makes room for a newcomer when there is none.
    pub fn victim(&self, caller: Caller, priority: i8) -> Option<CallKey> {
        self.line.victim(caller, priority)
    }

    pub(super) fn get(&self, call: CallKey) -> Option<&Entry> {
        self.entries.get(&call)
    }

    pub(super) fn get_mut(&mut self, call: CallKey) -> Option<&mut Entry> {
        self.entries.get_mut(&call)
    }

    /// Takes a new call in; it waits for its turn.
    pub fn push(&mut self, now: Instant, newcomer: Newcomer) {
        let ticket = self.enter(now, newcomer, Place::Queued, None);
        self.line.push(ticket);
        self.ages.insert(ticket.number, ticket.call);
        if newcomer.nested {
            self.nested.insert(ticket.number, ticket.call);
        }
    }

    /// Takes a new call in that need not wait.
    pub fn push_for(&mut self, now: Instant, newcomer: Newcomer, worker: WorkerId) {
        let spot = self.line.pass();
        self.enter(now, newcomer, Place::Running(worker), Some(spot));
        self.begin(newcomer.call);
    }

    /// Gives the call whose turn it is to a worker.
    pub fn pop_for(&mut self, worker: WorkerId) -> Option<CallKey> {
        let (call, spot) = self.line.pop()?;
        let entry = self.entries.get_mut(&call).expect("what waits has an entry");
        assert_eq!(Place::Queued, entry.place, "what waits is queued");
        entry.place = Place::Running(worker);
        entry.spot.get_or_insert(spot);
        self.ages.remove(&entry.ticket.number);
        if entry.is_nested {
            self.nested.remove(&entry.ticket.number);
        }
        self.begin(call);
        Some(call)
    }

    /// Gives the nested call that came first to a worker, whoever's turn it is.
    pub fn pop_nested_for(&mut self, worker: WorkerId) -> Option<CallKey> {
        let (number, call) = self.nested.pop_first()?;
        let entry = self.entries.get_mut(&call).expect("what waits has an entry");
        assert_eq!(Place::Queued, entry.place, "what waits is queued");
        entry.place = Place::Running(worker);
        match entry.spot {
            None => {
                self.line.remove(entry.ticket);
                entry.spot = Some(self.line.spot());
            }
            Some(spot) => self.line.remove_returned(entry.ticket.priority, spot),
        }
        self.ages.remove(&number);
        self.begin(call);
        Some(call)
    }

    /// Puts a call that was handed out, or rests, back where it was in the line.
    pub fn give_back(&mut self, now: Instant, call: CallKey) {
        let entry = self.entries.get_mut(&call).expect("what goes back is owed");
        assert_ne!(Place::Queued, entry.place, "what goes back was given away");
        if entry.place == Place::Resting {
            self.resting -= 1;
        }
        entry.place = Place::Queued;
        entry.since = now;
        let spot = entry.spot.expect("what was handed out had a spot");
        self.line.give_back(call, entry.ticket.priority, spot);
        self.ages.insert(entry.ticket.number, call);
        if entry.is_nested {
            self.nested.insert(entry.ticket.number, call);
        }
    }

    /// A call that was handed out waits, but not for a worker.
    pub fn rest(&mut self, call: CallKey) {
        let entry = self.entries.get_mut(&call).expect("what rests is owed");
        assert!(matches!(entry.place, Place::Running(_)), "who rests has worked");
        entry.place = Place::Resting;
        self.resting += 1;
    }

    /// A call's deadline has passed, but it is not answered yet.
    pub fn expire(&mut self, call: CallKey) {
        let entry = self.entries.get_mut(&call).expect("what is late is owed");
        let deadline = entry.deadline.take().expect("a deadline passes once");
        self.deadlines.remove(&(deadline, call));
    }

    /// Forgets a call, because it was answered. Where it was, unless it was forgotten before.
    pub fn remove(&mut self, call: CallKey) -> Option<Place> {
        let entry = self.entries.remove(&call)?;
        match (entry.place, entry.spot) {
            (Place::Queued, None) => self.line.remove(entry.ticket),
            (Place::Queued, Some(spot)) => {
                self.line.remove_returned(entry.ticket.priority, spot);
            }
            (Place::Resting, _) => self.resting -= 1,
            (Place::Running(_), _) => {}
        }
        if entry.place == Place::Queued {
            self.ages.remove(&entry.ticket.number);
            if entry.is_nested {
                self.nested.remove(&entry.ticket.number);
            }
        }
        if let Some(deadline) = entry.deadline {
            let had = self.deadlines.remove(&(deadline, call));
            assert!(had, "every call has its deadline");
        }
        Some(entry.place)
    }

    /// Every call that waits or rests, in the order they came.
    pub fn unassigned(&self) -> Vec<CallKey> {
        self.by_arrival(|place| !matches!(place, Place::Running(_)))
    }

    /// Every call that runs, in the order they came.
    pub fn running(&self) -> Vec<CallKey> {
        self.by_arrival(|place| matches!(place, Place::Running(_)))
    }

    fn by_arrival(&self, wanted: impl Fn(Place) -> bool) -> Vec<CallKey> {
        let found = self.entries.values().filter(|entry| wanted(entry.place));
        let mut numbered: Vec<_> =
            found.map(|entry| (entry.ticket.number, entry.ticket.call)).collect();
        numbered.sort_unstable();
        numbered.into_iter().map(|(_, call)| call).collect()
    }

    fn enter(
        &mut self,
        now: Instant,
        newcomer: Newcomer,
        place: Place,
        spot: Option<Spot>,
    ) -> Ticket {
        let Newcomer { call, deadline, caller, priority, retry, nested } = newcomer;
        let ticket = Ticket { call, caller, priority, number: self.next_number };
        self.next_number += 1;
        let entry = Entry {
            place,
            ticket,
            spot,
            deadline: Some(deadline),
            since: now,
            retry: (retry != Retry::default()).then(|| Box::new(retry)),
            attempts: 0,
            moves: 0,
            blame: 0,
            is_attempt_over: false,
            has_streamed: false,
            is_nested: nested,
        };
        let before = self.entries.insert(call, entry);
        assert!(before.is_none(), "a call's id is unique in the daemon's life");
        self.deadlines.insert((deadline, call));
        ticket
    }

    fn begin(&mut self, call: CallKey) {
        let entry = self.entries.get_mut(&call).expect("what begins is owed");
        entry.attempts += 1;
        entry.is_attempt_over = false;
    }
}
