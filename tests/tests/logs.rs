//! What workers print and log, from their pipes to whoever reads it: whose it is, how much of it is
//! kept, and that neither a flood nor a reader nor a disk stops anybody.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use clutch_client::{LogLine, LogQuery, LogStream, Retry};
use clutch_protocol::failure::{Cause, Reason};
use clutch_protocol::message::{LogLines, Logs};
use clutch_protocol::{Kind, wire};
use clutch_tests::bystander::Bystander;
use clutch_tests::config::Value;
use clutch_tests::raw::RawClient;
use clutch_tests::wait::{wait_for, wait_until};
use clutch_tests::{Daemon, MILLISECOND, SECOND, command, process};
use nix::sys::signal::Signal;

/// Long enough for anything that does come.
const PATIENCE: Duration = Duration::from_secs(20);

fn all() -> LogQuery {
    LogQuery { lines: 100_000, ..LogQuery::default() }
}

fn of_call(id: u64) -> LogQuery {
    LogQuery { call: Some(id), ..all() }
}

#[track_caller]
fn read(daemon: &Daemon, query: LogQuery) -> Vec<LogLine> {
    daemon.blocking().logs(query).expect("the daemon answers")
}

/// Waits until a line with this text is there, and gives all lines.
#[track_caller]
fn read_until(daemon: &Daemon, text: &str) -> Vec<LogLine> {
    wait_until(text, PATIENCE, || {
        let lines = read(daemon, all());
        if lines.iter().any(|line| line.text.contains(text)) { Ok(lines) } else { Err(lines) }
    })
}

fn texts(lines: &[LogLine], stream: LogStream) -> Vec<&str> {
    lines.iter().filter(|line| line.stream == stream).map(|line| line.text.as_str()).collect()
}

fn with_logging(pool: clutch_tests::config::Pool) -> clutch_tests::config::Pool {
    pool.key("logging", "info")
}

#[test]
fn f045_what_a_call_prints_is_kept_as_its_own() {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let id: u64 = client.call("job_output:every_way", ()).expect("it only prints");
    let next: u64 = client.call("job_output:say", ("next",)).expect("it only prints");
    let lines = read(&daemon, of_call(id));
    let wanted = ["by print", "by write", "by a child", "by printf"];
    assert_eq!(wanted.to_vec(), texts(&lines, LogStream::Stdout));
    assert_eq!(vec!["by stderr", "without an end"], texts(&lines, LogStream::Stderr));
    assert!(lines.iter().all(|line| line.pool == "default" && line.worker.generation == 1));
    assert_eq!(vec!["next"], texts(&read(&daemon, of_call(next)), LogStream::Stdout));

    let output = daemon.cli(["logs", "--call", &id.to_string()]).expect_code(0);
    let shown = format!("default/0.1 call {id} stderr| without an end\n");
    assert!(output.stdout.contains(&shown), "{}", output.stdout);
    let output = daemon.cli(["logs", "--json", "-n1"]).expect_code(0);
    let line: LogLine = serde_json::from_str(output.stdout.trim()).expect("it is one JSON object");
    assert_eq!((next, "next"), (line.call, line.text.as_str()));
    let other = ["logs", "--pool", "quiet"];
    assert_eq!("", daemon.cli(other).expect_code(0).stdout);
    daemon.cli(["logs", "--pool", "nix"]).expect_code(2).expect_stderr("there is no pool 'nix'");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f045_ten_megabytes_neither_delay_nor_fill_anything() {
    let daemon = Daemon::builder()
        .pool("default", |pool| {
            pool.key("output", Value::table([("lines", 1000.into()), ("bytes", "1MiB".into())]))
        })
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle().memory_budget(24 << 20);
    let bystander = Bystander::start(&daemon, "quiet");
    let id: u64 = daemon.blocking().call("job_output:megabytes", (10,)).expect("it only prints");
    bystander.assert_unharmed(SECOND);
    let lines = read(&daemon, of_call(id));
    assert_eq!(Some("that was all"), lines.last().map(|line| line.text.as_str()));
    assert_eq!(1000, lines.len());
    assert_eq!(100_001, daemon.counter("default", "output_lines"));
    oracle.judge(daemon);
}

#[test]
fn the_last_line_of_a_call_is_never_the_next_ones() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    // Many in flight, so that a worker has its next call in the same moment.
    let mut raw = daemon.raw();
    let ids: Vec<_> = (0..2000)
        .map(|number| {
            let direct = if number % 2 == 0 { "[true]" } else { "[false]" };
            raw.start("default", "job_output:sign", direct)
        })
        .collect();
    for id in ids {
        raw.finish(id).value();
    }
    let lines = read(&daemon, all());
    assert_eq!(2000, lines.len());
    let wrong: Vec<_> = lines.iter().filter(|line| line.text != line.call.to_string()).collect();
    assert!(wrong.is_empty(), "{} lines are not their call's: {:?}", wrong.len(), wrong[0]);
    drop(raw);
    oracle.judge(daemon);
}

#[test]
fn f057_what_comes_after_a_call_belongs_to_none() {
    let daemon = Daemon::builder().pool("default", with_logging).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let go = daemon.tmp().path().join("go");
    let id: u64 = client.call("job_output:leave_a_thread", (go.to_str(),)).expect("it starts one");
    fs::write(&go, "").expect("the directory is there");
    let lines = read_until(&daemon, "RuntimeError: raised after the call");
    let late: Vec<_> = lines.iter().filter(|line| line.text.contains("after the call")).collect();
    // Printed, logged, and the traceback's two lines: its source and its message.
    assert_eq!(1, late.iter().filter(|line| line.stream == LogStream::Stdout).count(), "{lines:?}");
    assert_eq!(1, late.iter().filter(|line| line.stream == LogStream::Log).count(), "{lines:?}");
    assert!(late.iter().all(|line| line.call == 0), "call {id}: {late:?}");
    let raised = late.iter().filter(|line| line.text.starts_with("RuntimeError:")).count();
    assert_eq!(1, raised, "{lines:?}");
    assert!(client.call::<bool>("job_output:wait_for_thread", ()).expect("it has ended"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn records_of_logging_come_with_level_logger_and_traceback() {
    let daemon = Daemon::builder().pool("default", with_logging).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let id: u64 = daemon.blocking().call("job_output:all_levels", ()).expect("it only logs");
    read_until(&daemon, "for the record");
    let lines = read(&daemon, of_call(id));
    let levels: Vec<_> = lines.iter().filter_map(|line| line.level.as_deref()).collect();
    assert_eq!(vec!["INFO", "WARNING", "ERROR", "CRITICAL", "NOTICE", "ERROR"], levels);
    assert!(lines.iter().all(|line| line.logger.as_deref() == Some("job.output")));
    assert_eq!("level 20\\x1b[2J", lines[0].text);
    let last = &lines.last().expect("there are six").text;
    assert!(last.starts_with("failed\nTraceback") && last.ends_with("ValueError: for the record"));
    let output = daemon.cli(["logs", "--call", &id.to_string()]).expect_code(0);
    assert!(
        output.stdout.contains(&format!(" default/0.1 call {id} NOTICE job.output| noticed\n"))
    );
    assert!(output.stdout.contains("\n    | ValueError: for the record\n"), "{}", output.stdout);
    // The daemon's own log has them with their level, each in one line.
    let line = daemon.wait_for_log("for the record", PATIENCE);
    assert!(line.contains("ERROR failed\\nTraceback"), "{line}");
    assert!(daemon.wait_for_log("level 30", PATIENCE).contains(" WARN "));
    oracle.judge(daemon);
}

/// An attempt has an id of its own on the way to its worker, and calls that wait for another one
/// come back behind younger calls.
#[test]
fn records_of_later_attempts_and_of_calls_out_of_their_order_are_their_calls() {
    let daemon = Daemon::builder().pool("default", with_logging).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let older = std::thread::spawn({
        let client = client.clone();
        move || {
            let retry = Retry::new(3).on_raised("OSError").backoff(200 * MILLISECOND);
            let request = client.request("job_output:log_until").args((3,));
            request.retry(retry).send::<u64>().map_err(Box::new)
        }
    });
    // A process that logs the oldest call last.
    daemon.wait_for_log("attempt 1", PATIENCE);
    let younger: u64 = client.call("job_output:all_levels", ()).expect("it only logs");
    let id = older.join().expect("no panic").expect("the third attempt is good");
    assert!(id < younger, "{id} came before {younger}");
    let lines = wait_until("all three are there", PATIENCE, || {
        let lines = read(&daemon, of_call(id));
        if lines.len() == 3 { Ok(lines) } else { Err(lines) }
    });
    assert_eq!(vec!["attempt 1", "attempt 2", "attempt 3"], texts(&lines, LogStream::Log));
    assert_eq!(1, daemon.counter("default", "launches"), "no worker was ended for them");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn what_a_dying_worker_has_logged_and_printed_is_kept() {
    let daemon = Daemon::builder().pool("default", with_logging).start();
    let oracle = daemon.oracle();
    let failure = daemon.blocking().call::<()>("job_output:log_and_die", ()).expect_err("it dies");
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    let lines = read(&daemon, all());
    assert_eq!(vec!["last record"], texts(&lines, LogStream::Log));
    assert_eq!(vec!["last half of a line"], texts(&lines, LogStream::Stdout));
    assert!(lines.iter().all(|line| line.call == lines[0].call && line.call != 0), "{lines:?}");
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn f069_a_million_records_from_one_call_harm_nobody() {
    let daemon = Daemon::builder().pool("default", with_logging).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle().memory_budget(24 << 20);
    let bystander = Bystander::start(&daemon, "quiet");
    let client = daemon.blocking();
    let request = client.request("job_output:records").args((1_000_000,));
    let _: u64 = request.timeout(60 * SECOND).send().expect("it only logs");
    bystander.assert_unharmed(SECOND);
    wait_until("every record is counted", PATIENCE, || {
        let counted = ["log_records", "log_records_dropped"];
        let counted = counted.map(|name| daemon.counter("default", name));
        if counted[0] + counted[1] == 1_000_000 { Ok(()) } else { Err(counted) }
    });
    assert!(daemon.counter("default", "log_records") < 200_000);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn forged_records_end_the_worker_and_nobody_else() {
    let daemon = Daemon::builder().pool("default", with_logging).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "quiet");
    for (call, size) in [(1_u64 << 60, 10), (0, (16 << 10) + 1)] {
        let failure =
            daemon.raw().call("default", "hostile:forge_record", &format!("[{call}, {size}]"));
        match failure.failure().reason {
            Reason::WorkerDied(certificate) => assert_eq!(Cause::Protocol, certificate.cause),
            other => panic!("{other:?}"),
        }
        daemon.wait_ready();
    }
    let records = read(&daemon, all());
    assert!(texts(&records, LogStream::Log).is_empty(), "{records:?}");
    // A number that nobody can have counted ends no daemon.
    daemon.raw().call("default", "hostile:lose_records", "[]").value();
    wait_for("all is counted that can be", PATIENCE, || {
        daemon.counter("default", "log_records_dropped") == u64::MAX
    });
    bystander.assert_unharmed(5 * SECOND);
    oracle.judge(daemon);
}

/// All lines of a pool's output files, the oldest file first.
fn file_lines(file: &Path) -> Vec<LogLine> {
    let mut names: Vec<_> = fs::read_dir(file.parent().expect("it has one"))
        .expect("the directory is there")
        .map(|entry| entry.expect("it can be listed").path())
        .collect();
    // FILE.2, FILE.1, FILE.
    names.sort();
    names.reverse();
    let texts = names.iter().map(|name| fs::read_to_string(name).expect("it is text"));
    let text: String = texts.collect();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn output_file(file: &Path, bytes: &str) -> Value {
    let files = ("files", 3.into());
    Value::table([("file", file.into()), ("file_bytes", bytes.into()), files])
}

#[test]
fn files_hold_the_newest_lines_within_their_bound() {
    let builder = Daemon::builder();
    let file = builder.tmp().path().join("logs/default.jsonl");
    let mut daemon =
        builder.pool("default", |pool| pool.key("output", output_file(&file, "64KiB"))).start();
    let client = daemon.blocking();
    for first in (0..2000).step_by(100) {
        let _: u32 = client.call("job_output:lines", (first, first + 100)).expect("it prints");
    }
    drop(client);
    assert_eq!(0, daemon.stop(PATIENCE));
    let lines = file_lines(&file);
    assert_eq!(Some("line 1999"), lines.last().map(|line| line.text.as_str()));
    let numbers: Vec<u32> =
        lines.iter().map(|line| line.text[5..].parse().expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!((500..2000).contains(&numbers.len()), "{}", numbers.len());
    let directory = fs::read_dir(file.parent().expect("it has one")).expect("it is there");
    for entry in directory {
        assert!(
            entry.expect("it can be listed").metadata().expect("it is there").len() <= 64 << 10
        );
    }
}

#[test]
fn f137_a_full_disk_costs_lines_and_nothing_else() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.key("output", output_file(Path::new("/dev/full"), "1MiB")))
        .start();
    let client = daemon.blocking();
    let say = |count: u64| {
        for number in 0..count {
            let _: u64 = client.call("job_output:say", (number,)).expect("it only prints");
        }
    };
    let wait_for_count = |wanted: u64| {
        wait_until("the lines are counted", PATIENCE, || {
            let counted = daemon.counter("default", "output_file_lines_dropped");
            if counted == wanted { Ok(()) } else { Err(counted) }
        });
    };
    say(1);
    wait_for_count(1);
    daemon.wait_for_log("output file cannot be written", PATIENCE);
    // The file is open now, and what it costs was said.
    let oracle = daemon.oracle().expect_event("output file cannot be written", 0);
    say(49);
    wait_for_count(50);
    assert_eq!(50, read(&daemon, all()).len(), "memory has them all");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f137_a_directory_that_vanishes_is_made_anew() {
    let builder = Daemon::builder();
    let file = builder.tmp().path().join("logs/default.jsonl");
    let daemon =
        builder.pool("default", |pool| pool.key("output", output_file(&file, "1MiB"))).start();
    let client = daemon.blocking();
    let say = |text: &str| {
        let _: u64 = client.call("job_output:say", (text,)).expect("it only prints");
        wait_for(text, PATIENCE, || fs::read_to_string(&file).is_ok_and(|all| all.contains(text)));
    };
    say("before");
    fs::remove_dir_all(file.parent().expect("it has one")).expect("it is ours");
    say("after");
    assert_eq!(1, file_lines(&file).len());
    assert_eq!(0, daemon.counter("default", "output_file_lines_dropped"));
}

#[test]
fn f137_a_log_that_nobody_can_write_to_stops_nothing() {
    // Closed, on a full disk, and a pipe that nobody reads.
    for redirect in ["2>&-", "2>/dev/full", "2<>\"$PIPE\""] {
        let builder = Daemon::builder();
        let pipe = builder.tmp().path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("the directory is there");
        let script = format!("exec \"$0\" \"$@\" {redirect}");
        let mut daemon = builder
            .env("PIPE", &pipe)
            .through(&["sh", "-c", &script])
            .pool("default", |pool| pool.workers(4))
            .start();
        let client = daemon.blocking();
        // More than a pipe holds, and more than may wait for it, though each worker has its limit.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let client = client.clone();
                scope.spawn(move || {
                    let _: u64 = client.call("job_output:megabytes", (2,)).expect(redirect);
                });
            }
        });
        let lines = read(&daemon, LogQuery { lines: 1, ..all() });
        assert_eq!("that was all", lines[0].text, "{redirect}");
        if redirect != "2>&-" {
            wait_until(redirect, PATIENCE, || {
                let counters = daemon.status().daemon.counters;
                match counters.get("log_lines_dropped") {
                    Some(count) if *count > 0 => Ok(()),
                    other => Err(other.copied()),
                }
            });
        }
        drop(client);
        assert_eq!(0, daemon.stop(PATIENCE), "{redirect}");
    }
}

#[test]
fn following_shows_lines_as_they_come_and_ends_with_ctrl_c() {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let _: u64 = client.call("job_output:say", ("before",)).expect("it only prints");
    let mut child = daemon.command(["logs", "-f", "--pool", "default"]).spawn(
        Stdio::null(),
        Stdio::piped(),
        Stdio::piped(),
    );
    let stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let mut shown = stdout.lines().map(|line| line.expect("it is text"));
    assert!(shown.next().expect("a line").ends_with("stdout| before"));
    let request = client.request("job_output:say").args(("elsewhere",)).pool("quiet");
    let _: u64 = request.send().expect("it only prints");
    let id: u64 = client.call("job_output:say", ("\x1b[2Jlive",)).expect("it only prints");
    let line = shown.next().expect("a line");
    assert!(line.ends_with(&format!(" default/0.1 call {id} stdout| \\x1b[2Jlive")), "{line}");
    process::signal(child.id(), Signal::SIGINT);
    let ended = command::wait(&mut child, PATIENCE).expect("it ends");
    let mut stderr = String::new();
    let _ = child.stderr.take().expect("it is a pipe").read_to_string(&mut stderr);
    assert_eq!((0, ""), (command::shell_code(ended), stderr.as_str()));
    drop(client);
    oracle.judge(daemon);
}

/// Asks for lines over a raw connection.
fn ask(client: &mut RawClient, id: u64, wanted: &Logs) {
    let meta = wire::encode(wanted).expect("it is short");
    let meta_bytes = u32::try_from(meta.len()).expect("it is short");
    let header =
        clutch_protocol::Header { meta_bytes, ..clutch_protocol::Header::new(Kind::Logs, id) };
    client.say(&[&header.encode()[..], &meta].concat());
}

/// The lines in the next frame, and its meta.
fn receive(client: &mut RawClient) -> (usize, LogLines) {
    let frame = client.expect(Kind::LogLines, PATIENCE);
    let lines: Vec<LogLine> = serde_json::from_slice(&frame.payload).expect("they are lines");
    (lines.len(), wire::decode(&frame.meta).expect("it is the meta"))
}

#[test]
fn a_follower_that_does_not_read_loses_lines_and_learns_how_many() {
    let daemon = Daemon::builder().pool("default", |pool| pool).pool("quiet", |pool| pool).start();
    let oracle = daemon.oracle().memory_budget(32 << 20);
    let bystander = Bystander::start(&daemon, "quiet");
    let mut slow = daemon.raw();
    let wanted = Logs { pool: "default".into(), call: 0, slot: None, lines: 0, follow: true };
    ask(&mut slow, 1, &wanted);
    let client = daemon.blocking();
    for _ in 0..3 {
        let _: u64 = client.call("job_output:megabytes", (10,)).expect("it only prints");
    }
    let _: u64 = client.call("job_output:say", ("the end",)).expect("it only prints");
    let (mut seen, mut dropped) = (0, 0);
    while seen + dropped < 300_004 {
        let (lines, meta) = receive(&mut slow);
        seen += lines as u64;
        dropped += meta.dropped;
        assert!(!meta.last);
    }
    assert_eq!(300_004, seen + dropped);
    assert!(dropped > 100_000, "{dropped}");
    // It can still end the request, and use its connection for another.
    slow.say(&clutch_protocol::Header::new(Kind::Cancel, 1).encode());
    assert!(receive(&mut slow).1.last);
    ask(&mut slow, 2, &Logs { lines: 5, follow: false, ..wanted });
    let (lines, meta) = receive(&mut slow);
    assert_eq!((5, true, 0), (lines, meta.last, meta.dropped));
    bystander.assert_unharmed(SECOND);
    drop((slow, client));
    oracle.judge(daemon);
}

#[test]
fn readers_are_bounded_and_end_with_their_client() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let mut raw = daemon.raw();
    let wanted = Logs { pool: String::new(), call: 0, slot: None, lines: 0, follow: true };
    for id in 1..=16 {
        ask(&mut raw, id, &wanted);
    }
    ask(&mut raw, 17, &wanted);
    let failure: clutch_protocol::Failure =
        wire::decode(&raw.expect(Kind::Error, PATIENCE).meta).expect("it is a failure");
    assert!(matches!(failure.reason, Reason::QueueFull { limit: 16 }), "{failure}");
    raw.say(&clutch_protocol::Header::new(Kind::Cancel, 3).encode());
    assert!(receive(&mut raw).1.last);
    ask(&mut raw, 17, &Logs { follow: false, ..wanted.clone() });
    assert!(receive(&mut raw).1.last);
    // An id in use is a fault, as it is for a call.
    ask(&mut raw, 5, &wanted);
    assert!(raw.expect_refused(PATIENCE).sentence.contains("request id 5 is in use"));
    drop(raw);
    oracle.judge(daemon);
}

#[test]
fn the_daemons_log_has_the_format_and_level_of_the_configuration() {
    let log = |format: &str, level: &str| {
        Value::table([("format", format.into()), ("level", level.into())])
    };
    let mut daemon = Daemon::builder()
        .daemon_key("log", log("json", "info,clutch::output=off"))
        .pool("default", |pool| pool)
        .start();
    let _: u64 = daemon.blocking().call("job_output:say", ("hidden",)).expect("it only prints");
    assert_eq!(0, daemon.stop(PATIENCE));
    let text = daemon.log();
    assert!(text.contains("\"message\":\"stopped\"") && !text.contains("hidden"), "{text}");
    for line in text.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(record["level"].is_string(), "{line}");
    }

    let wrong =
        Daemon::builder().daemon_key("log", log("text", "inf[o")).pool("default", |pool| pool);
    let output = wrong.try_start().expect_err("it is no filter");
    assert_eq!(8, output.code, "{}", output.stderr);
    assert!(output.stderr.contains("it is not a log filter"), "{}", output.stderr);
}
