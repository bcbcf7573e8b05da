//! What interpreters said of themselves, kept in a file, so that each is asked once.
//!
//! An entry holds for as long as the file it was asked of is the same: path, device, inode, size
//! and time of change, of what is executed and of the `pyvenv.cfg` beside it. Launchers are not
//! kept, since what they run depends on more than their file. The file is replaced as a whole;
//! where two write at once, the last one wins, and what the other learned is asked again.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use clutch_protocol::status::Interpreter as Facts;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use super::InterpreterError;
use super::facts::refresh;
use crate::package::SCRATCH_PREFIX;

/// The file's name in the state directory.
const NAME: &str = "pythons.json";

/// Grows with every change of what is kept; files of another format are passed over.
const FORMAT: u32 = 1;

/// How many interpreters are kept. A person has a dozen, a build machine some dozens; those that
/// were not asked for longest go first.
const ENTRIES_MAX: usize = 128;

/// A file longer than this is none of ours: 128 entries of a few paths.
const BYTES_MAX: u64 = 4 << 20;

/// What is known of interpreters, in memory and in the file.
#[derive(Debug, Default)]
pub struct Cache {
    file: Option<PathBuf>,
    kept: Mutex<BTreeMap<String, Entry>>,
    /// What was asked since this was made, so that pools of one interpreter ask it once.
    asked: Mutex<BTreeMap<String, Asked>>,
}

type Asked = Arc<OnceLock<Option<Facts>>>;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
struct Entry {
    program: Identity,
    venv: Option<Identity>,
    /// When it was last of use, in seconds since 1970.
    used: u64,
    facts: Facts,
}

/// What a file is, as long as nobody replaces or changes it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Document {
    format: u32,
    pythons: BTreeMap<String, Entry>,
}

impl Cache {
    /// One that is kept in a state directory, which is there or not.
    pub fn in_state(state_dir: &Path) -> Cache {
        let file = state_dir.join(NAME);
        let kept = Mutex::new(read(&file).unwrap_or_default());
        Cache { file: Some(file), kept, asked: Mutex::default() }
    }

    /// What is known of the interpreter at `path`, or what it says when it is asked.
    ///
    /// # Errors
    ///
    /// What `ask` says.
    pub(super) fn get(
        &self,
        path: &Path,
        ask: impl Fn() -> Result<Facts, InterpreterError>,
    ) -> Result<Facts, InterpreterError> {
        let (Some(key), Some((program, venv))) = (path.to_str(), identities(path)) else {
            return ask().map(refresh);
        };
        if let Some(facts) = self.look_up(key, program, venv) {
            return Ok(refresh(facts));
        }
        let question = format!("{key} {program:?} {venv:?}");
        let asked: Asked = lock(&self.asked).entry(question).or_default().clone();
        let mut fault = None;
        let facts = asked.get_or_init(|| ask().map_err(|error| fault = Some(error)).ok());
        match (facts, fault) {
            // A launcher that is no script: what it runs depends on more than its file.
            (Some(facts), _) if runs_another(facts, program) => Ok(refresh(facts.clone())),
            (Some(facts), _) => {
                self.keep(key, Entry { program, venv, used: now(), facts: facts.clone() });
                Ok(refresh(facts.clone()))
            }
            (None, Some(error)) => Err(error),
            // Another pool was told why; this one wants its own words.
            (None, None) => ask().map(refresh),
        }
    }

    fn look_up(&self, key: &str, program: Identity, venv: Option<Identity>) -> Option<Facts> {
        let mut kept = lock(&self.kept);
        let entry = kept.get_mut(key)?;
        if entry.program != program || entry.venv != venv {
            return None;
        }
        entry.used = now();
        Some(entry.facts.clone())
    }

    fn keep(&self, key: &str, entry: Entry) {
        let mut kept = lock(&self.kept);
        if kept.insert(key.to_owned(), entry.clone()).is_some_and(|before| before == entry) {
            return;
        }
        while kept.len() > ENTRIES_MAX {
            let oldest = kept.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| key.clone()).unwrap_or_default();
            kept.remove(&oldest);
        }
        if let Some(file) = &self.file
            && let Err(error) = write(file, &kept)
        {
            // Nothing is lost but time.
            tracing::debug!(file = %file.display(), %error, "what interpreters say is not kept");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Whether an answer is not that of the program which was asked.
fn runs_another(facts: &Facts, program: Identity) -> bool {
    identity(Path::new(&facts.executable)).is_some_and(|found| found != program)
}

fn identity(path: &Path) -> Option<Identity> {
    let found = fs::metadata(path).ok()?;
    Some(Identity {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.len(),
        // Of its content or of what is known of it: nobody can set this one back.
        changed_s: found.ctime(),
        changed_ns: found.ctime_nsec(),
    })
}

fn identities(path: &Path) -> Option<(Identity, Option<Identity>)> {
    let bin = path.parent()?;
    let venv = [bin.parent(), Some(bin)].into_iter().flatten();
    let venv = venv.filter_map(|folder| identity(&folder.join("pyvenv.cfg"))).next();
    Some((identity(path)?, venv))
}

/// What is in the file, if it is ours alone and whole.
fn read(file: &Path) -> Option<BTreeMap<String, Entry>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(file).ok()?;
    let found = opened.metadata().ok()?;
    let is_ours = found.is_file() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0;
    if !is_ours || found.len() > BYTES_MAX {
        return None;
    }
    let mut text = Vec::new();
    opened.take(BYTES_MAX).read_to_end(&mut text).ok()?;
    let document: Document = serde_json::from_slice(&text).ok()?;
    (document.format == FORMAT).then_some(document.pythons)
}

/// Replaces the file. The state directory is there already, or nothing is kept: making it is the
/// daemon's business, which also checks whose it is.
fn write(file: &Path, kept: &BTreeMap<String, Entry>) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let found = fs::symlink_metadata(directory)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let document = Document { format: FORMAT, pythons: kept.clone() };
    let text = serde_json::to_vec(&document)?;
    // Should this process be killed here, the next daemon sweeps the folder away.
    let scratch = tempfile::Builder::new().prefix(SCRATCH_PREFIX).tempdir_in(directory)?;
    let new = scratch.path().join(NAME);
    let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    written.write_all(&text)?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::File;

    use super::*;

    fn facts(version: &str) -> Facts {
        Facts {
            executable: "/v/bin/python".to_owned(),
            version: version.to_owned(),
            implementation: "cpython".to_owned(),
            kind: "system".to_owned(),
            prefix: "/nonexistent".to_owned(),
            base_prefix: "/nonexistent".to_owned(),
            abi: String::new(),
            free_threaded: false,
            architecture: "x86_64".to_owned(),
            site_packages: Vec::new(),
            pip: None,
        }
    }

    #[test]
    fn a_file_is_asked_once_until_it_or_its_venv_changes() {
        let directory = tempfile::tempdir().unwrap();
        let python = directory.path().join("bin/python");
        fs::create_dir(directory.path().join("bin")).unwrap();
        fs::write(&python, "one").unwrap();
        let times = Cell::new(0);
        let ask = || {
            times.set(times.get() + 1);
            Ok(facts(&format!("3.12.{}", times.get())))
        };
        let version = || Cache::in_state(directory.path()).get(&python, ask).unwrap().version;
        assert_eq!(["3.12.1", "3.12.1"], [version(), version()]);
        fs::write(&python, "another").unwrap();
        assert_eq!(["3.12.2", "3.12.2"], [version(), version()]);
        let written = fs::metadata(&python).unwrap().modified().unwrap();
        fs::write(&python, "renewed").unwrap();
        File::options().write(true).open(&python).unwrap().set_modified(written).unwrap();
        assert_eq!(["3.12.3", "3.12.3"], [version(), version()], "of the same size and date");
        fs::write(directory.path().join("pyvenv.cfg"), "home = /usr/bin").unwrap();
        assert_eq!(["3.12.4", "3.12.4"], [version(), version()]);
    }

    #[test]
    fn what_another_file_said_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let [launcher, real] = ["launcher", "real"].map(|name| directory.path().join(name));
        fs::write(&launcher, "one").unwrap();
        fs::write(&real, "two").unwrap();
        let executable = real.to_str().unwrap().to_owned();
        let ask = |version| Ok(Facts { executable: executable.clone(), ..facts(version) });
        let cache = || Cache::in_state(directory.path());
        assert_eq!("3.8.1", cache().get(&launcher, || ask("3.8.1")).unwrap().version);
        assert_eq!("3.8.2", cache().get(&launcher, || ask("3.8.2")).unwrap().version);
        assert_eq!("3.8.1", cache().get(&real, || ask("3.8.1")).unwrap().version);
        assert_eq!("3.8.1", cache().get(&real, || ask("3.8.2")).unwrap().version);
    }

    #[test]
    fn a_file_that_is_damaged_or_open_to_others_is_passed_over() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let python = directory.path().join("python");
        fs::write(&python, "one").unwrap();
        let cache = || Cache::in_state(directory.path());
        let file = directory.path().join(NAME);
        for text in ["", "{", "[]", "{\"format\": 99, \"pythons\": {}}"] {
            fs::write(&file, text).unwrap();
            assert_eq!("3.8.1", cache().get(&python, || Ok(facts("3.8.1"))).unwrap().version);
            assert_eq!("3.8.1", cache().get(&python, || Ok(facts("3.8.2"))).unwrap().version);
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!("3.8.3", cache().get(&python, || Ok(facts("3.8.3"))).unwrap().version);
    }

    #[test]
    fn it_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::in_state(directory.path());
        for index in 0..=ENTRIES_MAX {
            let python = directory.path().join(format!("python{index}"));
            fs::write(&python, "x").unwrap();
            cache.get(&python, || Ok(facts("3.8.1"))).unwrap();
        }
        assert_eq!(ENTRIES_MAX, lock(&cache.kept).len());
        let bytes = fs::metadata(directory.path().join(NAME)).unwrap().len();
        assert!(bytes < BYTES_MAX, "{bytes}");
    }

    #[test]
    fn what_is_wrong_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let python = directory.path().join("python");
        fs::write(&python, "one").unwrap();
        let cache = Cache::in_state(directory.path());
        let missing = || InterpreterError::Missing(python.clone());
        assert!(cache.get(&python, || Err(missing())).is_err());
        assert!(cache.get(&python, || Err(missing())).is_err(), "its own words, again");
        let again = Cache::in_state(directory.path()).get(&python, || Ok(facts("3.8.1")));
        assert_eq!("3.8.1", again.unwrap().version);
    }
}
