//! `[daemon.output]`, `output = {...}` and `logging` of a pool: what is kept of what workers print
//! and log, and for how long.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::checker::Checker;
use super::error::Key;
use super::model::Pool;
use super::reason::Reason;

/// Lines in memory: fewer than a screenful are of no use, and a hundred thousand are looked through
/// in a millisecond, which no call notices.
const LINES: RangeInclusive<u32> = 100..=100_000;

/// Bytes in memory, for each pool.
const BYTES: RangeInclusive<u64> = 64 << 10..=1 << 30;

/// Bytes of one file: at least a few lines, at most what a disk has.
const FILE_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 40;

/// Files of one name, the one that is written included: each is renamed at every rotation.
const FILES: RangeInclusive<u32> = 1..=1_000;

/// Levels of Python's `logging`, by the names it gives them.
const LEVELS: [(&str, u32); 6] =
    [("off", 0), ("debug", 10), ("info", 20), ("warning", 30), ("error", 40), ("critical", 50)];

/// What is kept of what workers print and log.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOutput {
    /// How many lines of each pool are kept in memory, for `clutch logs`.
    #[schemars(extend("default" = 10000))]
    lines: Option<i64>,
    /// How many bytes they may take.
    #[schemars(extend("default" = "4MiB"))]
    bytes: Option<String>,
    /// A file that all lines are appended to, as JSON lines. Without, no file is written.
    #[schemars(example = "logs/default.jsonl")]
    file: Option<String>,
    /// How large that file may become before it is renamed to FILE.1.
    #[schemars(extend("default" = "16MiB"))]
    file_bytes: Option<String>,
    /// How many files are kept, the one that is written included.
    #[schemars(extend("default" = 5))]
    files: Option<i64>,
}

/// What is kept of a pool's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Lines in memory.
    pub lines: u32,
    /// Bytes in memory.
    pub bytes: u64,
    /// Where lines are appended to.
    pub file: Option<PathBuf>,
    /// How large the file may become.
    pub file_bytes: u64,
    /// How many files there may be.
    pub files: u32,
}

impl Default for Output {
    fn default() -> Self {
        Self { lines: 10_000, bytes: 4 << 20, file: None, file_bytes: 16 << 20, files: 5 }
    }
}

/// Checks one table; what is not written is as in `default`.
pub(super) fn check_output(
    checker: &mut Checker<'_>,
    raw: &RawOutput,
    at: &Key,
    default: &Output,
) -> Output {
    let file_at = at.child("file");
    let file = raw.file.as_deref().and_then(|text| checker.path(&file_at, text));
    let size = |checker: &mut Checker<'_>, name, text: &Option<String>, range| {
        checker.size(&at.child(name), text.as_deref(), range)
    };
    Output {
        bytes: size(checker, "bytes", &raw.bytes, &BYTES).unwrap_or(default.bytes),
        file_bytes: size(checker, "file_bytes", &raw.file_bytes, &FILE_BYTES)
            .unwrap_or(default.file_bytes),
        lines: checker.number(&at.child("lines"), raw.lines, &LINES).unwrap_or(default.lines),
        files: checker.number(&at.child("files"), raw.files, &FILES).unwrap_or(default.files),
        file: file.or_else(|| default.file.clone()),
    }
}

/// Reports pools that write one file by different rules.
pub(super) fn check_shared_files(
    checker: &mut Checker<'_>,
    pools: &BTreeMap<String, Pool>,
    at: &Key,
) {
    let mut owners: BTreeMap<&PathBuf, (&String, &Output)> = BTreeMap::new();
    for (name, pool) in pools {
        let Some(file) = &pool.output.file else { continue };
        let (owner, theirs) = *owners.entry(file).or_insert((name, &pool.output));
        let rules = |output: &Output| (output.file_bytes, output.files);
        if rules(theirs) != rules(&pool.output) {
            let owner = owner.clone();
            checker.report(&at.child(name).child("output"), Reason::SharedFile { owner });
        }
    }
}

/// From which level on records of Python's `logging` are forwarded; 0 for none.
pub(super) fn check_logging(checker: &mut Checker<'_>, raw: Option<&str>, at: &Key) -> u32 {
    let word = raw.unwrap_or("off");
    let level = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    if let Some((_, level)) = level {
        return *level;
    }
    let found = word.to_owned();
    let expected = "\"off\", \"debug\", \"info\", \"warning\", \"error\" or \"critical\"";
    checker.report(at, Reason::Word { found, expected });
    0
}
