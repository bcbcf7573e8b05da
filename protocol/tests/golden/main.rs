//! The golden bytes in `testdata/`, which the Python tests read too: written by this test with
//! `UPDATE_GOLDEN=1`, and otherwise compared, so that the wire cannot change by accident.
//!
//! `describe` says what the bytes mean without asking the serializer, `frames` holds the samples,
//! `plain` the values.

mod describe;
mod frames;
mod plain;

use std::path::{Path, PathBuf};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn read(name: &str) -> String {
    let path = testdata().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{}: {error}; see testdata/README.md for how it is written", path.display())
    })
}

/// Compares a file with what it should hold, or writes it when it is asked to.
fn compare(name: &str, wanted: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(testdata().join(name), wanted).expect("testdata can be written");
    }
    let found = read(name);
    for (number, (found, wanted)) in found.lines().zip(wanted.lines()).enumerate() {
        assert_eq!(
            found,
            wanted,
            "{name}, line {}: the code no longer makes these bytes. If that is meant, it needs a \
             new protocol version and UPDATE_GOLDEN=1",
            number + 1
        );
    }
    assert_eq!(
        found.lines().count(),
        wanted.lines().count(),
        "{name}: another number of lines; run with UPDATE_GOLDEN=1 if that is meant"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "{text}");
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}
