//! Private directories that vanish with their value.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::command::Program;

/// A fresh directory of mode 0700, removed with everything in it on drop. Its path is short, since
/// a socket's path has 107 bytes at most.
#[derive(Debug)]
pub struct Tmp {
    dir: tempfile::TempDir,
}

impl Tmp {
    /// A new empty one.
    pub fn new() -> Tmp {
        let dir = tempfile::Builder::new()
            .prefix("clutch-")
            .tempdir()
            .expect("a temporary directory can be made");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700))
            .expect("our own directory's mode can be set");
        Tmp { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path inside it; nothing is made there.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file inside it, directories included, and gives its path.
    pub fn write(&self, name: impl AsRef<Path>, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        let parent = path.parent().expect("a file is in a directory");
        fs::create_dir_all(parent).expect("a directory can be made in our own");
        fs::write(&path, text).expect("a file can be written in our own directory");
        path
    }

    /// Writes a program inside it, and gives its path. Another process writes it: were it open for
    /// writing here, a child that another test starts meanwhile could hold it open, and nobody
    /// could execute it.
    #[track_caller]
    pub fn program(&self, name: impl AsRef<Path>, bytes: impl Into<Vec<u8>>) -> PathBuf {
        let path = self.join(name);
        let write = "cat > \"$0\" && chmod 755 \"$0\"";
        let words = [OsStr::new("-c"), OsStr::new(write), path.as_os_str()];
        Program::new("sh").args(words).stdin(bytes).run().expect_code(0);
        path
    }

    /// Makes a directory of mode 0700 inside it, and gives its path.
    pub fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).expect("a directory can be made in our own");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .expect("our own directory's mode can be set");
        path
    }
}

impl Default for Tmp {
    fn default() -> Tmp {
        Tmp::new()
    }
}
