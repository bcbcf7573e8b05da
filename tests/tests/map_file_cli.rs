//! `clutch map-file`: what it prints, what it ends with, and how it is interrupted.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use clutch_tests::{
    Clutch, Daemon, Output, Program, SECOND, command, signal, wait_for, workers_dir,
};
use nix::sys::signal::Signal;

fn daemon() -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(2)).start()
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// Three chunks of four bytes, the second one with a b in it.
fn map(daemon: &Daemon, function: &str, words: &[&str]) -> Output {
    let file = daemon.tmp().write("lines.txt", "a\na\nb\nb\na\nc\n");
    let function = format!("job_files:{function}");
    let first = ["map-file", &function, path_text(&file), "--chunk", "4B"];
    daemon.cli(first.iter().chain(words))
}

#[test]
fn results_are_json_lines_in_the_files_order() {
    let daemon = daemon();
    let output = map(&daemon, "count_lines", &[]);
    assert_eq!((0, "2\n2\n2\n", ""), (output.code, &*output.stdout, &*output.stderr));
    let output = map(&daemon, "text", &["--index"]);
    let lines = "{\"chunk\":0,\"result\":\"a\\na\\n\"}\n{\"chunk\":1,\"result\":\"b\\nb\\n\"}\n\
                 {\"chunk\":2,\"result\":\"a\\nc\\n\"}\n";
    assert_eq!((0, lines), (output.code, &*output.stdout));
    let output = map(&daemon, "text", &["--index", "--unordered", "--split", "bytes"]);
    let mut found: Vec<_> = output.stdout.lines().collect();
    found.sort_unstable();
    assert_eq!(lines.lines().collect::<Vec<_>>(), found);
    let empty = daemon.tmp().write("empty", "");
    let output = daemon.cli(["map-file", "job_files:count_lines", path_text(&empty)]);
    assert_eq!((0, "", ""), (output.code, &*output.stdout, &*output.stderr));
}

#[test]
fn csv_and_its_header() {
    let daemon = daemon();
    let file = daemon.tmp().write("rows.csv", "a;b\n1;\"x\ny\"\n2;z\n");
    let words = ["map-file", "job_files:rows", path_text(&file), "--split", "csv"];
    let output = daemon.cli(words.iter().chain(&["--chunk", "1B", "--delimiter", ";"]));
    assert_eq!(3, output.stdout.lines().count(), "{}", output.stderr);
    let comma = daemon.tmp().write("rows.csv", "a,b\n1,\"x\ny\"\n2,z\n");
    let output = daemon.cli([
        "map-file",
        "job_files:rows",
        path_text(&comma),
        "--split=csv",
        "--chunk=1B",
        "--header",
    ]);
    let rows = "[{\"a\":\"1\",\"b\":\"x\\ny\"}]\n[{\"a\":\"2\",\"b\":\"z\"}]\n";
    assert_eq!((0, rows), (output.code, &*output.stdout), "{}", output.stderr);
}

#[test]
fn a_byte_order_mark_is_skipped_wherever_text_is_read() {
    let daemon = daemon();
    let csv = daemon.tmp().write("marked.csv", "\u{feff}\"a\",b\n1,2\n");
    let csv = path_text(&csv);
    let output = daemon.cli(["map-file", "job_files:text", csv, "--split=csv"]).expect_code(0);
    assert_eq!("\"\\\"a\\\",b\\n1,2\\n\"\n", output.stdout);
    let output = daemon.cli(["map-file", "job_files:rows", csv, "--split=csv", "--header"]);
    assert_eq!((0, "[{\"a\":\"1\",\"b\":\"2\"}]\n"), (output.code, &*output.stdout));
    let lines = daemon.tmp().write("marked.jsonl", "\u{feff}4\n9\n");
    let output = daemon.cli(["map", "math:sqrt", "--input", path_text(&lines)]);
    assert_eq!((0, "2.0\n3.0\n"), (output.code, &*output.stdout), "{}", output.stderr);
}

#[test]
fn a_failed_chunk_is_named_and_ends_the_map_or_not() {
    let daemon = daemon();
    let output = map(&daemon, "refuse_b", &[]).expect_code(1);
    assert_eq!("4\n", output.stdout);
    for part in ["chunk 1 (4 bytes at byte 4): ", "ValueError: there is a b in it", "(call "] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    let output = map(&daemon, "refuse_b", &["--on-error", "skip"]).expect_code(1);
    assert_eq!("4\n4\n", output.stdout);
    assert!(
        output.stderr.contains("1 of 3 chunks failed; the first: chunk 1"),
        "{}",
        output.stderr
    );
    let output = map(&daemon, "refuse_b", &["--on-error", "report"]).expect_code(1);
    let line = output.stdout.lines().nth(1).expect("there are three");
    let line: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!(serde_json::json!({"index": 1, "offset": 4, "bytes": 4}), line["chunk"]);
    assert_eq!("Raised", line["error"]["reason"]["kind"]);
    let output = map(&daemon, "refuse_b", &["--json"]).expect_code(1);
    // Other chunks print beside it.
    let error = output.stderr.lines().find(|line| line.starts_with('{')).expect("it says why");
    let error: serde_json::Value = serde_json::from_str(error).expect("it is JSON");
    assert_eq!(
        (1, 4),
        (error["chunk"]["index"].as_u64().unwrap(), error["chunk"]["offset"].as_u64().unwrap())
    );
    let output = map(&daemon, "secret", &[]).expect_code(1);
    let says =
        "result: bytes (results are printed as JSON, and JSON cannot hold bytes; return text";
    assert!(output.stderr.contains(says), "{}", output.stderr);
    assert!(!output.stderr.contains("codec"), "there is none to choose: {}", output.stderr);
    map(&daemon, "nothing", &[]).expect_code(2).expect_stderr("nothing");
}

#[test]
fn the_sum_comes_behind_the_last_result() {
    let daemon = daemon();
    let file = daemon.tmp().write("lines.txt", "a\na\nb\nb\na\nc\n");
    let both = |words: &str| {
        let script = format!("\"$0\" --socket \"$1\" {words} 2>&1");
        let output = Program::new("bash")
            .args(["-c", &script])
            .args([Clutch::binary().as_os_str(), daemon.socket().as_os_str()])
            .args([&file])
            .run();
        assert_eq!(1, output.code, "{}", output.stdout);
        output.stdout
    };
    let map = both("map job_map:odd 1 3 '\"x\"' 5 --chunk 1 --on-error skip");
    assert_eq!(Some(3), map.lines().position(|line| line.contains("1 of 4 items failed")), "{map}");
    let chunks = both("map-file job_files:refuse_b \"$2\" --chunk 4B --on-error skip");
    let last = chunks.lines().last().expect("there are lines");
    assert!(last.contains("1 of 3 chunks failed"), "{chunks}");
}

#[test]
fn what_the_function_prints_goes_to_standard_error() {
    let daemon = daemon();
    let output = map(&daemon, "refuse_b", &["--split", "bytes", "--on-error", "skip"]);
    assert_eq!(
        2,
        output.stderr.lines().filter(|line| *line == "fine").count(),
        "{}",
        output.stderr
    );
}

#[test]
fn wrong_words_and_files_are_said_before_anything_is_called() {
    let daemon = daemon();
    let file = daemon.tmp().write("text", "a\n");
    let say = |words: &[&str], said: &str| {
        let words = ["map-file", "job_files:count_lines"].iter().chain(words);
        let output = daemon.cli(words).expect_code(2);
        assert!(output.stderr.contains(said), "{said}: {}", output.stderr);
        assert_eq!("", output.stdout);
    };
    let text = path_text(&file);
    say(&[text, "--header"], "only for --split csv");
    say(&[text, "--split", "csv", "--delimiter", ";;"], "one ASCII character");
    say(&[text, "--chunk", "64"], "has no unit");
    say(&[text, "--chunk", "0B"], "at least one byte");
    say(&[text, "--split", "words"], "parquet-row-groups");
    say(&[text, "--split", "parquet-row-groups"], "does not end as a Parquet file does");
    say(&[path_text(daemon.tmp().path())], "it is a directory; only a regular file");
    say(&["/dev/null"], "it is a device");
    say(&["/nowhere/file", "--local"], "cannot be opened: No such file");
    say(&[], "<FILE>");
}

#[test]
fn a_late_chunk_and_an_interrupted_map_end_with_their_codes() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("held");
    let file = daemon.tmp().write("held.txt", format!("{}\n", path_text(&mark)));
    let words = ["map-file", "job_files:hold", path_text(&file)];
    let late = daemon.cli(words.iter().chain(&["--timeout", "300ms"])).expect_code(4);
    assert!(late.stderr.contains("chunk 0 ("), "{}", late.stderr);
    let begun = mark.with_extension("begun");
    fs::remove_file(&begun).expect("it had begun");
    let mut child = daemon.command(words).spawn(Stdio::null(), Stdio::null(), Stdio::null());
    wait_for("the call has begun", 20 * SECOND, || begun.exists());
    signal(child.id(), Signal::SIGINT);
    let status = command::wait(&mut child, 20 * SECOND).expect("it ends");
    assert_eq!(130, command::shell_code(status));
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn one_command_without_a_daemon_does_it_too() {
    let daemon = daemon();
    let text = "x\n".repeat(1000);
    let file = daemon.tmp().write("lines.txt", text);
    let output = daemon.cli([
        "map-file",
        "--local",
        "--path",
        path_text(&workers_dir()),
        "job_files:count_lines",
        path_text(&file),
        "--chunk",
        "1KB",
    ]);
    assert_eq!((0, "500\n500\n"), (output.code, &*output.stdout), "{}", output.stderr);
}
