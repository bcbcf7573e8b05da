//! `clutch serve`: when it is ready, where it listens, how it refuses and ends.

use clutch_tests::{Daemon, SECOND};

use crate::Place;

#[test]
fn one_line_says_that_it_is_ready() {
    let mut daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .start();
    let line = daemon.wait_for_log("clutch is ready at", 10 * SECOND);
    assert!(
        line.contains(&daemon.socket().display().to_string()),
        "{line}"
    );
    assert!(line.contains(&format!("(pid {})", daemon.pid())), "{line}");
    assert!(
        line.contains("pool default (2 workers, Python 3."),
        "{line}"
    );
    assert_eq!(0, daemon.stop(20 * SECOND));
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_with_the_pid_of_the_first() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let second = Daemon::builder()
        .pool("default", |pool| pool)
        .socket(daemon.socket())
        .try_start();
    let output = second.expect_err("it is refused").expect_code(7);
    output.expect_stderr(&daemon.pid().to_string());
    daemon.cli(["ping"]).expect_code(0);
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let place = Place::new();
    place.tmp.write("clutch.toml", "[pools.default]\n");
    place
        .command(["serve"])
        .env("CLUTCH_LOG", "=loud=")
        .run()
        .expect_code(2)
        .expect_stderr("error: CLUTCH_LOG is not a log filter");
}
