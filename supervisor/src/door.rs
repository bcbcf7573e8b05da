//! Where clients come in: who is let in, how many, and how silence is kept from being a crowd.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use clutch_protocol::Kind;
use clutch_protocol::message::{Refusal, Refused};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::limits::{CLOSING_TIMEOUT, STRANGERS_MAX};
use crate::net::send_at_once;
use crate::session::connection::{Connection, Doorway, End};
use crate::worker::link::frame_head;

/// How long to leave the listener alone when the system has no descriptor for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where clients come in.
#[derive(Debug)]
pub struct Door {
    listener: Listener,
    connections: JoinSet<End>,
    strangers: Strangers,
    last_id: u64,
    /// Whether the last try to let somebody in failed, which has been told then.
    is_stuck: bool,
}

/// Where connections come from.
#[derive(Debug)]
enum Listener {
    Socket(tokio::net::UnixListener),
    Handed(mpsc::Receiver<std::os::unix::net::UnixStream>),
    /// Nowhere: nobody new is let in.
    Nowhere,
}

impl Door {
    /// A door at a listening socket.
    ///
    /// # Errors
    ///
    /// When the runtime cannot watch it.
    pub fn at_socket(listener: std::os::unix::net::UnixListener) -> io::Result<Door> {
        listener.set_nonblocking(true)?;
        Ok(Door::new(Listener::Socket(tokio::net::UnixListener::from_std(listener)?)))
    }

    /// A door for connections handed over by this process itself.
    pub fn handed(streams: mpsc::Receiver<std::os::unix::net::UnixStream>) -> Door {
        Door::new(Listener::Handed(streams))
    }

    fn new(listener: Listener) -> Door {
        Door {
            listener,
            connections: JoinSet::new(),
            strangers: Strangers::default(),
            last_id: 0,
            is_stuck: false,
        }
    }

    /// Lets clients in for as long as it is polled.
    pub async fn let_in(&mut self, doorway: &Doorway) -> std::convert::Infallible {
        loop {
            tokio::select! {
                accepted = accept(&mut self.listener) => match accepted {
                    Ok(stream) => {
                        self.is_stuck = false;
                        self.admit(doorway, stream);
                    }
                    Err(error) => {
                        // Out of descriptors, most likely. Waiting keeps the processor free for
                        // the work that will give some back. One line tells it, however often
                        // it is tried again; the counter tells that.
                        if !self.is_stuck {
                            tracing::warn!(%error, "failed to accept a connection; trying on");
                        }
                        self.is_stuck = true;
                        doorway.core.count("accept_failures");
                        tokio::time::sleep_until(
                            tokio::time::Instant::now() + ACCEPT_PAUSE,
                        )
                        .await;
                    }
                },
                Some(ended) = self.connections.join_next() => note_end(doorway, ended),
            }
        }
    }

    fn admit(&mut self, doorway: &Doorway, stream: UnixStream) {
        let daemon = doorway.core.daemon();
        self.last_id += 1;
        let id = self.last_id;
        doorway.core.count("connections");
        if let Err(error) = check_user(&stream) {
            tracing::warn!(client = id, %error, "refused a connection of another user");
            doorway.core.count("refused.User");
            refuse(&stream, Refusal::User, &error);
            return;
        }
        if self.connections.len() >= daemon.connections as usize {
            let sentence = format!(
                "the daemon serves {} connections already; close some, or raise daemon.connections",
                self.connections.len()
            );
            doorway.core.count("refused.Overloaded");
            refuse(&stream, Refusal::Overloaded, &sentence);
            return;
        }
        let leave = self.strangers.admit(id);
        // Its task has it by a pointer: as a value it would be there twice, once to be moved in.
        let doorway = Doorway { daemon, ..doorway.clone() };
        let connection = Box::new(Connection::new(doorway, stream, id));
        let stranger = Stranger { id, strangers: self.strangers.clone() };
        self.connections.spawn_local(async move { connection.run(leave, || drop(stranger)).await });
    }

    /// Lets nobody new in: whoever connects to a socket that stays open waits for the next daemon.
    pub fn leave_to_the_next(&mut self) {
        self.listener = Listener::Nowhere;
    }

    /// Waits for connections to close; those that take too long are cut off.
    pub async fn finish(&mut self) {
        let closed = async { while self.connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSING_TIMEOUT * 2, closed).await;
        self.connections.abort_all();
        while self.connections.join_next().await.is_some() {}
    }
}

/// The connections that have not said hello, oldest first, each with a way to make it leave.
#[derive(Clone, Debug, Default)]
struct Strangers(Rc<RefCell<BTreeMap<u64, Rc<Notify>>>>);

impl Strangers {
    /// Takes a stranger in; if they are too many, the one that has been silent longest has to go,
    /// so that silence keeps nobody out.
    fn admit(&self, id: u64) -> Rc<Notify> {
        let mut strangers = self.0.borrow_mut();
        while strangers.len() >= STRANGERS_MAX {
            let (_, leave) = strangers.pop_first().expect("there are some");
            leave.notify_one();
        }
        let leave = Rc::new(Notify::new());
        strangers.insert(id, leave.clone());
        leave
    }
}

/// A connection is a stranger for as long as this lives.
struct Stranger {
    id: u64,
    strangers: Strangers,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.0.borrow_mut().remove(&self.id);
    }
}

async fn accept(listener: &mut Listener) -> io::Result<UnixStream> {
    match listener {
        Listener::Socket(listener) => listener.accept().await.map(|(stream, _)| stream),
        Listener::Handed(streams) => match streams.recv().await {
            Some(stream) => {
                stream.set_nonblocking(true)?;
                UnixStream::from_std(stream)
            }
            None => std::future::pending().await,
        },
        Listener::Nowhere => std::future::pending().await,
    }
}

/// The kernel says who is at the other end; only this daemon's own user and root may be.
fn check_user(stream: &UnixStream) -> Result<(), String> {
    let peer = stream.peer_cred().map_err(|error| format!("its user cannot be told: {error}"))?;
    let me = nix::unistd::geteuid().as_raw();
    if peer.uid() == me || peer.uid() == 0 {
        return Ok(());
    }
    Err(format!("user {} may not use this daemon of user {me}", peer.uid()))
}

/// Tells a newcomer no, as far as its socket takes it at once.
fn refuse(stream: &UnixStream, refusal: Refusal, sentence: &str) {
    let refused = Refused { refusal, sentence: sentence.to_owned() };
    let head = frame_head(Kind::Refused, 0, &refused);
    // A fresh socket's buffer is empty, so this is sent, or the peer is gone.
    let _ = send_at_once(stream, &head);
}

fn note_end(doorway: &Doorway, ended: Result<End, tokio::task::JoinError>) {
    let name = match ended {
        Ok(End::Closed) => "disconnected",
        Ok(End::Broken) => "broken",
        Ok(End::Http) => "refused.Http",
        Ok(End::Refused(refused)) => {
            tracing::info!(refusal = ?refused.refusal,
                sentence = refused.sentence,
                "refused a client");
            refusal_counter(refused.refusal)
        }
        Err(error) if error.is_panic() => {
            tracing::error!(%error, "a connection's task panicked; its client is cut off");
            "panics"
        }
        Err(_) => "disconnected",
    };
    doorway.core.count(name);
}

const fn refusal_counter(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Version => "refused.Version",
        Refusal::Role => "refused.Role",
        Refusal::Protocol => "refused.Protocol",
        Refusal::Overloaded => "refused.Overloaded",
        Refusal::TooSlow => "refused.TooSlow",
        Refusal::User => "refused.User",
        Refusal::ShuttingDown => "refused.ShuttingDown",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Semaphore, watch};
    use tokio::task::LocalSet;

    use super::*;
    use crate::config::Daemon;
    use crate::dispatch::{Core, Parts};
    use crate::net::SharedBudget;
    use crate::worker::spawner::{Guardian, Orphans, Spawner};

    fn doorway() -> Doorway {
        let guardian =
            Guardian { program: "/nowhere".into(), args: vec![], orphans: Orphans::OfItsSession };
        let (launched, _) = mpsc::channel(1);
        let (spawner, _) = Spawner::start(guardian, None, launched).unwrap();
        let daemon = Daemon::default();
        let watcher = crate::watch::watcher::Watcher::start().unwrap();
        let (pools, socket) = (vec![], std::path::PathBuf::new());
        let sampling_because = None;
        let daemon_too = daemon.clone();
        let parts = Parts { daemon: daemon_too, pools, spawner, watcher, socket, sampling_because };
        Doorway {
            core: Core::new(parts),
            daemon,
            memory: Arc::new(Semaphore::new(1)),
            answers: SharedBudget::new(1 << 20, 64),
            closing: watch::channel(false).1,
            stop: mpsc::channel(1).0,
            reload: mpsc::channel(1).0,
        }
    }

    #[test]
    fn a_panic_in_a_connection_is_that_connections_alone_f133() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let doorway = doorway();
            let (_streams, handed) = mpsc::channel(1);
            let mut door = Door::handed(handed);
            door.connections.spawn_local(async { panic!("a bug in one connection") });
            door.connections.spawn_local(async { End::Closed });
            let seen = async {
                loop {
                    let counters = doorway.core.status().daemon.counters;
                    let count = |name: &str| counters.get(name).copied().unwrap_or(0);
                    if (count("panics"), count("disconnected")) == (1, 1) {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                never = door.let_in(&doorway) => match never {},
                seen = tokio::time::timeout(Duration::from_secs(10), seen) => {
                    seen.expect("the door goes on, and counts both");
                }
            }
        });
    }
}
