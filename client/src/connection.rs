//! One connection of an async client.
//!
//! ```text
//!   caller ──► pending: id, channel      caller ──► outbound ──► socket       (at once, one call)
//!                                                     └─ full ─► writer task ─► socket
//!   caller ◄── channel ◄── pending ◄── reader task ◄── socket
//! ```
//!
//! The caller writes its own frame, so a call wakes no task before the daemon has it. What the
//! socket does not take is left to the writer task; callers wait for room before they add to it.
//! No lock is held across a wait, and no two locks at once.

mod tasks;
mod ticket;

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use clutch_protocol::message::Welcome;
use clutch_protocol::{Kind, Reason};
use tokio::net::UnixStream;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, TryAcquireError, oneshot, watch};
use tokio::time::timeout_at;

use crate::exchange::{Deadline, Incoming, Letter, Trouble, sort, undone_by};
use crate::feeding::Feeder;
use crate::inbox::{Delivery, Inbox};
use crate::limits::{CANCEL_WAIT, CROWDED_WAIT, HANG_UP_WAIT};
use crate::memory::reuse::Customer;
use crate::outbound::{Outbound, Outgoing, Sent, is_crowded};
use crate::owner::Owner;
use crate::pending::{Closing, Ids, Outcome, OutputSink, Pending};
use ticket::{Left, Ticket};

/// What callers and the two tasks share.
pub(crate) struct Connection {
    socket: UnixStream,
    owner: Owner,
    welcome: Welcome,
    /// Keeps memory that is used again.
    _customer: Customer,
    ids: Ids,
    pending: Mutex<Pending<oneshot::Sender<Outcome>>>,
    outbound: Mutex<Outbound>,
    /// Wakes the writer task.
    flush: Notify,
    /// Wakes callers that wait for room in `outbound`.
    room: Notify,
    /// One permit for each call the daemon is willing to leave unanswered. Beyond them it would
    /// stop reading, and cancels would not reach it.
    slots: Semaphore,
    closed: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way; a poisoned one is as good as any.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// Begins to read and write on a socket that has been welcomed.
    pub(crate) fn start(socket: UnixStream, welcome: Welcome, inbox: Inbox) -> Arc<Connection> {
        let slots = usize::try_from(welcome.in_flight_max).unwrap_or(usize::MAX);
        let connection = Arc::new(Connection {
            socket,
            owner: Owner::current(),
            welcome,
            _customer: Customer::new(),
            ids: Ids::default(),
            pending: Mutex::default(),
            outbound: Mutex::default(),
            flush: Notify::new(),
            room: Notify::new(),
            slots: Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS)),
            closed: watch::Sender::new(false),
        });
        tokio::spawn(tasks::read(tasks::CloseOnDrop(Arc::clone(&connection)), inbox));
        tokio::spawn(Arc::clone(&connection).write());
        connection
    }

    pub(crate) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    pub(crate) fn late_replies(&self) -> u64 {
        lock(&self.pending).late()
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns when the connection has ended.
    pub(crate) async fn closed(&self) {
        let ended = self.closed.subscribe().wait_for(|closed| *closed).await.is_ok();
        assert!(ended, "its sender is in the struct we hold");
    }

    /// Sends a request and waits for its answer. Dropping the future cancels the request.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        letter: &Letter,
        output: Option<OutputSink>,
        deadline: Deadline,
    ) -> Result<Delivery, Trouble> {
        self.exchange_until(letter, output, deadline, None, std::future::pending()).await
    }

    /// The same, but the request is cancelled when `give_up` resolves, and the daemon's word on
    /// that is waited for a moment. Until the request is handed over, while the connection has no
    /// slot or room for it, `give_up` is not heard; only `deadline` and a drop end that wait. While
    /// the answer is waited for, `feeder` sends what the call asks for.
    pub(crate) async fn exchange_until(
        self: &Arc<Self>,
        letter: &Letter,
        output: Option<OutputSink>,
        deadline: Deadline,
        feeder: Option<Feeder>,
        give_up: impl Future<Output = ()>,
    ) -> Result<Delivery, Trouble> {
        let mut give_up = pin!(give_up);
        self.owner.check().map_err(|closing| Trouble::unsent(&closing))?;
        let _slot = match letter.kind {
            Kind::Call => Some(self.slot(deadline).await?),
            _ => None,
        };
        let id = self.ids.next();
        let (sender, receiver) = oneshot::channel();
        let window = output.as_ref().and_then(OutputSink::window);
        lock(&self.pending)
            .insert(id, sender, output)
            .map_err(|closing| Trouble::unsent(&closing))?;
        let mut ticket = Ticket { connection: self, id, left: Left::Unsent };
        self.send(id, letter, deadline).await?;
        if let Some(items) = window {
            self.credit(id, items);
        }
        ticket.left = match undone_by(letter.kind) {
            None => Left::Unsent,
            Some(Kind::Release) => Left::Kept,
            Some(_) => Left::Call,
        };
        let mut receiver = receiver;
        let feeding = async {
            match feeder {
                Some(feeder) => feeder.run(self, id, deadline).await,
                None => std::future::pending().await,
            }
        };
        let answered = tokio::select! {
            biased;
            outcome = &mut receiver => Some(outcome),
            () = feeding => unreachable!("a feeder goes on until it is dropped"),
            () = until(deadline.net()) => return Err(Trouble::sent(0, deadline.passed())),
            () = &mut give_up => None,
        };
        let outcome = match answered {
            Some(outcome) => outcome,
            None => {
                if !self.take_back(id, Kind::Cancel) {
                    // It never left, so there is nothing to cancel once more.
                    ticket.left = Left::Unsent;
                    return Err(Trouble::unsent(Reason::Cancelled));
                }
                let soon = tokio::time::Instant::now() + CANCEL_WAIT;
                match timeout_at(soon, receiver).await {
                    Ok(outcome) => outcome,
                    Err(_) => return Err(Trouble::sent(0, Reason::Cancelled)),
                }
            }
        };
        ticket.left = Left::Nothing;
        match outcome.expect("whoever takes a waiter out of the table tells it") {
            Outcome::Reply(delivery) => Ok(delivery),
            Outcome::Item(_) | Outcome::Credit(_) => unreachable!("they have ways of their own"),
            Outcome::Lost { closing, sent } => {
                Err(Trouble { call: 0, started: sent, reason: (&closing).into() })
            }
        }
    }

    /// Waits until the daemon can take another call.
    async fn slot(&self, deadline: Deadline) -> Result<SemaphorePermit<'_>, Trouble> {
        match self.slots.try_acquire() {
            Ok(permit) => return Ok(permit),
            Err(TryAcquireError::Closed) => return Err(self.lost()),
            Err(TryAcquireError::NoPermits) => {}
        }
        match before(deadline, self.slots.acquire()).await {
            Some(permit) => permit.map_err(|_| self.lost()),
            None => Err(Trouble::unsent(deadline.passed())),
        }
    }

    /// Hands a frame to the socket or, when that is full, to the writer task.
    pub(crate) async fn send(
        &self,
        id: u64,
        letter: &Letter,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        loop {
            let mut room = pin!(self.room.notified());
            // Enlisting before looking: room that is made after the look is not missed.
            room.as_mut().enable();
            match self.try_send(id, letter) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) if is_crowded(&error) => {
                    let soon = tokio::time::Instant::now() + CROWDED_WAIT;
                    if before(deadline, tokio::time::sleep_until(soon)).await.is_none() {
                        return Err(Trouble::unsent(deadline.passed()));
                    }
                    continue;
                }
                Some(Err(error)) => {
                    self.hung_up(&error).await;
                    return Err(self.lost());
                }
                None => {}
            }
            if before(deadline, room).await.is_none() {
                return Err(Trouble::unsent(deadline.passed()));
            }
        }
    }

    /// Sends a frame, if there is room or it is a cancel.
    fn try_send(&self, id: u64, letter: &Letter) -> Option<io::Result<()>> {
        let header = letter.header(id).encode();
        // A call is taken back under its own id, and what is said of it is not the call.
        let own = if letter.is_request() { id } else { 0 };
        let Letter { meta, payload, descriptors, .. } = letter;
        let frame = Outgoing { id: own, header: &header, meta, payload, descriptors };
        let sent = {
            let mut outbound = lock(&self.outbound);
            // A cancel makes room. There is at most one for each call the daemon has, and no call
            // is sent without room, so they are few: `in_flight_max` headers. A credit is for items
            // that have come, which the daemon does not send without; and a release for a value
            // that it keeps, of which it takes only so many.
            if !letter.is_remark() && !outbound.has_room() {
                return None;
            }
            outbound.send(&self.socket, &frame)
        };
        Some(sent.map(|sent| {
            if sent == Sent::Queued {
                self.flush.notify_one();
            }
        }))
    }

    /// The daemon takes nothing more. It may have said why before it hung up, and the reader may
    /// not have read that yet, so the reader closes the connection if it does so soon.
    async fn hung_up(&self, error: &io::Error) {
        lock(&self.outbound).close();
        let soon = tokio::time::Instant::now() + HANG_UP_WAIT;
        if timeout_at(soon, self.closed()).await.is_err() {
            self.close(Closing::Lost(format!("cannot send to the daemon: {error}").into()));
        }
    }

    /// Tells the daemon, by a frame of this kind, that nobody waits for request `id`. Never waits:
    /// a request that has not left is taken back instead. False then, since the daemon will not
    /// hear of it at all.
    fn take_back(&self, id: u64, by: Kind) -> bool {
        let has_left = !lock(&self.outbound).withdraw(id);
        if has_left {
            self.remark(id, by);
        }
        has_left
    }

    /// Lets the daemon send more items of call `id`. Never waits.
    pub(crate) fn credit(&self, id: u64, items: u32) {
        if self.owner.check().is_ok() {
            // When it is lost, so is the connection, and whoever waits is told that.
            let _lost = self.try_send(id, &Letter::credit(items));
        }
    }

    /// Sends a cancel or a release, or a pong if there is room.
    fn remark(&self, id: u64, kind: Kind) {
        // Nobody waits for it, so nobody has a use for its failure. A daemon that does not read
        // what it is sent needs no pong to learn that we live.
        let _lost = self.try_send(id, &Letter::bare(kind));
    }

    /// Ends the connection and tells everyone who waits. The first reason stays.
    pub(crate) fn close(&self, closing: Closing) {
        if self.owner.check().is_err() {
            // A shutdown would hang up for the process this one was forked from.
            return;
        }
        let unsent = lock(&self.outbound).close().to_vec();
        let waiters = lock(&self.pending).close(closing.clone());
        for (id, waiter) in waiters {
            let outcome = Outcome::Lost { closing: closing.clone(), sent: !unsent.contains(&id) };
            // Its receiver is gone when the caller is.
            let _gone = waiter.send(outcome);
        }
        self.slots.close();
        self.closed.send_replace(true);
        self.flush.notify_one();
        self.room.notify_waiters();
        // Wakes both tasks; an error only says that the peer was faster.
        let _gone = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.socket),
            nix::sys::socket::Shutdown::Both,
        );
    }

    fn closing(&self) -> Closing {
        let closed = lock(&self.pending).closed().cloned();
        closed.unwrap_or_else(|| Closing::Lost("it is being closed".into()))
    }

    fn lost(&self) -> Trouble {
        Trouble::unsent(&self.closing())
    }

    fn receive(&self, delivery: Delivery) -> Result<(), Closing> {
        match sort(delivery) {
            Incoming::Answer(delivery) => {
                let waiter = lock(&self.pending).take(delivery.frame.header.id);
                if let Some(waiter) = waiter {
                    // Its receiver is gone when the caller is; it has cancelled then.
                    let _gone = waiter.send(Outcome::Reply(delivery));
                }
            }
            Incoming::Item(delivery) => {
                lock(&self.pending).item(delivery)?;
            }
            Incoming::Credit(id, credit) => {
                lock(&self.pending).credit(id, credit)?;
            }
            Incoming::Progress(id, progress) => {
                // Called without the lock, since it may be anybody's code.
                let sink = lock(&self.pending).progress(id);
                if let Some(sink) = sink {
                    sink.tell(progress);
                }
            }
            Incoming::Output(id, chunk) => lock(&self.pending).output(id, chunk),
            Incoming::Lines(id, chunk) => lock(&self.pending).lines(id, chunk),
            Incoming::Ping(id) => self.remark(id, Kind::Pong),
            Incoming::Close(closing) => return Err(closing),
        }
        Ok(())
    }
}

/// Waits for a moment, or for ever.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for `future` until the deadline.
async fn before<F: Future>(deadline: Deadline, future: F) -> Option<F::Output> {
    match deadline.at() {
        None => Some(future.await),
        Some(at) => timeout_at(Instant::into(at), future).await.ok(),
    }
}
