//! An environment with numpy and its friends, made once from the package index and shared by all
//! tests that need it, of this run and of later ones.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::SECOND;
use crate::command::Program;
use crate::python::Python;

/// What is installed: what pip finds for the interpreter.
const PACKAGES: [&str; 4] = ["numpy", "pandas", "scikit-learn", "joblib"];

/// Whether tests may ask the package index.
pub fn is_allowed() -> bool {
    std::env::var_os("CLUTCH_TEST_NETWORK").is_some()
}

/// The environment's directory below `root`, made where it is not there yet. Whoever else makes it
/// at the same time is waited for, and what an interrupted run has left is made anew.
///
/// # Panics
///
/// When pip cannot install the packages.
#[track_caller]
pub fn environment(root: &Path) -> PathBuf {
    let python = Python::any();
    let (major, minor, micro) = python.version;
    let place = root.join(format!("science-{major}.{minor}.{micro}"));
    let lock = File::create(place.with_extension("lock")).expect("the target can be written to");
    lock.lock().expect("a file can be locked");
    let complete = place.join("complete");
    if !complete.is_file() {
        if place.exists() {
            fs::remove_dir_all(&place).expect("what an interrupted run has left can go");
        }
        let target = place.to_str().expect("test paths are text");
        Program::new(&python.path).args(["-m", "venv", target]).run().expect_code(0);
        Program::new(place.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(PACKAGES)
            .timeout(900 * SECOND)
            .run()
            .expect_code(0);
        fs::write(complete, "").expect("the environment can be written to");
    }
    place
}
