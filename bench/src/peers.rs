//! The peers that move arrays: a Python environment of the bench's own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::daemon::{PACE, program};

/// How long one package may take to be installed. The largest has 70 MB.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// What is installed, each with its version.
const REQUIREMENTS: &str = include_str!("../peers/requirements.txt");

/// An interpreter with the peers' packages, in `target/peers`, made once.
pub(crate) struct Environment {
    python: PathBuf,
    /// Packages that are not there, and why.
    missing: Vec<(String, String)>,
}

impl Environment {
    /// Makes what is not there yet. Only numpy is needed: a peer that cannot be installed is
    /// missing, and says why.
    pub(crate) fn make() -> Outcome<Environment> {
        let target = std::env::current_exe()?;
        let target = target.ancestors().nth(2).ok_or("the bench is in no target folder")?;
        let folder = target.join("peers");
        let python = folder.join("bin/python");
        if !python.exists() {
            run(Path::new("python3"), &["-m", "venv", &folder.to_string_lossy()])?;
        }
        let mut missing = Vec::new();
        for pin in REQUIREMENTS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, version) = pin.split_once("==").ok_or("a requirement has no version")?;
            let look = format!("import importlib.metadata as m; print(m.version({name:?}))");
            if run(&python, &["-c", &look]).is_ok_and(|found| found.trim() == version) {
                continue;
            }
            let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", pin];
            if let Err(error) = run(&python, &install) {
                missing.push((name.to_owned(), format!("not installed: {error}")));
            }
        }
        let environment = Environment { python, missing };
        match environment.lacks("numpy") {
            Some(why) => Err(format!("numpy is {why}").into()),
            None => Ok(environment),
        }
    }

    /// Its interpreter.
    pub(crate) fn python(&self) -> &Path {
        &self.python
    }

    /// Why a package is not there, if it is not.
    pub(crate) fn lacks(&self, package: &str) -> Option<&str> {
        self.missing.iter().find(|(name, _)| name == package).map(|(_, why)| why.as_str())
    }

    /// Which versions are measured.
    pub(crate) fn versions(&self) -> Outcome<String> {
        let look = "import sys; print('CPython %d.%d.%d' % sys.version_info[:3])";
        let python = run(&self.python, &["-c", look])?;
        let packages = REQUIREMENTS
            .lines()
            .filter_map(|line| line.split_once("=="))
            .filter(|(name, _)| self.lacks(name).is_none())
            .map(|(name, version)| format!(", {name} {version}"));
        Ok(python.trim().to_owned() + &packages.collect::<String>())
    }
}

/// Runs a program to its end; gives what it printed, or the last line of its complaint.
fn run(path: &Path, args: &[&str]) -> Outcome<String> {
    let mut child = program(path)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + INSTALL_PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Err(format!("not within {INSTALL_PATIENCE:?}").into());
        }
        std::thread::park_timeout(PACE);
    };
    let (mut said, mut complaint) = (String::new(), String::new());
    child.stdout.take().ok_or("it has a pipe")?.read_to_string(&mut said)?;
    child.stderr.take().ok_or("it has a pipe")?.read_to_string(&mut complaint)?;
    if status.success() {
        return Ok(said);
    }
    Err(complaint.lines().last().unwrap_or("it says nothing").to_owned().into())
}
