//! The harness's front page: what a test looks like. Copy this file's shape.

use clutch_tests::{Bystander, Daemon, SECOND, kill, wait_for};

/// A fault (a worker killed from outside), what must be seen, and the oracle at the end.
#[test]
fn a_killed_worker_is_replaced_and_nobody_else_notices() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .pool("quiet", |pool| pool.limit("queue", 16))
        .start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");

    let victim = daemon.worker_pids("default")[0];
    kill(victim);
    wait_for("the victim is replaced", 10 * SECOND, || {
        let workers = daemon.worker_pids("default");
        workers.len() == 2 && !workers.contains(&victim)
    });

    let output = daemon.cli(["call", "math:sqrt", "2"]).expect_code(0);
    assert_eq!("1.4142135623730951\n", output.stdout);
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// A daemon that was never harmed stops cleanly, and the raw peer can speak to it.
#[test]
fn a_quiet_daemon_satisfies_the_oracle() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    assert!(client.is_served());
    drop(client);
    oracle.judge(daemon);
}
