//! What is done to the kernel's tree of groups. Its files exist with their group, and are written
//! in one piece; a test's tree is made of plain files.

use std::fmt::Debug;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// The tree of groups.
pub(super) trait Tree: Debug + Send + Sync {
    fn make(&self, group: &Path) -> io::Result<()>;

    fn remove(&self, group: &Path) -> io::Result<()>;

    fn read(&self, file: &Path) -> io::Result<String>;

    fn write(&self, file: &Path, text: &str) -> io::Result<()>;
}

/// The kernel's.
#[derive(Debug)]
pub(super) struct Kernel;

impl Tree for Kernel {
    fn make(&self, group: &Path) -> io::Result<()> {
        fs::create_dir(group)
    }

    fn remove(&self, group: &Path) -> io::Result<()> {
        fs::remove_dir(group)
    }

    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(file)
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
    }
}
