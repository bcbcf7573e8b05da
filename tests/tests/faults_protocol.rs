//! Faults of the wire: lengths, garbage, versions, damage, cuts. F071, F072, F077 to F080, F082 to
//! F084. Peers that are slow or greedy are in `faults_peers.rs`, descriptors in
//! `faults_descriptors.rs`, hostile workers in `faults_workers.rs`.

use std::time::{Duration, Instant};

use clutch_protocol::failure::{MissingWhat, Reason};
use clutch_protocol::frame::{Codec, Flags, Header, Kind};
use clutch_protocol::limits::{
    FUNCTION_NAME_BYTES_MAX, HELLO_BYTES_MAX, META_BYTES_MAX, PAYLOAD_BYTES_DEFAULT,
};
use clutch_protocol::message::{Call, Refusal, Refused, Role, version};
use clutch_protocol::wire;
use clutch_tests::process::memory_bytes;
use clutch_tests::raw::{call, forged, frame, hello, hello_of, reply, sealed};
use clutch_tests::{Bystander, Daemon, MILLISECOND, Oracle, RawClient, SECOND};

/// Within what a stranger or a bad frame must be answered and dropped. FAULTS asks for 100 ms; the
/// median of many is held to that, and each single one to this.
const REFUSAL_BOUND: Duration = Duration::from_secs(5);

fn daemon() -> (Daemon, Oracle) {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

/// Says hello if asked to, then `bytes`, and gives the refusal and how long it took.
#[track_caller]
fn refused(daemon: &Daemon, greeted: bool, bytes: &[u8]) -> (Refused, Duration) {
    let mut client = if greeted { daemon.raw() } else { daemon.stranger() };
    let begun = Instant::now();
    client.say(bytes);
    let refused = client.expect_refused(REFUSAL_BOUND);
    assert!(!refused.sentence.is_empty(), "a refusal says why");
    (refused, begun.elapsed())
}

#[track_caller]
fn assert_median(mut all: Vec<Duration>, bound: Duration) {
    all.sort();
    let median = all[all.len() / 2];
    assert!(median <= bound, "the median of {} is {median:?}, over {bound:?}", all.len());
}

#[test]
fn f071_a_length_no_frame_may_have_is_refused_at_once_and_costs_no_memory() {
    let (daemon, oracle) = daemon();
    let (call, max) = (Kind::Call as u8, PAYLOAD_BYTES_DEFAULT + META_BYTES_MAX);
    let lengths = [
        (false, forged(Kind::Hello as u8, 0, 1 << 31, 0)),
        (false, forged(Kind::Hello as u8, 0, u32::MAX, 0)),
        (false, forged(Kind::Hello as u8, 0, HELLO_BYTES_MAX + 1, 0)),
        (false, forged(Kind::Hello as u8, 0, 0, 0)),
        (true, forged(call, 1 << 63, 1 << 31, 0)),
        (true, forged(call, 1, u32::MAX, u32::MAX)),
        (true, forged(call, 1, max + 1, 1)),
        (true, forged(call, 1, 10, 11)),
        (true, forged(call, 1, META_BYTES_MAX + 1, META_BYTES_MAX + 1)),
        (true, forged(call, 1, 0, 0)),
    ];
    let storm = |count: usize| -> Vec<Duration> {
        let cases = lengths.iter().cycle().take(count);
        let case = |(greeted, bytes): &(bool, [u8; 32])| {
            let (refused, took) = refused(&daemon, *greeted, bytes);
            assert_eq!(Refusal::Protocol, refused.refusal, "{}", refused.sentence);
            took
        };
        cases.map(case).collect()
    };
    storm(100);
    let before = memory_bytes(daemon.pid());
    assert_median(storm(1000), 100 * MILLISECOND);
    let grown = memory_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < 1 << 20, "1000 lies about lengths cost {grown} bytes");
    oracle.judge(daemon);
}

#[test]
fn f072_a_thousand_claims_of_the_longest_frame_cost_what_was_sent() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool)
        .pool("quiet", |pool| pool)
        .daemon_key("connections", 1500)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let before = memory_bytes(daemon.pid());
    // A stranger may claim little, a friend much; none of them sends what it claims.
    let longest = PAYLOAD_BYTES_DEFAULT + META_BYTES_MAX;
    let claims: Vec<RawClient> = (0..1000)
        .map(|index| {
            let stranger = index % 2 == 0;
            let mut client = if stranger { daemon.stranger() } else { daemon.raw() };
            client.say(&match stranger {
                true => forged(Kind::Hello as u8, 0, HELLO_BYTES_MAX, HELLO_BYTES_MAX),
                false => forged(Kind::Call as u8, 1, longest, META_BYTES_MAX),
            });
            client
        })
        .collect();
    // A call that is answered now was read after all of those headers.
    let mut client = daemon.raw();
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    let grown = memory_bytes(daemon.pid()).saturating_sub(before);
    assert!(
        grown < 128 << 20,
        "1000 claims of {longest} bytes cost {} MiB; at most a receive buffer each is allowed",
        grown >> 20
    );
    drop((claims, client));
    bystander.assert_unharmed(5 * SECOND);
    oracle.memory_budget(64 << 20).judge(daemon);
}

#[test]
fn f077_a_frame_cut_short_runs_nothing_and_is_not_worth_a_log_line() {
    let (daemon, oracle) = daemon();
    let mark = daemon.tmp().join("ran");
    let whole = call(1, "default", "effects:touch", &format!("[{:?}]", mark.to_str().unwrap()));
    let (accepted, logged) = (daemon.counter("default", "accepted"), daemon.log().len());
    for cut in 1..whole.len() {
        let mut client = daemon.raw();
        client.send(&whole[..cut]).unwrap();
    }
    for cut in 1..hello(Role::Client).len() {
        daemon.stranger().send(&hello(Role::Client)[..cut]).unwrap();
    }
    daemon.stranger();
    daemon.raw();
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    assert!(!mark.exists(), "half a call was run");
    let log = daemon.log();
    let loud = log[logged..].lines().find(|line| line.contains("WARN") || line.contains("ERROR"));
    assert_eq!(None, loud, "a client that goes away is no event");
    assert!(whole.len() > 60);
    oracle.judge(daemon);
}

#[test]
fn f078_where_the_bytes_are_split_makes_no_difference() {
    let (daemon, oracle) = daemon();
    let greeting = hello(Role::Client);
    let stream = [&greeting[..], &call(7, "default", "math:sqrt", "[16]")].concat();
    for cut in 1..stream.len() {
        let mut client = daemon.stranger();
        client.send(&stream[..cut]).unwrap();
        if cut >= greeting.len() {
            client.expect(Kind::Welcome, REFUSAL_BOUND);
        }
        client.send(&stream[cut..]).unwrap();
        if cut < greeting.len() {
            client.expect(Kind::Welcome, REFUSAL_BOUND);
        }
        assert_eq!(4.0, client.finish(7).value(), "split at {cut}");
    }
    let mut client = daemon.stranger();
    for byte in &stream {
        client.send(&[*byte]).unwrap();
    }
    client.expect(Kind::Welcome, REFUSAL_BOUND);
    assert_eq!(4.0, client.finish(7).value(), "byte by byte");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f078_ten_thousand_frames_in_one_write_are_ten_thousand_frames() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("queue", 10_000)).start();
    let oracle = daemon.oracle();
    let count = 10_000;
    let calls =
        (1..=count).flat_map(|id| call(id, "default", "math:sqrt", &format!("[{}]", id * id)));
    let calls: Vec<u8> = calls.collect();
    let mut client = daemon.raw();
    let mut writer = client.stream().try_clone().unwrap();
    // On a thread: the daemon stops reading while too many calls are unanswered.
    let write = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &calls));
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..count {
        let frame = client.read(20 * SECOND).unwrap();
        let answer = reply(&frame).value();
        assert_eq!(None, answers.insert(frame.header.id, answer), "one answer each");
    }
    write.join().unwrap().unwrap();
    for (id, answer) in &answers {
        assert_eq!(answer.as_f64(), Some(f64::from(u32::try_from(*id).unwrap())));
    }
    assert_eq!(count, answers.len() as u64);
    drop(client);
    oracle.memory_budget(32 << 20).judge(daemon);
}

#[test]
fn f079_strangers_that_speak_something_else_are_told_so() {
    let (daemon, oracle) = daemon();
    let client_hello =
        [0x16, 0x03, 0x01, 0x00, 0xa5, 0x01, 0x00, 0x00, 0xa1, 0x03, 0x03, 0x5b, 0x1c, 0x0f, 0x9d];
    let noise: Vec<u8> =
        (0..4096u32).map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let strangers: [&[u8]; 5] =
        [b"SSH-2.0-OpenSSH_9.6\r\n", &client_hello, &noise, &[0; 64], &[0xff; 64]];
    let mut all = Vec::new();
    for round in 0..10 {
        for stranger in strangers {
            // After a hello it is garbage just as well.
            let (refused, took) = refused(&daemon, round % 2 == 1, stranger);
            assert_eq!(Refusal::Protocol, refused.refusal);
            all.push(took);
        }
    }
    assert_median(all, 100 * MILLISECOND);
    oracle.judge(daemon);
}

#[test]
fn f079_who_speaks_http_is_told_in_http_that_this_is_not() {
    let (daemon, oracle) = daemon();
    let requests: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"DELETE /x HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    for request in requests {
        let begun = Instant::now();
        let mut client = daemon.stranger();
        client.say(request);
        let mut answer = String::new();
        client.stream().set_read_timeout(Some(REFUSAL_BOUND)).unwrap();
        let mut stream = client.stream();
        // The daemon does not read the rest of the request, so its end may be a reset.
        let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
        assert!(begun.elapsed() < REFUSAL_BOUND, "the connection was not closed");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
        assert!(answer.contains("not HTTP"), "{answer:?}");
    }
    oracle.judge(daemon);
}

#[test]
fn f080_unknown_kinds_flags_codecs_and_directions_are_refused() {
    let (daemon, oracle) = daemon();
    let kinds = (0..=255u8).filter(|byte| match Kind::from_byte(*byte) {
        None => true,
        // What a client may say is not tried here.
        Some(kind) => !matches!(
            kind,
            Kind::Call
                | Kind::Cancel
                | Kind::Ping
                | Kind::Pong
                | Kind::Status
                | Kind::Stop
                | Kind::Release
        ),
    });
    for kind in kinds {
        let (refused, _) = refused(&daemon, true, &forged(kind, 1, 0, 0));
        assert_eq!(Refusal::Protocol, refused.refusal, "kind {kind}: {}", refused.sentence);
    }
    let damage: [fn(&mut [u8; 32]); 5] = [
        |header| header[21] = 0x80,
        |header| header[22] = 9,
        |header| header[23] = 200,
        |header| header[24] = 1,
        |header| header[27] = 0x80,
    ];
    for (index, damage) in damage.iter().enumerate() {
        let mut bytes = Header::new(Kind::Ping, 1).encode();
        damage(&mut bytes);
        let (refused, _) = refused(&daemon, true, &sealed(bytes));
        assert_eq!(Refusal::Protocol, refused.refusal, "case {index}: {}", refused.sentence);
    }
    for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Hello) {
        let (refused, _) = refused(&daemon, false, &forged(*kind as u8, 1, 0, 0));
        assert_eq!(Refusal::Protocol, refused.refusal, "{kind:?} before hello");
    }
    oracle.judge(daemon);
}

#[test]
fn f080_versions_are_agreed_on_or_both_are_named() {
    let (daemon, oracle) = daemon();
    for (min, max) in [(0, 0), (version::MAX + 1, version::MAX + 8), (u16::MAX, u16::MAX)] {
        let (refused, _) = refused(&daemon, false, &hello_of(min, max, Role::Client, &[]));
        assert_eq!(Refusal::Version, refused.refusal);
        for named in [max, version::MAX] {
            let named = named.to_string();
            assert!(refused.sentence.contains(&named), "{named} in: {}", refused.sentence);
        }
    }
    let (refused, _) = refused(&daemon, false, &hello_of(9, 1, Role::Client, &[]));
    assert!(matches!(refused.refusal, Refusal::Version | Refusal::Protocol));
    // Newer peers that still speak our version, with fields we do not know.
    for future in [&b""[..], b"fields of the future"] {
        let mut client = daemon.stranger();
        client.send(&hello_of(0, u16::MAX, Role::Client, future)).unwrap();
        client.expect(Kind::Welcome, REFUSAL_BOUND);
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    }
    oracle.judge(daemon);
}

#[test]
fn f080_a_second_hello_and_a_bad_hello_are_refused() {
    let (daemon, oracle) = daemon();
    refused(&daemon, true, &hello(Role::Client));
    let mut nobody = hello(Role::Client);
    nobody[32 + 4] = 77; // the role's number
    let (refused, _) = refused(&daemon, false, &nobody);
    assert!(matches!(refused.refusal, Refusal::Protocol | Refusal::Role));
    oracle.judge(daemon);
}

/// Bytes of a payload that claim, nest or refer more than they hold.
fn bombs() -> Vec<(Codec, Vec<u8>, &'static str)> {
    let claim = |opcode: u8, bytes: &[u8]| [&[0x80, 5, opcode][..], bytes, b"."].concat();
    let huge = (1u64 << 40).to_le_bytes();
    let nested = |open: &[u8], depth: usize, close: &[u8]| {
        [open.repeat(depth), close.repeat(depth)].concat()
    };
    // A list of two references to a list of two references to …: 2^40 leaves in 200 bytes.
    let mut laughs = b"\x80\x05]\x94".to_vec();
    for level in 0..40u8 {
        laughs.extend([b'(', b'h', level, b'h', level, b'l', 0x94]);
    }
    laughs.push(b'.');
    let lists = [&b"\x80\x05"[..], &b"]".repeat(200_000), &b"a".repeat(199_999), b"."].concat();
    vec![
        (Codec::Json, nested(b"[", 200_000, b"]"), "nested JSON lists"),
        (Codec::Json, nested(b"{\"a\":", 100_000, b"}"), "nested JSON objects"),
        (Codec::Json, b"[1".to_vec(), "half a JSON list"),
        (Codec::Json, b"\xff\xfe".to_vec(), "no UTF-8"),
        (Codec::Json, b"{}".to_vec(), "an object where a list belongs"),
        (Codec::Plain, lists, "nested plain lists"),
        (Codec::Plain, laughs, "billion laughs"),
        (Codec::Plain, claim(0x8e, &huge), "BINBYTES8 of 1 TiB"),
        (Codec::Plain, claim(0x8d, &huge), "BINUNICODE8 of 1 TiB"),
        (Codec::Plain, claim(0x96, &huge), "BYTEARRAY8 of 1 TiB"),
        (Codec::Plain, claim(0x8b, &[0xff, 0xff, 0xff, 0x7f]), "LONG4 of 2 GiB"),
        (Codec::Plain, claim(0x95, &huge), "FRAME of 1 TiB"),
        (Codec::Plain, claim(b'r', &[0xff; 4]), "LONG_BINPUT at 2^32"),
        (Codec::Plain, b"\x80\x05cos\nsystem\n(S'true'\ntR.".to_vec(), "a call of os.system"),
        (Codec::Plain, Vec::new(), "nothing"),
    ]
}

#[test]
fn f082_payloads_that_explode_are_bad_arguments() {
    let (daemon, oracle) = daemon();
    let worker = daemon.worker_pids("default");
    let before = memory_bytes(worker[0]);
    let meta = Call {
        pool: "default".into(),
        function: "bulk:ignore".into(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    let meta = wire::encode(&meta).unwrap();
    let mut client = daemon.raw();
    let mut misses = Vec::new();
    for (codec, payload, what) in bombs() {
        let id = client.next_id();
        client.send(&frame(Kind::Call, id, codec, &meta, &payload)).unwrap();
        let answer = client.read(20 * SECOND).unwrap();
        if answer.header.kind == Kind::Result {
            // Python shares what a payload refers to twice, so to it the laughs are no bomb.
            misses.extend((what != "billion laughs").then(|| format!("{what} was taken")));
            continue;
        }
        let reason = reply(&answer).failure().reason;
        let expected = matches!(reason, Reason::BadArguments { .. });
        misses.extend((!expected).then(|| format!("{what}: {reason:?}")));
    }
    assert!(misses.is_empty(), "{misses:#?}");
    assert_eq!(worker, daemon.worker_pids("default"), "the worker lived through all of it");
    let grown = memory_bytes(worker[0]).saturating_sub(before);
    assert!(grown < 64 << 20, "the worker grew by {} MiB", grown >> 20);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f083_names_that_are_no_names_never_reach_a_lookup() {
    let (daemon, oracle) = daemon();
    let long = format!("math:{}", "q".repeat(FUNCTION_NAME_BYTES_MAX));
    let mut client = daemon.raw();
    for name in [
        "",
        "math",
        "math.sqrt",
        "math:",
        ":sqrt",
        "../etc/passwd:x",
        "math:sqrt\n",
        "math:sq\0rt",
        "a/b:c",
        "-c:x",
        "a b:c",
        "a..b:c",
        "math:sqrt:x",
        &long,
    ] {
        let failure = client.call("default", name, "[2]").failure();
        let Reason::NotFound(missing) = &failure.reason else { panic!("{name:?}: {failure:?}") };
        assert_eq!(MissingWhat::Name, missing.what, "{name:?}");
        assert!(!failure.started, "{name:?}");
    }
    for pool in ["", "nowhere", "../default", "default\0", "default\n", &"p".repeat(1000)] {
        let failure = client.call(pool, "math:sqrt", "[2]").failure();
        let Reason::NotFound(missing) = &failure.reason else { panic!("{pool:?}: {failure:?}") };
        assert!(matches!(missing.what, MissingWhat::Pool | MissingWhat::Name), "{pool:?}");
    }
    assert!(client.is_served(), "a bad name is no reason to hang up");

    // A meta that is no meta is one: text that is no text, and a name longer than any meta.
    let good = Call {
        pool: "default".into(),
        function: "math:sqrt".into(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    let mut bad = wire::encode(&good).unwrap();
    bad[8] = 0xff;
    refused(&daemon, true, &frame(Kind::Call, 1, Codec::Json, &bad, b"[2]"));
    let mebibyte = forged(Kind::Call as u8, 1, META_BYTES_MAX + 40, META_BYTES_MAX + 38);
    refused(&daemon, true, &mebibyte);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f084_every_flipped_bit_of_a_header_is_noticed() {
    let (daemon, oracle) = daemon();
    let accepted = daemon.counter("default", "accepted");
    let whole = call(1, "default", "math:sqrt", "[2]");
    for bit in 0..32 * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (refused, _) = refused(&daemon, true, &damaged);
        assert_eq!(Refusal::Protocol, refused.refusal, "bit {bit}: {}", refused.sentence);
    }
    assert_eq!(accepted, daemon.counter("default", "accepted"), "a damaged call was accepted");
    oracle.judge(daemon);
}

#[test]
fn f084_flags_that_do_not_belong_to_a_kind_change_nothing_else() {
    let (daemon, oracle) = daemon();
    // KEYWORDS on a payload that is no (args, kwargs), and ITEMS on one that is no list.
    let meta = Call {
        pool: "default".into(),
        function: "math:sqrt".into(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    let meta = wire::encode(&meta).unwrap();
    let mut client = daemon.raw();
    for (flags, payload) in [(Flags::KEYWORDS, &b"[2]"[..]), (Flags::ITEMS, b"7")] {
        let id = client.next_id();
        let header = Header {
            flags,
            codec: Codec::Json,
            meta_bytes: u32::try_from(meta.len()).unwrap(),
            payload_bytes: u32::try_from(payload.len()).unwrap(),
            ..Header::new(Kind::Call, id)
        };
        client.send(&[&header.encode()[..], &meta, payload].concat()).unwrap();
        let reason = client.finish(id).failure().reason;
        assert!(matches!(reason, Reason::BadArguments { .. }), "{flags:?}: {reason:?}");
    }
    drop(client);
    oracle.judge(daemon);
}
