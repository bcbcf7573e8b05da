//! Rust types through the `plain` and `json` codecs: what becomes of each, and what an error says.

use std::collections::{BTreeMap, HashMap, HashSet};

use clutch_protocol::plain::{self, ErrorKind, Limits};
use clutch_protocol::value::BigInt;
use clutch_protocol::{Value, json};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

fn value<T: Serialize + ?Sized>(from: &T) -> Value {
    let bytes = plain::to_vec(from).unwrap();
    plain::from_slice(&bytes, Limits::default()).unwrap()
}

fn python<T: Serialize + ?Sized>(from: &T) -> String {
    value(from).to_string()
}

fn read<T: DeserializeOwned>(from: &Value) -> Result<T, plain::Error> {
    plain::from_slice(&plain::to_vec(from).unwrap(), Limits::default())
}

fn list(items: Vec<impl Into<Value>>) -> Value {
    Value::from(items)
}

#[track_caller]
fn round<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(from: T) {
    let bytes = plain::to_vec(&from).unwrap();
    assert_eq!(from, plain::from_slice(&bytes, Limits::default()).unwrap());
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Point {
    x: f64,
    label: Option<String>,
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Unit;

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Meters(u32);

#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Pair(u8, char);

#[derive(Debug, Deserialize, PartialEq, Serialize)]
enum Shape {
    Empty,
    Circle(f64),
    Line(i32, i32),
    Rect { w: u8, h: u8 },
}

#[derive(Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "type")]
enum Tagged {
    A { n: u64 },
    B { items: Vec<Value> },
}

#[test]
fn rust_types_are_what_a_python_programmer_would_write() {
    let point = Point { x: 1.0, label: Some("a".into()) };
    assert_eq!("{'x': 1.0, 'label': 'a'}", python(&point));
    assert_eq!("None", python(&Unit));
    assert_eq!("7", python(&Meters(7)));
    assert_eq!("(1, 'ß')", python(&Pair(1, 'ß')));
    assert_eq!("(1, 'a', None)", python(&(1, "a", ())));
    assert_eq!("(1,)", python(&[1; 1]));
    assert_eq!("[[1], []]", python(&vec![vec![1], vec![]]));
    assert_eq!("'Empty'", python(&Shape::Empty));
    assert_eq!("{'Circle': 1.5}", python(&Shape::Circle(1.5)));
    assert_eq!("{'Line': (1, 2)}", python(&Shape::Line(1, 2)));
    assert_eq!("{'Rect': {'w': 1, 'h': 2}}", python(&Shape::Rect { w: 1, h: 2 }));
    assert_eq!("{1: 'a', 2: 'b'}", python(&BTreeMap::from([(1, "a"), (2, "b")])));
    assert_eq!("0x10000000000000000", python(&(1u128 << 64)));
    assert_eq!("'127.0.0.1'", python(&std::net::Ipv4Addr::LOCALHOST));
}

#[test]
fn rust_types_come_back() {
    round(Point { x: -0.5, label: None });
    round(Unit);
    round(Meters(u32::MAX));
    round(Pair(255, '☃'));
    round((1u8, -2i16, 3u32, -4i64, u64::MAX, i128::MIN, u128::MAX, 1.5f32));
    round([1u64, u64::MAX]);
    round(vec![Shape::Empty, Shape::Circle(0.0), Shape::Line(-1, 1), Shape::Rect { w: 1, h: 2 }]);
    round(HashMap::from([((1, 2), vec!["a".to_string()])]));
    round(HashSet::from([1, 2, 3]));
    round(vec![Some(Some(1)), None]);
    round(vec![Tagged::A { n: u64::MAX }, Tagged::B { items: vec![Value::None, 1.into()] }]);
    round((Value::Set(vec![1.into()]), Value::Tuple(vec![]), Value::ByteArray(vec![1])));
    round((0..5000).map(|n| (n, vec![n])).collect::<Vec<(u32, Vec<u32>)>>());
}

#[test]
fn text_and_bytes_are_borrowed_from_the_input() {
    let bytes = plain::to_vec(&("text", Value::Bytes(b"data".into()))).unwrap();
    let (text, data): (&str, &[u8]) = plain::from_slice(&bytes, Limits::default()).unwrap();
    assert_eq!(("text", &b"data"[..]), (text, data));
    assert!(bytes.as_ptr_range().contains(&text.as_ptr()));
    assert!(bytes.as_ptr_range().contains(&data.as_ptr()));
}

#[test]
fn what_python_does_not_tell_apart_is_taken_for_each_other() {
    let pair = Value::Tuple(vec![1.into(), 2.into()]);
    assert_eq!(vec![1, 2], read::<Vec<u8>>(&pair).unwrap());
    assert_eq!((1, 2), read::<(u8, i64)>(&list(vec![1, 2])).unwrap());
    assert_eq!([1.0, 2.0], read::<[f64; 2]>(&pair).unwrap());
    assert_eq!(vec![1], read::<Vec<i32>>(&Value::Set(vec![1.into()])).unwrap());
    assert_eq!(b"ab".to_vec(), read::<Vec<u8>>(&Value::Bytes(b"ab".into())).unwrap());
    let top = Value::from(u64::MAX);
    assert_eq!(u64::MAX, read::<u64>(&top).unwrap());
    #[expect(clippy::cast_precision_loss, reason = "the loss is what is tested")]
    let nearest = u64::MAX as f64;
    assert_eq!(nearest.to_bits(), read::<f64>(&top).unwrap().to_bits());
}

#[test]
fn a_float_is_rounded_but_never_made_infinite() {
    fn bits(float: f64) -> u64 {
        float.to_bits()
    }
    let power = |bits: usize| Value::int(&[&vec![0; bits / 8][..], &[1]].concat());
    let negative = |bits: usize| Value::int(&[&vec![0; bits / 8][..], &[0xff]].concat());

    // Rounded, as serde_json does it.
    let odd = (1_i64 << 53) + 1;
    let from_json: f64 = serde_json::from_str(&odd.to_string()).unwrap();
    assert_eq!(bits(from_json), bits(read::<f64>(&odd.into()).unwrap()));
    assert_eq!(bits(2_f64.powi(1016)), bits(read::<f64>(&power(1016)).unwrap()));
    assert_eq!(bits(2_f64.powi(120)), bits(read::<f32>(&power(120)).unwrap().into()));
    assert_eq!(0.1_f32.to_bits(), read::<f32>(&0.1.into()).unwrap().to_bits());
    assert_eq!(f32::MAX.to_bits(), read::<f32>(&f64::from(f32::MAX).into()).unwrap().to_bits());

    // Infinite and no number only when Python says so.
    assert!(read::<f32>(&f64::NEG_INFINITY.into()).unwrap().is_infinite());
    assert!(read::<f64>(&f64::INFINITY.into()).unwrap().is_infinite());
    assert!(read::<f32>(&f64::NAN.into()).unwrap().is_nan());

    let says = |error: plain::Error| error.to_string();
    let beyond = |float| format!("expected {float}, found int beyond its range");
    for int in [power(1024), negative(1024), power(8000)] {
        assert_eq!(beyond("f64"), says(read::<f64>(&int).unwrap_err()));
        assert_eq!(beyond("f32"), says(read::<f32>(&int).unwrap_err()));
        assert_eq!(int, read::<Value>(&int).unwrap());
    }
    assert_eq!(beyond("f32"), says(read::<f32>(&power(128)).unwrap_err()));
    for float in [1e300, -1e300, f64::MAX] {
        let error = says(read::<Vec<f32>>(&list(vec![float])).unwrap_err());
        assert!(error.starts_with("value[0]: expected f32, found float "), "{error}");
    }
}

#[test]
fn an_error_says_where_and_what() {
    let dict: Value = [("name", 300)].into_iter().collect();
    let outer = Value::from(vec![Value::None, dict]);
    #[derive(Debug, Deserialize)]
    struct Named {
        #[expect(dead_code, reason = "only its type matters")]
        name: u8,
    }
    let says = |error: plain::Error| error.to_string();
    assert_eq!(
        "value[1].name: expected u8, found int 300",
        says(read::<Vec<Option<Named>>>(&outer).unwrap_err())
    );
    assert_eq!(
        "value[0]: expected u8, found str \"a\"",
        says(read::<Vec<u8>>(&list(vec!["a"])).unwrap_err())
    );
    assert_eq!(
        "value[(1, 2)]: expected i8, found float 1.5",
        says(
            read::<HashMap<(u8, u8), i8>>(&Value::Dict(vec![(
                Value::Tuple(vec![1.into(), 2.into()]),
                1.5.into()
            )]))
            .unwrap_err()
        )
    );
    assert_eq!("the key \"x\" is missing", says(read::<Point>(&Value::Dict(vec![])).unwrap_err()));
    assert_eq!(
        "expected 2 items, found 3 items",
        says(read::<(u8, u8)>(&list(vec![1, 2, 3])).unwrap_err())
    );
    assert_eq!(
        "the variant \"Oval\" is not one of [\"Empty\", \"Circle\", \"Line\", \"Rect\"]",
        says(read::<Shape>(&"Oval".into()).unwrap_err())
    );
    let rect: Value =
        [("Rect", [("w", 1), ("h", 256)].into_iter().collect::<Value>())].into_iter().collect();
    assert_eq!("value.Rect.h: expected u8, found int 256", says(read::<Shape>(&rect).unwrap_err()));
    let set = Value::Set(vec![1.into(), 2.into()]);
    assert_eq!("expected a tuple of size 2, found set", says(read::<(u8, u8)>(&set).unwrap_err()));
    assert!(read::<bool>(&1.into()).is_err());
    assert!(read::<i64>(&1.0.into()).is_err());
    assert!(read::<Vec<u8>>(&"a".into()).is_err());
    assert_eq!(
        "expected a string, found 1 bytes",
        says(read::<String>(&Value::Bytes(b"a".into())).unwrap_err())
    );
    assert!(read::<()>(&Value::Bool(false)).is_err());
}

#[test]
fn text_that_rust_cannot_hold_is_named_not_mangled() {
    let surrogate = b"\x80\x05](K\x01\x8c\x03\xed\xa0\x80e.";
    let error = plain::from_slice::<Value>(surrogate, Limits::default()).unwrap_err();
    assert_eq!(ErrorKind::NotUtf8, *error.kind());
    assert_eq!("[1]", error.path().to_string());
}

#[test]
fn limits_are_kept_to_the_last_one() {
    let bytes = plain::to_vec(&vec![vec!["ab", "cd"]; 10]).unwrap();
    let exact = Limits { bytes: bytes.len(), nodes: 31, depth: 2 };
    plain::check(&bytes, exact).unwrap();
    let kind = |limits| plain::check(&bytes, limits).unwrap_err().kind().clone();
    assert_eq!(ErrorKind::TooManyNodes { limit: 30 }, kind(Limits { nodes: 30, ..exact }));
    assert_eq!(ErrorKind::TooDeep { limit: 1 }, kind(Limits { depth: 1, ..exact }));
    let bytes_max = bytes.len() - 1;
    assert_eq!(ErrorKind::TooLong { limit: bytes_max }, kind(Limits { bytes: bytes_max, ..exact }));
}

#[test]
fn text_that_occurs_again_counts_each_time() {
    // One text of 200 bytes, and a hundred references to it.
    let text = [&b"\x8c\xc8"[..], &[b'a'; 200], b"\x94"].concat();
    let bytes = [b"\x80\x05](", &text[..], &b"h\x00".repeat(100), b"e."].concat();
    let limits = |bytes| Limits { bytes, ..Limits::default() };
    plain::check(&bytes, limits(101 * 200)).unwrap();
    let error = plain::check(&bytes, limits(101 * 200 - 1)).unwrap_err();
    assert_eq!(ErrorKind::TooLong { limit: 101 * 200 - 1 }, *error.kind());
}

#[test]
fn a_value_nests_as_deep_when_written_as_when_read() {
    let nested = |levels| (0..levels).fold(Value::None, |inner, _| Value::List(vec![inner]));
    let deepest = plain::to_vec(&nested(128)).unwrap();
    assert_eq!(nested(128), plain::from_slice(&deepest, Limits::default()).unwrap());
    let error = plain::to_vec(&nested(129)).unwrap_err();
    assert_eq!(ErrorKind::TooDeep { limit: 128 }, *error.kind());
    let deepest = json::to_vec(&nested(127)).unwrap();
    assert_eq!(nested(127), json::from_slice(&deepest).unwrap());
    assert!(matches!(json::to_vec(&nested(128)), Err(json::Error::TooDeep { limit: 127, .. })));
}

#[test]
fn a_failed_write_leaves_the_buffer_as_it_was() {
    let mut out = b"before".to_vec();
    let deep = (0..200).fold(Value::None, |inner, _| Value::List(vec![inner]));
    plain::append(&mut out, &deep).unwrap_err();
    assert_eq!(b"before", &out[..]);
    plain::append(&mut out, &1).unwrap();
    assert_eq!(b"before\x80\x05K\x01.", &out[..]);
}

#[test]
fn a_type_that_miscounts_its_tuple_is_caught() {
    struct Liar;
    impl Serialize for Liar {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeTuple;
            let mut tuple = serializer.serialize_tuple(3)?;
            tuple.serialize_element(&1)?;
            tuple.end()
        }
    }
    let error = plain::to_vec(&Liar).unwrap_err();
    assert_eq!(ErrorKind::ItemCount { announced: 3, written: 1 }, *error.kind());
}

#[test]
fn json_refuses_what_it_would_change_f060() {
    let in_list = |value: Value| {
        let dict: Value = [("a b", Value::List(vec![Value::None, value]))].into_iter().collect();
        json::to_vec(&dict).unwrap_err().to_string()
    };
    let says = |what| format!("value[\"a b\"][1]: JSON cannot hold {what}; ");
    let cases = [
        (f64::NAN.into(), says("NaN")),
        (f64::NEG_INFINITY.into(), says("an infinite float")),
        (Value::Bytes(vec![]), says("bytes")),
        (Value::ByteArray(vec![]), says("bytes")),
        (Value::Set(vec![]), says("a set")),
        (Value::FrozenSet(vec![]), says("a set")),
        (Value::int(&[0x7f; 17]), says("an int of more than 128 bits")),
        (Value::Dict(vec![(Value::Tuple(vec![]), Value::None)]), says("a key that is no text")),
        (Value::Dict(vec![(Value::None, Value::None)]), says("a key that is no text")),
    ];
    for (value, start) in cases {
        let error = in_list(value);
        assert!(error.starts_with(&start), "{error}");
    }
    assert!(json::to_vec(&f32::NAN).is_err());
    let circle = json::to_vec(&[Shape::Circle(f64::INFINITY)]).unwrap_err();
    assert!(circle.to_string().starts_with("value[0].Circle: "), "{circle}");
}

#[test]
fn json_is_what_serde_json_makes_of_the_rest() {
    let value = Value::Dict(vec![
        ("a".into(), Value::Tuple(vec![1.into(), 1.5.into(), Value::None])),
        (5.into(), true.into()),
        ("big".into(), u128::MAX.into()),
    ]);
    assert_eq!(
        r#"{"a":[1,1.5,null],"5":true,"big":340282366920938463463374607431768211455}"#,
        String::from_utf8(json::to_vec(&value).unwrap()).unwrap()
    );
    assert_eq!("0.1", String::from_utf8(json::to_vec(&0.1f32).unwrap()).unwrap());
    let raw = serde_json::value::RawValue::from_string("[1, 2]".into()).unwrap();
    assert_eq!(b"[1, 2]", &json::to_vec(&raw).unwrap()[..]);
    let back: Value = json::from_slice(br#"{"k": [1, -1, 1.0, "x", null]}"#).unwrap();
    assert_eq!("{'k': [1, -1, 1.0, 'x', None]}", back.to_string());
    for bad in ["NaN", "[1] 2", "", "[Infinity]", "{1: 2}", "\u{feff}1"] {
        assert!(json::from_slice::<Value>(bad.as_bytes()).is_err(), "{bad}");
    }
    let deep = "[".repeat(100_000);
    assert!(json::from_slice::<Value>(deep.as_bytes()).is_err());
}

#[test]
fn a_big_integer_is_itself_in_every_format() {
    let big = BigInt::new(&(1i128 << 100).to_le_bytes()).unwrap();
    assert_eq!(Value::BigInt(big.clone()), value(&big));
    assert_eq!(
        "1267650600228229401496703205376",
        String::from_utf8(json::to_vec(&big).unwrap()).unwrap()
    );
}
