//! What an interpreter says of itself beyond its version: prefix, ABI, build, packages.
//!
//! Asking costs a start of Python with its `site`, some dozens of milliseconds, so what is said is
//! kept (`cache.rs`), and asked only off the data plane.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clutch_protocol::status::Interpreter as Facts;

use super::error::InterpreterError;
use super::{Asker, OLDEST, end, run, said};

/// How much of a folder of packages is looked through for pip.
const PACKAGES_MAX: usize = 20_000;

/// What an answer starts with.
const MARK: &[u8] = b"clutch-facts ";

/// Says all of it, as texts that end with NUL, and then an empty one.
const SCRIPT: &str = "\
import sys
import _imp
import site
e = lambda t: (t or '').encode(sys.getfilesystemencoding(), 'surrogateescape')
f = ['%d.%d.%d' % sys.version_info[:3], sys.implementation.name, sys.executable, sys.prefix,
     sys.base_prefix, (_imp.extension_suffixes() or [''])[0], getattr(sys, 'abiflags', '') + '-']
f += getattr(site, 'getsitepackages', list)()
sys.stdout.buffer.write(b'clutch-facts ' + b''.join(e(t) + b'\\0' for t in f) + b'\\0')
sys.stdout.flush()
";

/// Asks an interpreter for everything.
///
/// # Errors
///
/// As [`super::probe`].
pub(super) fn ask(path: &Path, asker: &Asker<'_>) -> Result<Facts, InterpreterError> {
    // Isolated, so that no file of the working directory and no variable gets in its way.
    let answer = run::run(path, &["-I", "-c", SCRIPT], asker)?;
    let Some(facts) = parse(&answer.stdout, path) else {
        // Perhaps it is too old for this question, and can say so when asked for less.
        asker.version(path)?;
        let (path, end, words) = (path.to_owned(), end(&answer), said(&answer));
        return Err(InterpreterError::Reticent { path, end, words });
    };
    let (version, implementation) = (numbers(&facts.version), facts.implementation.clone());
    let path = path.to_owned();
    if implementation != "cpython" {
        return Err(InterpreterError::Implementation { path, implementation, version });
    }
    if (version.0, version.1) < OLDEST {
        return Err(InterpreterError::TooOld { path, version });
    }
    Ok(facts)
}

/// A version as numbers.
pub(super) fn numbers(version: &str) -> (u8, u8, u8) {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next(), next())
}

fn parse(stdout: &[u8], path: &Path) -> Option<Facts> {
    let start = stdout.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let mut texts = stdout[start..].split(|byte| *byte == 0);
    let mut next = || texts.next().filter(|text| !text.is_empty());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let version = text(next()?);
    let implementation = text(next()?);
    let executable = next()?;
    let known = Path::new(OsStr::from_bytes(executable)).exists();
    let executable = if known { text(executable) } else { path.to_string_lossy().into_owned() };
    let (prefix, base_prefix, suffix, flags) = (next()?, next()?, text(next()?), text(next()?));
    let exists = |bytes: &&[u8]| Path::new(OsStr::from_bytes(bytes)).is_dir();
    let site_packages = std::iter::from_fn(next).filter(exists).map(text).collect();
    let abi = suffix.trim_start_matches('.').trim_end_matches(".so").to_owned();
    let (prefix, base_prefix) = (text(prefix), text(base_prefix));
    Some(Facts {
        executable,
        version,
        implementation,
        kind: String::new(),
        prefix,
        base_prefix,
        architecture: architecture(&abi),
        abi,
        free_threaded: flags.contains('t'),
        site_packages,
        pip: None,
    })
}

/// `x86_64` of `cpython-312-x86_64-linux-gnu`; this machine's own where the ABI does not tell.
fn architecture(abi: &str) -> String {
    let told = abi.splitn(3, '-').nth(2).and_then(|platform| platform.split("-linux").next());
    told.filter(|it| !it.is_empty()).unwrap_or(std::env::consts::ARCH).to_owned()
}

/// What changes without the interpreter: the kind of its environment, and its pip.
pub(super) fn refresh(facts: Facts) -> Facts {
    let pip = facts.site_packages.iter().find_map(|folder| pip_in(Path::new(folder)));
    let kind = kind(Path::new(&facts.prefix), Path::new(&facts.executable)).to_owned();
    Facts { pip, kind, ..facts }
}

/// What made an environment: its own marks say so.
pub fn kind(prefix: &Path, executable: &Path) -> &'static str {
    if prefix.join("conda-meta").is_dir() {
        return "conda";
    }
    if let Ok(text) = fs::read_to_string(prefix.join("pyvenv.cfg")) {
        let has = |key: &str| {
            text.lines().any(|line| line.split('=').next().is_some_and(|name| name.trim() == key))
        };
        // uv writes the key `uv`, virtualenv the key `virtualenv`.
        return match (has("uv"), has("virtualenv")) {
            (true, _) => "uv venv",
            (false, true) => "virtualenv",
            (false, false) => "venv",
        };
    }
    let is_below = |folder: Option<std::path::PathBuf>| {
        folder.is_some_and(|folder| executable.starts_with(&folder) || prefix.starts_with(&folder))
    };
    let places = super::places::Places::of_this_machine();
    match (is_below(places.pyenv), is_below(places.uv)) {
        (true, _) => "pyenv",
        (_, true) => "uv",
        _ => "system",
    }
}

fn pip_in(folder: &Path) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.take(PACKAGES_MAX).flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter_map(|name| {
            let rest = name.strip_prefix("pip-")?;
            let version =
                rest.strip_suffix(".dist-info").or_else(|| rest.strip_suffix(".egg-info"))?;
            Some(version.to_owned())
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whatever_was_printed_before_it() {
        let answer = b"greetings\nclutch-facts 3.13.0\0cpython\0/no/python\0/v\0/b\0\
            .cpython-313t-aarch64-linux-gnu.so\0t-\0/\0/no/such\0\0";
        let facts = parse(answer, Path::new("/v/bin/python")).unwrap();
        assert_eq!(("3.13.0", "/v", "/b"), (&*facts.version, &*facts.prefix, &*facts.base_prefix));
        assert_eq!("cpython-313t-aarch64-linux-gnu", facts.abi);
        assert_eq!("aarch64", facts.architecture);
        assert!(facts.free_threaded);
        assert_eq!(["/"], facts.site_packages[..]);
        assert_eq!("/v/bin/python", facts.executable, "what it calls itself is not there");
        assert_eq!(None, parse(b"clutch-facts 3.13.0\0cpython", Path::new("/")));
        assert_eq!((3, 13, 0), numbers("3.13.0"));
    }

    #[test]
    fn environments_are_told_apart_by_their_marks() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (name, text) in [
            ("venv", "home = /usr/bin\nversion = 3.12.1\n"),
            ("virtualenv", "home = /usr/bin\nvirtualenv = 20.25.0\n"),
            ("uv", "home = /usr/bin\nuv = 0.5.1\n"),
        ] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("pyvenv.cfg"), text).unwrap();
        }
        fs::create_dir_all(at("conda/conda-meta")).unwrap();
        let kind = |name: &str| kind(&at(name), &at(name).join("bin/python"));
        assert_eq!(
            ["venv", "virtualenv", "uv venv", "conda", "system"],
            ["venv", "virtualenv", "uv", "conda", "none"].map(kind)
        );
    }

    #[test]
    fn pip_is_found_by_its_record() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(None, pip_in(directory.path()));
        fs::create_dir(directory.path().join("pip-23.2.1.dist-info")).unwrap();
        fs::create_dir(directory.path().join("pipx-1.0.dist-info")).unwrap();
        assert_eq!(Some("23.2.1".to_owned()), pip_in(directory.path()));
    }
}
