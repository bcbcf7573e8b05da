//! What a pool declares, read: what is to be installed, with which interpreters, and the part of
//! the key that follows from it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::EnvError;
use super::key::Hasher;
use super::{files, requirement, script, secrets};
use crate::config::Declared;

/// The longest list of requirements that is shown whole.
const SHOWN_CHARS_MAX: usize = 120;

/// A declaration that was read.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// What it is, for people: the key of the configuration, and what stands there.
    pub(super) what: String,
    /// What is to be installed; none when only the interpreter is asked for.
    pub(super) install: Option<Install>,
    /// Which versions of Python it takes.
    pub(super) requires_python: Option<String>,
    /// Everything it consists of.
    pub(super) hasher: Hasher,
    /// Where relative paths in it start.
    pub(super) base: PathBuf,
}

/// What is to be installed, and from which kind of file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Install {
    /// These requirements, in their normal form.
    List(Vec<String>),
    /// What a file lists: requirements, or the dependencies of a `pyproject.toml` or `pylock.toml`,
    /// which uv reads as well.
    File(PathBuf),
    /// The project in this directory as its `uv.lock` says.
    UvLock(PathBuf),
}

/// The parts of a `pyproject.toml` that count.
#[derive(Debug, Default, Deserialize)]
struct Pyproject {
    project: Option<Project>,
}

#[derive(Debug, Default, Deserialize)]
struct Project {
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    dynamic: Vec<String>,
    #[serde(default, rename = "requires-python")]
    requires_python: Option<String>,
}

/// Reads a declaration; none when it declares nothing. With `uv`, locks are followed.
pub(super) fn read(declared: &Declared, cwd: &Path, uv: bool) -> Result<Option<Content>, EnvError> {
    match declared {
        Declared::Requirements(list) => {
            let list = normal(list, None)?;
            let what = format!("requirements = {}", shown(&list));
            of_list(what, list, None, cwd).map(Some)
        }
        Declared::File(path) => {
            let mut hasher = Hasher::new();
            hasher.part("kind", b"file");
            files::hash(path, &mut hasher)?;
            Ok(Some(Content {
                what: format!("requirements = {:?}", path.display().to_string()),
                install: Some(Install::File(path.clone())),
                requires_python: None,
                hasher,
                base: parent(path),
            }))
        }
        Declared::Project(path) => project(path, uv).map(Some),
        Declared::Script(path) => of_script(path),
    }
}

fn of_script(path: &Path) -> Result<Option<Content>, EnvError> {
    let text = files::read(path)?;
    let wrong = |fault| EnvError::Declaration { path: path.to_owned(), fault };
    let metadata = script::metadata(&text).map_err(|fault| {
        wrong(format!(
            "its metadata (`# /// script`) is wrong: {fault}; correct it, or write \
                       script_metadata = \"ignore\""
        ))
    })?;
    let Some(metadata) = metadata else { return Ok(None) };
    let what = format!("main = {:?} (its own metadata)", path.display().to_string());
    let list = normal(&metadata.dependencies, Some(path))?;
    let nothing = list.is_empty();
    let mut content = of_list(what, list, metadata.requires_python, &parent(path))?;
    if nothing {
        content.install = None;
    }
    Ok(Some(content))
}

/// A project's dependencies, from its lock where uv can read one. The project itself is not
/// installed: an environment is shared by everyone with the same key, and the project's own code
/// changes without its key.
fn project(path: &Path, uv: bool) -> Result<Content, EnvError> {
    let directory = parent(path);
    let text = files::read(path)?;
    let wrong =
        |fault: &str| EnvError::Declaration { path: path.to_owned(), fault: fault.to_owned() };
    let parsed: Pyproject = toml::from_str(&text).map_err(|error| wrong(error.message()))?;
    let Some(project) = parsed.project else {
        return Err(wrong(
            "it has no table [project], which lists the dependencies: add one, or \
                          use `requirements`",
        ));
    };
    let what = format!("project = {:?}", path.display().to_string());
    let locks = [("uv.lock", true), ("pylock.toml", false)];
    let lock = locks.into_iter().find(|(name, _)| directory.join(name).is_file());
    match lock {
        Some((name, of_uv)) if uv => {
            let lock = directory.join(name);
            let mut hasher = Hasher::new();
            hasher.part("kind", name.as_bytes());
            hasher.part("lock", files::read(&lock)?.as_bytes());
            // Which dependencies of the lock are installed is said by the project.
            hasher.part("project", text.as_bytes());
            let install =
                if of_uv { Install::UvLock(directory.clone()) } else { Install::File(lock) };
            let (install, base) = (Some(install), directory);
            Ok(Content { what, install, requires_python: project.requires_python, hasher, base })
        }
        other => {
            if let Some((name, _)) = other {
                let lock = directory.join(name).display().to_string();
                tracing::warn!(lock, "there is no uv on PATH, so this lock is not followed");
            }
            if project.dynamic.iter().any(|name| name == "dependencies") {
                return Err(wrong(
                    "its dependencies are dynamic, so they are known to its build \
                                  backend alone: list them in `requirements`, or lock them with \
                                  `uv lock`",
                ));
            }
            let list = normal(&project.dependencies, Some(path))?;
            of_list(what, list, project.requires_python, &directory)
        }
    }
}

fn of_list(
    what: String,
    list: Vec<String>,
    requires_python: Option<String>,
    base: &Path,
) -> Result<Content, EnvError> {
    let mut hasher = Hasher::new();
    hasher.part("kind", b"list");
    for requirement in &list {
        hasher.part("requirement", requirement.as_bytes());
        files::hash_line(requirement, base, &mut hasher)?;
    }
    let (install, base) = (Some(Install::List(list)), base.to_owned());
    Ok(Content { what, install, requires_python, hasher, base })
}

/// Requirements in their normal form, in an order that does not depend on how they were written.
fn normal(list: &[String], file: Option<&Path>) -> Result<Vec<String>, EnvError> {
    let mut normal = Vec::new();
    for text in list {
        normal.push(requirement::normal(text).map_err(|error| EnvError::Declaration {
            path: file.unwrap_or(Path::new("requirements")).to_owned(),
            fault: format!("{:?} is no requirement: {error}", secrets::hide(text)),
        })?);
    }
    normal.sort();
    normal.dedup();
    Ok(normal)
}

fn shown(list: &[String]) -> String {
    let text = format!("{:?}", list.iter().map(|text| secrets::hide(text)).collect::<Vec<_>>());
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text,
    }
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn key(declared: &Declared, uv: bool) -> (Install, String) {
        let content = read(declared, Path::new("/"), uv).unwrap().unwrap();
        (content.install.unwrap(), content.hasher.digits())
    }

    fn list(texts: &[&str]) -> Declared {
        Declared::Requirements(texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn the_order_and_the_spelling_of_requirements_do_not_matter() {
        let one = key(&list(&["numpy >=2", "Pandas"]), true);
        assert_eq!(one, key(&list(&["pandas", "numpy>=2", "numpy>=2"]), false));
        assert_ne!(one.1, key(&list(&["pandas", "numpy>=1"]), true).1);
    }

    #[test]
    fn a_local_package_counts_with_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a-1-py3-none-any.whl");
        let declared = list(&[&format!("a @ file://{}", path.display())]);
        fs::write(&path, "1").unwrap();
        let first = key(&declared, true);
        fs::write(&path, "2").unwrap();
        assert_ne!(first, key(&declared, true));
    }

    #[test]
    fn passwords_are_not_shown() {
        let list =
            ["a @ https://u:p@h.example/a.whl#x@y".to_owned(), "b @ https://h/b@1".to_owned()];
        let expected = "[\"a @ https://***@h.example/a.whl#x@y\", \"b @ https://h/b@1\"]";
        assert_eq!(expected, shown(&list));
    }

    #[test]
    fn a_script_declares_what_its_metadata_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("main.py");
        let declared = |text: &str| {
            fs::write(&path, text).unwrap();
            read(&Declared::Script(path.clone()), Path::new("/"), true)
        };
        assert!(declared("print(1)\n").unwrap().is_none());
        let only_python = "# /// script\n# requires-python = '>=3.9'\n# ///\n";
        let content = declared(only_python).unwrap().unwrap();
        assert_eq!((None, Some(">=3.9")), (content.install, content.requires_python.as_deref()));
        let both = "# /// script\n# dependencies = ['a', 'B>1']\n# ///\n";
        let content = declared(both).unwrap().unwrap();
        assert_eq!(Some(Install::List(vec!["a".into(), "b>1".into()])), content.install);
        let error = declared("# /// script\n# dependencies = ['a b']\n# ///\n").unwrap_err();
        assert!(error.to_string().contains("\"a b\" is no requirement"), "{error}");
    }

    #[test]
    fn a_lock_is_followed_where_uv_is() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let declared = Declared::Project(dir.path().join("pyproject.toml"));
        let project = "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.9'\n";
        write("pyproject.toml", &format!("{project}dependencies = ['a>=1']\n"));
        let plain = key(&declared, true);
        assert_eq!(Install::List(vec!["a>=1".into()]), plain.0);
        write("pylock.toml", "lock-version = '1.0'\n");
        assert_eq!(Install::File(dir.path().join("pylock.toml")), key(&declared, true).0);
        write("uv.lock", "version = 1\n");
        let locked = key(&declared, true);
        assert_eq!(Install::UvLock(dir.path().to_owned()), locked.0);
        write("uv.lock", "version = 2\n");
        assert_ne!(locked.1, key(&declared, true).1);
        assert_eq!(plain, key(&declared, false));
        write("pyproject.toml", &format!("{project}dynamic = ['dependencies']\n"));
        let error = read(&declared, Path::new("/"), false).unwrap_err().to_string();
        assert!(error.contains("dynamic"), "{error}");
        write("pyproject.toml", "[tool.x]\n");
        let error = read(&declared, Path::new("/"), true).unwrap_err().to_string();
        assert!(error.contains("no table [project]"), "{error}");
    }
}
