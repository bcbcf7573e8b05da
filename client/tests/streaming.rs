//! Both clients reading streams of a fake daemon: what they ask for, when they ask for more, and
//! what they make of an end, a failure, a lie and a loss in the middle.

mod fake;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex};

use clutch_client::{Client, Failure, Flags, Progress, Reason, blocking};
use clutch_protocol::stream::{Credit, Item};
use clutch_protocol::{Codec, Header, Kind, plain, wire};
use fake::{Daemon, Peer, Say, channel, next};

fn plain<T: serde::Serialize>(value: &T) -> Vec<u8> {
    plain::to_vec(value).unwrap()
}

fn item(peer: &mut Peer, id: u64, index: u64, payload: &[u8]) {
    let meta = wire::encode(&Item { stream: 0, index }).unwrap();
    let header = Header {
        codec: Codec::Plain,
        meta_bytes: u32::try_from(meta.len()).unwrap(),
        payload_bytes: u32::try_from(payload.len()).unwrap(),
        ..Header::new(Kind::Item, id)
    };
    let bytes = [&header.encode()[..], &meta, payload].concat();
    // A client that has gone is not the fake's concern.
    let _gone = std::io::Write::write_all(&mut peer.stream, &bytes);
}

/// What the fake has seen.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Stream(u64),
    Credit(u32),
    Cancel(u64),
}

/// A generator that counts up to the call's argument as far as credit lets it, then returns "end".
fn counter(seen: SyncSender<Seen>) -> Daemon {
    Daemon::new(move |mut peer| {
        let mut calls = HashMap::<u64, (u64, u64)>::new();
        while let Some(received) = peer.receive() {
            let id = received.id();
            match received.kind() {
                Kind::Call => {
                    assert!(received.frame.header.flags.has(Flags::STREAM));
                    let limits = plain::Limits::default();
                    let (count,) = plain::from_slice(&received.frame.payload, limits).unwrap();
                    calls.insert(id, (0, count));
                    seen.send(Seen::Stream(id)).unwrap();
                }
                Kind::Credit => {
                    let credit: Credit = wire::decode(&received.frame.meta).unwrap();
                    assert_eq!(0, credit.stream);
                    seen.send(Seen::Credit(credit.items)).unwrap();
                    let Some((at, count)) = calls.get_mut(&id) else { continue };
                    for _ in 0..credit.items {
                        if *at < *count {
                            item(&mut peer, id, *at, &plain(&*at));
                            *at += 1;
                        }
                    }
                    if at == count {
                        calls.remove(&id);
                        peer.say(id, Say::Payload(plain(&"end")));
                    }
                }
                Kind::Cancel => {
                    seen.send(Seen::Cancel(id)).unwrap();
                    if calls.remove(&id).is_some() {
                        peer.say(id, Say::Fail(true, Reason::Cancelled));
                    }
                }
                Kind::Ping => peer.send(Kind::Pong, id, &[], b""),
                other => panic!("{other:?}"),
            }
        }
    })
}

/// Sends these items, or lies, whatever it was asked for, and then what `end` says.
fn speaker(indexes: &'static [u64], end: fn(&mut Peer, u64)) -> Daemon {
    Daemon::new(move |mut peer| {
        let id = peer.expect(Kind::Call).id();
        peer.expect(Kind::Credit);
        for index in indexes {
            item(&mut peer, id, *index, &plain(index));
        }
        end(&mut peer, id);
    })
}

/// What a stream gives: its items, and its failure.
fn gathered(results: Vec<Result<u64, Failure>>) -> (Vec<u64>, Option<Failure>) {
    let mut items = Vec::new();
    let mut results = results.into_iter();
    for result in results.by_ref() {
        match result {
            Ok(item) => items.push(item),
            Err(failure) => {
                assert_eq!(0, results.count(), "a failure is the last word");
                return (items, Some(failure));
            }
        }
    }
    (items, None)
}

/// Reads a whole stream by both clients; each has a connection of its own.
fn read_by_both(daemon: &Daemon, window: u32) -> [(Vec<u64>, Option<Failure>, Option<String>); 2] {
    let window = NonZeroU32::new(window).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime.block_on(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let mut stream = client.stream::<u64>("m:f", (100_u64,)).window(window);
        assert!(stream.returned::<String>().is_none());
        let mut results = Vec::new();
        while let Some(result) = stream.next().await {
            results.push(result);
        }
        assert!(stream.next().await.is_none(), "it stays ended");
        let (items, failure) = gathered(results);
        (items, failure, stream.returned().map(Result::unwrap))
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let mut stream = client.stream::<u64>("m:f", (100_u64,)).window(window);
    let (items, failure) = gathered(stream.by_ref().collect());
    assert!(stream.next().is_none(), "it stays ended");
    [first, (items, failure, stream.returned().map(Result::unwrap))]
}

fn all_of(seen: &Receiver<Seen>) -> Vec<Seen> {
    seen.try_iter().collect()
}

#[test]
fn a_stream_is_read_to_its_end_and_says_what_was_returned() {
    let (sender, seen) = channel();
    let daemon = counter(sender);
    for (items, failure, returned) in read_by_both(&daemon, 10) {
        assert_eq!((0..100).collect::<Vec<_>>(), items);
        assert!(failure.is_none());
        assert_eq!(Some("end".to_owned()), returned);
    }
    let seen = all_of(&seen);
    let second = seen.iter().rposition(|one| *one == Seen::Stream(1)).unwrap();
    for seen in [&seen[..second], &seen[second..]] {
        assert_eq!([Seen::Stream(1), Seen::Credit(10), Seen::Credit(5)], seen[..3]);
        // As many are asked for as were taken, and a window.
        let credit = |one: &Seen| if let Seen::Credit(items) = one { *items } else { 0 };
        let asked: u32 = seen.iter().map(credit).sum();
        assert!((100..=110).contains(&asked), "{seen:?}");
    }
}

#[test]
fn a_window_of_one_and_a_huge_one_are_windows() {
    for window in [1, 3, u32::MAX] {
        let (sender, _seen) = channel();
        let daemon = counter(sender);
        for (items, failure, _) in read_by_both(&daemon, window) {
            assert_eq!((100, true), (items.len(), failure.is_none()), "{window}");
        }
    }
}

#[test]
fn what_breaks_in_the_middle_is_told_behind_the_items_and_is_no_end_f068() {
    let raised: fn(&mut Peer, u64) =
        |peer, id| peer.say(id, Say::Fail(true, Reason::QueueFull { limit: 7 }));
    let lost: fn(&mut Peer, u64) = |_, _| {};
    for (end, name) in [(raised, "QueueFull"), (lost, "Disconnected")] {
        let daemon = speaker(&[0, 1, 2], end);
        for (items, failure, returned) in read_by_both(&daemon, 8) {
            assert_eq!(vec![0, 1, 2], items);
            assert_eq!(Some(name), failure.map(|failure| failure.reason.name()));
            assert_eq!(None, returned);
        }
    }
}

#[test]
fn a_daemon_that_lies_about_items_is_left() {
    // One left out, one twice.
    for indexes in [&[0, 2][..], &[0, 0]] {
        let daemon = speaker(indexes, |peer, _| while peer.receive().is_some() {});
        let (sender, done) = channel();
        let path = daemon.path.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let failure = runtime.unwrap().block_on(async {
                let client = Client::connect(&path).await.unwrap();
                let stream = client.stream::<u64>("m:f", (1,)).window(NonZeroU32::new(4).unwrap());
                stream.collect::<Vec<u64>>().await.unwrap_err()
            });
            sender.send(failure.reason.name()).unwrap();
        });
        assert_eq!("Protocol", next(&done), "{indexes:?}");
    }
}

#[test]
fn an_item_of_another_type_ends_the_stream_and_cancels_the_call() {
    let (sender, seen) = channel();
    let daemon = counter(sender);
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let mut stream = client.stream::<String>("m:f", (100_u64,));
    let failure = stream.next().unwrap().unwrap_err();
    let Reason::Unserializable { path, .. } = &failure.reason else { panic!("{failure}") };
    assert_eq!("item", path);
    assert!(stream.next().is_none() && stream.returned::<String>().is_none());
    client.ping().unwrap();
    assert_eq!(vec![Seen::Stream(1), Seen::Credit(32), Seen::Cancel(1)], all_of(&seen));
}

#[test]
fn a_dropped_stream_cancels_its_call_and_the_connection_goes_on() {
    let (sender, seen) = channel();
    let daemon = counter(sender);
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let mut stream = client.stream::<u64>("m:f", (100_u64,));
    assert_eq!(0, stream.next().unwrap().unwrap());
    drop(stream);
    client.ping().unwrap();
    assert_eq!(vec![Seen::Stream(1), Seen::Credit(32), Seen::Cancel(1)], all_of(&seen));

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let mut stream = client.stream::<u64>("m:f", (100_u64,));
        assert_eq!(0, stream.next().await.unwrap().unwrap());
        drop(stream);
        client.ping().await.unwrap();
        assert_eq!(vec![Seen::Stream(1), Seen::Credit(32), Seen::Cancel(1)], all_of(&seen));
        // One that was never polled has called nothing.
        drop(client.stream::<u64>("m:f", (100_u64,)));
        client.ping().await.unwrap();
        assert_eq!(Vec::<Seen>::new(), all_of(&seen));
    });
}

#[test]
fn a_cancelled_stream_says_how_it_ended() {
    let (sender, seen) = channel();
    let daemon = counter(sender);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let mut stream = client.stream::<u64>("m:f", (100_u64,));
        assert_eq!(0, stream.next().await.unwrap().unwrap());
        stream.cancel();
        let mut results = Vec::new();
        while let Some(result) = stream.next().await {
            results.push(result);
        }
        let (items, failure) = gathered(results);
        assert_eq!(Reason::Cancelled, failure.unwrap().reason);
        // What was on its way has come.
        assert!(items.len() >= 31 && items[0] == 1, "{items:?}");
        assert!(all_of(&seen).contains(&Seen::Cancel(1)));
    });
}

#[test]
fn a_call_says_how_far_it_has_come() {
    let daemon = Daemon::new(|mut peer| {
        let call = peer.expect(Kind::Call);
        assert!(call.frame.header.flags.has(Flags::PROGRESS));
        for done in [1.0, 2.0] {
            let message = "step".to_owned();
            let meta = wire::encode(&Progress { done, total: Some(2.0), message }).unwrap();
            peer.send(Kind::Progress, call.id(), &meta, b"");
        }
        peer.say(call.id(), Say::Payload(plain(&7)));
    });
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = || {
        let told = Arc::clone(&told);
        move |progress: Progress| told.lock().unwrap().push((progress.done, progress.total))
    };
    let client = blocking::Client::connect(&daemon.path).unwrap();
    assert_eq!(7, client.request("m:f").on_progress(tell()).send::<i32>().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        assert_eq!(7, client.request("m:f").on_progress(tell()).send::<i32>().await.unwrap());
    });
    let each = [(1.0, Some(2.0)), (2.0, Some(2.0))];
    assert_eq!([each, each].concat(), *told.lock().unwrap());
}
