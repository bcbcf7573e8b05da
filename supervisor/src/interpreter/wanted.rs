//! Which Python a name asks for: `3.12`, `3.12.1`, `python3.12`, `3.13t`, `pypy3.10`.

use std::fmt;

/// A Python that is asked for by its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `cpython` or `pypy`.
    pub implementation: &'static str,
    /// Major, or major and minor, or all three.
    pub version: Vec<u8>,
    /// Whether it is to be a build that runs without the global interpreter lock.
    pub free_threaded: bool,
}

impl Wanted {
    /// What a name asks for; none if it says no version, and so is just a name.
    pub fn parse(name: &str) -> Option<Wanted> {
        let cpython = |prefix| Some(("cpython", name.strip_prefix(prefix)?));
        let pypy = || Some(("pypy", name.strip_prefix("pypy")?));
        let (implementation, rest) = cpython("python")
            .or_else(|| cpython("cpython"))
            .or_else(pypy)
            .unwrap_or(("cpython", name));
        let rest = rest.strip_prefix('-').unwrap_or(rest);
        let (numbers, free_threaded) = match rest.strip_suffix('t') {
            Some(numbers) => (numbers, true),
            None => (rest, false),
        };
        let version = numbers.split('.').map(number).collect::<Option<Vec<_>>>()?;
        let is_version = version.len() <= 3 && (!free_threaded || version.len() >= 2);
        is_version.then_some(Wanted { implementation, version, free_threaded })
    }

    /// Whether it says no more than the major version, as the name `python3` does.
    pub fn is_loose(&self) -> bool {
        self.version.len() < 2
    }

    /// Whether a version is what is asked for, as far as both say.
    pub fn fits(&self, version: &[u8]) -> bool {
        self.version.iter().zip(version).all(|(wanted, found)| wanted == found)
    }

    /// The names that such an interpreter has for itself, and then those that it may have.
    pub fn file_names(&self) -> (Option<String>, Vec<String>) {
        let stem = if self.implementation == "pypy" { "pypy" } else { "python" };
        let suffix = if self.free_threaded { "t" } else { "" };
        let own = match self.version[..] {
            [major, minor, ..] => Some(format!("{stem}{major}.{minor}{suffix}")),
            _ => None,
        };
        (own, vec![format!("{stem}{}", self.version[0]), stem.to_owned()])
    }
}

fn number(text: &str) -> Option<u8> {
    // `parse` would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.implementation == "pypy" { "PyPy" } else { "Python" };
        let version: Vec<_> = self.version.iter().map(u8::to_string).collect();
        let kind = if self.free_threaded { " (free-threaded)" } else { "" };
        write!(f, "{name} {}{kind}", version.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_from_names() {
        type Asked = Option<(&'static str, &'static [u8], bool)>;
        let cases: [(&str, Asked); 16] = [
            ("3", Some(("cpython", &[3], false))),
            ("3.12", Some(("cpython", &[3, 12], false))),
            ("3.12.1", Some(("cpython", &[3, 12, 1], false))),
            ("python3", Some(("cpython", &[3], false))),
            ("python3.12", Some(("cpython", &[3, 12], false))),
            ("cpython-3.12", Some(("cpython", &[3, 12], false))),
            ("3.13t", Some(("cpython", &[3, 13], true))),
            ("python3.13t", Some(("cpython", &[3, 13], true))),
            ("pypy3.10", Some(("pypy", &[3, 10], false))),
            ("pypy-3.10", Some(("pypy", &[3, 10], false))),
            ("python", None),
            ("mypython", None),
            ("python3.12-dbg", None),
            ("3t", None),
            ("3.+1", None),
            ("3.1.2.3", None),
        ];
        for (name, expected) in cases {
            let found = Wanted::parse(name);
            let found =
                found.as_ref().map(|it| (it.implementation, &it.version[..], it.free_threaded));
            assert_eq!(expected, found, "{name}");
        }
    }

    #[test]
    fn a_version_fits_as_far_as_it_says() {
        let wanted = |name| Wanted::parse(name).unwrap();
        assert!(wanted("3").fits(&[3, 8, 1]) && wanted("3.8").fits(&[3, 8, 1]));
        assert!(wanted("3.8.1").fits(&[3, 8, 1]) && wanted("3.8.1").fits(&[3, 8]));
        assert!(!wanted("3.8").fits(&[3, 9, 1]) && !wanted("3.8.2").fits(&[3, 8, 1]));
        let names = wanted("3.13t").file_names();
        assert_eq!((Some("python3.13t".into()), vec!["python3".into(), "python".into()]), names);
        assert_eq!((None, vec!["pypy3".into(), "pypy".into()]), wanted("pypy3").file_names());
    }
}
