//! Maps over real workers: items that are lists of arguments, that are skipped and folded; workers,
//! command lines and daemons that are killed in the middle of them, and what runs again then.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use clutch_client::{Chunk, Outcome, Reason, Retry};
use clutch_tests::{Daemon, SECOND, command, process, wait_for};

fn pair() -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(2)).start()
}

fn lone() -> Daemon {
    Daemon::builder().pool("default", |pool| pool).start()
}

fn fixed(items: u32) -> Chunk {
    Chunk::Fixed(NonZeroU32::new(items).expect("it is not zero"))
}

/// The file in which `job_map` notes what it was called with.
struct Notes(PathBuf);

impl Notes {
    fn new(daemon: &Daemon, name: &str) -> Notes {
        Notes(daemon.tmp().join(name))
    }

    fn text(&self) -> String {
        self.0.to_str().expect("test paths are text").to_owned()
    }

    /// How often each item ran.
    fn times(&self) -> BTreeMap<i64, usize> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut times = BTreeMap::new();
        for item in text.lines() {
            *times.entry(item.parse().expect("an item")).or_insert(0) += 1;
        }
        times
    }

    /// Lets `blocks_at` go on.
    fn open_gate(&self) {
        std::fs::write(self.text() + ".gate", "").expect("the directory is there");
    }

    /// Items for it, as JSON lines.
    fn input(&self, daemon: &Daemon, items: i64, culprit: i64) -> String {
        let line = |item| format!("[\"{}\", {item}, {culprit}]\n", self.text());
        let text: String = (0..items).map(line).collect();
        let path = daemon.tmp().write(format!("input-{items}-{culprit}"), text);
        path.to_str().expect("test paths are text").to_owned()
    }
}

/// Until what a client has left behind is given up.
fn wait_idle(daemon: &Daemon) {
    wait_for("nothing runs", 10 * SECOND, || {
        let status = daemon.status();
        status.pools[0].running + status.pools[0].queued == 0
    });
}

fn squares(items: i64) -> String {
    (0..items).map(|item| format!("{}\n", item * item)).collect()
}

#[test]
fn an_item_can_be_all_arguments() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let items = [(2.0, 3.0), (5.0, 2.0)];
    let powers: Vec<f64> = client.starmap("math:pow", items).collect().expect("all are good");
    assert_eq!(vec![8.0, 25.0], powers);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let powers = runtime.expect("a runtime can be built").block_on(async {
        let map = daemon.client().await.starmap("math:pow", items);
        map.collect::<Vec<f64>>().await
    });
    assert_eq!(vec![8.0, 25.0], powers.expect("all are good"));
    let sums = client.starmap::<_, f64>("math:pow", vec![vec![2.0, 3.0], vec![1.0]]);
    let results: Vec<_> = sums.chunk(fixed(2)).ordered().collect();
    assert!(matches!(results[0], Ok(8.0)));
    let error = results[1].as_ref().expect_err("an argument is missing");
    assert_eq!((1, "BadArguments"), (error.index, error.failure.reason.name()));

    let words = ["map", "--starmap", "math:pow", "[2, 3]", "[5, 2]"];
    assert_eq!("8.0\n25.0\n", daemon.cli(words).expect_code(0).stdout);
    let wrong = daemon.cli(["map", "--starmap", "math:pow", "ab"]).expect_code(2);
    assert!(wrong.stderr.contains("must be a list of the arguments"), "{}", wrong.stderr);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn skipped_items_are_left_out_and_the_others_keep_their_places() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let map = || client.map::<_, u64>("job_map:odd", 0..1000_u64);
    let odd: Vec<u64> = (0..500).map(|half| 2 * half + 1).collect();
    assert_eq!(odd, map().collect::<Vec<u64>>().expect("all are good"));
    for (index, result) in map().enumerated().chain(map().unordered()) {
        assert_eq!(index, result.expect("all are good"));
    }
    assert_eq!(500, map().unordered().count());
    let outcomes: Vec<Outcome<u64>> = map().outcomes().collect().expect("all are good");
    let expected =
        (0..1000).map(|item| if item % 2 == 1 { Outcome::Result(item) } else { Outcome::Skipped });
    assert!(expected.eq(outcomes));
    // A call has no place to be left out of.
    let failure = client.call::<u64>("job_map:odd", (2,)).expect_err("it is skipped");
    assert!(failure.to_string().contains("only an item of a map"), "{failure}");

    let words = ["map", "--index", "job_map:odd", "1", "2", "3", "4"];
    let output = daemon.cli(words).expect_code(0);
    assert_eq!("{\"index\":0,\"result\":1}\n{\"index\":2,\"result\":3}\n", output.stdout);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_map_is_reduced_by_its_workers_in_the_order_of_its_items() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    for items in [1_i64, 2, 3000] {
        let wanted: String = (0..items).map(|item| format!("{item},")).collect();
        let map = client.map::<_, String>("job_map:text", 0..items);
        assert_eq!(Some(wanted), map.reduce("job_map:join").expect("all are good"), "{items}");
    }
    // Many chunks, so that what came of them is folded more than once.
    let map = client.map::<_, u64>("builtins:int", 0..2000_u64).chunk(fixed(3));
    assert_eq!(Some(1_999_000), map.reduce("operator:add").expect("all are good"));
    let none = client.map::<_, u64>("builtins:int", 0..0_u64).reduce("operator:add");
    assert_eq!(None, none.expect("nothing can fail"));
    let skipped = client.map::<_, u64>("job_map:odd", [2, 4, 6]).reduce("operator:add");
    assert_eq!(None, skipped.expect("all are skipped"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let sum = runtime.expect("a runtime can be built").block_on(async {
        let items = [(2, 3), (4, 5)];
        daemon.client().await.starmap::<_, u64>("operator:mul", items).reduce("operator:add").await
    });
    assert_eq!(Some(26), sum.expect("all are good"));

    let negative = client.map::<_, String>("job_map:text", [5, 4, -3, 2]).chunk(fixed(4));
    let error = negative.reduce("job_map:join").expect_err("one is negative");
    assert_eq!((2, "Raised"), (error.index, error.failure.reason.name()));
    for (fold, reason) in [("job_map:no_join", "Raised"), ("job_map:nowhere", "NotFound")] {
        let map = client.map::<_, String>("job_map:text", [5, 4, 3, 2]).chunk(fixed(2));
        let error = map.reduce(fold).expect_err("it cannot be folded");
        assert_eq!(reason, error.failure.reason.name(), "{error}");
    }
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn the_command_line_reduces_too() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let input: String = (0..5000).map(|item| format!("{item}\n")).collect();
    let input = daemon.tmp().write("numbers", input);
    let input = input.to_str().expect("test paths are text");
    let words = ["map", "builtins:int", "--input", input, "--reduce", "operator:add"];
    assert_eq!("12497500\n", daemon.cli(words).expect_code(0).stdout);
    let words = ["map", "job_map:odd", "2", "4", "--reduce", "operator:add"];
    assert_eq!("", daemon.cli(words).expect_code(0).stdout);
    let failed = daemon.cli(["map", "job_map:text", "1", "-2", "--reduce", "job_map:join"]);
    let failed = failed.expect_code(1);
    assert_eq!("", failed.stdout);
    assert!(failed.stderr.contains("item 1: job_map:text raised"), "{}", failed.stderr);
    let bad = daemon.tmp().write("bad", "1\n2\n{\n");
    let bad = bad.to_str().expect("test paths are text");
    let failed = daemon.cli(["map", "builtins:int", "--input", bad, "--reduce", "operator:add"]);
    let failed = failed.expect_code(2);
    assert_eq!("", failed.stdout, "a part of the items has no result");
    assert!(failed.stderr.contains("item 2, line 3"), "{}", failed.stderr);
    let notes = Notes::new(&daemon, "folded");
    let item = format!("[{:?}, 1]", notes.text());
    for (fold, says) in [
        ("nosuch:x", "error: the fold nosuch:x: no module named 'nosuch'"),
        ("operator:nosuch", "error: the fold operator:nosuch: module 'operator' has no"),
    ] {
        let words = ["map", "--starmap", "job_map:noted", &item, &item, "--reduce", fold];
        let failed = daemon.cli(words).expect_code(2);
        assert!(failed.stderr.contains(says), "{}", failed.stderr);
        assert!(!failed.stderr.contains("item 0"), "{}", failed.stderr);
        let failed = daemon.command(words).args(["--json"]).run().expect_code(2);
        assert!(!failed.stderr.contains("index"), "{}", failed.stderr);
    }
    assert!(notes.times().is_empty(), "no item was run");
    let words = ["map", "math:exp", "1", "2", "--chunk=2", "--reduce", "math:sqrt"];
    let failed = daemon.cli(words).expect_code(2);
    let says = "error: bad arguments for math:exp: the fold math:sqrt: math.sqrt()";
    assert!(failed.stderr.contains(says), "{}", failed.stderr);
    for option in ["--unordered", "--index", "--resume=x", "--on-error=skip"] {
        daemon.cli(["map", "math:sqrt", "1", "--reduce", "operator:add", option]).expect_code(2);
    }
    oracle.judge(daemon);
}

#[test]
fn what_is_too_large_is_told_with_the_key_to_raise() {
    let daemon = Daemon::builder().pool("default", |pool| pool).daemon_key("payload", "1MiB");
    let daemon = daemon.start();
    let long = 2 << 20;
    let text = daemon.tmp().write("long", format!("\"{}\"\n", "x".repeat(long)));
    let text = text.to_str().expect("test paths are text");
    let repeat = format!("[\"x\", {long}]");
    for (words, code, says) in [
        (&["call", "operator:mul", "x", &long.to_string()][..], 1, "the result of operator:mul"),
        (&["map", "--starmap", "operator:mul", &repeat], 1, "item 0: the result of operator:mul"),
        (&["map", "builtins:len", "--input", text], 2, "item 0, line 1: it is longer than 1048576"),
    ] {
        let failed = daemon.cli(words).expect_code(code);
        for part in [says, "raise `payload` under [daemon]"] {
            assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
        }
        assert!(!failed.stderr.contains("attached"), "{}", failed.stderr);
    }
}

#[test]
fn what_folds_must_be_allowed_as_any_function() {
    let pool = |pool: clutch_tests::Pool| pool.allow(&["math:*", "operator:add"]);
    let daemon = Daemon::builder().pool("default", pool).start();
    let client = daemon.blocking();
    let map = || client.map::<_, f64>("math:sqrt", [1, 4, 9]);
    assert_eq!(Some(6.0), map().reduce("operator:add").expect("it is allowed"));
    let error = map().reduce("operator:mul").expect_err("it is not allowed");
    assert_eq!("NotAllowed", error.failure.reason.name());
}

#[test]
fn a_death_in_a_chunk_costs_no_item_that_had_not_begun() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let notes = Notes::new(&daemon, "death");
    let items = (0..40).map(|item| (notes.text(), item, 13, 99));
    let map = client.starmap::<_, i64>("job_map:dies_at", items).chunk(fixed(10));
    let results: Vec<_> = map.enumerated().collect();
    for (index, result) in &results {
        match result {
            Ok(square) => assert_eq!(Ok(index * index), u64::try_from(*square)),
            Err(failure) => {
                // It and those of its chunk that had ended, whose results died with their worker.
                assert!((10..=13).contains(index), "{index}: {failure}");
                assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
                assert_eq!(Some(13), failure.item);
                assert!(failure.to_string().contains("at item 13"), "{failure}");
            }
        }
    }
    assert_eq!(36, results.iter().filter(|(_, result)| result.is_ok()).count());
    let expected: BTreeMap<i64, usize> = (0..40).map(|item| (item, 1)).collect();
    assert_eq!(expected, notes.times(), "nothing runs twice unless that was asked for");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn with_a_retry_only_items_without_a_result_run_again() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let run = |name: &str, deaths: u32, chunk: Chunk| {
        let notes = Notes::new(&daemon, name);
        let items = (0..40).map(|item| (notes.text(), item, 13, deaths));
        let map = client.starmap::<_, i64>("job_map:dies_at", items).chunk(chunk);
        let map = map.retry(Retry::new(3).on_worker_died());
        let failed: Vec<_> = map.enumerated().filter(|(_, result)| result.is_err()).collect();
        (failed, notes.times())
    };
    // By itself each item is a call, so that no other is ever touched.
    let alone: BTreeMap<i64, usize> =
        (0..40).map(|item| (item, 1 + usize::from(item == 13))).collect();
    let (failed, times) = run("auto", 1, Chunk::Auto);
    assert!(failed.is_empty());
    assert_eq!(alone, times);
    // Those before the culprit had ended, but nobody was told what came of them.
    let chunk: BTreeMap<i64, usize> =
        (0..40).map(|item| (item, 1 + usize::from((10..=13).contains(&item)))).collect();
    let (failed, times) = run("once", 1, fixed(10));
    assert!(failed.is_empty());
    assert_eq!(chunk, times);
    let (failed, times) = run("always", 99, fixed(10));
    let [(13, Err(failure))] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((2, true), (failure.attempt, failure.quarantined), "{failure}");
    assert_eq!(chunk, times);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn an_input_that_grew_or_comes_from_elsewhere_is_gone_on_with() {
    let daemon = lone();
    let oracle = daemon.oracle();
    let notes = Notes::new(&daemon, "grown");
    notes.open_gate();
    let item = |number: i64| format!("[{:?}, {number}, -1]\n", notes.text());
    let lines = |items: &[i64]| items.iter().map(|number| item(*number)).collect::<String>();
    let journal = daemon.tmp().join("journal");
    let journal = journal.to_str().expect("test paths are text");
    let input = daemon.tmp().join("input");
    let from = |input: &str| {
        let words = ["map", "--starmap", "job_map:blocks_at", "--resume", journal, "--input"];
        daemon.command(words).args([input])
    };
    let file = |items: &[i64]| {
        std::fs::write(&input, lines(items)).expect("it can be written");
        from(input.to_str().expect("test paths are text")).run()
    };
    assert_eq!("1\n4\n", file(&[1, 2]).expect_code(0).stdout);
    assert_eq!("1\n4\n9\n", file(&[1, 2, 3]).expect_code(0).stdout, "it was appended to");
    let piped = from("-").stdin(lines(&[1, 2, 3, 4])).run().expect_code(0);
    assert_eq!("1\n4\n9\n16\n", piped.stdout);
    assert_eq!("1\n4\n9\n16\n25\n", file(&[1, 2, 3, 4, 5]).expect_code(0).stdout);
    for (items, says) in [
        (&[1, 2, 7, 4, 5, 6][..], "item 2, line 3: it cannot be resumed: another item"),
        (&[1, 2, 3, 4], "item 4 was finished"),
    ] {
        let refused = file(items).expect_code(2);
        assert_eq!("", refused.stdout);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
        assert!(refused.stderr.contains("another file for --resume"), "{}", refused.stderr);
    }
    let expected: BTreeMap<i64, usize> = (1..6).map(|item| (item, 1)).collect();
    assert_eq!(expected, notes.times(), "each was called once");
    oracle.judge(daemon);
}

/// A `clutch map --resume` under way.
struct Running(Child);

impl Running {
    fn start(daemon: &Daemon, input: &str, journal: &str, more: &[&str]) -> Running {
        let words =
            ["map", "--starmap", "job_map:blocks_at", "--input", input, "--resume", journal];
        let command = daemon.command(words).args(more);
        Running(command.spawn(Stdio::null(), Stdio::null(), Stdio::null()))
    }

    fn kill(mut self) {
        self.0.kill().expect("it is ours");
        command::wait(&mut self.0, 10 * SECOND).expect("it is dead");
    }
}

fn finished(journal: &str) -> usize {
    std::fs::read_to_string(journal).unwrap_or_default().lines().count().saturating_sub(1)
}

#[test]
fn a_command_line_that_was_killed_goes_on_where_it_was() {
    let daemon = lone();
    let oracle = daemon.oracle();
    let notes = Notes::new(&daemon, "killed");
    let input = notes.input(&daemon, 60, 40);
    let journal = daemon.tmp().join("journal");
    let journal = journal.to_str().expect("test paths are text");
    for chunk in ["--chunk=1", "--chunk=5"] {
        let running = Running::start(&daemon, &input, journal, &[chunk]);
        wait_for("it is at the one that blocks", 20 * SECOND, || {
            notes.times().contains_key(&40) && finished(journal) == 40
        });
        running.kill();
        wait_idle(&daemon);
    }
    let before = notes.times();
    notes.open_gate();
    let words = ["map", "--starmap", "job_map:blocks_at", "--input", &input, "--resume", journal];
    assert_eq!(squares(60), daemon.cli(words).expect_code(0).stdout, "as if nothing had happened");
    for (item, times) in notes.times() {
        match item {
            0..40 => assert_eq!(1, times, "item {item} was finished"),
            40 => assert_eq!(before[&40] + 1, times, "it was interrupted each time"),
            _ => assert_eq!(1, times, "item {item} had not begun"),
        }
    }
    let all = notes.times();
    assert_eq!(squares(60), daemon.cli(words).expect_code(0).stdout, "and again");
    assert_eq!(all, notes.times(), "without a call");
    let unordered = daemon.command(words).args(["--unordered"]).run().expect_code(0);
    let mut lines: Vec<i64> = unordered.stdout.lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!((0..60).map(|item| item * item).collect::<Vec<_>>(), lines);
    oracle.judge(daemon);
}

#[test]
fn a_worker_or_a_daemon_that_was_killed_is_no_reason_to_begin_anew() {
    let daemon = lone();
    let notes = Notes::new(&daemon, "worker");
    let input = notes.input(&daemon, 50, 20);
    let journal = daemon.tmp().join("journal");
    let journal = journal.to_str().expect("test paths are text");
    let is_there = |count| notes.times().get(&20) == Some(&count) && finished(journal) == 20;
    let mut running = Running::start(&daemon, &input, journal, &["--chunk=1"]);
    wait_for("it is at the one that blocks", 20 * SECOND, || is_there(1));
    process::kill(daemon.worker_pids("default")[0]);
    let status = command::wait(&mut running.0, 20 * SECOND).expect("it stops there");
    assert_eq!(Some(6), status.code());

    let mut running = Running::start(&daemon, &input, journal, &["--chunk=1"]);
    wait_for("it is there again", 20 * SECOND, || is_there(2));
    process::kill(daemon.pid());
    let status = command::wait(&mut running.0, 20 * SECOND).expect("there is nobody to ask");
    assert_eq!(Some(3), status.code());

    let daemon = lone();
    notes.open_gate();
    let words = ["map", "--starmap", "job_map:blocks_at", "--input", &input, "--resume", journal];
    assert_eq!(squares(50), daemon.cli(words).expect_code(0).stdout);
    for (item, times) in notes.times() {
        assert_eq!(if item == 20 { 3 } else { 1 }, times, "item {item}");
    }
}

#[test]
fn items_that_failed_or_were_skipped_are_told_from_those_that_were_not_tried() {
    let daemon = pair();
    let oracle = daemon.oracle();
    let journal = daemon.tmp().join("journal");
    let journal = journal.to_str().expect("test paths are text");
    let words = ["map", "job_map:text", "1", "-2", "3", "--resume", journal, "--on-error"];
    let skipping = daemon.command(words).args(["skip"]).run().expect_code(1);
    assert_eq!("\"1,\"\n\"3,\"\n", skipping.stdout);
    let again = daemon.command(words).args(["report"]).run().expect_code(1);
    assert_eq!(3, again.stdout.lines().count(), "what failed is tried again");
    let journal = daemon.tmp().join("odd");
    let journal = journal.to_str().expect("test paths are text");
    let words = ["map", "job_map:odd", "1", "2", "3", "4", "--index", "--resume", journal];
    let lines = "{\"index\":0,\"result\":1}\n{\"index\":2,\"result\":3}\n";
    assert_eq!(lines, daemon.cli(words).expect_code(0).stdout);
    let calls = daemon.counter("default", "accepted");
    assert_eq!(lines, daemon.cli(words).expect_code(0).stdout);
    assert_eq!(calls, daemon.counter("default", "accepted"));
    // Bad lines keep their places among those that are known.
    let input = daemon.tmp().write("lines", "1\n{\n3\n{\n5\n");
    let input = input.to_str().expect("test paths are text");
    let journal = daemon.tmp().join("lines.journal");
    let journal = journal.to_str().expect("test paths are text");
    let words = ["map", "job_map:odd", "--input", input, "--resume", journal, "--on-error=report"];
    let first = daemon.cli(words).expect_code(1).stdout;
    assert_eq!(first, daemon.cli(words).expect_code(1).stdout);
    assert_eq!(5, first.lines().count());
    oracle.judge(daemon);
}

#[test]
fn a_journal_belongs_to_one_job_and_one_command_line() {
    let daemon = lone();
    let oracle = daemon.oracle();
    let journal = daemon.tmp().join("journal");
    let journal = journal.to_str().expect("test paths are text");
    let input = daemon.tmp().write("input", "1\n4\n9\n");
    let input = input.to_str().expect("test paths are text");
    let words = ["map", "math:sqrt", "--input", input, "--resume", journal];
    daemon.cli(words).expect_code(0);
    let refuse = |words: &[&str], text: &str| {
        let output = daemon.command(words).run().expect_code(2);
        assert!(output.stderr.contains(text), "{}", output.stderr);
        assert_eq!("", output.stdout);
    };
    refuse(&["map", "math:exp", "--input", input, "--resume", journal], "function was");
    refuse(&["map", "math:sqrt", "1", "--resume", journal], "item 1 was finished, says");
    refuse(&["map", "math:sqrt", "--input", input, "--resume", input], "is no journal");
    std::fs::write(input, "1\n4\n8\n").expect("it can be written");
    refuse(&words, "item 2, line 3: it cannot be resumed: another item was finished");
    // What comes through a pipe is known when it comes.
    let journal = daemon.tmp().join("piped");
    let journal = journal.to_str().expect("test paths are text");
    let words = ["map", "math:sqrt", "--input", "-", "--resume", journal];
    let piped = |text: &str| daemon.command(words).stdin(text).run();
    assert_eq!("1.0\n2.0\n", piped("1\n4\n").expect_code(0).stdout);
    assert_eq!("1.0\n2.0\n3.0\n", piped("1\n4\n9\n").expect_code(0).stdout, "there may be more");
    let other = piped("1\n5\n9\n").expect_code(2);
    assert!(other.stderr.contains("another item was finished in its place"), "{}", other.stderr);

    let notes = Notes::new(&daemon, "two");
    let input = notes.input(&daemon, 3, 1);
    let journal = daemon.tmp().join("shared");
    let journal = journal.to_str().expect("test paths are text");
    let running = Running::start(&daemon, &input, journal, &["--chunk=1"]);
    wait_for("it is under way", 20 * SECOND, || notes.times().contains_key(&1));
    let words = ["map", "--starmap", "job_map:blocks_at", "--input", &input, "--resume", journal];
    let second = daemon.cli(words).expect_code(7);
    assert!(second.stderr.contains("is in use"), "{}", second.stderr);
    running.kill();
    wait_idle(&daemon);
    oracle.judge(daemon);
}
