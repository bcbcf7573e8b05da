//! The task of one client's connection. It reads, hands calls to the dispatcher, and ends the
//! connection when the client is gone, breaks the protocol, or does not keep up.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clutch_protocol::frame::Decoder;
use clutch_protocol::message::{Refusal, Refused, Stop};
use clutch_protocol::{Codec, Frame, FrameError, Header, Kind, wire};
use tokio::net::UnixStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::hello;
use super::peer::Peer;
use crate::config;
use crate::dispatch::Core;
use crate::limits::{
    BUDGETED_BYTES_MIN, CLIENT_OUTBOX_BYTES_HIGH, CLIENT_OUTBOX_BYTES_MAX, CLOSING_TIMEOUT,
    FRAME_BYTES_PER_SEC_MIN, FRAME_TIMEOUT, HELLO_TIMEOUT, STALL_TIMEOUT,
};
use crate::net::hangup::wait_until_closed;
use crate::net::{Inbox, InboxError, Outbox, Pumped};
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
    /// True when the daemon closes its doors.
    pub closing: watch::Receiver<bool>,
    /// Told when a client wants the daemon stopped.
    pub stop: tokio::sync::mpsc::Sender<Stop>,
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

/// One client's connection.
pub struct Connection {
    doorway: Doorway,
    stream: Rc<UnixStream>,
    inbox: Inbox,
    peer: Rc<Peer>,
    /// Memory for the frame that is coming in.
    memory: Option<OwnedSemaphorePermit>,
    /// When the frame that is coming in must be complete.
    frame_deadline: Option<Instant>,
    /// Why reading has to stop for good.
    fault: Option<Refused>,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(doorway: Doorway, stream: UnixStream, id: u64) -> Connection {
        let stream = Rc::new(stream);
        let limit = CLIENT_OUTBOX_BYTES_MAX + doorway.daemon.payload as usize;
        Connection {
            inbox: Inbox::new(stream.clone(), Decoder::before_hello()),
            peer: Rc::new(Peer::new(id, Outbox::new(stream.clone(), limit))),
            doorway,
            stream,
            memory: None,
            frame_deadline: None,
            fault: None,
        }
    }

    /// Serves the client until one of both has had enough. `introduced` is called when it has said
    /// hello and is no stranger any more.
    ///
    /// `leave` is told when a stranger has to make room.
    pub async fn run(mut self, leave: Rc<Notify>, introduced: impl FnOnce()) -> End {
        let mut flusher = JoinSet::new();
        let peer = self.peer.clone();
        flusher.spawn_local(async move { peer.outbox.flush_forever().await });
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
                let peer = self.peer.clone();
                let end = tokio::select! {
                    end = self.serve() => end,
                    // Nobody is owed an answer any more when the doors close.
                    _ = closing.wait_for(|closing| *closing) => {
                        let _ = tokio::time::timeout(CLOSING_TIMEOUT, peer.outbox.drained()).await;
                        stopped()
                    }
                };
                self.doorway.core.client_left();
                end
            }
            Err(end) => end,
        };
        self.doorway.core.abandon_calls(&self.peer);
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
        let (hello, welcome) = hello::judge(&frame, &self.doorway.daemon).map_err(End::Refused)?;
        tracing::debug!(
            client = self.peer.id,
            program = hello.program.escape_debug().to_string(),
            "client connected"
        );
        self.inbox.set_decoder(Decoder::with_payload_max(self.doorway.daemon.payload));
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
                Ok(Some(frame)) => return Ok(frame),
                Ok(None) => {}
                Err(error) => return Err(self.inbox_end(&error)),
            }
        }
    }

    async fn serve(&mut self) -> End {
        // Calls may have come in together with the hello.
        loop {
            if let Some(end) = self.take_frames() {
                return end;
            }
            if let Some(error) = self.peer.lost() {
                return refused(Refusal::TooSlow, format!("{error}; read answers as they come"));
            }
            if self.must_pause() {
                if let Some(end) = self.pause().await {
                    return end;
                }
                continue;
            }
            if let Err(end) = self.claim_memory().await {
                return end;
            }
            match self.wait_and_receive().await {
                Ok(Pumped::End) => return self.leave().await,
                Ok(_) => {}
                Err(end) => return end,
            }
        }
    }

    /// Waits for bytes, for the frame's deadline, or for bad news from the dispatcher.
    async fn wait_and_receive(&mut self) -> Result<Pumped, End> {
        let deadline = self.frame_deadline;
        let overdue = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            ready = self.stream.readable() => ready.map_err(|_| End::Broken)?,
            () = self.peer.changed.notified() => return Ok(Pumped::Empty),
            () = overdue => {
                let sentence = "a frame was begun and not finished in time".to_owned();
                return Err(refused(Refusal::TooSlow, sentence));
            }
        }
        self.inbox.receive().map_err(|error| self.inbox_end(&error))
    }

    /// Hands every complete frame on. The end, if one of them brings it about.
    fn take_frames(&mut self) -> Option<End> {
        let now = Instant::now();
        while !self.must_pause() {
            match self.inbox.next_frame() {
                Ok(Some(frame)) => {
                    self.frame_deadline = None;
                    self.take(now, frame);
                    if let Some(fault) = self.fault.take() {
                        return Some(End::Refused(fault));
                    }
                }
                Ok(None) => break,
                Err(error) => return Some(self.inbox_end(&error)),
            }
        }
        self.watch_partial_frame(now);
        None
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

    fn take(&mut self, now: Instant, frame: Frame) {
        let id = frame.header.id;
        let answered = match frame.header.kind {
            Kind::Call => {
                let memory = self.memory.take();
                self.doorway
                    .core
                    .call(now, &self.peer, frame, memory)
                    .map_err(|fault| fault.to_string())
            }
            Kind::Cancel => {
                if !self.doorway.core.cancel(&self.peer, id) {
                    self.doorway.core.count("cancels_of_unknown_calls");
                }
                Ok(())
            }
            Kind::Ping => {
                self.peer.send(&Header::new(Kind::Pong, id).encode(), &Bytes::new());
                Ok(())
            }
            Kind::Pong => Ok(()),
            Kind::Status => {
                self.report_status(id);
                Ok(())
            }
            Kind::Stop => self.order_stop(&frame).map_err(|error| error.to_string()),
            kind => Err(format!("a client may not send a {kind:?} frame")),
        };
        if let Err(sentence) = answered {
            self.fault = Some(Refused { refusal: Refusal::Protocol, sentence });
        }
    }

    fn report_status(&self, id: u64) {
        let json = serde_json::to_vec(&self.doorway.core.status()).expect("a status is plain data");
        let payload = Bytes::from(json);
        let header = Header {
            codec: Codec::Json,
            payload_bytes: u32::try_from(payload.len()).expect("a status is far below 4 GiB"),
            ..Header::new(Kind::StatusReport, id)
        };
        self.peer.send(&header.encode(), &payload);
    }

    fn order_stop(&self, frame: &Frame) -> Result<(), wire::MetaError> {
        let stop: Stop = wire::decode(&frame.meta)?;
        self.peer.send(&Header::new(Kind::Stopping, frame.header.id).encode(), &Bytes::new());
        // A full channel means that a stop is under way already.
        let _ = self.doorway.stop.try_send(stop);
        Ok(())
    }

    /// Whether nothing may be read now: too many calls in flight, or answers unread.
    fn must_pause(&self) -> bool {
        self.peer.in_flight() >= self.doorway.daemon.in_flight as usize
            || self.peer.outbox.waiting_bytes() > CLIENT_OUTBOX_BYTES_HIGH
    }

    /// Waits until the client has got on with its answers. A client that does not read at all is
    /// dropped.
    async fn pause(&mut self) -> Option<End> {
        let (peer, stream) = (self.peer.clone(), self.stream.clone());
        let sent = peer.outbox.sent_bytes();
        let unread = peer.outbox.waiting_bytes() > CLIENT_OUTBOX_BYTES_HIGH;
        let stalled = async {
            if unread {
                tokio::time::sleep_until(tokio::time::Instant::now() + STALL_TIMEOUT).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = peer.changed.notified() => None,
            // Only when there is something to drain: an empty outbox is drained at once, and a wait
            // that is over at once is a loop that never gives the thread back.
            () = peer.outbox.drained(), if unread => None,
            () = wait_until_closed(&stream) => Some(End::Broken),
            () = stalled => (peer.outbox.sent_bytes() == sent).then(|| {
                let sentence = format!("answers unread for {} s", STALL_TIMEOUT.as_secs());
                refused(Refusal::TooSlow, sentence)
            }),
        }
    }

    /// A long frame takes its bytes out of the daemon's memory budget before they come in.
    async fn claim_memory(&mut self) -> Result<(), End> {
        let Some(header) = self.inbox.pending() else {
            return Ok(());
        };
        if self.memory.is_some() || header.payload_bytes < BUDGETED_BYTES_MIN {
            return Ok(());
        }
        let bytes = u64::from(header.payload_bytes);
        let kib = u32::try_from(bytes.div_ceil(1024)).expect("a payload is below 4 GiB");
        let claim = self.doorway.memory.clone().acquire_many_owned(kib);
        let Ok(Ok(permit)) = tokio::time::timeout(FRAME_TIMEOUT, claim).await else {
            let sentence = "the daemon holds as many request bytes as it may (daemon.memory); try \
                            again later";
            return Err(refused(Refusal::Overloaded, sentence.to_owned()));
        };
        self.memory = Some(permit);
        let allowance = Duration::from_secs(bytes / FRAME_BYTES_PER_SEC_MIN);
        self.frame_deadline = Some(Instant::now() + FRAME_TIMEOUT + allowance);
        Ok(())
    }

    /// The client sends no more. It may have closed only that half, and still read its answers.
    async fn leave(&mut self) -> End {
        if self.inbox.partial_bytes() > 0 {
            return End::Broken;
        }
        let (peer, stream) = (self.peer.clone(), self.stream.clone());
        let answered = async {
            while peer.in_flight() > 0 {
                peer.changed.notified().await;
                if peer.lost().is_some() {
                    return;
                }
            }
            let _ = tokio::time::timeout(STALL_TIMEOUT, peer.outbox.drained()).await;
        };
        tokio::select! {
            () = answered => End::Closed,
            () = wait_until_closed(&stream) => End::Closed,
        }
    }

    fn inbox_end(&self, error: &InboxError) -> End {
        match error {
            InboxError::Frame(fault) if hello::is_http(fault) => End::Http,
            InboxError::Frame(FrameError::TooLong { length, limit }) => refused(
                Refusal::Protocol,
                format!("a frame of {length} bytes was announced, at most {limit} are accepted"),
            ),
            InboxError::Frame(_) | InboxError::Descriptors => {
                refused(Refusal::Protocol, error.to_string())
            }
            InboxError::Socket(_) => End::Broken,
        }
    }
}

fn stopped() -> End {
    refused(Refusal::ShuttingDown, "the daemon has stopped".to_owned())
}

fn refused(refusal: Refusal, sentence: String) -> End {
    End::Refused(Refused { refusal, sentence })
}
