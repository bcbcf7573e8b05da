//! The life of a program of `clutch run`: who may start one and how many, and that nothing of it
//! outlives its client, its daemon or itself.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use clutch_protocol::message::Refusal;
use clutch_protocol::{Header, Kind};
use clutch_tests::command::wait;
use clutch_tests::daemon::wait_dead;
use clutch_tests::{
    Clutch, Daemon, Pool, Program, Python, SECOND, Tmp, forge, kill, signal, wait_for, wait_until,
};
use nix::sys::signal::Signal;

/// Writes its own pid and those of children of every kind into a file, and waits. What it is told
/// by SIGTERM goes into a file, too.
const TREE: &str = r#"
import os, signal, subprocess, sys, time
def told(*_):
    open(sys.argv[1] + '.told', 'w').close()
    sys.exit(0)
signal.signal(signal.SIGTERM, told if sys.argv[2] == 'obeys' else signal.SIG_IGN)
sleeper = [sys.executable, '-c', 'import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, '
           '[signal.SIGTERM, signal.SIGHUP, signal.SIGINT]); time.sleep(600)']
near = subprocess.Popen(sleeper)
far = subprocess.Popen(sleeper, start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        lost = os.getpid()
        with open(sys.argv[1] + '.new', 'w') as file:
            print(near.pid, far.pid, lost, file=file)
            file.flush()
        os.execv(sleeper[0], sleeper)
    os._exit(0)
os.wait4(-1, 0)
new = sys.argv[1] + '.new'
while not os.path.exists(new) or not open(new).read().endswith('\n'):
    time.sleep(0.01)
with open(sys.argv[1] + '.new', 'a') as file:
    print(os.getpid(), file=file)
os.rename(sys.argv[1] + '.new', sys.argv[1])
while True:
    time.sleep(0.05)
"#;

/// A program that has started its tree.
struct Tree {
    client: Child,
    pids: Vec<u32>,
    told: PathBuf,
}

fn tree(tmp: &Tmp, launcher: Program, mode: &str) -> Tree {
    let file = tmp.join("pids");
    let _ = fs::remove_file(&file);
    let path = file.to_str().expect("test paths are text");
    let client =
        launcher.args(["-c", TREE, path, mode]).spawn(Stdio::null(), Stdio::null(), Stdio::piped());
    wait_for("the tree is there", 30 * SECOND, || file.exists());
    let text = fs::read_to_string(&file).unwrap();
    let pids: Vec<u32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(4, pids.len(), "{text}");
    Tree { client, pids, told: tmp.join("pids.told") }
}

impl Tree {
    #[track_caller]
    fn assert_gone(&self) {
        for pid in &self.pids {
            wait_dead(*pid, 10 * SECOND);
        }
    }

    fn stderr(&mut self) -> String {
        std::io::read_to_string(self.client.stderr.take().unwrap()).unwrap()
    }
}

fn local() -> Program {
    let python = Python::any().path.as_os_str();
    Clutch::command(["run".as_ref(), "--local".as_ref(), "--python".as_ref(), python])
}

fn daemon(build: impl FnOnce(Pool) -> Pool) -> Daemon {
    Daemon::builder().pool("default", build).start()
}

fn runs(daemon: &Daemon) -> Vec<String> {
    let status = daemon.status();
    status.pools[0].runs.iter().map(|run| format!("{} {}", run.pid, run.command)).collect()
}

#[test]
fn nothing_outlives_a_client_that_is_killed() {
    let daemon = daemon(|pool| pool.limit("grace", "200ms"));
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, daemon.command(["run"]), "obeys");
    kill(tree.client.id());
    tree.client.wait().unwrap();
    tree.assert_gone();
    assert!(tree.told.exists(), "it was asked first");
    wait_for("its place is free", 10 * SECOND, || runs(&daemon).is_empty());
}

#[test]
fn nothing_outlives_a_client_that_is_killed_even_if_it_will_not_hear() {
    let daemon = daemon(|pool| pool.limit("grace", "200ms"));
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, daemon.command(["run"]), "defies");
    kill(tree.client.id());
    tree.client.wait().unwrap();
    tree.assert_gone();
}

#[test]
fn nothing_outlives_a_client_without_a_daemon() {
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, local(), "defies");
    kill(tree.client.id());
    tree.client.wait().unwrap();
    tree.assert_gone();
}

#[test]
fn nothing_outlives_the_program_itself() {
    let daemon = daemon(|pool| pool);
    let tmp = Tmp::new();
    for launcher in [daemon.command(["run"]), local()] {
        let mut tree = tree(&tmp, launcher, "obeys");
        signal(tree.client.id(), Signal::SIGTERM);
        let status = wait(&mut tree.client, 20 * SECOND).expect("it passes the signal on");
        assert_eq!(Some(0), status.code());
        assert!(tree.told.exists());
        // Before its client has ended, not some time after.
        assert!(tree.pids.iter().all(|pid| !clutch_tests::process::alive(*pid)));
        fs::remove_file(&tree.told).unwrap();
    }
}

#[test]
fn nothing_outlives_a_daemon_that_is_killed() {
    let mut daemon = daemon(|pool| pool);
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, daemon.command(["run"]), "defies");
    daemon.signal(Signal::SIGKILL);
    daemon.wait_exit(10 * SECOND);
    tree.assert_gone();
    let status = wait(&mut tree.client, 20 * SECOND).expect("nothing is left to wait for");
    assert_eq!(Some(3), status.code());
    assert!(tree.stderr().contains("clutch run: the connection to the daemon was lost"));
}

#[test]
fn nothing_outlives_a_guardian_that_is_killed() {
    let daemon = daemon(|pool| pool);
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, daemon.command(["run"]), "defies");
    let python = *tree.pids.last().unwrap();
    let stat = fs::read_to_string(format!("/proc/{python}/stat")).unwrap();
    let behind_name = stat.rsplit(')').next().unwrap();
    let guardian: u32 = behind_name.split_whitespace().nth(1).unwrap().parse().unwrap();
    kill(guardian);
    let status = wait(&mut tree.client, 20 * SECOND).expect("it is told");
    assert_eq!(Some(6), status.code());
    // Those in sessions of their own are told from strangers by being the daemon's orphans.
    tree.assert_gone();
}

#[test]
fn a_daemon_that_stops_lets_a_program_finish() {
    let mut daemon = daemon(|pool| pool);
    let tmp = Tmp::new();
    let file = tmp.join("stop");
    let code = "import os, sys, time
open(sys.argv[1], 'w').close()
while os.path.exists(sys.argv[1]): time.sleep(0.01)
sys.exit(9)";
    let path = file.to_str().unwrap();
    let mut client = daemon.command(["run", "-c", code, path]).spawn(
        Stdio::null(),
        Stdio::null(),
        Stdio::null(),
    );
    wait_for("it runs", 20 * SECOND, || file.exists());
    daemon.signal(Signal::SIGTERM);
    wait_until("the daemon stops", 20 * SECOND, || match daemon.try_status() {
        Ok(status) if status.daemon.state == "running" => Err("not yet"),
        _ => Ok(()),
    });
    daemon.cli(["run", "-c", "pass"]).expect_code(7).expect_stderr("the daemon is stopping");
    fs::remove_file(&file).unwrap();
    assert_eq!(Some(9), wait(&mut client, 20 * SECOND).unwrap().code());
    assert_eq!(0, daemon.wait_exit(20 * SECOND));
}

#[test]
fn a_daemon_that_stops_does_not_wait_for_ever() {
    let mut daemon = Daemon::builder()
        .daemon_key("stop_grace", "300ms")
        .pool("default", |pool| pool.limit("grace", "200ms"))
        .start();
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, daemon.command(["run"]), "defies");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(0, daemon.wait_exit(20 * SECOND));
    tree.assert_gone();
    let status = wait(&mut tree.client, 20 * SECOND).expect("it is told");
    assert_eq!(137, clutch_tests::command::shell_code(status), "as python ended");
}

#[test]
fn programs_are_counted_shown_and_bounded() {
    let daemon = daemon(|pool| pool.table("run", [("at_once", 1.into())]));
    let tmp = Tmp::new();
    let mut tree = tree(&tmp, daemon.command(["run"]), "obeys");
    let shown = runs(&daemon);
    assert_eq!(1, shown.len());
    let python = tree.pids.last().unwrap();
    assert!(shown[0].starts_with(&format!("{python} -c ")), "{shown:?}");
    let page = daemon.cli(["status"]).expect_code(0).stdout;
    assert!(page.contains(&format!("(pid {python})")), "{page}");
    let refused = daemon.cli(["run", "-c", "pass"]).expect_code(7);
    refused.expect_stderr("clutch run: pool 'default' runs 1 programs already");
    // Its workers are other people's.
    assert_eq!("4.0\n", daemon.cli(["call", "math:sqrt", "16"]).expect_code(0).stdout);
    signal(tree.client.id(), Signal::SIGTERM);
    wait(&mut tree.client, 20 * SECOND).expect("it ends");
    daemon.cli(["run", "-c", "pass"]).expect_code(0);
    assert_eq!(2, daemon.counter("default", "runs"));
}

#[test]
fn a_pool_with_a_list_of_functions_runs_no_programs() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.allow(&["math:*"]))
        .pool("both", |pool| pool.allow(&["math:*"]).table("run", [("allow", true.into())]))
        .pool("never", |pool| pool.table("run", [("allow", false.into())]))
        .start();
    let code = ["-c", "import sys; sys.exit(5)"];
    let run = |pool: &str| daemon.command(["run", "--pool", pool]).args(code).run();
    run("default").expect_code(7).expect_stderr("run.allow = true");
    run("both").expect_code(5);
    run("never").expect_code(7).expect_stderr("run.allow = false");
    run("none").expect_code(2).expect_stderr("there is no pool 'none'; the pools are: ");
}

#[test]
fn a_program_has_the_pools_rules_and_its_callers_place() {
    let daemon = daemon(|pool| {
        pool.env("RULE", "the pool's")
            .inherit(vec!["PATH".into(), "MINE".into()])
            .process("nice", 7)
    });
    let tmp = Tmp::new();
    let code = "import os, sys; print(os.environ.get('RULE'), os.environ.get('MINE'), \
                os.environ.get('OTHER'), os.environ.get('SET'), os.nice(0), os.getcwd(), \
                any(p.endswith('tests/workers') for p in sys.path), sys.path[0] == '')";
    let output = daemon
        .command(["run", "--env", "SET=a=b", "-c", code])
        .env("MINE", "mine")
        .env("OTHER", "left out")
        .dir(tmp.dir("place"))
        .run()
        .expect_code(0);
    let place = fs::canonicalize(tmp.dir("place")).unwrap();
    let expected = format!("the pool's mine None a=b 7 {} True True\n", place.display());
    assert_eq!(expected, output.stdout);
    let elsewhere = tmp.join("nowhere");
    let file = tmp.write("file", "");
    for (place, why) in [(&elsewhere, "No such file"), (&file, "Not a directory")] {
        let says = format!("failed to enter the working directory {}: {why}", place.display());
        for program in [daemon.command(["run"]), Clutch::command(["run", "--local"])] {
            let gone = program.args(["--cwd"]).args([place]).args(["-c", "pass"]).run();
            gone.expect_code(8).expect_stderr(&says);
        }
    }
}

#[test]
fn another_interpreter_can_be_named() {
    let pythons = Python::supported();
    let daemon = daemon(|pool| pool);
    let code = "import sys; print(sys.version_info[:3])";
    for python in pythons {
        let path = python.path.as_os_str();
        let expected = format!("{:?}\n", python.version);
        for launcher in [daemon.command(["run"]), Clutch::command(["run", "--local"])] {
            let output = launcher.args(["--python".as_ref(), path]).args(["-c", code]).run();
            assert_eq!(expected, output.expect_code(0).stdout);
        }
    }
    daemon.cli(["run", "--python", "no-such-python", "-c", "0"]).expect_code(8);
    Clutch::command(["run", "--local", "--venv", "/nowhere", "-c", "0"]).run().expect_code(8);
    Clutch::command(["run", "--env", "X", "-c", "0"]).run().expect_code(2);
}

fn asked(open: &[u8], terminal: Option<u32>) -> Vec<u8> {
    forge::run_program("pass", open, terminal)
}

#[test]
fn descriptors_are_taken_where_they_were_announced_and_nowhere_else() {
    let daemon = daemon(|pool| pool);
    let oracle = daemon.oracle();
    let null = fs::File::open("/dev/null").unwrap();
    let all = [null.as_raw_fd(); 5];
    let streams = |descriptors| Header { descriptors, ..Header::new(Kind::RunStreams, 1) }.encode();
    for (claimed, sent) in [(3, 2), (3, 4), (2, 3), (2, 2), (4, 4), (3, 0), (0, 0)] {
        let mut client = daemon.raw();
        client.say(&asked(&[0, 1, 2], None));
        client.expect(Kind::RunReady, 10 * SECOND);
        client.send_with_descriptors(&streams(claimed), &all[..sent]).unwrap();
        let refused = client.expect_refused(10 * SECOND);
        assert_eq!(Refusal::Protocol, refused.refusal, "{claimed} {sent}: {}", refused.sentence);
    }
    // Too early, and too late.
    let mut client = daemon.raw();
    client.send_with_descriptors(&asked(&[0, 1, 2], None), &all[..3]).unwrap();
    assert_eq!(Refusal::Protocol, client.expect_refused(10 * SECOND).refusal);
    for nonsense in
        [asked(&[0, 0], None), asked(&[2, 1], None), asked(&[7], None), asked(&[0], Some(1))]
    {
        let mut client = daemon.raw();
        client.say(&nonsense);
        client.expect(Kind::RunRefused, 10 * SECOND);
    }
    // A client that never sends them has no place for long: it leaves, and that is all.
    let mut client = daemon.raw();
    client.say(&asked(&[], None));
    client.expect(Kind::RunReady, 10 * SECOND);
    client.send_with_descriptors(&streams(0), &[]).unwrap();
    client.expect(Kind::RunStarted, 10 * SECOND);
    client.expect(Kind::RunEnded, 10 * SECOND);
    let mut client = daemon.raw();
    client.say(&asked(&[0], None));
    client.expect(Kind::RunReady, 10 * SECOND);
    drop(client);
    wait_for("every place is free", 20 * SECOND, || runs(&daemon).is_empty());
    oracle.judge(daemon);
}
