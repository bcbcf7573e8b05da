//! The task of one client's connection. It reads, hands calls to the dispatcher, and ends the
//! connection when the client is gone, breaks the protocol, or does not keep up.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clutch_protocol::frame::Decoder;
use clutch_protocol::message::{Refusal, Refused, Stop};
use clutch_protocol::{Frame, FrameError, Kind};
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::held::{Held, Next};
use super::hello;
use super::pace::Claim;
use super::peer::Peer;
use super::readers::Readers;
use crate::config;
use crate::dispatch::Core;
use crate::limits::{CLIENT_OUTBOX_BYTES_MAX, CLOSING_TIMEOUT, FRAME_TIMEOUT, HELLO_TIMEOUT};
use crate::net::intake::{IntakeError, OF_CLIENTS};
use crate::net::{Inbox, InboxError, Ledger, Outbox, OutboxError, Pumped, SharedBudget};
use crate::reload;
use crate::worker::link::frame_head;

/// What every connection is given.
#[derive(Clone, Debug)]
pub struct Doorway {
    /// Where calls go.
    pub core: Core,
    /// The daemon's settings.
    pub daemon: config::Daemon,
    /// Bytes of long requests the daemon may hold, in KiB.
    pub memory: Arc<Semaphore>,
    /// Bytes that may wait for all clients together to read them.
    pub answers: SharedBudget,
    /// True when the daemon closes its doors.
    pub closing: watch::Receiver<bool>,
    /// Told when a client wants the daemon stopped.
    pub stop: tokio::sync::mpsc::Sender<Stop>,
    /// Told when a client wants the configuration read anew.
    pub reload: tokio::sync::mpsc::Sender<reload::Order>,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum End {
    /// The client closed it.
    Closed,
    /// It was refused, and told why.
    Refused(Refused),
    /// Its first bytes were HTTP's.
    Http,
    /// It broke.
    Broken,
}

/// How many frames one client may have handled before others get their turn.
const TURN_ALLOWANCE: u32 = 64;

/// What a status takes of it: a page about every worker, written anew. What an operator asks for
/// may take as much.
const STATUS_PRICE: u32 = 32;

/// How a client's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing complete is left.
    Done,
    /// There is more, but others are waiting.
    Over,
    /// The client wants a program run, and nothing else from now on.
    Program,
}

/// One client's connection.
pub struct Connection {
    pub(super) doorway: Doorway,
    pub(super) stream: Rc<UnixStream>,
    pub(super) inbox: Inbox,
    /// What is held of what it has attached to its calls.
    pub(super) ledger: Ledger,
    pub(super) peer: Rc<Peer>,
    pub(super) readers: Readers,
    /// Memory for the frame that is coming in.
    pub(super) memory: Option<OwnedSemaphorePermit>,
    /// Answers that take a moment, while the client is served.
    pub(super) errands: JoinSet<()>,
    /// When the frame that is coming in must be complete.
    pub(super) frame_deadline: Option<Instant>,
    /// The program it is to run.
    program: Option<Frame>,
    /// Requests beyond those that may be unanswered, or for which descriptors are held.
    pub(super) held: Held,
    /// Until when the frame that is coming in may wait for memory.
    pub(super) claim_deadline: Option<tokio::time::Instant>,
    /// Whether the client sends no more, while requests of it are held.
    pub(super) has_ended: bool,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(doorway: Doorway, stream: UnixStream, id: u64) -> Connection {
        let stream = Rc::new(stream);
        let limit = CLIENT_OUTBOX_BYTES_MAX + doorway.daemon.payload as usize;
        let holdings = doorway.core.holdings().clone();
        let ledger = Ledger::new(holdings.clone());
        let outbox = Outbox::new(stream.clone(), limit, doorway.answers.clone())
            .within(holdings.limit_of_one());
        Connection {
            // A stranger may send none: it has not been told what may be attached.
            inbox: Inbox::new(stream.clone(), Decoder::before_hello()).taking(&[], ledger.clone()),
            ledger,
            peer: Rc::new(Peer::new(id, outbox, doorway.core.no_handles())),
            doorway,
            stream,
            readers: Readers::default(),
            memory: None,
            errands: JoinSet::new(),
            frame_deadline: None,
            program: None,
            held: Held::default(),
            claim_deadline: None,
            has_ended: false,
        }
    }

    /// Serves the client until one of both has had enough. `introduced` is called when it has said
    /// hello and is no stranger any more.
    ///
    /// `leave` is told when a stranger has to make room.
    pub async fn run(mut self: Box<Self>, leave: Rc<Notify>, introduced: impl FnOnce()) -> End {
        let mut leave_taker =
            LeaveTaker { core: self.doorway.core.clone(), peer: self.peer.clone(), greeted: false };
        let mut flusher = JoinSet::new();
        let peer = self.peer.clone();
        flusher.spawn_local(async move {
            peer.outbox.flush_forever().await;
            // Its session may be waiting for what will not come.
            peer.lose(OutboxError::Closed);
        });
        let (peer, core) = (self.peer.clone(), self.doorway.core.clone());
        flusher.spawn_local(async move {
            loop {
                peer.outbox.lent().freed().await;
                core.resume_outputs(&peer);
            }
        });
        let mut closing = self.doorway.closing.clone();
        let crowded_out = async {
            leave.notified().await;
            let sentence = "too many connections have said no hello; say it first thing";
            Err(refused(Refusal::Overloaded, sentence.to_owned()))
        };
        let greeted = tokio::select! {
            greeted = self.greet() => greeted,
            crowded_out = crowded_out => crowded_out,
            _ = closing.wait_for(|closing| *closing) => Err(stopped()),
        };
        let end = match greeted {
            Ok(()) => {
                introduced();
                self.doorway.core.client_came();
                leave_taker.greeted = true;
                let peer = self.peer.clone();
                let end = tokio::select! {
                    end = self.serve() => end,
                    // Nobody is owed an answer any more when the doors close.
                    _ = closing.wait_for(|closing| *closing) => {
                        let _ = tokio::time::timeout(CLOSING_TIMEOUT, peer.outbox.drained()).await;
                        stopped()
                    }
                };
                end
            }
            Err(end) => end,
        };
        drop(leave_taker);
        match &end {
            End::Refused(refused) => {
                self.peer.send(&frame_head(Kind::Refused, 0, refused), &Bytes::new());
            }
            End::Http => self.peer.send(hello::NOT_HTTP, &Bytes::new()),
            End::Closed | End::Broken => {}
        }
        // What the socket did not take is not worth waiting for: the client is at fault.
        self.peer.outbox.close();
        end
    }

    async fn greet(&mut self) -> Result<(), End> {
        let deadline = tokio::time::Instant::now() + HELLO_TIMEOUT;
        let frame = match tokio::time::timeout_at(deadline, self.first_frame()).await {
            Ok(frame) => frame?,
            Err(_) => {
                let sentence = format!("no hello within {} s", HELLO_TIMEOUT.as_secs());
                return Err(refused(Refusal::TooSlow, sentence));
            }
        };
        let pools = self.doorway.core.pool_sizes();
        let (hello, welcome) =
            hello::judge(&frame, &self.doorway.daemon, pools).map_err(End::Refused)?;
        if !hello.worker.is_empty()
            && let Some(home) = self.doorway.core.home_of(&hello.worker)
        {
            // A hello is said once.
            let _ = self.peer.home.set(home);
        }
        tracing::debug!(client = self.peer.id, program = hello.program, "client connected");
        self.inbox.set_decoder(Decoder::with_payload_max(self.doorway.daemon.payload));
        self.inbox.take_attached(OF_CLIENTS, self.ledger.clone());
        self.peer.send(&frame_head(Kind::Welcome, 0, &welcome), &Bytes::new());
        Ok(())
    }

    async fn first_frame(&mut self) -> Result<Frame, End> {
        loop {
            self.stream.readable().await.map_err(|_| End::Broken)?;
            match self.inbox.receive() {
                Ok(Pumped::End) => return Err(End::Closed),
                Ok(_) => {}
                Err(error) => return Err(self.inbox_end(&error)),
            }
            match self.inbox.next_frame() {
                Ok(Some((frame, _))) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(self.inbox_end(&error)),
            }
        }
    }

    async fn serve(&mut self) -> End {
        // Calls may have come in together with the hello.
        loop {
            match self.peer.lost() {
                None => {}
                Some(OutboxError::Closed) => return End::Broken,
                Some(error) => {
                    return refused(
                        Refusal::TooSlow,
                        format!("{error}; read answers as they come"),
                    );
                }
            }
            match self.take_frames() {
                Ok(Turn::Done) => {}
                Ok(Turn::Program) => {
                    let frame = self.program.take().expect("it was just put there");
                    return self.run_program(frame).await;
                }
                Ok(Turn::Over) => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(end) => return end,
            }
            if self.has_ended && self.held.is_empty() {
                return self.leave().await;
            }
            if self.has_ended || self.must_pause() {
                if let Some(end) = self.pause().await {
                    return end;
                }
                continue;
            }
            match self.claim_memory().await {
                // There may be room now for what is held.
                Ok(Claim::Waited) => continue,
                Ok(Claim::Settled) => {}
                Err(end) => return end,
            }
            match self.wait_and_receive().await {
                Ok(Pumped::End) => self.has_ended = true,
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// Waits for bytes, for the frame's deadline, or for bad news from the dispatcher.
    async fn wait_and_receive(&mut self) -> Result<Pumped, End> {
        let deadline = self.frame_deadline;
        let overdue = async {
            let Some(at) = deadline else { return std::future::pending().await };
            tokio::time::sleep_until(at.into()).await;
        };
        tokio::select! {
            biased;
            ready = self.stream.readable() => ready.map_err(|_| End::Broken)?,
            () = self.peer.changed.notified() => return Ok(Pumped::Empty),
            () = self.ledger.freed(), if !self.held.is_empty() => return Ok(Pumped::Empty),
            () = overdue, if self.held.is_empty() => {
                let sentence = "a frame was begun and not finished in time".to_owned();
                return Err(refused(Refusal::TooSlow, sentence));
            }
        }
        self.inbox.receive().map_err(|error| self.inbox_end(&error))
    }

    /// Hands complete frames on, as many as one turn allows.
    fn take_frames(&mut self) -> Result<Turn, End> {
        let now = Instant::now();
        let mut allowance = TURN_ALLOWANCE;
        while !self.must_pause() {
            if allowance == 0 {
                return Ok(Turn::Over);
            }
            let arrival = match self.next_arrival(now)? {
                Next::Take(arrival) => arrival,
                Next::Kept => {
                    allowance -= 1;
                    continue;
                }
                Next::Nothing => break,
            };
            // What is put is kept beyond any call, or not at all; its receiver says which.
            if arrival.frame.header.kind != Kind::Put {
                arrival.attached.admit();
            }
            // These cost more than passing on does.
            let price = match arrival.frame.header.kind {
                Kind::Status | Kind::Operate | Kind::Logs => STATUS_PRICE,
                _ => 1,
            };
            allowance = allowance.saturating_sub(price);
            if arrival.frame.header.kind == Kind::RunProgram {
                self.program = Some(arrival.frame);
                return Ok(Turn::Program);
            }
            self.take(now, arrival).map_err(End::Refused)?;
        }
        self.watch_partial_frame(now);
        Ok(Turn::Done)
    }

    /// A frame that was begun has to be finished, at a rate even a slow client makes.
    fn watch_partial_frame(&mut self, now: Instant) {
        if self.inbox.partial_bytes() == 0 {
            self.frame_deadline = None;
        } else if self.frame_deadline.is_none() {
            self.frame_deadline = Some(now + FRAME_TIMEOUT);
        }
        // The allowance for a long frame is added once, when its length becomes known, together
        // with its memory.
    }

    pub(super) fn inbox_end(&self, error: &InboxError) -> End {
        match error {
            InboxError::Frame(fault) if hello::is_http(fault) => End::Http,
            InboxError::Frame(FrameError::TooLong { length, limit }) => refused(
                Refusal::Protocol,
                format!("a frame of {length} bytes was announced, at most {limit} are accepted"),
            ),
            InboxError::Descriptors(IntakeError::Exhausted) => {
                refused(Refusal::Overloaded, error.to_string())
            }
            InboxError::Frame(_) | InboxError::Descriptors(_) => {
                refused(Refusal::Protocol, error.to_string())
            }
            InboxError::Socket(_) => End::Broken,
        }
    }
}

/// Whether a frame adds to what its client is owed. The others are about what it is owed already:
/// were a cancel or a credit not read since too much is unanswered, that might stay so. What puts
/// or releases a value is done at once.
pub(super) const fn wants_answer(kind: Kind) -> bool {
    use Kind::{Cancel, Credit, Item, ItemsEnd, Pong, Put, Release};
    !matches!(kind, Cancel | Credit | Item | ItemsEnd | Pong | Put | Release)
}

/// Cancels a client's calls when its connection ends, even by a panic.
struct LeaveTaker {
    core: Core,
    pub(super) peer: Rc<Peer>,
    greeted: bool,
}

impl Drop for LeaveTaker {
    fn drop(&mut self) {
        self.core.abandon_calls(&self.peer);
        self.peer.handles.release_all();
        if self.greeted {
            self.core.client_left();
        }
    }
}

fn stopped() -> End {
    refused(Refusal::ShuttingDown, "the daemon has stopped".to_owned())
}

pub(super) fn refused(refusal: Refusal, sentence: String) -> End {
    End::Refused(Refused { refusal, sentence })
}
