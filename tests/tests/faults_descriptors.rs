//! Descriptors sent where none may travel. This version takes none from a client: whatever comes
//! is closed at once and its sender dropped. F086 to F090.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use clutch_protocol::frame::{Codec, Header, Kind};
use clutch_protocol::message::{Call, Refusal, Role};
use clutch_protocol::wire;
use clutch_tests::process::{Descriptors, descriptor_list};
use clutch_tests::raw::{call, hello};
use clutch_tests::{
    Bystander, Daemon, MILLISECOND, Oracle, Program, RawClient, SECOND, kill, skip, wait_for,
};
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The kernel lets at most so many travel with one message.
const DESCRIPTORS_OF_A_MESSAGE_MAX: usize = 253;

fn daemon() -> (Daemon, Oracle) {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

/// A call whose header claims descriptors.
fn call_with(descriptors: u8) -> Vec<u8> {
    let meta = Call {
        pool: "default".into(),
        function: "math:sqrt".into(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
    };
    let meta = wire::encode(&meta).unwrap();
    let header = Header {
        codec: Codec::Json,
        descriptors,
        meta_bytes: u32::try_from(meta.len()).unwrap(),
        payload_bytes: 3,
        ..Header::new(Kind::Call, 1)
    };
    [&header.encode()[..], &meta, b"[2]"].concat()
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
        let bytes = match tries % 3 {
            0 => call(1, "default", "math:sqrt", "[2]"),
            1 => hello(Role::Client),
            _ => vec![b'C'],
        };
        let count = 1 + tries % DESCRIPTORS_OF_A_MESSAGE_MAX;
        client.send_with_descriptors(&bytes, &many[..count]).unwrap();
        assert_dropped(&mut client);
        tries += 1;
    }
    assert!(tries >= 1_000, "only {tries} tries in {:?}", begun.elapsed());
    assert_eq!(accepted, daemon.counter("default", "accepted"));

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
    let many = [null.as_raw_fd(); 100];
    client.send_with_descriptors(&call_with(1), &many).unwrap();
    assert_dropped(&mut client);
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
    // Nothing more is read from this connection now: what follows stays in the kernel.
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
fn f089_no_kind_of_descriptor_is_looked_at_or_waited_for() {
    let (daemon, oracle) = daemon();
    let accepted = daemon.counter("default", "accepted");
    let (read, _write) = pipe();
    let path_only = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_PATH.bits())
        .open("/etc/passwd")
        .unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = daemon.tmp().write("file", "[2]");
    let all: [(&str, OwnedFd); 7] = [
        ("an empty pipe", read.into()),
        ("a directory", File::open("/").unwrap().into()),
        ("/dev/zero", File::open("/dev/zero").unwrap().into()),
        ("a path only", path_only.into()),
        ("a socket", socket.into()),
        ("a file", File::open(file).unwrap().into()),
        ("a connection to the daemon itself", daemon.raw().stream().try_clone().unwrap().into()),
    ];
    for (what, descriptor) in &all {
        let begun = Instant::now();
        let mut client = daemon.raw();
        client.send_with_descriptors(&call_with(1), &[descriptor.as_raw_fd()]).unwrap();
        assert_dropped(&mut client);
        assert!(begun.elapsed() < 2 * SECOND, "{what} held the daemon up: {:?}", begun.elapsed());
    }
    // A header that claims descriptors which do not come is no better.
    let mut liar = daemon.raw();
    liar.send(&call_with(1)).unwrap();
    assert_eq!(Refusal::Protocol, liar.expect_refused(5 * SECOND).refusal);
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    drop(all);
    oracle.judge(daemon);
}

#[test]
fn f090_memory_that_may_shrink_under_its_reader_is_never_mapped() {
    let (daemon, oracle) = daemon();
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut tries = 0;
    while tries < 200 && Instant::now() < deadline {
        let memory = memfd_create(c"clutch-test", MFdFlags::MFD_CLOEXEC).unwrap();
        let file = File::from(memory.try_clone().unwrap());
        file.set_len(1 << 20).unwrap();
        let mut client = daemon.raw();
        client.send_with_descriptors(&call_with(1), &[memory.as_raw_fd()]).unwrap();
        file.set_len(0).unwrap(); // who maps it now and looks gets SIGBUS
        assert_dropped(&mut client);
        tries += 1;
    }
    assert!(tries > 10, "only {tries} tries");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    assert!(!maps.contains("memfd:clutch-test"), "the daemon maps a client's memory");
    wait_for("the daemon holds none of it", 100 * MILLISECOND + SECOND, || {
        descriptor_list(daemon.pid()).values().all(|target| !target.contains("clutch-test"))
    });
    oracle.judge(daemon);
}
