//! The files of the worker's package: what they are, writing them, recognising them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use super::{PackageError, failed};

/// The script that a worker starts with, relative to the folder.
pub(super) const BOOT: &str = "boot.py";

/// Names one file of the package twice: where it goes, and its contents.
macro_rules! files {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../py-worker/src/", $path)))),+]
    };
}

/// Every file of the package, sorted. A test compares the list with the folder.
pub(super) const FILES: &[(&str, &str)] = files![
    "boot.py",
    "clutch/__init__.py",
    "clutch/_attached.py",
    "clutch/_call.py",
    "clutch/_cancel.py",
    "clutch/_control.py",
    "clutch/_convert.py",
    "clutch/_coroutine.py",
    "clutch/_doctor.py",
    "clutch/_doctor_findings.py",
    "clutch/_doctor_loads.py",
    "clutch/_errors.py",
    "clutch/_execute.py",
    "clutch/_failures.py",
    "clutch/_files.py",
    "clutch/_frames.py",
    "clutch/_hints.py",
    "clutch/_imports.py",
    "clutch/_inputs.py",
    "clutch/_inside.py",
    "clutch/_items.py",
    "clutch/_json_codec.py",
    "clutch/_lane_ports.py",
    "clutch/_lanes.py",
    "clutch/_limits.py",
    "clutch/_logging.py",
    "clutch/_loop.py",
    "clutch/_mailbox.py",
    "clutch/_missing.py",
    "clutch/_names.py",
    "clutch/_nesting.py",
    "clutch/_no_faulthandler.py",
    "clutch/_outgoing.py",
    "clutch/_page.py",
    "clutch/_parts.py",
    "clutch/_plain.py",
    "clutch/_port.py",
    "clutch/_pristine.py",
    "clutch/_progress.py",
    "clutch/_ranges.py",
    "clutch/_raw.py",
    "clutch/_receive.py",
    "clutch/_setup.py",
    "clutch/_stdio.py",
    "clutch/_streams.py",
    "clutch/_subinterpreters.py",
    "clutch/_table.py",
    "clutch/_task_executors.py",
    "clutch/_tasks.py",
    "clutch/_threads.py",
    "clutch/_warmup.py",
    "clutch/_words.py",
    "clutch/_worker.py",
];

/// Who may read the package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    /// Its owner.
    Owner,
    /// Every user of the machine.
    Everyone,
}

impl Readers {
    /// The mode of folders.
    pub(super) const fn folder_mode(self) -> u32 {
        match self {
            Readers::Owner => 0o700,
            Readers::Everyone => 0o755,
        }
    }

    /// The mode of files.
    pub(super) const fn file_mode(self) -> u32 {
        match self {
            Readers::Owner => 0o600,
            Readers::Everyone => 0o644,
        }
    }
}

/// Permission bits that let somebody else write.
pub(super) const OTHERS_WRITE: u32 = 0o022;

/// Where Python compiles to; it may come and go.
pub(super) const CACHE: &str = "__pycache__";

/// `py-0.1.0-` and a hash of all names and contents.
pub(super) fn folder_name() -> String {
    // FNV-1a, 64 bits. It only tells versions apart: what is found is compared byte by byte.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (path, text) in FILES {
        // Lengths keep names and contents from running into one another.
        for part in [path.as_bytes(), text.as_bytes()] {
            for byte in (part.len() as u64).to_le_bytes().iter().chain(part) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    format!("py-{}-{hash:016x}", env!("CARGO_PKG_VERSION"))
}

/// Whether a folder holds the whole package, unchanged, and nothing else.
pub(super) fn is_package(directory: &Path) -> bool {
    FILES.iter().all(|(path, text)| is_same(&directory.join(path), text)) && has_no_more(directory)
}

/// Whether a file is ours alone and has just these contents.
fn is_same(path: &Path, text: &str) -> bool {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) else {
        return false;
    };
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    if !metadata.is_file() || !is_private(&metadata) || metadata.len() != text.len() as u64 {
        return false;
    }
    let mut found = Vec::with_capacity(text.len());
    file.take(text.len() as u64 + 1).read_to_end(&mut found).is_ok() && found == text.as_bytes()
}

fn is_private(metadata: &fs::Metadata) -> bool {
    metadata.uid() == geteuid().as_raw() && metadata.mode() & OTHERS_WRITE == 0
}

/// Whether there is nothing but the package and what Python has compiled of it. A file that was
/// planted beside the package could be imported in place of another.
fn has_no_more(directory: &Path) -> bool {
    folders().iter().all(|folder| {
        let at = directory.join(folder);
        let private = |path: &Path| {
            fs::symlink_metadata(path).is_ok_and(|metadata| {
                is_private(&metadata) && (metadata.is_dir() || metadata.is_file())
            })
        };
        let expected = |name: &OsStr| {
            let path = Path::new(folder).join(name);
            path.to_str().is_some_and(|path| {
                folders().contains(path) || FILES.iter().any(|(file, _)| *file == path)
            })
        };
        private(&at)
            && entries(&at).is_some_and(|names| {
                names.iter().all(|name| {
                    let path = at.join(name);
                    let cache = name == CACHE && private(&path);
                    expected(name)
                        || (cache
                            && entries(&path).is_some_and(|compiled| {
                                compiled.iter().all(|name| private(&path.join(name)))
                            }))
                })
            })
    })
}

pub(super) fn entries(folder: &Path) -> Option<Vec<OsString>> {
    fs::read_dir(folder).ok()?.map(|entry| Some(entry.ok()?.file_name())).collect()
}

/// The folders of the package, the outermost (an empty path) first.
fn folders() -> BTreeSet<&'static str> {
    let parents = |(path, _): &(&'static str, &str)| Path::new(*path).ancestors().skip(1);
    FILES.iter().flat_map(parents).filter_map(Path::to_str).collect()
}

/// Writes every file into a folder that is new and ours.
pub(super) fn write_files(into: &Path, readers: Readers) -> Result<(), PackageError> {
    let (folder_mode, file_mode) = (readers.folder_mode(), readers.file_mode());
    for folder in folders() {
        let path = into.join(folder);
        if !folder.is_empty() {
            DirBuilder::new().mode(folder_mode).create(&path).map_err(failed("make", &path))?;
        }
        // Whatever the umask took away.
        fs::set_permissions(&path, Permissions::from_mode(folder_mode))
            .map_err(failed("set the mode of", &path))?;
    }
    for (name, text) in FILES {
        let path = into.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(file_mode)
            .open(&path)
            .map_err(failed("make", &path))?;
        file.set_permissions(Permissions::from_mode(file_mode))
            .map_err(failed("set the mode of", &path))?;
        file.write_all(text.as_bytes()).map_err(failed("write", &path))?;
    }
    Ok(())
}
