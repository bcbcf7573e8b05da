//! The blocking client in conversation with a fake daemon: one thread, two hundred, and daemons
//! that are slow, silent, or gone.

mod fake;

use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_client::{ConnectError, ConnectOptions, Reason, Refusal, Stop};
use clutch_protocol::{Kind, plain};
use fake::{Daemon, Peer, Say, channel, next};

fn plain<T: serde::Serialize>(value: &T) -> Vec<u8> {
    plain::to_vec(value).unwrap()
}

#[test]
fn a_call_a_ping_a_status_and_a_stop() {
    let daemon = Daemon::echo();
    let client = Client::connect(&daemon.path).unwrap();
    assert_eq!(
        (1, "a".into()),
        client.call::<(i32, String)>("m:f", (1, "a")).unwrap()
    );
    client.ping().unwrap();
    client.stop(Stop::Now).unwrap();
    let request = client
        .request("m:f")
        .pool("p")
        .timeout(Duration::from_secs(5))
        .args((1.5,));
    assert_eq!((1.5,), request.send::<(f64,)>().unwrap());
    assert!(!client.is_closed());
}

#[test]
fn two_hundred_threads_share_one_client_f099() {
    let daemon = Daemon::new(|mut peer| {
        // Answers in another order than asked, in bursts.
        let mut held = Vec::new();
        while let Some(received) = peer.receive() {
            held.push((received.id(), received.frame.payload.to_vec()));
            if held.len() >= 50 || received.id() % 3 == 0 {
                for (id, payload) in held.drain(..).rev() {
                    peer.say(id, Say::Payload(payload));
                }
            }
        }
    });
    let client = Client::connect(&daemon.path).unwrap();
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..200_u64 {
            let (client, wrong) = (&client, &wrong);
            scope.spawn(move || {
                for call in 0..50_u64 {
                    let args = (
                        thread,
                        call,
                        "x".repeat((call % 7 * 1000).try_into().unwrap()),
                    );
                    let request = client.request("m:f").args(&args);
                    // A held call is only let go by others, and the last ones have none.
                    let request = request.timeout(Duration::from_millis(500));
                    match request.send::<(u64, u64, String)>() {
                        Ok(answer) if answer == args => {}
                        Err(failure) if matches!(failure.reason, Reason::TimedOut { .. }) => {}
                        other => wrong.lock().unwrap().push(format!("{other:?}")),
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} wrong answers, the first {}",
        wrong.len(),
        wrong[0]
    );
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
                assert!(
                    matches!(failure.reason, Reason::Disconnected { .. }),
                    "{failure}"
                );
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
        assert_eq!(
            Reason::Disconnected {
                detail: "back at noon".into()
            },
            failure.reason
        );
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
                let failure = client
                    .request("m:f")
                    .timeout(timeout)
                    .send::<()>()
                    .unwrap_err();
                assert_eq!(Reason::TimedOut { timeout_ms: 50 }, failure.reason);
            });
        }
    });
    assert!(started.elapsed() < clutch_client::TIMEOUT_GRACE * 2);
    client.ping().unwrap();
    let said: Vec<_> = (0..41).map(|_| next(&receiver)).collect();
    for (kind, id) in &said {
        let cancelled = said.contains(&(Kind::Cancel, *id));
        assert!(
            *kind == Kind::Ping || cancelled,
            "call {id} was not cancelled"
        );
    }
    assert_eq!(20, client.late_replies());
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
