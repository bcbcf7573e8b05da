//! `clutch stop`: it is over when the next daemon can start.

use clutch_tests::{Daemon, SECOND, wait_for};

use crate::start;

#[test]
fn after_stop_the_daemon_is_gone() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool).start();
    let output = daemon.cli(["stop"]).expect_code(0);
    output.expect_stderr("has stopped");
    assert!(!daemon.socket().exists());
    assert_eq!(0, daemon.wait_exit(5 * SECOND));
    daemon.cli(["ping"]).expect_code(3);
}

#[test]
fn a_graceful_stop_waits_for_calls_and_now_does_not() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool).start();
    let call = start(daemon.command(["call", "time:sleep", "1000"]));
    wait_for("the call runs", 20 * SECOND, || daemon.status().pools[0].running == 1);
    daemon.cli(["stop", "--wait", "300ms"]).expect_code(4).expect_stderr("clutch stop --now");
    daemon.cli(["stop", "--now"]).expect_code(0);
    assert_eq!(0, daemon.wait_exit(10 * SECOND));
    let (code, stderr) = call.end(10 * SECOND);
    assert!(matches!(code, Some(3 | 5 | 6 | 7)), "{code:?} {stderr}");
}
