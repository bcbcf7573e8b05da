//! Hostile workers: user code that speaks for its own worker, floods, lies and will not go. F091
//! and F181. What such code may do to files of its own user is documented as not defended.

use std::time::Duration;

use clutch_protocol::failure::{Cause, Certificate, Failure, Reason};
use clutch_protocol::frame::Kind;
use clutch_tests::process::memory_bytes;
use clutch_tests::{Bystander, Daemon, Oracle, SECOND, wait_for};

/// How long the daemon may take to see through a worker and to answer its caller.
const CAUGHT_BOUND: Duration = Duration::from_secs(10);

struct Scene {
    daemon: Daemon,
    oracle: Oracle,
    bystander: Bystander,
}

/// A pool for the villain, a pool for the bystander.
fn scene() -> Scene {
    let daemon = Daemon::builder()
        .pool("villain", |pool| pool.limit("grace", "200ms"))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    Scene { daemon, oracle, bystander }
}

impl Scene {
    /// Calls the villain; the failure must come in time, and the pool must recover.
    #[track_caller]
    fn villain(&self, function: &str, arguments: &str) -> Failure {
        let begun = std::time::Instant::now();
        let mut client = self.daemon.raw();
        let failure = client.call("villain", function, arguments).failure();
        let took = begun.elapsed();
        assert!(took < CAUGHT_BOUND, "{function}{arguments} was seen through after {took:?}");
        drop(client);
        self.daemon.wait_ready();
        // A call that succeeds shows that the pool works, and that its deaths are no crash loop.
        assert_eq!(3.0, self.daemon.raw().call("villain", "math:sqrt", "[9]").value());
        failure
    }

    /// The villain must have been killed for breaking the protocol, and for nothing else.
    #[track_caller]
    fn caught(&self, function: &str, arguments: &str) -> Certificate {
        let failure = self.villain(function, arguments);
        assert!(failure.started, "{function} was running");
        let Reason::WorkerDied(certificate) = failure.reason else {
            panic!("{function}{arguments}: {}", failure.reason.name())
        };
        assert_eq!(Cause::Protocol, certificate.cause, "{function}{arguments}: {certificate}");
        assert!(!certificate.detail.is_empty(), "it says what was wrong: {certificate}");
        *certificate
    }

    fn judge(self) {
        self.bystander.assert_unharmed(5 * SECOND);
        self.oracle.memory_budget(32 << 20).judge(self.daemon);
    }
}

#[test]
fn f091_a_worker_cannot_answer_anothers_call() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    let mut victim = daemon.raw();
    let victims = victim.start("default", "bulk:nap", "[3, \"true\"]");
    wait_for("the victim's call runs", 5 * SECOND, || {
        daemon.status().pools.iter().any(|pool| pool.name == "default" && pool.running == 1)
    });
    let mut villain = daemon.raw();
    // Every id the victim's call can have by now, in the daemon's count or in its client's.
    let forger = villain.start("default", "hostile:answer_others", "[0, 5000]");
    assert_eq!("true", victim.finish(victims).value(), "another worker's answer was believed");
    let failure = villain.finish(forger).failure();
    match &failure.reason {
        Reason::WorkerDied(certificate) => assert_eq!(Cause::Protocol, certificate.cause),
        other => panic!("{other:?}"),
    }
    drop((victim, villain));
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

#[test]
fn f091_a_worker_that_speaks_as_somebody_else_is_killed() {
    let scene = scene();
    let honest = [Kind::Result, Kind::Failed, Kind::Pong, Kind::Ping];
    for kind in Kind::ALL.iter().filter(|kind| !honest.contains(kind)) {
        scene.caught("hostile:speak", &format!("[{}]", *kind as u8));
    }
    scene.caught("hostile:speak", "[200]");
    // A worker that says "stop" stops nothing, and one that says "call" calls nothing.
    assert_eq!("running", scene.daemon.status().daemon.state);
    scene.judge();
}

#[test]
fn f091_a_worker_that_starts_a_second_time_is_killed() {
    let scene = scene();
    scene.caught("hostile:ready_again", "[]");
    scene.caught("hostile:fail_the_start", "[]");
    scene.judge();
}

#[test]
fn f091_a_worker_that_lies_about_lengths_is_killed_before_it_costs_memory() {
    let scene = scene();
    let before = memory_bytes(scene.daemon.pid());
    let result = Kind::Result as u8;
    for (length, meta) in [(u32::MAX, 0), (u32::MAX, u32::MAX), (1 << 31, 0), (8, 9)] {
        scene.caught("hostile:claim", &format!("[{result}, {length}, {meta}]"));
    }
    scene.caught("hostile:garbage", "[\"\\u0000\\u00ff this is no frame\"]");
    scene.caught("hostile:garbage", "[\"CLU1 looks like one, and is none\"]");
    let grown = memory_bytes(scene.daemon.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "lies cost {} MiB", grown >> 20);
    scene.judge();
}

#[test]
fn f091_a_worker_that_hangs_up_is_dead_to_us() {
    let scene = scene();
    let failure = scene.villain("hostile:hang_up", "[]");
    let Reason::WorkerDied(certificate) = failure.reason else {
        panic!("{}", failure.reason.name())
    };
    assert_eq!(Cause::ChannelLost, certificate.cause, "{certificate}");
    scene.judge();
}

#[test]
fn f181_floods_end_with_their_worker_and_cost_nobody_else_anything() {
    let scene = scene();
    let before = memory_bytes(scene.daemon.pid());
    let kinds = [Kind::Pong, Kind::Output, Kind::Result, Kind::Call];
    for kind in kinds {
        for stubborn in ["false", "true"] {
            scene.caught("hostile:flood", &format!("[{}, {stubborn}]", kind as u8));
        }
    }
    let grown = memory_bytes(scene.daemon.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "floods cost {} MiB", grown >> 20);
    let log = scene.daemon.log();
    let told = log.lines().filter(|line| line.contains("broke the protocol")).count();
    assert_eq!(2 * kinds.len(), told, "each worker's fault is told once");
    scene.judge();
}

#[test]
fn f181_pongs_that_nobody_asked_for_are_no_answer_to_anything() {
    let scene = scene();
    scene.caught("hostile:flood_control", "[]");
    scene.judge();
}

#[test]
fn f181_a_flood_that_outlives_its_worker_is_swept_with_it() {
    let scene = scene();
    for _ in 0..3 {
        let failure = scene.villain("hostile:flood_from_the_grave", "[]");
        let Reason::WorkerDied(certificate) = failure.reason else {
            panic!("{}", failure.reason.name())
        };
        let expected = [Cause::Exited, Cause::Protocol];
        assert!(expected.contains(&certificate.cause), "{certificate}");
    }
    scene.judge();
}

#[test]
fn f181_a_worker_that_shouts_is_not_heard_beyond_a_bound() {
    let scene = scene();
    let before = memory_bytes(scene.daemon.pid());
    let logged = scene.daemon.log().len();
    let mut client = scene.daemon.raw();
    client.call("villain", "hostile:shout", "[100]").value();
    client.call("villain", "bulk:chatter", "[300000, 100]").value();
    drop(client);
    let log = scene.daemon.log().len() - logged;
    assert!(log < 40 << 20, "130 MB of output made {} MiB of log", log >> 20);
    let grown = memory_bytes(scene.daemon.pid()).saturating_sub(before);
    assert!(grown < 32 << 20, "shouting cost {} MiB", grown >> 20);
    scene.judge();
}
