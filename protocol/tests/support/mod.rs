//! Values for property tests: what both of them need.

use clutch_protocol::Value;
use proptest::prelude::*;

pub(crate) fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<f64>().prop_map(Value::Float),
        prop::sample::select(&[0.0, -0.0, f64::NAN, f64::INFINITY, 5e-324, 1e16][..])
            .prop_map(Value::Float),
        bytes().prop_map(Value::ByteArray),
        integer(),
        text(),
        bytes().prop_map(Value::Bytes),
    ]
}

pub(crate) fn integer() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::Int),
        // Every width has its own opcode, so every edge of a width is a case of its own.
        (0..70u32, -2..=2i128).prop_map(|(bit, near)| Value::from((1i128 << bit) + near)),
        (0..70u32, -2..=2i128).prop_map(|(bit, near)| Value::from(near - (1i128 << bit))),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Value::int(&bytes)),
    ]
}

pub(crate) fn text() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<String>().prop_map(Value::Str),
        (250..260usize).prop_map(|length| Value::Str("x".repeat(length))),
    ]
}

pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}
