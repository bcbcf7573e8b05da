//! A connection whose client runs a program: from `RunProgram` on it is about nothing else.
//!
//! ```text
//!   RunProgram ─► admitted ─► RunReady ─► streams ─► spawner ─► guardian ═► its frames ─► RunEnded
//!        └─ RunRefused            │ client gone: nothing was started
//!                                 └────── later: Terminate, and the ladder with the pool's grace
//! ```
//!
//! Leaves to others: which programs may run (`dispatch`), the process (`run`), its end (guardian).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use clutch_protocol::frame::Decoder;
use clutch_protocol::limits::HEADER_BYTES;
use clutch_protocol::message::{
    Exited, Refusal, RunEnded, RunProgram, RunRefusal, RunRefused, RunStarted, Signal, SpawnFailed,
    SpawnProgram, Spawned, Swept,
};
use clutch_protocol::{Frame, Header, Kind, wire};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::connection::{Connection, End, refused};
use crate::dispatch::{Core, Ticket, Verdict};
use crate::limits::FRAME_TIMEOUT;
use crate::net::{Inbox, Pumped, send_at_once};
use crate::sys;
use crate::worker::link::frame_head;
use crate::worker::output::escape;
use crate::worker::spawner::ProgramStarted;

/// A program's guardian, from its start to its end. Dropping it ends the program.
struct Watched {
    core: Core,
    guardian: u32,
    /// Its report socket; its end is an order to end.
    report: Option<(Rc<UnixStream>, Inbox)>,
    swept: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.report = None;
        self.core.reap_program(self.guardian, !self.swept);
    }
}

/// What is known of a program's end.
#[derive(Default)]
struct Known {
    exited: Option<Exited>,
    swept: Option<Swept>,
    failed: Option<SpawnFailed>,
}

impl Connection {
    /// Runs a client's program until its end.
    pub(super) async fn run_program(&mut self, frame: Frame) -> End {
        let id = frame.header.id;
        let protocol = |sentence: String| refused(Refusal::Protocol, sentence);
        if self.inbox.partial_bytes() > 0 || self.peer.in_flight() > 0 {
            return protocol("a program has its connection to itself".to_owned());
        }
        let asked: RunProgram = match wire::decode(&frame.meta) {
            Ok(asked) => asked,
            Err(error) => return protocol(error.to_string()),
        };
        let (admitted, ticket) = match self.doorway.core.admit_run(&asked) {
            Ok(admitted) => admitted,
            Err(refused) => return self.refuse_program(id, refused),
        };
        let working = tokio::task::spawn_blocking(move || admitted.program(asked));
        let program = match tokio::time::timeout(FRAME_TIMEOUT, working).await {
            Ok(Ok(Ok(program))) => program,
            Ok(Ok(Err(sentence))) => return self.cannot_start(id, sentence),
            Ok(Err(error)) => return self.cannot_start(id, error.to_string()),
            Err(_) => {
                let sentence = "the file system of its virtual environment does not answer";
                return self.cannot_start(id, sentence.to_owned());
            }
        };
        self.peer.send(&Header::new(Kind::RunReady, id).encode(), &Bytes::new());
        let receiving = self.receive_streams(id, program.streams.open.len());
        let streams = match tokio::time::timeout(FRAME_TIMEOUT, receiving).await {
            Ok(Ok(streams)) => streams,
            Ok(Err(end)) => return end,
            Err(_) => {
                return refused(Refusal::TooSlow, "the program's streams did not come".to_owned());
            }
        };
        let started = match self.start_program(program, streams).await {
            Ok(started) => started,
            Err(sentence) => return self.cannot_start(id, sentence),
        };
        self.watch_program(id, started, ticket).await
    }

    fn cannot_start(&self, id: u64, sentence: String) -> End {
        self.refuse_program(id, RunRefused { refusal: RunRefusal::CannotStart, sentence })
    }

    fn refuse_program(&self, id: u64, refused: RunRefused) -> End {
        tracing::info!(refusal = ?refused.refusal, sentence = refused.sentence,
            "a program was not run");
        self.peer.send(&frame_head(Kind::RunRefused, id, &refused), &Bytes::new());
        End::Closed
    }

    async fn start_program(
        &self,
        program: Box<SpawnProgram>,
        streams: Vec<OwnedFd>,
    ) -> Result<ProgramStarted, String> {
        let core = &self.doorway.core;
        let outcome = core.start_program(program, streams).map_err(|error| error.to_string())?;
        match outcome.await {
            Ok(started) => started.map_err(|error| error.to_string()),
            Err(_) => Err("the thread that starts processes has ended".to_owned()),
        }
    }

    /// Receives the one frame that carries descriptors, and not a byte of what follows it: that is
    /// received as everything else is, where descriptors are refused.
    async fn receive_streams(&self, id: u64, count: usize) -> Result<Vec<OwnedFd>, End> {
        let protocol = |sentence: String| refused(Refusal::Protocol, sentence);
        let mut streams = Vec::new();
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES);
        while bytes.len() < HEADER_BYTES {
            self.stream.readable().await.map_err(|_| End::Broken)?;
            let room = HEADER_BYTES - bytes.len();
            let received = self.stream.try_io(Interest::READABLE, || {
                sys::receive(self.stream.as_fd(), &mut bytes, room, &mut streams)
            });
            match received {
                Ok(got) if got.bytes == 0 => return Err(End::Broken),
                Ok(got) if got.truncated || streams.len() > count => {
                    return Err(protocol("more descriptors came than were announced".to_owned()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Err(End::Broken),
            }
        }
        let bytes: &[u8; HEADER_BYTES] = bytes[..].try_into().expect("just so many were read");
        let header = Header::decode(bytes, 0).map_err(|error| protocol(error.to_string()))?;
        let expected = header.kind == Kind::RunStreams && header.id == id;
        if !expected || usize::from(header.descriptors) != count || streams.len() != count {
            return Err(protocol(format!(
                "a RunStreams frame with {count} descriptors was expected, and a {:?} frame came \
                 with {}",
                header.kind,
                streams.len()
            )));
        }
        Ok(streams)
    }

    async fn watch_program(&mut self, id: u64, started: ProgramStarted, ticket: Ticket) -> End {
        let ProgramStarted { report, guardian } = started;
        let core = self.doorway.core.clone();
        let mut watched = Watched { core, guardian, report: None, swept: false };
        let report =
            report.set_nonblocking(true).and_then(|()| UnixStream::from_std(report)).map(Rc::new);
        let known = match report {
            Ok(report) => {
                let inbox = Inbox::new(report.clone(), Decoder::with_payload_max(0));
                watched.report = Some((report, inbox));
                self.follow_program(id, &mut watched, &ticket).await
            }
            Err(error) => {
                tracing::error!(%error, "a program's guardian cannot be listened to");
                Known::default()
            }
        };
        // Reaped before the client is told, and its place is free: whoever waits for the end of one
        // program to start another finds room.
        drop(watched);
        let (pool, command) = (ticket.pool.clone(), ticket.command.clone());
        drop(ticket);
        match known {
            Known { exited: Some(exited), swept, .. } => {
                let Swept { killed, survivors } =
                    swept.unwrap_or(Swept { killed: 0, survivors: 0 });
                let (pid, exit) = (exited.pid, exited.exit);
                tracing::info!(pool, pid, ?exit, killed, survivors, "a program has ended");
                let ended = RunEnded { exit, killed, survivors };
                self.peer.send(&frame_head(Kind::RunEnded, id, &ended), &Bytes::new());
                End::Closed
            }
            Known { failed: Some(failed), .. } => {
                let core = &self.doorway.core;
                self.cannot_start(id, core.describe_program_failure(&pool, failed))
            }
            Known { .. } => {
                tracing::error!(
                    pool,
                    command = escape(command.as_bytes()),
                    "the guardian of a program is gone"
                );
                let sentence = "the process that watched over it was killed, and it with that";
                let refusal = RunRefusal::Lost;
                self.refuse_program(id, RunRefused { refusal, sentence: sentence.to_owned() })
            }
        }
    }

    /// Passes on what client and guardian say, until the guardian has ended.
    async fn follow_program(&mut self, id: u64, watched: &mut Watched, ticket: &Ticket) -> Known {
        let mut known = Known::default();
        let mut verdict = ticket.verdict.clone();
        let mut is_here = true;
        let Some((report, inbox)) = &mut watched.report else { return known };
        let report = report.clone();
        let mut end_by = None;
        let mut judged = true;
        loop {
            if std::mem::take(&mut judged) {
                match *verdict.borrow_and_update() {
                    Verdict::GoOn => {}
                    Verdict::EndBy(at) => end_by = Some(Instant::from(at)),
                    Verdict::End => order(&report, Signal::Kill),
                }
            }
            let overdue = async {
                match end_by {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ready = report.readable() => {
                    let pumped = ready.is_ok().then(|| {
                        inbox.pump(|frame, _| self.take_report(id, ticket, &mut known, &frame))
                    });
                    if matches!(pumped, None | Some(Ok(Pumped::End) | Err(_))) {
                        watched.swept = known.swept.is_some_and(|swept| swept.survivors == 0)
                            || known.failed.is_some();
                        return known;
                    }
                }
                ready = self.stream.readable(), if is_here => {
                    if ready.is_err() || self.heed_client(id, &report).is_err() {
                        // Nobody is left whom the program's end could interest.
                        is_here = false;
                        order(&report, Signal::Terminate);
                    }
                }
                changed = verdict.changed() => judged = changed.is_ok(),
                () = overdue => {
                    end_by = None;
                    order(&report, Signal::Terminate);
                }
            }
        }
    }

    /// What a guardian says.
    fn take_report(&self, id: u64, ticket: &Ticket, known: &mut Known, frame: &Frame) {
        let told = match frame.header.kind {
            Kind::Spawned => wire::decode(&frame.meta).map(|spawned: Spawned| {
                ticket.note_started(spawned.pid);
                tracing::info!(
                    pool = ticket.pool,
                    pid = spawned.pid,
                    command = escape(ticket.command.as_bytes()),
                    client = self.peer.id,
                    "a program runs"
                );
                let started = RunStarted { pid: spawned.pid };
                self.peer.send(&frame_head(Kind::RunStarted, id, &started), &Bytes::new());
            }),
            Kind::SpawnFailed => {
                wire::decode(&frame.meta).map(|failed| known.failed = Some(failed))
            }
            Kind::Exited => wire::decode(&frame.meta).map(|exited| known.exited = Some(exited)),
            Kind::Swept => wire::decode(&frame.meta).map(|swept| known.swept = Some(swept)),
            _ => Ok(()),
        };
        if let Err(error) = told {
            tracing::error!(%error, "a program's guardian sent nonsense");
        }
    }

    /// What a client says while its program runs. An error means that it is gone, or as good as.
    fn heed_client(&mut self, id: u64, report: &UnixStream) -> Result<(), ()> {
        let peer = self.peer.clone();
        let mut fault = false;
        let pumped = self.inbox.pump(|frame, _| match frame.header.kind {
            Kind::RunSignal if frame.header.id == id => {
                let meta_bytes = frame.header.meta_bytes;
                let header = Header { meta_bytes, ..Header::new(Kind::Forward, 0) };
                // The guardian reads it as its own, so it must be one.
                match wire::decode::<clutch_protocol::message::Forward>(&frame.meta) {
                    Ok(_) => {
                        // One that floods its program with signals may lose some.
                        let _ = send_at_once(report, &[&header.encode()[..], &frame.meta].concat());
                    }
                    Err(_) => fault = true,
                }
            }
            Kind::Ping => {
                let pong = Header::new(Kind::Pong, frame.header.id);
                peer.send(&pong.encode(), &Bytes::new());
            }
            Kind::Pong => {}
            _ => fault = true,
        });
        match pumped {
            Ok(Pumped::End) | Err(_) => Err(()),
            Ok(_) if fault || peer.lost().is_some() => Err(()),
            Ok(_) => Ok(()),
        }
    }
}

/// Tells a guardian what must not be lost. One that cannot be told is left: then it ends its
/// program at once, and still reports.
fn order(report: &UnixStream, signal: Signal) {
    if send_at_once(report, &frame_head(Kind::Signal, 0, &signal)).is_err() {
        let _ = shutdown(report.as_raw_fd(), Shutdown::Write);
    }
}
