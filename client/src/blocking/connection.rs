//! One connection of a blocking client, shared by any number of threads. No thread of its own, no
//! runtime: whoever waits for an answer reads.
//!
//! ```text
//!   thread A ──writes──► socket ◄──reads── thread A, the leader: it holds the inbox
//!   thread B ──writes──► socket               │ B's answer: into B's mailbox, B wakes
//!   thread B  waits on its mailbox ◄──────────┘ A's own: A leaves, the inbox passes to a follower
//! ```
//!
//! So a lone thread writes, reads and is done, in two system calls; and of many threads exactly one
//! is in `recv`. One thread at a time writes, and while the socket is full it reads if nobody else
//! does: were everybody writing, the daemon could not get rid of its answers and would stop reading
//! too.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clutch_protocol::message::Welcome;
use clutch_protocol::{Kind, Reason};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::MsgFlags;

use super::desk::{Desk, Mailbox, lock};
use super::feeding;
pub(super) use super::feeding::read;
use super::turn::Turns;
use crate::exchange::{Deadline, Incoming, Letter, Trouble, garbage, sort, undone_by};
use crate::feed::Sources;
use crate::inbox::{Delivery, Filled, Inbox};
use crate::limits::{CROWDED_WAIT, HANG_UP_WAIT, WRITE_LOOK};
use crate::memory::reuse::Customer;
use crate::outbound::{is_crowded, write_with};
use crate::owner::Owner;
use crate::pending::{Closing, Ids, Outcome, OutputSink};

/// What the threads share.
pub(super) struct Connection {
    pub(super) socket: UnixStream,
    pub(super) owner: Owner,
    welcome: Welcome,
    /// Keeps memory that is used again.
    _customer: Customer,
    ids: Ids,
    /// Frames never interleave.
    pub(super) writing: Turns,
    pub(super) desk: Mutex<Desk>,
}

/// Waits until the socket is ready or has ended; false when the deadline comes first.
pub(super) fn wait_for(
    socket: impl AsFd,
    events: PollFlags,
    deadline: Option<Instant>,
) -> io::Result<bool> {
    loop {
        let rest = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // Rounded up, or the last millisecond would be spent polling without waiting.
        let timeout = rest.map_or(PollTimeout::NONE, |rest| {
            let ms = rest.as_micros().div_ceil(1000);
            PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut [PollFd::new(socket.as_fd(), events)], timeout) {
            Ok(0) if rest.is_some_and(|rest| rest.is_zero()) => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Connection {
    /// A connection on a socket that has been welcomed.
    pub(super) fn start(socket: UnixStream, welcome: Welcome, mut inbox: Inbox) -> Connection {
        let connection = Connection {
            socket,
            owner: Owner::current(),
            welcome,
            _customer: Customer::new(),
            ids: Ids::default(),
            writing: Turns::default(),
            desk: Mutex::default(),
        };
        // What came together with the welcome would not be looked at before more comes.
        if let Err(closing) = connection.receive(&mut inbox) {
            connection.close(&closing);
        }
        connection.hand_over(inbox);
        connection
    }

    pub(super) fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    pub(super) fn is_closed(&self) -> bool {
        self.owner.check().is_err() || lock(&self.desk).pending.closed().is_some()
    }

    pub(super) fn late_replies(&self) -> u64 {
        lock(&self.desk).pending.late()
    }

    /// Sends a request and waits for its answer.
    pub(super) fn exchange(
        &self,
        letter: &Letter,
        output: Option<OutputSink>,
        deadline: Deadline,
    ) -> Result<Delivery, Trouble> {
        self.exchange_fed(letter, output, deadline, None)
    }

    /// The same, and sends what the call asks for meanwhile.
    pub(super) fn exchange_fed(
        &self,
        letter: &Letter,
        output: Option<OutputSink>,
        deadline: Deadline,
        mut sources: Option<Sources>,
    ) -> Result<Delivery, Trouble> {
        let mailbox = Arc::new(Mailbox::default());
        let id = self.post(letter, &mailbox, output, deadline)?;
        let answer = feeding::answer(self, (&mailbox, id), deadline, &mut sources);
        if answer.is_err() {
            // Without effect if it was answered.
            self.cancel(id, letter.kind);
        }
        answer
    }

    /// Sends a request whose answer shall come to `mailbox`.
    pub(super) fn post(
        &self,
        letter: &Letter,
        mailbox: &Arc<Mailbox>,
        output: Option<OutputSink>,
        deadline: Deadline,
    ) -> Result<u64, Trouble> {
        self.owner.check().map_err(|closing| Trouble::unsent(&closing))?;
        let id = self.ids.next();
        lock(&self.desk)
            .pending
            .insert(id, Arc::clone(mailbox), output)
            .map_err(|closing| Trouble::unsent(&closing))?;
        match self.write(id, letter, deadline) {
            Ok(()) => Ok(id),
            Err(reason) => {
                lock(&self.desk).pending.forget(id);
                // The connection may have been closed meanwhile, and told the mailbox so.
                mailbox.letters().outcomes.retain(|(other, _)| *other != id);
                Err(Trouble::unsent(reason))
            }
        }
    }

    /// Gives up on a request, and tells the daemon if it would go on with it.
    pub(super) fn cancel(&self, id: u64, kind: Kind) {
        if self.owner.check().is_err() {
            return;
        }
        let waiting = lock(&self.desk).pending.forget(id);
        // What is kept stays so behind its answer, which may have come too late to be seen.
        if let Some(kind) = undone_by(kind).filter(|_| waiting || kind == Kind::Put) {
            self.remark(id, kind);
        }
    }

    /// Writes a whole frame, or nothing, or closes the connection.
    pub(super) fn write(&self, id: u64, letter: &Letter, deadline: Deadline) -> Result<(), Reason> {
        let written = {
            // A daemon that does not read can hold up one writer for ever, but not the others.
            let _turn = self.writing.wait(deadline.at()).ok_or_else(|| deadline.passed())?;
            self.write_in_turn(id, letter, deadline)
        };
        self.flush_remarks();
        written
    }

    fn write_in_turn(&self, id: u64, letter: &Letter, deadline: Deadline) -> Result<(), Reason> {
        let header = letter.header(id).encode();
        let mut pieces =
            [IoSlice::new(&header), IoSlice::new(&letter.meta), IoSlice::new(&letter.payload)];
        let mut pieces = &mut pieces[..];
        let mut begun = false;
        while !pieces.is_empty() {
            if let Some(closing) = lock(&self.desk).pending.closed() {
                return Err(closing.into());
            }
            let descriptors = if begun { &[][..] } else { &letter.descriptors[..] };
            let written = match write_with(&self.socket, pieces, descriptors) {
                Err(error) if is_crowded(&error) => {
                    // A free socket would not keep anybody waiting.
                    std::thread::park_timeout(CROWDED_WAIT);
                    Ok(0)
                }
                other => other,
            };
            match written {
                Ok(0) => {
                    // A frame that has begun must be finished, or nothing else can be sent.
                    let until = if begun { deadline.net() } else { deadline.at() };
                    if until.is_some_and(|at| at <= Instant::now()) {
                        if begun {
                            let detail = "the daemon stopped reading in the middle of a frame";
                            self.close(&Closing::Lost(detail.into()));
                        }
                        return Err(deadline.passed());
                    }
                    self.make_room(until);
                }
                Ok(count) => {
                    begun = true;
                    IoSlice::advance_slices(&mut pieces, count);
                }
                Err(error) => return Err((&self.hung_up(&error)).into()),
            }
        }
        Ok(())
    }

    /// Waits a while for a full socket to take bytes, reading if nobody else does.
    fn make_room(&self, until: Option<Instant>) {
        let look = Instant::now() + WRITE_LOOK;
        let look = until.map_or(look, |until| until.min(look));
        // An error or the end shows in the next write or read.
        match self.lead() {
            Some(mut inbox) => {
                let both = PollFlags::POLLIN | PollFlags::POLLOUT;
                let _ready = wait_for(&self.socket, both, Some(look));
                self.read(&mut inbox, MsgFlags::MSG_DONTWAIT);
                self.hand_over(inbox);
            }
            None => {
                let _ready = wait_for(&self.socket, PollFlags::POLLOUT, Some(look));
            }
        }
    }

    /// The daemon takes nothing more. It may have said why before it hung up: read that first.
    fn hung_up(&self, error: &io::Error) -> Closing {
        let until = Instant::now() + HANG_UP_WAIT;
        while Instant::now() < until {
            if let Some(closing) = lock(&self.desk).pending.closed() {
                return closing.clone();
            }
            match self.lead() {
                Some(mut inbox) => {
                    self.lead_once(&mut inbox, Some(until));
                    self.hand_over(inbox);
                }
                // The leader is about to read it.
                None => std::thread::park_timeout(WRITE_LOOK),
            }
        }
        let closing = Closing::Lost(format!("cannot send to the daemon: {error}").into());
        self.close(&closing);
        lock(&self.desk).pending.closed().cloned().unwrap_or(closing)
    }

    /// Takes the right to read, if nobody has it.
    fn lead(&self) -> Option<Inbox> {
        lock(&self.desk).inbox.take()
    }

    /// Gives the right to read back, and wakes one who waits for it.
    fn hand_over(&self, inbox: Inbox) {
        let mut desk = lock(&self.desk);
        desk.inbox = Some(inbox);
        desk.promote();
    }

    /// Waits for the next answer in `mailbox`; `None` when the deadline comes first.
    pub(super) fn collect(
        &self,
        mailbox: &Mailbox,
        deadline: Option<Instant>,
    ) -> Option<(u64, Outcome)> {
        let mut desk = lock(&self.desk);
        loop {
            let letter = mailbox.letters().outcomes.pop_front();
            if letter.is_some() {
                // The leader may have chosen this thread to follow it, which now goes instead.
                desk.promote();
                return letter;
            }
            let now = Instant::now();
            if deadline.is_some_and(|at| at <= now) {
                desk.promote();
                return None;
            }
            desk = match desk.inbox.take() {
                Some(mut inbox) => {
                    let owes_remarks = desk.has_remarks();
                    drop(desk);
                    if owes_remarks {
                        self.flush_remarks();
                    }
                    self.lead_once(&mut inbox, deadline);
                    let mut desk = lock(&self.desk);
                    desk.inbox = Some(inbox);
                    desk
                }
                None => {
                    mailbox.letters().waiting = true;
                    let rest = deadline.map_or(Duration::MAX, |at| at - now);
                    let (desk, _) = mailbox
                        .arrived
                        .wait_timeout(desk, rest)
                        .unwrap_or_else(PoisonError::into_inner);
                    mailbox.letters().waiting = false;
                    desk
                }
            };
        }
    }

    /// Reads what comes next for anyone.
    fn lead_once(&self, inbox: &mut Inbox, deadline: Option<Instant>) {
        // With a deadline two system calls, without only one.
        let flags = match deadline {
            None => MsgFlags::empty(),
            Some(_) => {
                if matches!(wait_for(&self.socket, PollFlags::POLLIN, deadline), Ok(false)) {
                    return;
                }
                MsgFlags::MSG_DONTWAIT
            }
        };
        self.read(inbox, flags);
    }

    fn read(&self, inbox: &mut Inbox, flags: MsgFlags) {
        let closing = match inbox.fill(&self.socket, flags) {
            Ok(Filled::End) => Some(Closing::Lost("the daemon closed it".into())),
            Ok(_) => self.receive(inbox).err(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Closing::Lost(error.to_string().into())),
        };
        if let Some(closing) = closing {
            self.close(&closing);
        }
    }

    fn receive(&self, inbox: &mut Inbox) -> Result<(), Closing> {
        while let Some(delivery) = inbox.next().map_err(|error| garbage(&error))? {
            match sort(delivery) {
                Incoming::Answer(delivery) => {
                    let id = delivery.frame.header.id;
                    let mut desk = lock(&self.desk);
                    if let Some(mailbox) = desk.pending.take(id) {
                        mailbox.deliver(id, Outcome::Reply(delivery));
                    }
                }
                Incoming::Item(delivery) => {
                    let id = delivery.frame.header.id;
                    let mut desk = lock(&self.desk);
                    if let Some((mailbox, delivery)) = desk.pending.item(delivery)? {
                        mailbox.deliver(id, Outcome::Item(delivery));
                    }
                }
                Incoming::Credit(id, credit) => {
                    let desk = lock(&self.desk);
                    if let Some((mailbox, credit)) = desk.pending.credit(id, credit)? {
                        mailbox.deliver(id, Outcome::Credit(credit));
                    }
                }
                Incoming::Progress(id, progress) => {
                    // Called without the lock, since it may be anybody's code.
                    let sink = lock(&self.desk).pending.progress(id);
                    if let Some(sink) = sink {
                        sink.tell(progress);
                    }
                }
                Incoming::Output(id, chunk) => lock(&self.desk).pending.output(id, chunk),
                Incoming::Lines(id, chunk) => lock(&self.desk).pending.lines(id, chunk),
                Incoming::Ping(id) => self.remark(id, Kind::Pong),
                Incoming::Close(closing) => return Err(closing),
            }
        }
        Ok(())
    }

    /// Ends the connection and tells everyone who waits. The first reason stays. A request that is
    /// in the table and not being written was written: its writer looks again itself.
    pub(super) fn close(&self, closing: &Closing) {
        let mut desk = lock(&self.desk);
        for (id, mailbox) in desk.pending.close(closing.clone()) {
            mailbox.deliver(id, Outcome::Lost { closing: closing.clone(), sent: true });
        }
        drop(desk);
        // Wakes a leader; an error only says that the peer was faster.
        let _gone = self.socket.shutdown(std::net::Shutdown::Both);
    }
}
