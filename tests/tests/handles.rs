//! Values that are put with the daemon once and used in many calls, from the client through the
//! daemon to real workers: one memory for all of them, and nothing of it when nobody has it.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use clutch_client::{Chunk, Client, Reason, Ref, Retry, Tensor};
use clutch_tests::{Builder, Daemon, wait_for};

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder() -> Builder {
    Daemon::builder().pool("default", |pool| pool.workers(2).limit("grace", "200ms"))
}

fn numbers(count: u32) -> Tensor {
    Tensor::from((0..count).map(f64::from).collect::<Vec<_>>())
}

/// Waits until the daemon keeps nothing.
fn wait_for_nothing(daemon: &Daemon) {
    wait_for("the daemon to keep nothing", PATIENCE, || {
        let status = daemon.status().daemon;
        (status.handles, status.handle_bytes, status.handle_descriptors) == (0, 0, 0)
    });
}

#[test]
fn one_memory_serves_every_worker_and_call() {
    let daemon = builder().start();
    let client = daemon.blocking();
    let kept = client.put(numbers(8_000_000)).unwrap();
    let status = daemon.status().daemon;
    assert_eq!((1, kept.bytes()), (status.handles, status.handle_bytes));
    let one = Chunk::Fixed(NonZeroU32::MIN);
    let (mut workers, mut memories) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..20 {
        let calls: Vec<(u32, Vec<u64>)> =
            client.map("job_handles:where", vec![&kept; 8]).chunk(one).collect().unwrap();
        for (worker, maps) in calls {
            workers.insert(worker);
            memories.extend(maps);
        }
    }
    assert_eq!((2, 1), (workers.len(), memories.len()), "{workers:?} {memories:?}");
    drop(kept);
    wait_for_nothing(&daemon);
}

#[tokio::test]
async fn a_value_stands_anywhere_beside_others() {
    let daemon = builder().start();
    let client = Client::connect(daemon.socket()).await.unwrap();
    let model = client.put(("name", numbers(10_000))).await.unwrap();
    let answer: (String, f64) = client.call("job_handles:weigh", (&model, 2)).await.unwrap();
    assert_eq!(("name".to_owned(), 99_990_000.0), answer);
    let (one, two) = (numbers(10_000), numbers(20_000));
    let (first, second) = (client.put(&one).await.unwrap(), client.put(&two).await.unwrap());
    let arguments = (&second, &first, &one);
    let sums: Vec<f64> = client.call("job_handles:both", arguments).await.unwrap();
    assert_eq!(vec![199_990_000.0, 49_995_000.0, 49_995_000.0], sums);
    let items: Vec<(Ref, u32)> = (0..100).map(|n| (model.clone(), n)).collect();
    let answers: Vec<(String, f64)> =
        client.starmap("job_handles:weigh", items).collect().await.unwrap();
    assert_eq!(49_995_000.0 * 99.0, answers[99].1);
    // Its memory goes back as what it is.
    let back: Tensor = client.call("job_tensors:echo", (&first,)).await.unwrap();
    assert_eq!(one.as_slice::<f64>().unwrap(), back.as_slice::<f64>().unwrap());
    drop((model, first, second));
    wait_for_nothing(&daemon);
}

#[test]
fn another_worker_gets_it_when_one_has_died_with_it() {
    let daemon = builder().start();
    let client = daemon.blocking();
    let kept = client.put(numbers(10_000)).unwrap();
    let marker = daemon.tmp().path().join("died");
    let request = client.request("job_handles:die_once").retry(Retry::new(2).on_worker_died());
    let sum: f64 = request.args((&kept, marker)).send().unwrap();
    assert_eq!(49_995_000.0, sum);
    drop(kept);
    wait_for_nothing(&daemon);
}

#[test]
fn what_a_client_put_goes_with_it_and_belongs_to_it_alone() {
    let daemon = builder().start();
    let client = daemon.blocking();
    let kept = client.put(numbers(10_000)).unwrap();
    let other = daemon.blocking();
    let failure = other.call::<f64>("job_handles:total", (&kept,)).unwrap_err();
    assert!(matches!(failure.reason, Reason::BadArguments { .. }), "{failure}");
    drop(client);
    wait_for_nothing(&daemon);
}

#[test]
fn a_busy_worker_lets_go_of_a_value_that_was_released() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1)).start();
    let client = daemon.blocking();
    let kept = client.put(numbers(1_000_000)).unwrap();
    let (worker, maps): (u32, Vec<u64>) = client.call("job_handles:where", (&kept,)).unwrap();
    assert_eq!(1, maps.len());
    drop(kept);
    // It is never idle for as long as it would take to let go of it for want of calls.
    wait_for("the worker to let go", PATIENCE, || {
        client.call::<()>("job_handles:nothing", ()).unwrap();
        let maps = std::fs::read_to_string(format!("/proc/{worker}/maps")).unwrap();
        !maps.contains("/memfd:clutch (deleted)")
    });
}
