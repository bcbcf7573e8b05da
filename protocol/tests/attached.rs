//! Values in `plain` with large parts beside them: what is written for each, how it is read as
//! types that know attachments and as types that do not, and what is refused.

use std::cell::RefCell;
use std::collections::BTreeMap;

use clutch_protocol::Value;
use clutch_protocol::attachment::Content;
use clutch_protocol::limits::ATTACH_BYTES_MIN;
use clutch_protocol::plain::{
    self, ATTACHED, Attach, Attached, ErrorKind, Limits, Unattached, append_with, from_slice_with,
};
use proptest::prelude::*;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// What is attached, in its order.
#[derive(Default)]
struct Pile {
    list: Vec<(Content, Vec<u8>)>,
    /// Refuses more than so many.
    most: usize,
    offered: RefCell<Vec<usize>>,
}

thread_local! {
    static INVITED: RefCell<bool> = const { RefCell::new(false) };
    static HANDED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

impl Attach for Pile {
    fn bytes(&mut self, bytes: &[u8], content: Content) -> Result<bool, Unattached> {
        if self.list.len() >= self.most {
            return Err(Unattached);
        }
        self.list.push((content, bytes.to_vec()));
        Ok(true)
    }

    fn invite(&mut self) {
        INVITED.replace(true);
    }

    fn accept(&mut self) -> Result<bool, Unattached> {
        INVITED.replace(false);
        let Some(bytes) = HANDED.take() else { return Ok(false) };
        self.bytes(&bytes, doubles(&[bytes.len() as u64 / 8]))
    }
}

impl Attached for Pile {
    fn count(&self) -> usize {
        self.list.len()
    }

    fn content(&self, index: usize) -> &Content {
        &self.list[index].0
    }

    fn size(&self, index: usize) -> u64 {
        self.list[index].1.len() as u64
    }

    fn bytes(&self, index: usize) -> Result<&[u8], &'static str> {
        Ok(&self.list[index].1)
    }

    fn offer(&self, index: usize) {
        self.offered.borrow_mut().push(index);
    }
}

fn doubles(shape: &[u64]) -> Content {
    array("<f8", shape)
}

fn array(dtype: &str, shape: &[u64]) -> Content {
    let (dtype, shape) = (dtype.to_owned(), shape.to_vec());
    Content::Array { dtype, shape, strides: Vec::new(), writable: false }
}

/// Numbers that hand themselves over where they are invited.
#[derive(Debug, PartialEq)]
struct Whole(Vec<f64>);

impl Serialize for Whole {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Inner<'a>(&'a [f64]);

        impl Serialize for Inner<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if !INVITED.replace(false) {
                    return self.0.serialize(serializer);
                }
                HANDED.replace(Some(self.0.iter().flat_map(|n| n.to_le_bytes()).collect()));
                serializer.serialize_str("what is written meanwhile is forgotten")
            }
        }

        serializer.serialize_newtype_struct(ATTACHED, &Inner(&self.0))
    }
}

/// Whether something came whole, or as lists.
#[derive(Debug, PartialEq)]
enum Came {
    Whole,
    Lists(Vec<f64>),
}

impl<'de> Deserialize<'de> for Came {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Came, D::Error> {
        struct CameVisitor;

        impl<'de> Visitor<'de> for CameVisitor {
            type Value = Came;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array")
            }

            fn visit_unit<E>(self) -> Result<Came, E> {
                Ok(Came::Whole)
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Came, D::Error> {
                Vec::deserialize(d).map(Came::Lists)
            }
        }

        deserializer.deserialize_newtype_struct(ATTACHED, CameVisitor)
    }
}

fn pile() -> Pile {
    Pile { most: usize::MAX, ..Pile::default() }
}

fn written<T: Serialize>(value: &T) -> (Vec<u8>, Pile) {
    let (mut bytes, mut pile) = (Vec::new(), pile());
    append_with(&mut bytes, value, &mut pile).unwrap();
    (bytes, pile)
}

fn read<T: DeserializeOwned>(bytes: &[u8], pile: &Pile) -> Result<T, plain::Error> {
    from_slice_with(bytes, pile, Limits::default())
}

fn of(list: Vec<(Content, Vec<u8>)>) -> Pile {
    Pile { list, ..pile() }
}

const LARGE: usize = ATTACH_BYTES_MIN;

#[test]
fn large_bytes_leave_the_value_and_small_ones_stay() {
    let parts = vec![
        Value::Bytes(vec![1; LARGE - 1]),
        Value::Bytes(vec![2; LARGE]),
        Value::ByteArray(vec![3; LARGE]),
        Value::ByteArray(vec![4; 3]),
    ];
    let (bytes, pile) = written(&parts);
    assert!(bytes.len() < LARGE + 40);
    let attached: Vec<_> =
        pile.list.iter().map(|(content, bytes)| (content, bytes[0], bytes.len())).collect();
    assert_eq!(
        vec![(&Content::Bytes, 2, LARGE), (&Content::ByteArray, 3, LARGE)],
        attached,
        "in their order"
    );
    assert_eq!(parts, read::<Vec<Value>>(&bytes, &pile).unwrap());
    // The opcode is there without anything else.
    assert_eq!(b"\x80\x05\x97.", &written(&Value::Bytes(vec![0; LARGE])).0[..]);
}

#[test]
fn what_hands_itself_over_is_attached_whatever_its_size() {
    let value = BTreeMap::from([("a", vec![Whole(vec![1.5])]), ("b", vec![Whole(vec![])])]);
    let (bytes, pile) = written(&value);
    assert_eq!(2, pile.list.len());
    assert!(!bytes.windows(9).any(|part| part == b"forgotten"));
    let came: BTreeMap<String, Vec<Came>> = read(&bytes, &pile).unwrap();
    assert!(came.values().flatten().all(|came| *came == Came::Whole));
    assert_eq!(vec![0, 1], *pile.offered.borrow());
    // Nobody invites it: lists, in this codec and in others.
    let bytes = plain::to_vec(&value).unwrap();
    let lists: BTreeMap<String, Vec<Came>> = plain::from_slice(&bytes, Limits::default()).unwrap();
    assert_eq!(vec![Came::Lists(vec![1.5])], lists["a"]);
    assert_eq!("[1.5]", serde_json::to_string(&Whole(vec![1.5])).unwrap());
}

#[test]
fn what_cannot_be_attached_leaves_nothing_behind() {
    let mut out = b"before".to_vec();
    let mut pile = Pile { most: 1, ..Pile::default() };
    let value = vec![Whole(vec![1.0]), Whole(vec![2.0])];
    let error = append_with(&mut out, &value, &mut pile).unwrap_err();
    assert_eq!((&ErrorKind::Unattached, &b"before"[..]), (error.kind(), &out[..]));
    assert_eq!("[1]", error.path().to_string());
}

/// `(NEXT_BUFFER,)`.
const ONE: &[u8] = b"\x80\x05\x97\x85.";

fn one<T: DeserializeOwned>(content: Content, bytes: &[u8]) -> Result<T, plain::Error> {
    read::<(T,)>(ONE, &of(vec![(content, bytes.to_vec())])).map(|(value,)| value)
}

#[test]
fn an_array_is_lists_of_its_numbers_to_who_does_not_know_arrays() {
    let bytes: Vec<u8> = (1..=6_i16).flat_map(i16::to_le_bytes).collect();
    let table = || array("<i2", &[2, 3]);
    let rows = [[1, 2, 3], [4, 5, 6]];
    assert_eq!(rows.map(Vec::from).to_vec(), one::<Vec<Vec<i32>>>(table(), &bytes).unwrap());
    assert_eq!(rows, one::<[[i32; 3]; 2]>(table(), &bytes).unwrap());
    assert_eq!(6.0, one::<Vec<Vec<f64>>>(table(), &bytes).unwrap()[1][2]);
    assert_eq!(Some(4), one::<Vec<Vec<Option<u8>>>>(table(), &bytes).unwrap()[1][0]);
    let row = |row: [i64; 3]| Value::List(row.map(Value::Int).to_vec());
    let value = Value::List(rows.map(|r| row(r.map(i64::from))).to_vec());
    assert_eq!(value, one::<Value>(table(), &bytes).unwrap());
    assert_eq!(5, one::<i64>(array("<u2", &[]), &[5, 0]).unwrap());
    assert!(one::<Vec<f64>>(array("<f8", &[0]), &[]).unwrap().is_empty());
    assert_eq!(vec![true, false], one::<Vec<bool>>(array("|b1", &[2]), &[1, 0]).unwrap());
    let complex = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
    assert_eq!(vec![(1.5, -2.0)], one::<Vec<(f64, f64)>>(array("<c8", &[1]), &complex).unwrap());
    assert_eq!(vec![1.0_f32], one::<Vec<f32>>(array("<f2", &[1]), &[0, 0x3c]).unwrap());
    let strides = |strides: &[i64]| Content::Array {
        dtype: "<i2".into(),
        shape: vec![3, 2],
        strides: strides.to_vec(),
        writable: false,
    };
    let turned = one::<Vec<Vec<i16>>>(strides(&[2, 6]), &bytes).unwrap();
    assert_eq!(vec![vec![1, 4], vec![2, 5], vec![3, 6]], turned);
    assert!(one::<Vec<Vec<i16>>>(strides(&[2, 8]), &bytes).is_err());
}

#[test]
fn bytes_are_bytes_wherever_they_were() {
    let large = vec![7; 100];
    for content in [Content::Bytes, Content::ByteArray, Content::Arrow] {
        assert_eq!(large, one::<Vec<u8>>(content.clone(), &large).unwrap());
        assert!(one::<String>(content.clone(), &large).is_err());
        assert!(one::<u8>(content, &large).is_err());
    }
    assert_eq!(Value::Bytes(large.clone()), one(Content::Bytes, &large).unwrap());
    assert_eq!(Value::ByteArray(large.clone()), one(Content::ByteArray, &large).unwrap());
}

#[test]
fn what_does_not_fit_says_where_and_what() {
    let text = |error: plain::Error| error.to_string();
    let halves = 0.5_f64.to_le_bytes();
    let found = text(one::<Vec<i64>>(doubles(&[1]), &halves).unwrap_err());
    assert!(found.contains("value[0][0]: expected i64, found float 0.5"), "{found}");
    let found = text(one::<Vec<f64>>(array("<M8[ns]", &[1]), &halves).unwrap_err());
    assert!(found.contains("<M8[ns]") && found.contains("astype"), "{found}");
    let found = text(one::<Vec<f64>>(doubles(&[2]), &halves).unwrap_err());
    assert!(found.contains("more elements than its bytes hold"), "{found}");
    let found = text(one::<[f64; 1]>(doubles(&[2]), &[halves, halves].concat()).unwrap_err());
    assert!(found.contains("expected 1 items, found 2 items"), "{found}");
    let found = text(one::<BTreeMap<u8, u8>>(doubles(&[1]), &halves).unwrap_err());
    assert!(found.contains("map"), "{found}");
    let huge = 1e300_f64.to_le_bytes();
    assert!(one::<Vec<f32>>(doubles(&[1]), &huge).is_err(), "it would become infinite");
    assert!(one::<Vec<u8>>(Content::Stream { stream: 1 }, &[]).is_err());
}

#[test]
fn each_attachment_is_used_once_and_none_is_left() {
    let two = || of(vec![(Content::Bytes, vec![1]), (Content::Bytes, vec![2])]);
    let both: (Vec<u8>, Vec<u8>) = read(b"\x80\x05\x97\x97\x86.", &two()).unwrap();
    assert_eq!((vec![1], vec![2]), both);
    let kind = |bytes: &[u8], pile: &Pile| read::<Value>(bytes, pile).unwrap_err().kind().clone();
    assert_eq!(ErrorKind::Attachments { used: 1, attached: 2 }, kind(ONE, &two()));
    let three = b"\x80\x05\x97\x97\x97\x87.";
    assert_eq!(ErrorKind::Attachments { used: 3, attached: 2 }, kind(three, &two()));
    assert_eq!(ErrorKind::Attachments { used: 1, attached: 0 }, kind(ONE, &of(vec![])));
    // Without attachments it is an opcode like any that is not data.
    let refusal = plain::from_slice::<Value>(ONE, Limits::default()).unwrap_err();
    assert_eq!(&ErrorKind::Refused { opcode: "NEXT_BUFFER", at: 2 }, refusal.kind());
}

#[test]
fn a_pickler_may_remark_on_a_buffer_and_refer_to_it_again() {
    let pile = of(vec![(Content::Bytes, vec![9; 9])]);
    assert_eq!(vec![9; 9], read::<Vec<u8>>(b"\x80\x05\x97\x98.", &pile).unwrap());
    let refused = read::<Value>(b"\x80\x05N\x98\x97\x86.", &pile).unwrap_err();
    assert!(refused.to_string().contains("READONLY_BUFFER"), "{refused}");
    let twice: (Vec<u8>, Vec<u8>) = read(b"\x80\x05\x97\x94h\0\x86.", &pile).unwrap();
    assert_eq!(twice.0, twice.1);
}

#[test]
fn copies_of_one_buffer_are_bounded() {
    // Each list holds the one before it twice; the innermost holds an attachment.
    let doubled = |levels: u8| {
        let lists: Vec<u8> =
            (0..levels).flat_map(|at| [b']', 0x94, b'(', b'h', at, b'h', at, b'e']).collect();
        [b"\x80\x05(]\x94(\x97e", &lists[..], b"t."].concat()
    };
    let limits = Limits { bytes: 10_000, ..Limits::default() };
    let pile = of(vec![(Content::Bytes, vec![0; 1000])]);
    let size = |levels| {
        from_slice_with::<serde::de::IgnoredAny>(&doubled(levels), &pile, limits).map(drop)
    };
    assert!(size(2).is_ok());
    let refusal = size(8).unwrap_err();
    assert!(matches!(refusal.kind(), ErrorKind::TooLong { .. }), "{refusal}");
}

proptest! {
    #[test]
    fn bytes_of_any_length_come_back(
        lengths in prop::collection::vec((LARGE - 3..LARGE + 3, any::<bool>()), 0..6),
    ) {
        let parts: Vec<Value> = lengths
            .iter()
            .map(|(length, own)| match own {
                true => Value::ByteArray(vec![1; *length]),
                false => Value::Bytes(vec![2; *length]),
            })
            .collect();
        let (bytes, pile) = written(&parts);
        let large = lengths.iter().filter(|(length, _)| *length >= LARGE).count();
        prop_assert_eq!(large, pile.list.len());
        prop_assert_eq!(parts, read::<Vec<Value>>(&bytes, &pile).unwrap());
    }

    #[test]
    fn no_bytes_with_attachments_do_more_than_fail(
        mut bytes in prop::collection::vec(
            prop::sample::select(&b"\x97\x97\x98\x94h\0\x01](e.tu}\x85\x86K\x07Na\x8f\x90\x91"[..]),
            0..40,
        ),
        dtype in prop::sample::select(vec!["<f8", "|b1", "<c16", ">i4", "?"]),
        shape in prop::collection::vec(0_u64..5, 0..4),
        strides in prop::collection::vec(-9_i64..20, 0..4),
        size in 0_usize..200,
    ) {
        bytes.splice(0..0, *b"\x80\x05");
        bytes.push(b'.');
        let content = Content::Array { dtype: dtype.into(), shape, strides, writable: true };
        let list = vec![(content, vec![1; size]), (Content::ByteArray, vec![2; size])];
        let pile = of(list);
        let _value = read::<Value>(&bytes, &pile);
        let _lists = read::<Vec<Vec<f64>>>(&bytes, &pile);
        let _whole = read::<Vec<Came>>(&bytes, &pile);
    }
}
