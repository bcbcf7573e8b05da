//! Streams that calls read from their callers, by both clients: pulled as they are asked for, in
//! both directions at once, and broken off so that everybody hears why.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use clutch_client::{Client, Codec, Feed, Reason, Retry, blocking};
use clutch_tests::{Daemon, Pool, SECOND, kill, wait_for};

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn pool_of(build: impl FnOnce(Pool) -> Pool) -> Daemon {
    Daemon::builder().pool("default", |pool| build(pool.limit("grace", "200ms"))).start()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime can be built").block_on(future)
}

/// Numbers without end, and how many were pulled.
fn counted() -> (Feed, Arc<AtomicU64>) {
    let pulled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&pulled);
    let numbers = std::iter::repeat_with(move || counter.fetch_add(1, Ordering::SeqCst));
    (Feed::new(numbers), pulled)
}

#[test]
fn a_call_reads_what_its_caller_pulls() {
    let daemon = pool_of(|pool| pool);
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    for items in [0, 1, 5_000_u64] {
        let wanted = ((0..items).sum::<u64>(), items);
        let feed = Feed::new(0..items);
        assert_eq!(wanted, client.call::<(u64, u64)>("job_streams:total", (feed,)).unwrap());
        let feed = Feed::new(0..items);
        let sum = client.call::<(u64, u64)>("job_streams:total_async", (feed,));
        assert_eq!(wanted, sum.unwrap());
        block_on(async {
            let client = Client::connect(daemon.socket()).await.unwrap();
            let feed = Feed::from_stream(futures_util::stream::iter(0..items));
            let sum = client.call::<(u64, u64)>("job_streams:total", (feed,)).await;
            assert_eq!(wanted, sum.unwrap());
        });
    }
    // What it does not ask for is not pulled.
    let (feed, pulled) = counted();
    let args = (feed, 3);
    assert_eq!(vec![0, 1, 2], client.call::<Vec<u64>>("job_streams:first", args).unwrap());
    let pulled = pulled.load(Ordering::SeqCst);
    assert!(pulled <= 67, "{pulled} were pulled for three");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn both_directions_flow_at_once_and_neither_is_kept() {
    let daemon = pool_of(|pool| pool);
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let feed = Feed::new(0..2_000_u64);
    let mut stream = client.stream::<u64>("job_streams:doubled", (feed,));
    for expected in 0..2_000 {
        assert_eq!(2 * expected, stream.next().unwrap().unwrap());
    }
    assert!(stream.next().is_none());
    assert_eq!("doubled", stream.returned::<String>().unwrap().unwrap());
    block_on(async {
        let client = Client::connect(daemon.socket()).await.unwrap();
        let (feed, pulled) = counted();
        let mut stream = client.stream::<u64>("job_streams:doubled", (feed,));
        for expected in 0..500 {
            assert_eq!(2 * expected, stream.next().await.unwrap().unwrap());
        }
        let pulled = pulled.load(Ordering::SeqCst);
        assert!(pulled <= 500 + 32 + 65, "{pulled} were pulled for 500");
        drop(stream);
        client.ping().await.unwrap();
        let two = (Feed::new(0..100), Feed::new(100..200));
        let pairs = client.stream::<(u64, u64)>("job_streams:zipped", two);
        let pairs: Vec<_> = pairs.collect().await.unwrap();
        assert_eq!((0..100).zip(100..200).collect::<Vec<_>>(), pairs);
    });
    daemon.wait_ready();
    drop(stream);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn what_breaks_off_is_told_to_the_function() {
    let daemon = pool_of(|pool| pool);
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let items = [Ok(1), Ok(2), Err("the disk is gone")];
    let failure = client.call::<(u64, u64)>("job_streams:total", (Feed::fallible(items),));
    let failure = failure.unwrap_err();
    let Reason::Raised(raised) = &failure.reason else { panic!("{failure}") };
    assert_eq!("clutch.StreamFailed", raised.type_name);
    assert!(raised.message.contains("the disk is gone"), "{}", raised.message);
    block_on(async {
        let client = Client::connect(daemon.socket()).await.unwrap();
        let items = futures_util::stream::iter([Ok(1), Err("no more")]);
        let feed = Feed::from_fallible_stream(items);
        let failure = client.call::<(u64, u64)>("job_streams:total", (feed,)).await.unwrap_err();
        assert!(failure.to_string().contains("no more"), "{failure}");
        // A source that never has an item leaves the call to its timeout, and to a drop.
        let never = Feed::from_stream(futures_util::stream::pending::<u64>());
        let request = client.request("job_streams:total").args((never,));
        let late = request.timeout(SECOND / 2).send::<(u64, u64)>().await.unwrap_err();
        assert_eq!("TimedOut", late.reason.name());
    });
    // What cannot be fed is said before anything is sent.
    let feed = Feed::new(0..3);
    let again = feed.clone();
    client.call::<(u64, u64)>("job_streams:total", (feed,)).unwrap();
    let refused = |failure: clutch_client::Failure, why: &str| {
        assert!(matches!(failure.reason, Reason::BadArguments { .. }), "{failure}");
        assert!(!failure.started && failure.to_string().contains(why), "{failure}");
    };
    let total = |args: (Feed,)| client.request("job_streams:total").args(args);
    refused(total((again,)).send::<(u64, u64)>().unwrap_err(), "can be sent once");
    let json = total((Feed::new(0..3),)).codec(Codec::Json);
    refused(json.send::<(u64, u64)>().unwrap_err(), "in the codec Plain");
    let stream = Feed::from_stream(futures_util::stream::iter(0..3));
    refused(total((stream,)).send::<(u64, u64)>().unwrap_err(), "async client");
    daemon.wait_ready();
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_dies_after_it_has_read_is_not_followed_by_another() {
    let daemon = pool_of(|pool| pool);
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let request = client.request("job_streams:dies_of").args((Feed::new(0..10),));
    let retry = Retry::new(5).on_worker_died();
    let failure = request.retry(retry).send::<()>().unwrap_err();
    assert_eq!("WorkerDied", failure.reason.name(), "{failure}");
    assert_eq!((1, true), (failure.attempt, failure.started));
    daemon.wait_ready();
    // Nor does one that is killed while it waits leave anything behind.
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let never = Feed::from_stream(futures_util::stream::poll_fn(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Poll::<Option<u64>>::Pending
    }));
    let socket = daemon.socket().to_owned();
    let waiting = std::thread::spawn(move || {
        block_on(async {
            let client = Client::connect(&socket).await.unwrap();
            client.call::<(u64, u64)>("job_streams:total", (never,)).await.unwrap_err()
        })
    });
    wait_for("it asks for items", PATIENCE, || asked.load(Ordering::SeqCst) > 0);
    kill(daemon.wait_runs("job_streams:total"));
    assert_eq!("WorkerDied", waiting.join().unwrap().reason.name());
    daemon.wait_ready();
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn a_worker_that_does_not_read_costs_the_daemon_no_memory() {
    let daemon = pool_of(|pool| pool);
    let oracle = daemon.oracle().memory_budget(40 << 20);
    let go = daemon.tmp().join("go");
    let path = go.to_str().unwrap().to_owned();
    let pulled = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&pulled);
    let client = daemon.blocking();
    // Lists are not attached: 2 MB each.
    let texts = std::iter::repeat_with(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        vec!["x".repeat(1000); 2000]
    });
    let reading = std::thread::spawn({
        let client = client.clone();
        move || {
            let args = (Feed::new(texts.take(60)), path);
            client.call::<Vec<usize>>("job_streams:lengths", args).map_err(Box::new)
        }
    });
    wait_for("it does not read", PATIENCE, || pulled.load(Ordering::SeqCst) >= 2);
    assert!(pulled.load(Ordering::SeqCst) < 60);
    std::fs::write(&go, "").unwrap();
    assert_eq!(vec![2000; 60], reading.join().unwrap().unwrap());
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn threads_and_loops_and_interpreters_are_fed_alike() {
    for (key, lanes) in [("threads", 3), ("async", 3)] {
        let daemon = pool_of(|pool| pool.workers(1).key(key, lanes));
        let oracle = daemon.oracle();
        let client = daemon.blocking();
        let total = if key == "async" { "job_streams:total_async" } else { "job_streams:total" };
        std::thread::scope(|scope| {
            for _ in 0..3 {
                let client: &blocking::Client = &client;
                scope.spawn(move || {
                    let sum = client.call::<(u64, u64)>(total, (Feed::new(0..500_u64),));
                    assert_eq!((500 * 499 / 2, 500), sum.unwrap());
                    let items = client.stream::<u64>("job_streams:count_async", (500,));
                    let items: Result<Vec<u64>, _> = items.collect();
                    assert_eq!((0..500).collect::<Vec<_>>(), items.unwrap());
                });
            }
        });
        drop(client);
        oracle.judge(daemon);
    }
}
