//! Which functions of a pool may be called: patterns over `module:qualname`.
//!
//! A pattern has the shape of a name, and each of its dotted parts is one of
//!
//! - a literal: matches exactly itself, private names (`_x`) included;
//! - a glob: `*` stands for any run of characters within one part, but never begins a private
//!   name, so `mytasks:*` is neither `mytasks:_private` nor `mytasks:f.__globals__`;
//! - `**` alone: any number of parts, none of them private.
//!
//! Since `*` never crosses a dot, a module that has imported `os` does not offer `os.system`.

use clutch_protocol::limits::FUNCTION_NAME_BYTES_MAX;
use thiserror::Error;

/// The patterns of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    patterns: Vec<Pattern>,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum AllowError {
    /// It has no colon, or more than one.
    #[error(
        "the pattern \"{pattern}\" is not MODULE:QUALNAME: write \"mytasks:*\" or \"pkg.**:run\""
    )]
    Shape {
        /// The pattern.
        pattern: String,
    },
    /// It is longer than any name.
    #[error("the pattern has {length} bytes, but no function's name has more than {limit}")]
    TooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// One of its parts can match nothing.
    #[error(
        "the part \"{part}\" of the pattern can match no Python name: write letters, digits, \
             _ and *, or ** alone"
    )]
    Part {
        /// The part.
        part: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    module: Vec<Part>,
    qualname: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// One part of a name, with or without `*` in it.
    One(String),
    /// `**`.
    Any,
}

impl Allow {
    /// Reads patterns.
    ///
    /// # Errors
    ///
    /// With the first pattern that is none.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, AllowError> {
        let patterns = patterns.into_iter().map(Pattern::new).collect::<Result<_, _>>()?;
        Ok(Self { patterns })
    }

    /// Whether a function may be called.
    #[must_use]
    pub fn allows(&self, module: &str, qualname: &str) -> bool {
        self.patterns
            .iter()
            .any(|p| parts_match(&p.module, module) && parts_match(&p.qualname, qualname))
    }
}

impl Pattern {
    fn new(pattern: &str) -> Result<Self, AllowError> {
        if pattern.len() > FUNCTION_NAME_BYTES_MAX {
            return Err(AllowError::TooLong {
                length: pattern.len(),
                limit: FUNCTION_NAME_BYTES_MAX,
            });
        }
        match pattern.split_once(':') {
            Some((module, qualname)) if !qualname.contains(':') => Ok(Self {
                module: module.split('.').map(Part::new).collect::<Result<_, _>>()?,
                qualname: qualname.split('.').map(Part::new).collect::<Result<_, _>>()?,
            }),
            _ => Err(AllowError::Shape { pattern: pattern.to_owned() }),
        }
    }
}

impl Part {
    fn new(part: &str) -> Result<Self, AllowError> {
        if part == "**" {
            return Ok(Self::Any);
        }
        let starts_well = part.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '*');
        let only_names = part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '*');
        if !starts_well || !only_names || part.contains("**") {
            return Err(AllowError::Part { part: part.to_owned() });
        }
        Ok(Self::One(part.to_owned()))
    }

    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Any => !name.starts_with('_'),
            Self::One(glob) => glob_matches(glob.as_bytes(), name.as_bytes()),
        }
    }
}

/// Whether parts take a dotted name. `reach[i]` says whether the names so far can have used up the
/// first `i` parts, so the work is at most parts times names, whatever the pattern.
fn parts_match(parts: &[Part], dotted: &str) -> bool {
    let mut reach = vec![false; parts.len() + 1];
    reach[0] = true;
    skip_any(parts, &mut reach);
    for name in dotted.split('.') {
        let mut next = vec![false; parts.len() + 1];
        for (index, part) in parts.iter().enumerate() {
            if reach[index] && part.takes(name) {
                next[index + usize::from(*part != Part::Any)] = true;
            }
        }
        skip_any(parts, &mut next);
        reach = next;
    }
    reach[parts.len()]
}

/// `**` may also stand for no part at all.
fn skip_any(parts: &[Part], reach: &mut [bool]) {
    for (index, part) in parts.iter().enumerate() {
        if reach[index] && *part == Part::Any {
            reach[index + 1] = true;
        }
    }
}

/// Whether a glob takes a name; linear but for the run after the last star, which is tried again
/// one byte further on. Bytes will do: a star may only split a character that both sides hold.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    if glob.first() == Some(&b'*') && name.first() == Some(&b'_') {
        return false;
    }
    let (mut at, mut pos) = (0, 0);
    let mut retry = None;
    while pos < name.len() {
        if glob.get(at) == Some(&b'*') {
            retry = Some((at, pos));
            at += 1;
        } else if glob.get(at) == Some(&name[pos]) {
            at += 1;
            pos += 1;
        } else if let Some((star, from)) = retry {
            retry = Some((star, from + 1));
            at = star + 1;
            pos = from + 1;
        } else {
            return false;
        }
    }
    glob[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, function: &str) -> bool {
        let (module, qualname) = function.split_once(':').expect("a test's own name");
        Allow::new([pattern]).expect("a test's own pattern").allows(module, qualname)
    }

    #[test]
    fn one_star_stays_within_one_part_and_off_private_names_f166() {
        assert!(allows("mytasks:*", "mytasks:f"));
        for refused in [
            "mytasks:os.system",
            "mytasks:_private",
            "mytasks:__class__",
            "mytasks:f.__globals__",
            "mytasks.sub:f",
            "mytask:f",
            "mytaskss:f",
            "os:system",
        ] {
            assert!(!allows("mytasks:*", refused), "{refused}");
        }
        assert!(!allows("*:f", "_hidden:f"));
        assert!(!allows("*:f", "a.b:f"));
    }

    #[test]
    fn a_star_matches_part_of_a_name() {
        assert!(allows("tasks:do_*", "tasks:do_it"));
        assert!(allows("tasks:do_*", "tasks:do_"));
        assert!(allows("tasks:*_job", "tasks:my_job"));
        assert!(!allows("tasks:*_job", "tasks:_job"));
        assert!(allows("tasks:a*b*c", "tasks:aXbYbc"));
        assert!(!allows("tasks:a*b*c", "tasks:aXbYb"));
        assert!(allows("tasks:_do_*", "tasks:_do_it"));
        assert!(allows("tasks:größe*", "tasks:größen"));
    }

    #[test]
    fn two_stars_cross_dots_but_never_reach_private_names() {
        assert!(allows("pkg.**:run", "pkg:run"));
        assert!(allows("pkg.**:run", "pkg.a.b:run"));
        assert!(!allows("pkg.**:run", "pkg.a._b:run"));
        assert!(!allows("pkg.**:run", "pkgx:run"));
        assert!(allows("m:**", "m:Class.method"));
        assert!(!allows("m:**", "m:Class.__init__"));
        assert!(!allows("m:**", "m:_C.method"));
        assert!(allows("**.tasks:*", "a.b.tasks:f"));
        assert!(allows("**:**", "a.b:c.d"));
    }

    #[test]
    fn literals_match_exactly_also_private_ones() {
        assert!(allows("__main__:f", "__main__:f"));
        assert!(allows("m:_private", "m:_private"));
        assert!(!allows("m:f", "m:ff"));
        assert!(!allows("m:f", "m:f.g"));
        assert!(allows("m:C.f", "m:C.f"));
    }

    #[test]
    fn nothing_is_allowed_by_no_pattern() {
        assert!(!Allow::new([]).unwrap().allows("m", "f"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for bad in [
            "",
            "mytasks",
            "a:b:c",
            ":",
            "a:",
            ":b",
            "a.:b",
            "a:b c",
            "a:***",
            "a:b**",
            "a:1x",
            "a:[xy]",
            "os.*",
            "a:\0",
            &("a".repeat(600) + ":b"),
        ] {
            assert!(Allow::new([bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_costs_little() {
        let pattern = format!("m:{}b", "a*".repeat(200));
        let name = format!("m:{}", "a".repeat(500));
        assert!(!allows(&pattern, &name));
        let pattern = format!("m:{}x", "**.".repeat(160));
        let name = format!("m:{}a", "a.".repeat(250));
        assert!(!allows(&pattern, &name));
    }
}
