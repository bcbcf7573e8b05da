//! From words on the command line to the JSON text of a call's arguments.
//!
//! A word that is JSON is that JSON, any other word is a string, `name=word` is a keyword argument
//! by the same rule, and `-` is one JSON value read from standard input. JSON is checked but never
//! decoded: its text travels as it was typed, so a number of any length keeps every digit.

use std::fmt::Write as _;
use std::io::Read;

use serde_json::value::RawValue;
use thiserror::Error;

use clutch_protocol::limits::PAYLOAD_BYTES_MAX;

/// Why words are not arguments.
#[derive(Debug, Error)]
pub(crate) enum ValueError {
    #[error("the keyword argument '{name}' is given twice")]
    KeywordTwice { name: String },
    #[error("'-' reads standard input, which can be done only once")]
    StdinTwice,
    #[error("failed to read standard input: {0}")]
    Stdin(std::io::Error),
    #[error("standard input is longer than {PAYLOAD_BYTES_MAX} bytes, the most that can be sent")]
    StdinTooLong,
    #[error("standard input is not UTF-8 (byte {at}); JSON must be")]
    StdinNotText { at: usize },
    #[error("standard input is not JSON: {0}; write one value to it, like [1, 2] or \"text\"")]
    StdinNotJson(#[source] serde_json::Error),
}

/// The arguments of a call, as the JSON text that is sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// `[args]`.
    Positional(String),
    /// `[[args], {kwargs}]`.
    WithKeywords(String),
}

/// Builds the arguments of a call from its words. `stdin` is only read when a word is `-`.
pub(crate) fn arguments(words: &[String], stdin: impl Read) -> Result<Arguments, ValueError> {
    let mut stdin = Some(stdin);
    let mut positional = Vec::new();
    let mut keywords: Vec<(&str, String)> = Vec::new();
    for word in words {
        match keyword(word) {
            Some((name, _)) if keywords.iter().any(|(known, _)| *known == name) => {
                let name = name.to_owned();
                return Err(ValueError::KeywordTwice { name });
            }
            Some((name, word)) => keywords.push((name, value_or_stdin(word, &mut stdin)?)),
            None => positional.push(value_or_stdin(word, &mut stdin)?),
        }
    }
    let positional = positional.join(",");
    if keywords.is_empty() {
        return Ok(Arguments::Positional(format!("[{positional}]")));
    }
    let mut text = format!("[[{positional}],{{");
    for (index, (name, value)) in keywords.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{}:{value}", string(name));
    }
    text.push_str("}]");
    Ok(Arguments::WithKeywords(text))
}

/// One word as JSON: itself if it is JSON, else a string.
pub(crate) fn raw(word: &str) -> Box<RawValue> {
    serde_json::from_str(word).unwrap_or_else(|_| {
        serde_json::value::to_raw_value(word).expect("a string is a JSON value")
    })
}

/// The name and the rest of `name=word`, when the name can be a Python parameter.
fn keyword(word: &str) -> Option<(&str, &str)> {
    let (name, rest) = word.split_once('=')?;
    let mut chars = name.chars();
    let identifier = chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_');
    identifier.then_some((name, rest))
}

fn value_or_stdin<R: Read>(word: &str, stdin: &mut Option<R>) -> Result<String, ValueError> {
    if word != "-" {
        return Ok(raw(word).get().to_owned());
    }
    let stdin = stdin.take().ok_or(ValueError::StdinTwice)?;
    let mut bytes = Vec::new();
    stdin
        .take(u64::from(PAYLOAD_BYTES_MAX) + 1)
        .read_to_end(&mut bytes)
        .map_err(ValueError::Stdin)?;
    if bytes.len() > PAYLOAD_BYTES_MAX as usize {
        return Err(ValueError::StdinTooLong);
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| ValueError::StdinNotText { at: error.utf8_error().valid_up_to() })?;
    let json: &RawValue = serde_json::from_str(&text).map_err(ValueError::StdinNotJson)?;
    Ok(json.get().to_owned())
}

fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(words: &[&str]) -> Arguments {
        built_with(words, "").unwrap()
    }

    fn built_with(words: &[&str], stdin: &str) -> Result<Arguments, ValueError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        arguments(&words, stdin.as_bytes())
    }

    fn positional(text: &str) -> Arguments {
        Arguments::Positional(text.to_owned())
    }

    fn with_keywords(text: &str) -> Arguments {
        Arguments::WithKeywords(text.to_owned())
    }

    #[test]
    fn a_word_is_json_or_a_string() {
        assert_eq!(positional("[]"), built(&[]));
        assert_eq!(
            positional(r#"[1,"two",[3, 4],{"a": null},"\"five","six"]"#),
            built(&["1", "two", "[3, 4]", r#" {"a": null} "#, "\"five", "\"six\""])
        );
        for word in ["NaN", "nan", "Infinity", "True", "01", "1 2", "", "'a'"] {
            let expected = format!("[{}]", serde_json::Value::from(word));
            assert_eq!(Arguments::Positional(expected), built(&[word]));
        }
    }

    #[test]
    fn numbers_keep_every_digit() {
        let big = "123456789012345678901234567890123456789012345678901234567890";
        let float = "0.1000000000000000055511151231257827021181583404541015625";
        let words = [big, float, "1e400", "-0.0"];
        assert_eq!(positional(&format!("[{}]", words.join(","))), built(&words));
    }

    #[test]
    fn an_identifier_before_an_equals_sign_is_a_keyword() {
        assert_eq!(
            with_keywords(r#"[[1],{"key":[2],"größe":"a=b","_":""}]"#),
            built(&["key=[2]", "1", "größe=a=b", "_="])
        );
        assert_eq!(
            positional(r#"["a=b","1=2","=3","a b=c","--x=1"]"#),
            built(&["\"a=b\"", "1=2", "=3", "a b=c", "--x=1"])
        );
        assert!(matches!(
            built_with(&["a=1", "a=2"], ""),
            Err(ValueError::KeywordTwice { name }) if name == "a"
        ));
    }

    #[test]
    fn a_dash_is_one_json_value_from_standard_input() {
        assert_eq!(
            positional("[1,[1.50, 2],3]"),
            built_with(&["1", "-", "3"], " [1.50, 2]\n").unwrap()
        );
        assert_eq!(with_keywords(r#"[[],{"x":7}]"#), built_with(&["x=-"], "7").unwrap());
        assert_eq!(positional(r#"["-"]"#), built(&["\"-\""]));
        assert!(matches!(built_with(&["-", "-"], "1"), Err(ValueError::StdinTwice)));
    }

    #[test]
    fn bad_standard_input_is_named_by_line_and_column() {
        let error = built_with(&["-"], "[1,\n2,,]").unwrap_err().to_string();
        assert!(error.contains("line 2 column 3"), "{error}");
        let error = built_with(&["-"], "").unwrap_err().to_string();
        assert!(error.contains("EOF"), "{error}");
        let error = arguments(&["-".to_owned()], b"\"ab\xff\"".as_slice()).unwrap_err();
        assert!(matches!(error, ValueError::StdinNotText { at: 3 }), "{error}");
    }

    #[test]
    fn nesting_cannot_overflow_the_stack() {
        let deep = "[".repeat(200_000) + &"]".repeat(200_000);
        let Arguments::Positional(text) = built(&[&deep]) else { panic!("it is positional") };
        assert!(text.len() >= deep.len());
    }
}
