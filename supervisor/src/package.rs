//! The Python side of a worker: carried in the binary, unpacked to where Python can import it.
//!
//! The folder's name holds the version and a hash of the contents, so versions live side by side
//! and an upgrade never changes the files of a running worker. What is found there is not trusted:
//! each file is compared, and a folder that is incomplete or changed is replaced as a whole. A
//! folder that somebody else owns, or could exchange, is refused, since its code would be run.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use tempfile::TempDir;
use thiserror::Error;

use self::files::{BOOT, OTHERS_WRITE, Readers, entries, folder_name, is_package, write_files};

mod files;
mod leftovers;

pub use leftovers::{Hold, keep_in_state, sweep_temporary};

/// The folder that every user of the machine may read.
const SHARED_NAME: &str = "clutch-users";

/// What a folder is called while it is written or thrown away.
pub(crate) const SCRATCH_PREFIX: &str = ".unpack-";

/// Scratch folders older than this were left by a daemon that was killed.
const SCRATCH_AGE_MAX: Duration = Duration::from_secs(3600);

/// Daemons that start at once may get in one another's way; each round, at least one is done.
const ATTEMPTS_MAX: u32 = 8;

/// Permission bits: anybody may write; and then only owners may rename and remove, as in /tmp.
const WORLD_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// The unpacked package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// The folder that holds the package.
    pub directory: PathBuf,
    /// The script that a worker starts with.
    pub boot: PathBuf,
}

/// Why the package cannot be unpacked; each says what to do.
#[derive(Debug, Error)]
pub enum PackageError {
    /// There is no home to keep it in.
    #[error(
        "there is nowhere to keep the worker's files: set HOME or XDG_STATE_HOME to an \
             absolute path"
    )]
    NoHome,
    /// The state directory is not absolute.
    #[error("the state directory {} is not absolute: write it in full", .0.display())]
    Relative(PathBuf),
    /// It is a link, which could lead anywhere.
    #[error("{} is a symbolic link and not followed: remove it, or name its target directly",
            .0.display())]
    Link(PathBuf),
    /// It is no directory.
    #[error("{} is not a directory: remove it", .0.display())]
    NotDirectory(PathBuf),
    /// Somebody else owns it.
    #[error("{} belongs to the user with id {owner}, not to {user}, and could be changed by \
             them: remove it, or set XDG_STATE_HOME to a directory of your own", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who runs this.
        user: u32,
    },
    /// Others may write to it.
    #[error("others may write to {} (mode {mode:03o}): run `chmod go-w` on it, or set \
             XDG_STATE_HOME to a directory of your own", path.display())]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Others kept replacing it.
    #[error("{} keeps being changed by somebody else: stop other daemons, and try again",
            .0.display())]
    Contended(PathBuf),
}

/// Where the daemon keeps what outlives it: `$XDG_STATE_HOME/clutch`, else `~/.local/state/clutch`,
/// else (for root without a home) `/var/lib/clutch`.
///
/// # Errors
///
/// When there is no home.
pub fn state_dir() -> Result<PathBuf, PackageError> {
    let variable = |name| std::env::var_os(name);
    state_dir_from(variable("XDG_STATE_HOME"), variable("HOME"), geteuid().is_root())
}

/// Unpacks the package below the state directory, unless it is there already, whole and unchanged.
///
/// # Errors
///
/// When the state directory cannot be trusted or written to.
pub fn unpack_to_state(state_dir: &Path) -> Result<Package, PackageError> {
    unpack(state_dir, Readers::Owner)
}

/// Unpacks the package to where every user of this machine can read it, for workers that are
/// another user than the daemon: beside the state directory if others can come there, else to
/// `/var/lib`.
///
/// # Errors
///
/// When neither directory can be trusted or written to.
pub fn unpack_for_everyone(state_dir: &Path) -> Result<Package, PackageError> {
    let directory = folder_for_everyone(state_dir);
    unpack(&directory, Readers::Everyone)
}

/// The folder for what every user of this machine may read: beside the state directory if others
/// can come there, else in `/var/lib`.
pub(crate) fn folder_for_everyone(state_dir: &Path) -> PathBuf {
    let beside = state_dir.with_file_name(SHARED_NAME);
    let is_open = |folder: &Path| fs::metadata(folder).is_ok_and(|found| found.mode() & 0o001 != 0);
    // What is not there yet is made so that others can enter it.
    let can_be_entered = beside.ancestors().skip(1).all(|at| !at.exists() || is_open(at));
    if can_be_entered { beside } else { Path::new("/var/lib").join(SHARED_NAME) }
}

/// Makes a folder that only this user can enter, or refuses one that somebody else could change.
///
/// # Errors
///
/// When it cannot be trusted or made.
pub(crate) fn secure_for_owner(path: &Path) -> Result<(), PackageError> {
    secure_state_dir(path, Readers::Owner)
}

/// The same for a folder that everybody can enter, whatever the umask.
///
/// # Errors
///
/// When it cannot be trusted or made.
pub(crate) fn secure_for_everyone(path: &Path) -> Result<(), PackageError> {
    secure_state_dir(path, Readers::Everyone)?;
    let mode = Permissions::from_mode(Readers::Everyone.folder_mode());
    fs::set_permissions(path, mode).map_err(failed("set the mode of", path))
}

fn unpack(state_dir: &Path, readers: Readers) -> Result<Package, PackageError> {
    secure_state_dir(state_dir, readers)?;
    sweep(state_dir);
    let directory = state_dir.join(folder_name());
    for _ in 0..ATTEMPTS_MAX {
        match inspect(&directory, readers)? {
            Finding::Good => return Ok(Package::at(directory)),
            Finding::Missing => install(state_dir, &directory, readers)?,
            Finding::Bad => discard(state_dir, &directory)?,
        }
    }
    Err(PackageError::Contended(directory))
}

/// Unpacks the package to a temporary directory, which is removed when it is dropped.
///
/// # Errors
///
/// When it cannot be written.
pub fn unpack_temporary() -> Result<(Package, Temporary), PackageError> {
    let parent = std::env::temp_dir();
    let directory = scratch(&parent, leftovers::TEMPORARY_PREFIX)?;
    let hold = leftovers::hold_temporary(directory.path())?;
    write_files(directory.path(), Readers::Owner)?;
    let package = Package::at(directory.path().to_owned());
    Ok((package, Temporary { _directory: directory, _hold: hold }))
}

/// A temporary directory that goes with this value.
#[derive(Debug)]
pub struct Temporary {
    _directory: TempDir,
    _hold: Hold,
}

impl Package {
    fn at(directory: PathBuf) -> Self {
        let boot = directory.join(BOOT);
        Self { directory, boot }
    }
}

fn state_dir_from(
    state_home: Option<OsString>,
    home: Option<OsString>,
    root: bool,
) -> Result<PathBuf, PackageError> {
    // The XDG specification: a relative path is to be ignored.
    let absolute = |path: Option<OsString>| path.map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(state_home) = absolute(state_home) {
        return Ok(state_home.join("clutch"));
    }
    match absolute(home) {
        Some(home) => Ok(home.join(".local/state/clutch")),
        None if root => Ok("/var/lib/clutch".into()),
        None => Err(PackageError::NoHome),
    }
}

/// Makes the state directory if there is none, and refuses one that somebody else could change.
/// After this, nobody but this user (and root) can put anything below it.
fn secure_state_dir(path: &Path, readers: Readers) -> Result<(), PackageError> {
    if !path.is_absolute() {
        return Err(PackageError::Relative(path.to_owned()));
    }
    DirBuilder::new()
        .recursive(true)
        .mode(readers.folder_mode())
        .create(path)
        .or_else(|error| match fs::symlink_metadata(path) {
            // Something is there that is no directory: it is named below.
            Ok(_) => Ok(()),
            Err(_) => Err(error),
        })
        .map_err(failed("make", path))?;
    let metadata = open_folder(path)?.metadata().map_err(failed("look at", path))?;
    check_owner(path, metadata.uid())?;
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS_WRITE != 0 {
        let path = path.to_owned();
        return Err(PackageError::WritableByOthers { path, mode });
    }
    for parent in path.ancestors().skip(1) {
        // Whoever may write to a parent may exchange the directory, unless it is like /tmp.
        let mode = fs::metadata(parent).map_err(failed("look at", parent))?.mode() & 0o7777;
        if mode & WORLD_WRITE != 0 && mode & STICKY == 0 {
            let path = parent.to_owned();
            return Err(PackageError::WritableByOthers { path, mode });
        }
    }
    Ok(())
}

/// Opens a directory, but no link to one.
fn open_folder(path: &Path) -> Result<File, PackageError> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    opened.map_err(|source| match source.raw_os_error().map(Errno::from_raw) {
        // With both flags Linux says ENOTDIR of a link as well.
        Some(Errno::ELOOP | Errno::ENOTDIR) if path.is_symlink() => {
            PackageError::Link(path.to_owned())
        }
        Some(Errno::ENOTDIR) => PackageError::NotDirectory(path.to_owned()),
        _ => failed("open", path)(source),
    })
}

fn check_owner(path: &Path, owner: u32) -> Result<(), PackageError> {
    let user = geteuid().as_raw();
    if owner == user {
        return Ok(());
    }
    Err(PackageError::ForeignOwner { path: path.to_owned(), owner, user })
}

/// What is where the package belongs.
enum Finding {
    Good,
    Missing,
    /// Half-written, changed, or not as private as it was made.
    Bad,
}

fn inspect(directory: &Path, readers: Readers) -> Result<Finding, PackageError> {
    let folder = match open_folder(directory) {
        Ok(folder) => folder,
        Err(PackageError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Finding::Missing);
        }
        Err(error) => return Err(error),
    };
    let metadata = folder.metadata().map_err(failed("look at", directory))?;
    check_owner(directory, metadata.uid())?;
    if metadata.mode() & 0o7777 != readers.folder_mode() {
        return Ok(Finding::Bad);
    }
    Ok(if is_package(directory) { Finding::Good } else { Finding::Bad })
}

/// Writes the package beside its place and moves it there, so that it is whole or not there. If
/// another daemon was faster, the next look will tell.
fn install(state_dir: &Path, directory: &Path, readers: Readers) -> Result<(), PackageError> {
    let fresh = scratch(state_dir, SCRATCH_PREFIX)?;
    write_files(fresh.path(), readers)?;
    match fs::rename(fresh.path(), directory) {
        Ok(()) => {
            // It is not there any more, so there is nothing to remove.
            let _: PathBuf = fresh.keep();
            Ok(())
        }
        Err(error) if is_occupied(&error) => Ok(()),
        Err(error) => Err(failed("move the worker's files to", directory)(error)),
    }
}

/// Moves what is there out of the way, and removes it as far as that is possible.
fn discard(state_dir: &Path, directory: &Path) -> Result<(), PackageError> {
    let away = scratch(state_dir, SCRATCH_PREFIX)?;
    match fs::rename(directory, away.path().join("old")) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("move away the changed", directory)(error)),
    }
}

fn is_occupied(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
    )
}

fn scratch(parent: &Path, prefix: &str) -> Result<TempDir, PackageError> {
    tempfile::Builder::new()
        .prefix(prefix)
        .permissions(Permissions::from_mode(Readers::Owner.folder_mode()))
        .tempdir_in(parent)
        .map_err(failed("make a directory in", parent))
}

/// Removes what killed daemons left. A failure is none of this start's business.
fn sweep(state_dir: &Path) {
    for name in entries(state_dir).unwrap_or_default() {
        let path = state_dir.join(&name);
        let scratch = name.to_str().is_some_and(|name| name.starts_with(SCRATCH_PREFIX));
        if scratch && is_old(&path) {
            let _: io::Result<()> = fs::remove_dir_all(&path);
        }
    }
}

fn is_old(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|then| SystemTime::now().duration_since(then).ok());
    age.is_some_and(|age| age > SCRATCH_AGE_MAX)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PackageError {
    let path = path.to_owned();
    move |source| PackageError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::fs::{chown, symlink};

    use super::files::{CACHE, FILES};
    use super::*;

    const FOLDER_MODE: u32 = 0o700;
    const FILE_MODE: u32 = 0o600;

    /// What somebody does to a package, and its name.
    type Change = (&'static str, fn(&Package));

    /// A directory that is only ours, whatever the umask.
    fn state() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = directory.path().join("clutch");
        (directory, state)
    }

    fn unpacked(state: &Path) -> Package {
        let package = unpack_to_state(state).expect("a package");
        let good = matches!(inspect(&package.directory, Readers::Owner), Ok(Finding::Good));
        assert!(good, "{package:?}");
        assert_eq!(vec![OsString::from(folder_name())], entries(state).expect("entries"));
        package
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).expect("it is there").mode() & 0o7777
    }

    #[test]
    fn the_list_is_the_folder() {
        fn walk(at: &Path, root: &Path, found: &mut Vec<String>) {
            for name in entries(at).expect("the folder") {
                let path = at.join(name);
                if path.is_dir() {
                    walk(&path, root, found);
                } else if path.extension() == Some(OsStr::new("py")) {
                    let relative = path.strip_prefix(root).expect("below the root");
                    found.push(relative.to_str().expect("UTF-8").to_owned());
                }
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../py-worker/src");
        let mut found = Vec::new();
        walk(&root, &root, &mut found);
        found.sort();
        let listed: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        assert_eq!(found, listed);
        assert!(listed.contains(&BOOT));
    }

    #[test]
    fn it_is_unpacked_once_and_only_for_us_f162() {
        let (_guard, state) = state();
        let package = unpacked(&state);
        assert_eq!(FOLDER_MODE, mode(&state));
        assert_eq!(FOLDER_MODE, mode(&package.directory));
        assert_eq!(FILE_MODE, mode(&package.boot));
        let before = fs::metadata(&package.boot).expect("its metadata");
        assert_eq!(package, unpacked(&state));
        let after = fs::metadata(&package.boot).expect("its metadata");
        assert_eq!(before.ino(), after.ino(), "it is not written again");
    }

    #[test]
    fn what_python_compiles_does_not_count_as_a_change() {
        let (_guard, state) = state();
        let package = unpacked(&state);
        let before = fs::metadata(&package.boot).expect("its metadata").ino();
        let cache = package.directory.join("clutch").join(CACHE);
        DirBuilder::new().mode(FOLDER_MODE).create(&cache).expect("a cache");
        fs::write(cache.join("x.cpython-312.pyc"), "x").expect("a compiled file");
        fs::set_permissions(cache.join("x.cpython-312.pyc"), Permissions::from_mode(FILE_MODE))
            .expect("its mode");
        unpacked(&state);
        assert_eq!(before, fs::metadata(&package.boot).expect("its metadata").ino());
    }

    #[test]
    fn what_was_changed_or_half_written_is_replaced() {
        let changes: [Change; 9] = [
            ("changed", |package| fs::write(&package.boot, "import evil").expect("written")),
            ("shortened", |package| fs::write(&package.boot, "").expect("written")),
            ("removed", |package| fs::remove_file(&package.boot).expect("removed")),
            ("emptied", |package| {
                fs::remove_dir_all(package.directory.join("clutch")).expect("removed");
            }),
            ("planted", |package| {
                fs::write(package.directory.join("socket.py"), "").expect("written");
            }),
            ("open folder", |package| {
                let open = Permissions::from_mode(0o777);
                fs::set_permissions(&package.directory, open).expect("its mode");
            }),
            ("open file", |package| {
                let open = Permissions::from_mode(0o666);
                fs::set_permissions(&package.boot, open).expect("its mode");
            }),
            ("linked file", |package| {
                let elsewhere = package.directory.parent().expect("a parent").join("../elsewhere");
                fs::copy(&package.boot, &elsewhere).expect("copied");
                fs::remove_file(&package.boot).expect("removed");
                symlink(&elsewhere, &package.boot).expect("a link");
            }),
            ("linked cache", |package| {
                symlink("/tmp", package.directory.join(CACHE)).expect("a link");
            }),
        ];
        for (what, change) in changes {
            let (_guard, state) = state();
            let package = unpacked(&state);
            change(&package);
            let bad = matches!(inspect(&package.directory, Readers::Owner), Ok(Finding::Bad));
            assert!(bad, "{what}");
            assert_eq!(package, unpacked(&state), "{what}");
        }
    }

    #[test]
    fn a_directory_that_others_could_change_is_refused_f162() {
        let (guard, state) = state();
        fs::create_dir(&state).expect("a directory");
        fs::set_permissions(&state, Permissions::from_mode(0o777)).expect("its mode");
        let error = unpack_to_state(&state).unwrap_err();
        assert!(matches!(error, PackageError::WritableByOthers { mode: 0o777, .. }), "{error}");
        fs::set_permissions(&state, Permissions::from_mode(0o700)).expect("its mode");
        fs::set_permissions(guard.path(), Permissions::from_mode(0o777)).expect("its mode");
        let error = unpack_to_state(&state).unwrap_err();
        assert!(error.to_string().contains("others may write to"), "{error}");
        assert_eq!(Some(0), entries(&state).map(|names| names.len()), "nothing was written");
        fs::set_permissions(guard.path(), Permissions::from_mode(0o1777)).expect("its mode");
        unpacked(&state);
    }

    #[test]
    fn links_are_not_followed_and_their_targets_untouched_f162_f163() {
        let (guard, state) = state();
        let target = guard.path().join("target");
        fs::create_dir(&target).expect("a directory");
        symlink(&target, &state).expect("a link");
        let error = unpack_to_state(&state).unwrap_err();
        assert!(matches!(error, PackageError::Link(_)), "{error}");

        fs::remove_file(&state).expect("removed");
        DirBuilder::new().mode(FOLDER_MODE).create(&state).expect("a directory");
        symlink(&target, state.join(folder_name())).expect("a link");
        let error = unpack_to_state(&state).unwrap_err();
        assert!(matches!(error, PackageError::Link(_)), "{error}");
        assert_eq!(Some(0), entries(&target).map(|names| names.len()));

        fs::remove_file(state.join(folder_name())).expect("removed");
        fs::write(state.join(folder_name()), "").expect("a file");
        let error = unpack_to_state(&state).unwrap_err();
        assert!(matches!(error, PackageError::NotDirectory(_)), "{error}");
        fs::remove_dir_all(&state).expect("removed");
        fs::write(&state, "").expect("a file");
        let error = unpack_to_state(&state).unwrap_err();
        assert!(matches!(error, PackageError::NotDirectory(_)), "{error}");
        let error = unpack_to_state(Path::new("relative")).unwrap_err();
        assert!(matches!(error, PackageError::Relative(_)), "{error}");
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that skips says so")]
    fn what_somebody_else_owns_is_refused_f162() {
        let (_guard, state) = state();
        let package = unpacked(&state);
        for path in [&package.directory, &state] {
            if chown(path, Some(12_345), None).is_err() {
                eprintln!("skipped: only root can give a directory away");
                return;
            }
            let error = unpack_to_state(&state).unwrap_err();
            let foreign = matches!(error, PackageError::ForeignOwner { owner: 12_345, .. });
            assert!(foreign, "{error}");
            chown(path, Some(geteuid().as_raw()), None).expect("taken back");
        }
        unpacked(&state);
    }

    #[test]
    fn many_at_once_all_get_a_whole_one() {
        let (_guard, state) = state();
        DirBuilder::new().mode(FOLDER_MODE).create(&state).expect("a directory");
        std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| unpack_to_state(&state))).collect();
            for start in starts {
                start.join().expect("no panic").expect("a package");
            }
        });
        unpacked(&state);
    }

    #[test]
    fn other_users_can_read_their_own_and_no_more_f148() {
        let (guard, state) = state();
        fs::set_permissions(guard.path(), Permissions::from_mode(0o755)).expect("its mode");
        let package = unpack_for_everyone(&state).expect("a package");
        let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o7777;
        let beside = guard.path().join(SHARED_NAME);
        assert!(package.directory.starts_with(&beside), "{package:?}");
        assert_eq!((0o755, 0o644), (mode(&package.directory), mode(&package.boot)));
        assert_eq!(0o755, mode(&package.directory.join("clutch")));
        assert!(!state.exists(), "what is the daemon's own is no business of theirs");
        assert_eq!(package, unpack_for_everyone(&state).expect("the same again"));
    }

    #[test]
    fn leftovers_of_killed_daemons_are_swept() {
        let (_guard, state) = state();
        unpacked(&state);
        let old = scratch(&state, SCRATCH_PREFIX).expect("a directory").keep();
        let long_ago = SystemTime::now() - SCRATCH_AGE_MAX * 2;
        File::open(&old).and_then(|folder| folder.set_modified(long_ago)).expect("its time");
        unpacked(&state);
        let fresh = scratch(&state, SCRATCH_PREFIX).expect("a directory");
        unpack_to_state(&state).expect("a package");
        assert!(fresh.path().exists(), "another daemon may be writing it");
    }

    #[test]
    fn a_temporary_one_is_whole_and_goes_away() {
        let (package, directory) = unpack_temporary().expect("a package");
        assert!(matches!(inspect(&package.directory, Readers::Owner), Ok(Finding::Good)));
        assert!(package.boot.starts_with(&package.directory));
        drop(directory);
        assert!(!package.directory.exists());
    }

    #[test]
    fn the_state_directory_follows_the_environment() {
        let from = |state_home: Option<&str>, home: Option<&str>, root| {
            state_dir_from(state_home.map(Into::into), home.map(Into::into), root).ok()
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(path("/s/clutch"), from(Some("/s"), Some("/h"), false));
        assert_eq!(path("/h/.local/state/clutch"), from(Some("rel"), Some("/h"), true));
        assert_eq!(path("/h/.local/state/clutch"), from(None, Some("/h"), false));
        assert_eq!(path("/var/lib/clutch"), from(None, Some(""), true));
        assert_eq!(None, from(None, None, false));
    }

    #[test]
    fn the_name_tells_versions_apart() {
        let name = folder_name();
        let hash = name.rsplit('-').next().expect("a hash");
        assert!(name.starts_with(concat!("py-", env!("CARGO_PKG_VERSION"), "-")), "{name}");
        assert!(hash.len() == 16 && hash.bytes().all(|c| c.is_ascii_hexdigit()), "{name}");
    }
}
