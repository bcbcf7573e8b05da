//! Starting a guardian, talking to it as the daemon would, and checking that nothing is left.

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clutch_protocol::limits::HEADER_BYTES;
use clutch_protocol::message::{
    Exit, Exited, Halted, ProcessLimits, Signal, Spawn, SpawnFailed, Spawned, Swept,
};
use clutch_protocol::wire::{self, Decode, Encode};
use clutch_protocol::{Header, Kind};
use nix::sys::signal::{Signal as Unix, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The program whose `main` is the guardian's.
pub(crate) const GUARDIAN: &str = env!("CARGO_BIN_EXE_clutch-worker-shim-test");

/// Every process of a test's tree has this in its environment, with the test's own value.
const TOKEN: &str = "CLUTCH_TEST_TREE";

/// Waits until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited in vain for: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// A command, which every process of these tests starts as.
#[expect(clippy::disallowed_methods, reason = "the one place these tests start processes")]
pub(crate) fn command(program: &str) -> Command {
    Command::new(program)
}

/// Any python 3, as itself: a wrapper script on PATH would be another process.
pub(crate) fn python() -> &'static str {
    static FOUND: OnceLock<String> = OnceLock::new();
    FOUND.get_or_init(|| {
        let installed = std::env::home_dir()
            .and_then(|home| fs::read_dir(home.join(".pyenv/versions")).ok())
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().join("bin/python3").display().to_string()));
        let on_path = ["python3", "python3.13", "python3.12", "python3.11", "python3.10"];
        on_path
            .map(String::from)
            .into_iter()
            .chain(installed)
            .find_map(|name| {
                let script = "import os, sys; print(os.path.realpath(sys.executable))";
                let output = command(&name).args(["-c", script]).output().ok()?;
                let path = String::from_utf8(output.stdout).ok()?.trim().to_owned();
                (output.status.success() && !path.is_empty()).then_some(path)
            })
            .expect("these tests need a python 3")
    })
}

/// What to run: `program` with `args`, in `/`, with a grace of a minute.
pub(crate) fn spawn(program: &str, args: &[&str]) -> Spawn {
    Spawn {
        program: program.into(),
        argv: [program].iter().chain(args).map(|arg| arg.as_bytes().to_vec()).collect(),
        environment: vec![b"PATH=/usr/bin:/bin".to_vec()],
        directory: b"/".to_vec(),
        grace_ms: 60_000,
        open_files: 512,
        limits: ProcessLimits::default(),
        cgroup: Vec::new(),
    }
}

/// The same for a shell script.
pub(crate) fn shell(script: &str) -> Spawn {
    spawn("/bin/sh", &["-c", script])
}

/// The same for a python script, which finds `call` and `control` as arguments.
pub(crate) fn script(text: &str) -> Spawn {
    spawn(python(), &["-IS", "-c", text, "{call}", "{control}"])
}

/// A whole frame.
pub(crate) fn frame<T: Encode>(kind: Kind, descriptors: u8, meta: &T) -> Vec<u8> {
    let meta = wire::encode(meta).unwrap();
    let mut header = Header::new(kind, 0);
    header.meta_bytes = meta.len().try_into().unwrap();
    header.descriptors = descriptors;
    [&header.encode()[..], &meta].concat()
}

/// Sends bytes together with descriptors.
pub(crate) fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() { &[] } else { &rights[..] };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    assert_eq!(Ok(bytes.len()), sent);
}

/// A guardian that this test process started, and whatever it guards.
pub(crate) struct Guardian {
    process: Child,
    /// The daemon's end of the report socket.
    pub(crate) report: UnixStream,
    /// The daemon's end of the worker's call socket.
    pub(crate) call: UnixStream,
    /// The daemon's end of the worker's control socket.
    pub(crate) control: UnixStream,
    stdout: Option<ChildStdout>,
    tree: Tree,
}

impl Guardian {
    /// Starts a guardian and tells it what to run.
    pub(crate) fn start(spawn: Spawn) -> Guardian {
        Guardian::start_as(&mut command(GUARDIAN), spawn)
    }

    /// Starts `command`, which must become a guardian, and tells it what to run.
    pub(crate) fn start_as(command: &mut Command, spawn: Spawn) -> Guardian {
        let (report, theirs) = UnixStream::pair().unwrap();
        Guardian::start_with(command, spawn, report, theirs.into())
    }

    /// The same, over a socket pair that was prepared.
    pub(crate) fn start_with(
        command: &mut Command,
        mut spawn: Spawn,
        report: UnixStream,
        theirs: OwnedFd,
    ) -> Guardian {
        let tree = Tree::new();
        spawn.environment.push(tree.variable());
        let (guardian, sockets) = Guardian::silent(command, tree, report, theirs);
        let numbers = sockets.each_ref().map(AsRawFd::as_raw_fd);
        send(&guardian.report, &frame(Kind::Spawn, 4, &spawn), &numbers);
        guardian.report.set_read_timeout(Some(DEADLINE)).unwrap();
        guardian
    }

    /// Starts a guardian and tells it nothing.
    pub(crate) fn start_silent() -> (Guardian, [OwnedFd; 4]) {
        let (report, theirs) = UnixStream::pair().unwrap();
        report.set_read_timeout(Some(DEADLINE)).unwrap();
        Guardian::silent(&mut command(GUARDIAN), Tree::new(), report, theirs.into())
    }

    fn silent(
        command: &mut Command,
        tree: Tree,
        report: UnixStream,
        theirs: OwnedFd,
    ) -> (Guardian, [OwnedFd; 4]) {
        let (call, worker_call) = UnixStream::pair().unwrap();
        let (control, worker_control) = UnixStream::pair().unwrap();
        let mut process = command
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        // A command keeps what it was given, and an open end here would hide the guardian's end.
        command.stdin(Stdio::null());
        let stdout = process.stdout.take();
        let guardian = Guardian { process, report, call, control, stdout, tree };
        let other = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
        (guardian, [worker_call.into(), worker_control.into(), other(), other()])
    }

    /// The guardian's process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().try_into().unwrap())
    }

    /// The processes python and its descendants are, by number.
    pub(crate) fn tree(&self) -> Vec<Pid> {
        self.tree.processes()
    }

    /// The variable that marks this test's processes.
    pub(crate) fn variable(&self) -> Vec<u8> {
        self.tree.variable()
    }

    /// Waits until python and its descendants are `count`.
    pub(crate) fn wait_for_tree(&self, count: usize) -> Vec<Pid> {
        wait_for(&format!("a tree of {count}"), || {
            Some(self.tree()).filter(|tree| tree.len() == count)
        })
    }

    /// The next report, or `None` when the guardian has closed the socket.
    pub(crate) fn next(&mut self) -> Option<(Kind, Vec<u8>)> {
        let mut bytes = [0; HEADER_BYTES];
        if self.report.read(&mut bytes[..1]).expect("a report in time") == 0 {
            return None;
        }
        self.report.read_exact(&mut bytes[1..]).unwrap();
        let header = Header::decode(&bytes, 1 << 10).unwrap();
        let mut meta = vec![0; header.meta_bytes as usize];
        self.report.read_exact(&mut meta).unwrap();
        Some((header.kind, meta))
    }

    fn expect<T: Decode<()>>(&mut self, kind: Kind) -> T {
        let (found, meta) = self.next().unwrap_or_else(|| panic!("{kind:?}, not the end"));
        assert_eq!(kind, found);
        wire::decode(&meta).unwrap()
    }

    /// Waits for python's start, and gives its process id.
    pub(crate) fn spawned(&mut self) -> Pid {
        let (pid, cgroup_errno) = self.spawned_in_group();
        assert_eq!(0, cgroup_errno);
        pid
    }

    /// The same, and how joining its cgroup went.
    pub(crate) fn spawned_in_group(&mut self) -> (Pid, i32) {
        let spawned: Spawned = self.expect(Kind::Spawned);
        (Pid::from_raw(spawned.pid.try_into().unwrap()), spawned.cgroup_errno)
    }

    /// Waits for the news that python was stopped, or goes on.
    pub(crate) fn halted(&mut self) -> bool {
        self.expect::<Halted>(Kind::Halted).stopped
    }

    /// Waits for the news that python could not be started.
    pub(crate) fn spawn_failed(&mut self) -> SpawnFailed {
        self.expect(Kind::SpawnFailed)
    }

    /// Waits for python's end. Whether it was stopped or continued before is passed over.
    pub(crate) fn exited(&mut self) -> Exited {
        loop {
            let (kind, meta) = self.next().unwrap_or_else(|| panic!("not the end"));
            if kind != Kind::Halted {
                assert_eq!(Kind::Exited, kind);
                return wire::decode(&meta).unwrap();
            }
        }
    }

    /// Waits for the end of the whole tree, and checks that it is one.
    pub(crate) fn swept(mut self) -> Swept {
        let swept = self.expect(Kind::Swept);
        self.gone();
        swept
    }

    /// Gives an order. The guardian may have ended by itself meanwhile.
    pub(crate) fn order(&self, order: Signal) {
        let bytes = frame(Kind::Signal, 0, &order);
        match (&self.report).write_all(&bytes) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => panic!("{error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Has python killed, by an order or by a stranger, and waits for its end.
    pub(crate) fn end(&mut self, python: Pid, by_order: bool) {
        if by_order {
            self.order(Signal::Kill);
        } else {
            kill(python, Unix::SIGKILL).unwrap();
        }
        assert_eq!(Exit::Signal(9), self.exited().exit);
    }

    /// Waits until the guardian has ended without another word, and checks that nothing is left.
    pub(crate) fn gone(mut self) -> ExitStatus {
        assert!(self.next().is_none(), "the end, not another report");
        self.wait()
    }

    /// The same after the report socket was closed.
    pub(crate) fn hang_up(mut self) -> ExitStatus {
        self.report.shutdown(Shutdown::Both).unwrap();
        self.wait()
    }

    /// Waits until the guardian has ended, and checks that nothing is left.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = wait_for("the guardian's end", || self.process.try_wait().unwrap());
        assert_eq!(Vec::<Pid>::new(), self.tree(), "processes are left");
        status
    }

    /// Everything python and its descendants print until the last of them has closed its output.
    pub(crate) fn output(&mut self) -> String {
        let mut stdout = self.stdout.take().unwrap();
        let reader = thread::spawn(move || {
            let mut text = Vec::new();
            stdout.read_to_end(&mut text).unwrap();
            String::from_utf8_lossy(&text).into_owned()
        });
        wait_for("the end of the output", || reader.is_finished().then_some(()));
        reader.join().unwrap()
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Processes that carry one token. What is left of them when the test ends is killed.
pub(crate) struct Tree {
    token: String,
}

impl Tree {
    /// Nothing yet.
    pub(crate) fn new() -> Tree {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Tree { token: format!("{TOKEN}={}.{count}", std::process::id()) }
    }

    /// The variable to put into an environment.
    pub(crate) fn variable(&self) -> Vec<u8> {
        self.token.clone().into_bytes()
    }

    /// Who has it.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let has_token = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == self.token.as_bytes())
        };
        all_processes().filter(has_token).map(Pid::from_raw).collect()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        for pid in self.processes() {
            let _ = kill(pid, Unix::SIGKILL);
        }
    }
}

/// The lines of a process's `status` file, by name.
pub(crate) fn status(pid: Pid) -> HashMap<String, String> {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The children of a process, zombies included.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    all_processes()
        .map(Pid::from_raw)
        .filter(|pid| status(*pid).get("PPid") == Some(&parent.to_string()))
        .collect()
}

/// Where a process's descriptor leads, by number.
pub(crate) fn descriptors(pid: Pid) -> Vec<(RawFd, PathBuf)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, fs::read_link(&path).ok()?))
        })
        .collect();
    found.sort();
    found
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
