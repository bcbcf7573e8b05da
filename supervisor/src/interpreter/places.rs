//! Where interpreters are kept on this machine: beside `PATH`, those that pyenv and uv have
//! installed, and the system's own directories.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::check_executable;

/// How many entries of one directory are looked at; a person has some dozens at most.
const ENTRIES_MAX: usize = 4096;

/// Directories that distributions and people install into.
const SYSTEM: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Where interpreters are looked for when `PATH` has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// pyenv's folder of versions.
    pub pyenv: Option<PathBuf>,
    /// uv's folder of interpreters.
    pub uv: Option<PathBuf>,
    /// The system's directories.
    pub system: Vec<PathBuf>,
}

/// Which kind of place an interpreter was found in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory of `PATH`.
    Path,
    /// pyenv.
    Pyenv,
    /// uv.
    Uv,
    /// The system.
    System,
    /// A path that the configuration names.
    Named,
}

impl Place {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Place::Path => "PATH",
            Place::Pyenv => "pyenv",
            Place::Uv => "uv",
            Place::System => "system",
            Place::Named => "configuration",
        }
    }
}

/// An interpreter that is there, with what its name or folder says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The file.
    pub path: PathBuf,
    /// Where it was found.
    pub place: Place,
    /// `cpython`, `pypy`.
    pub implementation: &'static str,
    /// As many numbers of its version as its name tells.
    pub version: Vec<u8>,
    /// Whether it runs without the global interpreter lock.
    pub free_threaded: bool,
}

impl Places {
    /// Those of this machine and the user who runs this.
    pub fn of_this_machine() -> Places {
        let variable = |name: &str| std::env::var_os(name);
        let mut system: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
        let mut optional: Vec<_> =
            entries(Path::new("/opt")).into_iter().map(|(_, path)| path.join("bin")).collect();
        let wheels = entries(Path::new("/opt/python")).into_iter();
        optional.extend(wheels.map(|(_, path)| path.join("bin")));
        optional.sort();
        system.extend(optional.into_iter().filter(|path| path.is_dir()));
        Places { system, ..Places::of_user(variable) }
    }

    fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Places {
        let directory = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let home = directory("HOME");
        let below = |folder: &str| home.as_ref().map(|home| home.join(folder));
        let pyenv = directory("PYENV_ROOT").or_else(|| below(".pyenv"));
        let data = directory("XDG_DATA_HOME").or_else(|| below(".local/share"));
        Places {
            pyenv: pyenv.map(|root| root.join("versions")),
            uv: directory("UV_PYTHON_INSTALL_DIR").or_else(|| Some(data?.join("uv/python"))),
            system: Vec::new(),
        }
    }

    /// What pyenv has, the newest first.
    pub fn pyenv(&self) -> Vec<Candidate> {
        let folders = self.pyenv.as_deref().map(entries).unwrap_or_default();
        // Links are virtual environments under another name.
        let own = folders.into_iter().filter(|(_, path)| !path.is_symlink());
        newest_first(own.filter_map(|(name, path)| {
            let (implementation, rest) = match name.strip_prefix("pypy") {
                Some(rest) => ("pypy", rest),
                None => ("cpython", name.as_str()),
            };
            let (version, free_threaded) = leading_version(rest)?;
            let path = program_in(&path.join("bin"), implementation, &version)?;
            Some(Candidate { path, place: Place::Pyenv, implementation, version, free_threaded })
        }))
    }

    /// What uv has, the newest first.
    pub fn uv(&self) -> Vec<Candidate> {
        let folders = self.uv.as_deref().map(entries).unwrap_or_default();
        // A link is a minor version that leads to one of the others.
        let own = folders.into_iter().filter(|(_, path)| !path.is_symlink());
        newest_first(own.filter_map(|(name, path)| {
            let (implementation, rest) = match name.split_once('-')? {
                ("cpython", rest) => ("cpython", rest),
                ("pypy", rest) => ("pypy", rest),
                _ => return None,
            };
            let (version, _) = leading_version(rest)?;
            let free_threaded = rest.contains("+freethreaded");
            let path = program_in(&path.join("bin"), implementation, &version)?;
            Some(Candidate { path, place: Place::Uv, implementation, version, free_threaded })
        }))
    }

    /// What the system's directories have, in their order, and within one the newest first.
    pub fn system(&self) -> Vec<Candidate> {
        self.system.iter().flat_map(|directory| in_directory(directory, Place::System)).collect()
    }
}

/// Files in a directory that are called like an interpreter of some version.
pub(super) fn in_directory(directory: &Path, place: Place) -> Vec<Candidate> {
    newest_first(entries(directory).into_iter().filter_map(|(name, path)| {
        let (implementation, rest) = match name.strip_prefix("python") {
            Some(rest) => ("cpython", rest),
            None => ("pypy", name.strip_prefix("pypy")?),
        };
        // `python3` leads to one of the others; `python3.12-config` is none.
        let (version, free_threaded) = whole_version(rest)?;
        check_executable(&path).is_ok().then_some(Candidate {
            path,
            place,
            implementation,
            version,
            free_threaded,
        })
    }))
}

/// What the target of links says of an interpreter whose own name says less, as `python3` does.
pub(super) fn hint(path: &Path) -> Option<(Vec<u8>, bool)> {
    let target = fs::canonicalize(path).ok()?;
    let name = target.file_name()?.to_str()?;
    whole_version(name.strip_prefix("python")?)
}

/// `3.12` and `3.13t`, and nothing after them.
fn whole_version(text: &str) -> Option<(Vec<u8>, bool)> {
    let numbers = text.strip_suffix('t').unwrap_or(text);
    let version = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<_>>>()?;
    (version.len() >= 2).then_some((version, numbers.len() < text.len()))
}

fn newest_first(all: impl Iterator<Item = Candidate>) -> Vec<Candidate> {
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|it| (Reverse(it.version.clone()), it.free_threaded, it.path.clone()));
    all
}

/// The numbers at the start of `3.12.1`, `3.13.0t`, `3.14-dev` and `3.10.14-linux-x86_64-gnu`.
fn leading_version(text: &str) -> Option<(Vec<u8>, bool)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let version: Vec<u8> = numbers.split('.').map_while(|part| part.parse().ok()).collect();
    let end_of_word = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    let free_threaded = rest.strip_prefix('t').is_some_and(end_of_word);
    (!version.is_empty()).then_some((version, free_threaded))
}

fn program_in(bin: &Path, implementation: &str, version: &[u8]) -> Option<PathBuf> {
    let own = match version {
        [major, minor, ..] if implementation == "cpython" => Some(format!("python{major}.{minor}")),
        _ => None,
    };
    let names = own.into_iter().chain(["python3".to_owned(), "python".to_owned()]);
    names.map(|name| bin.join(name)).find(|path| check_executable(path).is_ok())
}

/// The entries of a directory that is there, by name. Names that are not text are none of ours.
fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(list) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let list = list.flatten().take(ENTRIES_MAX);
    list.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_say_their_version() {
        type Told = Option<(&'static [u8], bool)>;
        let cases: [(&str, Told); 9] = [
            ("3.12.1", Some((&[3, 12, 1], false))),
            ("3.13.0t", Some((&[3, 13, 0], true))),
            ("3.14-dev", Some((&[3, 14], false))),
            ("3.14t-dev", Some((&[3, 14], true))),
            ("3.14.0rc1", Some((&[3, 14, 0], false))),
            ("3.13.0+freethreaded-linux-x86_64-gnu", Some((&[3, 13, 0], false))),
            ("3.12.1test", Some((&[3, 12, 1], false))),
            ("miniconda3", None),
            ("", None),
        ];
        for (name, expected) in cases {
            let found = leading_version(name);
            assert_eq!(expected, found.as_ref().map(|(v, t)| (&v[..], *t)), "{name}");
        }
    }

    #[test]
    fn the_users_places_follow_the_variables() {
        let with = |variables: &'static [(&str, &str)]| {
            Places::of_user(move |name| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
            })
        };
        let home = with(&[("HOME", "/home/me")]);
        assert_eq!(Some(PathBuf::from("/home/me/.pyenv/versions")), home.pyenv);
        assert_eq!(Some(PathBuf::from("/home/me/.local/share/uv/python")), home.uv);
        let named = with(&[
            ("HOME", "/home/me"),
            ("PYENV_ROOT", "/pyenv"),
            ("UV_PYTHON_INSTALL_DIR", "/uv"),
            ("XDG_DATA_HOME", "/data"),
        ]);
        assert_eq!(Some(PathBuf::from("/pyenv/versions")), named.pyenv);
        assert_eq!(Some(PathBuf::from("/uv")), named.uv);
        assert_eq!(Places::default(), with(&[("PYENV_ROOT", "relative")]));
    }
}
