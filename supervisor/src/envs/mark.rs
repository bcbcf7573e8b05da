//! What is noted about an environment: what it is made of, and who uses it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::key::Hasher;
use super::store::Entry;

/// The form of `complete.json`. One of another form counts as not there.
const FORM: u32 = 1;

/// What an environment is made of.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) form: u32,
    /// Where it was built: one that was moved holds its former path in many files.
    pub(super) env: PathBuf,
    pub(super) what: String,
    pub(super) interpreter: PathBuf,
    pub(super) python: String,
    pub(super) built_by: String,
    /// Seconds since 1970.
    pub(super) built_at: u64,
}

impl Mark {
    pub(super) fn new(
        env: PathBuf,
        what: &str,
        interpreter: &Path,
        python: &str,
        built_by: &str,
    ) -> Mark {
        let built_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Mark {
            form: FORM,
            env,
            what: what.to_owned(),
            interpreter: interpreter.to_owned(),
            python: python.to_owned(),
            built_by: built_by.to_owned(),
            built_at,
        }
    }

    /// Whether it is understood, and of the environment that is there.
    pub(super) fn is_of(&self, env: &Path) -> bool {
        self.form == FORM && self.env == env
    }
}

/// Who uses an environment.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) pool: String,
    /// The configuration file; none for `--local`.
    pub(super) config: Option<PathBuf>,
}

impl Entry {
    /// Notes that a pool uses it, now. A failure is no reason not to.
    pub(super) fn note_use(&self, usage: &Use) {
        let mut hasher = Hasher::new();
        hasher.part("pool", usage.pool.as_bytes());
        let config =
            usage.config.as_ref().map_or(&b""[..], |path| path.as_os_str().as_encoded_bytes());
        hasher.part("config", config);
        let folder = self.folder().join("uses");
        let write = || {
            fs::create_dir_all(&folder)?;
            let text = serde_json::to_vec(usage).map_err(io::Error::other)?;
            fs::write(folder.join(hasher.digits() + ".json"), text)
        };
        if let Err(error) = write() {
            tracing::warn!(%error, folder = %folder.display(), "an environment's use is not noted");
        }
    }

    /// Who has used it, and when it was used last.
    pub(super) fn uses(&self) -> (Vec<Use>, Option<SystemTime>) {
        let mut uses = Vec::new();
        let mut last = fs::metadata(self.mark_path()).and_then(|data| data.modified()).ok();
        for entry in fs::read_dir(self.folder().join("uses")).into_iter().flatten().flatten() {
            let modified = entry.metadata().and_then(|data| data.modified()).ok();
            last = last.max(modified);
            let text = fs::read(entry.path()).unwrap_or_default();
            uses.extend(serde_json::from_slice::<Use>(&text).ok());
        }
        uses.sort_by(|a, b| (&a.pool, &a.config).cmp(&(&b.pool, &b.config)));
        (uses, last)
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::Store;
    use super::*;

    #[test]
    fn uses_are_noted_once_each() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Store { root: dir.path().to_owned(), shared: false }.entry("k");
        let usage = |pool: &str| Use { pool: pool.to_owned(), config: Some("/c.toml".into()) };
        entry.make_folder().unwrap();
        for pool in ["b", "a", "b"] {
            entry.note_use(&usage(pool));
        }
        let (uses, last) = entry.uses();
        assert_eq!(vec![usage("a"), usage("b")], uses);
        assert!(last.is_some());
    }
}
