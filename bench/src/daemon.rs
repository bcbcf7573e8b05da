//! A daemon of the bench's own, in a directory of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_client::{PoolStatus, Stop};

use crate::Outcome;

/// How long a daemon may take to be ready, and a pool to be what it is waited for to be.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
pub(crate) const PACE: Duration = Duration::from_millis(2);

/// A daemon, ended on drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    directory: tempfile::TempDir,
}

impl Daemon {
    /// Starts one with this configuration and, beside it, a module `tasks` with this source.
    pub(crate) fn start(config: &str, tasks: &str) -> Outcome<Daemon> {
        let binary = binary()?;
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("clutch.toml");
        std::fs::write(&file, config)?;
        std::fs::write(directory.path().join("tasks.py"), tasks)?;
        let mut child = program(&binary)
            .args(["serve".as_ref(), "--config".as_ref(), file.as_os_str()])
            .arg("--socket")
            .arg(directory.path().join("clutch.sock"))
            .env("XDG_STATE_HOME", directory.path())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log"))?)
            .spawn()?;
        let socket = directory.path().join("clutch.sock");
        wait_for("the daemon's socket", || match child.try_wait()? {
            Some(status) => {
                let mut log = String::new();
                std::fs::File::open(directory.path().join("log"))?.read_to_string(&mut log)?;
                Err(format!("the daemon did not start: {status}\n{log}").into())
            }
            None => Ok(socket.exists()),
        })?;
        Ok(Daemon { child, directory })
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("clutch.sock")
    }

    /// A file beside its configuration.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A connection to it.
    pub(crate) fn client(&self) -> Outcome<Client> {
        Ok(Client::connect(self.socket())?)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it read another configuration.
    pub(crate) fn reload(&self, client: &Client, config: &str) -> Outcome<()> {
        std::fs::write(self.path("clutch.toml"), config)?;
        client.reload(true)?;
        Ok(())
    }

    /// Stops it and waits for its end.
    pub(crate) fn stop(&mut self) -> Outcome<()> {
        self.client()?.stop(Stop::Graceful)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary that was built beside this program.
pub(crate) fn binary() -> Outcome<PathBuf> {
    let binary = std::env::current_exe()?.with_file_name("clutch");
    if binary.exists() {
        return Ok(binary);
    }
    Err(format!("{} is missing: run `cargo build --release`", binary.display()).into())
}

/// The only pool of a daemon that has one, as it is now.
pub(crate) fn pool(client: &Client) -> Outcome<PoolStatus> {
    client.status()?.pools.pop().ok_or_else(|| "the daemon has no pool".into())
}

/// Looks until `condition` holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> Outcome<bool>) -> Outcome<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        if Instant::now() > deadline {
            return Err(format!("{what}: not within {PATIENCE:?}").into());
        }
        std::thread::park_timeout(PACE);
    }
    Ok(())
}

/// A process to be started.
#[expect(clippy::disallowed_methods, reason = "the one place where the bench starts processes")]
pub(crate) fn program(program: &Path) -> Command {
    Command::new(program)
}
