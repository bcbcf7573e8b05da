//! The service manager: what it is told, the socket it hands over, the units it is given, and a
//! daemon that is process 1 itself.

use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clutch_client::blocking::Client;
use clutch_tests::process::{self, Process};
use clutch_tests::{Daemon, MILLISECOND, Program, Python, SECOND, Tmp, skip, wait_for, wait_until};
use nix::sys::signal::Signal;

/// A service manager: it listens to what the daemon says.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _tmp: Tmp,
}

impl Manager {
    fn new() -> Manager {
        let tmp = Tmp::new();
        let path = tmp.join("notify");
        let socket = UnixDatagram::bind(&path).expect("it is free");
        Manager { socket, path, _tmp: tmp }
    }

    /// The next word, if one comes within `span`.
    fn hear(&self, span: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(span)).expect("it is a socket");
        let mut bytes = [0; 4096];
        let count = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).expect("words are text"))
    }

    /// The next word that is no sign of life.
    #[track_caller]
    fn hear_news(&self) -> String {
        let end = Instant::now() + 60 * SECOND;
        while Instant::now() < end {
            match self.hear(SECOND) {
                Some(word) if word != "WATCHDOG=1\n" => return word,
                _ => {}
            }
        }
        panic!("nothing new was said");
    }
}

#[test]
fn f135_the_manager_is_told_ready_reloading_and_stopping() {
    let manager = Manager::new();
    let gate = Tmp::new();
    let fifo = gate.join("gate");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO can be made");
    // The first worker is ready when somebody opens the gate.
    let builder = Daemon::builder().env("NOTIFY_SOCKET", &manager.path);
    let script = format!("open({:?}).read()\n", fifo.to_str().unwrap());
    let main = builder.tmp().write("slow.py", script);
    let mut daemon = builder.pool("default", |pool| pool.main(&main)).spawn();
    assert_eq!(None, manager.hear(500 * MILLISECOND), "no worker is ready yet");
    // Opening waits until the worker is there to read.
    std::fs::write(&fifo, "open\n").expect("the worker reads");
    let word = manager.hear_news();
    assert!(word.starts_with("READY=1\nSTATUS=serving 1 pools with 1 workers at "), "{word}");
    daemon.wait_for_log("clutch is ready", 5 * SECOND);
    let workers = daemon.worker_pids("default");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS"] {
        let environment = process::environment(workers[0]);
        assert!(!environment.iter().any(|entry| entry.starts_with(name)), "{environment:?}");
    }
    daemon.tmp().write("clutch.toml", "[pools.default]\nnonsense = 1\n");
    daemon.signal(Signal::SIGHUP);
    let word = manager.hear_news();
    let micros = word.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("it says so first");
    let micros: u64 = micros.trim().parse().expect("it is a number");
    let uptime = std::fs::read_to_string("/proc/uptime").expect("proc is there");
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().expect("it is a number");
    let age = Duration::from_secs_f64(uptime).saturating_sub(Duration::from_micros(micros));
    assert!(age < 20 * SECOND, "that was {age:?} ago");
    let word = manager.hear_news();
    assert!(word.starts_with("READY=1\nSTATUS=running; the last reload failed"), "{word}");
    daemon.signal(Signal::SIGTERM);
    assert!(manager.hear_news().starts_with("STOPPING=1\n"));
    assert_eq!(0, daemon.wait_exit(10 * SECOND));
}

#[test]
fn the_manager_is_told_which_pools_are_broken() {
    let manager = Manager::new();
    let mut daemon = Daemon::builder()
        .env("NOTIFY_SOCKET", &manager.path)
        .pool("bad", |pool| pool.preload(&["no_such_module_anywhere"]))
        .pool("good", |pool| pool)
        .start_partly();
    let word = manager.hear_news();
    assert!(word.starts_with("READY=1\nSTATUS=serving 1 pools with 1 workers at "), "{word}");
    assert!(word.contains("; broken: bad"), "{word}");
    daemon.cli(["reload"]).expect_code(0);
    assert!(manager.hear_news().starts_with("RELOADING=1\n"));
    assert!(manager.hear_news().starts_with("READY=1\nSTATUS=running; broken: bad"));
    assert_eq!(0, daemon.stop(10 * SECOND));
}

/// Stops one thread of a process, and no other, for `span`; says so when that is not permitted.
const STOP_THREAD: &str = r#"
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
tid, span = int(sys.argv[1]), float(sys.argv[2])
SEIZE, INTERRUPT = 0x4206, 0x4207
if libc.ptrace(SEIZE, tid, 0, 0) or libc.ptrace(INTERRUPT, tid, 0, 0):
    sys.exit(77)
os.waitpid(tid, 0x40000000)  # __WALL
print("stopped", flush=True)
time.sleep(span)
"#;

#[test]
fn f135_signs_of_life_come_from_the_data_plane_itself() {
    let manager = Manager::new();
    let daemon = Daemon::builder()
        .env("NOTIFY_SOCKET", &manager.path)
        .env("WATCHDOG_USEC", "200000")
        .pool("default", |pool| pool)
        .start();
    let beats = |span: Duration| {
        let end = Instant::now() + span;
        let mut count = 0;
        while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|r| !r.is_zero()) {
            count += u32::from(manager.hear(rest).is_some_and(|word| word == "WATCHDOG=1\n"));
        }
        count
    };
    let count = beats(SECOND);
    assert!((5..=14).contains(&count), "{count} in a second, wanted ten");
    let script = daemon.tmp().write("stop.py", STOP_THREAD);
    let args = [script.as_os_str().to_owned(), daemon.pid().to_string().into(), "2".into()];
    let mut stopper = Program::new(&Python::any().path).args(args).spawn(
        std::process::Stdio::null(),
        std::process::Stdio::piped(),
        std::process::Stdio::null(),
    );
    // The data plane is the process's first thread. The others live on.
    let mut line = String::new();
    let output = stopper.stdout.take().expect("it is a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).expect("it reads");
    if line != "stopped\n" {
        let _ = stopper.wait();
        skip!("a thread of another process may not be stopped here");
    }
    while manager.hear(MILLISECOND).is_some() {}
    let silence = manager.hear(SECOND);
    assert_eq!(None, silence, "a data plane that is stuck gives no sign of life");
    assert!(stopper.wait().expect("it ends").success());
    assert!(beats(SECOND) >= 5, "it goes on when the data plane does");
}

/// A listening socket as a socket unit makes it.
fn listener(tmp: &Tmp) -> (UnixListener, PathBuf) {
    let path = tmp.dir("sockets").join("clutch.sock");
    let listener = UnixListener::bind(&path).expect("it is free");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("it is ours");
    (listener, path)
}

#[test]
fn f132_a_restart_behind_a_given_socket_refuses_no_connection() {
    let tmp = Tmp::new();
    let (listener, path) = listener(&tmp);
    let start = || {
        let builder = Daemon::builder().pool("default", |pool| pool.workers(2));
        builder.activated(&listener).start()
    };
    let mut daemon = start();
    let environment = process::environment(daemon.worker_pids("default")[0]);
    assert!(!environment.iter().any(|entry| entry.starts_with("LISTEN_")), "{environment:?}");
    let number = u32::try_from(listener.as_raw_fd()).expect("it is open");
    let given = process::descriptor_list(std::process::id())[&number].clone();
    let holds = |pid| process::descriptor_list(pid).values().any(|target| *target == given);
    assert!(holds(daemon.pid()), "the daemon serves {given}");
    for below in daemon.descendants() {
        assert!(!holds(below.pid), "{below} holds the listener");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (connects, restarts) = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut connects = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let options = clutch_client::ConnectOptions::new(&path).timeout(60 * SECOND);
                let client = Client::connect_with(&options).expect("no connection is refused");
                match client.call::<f64>("math:sqrt", (9,)) {
                    Ok(root) => assert!((root - 3.0).abs() < 1e-9),
                    // The daemon that let it in stops: it has not begun, and may be sent again.
                    Err(failure) => assert!(!failure.started, "{failure}"),
                }
                connects += 1;
            }
            connects
        });
        let mut restarts = 0;
        for _ in 0..3 {
            assert_eq!(0, daemon.stop(20 * SECOND));
            assert!(path.exists(), "the socket is the manager's, and stays");
            // Nobody serves it now; whoever connects waits for the next daemon.
            let early = std::os::unix::net::UnixStream::connect(&path).expect("it is open");
            daemon = start();
            restarts += 1;
            drop(early);
            clutch_tests::park(100 * MILLISECOND);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (caller.join().expect("no connection is refused"), restarts)
    });
    assert!(connects > 3 && restarts == 3, "{connects} connections, {restarts} restarts");
    let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten().collect();
    assert_eq!(1, left.len(), "no lock is needed beside a socket of the manager's: {left:?}");
}

#[test]
fn a_given_socket_that_is_not_safe_is_not_served() {
    let tmp = Tmp::new();
    let (open, path) = listener(&tmp);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("it is ours");
    let pool = || Daemon::builder().pool("default", |pool| pool).activated(&open);
    let mut daemon = pool().spawn();
    assert_eq!(8, daemon.wait_exit(20 * SECOND), "everybody could connect");
    daemon.wait_for_log("SocketMode=0600", SECOND);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("it is ours");
    let mut daemon = pool().socket("/elsewhere/s").spawn();
    assert_eq!(8, daemon.wait_exit(20 * SECOND), "two sockets are named");
    daemon.wait_for_log("name the same, or none", SECOND);
}

/// The units of `config/`.
fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

#[test]
fn the_units_are_right_and_hardened() {
    let found = Program::new("sh").args(["-c", "command -v systemd-analyze"]).run();
    if found.code != 0 {
        skip!("there is no systemd-analyze");
    }
    // What a unit starts must be there, and its user; the text is otherwise that of the files.
    let tmp = Tmp::new();
    let binary = clutch_tests::Clutch::binary().to_str().expect("test paths are text");
    for name in ["clutch.service", "clutch.socket"] {
        let text = std::fs::read_to_string(unit(name)).expect("it is there");
        let text = text.replace("/usr/local/bin/clutch", binary);
        tmp.write(name, text.replace("=clutch\n", "=root\n"));
    }
    let (service, socket) = (tmp.join("clutch.service"), tmp.join("clutch.socket"));
    let verify = Program::new("systemd-analyze").args(["verify", "--man=no"]);
    let output = verify.args([&service, &socket]).run().expect_code(0);
    assert!(!output.stderr.contains("clutch."), "{}", output.stderr);
    let security = ["security", "--offline=true", "--threshold=40", "--no-pager"];
    let output = Program::new("systemd-analyze").args(security).args([&service]).run();
    let last = output.stdout.lines().last().unwrap_or_default().to_owned();
    assert_eq!(0, output.code, "{last}\n{}", output.stderr);
}

#[test]
fn process_1_reaps_orphans_and_obeys() {
    if !nix::unistd::geteuid().is_root() {
        skip!("needs root to make a namespace of processes");
    }
    let alone = ["unshare", "-pf", "--mount-proc", "--kill-child=SIGKILL"];
    let works = Program::new("unshare").args(&alone[1..]).args(["true"]).run();
    if works.code != 0 {
        skip!("no namespace of processes can be made: {}", works.stderr.trim());
    }
    let mut daemon = Daemon::builder().pool("default", |p| p.workers(2)).through(&alone).spawn();
    wait_until("it serves", 60 * SECOND, || match daemon.try_status() {
        Ok(status) => clutch_tests::daemon::unready(&status),
        Err(why) => Err(why),
    });
    assert_eq!(1, daemon.status().daemon.pid);
    let init = daemon.descendants().into_iter().find(|process| process.parent == daemon.pid());
    let init = init.expect("unshare has one child").pid;
    let zombies = || {
        let below = process::descendants(init);
        below.into_iter().filter(Process::is_zombie).map(|p| p.to_string()).collect::<Vec<_>>()
    };
    // Orphans of somebody else: process 1 inherits them, and has started none of them.
    let orphan = "for i in 1 2 3; do (sh -c 'sleep 0.2; exit 3' &) ; done";
    let enter = ["--target", &init.to_string(), "--pid", "--mount", "sh", "-c", orphan];
    Program::new("nsenter").args(enter).run().expect_code(0);
    let sleeping = || process::descendants(init).iter().any(|p| p.command.contains("sleep"));
    wait_for("the orphans have ended", 10 * SECOND, || !sleeping());
    wait_until("they are reaped", 5 * SECOND, || {
        let zombies = zombies();
        if zombies.is_empty() { Ok(()) } else { Err(zombies) }
    });
    // Its own children are not mistaken for strays: a death has its certificate.
    let output = daemon.cli(["call", "job_deaths:exit_now", "3"]).expect_code(6);
    assert!(output.stderr.contains("exit code 3"), "{}", output.stderr);
    daemon.cli(["call", "math:sqrt", "9"]).expect_code(0);
    wait_until("nothing is left of the dead", 5 * SECOND, || {
        let zombies = zombies();
        if zombies.is_empty() { Ok(()) } else { Err(zombies) }
    });
    process::signal(init, Signal::SIGTERM);
    assert_eq!(0, daemon.wait_exit(20 * SECOND), "{}", daemon.log());
    assert!(!daemon.socket().exists());
    daemon.assert_swept(SECOND);
}
