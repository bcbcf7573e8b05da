//! The blocking client in conversation with a fake daemon: one thread, two hundred, and daemons
//! that are slow, silent, or gone.

mod fake;

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_client::{ConnectError, ConnectOptions, Reason, Refusal, Stop};
use clutch_protocol::failure::Hindrance;
use clutch_protocol::{Kind, plain};
use fake::{Daemon, Peer, Say, channel, next};

fn plain<T: serde::Serialize>(value: &T) -> Vec<u8> {
    plain::to_vec(value).unwrap()
}

/// The reason of a call that nobody has answered in its time.
fn unanswered(timeout_ms: u64) -> Reason {
    Reason::TimedOut { timeout_ms, stack: String::new(), hindrance: Hindrance::Unanswered }
}

#[test]
fn a_call_a_ping_a_status_and_a_stop() {
    let daemon = Daemon::echo();
    let client = Client::connect(&daemon.path).unwrap();
    assert_eq!((1, "a".into()), client.call::<(i32, String)>("m:f", (1, "a")).unwrap());
    client.ping().unwrap();
    client.stop(Stop::Now).unwrap();
    let request = client.request("m:f").pool("p").timeout(Duration::from_secs(5)).args((1.5,));
    assert_eq!((1.5,), request.send::<(f64,)>().unwrap());
    assert!(!client.is_closed());
}

#[test]
fn two_hundred_threads_share_one_client_f099() {
    const THREADS: u64 = 200;
    let daemon = Daemon::new(|mut peer| {
        // Answers in another order than asked, in bursts; a ping lets go of what is held.
        let mut held = Vec::new();
        while let Some(received) = peer.receive() {
            let (id, kind) = (received.id(), received.kind());
            if kind == Kind::Call {
                held.push((id, received.frame.payload.to_vec()));
            }
            if held.len() >= 50 || id.is_multiple_of(3) || kind == Kind::Ping {
                for (id, payload) in held.drain(..).rev() {
                    peer.say(id, Say::Payload(payload));
                }
            }
            if kind == Kind::Ping {
                peer.send(Kind::Pong, id, &[], b"");
            }
        }
    });
    let client = Client::connect(&daemon.path).unwrap();
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (client, done) = (&client, &done);
            scope.spawn(move || {
                let calls = 0..50_u64;
                let right = calls.filter(|call| {
                    let text = "x".repeat((call % 7 * 1000).try_into().unwrap());
                    let args = (thread, *call, text);
                    let answer = client.call::<(u64, u64, String)>("m:f", &args);
                    answer.is_ok_and(|answer| answer == args)
                });
                let right = right.count();
                done.fetch_add(1, Ordering::SeqCst);
                assert_eq!(50, right, "thread {thread}");
            });
        }
        while done.load(Ordering::SeqCst) < THREADS {
            client.ping().unwrap();
        }
    });
    assert_eq!(0, client.late_replies());
}

#[test]
fn threads_that_all_write_much_do_not_block_each_other() {
    let daemon = Daemon::echo();
    let client = Client::connect(&daemon.path).unwrap();
    let large = "x".repeat(900_000);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..4 {
                    assert!(client.call::<(String,)>("m:f", (&large,)).unwrap().0 == large);
                }
            });
        }
    });
}

#[test]
fn a_lost_connection_fails_every_thread_at_once_f096() {
    let daemon = Daemon::new(|mut peer| {
        for _ in 0..50 {
            peer.expect(Kind::Call);
        }
    });
    let client = Client::connect(&daemon.path).unwrap();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let failure = client.call::<()>("m:f", ()).unwrap_err();
                assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
                assert!(failure.started);
            });
        }
    });
    assert!(started.elapsed() < Duration::from_secs(5));
    let failure = client.call::<()>("m:f", ()).unwrap_err();
    assert!(matches!(failure.reason, Reason::Disconnected { .. }) && !failure.started);
    assert!(client.is_closed());
}

#[test]
fn a_refusal_says_why_even_when_the_daemon_has_hung_up_already() {
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        peer.refuse(Refusal::ShuttingDown, "back at noon");
        drop(peer);
        sender.send(()).unwrap();
    });
    let client = Client::connect(&daemon.path).unwrap();
    next(&receiver);
    for _ in 0..2 {
        let failure = client.call::<()>("m:f", ()).unwrap_err();
        assert_eq!(Reason::Disconnected { detail: "back at noon".into() }, failure.reason);
        assert!(!failure.started);
    }
}

#[test]
fn a_daemon_that_overstays_the_deadline_is_not_waited_for() {
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        while let Some(received) = peer.receive() {
            sender.send((received.kind(), received.id())).unwrap();
            if received.kind() == Kind::Cancel {
                peer.say(received.id(), Say::Payload(plain(&"late")));
            }
            if received.kind() == Kind::Ping {
                peer.send(Kind::Pong, received.id(), &[], b"");
            }
        }
    });
    let client = Client::connect(&daemon.path).unwrap();
    let timeout = Duration::from_millis(50);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let failure = client.request("m:f").timeout(timeout).send::<()>().unwrap_err();
                assert_eq!(unanswered(50), failure.reason);
            });
        }
    });
    assert!(started.elapsed() < clutch_client::TIMEOUT_GRACE * 2);
    client.ping().unwrap();
    let said: Vec<_> = (0..41).map(|_| next(&receiver)).collect();
    for (kind, id) in &said {
        let cancelled = said.contains(&(Kind::Cancel, *id));
        assert!(*kind == Kind::Ping || cancelled, "call {id} was not cancelled");
    }
    assert_eq!(20, client.late_replies());
}

#[test]
fn a_cancel_that_found_the_socket_full_is_sent_later() {
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Arc::new(std::sync::Mutex::new(may_go_on));
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        let _told = may_go_on.lock().unwrap().recv_timeout(Duration::from_secs(30));
        while let Some(received) = peer.receive() {
            sender.send((received.kind(), received.id())).unwrap();
            if received.kind() == Kind::Ping {
                peer.send(Kind::Pong, received.id(), &[], b"");
            }
        }
    });
    let client = Client::connect(&daemon.path).unwrap();
    // Each is sent whole or not at all, and far fewer than these fit into the socket.
    let large = "x".repeat(10_000);
    std::thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| {
                let request = client.request("m:f").args((&large,));
                request.timeout(Duration::from_millis(200)).send::<()>().unwrap_err()
            });
        }
    });
    go_on.send(()).unwrap();
    client.ping().unwrap();
    // What the ping left behind was sent before this one.
    client.ping().unwrap();
    drop((client, daemon));
    let said: Vec<_> = receiver.iter().collect();
    let of = |kind| said.iter().filter(move |(said, _)| *said == kind).map(|(_, id)| *id);
    let calls: std::collections::BTreeSet<u64> = of(Kind::Call).collect();
    assert!((2..60).contains(&calls.len()), "{} calls were sent", calls.len());
    assert_eq!(calls, of(Kind::Cancel).collect());
}

#[test]
fn a_deadline_is_kept_behind_another_threads_long_write() {
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Arc::new(std::sync::Mutex::new(may_go_on));
    let daemon = Daemon::new(move |mut peer| {
        peer.begin_to_receive();
        begun.send(()).unwrap();
        // Longer than the short deadline below, and not for ever if the client overstays it.
        let _told = may_go_on.lock().unwrap().recv_timeout(Duration::from_secs(10));
        while let Some(received) = peer.receive() {
            peer.say(received.id(), Say::Payload(received.frame.payload.to_vec()));
        }
    });
    let client = Client::connect(&daemon.path).unwrap();
    let large = "x".repeat(900_000);
    std::thread::scope(|scope| {
        let long = scope.spawn(|| client.call::<(String,)>("m:f", (&large,)).unwrap());
        // More than the socket holds has begun to be written, so it cannot be finished yet.
        next(&has_begun);
        let short = client.request("m:f").timeout(Duration::from_millis(50)).send::<()>();
        let patient = scope.spawn(|| client.call::<(u8,)>("m:f", (7,)).unwrap());
        go_on.send(()).unwrap();
        let failure = short.unwrap_err();
        assert_eq!(unanswered(50), failure.reason);
        assert!(!failure.started, "nothing of it was sent");
        assert_eq!((7,), patient.join().unwrap());
        assert!(long.join().unwrap().0 == large);
    });
    assert_eq!(0, client.late_replies());
}

#[test]
fn nobody_there_a_full_backlog_and_a_silent_daemon() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("c.sock");
    let options = ConnectOptions::new(&path).timeout(Duration::from_millis(50));
    let started = Instant::now();
    let error = Client::connect_with(&options).unwrap_err();
    assert!(matches!(error, ConnectError::NoDaemon { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_millis(50));

    let listener = UnixListener::bind(&path).unwrap();
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    // The first is taken into the backlog and not answered, the second is not even taken.
    for _ in 0..2 {
        let error = Client::connect_with(&options).unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    }
    let waiting = {
        let options = options.timeout(Duration::from_secs(60));
        std::thread::spawn(move || Client::connect_with(&options).unwrap())
    };
    let welcome = |listener: &UnixListener| {
        let mut peer = Peer::new(listener.accept().unwrap().0);
        (peer.welcome(7), peer)
    };
    let _first = welcome(&listener);
    let (welcomed, _peer) = welcome(&listener);
    assert!(welcomed);
    assert_eq!(7, waiting.join().unwrap().welcome().payload_bytes_max);
}

#[test]
fn a_client_dropped_by_its_last_thread_hangs_up() {
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        while peer.receive().is_some() {}
        sender.send(()).unwrap();
    });
    let client = Arc::new(Client::connect(&daemon.path).unwrap());
    let other = Arc::clone(&client);
    std::thread::spawn(move || drop(other)).join().unwrap();
    drop(client);
    next(&receiver);
}
