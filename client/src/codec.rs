//! Values to payloads and back, with faults turned into reasons a caller can act on. What is large
//! leaves the payload, and is found beside it; see `memory`.

use std::collections::BTreeMap;

use bytes::Bytes;
use clutch_protocol::attachment::Content;
use clutch_protocol::failure::Exception;
use clutch_protocol::limits::ATTACH_BYTES_MIN;
use clutch_protocol::value::Value;
use clutch_protocol::{Codec, Flags, Reason, json, plain};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IntoDeserializer as _};
use serde::ser::{Serialize, SerializeTuple as _, Serializer};
use serde_json::value::RawValue;

use crate::memory::{Body, Gather, Packed, Received};

/// No arguments, which is an empty tuple and not `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoArguments;

impl Serialize for NoArguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_tuple(0)?.end()
    }
}

/// Encodes the arguments of a call.
pub(crate) fn encode_arguments<A: Serialize, K: Serialize>(
    codec: Codec,
    flags: Flags,
    args: &A,
    kwargs: &K,
    attached_max: u64,
) -> Result<Body, Reason> {
    let keywords = flags.has(Flags::KEYWORDS);
    // Rust's `()` is what people write for no arguments; serde calls it a unit, which is `None`.
    match (keywords, is_unit(args)) {
        (false, false) => encode(codec, args, attached_max),
        (false, true) => encode(codec, &NoArguments, attached_max),
        (true, false) => encode(codec, &(args, kwargs), attached_max),
        (true, true) => encode(codec, &(NoArguments, kwargs), attached_max),
    }
}

fn is_unit<A: Serialize>(args: &A) -> bool {
    // Whatever has a size is not a unit, so no argument is encoded twice.
    size_of::<A>() == 0 && serde_json::to_vec(args).is_ok_and(|text| text == b"null")
}

/// Encodes a value. At most `attached_max` bytes may be attached to it; with 0 everything stays in.
pub(crate) fn encode<T: Serialize>(
    codec: Codec,
    value: &T,
    attached_max: u64,
) -> Result<Body, Reason> {
    let bad = |message: String| Reason::BadArguments { message };
    match codec {
        Codec::Plain if attached_max > 0 => {
            let mut gather = Gather::new(attached_max);
            let mut bytes = Vec::with_capacity(64);
            match plain::append_with(&mut bytes, value, &mut gather) {
                Ok(()) => gather.finish(bytes),
                Err(error) => Err(gather.refusal().unwrap_or_else(|| bad(error.to_string()))),
            }
        }
        Codec::Plain => {
            plain::to_vec(value).map(Body::from).map_err(|error| bad(error.to_string()))
        }
        Codec::Json => json::to_vec(value).map(Body::from).map_err(|error| bad(error.to_string())),
        Codec::None | Codec::Raw => Err(bad(format!(
            "the codec {codec:?} cannot encode values; use Plain or Json, or hand over bytes with \
             `encoded`"
        ))),
    }
}

/// Encodes a value for the daemon to keep, of at most so many bytes in all.
pub(crate) fn pack<T: Serialize>(value: &T, attached_max: u64) -> Result<Packed, Reason> {
    let mut gather = Gather::for_put(attached_max);
    let mut bytes = Vec::with_capacity(64);
    match plain::append_with(&mut bytes, value, &mut gather) {
        Ok(()) => gather.pack(&bytes),
        Err(error) => Err(gather
            .refusal()
            .unwrap_or_else(|| Reason::BadArguments { message: error.to_string() })),
    }
}

/// What is encoded already, as a payload.
pub(crate) fn encoded(codec: Codec, payload: Bytes, attached_max: u64) -> Result<Body, Reason> {
    if codec != Codec::Raw || payload.len() < ATTACH_BYTES_MIN || attached_max == 0 {
        return Ok(payload.into());
    }
    let mut gather = Gather::new(attached_max);
    match gather.copy(&payload, Content::Bytes) {
        Ok(()) => gather.finish(Vec::new()),
        Err(plain::Unattached) => Err(gather.refusal().expect("who refuses says why")),
    }
}

/// Decodes a result.
pub(crate) fn decode<T: DeserializeOwned>(
    codec: Codec,
    payload: &[u8],
    attached: Option<&Received>,
) -> Result<T, Reason> {
    let limits = plain::Limits::default();
    match codec {
        Codec::Plain => match attached {
            Some(attached) => plain::from_slice_with(payload, attached, limits),
            None => plain::from_slice(payload, limits),
        }
        .map_err(|error| unfit::<T>(error.path().to_string(), error.kind())),
        Codec::Json => json::from_slice(payload).map_err(|error| unfit::<T>(String::new(), &error)),
        Codec::Raw => {
            let bytes: serde::de::value::BytesDeserializer<'_, serde::de::value::Error> =
                payload.into_deserializer();
            T::deserialize(bytes).map_err(|error| unfit::<T>(String::new(), &error))
        }
        Codec::None => {
            Err(Reason::Protocol { detail: "the daemon sent a result without a codec".into() })
        }
    }
}

/// The result is not what the caller's type can hold.
fn unfit<T>(path: String, error: &dyn std::fmt::Display) -> Reason {
    Reason::Unserializable {
        path: format!("result{path}"),
        type_name: std::any::type_name::<T>().into(),
        message: format!("it does not fit the caller's Rust type: {error}"),
    }
}

/// The answer to a chunk. Two shapes, because the common one should cost nothing per item.
#[derive(Debug)]
pub(crate) enum Results<R> {
    /// Every item has a result.
    All(Vec<R>),
    /// Some have failed, and some were skipped, which is none.
    Mixed(Vec<Option<Result<R, Box<Reason>>>>),
}

/// Decodes the answer to a chunk of `items` items: one result or exception for each, or word that
/// it was skipped. An item that does not fit the caller's type fails alone.
pub(crate) fn decode_items<R: DeserializeOwned>(
    codec: Codec,
    flags: Flags,
    (payload, attached): (&[u8], Option<&Received>),
    items: usize,
) -> Result<Results<R>, Reason> {
    let fault = |detail| Err(Reason::Protocol { detail });
    if !flags.has(Flags::ITEMS) {
        let results = match decode::<Vec<R>>(codec, payload, attached) {
            Ok(results) => Results::All(results),
            Err(_) => Results::Mixed(
                decode_list(codec, payload, attached)?.into_iter().map(Some).collect(),
            ),
        };
        let found = match &results {
            Results::All(results) => results.len(),
            Results::Mixed(results) => results.len(),
        };
        if found != items {
            return fault(format!("a chunk of {items} items was answered with {found} results"));
        }
        return Ok(results);
    }
    let Apart { results, failures, skipped } = decode_apart(codec, payload, attached)?;
    let found = results.len() + failures.len() + skipped.len();
    if found != items {
        return fault(format!("a chunk of {items} items was answered for {found}"));
    }
    let mut without: BTreeMap<u64, Option<Box<Reason>>> =
        skipped.into_iter().map(|index| (index, None)).collect();
    let failures = failures.into_iter();
    without.extend(failures.map(|(index, why)| (index, Some(Box::new(reason_of(why))))));
    let mut results = results.into_iter();
    let mut all = Vec::with_capacity(items);
    for index in 0..items as u64 {
        match without.remove(&index) {
            Some(reason) => all.push(reason.map(Err)),
            None => all.extend(results.next().map(Some)),
        }
    }
    match all.len() == items && without.is_empty() {
        true => Ok(Results::Mixed(all)),
        false => fault(format!("a chunk of {items} items was answered twice for one")),
    }
}

/// What came of the folding of a chunk.
#[derive(Debug)]
pub(crate) enum Folded {
    /// This; nothing when every item was skipped.
    Partial(Option<Piece>),
    /// An item has failed: which, and why.
    Failed(u64, Box<Reason>),
}

/// A value as it came, to be sent on.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Plain(Value),
    Json(Box<RawValue>),
}

/// Decodes the answer to a chunk that was folded.
pub(crate) fn decode_folded(
    codec: Codec,
    flags: Flags,
    (payload, attached): (&[u8], Option<&Received>),
) -> Result<Folded, Reason> {
    if flags.has(Flags::ITEMS) {
        let Apart { failures, .. } = decode_apart::<Value>(codec, payload, attached)?;
        let first = failures.into_iter().next();
        return match first {
            Some((index, why)) => Ok(Folded::Failed(index, Box::new(reason_of(why)))),
            None => Ok(Folded::Partial(None)),
        };
    }
    let mut pieces = decode_pieces(codec, payload, attached)?;
    match pieces.len() {
        0 | 1 => Ok(Folded::Partial(pieces.pop())),
        found => Err(Reason::Protocol {
            detail: format!("the items of a chunk were folded into {found} results, not one"),
        }),
    }
}

/// Takes a list apart without knowing what is in it.
pub(crate) fn decode_pieces(
    codec: Codec,
    payload: &[u8],
    attached: Option<&Received>,
) -> Result<Vec<Piece>, Reason> {
    Ok(match codec {
        Codec::Json => {
            let items: Vec<Box<RawValue>> = decode(codec, payload, None)?;
            items.into_iter().map(Piece::Json).collect()
        }
        _ => {
            decode::<Vec<Value>>(codec, payload, attached)?.into_iter().map(Piece::Plain).collect()
        }
    })
}

impl Serialize for Piece {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Piece::Plain(value) => value.serialize(serializer),
            Piece::Json(text) => text.serialize(serializer),
        }
    }
}

impl Piece {
    /// The value as the caller wants it.
    pub(crate) fn decode<R: DeserializeOwned>(&self) -> Result<R, Reason> {
        match self {
            Piece::Plain(value) => decode_value(value),
            Piece::Json(text) => decode_text(text),
        }
        .map_err(|reason| *reason)
    }
}

fn decode_value<R: DeserializeOwned>(item: &Value) -> Result<R, Box<Reason>> {
    let bytes = plain::to_vec(item).map_err(|error| unfit::<R>(String::new(), &error))?;
    decode(Codec::Plain, &bytes, None).map_err(Box::new)
}

/// Why an item failed. Two reasons that are no exceptions travel with the fields of one.
fn reason_of(mut exception: Exception) -> Reason {
    match (exception.type_name.as_str(), exception.notes.len()) {
        ("clutch.BadArguments", _) => Reason::BadArguments { message: exception.message },
        ("clutch.Unserializable", 3) => {
            let mut parts = exception.notes.drain(..);
            let mut next = || parts.next().expect("there are three");
            Reason::Unserializable { path: next(), type_name: next(), message: next() }
        }
        _ => Reason::Raised(Box::new(exception)),
    }
}

type Failures = Vec<(u64, Exception)>;
type Mixed<R> = Vec<Result<R, Box<Reason>>>;

/// What a chunk in which some have no result is answered with.
struct Apart<R> {
    /// Of those that have one, in their order.
    results: Mixed<R>,
    failures: Failures,
    skipped: Vec<u64>,
}

fn decode_apart<R: DeserializeOwned>(
    codec: Codec,
    payload: &[u8],
    attached: Option<&Received>,
) -> Result<Apart<R>, Reason> {
    if let Ok((results, failures, skipped)) = decode::<(Vec<R>, _, _)>(codec, payload, attached) {
        let results = results.into_iter().map(Ok).collect();
        return Ok(Apart { results, failures, skipped });
    }
    // The slow way, item by item: one of them does not fit.
    if codec == Codec::Json {
        let (items, failures, skipped): (Vec<Box<RawValue>>, _, _) = decode(codec, payload, None)?;
        let results = items.iter().map(|item| decode_text(item)).collect();
        Ok(Apart { results, failures, skipped })
    } else {
        let (items, failures, skipped): (Vec<Alone<R>>, _, _) = decode(codec, payload, attached)?;
        let results = items.into_iter().map(|Alone(item)| item).collect();
        Ok(Apart { results, failures, skipped })
    }
}

fn decode_list<R: DeserializeOwned>(
    codec: Codec,
    payload: &[u8],
    attached: Option<&Received>,
) -> Result<Mixed<R>, Reason> {
    if codec == Codec::Json {
        let items: Vec<Box<RawValue>> = decode(codec, payload, None)?;
        Ok(items.iter().map(|item| decode_text(item)).collect())
    } else {
        let items: Vec<Alone<R>> = decode(codec, payload, attached)?;
        Ok(items.into_iter().map(|Alone(item)| item).collect())
    }
}

fn decode_text<R: DeserializeOwned>(item: &RawValue) -> Result<R, Box<Reason>> {
    decode(Codec::Json, item.get().as_bytes(), None).map_err(Box::new)
}

/// An item that may be of another type than its list's. `plain` reads each part of a value where it
/// is, so that one which does not fit leaves the others as they are.
struct Alone<R>(Result<R, Box<Reason>>);

impl<'de, R: DeserializeOwned> Deserialize<'de> for Alone<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Alone<R>, D::Error> {
        let item = R::deserialize(deserializer).map_err(|error| {
            let text = error.to_string();
            // What `plain` says of the inside of a value begins with where that is.
            let inside = text.strip_prefix("value").and_then(|rest| rest.split_once(": "));
            let (path, message) = inside.unwrap_or(("", &text));
            Box::new(unfit::<R>(path.to_owned(), &message))
        });
        Ok(Alone(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments<A: Serialize, K: Serialize>(flags: Flags, args: A, kwargs: K) -> String {
        let bytes = encode_arguments(Codec::Json, flags, &args, &kwargs, 0).unwrap();
        String::from_utf8(bytes.bytes.to_vec()).unwrap()
    }

    #[test]
    fn arguments_are_always_a_sequence() {
        let no = Flags::NONE;
        assert_eq!("[]", arguments(no, (), ()));
        assert_eq!("[]", arguments(no, NoArguments, ()));
        assert_eq!("[null]", arguments(no, ((),), ()));
        assert_eq!("[1,\"a\"]", arguments(no, (1, "a"), ()));
        let keywords = BTreeMap::from([("k", 1)]);
        assert_eq!("[[],{\"k\":1}]", arguments(Flags::KEYWORDS, (), keywords));
    }

    #[test]
    fn what_cannot_be_encoded_is_the_callers_fault() {
        let bad = BTreeMap::from([(vec![1], 1)]);
        let reason = encode(Codec::Json, &bad, 0).unwrap_err();
        assert_eq!("BadArguments", reason.name());
        assert_eq!("BadArguments", encode(Codec::Raw, &1, 0).unwrap_err().name());
    }

    #[test]
    fn a_result_of_another_type_says_where_and_what() {
        let payload = plain::to_vec(&vec![1.5, 2.5]).unwrap();
        let Err(Reason::Unserializable { path, type_name, message }) =
            decode::<Vec<u8>>(Codec::Plain, &payload, None)
        else {
            panic!("half a byte was decoded");
        };
        assert_eq!(("result[0]", "alloc::vec::Vec<u8>"), (path.as_str(), type_name.as_str()));
        assert!(message.contains("1.5"), "{message}");
    }

    fn exception() -> Exception {
        Exception {
            type_name: "ValueError".into(),
            message: "no".into(),
            notes: vec![],
            frames: vec![],
            traceback: String::new(),
            chain: vec![],
            bases: vec![],
        }
    }

    fn decoded<R: DeserializeOwned>(
        codec: Codec,
        flags: Flags,
        payload: &[u8],
        items: usize,
    ) -> Vec<Result<R, Reason>> {
        match decode_items(codec, flags, (payload, None), items).unwrap() {
            Results::All(results) => results.into_iter().map(Ok).collect(),
            Results::Mixed(results) => {
                let result = |result: Option<Result<R, Box<Reason>>>| result.expect("a result");
                results.into_iter().map(|it| result(it).map_err(|reason| *reason)).collect()
            }
        }
    }

    #[test]
    fn items_that_failed_keep_their_places() {
        let value = (vec![1, 3], vec![(1, exception())], [0; 0]);
        for codec in [Codec::Plain, Codec::Json] {
            let payload = encode(codec, &value, 0).unwrap().bytes;
            let items = decoded::<i64>(codec, Flags::ITEMS, &payload, 3);
            assert!(matches!(items[..], [Ok(1), Err(Reason::Raised(_)), Ok(3)]), "{items:?}");
            let items = decoded::<Option<i64>>(codec, Flags::ITEMS, &payload, 3);
            assert!(matches!(items[..], [Ok(Some(1)), Err(_), Ok(Some(3))]), "{items:?}");
            for items in [2, 4] {
                let error = decode_items::<i64>(codec, Flags::ITEMS, (&payload, None), items);
                assert_eq!("Protocol", error.unwrap_err().name());
            }
        }
    }

    #[test]
    fn reasons_that_are_no_exceptions_are_told_from_those() {
        let named = |type_name: &str, notes: &[&str]| Exception {
            type_name: type_name.into(),
            notes: notes.iter().copied().map(str::to_owned).collect(),
            ..exception()
        };
        let failures = vec![
            (0, named("clutch.BadArguments", &[])),
            (1, named("clutch.Unserializable", &["result.lock", "_thread.lock", "no"])),
            (2, named("clutch.Cancelled", &[])),
        ];
        let payload = encode(Codec::Json, &([0; 0], failures, [0; 0]), 0).unwrap().bytes;
        let items = decoded::<i64>(Codec::Json, Flags::ITEMS, &payload, 3);
        let [Err(arguments), Err(Reason::Unserializable { path, .. }), Err(raised)] = &items[..]
        else {
            panic!("{items:?}");
        };
        assert_eq!("result.lock", path);
        assert_eq!(("BadArguments", "Raised"), (arguments.name(), raised.name()));
    }

    #[test]
    fn a_none_that_did_not_fail_fits_only_types_that_can_be_none() {
        let value = ([None::<i64>], vec![(0, exception())], [0; 0]);
        for codec in [Codec::Plain, Codec::Json] {
            let payload = encode(codec, &value, 0).unwrap().bytes;
            let items = decoded::<i64>(codec, Flags::ITEMS, &payload, 2);
            assert!(matches!(items[..], [Err(_), Err(Reason::Unserializable { .. })]));
            let items = decoded::<Option<i64>>(codec, Flags::ITEMS, &payload, 2);
            assert!(matches!(items[..], [Err(_), Ok(None)]), "{items:?}");
        }
    }

    #[test]
    fn skipped_items_have_no_result_and_keep_their_places() {
        for codec in [Codec::Plain, Codec::Json] {
            let answer = |results: &[&str], failed: &[u64], skipped: &[u64]| {
                let failures: Vec<_> = failed.iter().map(|at| (*at, exception())).collect();
                let payload = encode(codec, &(results, failures, skipped), 0).unwrap();
                decode_items::<String>(codec, Flags::ITEMS, (&payload.bytes, None), 4)
            };
            let Results::Mixed(items) = answer(&["a", "b"], &[2], &[0]).unwrap() else {
                panic!("one was skipped");
            };
            let [None, Some(Ok(a)), Some(Err(_)), Some(Ok(b))] = &items[..] else {
                panic!("{items:?}");
            };
            assert_eq!(("a", "b"), (a.as_str(), b.as_str()));
            for (failed, skipped) in [(&[1][..], &[1][..]), (&[4], &[0]), (&[2, 2], &[])] {
                let error = answer(&["a", "b"], failed, skipped).unwrap_err();
                assert_eq!("Protocol", error.name());
            }
        }
    }

    #[test]
    fn a_fold_gives_one_result_or_none_or_the_first_failure() {
        for codec in [Codec::Plain, Codec::Json] {
            let one = encode(codec, &[7], 0).unwrap().bytes;
            let folded = decode_folded(codec, Flags::NONE, (&one, None)).unwrap();
            let Folded::Partial(Some(piece)) = folded else { panic!("{folded:?}") };
            assert_eq!(7, piece.decode::<i64>().unwrap());
            assert_eq!("Unserializable", piece.decode::<String>().unwrap_err().name());
            assert_eq!(
                encode(codec, &[7, 7], 0).unwrap().bytes,
                encode(codec, &[&piece, &piece], 0).unwrap().bytes
            );
            let none = encode(codec, &[0; 0], 0).unwrap().bytes;
            let folded = decode_folded(codec, Flags::NONE, (&none, None)).unwrap();
            assert!(matches!(folded, Folded::Partial(None)));
            let two = encode(codec, &[1, 2], 0).unwrap().bytes;
            let error = decode_folded(codec, Flags::NONE, (&two, None)).unwrap_err();
            assert_eq!("Protocol", error.name());
            let failed = encode(codec, &([0; 0], [(3, exception())], [0; 0]), 0).unwrap().bytes;
            let folded = decode_folded(codec, Flags::ITEMS, (&failed, None)).unwrap();
            assert!(matches!(folded, Folded::Failed(3, _)));
        }
    }

    #[test]
    fn a_result_that_does_not_fit_fails_alone() {
        for codec in [Codec::Plain, Codec::Json] {
            let payload = encode(codec, &(1, "two", 3), 0).unwrap().bytes;
            let items = decoded::<i64>(codec, Flags::NONE, &payload, 3);
            assert!(matches!(items[..], [Ok(1), Err(Reason::Unserializable { .. }), Ok(3)]));
            let seven = encode(codec, &7, 0).unwrap().bytes;
            let none = decode_items::<i64>(codec, Flags::NONE, (&seven, None), 1);
            assert_eq!("Unserializable", none.unwrap_err().name());
        }
    }

    #[test]
    fn json_text_passes_through_untouched() {
        let payload = br#"[1.10, {"a" : null}]"#;
        let items = decoded::<Box<RawValue>>(Codec::Json, Flags::NONE, payload, 2);
        let texts: Vec<_> = items.iter().map(|item| item.as_ref().unwrap().get()).collect();
        assert_eq!(vec!["1.10", r#"{"a" : null}"#], texts);
    }
}
