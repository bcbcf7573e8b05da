//! Faults that were found by review and repaired: what must hold ever since. Each test was seen to
//! fail on the program as it was before. Those about workers and the start are in
//! `regressions_workers.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use clutch_protocol::failure::{Missing, MissingWhat, Reason};
use clutch_protocol::frame::{Codec, Flags, Frame, Header, Kind};
use clutch_protocol::limits::HEADER_BYTES;
use clutch_protocol::message::Refusal;
use clutch_protocol::status::Status;
use clutch_tests::process::{Process, memory_bytes};
use clutch_tests::raw::{self, PATIENCE};
use clutch_tests::{Daemon, RawClient, SECOND, wait_for, wait_until};
use nix::sys::signal::Signal;

/// How many `Cancel` frames of one client the daemon takes before it looks at a request that
/// another client has made meanwhile, when `block` waits to be read: the most of a few rounds.
fn cancels_taken_before_anothers_request(daemon: &Daemon, block: &[u8]) -> u64 {
    let count = |status: &Status| {
        status.daemon.counters.get("cancels_of_unknown_calls").copied().unwrap_or(0)
    };
    let (mut other, mut most) = (daemon.raw(), 0);
    for _ in 0..5 {
        wait_for("the last flood is over", 10 * SECOND, || daemon.status().daemon.clients == 2);
        let mut flood = daemon.raw();
        let before = count(&daemon.status());
        // Stopped, the daemon finds the whole flood and the request when it goes on.
        daemon.signal(Signal::SIGSTOP);
        wait_for("the daemon is stopped", 5 * SECOND, || {
            Process::find(daemon.pid()).is_some_and(|daemon| daemon.state == 'T')
        });
        flood.send(block).expect("a socket's buffer holds the block");
        let request = Header::new(Kind::Status, 1).encode();
        other.send(&request).expect("a socket's buffer holds a request");
        daemon.signal(Signal::SIGCONT);
        let report = other.expect(Kind::StatusReport, PATIENCE);
        let status = serde_json::from_slice(&report.payload).expect("a status is JSON");
        most = most.max(count(&status) - before);
    }
    most
}

#[test]
fn a_client_that_floods_requests_delays_nobody() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let [cancel, status] = [Kind::Cancel, Kind::Status].map(|kind| Header::new(kind, 7).encode());
    let taken = cancels_taken_before_anothers_request(&daemon, &cancel.repeat(2000));
    // A status costs more than other requests, and a client has fewer of them in one turn.
    let pairs = [status, cancel].concat().repeat(1000);
    let costly = cancels_taken_before_anothers_request(&daemon, &pairs);
    assert!(taken <= 256, "another client waited for {taken} cheap requests");
    assert!(costly <= 32, "another client waited for {costly} costly requests");
    oracle.judge(daemon);
}

/// Many clients that always have something to say, so that the daemon has always much to do.
struct Crowd {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    #[track_caller]
    fn start(daemon: &Daemon, clients: usize) -> Crowd {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients: Vec<_> = (0..clients).map(|_| daemon.raw()).collect();
        let block = Header::new(Kind::Cancel, 7).encode().repeat(32);
        let flag = stop.clone();
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                for client in &mut clients {
                    client.send(&block).expect("the daemon reads requests");
                }
            }
        });
        Crowd { stop, thread: Some(thread) }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only this takes it");
        assert!(thread.join().is_ok() || std::thread::panicking(), "the daemon read all requests");
    }
}

#[test]
fn an_answer_longer_than_the_sockets_buffer_comes_whole_after_a_half_close() {
    const BYTES: usize = 1 << 20;
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    // Between a send and the next look at its socket, the daemon does much else.
    let crowd = Crowd::start(&daemon, 150);
    for _ in 0..30 {
        let mut client = daemon.raw();
        let id = client.start("default", "bulk:text", &format!("[{BYTES}]"));
        client.close_sending();
        let answer = client.finish(id).value();
        assert_eq!(Some(BYTES), answer.as_str().map(str::len));
    }
    drop(crowd);
    oracle.judge(daemon);
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
