//! Descriptors that travel with calls and answers: handed on as they are, bounded, and kept no
//! longer than the call. The workers are stand-ins that do with descriptors what a test says
//! (`tests/workers/carrier.py`). What must not travel is in `faults_descriptors.rs`.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use clutch_protocol::failure::{Payload, Reason};
use clutch_protocol::frame::{Flags, Frame, Header, Kind};
use clutch_protocol::message::Call;
use clutch_tests::memory::{NAME, inode, sealed};
use clutch_tests::process::{descriptor_list, memory_bytes};
use clutch_tests::raw::{PATIENCE, call_attached, call_attached_of, reply};
use clutch_tests::{Builder, Bystander, Daemon, Oracle, RawClient, SECOND, kill, wait_for};

/// A daemon whose workers in the pool `default` are stand-ins.
fn carriers() -> Builder {
    Daemon::builder()
        .pool("default", |pool| pool.key("initializer", "carrier:serve").limit("grace", "200ms"))
}

fn start(builder: Builder) -> (Daemon, Oracle) {
    let daemon = builder.start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

/// Begins a call of the stand-in with descriptors.
#[track_caller]
fn begin(client: &mut RawClient, function: &str, json: &str, all: &[RawFd]) -> u64 {
    let id = client.next_id();
    let count = u8::try_from(all.len()).unwrap();
    let bytes = call_attached(id, "default", &format!("carrier:{function}"), json, count);
    client.send_with_descriptors(&bytes, all).unwrap();
    id
}

/// The same, to its end; gives what it answered with.
#[track_caller]
fn call(
    client: &mut RawClient,
    function: &str,
    json: &str,
    all: &[RawFd],
) -> (Frame, Vec<OwnedFd>) {
    let id = begin(client, function, json, all);
    let (frame, descriptors) = client.read_attached(PATIENCE).unwrap();
    assert_eq!(id, frame.header.id);
    (frame, descriptors)
}

/// The daemon must hold nothing that was attached, by its own word and by the kernel's.
#[track_caller]
fn assert_free(daemon: &Daemon) {
    wait_for("the daemon holds no descriptor of a call", 10 * SECOND, || {
        let status = daemon.status().daemon;
        (status.descriptors_attached, status.attached_bytes) == (0, 0)
            && descriptor_list(daemon.pid()).values().all(|target| !target.contains(NAME))
    });
}

#[test]
fn memory_goes_to_the_worker_and_back_and_nobody_keeps_it() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let memory = sealed(1 << 20);
    let file = File::open("/etc/passwd").unwrap();
    let both = [memory.as_raw_fd(), file.as_raw_fd()];
    let (frame, none) = call(&mut client, "look", "[1]", &both);
    assert!(none.is_empty());
    let seen = reply(&frame).value();
    let inodes = serde_json::json!([inode(&memory), inode(&file)]);
    assert_eq!((Some(8), Some(3)), (seen[0].as_u64(), seen[1].as_u64()), "flags and payload");
    assert_eq!((Some(1 << 20), &inodes), (seen[2][0].as_u64(), &seen[3]));

    let (frame, back) = call(&mut client, "echo", "[2]", &both);
    assert_eq!((Kind::Result, Flags::ATTACHED), (frame.header.kind, frame.header.flags));
    assert_eq!(b"[2]", &frame.payload[..]);
    let returned: Vec<_> = back.iter().map(inode).collect();
    assert_eq!(vec![inode(&memory), inode(&file)], returned, "in their order");

    call(&mut client, "write", "[]", &both[..1]);
    let mut text = [0; 15];
    memory.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(b"from the worker", &text, "it is the same memory");
    // As many as a frame may have, there and back.
    let most: Vec<_> = (0..64).map(sealed).collect();
    let all: Vec<_> = most.iter().map(AsRawFd::as_raw_fd).collect();
    let (_, back) = call(&mut client, "echo", "[]", &all);
    let sent: Vec<_> = most.iter().map(inode).collect();
    assert_eq!(sent, back.iter().map(inode).collect::<Vec<_>>());
    assert_free(&daemon);
    let sent = 3 * (1 << 20) + (0..64).sum::<u64>();
    assert_eq!(sent, daemon.counter("default", "attached_bytes_in"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn calls_behind_one_another_keep_their_descriptors_apart() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let mut wanted = Vec::new();
    let mut ids = Vec::new();
    for number in 0..200_u64 {
        let files: Vec<_> = (0..number % 5).map(|one| sealed(100 * number + one)).collect();
        let all: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        ids.push(if all.is_empty() {
            client.start("default", "math:sqrt", "[4]")
        } else {
            begin(&mut client, "echo", "[]", &all)
        });
        wanted.push(files.iter().map(inode).collect::<Vec<_>>());
    }
    for (id, wanted) in ids.into_iter().zip(wanted) {
        let (frame, back) = client.read_attached(PATIENCE).unwrap();
        assert_eq!((id, wanted), (frame.header.id, back.iter().map(inode).collect()));
    }
    drop(client);
    assert_free(&daemon);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_is_tried_again_brings_its_descriptors_again() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let memory = sealed(77);
    let mark = daemon.tmp().join("died");
    let json = format!("[{:?}]", mark.to_str().unwrap());
    let (frame, _) = call(&mut client, "die_once", &json, &[memory.as_raw_fd()]);
    let seen = reply(&frame).value();
    assert!(mark.exists());
    assert_eq!((Some(77), Some(inode(&memory))), (seen[2][0].as_u64(), seen[3][0].as_u64()));
    drop(client);
    assert_free(&daemon);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn what_is_attached_has_a_limit_and_both_numbers_are_told() {
    let (daemon, oracle) = start(carriers().daemon_key("attached", "1MiB"));
    let mut client = daemon.raw();
    let pids = daemon.worker_pids("default");
    let (half, over) = (sealed(1 << 19), sealed((1 << 19) + 1));
    let fits = [half.as_raw_fd(), half.as_raw_fd()];
    assert_eq!(Kind::Result, call(&mut client, "look", "[]", &fits).0.header.kind);
    let (frame, _) = call(&mut client, "look", "[]", &[half.as_raw_fd(), over.as_raw_fd()]);
    let failure = reply(&frame).failure();
    let (bytes, limit) = ((1 << 20) + 1, 1 << 20);
    let what = Payload::Arguments;
    assert_eq!(Reason::TooLarge { what, bytes, limit }, failure.reason);
    assert!(!failure.started);
    // Sizes that no integer holds together, and files, which have none of their own.
    let huge = sealed(i64::MAX as u64);
    let (frame, _) = call(&mut client, "look", "[]", &[huge.as_raw_fd(); 5]);
    let Reason::TooLarge { bytes, .. } = reply(&frame).failure().reason else {
        panic!("too large")
    };
    assert_eq!(u64::MAX, bytes, "as many as can be told");
    let file = daemon.tmp().join("big");
    File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let file = File::open(&file).unwrap();
    assert_eq!(Kind::Result, call(&mut client, "look", "[]", &[file.as_raw_fd()]).0.header.kind);

    // A result beyond it is its caller's failure, and its worker goes on.
    let (frame, given) = call(&mut client, "give", "[2, 524288]", &[]);
    assert_eq!((Kind::Result, 2), (frame.header.kind, given.len()));
    let (frame, given) = call(&mut client, "give", "[3, 524288]", &[]);
    assert!(given.is_empty());
    let (bytes, what) = (3 << 19, Payload::Result);
    assert_eq!(Reason::TooLarge { what, bytes, limit }, reply(&frame).failure().reason);
    assert_eq!(pids, daemon.worker_pids("default"));
    drop(client);
    assert_free(&daemon);
    oracle.judge(daemon);
}

#[test]
fn gigabytes_pass_through_a_daemon_that_does_not_notice() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let sizes: [u64; 5] = [(2 << 30) - 1, 2 << 30, 4 << 30, (4 << 30) + 1, 5 << 30];
    let before = memory_bytes(daemon.pid());
    for _ in 0..20 {
        for size in sizes {
            let memory = sealed(size);
            let (_, back) = call(&mut client, "echo", "[]", &[memory.as_raw_fd()]);
            assert_eq!(
                size,
                File::from(back.into_iter().next().unwrap()).metadata().unwrap().len()
            );
        }
    }
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).unwrap();
    assert!(!maps.contains(NAME), "the daemon maps what is attached");
    let grown = memory_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < 2 << 20, "it grew by {grown} bytes");
    // What passed is counted as any bytes are: 5 GiB is no more than its header in the frame.
    assert_eq!(20 * sizes.iter().sum::<u64>(), daemon.counter("default", "attached_bytes_out"));
    drop(client);
    oracle.judge(daemon);
}

/// A call of the stand-in with an end of its own.
fn call_within(client: &mut RawClient, function: &str, json: &str, ms: u64, fd: RawFd) -> u64 {
    let id = client.next_id();
    let function = format!("carrier:{function}");
    let call = Call {
        pool: "default".into(),
        function,
        timeout_ms: ms,
        priority: 0,
        retry: None,
        each: None,
        handles: Vec::new(),
    };
    client.send_with_descriptors(&call_attached_of(id, &call, json, 1), &[fd]).unwrap();
    id
}

#[test]
fn nothing_is_kept_of_calls_that_end_otherwise() {
    let builder = carriers().pool("quiet", |pool| pool);
    let (daemon, oracle) = start(builder);
    let bystander = Bystander::start(&daemon, "quiet");
    let memory = sealed(1 << 20);
    let fd = memory.as_raw_fd();
    let mut client = daemon.raw();

    // Its time is over, with a worker and in the queue.
    call_within(&mut client, "sleep", "[60]", 300, fd);
    call_within(&mut client, "sleep", "[60]", 100, fd);
    for _ in 0..2 {
        let reason = reply(&client.read(PATIENCE).unwrap()).failure().reason;
        assert!(matches!(reason, Reason::TimedOut { .. }), "{reason:?}");
    }
    assert_free(&daemon);

    // It is cancelled, with a worker and in the queue.
    let ids = [(); 2].map(|()| begin(&mut client, "sleep", "[60]", &[fd]));
    for id in ids {
        client.send(&Header::new(Kind::Cancel, id).encode()).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(Reason::Cancelled, reply(&client.read(PATIENCE).unwrap()).failure().reason);
    }
    assert_free(&daemon);

    // Its worker is killed, or ends by itself after its answer.
    daemon.wait_ready();
    let pid = daemon.worker_pids("default")[0];
    call_within(&mut client, "sleep", "[60]", 3_000, fd);
    wait_for("it runs", 10 * SECOND, || daemon.status().daemon.descriptors_attached == 1);
    kill(pid);
    let reason = reply(&client.read(PATIENCE).unwrap()).failure().reason;
    assert!(matches!(reason, Reason::TimedOut { .. } | Reason::WorkerDied(_)), "{reason:?}");
    assert_free(&daemon);
    daemon.wait_ready();
    let (_, given) = call(&mut client, "give_and_die", "[3, 4096]", &[fd]);
    assert_eq!(3, given.len(), "its last words count");
    assert_free(&daemon);

    // Its client goes, in the middle of it all.
    daemon.wait_ready();
    for _ in 0..50 {
        begin(&mut client, "sleep", "[0.01]", &[fd; 3]);
    }
    begin(&mut client, "give", "[60, 1]", &[]);
    drop(client);
    assert_free(&daemon);
    wait_for("the pool is back", 20 * SECOND, || {
        daemon.status().pools.iter().all(|pool| pool.queued + pool.running == 0)
    });
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn an_answer_that_nobody_waits_for_is_closed_with_what_came_with_it() {
    // Nothing but its answer ends the call.
    let (daemon, oracle) = start(Daemon::builder().pool("default", |pool| {
        pool.key("initializer", "carrier:serve").limit("interrupt", "60s")
    }));
    let pids = daemon.worker_pids("default");
    let mut client = daemon.raw();
    begin(&mut client, "give_late", "[60, 1]", &[]);
    wait_for("it runs", 10 * SECOND, || daemon.status().pools[0].running == 1);
    drop(client);
    wait_for("the answer has come", 20 * SECOND, || {
        daemon.counter("default", "late_answers_dropped") == 1
    });
    assert_free(&daemon);
    assert_eq!(pids, daemon.worker_pids("default"));
    oracle.judge(daemon);
}

#[test]
fn no_process_that_is_started_meanwhile_inherits_what_is_held() {
    let (daemon, oracle) = start(carriers().pool("quiet", |pool| pool));
    let mut client = daemon.raw();
    let memory = sealed(1);
    begin(&mut client, "sleep", "[1.5]", &[memory.as_raw_fd(); 64]);
    begin(&mut client, "sleep", "[0]", &[memory.as_raw_fd(); 64]);
    wait_for("they are held", 10 * SECOND, || daemon.status().daemon.descriptors_attached == 128);
    let victim = daemon.worker_pids("quiet")[0];
    kill(victim);
    wait_for("another worker is born", 20 * SECOND, || {
        daemon.status().pools.iter().any(|pool| {
            pool.name == "quiet"
                && pool.workers.iter().all(|it| it.state == "ready" && it.pid != victim)
        })
    });
    let holders: Vec<_> = daemon
        .descendants()
        .into_iter()
        .filter(|it| descriptor_list(it.pid).values().any(|target| target.contains(NAME)))
        .map(|it| it.pid)
        .collect();
    let carrier = daemon.worker_pids("default");
    assert!(holders.iter().all(|pid| carrier.contains(pid)), "{holders:?} but for {carrier:?}");
    for _ in 0..2 {
        assert_eq!(Kind::Result, client.read(PATIENCE).unwrap().header.kind);
    }
    drop(client);
    assert_free(&daemon);
    oracle.judge(daemon);
}

#[test]
fn a_full_queue_keeps_no_descriptors_of_what_it_refuses() {
    let (daemon, oracle) = start(
        Daemon::builder()
            .pool("default", |pool| pool.key("initializer", "carrier:serve").limit("queue", 2)),
    );
    let mut client = daemon.raw();
    let memory = sealed(1);
    for _ in 0..50 {
        begin(&mut client, "sleep", "[0.1]", &[memory.as_raw_fd(); 2]);
    }
    let mut refused = 0;
    for _ in 0..50 {
        let frame = client.read(PATIENCE).unwrap();
        if frame.header.kind == Kind::Error {
            assert_eq!(Reason::QueueFull { limit: 2 }, reply(&frame).failure().reason);
            refused += 1;
        }
    }
    assert!(refused > 30, "{refused} of 50 calls were refused");
    assert_free(&daemon);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_daemon_that_stops_leaves_nothing_of_what_it_held() {
    let (mut daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let memory = sealed(1 << 20);
    for _ in 0..20 {
        begin(&mut client, "sleep", "[0.05]", &[memory.as_raw_fd(); 4]);
    }
    assert_eq!(0, daemon.stop(20 * SECOND));
    let answers = client.drain(10 * SECOND);
    let answers = answers.iter().filter(|frame| frame.header.kind != Kind::Refused).count();
    assert_eq!(20, answers, "each has one");
    assert!(oracle.violations_after_stop(&daemon).is_empty());
}

/// Few files may be open: what clients attach gets half of what is left.
fn few_files() -> Builder {
    carriers().pool("quiet", |pool| pool).daemon_key("connections", 64).through(&[
        "sh",
        "-c",
        "ulimit -n 1024; exec \"$0\" \"$@\"",
    ])
}

#[test]
fn a_client_that_attaches_without_end_is_read_no_faster_than_it_is_answered() {
    let (daemon, oracle) = start(few_files());
    let bystander = Bystander::start(&daemon, "quiet");
    let memory = sealed(1);
    let mut greedy = daemon.raw();
    let calls = 400;
    let mut sender = daemon.raw();
    std::mem::swap(&mut greedy, &mut sender);
    let most = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for _ in 0..calls {
                begin(&mut sender, "sleep", "[0.005]", &[memory.as_raw_fd(); 2]);
            }
            for _ in 0..calls {
                let frame = sender.read(PATIENCE).unwrap();
                assert_eq!(Kind::Result, frame.header.kind);
            }
        });
        let mut most = 0;
        while !sending.is_finished() {
            most = most.max(daemon.status().daemon.descriptors_attached);
            assert!(greedy.is_served(), "who attaches nothing is served");
        }
        sending.join().unwrap();
        most
    });
    // 1024, less what the daemon, its workers and 64 connections need, is about 870: a half is for
    // calls, of which one client may have a quarter, and a frame more.
    assert!((64..=112 + 64).contains(&most), "{most} descriptors were held");
    assert_free(&daemon);
    drop((greedy, sender));
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn answers_that_nobody_reads_hold_only_so_many_descriptors() {
    let (daemon, oracle) = start(few_files());
    let bystander = Bystander::start(&daemon, "quiet");
    let mut deaf = daemon.raw();
    // Beside the answers, descriptors in the socket's own buffer, which are the kernel's.
    let calls: Vec<_> = (1..=900)
        .flat_map(|id| call_attached(id, "default", "carrier:give", "[8, 1]", 0))
        .collect();
    deaf.say(&calls);
    let mut most = 0;
    let mut last = (0, Duration::ZERO);
    let begun = std::time::Instant::now();
    wait_for("nothing moves any more", 60 * SECOND, || {
        let status = daemon.status();
        most = most.max(status.daemon.descriptors_attached);
        let answered = daemon.counter("default", "answered.ok");
        if answered != last.0 {
            last = (answered, begun.elapsed());
        }
        begun.elapsed() > last.1 + 2 * SECOND
    });
    assert!(most <= 200, "{most} descriptors were held for a client that does not read");
    drop(deaf);
    assert_free(&daemon);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}
