//! The signals of a program of `clutch run`: none is lost on its way, whenever it comes, and the
//! end that a daemon owes a program comes even if its guardian is flooded with them.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;

use clutch_protocol::message::{Exit, Forward, RunEnded, RunStarted, Target};
use clutch_protocol::{Codec, Header, Kind, wire};
use clutch_tests::builder::private_environment;
use clutch_tests::command::wait;
use clutch_tests::daemon::wait_dead;
use clutch_tests::process::Process;
use clutch_tests::raw::RawClient;
use clutch_tests::{Clutch, Daemon, Program, Python, SECOND, Tmp, forge, signal, wait_for};
use nix::sys::signal::Signal;

/// A client that was told that its program's streams are awaited.
fn ready(daemon: &Daemon, code: &str) -> RawClient {
    let mut client = daemon.raw();
    client.say(&forge::run_program(code, &[0, 1, 2], None));
    client.expect(Kind::RunReady, 10 * SECOND);
    client
}

fn streams() -> Vec<u8> {
    Header { descriptors: 3, ..Header::new(Kind::RunStreams, 1) }.encode().to_vec()
}

fn forwarded(number: Signal) -> Vec<u8> {
    let forward = Forward { signal: number as u32, target: Target::Process };
    forge::frame(Kind::RunSignal, 1, Codec::None, &wire::encode(&forward).unwrap(), b"")
}

/// Starts what follows in a process group of its own, as a shell with job control does: where there
/// is none, the system lets no key stop anything.
const SHELL: &str = "
import os, subprocess, sys
job = subprocess.Popen(sys.argv[2:], preexec_fn=lambda: os.setpgid(0, 0))
with open(sys.argv[1] + '.new', 'w') as file:
    print(job.pid, file=file)
os.rename(sys.argv[1] + '.new', sys.argv[1])
sys.exit(job.wait())
";

#[test]
fn a_signal_that_comes_with_the_streams_is_not_lost() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let null = fs::File::open("/dev/null").unwrap();
    let all = [null.as_raw_fd(); 3];
    for _ in 0..5 {
        let mut client = ready(&daemon, "import time; time.sleep(600)");
        let bytes = [streams(), forwarded(Signal::SIGTERM)].concat();
        client.send_with_descriptors(&bytes, &all).unwrap();
        client.expect(Kind::RunStarted, 20 * SECOND);
        let ended = client.expect(Kind::RunEnded, 20 * SECOND);
        let ended: RunEnded = wire::decode(&ended.meta).unwrap();
        assert_eq!(Exit::Signal(15), ended.exit);
    }
}

#[test]
fn a_client_that_floods_its_program_with_signals_and_leaves_does_not_leave_it_behind() {
    let daemon = Daemon::builder().pool("default", |pool| pool.limit("grace", "200ms")).start();
    let null = fs::File::open("/dev/null").unwrap();
    let mut client = ready(&daemon, "import time; time.sleep(600)");
    client.send_with_descriptors(&streams(), &[null.as_raw_fd(); 3]).unwrap();
    let started = client.expect(Kind::RunStarted, 20 * SECOND);
    let RunStarted { pid } = wire::decode(&started.meta).unwrap();
    // A guardian that has no turn, so that its socket is full when the client leaves.
    let guardian = Process::find(pid).expect("it runs").parent;
    signal(guardian, Signal::SIGSTOP);
    client.say(&forwarded(Signal::SIGURG).repeat(20_000));
    drop(client);
    // Its place is kept until it has ended; a daemon that has noticed says so in no other way.
    daemon.cli(["call", "math:sqrt", "16"]).expect_code(0);
    signal(guardian, Signal::SIGCONT);
    wait_dead(pid, 20 * SECOND);
    let runs = || daemon.status().pools[0].runs.len();
    wait_for("its place is free", 20 * SECOND, || runs() == 0);
}

#[test]
fn a_program_that_is_stopped_goes_on_with_its_client() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let python = Python::any().path.as_os_str();
    let code = "import os, sys, time
with open(sys.argv[1] + '.new', 'w') as file: print(os.getpid(), file=file)
os.rename(sys.argv[1] + '.new', sys.argv[1])
while os.path.exists(sys.argv[1]): time.sleep(0.01)
sys.exit(5)";
    let binary = Clutch::binary().as_os_str();
    let by_daemon = ["--socket".as_ref(), daemon.socket().as_os_str(), "run".as_ref()];
    let by_itself = ["run".as_ref(), "--local".as_ref(), "--python".as_ref(), python];
    for launcher in [&by_daemon[..], &by_itself] {
        let tmp = Tmp::new();
        let (job, up) = (tmp.join("job"), tmp.join("up"));
        let mut shell = Clutch::private(Program::new(python))
            .args(["-c".as_ref(), SHELL.as_ref(), job.as_os_str(), binary])
            .args(launcher)
            .args(["-c".as_ref(), code.as_ref(), up.as_os_str()])
            .envs(private_environment(&tmp))
            .spawn(Stdio::null(), Stdio::null(), Stdio::inherit());
        let pid_in = |file: &Path| -> u32 {
            wait_for("its pid is there", 20 * SECOND, || file.exists());
            fs::read_to_string(file).unwrap().trim().parse().unwrap()
        };
        let (client, program) = (pid_in(&job), pid_in(&up));
        let is_stopped = |pid| Process::find(pid).is_some_and(|process| process.state == 'T');
        signal(client, Signal::SIGTSTP);
        wait_for("both are stopped", 20 * SECOND, || is_stopped(client) && is_stopped(program));
        signal(client, Signal::SIGCONT);
        wait_for("both go on", 20 * SECOND, || !is_stopped(client) && !is_stopped(program));
        fs::remove_file(&up).unwrap();
        let status = wait(&mut shell, 20 * SECOND).expect("it goes on and ends");
        assert_eq!(Some(5), status.code());
    }
}
