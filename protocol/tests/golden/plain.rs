//! Values in the `plain` codec, as Rust and as each CPython writes them.

use std::collections::BTreeMap;
use std::fmt::Write;

use clutch_protocol::Value;
use clutch_protocol::plain::{self, Limits};

use super::{compare, hex, read, unhex};

#[test]
fn what_rust_writes_is_the_same_bytes_for_ever() {
    let mut text = String::from("# name, hex, literal; see ../README.md\n");
    for (name, value) in values() {
        let bytes = plain::to_vec(&value).unwrap();
        writeln!(text, "{name}\t{}\t{value}", hex(&bytes)).unwrap();
        let back: Value = plain::from_slice(&bytes, Limits::default()).unwrap();
        assert_eq!(shown(&value), shown(&back), "{name}");
    }
    compare("plain/rust.txt", &text);
}

#[test]
fn what_each_cpython_writes_is_read() {
    for file in ["plain/cpython-3.8.txt", "plain/cpython-3.13.txt"] {
        let mut known: BTreeMap<_, _> = values().into_iter().chain(shared()).collect();
        for [name, bytes, literal] in lines(&read(file)) {
            let wanted =
                known.remove(name.as_str()).unwrap_or_else(|| panic!("{file}: {name} is new here"));
            assert_eq!(wanted.to_string(), literal, "{file}: {name}");
            let found: Value = plain::from_slice(&unhex(&bytes), Limits::default())
                .unwrap_or_else(|error| panic!("{file}: {name}: {error}"));
            assert_eq!(shown(&wanted), shown(&found), "{file}: {name}");
        }
        assert!(known.is_empty(), "{file} lacks {known:?}");
    }
}

#[test]
fn what_is_not_data_is_refused_by_name() {
    let text = read("plain/refused.txt");
    let mut count = 0;
    for [name, bytes, word] in lines(&text) {
        let refusal = plain::check(&unhex(&bytes), Limits::default()).expect_err(&name);
        assert!(refusal.to_string().contains(&word), "{name}: {refusal}");
        let refusal = plain::from_slice::<Value>(&unhex(&bytes), Limits::default());
        assert!(refusal.is_err(), "{name}");
        count += 1;
    }
    assert!(count > 20, "{count} refusals are too few");
}

fn lines(text: &str) -> impl Iterator<Item = [String; 3]> {
    text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let fields: Vec<String> = line.split('\t').map(String::from).collect();
        fields.try_into().expect("three fields")
    })
}

/// Equal texts are equal values, `nan` and `-0.0` included.
fn shown(value: &Value) -> String {
    format!("{value:?}")
}

fn text(text: &str) -> Value {
    text.into()
}

fn list(items: impl IntoIterator<Item = i64>) -> Value {
    Value::List(items.into_iter().map(Value::Int).collect())
}

fn numbers() -> Vec<(&'static str, Value)> {
    let huge = [&[0x5a; 300][..], &[1]].concat();
    vec![
        ("none", Value::None),
        ("true", true.into()),
        ("false", false.into()),
        ("int-0", 0.into()),
        ("int-255", 255.into()),
        ("int-256", 256.into()),
        ("int-65535", 65535.into()),
        ("int-65536", 65536.into()),
        ("int-minus-1", (-1).into()),
        ("int-32-max", i32::MAX.into()),
        ("int-32-min", i32::MIN.into()),
        ("int-32-over", (i64::from(i32::MAX) + 1).into()),
        ("int-32-under", (i64::from(i32::MIN) - 1).into()),
        ("int-64-max", i64::MAX.into()),
        ("int-64-min", i64::MIN.into()),
        ("int-64-over", (i128::from(i64::MAX) + 1).into()),
        ("int-64-under", (i128::from(i64::MIN) - 1).into()),
        ("int-u64-max", u64::MAX.into()),
        ("int-u128-max", u128::MAX.into()),
        ("int-i128-min", i128::MIN.into()),
        ("int-301-bytes", Value::int(&huge)),
        ("float-0", 0.0.into()),
        ("float-minus-0", (-0.0).into()),
        ("float-pi", std::f64::consts::PI.into()),
        ("float-tiny", 5e-324.into()),
        ("float-max", f64::MAX.into()),
        ("float-inf", f64::INFINITY.into()),
        ("float-minus-inf", f64::NEG_INFINITY.into()),
        ("float-nan", f64::NAN.into()),
    ]
}

fn values() -> Vec<(&'static str, Value)> {
    let deep = (0..60).fold(Value::Int(0), |inner, _| Value::List(vec![inner]));
    let mut values = numbers();
    values.extend([
        ("str-empty", text("")),
        ("str", text("it's \\ a\ttab, größe, ☃, \u{1f40d}\n\0")),
        ("str-255", text(&"a".repeat(255))),
        ("str-256", text(&"é".repeat(128))),
        ("bytes-empty", Value::Bytes(vec![])),
        ("bytes", Value::Bytes((0..=255).collect())),
        ("bytes-255", Value::Bytes(vec![7; 255])),
        ("bytearray-empty", Value::ByteArray(vec![])),
        ("bytearray", Value::ByteArray(b"\0\xffab".into())),
        ("list-empty", list([])),
        ("list-one", list([1])),
        ("list", list([1, 2, 3])),
        ("list-1500", list(0..1500)),
        ("list-deep", deep),
        ("tuple-empty", Value::Tuple(vec![])),
        ("tuple-1", Value::Tuple(vec![1.into()])),
        ("tuple-2", Value::Tuple(vec![1.into(), 2.into()])),
        ("tuple-3", Value::Tuple(vec![1.into(), text("b"), 2.5.into()])),
        ("tuple-4", Value::Tuple((1..=4).map(Value::Int).collect())),
        ("dict-empty", Value::Dict(vec![])),
        ("dict-one", [("a", 1)].into_iter().collect()),
        (
            "dict",
            Value::Dict(vec![
                (text("z"), list([1])),
                (text("a"), Value::None),
                (Value::Int(-7), Value::Dict(vec![])),
                (Value::Tuple(vec![1.into(), text("x")]), text("tuple")),
                (Value::Bytes(b"k".into()), Value::Set(vec![])),
            ]),
        ),
        ("dict-1500", (0..1500).map(|key| (key, key + 1)).collect()),
        ("set-empty", Value::Set(vec![])),
        ("set", Value::Set(vec![1.into()])),
        ("frozenset-empty", Value::FrozenSet(vec![])),
        ("frozenset", Value::FrozenSet(vec![text("a")])),
        ("set-of-frozensets", Value::Set(vec![Value::FrozenSet(vec![Value::Bytes(b"x".into())])])),
    ]);
    values
}

/// What only a pickler with a memo writes otherwise: parts that occur twice.
fn shared() -> Vec<(&'static str, Value)> {
    let pair = || Value::Tuple(vec![1.into(), text("one")]);
    let keyed = || Value::Dict(vec![(text("k"), list([1]))]);
    vec![
        ("shared-list", Value::List(vec![list([1]), list([1])])),
        ("shared-tuple", Value::List(vec![pair(), pair(), pair()])),
        ("shared-dict", [("a", keyed()), ("b", keyed())].into_iter().collect()),
        ("shared-str", Value::List(vec![text("again"), text("again")])),
        (
            "shared-bytearray",
            Value::Tuple(vec![Value::ByteArray(b"b".into()), Value::ByteArray(b"b".into())]),
        ),
        (
            "shared-frozenset",
            Value::Tuple(vec![Value::FrozenSet(vec![5.into()]), Value::FrozenSet(vec![5.into()])]),
        ),
        (
            "shared-nested",
            Value::List(vec![
                Value::List(vec![pair(), list([2])]),
                list([2]),
                Value::List(vec![pair(), list([2])]),
            ]),
        ),
        (
            "memo-beyond-255",
            Value::List(
                (0..300)
                    .map(|n| text(&format!("s{n}")))
                    .chain([text("s299"), text("s0")])
                    .collect(),
            ),
        ),
    ]
}
