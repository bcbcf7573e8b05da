//! Is every key known and of the right type? Asked of the parsed text, guided by the schema.
//!
//! serde stops at its first error. This walk finds all of them, with the place of each, and takes
//! what is wrong out of the table, so that the rest can still be read and judged.

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Key, Problem};
use super::reason::{Found, Reason};

/// The longest key that is still compared with the known ones.
const COMPARED_BYTES_MAX: usize = 64;

/// Takes what does not fit the schema out of a table, and reports it.
pub(super) fn check_table(
    table: &mut DeTable<'_>,
    schema: &Value,
    at: &Key,
    problems: &mut Vec<Problem>,
) {
    let known = schema["properties"].as_object();
    let others = &schema["additionalProperties"];
    let mut wrong = Vec::new();
    for (name, value) in table.iter_mut() {
        let text: &str = name.get_ref();
        let key = at.child(text);
        let fits = match known.and_then(|known| known.get(text)) {
            Some(schema) => check_value(value, schema, &key, problems),
            None if others.is_object() => check_value(value, others, &key, problems),
            None => {
                let allowed = known.into_iter().flat_map(|known| known.keys().cloned()).collect();
                problems.push(Problem {
                    reason: Reason::UnknownKey {
                        name: text.to_owned(),
                        meant: meant(text, schema),
                        allowed,
                    },
                    key,
                    span: Some(name.span()),
                });
                false
            }
        };
        if !fits {
            wrong.push(text.to_owned());
        }
    }
    for name in wrong {
        table.remove(name.as_str());
    }
}

/// Whether a value fits; reports it otherwise.
fn check_value(
    value: &mut Spanned<DeValue<'_>>,
    schema: &Value,
    key: &Key,
    problems: &mut Vec<Problem>,
) -> bool {
    // JSON schema's word for anything.
    if *schema == Value::Bool(true) {
        return true;
    }
    let span = value.span();
    let found = Found::from(value.get_ref());
    if !types(schema).any(|kind| found.is(kind)) {
        let written = match (key.last(), example(value.get_ref(), schema)) {
            // An item of a list has a number for its name.
            (Some(name), Some(example)) if name.parse::<usize>().is_ok() => example,
            (Some(name), Some(example)) => format!("{name} = {example}"),
            _ => format!("[{key}]"),
        };
        problems.push(Problem {
            reason: Reason::WrongType {
                expected: types(schema).map(words).collect::<Vec<_>>().join(" or "),
                found,
                written,
            },
            key: key.clone(),
            span: Some(span),
        });
        return false;
    }
    match value.get_mut() {
        DeValue::Table(table) => {
            check_table(table, schema, key, problems);
            true
        }
        DeValue::Array(items) => {
            let before = problems.len();
            for (index, item) in items.iter_mut().enumerate() {
                check_value(item, &schema["items"], &key.child(&index.to_string()), problems);
            }
            problems.len() == before
        }
        _ => true,
    }
}

fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let types = &schema["type"];
    let many = types.as_array().into_iter().flatten().filter_map(Value::as_str);
    types.as_str().into_iter().chain(many)
}

fn words(kind: &str) -> &str {
    match kind {
        "string" => "text in quotes",
        "integer" => "a whole number",
        "array" => "a list in brackets",
        "object" => "a table",
        "boolean" => "true or false",
        other => other,
    }
}

/// What one would write, as TOML: a number in quotes where it lacks nothing else, else the default
/// or the first example. JSON's scalars and lists are TOML as well.
fn example(value: &DeValue<'_>, schema: &Value) -> Option<String> {
    let default = schema.get("default").filter(|default| !default.is_null());
    let known = default.or_else(|| schema["examples"].get(0));
    // A default that starts with a digit is a duration or a size, which also lacks a unit.
    let has_unit = known
        .and_then(Value::as_str)
        .is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    let number = match value {
        DeValue::Integer(number) => Some(number.as_str()),
        DeValue::Float(number) => Some(number.as_str()),
        _ => None,
    };
    match number {
        Some(number) if schema["type"] == "string" && !has_unit => Some(format!("\"{number}\"")),
        None if schema["type"] == "array" && schema["items"]["type"] == "string" => match value {
            DeValue::String(text) => Some(format!("[{}]", Value::from(text.as_ref()))),
            _ => known.map(Value::to_string),
        },
        _ => known.map(Value::to_string),
    }
}

/// What an unknown key may have been meant to be: a known one spelled nearly so, or one that
/// belongs into a table further down.
fn meant(name: &str, schema: &Value) -> Option<String> {
    let known = schema["properties"].as_object()?;
    let nested = known.iter().find_map(|(table, schema)| {
        schema["properties"].get(name)?;
        Some(format!("{table}.{name}"))
    });
    nested.or_else(|| nearest(name, known.keys().map(String::as_str)))
}

/// The most similar of some names, if it is similar enough to be a slip.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    if name.len() > COMPARED_BYTES_MAX {
        return None;
    }
    let lower = name.to_lowercase().replace('-', "_");
    known
        .map(|known| (distance(&lower, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
        .min()
        .map(|(_, known)| known.to_owned())
}

/// How many letters must be put in, left out, replaced, or swapped with the next.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let known = ["python", "workers", "path", "main", "call_timeout"];
        let nearest = |name| nearest(name, known.into_iter());
        assert_eq!(Some("workers"), nearest("worker").as_deref());
        assert_eq!(Some("workers"), nearest("wrokers").as_deref());
        assert_eq!(Some("python"), nearest("Python").as_deref());
        assert_eq!(Some("call_timeout"), nearest("call-timeout").as_deref());
        assert_eq!(Some("call_timeout"), nearest("calltimeout").as_deref());
        assert_eq!(None, nearest("colour"));
        assert_eq!(None, nearest(&"x".repeat(100)));
    }

    #[test]
    fn distances_are_counted_in_slips() {
        for (a, b, slips) in [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(slips, distance(a, b), "{a} {b}");
        }
    }
}
