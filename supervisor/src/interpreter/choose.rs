//! Which interpreter a pool's key `python` or `venv` means.
//!
//! A version is looked for in this order, and the first that fits is taken:
//!
//! 1. `PATH`: the name with the version (`python3.12`), in each directory in turn;
//! 2. `PATH`: `python3` and `python`, if theirs is the version;
//! 3. pyenv's versions, the newest micro version first;
//! 4. uv's interpreters, likewise;
//! 5. the system's directories: `/usr/local/bin`, `/usr/bin`, `/bin`, `/opt/*/bin`,
//!    `/opt/python/*/bin`.
//!
//! Names, folders and the targets of links say most versions, so few interpreters have to be asked.
//! A launcher, such as pyenv's shims, is always asked, since what it runs depends on more than its
//! file. One that finds nothing is passed over where a minor version is asked for; `python3` alone
//! means what it would mean at a prompt, and then the launcher's words are the error.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::places::{Candidate, Place, Places, hint, in_directory};
use super::wanted::Wanted;
use super::{Interpreter, InterpreterError, OLDEST, check_executable, is_binary, on_path, resolve};
use crate::config::Python;

/// Where to look, and how to ask.
pub struct Search<'a> {
    /// `PATH`.
    pub search_path: &'a OsStr,
    /// Where its relative directories start.
    pub cwd: &'a Path,
    /// Where to look beside it.
    pub places: &'a Places,
    /// Asks an interpreter who it is.
    pub ask: &'a dyn Fn(&Path) -> Result<Interpreter, InterpreterError>,
}

impl std::fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Search").field("search_path", &self.search_path).finish_non_exhaustive()
    }
}

/// The interpreter that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The file to execute.
    pub path: PathBuf,
    /// Where it was found.
    pub place: Place,
    /// Who it is, if it had to be asked.
    pub asked: Option<Interpreter>,
}

/// Finds the interpreter of a pool.
///
/// # Errors
///
/// When there is none that fits; what was looked at and found is in the error.
pub fn choose(python: &Python, search: &Search<'_>) -> Result<Choice, InterpreterError> {
    let found = |path: PathBuf, place| -> Result<Choice, InterpreterError> {
        let is_launcher = !is_binary(&path);
        let asked = if is_launcher { Some((search.ask)(&path)?) } else { None };
        let path = asked.as_ref().map_or(path, |interpreter| interpreter.executable.clone());
        Ok(Choice { path, place, asked })
    };
    let Python::Named(name) = python else {
        return found(resolve(python, search.search_path, search.cwd)?, Place::Named);
    };
    match Wanted::parse(name) {
        Some(wanted) => Hunt { search, wanted: &wanted, refused: None }.run(),
        None => found(on_path(name, search.search_path, search.cwd)?, Place::Path),
    }
}

/// A search that is under way.
struct Hunt<'a> {
    search: &'a Search<'a>,
    wanted: &'a Wanted,
    /// The first that may have been it, had it been usable.
    refused: Option<InterpreterError>,
}

impl Hunt<'_> {
    fn run(mut self) -> Result<Choice, InterpreterError> {
        let (own, others) = self.wanted.file_names();
        if let Some(name) = own
            && let Some(choice) = self.on_path(&name, Some(&self.wanted.version[..2]))?
        {
            return Ok(choice);
        }
        for name in others {
            // `python3` says that it is some Python 3.
            let said = name.ends_with(|c: char| c.is_ascii_digit());
            let said = said.then(|| &self.wanted.version[..1]);
            if let Some(choice) = self.on_path(&name, said)? {
                return Ok(choice);
            }
        }
        let places = self.search.places;
        for list in [Places::pyenv, Places::uv, Places::system] {
            for candidate in list(places) {
                if let Some(choice) = self.consider(&candidate)? {
                    return Ok(choice);
                }
            }
        }
        Err(self.none_fits())
    }

    /// The first in the directories of `PATH` that fits; its name says `said` of its version.
    fn on_path(
        &mut self,
        name: &str,
        said: Option<&[u8]>,
    ) -> Result<Option<Choice>, InterpreterError> {
        for directory in std::env::split_paths(self.search.search_path) {
            let path = self.search.cwd.join(directory).join(name);
            if let Err(error) = check_executable(&path) {
                self.note(error);
                continue;
            }
            let own = said.is_some_and(|said| said.len() >= 2);
            let (version, free_threaded) = match hint(&path) {
                Some(hint) if !own => hint,
                _ => (said.unwrap_or_default().to_vec(), own && self.wanted.free_threaded),
            };
            let implementation = self.wanted.implementation;
            let candidate =
                Candidate { path, place: Place::Path, implementation, version, free_threaded };
            if let Some(choice) = self.consider(&candidate)? {
                return Ok(Some(choice));
            }
        }
        Ok(None)
    }

    /// Whether this is it. It is asked if what is known of it does not tell.
    fn consider(&mut self, candidate: &Candidate) -> Result<Option<Choice>, InterpreterError> {
        let Candidate { path, place, implementation, version, free_threaded } = candidate;
        let (path, place) = (path.clone(), *place);
        if *implementation != self.wanted.implementation || !self.wanted.fits(version) {
            return Ok(None);
        }
        // No answer tells this; only names and folders do.
        if self.wanted.free_threaded && !free_threaded {
            return Ok(None);
        }
        let is_launcher = !is_binary(&path);
        // A launcher's version is what it answers; what a folder is called is another matter.
        if !is_launcher || place != Place::Path {
            let too_old = version.len() >= 2 && (version[0], version[1]) < OLDEST;
            let unwanted = self.wanted.is_loose() && too_old;
            if unwanted || *free_threaded != self.wanted.free_threaded {
                return Ok(None);
            }
        }
        let tells = version.len() >= self.wanted.version.len() && *implementation == "cpython";
        if tells && !is_launcher {
            return Ok(Some(Choice { path, place, asked: None }));
        }
        match (self.search.ask)(&path) {
            Ok(interpreter) => {
                let (major, minor, micro) = interpreter.version;
                let fits = self.wanted.fits(&[major, minor, micro]);
                let path = interpreter.executable.clone();
                Ok(fits.then_some(Choice { path, place, asked: Some(interpreter) }))
            }
            Err(error) if is_launcher && self.wanted.is_loose() => Err(error),
            Err(error) => {
                self.note(error);
                Ok(None)
            }
        }
    }

    fn note(&mut self, error: InterpreterError) {
        let nothing =
            matches!(error, InterpreterError::Missing(_) | InterpreterError::Unreadable { .. });
        if !nothing && self.refused.is_none() {
            self.refused = Some(error);
        }
    }

    fn none_fits(self) -> InterpreterError {
        let Search { search_path, cwd, places, .. } = self.search;
        let named = |what: &str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| format!("in {what} ({})", path.display()))
        };
        let system: Vec<_> = places.system.iter().map(|it| it.display().to_string()).collect();
        let looked = [
            Some(format!("on PATH ({})", search_path.display())),
            named("pyenv", &places.pyenv),
            named("uv", &places.uv),
            (!system.is_empty()).then(|| format!("in {}", system.join(", "))),
        ];
        let on_path = std::env::split_paths(search_path)
            .flat_map(|directory| in_directory(&cwd.join(directory), Place::Path))
            // What a launcher leads to is listed where it is kept.
            .filter(|candidate| is_binary(&candidate.path));
        let mut found: Vec<String> = Vec::new();
        for it in on_path.chain(places.pyenv()).chain(places.uv()).chain(places.system()) {
            let version: Vec<_> = it.version.iter().map(u8::to_string).collect();
            let name = if it.implementation == "cpython" { "" } else { "PyPy " };
            let t = if it.free_threaded { "t" } else { "" };
            let text = format!("{name}{}{t} ({})", version.join("."), it.place.name());
            if !found.contains(&text) {
                found.push(text);
            }
        }
        InterpreterError::NoneFits {
            wanted: self.wanted.to_string(),
            looked: looked.into_iter().flatten().collect::<Vec<_>>().join(", "),
            found: if found.is_empty() { "none".to_owned() } else { found.join(", ") },
            passed: self.refused.map_or(String::new(), |error| format!("; passed over: {error}")),
        }
    }
}
