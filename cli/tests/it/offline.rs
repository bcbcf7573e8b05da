//! What can be said without a daemon: wrong usage, and that there is none.

use std::os::unix::net::UnixListener;

use clutch_tests::{Program, SECOND};

use crate::{Place, clutch};

#[test]
fn wrong_usage_is_one_line_and_exit_code_2_f167() {
    let wrong: [(&[&str], &str); 22] = [
        (&["frobnicate"], "frobnicate"),
        (&["call"], "<FUNCTION>"),
        (&["call", "math.sqrt", "2"], "MODULE:QUALNAME"),
        (&["call", "../x:y"], "identifier"),
        (&["call", "m:f", "--x"], "--x"),
        (&["call", "--timeout", "5", "m:f"], "5ms"),
        (&["call", "--timeout", "0s", "m:f"], "positive"),
        (&["call", "--pool", "a b", "m:f"], "pool name"),
        (&["call", "--python", "3.12", "m:f"], "--local"),
        (&["call", "m:f", "a=1", "a=2"], "'a' is given twice"),
        (&["call", "m:f", "-", "-"], "only once"),
        (&["map", "m:f"], "no items"),
        (&["map", "m:f", "-"], "--input -"),
        (&["map", "m:f", "1", "--input", "x"], "--input"),
        (&["map", "--chunk", "0", "m:f", "1"], "--chunk"),
        (&["pool", "pause"], "<NAME>"),
        (&["pool", "resize", "a b", "1"], "pool name"),
        (&["pool", "resize", "default", "2..1"], "the least comes first"),
        (&["stack", "one"], "by its slot"),
        (&["explain", "one"], "one"),
        (&["cancel"], "<CALL>"),
        (&["status", "--schema", "--json"], "--json"),
    ];
    for (args, part) in wrong {
        let output = Place::new().command(args).stdin("1").run().expect_code(2);
        assert_eq!("", output.stdout, "{args:?}");
        assert!(output.stderr.starts_with("error: "), "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(part), "{args:?}: {part:?} in {}", output.stderr);
    }
}

#[test]
fn input_that_is_not_json_is_named_by_line_and_column() {
    let output = Place::new().command(["call", "m:f", "-"]).stdin("{\"a\":\n 1,}").run();
    output.expect_code(2).expect_stderr("line 2 column 4");
    clutch(["map", "--local", "m:f", "--input", "nowhere.jsonl"])
        .expect_code(2)
        .expect_stderr("failed to open nowhere.jsonl");
}

#[test]
fn without_a_daemon_each_verb_says_where_it_looked_and_how_to_start_one_f093() {
    let verbs: [&[&str]; 12] = [
        &["call", "math:sqrt", "2"],
        &["map", "math:sqrt", "2"],
        &["status"],
        &["workers"],
        &["pool", "list"],
        &["pool", "pause", "default"],
        &["stack", "0"],
        &["explain", "1"],
        &["cancel", "1"],
        &["ping"],
        &["reload"],
        &["stop"],
    ];
    for verb in verbs {
        let place = Place::new();
        let socket = place.tmp.join("none.sock");
        let output = place.command(verb).args(["--socket"]).args([&socket]).run();
        let output = output.expect_code(3);
        assert_eq!("", output.stdout);
        assert_eq!(1, output.stderr.lines().count(), "{}", output.stderr);
        output.expect_stderr(&socket.display().to_string()).expect_stderr("clutch serve");
    }
}

#[test]
fn the_variable_names_the_socket_and_an_empty_one_does_not() {
    let place = Place::new();
    let named = |value: &str| place.command(["ping"]).env("CLUTCH_SOCKET", value).run();
    named("/nowhere/x.sock").expect_code(3).expect_stderr("/nowhere/x.sock");
    let output = named("").expect_code(3);
    assert!(output.stderr.contains("clutch.sock"), "{}", output.stderr);
}

#[test]
fn a_stale_socket_and_a_silent_peer_are_no_daemon_f093_f095() {
    let place = Place::new();
    let socket = place.tmp.join("s.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let ping = || place.command(["ping", "--socket"]).args([&socket]);
    ping().run().expect_code(3).expect_stderr("clutch serve");

    std::fs::remove_file(&socket).unwrap();
    let silent = UnixListener::bind(&socket).unwrap();
    let output = ping().timeout(30 * SECOND).run().expect_code(3);
    assert!(output.stderr.starts_with("error: "), "{}", output.stderr);
    drop(silent);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let script = r#""$0" config default | true; "$0" config default | head -n 1 | wc -l"#;
    let output = Program::new("bash")
        .args(["-o", "pipefail", "-c", script, env!("CARGO_BIN_EXE_clutch")])
        .run()
        .expect_code(0);
    assert_eq!(("1", ""), (output.stdout.trim(), &*output.stderr));
}

#[test]
fn a_full_disk_is_an_error() {
    let script = r#""$0" config default > /dev/full"#;
    Program::new("bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_clutch")])
        .run()
        .expect_code(1)
        .expect_stderr("failed to write to standard output");
}
