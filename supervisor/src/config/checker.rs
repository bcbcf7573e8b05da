//! The checks of single values, each of which reports what is wrong at its place in the text.

use std::collections::BTreeSet;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::bounds::LIST_ITEMS_MAX;
use super::error::{Key, Problem};
use super::model::Python;
use super::reason::Reason;
use super::units::{duration, show_duration, show_size, size};

/// Where values stand, where relative paths start, and what was found so far.
pub(super) struct Checker<'a> {
    places: Option<&'a DeTable<'a>>,
    base_dir: &'a Path,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Checker<'a> {
    /// A checker for the keys of a table, or for values from elsewhere.
    pub(super) fn new(
        places: Option<&'a DeTable<'a>>,
        base_dir: &'a Path,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self { places, base_dir, problems }
    }

    /// Whether anything was reported so far.
    pub(super) fn has_problems(&self) -> bool {
        !self.problems.is_empty()
    }

    /// Where relative paths start.
    pub(super) fn base_dir(&self) -> &'a Path {
        self.base_dir
    }

    /// Reports a problem at the place of a key.
    pub(super) fn report(&mut self, at: &Key, reason: Reason) {
        let span = self.places.map(|places| place(places, at));
        self.problems.push(Problem { key: at.clone(), reason, span });
    }

    /// A whole number within a range.
    pub(super) fn number(
        &mut self,
        at: &Key,
        value: Option<i64>,
        range: &RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = value?;
        if let Ok(number) = u32::try_from(value)
            && range.contains(&number)
        {
            return Some(number);
        }
        self.report(
            at,
            Reason::Range {
                value: value.to_string(),
                least: range.start().to_string(),
                most: range.end().to_string(),
            },
        );
        None
    }

    /// A duration within a range.
    pub(super) fn duration(
        &mut self,
        at: &Key,
        text: Option<&str>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let reason = match duration(text?) {
            Ok(value) if range.contains(&value) => return Some(value),
            Ok(value) => Reason::Range {
                value: show_duration(value),
                least: quoted(&show_duration(*range.start())),
                most: quoted(&show_duration(*range.end())),
            },
            Err(error) => Reason::Duration(error),
        };
        self.report(at, reason);
        None
    }

    /// A size in bytes within a range.
    pub(super) fn size(
        &mut self,
        at: &Key,
        text: Option<&str>,
        range: &RangeInclusive<u64>,
    ) -> Option<u64> {
        let reason = match size(text?) {
            Ok(value) if range.contains(&value) => return Some(value),
            Ok(value) => Reason::Range {
                value: show_size(value),
                least: quoted(&show_size(*range.start())),
                most: quoted(&show_size(*range.end())),
            },
            Err(error) => Reason::Size(error),
        };
        self.report(at, reason);
        None
    }

    /// An interpreter: a name on `PATH`, or a path if it has a slash in it.
    pub(super) fn python(&mut self, at: &Key, text: &str) -> Option<Python> {
        if text.contains('/') || text.starts_with('~') {
            return self.path(at, text).map(Python::File);
        }
        if text.is_empty() {
            self.report(at, Reason::Empty);
            return None;
        }
        self.no_nul(at, text).then(|| Python::Named(text.to_owned()))
    }

    /// A path made absolute, whether or not there is something.
    pub(super) fn path(&mut self, at: &Key, text: &str) -> Option<PathBuf> {
        if text.is_empty() {
            self.report(at, Reason::Empty);
            return None;
        }
        if !self.no_nul(at, text) {
            return None;
        }
        let Some(rest) = text.strip_prefix('~') else {
            return Some(absolute(self.base_dir, Path::new(text)));
        };
        let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
        match home {
            Some(home) if rest.is_empty() || rest.starts_with('/') => {
                Some(absolute(&home, Path::new(rest.trim_start_matches('/'))))
            }
            Some(_) => {
                self.report(at, Reason::HomeOfAnother);
                None
            }
            None => {
                self.report(at, Reason::NoHome);
                None
            }
        }
    }

    /// The absolute path of a directory that is there.
    pub(super) fn directory(&mut self, at: &Key, text: &str) -> Option<PathBuf> {
        let path = self.path(at, text)?;
        self.is_directory(at, &path).then_some(path)
    }

    /// The absolute path of a file that is there.
    pub(super) fn file(&mut self, at: &Key, text: &str) -> Option<PathBuf> {
        let path = self.path(at, text)?;
        self.is_file(at, &path).then_some(path)
    }

    /// Whether there is a directory.
    pub(super) fn is_directory(&mut self, at: &Key, path: &Path) -> bool {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => return true,
            Ok(_) => self.report(at, Reason::NotDirectory { path: path.to_owned() }),
            Err(error) => self.no_path(at, path, error),
        }
        false
    }

    /// Whether there is a file.
    pub(super) fn is_file(&mut self, at: &Key, path: &Path) -> bool {
        match path.metadata() {
            Ok(metadata) if metadata.is_file() => return true,
            Ok(_) => self.report(at, Reason::NotFile { path: path.to_owned() }),
            Err(error) => self.no_path(at, path, error),
        }
        false
    }

    /// Whether there is anything: a directory, or a zip file that Python can import from.
    pub(super) fn exists(&mut self, at: &Key, path: &Path) -> bool {
        match path.metadata() {
            Ok(_) => true,
            Err(error) => {
                self.no_path(at, path, error);
                false
            }
        }
    }

    fn no_path(&mut self, at: &Key, path: &Path, source: io::Error) {
        let path = path.to_owned();
        self.report(
            at,
            match source.kind() {
                io::ErrorKind::NotFound => Reason::PathMissing { path },
                _ => Reason::PathUnreadable { path, source },
            },
        );
    }

    /// Whether the system can pass a text on.
    pub(super) fn no_nul(&mut self, at: &Key, text: &str) -> bool {
        let fine = !text.contains('\0');
        if !fine {
            self.report(at, Reason::Nul);
        }
        fine
    }

    /// Whether a text can be the name of an environment variable.
    pub(super) fn variable(&mut self, at: &Key, name: &str) {
        if name.is_empty() || name.contains(['=', '\0']) {
            let name = name.to_owned();
            self.report(at, Reason::Variable { name });
        }
    }

    /// Whether a list is short enough.
    pub(super) fn short_enough(&mut self, at: &Key, length: usize) {
        if length > LIST_ITEMS_MAX {
            let limit = LIST_ITEMS_MAX;
            self.report(at, Reason::TooMany { length, limit });
        }
    }

    /// Whether each text stands once in a list.
    pub(super) fn no_duplicates(&mut self, at: &Key, texts: &[String]) {
        let mut seen = BTreeSet::new();
        for (index, text) in texts.iter().enumerate() {
            if !seen.insert(text) {
                let text = text.clone();
                self.report(&at.child(&index.to_string()), Reason::Duplicate { text });
            }
        }
    }
}

/// A path from a base, without `.` and doubled slashes; `..` stays, since it may follow a link.
pub(super) fn absolute(base: &Path, path: &Path) -> PathBuf {
    let joined = base.join(path);
    joined.components().filter(|part| *part != Component::CurDir).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// Where a key's value stands; its name if the value is a table, or its nearest parent's name if
/// it is not there at all.
fn place(places: &DeTable<'_>, key: &Key) -> Range<usize> {
    let mut parts = key.parts().iter();
    let mut nearest = 0..0;
    let Some((name, mut value)) = parts.next().and_then(|part| places.get_key_value(part.as_str()))
    else {
        return nearest;
    };
    nearest = name.span();
    for part in parts {
        match value.get_ref() {
            DeValue::Table(table) => match table.get_key_value(part.as_str()) {
                Some((name, below)) => {
                    nearest = name.span();
                    value = below;
                }
                None => return nearest,
            },
            DeValue::Array(items) => {
                match part.parse().ok().and_then(|index: usize| items.get(index)) {
                    Some(item) => value = item,
                    None => return value.span(),
                }
            }
            _ => return value.span(),
        }
    }
    match value.get_ref() {
        DeValue::Table(_) => nearest,
        _ => value.span(),
    }
}
