//! Packages to install and a state directory that several daemons share, so that environments are
//! built without a network.

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::binary::Clutch;
use crate::builder::Builder;
use crate::command::{Output, Program};
use crate::config::Pool;
use crate::daemon::Daemon;
use crate::packages::wheel;
use crate::tmp::Tmp;

/// Packages to install, and a state directory that several daemons share.
#[derive(Debug)]
pub struct Ground {
    /// Where all of it is.
    pub tmp: Tmp,
}

impl Default for Ground {
    fn default() -> Ground {
        Ground::new()
    }
}

impl Ground {
    /// With the packages `tiny` 1.0 and 2.0.
    pub fn new() -> Ground {
        let ground = Ground { tmp: Tmp::new() };
        ground.tmp.dir("wheels");
        for version in ["1.0", "2.0"] {
            ground.publish(version);
        }
        ground
    }

    /// Another version of `tiny` can be installed from now on.
    pub fn publish(&self, version: &str) {
        let source = format!("def version():\n    return {version:?}\n");
        wheel(&self.tmp.join("wheels"), "tiny", version, &source);
    }

    /// The state directory.
    pub fn state(&self) -> PathBuf {
        self.tmp.join("state")
    }

    /// A daemon that shares the state, and that no network helps.
    pub fn daemon(&self) -> Builder {
        self.offline()
            .into_iter()
            .fold(Daemon::builder(), |daemon, (name, value)| daemon.env(name, value))
    }

    /// What makes a process share it.
    pub fn offline(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("XDG_STATE_HOME", self.state()),
            ("PIP_NO_INDEX", "1".into()),
            ("PIP_FIND_LINKS", self.tmp.join("wheels")),
            ("PIP_CONFIG_FILE", "/dev/null".into()),
            ("UV_OFFLINE", "1".into()),
            ("UV_FIND_LINKS", self.tmp.join("wheels")),
            ("UV_NO_CONFIG", "1".into()),
        ]
    }

    /// A command line over the same state.
    pub fn command<const N: usize>(&self, args: [&str; N]) -> Program {
        let program = Clutch::command(args);
        self.offline().into_iter().fold(program, |p, (name, value)| p.env(name, value))
    }

    /// `clutch env ...` over the same state.
    pub fn env<const N: usize>(&self, args: [&str; N]) -> Output {
        self.command(["env"]).args(args).run()
    }

    /// What is there.
    #[track_caller]
    pub fn list(&self) -> Vec<Json> {
        let listed = self.env(["list", "--json"]).expect_code(0);
        serde_json::from_str(&listed.stdout).expect("JSON")
    }
}

/// A pool with requirements, built by pip wherever the test runs.
pub fn needs<'a>(requirements: &'a [&'a str]) -> impl Fn(Pool) -> Pool + 'a {
    move |pool| pool.key("requirements", requirements).build("tool", "pip")
}
