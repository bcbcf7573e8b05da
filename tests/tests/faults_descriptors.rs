//! Descriptors sent where none may travel, others than claimed, and of sorts that may not: whatever
//! comes is closed at once and counted, and its sender dropped. F086 to F090. Those that may travel
//! are in `attached.rs`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use clutch_protocol::failure::{Cause, Reason};
use clutch_protocol::frame::Kind;
use clutch_protocol::message::{Refusal, Role};
use clutch_tests::memory::{NAME, again, memory, sealed};
use clutch_tests::process::{Descriptors, descriptor_list};
use clutch_tests::raw::{call, call_attached, hello, reply, sealed as sealed_header};
use clutch_tests::{
    Bystander, Daemon, MILLISECOND, Oracle, Program, RawClient, SECOND, kill, skip, wait_for,
};
use nix::fcntl::{OFlag, SealFlag};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;

/// The kernel lets at most so many travel with one message.
const DESCRIPTORS_OF_A_MESSAGE_MAX: usize = 253;

fn daemon() -> (Daemon, Oracle) {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

/// A call whose header claims descriptors, and says that they are attached.
fn call_with(descriptors: u8) -> Vec<u8> {
    call_attached(1, "default", "math:sqrt", "[2]", descriptors)
}

/// How many descriptors the daemon has refused.
fn refused(daemon: &Daemon) -> u64 {
    daemon.status().daemon.counters["descriptors_refused"]
}

/// The sender must be dropped, with a word if the daemon had time for one, and must not have been
/// answered.
#[track_caller]
fn assert_dropped(client: &mut RawClient) {
    for frame in client.drain(5 * SECOND) {
        let fits = matches!(frame.header.kind, Kind::Welcome | Kind::Refused);
        assert!(fits, "answered in spite of its descriptors: {:?}", frame.header);
    }
}

/// A pipe's reading end that says when the last copy of its writing end was closed.
fn pipe() -> (File, OwnedFd) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
    (File::from(read), write)
}

fn is_closed(read: &mut File) -> bool {
    match read.read(&mut [0]) {
        Ok(0) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        other => panic!("nobody writes into this pipe: {other:?}"),
    }
}

#[test]
fn f086_thousands_of_descriptors_are_closed_at_once_and_their_senders_dropped() {
    let (daemon, oracle) = daemon();
    let bystander = Bystander::start(&daemon, "quiet");
    let null = File::open("/dev/null").unwrap();
    let many = [null.as_raw_fd(); DESCRIPTORS_OF_A_MESSAGE_MAX];
    let accepted = daemon.counter("default", "accepted");
    let (begun, mut tries) = (Instant::now(), 0);
    while tries < 10_000 && begun.elapsed() < 15 * SECOND {
        let mut client = if tries % 2 == 0 { daemon.stranger() } else { daemon.raw() };
        let bytes = match tries % 4 {
            0 => call(1, "default", "math:sqrt", "[2]"),
            1 => hello(Role::Client),
            2 => call_with(0),
            _ => vec![b'X'],
        };
        let count = 1 + tries % DESCRIPTORS_OF_A_MESSAGE_MAX;
        client.send_with_descriptors(&bytes, &many[..count]).unwrap();
        assert_dropped(&mut client);
        tries += 1;
    }
    assert!(tries >= 1_000, "only {tries} tries in {:?}", begun.elapsed());
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    assert!(refused(&daemon) >= tries as u64, "of each try at least one is counted");

    let (mut read, write) = pipe();
    let mut client = daemon.raw();
    client.send_with_descriptors(&call_with(1), &[write.as_raw_fd()]).unwrap();
    drop(write);
    wait_for("the daemon has closed what it was sent", SECOND, || is_closed(&mut read));
    assert_dropped(&mut client);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f086_descriptors_in_the_middle_of_a_frame_are_noticed_too() {
    let (daemon, oracle) = daemon();
    let null = File::open("/dev/null").unwrap();
    let whole = call(1, "default", "math:sqrt", "[2]");
    for cut in [1, 31, 32, 40, whole.len() - 1] {
        let mut client = daemon.raw();
        client.send(&whole[..cut]).unwrap();
        let rest = client.send_with_descriptors(&whole[cut..], &[null.as_raw_fd()]);
        assert_eq!(whole.len() - cut, rest.unwrap());
        assert_dropped(&mut client);
    }
    // Where they are claimed, too many are noticed at every byte.
    let (whole, memory) = (call_with(1), sealed(1));
    let two = [memory.as_raw_fd(); 2];
    for cut in 0..whole.len() {
        let mut client = daemon.raw();
        client.send(&whole[..cut]).unwrap();
        client.send_with_descriptors(&whole[cut..], &two).unwrap();
        assert_dropped(&mut client);
    }
    assert_eq!(5 + 2 * whole.len() as u64, refused(&daemon));
    oracle.judge(daemon);
}

#[test]
fn f087_a_daemon_out_of_descriptors_uses_no_part_of_what_was_cut_off() {
    let prlimit = Program::new("sh").args(["-c", "command -v prlimit"]).run();
    if prlimit.code != 0 {
        skip!("needs prlimit (util-linux) to lower the daemon's limit while it runs");
    }
    let (daemon, oracle) = daemon();
    let limit = |soft: &str| {
        let pid = format!("--pid={}", daemon.pid());
        Program::new("prlimit").args([&pid, &format!("--nofile={soft}:")]).run().expect_code(0);
    };
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let before = line.split_whitespace().nth(3).unwrap();

    let mut client = daemon.raw();
    assert!(client.is_served());
    // The kernel counts the highest number, not how many there are: holes below it are free.
    let open = descriptor_list(daemon.pid());
    let next = (0..).find(|number| !open.contains_key(number)).unwrap();
    limit(&(next + 3).to_string());
    let null = File::open("/dev/null").unwrap();
    let many = [null.as_raw_fd(); 50];
    client.send_with_descriptors(&call_with(50), &many).unwrap();
    // It is not the client's fault.
    let told = client.expect_refused(5 * SECOND);
    assert_eq!(Refusal::Overloaded, told.refusal, "{}", told.sentence);
    limit(before);
    wait_for("new clients are welcome again", 5 * SECOND, || {
        RawClient::try_hello(daemon.socket()).is_ok()
    });
    oracle.judge(daemon);
}

#[test]
fn f087_a_worker_born_in_the_storm_inherits_nothing_of_it() {
    let (daemon, oracle) = daemon();
    let quiet = Descriptors::of(daemon.worker_pids("default")[0]);
    let victim = daemon.worker_pids("default")[0];
    let null = File::open("/dev/null").unwrap();
    let many = [null.as_raw_fd(); DESCRIPTORS_OF_A_MESSAGE_MAX];
    kill(victim);
    wait_for("the victim is replaced in the storm", 20 * SECOND, || {
        for _ in 0..20 {
            let mut client = daemon.raw();
            client.send_with_descriptors(&call_with(2), &many).unwrap();
            assert_dropped(&mut client);
        }
        daemon.status().pools.iter().all(|pool| {
            pool.workers.iter().all(|worker| worker.state == "ready" && worker.pid != victim)
        })
    });
    let newborn = daemon.worker_pids("default")[0];
    assert_eq!(quiet, Descriptors::of(newborn), "{:#?}", descriptor_list(newborn));
    oracle.judge(daemon);
}

#[test]
fn f088_descriptors_left_in_flight_are_freed_when_their_connection_is() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool)
        .pool("quiet", |pool| pool)
        .daemon_key("in_flight", 2)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let mut client = daemon.raw();
    client.start("default", "bulk:nap", "[4]");
    client.start("default", "bulk:nap", "[4]");
    // One too many, which has to wait. Nothing behind it is read, not even by the receive that
    // brings it, which ends with its descriptor: what follows stays in the kernel.
    let memory = sealed(1);
    let third = call_attached(client.next_id(), "default", "math:sqrt", "[2]", 1);
    client.send_with_descriptors(&third, &[memory.as_raw_fd()]).unwrap();
    let (mut read, write) = pipe();
    client.stream().set_nonblocking(true).unwrap();
    let many = [write.as_raw_fd(); DESCRIPTORS_OF_A_MESSAGE_MAX];
    let mut messages = 0;
    while messages < 60 && client.send_with_descriptors(&call_with(4), &many).is_ok() {
        messages += 1;
    }
    assert!(messages > 0, "not one message went into the socket");
    client.stream().set_nonblocking(false).unwrap();
    drop(write);
    assert!(!is_closed(&mut read), "they are still on their way");
    wait_for("all of them are closed", 15 * SECOND, || is_closed(&mut read));
    client.drain(5 * SECOND);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f089_what_is_no_memory_and_no_file_to_read_is_refused_and_never_waited_for() {
    let (daemon, oracle) = daemon();
    let accepted = daemon.counter("default", "accepted");
    let (read, _write) = pipe();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = File::open(daemon.tmp().write("file", "[2]")).unwrap();
    let fifo = daemon.tmp().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(fifo);
    let all: [(&str, OwnedFd); 11] = [
        ("is no file", read.into()),
        ("is no file", fifo.unwrap().into()),
        ("is no file", File::open("/").unwrap().into()),
        ("is no file", File::open("/dev/zero").unwrap().into()),
        ("is no file", File::open("/dev/null").unwrap().into()),
        ("is no file", socket.into()),
        ("is no file", daemon.raw().stream().try_clone().unwrap().into()),
        ("is no file", nameless()),
        ("without having it open", again(&file, OFlag::O_PATH).into()),
        ("open for writing", again(&file, OFlag::O_RDWR).into()),
        ("open for writing", again(&file, OFlag::O_WRONLY).into()),
    ];
    let memory = sealed(1);
    for (number, (why, descriptor)) in all.iter().enumerate() {
        let begun = Instant::now();
        let before = refused(&daemon);
        let mut client = daemon.raw();
        // Between two good ones.
        let three = [memory.as_raw_fd(), descriptor.as_raw_fd(), memory.as_raw_fd()];
        client.send_with_descriptors(&call_with(3), &three).unwrap();
        let told = client.expect_refused(5 * SECOND);
        assert_eq!(Refusal::Protocol, told.refusal);
        let fits = told.sentence.contains(why) && told.sentence.contains("descriptor 1");
        assert!(fits, "{number}: {}", told.sentence);
        assert!(begun.elapsed() < 5 * SECOND, "{number} took {:?}", begun.elapsed());
        assert_eq!(before + 3, refused(&daemon), "{number}");
    }
    // A header that claims descriptors which do not come is no better.
    for (claimed, come) in [(1, 0), (2, 1), (64, 63)] {
        let mut liar = daemon.raw();
        let some = vec![memory.as_raw_fd(); come];
        if some.is_empty() {
            liar.send(&call_with(claimed)).unwrap();
        } else {
            liar.send_with_descriptors(&call_with(claimed), &some).unwrap();
        }
        let told = liar.expect_refused(5 * SECOND);
        let numbers = format!("claims {claimed} file descriptors, and {come} came");
        assert!(told.sentence.contains(&numbers), "{}", told.sentence);
    }
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    drop(all);
    oracle.judge(daemon);
}

/// A thing of the kernel's own, which has no place in any folder.
fn nameless() -> OwnedFd {
    let signals = SignalFd::new(&SigSet::empty()).unwrap();
    signals.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn f090_memory_that_may_shrink_under_its_reader_is_never_mapped() {
    let (daemon, oracle) = daemon();
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut tries = 0;
    let accepted = daemon.counter("default", "accepted");
    while tries < 200 && Instant::now() < deadline {
        let memory = memory(1 << 20, SealFlag::empty());
        // As it is, or as a file to read, which a memfd becomes when it is opened anew.
        let shown = if tries % 2 == 0 {
            memory.try_clone().unwrap()
        } else {
            again(&memory, OFlag::O_RDONLY)
        };
        let mut client = daemon.raw();
        client.send_with_descriptors(&call_with(1), &[shown.as_raw_fd()]).unwrap();
        memory.set_len(0).unwrap(); // who maps it now and looks gets SIGBUS
        assert_dropped(&mut client);
        tries += 1;
    }
    assert!(tries > 10, "only {tries} tries");
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    assert_eq!(tries, refused(&daemon));
    // Half sealed is not sealed.
    let (shrink, grow) = (SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW);
    for seals in [shrink, grow, shrink | grow, shrink | SealFlag::F_SEAL_SEAL] {
        let mut client = daemon.raw();
        let memory = memory(1, seals);
        client.send_with_descriptors(&call_with(1), &[memory.as_raw_fd()]).unwrap();
        let told = client.expect_refused(5 * SECOND);
        assert!(told.sentence.contains("can still change its size"), "{}", told.sentence);
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    assert!(!maps.contains(NAME), "the daemon maps a client's memory");
    wait_for("the daemon holds none of it", 100 * MILLISECOND + SECOND, || {
        descriptor_list(daemon.pid()).values().all(|target| !target.contains(NAME))
    });
    oracle.judge(daemon);
}

#[test]
fn f086_a_worker_that_breaks_the_rules_of_descriptors_is_killed_and_nobody_else_notices() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.key("initializer", "carrier:serve").limit("grace", "200ms"))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let misbehave = |rule: &str| {
        let mut client = daemon.raw();
        client.call("default", "carrier:misbehave", &format!("[{rule:?}]"))
    };
    let rules: Vec<String> = serde_json::from_value(misbehave("rules").value()).unwrap();
    assert!(rules.len() >= 12, "{rules:?}");
    for rule in rules.iter().map(String::as_str).chain(["on the control socket"]) {
        let before = refused(&daemon);
        let Reason::WorkerDied(certificate) = misbehave(rule).failure().reason else {
            panic!("{rule}")
        };
        assert_eq!(Cause::Protocol, certificate.cause, "{rule}: {certificate}");
        let says_why = certificate.detail.contains("descriptor");
        assert!(says_why, "{rule}: it says what was wrong: {certificate}");
        assert!(rule == "none at all" || refused(&daemon) > before, "{rule}: counted");
        daemon.wait_ready();
        // A call that succeeds shows that the pool works, and that its deaths are no crash loop.
        assert_eq!(3.0, daemon.raw().call("default", "math:sqrt", "[9]").value());
    }
    assert_eq!(0, daemon.status().daemon.descriptors_attached);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// A sequence of numbers that a seed decides.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        ((self.0 >> 33) % sides as u64) as usize
    }
}

/// Any descriptors, with any claim, on any frame, cut anywhere. What fits is answered, and all else
/// refused, closed and counted.
#[test]
fn f086_f090_any_mixture_of_descriptors_is_taken_or_refused_as_a_whole() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.key("initializer", "carrier:serve"))
        .pool("quiet", |pool| pool)
        .daemon_key("attached", "1TiB")
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let good: [File; 3] = [sealed(0), sealed(5 << 30), File::open("/etc/passwd").unwrap()];
    let (read, _write) = pipe();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let bad: [OwnedFd; 6] = [
        memory(4096, SealFlag::empty()).into(),
        again(&memory(4096, SealFlag::F_SEAL_SHRINK), OFlag::O_RDONLY).into(),
        read.into(),
        socket.into(),
        File::open("/").unwrap().into(),
        File::open("/dev/null").unwrap().into(),
    ];
    let seed: u64 = std::env::var("CLUTCH_TEST_SEED").map_or(20_261, |text| text.parse().unwrap());
    let mut dice = Dice(seed);
    let (mut taken, mut dropped) = (0, 0);
    let deadline = Instant::now() + 20 * SECOND;
    while taken + dropped < 3_000 && Instant::now() < deadline {
        let count = [0, 1, 2, 3, 64, 65, 253][dice.roll(7)];
        let claimed = if dice.roll(3) == 0 { dice.roll(65) } else { count.min(64) };
        let spoilt = if dice.roll(3) == 0 { Some(dice.roll(count.max(1))) } else { None };
        let all: Vec<_> = (0..count)
            .map(|index| match spoilt {
                Some(at) if at == index => bad[dice.roll(bad.len())].as_raw_fd(),
                _ => good[dice.roll(good.len())].as_raw_fd(),
            })
            .collect();
        let mut bytes =
            call_attached(1, "default", "carrier:look", "[2]", u8::try_from(claimed).unwrap());
        let is_flagged = dice.roll(8) > 0;
        if !is_flagged {
            bytes[21] = 0;
            let head = sealed_header(bytes[..32].try_into().unwrap());
            bytes[..32].copy_from_slice(&head);
        }
        // All on the first byte, or in two parts anywhere.
        let cut = if dice.roll(2) == 0 { 0 } else { dice.roll(bytes.len()) };
        let first = if cut == 0 { 0 } else { dice.roll(count.min(64) + 1) };
        let mut client = daemon.raw();
        let sent = send(&mut client, &bytes[..cut], &all[..first])
            && send(&mut client, &bytes[cut..], &all[first..]);
        let fits = count == claimed
            && (is_flagged || claimed == 0)
            && (spoilt.is_none() || count == 0)
            && count <= 64;
        if fits {
            let seen = reply(&client.read(5 * SECOND).unwrap()).value();
            assert_eq!(Some(count), seen[2].as_array().map(Vec::len), "seed {seed}");
            taken += 1;
        } else {
            assert_dropped(&mut client);
            dropped += 1;
        }
        assert!(sent || !fits, "seed {seed}: it was dropped before its end");
    }
    assert!(taken > 20 && dropped > 20, "{taken} were taken, {dropped} dropped");
    assert!(refused(&daemon) > dropped, "they are counted");
    wait_for("all are closed", 5 * SECOND, || {
        let status = daemon.status().daemon;
        (status.descriptors_attached, status.attached_bytes) == (0, 0)
    });
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// Whether the daemon still listened.
fn send(client: &mut RawClient, bytes: &[u8], all: &[RawFd]) -> bool {
    match (bytes.is_empty(), all.is_empty()) {
        (true, _) => true,
        (_, true) => client.send(bytes).is_ok(),
        _ => client.send_with_descriptors(bytes, all).is_ok(),
    }
}
