//! A daemon in the making: its configuration, environment and directories, and its start.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::SECOND;
use crate::binary::Clutch;
use crate::command::{self, Output, Program};
use crate::config::{Pool, Value};
use crate::daemon::{Daemon, START_BOUND, SWEEP_BOUND};
use crate::log::Log;
use crate::process::{self, TOKEN_VARIABLE};
use crate::tmp::Tmp;
use crate::wait::try_until;

/// A daemon in the making.
#[derive(Debug)]
pub struct Builder {
    pools: BTreeMap<String, Pool>,
    daemon: BTreeMap<String, Value>,
    text: Option<String>,
    env: Vec<(OsString, OsString)>,
    socket: Option<PathBuf>,
    prefix: Vec<OsString>,
    stdin: Option<OwnedFd>,
    token: String,
    tmp: Tmp,
}

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            pools: BTreeMap::new(),
            daemon: BTreeMap::new(),
            text: None,
            env: Vec::new(),
            socket: None,
            prefix: Vec::new(),
            stdin: None,
            token: unique_token(),
            tmp: Tmp::new(),
        }
    }

    /// Adds a pool: `.pool("default", |pool| pool.workers(2))`.
    #[must_use]
    pub fn pool(mut self, name: &str, build: impl FnOnce(Pool) -> Pool) -> Builder {
        self.pools.insert(name.to_owned(), build(Pool::new()));
        self
    }

    /// A key of the `[daemon]` table.
    #[must_use]
    pub fn daemon_key(mut self, key: &str, value: impl Into<Value>) -> Builder {
        self.daemon.insert(key.to_owned(), value.into());
        self
    }

    /// The whole configuration file, instead of pools and keys.
    #[must_use]
    pub fn config_text(mut self, text: impl Into<String>) -> Builder {
        self.text = Some(text.into());
        self
    }

    /// A variable of the daemon's own environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Builder {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Another socket than `run/clutch.sock` in the daemon's own directory.
    #[must_use]
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Builder {
        self.socket = Some(path.into());
        self
    }

    /// A program that becomes the daemon: it is given the command line as its last arguments, and
    /// must execute it in its own place. `["sh", "-c", "umask 0; exec \"$0\" \"$@\""]`.
    #[must_use]
    pub fn through<S: AsRef<OsStr>>(mut self, prefix: &[S]) -> Builder {
        self.prefix = prefix.iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Hands it a listening socket over, as a service manager does.
    #[must_use]
    pub fn activated(mut self, listener: &UnixListener) -> Builder {
        let path = listener.local_addr().expect("it is bound");
        let path = path.as_pathname().expect("it has a path").to_owned();
        self.stdin = Some(listener.try_clone().expect("descriptors are left").into());
        let hand_over = "export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=clutch.socket; \
                         exec \"$0\" \"$@\" 3<&0 </dev/null";
        self.socket(path).through(&["sh", "-c", hand_over])
    }

    /// The daemon's own directory, to put files there before it starts.
    pub fn tmp(&self) -> &Tmp {
        &self.tmp
    }

    /// Starts it and waits until every worker is ready; panics with its log when it does not
    /// become so.
    #[track_caller]
    pub fn start(self) -> Daemon {
        match self.try_start() {
            Ok(daemon) => daemon,
            Err(output) => {
                panic!("the daemon ended with {} at its start:\n{}", output.code, output.stderr)
            }
        }
    }

    /// Starts it and waits until every worker is ready, or gives what it said when it ended
    /// instead. In that case nothing of it may be left.
    ///
    /// # Errors
    ///
    /// When the daemon ends before it answers.
    #[track_caller]
    pub fn try_start(self) -> Result<Daemon, Output> {
        let begun = Instant::now();
        let mut daemon = self.try_answering()?;
        daemon.wait_ready();
        daemon.started_in = begun.elapsed();
        Ok(daemon)
    }

    /// Starts it and waits until it answers, though some of its pools may be broken.
    #[track_caller]
    pub fn start_partly(self) -> Daemon {
        match self.try_answering() {
            Ok(daemon) => daemon,
            Err(output) => panic!("the daemon exited with {}:\n{}", output.code, output.stderr),
        }
    }

    #[track_caller]
    fn try_answering(self) -> Result<Daemon, Output> {
        // It may have to be built first, which is no part of the start.
        Clutch::binary();
        let begun = Instant::now();
        let mut daemon = self.spawn();
        let answers = try_until(START_BOUND, || {
            let ended = daemon.child.try_wait().expect("our own child can be waited for");
            match ended {
                Some(status) => Ok(Err(status)),
                // Another daemon may listen there, and that one is not meant.
                None => match daemon.try_status()? {
                    status if status.daemon.pid == daemon.pid => Ok(Ok(status)),
                    status => Err(format!("daemon {} listens there", status.daemon.pid)),
                },
            }
        });
        match answers {
            Ok(Ok(_)) => Ok(daemon),
            Ok(Err(status)) => {
                daemon.log.wait_for_end(5 * SECOND);
                let output = Output {
                    code: command::shell_code(status),
                    stdout: String::new(),
                    stderr: daemon.log(),
                    took: begun.elapsed(),
                };
                daemon.assert_swept(SWEEP_BOUND);
                Err(output)
            }
            Err(why) => panic!("no answer within {START_BOUND:?} ({why}):\n{}", daemon.log()),
        }
    }

    /// Starts it and waits for nothing.
    #[track_caller]
    pub fn spawn(self) -> Daemon {
        let text = self.text.clone().unwrap_or_else(|| self.generated());
        let Builder { mut env, socket, tmp, token, prefix, pools, stdin, .. } = self;
        let config = tmp.write("clutch.toml", text);
        let socket = socket.unwrap_or_else(|| tmp.dir("run").join("clutch.sock"));
        let mut own = private_environment(&tmp);
        own.push((TOKEN_VARIABLE.into(), token.clone().into()));
        own.append(&mut env);
        let shared_memory = process::abandoned_shared_memory();
        let mut words = prefix;
        words.extend([Clutch::binary().as_os_str(), "serve".as_ref()].map(OsStr::to_owned));
        words.extend([OsStr::new("--config"), config.as_os_str()].map(OsStr::to_owned));
        words.extend([OsStr::new("--socket"), socket.as_os_str()].map(OsStr::to_owned));
        let mut child = Clutch::private(Program::new(&words[0]))
            .args(&words[1..])
            .envs(own)
            .dir(tmp.path())
            .spawn(stdin.map_or_else(Stdio::null, Stdio::from), Stdio::piped(), Stdio::piped());
        let log = Log::default();
        log.follow(child.stderr.take().expect("it is a pipe"));
        log.follow(child.stdout.take().expect("it is a pipe"));
        Daemon {
            pid: child.id(),
            child,
            log,
            socket,
            token,
            restricted: restricted(&pools),
            started_in: Duration::ZERO,
            shared_memory,
            tmp,
        }
    }

    fn generated(&self) -> String {
        let mut text = String::new();
        if !self.daemon.is_empty() {
            text.push_str("[daemon]\n");
        }
        for (key, value) in &self.daemon {
            let _ = writeln!(text, "{key} = {}", value.0);
        }
        for (name, pool) in &self.pools {
            pool.write(name, &self.token, &mut text);
        }
        text
    }
}

fn restricted(pools: &BTreeMap<String, Pool>) -> Vec<String> {
    let pools = pools.iter().filter(|(_, pool)| pool.restricted);
    pools.map(|(name, _)| name.clone()).collect()
}

/// The directories a daemon and its commands find, all inside the test's own.
pub fn private_environment(tmp: &Tmp) -> Vec<(OsString, OsString)> {
    let dirs = [
        ("HOME", "home"),
        ("XDG_RUNTIME_DIR", "run"),
        ("XDG_STATE_HOME", "state"),
        ("XDG_CONFIG_HOME", "config"),
        ("XDG_CACHE_HOME", "cache"),
        ("TMPDIR", "tmp"),
    ];
    dirs.into_iter().map(|(name, dir)| (name.into(), tmp.dir(dir).into())).collect()
}

/// A text no other daemon of any test run was marked with.
pub fn unique_token() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}-{count}", std::process::id(), now.as_nanos())
}
