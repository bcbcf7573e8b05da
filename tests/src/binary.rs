//! Where the binary under test is, and that it is the one the sources describe.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use crate::SECOND;
use crate::command::Program;

/// Names another binary to test, for a run against a release.
pub const BINARY_VARIABLE: &str = "CLUTCH_TEST_BINARY";

/// The `clutch` program.
#[derive(Clone, Copy, Debug)]
pub struct Clutch;

impl Clutch {
    /// The binary built beside this test. `cargo test --workspace` builds it, because the package
    /// `clutch` has tests of its own; when it is missing or older than its sources (a run of this
    /// package alone), it is built once, so that no test ever passes on yesterday's program.
    pub fn binary() -> &'static Path {
        static BINARY: OnceLock<PathBuf> = OnceLock::new();
        BINARY.get_or_init(|| match env::var_os(BINARY_VARIABLE) {
            Some(path) => PathBuf::from(path),
            None => built_beside_this_test(),
        })
    }

    /// A run of the binary with these arguments, in an environment that knows no other daemon.
    pub fn command<I, S>(args: I) -> Program
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        Clutch::private(Program::new(Clutch::binary())).args(args)
    }

    /// A program in an environment that knows no other daemon and asks for no other log.
    pub fn private(program: Program) -> Program {
        program.env_remove("CLUTCH_SOCKET").env_remove("CLUTCH_LOG").env_remove("RUST_LOG")
    }
}

fn built_beside_this_test() -> PathBuf {
    // target/<profile>/deps/<test> or target/<profile>/<program>
    let test = env::current_exe().expect("a test knows its own path");
    let mut profile_dir = test.parent().expect("a file is in a directory");
    if profile_dir.ends_with("deps") {
        profile_dir = profile_dir.parent().expect("deps is in the profile's directory");
    }
    let binary = profile_dir.join("clutch");
    if is_outdated(&binary) {
        build(profile_dir);
    }
    assert!(
        binary.is_file(),
        "there is no {}; build it with: cargo build -p clutch",
        binary.display()
    );
    binary
}

/// Whether the binary is missing or older than a file it was made of, by cargo's own list.
fn is_outdated(binary: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
    let Some(built) = changed(binary) else {
        return true;
    };
    let Ok(list) = fs::read_to_string(binary.with_extension("d")) else {
        return true;
    };
    let newer = |path: PathBuf| changed(&path).is_none_or(|at: SystemTime| at > built);
    listed_files(&list).into_iter().any(newer)
}

/// The prerequisites in a make rule as cargo writes it: `target: a b\ c d`.
fn listed_files(rule: &str) -> Vec<PathBuf> {
    let Some((_, files)) = rule.trim_end().split_once(": ") else {
        return Vec::new();
    };
    let files = files.replace("\\ ", "\0");
    files
        .split(' ')
        .filter(|file| !file.is_empty())
        .map(|file| file.replace('\0', " ").into())
        .collect()
}

fn build(profile_dir: &Path) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let target = profile_dir.parent().expect("a profile's directory is in the target directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Program::new(cargo)
        .args(["build", "--package", "clutch", "--profile", profile, "--target-dir"])
        .args([target])
        .dir(root)
        .timeout(1200 * SECOND)
        .run()
        .expect_code(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_list_of_files_is_read_with_its_escapes() {
        let files = listed_files("/t/clutch: /a/b.rs /a/with\\ space.rs\n");
        assert_eq!(vec![PathBuf::from("/a/b.rs"), PathBuf::from("/a/with space.rs")], files);
    }

    #[test]
    fn a_binary_older_than_its_source_is_outdated() {
        let tmp = crate::Tmp::new();
        let binary = tmp.write("clutch", "");
        let source = tmp.write("main.rs", "");
        tmp.write("clutch.d", format!("{}: {}\n", binary.display(), source.display()));
        let times = |file: &Path, seconds| {
            let at = SystemTime::UNIX_EPOCH + seconds * SECOND;
            fs::File::open(file).unwrap().set_modified(at).unwrap();
        };
        times(&binary, 100);
        times(&source, 50);
        assert!(!is_outdated(&binary));
        times(&source, 150);
        assert!(is_outdated(&binary));
        assert!(is_outdated(&tmp.join("missing")));
    }
}
