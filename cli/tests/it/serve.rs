//! `clutch serve`: when it is ready, where it listens, how it refuses and ends.

use clutch_tests::{Daemon, Python, SECOND, wait_for};
use serde_json::Value;

use crate::{Place, start};

#[test]
fn one_line_says_that_it_is_ready() {
    let mut daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let line = daemon.wait_for_log("clutch is ready at", 10 * SECOND);
    assert!(line.contains(&daemon.socket().display().to_string()), "{line}");
    assert!(line.contains(&format!("(pid {})", daemon.pid())), "{line}");
    assert!(line.contains("pool default (2 workers, Python 3."), "{line}");
    assert_eq!(0, daemon.stop(20 * SECOND));
}

#[test]
fn a_second_daemon_on_the_same_socket_is_refused_with_the_pid_of_the_first() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let place = Place::new();
    place.tmp.write("clutch.toml", "[pools.default]\n");
    place
        .command(["serve", "--socket"])
        .args([daemon.socket()])
        .run()
        .expect_code(7)
        .expect_stderr(&format!("(pid {})", daemon.pid()));
    daemon.cli(["ping"]).expect_code(0);
}

#[test]
fn without_a_socket_named_everybody_finds_the_default_one() {
    let place = Place::new();
    let python = Python::any().path.display().to_string();
    place.tmp.write("clutch.toml", format!("[pools.default]\npython = {python:?}\nworkers = 1\n"));
    let serve = start(place.command(["serve"]));
    wait_for("the daemon answers", 60 * SECOND, || place.run(["ping"]).code == 0);
    place.run(["call", "math:sqrt", "4"]).expect_code(0);
    place.run(["stop"]).expect_code(0);
    let (code, log) = serve.end(10 * SECOND);
    assert_eq!(Some(0), code, "{log}");
}

#[test]
fn a_log_in_json_is_one_object_in_each_line_f170() {
    let place = Place::new();
    let python = Python::any().path.display().to_string();
    place
        .tmp
        .write("loud.py", "def f(*args):\n    print('a\\x1b[2J', 'b', sep='\\n', flush=True)\n");
    place.tmp.write(
        "clutch.toml",
        format!("[pools.default]\npython = {python:?}\nworkers = 1\npath = [\".\"]\n"),
    );
    let serve = start(place.command(["serve", "--log-format", "json"]).env("CLUTCH_LOG", "trace"));
    wait_for("the daemon answers", 60 * SECOND, || place.run(["ping"]).code == 0);
    place.run(["map", "loud:f", "1"]).expect_code(0);
    place.run(["call", "loud:f"]).expect_code(0);
    place.run(["stop"]).expect_code(0);
    let (_, text) = serve.end(10 * SECOND);
    let records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let ready = records.iter().find(|record| record["message"] == "ready");
    assert_eq!("default", ready.expect("the ready line")["pools"][0]["name"]);
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let place = Place::new();
    place.tmp.write("clutch.toml", "[pools.default]\n");
    for filter in ["=loud=", "loud"] {
        place
            .command(["serve"])
            .env("CLUTCH_LOG", filter)
            .run()
            .expect_code(8)
            .expect_stderr("error: CLUTCH_LOG is not a log filter")
            .expect_stderr("as in CLUTCH_LOG=debug");
    }
}
