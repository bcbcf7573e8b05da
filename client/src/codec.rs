//! Values to payloads and back, with faults turned into reasons a caller can act on. What is large
//! leaves the payload, and is found beside it; see `memory`.

use bytes::Bytes;
use clutch_protocol::attachment::Content;
use clutch_protocol::failure::Exception;
use clutch_protocol::limits::ATTACH_BYTES_MIN;
use clutch_protocol::{Codec, Flags, Reason, json, plain};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, IntoDeserializer as _};
use serde::ser::{Serialize, SerializeTuple as _, Serializer};
use serde_json::value::RawValue;

use crate::memory::{Body, Gather, Received};

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
    /// Some have failed.
    Mixed(Vec<Result<R, Box<Reason>>>),
}

/// Decodes the answer to a chunk of `items` items: one result or exception for each. An item that
/// does not fit the caller's type fails alone.
pub(crate) fn decode_items<R: DeserializeOwned>(
    codec: Codec,
    flags: Flags,
    (payload, attached): (&[u8], Option<&Received>),
    items: usize,
) -> Result<Results<R>, Reason> {
    let fault = |detail| Err(Reason::Protocol { detail });
    let miscounted =
        |found| fault(format!("a chunk of {items} items was answered with {found} results"));
    let (mut results, failures) = if flags.has(Flags::ITEMS) {
        // Where an item failed stands `None`, which the caller's type need not be able to hold.
        decode_apart(codec, payload, attached)?
    } else {
        match decode::<Vec<R>>(codec, payload, attached) {
            Ok(results) if results.len() == items => return Ok(Results::All(results)),
            Ok(results) => return miscounted(results.len()),
            Err(_) => (decode_list(codec, payload, attached)?, Vec::new()),
        }
    };
    if results.len() != items {
        return miscounted(results.len());
    }
    for (index, exception) in failures {
        match usize::try_from(index).ok().and_then(|index| results.get_mut(index)) {
            Some(result) => *result = Err(Box::new(reason_of(exception))),
            None => return fault(format!("item {index} of a chunk of {items} failed")),
        }
    }
    Ok(Results::Mixed(results))
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

/// The slow way, item by item, for chunks in which something is wrong.
fn decode_apart<R: DeserializeOwned>(
    codec: Codec,
    payload: &[u8],
    attached: Option<&Received>,
) -> Result<(Mixed<R>, Failures), Reason> {
    if codec == Codec::Json {
        let (items, failures): (Vec<Box<RawValue>>, Failures) = decode(codec, payload, None)?;
        Ok((items.iter().map(|item| decode_text(item)).collect(), failures))
    } else {
        let (items, failures): (Vec<Alone<R>>, Failures) = decode(codec, payload, attached)?;
        Ok((items.into_iter().map(|Alone(item)| item).collect(), failures))
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
        let keywords = std::collections::BTreeMap::from([("k", 1)]);
        assert_eq!("[[],{\"k\":1}]", arguments(Flags::KEYWORDS, (), keywords));
    }

    #[test]
    fn what_cannot_be_encoded_is_the_callers_fault() {
        let bad = std::collections::BTreeMap::from([(vec![1], 1)]);
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
                results.into_iter().map(|result| result.map_err(|reason| *reason)).collect()
            }
        }
    }

    #[test]
    fn items_that_failed_keep_their_places() {
        let value = (vec![Some(1), None, Some(3)], vec![(1, exception())]);
        for codec in [Codec::Plain, Codec::Json] {
            let payload = encode(codec, &value, 0).unwrap().bytes;
            let items = decoded::<i64>(codec, Flags::ITEMS, &payload, 3);
            assert!(matches!(items[..], [Ok(1), Err(Reason::Raised(_)), Ok(3)]), "{items:?}");
            let items = decoded::<Option<i64>>(codec, Flags::ITEMS, &payload, 3);
            assert!(matches!(items[..], [Ok(Some(1)), Err(_), Ok(Some(3))]), "{items:?}");
            let error = decode_items::<i64>(codec, Flags::ITEMS, (&payload, None), 2).unwrap_err();
            assert_eq!("Protocol", error.name());
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
        let payload = encode(Codec::Json, &(vec![None::<i64>; 3], failures), 0).unwrap().bytes;
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
        let value = (vec![Some(1), None], vec![(0, exception())]);
        for codec in [Codec::Plain, Codec::Json] {
            let payload = encode(codec, &value, 0).unwrap().bytes;
            let items = decoded::<i64>(codec, Flags::ITEMS, &payload, 2);
            assert!(matches!(items[..], [Err(_), Err(Reason::Unserializable { .. })]));
            let items = decoded::<Option<i64>>(codec, Flags::ITEMS, &payload, 2);
            assert!(matches!(items[..], [Err(_), Ok(None)]), "{items:?}");
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
