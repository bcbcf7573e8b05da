//! Streams from real workers through a real daemon: in order, bounded by their reader, closed when
//! nobody wants them, and never ended well when something has broken.

use std::num::NonZeroU32;
use std::path::PathBuf;

use clutch_client::{Client, Failure, Reason, blocking};
use clutch_tests::{Daemon, SECOND, wait_until};

fn daemon() -> Daemon {
    Daemon::builder().pool("default", |pool| pool.limit("grace", "200ms")).start()
}

fn window(items: u32) -> NonZeroU32 {
    NonZeroU32::new(items).unwrap()
}

/// What a stream gives: its items, and its failure.
fn gathered<T>(results: impl Iterator<Item = Result<T, Failure>>) -> (Vec<T>, Option<Failure>) {
    let mut items = Vec::new();
    let mut results = results;
    for result in results.by_ref() {
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

#[test]
fn items_come_in_order_and_the_return_value_behind_them() {
    let daemon = daemon();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    for (items, ahead) in [(0, 32), (1, 1), (1000, 1), (10_000, 32)] {
        let mut stream = client.stream::<u64>("job_streams:count", (items,)).window(window(ahead));
        let (got, failure) = gathered(stream.by_ref());
        assert!(failure.is_none(), "{failure:?}");
        assert_eq!((0..items).collect::<Vec<_>>(), got);
        assert_eq!((0..items).sum::<u64>(), stream.returned::<u64>().unwrap().unwrap());
    }
    drop(client);
    oracle.judge(daemon);
}
