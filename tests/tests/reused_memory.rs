//! Memory that arrays are copied into to be sent is used again, and nobody who has one of them ever
//! notices.

use std::collections::BTreeSet;

use clutch_client::{SharedTensor, Tensor};
use clutch_tests::{Daemon, Oracle};

/// Elements of the arrays: 800 kB and more, far more than what is sent in the frame. Each test has
/// a length of its own, since all of one program share memory.
const LENGTH: usize = 100_000;
const LENGTH_BACK: usize = 140_000;

fn start() -> (Daemon, Oracle) {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(1)).start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

fn array(value: u32, length: usize) -> Tensor {
    Tensor::from(vec![f64::from(value); length])
}

fn total(value: u32, length: usize) -> f64 {
    f64::from(value) * length as f64
}

#[test]
fn calls_share_memory_and_those_who_keep_an_array_keep_it() {
    let (daemon, oracle) = start();
    let client = daemon.blocking();
    let mut seen = BTreeSet::new();
    for round in 1..=20 {
        let (sum, maps): (f64, Vec<u64>) =
            client.call("job_reuse:total", (array(round, LENGTH),)).expect("it is summed");
        assert_eq!(total(round, LENGTH), sum);
        seen.extend(maps);
    }
    // One of them is the worker's page; and what the worker has not let go of yet cannot be used.
    assert!(seen.len() < 10, "20 calls took the memory {seen:?}");

    let mut expected = Vec::new();
    for round in 1..=5 {
        let (sum, _): (f64, Vec<u64>) =
            client.call("job_reuse:keep", (array(round, LENGTH),)).expect("it is kept");
        assert_eq!(total(round, LENGTH), sum);
        expected.push(sum);
        for other in 100..105 {
            client
                .call::<(f64, Vec<u64>)>("job_reuse:total", (array(other, LENGTH),))
                .expect("it is summed");
        }
    }
    let kept: Vec<f64> = client.call("job_reuse:kept_totals", ()).expect("they are there");
    assert_eq!(expected, kept);
    client.call::<()>("job_reuse:forget", ()).expect("they are gone");
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn what_comes_back_stays_what_it_was() {
    let (daemon, oracle) = start();
    let client = daemon.blocking();
    let mut back = Vec::new();
    for round in 1..=5 {
        let tensor: Tensor =
            client.call("job_reuse:same", (array(round, LENGTH_BACK),)).expect("it comes back");
        back.push(tensor);
        for other in 100..105 {
            client
                .call::<Tensor>("job_reuse:same", (array(other, LENGTH_BACK),))
                .expect("it comes back");
        }
    }
    for (tensor, value) in back.iter().zip(1_u32..) {
        let numbers = tensor.as_slice::<f64>().expect("nobody can write it");
        assert!(
            numbers.len() == LENGTH_BACK
                && numbers.iter().all(|number| *number == f64::from(value))
        );
    }
    // And it can be sent on.
    for (tensor, value) in back.iter().zip(1_u32..) {
        let (sum, _): (f64, Vec<u64>) =
            client.call("job_reuse:total", (tensor,)).expect("it is summed");
        assert_eq!(total(value, LENGTH_BACK), sum);
    }
    drop((back, client));
    oracle.judge(daemon);
}

#[test]
fn what_is_shared_for_readers_comes_back_as_a_value() {
    let (daemon, oracle) = start();
    let client = daemon.blocking();
    let shared = SharedTensor::for_readers::<f64>(&[LENGTH]).expect("there is memory");
    shared.write_from(0, &vec![1.0; LENGTH]).expect("it is ours");
    let back: Tensor = client.call("job_reuse:same", (shared.read_only(),)).expect("it comes back");
    shared.write_from(0, &vec![2.0; LENGTH]).expect("it is ours");
    let numbers = back.as_slice::<f64>().expect("nobody can write it");
    assert!(numbers.len() == LENGTH && numbers.iter().all(|number| *number == 1.0));
    drop((back, shared, client));
    oracle.judge(daemon);
}
