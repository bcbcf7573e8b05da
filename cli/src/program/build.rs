//! Waiting for the environment of a pool that the daemon is still building, with a word on standard
//! error whenever it is at something else.

use std::path::Path;
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_protocol::status::Building;
use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use crate::error::Error;
use crate::output;

/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(250);

/// A wait shorter than this is not worth a word.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// The wait for a build.
pub(super) struct Build {
    begun: Instant,
    /// What was said last.
    said: String,
}

impl Default for Build {
    fn default() -> Build {
        Build { begun: Instant::now(), said: String::new() }
    }
}

impl Build {
    /// Returns when nothing is built for the pool any more.
    pub(super) fn wait(&mut self, socket: &Path, pool: &str) -> Result<(), Error> {
        let client = Client::connect(socket)?;
        loop {
            let status = client.status().map_err(Error::from)?;
            let found = status.pools.into_iter().find(|found| found.name == pool);
            let Some(building) = found.and_then(|pool| pool.building) else { return Ok(()) };
            if self.begun.elapsed() >= SILENT_MAX {
                self.say(pool, &building);
            }
            let timeout = PollTimeout::try_from(LOOK).expect("it is short");
            match poll(&mut [], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Prepare(errno.into())),
            }
        }
    }

    fn say(&mut self, pool: &str, building: &Building) {
        let Building { made_of, phase, line, .. } = building;
        let line = match line.as_str() {
            "" => format!("pool {pool}: building its {made_of}: {phase}"),
            line => format!("pool {pool}: building its {made_of}: {phase}: {line}"),
        };
        if line != self.said {
            output::note(&line);
            self.said = line;
        }
    }
}
