//! Faults of peers that follow the frames' rules but nobody's patience: silent, slow, deaf, greedy,
//! many. F073 to F076, F081, F085, F092, and a thousand clients beside a few bad ones.

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clutch_protocol::failure::Reason;
use clutch_protocol::frame::{Codec, Header, Kind};
use clutch_protocol::limits::PAYLOAD_BYTES_DEFAULT;
use clutch_protocol::message::{Refusal, Refused, Role};
use clutch_protocol::wire;
use clutch_tests::process::memory_bytes;
use clutch_tests::raw::{Reply, call, call_within, forged, frame, hello, reply};
use clutch_tests::{Bystander, Daemon, RawClient, SECOND, wait_for};

/// The daemon's own bounds, and how much later than them a loaded machine may be.
const HELLO_BOUND: Duration = Duration::from_secs(5);
const FRAME_BOUND: Duration = Duration::from_secs(10);
const STALL_BOUND: Duration = Duration::from_secs(10);
const SLACK: Duration = Duration::from_secs(4);

/// Sends one byte a second until the daemon has had enough; gives how long that took, and what it
/// said.
fn drip(mut client: RawClient, bytes: Vec<u8>) -> JoinHandle<(Duration, Option<Refused>)> {
    std::thread::spawn(move || {
        let begun = Instant::now();
        for byte in bytes {
            if client.send(&[byte]).is_err() {
                break;
            }
            match client.read(SECOND) {
                Err(clutch_tests::raw::End::Silent) => {}
                Ok(frame) if frame.header.kind == Kind::Refused => {
                    let refused = wire::decode(&frame.meta).expect("a refusal has its meta");
                    return (begun.elapsed(), Some(refused));
                }
                _ => break,
            }
        }
        (begun.elapsed(), None)
    })
}

/// Says `bytes` and then nothing until the daemon has had enough.
fn fall_silent(mut client: RawClient, bytes: &[u8]) -> JoinHandle<(Duration, Option<Refused>)> {
    client.say(bytes);
    std::thread::spawn(move || {
        let begun = Instant::now();
        let frames = client.drain(FRAME_BOUND + 2 * SLACK);
        let refused = frames.last().and_then(|frame| wire::decode(&frame.meta).ok());
        (begun.elapsed(), refused)
    })
}

#[track_caller]
fn assert_too_slow(what: &str, peer: JoinHandle<(Duration, Option<Refused>)>, bound: Duration) {
    let (took, refused) = peer.join().unwrap();
    let refused = refused.unwrap_or_else(|| panic!("{what}: closed after {took:?} without a word"));
    assert_eq!(Refusal::TooSlow, refused.refusal, "{what}: {}", refused.sentence);
    let fits = (bound - SECOND..bound + SLACK).contains(&took);
    assert!(fits, "{what}: dropped after {took:?}, not after {bound:?}");
}

#[test]
fn f073_f074_silence_and_slowness_have_deadlines() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "default");
    let whole = call(1, "default", "math:sqrt", "[2]");
    // All at once, since each waits for its deadline.
    let strangers = [
        ("silent", fall_silent(daemon.stranger(), b"")),
        ("half a magic", fall_silent(daemon.stranger(), b"CL")),
        ("half a hello", fall_silent(daemon.stranger(), &hello(Role::Client)[..40])),
        ("a dripping hello", drip(daemon.stranger(), hello(Role::Client))),
    ];
    let friends = [
        ("half a header", fall_silent(daemon.raw(), &whole[..20])),
        ("half a call", fall_silent(daemon.raw(), &whole[..whole.len() - 1])),
        ("a dripping call", drip(daemon.raw(), whole.clone())),
    ];
    let mut idle = daemon.raw();
    for (what, peer) in strangers {
        assert_too_slow(what, peer, HELLO_BOUND);
    }
    for (what, peer) in friends {
        assert_too_slow(what, peer, FRAME_BOUND);
    }
    assert!(idle.is_served(), "between frames a client may be silent for ever");
    drop(idle);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f073_a_crowd_of_silent_strangers_does_not_keep_a_client_out() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let begun = Instant::now();
    let crowd: Vec<RawClient> = (0..1500).map(|_| daemon.stranger()).collect();
    for _ in 0..20 {
        let mut client = daemon.raw();
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    }
    let in_time = begun.elapsed() < HELLO_BOUND;
    assert!(in_time, "the crowd was gone before it was in the way: {:?}", begun.elapsed());
    for mut stranger in crowd {
        // Dropped for a fresher one at once, or for its silence in time; told why in both cases.
        let frames = stranger.drain(HELLO_BOUND + SLACK);
        assert_eq!(1, frames.len(), "told why");
    }
    oracle.judge(daemon);
}

#[test]
fn f075_a_client_that_does_not_read_is_dropped_and_frees_what_it_held() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let before = memory_bytes(daemon.pid());

    let mut deaf = daemon.raw();
    let calls = (1..=400).flat_map(|id| call(id, "default", "bulk:text", "[1000000]"));
    let calls: Vec<u8> = calls.collect();
    deaf.say(&calls);
    let mut peak = 0;
    wait_for("the deaf client is dropped", STALL_BOUND + 3 * SLACK, || {
        peak = peak.max(memory_bytes(daemon.pid()));
        daemon.status().daemon.clients <= 2 // the bystander, and the one who asks
    });
    let grown = peak.saturating_sub(before);
    // What may wait for one client: 64 MiB, and a payload of 64 MiB beyond.
    assert!(grown < 192 << 20, "it made the daemon hold {} MiB", grown >> 20);
    deaf.drain(SECOND);
    bystander.assert_unharmed(5 * SECOND);
    oracle.memory_budget(96 << 20).judge(daemon);
}

#[test]
fn f076_a_client_that_only_closes_its_sending_half_still_gets_its_answers() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let ids: Vec<u64> = (0..4)
        .map(|index| client.start("default", "bulk:nap", &format!("[0.2, {index}]")))
        .collect();
    client.close_sending();
    let frames = client.drain(10 * SECOND);
    let answers: BTreeMap<u64, serde_json::Value> =
        frames.iter().map(|frame| (frame.header.id, reply(frame).value())).collect();
    assert_eq!(ids, answers.keys().copied().collect::<Vec<_>>());
    for (index, id) in ids.iter().enumerate() {
        assert_eq!(Some(index as u64), answers[id].as_u64());
    }
    // Without anything in flight the connection simply ends.
    let mut quiet = daemon.raw();
    quiet.close_sending();
    quiet.expect_closed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f081_an_id_in_use_is_refused_and_unknown_ids_are_ignored() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    // Cancels of nothing: never used, used and answered.
    let mut client = daemon.raw();
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    for id in [1, 99, 0, u64::MAX] {
        client.send(&Header::new(Kind::Cancel, id).encode()).unwrap();
    }
    assert!(client.is_served(), "a cancel that comes too late is no fault");
    // An answered id may be used again.
    client.send(&call(1, "default", "math:sqrt", "[16]")).unwrap();
    assert_eq!(4.0, client.finish(1).value());

    // One that is in use may not: which of the two calls would an answer be for?
    let mark = daemon.tmp().join("ran");
    let touch = format!("[{:?}]", mark.to_str().unwrap());
    let mut twice = daemon.raw();
    twice.send(&call(5, "default", "bulk:nap", "[30]")).unwrap();
    twice.send(&call(5, "default", "effects:touch", &touch)).unwrap();
    let frames = twice.drain(10 * SECOND);
    let last = frames.last().expect("it is told why");
    let refused: Refused = wire::decode(&last.meta).expect("the last word is a refusal");
    assert_eq!((Kind::Refused, Refusal::Protocol), (last.header.kind, refused.refusal));
    assert!(!mark.exists(), "the second call of the same id was run");

    // An answer from a client is no answer.
    let mut liar = daemon.raw();
    liar.say(&frame(Kind::Result, 1, Codec::Json, &[], b"1"));
    assert_eq!(Refusal::Protocol, liar.expect_refused(5 * SECOND).refusal);
    assert!(client.is_served());
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f085_a_million_calls_without_reading_are_read_no_faster_than_they_are_answered() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.limit("queue", 100_000))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let before = memory_bytes(daemon.pid());
    let million: Vec<u8> =
        (1..=1_000_000).flat_map(|id| call(id, "default", "bulk:nap", "[0.0001]")).collect();
    let bytes_each = million.len() / 1_000_000;
    let mut client = daemon.raw();
    let sent = client.send_until_full(&million, SECOND);
    assert!(sent < million.len(), "the daemon took a million calls into its memory");
    let grown = memory_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{sent} bytes of calls cost {} MiB", grown >> 20);
    // What was sent whole is answered, each once, as soon as somebody reads.
    let mut answered = 0;
    while answered < sent / bytes_each {
        let frame = client.read(20 * SECOND).unwrap();
        assert!(matches!(reply(&frame), Reply::Value(_)), "{:?}", frame.header);
        answered += 1;
    }
    drop(client);
    bystander.assert_unharmed(5 * SECOND);
    oracle.memory_budget(64 << 20).judge(daemon);
}

#[test]
fn f092_one_connection_too_many_is_told_so() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool).daemon_key("connections", 5).start();
    let oracle = daemon.oracle();
    let mut clients: Vec<RawClient> = (0..5).map(|_| daemon.raw()).collect();
    for _ in 0..50 {
        let mut late = daemon.stranger();
        late.say(&hello(Role::Client));
        let refused = late.expect_refused(5 * SECOND);
        assert_eq!(Refusal::Overloaded, refused.refusal, "{}", refused.sentence);
        assert!(refused.sentence.contains('5'), "the limit is named: {}", refused.sentence);
    }
    assert!(clients.iter_mut().all(RawClient::is_served), "those inside are not disturbed");
    let output = daemon.cli(["call", "math:sqrt", "2"]);
    assert_eq!(7, output.code, "{}", output.stderr);
    clients.pop();
    wait_for("a place that is free again is given away", 5 * SECOND, || {
        RawClient::try_hello(daemon.socket()).is_ok()
    });
    drop(clients);
    wait_for("all places are free", 5 * SECOND, || daemon.try_status().is_ok());
    oracle.judge(daemon);
}

/// Criterion: a thousand clients at once, each with calls in flight, and bad ones between them.
#[test]
fn a_thousand_clients_are_served_beside_a_few_bad_ones() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2).limit("queue", 10_000))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let mut bad = Vec::new();
    let mut clients = Vec::new();
    for index in 0..1000u64 {
        clients.push(daemon.raw());
        if index % 50 == 0 {
            bad.extend(bad_peers(&daemon));
        }
    }
    // Everyone has five calls in flight before anyone reads an answer.
    for (index, client) in clients.iter_mut().enumerate() {
        for number in 1..=5u64 {
            let argument = format!("[{}]", (index as u64 * number).pow(2));
            client.send(&call(number, "default", "math:sqrt", &argument)).unwrap();
        }
    }
    for (index, client) in clients.iter_mut().enumerate() {
        let mut answers = BTreeMap::new();
        for _ in 0..5 {
            let frame = client.read(30 * SECOND).unwrap();
            let answer = reply(&frame).value();
            assert_eq!(None, answers.insert(frame.header.id, answer), "one answer each");
        }
        for (number, answer) in answers {
            let expected = f64::from(u32::try_from(index as u64 * number).unwrap());
            assert_eq!(Some(expected), answer.as_f64(), "client {index}, call {number}");
        }
    }
    for mut peer in bad {
        peer.drain(FRAME_BOUND + SLACK);
    }
    drop(clients);
    bystander.assert_unharmed(10 * SECOND);
    oracle.memory_budget(48 << 20).judge(daemon);
}

/// One of each kind: garbage, half a frame, a length of 4 GiB, nothing at all.
fn bad_peers(daemon: &Daemon) -> Vec<RawClient> {
    let whole = call(1, "default", "math:sqrt", "[2]");
    let mut garbage = daemon.stranger();
    garbage.say(b"\x00\x01\x02 what is this? \xff\xfe");
    let mut half = daemon.raw();
    half.say(&whole[..whole.len() / 2]);
    let mut huge = daemon.raw();
    huge.say(&forged(Kind::Call as u8, 1, u32::MAX, 100));
    let mut late_garbage = daemon.raw();
    late_garbage.say(&[&whole[..], b"and then garbage, garbage, garbage"].concat());
    vec![garbage, half, huge, late_garbage, daemon.stranger()]
}

#[test]
fn f085_calls_that_wait_behind_a_full_queue_are_refused_with_its_limit() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("queue", 8)).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    let count: usize = 50;
    let calls: Vec<u8> = (1..=50)
        .flat_map(|id| call_within(id, "default", "bulk:nap", "[0.05, 1]", 20_000))
        .collect();
    client.send(&calls).unwrap();
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..count {
        match reply(&client.read(20 * SECOND).unwrap()) {
            Reply::Value(value) => {
                assert_eq!(1, value);
                answered += 1;
            }
            Reply::Failed(failure) => {
                assert_eq!(Reason::QueueFull { limit: 8 }, failure.reason);
                assert!(!failure.started);
                refused += 1;
            }
        }
    }
    assert!(answered >= 8, "{answered} answered, {refused} refused");
    assert!(refused > 0, "50 calls do not fit a queue of 8");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f085_payloads_longer_than_allowed_end_the_call_not_the_daemon() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool).daemon_key("payload", "1MiB").start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    // Longer than configured, shorter than the wire allows: which of the two says so is told apart.
    let failure = client.call("default", "bulk:text", "[2000000]").failure();
    let Reason::TooLarge { bytes, limit, .. } = failure.reason else { panic!("{failure:?}") };
    assert!(bytes > 2_000_000 && limit == 1 << 20, "{bytes} bytes, limit {limit}");
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    let long = format!("[\"{}\"]", "z".repeat(PAYLOAD_BYTES_DEFAULT as usize));
    client.send_until_full(&call(9, "default", "builtins:len", &long), SECOND);
    let frames = client.drain(FRAME_BOUND + SLACK);
    assert!(!frames.is_empty(), "it is told why");
    oracle.judge(daemon);
}
