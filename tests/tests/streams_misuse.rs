//! Streams against the rules: clients that take too much, send what nobody asked for or do not
//! read, and workers that send what they may not. Who breaks them is told and goes; nobody else
//! notices.

use std::time::Duration;

use clutch_client::Reason;
use clutch_protocol::failure::Cause;
use clutch_protocol::frame::{Flags, Kind};
use clutch_protocol::message::{Refusal, Refused};
use clutch_protocol::{Codec, Header, wire};
use clutch_tests::raw::{
    End, PATIENCE, Reply, call, call_flagged, credit, frame, item, items_end, reply,
};
use clutch_tests::{Bystander, Daemon, Oracle, RawClient, SECOND, wait_for};

struct Scene {
    daemon: Daemon,
    oracle: Oracle,
    bystander: Bystander,
}

fn scene() -> Scene {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.limit("grace", "200ms"))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    Scene { daemon, oracle, bystander }
}

impl Scene {
    fn judge(self) {
        self.bystander.assert_unharmed(5 * SECOND);
        self.oracle.memory_budget(32 << 20).judge(self.daemon);
    }

    fn counter(&self, name: &str) -> u64 {
        self.daemon.status().daemon.counters.get(name).copied().unwrap_or(0)
    }
}

/// A client with a stream of its own that gives no end.
fn streaming(daemon: &Daemon) -> (RawClient, u64) {
    let mut client = daemon.raw();
    let id = client.next_id();
    let bytes = call_flagged(id, "job_streams:count", "[1000000000]", Flags::STREAM);
    client.send(&bytes).unwrap();
    (client, id)
}

/// Why a client is refused; its calls may be answered before.
#[track_caller]
fn refused(client: &mut RawClient) -> Refused {
    let frames = client.drain(PATIENCE);
    let last = frames.last().expect("it is told why");
    assert_eq!(Kind::Refused, last.header.kind, "{frames:?}");
    wire::decode(&last.meta).expect("a refusal has its meta")
}

/// The frames that come until an answer.
fn until_answered(client: &mut RawClient) -> (usize, Reply) {
    let mut items = 0;
    loop {
        let frame = client.read(PATIENCE).unwrap();
        match frame.header.kind {
            Kind::Item => items += 1,
            _ => return (items, reply(&frame)),
        }
    }
}

#[test]
fn a_client_that_takes_or_sends_what_it_may_not_is_refused() {
    let scene = scene();
    type Make = fn(u64) -> Vec<u8>;
    let cases: [(&str, Make); 9] = [
        ("4097 items", |id| credit(id, 0, 4097)),
        ("more and more", |id| [credit(id, 0, u32::MAX), credit(id, 0, 1)].concat()),
        ("none", |id| credit(id, 0, 0)),
        ("of another stream", |id| credit(id, 1, 1)),
        ("of call 0", |_| credit(0, 0, 1)),
        ("an item of nothing", |id| item(id, 1, 0, "1")),
        ("an item of the answer", |id| item(id, 0, 0, "1")),
        ("an end of nothing", |id| items_end(id, 1, "")),
        ("no meta at all", |id| frame(Kind::Credit, id, Codec::None, &[], &[])),
    ];
    for (what, bytes) in cases {
        let (mut client, id) = streaming(&scene.daemon);
        client.say(&bytes(id));
        let refused = refused(&mut client);
        assert_eq!(Refusal::Protocol, refused.refusal, "{what}: {}", refused.sentence);
        scene.daemon.wait_ready();
    }
    // Of a call that is no stream there is nothing to take.
    let mut client = scene.daemon.raw();
    let id = client.start("default", "bulk:nap", "[5]");
    client.say(&credit(id, 0, 1));
    let refused = refused(&mut client);
    assert!(refused.sentence.contains("has no stream 0"), "{}", refused.sentence);
    scene.daemon.wait_ready();
    scene.judge();
}

#[test]
fn credits_that_came_before_the_worker_are_added_up_and_late_ones_are_ignored() {
    let scene = scene();
    let mut client = scene.daemon.raw();
    let busy = client.start("default", "bulk:nap", "[1, 1]");
    let id = client.next_id();
    let stream = call_flagged(id, "job_streams:count", "[1000000000]", Flags::STREAM);
    client.send(&[stream, credit(id, 0, 3), credit(id, 0, 4)].concat()).unwrap();
    assert_eq!(1, client.finish(busy).value());
    for index in 0..7_u64 {
        let frame = client.expect(Kind::Item, PATIENCE);
        assert_eq!((id, index.to_string().as_bytes()), (frame.header.id, &frame.payload[..]));
    }
    assert!(matches!(client.read(Duration::from_millis(200)), Err(End::Silent)));
    client.send(&Header::new(Kind::Cancel, id).encode()).unwrap();
    let (items, reply) = until_answered(&mut client);
    assert_eq!((0, Reason::Cancelled), (items, reply.failure().reason));
    let before = scene.counter("stream_frames_of_ended_calls");
    let late = [credit(id, 0, 1), item(id, 1, 0, "1"), items_end(id, 1, ""), credit(77, 0, 1)];
    client.send(&late.concat()).unwrap();
    assert!(client.is_served());
    assert_eq!(before + 4, scene.counter("stream_frames_of_ended_calls"));
    // A chunk of items is no stream.
    let id = client.next_id();
    let both = Flags::STREAM.with(Flags::ITEMS);
    client.send(&call_flagged(id, "job_streams:count", "[[1]]", both)).unwrap();
    assert_eq!("BadArguments", client.finish(id).failure().reason.name());
    drop(client);
    scene.judge();
}

#[test]
fn credits_and_cancels_are_heard_however_many_calls_are_unanswered() {
    let daemon = Daemon::builder()
        .daemon_key("in_flight", 2)
        .pool("default", |pool| pool.limit("grace", "200ms"))
        .start();
    let oracle = daemon.oracle();
    let (mut client, id) = streaming(&daemon);
    let waits = client.start("default", "math:sqrt", "[9]");
    let held = client.start("default", "math:sqrt", "[16]");
    // The third is one too many, but what is said of the first two was said before it.
    drop(client);
    let _ = held;
    let (mut client, id_again) = streaming(&daemon);
    assert_eq!(id, id_again);
    assert_eq!(waits, client.start("default", "math:sqrt", "[9]"));
    client.send(&credit(id, 0, 2)).unwrap();
    for _ in 0..2 {
        assert_eq!(id, client.expect(Kind::Item, PATIENCE).header.id);
    }
    client.send(&Header::new(Kind::Cancel, id).encode()).unwrap();
    let (_, cancelled) = until_answered(&mut client);
    assert_eq!(Reason::Cancelled, cancelled.failure().reason);
    assert_eq!(3.0, client.finish(waits).value());
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f068_a_client_that_takes_items_and_does_not_read_slows_its_function() {
    let scene = scene();
    let mut client = scene.daemon.raw();
    let id = client.next_id();
    let call = call_flagged(id, "job_streams:big", "[600, 200000]", Flags::STREAM);
    client.send(&[call, credit(id, 0, 4096)].concat()).unwrap();
    wait_for("its worker waits for it", PATIENCE, || {
        let status = scene.daemon.status();
        let workers = status.pools.iter().flat_map(|pool| &pool.workers);
        workers.flat_map(|worker| &worker.calls).any(|call| call.waits_for_reader)
    });
    assert!(scene.daemon.counter("default", "items_out") < 30, "a few are under way");
    let (items, reply) = until_answered(&mut client);
    assert_eq!((600, true), (items, reply.value().is_null()));
    assert_eq!(0, scene.counter("refused.TooSlow"));
    drop(client);
    scene.judge();
}

#[test]
fn f091_a_worker_that_sends_what_it_may_not_is_killed_and_its_certificate_says_so() {
    let scene = scene();
    let cases = [
        ("unasked", "which nobody has asked for"),
        ("index", "where item 1 is the next"),
        ("stream", "which is not its to send"),
    ];
    for (kind, why) in cases {
        let mut client = scene.daemon.raw();
        let id = client.next_id();
        let json = format!("[\"{kind}\"]");
        client.send(&call_flagged(id, "job_streams:lies", &json, Flags::STREAM)).unwrap();
        client.send(&credit(id, 0, 5)).unwrap();
        let (items, reply) = until_answered(&mut client);
        let failure = reply.failure();
        let Reason::WorkerDied(certificate) = &failure.reason else { panic!("{failure}") };
        assert_eq!(Cause::Protocol, certificate.cause, "{certificate}");
        assert!(certificate.detail.contains(why), "{kind}: {}", certificate.detail);
        assert_eq!(if kind == "unasked" { 5 } else { 1 }, items, "{kind}");
        scene.daemon.wait_ready();
        // A success between shows that these deaths are no crash loop.
        assert_eq!(3.0, scene.daemon.raw().call("default", "math:sqrt", "[9]").value());
    }
    // Items of a call that is no stream.
    let mut client = scene.daemon.raw();
    client.send(&call(1, "default", "job_streams:lies_outside", "[]")).unwrap();
    let failure = client.finish(1).failure();
    let Reason::WorkerDied(certificate) = &failure.reason else { panic!("{failure}") };
    assert!(certificate.detail.contains("not its to send"), "{}", certificate.detail);
    scene.daemon.wait_ready();
    assert_eq!(3.0, scene.daemon.raw().call("default", "math:sqrt", "[9]").value());
    drop(client);
    scene.judge();
}
