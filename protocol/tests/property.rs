//! Any bytes into anything that reads give a value or an error: no panic, no hang. That they give
//! no unbounded memory either is in `memory`.

mod support;

use bytes::BytesMut;
use clutch_protocol::failure::{Failure, WorkerFailure};
use clutch_protocol::frame::{Decoder, Frame, FrameError, Header, Kind, Step};
use clutch_protocol::limits::HEADER_BYTES;
use clutch_protocol::message::{
    Answer, Call, Exited, Halted, Hello, Output, Ready, Refused, Run, Setup, Signal, Spawn,
    SpawnFailed, Spawned, Stop, Swept, Welcome,
};
use clutch_protocol::plain::{self, Limits};
use clutch_protocol::wire::{self, Decode, Encode};
use clutch_protocol::{Value, json};
use proptest::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;

use support::scalar;

/// Any value: unhashable keys, equal keys and NaN included.
fn any_value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(6, 200, 12, |inner| {
        let items = || prop::collection::vec(inner.clone(), 0..12);
        prop_oneof![
            items().prop_map(Value::List),
            items().prop_map(Value::Tuple),
            items().prop_map(Value::Set),
            items().prop_map(Value::FrozenSet),
            prop::collection::vec((inner.clone(), inner.clone()), 0..8).prop_map(Value::Dict),
        ]
    })
}

/// Feeds bytes in pieces, and gives every frame and how it ended.
fn decode(bytes: &[u8], pieces: &[usize]) -> (Vec<Frame>, Result<(), FrameError>) {
    let mut decoder = Decoder::with_payload_max(256);
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    let mut rest = bytes;
    let mut pieces = pieces.iter().cycle();
    loop {
        match decoder.step(&mut buffer) {
            Err(error) => return (frames, Err(error)),
            Ok(Step::Frame(frame)) => frames.push(frame),
            Ok(Step::Need(count)) => {
                assert!(count > 0, "to need nothing is to hang");
                if rest.is_empty() {
                    return (frames, Ok(()));
                }
                let piece = (*pieces.next().expect("a cycle")).clamp(1, rest.len());
                buffer.extend_from_slice(&rest[..piece]);
                rest = &rest[piece..];
            }
        }
    }
}

fn same(a: &[Frame], b: &[Frame]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| (a.header, &a.meta, &a.payload) == (b.header, &b.meta, &b.payload))
}

/// Frames that are mostly right.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = (
        prop::sample::select(Kind::ALL),
        any::<u64>(),
        prop::collection::vec(any::<u8>(), 0..64),
        prop::collection::vec(any::<u8>(), 0..64),
        prop::option::weighted(0.1, (0..HEADER_BYTES, any::<u8>())),
    );
    let frame = frame.prop_map(|(kind, id, meta, payload, damage)| {
        let header = Header {
            meta_bytes: u32::try_from(meta.len()).expect("short"),
            payload_bytes: u32::try_from(payload.len()).expect("short"),
            ..Header::new(kind, id)
        };
        let mut bytes = [&header.encode()[..], &meta, &payload].concat();
        if let Some((at, byte)) = damage {
            bytes[at] = byte;
        }
        bytes
    });
    prop::collection::vec(frame, 0..6).prop_map(|frames| frames.concat())
}

/// A meta that decodes is one that encodes to the same bytes.
fn meta<T: Decode<()> + Encode>(bytes: &[u8]) {
    if let Ok(meta) = wire::decode::<T>(bytes) {
        assert_eq!(bytes, wire::encode(&meta).expect("it was one"));
    }
}

fn every_meta(bytes: &[u8]) {
    if let Ok((hello, used)) = wire::decode_prefix::<Hello>(bytes) {
        assert_eq!(bytes[..used], wire::encode(&hello).expect("it was one"));
    }
    meta::<Welcome>(bytes);
    meta::<Refused>(bytes);
    meta::<Call>(bytes);
    meta::<Answer>(bytes);
    meta::<Output>(bytes);
    meta::<Stop>(bytes);
    meta::<Setup>(bytes);
    meta::<Ready>(bytes);
    meta::<Run>(bytes);
    meta::<Spawn>(bytes);
    meta::<Spawned>(bytes);
    meta::<SpawnFailed>(bytes);
    meta::<Signal>(bytes);
    meta::<Exited>(bytes);
    meta::<Swept>(bytes);
    meta::<Halted>(bytes);
    meta::<Failure>(bytes);
    meta::<WorkerFailure>(bytes);
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "only reading it matters")]
enum Typed<'a> {
    Unit,
    New(u8),
    Pair(i128, f32),
    Fields { text: &'a str, data: &'a [u8], rest: Vec<Option<(bool, char)>> },
}

/// Reads bytes as a value and as types of every sort. Whatever is a value must survive being
/// written and read again.
fn every_type(bytes: &[u8]) {
    let limits = Limits { bytes: 1 << 20, nodes: 10_000, depth: 64 };
    let checked = plain::check(bytes, limits);
    let value = plain::from_slice::<Value>(bytes, limits);
    if let Ok(value) = &value {
        checked.as_ref().expect("what is read is valid");
        let again = plain::to_vec(value).expect("it is within every limit");
        let back: Value = plain::from_slice(&again, Limits::default()).expect("we wrote it");
        assert_eq!(format!("{value:?}"), format!("{back:?}"));
        let _shown = value.to_string();
        if let Ok(text) = json::to_vec(value) {
            json::from_slice::<Value>(&text).expect("we wrote it");
        }
    }
    assert_eq!(checked.is_ok(), plain::from_slice::<IgnoredAny>(bytes, limits).is_ok());
    let _ = plain::from_slice::<Vec<Typed<'_>>>(bytes, limits);
    let _ = plain::from_slice::<(f64, u64, &str)>(bytes, limits);
    let _ = plain::from_slice::<std::collections::HashMap<String, Vec<u8>>>(bytes, limits);
    let _ = plain::from_slice::<serde_json::Value>(bytes, limits);
}

/// An opcode, a byte of length and that many bytes.
fn sized(code: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short");
    [&[code, length], bytes].concat()
}

/// Opcodes with plausible operands, in any order: far more of them get past the first byte than of
/// random bytes.
fn opcodes() -> impl Strategy<Value = Vec<u8>> {
    let plain = prop::sample::select(&b"N\x88\x89]}\x8f()aesut\x85\x86\x87\x90\x91\x94"[..]);
    let opcode = prop_oneof![
        8 => plain.prop_map(|code| vec![code]),
        2 => any::<u8>().prop_map(|at| vec![b'h', at % 8]),
        2 => any::<u8>().prop_map(|int| vec![b'K', int]),
        1 => any::<[u8; 8]>().prop_map(|float| [&b"G"[..], &float].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| sized(0x8a, &bytes)),
        1 => "[a-z]{0,3}".prop_map(|text| sized(0x8c, text.as_bytes())),
        1 => any::<u8>().prop_map(|code| vec![code]),
    ];
    prop::collection::vec(opcode, 0..60)
        .prop_map(|codes| [&b"\x80\x05"[..], &codes.concat(), b"."].concat())
}

/// One thing that happens to bytes on their way.
#[derive(Clone, Debug)]
enum Damage {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index),
    Insert(prop::sample::Index, u8),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        index().prop_map(Damage::Cut),
        index().prop_map(Damage::Remove),
        (index(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (index(), index()).prop_map(|(from, to)| Damage::Repeat(from, to)),
    ]
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match damage {
        Damage::Set(at, byte) => bytes[at.index(length)] = *byte,
        Damage::Cut(at) => bytes.truncate(at.index(length)),
        Damage::Remove(at) => drop(bytes.remove(at.index(length))),
        Damage::Insert(at, byte) => bytes.insert(at.index(length), *byte),
        Damage::Repeat(from, to) => {
            let (from, to) = (from.index(length), to.index(length));
            let part = bytes[from.min(to)..from.max(to)].to_vec();
            bytes.splice(from..from, part);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_bytes_into_the_frame_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &[1]);
        let mut with_magic = b"CLU1".to_vec();
        with_magic.extend(&bytes);
        let _ = decode(&with_magic, &[1]);
    }

    #[test]
    fn frames_are_the_same_however_they_are_cut_f078(
        bytes in frames(),
        pieces in prop::collection::vec(1..100usize, 1..20),
    ) {
        let (whole, whole_end) = decode(&bytes, &[usize::MAX]);
        let (cut, cut_end) = decode(&bytes, &pieces);
        prop_assert!(same(&whole, &cut));
        // Not `==`: a stranger's first bytes are shown as far as they have come.
        let kind = |end: Result<(), FrameError>| end.map_err(|e| std::mem::discriminant(&e));
        prop_assert_eq!(kind(whole_end), kind(cut_end));
    }

    #[test]
    fn any_bytes_into_every_meta(bytes in prop::collection::vec(
        prop_oneof![3 => 0..4u8, 1 => any::<u8>()], 0..200,
    )) {
        every_meta(&bytes);
    }

    #[test]
    fn any_bytes_into_the_plain_reader(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        every_type(&bytes);
        every_type(&[&b"\x80\x05"[..], &bytes, b"."].concat());
    }

    #[test]
    fn any_opcodes_into_the_plain_reader(bytes in opcodes()) {
        every_type(&bytes);
    }

    #[test]
    fn damaged_values_into_the_plain_reader(
        value in any_value(),
        damages in prop::collection::vec(damage(), 1..5),
    ) {
        let mut bytes = plain::to_vec(&value).unwrap();
        for damage in &damages {
            apply(&mut bytes, damage);
        }
        every_type(&bytes);
    }

    #[test]
    fn any_bytes_into_the_json_reader(text in "[\\[\\]{}\",:0-9a-zE+. \\\\-]{0,80}") {
        let _ = json::from_slice::<Value>(text.as_bytes());
    }

    #[test]
    fn every_value_comes_back_as_it_was(value in any_value()) {
        let bytes = plain::to_vec(&value).unwrap();
        let back: Value = plain::from_slice(&bytes, Limits::default()).unwrap();
        // Through the bytes, since NaN is not equal to itself.
        prop_assert_eq!(format!("{value:?}"), format!("{back:?}"));
        prop_assert_eq!(bytes, plain::to_vec(&back).unwrap());
    }
}
