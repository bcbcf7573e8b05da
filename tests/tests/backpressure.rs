//! Readers that do not read, and calls that wait for room: whoever sends is slowed, nobody is
//! dropped, and what would make room is heard however much waits before it.

use std::os::fd::{AsRawFd, RawFd};

use clutch_client::{Feed, Reason};
use clutch_protocol::frame::{Flags, Kind};
use clutch_protocol::{Codec, Frame, Header, message, wire};
use clutch_tests::memory::sealed;
use clutch_tests::raw::{PATIENCE, call, call_attached, call_flagged, credit, reply};
use clutch_tests::{Builder, Daemon, RawClient, SECOND, Tmp, wait_for};

fn two_pools() -> Builder {
    Daemon::builder()
        .pool("default", |pool| pool.limit("grace", "200ms"))
        .pool("quiet", |pool| pool)
        .pool("carry", |pool| pool.key("initializer", "carrier:serve").limit("grace", "200ms"))
}

/// Few files may be open: one client may have about 110 descriptors waiting.
fn few_files() -> Builder {
    two_pools().daemon_key("connections", 64).through(&[
        "sh",
        "-c",
        "ulimit -n 1024; exec \"$0\" \"$@\"",
    ])
}

fn peak_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has one");
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Waits until a worker of the pool `default` may send no more.
fn wait_withheld(daemon: &Daemon) {
    wait_for("the worker waits for its reader", PATIENCE, || {
        let status = daemon.status();
        let workers = status.pools.iter().flat_map(|pool| &pool.workers);
        workers.flat_map(|worker| &worker.calls).any(|call| call.waits_for_reader)
    });
}

/// Items of a stream and one answer of another call, in any order.
fn read_items(client: &mut RawClient, wanted: usize, other: u64) -> Vec<Frame> {
    let mut items = Vec::new();
    let mut answered = false;
    while items.len() < wanted || !answered {
        let (frame, descriptors) = client.read_attached(PATIENCE).expect("the connection lives");
        assert_eq!(usize::from(frame.header.descriptors), descriptors.len());
        if frame.header.id == other {
            assert_eq!(3.0, reply(&frame).value());
            answered = true;
        } else {
            assert_eq!(Kind::Item, frame.header.kind, "{:?}", frame.header);
            items.push(frame);
        }
    }
    items
}

#[test]
fn f068_long_items_that_nobody_reads_wait_in_their_worker() {
    let daemon = two_pools().start();
    let oracle = daemon.oracle();
    let before = peak_kib(&daemon);
    let mut client = daemon.raw();
    let id = client.next_id();
    let stream = call_flagged(id, "job_streams:big", "[32, 8000000]", Flags::STREAM);
    client.send(&[stream, credit(id, 0, 32)].concat()).unwrap();
    wait_withheld(&daemon);
    // Other calls of this connection are answered.
    let other = client.start("quiet", "math:sqrt", "[9]");
    let items = read_items(&mut client, 32, other);
    assert!(items.iter().all(|item| item.payload.len() == 8_000_002));
    client.send(&credit(id, 0, 1)).unwrap();
    assert!(client.finish(id).value().is_null());
    let grown = (peak_kib(&daemon) - before) / 1024;
    assert!(grown < 64, "the daemon has grown by {grown} MiB for a window of 256 MB");
    drop((items, client));
    oracle.memory_budget(64 << 20).judge(daemon);
}

#[test]
fn descriptors_of_items_that_nobody_reads_are_few() {
    let daemon = few_files().start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let id = client.next_id();
    let meta = message::Call {
        pool: "default".to_owned(),
        function: "job_streams:blocks".to_owned(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    let (meta, nothing) = (wire::encode(&meta).unwrap(), b"\x80\x05].");
    let header = Header {
        flags: Flags::STREAM,
        codec: Codec::Plain,
        meta_bytes: u32::try_from(meta.len()).unwrap(),
        payload_bytes: 4,
        ..Header::new(Kind::Call, id)
    };
    let stream = [&header.encode()[..], &meta, nothing].concat();
    client.send(&[stream, credit(id, 0, 700)].concat()).unwrap();
    wait_withheld(&daemon);
    let held = daemon.status().daemon.descriptors_attached;
    assert!(held <= 64, "{held} descriptors are held");
    let other = client.start("quiet", "math:sqrt", "[9]");
    let items = read_items(&mut client, 600, other);
    assert!(items.iter().all(|item| item.header.descriptors > 0));
    assert_eq!(Kind::Result, client.expect(Kind::Result, PATIENCE).header.kind);
    drop(client);
    oracle.judge(daemon);
}

fn attached(id: u64, function: &str, json: &str) -> Vec<u8> {
    call_attached(id, "carry", function, json, 2)
}

#[test]
fn what_is_said_behind_calls_that_wait_for_descriptors_is_heard() {
    let daemon = few_files().start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let stream = client.next_id();
    let bytes = call_flagged(stream, "job_streams:count", "[1000000000]", Flags::STREAM);
    client.send(&bytes).unwrap();
    let memory = sealed(1);
    let both: [RawFd; 2] = [memory.as_raw_fd(); 2];
    // More than one client may hold: the last of them wait.
    let calls: Vec<u64> = (0..70).map(|_| client.next_id()).collect();
    for id in &calls {
        let bytes = attached(*id, "carrier:sleep", "[600]");
        client.send_with_descriptors(&bytes, &both).unwrap();
    }
    client.send(&credit(stream, 0, 3)).unwrap();
    for _ in 0..3 {
        assert_eq!(stream, client.expect(Kind::Item, PATIENCE).header.id);
    }
    // A cancel of one that waits is heard, too, and no worker ever sees that call.
    let last = *calls.last().unwrap();
    client.send(&Header::new(Kind::Cancel, last).encode()).unwrap();
    assert_eq!(Reason::Cancelled, client.finish(last).failure().reason);
    // As many as may wait do. The others are refused, since the stream may need what is behind.
    let more: Vec<u64> = (0..40).map(|_| client.next_id()).collect();
    for id in &more {
        let bytes = attached(*id, "carrier:sleep", "[600]");
        client.send_with_descriptors(&bytes, &both).unwrap();
    }
    client.send(&credit(stream, 0, 1)).unwrap();
    let mut refused = 0;
    loop {
        let frame = client.read(PATIENCE).unwrap();
        if frame.header.kind == Kind::Item {
            assert_eq!(stream, frame.header.id);
            break;
        }
        let failure = reply(&frame).failure();
        assert!(failure.to_string().contains("wait for room"), "{failure}");
        assert!(more.contains(&frame.header.id));
        refused += 1;
    }
    assert!((1..40).contains(&refused), "{refused} were refused");
    // Their end makes room for those that wait, in their order.
    for id in calls.iter().chain(&more).filter(|id| **id != last) {
        client.send(&Header::new(Kind::Cancel, *id).encode()).unwrap();
    }
    for _ in 0..70 - 1 + 40 - refused {
        assert_eq!("Cancelled", {
            let frame = client.read(PATIENCE).unwrap();
            reply(&frame).failure().reason.name()
        });
    }
    client.send(&credit(stream, 0, 1)).unwrap();
    assert_eq!(stream, client.expect(Kind::Item, PATIENCE).header.id);
    drop(client);
    wait_for("nothing is held", 10 * SECOND, || daemon.status().daemon.descriptors_attached == 0);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_stream_behind_calls_that_fill_the_window_keeps_its_credit() {
    let daemon = two_pools().daemon_key("in_flight", 2).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let first = client.next_id();
    let count = |id| call_flagged(id, "job_streams:count", "[1000000000]", Flags::STREAM);
    let (busy, held) = (client.next_id(), client.next_id());
    let behind = [
        count(first),
        call(busy, "quiet", "bulk:nap", "[600]"),
        count(held),
        credit(held, 0, 2),
        credit(first, 0, 1),
        Header::new(Kind::Cancel, busy).encode().to_vec(),
        Header::new(Kind::Cancel, first).encode().to_vec(),
    ];
    client.send(&behind.concat()).unwrap();
    let mut items = [0, 0];
    let mut ends = 0;
    while items[1] < 2 || ends < 2 {
        let frame = client.read(PATIENCE).expect("what is behind the third call is heard");
        match frame.header.kind {
            Kind::Item => items[usize::from(frame.header.id == held)] += 1,
            _ => {
                assert_eq!(Reason::Cancelled, reply(&frame).failure().reason);
                ends += 1;
            }
        }
    }
    assert!(items[0] <= 1 && items[1] == 2, "its credit was kept with it");
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn many_feeds_of_one_call_wait_for_a_worker_that_reads_late() {
    let daemon = two_pools().daemon_key("payload", "1MiB").start();
    let oracle = daemon.oracle();
    let tmp = Tmp::new();
    let path = tmp.path().join("go");
    let client = daemon.blocking();
    let feed = || Feed::new((0..4).map(|_| "x".repeat(900_000)));
    let late = path.clone();
    let releasing = std::thread::spawn(move || {
        wait_for("the items that were asked for have come", PATIENCE, || {
            daemon.counter("default", "items_in") >= 20
        });
        std::fs::write(late, "").unwrap();
        daemon
    });
    let path = path.to_str().unwrap().to_owned();
    let feeds = [feed(), feed(), feed(), feed(), feed(), feed(), feed(), feed(), feed(), feed()];
    let args = (path, feeds);
    let taken = client.call::<u64>("job_streams:takes_late", args);
    let daemon = releasing.join().unwrap();
    assert_eq!(40, taken.expect("ten items of one MiB are no fault of anybody's"));
    drop(client);
    oracle.memory_budget(64 << 20).judge(daemon);
}
