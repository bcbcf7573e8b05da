//! The keys `initializer`, `initargs` and `warm`: what a worker calls before it is ready.

use clutch_protocol::limits::FUNCTION_NAME_BYTES_MAX;
use clutch_protocol::name::check_function;
use serde_json::{Map, Number, Value};
use thiserror::Error;

use super::bounds;
use super::checker::Checker;
use super::error::Key;
use super::raw::RawPool;
use super::reason::Reason;

/// What each worker of a pool calls once in its life, after `preload` and `main`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmUp {
    /// The function that is called first; none when there is none.
    pub initializer: Option<String>,
    /// Its arguments: a JSON list, as text.
    pub initargs: String,
    /// Functions that are called after it, in order, without arguments.
    pub warm: Vec<String>,
}

/// Why a pool's workers cannot be warmed up like this.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WarmUpError {
    /// Not a function's name.
    #[error("\"{name}\" is not the name of a function: write \"mytasks:load\"")]
    Name {
        /// What is there.
        name: String,
    },
    /// It is in `__main__`, and the pool has none.
    #[error("\"{name}\" is in a script, but the pool has none: add main = \"SCRIPT.py\"")]
    NoMain {
        /// What is there.
        name: String,
    },
    /// Arguments without a function to give them to.
    #[error(
        "`initargs` are given, but no `initializer` to give them to: add one, or leave them out"
    )]
    NoInitializer,
    /// Dates, infinities and NaN are not data that can travel.
    #[error("{what} cannot be an argument: write it as text, and let the function read it")]
    NotJson {
        /// What it is.
        what: &'static str,
    },
    /// The arguments are too long.
    #[error(
        "the arguments have {length} bytes as JSON, at most {limit} are allowed: name a file with \
         them instead"
    )]
    TooLong {
        /// Bytes they have.
        length: usize,
        /// Bytes they may have.
        limit: usize,
    },
}

/// Checks the three keys of one pool.
pub(super) fn check(checker: &mut Checker<'_>, raw: &RawPool, at: &Key) -> WarmUp {
    let has_main = raw.main.is_some();
    let initializer = raw.initializer.clone();
    if let Some(name) = &initializer {
        check_name(checker, name, has_main, &at.child("initializer"));
    }
    let warm = raw.warm.clone().unwrap_or_default();
    let warm_at = at.child("warm");
    checker.short_enough(&warm_at, warm.len());
    checker.no_duplicates(&warm_at, &warm);
    for (index, name) in warm.iter().enumerate() {
        check_name(checker, name, has_main, &warm_at.child(&index.to_string()));
    }
    let initargs_at = at.child("initargs");
    let arguments = raw.initargs.as_deref().unwrap_or_default();
    if !arguments.is_empty() && initializer.is_none() {
        checker.report(&initargs_at, Reason::WarmUp(WarmUpError::NoInitializer));
    }
    let initargs = check_arguments(checker, arguments, &initargs_at);
    WarmUp { initargs: initializer.as_ref().map_or(String::new(), |_| initargs), initializer, warm }
}

fn check_name(checker: &mut Checker<'_>, name: &str, has_main: bool, at: &Key) {
    let text = name.to_owned();
    if name.len() > FUNCTION_NAME_BYTES_MAX || check_function(name).is_err() {
        checker.report(at, Reason::WarmUp(WarmUpError::Name { name: text }));
    } else if name.starts_with("__main__:") && !has_main {
        checker.report(at, Reason::WarmUp(WarmUpError::NoMain { name: text }));
    }
}

/// The arguments as the text of a JSON list.
fn check_arguments(checker: &mut Checker<'_>, arguments: &[toml::Value], at: &Key) -> String {
    let mut values = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        match json(argument) {
            Ok(value) => values.push(value),
            Err(error) => {
                checker.report(&at.child(&index.to_string()), Reason::WarmUp(error));
            }
        }
    }
    let text = Value::Array(values).to_string();
    if text.len() > bounds::INITARGS_BYTES_MAX {
        let (length, limit) = (text.len(), bounds::INITARGS_BYTES_MAX);
        checker.report(at, Reason::WarmUp(WarmUpError::TooLong { length, limit }));
    }
    text
}

/// The same value in JSON. The parser has bounded how deep it nests.
fn json(value: &toml::Value) -> Result<Value, WarmUpError> {
    Ok(match value {
        toml::Value::String(text) => Value::String(text.clone()),
        toml::Value::Integer(number) => Value::Number((*number).into()),
        toml::Value::Boolean(is_true) => Value::Bool(*is_true),
        toml::Value::Float(number) => match Number::from_f64(*number) {
            Some(number) => Value::Number(number),
            None => return Err(WarmUpError::NotJson { what: "a number that is not finite" }),
        },
        toml::Value::Datetime(_) => return Err(WarmUpError::NotJson { what: "a date or time" }),
        toml::Value::Array(items) => {
            Value::Array(items.iter().map(json).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let entries = table.iter().map(|(key, value)| Ok((key.clone(), json(value)?)));
            Value::Object(entries.collect::<Result<Map<_, _>, _>>()?)
        }
    })
}
