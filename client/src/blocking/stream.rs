//! The items of a generator as an iterator: the calling thread waits for them, inside `next`.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::Arc;

use clutch_protocol::{Failure, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::read;
use super::desk::Mailbox;
use super::feeding::collect;
use super::{Client, fed};
use crate::exchange::{Deadline, Letter, Reply, Target, Trouble, open_reply};
use crate::feed::Sources;
use crate::inbox::Delivery;
use crate::items::ItemSink;
use crate::limits::STREAM_WINDOW;
use crate::pending::Outcome;
use crate::request::{Ready, Request, value};
use crate::stream::{item_of, refill_of, window_of};

/// The items of a call, as they come: an iterator.
///
/// ```no_run
/// # fn f(client: clutch_client::blocking::Client) -> Result<(), clutch_client::Failure> {
/// for line in client.stream::<String>("mytasks:lines", ("big.txt",)) {
///     println!("{}", line?);
/// }
/// # Ok(())
/// # }
/// ```
///
/// It does what [`clutch_client::ItemStream`](crate::ItemStream) does. There is no thread behind
/// it: while nobody waits for an item or an answer, nothing is read.
#[must_use = "a stream does nothing until it is iterated"]
pub struct ItemStream<T> {
    state: State,
    target: Target,
    client: Client,
    window: u32,
    reply: Option<Reply>,
    items: PhantomData<fn() -> T>,
}

enum State {
    /// The call was not made yet.
    Idle(Box<Result<Ready<Client>, Failure>>),
    /// It is under way.
    Running(Running),
    /// There is nothing more.
    Ended,
}

struct Running {
    id: u64,
    mailbox: Arc<Mailbox>,
    deadline: Deadline,
    /// What feeds the call.
    sources: Option<Sources>,
    /// Items taken that were not asked for anew.
    taken: u32,
}

impl<A: Serialize, K: Serialize> Request<Client, A, K> {
    /// Calls a function that gives an iterator, and gives its items as they come.
    pub fn stream<T: DeserializeOwned>(self) -> ItemStream<T> {
        let (client, target) = (self.client.clone(), self.target().clone());
        ItemStream {
            state: State::Idle(Box::new(self.ready())),
            target,
            client,
            window: STREAM_WINDOW,
            reply: None,
            items: PhantomData,
        }
    }
}

impl<T> ItemStream<T> {
    /// Cancels a call that is under way.
    fn leave(&mut self) {
        if let State::Running(running) = std::mem::replace(&mut self.state, State::Ended) {
            self.client.connection.cancel(running.id, Kind::Call);
        }
    }
}

impl<T: DeserializeOwned> ItemStream<T> {
    /// How many items may be on their way, read by nobody: 32 unless said otherwise, 4096 at most.
    /// Only before the first item was asked for. Items that wait here hold their descriptors, one
    /// for each memory; beyond `ulimit -n` the stream fails.
    pub fn window(mut self, items: NonZeroU32) -> Self {
        self.window = window_of(items);
        self
    }

    /// What the generator returned: none as long as the stream has not ended, or if it ended by a
    /// failure.
    pub fn returned<R: DeserializeOwned>(&self) -> Option<Result<R, Failure>> {
        self.reply.as_ref().map(|reply| value(reply, &self.target))
    }

    /// The same, encoded, with how the call went.
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    fn start(&mut self, ready: Ready<Client>) -> Result<(), Trouble> {
        let mut ready = ready.with_items(ItemSink::to_waiter(self.window));
        let connection = &self.client.connection;
        let (mailbox, output) = (Arc::new(Mailbox::default()), ready.output.take());
        let (letter, deadline) = (ready.letter(&**connection)?, ready.deadline);
        let sources = ready.sources(connection.welcome(), false)?;
        let output = fed(output, sources.as_ref());
        let id = connection.post(&letter, &mailbox, output, deadline)?;
        self.state = State::Running(Running { id, mailbox, deadline, sources, taken: 0 });
        self.credit(id, self.window, deadline)
    }

    fn credit(&self, id: u64, items: u32, deadline: Deadline) -> Result<(), Trouble> {
        let written = self.client.connection.write(id, &Letter::credit(items), deadline);
        written.map_err(|reason| Trouble::sent(0, reason))
    }

    /// Waits for the next item; none at a good end.
    fn wait(&mut self) -> Result<Option<T>, Failure> {
        let State::Running(running) = &mut self.state else { return Ok(None) };
        let (id, deadline) = (running.id, running.deadline);
        let place = (&*running.mailbox, id);
        let got = collect(&self.client.connection, place, deadline, &mut running.sources);
        let frame = match got.map_err(|trouble| self.target.failure(trouble))? {
            None => Err(Trouble::sent(0, deadline.passed())),
            Some(Outcome::Item(item)) => return self.take(id, deadline, item).map(Some),
            Some(outcome) => {
                self.state = State::Ended;
                read(outcome)
            }
        };
        let frame = frame.map_err(|trouble| self.target.failure(trouble))?;
        self.reply = Some(open_reply(frame, &self.target, self.client.welcome())?);
        Ok(None)
    }

    fn take(&mut self, id: u64, deadline: Deadline, item: Delivery) -> Result<T, Failure> {
        let item = item_of(item, &self.target, self.client.welcome())?;
        let State::Running(running) = &mut self.state else { return Ok(item) };
        running.taken += 1;
        if running.taken >= refill_of(self.window) {
            let items = std::mem::take(&mut running.taken);
            self.credit(id, items, deadline).map_err(|trouble| self.target.failure(trouble))?;
        }
        Ok(item)
    }
}

impl<T: DeserializeOwned> Iterator for ItemStream<T> {
    type Item = Result<T, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Idle(_))
            && let State::Idle(ready) = std::mem::replace(&mut self.state, State::Ended)
        {
            let started = ready.and_then(|ready| {
                self.start(ready).map_err(|trouble| self.target.failure(trouble))
            });
            if let Err(failure) = started {
                self.leave();
                return Some(Err(failure));
            }
        }
        match self.wait() {
            Ok(item) => item.map(Ok),
            Err(failure) => {
                self.leave();
                Some(Err(failure))
            }
        }
    }
}

impl<T> Drop for ItemStream<T> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl<T> fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ItemStream")
            .field("function", &self.target.function)
            .field("ended", &matches!(self.state, State::Ended))
            .finish_non_exhaustive()
    }
}
