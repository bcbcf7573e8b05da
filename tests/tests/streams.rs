//! Streams from real workers through a real daemon: in order, bounded by their reader, closed when
//! nobody wants them, and never ended well when something has broken.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clutch_client::{Failure, Hindrance, Reason, Retry, WorkerCall, blocking};
use clutch_protocol::failure::Cause;
use clutch_tests::{Bystander, Daemon, MILLISECOND, Pool, SECOND, kill, wait_for, wait_until};

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

type ItemStream<T> = blocking::ItemStream<T>;

fn daemon() -> Daemon {
    pool_of(|pool| pool)
}

fn pool_of(build: impl FnOnce(Pool) -> Pool) -> Daemon {
    Daemon::builder().pool("default", |pool| build(pool.limit("grace", "200ms"))).start()
}

fn window(items: u32) -> NonZeroU32 {
    NonZeroU32::new(items).unwrap()
}

/// What a stream gives: its items, and its failure.
#[track_caller]
fn gathered<T>(mut results: impl Iterator<Item = Result<T, Failure>>) -> (Vec<T>, Option<Failure>) {
    let mut items = Vec::new();
    while let Some(result) = results.next() {
        match result {
            Ok(item) => items.push(item),
            Err(failure) => {
                assert_eq!(0, results.count(), "a failure is the last word");
                return (items, Some(failure));
            }
        }
    }
    (items, None)
}

/// The file in which a generator tells what becomes of it.
struct Marks(PathBuf);

impl Marks {
    fn new(daemon: &Daemon, name: &str) -> Marks {
        Marks(daemon.tmp().join(name))
    }

    fn text(&self) -> String {
        self.0.to_str().expect("test paths are text").to_owned()
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// How many items were made.
    fn made(&self) -> usize {
        self.lines().iter().filter(|line| line.starts_with("made ")).count()
    }

    #[track_caller]
    fn wait_closed(&self) {
        wait_until("the generator is closed", PATIENCE, || {
            let lines = self.lines();
            if lines.last().is_some_and(|line| line == "closed") { Ok(()) } else { Err(lines) }
        });
    }
}

/// The one call that runs.
#[track_caller]
fn running(daemon: &Daemon, what: &str, is: impl Fn(&WorkerCall) -> bool) -> WorkerCall {
    wait_until(what, PATIENCE, || {
        let status = daemon.try_status()?;
        let workers = status.pools.into_iter().flat_map(|pool| pool.workers);
        let calls: Vec<_> = workers.flat_map(|worker| worker.calls).collect();
        calls.iter().find(|call| is(call)).cloned().ok_or_else(|| format!("{calls:?}"))
    })
}

fn count(client: &blocking::Client, items: u64) -> ItemStream<u64> {
    client.stream::<u64>("job_streams:count", (items,))
}

#[test]
fn items_come_in_order_and_the_return_value_behind_them() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    for (items, ahead) in [(0, 32), (1, 1), (500, 1), (5_000, 32), (5_000, 4096)] {
        let mut stream = count(&client, items).window(window(ahead));
        let (got, failure) = gathered(stream.by_ref());
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!((0..items).collect::<Vec<_>>(), got);
        assert_eq!((0..items).sum::<u64>(), stream.returned::<u64>().unwrap().unwrap());
    }
    let (items, failure) = gathered(client.stream::<u64>("job_streams:count_async", (100,)));
    assert!(failure.is_none(), "{failure:?}");
    assert_eq!((0..100).collect::<Vec<_>>(), items);
    assert_eq!(10_601, daemon.counter("default", "items_out"));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f068_what_ends_in_the_middle_is_told_behind_its_items_and_never_as_an_end() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let cases: [(&str, usize, &str); 3] = [
        ("job_streams:raises", 50, "Raised"),
        ("job_streams:dies", 50, "WorkerDied"),
        ("job_streams:unserializable", 1, "Unserializable"),
    ];
    for (function, items, reason) in cases {
        let args: &[usize] = if items == 1 { &[] } else { &[items] };
        let mut stream = client.stream::<u64>(function, args);
        let (got, failure) = gathered(stream.by_ref());
        assert_eq!(items, got.len(), "{function}");
        let failure = failure.expect("it has no good end");
        assert_eq!(reason, failure.reason.name(), "{failure}");
        assert!(failure.started && failure.attempt == 1, "{failure:?}");
        assert!(stream.returned::<u64>().is_none());
    }
    // What is no stream says so, and the worker goes on.
    let failure = client.stream::<u64>("job_streams:no_stream", ()).next().unwrap().unwrap_err();
    assert_eq!("BadArguments", failure.reason.name(), "{failure}");
    assert_eq!(7, client.call::<i64>("job_streams:no_stream", ()).unwrap());
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f068_a_reader_that_stops_reading_stops_the_producer_within_its_window() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let marks = Marks::new(&daemon, "marks");
    let client = daemon.blocking();
    let args = (marks.text(), 1_000_000);
    let mut stream = client.stream::<u64>("job_streams:marked", args).window(window(10));
    for expected in 0..23 {
        assert_eq!(expected, stream.next().unwrap().unwrap());
    }
    // The last credit was given at the twentieth: 10 at first, and 5 each time 5 were taken.
    let call = running(&daemon, "it waits for its reader", |call| call.waits_for_reader);
    assert_eq!((Some(30), "running"), (call.items, &*call.state));
    assert_eq!(30, marks.made(), "no item is made before it may be sent");
    let shown = daemon.cli(["workers"]).expect_code(0).stdout;
    assert!(shown.contains("30 items sent, waits for its reader"), "{shown}");
    let shown = daemon.cli(["status"]).expect_code(0).stdout;
    assert!(shown.contains("30 items sent, waits for its reader"), "{shown}");
    // The connection goes on beside it, and so does the daemon.
    client.ping().unwrap();
    drop(stream);
    marks.wait_closed();
    assert_eq!(30, marks.made());
    daemon.wait_ready();
    assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).unwrap());
    assert_eq!(0, daemon.status().pools[0].counters.get("restarts").copied().unwrap_or(0));
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f068_a_reader_that_goes_away_closes_the_generator() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let pids = daemon.worker_pids("default");
    for function in ["marked", "marked_async"] {
        let marks = Marks::new(&daemon, function);
        let client = daemon.blocking();
        let name = format!("job_streams:{function}");
        let mut stream = client.stream::<u64>(&name, (marks.text(), 1_000_000));
        assert_eq!(0, stream.next().unwrap().unwrap());
        drop((stream, client));
        marks.wait_closed();
        daemon.wait_ready();
    }
    // One that computes between its items is interrupted like any call.
    let marks = Marks::new(&daemon, "stuck");
    let client = daemon.blocking();
    let mut stream = client.stream::<u64>("job_streams:stuck", (marks.text(), 3));
    assert_eq!(3, stream.by_ref().take(3).filter(Result::is_ok).count());
    drop((stream, client));
    marks.wait_closed();
    daemon.wait_ready();
    assert_eq!(pids, daemon.worker_pids("default"), "no worker was lost to that");
    oracle.judge(daemon);
}

#[test]
fn a_dead_worker_is_told_at_once_and_the_stream_is_not_tried_again() {
    let daemon = pool_of(|pool| pool.workers(2));
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let retry = Retry::new(5).on_worker_died().on_raised("ValueError");
    let request = |function: &str| client.request(function).retry(retry.clone());
    let request_wait = request("job_streams:pid_and_wait").args((1_000_000,));
    let mut stream = request_wait.stream::<u64>().window(window(8));
    let victim = u32::try_from(stream.next().unwrap().unwrap()).unwrap();
    running(&daemon, "it waits", |call| call.waits_for_reader);
    kill(victim);
    let begun = Instant::now();
    let (items, failure) = gathered(stream.by_ref());
    assert!(begun.elapsed() < 5 * SECOND, "{:?}", begun.elapsed());
    assert!(items.len() >= 7, "what was sent comes first: {items:?}");
    let failure = failure.expect("its worker is dead");
    let Reason::WorkerDied(certificate) = &failure.reason else { panic!("{failure}") };
    assert_eq!((victim, Cause::Signalled), (certificate.pid, certificate.cause));
    assert_eq!((1, true, false), (failure.attempt, failure.started, failure.quarantined));
    // Nor is one that raises behind an item; one that does before the first is.
    let (_, failure) = gathered(request("job_streams:raises").args((1,)).stream::<u64>());
    assert_eq!(1, failure.unwrap().attempt);
    let (_, failure) = gathered(request("job_streams:raises").args((0,)).stream::<u64>());
    assert_eq!(5, failure.unwrap().attempt);
    daemon.wait_ready();
    drop((stream, client));
    oracle.judge(daemon);
}

#[test]
fn a_stream_that_waited_gets_its_credit_and_others_beside_it() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let marks = Marks::new(&daemon, "go");
    let client = daemon.blocking();
    let mut first = client.stream::<u64>("job_streams:steps", (marks.text(), 1));
    std::fs::write(&marks.0, "").unwrap();
    let second = {
        let client = client.clone();
        std::thread::spawn(move || gathered(count(&client, 100)))
    };
    let other = std::thread::spawn(move || first.next().unwrap().unwrap());
    wait_for("both are there", PATIENCE, || {
        daemon.status().pools.iter().any(|pool| (pool.running, pool.queued) == (1, 1))
    });
    std::fs::write(&marks.0, "go\n").unwrap();
    assert_eq!(0, other.join().unwrap());
    let (items, failure) = second.join().unwrap();
    assert_eq!((100, true), (items.len(), failure.is_none()), "{failure:?}");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn the_time_of_a_stream_is_its_whole_life_and_says_who_was_waited_for() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let marks = Marks::new(&daemon, "marks");
    let request = client.request("job_streams:marked").args((marks.text(), 1_000_000));
    let mut stream = request.timeout(500 * MILLISECOND).stream::<u64>().window(window(4));
    assert_eq!(0, stream.next().unwrap().unwrap());
    marks.wait_closed();
    let (items, failure) = gathered(stream.by_ref());
    let failure = failure.expect("it was not read in time");
    let Reason::TimedOut { hindrance, .. } = &failure.reason else { panic!("{failure}") };
    assert_eq!(Hindrance::Reader { items: 4 }, *hindrance);
    assert!(failure.to_string().contains("waited for its reader after 4 items"), "{failure}");
    assert_eq!(vec![1, 2, 3], items);
    // One that computes is late like any other call.
    let request = client.request("job_streams:stuck").args((marks.text(), 2));
    let (items, failure) = gathered(request.timeout(500 * MILLISECOND).stream::<u64>());
    let failure = failure.unwrap();
    let Reason::TimedOut { hindrance, stack, .. } = failure.reason else { panic!("{failure}") };
    assert_eq!((2, Hindrance::Work), (items.len(), hindrance));
    assert!(stack.contains("in stuck"), "{stack}");
    daemon.wait_ready();
    drop((stream, client));
    oracle.judge(daemon);
}

#[test]
fn an_operator_can_cancel_a_stream_that_waits() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let marks = Marks::new(&daemon, "marks");
    let args = (marks.text(), 1_000_000);
    let mut stream = client.stream::<u64>("job_streams:marked", args).window(window(4));
    assert_eq!(0, stream.next().unwrap().unwrap());
    let call = running(&daemon, "it waits", |call| call.waits_for_reader).call.to_string();
    daemon.cli(["cancel", &call]).expect_code(0);
    let (items, failure) = gathered(stream.by_ref());
    assert_eq!((3, Reason::Cancelled), (items.len(), failure.unwrap().reason));
    marks.wait_closed();
    let told = daemon.cli(["explain", &call]).expect_code(0).stdout;
    assert!(told.contains("4 items"), "{told}");
    daemon.wait_ready();
    drop((stream, client));
    oracle.judge(daemon);
}

#[test]
fn long_streams_of_long_items_cost_no_memory_that_grows() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.workers(2))
        .pool("quiet", |pool| pool)
        .start();
    let oracle = daemon.oracle().memory_budget(24 << 20);
    let bystander = Bystander::start(&daemon, "quiet");
    let client = daemon.blocking();
    // 100 MB, through a window of half a megabyte.
    let mut read = 0;
    for item in client.stream::<String>("job_streams:big", (5_000, 20_000)) {
        read += item.unwrap().len();
    }
    assert_eq!(100_000_000, read);
    bystander.assert_unharmed(5 * SECOND);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_daemon_that_dies_leaves_neither_a_good_end_nor_a_python() {
    let mut daemon = daemon();
    let marks = Marks::new(&daemon, "marks");
    let client = daemon.blocking();
    let mut stream = client.stream::<u64>("job_streams:marked", (marks.text(), 1_000_000));
    assert_eq!(0, stream.next().unwrap().unwrap());
    kill(daemon.pid());
    let begun = Instant::now();
    let (_, failure) = gathered(stream.by_ref());
    assert!(begun.elapsed() < 5 * SECOND);
    assert_eq!("Disconnected", failure.unwrap().reason.name());
    daemon.wait_exit(PATIENCE);
    daemon.assert_swept(PATIENCE);
}
