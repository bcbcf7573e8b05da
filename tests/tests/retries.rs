//! Calls that are tried again: after what, how often, when, with which answer in the end; and which
//! of the calls that wait goes first.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clutch_client::{Failure, Reason, Retry, blocking};
use clutch_tests::{Bystander, Daemon, MILLISECOND, SECOND, wait_for};

/// A daemon with one pool of one worker, which is not replaced for taking an interrupt slowly on a
/// machine that is busy.
fn lonely() -> Daemon {
    Daemon::builder().pool("default", |pool| pool.limit("interrupt", "20s")).start()
}

/// The file in which `job_retry` counts.
struct Count(PathBuf);

impl Count {
    fn new(daemon: &Daemon, name: &str) -> Count {
        Count(daemon.tmp().join(name))
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("test paths are text")
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How long it was from each attempt to the next.
    fn gaps(&self) -> Vec<Duration> {
        let at = |line: &String| line.trim_start_matches("tried ").parse().expect("a time");
        let times: Vec<f64> = self.lines().iter().map(at).collect();
        times.windows(2).map(|pair| Duration::from_secs_f64(pair[1] - pair[0])).collect()
    }
}

/// Calls a function of `job_retry` that is good at the attempt it is told.
fn good_at(
    client: &blocking::Client,
    function: &str,
    count: &Count,
    attempt: u32,
    retry: Retry,
) -> Result<(u32, u32, u64), Box<Failure>> {
    let request = client.request(format!("job_retry:{function}")).args((count.text(), attempt));
    request.retry(retry).timeout(30 * SECOND).send().map_err(Box::new)
}

#[test]
fn a_call_whose_worker_died_is_tried_again_where_that_was_asked_for() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let count = Count::new(&daemon, "once");
    let retry = Retry::new(3).on_worker_died();
    let (tried, attempt, first) = good_at(&client, "dies_until", &count, 2, retry).expect("good");
    assert_eq!((2, 2), (tried, attempt));
    assert_eq!(1, daemon.counter("default", "deaths.signalled"));

    // The arguments of a call that may be tried again are kept, however long they are.
    let count = Count::new(&daemon, "long");
    let long = "x".repeat(3 << 20);
    let request = client.request("job_retry:dies_until").args((count.text(), 2, long));
    let request = request.retry(Retry::new(2).on_worker_died());
    let (tried, _, second): (u32, u32, u64) = request.send().expect("good the second time");
    assert_eq!(2, tried);
    assert!(second > first, "{first} {second}");

    // Where nobody asked for it, or for something else, there is one attempt.
    for retry in [Retry::new(1), Retry::new(3).on_raised("OSError")] {
        let count = Count::new(&daemon, "never");
        let failure = good_at(&client, "dies_until", &count, 2, retry).expect_err("one attempt");
        assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
        assert_eq!((1, true, false), (failure.attempt, failure.started, failure.quarantined));
        assert_eq!(1, count.lines().len());
        std::fs::remove_file(count.0).expect("it was written");
    }
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f105_a_call_that_kills_every_worker_is_quarantined_and_nobody_else_notices() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let bystander = Bystander::start(&daemon, "default");
    let client = daemon.blocking();
    let count = Count::new(&daemon, "poison");
    let retry = Retry::new(5).on_worker_died();
    let failure = good_at(&client, "dies_until", &count, 99, retry).expect_err("it kills");
    assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
    assert_eq!((2, true, true), (failure.attempt, failure.started, failure.quarantined));
    assert!(
        failure.to_string().ends_with("; not tried again: it has killed 2 workers"),
        "{failure}"
    );
    assert_eq!(2, count.lines().len(), "{:?}", count.lines());
    assert_eq!(1, daemon.counter("default", "quarantined"));

    let words = ["call", "--json", "--retry=5", "--retry-on=worker_died", "job_retry:dies_until"];
    let count = Count::new(&daemon, "poison-cli");
    let output = daemon.command(words).args([count.text(), "99"]).run().expect_code(6);
    let json: serde_json::Value = serde_json::from_str(&output.stderr).expect("one JSON object");
    assert_eq!((Some(true), Some(2)), (json["quarantined"].as_bool(), json["attempt"].as_u64()));
    let words = ["call", "--retry=5", "--retry-on=worker_died", "job_retry:dies_until"];
    let output = daemon.command(words).args([count.text(), "99"]).run().expect_code(6);
    assert!(output.stderr.contains("it has killed 2 workers"), "{}", output.stderr);
    assert_eq!(6, daemon.counter("default", "deaths.signalled"));
    bystander.assert_unharmed(5 * SECOND);
    daemon.wait_ready();
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn exceptions_are_tried_again_by_name_or_base_class_and_with_growing_waits() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let before = daemon.worker_pids("default");
    for name in ["job_retry.Busy", "job_retry.Transient", "Exception"] {
        let count = Count::new(&daemon, name);
        let retry = Retry::new(3).on_raised("ValueError").on_raised(name);
        let retry = retry.backoff(100 * MILLISECOND);
        let (tried, attempt, _) = good_at(&client, "raises_until", &count, 3, retry).expect("good");
        assert_eq!((3, 3), (tried, attempt), "{name}");
        let gaps = count.gaps();
        assert!(gaps[0] >= 100 * MILLISECOND && gaps[1] >= 200 * MILLISECOND, "{gaps:?}");
        assert!(gaps[0] < 5 * SECOND, "{gaps:?}");
    }
    assert_eq!(6, daemon.counter("default", "retries.raised"));

    let count = Count::new(&daemon, "in vain");
    let retry = Retry::new(4).on_raised("job_retry.Transient");
    let failure = good_at(&client, "raises_until", &count, 99, retry).expect_err("never good");
    let Reason::Raised(exception) = &failure.reason else { panic!("{failure}") };
    assert_eq!("job_retry.Busy", exception.type_name);
    assert_eq!((4, 4, true), (failure.attempt, count.lines().len(), failure.started));
    assert!(failure.to_string().ends_with("; that was attempt 4"), "{failure}");
    assert!(!failure.quarantined, "{failure}");

    let count = Count::new(&daemon, "another");
    let retry = Retry::new(4).on_raised("Transient").on_worker_died();
    let failure = good_at(&client, "raises_until", &count, 2, retry).expect_err("another name");
    assert_eq!((1, 1), (failure.attempt, count.lines().len()), "{failure}");
    assert_eq!(before, daemon.worker_pids("default"), "no worker is to blame");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn an_attempt_that_takes_too_long_is_given_up_and_tried_again() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let before = daemon.worker_pids("default");
    let count = Count::new(&daemon, "slow");
    let retry = Retry::new(5).on_timed_out(200 * MILLISECOND);
    let begun = Instant::now();
    let (tried, attempt, _) = good_at(&client, "sleeps_until", &count, 4, retry).expect("good");
    assert_eq!((4, 4), (tried, attempt));
    assert!(begun.elapsed() >= 600 * MILLISECOND, "{:?}", begun.elapsed());
    assert_eq!(before, daemon.worker_pids("default"), "it could be interrupted");

    // The last attempt's end is the call's, and the call's own deadline is above them all.
    let count = Count::new(&daemon, "slower");
    let retry = || Retry::new(3).on_timed_out(100 * MILLISECOND);
    let failure = good_at(&client, "sleeps_until", &count, 99, retry()).expect_err("too slow");
    assert!(matches!(failure.reason, Reason::TimedOut { timeout_ms: 100, .. }), "{failure}");
    assert_eq!((3, 3), (failure.attempt, count.lines().len()), "{failure}");
    assert!(failure.phases.run_us >= 290_000, "{failure}");
    daemon.wait_ready();
    let count = Count::new(&daemon, "slowest");
    let request = client.request("job_retry:sleeps_until").args((count.text(), 99));
    let request = request.retry(Retry::new(100).on_timed_out(100 * MILLISECOND));
    let failure = request.timeout(450 * MILLISECOND).send::<()>().expect_err("too slow");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    assert!((2..=5).contains(&failure.attempt), "{failure}");
    daemon.wait_ready();
    drop(client);
    oracle.judge(daemon);
}

/// How often a pool's calls were tried again, after what.
fn retries(daemon: &Daemon) -> [u64; 3] {
    ["timed_out", "worker_died", "raised"]
        .map(|after| daemon.counter("default", &format!("retries.{after}")))
}

#[test]
fn every_attempt_that_is_followed_by_another_is_counted_and_told() {
    let pool = |pool: clutch_tests::Pool| pool.limit("interrupt", "100ms").limit("grace", "300ms");
    let daemon = Daemon::builder().pool("default", pool).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    // Its worker does not give the first attempt up, and is replaced.
    let count = Count::new(&daemon, "clings");
    let retry = Retry::new(2).on_timed_out(200 * MILLISECOND);
    let (tried, attempt, call) = good_at(&client, "clings_until", &count, 2, retry).expect("good");
    assert_eq!((2, 2), (tried, attempt));
    assert_eq!([1, 0, 0], retries(&daemon));
    let life = client.explain(call).expect("it is known");
    let retried = life.steps.iter().filter(|step| step.what == "retried").count();
    assert_eq!(1, retried, "{:?}", life.steps);

    let count = Count::new(&daemon, "dies");
    let retry = Retry::new(2).on_worker_died();
    good_at(&client, "dies_until", &count, 2, retry).expect("good");
    assert_eq!([1, 1, 0], retries(&daemon));
    assert_eq!(0, daemon.counter("default", "calls_moved"));
    daemon.wait_ready();
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn an_attempt_that_ends_too_late_for_another_is_not_counted_as_tried_again() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let count = Count::new(&daemon, "slowly");
    let request = client.request("job_retry:gives_up_slowly").args((count.text(), 0.8));
    let retry = Retry::new(2).on_timed_out(500 * MILLISECOND).backoff(SECOND);
    // When the first attempt has had its time there is time left for a second one, but not when
    // its worker has given it up.
    let failure = request.retry(retry).timeout(2 * SECOND).send::<()>().expect_err("too slow");
    assert!(matches!(failure.reason, Reason::TimedOut { .. }), "{failure}");
    assert_eq!((1, 1), (failure.attempt, count.lines().len()), "{failure}");
    assert_eq!([0, 0, 0], retries(&daemon));
    daemon.wait_ready();
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_waits_for_its_next_attempt_can_be_cancelled() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be built").block_on(async {
        let client = daemon.client().await;
        let count = Count::new(&daemon, "waits");
        let request = client.request("job_retry:raises_until").args((count.text().to_owned(), 99));
        let retry = Retry::new(2).on_raised("job_retry.Busy").backoff(60 * SECOND);
        let call = tokio::spawn(request.retry(retry).timeout(120 * SECOND).send::<()>());
        let end = Instant::now() + 10 * SECOND;
        while client.status().await.expect("it answers").pools[0].counters.get("retries.raised")
            != Some(&1)
        {
            assert!(Instant::now() < end, "it is not tried again");
        }
        // Its worker is free meanwhile.
        assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).await.expect("it is free"));
        call.abort();
        let _ = call.await;
        assert_eq!(2.0, client.call::<f64>("math:sqrt", (4,)).await.expect("it is free"));
        assert_eq!(1, count.lines().len());
    });
    wait_for("it was counted", 5 * SECOND, || daemon.counter("default", "answered.Cancelled") == 1);
    let pool = daemon.status().pools.remove(0);
    assert_eq!((0, 0), (pool.queued, pool.running));
    oracle.judge(daemon);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_runs() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let ran = daemon.counter("default", "answered.ok");
    let client = daemon.blocking();
    for retry in [
        Retry::new(0),
        Retry::new(101).on_worker_died(),
        Retry::new(2),
        Retry::new(2).on_raised("no name"),
        Retry::new(2).on_worker_died().backoff(3601 * SECOND),
    ] {
        let failure = client.request("math:sqrt").args((9,)).retry(retry).send::<f64>();
        let failure = failure.expect_err("it makes no sense");
        assert!(matches!(failure.reason, Reason::BadArguments { .. }), "{failure}");
    }
    // The daemon does not rely on its clients for that.
    let mut raw = daemon.raw();
    let retry = clutch_protocol::message::Retry {
        attempts: 1_000_000,
        on: clutch_protocol::message::RetryOn::default(),
        backoff_ms: 0,
        attempt_timeout_ms: 0,
    };
    raw.say(&clutch_tests::forge::call_again(7, "math:sqrt", "[9]", Some(retry)));
    let failure = raw.finish(7).failure();
    assert!(failure.to_string().contains("1 to 100 attempts"), "{failure}");
    let output = daemon.cli(["call", "--retry=3", "math:sqrt", "9"]).expect_code(2);
    assert!(output.stderr.contains("--retry-on"), "{}", output.stderr);
    let words = ["map", "--retry=3", "--retry-on=raised:A", "--chunk=2", "math:sqrt", "9"];
    let output = daemon.cli(words).expect_code(2);
    assert!(output.stderr.contains("--chunk 1"), "{}", output.stderr);
    assert_eq!(ran, daemon.counter("default", "answered.ok"));
    drop((client, raw));
    oracle.judge(daemon);
}

#[test]
fn items_of_a_map_are_tried_again_each_for_itself() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let path = |name: &str| daemon.tmp().join(name).to_str().expect("it is text").to_owned();
    let names: Vec<String> = (0..20).map(|number| format!("item-{number}")).collect();
    let items: Vec<String> = names.iter().map(|name| path(name)).collect();
    let map = client.map::<_, String>("job_retry:first_time_fails", items);
    let retry = Retry::new(2).on_raised("job_retry.Transient");
    let results: Vec<String> = map.retry(retry).priority(1).collect().expect("all are good");
    assert_eq!(names, results);
    assert_eq!(20, daemon.counter("default", "retries.raised"));

    let lines: Vec<String> = (0..5).map(|n| format!("\"{}\"", path(&format!("cli-{n}")))).collect();
    let input = daemon.tmp().write("items", lines.join("\n"));
    let words = ["map", "--retry=2", "--retry-on=raised:job_retry.Busy", "--priority=-3"];
    let words = daemon.command(words).args(["job_retry:first_time_fails", "--input"]);
    let output = words.args([input.to_str().expect("it is text")]).run().expect_code(0);
    assert_eq!("\"cli-0\"\n\"cli-1\"\n\"cli-2\"\n\"cli-3\"\n\"cli-4\"\n", output.stdout);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn higher_priorities_go_first_and_equals_in_their_order() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let order = Count::new(&daemon, "order");
    let blocker = daemon.blocking();
    let blocker = std::thread::spawn(move || blocker.call::<i64>("bulk:nap", (1.0, 0)).is_ok());
    wait_for("the worker is busy", 10 * SECOND, || daemon.status().pools[0].running == 1);
    let mut waiting = Vec::new();
    for (index, (priority, text)) in
        [(0, "third"), (-7, "last"), (5, "first"), (0, "fourth"), (5, "second")]
            .into_iter()
            .enumerate()
    {
        let client = daemon.blocking();
        let args = (order.text().to_owned(), text);
        waiting.push(std::thread::spawn(move || {
            client.request("job_retry:note").args(args).priority(priority).send::<()>().is_ok()
        }));
        wait_for("it waits", 10 * SECOND, || daemon.status().pools[0].queued == index as u64 + 1);
    }
    for thread in waiting {
        assert!(thread.join().expect("no panic"));
    }
    assert!(blocker.join().expect("no panic"));
    assert_eq!(["first", "second", "third", "fourth", "last"], order.lines()[..]);
    oracle.judge(daemon);
}
