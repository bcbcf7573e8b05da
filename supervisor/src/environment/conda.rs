//! The essentials of `conda activate`, for a pool whose `venv` is a conda environment.
//!
//! What is done: its `bin` is first in `PATH`, `CONDA_PREFIX`, `CONDA_DEFAULT_ENV` and
//! `CONDA_SHLVL` say that it is active, and the variables of `conda env config vars` are set. What
//! is not done: the scripts in `etc/conda/activate.d`, since they are written for a shell and may
//! do anything; a package that needs one says which variables it sets, and these go to `env.set`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::bin_first;

/// How much of the file with the variables is read.
const STATE_BYTES_MAX: u64 = 1 << 20;

/// What conda writes for a variable that is to be absent.
const UNSET: &str = "***unset***";

/// Whether a directory is a conda environment.
pub(super) fn is_conda(prefix: &Path) -> bool {
    prefix.join("conda-meta").is_dir()
}

/// The file `conda-meta/state`.
#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default)]
    env_vars: BTreeMap<String, String>,
}

pub(super) fn activate(variables: &mut BTreeMap<OsString, OsString>, prefix: &Path) {
    // As conda calls it: by its name where environments are kept, else by its path.
    let is_named = prefix.parent().and_then(Path::file_name) == Some(OsStr::new("envs"));
    let name = match (is_named, prefix.join("condabin").is_dir(), prefix.file_name()) {
        (true, _, Some(name)) => name.to_owned(),
        (_, true, _) => "base".into(),
        _ => prefix.as_os_str().to_owned(),
    };
    variables.insert("CONDA_PREFIX".into(), prefix.into());
    variables.insert("CONDA_DEFAULT_ENV".into(), name);
    variables.insert("CONDA_SHLVL".into(), "1".into());
    for (name, value) in state(prefix).env_vars {
        if value == UNSET {
            variables.remove(OsStr::new(&name));
        } else if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') {
            variables.insert(name.into(), value.into());
        }
    }
    bin_first(variables, prefix);
}

fn state(prefix: &Path) -> State {
    let mut text = String::new();
    let opened = File::open(prefix.join("conda-meta/state"));
    let read = opened.and_then(|file| file.take(STATE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => serde_json::from_str(&text).unwrap_or_else(|error| {
            let prefix = prefix.display();
            tracing::warn!(%prefix, %error, "conda-meta/state is not what conda writes");
            State::default()
        }),
        Err(_) => State::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conda_environment_is_activated() {
        let directory = tempfile::tempdir().unwrap();
        let prefix = directory.path().join("envs/science");
        std::fs::create_dir_all(prefix.join("conda-meta")).unwrap();
        assert!(is_conda(&prefix) && !is_conda(directory.path()));
        let text = r#"{"env_vars": {"MINE": "1", "GONE": "***unset***", "A=B": "x"}}"#;
        std::fs::write(prefix.join("conda-meta/state"), text).unwrap();
        let mut variables = BTreeMap::from([
            (OsString::from("PATH"), OsString::from("/bin")),
            ("GONE".into(), "here".into()),
        ]);
        activate(&mut variables, &prefix);
        let path = format!("{}/bin:/bin", prefix.display());
        let prefix = prefix.to_str().unwrap();
        let expected = [
            ("CONDA_DEFAULT_ENV", "science"),
            ("CONDA_PREFIX", prefix),
            ("CONDA_SHLVL", "1"),
            ("MINE", "1"),
            ("PATH", &path),
        ];
        let found: Vec<_> = variables.iter().map(|(n, v)| (n.to_str(), v.to_str())).collect();
        assert_eq!(expected.map(|(name, value)| (Some(name), Some(value))).to_vec(), found);
    }
}
