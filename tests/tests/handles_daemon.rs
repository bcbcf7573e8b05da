//! Values that are put with the daemon once: kept for their client's calls, bounded, and gone with
//! the last who needs them. The workers are stand-ins that say what came
//! (`tests/workers/carrier.py`).

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use clutch_protocol::failure::{HandleQuota, Payload, Reason};
use clutch_protocol::frame::{Flags, Header, Kind};
use clutch_protocol::message::{Call, Refusal, Refused, Retry, RetryOn};
use clutch_protocol::wire;
use clutch_tests::memory::{NAME, constant, inode, memory, sealed};
use clutch_tests::process::descriptor_list;
use clutch_tests::raw::{PATIENCE, Reply, call_attached_of, frame, put, release, reply};
use clutch_tests::{Builder, Bystander, Daemon, Oracle, RawClient, SECOND, kill, wait_for};
use nix::fcntl::{OFlag, SealFlag};

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

fn numbers(files: &[&File]) -> Vec<RawFd> {
    files.iter().map(|file| file.as_raw_fd()).collect()
}

/// Begins to put a value; gives its handle.
#[track_caller]
fn begin_put(client: &mut RawClient, all: &[RawFd]) -> u64 {
    let id = client.next_id();
    let count = u8::try_from(all.len()).unwrap();
    client.send_with_descriptors(&put(id, count), all).unwrap();
    id
}

/// What became of a value that was put under this handle.
#[track_caller]
fn is_kept(client: &mut RawClient, id: u64) -> Result<(), Reason> {
    let frame = client.read(PATIENCE).unwrap();
    assert_eq!(id, frame.header.id);
    if frame.header.kind == Kind::Kept {
        return Ok(());
    }
    Err(reply(&frame).failure().reason)
}

/// The handle of a value that must be kept.
#[track_caller]
fn keep(client: &mut RawClient, files: &[&File]) -> u64 {
    let id = begin_put(client, &numbers(files));
    assert_eq!(Ok(()), is_kept(client, id));
    id
}

/// Why a value is not kept.
#[track_caller]
fn not_kept(client: &mut RawClient, files: &[&File]) -> Reason {
    let id = begin_put(client, &numbers(files));
    is_kept(client, id).expect_err("it must not be kept")
}

/// Begins a call of the stand-in with handles, and descriptors of its own.
#[track_caller]
fn begin(
    client: &mut RawClient,
    function: &str,
    json: &str,
    handles: &[u64],
    own: &[RawFd],
) -> u64 {
    let call = Call {
        pool: "default".into(),
        function: format!("carrier:{function}"),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: handles.into(),
    };
    let id = client.next_id();
    let bytes = call_attached_of(id, &call, json, u8::try_from(own.len()).unwrap());
    if own.is_empty() {
        client.send(&bytes).unwrap();
    } else {
        client.send_with_descriptors(&bytes, own).unwrap();
    }
    id
}

/// The inodes that a worker sees with a call.
#[track_caller]
fn seen(client: &mut RawClient, handles: &[u64], own: &[RawFd]) -> Vec<u64> {
    let id = begin(client, "look", "[]", handles, own);
    serde_json::from_value(client.finish(id).value()[3].take()).unwrap()
}

/// What is wrong with the arguments of a call.
#[track_caller]
fn refused(client: &mut RawClient, handles: &[u64], own: &[RawFd]) -> String {
    let id = begin(client, "look", "[]", handles, own);
    match client.finish(id) {
        Reply::Failed(failure) => match failure.reason {
            Reason::BadArguments { message } => message,
            other => panic!("it failed otherwise: {other:?}"),
        },
        Reply::Value(value) => panic!("it was answered: {value}"),
    }
}

/// Values, bytes and descriptors that the daemon keeps.
fn kept(daemon: &Daemon) -> (u64, u64, u64) {
    let status = daemon.status().daemon;
    (status.handles, status.handle_bytes, status.handle_descriptors)
}

/// How many descriptors of tests' memory the daemon has open.
fn open(daemon: &Daemon) -> usize {
    descriptor_list(daemon.pid()).values().filter(|target| target.contains(NAME)).count()
}

/// The daemon must hold nothing, by its own word and by the kernel's.
#[track_caller]
fn assert_free(daemon: &Daemon) {
    wait_for("the daemon keeps nothing", 10 * SECOND, || {
        let status = daemon.status().daemon;
        kept(daemon) == (0, 0, 0)
            && (status.descriptors_attached, status.attached_bytes) == (0, 0)
            && open(daemon) == 0
    });
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.status().daemon.counters.get(name).copied().unwrap_or(0)
}

#[test]
fn what_is_put_once_comes_with_every_call_until_it_is_released() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let (value, part, other, own) = (constant(1 << 20), sealed(50), constant(7), sealed(3));
    let both = keep(&mut client, &[&value, &part]);
    let single = keep(&mut client, &[&other]);
    assert_eq!((2, (1 << 20) + 57, 3), kept(&daemon));
    let [value_at, part_at, other_at, own_at] = [&value, &part, &other, &own].map(inode);
    for _ in 0..2 {
        assert_eq!(vec![value_at, part_at], seen(&mut client, &[both], &[]));
    }
    // Behind its own, in the order in which the call names them.
    let fd = own.as_raw_fd();
    let all = seen(&mut client, &[single, both], &[fd]);
    assert_eq!(vec![own_at, other_at, value_at, part_at], all);
    assert_eq!(vec![value_at, part_at, other_at], seen(&mut client, &[both, single], &[]));
    let sent = 4 * ((1 << 20) + 50) + 2 * 7 + 3;
    assert_eq!(sent, daemon.counter("default", "attached_bytes_in"));
    assert_eq!(0, daemon.status().daemon.descriptors_attached, "they are no call's");

    client.send(&release(both)).unwrap();
    let message = refused(&mut client, &[single, both], &[]);
    assert!(message.contains(&format!("handle {both} is not there")), "{message}");
    assert_eq!((1, 7, 1), kept(&daemon));
    client.send(&release(single)).unwrap();
    client.send(&release(single)).unwrap();
    assert!(client.is_served());
    assert_eq!((2, 1), (counter(&daemon, "puts"), counter(&daemon, "releases_of_unknown_handles")));
    assert_free(&daemon);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_client_that_goes_leaves_nothing_and_another_has_no_part_in_it() {
    let (daemon, oracle) = start(carriers());
    let (mut one, mut other) = (daemon.raw(), daemon.raw());
    let value = constant(4096);
    let handle = keep(&mut one, &[&value; 63]);
    let message = refused(&mut other, &[handle], &[]);
    assert!(message.contains("never put on this connection"), "{message}");
    // The same id is another client's own.
    other.send(&release(handle)).unwrap();
    assert!(other.is_served());
    assert_eq!((63, 63), (open(&daemon), seen(&mut one, &[handle], &[]).len()));
    begin(&mut one, "sleep", "[0.3]", &[handle], &[]);
    begin(&mut one, "sleep", "[60]", &[handle], &[]);
    drop((one, other));
    assert_free(&daemon);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_value_lives_as_long_as_a_call_that_had_it_when_it_came() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let value = constant(1000);
    let handle = keep(&mut client, &[&value]);
    let running = begin(&mut client, "sleep", "[0.5]", &[handle], &[]);
    let queued = begin(&mut client, "look", "[]", &[handle], &[]);
    client.send(&release(handle)).unwrap();
    let late = begin(&mut client, "look", "[]", &[handle], &[]);
    let failure = client.finish(late).failure();
    assert!(matches!(failure.reason, Reason::BadArguments { .. }), "{failure}");
    assert_eq!((1, 1000, 1), kept(&daemon), "what calls have counts");
    client.finish(running).value();
    let value_seen = client.finish(queued).value()[3].take();
    assert_eq!(serde_json::json!([inode(&value)]), value_seen);
    assert_free(&daemon);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_is_tried_again_has_its_values_again() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let (value, own) = (constant(77), sealed(5));
    let handle = keep(&mut client, &[&value]);
    let mark = daemon.tmp().join("died");
    let json = format!("[{:?}]", mark.to_str().unwrap());
    let id = begin(&mut client, "die_once", &json, &[handle], &[own.as_raw_fd()]);
    client.send(&release(handle)).unwrap();
    let again = client.finish(id).value()[3].take();
    assert!(mark.exists());
    assert_eq!(serde_json::json!([inode(&own), inode(&value)]), again);
    daemon.wait_ready();

    // The worker is killed while it has begun, and its caller wants that tried again.
    let handle = keep(&mut client, &[&value]);
    let on = RetryOn { worker_died: true, ..RetryOn::default() };
    let retry = Retry { attempts: 2, on, backoff_ms: 0, attempt_timeout_ms: 0 };
    let call = Call {
        pool: "default".into(),
        function: "carrier:sleep".into(),
        timeout_ms: 0,
        priority: 0,
        retry: Some(retry),
        each: None,
        handles: vec![handle],
    };
    let id = client.next_id();
    client.send(&call_attached_of(id, &call, "[1]", 0)).unwrap();
    client.send(&release(handle)).unwrap();
    kill(daemon.wait_runs("carrier:sleep"));
    client.finish(id).value();
    assert_free(&daemon);
    drop(client);
    daemon.wait_ready();
    oracle.judge(daemon);
}

/// What is refused when this much more is put, and the numbers.
fn full(reason: Reason) -> (HandleQuota, [u64; 3]) {
    let Reason::HandlesFull { quota, needed, held, limit } = reason else {
        panic!("it failed otherwise: {reason:?}")
    };
    (quota, [needed, held, limit])
}

#[test]
fn bytes_are_bounded_for_a_client_and_for_all() {
    let builder = carriers()
        .daemon_key("handles", "3000B")
        .daemon_key("handles_per_client", "2000B")
        .daemon_key("attached", "1500B");
    let (daemon, oracle) = start(builder);
    let (mut one, mut other) = (daemon.raw(), daemon.raw());
    let (what, bytes, limit) = (Payload::Arguments, 1501, 1500);
    let large = Reason::TooLarge { what, bytes, limit };
    assert_eq!(large, not_kept(&mut one, &[&constant(1000), &sealed(501)]));
    let first = keep(&mut one, &[&constant(1500)]);
    let refused = full(not_kept(&mut one, &[&constant(501)]));
    assert_eq!((HandleQuota::ClientBytes, [501, 1500, 2000]), refused);
    let second = keep(&mut one, &[&constant(500)]);
    let refused = full(not_kept(&mut other, &[&constant(1001)]));
    assert_eq!((HandleQuota::Bytes, [1001, 2000, 3000]), refused);
    keep(&mut other, &[&constant(1000)]);
    assert_eq!((3, 3000, 3), kept(&daemon), "what was refused is closed");
    assert_eq!((3, 3), (open(&daemon), counter(&daemon, "puts_refused")));

    // Together they are more than may be attached to one call.
    let id = begin(&mut one, "look", "[]", &[first, second], &[]);
    let bytes = 2000;
    assert_eq!(Reason::TooLarge { what, bytes, limit }, one.finish(id).failure().reason);
    // A released value that a call has counts still.
    let id = begin(&mut one, "sleep", "[0.4]", &[first], &[]);
    one.send(&release(first)).unwrap();
    let more = begin_put(&mut one, &[constant(1).as_raw_fd()]);
    let (quota, numbers) = full(is_kept(&mut one, more).unwrap_err());
    assert_eq!((HandleQuota::ClientBytes, [1, 2000, 2000]), (quota, numbers));
    one.finish(id).value();
    wait_for("there is room again", 5 * SECOND, || kept(&daemon).1 == 1500);
    keep(&mut one, &[&constant(1500)]);
    drop((one, other));
    assert_free(&daemon);
    oracle.judge(daemon);
}

#[test]
fn descriptors_are_bounded_for_a_client_and_for_all_and_calls_keep_theirs() {
    let shell = ["sh", "-c", "ulimit -n 1024; exec \"$0\" \"$@\""];
    let builder = carriers().pool("quiet", |pool| pool).daemon_key("connections", 64);
    let (daemon, oracle) = start(builder.through(&shell));
    let bystander = Bystander::start(&daemon, "quiet");
    let (mut one, mut other) = (daemon.raw(), daemon.raw());
    let value = constant(1);
    let handles = [keep(&mut one, &[&value; 40]), keep(&mut one, &[&value; 24])];
    let (quota, numbers) = full(not_kept(&mut one, &[&value]));
    assert_eq!((HandleQuota::ClientDescriptors, [1, 64, 64]), (quota, numbers));
    // About 870 are free, of which an eighth is for what is kept.
    let mut clients = vec![daemon.raw()];
    keep(&mut clients[0], &[&value; 30]);
    let (quota, [needed, held, limit]) = full(not_kept(&mut other, &[&value; 30]));
    assert_eq!((HandleQuota::Descriptors, 30, 94), (quota, needed, held));
    assert!((95..124).contains(&limit), "{limit}");
    assert_eq!((3, 94, 94), kept(&daemon));

    // With as many values as it may have, a client's calls wait for nothing.
    let own = [value.as_raw_fd(); 24];
    for _ in 0..20 {
        assert_eq!(64, seen(&mut one, &handles[..1], &own).len());
    }
    assert_eq!(64, seen(&mut one, &handles, &[]).len());
    let message = refused(&mut one, &handles, &own[..1]);
    assert!(message.contains("65 file descriptors"), "{message}");
    drop((one, other, clients));
    assert_free(&daemon);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn calls_with_handles_that_make_no_sense_are_told_why() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let handle = keep(&mut client, &[&constant(1)]);
    let accepted = daemon.counter("default", "accepted");
    let message = refused(&mut client, &[handle, handle], &[]);
    assert!(message.contains(&format!("handle {handle} is named twice")), "{message}");
    let message = refused(&mut client, &[0], &[]);
    assert!(message.contains("handle 0 is not there"), "{message}");
    let message = refused(&mut client, &[u64::MAX; 10_000], &[]);
    assert!(message.contains("10000 file descriptors"), "{message}");
    // Without the flag there is no table in which a value could be named.
    let call = Call {
        pool: "default".into(),
        function: "carrier:look".into(),
        timeout_ms: 0,
        priority: 0,
        retry: None,
        each: None,
        handles: vec![handle],
    };
    let id = client.next_id();
    let meta = wire::encode(&call).unwrap();
    client.send(&frame(Kind::Call, id, clutch_protocol::Codec::Json, &meta, b"[]")).unwrap();
    let Reason::BadArguments { message } = client.finish(id).failure().reason else {
        panic!("it has no attachments")
    };
    assert!(message.contains("ATTACHED"), "{message}");
    let more = daemon.counter("default", "accepted") - accepted;
    assert_eq!(4, more, "each was a call of the pool");
    drop(client);
    assert_free(&daemon);
    oracle.judge(daemon);
}

/// The client must be told this, and dropped, with whatever it had.
#[track_caller]
fn assert_refused(daemon: &Daemon, mut client: RawClient, why: &str) {
    let told = client.expect_refused(5 * SECOND);
    assert_eq!(Refusal::Protocol, told.refusal);
    assert!(told.sentence.contains(why), "{why}: {}", told.sentence);
    wait_for("it is closed", 5 * SECOND, || kept(daemon) == (0, 0, 0) && open(daemon) == 0);
}

#[test]
fn what_may_not_be_put_is_refused_closed_and_counted() {
    let (daemon, oracle) = start(carriers());
    let shapes = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    let future = memory(1, shapes | SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL);
    let (read, _write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = File::open(daemon.tmp().write("file", "[2]")).unwrap();
    let all: [(&str, OwnedFd); 8] = [
        ("no memory that stays as it is", sealed(1).into()),
        ("no memory that stays as it is", future.into()),
        ("no memory that stays as it is", file.into()),
        ("can still change its size", memory(1, SealFlag::F_SEAL_WRITE).into()),
        ("can still change its size", memory(1, SealFlag::empty()).into()),
        ("is no file", read),
        ("is no file", socket.into()),
        ("is no file", File::open("/dev/null").unwrap().into()),
    ];
    let good = constant(1);
    for (why, descriptor) in &all {
        let before = counter(&daemon, "descriptors_refused");
        let mut client = daemon.raw();
        keep(&mut client, &[&good]);
        begin_put(&mut client, &[descriptor.as_raw_fd(), good.as_raw_fd()]);
        assert_refused(&daemon, client, why);
        assert_eq!(before + 2, counter(&daemon, "descriptors_refused"), "{why}");
    }
    // Behind the first, anything that may travel.
    let mut client = daemon.raw();
    keep(&mut client, &[&good, &sealed(1), &File::open("/etc/passwd").unwrap()]);
    drop(client);

    let before = counter(&daemon, "descriptors_refused");
    let bare = |bytes: &[u8], count: usize, why: &str| {
        let mut client = daemon.raw();
        keep(&mut client, &[&good]);
        if count == 0 {
            client.send(bytes).unwrap();
        } else {
            client.send_with_descriptors(bytes, &vec![good.as_raw_fd(); count]).unwrap();
        }
        assert_refused(&daemon, client, why);
    };
    bare(&put(9, 0), 0, "0 file descriptors came with a value");
    bare(&put(9, 64), 64, "64 file descriptors came with a value");
    bare(&put(9, 2), 1, "claims 2 file descriptors, and 1 came");
    bare(&put(9, 0), 1, "no frame claims");
    bare(&put(0, 1), 1, "handle 0 cannot be given");
    bare(&put(1, 1), 1, "handle 1 cannot be given");
    let one = Header { descriptors: 1, ..Header::new(Kind::Put, 9) };
    let payload = Header { payload_bytes: 1, ..one };
    bare(&[&payload.encode()[..], b"x"].concat(), 1, "a Put frame has no payload");
    let meta = Header { meta_bytes: 1, ..one };
    bare(&[&meta.encode()[..], b"x"].concat(), 1, "a Put frame has no meta");
    bare(&release(1), 1, "no frame claims");
    let claimed = Header { descriptors: 1, ..Header::new(Kind::Release, 1) };
    bare(&claimed.encode(), 1, "with a Release frame");
    bare(&Header::new(Kind::Kept, 1).encode(), 0, "a client may not send a Kept frame");
    let flagged = Header { flags: Flags::ATTACHED, ..claimed };
    bare(&flagged.encode(), 1, "with a Release frame");
    assert_eq!(before + 64 + 9, counter(&daemon, "descriptors_refused"));

    // An unanswered call has its id.
    let mut client = daemon.raw();
    let id = begin(&mut client, "sleep", "[60]", &[], &[]);
    client.send_with_descriptors(&put(id, 1), &[good.as_raw_fd()]).unwrap();
    let frames = client.drain(10 * SECOND);
    let last = frames.last().expect("it is told why");
    assert_eq!(Kind::Refused, last.header.kind);
    let told: Refused = wire::decode(&last.meta).unwrap();
    assert!(told.sentence.contains(&format!("handle {id} cannot be given")), "{told:?}");
    assert_free(&daemon);
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_stranger_puts_nothing() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.stranger();
    client.send_with_descriptors(&put(1, 1), &[constant(1).as_raw_fd()]).unwrap();
    client.drain(5 * SECOND);
    assert_free(&daemon);
    oracle.judge(daemon);
}

#[test]
fn a_client_with_as_much_in_flight_as_it_may_have_puts_and_releases_still() {
    let (daemon, oracle) = start(carriers().daemon_key("in_flight", 2));
    let mut client = daemon.raw();
    let value = constant(10);
    let handle = keep(&mut client, &[&value]);
    let calls = ["[1.5]", "[0]"].map(|json| begin(&mut client, "sleep", json, &[handle], &[]));
    let more = keep(&mut client, &[&value]);
    client.send(&release(handle)).unwrap();
    client.send(&release(more)).unwrap();
    wait_for("the second is released", SECOND + 10 * SECOND, || kept(&daemon).0 == 1);
    assert_eq!(1, daemon.status().pools[0].running, "while the first is still had");
    for id in calls {
        client.finish(id).value();
    }
    assert_free(&daemon);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_thousand_values_put_and_released_leave_nothing() {
    let (daemon, oracle) = start(carriers());
    let mut client = daemon.raw();
    let value = constant(1 << 20);
    for _ in 0..20 {
        let handles: Vec<_> =
            (0..50).map(|_| begin_put(&mut client, &numbers(&[&value]))).collect();
        for handle in &handles {
            assert_eq!(Ok(()), is_kept(&mut client, *handle));
        }
        assert_eq!(vec![inode(&value); 50], seen(&mut client, &handles, &[]));
        let all: Vec<_> = handles.iter().flat_map(|handle| release(*handle)).collect();
        client.send(&all).unwrap();
    }
    assert!(client.is_served());
    assert_eq!((0, 0, 0), kept(&daemon));
    assert_eq!((1000, 0), (counter(&daemon, "puts"), open(&daemon)));
    drop(client);
    let bound = Duration::from_secs(10);
    wait_for("the client is gone", bound, || daemon.status().daemon.clients == 1);
    oracle.judge(daemon);
}
