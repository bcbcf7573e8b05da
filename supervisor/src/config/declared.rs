//! What a pool wants installed: `requirements`, `project`, a script's own metadata, and the table
//! `build`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use thiserror::Error;

use super::checker::Checker;
use super::error::Key;
use super::model::Main;
use super::raw::RawPool;
use super::reason::Reason;
use crate::envs::{RequirementError, requirement};

/// Even an empty environment takes some seconds; a day compiles anything.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// The file that describes a project.
const PROJECT_FILE: &str = "pyproject.toml";

/// Requirements, or the path of a file with them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RawRequirements {
    /// A file.
    File(String),
    /// The requirements themselves.
    List(Vec<String>),
}

/// How a declared environment is built.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBuild {
    /// What builds it: "uv", "pip" (with `venv`), or "auto": uv if it is on PATH.
    #[schemars(extend("default" = "auto"))]
    tool: Option<String>,
    /// How long a build may take.
    #[schemars(extend("default" = "15m"))]
    timeout: Option<String>,
    /// The package index, in place of what pip or uv is configured for.
    #[schemars(example = "https://pypi.example.com/simple")]
    index_url: Option<String>,
    /// More package indexes.
    #[schemars(extend("default" = []))]
    extra_index_urls: Option<Vec<String>>,
    /// Directories or pages where packages are looked for as well.
    #[schemars(extend("default" = []))]
    find_links: Option<Vec<String>>,
}

/// What a pool wants installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Declared {
    /// These requirements.
    Requirements(Vec<String>),
    /// What this file of requirements lists.
    File(PathBuf),
    /// The dependencies of the project that this `pyproject.toml` describes.
    Project(PathBuf),
    /// What this script's own metadata names, if it has any.
    Script(PathBuf),
}

impl Declared {
    /// What is installed, in a few words; none where only the script knows.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        match self {
            Self::Requirements(list) => Some(list.join(", ")),
            Self::File(path) | Self::Project(path) => {
                Some(format!("what {} lists", path.display()))
            }
            Self::Script(_) => None,
        }
    }
}

/// How a declared environment is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// What builds it.
    pub tool: Tool,
    /// How long that may take.
    pub timeout: Duration,
    /// The package index.
    pub index_url: Option<String>,
    /// More package indexes.
    pub extra_index_urls: Vec<String>,
    /// Where packages are looked for as well: URLs, or absolute paths.
    pub find_links: Vec<String>,
}

/// What builds an environment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tool {
    /// uv if it is there, else pip.
    #[default]
    Auto,
    /// uv.
    Uv,
    /// `venv` and pip.
    Pip,
}

/// Why something cannot be installed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DeclaredError {
    /// Two ways to say what is installed.
    #[error("`{one}` and `{other}` both say what is installed")]
    Twice {
        /// One key.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// What no installer would take.
    #[error("{text:?} is no requirement: {error}")]
    Requirement {
        /// What is there.
        text: String,
        /// What is wrong with it.
        error: RequirementError,
    },
}

impl DeclaredError {
    /// What to write instead.
    pub(super) const fn help(&self) -> &'static str {
        match self {
            Self::Twice { .. } => {
                "keep one: `venv` for an environment of your own, `requirements` or `project` for \
                 one that is built"
            }
            Self::Requirement { .. } => {
                "write it like this: \"numpy>=2\" or \"pandas[excel]==2.*\""
            }
        }
    }
}

impl Default for Build {
    fn default() -> Self {
        Self {
            tool: Tool::Auto,
            timeout: Duration::from_secs(15 * 60),
            index_url: None,
            extra_index_urls: Vec::new(),
            find_links: Vec::new(),
        }
    }
}

pub(super) fn requirements_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["array", "string"],
        "items": { "type": "string" },
        "examples": [["numpy>=2", "pandas"]]
    })
}

/// What the pool declares, if anything.
pub(super) fn check(
    checker: &mut Checker<'_>,
    raw: &RawPool,
    main: Option<&Main>,
    at: &Key,
) -> Option<Declared> {
    contradictions(checker, raw, at);
    let from_script = script_metadata(checker, raw, at);
    let requirements_at = at.child("requirements");
    match (&raw.requirements, &raw.project) {
        (Some(RawRequirements::List(list)), _) => {
            Some(Declared::Requirements(check_requirements(checker, list, &requirements_at)))
        }
        (Some(RawRequirements::File(text)), _) => {
            checker.file(&requirements_at, text).map(Declared::File)
        }
        (None, Some(text)) => project(checker, text, &at.child("project")).map(Declared::Project),
        (None, None) if raw.venv.is_none() && from_script => {
            main.map(|main| Declared::Script(main.file.clone()))
        }
        (None, None) => None,
    }
}

/// Checks a list of requirements.
pub(super) fn check_requirements(
    checker: &mut Checker<'_>,
    list: &[String],
    at: &Key,
) -> Vec<String> {
    checker.short_enough(at, list.len());
    checker.no_duplicates(at, list);
    for (index, text) in list.iter().enumerate() {
        if let Err(error) = requirement::normal(text) {
            let text = text.clone();
            let error = DeclaredError::Requirement { text, error };
            checker.report(&at.child(&index.to_string()), Reason::Declared(error));
        }
    }
    list.to_vec()
}

/// At most one key says what is installed.
fn contradictions(checker: &mut Checker<'_>, raw: &RawPool, at: &Key) {
    let keys = [
        ("venv", raw.venv.is_some()),
        ("requirements", raw.requirements.is_some()),
        ("project", raw.project.is_some()),
    ];
    let mut given = keys.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
    if let Some(one) = given.next() {
        for other in given {
            let error = DeclaredError::Twice { one, other };
            checker.report(&at.child(other), Reason::Declared(error));
        }
    }
}

fn script_metadata(checker: &mut Checker<'_>, raw: &RawPool, at: &Key) -> bool {
    match raw.script_metadata.as_deref() {
        None | Some("use") => true,
        Some("ignore") => false,
        Some(found) => {
            let found = found.to_owned();
            let expected = "\"use\" or \"ignore\"";
            checker.report(&at.child("script_metadata"), Reason::Word { found, expected });
            true
        }
    }
}

fn project(checker: &mut Checker<'_>, text: &str, at: &Key) -> Option<PathBuf> {
    let path = checker.path(at, text)?;
    let file = if path.is_dir() { path.join(PROJECT_FILE) } else { path };
    checker.is_file(at, &file).then_some(file)
}

pub(super) fn check_build(checker: &mut Checker<'_>, raw: &RawBuild, at: &Key) -> Build {
    let default = Build::default();
    let tool = match raw.tool.as_deref() {
        None | Some("auto") => Tool::Auto,
        Some("uv") => Tool::Uv,
        Some("pip") => Tool::Pip,
        Some(found) => {
            let found = found.to_owned();
            let expected = "\"auto\", \"uv\" or \"pip\"";
            checker.report(&at.child("tool"), Reason::Word { found, expected });
            Tool::Auto
        }
    };
    let timeout = checker.duration(&at.child("timeout"), raw.timeout.as_deref(), &TIMEOUT);
    let index_url = raw.index_url.clone();
    if let Some(url) = &index_url {
        is_url(checker, url, &at.child("index_url"));
    }
    let extra_index_urls = raw.extra_index_urls.clone().unwrap_or_default();
    let extra_at = at.child("extra_index_urls");
    checker.short_enough(&extra_at, extra_index_urls.len());
    for (index, url) in extra_index_urls.iter().enumerate() {
        is_url(checker, url, &extra_at.child(&index.to_string()));
    }
    let links = raw.find_links.clone().unwrap_or_default();
    let links_at = at.child("find_links");
    checker.short_enough(&links_at, links.len());
    let find_links = links.iter().enumerate().filter_map(|(index, text)| {
        let at = links_at.child(&index.to_string());
        if text.contains("://") {
            return checker.no_nul(&at, text).then(|| text.clone());
        }
        let path = checker.path(&at, text).filter(|path| checker.exists(&at, path))?;
        as_text(checker, &path, &at)
    });
    let find_links = find_links.collect();
    let timeout = timeout.unwrap_or(default.timeout);
    Build { tool, timeout, index_url, extra_index_urls, find_links }
}

fn as_text(checker: &mut Checker<'_>, path: &Path, at: &Key) -> Option<String> {
    if let Some(text) = path.to_str() {
        return Some(text.to_owned());
    }
    checker.report(at, Reason::NotUtf8 { path: path.to_owned() });
    None
}

/// An index is a URL without spaces, which separate them where they are handed on.
fn is_url(checker: &mut Checker<'_>, text: &str, at: &Key) {
    if !text.contains("://") || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let found = text.to_owned();
        let expected = "a URL like https://pypi.example.com/simple";
        checker.report(at, Reason::Word { found, expected });
    }
}
