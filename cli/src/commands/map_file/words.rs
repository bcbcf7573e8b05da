//! Words of the command line that only `map-file` knows, and results as JSON.

use clutch_client::{Failure, Reason};
use clutch_protocol::json::{self, Unfit};
use clutch_protocol::value::Value;
use clutch_supervisor::config::{self, SizeError};
use thiserror::Error;

/// Why a word is no size of a chunk.
#[derive(Debug, Error)]
pub(super) enum ChunkError {
    #[error(transparent)]
    Size(#[from] SizeError),
    #[error("a chunk has at least one byte: write a size like 64MiB")]
    Zero,
}

/// The size of a chunk.
pub(super) fn chunk_size(word: &str) -> Result<u64, ChunkError> {
    match config::size(word)? {
        0 => Err(ChunkError::Zero),
        bytes => Ok(bytes),
    }
}

/// Why a word is no delimiter.
#[derive(Debug, Error)]
#[error("write one ASCII character, like ';', or '\\t'; no quote, and no end of a line")]
pub(super) struct DelimiterError;

/// What separates fields.
pub(super) fn delimiter(word: &str) -> Result<u8, DelimiterError> {
    match word.as_bytes() {
        b"\\t" => Ok(b'\t'),
        b"\"" | b"\n" | b"\r" => Err(DelimiterError),
        [byte] if byte.is_ascii() => Ok(*byte),
        _ => Err(DelimiterError),
    }
}

/// A result as JSON text, as a call in JSON would give it: a set is a list.
pub(super) fn json_of(function: &str, value: Value) -> Result<Vec<u8>, Box<Failure>> {
    let whole = value.type_name().to_owned();
    json::to_vec(&without_sets(value)).map_err(|error| {
        let (place, type_name, message) = misfit(&error, whole);
        let path = format!("result{place}");
        Box::new(Failure {
            call: 0,
            pool: String::new(),
            function: function.to_owned(),
            attempt: 1,
            started: true,
            phases: clutch_client::Phases::default(),
            reason: Reason::Unserializable { path, type_name, message },
            quarantined: false,
            item: None,
        })
    })
}

/// Where a result cannot be printed, the type found there, and what to do about it.
fn misfit(error: &json::Error, whole: String) -> (String, String, String) {
    let (path, what) = match error {
        json::Error::Unfit { path, what } => (path, what),
        json::Error::TooDeep { path, limit } => {
            let message = format!("it nests deeper than {limit} levels; return something flatter");
            return (path.to_string(), whole, message);
        }
        error => return (String::new(), whole, format!("results are printed as JSON: {error}")),
    };
    let (type_name, remedy) = match what {
        Unfit::NotANumber | Unfit::Infinite => ("float", "return None or a text instead"),
        Unfit::Bytes => ("bytes", "return text (.decode(), .hex(), base64)"),
        Unfit::Set => ("set", "return a list"),
        Unfit::BigInt => ("int", "return str(...) of it"),
        Unfit::Key => ("dict", "return pairs, or make its keys text"),
    };
    let message = format!("results are printed as JSON, and JSON cannot hold {what}; {remedy}");
    (path.to_string(), type_name.to_owned(), message)
}

fn without_sets(value: Value) -> Value {
    let all = |items: Vec<Value>| items.into_iter().map(without_sets).collect();
    match value {
        Value::Set(items) | Value::FrozenSet(items) | Value::List(items) | Value::Tuple(items) => {
            Value::List(all(items))
        }
        Value::Dict(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| (key, without_sets(value)));
            Value::Dict(pairs.collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_have_a_size_with_a_unit() {
        assert_eq!(64 << 20, chunk_size("64MiB").unwrap());
        assert_eq!(1, chunk_size("1B").unwrap());
        assert!(matches!(chunk_size("0B"), Err(ChunkError::Zero)));
        assert!(matches!(chunk_size("64"), Err(ChunkError::Size(_))));
    }

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!((b';', b'\t'), (delimiter(";").unwrap(), delimiter("\\t").unwrap()));
        for bad in ["", ";;", "\"", "\n", "ü"] {
            assert!(delimiter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn results_are_json_and_sets_are_lists() {
        let json = |value| String::from_utf8(json_of("m:f", value).unwrap()).unwrap();
        let set = Value::Set(vec![Value::Int(1)]);
        let pair = (Value::Str("a".into()), Value::Tuple(vec![set, Value::Float(0.5)]));
        assert_eq!("{\"a\":[[1],0.5]}", json(Value::Dict(vec![pair])));
        let failure = json_of("m:f", Value::List(vec![Value::Bytes(vec![1])])).unwrap_err();
        let text = failure.to_string();
        assert!(
            text.ends_with(
                "cannot be sent: result[0]: bytes (results are printed as JSON, and JSON cannot \
                 hold bytes; return text (.decode(), .hex(), base64))"
            ),
            "{text}"
        );
        let text = json_of("m:f", Value::Float(f64::NAN)).unwrap_err().to_string();
        assert!(text.contains("result: float (") && text.contains("hold NaN; return No"), "{text}");
    }
}
