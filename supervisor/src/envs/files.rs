//! What a requirements file is made of: its own text, the files it includes, and the local
//! packages it names. All of it goes into the key; what it means is the installer's business.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::EnvError;
use super::key::Hasher;

/// The longest file of requirements or lock: the largest locks have some mebibytes.
pub(super) const FILE_BYTES_MAX: u64 = 32 << 20;

/// How many files one declaration may include.
const FILES_MAX: usize = 64;

/// How much of a local package file is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Options that include another file.
const INCLUDES: [&str; 4] = ["--requirement", "--constraint", "-r", "-c"];

/// Options that name a package to be installed from where it is.
const EDITABLES: [&str; 2] = ["--editable", "-e"];

/// What says how a local directory is installed.
const BUILD_FILES: [&str; 3] = ["pyproject.toml", "setup.py", "setup.cfg"];

/// Reads a file that must not be longer than any real one.
pub(super) fn read(path: &Path) -> Result<String, EnvError> {
    let unreadable = |source| EnvError::Unreadable { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    Ok(text)
}

/// Takes a requirements file and everything it includes into a hash. Names are taken relative to
/// the first file's directory, so that a copy of a project elsewhere has the same environment.
pub(super) fn hash(path: &Path, hasher: &mut Hasher) -> Result<(), EnvError> {
    let base = path.parent().unwrap_or(Path::new("/"));
    let mut waiting = vec![path.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = waiting.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        if seen.len() > FILES_MAX {
            return Err(EnvError::TooManyFiles { path, limit: FILES_MAX });
        }
        let text = read(&path)?;
        let name = path.strip_prefix(base).unwrap_or(&path);
        hasher.part("file", name.as_os_str().as_encoded_bytes());
        hasher.part("text", text.as_bytes());
        let own = path.parent().unwrap_or(base);
        for line in logical_lines(&text) {
            // pip looks for included files beside the file that includes them, and for packages
            // where it was started.
            match meaning(&line) {
                Line::Include(name) => waiting.push(own.join(name)),
                Line::Local(_) | Line::Other => hash_line(&line, base, hasher)?,
            }
        }
    }
    Ok(())
}

/// Takes the local package that a requirement names into a hash, if it names one.
pub(super) fn hash_line(line: &str, base: &Path, hasher: &mut Hasher) -> Result<(), EnvError> {
    match meaning(line) {
        Line::Local(name) => hash_package(&base.join(name), hasher),
        Line::Include(_) | Line::Other => Ok(()),
    }
}

/// What a line of a requirements file names.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Include(&'a str),
    /// A path, as far as one can tell without looking.
    Local(&'a str),
    Other,
}

fn meaning(line: &str) -> Line<'_> {
    for option in INCLUDES {
        if let Some(value) = option_value(line, option) {
            return if value.contains("://") { Line::Other } else { Line::Include(value) };
        }
    }
    let editable = EDITABLES.iter().find_map(|option| option_value(line, option));
    let subject = editable.unwrap_or(line);
    // A marker, a hash or an option of the line may follow; `NAME @ file:///path` precedes.
    let subject = subject.rsplit(" @ ").next().unwrap_or(subject);
    let subject = subject.split([';', ' ', '#']).next().unwrap_or(subject);
    let subject = subject.strip_prefix("file://").unwrap_or(subject);
    let subject = subject.split('[').next().unwrap_or(subject);
    let path = subject.starts_with(['.', '/'])
        || subject.ends_with(".whl")
        || subject.ends_with(".tar.gz")
        || (editable.is_some() && !subject.contains("://"));
    if path && !subject.contains("://") { Line::Local(subject) } else { Line::Other }
}

/// `-r value`, `-rvalue`, `--long value`, `--long=value`.
fn option_value<'a>(line: &'a str, option: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(option)?;
    let long = option.starts_with("--");
    let value = match rest.chars().next() {
        Some('=') if long => &rest[1..],
        Some(c) if c.is_whitespace() => rest,
        Some(_) if !long => rest,
        _ => return None,
    };
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then_some(value)
}

/// Lines without comments, continued ones joined, as pip joins them.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in text.lines() {
        if let Some(part) = line.strip_suffix('\\') {
            open.push_str(part);
            continue;
        }
        let mut whole = std::mem::take(&mut open);
        whole.push_str(line);
        let end = match whole.find(" #") {
            _ if whole.trim_start().starts_with('#') => 0,
            Some(comment) => comment,
            None => whole.len(),
        };
        let line = whole[..end].trim();
        if !line.is_empty() {
            lines.push(line.to_owned());
        }
    }
    lines.extend((!open.trim().is_empty()).then(|| open.trim().to_owned()));
    lines
}

/// Takes a local package into a hash: a file with its contents, a directory with what says how it
/// is installed. What else a directory holds is not followed.
fn hash_package(path: &Path, hasher: &mut Hasher) -> Result<(), EnvError> {
    let unreadable = |source| EnvError::Unreadable { path: path.to_owned(), source };
    let Ok(metadata) = path.metadata() else {
        // It may be none after all, and if it is one, the installer says so better.
        return Ok(());
    };
    if metadata.is_dir() {
        for name in BUILD_FILES {
            let file: PathBuf = path.join(name);
            if file.is_file() {
                hasher.part(name, read(&file)?.as_bytes());
            }
        }
        return Ok(());
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).map_err(unreadable)? {
            0 => return Ok(()),
            count => hasher.part("package", &chunk[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_joined_and_comments_left_out() {
        let text = "a==1 \\\n  --hash=x\n# comment\n\n  b # why\nc#d\n-r x.txt\\\n";
        assert_eq!(vec!["a==1   --hash=x", "b", "c#d", "-r x.txt"], logical_lines(text));
    }

    #[test]
    fn a_line_names_a_file_or_not() {
        for (line, expected) in [
            ("-r base.txt", Line::Include("base.txt")),
            ("-rbase.txt", Line::Include("base.txt")),
            ("--requirement=base.txt", Line::Include("base.txt")),
            ("--constraint  'c d.txt'", Line::Include("c d.txt")),
            ("-c https://x.example/c.txt", Line::Other),
            ("--require-hashes", Line::Other),
            ("numpy>=2", Line::Other),
            ("./pkg[x]", Line::Local("./pkg")),
            ("-e .", Line::Local(".")),
            ("-e src", Line::Local("src")),
            ("-e git+https://x.example/r.git", Line::Other),
            ("wheels/a-1-py3-none-any.whl", Line::Local("wheels/a-1-py3-none-any.whl")),
            ("a @ file:///w/a.whl ; x", Line::Local("/w/a.whl")),
            ("a @ https://x.example/a.whl", Line::Other),
        ] {
            assert_eq!(expected, meaning(line), "{line}");
        }
    }

    #[test]
    fn the_hash_follows_includes_and_packages() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let hashed = || {
            let mut hasher = Hasher::new();
            hash(&dir.path().join("a.txt"), &mut hasher).map(|()| hasher.digits())
        };
        write("a.txt", "-r b.txt\n./p.whl\n");
        assert!(matches!(hashed(), Err(EnvError::Unreadable { .. })));
        write("b.txt", "-c a.txt\nnumpy\n");
        let without = hashed().unwrap();
        write("p.whl", "1");
        let first = hashed().unwrap();
        assert_ne!(without, first);
        assert_eq!(first, hashed().unwrap());
        write("p.whl", "2");
        let second = hashed().unwrap();
        assert_ne!(first, second);
        write("b.txt", "-c a.txt\nnumpy>=2\n");
        assert_ne!(second, hashed().unwrap());
    }
}
