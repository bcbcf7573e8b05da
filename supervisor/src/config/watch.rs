//! The key `watch`: files whose change makes a pool's workers be replaced, for development.

use std::path::PathBuf;

use super::checker::Checker;
use super::error::Key;
use super::reason::Reason;

/// Files to watch: a pattern, and the directory below which all that it stands for is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// The directory before the first part of the pattern with a `*` in it.
    pub root: PathBuf,
    /// The rest of the pattern.
    pub rest: String,
}

/// What makes a part of a pattern stand for more than itself.
const SPECIAL: [char; 5] = ['*', '?', '[', '{', '\\'];

/// Checks the patterns of one pool.
pub(super) fn check_watch(
    checker: &mut Checker<'_>,
    raw: Option<&Vec<String>>,
    at: &Key,
) -> Vec<Watch> {
    let texts = raw.cloned().unwrap_or_default();
    checker.short_enough(at, texts.len());
    checker.no_duplicates(at, &texts);
    let mut watches = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        watches.extend(check_pattern(checker, text, &at.child(&index.to_string())));
    }
    watches
}

fn check_pattern(checker: &mut Checker<'_>, text: &str, at: &Key) -> Option<Watch> {
    let special = text.find(SPECIAL).unwrap_or(text.len());
    let (root, rest) = match text[..special].rfind('/') {
        Some(0) => ("/", &text[1..]),
        Some(slash) => (&text[..slash], &text[slash + 1..]),
        None => (".", text),
    };
    if rest.is_empty() {
        let pattern = text.to_owned();
        let fault = "it names no file".to_owned();
        checker.report(at, Reason::Watch { pattern, fault });
        return None;
    }
    if let Err(error) = globset::Glob::new(rest) {
        let (pattern, fault) = (text.to_owned(), error.kind().to_string());
        checker.report(at, Reason::Watch { pattern, fault });
        return None;
    }
    let root = checker.directory(at, root)?;
    Some(Watch { root, rest: rest.to_owned() })
}
