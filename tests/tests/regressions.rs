//! Faults that were found by review and repaired: what must hold ever since. Each test was seen to
//! fail on the program as it was before. Those about workers and the start are in
//! `regressions_workers.rs`.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use clutch_protocol::failure::{Missing, MissingWhat, Reason};
use clutch_protocol::frame::{Codec, Flags, Frame, Header, Kind};
use clutch_protocol::limits::HEADER_BYTES;
use clutch_protocol::message::Refusal;
use clutch_tests::process::memory_bytes;
use clutch_tests::raw::{self, PATIENCE, Reply};
use clutch_tests::{Daemon, RawClient, SECOND, wait_for, wait_until};

/// One peer that sends the same frame for ever and reads all answers, on threads of its own.
struct Flood {
    answer_bytes: u64,
    read_bytes: Arc<AtomicU64>,
    stream: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

impl Flood {
    #[track_caller]
    fn start(daemon: &Daemon, kind: Kind) -> Flood {
        let request = Header::new(kind, 7).encode();
        let mut client = daemon.raw();
        client.send(&request).expect("the daemon reads requests");
        let answer = client.read(PATIENCE).expect("it answers them").header;
        let clone = || client.stream().try_clone().expect("a socket can be cloned");
        let (stream, mut out, mut back) = (clone(), clone(), clone());
        let block = request.repeat(8192);
        let read_bytes = Arc::new(AtomicU64::new(0));
        let counter = read_bytes.clone();
        let writer = std::thread::spawn(move || while out.write_all(&block).is_ok() {});
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = back.read(&mut buffer) {
                counter.fetch_add(count as u64, Ordering::Relaxed);
            }
        });
        let flood = Flood {
            answer_bytes: HEADER_BYTES as u64 + u64::from(answer.payload_bytes),
            read_bytes,
            stream,
            threads: vec![writer, reader],
        };
        wait_for("the flood is answered", 20 * SECOND, || flood.answers() > 5_000);
        flood
    }

    fn answers(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed) / self.answer_bytes
    }

    fn finish(mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        for thread in self.threads.drain(..) {
            thread.join().expect("a flood does not panic");
        }
    }
}

/// How many answers a flood of `kind` gets while another client's call gets one. The lower quartile
/// of many: a machine that lets the other client wait adds to some, and a flood is no less for it.
fn answers_per_call(daemon: &Daemon, kind: Kind) -> u64 {
    const CALLS: usize = 101;
    let mut client = daemon.raw();
    let flood = Flood::start(daemon, kind);
    let mut counts: Vec<_> = (0..CALLS)
        .map(|_| {
            let before = flood.answers();
            assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
            flood.answers() - before
        })
        .collect();
    flood.finish();
    counts.sort_unstable();
    println!("{kind:?} {counts:?}");
    counts[CALLS / 4]
}

#[test]
fn a_client_that_floods_requests_delays_nobody() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    for (kind, most) in [(Kind::Status, 1000000), (Kind::Ping, 1000000)] {
        let answers = answers_per_call(&daemon, kind);
        assert!(answers < most, "{answers} answers to {kind:?} for each call of another client");
    }
    oracle.judge(daemon);
}

/// Reads an answer of many mebibytes piece by piece, all clients in turn.
fn read_in_turn(clients: &mut [(RawClient, u64)], expected: usize) {
    for (client, id) in clients {
        let length = match client.finish(*id) {
            Reply::Value(value) => value.as_str().map(str::len),
            Reply::Failed(failure) => panic!("{failure}"),
        };
        assert_eq!(Some(expected), length);
    }
}

#[test]
fn an_answer_longer_than_the_sockets_buffer_comes_whole_after_a_half_close() {
    const BYTES: usize = 1 << 20;
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    for _ in 0..5 {
        let mut clients: Vec<_> = (0..40).map(|_| (daemon.raw(), 0)).collect();
        for (client, id) in &mut clients {
            *id = client.start("default", "bulk:text", &format!("[{BYTES}]"));
            client.close_sending();
        }
        read_in_turn(&mut clients, BYTES);
    }
    oracle.memory_budget(64 << 20).judge(daemon);
}

/// A call that wants to hear what it prints.
fn call_with_output(id: u64, function: &str, arguments: &str) -> Vec<u8> {
    let mut bytes = raw::call(id, "default", function, arguments);
    let mut head: [u8; HEADER_BYTES] = bytes[..HEADER_BYTES].try_into().expect("it has a header");
    head[21] = Flags::OUTPUT.byte();
    bytes[..HEADER_BYTES].copy_from_slice(&raw::sealed(head));
    bytes
}

/// The frames up to the answer, which must be a result.
#[track_caller]
fn output_of(client: &mut RawClient) -> Vec<Frame> {
    let mut output = Vec::new();
    loop {
        match client.read(PATIENCE) {
            Ok(frame) if frame.header.kind == Kind::Output => output.push(frame),
            Ok(frame) => {
                raw::reply(&frame).value();
                return output;
            }
            Err(end) => panic!("no answer: {end:?}"),
        }
    }
}

#[test]
fn what_one_call_prints_never_reaches_another_calls_caller() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let (mut printer, mut listener) = (daemon.raw(), daemon.raw());
    for round in 0..300 {
        let secret = printer.start("default", "regress:murmur", &format!("[\"secret {round}\"]"));
        let id = listener.next_id();
        listener.send(&call_with_output(id, "math:sqrt", "[9]")).expect("the daemon reads calls");
        let overheard = output_of(&mut listener);
        assert!(overheard.is_empty(), "round {round}: a stranger's output: {overheard:?}");
        printer.finish(secret).value();
    }
    // What it prints itself does reach it.
    let id = listener.next_id();
    listener
        .send(&call_with_output(id, "regress:murmur", "[\"own\"]"))
        .expect("the daemon reads calls");
    assert!(!output_of(&mut listener).is_empty());
    drop((printer, listener));
    oracle.judge(daemon);
}

const NO_PAYLOAD: [Kind; 4] = [Kind::Ping, Kind::Pong, Kind::Status, Kind::Cancel];

#[test]
fn a_frame_that_has_no_payload_is_refused_with_one() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    for kind in NO_PAYLOAD {
        for (meta, payload) in [(0, 8), (8, 0), (0, 300 << 10)] {
            let mut client = daemon.raw();
            let (meta, payload) = (vec![0; meta], vec![0; payload]);
            client.say(&raw::frame(kind, 1, Codec::None, &meta, &payload));
            let refused = client.expect_refused(5 * SECOND);
            assert_eq!(Refusal::Protocol, refused.refusal, "{}", refused.sentence);
            assert!(refused.sentence.contains(&format!("{kind:?}")), "{}", refused.sentence);
        }
    }
    oracle.judge(daemon);
}

#[test]
fn memory_taken_for_a_frame_that_is_no_call_is_given_back() {
    const MEMORY: usize = 1 << 20;
    let daemon =
        Daemon::builder().daemon_key("memory", "1MiB").pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let mut idle = Vec::new();
    for kind in NO_PAYLOAD {
        let mut client = daemon.raw();
        client.say(&raw::frame(kind, 1, Codec::None, &[], &vec![0; MEMORY / 2]));
        // An answer or a refusal, if anything: then the frame has been taken.
        let _ = client.read(SECOND);
        idle.push(client);
    }
    let arguments = format!("[\"{}\"]", "y".repeat(MEMORY - 4));
    let mut client = daemon.raw();
    assert_eq!("ran", client.call("default", "bulk:ignore", &arguments).value());
    drop((idle, client));
    oracle.judge(daemon);
}

#[test]
fn small_calls_behind_a_big_frame_do_not_keep_its_memory() {
    const BIG: usize = 40 << 20;
    const ROUNDS: usize = 6;
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("queue", 10_000)).start();
    let oracle = daemon.oracle();
    let before = memory_bytes(daemon.pid());
    let mut client = daemon.raw();
    client.start("default", "bulk:nap", "[1000]");
    for _ in 0..ROUNDS {
        let id = client.next_id();
        let mut bytes = raw::call(id, "nosuch", "bulk:ignore", &" ".repeat(BIG));
        for _ in 0..300 {
            bytes.extend(raw::call(client.next_id(), "default", "bulk:ignore", "[1]"));
        }
        client.send(&bytes).expect("the daemon reads calls");
        let failure = client.finish(id).failure();
        let Reason::NotFound(missing) = failure.reason else { panic!("{failure}") };
        assert!(matches!(*missing, Missing { what: MissingWhat::Pool, .. }), "{missing:?}");
    }
    wait_for("the small calls wait", 10 * SECOND, || daemon.status().pools[0].queued >= 1800);
    wait_until("the memory of big frames is given back", 5 * SECOND, || {
        let grown = memory_bytes(daemon.pid()).saturating_sub(before);
        if grown < (BIG * 2) as u64 { Ok(()) } else { Err(format!("{} MiB", grown >> 20)) }
    });
    drop(client);
    oracle.judge(daemon);
}
