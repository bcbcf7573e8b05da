//! The async client in conversation with a fake daemon: what it says, and what it makes of every
//! kind of answer, timely, late, twice, broken or none.

mod fake;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant};

use clutch_client::{
    Client, Codec, ConnectError, ConnectOptions, Failure, Flags, OutputChunk, OutputStream, Reason,
    Refusal, Stop,
};
use clutch_protocol::failure::Hindrance;
use clutch_protocol::message::Output;
use clutch_protocol::{Kind, plain, wire};
use fake::{Daemon, Peer, Say, channel, next};

fn plain<T: serde::Serialize>(value: &T) -> Vec<u8> {
    plain::to_vec(value).unwrap()
}

/// Runs a test on both kinds of runtime.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    let mut single = tokio::runtime::Builder::new_current_thread();
    single.enable_all().build().unwrap().block_on(test());
    let mut multi = tokio::runtime::Builder::new_multi_thread();
    multi.worker_threads(2).enable_all().build().unwrap().block_on(test());
}

/// Begins a future, or goes on with it, without waiting for it.
async fn is_pending<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_pending())).await
}

async fn connect(daemon: &Daemon) -> Client {
    Client::connect(&daemon.path).await.unwrap()
}

#[test]
fn a_call_travels_as_it_was_meant_and_its_result_comes_back() {
    on_both(|| async {
        let (sender, receiver) = channel();
        let daemon = Daemon::answering(move |received| {
            let header = received.frame.header;
            let payload = received.frame.payload.to_vec();
            sender.send((received.call(), header.flags, header.codec, payload)).unwrap();
            Say::Payload(plain(&42))
        });
        let client = connect(&daemon).await;
        assert_eq!(42, client.call::<i64>("math:gcd", (4, 6)).await.unwrap());
        let (call, flags, codec, payload) = next(&receiver);
        assert_eq!(("default", "math:gcd", 0), (&*call.pool, &*call.function, call.timeout_ms));
        assert_eq!((Flags::NONE, Codec::Plain, plain(&(4, 6))), (flags, codec, payload));

        let keywords = HashMap::from([("key", true)]);
        let request = client.request("m:f").pool("gpu").timeout(Duration::from_secs(3));
        let answer: i64 = request.args(("a",)).kwargs(&keywords).send().await.unwrap();
        assert_eq!(42, answer);
        let (call, flags, _, payload) = next(&receiver);
        assert_eq!("gpu", call.pool);
        assert!((2000..=3000).contains(&call.timeout_ms), "{}", call.timeout_ms);
        assert_eq!((Flags::KEYWORDS, plain(&(("a",), keywords))), (flags, payload));

        let request = client.request("m:f").encoded(Codec::Json, Flags::NONE, "[1.10]");
        let reply = request.send_reply().await.unwrap();
        assert_eq!((Codec::Plain, 100), (reply.codec, reply.answer.phases.run_us));
        let (_, _, codec, payload) = next(&receiver);
        assert_eq!((Codec::Json, b"[1.10]".to_vec()), (codec, payload));
    });
}

#[test]
fn many_calls_are_in_flight_and_answers_come_in_any_order() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            let mut calls: Vec<_> = (0..500).map(|_| peer.expect(Kind::Call)).collect();
            calls.reverse();
            for call in calls {
                peer.say(call.id(), Say::Payload(call.frame.payload.to_vec()));
            }
            assert!(peer.receive().is_none());
        });
        let client = connect(&daemon).await;
        let calls = (0..500_u32).map(|n| {
            let client = client.clone();
            async move { (n, client.call::<(u32,)>("m:f", (n,)).await.unwrap()) }
        });
        for (n, answer) in futures_util::future::join_all(calls).await {
            assert_eq!((n,), answer);
        }
    });
}

#[test]
fn a_large_frame_goes_through_a_full_socket_both_ways() {
    on_both(|| async {
        let daemon = Daemon::echo();
        let client = connect(&daemon).await;
        let large = "x".repeat(900_000);
        let calls = (0..20).map(|_| client.call::<(String,)>("m:f", (&large,)));
        for answer in futures_util::future::join_all(calls).await {
            assert!(answer.unwrap().0 == large);
        }
    });
}

#[test]
fn a_cancel_is_sent_even_when_nothing_else_may_be() {
    on_both(|| async {
        let (sender, receiver) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let may_go_on = Arc::new(Mutex::new(may_go_on));
        let daemon = Daemon::new(move |mut peer| {
            sender.send((Kind::Call, peer.expect(Kind::Call).id())).unwrap();
            may_go_on.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap();
            while let Some(received) = peer.receive() {
                sender.send((received.kind(), received.id())).unwrap();
                if received.kind() == Kind::Call {
                    peer.say(received.id(), Say::Payload(plain(&())));
                }
            }
        });
        let client = connect(&daemon).await;
        let mut cancelled = Box::pin(client.call::<()>("m:f", ()));
        assert!(is_pending(&mut cancelled).await);
        let (_, id) = next(&receiver);
        // Twice what may wait for a socket that nobody reads.
        let large = "x".repeat(900_000);
        let calls = (0..10).map(|_| Box::pin(client.call::<()>("m:f", (&large,))));
        let mut calls: Vec<_> = calls.collect();
        for call in &mut calls {
            assert!(is_pending(call).await);
        }
        drop(cancelled);
        go_on.send(()).unwrap();
        for answer in futures_util::future::join_all(calls).await {
            answer.unwrap();
        }
        let said: Vec<_> = (0..11).map(|_| next(&receiver)).collect();
        assert!(said.contains(&(Kind::Cancel, id)), "{said:?}");
    });
}

#[test]
fn a_call_that_never_left_is_not_cancelled_at_the_daemon() {
    on_both(|| async {
        let (sender, receiver) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let may_go_on = Arc::new(Mutex::new(may_go_on));
        let daemon = Daemon::new(move |mut peer| {
            may_go_on.lock().unwrap().recv_timeout(Duration::from_secs(30)).unwrap();
            while let Some(received) = peer.receive() {
                sender.send(received.kind()).unwrap();
                if received.kind() == Kind::Call {
                    peer.say(received.id(), Say::Payload(plain(&())));
                }
            }
        });
        let client = connect(&daemon).await;
        // More than a socket takes that nobody reads.
        let large = "x".repeat(900_000);
        let calls = (0..3).map(|_| Box::pin(client.call::<()>("m:f", (&large,))));
        let mut calls: Vec<_> = calls.collect();
        for call in &mut calls {
            assert!(is_pending(call).await);
        }
        let behind = client.request("m:f").args(()).send_reply_until(std::future::ready(()));
        let failure = behind.await.unwrap_err();
        assert_eq!((Reason::Cancelled, false), (failure.reason, failure.started));
        go_on.send(()).unwrap();
        for answer in futures_util::future::join_all(calls).await {
            answer.unwrap();
        }
        client.call::<()>("m:f", ()).await.unwrap();
        let said: Vec<_> = (0..4).map(|_| next(&receiver)).collect();
        assert_eq!(vec![Kind::Call; 4], said, "the daemon has never heard of it");
    });
}

#[test]
fn every_reason_arrives_as_it_was_sent() {
    on_both(|| async {
        let daemon = Daemon::answering(|_| Say::Fail(false, Reason::QueueFull { limit: 7 }));
        let client = connect(&daemon).await;
        let failure = client.call::<()>("m:f", ()).await.unwrap_err();
        assert_eq!((Reason::QueueFull { limit: 7 }, false), (failure.reason, failure.started));
    });
}

#[test]
fn what_cannot_be_sent_fails_here_and_spoils_nothing() {
    on_both(|| async {
        let daemon = Daemon::echo();
        let client = connect(&daemon).await;
        let large = client.call::<()>("m:f", ("x".repeat(2 << 20),)).await.unwrap_err();
        assert!(matches!(large.reason, Reason::TooLarge { limit: 1_048_576, .. }), "{large}");
        assert!(!large.started);
        let nan = client.request("m:f").codec(Codec::Json).args((f64::NAN,));
        let nan = nan.send::<()>().await.unwrap_err();
        assert!(matches!(nan.reason, Reason::BadArguments { .. }), "{nan}");
        let name = client.call::<()>("no colon", ()).await.unwrap_err();
        assert!(matches!(name.reason, Reason::NotFound(_)), "{name}");
        let unfit = client.call::<String>("m:f", (1,)).await.unwrap_err();
        assert!(matches!(unfit.reason, Reason::Unserializable { .. }) && unfit.started, "{unfit}");
        assert_eq!((1,), client.call::<(i32,)>("m:f", (1,)).await.unwrap());
    });
}

/// Receives what comes until the client goes, and reports the kinds and ids.
fn silent() -> (Daemon, Receiver<(Kind, u64)>) {
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        while let Some(received) = peer.receive() {
            sender.send((received.kind(), received.id())).unwrap();
        }
    });
    (daemon, receiver)
}

#[test]
fn a_dropped_call_is_cancelled_f097() {
    on_both(|| async {
        let (daemon, receiver) = silent();
        let client = connect(&daemon).await;
        let call = tokio::time::timeout(Duration::from_millis(20), client.call::<()>("m:f", ()));
        assert!(call.await.is_err());
        let (kind, id) = next(&receiver);
        assert_eq!(Kind::Call, kind);
        assert_eq!((Kind::Cancel, id), next(&receiver));
    });
}

#[test]
fn a_daemon_that_overstays_the_deadline_is_not_waited_for() {
    // Only time passes here, so it may pass quickly.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(async {
        let (daemon, receiver) = silent();
        let client = connect(&daemon).await;
        let started = Instant::now();
        let timeout = Duration::from_millis(50);
        let failure = client.request("m:f").timeout(timeout).send::<()>().await.unwrap_err();
        assert_eq!(
            (
                Reason::TimedOut {
                    timeout_ms: 50,
                    stack: String::new(),
                    hindrance: Hindrance::Unanswered
                },
                true
            ),
            (failure.reason, failure.started)
        );
        assert!(started.elapsed() >= timeout + clutch_client::TIMEOUT_GRACE);
        let (_, id) = next(&receiver);
        assert_eq!((Kind::Cancel, id), next(&receiver));
    });
}

#[test]
fn late_and_double_answers_are_dropped_and_counted_f099() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            let first = peer.expect(Kind::Call).id();
            assert_eq!(first, peer.expect(Kind::Cancel).id());
            let second = peer.expect(Kind::Call).id();
            peer.say(first, Say::Payload(plain(&"late")));
            peer.say(second, Say::Payload(plain(&"right")));
            peer.say(second, Say::Payload(plain(&"again")));
            peer.say(999, Say::Payload(plain(&"of nobody")));
            let ping = peer.expect(Kind::Ping).id();
            peer.send(Kind::Pong, ping, &[], b"");
            peer.receive();
        });
        let client = connect(&daemon).await;
        let call = tokio::time::timeout(Duration::from_millis(20), client.call::<()>("m:f", ()));
        assert!(call.await.is_err());
        assert_eq!("right", client.call::<String>("m:f", ()).await.unwrap());
        client.ping().await.unwrap();
        assert_eq!(3, client.late_replies());
    });
}

#[test]
fn a_lost_connection_fails_every_call_at_once_f096() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            for _ in 0..100 {
                peer.expect(Kind::Call);
            }
        });
        let client = connect(&daemon).await;
        let calls = futures_util::future::join_all((0..100).map(|_| client.call::<()>("m:f", ())));
        let failures = tokio::time::timeout(Duration::from_secs(5), calls).await.unwrap();
        for failure in failures {
            let failure = failure.unwrap_err();
            assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
            assert!(failure.started, "the daemon had read it");
        }
        client.closed().await;
        assert!(client.is_closed());
        let failure = client.call::<()>("m:f", ()).await.unwrap_err();
        assert!(matches!(failure.reason, Reason::Disconnected { .. }) && !failure.started);
        assert!(matches!(client.ping().await.unwrap_err().reason, Reason::Disconnected { .. }));
    });
}

#[test]
fn a_call_that_never_left_had_not_started() {
    on_both(|| async {
        // Reads nothing, until told to go.
        let (go, gone) = channel::<()>();
        let gone = Arc::new(Mutex::new(gone));
        let daemon = Daemon::new(move |peer| {
            next(&gone.lock().unwrap());
            drop(peer);
        });
        let client = connect(&daemon).await;
        let large = "x".repeat(900_000);
        let mut calls = Box::pin(futures_util::future::join_all(
            (0..10).map(|_| client.call::<()>("m:f", (&large,))),
        ));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut calls).await.is_err());
        go.send(()).unwrap();
        let failures = calls.await;
        assert!(failures.into_iter().all(|failure| !failure.unwrap_err().started));
    });
}

/// The failure of a call that is answered with these bytes, followed by silence or the end.
async fn answered_with(bytes: fn(u64) -> Vec<u8>, close: bool) -> Failure {
    let daemon = Daemon::new(move |mut peer| {
        let id = peer.expect(Kind::Call).id();
        peer.stream.write_all(&bytes(id)).unwrap();
        if !close {
            peer.receive();
        }
    });
    let client = connect(&daemon).await;
    let call = client.call::<i64>("m:f", ());
    tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap_err()
}

#[test]
fn garbage_is_a_protocol_error_f079() {
    on_both(|| async {
        let cases: [fn(u64) -> Vec<u8>; 6] = [
            |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            |_| vec![0; 4096],
            |id| {
                let mut bytes = fake::frame(Kind::Result, Flags::NONE, id, &fake::answer(), b"");
                bytes[9] ^= 1;
                bytes
            },
            |id| fake::frame(Kind::Call, Flags::NONE, id, b"", b""),
            |id| fake::frame(Kind::Output, Flags::NONE, id, b"?", b"text"),
            |id| fake::frame(Kind::Pong, Flags::NONE, id, b"", b""),
        ];
        for bytes in cases {
            let failure = answered_with(bytes, false).await;
            assert!(matches!(failure.reason, Reason::Protocol { .. }), "{failure}");
        }
    });
}

#[test]
fn half_a_frame_and_the_end_is_a_lost_connection_f078() {
    on_both(|| async {
        let halves: [fn(u64) -> Vec<u8>; 3] = [
            |_| b"CL".to_vec(),
            |id| fake::frame(Kind::Result, Flags::NONE, id, &fake::answer(), b"")[..40].to_vec(),
            |id| {
                let payload = vec![0; 500_000];
                fake::frame(Kind::Result, Flags::NONE, id, &fake::answer(), &payload)[..300_000]
                    .to_vec()
            },
        ];
        for bytes in halves {
            let failure = answered_with(bytes, true).await;
            assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
        }
    });
}

#[test]
fn a_refusal_says_why_even_to_calls_that_come_later() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            peer.expect(Kind::Call);
            peer.refuse(Refusal::ShuttingDown, "back at noon");
        });
        let client = connect(&daemon).await;
        for _ in 0..2 {
            let failure = client.call::<()>("m:f", ()).await.unwrap_err();
            let detail = "back at noon".to_owned();
            assert_eq!(Reason::Disconnected { detail }, failure.reason);
        }
    });
}

#[test]
fn output_comes_to_its_call_and_the_daemon_is_answered() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            let call = peer.expect(Kind::Call);
            assert!(call.frame.header.flags.has(Flags::OUTPUT));
            let output =
                Output { stream: clutch_protocol::message::Stream::Stderr, dropped_bytes: 3 };
            let meta = wire::encode(&output).unwrap();
            peer.send(Kind::Output, call.id(), &meta, b"hello\n");
            peer.send(Kind::Ping, 77, &[], b"");
            assert_eq!(77, peer.expect(Kind::Pong).id());
            peer.say(call.id(), Say::Payload(plain(&())));
            peer.receive();
        });
        let client = connect(&daemon).await;
        let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
        client.request("m:f").output(sender).send::<()>().await.unwrap();
        let OutputChunk { stream, dropped_bytes, bytes, .. } = receiver.recv().await.unwrap();
        assert_eq!((OutputStream::Stderr, 3, &b"hello\n"[..]), (stream, dropped_bytes, &bytes[..]));
        assert!(receiver.recv().await.is_none(), "the call is over");
    });
}

#[test]
fn no_more_calls_are_in_flight_than_the_daemon_allows() {
    on_both(|| async {
        let (sender, receiver) = channel();
        let daemon = Daemon::raw(move |stream| {
            let mut peer = Peer::new(stream);
            if !peer.welcome_with(1 << 20, 3) {
                return;
            }
            for _ in 0..4 {
                let calls: Vec<_> = (0..3).map(|_| peer.expect(Kind::Call).id()).collect();
                // A fourth would come before the answer to this.
                peer.send(Kind::Ping, 1, &[], b"");
                peer.expect(Kind::Pong);
                for id in calls {
                    peer.say(id, Say::Payload(plain(&())));
                }
                sender.send(()).unwrap();
            }
        });
        let client = connect(&daemon).await;
        let calls = (0..12).map(|_| client.call::<()>("m:f", ()));
        assert!(futures_util::future::join_all(calls).await.iter().all(Result::is_ok));
        (0..4).for_each(|_| next(&receiver));
    });
}

#[test]
fn the_last_handle_closes_the_connection_and_a_runtimes_end_too() {
    let (daemon, receiver) = silent();
    let (ended, end) = channel();
    drop(daemon);
    let daemon = Daemon::new(move |mut peer| {
        while peer.receive().is_some() {}
        ended.send(()).unwrap();
    });
    drop(receiver);
    on_both(|| async {
        let client = connect(&daemon).await;
        let other = client.clone();
        drop(client);
        assert!(!other.is_closed());
        drop(other);
    });
    (0..2).for_each(|_| next(&end));

    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let client = first.block_on(connect(&daemon));
    drop(first);
    let failure = runtime().block_on(client.call::<()>("m:f", ())).unwrap_err();
    assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
    next(&end);
}

#[test]
fn status_ping_and_stop_have_their_own_answers() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            while let Some(received) = peer.receive() {
                let id = received.id();
                match received.kind() {
                    Kind::Status => peer.send(Kind::StatusReport, id, &[], b"{\"pools\": 1}"),
                    Kind::Ping => peer.send(Kind::Pong, id, &[], b""),
                    Kind::Stop => peer.send(Kind::Stopping, id, &[], b""),
                    kind => panic!("{kind:?}"),
                }
            }
        });
        let client = connect(&daemon).await;
        assert_eq!(b"{\"pools\": 1}"[..], client.status_json().await.unwrap());
        let failure = client.status().await.unwrap_err();
        assert!(matches!(failure.reason, Reason::Protocol { .. }), "{failure}");
        assert!(client.ping().await.unwrap() < Duration::from_secs(5));
        client.stop(Stop::Graceful).await.unwrap();
    });
}

#[test]
fn nobody_there_is_known_at_once_f093() {
    on_both(|| async {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.sock");
        let stale = directory.path().join("stale.sock");
        drop(UnixListener::bind(&stale).unwrap());
        for path in [missing, stale] {
            let started = Instant::now();
            let error = Client::connect(&path).await.unwrap_err();
            assert!(started.elapsed() < Duration::from_millis(100));
            assert!(matches!(error, ConnectError::NoDaemon { .. }));
            let text = error.to_string();
            assert!(
                text.contains("clutch serve") && text.contains(path.to_str().unwrap()),
                "{text}"
            );
        }
    });
}

#[test]
fn a_full_backlog_is_waited_for_until_the_deadline_f094() {
    on_both(|| async {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.sock");
        let listener = UnixListener::bind(&path).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let first = UnixStream::connect(&path).unwrap();
        let options = ConnectOptions::new(&path).timeout(Duration::from_millis(50));
        let error = Client::connect_with(options.clone()).await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");

        let options = options.timeout(Duration::from_secs(60));
        let connecting = tokio::spawn(Client::connect_with(options));
        let accepting = tokio::task::spawn_blocking(move || {
            drop((listener.accept().unwrap(), first));
            let mut peer = Peer::new(listener.accept().unwrap().0);
            assert!(peer.welcome(1000));
            peer
        });
        let client = connecting.await.unwrap().unwrap();
        assert_eq!(1000, client.welcome().payload_bytes_max);
        drop(accepting.await.unwrap());
    });
}

#[test]
fn a_silent_daemon_is_given_up_f095() {
    on_both(|| async {
        let daemon = Daemon::raw(|stream| {
            let mut peer = Peer::new(stream);
            peer.expect(Kind::Hello);
            assert!(peer.receive().is_none(), "it hangs up when it has waited enough");
        });
        let options = ConnectOptions::new(&daemon.path).timeout(Duration::from_millis(50));
        let error = Client::connect_with(options).await.unwrap_err();
        assert!(matches!(error, ConnectError::TimedOut { .. }), "{error}");
    });
}

#[test]
fn whoever_is_no_daemon_is_named_so_f104() {
    on_both(|| async {
        let say = |bytes: Vec<u8>| {
            Daemon::raw(move |mut stream| {
                let _gone = stream.write_all(&bytes);
                Peer::new(stream).receive();
            })
        };
        let garbage = say(b"220 mail.example ESMTP\r\n".to_vec());
        let mute = Daemon::raw(drop);
        let wrong = say(fake::frame(Kind::Pong, Flags::NONE, 0, b"", b""));
        for daemon in [garbage, mute, wrong] {
            let error = Client::connect(&daemon.path).await.unwrap_err();
            assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
        }
        let daemon = Daemon::raw(|stream| {
            Peer::new(stream).refuse(Refusal::Version, "this daemon speaks 7 to 9");
        });
        match Client::connect(&daemon.path).await.unwrap_err() {
            ConnectError::Refused { refusal: Refusal::Version, sentence } => {
                assert_eq!("this daemon speaks 7 to 9", sentence);
            }
            error => panic!("{error}"),
        }
    });
}

#[test]
fn a_storm_of_calls_cancels_and_disconnects_leaves_nothing_behind_f099() {
    on_both(|| async {
        let daemon = Daemon::new(|mut peer| {
            let mut count = 0;
            while let Some(received) = peer.receive() {
                count += 1;
                if received.kind() == Kind::Call && received.id() % 3 != 0 {
                    peer.say(received.id(), Say::Payload(received.frame.payload.to_vec()));
                }
                if count == 2000 {
                    return;
                }
            }
        });
        for _ in 0..5 {
            let client = connect(&daemon).await;
            let calls = (0..3000_u64).map(|n| {
                let client = client.clone();
                async move {
                    let call = client.call::<(u64,)>("m:f", (n,));
                    match tokio::time::timeout(Duration::from_millis(n % 40), call).await {
                        Ok(Ok((answer,))) => assert_eq!(n, answer),
                        Ok(Err(failure)) => {
                            assert!(matches!(failure.reason, Reason::Disconnected { .. }));
                        }
                        Err(_) => {}
                    }
                }
            });
            let all = futures_util::future::join_all(calls);
            tokio::time::timeout(Duration::from_secs(20), all).await.unwrap();
        }
    });
}
