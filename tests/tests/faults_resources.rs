//! A system that runs out of something: descriptors, processes, disk, room in a queue; or that
//! lacks something. F138 to F147. Much of it needs root, who alone may take things away.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clutch_protocol::failure::{Failure, Reason};
use clutch_protocol::status::PoolStatus;
use clutch_tests::builder::unique_token;
use clutch_tests::process::{alive, cpu_percent, descriptor_list, memory_bytes};
use clutch_tests::raw::{PATIENCE, Reply, call, reply};
use clutch_tests::wait::try_until;
use clutch_tests::{
    Bystander, Daemon, Output, Program, RawClient, SECOND, kill, skip, wait_for, wait_until,
};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn has(program: &str) -> bool {
    Program::new("sh").args(["-c", "command -v \"$0\"", program]).run().code == 0
}

/// Whether this user can have a mount namespace of its own; the reason when not.
fn can_mount() -> Result<(), &'static str> {
    if !is_root() || !has("unshare") {
        return Err("needs root and unshare (util-linux) for a mount namespace of its own");
    }
    let script = "mount -t tmpfs none /mnt && test -d /mnt";
    match Program::new("unshare").args(["-m", "sh", "-c", script]).run().code {
        0 => Ok(()),
        _ => Err("this machine lets nobody mount, not even in a namespace"),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

fn pool(daemon: &Daemon, name: &str) -> PoolStatus {
    let pools = daemon.status().pools;
    pools.into_iter().find(|pool| pool.name == name).expect("it is configured")
}

#[test]
fn f138_calls_beyond_the_queues_limit_are_refused_at_once_and_cost_no_memory() {
    const CLIENTS: u64 = 400;
    const CALLS: u64 = 25;
    const QUEUE: u32 = 2_000;
    let daemon =
        Daemon::builder().pool("default", |pool| pool.workers(2).limit("queue", QUEUE)).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("mark");
    let mut holder = daemon.raw();
    let arguments = format!("[{:?}, 1]", text(&mark));
    let held = [(); 2].map(|()| holder.start("default", "faults:wait_for", &arguments));
    wait_for("both workers are held", 20 * SECOND, || pool(&daemon, "default").running == 2);
    let before = memory_bytes(daemon.pid());

    let mut clients: Vec<_> = (0..CLIENTS).map(|_| daemon.raw()).collect();
    let begun = Instant::now();
    for client in &mut clients {
        let calls = (0..CALLS).flat_map(|_| {
            let id = client.next_id();
            call(id, "default", "math:sqrt", "[9]")
        });
        let calls: Vec<u8> = calls.collect();
        client.send(&calls).expect("the daemon reads calls");
    }
    let refused = CLIENTS * CALLS - u64::from(QUEUE);
    wait_until("all but a queue full of them are refused", PATIENCE, || {
        let pool = pool(&daemon, "default");
        let count = pool.counters.get("answered.QueueFull").copied().unwrap_or(0);
        if (count, pool.queued) == (refused, u64::from(QUEUE)) {
            Ok(())
        } else {
            Err(format!("{pool:?}"))
        }
    });
    let took = begun.elapsed();
    let grown = memory_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{refused} refusals cost {} MiB", grown >> 20);
    assert!(took < 20 * SECOND, "refusing took {took:?}");

    fs::write(&mark, "").expect("our own directory can be written");
    let (mut ok, mut full) = (0, 0);
    for client in &mut clients {
        for _ in 0..CALLS {
            let frame = client.read(PATIENCE).expect("every call is answered");
            match reply(&frame) {
                Reply::Value(value) => {
                    assert_eq!(3.0, value);
                    ok += 1;
                }
                Reply::Failed(failure) => {
                    assert!(!failure.started, "{failure}");
                    let Reason::QueueFull { limit } = failure.reason else { panic!("{failure}") };
                    assert_eq!(QUEUE, limit);
                    full += 1;
                }
            }
        }
    }
    assert_eq!((u64::from(QUEUE), refused), (ok, full));
    for _ in held {
        let frame = holder.read(PATIENCE).expect("both are answered");
        assert_eq!(1, reply(&frame).value());
    }
    drop((clients, holder));
    oracle.memory_budget(32 << 20).judge(daemon);
}

/// The soft limit of open files of a daemon, lowered while it runs and put back.
struct OpenFiles<'a> {
    daemon: &'a Daemon,
    usual: String,
}

impl<'a> OpenFiles<'a> {
    fn of(daemon: &'a Daemon) -> OpenFiles<'a> {
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("lives");
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let usual = line.and_then(|line| line.split_whitespace().nth(3)).expect("it has a limit");
        OpenFiles { daemon, usual: usual.to_owned() }
    }

    fn set(&self, soft: &str) {
        let words = [format!("--pid={}", self.daemon.pid()), format!("--nofile={soft}:")];
        Program::new("prlimit").args(words).run().expect_code(0);
    }

    /// Leaves room for `spare` more descriptors than are open now.
    fn lower(&self, spare: u32) {
        let open = descriptor_list(self.daemon.pid());
        // The kernel counts the highest number, not how many there are.
        let mut free = (0..).filter(|number| !open.contains_key(number));
        let limit = free.nth(spare as usize).expect("numbers go on");
        self.set(&limit.to_string());
    }

    fn lift(&self) {
        self.set(&self.usual);
    }
}

#[test]
fn f141_a_daemon_out_of_descriptors_pauses_at_the_door_and_works_on() {
    if !has("prlimit") {
        skip!("needs prlimit (util-linux) to lower the daemon's limit while it runs");
    }
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    // However often it is tried in vain, it is told once for each time it happens.
    let oracle = daemon.oracle().expect_event("failed to accept", 1);
    let bystander = Bystander::start(&daemon, "default");
    let mut inside = daemon.raw();
    assert!(inside.is_served());
    let limit = OpenFiles::of(&daemon);
    limit.lower(0);
    let mut outside = RawClient::connect(daemon.socket());
    let mut failures = || {
        let counters = inside.status().expect("it is served").daemon.counters;
        counters.get("accept_failures").copied().unwrap_or(0)
    };
    wait_for("it has no descriptor for a client", 10 * SECOND, || failures() > 0);
    let (before, begun) = (failures(), Instant::now());
    let cpu = cpu_percent(daemon.pid(), 2 * SECOND);
    let tries = failures() - before;
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(tries <= 20 * seconds, "{tries} tries in {seconds} s");
    // The bystander's calls are in this, a thousand a second at most.
    assert!(cpu < 50, "{cpu} % of a processor with nothing to do but wait");
    assert_eq!(3.0, inside.call("default", "math:sqrt", "[9]").value());

    limit.lift();
    outside.say(&clutch_tests::raw::hello(clutch_protocol::message::Role::Client));
    outside.expect(clutch_protocol::Kind::Welcome, 10 * SECOND);
    assert!(outside.is_served(), "who waited at the door is let in");
    drop((inside, outside));
    bystander.assert_unharmed(5 * SECOND);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn f141_a_worker_that_cannot_be_started_for_want_of_descriptors_comes_when_there_are_some() {
    if !has("prlimit") {
        skip!("needs prlimit (util-linux) to lower the daemon's limit while it runs");
    }
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let mut inside = daemon.raw();
    assert!(inside.is_served());
    let limit = OpenFiles::of(&daemon);
    // Below this number everything is in use for as long as the daemon lives.
    limit.set("4");
    kill_idle(&mut inside);
    let reason = starts_fail(&mut inside, 3);
    assert!(reason.contains("too many open files"), "{reason}");
    limit.lift();
    drop(inside);
    daemon.wait_ready();
    oracle.judge(daemon);
}

/// Kills an idle worker of the first pool, and waits until the daemon knows.
#[track_caller]
fn kill_idle(inside: &mut RawClient) {
    let pids = |client: &mut RawClient| {
        let pool = client.status().expect("it is served").pools.remove(0);
        pool.workers.into_iter().map(|worker| worker.pid).collect::<Vec<_>>()
    };
    let victim = pids(inside)[0];
    kill(victim);
    wait_for("the death is noticed", 10 * SECOND, || !pids(inside).contains(&victim));
}

/// Calls the pool's other worker, which must answer, until `count` starts have failed; gives what
/// is said of the last one.
#[track_caller]
fn starts_fail(client: &mut RawClient, count: u64) -> String {
    wait_until("starts fail", 30 * SECOND, || {
        assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
        let pool = client.status()?.pools.remove(0);
        let failed = pool.counters.get("deaths.start_failed").copied().unwrap_or(0);
        let last = pool.last_death.clone();
        let last = last.map(|death| (death.detail + &death.stderr_tail).to_lowercase());
        match (failed >= count, last) {
            (true, Some(detail)) => {
                assert_eq!("running", pool.state, "{pool:?}");
                Ok(detail)
            }
            _ => Err(format!("{pool:?}")),
        }
    })
}

/// A control group that counts processes and threads, as version 1 of control groups has it.
struct Crowd {
    dir: PathBuf,
}

impl Crowd {
    const ROOT: &str = "/sys/fs/cgroup/pids";

    /// None where there is no such thing.
    fn new() -> Option<Crowd> {
        let dir = Path::new(Crowd::ROOT).join(format!("clutch-test-{}", unique_token()));
        fs::create_dir(&dir).ok()?;
        let crowd = Crowd { dir };
        fs::metadata(crowd.dir.join("pids.max")).is_ok().then_some(crowd)
    }

    /// Takes one process in, and everybody else out: what they had is no room for others then.
    fn take_only(&self, pid: u32) {
        self.release();
        fs::write(self.dir.join("cgroup.procs"), pid.to_string()).expect("root may move it");
    }

    fn release(&self) {
        let left = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
        for pid in left.lines() {
            // It may have ended just now.
            let _ = fs::write(Path::new(Crowd::ROOT).join("cgroup.procs"), pid);
        }
    }

    /// Lets `more` be born besides those there are.
    fn lower(&self, more: u32) {
        let now = fs::read_to_string(self.dir.join("pids.current")).expect("it counts");
        let now: u32 = now.trim().parse().expect("it is a number");
        self.limit(&(now + more).to_string());
    }

    fn lift(&self) {
        self.limit("max");
    }

    fn limit(&self, limit: &str) {
        fs::write(self.dir.join("pids.max"), limit).expect("root may set it");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let emptied = try_until(5 * SECOND, || {
            self.release();
            fs::remove_dir(&self.dir)
        });
        if !std::thread::panicking() {
            emptied.expect("an empty group can be removed");
        }
    }
}

#[test]
fn f142_a_pool_that_cannot_fork_serves_with_what_it_has_and_heals() {
    let Some(crowd) = Crowd::new() else {
        skip!("needs root and the control group 'pids' (version 1)");
    };
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    // No guardian; a guardian, but no python below it; a python, but no second thread in it.
    for room in 0..3 {
        let mut inside = daemon.raw();
        crowd.take_only(daemon.pid());
        let failed = daemon.counter("default", "deaths.start_failed");
        let restarts = daemon.counter("default", "restarts");
        crowd.lower(room);
        kill_idle(&mut inside);
        let reason = starts_fail(&mut inside, failed + 3);
        let named = ["resource temporarily unavailable", "can't start new thread"];
        assert!(named.iter().any(|text| reason.contains(text)), "with room for {room}: {reason}");
        let tries = daemon.counter("default", "restarts") - restarts;
        assert!(tries < 20, "{tries} restarts: a storm");
        crowd.lift();
        daemon.wait_ready();
        // The newest worker gets the next call, and is a proven one then.
        assert_eq!(3.0, inside.call("default", "math:sqrt", "[9]").value());
    }
    oracle.judge(daemon);
    drop(crowd);
}

#[test]
fn f142_a_pool_without_any_worker_says_why_and_heals() {
    let Some(crowd) = Crowd::new() else {
        skip!("needs root and the control group 'pids' (version 1)");
    };
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    crowd.take_only(daemon.pid());
    crowd.lower(0);
    kill_idle(&mut daemon.raw());
    // Refused with the reason, after a few tries, and not for ever.
    let failure = wait_until("calls are refused", 60 * SECOND, || {
        let mut client = daemon.raw();
        let id = client.next_id();
        let call = clutch_tests::raw::call_within(id, "default", "math:sqrt", "[9]", 500);
        client.send(&call).expect("the daemon reads calls");
        let failure: Failure = client.finish(id).failure();
        assert!(!failure.started, "{failure}");
        if matches!(failure.reason, Reason::CrashLoop { .. }) {
            Ok(failure)
        } else {
            Err(failure.to_string())
        }
    });
    let told = failure.to_string();
    assert!(told.contains("Resource temporarily unavailable"), "{told}");
    assert_eq!("crash_loop", pool(&daemon, "default").state);
    let cpu = cpu_percent(daemon.pid(), SECOND);
    assert!(cpu < 50, "{cpu} % of a processor while nothing can be started");
    crowd.lift();
    daemon.wait_ready();
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
    drop(crowd);
}

/// Starts a daemon in a mount namespace in which `script` has been at work; it must refuse to
/// start, with the code for such things, and say `named`.
#[track_caller]
fn refuses_to_start(script: &str, socket: &str, named: &[&str]) -> Output {
    let builder = Daemon::builder().pool("default", |pool| pool);
    let (run, state) = (builder.tmp().dir("run"), builder.tmp().dir("state"));
    let socket = run.join(socket);
    let script = format!("run={:?} state={:?}; {script} && exec \"$0\" \"$@\"", run, state);
    let output = builder
        .through(&["unshare", "-m", "sh", "-c", &script])
        .socket(socket)
        .try_start()
        .map(|daemon| daemon.log())
        .expect_err("it cannot start")
        .expect_code(8);
    for text in named {
        assert!(output.stderr.contains(text), "no {text:?} in: {}", output.stderr);
    }
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    output
}

#[test]
fn f144_directories_that_cannot_be_written_fail_the_start_and_are_named() {
    if let Err(why) = can_mount() {
        skip!("{why}");
    }
    let read_only = "mount -t tmpfs -o ro,mode=700 none";
    let named = ["run/clutch.sock", "Read-only file system"];
    refuses_to_start(&format!("{read_only} \"$run\""), "clutch.sock", &named);
    refuses_to_start(
        &format!("{read_only} \"$state\""),
        "clutch.sock",
        &["state", "Read-only file system"],
    );
    // Room for a directory or a socket, but not for the Python package.
    let small = "mount -t tmpfs -o size=64k,mode=700 none \"$state\"";
    refuses_to_start(small, "clutch.sock", &["state", "No space left on device"]);
    let full = "mount -t tmpfs -o size=4k,nr_inodes=2,mode=700 none \"$run\" && touch \"$run/x\"";
    let named = ["run/clutch.sock", "No space left on device"];
    refuses_to_start(full, "clutch.sock", &named);
}

#[test]
fn f144_a_disk_that_is_full_or_read_only_later_is_an_error_of_who_writes_to_it() {
    if let Err(why) = can_mount() {
        skip!("{why}");
    }
    if !has("nsenter") {
        skip!("needs nsenter (util-linux) to change the daemon's mounts while it runs");
    }
    let builder = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool);
    let (state, disk) = (builder.tmp().dir("state"), builder.tmp().dir("disk"));
    let script = format!(
        "mount -t tmpfs -o mode=700 none {state:?} && mount -t tmpfs -o size=2m none {disk:?} && \
         exec \"$0\" \"$@\""
    );
    let daemon = builder.through(&["unshare", "-m", "sh", "-c", &script]).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let remount = format!("mount -o remount,ro {state:?}");
    Program::new("nsenter")
        .args(["-m", "-t", &daemon.pid().to_string(), "sh", "-c", &remount])
        .run()
        .expect_code(0);

    let mut client = daemon.raw();
    let file = disk.join("file");
    let failure = client.call("default", "faults:fill", &format!("[{:?}, 8]", text(&file)));
    let Reason::Raised(exception) = failure.failure().reason else { panic!("it must raise") };
    assert!(exception.message.contains("No space left on device"), "{}", exception.message);
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    // A new worker needs nothing to be written anywhere.
    let victim = daemon.worker_pids("default")[0];
    kill(victim);
    wait_for("it is replaced", 20 * SECOND, || {
        let pids = daemon.worker_pids("default");
        pids.len() == 1 && pids[0] != victim
    });
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    drop(client);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// Whether strace is there and may trace.
fn can_trace() -> bool {
    let script = "strace -o /dev/null true";
    Program::new("sh").args(["-c", script]).run().code == 0
}

/// A prefix that runs the daemon under strace, which makes `call` fail with `error`. The token
/// that marks the daemon's processes is kept from strace itself.
fn without(call: &str, error: &str) -> String {
    let inject = format!("-e trace={call} -e inject={call}:error={error}");
    let token = "TEST_OF_CLUTCH_TOKEN";
    format!(
        "t=${token}; exec env -u {token} strace -D -f -qq --seccomp-bpf -o /dev/null \
         {inject} env {token}=\"$t\" \"$0\" \"$@\""
    )
}

#[test]
fn f147_a_kernel_without_pidfds_is_told_at_the_start() {
    if !can_trace() {
        skip!("needs strace, and leave to use it, to take a system call away");
    }
    let script = without("pidfd_open", "ENOSYS");
    let builder = Daemon::builder().pool("default", |pool| pool);
    let begun = Instant::now();
    let output = builder
        .through(&["sh", "-c", &script])
        .try_start()
        .map(|daemon| daemon.log())
        .expect_err("deaths are known by them alone")
        .expect_code(8);
    assert!(output.stderr.contains("Function not implemented"), "{}", output.stderr);
    assert!(begun.elapsed() < 30 * SECOND, "{:?}", begun.elapsed());
}

#[test]
fn f147_where_memfds_are_denied_the_daemon_works() {
    if !can_trace() {
        skip!("needs strace, and leave to use it, to take a system call away");
    }
    let script = without("memfd_create", "EPERM");
    let builder = Daemon::builder().pool("default", |pool| pool);
    let daemon = builder.through(&["sh", "-c", &script]).start();
    let oracle = daemon.oracle();
    oracle.judge(daemon);
}

#[test]
fn f147_without_control_groups_a_workers_tree_still_ends_with_it() {
    if let Err(why) = can_mount() {
        skip!("{why}");
    }
    let hide = "if [ -d /sys/fs/cgroup ]; then mount -t tmpfs -o ro none /sys/fs/cgroup; fi;";
    let script = format!("{hide} exec \"$0\" \"$@\"");
    let builder = Daemon::builder();
    let home = builder.tmp().dir("litter");
    let daemon = builder
        .pool("default", |pool| pool.env("TMPDIR", text(&home)))
        .through(&["unshare", "-m", "sh", "-c", &script])
        .start();
    let oracle = daemon.oracle();
    let family = daemon.tmp().join("family");
    let mut client = daemon.raw();
    let id = client.start("default", "job_deaths:grow_family", &format!("[{:?}]", text(&family)));
    let pids = wait_until("the family is there", 60 * SECOND, || {
        let text = fs::read_to_string(&family).map_err(|error| error.to_string())?;
        let pids: Result<Vec<u32>, _> = text.lines().map(str::parse).collect();
        pids.map_err(|error| error.to_string())
    });
    assert_eq!(5, pids.len());
    kill(daemon.wait_runs("job_deaths:grow_family"));
    let failure = client.finish(id).failure();
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    wait_for("all of them are dead", 5 * SECOND, || pids.iter().all(|pid| !alive(*pid)));
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}
