//! Values through a real CPython and back: Rust writes, Python reads and writes again, Rust reads.
//!
//! The oldest and the newest interpreter of this machine are asked, with one process each.

mod support;

use std::cell::RefCell;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use clutch_protocol::Value;
use clutch_protocol::plain::{self, Limits};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

use support::{bytes, integer, scalar, text};

/// Values in, values out, each with its length before it. Python ends itself should we hang.
const ECHO: &str = r#"
import faulthandler, pickle, struct, sys
faulthandler.dump_traceback_later(120, exit=True)
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
while True:
    length = read(4)
    if not length:
        break
    value = pickle.loads(read(struct.unpack("<I", length)[0]))
    data = pickle.dumps(value, 5)
    # Twice in one list: the second is a reference to the first, which Rust must follow.
    twice = pickle.dumps([value, value], 5)
    for answer in data, twice:
        write(struct.pack("<I", len(answer)) + answer)
    sys.stdout.buffer.flush()
"#;

#[test]
fn every_value_survives_cpython() {
    let pythons = pythons();
    if pythons.is_empty() {
        skip("no CPython of 3.8 or later was found");
    }
    for (version, path) in pythons {
        let echo = RefCell::new(Echo::start(&path));
        let mut runner =
            TestRunner::new(Config { cases: 1000, failure_persistence: None, ..Config::default() });
        let outcome = runner.run(&python_value(), |value| {
            let sent = plain::to_vec(&value).expect("it is within every limit");
            let [once, twice] = echo.borrow_mut().ask(&sent);
            let read = |bytes: &[u8]| plain::from_slice::<Value>(bytes, Limits::default());
            let wanted = format!("{:?}", sorted(value));
            let once = read(&once).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(&wanted, &format!("{:?}", sorted(once)));
            let twice = read(&twice).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let Value::List(twice) = twice else {
                return Err(TestCaseError::fail("no list came back"));
            };
            prop_assert_eq!(2, twice.len());
            for value in twice {
                prop_assert_eq!(&wanted, &format!("{:?}", sorted(value)));
            }
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(TestError::Fail(reason, value)) => {
                panic!("CPython {}.{}: {reason}: {value}", version.0, version.1)
            }
            Err(TestError::Abort(reason)) => panic!("{reason}"),
        }
    }
}

/// Values Python can hold: keys and items of sets are hashable, and no two of them are equal.
fn python_value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(5, 120, 10, |inner| {
        let items = || prop::collection::vec(inner.clone(), 0..10);
        let keys = || prop::collection::vec(key(), 0..10).prop_map(distinct);
        prop_oneof![
            items().prop_map(Value::List),
            items().prop_map(Value::Tuple),
            keys().prop_map(Value::Set),
            keys().prop_map(Value::FrozenSet),
            (keys(), items())
                .prop_map(|(keys, items)| { Value::Dict(keys.into_iter().zip(items).collect()) }),
        ]
    })
}

/// No bools and floats, since `1 == True == 1.0`.
fn key() -> impl Strategy<Value = Value> {
    let simple = prop_oneof![Just(Value::None), integer(), text(), bytes().prop_map(Value::Bytes)];
    simple.prop_recursive(2, 8, 4, |inner| {
        let items = || prop::collection::vec(inner.clone(), 0..4);
        prop_oneof![
            items().prop_map(Value::Tuple),
            items().prop_map(|items| Value::FrozenSet(distinct(items))),
        ]
    })
}

fn distinct(items: Vec<Value>) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for item in items {
        // Equal sets may be written in another order.
        let item = sorted(item);
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// The same value with every set in an order of ours, since a set has none.
fn sorted(value: Value) -> Value {
    let each = |items: Vec<Value>| items.into_iter().map(sorted).collect::<Vec<_>>();
    let set = |items| {
        let mut items = each(items);
        items.sort_by_cached_key(|item| format!("{item:?}"));
        items
    };
    match value {
        Value::List(items) => Value::List(each(items)),
        Value::Tuple(items) => Value::Tuple(each(items)),
        Value::Set(items) => Value::Set(set(items)),
        Value::FrozenSet(items) => Value::FrozenSet(set(items)),
        Value::Dict(items) => Value::Dict(
            items.into_iter().map(|(key, value)| (sorted(key), sorted(value))).collect(),
        ),
        other => other,
    }
}

/// A python that sends back what it is sent. Killed when dropped.
struct Echo {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Echo {
    fn start(python: &Path) -> Echo {
        let mut child = command(python)
            .args(["-I", "-c", ECHO])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the interpreter was started before");
        let stdin = child.stdin.take().expect("it is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
        Echo { child, stdin, stdout }
    }

    fn ask(&mut self, value: &[u8]) -> [Vec<u8>; 2] {
        let length = u32::try_from(value.len()).expect("a small value");
        self.stdin.write_all(&[&length.to_le_bytes()[..], value].concat()).expect("python reads");
        [(); 2].map(|()| {
            let mut length = [0; 4];
            let read = self.stdout.read_exact(&mut length);
            read.expect("python answers; its complaint is above");
            let mut answer = vec![0; u32::from_le_bytes(length) as usize];
            self.stdout.read_exact(&mut answer).expect("python answers");
            answer
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The oldest and the newest CPython from 3.8 on, by version.
fn pythons() -> Vec<((u32, u32), PathBuf)> {
    let mut candidates: Vec<PathBuf> = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    for directory in std::env::split_paths(&path) {
        candidates.extend((8..=20).map(|minor| directory.join(format!("python3.{minor}"))));
        candidates.push(directory.join("python3"));
    }
    if let Some(home) = std::env::home_dir()
        && let Ok(versions) = std::fs::read_dir(home.join(".pyenv/versions"))
    {
        candidates.extend(versions.flatten().map(|entry| entry.path().join("bin/python")));
    }
    let mut found: Vec<_> = candidates
        .into_iter()
        .filter(|path| path.is_file())
        .filter_map(|path| Some((version(&path)?, path)))
        .filter(|(version, _)| *version >= (3, 8))
        .collect();
    found.sort();
    found.dedup_by_key(|(version, _)| *version);
    match found.len() {
        0..=2 => found,
        count => {
            found.swap(1, count - 1);
            found.truncate(2);
            found
        }
    }
}

/// The version, if it is a CPython that starts. (A shim of pyenv for a version not chosen is not.)
fn version(python: &Path) -> Option<(u32, u32)> {
    let script = "import sys; print(sys.implementation.name, *sys.version_info[:2])";
    let output = command(python).args(["-I", "-c", script]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.split_whitespace();
    if words.next() != Some("cpython") {
        return None;
    }
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the daemon is not involved: the codec is tested against the interpreter itself"
)]
fn command(program: &Path) -> std::process::Command {
    std::process::Command::new(program)
}

#[expect(clippy::print_stderr, reason = "whoever reads the log must see what was not tested")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
