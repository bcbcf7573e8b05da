//! Maps over a fake daemon, with both clients: order, laziness, failures, lost connections.

mod fake;

use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clutch_client::{Chunk, Client, Codec, Flags, RawValue, Reason, blocking};
use clutch_protocol::failure::Exception;
use clutch_protocol::{Kind, plain};
use fake::{Daemon, Say, channel, next};
use futures_util::{StreamExt as _, TryStreamExt as _};

fn squares() -> Daemon {
    Daemon::answering(|received| {
        assert!(received.frame.header.flags.has(Flags::ITEMS));
        let items: Vec<u64> =
            plain::from_slice(&received.frame.payload, plain::Limits::default()).unwrap();
        let squares: Vec<u64> = items.iter().map(|item| item * item).collect();
        Say::Payload(plain::to_vec(&squares).unwrap())
    })
}

fn run<F: Future>(test: F) -> F::Output {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test)
}

fn fixed(items: u32) -> Chunk {
    Chunk::Fixed(NonZeroU32::new(items).unwrap())
}

fn expected(items: u64) -> Vec<u64> {
    (0..items).map(|item| item * item).collect()
}

#[test]
fn results_come_in_order_and_each_item_once() {
    let daemon = squares();
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let all: Vec<u64> = client.map("m:f", 0..20_000_u64).collect().await.unwrap();
        assert_eq!(expected(20_000), all);
        let all: Vec<u64> =
            client.map::<_, u64>("m:f", 0..1000_u64).ordered().try_collect().await.unwrap();
        assert_eq!(expected(1000), all);
        let unordered = client.map("m:f", 0..5000_u64).unordered();
        let mut all: Vec<(u64, u64)> =
            unordered.map(|(index, result)| (index, result.unwrap())).collect().await;
        all.sort_unstable();
        assert!(all.into_iter().eq((0..5000).map(|item| (item, item * item))));
        let none: Vec<u64> = client.map("m:f", 0..0_u64).collect().await.unwrap();
        assert!(none.is_empty());
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let all: Vec<u64> = client.map("m:f", 0..20_000_u64).collect().unwrap();
    assert_eq!(expected(20_000), all);
    let mut all: Vec<(u64, u64)> = client
        .map("m:f", 0..5000_u64)
        .unordered()
        .map(|(index, result)| (index, result.unwrap()))
        .collect();
    all.sort_unstable();
    assert!(all.into_iter().eq((0..5000).map(|item| (item, item * item))));
}

#[test]
fn an_endless_source_is_pulled_only_as_far_as_the_window() {
    let daemon = squares();
    let window = NonZeroU32::new(50).unwrap();
    let pulled = Cell::new(0_u64);
    let source = || (0_u64..).inspect(|_| pulled.set(pulled.get() + 1));
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let mut results = client.map::<_, u64>("m:f", source()).window(window).ordered();
        for yielded in 0..2000 {
            assert_eq!(yielded * yielded, results.next().await.unwrap().unwrap());
            assert!(pulled.get() <= yielded + 1 + 50, "{} at {yielded}", pulled.get());
        }
    });
    pulled.set(0);
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let results = client.map::<_, u64>("m:f", source()).window(window).ordered();
    for (yielded, result) in (0..2000).zip(results) {
        assert_eq!(yielded * yielded, result.unwrap());
        assert!(pulled.get() <= yielded + 1 + 50, "{} at {yielded}", pulled.get());
    }
}

#[test]
fn a_stream_that_pauses_delays_no_result() {
    let daemon = squares();
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel::<u64>(1);
        let items = futures_util::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|item| (item, receiver))
        });
        let mut results = client.map_stream::<_, u64>("m:f", items).chunk(fixed(100)).ordered();
        for item in 0..50 {
            sender.send(item).await.unwrap();
            assert_eq!(item * item, results.next().await.unwrap().unwrap());
        }
        drop(sender);
        assert!(results.next().await.is_none());
    });
}

fn exception(message: &str) -> Exception {
    Exception {
        type_name: "ValueError".into(),
        message: message.into(),
        notes: vec![],
        frames: vec![],
        traceback: "Traceback (most recent call last):\n".into(),
        chain: vec![],
        bases: vec![],
    }
}

/// Squares, except that multiples of seven raise.
fn squares_but_sevens() -> Daemon {
    Daemon::answering(|received| {
        let items: Vec<u64> =
            plain::from_slice(&received.frame.payload, plain::Limits::default()).unwrap();
        let square = |item: &u64| (!item.is_multiple_of(7)).then_some(item * item);
        let results: Vec<Option<u64>> = items.iter().map(square).collect();
        let failures: Vec<(usize, Exception)> = items
            .iter()
            .enumerate()
            .filter(|(_, item)| *item % 7 == 0)
            .map(|(index, item)| (index, exception(&item.to_string())))
            .collect();
        if failures.is_empty() {
            Say::Payload(plain::to_vec(&results).unwrap())
        } else {
            {
                let results: Vec<u64> = results.into_iter().flatten().collect();
                Say::Items(plain::to_vec(&(results, failures, [0; 0])).unwrap())
            }
        }
    })
}

#[test]
fn a_failing_item_says_which_it_is_and_loses_no_other() {
    let daemon = squares_but_sevens();
    let check = |index: u64, result: Result<u64, Reason>| match result {
        Ok(value) => assert!(!index.is_multiple_of(7) && value == index * index),
        Err(Reason::Raised(exception)) => assert_eq!(index.to_string(), exception.message),
        Err(reason) => panic!("{reason:?}"),
    };
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let mut results = client.map::<_, u64>("m:f", 0..3000_u64).ordered();
        for index in 0..3000 {
            let result = results.next().await.unwrap();
            check(
                index,
                result.map_err(|error| {
                    assert_eq!(index, error.index);
                    error.failure.reason
                }),
            );
        }
        assert!(results.next().await.is_none());
        let first = client.map::<_, u64>("m:f", 1..3000_u64).collect::<Vec<_>>().await;
        assert_eq!(6, first.unwrap_err().index, "items are counted, not read");
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let mut count = 0;
    for (index, result) in client.map::<_, u64>("m:f", 0..3000_u64).unordered() {
        check(index, result.map_err(|failure| failure.reason));
        count += 1;
    }
    assert_eq!(3000, count);
}

#[test]
fn a_full_queue_is_waited_for() {
    let calls = Arc::new(AtomicU64::new(0));
    let daemon = Daemon::answering(move |received| {
        if calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) {
            Say::Fail(false, Reason::QueueFull { limit: 1 })
        } else {
            Say::Payload(received.frame.payload.to_vec())
        }
    });
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let map = client.map("m:f", 0..500_u64).chunk(fixed(3));
        let all: Vec<u64> = map.collect().await.unwrap();
        assert!(all.into_iter().eq(0..500));
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let all: Vec<u64> = client.map("m:f", 0..500_u64).chunk(fixed(3)).collect().unwrap();
    assert!(all.into_iter().eq(0..500));
}

#[test]
fn a_lost_connection_ends_an_endless_map_with_errors() {
    let daemon = Daemon::new(|mut peer| {
        for _ in 0..100 {
            let call = peer.expect(Kind::Call);
            peer.say(call.id(), Say::Payload(call.frame.payload.to_vec()));
        }
    });
    let check = |results: Vec<Result<u64, Reason>>| {
        let (right, wrong): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert!(right.len() >= 100, "{}", right.len());
        assert!(!wrong.is_empty());
        for reason in wrong {
            assert!(matches!(reason, Err(Reason::Disconnected { .. })), "{reason:?}");
        }
    };
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let results = client.map::<_, u64>("m:f", 0_u64..).chunk(fixed(1)).unordered();
        let results = results.map(|(_, result)| result.map_err(|failure| failure.reason));
        let results = tokio::time::timeout(Duration::from_secs(20), results.collect());
        check(results.await.expect("it ends"));
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let results = client.map::<_, u64>("m:f", 0_u64..).chunk(fixed(1)).unordered();
    check(results.map(|(_, result)| result.map_err(|failure| failure.reason)).collect());
}

#[test]
fn a_dropped_map_cancels_what_is_under_way() {
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        let mut calls = Vec::new();
        while let Some(received) = peer.receive() {
            match received.kind() {
                Kind::Call => calls.push(received.id()),
                Kind::Cancel => calls.retain(|id| *id != received.id()),
                kind => panic!("{kind:?}"),
            }
            // The first answers make the map yield, so that there is something to be dropped after.
            if received.id() == 1 {
                calls.clear();
                peer.say(1, Say::Payload(plain::to_vec(&[0]).unwrap()));
            }
        }
        sender.send(calls.len()).unwrap();
    });
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let mut results = client.map::<_, u64>("m:f", 0_u64..).ordered();
        results.next().await.unwrap().unwrap();
        drop(results);
        drop(client);
    });
    assert_eq!(0, next(&receiver));
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let mut results = client.map::<_, u64>("m:f", 0_u64..).ordered();
    results.next().unwrap().unwrap();
    drop(results);
    drop(client);
    assert_eq!(0, next(&receiver));
}

#[test]
fn json_text_goes_in_and_comes_out_untouched() {
    let daemon = Daemon::new(|mut peer| {
        while let Some(received) = peer.receive() {
            assert_eq!(Codec::Json, received.frame.header.codec);
            let mut bytes = fake::frame(
                Kind::Result,
                Flags::NONE,
                received.id(),
                &fake::answer(),
                &received.frame.payload,
            );
            // The fake answers in plain; make that JSON.
            let mut header: [u8; 32] = bytes[..32].try_into().unwrap();
            let mut decoded = clutch_protocol::Header::decode(&header, u32::MAX).unwrap();
            decoded.codec = Codec::Json;
            header = decoded.encode();
            bytes[..32].copy_from_slice(&header);
            std::io::Write::write_all(&mut peer.stream, &bytes).unwrap();
        }
    });
    let texts = ["1.10", "{\"a\" : [null]}", "\"\\u00e4\"", "12345678901234567890123"];
    run(async {
        let client = Client::connect(&daemon.path).await.unwrap();
        let items = texts.map(|text| RawValue::from_string(text.into()).unwrap());
        let map = client.map::<_, Box<RawValue>>("m:f", items).codec(Codec::Json);
        let results: Vec<Box<RawValue>> = map.collect().await.unwrap();
        let results: Vec<&str> = results.iter().map(|text| text.get()).collect();
        assert_eq!(texts.to_vec(), results);
    });
}
