//! The blocking driver of a map-file: the calling thread sends chunks and waits for answers, both
//! inside the iterator's `next`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use clutch_protocol::{Failure, Kind};
use serde::de::DeserializeOwned;

use super::Client;
use super::connection::read;
use super::desk::Mailbox;
use crate::exchange::{Deadline, Reply, Trouble, open_reply};
use crate::map_file::{
    Cuts, FileError, Item, Job, MapFile, MapFileError, Order, Parcel, Plan, Step, indexed,
};

struct Driver<R> {
    client: Client,
    job: Job,
    plan: Plan<R>,
    cuts: Cuts,
    mailbox: Arc<Mailbox>,
    sent: HashMap<u64, Sent>,
    is_over: bool,
}

/// A chunk under way.
struct Sent {
    parcel: Parcel,
    deadline: Deadline,
}

impl<R: DeserializeOwned> Driver<R> {
    fn begin(map: MapFile<Client, R>, order: Order) -> Result<Driver<R>, FileError> {
        let MapFile { client, input, settings, .. } = map;
        let (job, cuts) = Job::begin(settings, input)?;
        let plan = Plan::new(&job.settings, order, client.welcome());
        let (mailbox, sent) = (Arc::default(), HashMap::new());
        Ok(Driver { client, job, plan, cuts, mailbox, sent, is_over: false })
    }

    fn next(&mut self) -> Option<Item<R>> {
        if self.is_over {
            return None;
        }
        loop {
            match self.plan.step(true) {
                Step::Item(index, result) => return Some(Ok((index, result))),
                Step::Send(parcel) => self.send(parcel),
                Step::Cut => match self.cuts.next() {
                    Some(Ok(cut)) => self.plan.push(cut),
                    Some(Err(error)) => self.plan.exhaust(Some(error)),
                    None => self.plan.exhaust(None),
                },
                Step::Pause(pause) => {
                    let until = Instant::now() + pause;
                    // Nothing of ours is under way, so there is nothing to wait for but time.
                    while let Some(rest) = until.checked_duration_since(Instant::now()) {
                        std::thread::park_timeout(rest);
                    }
                }
                Step::Wait => self.wait(),
                Step::Last(error) => {
                    self.end();
                    return Some(Err(error));
                }
                Step::Done => {
                    self.is_over = true;
                    return self.job.source.check().err().map(Err);
                }
            }
        }
    }

    /// Ends all: what is under way is cancelled.
    fn end(&mut self) {
        self.is_over = true;
        for (id, _) in self.sent.drain() {
            self.client.connection.cancel(id, Kind::Call);
        }
    }

    fn send(&mut self, parcel: Parcel) {
        if let Err(changed) = self.job.source.check() {
            return self.plan.change(changed);
        }
        let mut ready = self.job.ready((), &parcel.cut);
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
                let target = &self.job.settings.target;
                let answer = read(outcome)
                    .map_err(|trouble| target.failure(trouble))
                    .and_then(|frame| open_reply(frame, target, connection.welcome()));
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
            let failure = self.job.settings.target.failure(trouble);
            self.answered(sent.parcel, Err(failure));
        }
    }

    fn answered(&mut self, parcel: Parcel, answer: Result<Reply, Failure>) {
        if answer.is_err() {
            if self.client.is_closed() {
                // A lost connection does not come back.
                self.plan.exhaust(None);
            }
            if let Err(changed) = self.job.source.check() {
                // Which is why it failed.
                self.plan.change(changed);
            }
        }
        self.plan.answered(parcel, self.job.read(answer));
    }
}

impl<R> Drop for Driver<R> {
    fn drop(&mut self) {
        for id in self.sent.keys() {
            self.client.connection.cancel(*id, Kind::Call);
        }
    }
}

impl<R: DeserializeOwned> MapFile<Client, R> {
    /// Results in the order of the file.
    ///
    /// # Errors
    ///
    /// When the file cannot be opened, or its header or footer not be read.
    pub fn ordered(self) -> Result<FileOrdered<R>, FileError> {
        Driver::begin(self, Order::File).map(FileOrdered)
    }

    /// Results as they are done, each with the index of its chunk.
    ///
    /// # Errors
    ///
    /// As of [`ordered`](MapFile::ordered).
    pub fn unordered(self) -> Result<FileUnordered<R>, FileError> {
        Driver::begin(self, Order::Done).map(FileUnordered)
    }

    /// All results, in the order of the file.
    ///
    /// # Errors
    ///
    /// The first chunk that failed, or what is wrong with the file; what was still under way is
    /// cancelled.
    pub fn collect<T: FromIterator<R>>(self) -> Result<T, MapFileError> {
        self.ordered()?.collect()
    }
}

/// A map-file under way, with results in the order of the file.
#[must_use = "a map does nothing until it is iterated"]
pub struct FileOrdered<R>(Driver<R>);

impl<R: DeserializeOwned> FileOrdered<R> {
    /// How many of the file's bytes are in chunks that were answered.
    pub fn bytes_done(&self) -> u64 {
        self.0.plan.bytes_done()
    }

    /// How many bytes the file has.
    pub fn bytes_total(&self) -> u64 {
        self.0.job.source.bytes()
    }
}

impl<R: DeserializeOwned> Iterator for FileOrdered<R> {
    type Item = Result<R, MapFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(indexed(self.0.next()?).map(|(_, result)| result))
    }
}

/// A map-file under way, with results as they are done, each with the index of its chunk.
#[must_use = "a map does nothing until it is iterated"]
pub struct FileUnordered<R>(Driver<R>);

impl<R: DeserializeOwned> FileUnordered<R> {
    /// How many of the file's bytes are in chunks that were answered.
    pub fn bytes_done(&self) -> u64 {
        self.0.plan.bytes_done()
    }

    /// How many bytes the file has.
    pub fn bytes_total(&self) -> u64 {
        self.0.job.source.bytes()
    }
}

impl<R: DeserializeOwned> Iterator for FileUnordered<R> {
    type Item = Result<(u64, R), MapFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(indexed(self.0.next()?))
    }
}
