//! The blocking driver of a map: the calling thread sends chunks and waits for answers, both inside
//! the iterator's `next`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use clutch_protocol::{Failure, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Client;
use super::connection::read;
use super::desk::Mailbox;
use crate::exchange::{Deadline, Reply, Target, Trouble, open_reply};
use crate::map::{ItemError, Map, Order, Parcel, Plan, Step};

struct Driver<I: Iterator, R> {
    client: Client,
    plan: Plan<R>,
    source: I,
    pulled: Vec<I::Item>,
    mailbox: Arc<Mailbox>,
    sent: HashMap<u64, Sent>,
}

/// A chunk under way.
struct Sent {
    parcel: Parcel,
    deadline: Deadline,
}

impl<I, R> Driver<I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
    fn new(map: Map<Client, I, R>, order: Order) -> Driver<I, R> {
        let welcome = map.client.welcome();
        let limits = (welcome.payload_bytes_max, welcome.in_flight_max);
        Driver {
            plan: Plan::new(map.settings, order, map.skipped, limits.0, limits.1)
                .for_workers(welcome),
            client: map.client,
            source: map.source,
            pulled: Vec::new(),
            mailbox: Arc::default(),
            sent: HashMap::new(),
        }
    }

    fn next(&mut self) -> Option<(u64, Result<R, Failure>)> {
        loop {
            match self.plan.step(true) {
                Step::Item(index, result) => return Some((index, result)),
                Step::Done => return None,
                Step::Pull(items) => self.pull(items),
                Step::Send(parcel) => self.send(parcel),
                Step::Pause(pause) => {
                    let until = Instant::now() + pause;
                    // Nothing of ours is under way, so there is nothing to wait for but time.
                    while let Some(rest) = until.checked_duration_since(Instant::now()) {
                        std::thread::park_timeout(rest);
                    }
                }
                Step::Wait => self.wait(),
            }
        }
    }

    fn pull(&mut self, items: u32) {
        self.pulled.extend(self.source.by_ref().take(items as usize));
        if self.pulled.len() < items as usize {
            self.plan.exhaust();
        }
        self.plan.expect(self.source.size_hint());
        if !self.pulled.is_empty() {
            self.plan.push(&self.pulled);
            self.pulled.clear();
        }
    }

    fn send(&mut self, parcel: Parcel) {
        let settings = self.plan.settings();
        let mut ready = settings.ready((), &parcel);
        let output = ready.output.take();
        let connection = &self.client.connection;
        let posted = ready
            .letter(&**connection)
            .and_then(|letter| connection.post(&letter, &self.mailbox, output, ready.deadline));
        match posted {
            Ok(id) => {
                self.sent.insert(id, Sent { parcel, deadline: ready.deadline });
            }
            Err(trouble) => self.answered(parcel, Err(ready.target.failure(trouble))),
        }
    }

    /// Waits for one chunk's answer, or for the first deadline to pass.
    fn wait(&mut self) {
        let deadline = self.sent.values().filter_map(|sent| sent.deadline.net()).min();
        let connection = &self.client.connection;
        if let Some((id, outcome)) = connection.collect(&self.mailbox, deadline) {
            if let Some(sent) = self.sent.remove(&id) {
                let target = self.target();
                let answer = read(outcome)
                    .map_err(|trouble| target.failure(trouble))
                    .and_then(|delivery| open_reply(delivery, target, connection.welcome()));
                self.answered(sent.parcel, answer);
            }
            return;
        }
        let now = Instant::now();
        let passed = |sent: &Sent| sent.deadline.net().is_some_and(|at| at <= now);
        let late: Vec<u64> =
            self.sent.iter().filter(|(_, sent)| passed(sent)).map(|(id, _)| *id).collect();
        for id in late {
            let Some(sent) = self.sent.remove(&id) else {
                continue;
            };
            self.client.connection.cancel(id, Kind::Call);
            let trouble = Trouble::sent(0, sent.deadline.passed());
            let failure = self.target().failure(trouble);
            self.answered(sent.parcel, Err(failure));
        }
    }

    fn target(&self) -> &Target {
        &self.plan.settings().target
    }

    fn answered(&mut self, parcel: Parcel, answer: Result<Reply, Failure>) {
        if answer.is_err() && self.client.is_closed() {
            // A lost connection does not come back: what was not pulled stays where it is.
            self.plan.exhaust();
        }
        self.plan.answered(parcel, answer);
    }
}

impl<I: Iterator, R> Drop for Driver<I, R> {
    fn drop(&mut self) {
        for id in self.sent.keys() {
            self.client.connection.cancel(*id, Kind::Call);
        }
    }
}

impl<I, R> Map<Client, I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
    /// Results in the order of the items.
    pub fn ordered(self) -> Ordered<I, R> {
        Ordered(Driver::new(self, Order::Items))
    }

    /// Results in the order of the items, each with the index of its item.
    pub fn enumerated(self) -> Enumerated<I, R> {
        Enumerated(Driver::new(self, Order::Items))
    }

    /// Results as they are done, each with the index of its item.
    pub fn unordered(self) -> Unordered<I, R> {
        Unordered(Driver::new(self, Order::Done))
    }

    /// One result of all: `fold` (`module:qualname`) is a function of two, what came of the items
    /// so far and of the next ones. It is called by the workers, for the items of a chunk where
    /// they are and then for what came of chunks, always with neighbours in the order of the items.
    /// So it must be associative (`operator:add`, `builtins:max`, one that concatenates), and need
    /// not be commutative; and it takes what it gives. None without items, or if all were skipped.
    ///
    /// # Errors
    ///
    /// The first item that was seen to fail; or, when it was folding that failed, the first of
    /// those that were being folded. What was still under way is cancelled.
    pub fn reduce(self, fold: impl Into<String>) -> Result<Option<R>, ItemError> {
        self.folding(fold).ordered().next().transpose()
    }

    /// All results, in the order of the items.
    ///
    /// # Errors
    ///
    /// The first item that failed; what was still under way is cancelled.
    pub fn collect<T: FromIterator<R>>(self) -> Result<T, ItemError> {
        self.ordered().collect()
    }
}

/// A map under way, with results in the order of the items.
#[must_use = "a map does nothing until it is iterated"]
pub struct Ordered<I: Iterator, R>(Driver<I, R>);

impl<I, R> Iterator for Ordered<I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = Result<R, ItemError>;

    fn next(&mut self) -> Option<Self::Item> {
        let (index, result) = self.0.next()?;
        Some(result.map_err(|failure| ItemError { index, failure }))
    }
}

/// A map under way, with results in the order of the items, each with the index of its item.
#[must_use = "a map does nothing until it is iterated"]
pub struct Enumerated<I: Iterator, R>(Driver<I, R>);

impl<I, R> Iterator for Enumerated<I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = (u64, Result<R, Failure>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// A map under way, with results as they are done, each with the index of its item.
#[must_use = "a map does nothing until it is iterated"]
pub struct Unordered<I: Iterator, R>(Driver<I, R>);

impl<I, R> Iterator for Unordered<I, R>
where
    I: Iterator,
    I::Item: Serialize,
    R: DeserializeOwned,
{
    type Item = (u64, Result<R, Failure>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
