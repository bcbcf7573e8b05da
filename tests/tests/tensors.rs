//! Arrays and large bytes from the client through the daemon to real workers and back: the numbers
//! are the same, at any depth and size; who may write is kept by the kernel; and when all is over,
//! no process has anything left of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clutch_client::{DType, Reason, SharedTensor, Tensor, Value};
use clutch_tests::process::descriptor_list;
use clutch_tests::{Builder, Daemon, SECOND, science, skip, wait_for};

/// How long anything may take here on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the client's memory is called in `/proc`.
const NAME: &str = "memfd:clutch";

fn builder() -> Builder {
    Daemon::builder().pool("default", |pool| pool.limit("grace", "200ms"))
}

fn numbers(count: usize) -> Tensor {
    Tensor::from((0..count).map(|n| f64::from(u32::try_from(n).unwrap())).collect::<Vec<_>>())
}

#[test]
fn arrays_are_sent_summed_and_come_back() {
    let daemon = builder().start();
    let client = daemon.blocking();
    let sent = numbers(1_000_000);
    let total: f64 = client.call("job_tensors:total", (&sent,)).unwrap();
    assert_eq!(499_999_500_000.0, total);
    let back: Tensor = client.call("job_tensors:echo", (&sent,)).unwrap();
    assert_eq!(sent.as_slice::<f64>().unwrap(), back.as_slice::<f64>().unwrap());
    // What came back can be sent again as it is, also when the worker has gone.
    let again: f64 = client.call("job_tensors:total", (&back,)).unwrap();
    assert_eq!(total, again);
    // Who asks for numbers gets numbers, whatever way they came.
    let listed: Vec<f64> = client.call("job_tensors:echo", (&sent,)).unwrap();
    assert_eq!((1_000_000, 999_999.0), (listed.len(), listed[999_999]));
    let built = Tensor::build::<i32>(&[50_000], |all| all.fill(3)).unwrap();
    assert_eq!(150_000.0, client.call::<f64>("job_tensors:total", (built,)).unwrap());
    let small: f64 = client.call("job_tensors:total", (Tensor::from(vec![1_u8, 2]),)).unwrap();
    assert_eq!(3.0, small);
}

#[test]
fn bytes_and_arrays_travel_at_any_depth() {
    let daemon = builder().start();
    let client = daemon.blocking();
    let raw = vec![9_u8; 200_000];
    let model =
        BTreeMap::from([("a", Some(numbers(10_000))), ("b", Some(numbers(20_000))), ("raw", None)]);
    // A map of unlike parts, as a value is.
    struct Model<'a>(&'a BTreeMap<&'a str, Option<Tensor>>, &'a [u8]);
    impl serde::Serialize for Model<'_> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            use serde::ser::SerializeMap as _;
            let mut map = serializer.serialize_map(None)?;
            for (name, part) in self.0 {
                match part {
                    Some(tensor) => map.serialize_entry(name, tensor)?,
                    None => map.serialize_entry(name, &Value::Bytes(self.1.to_vec()))?,
                }
            }
            map.end()
        }
    }
    type Parts = (Tensor, (Tensor,));
    #[derive(serde::Deserialize)]
    struct Answer {
        parts: Parts,
        size: usize,
        raw: Vec<u8>,
    }
    let answer: Answer = client.call("job_tensors:nested", (Model(&model, &raw),)).unwrap();
    let (a, (b,)) = &answer.parts;
    assert_eq!((10_000, 20_000, 200_000), (a.len(), b.len(), answer.size));
    assert_eq!(19_999.0, b.as_slice::<f64>().unwrap()[19_999]);
    assert_eq!(raw, answer.raw);
    for count in [0, 65_535, 65_536, 3_000_000] {
        let bytes: Vec<u8> = client.call("job_tensors:raw", (count,)).unwrap();
        assert!(bytes.len() == count && bytes.iter().all(|byte| *byte == 7));
    }
    let own = Value::ByteArray(raw.clone());
    assert_eq!(own, client.call::<Value>("job_tensors:echo", (&own,)).unwrap());
}

#[test]
fn shared_arrays_are_written_in_place_by_whom_they_were_given_to() {
    let daemon = builder().start();
    let client = daemon.blocking();
    let shared = SharedTensor::from_slice(&[4], &[1.0_f64, 2.0, 3.0, 4.0]).unwrap();
    for _ in 0..3 {
        client.call::<()>("job_tensors:double", (shared.writable().unwrap(),)).unwrap();
    }
    assert_eq!(vec![8.0, 16.0, 24.0, 32.0], shared.to_vec::<f64>().unwrap());
    let total: f64 = client.call("job_tensors:total", (shared.read_only(),)).unwrap();
    assert_eq!(80.0, total);
    let readers = SharedTensor::for_readers::<f64>(&[4]).unwrap();
    let value = Tensor::from(vec![1.0; 10_000]);
    for read_only in [shared.read_only(), readers.read_only(), value] {
        let failure = client.call::<()>("job_tensors:overwrite", (read_only,)).unwrap_err();
        assert!(matches!(failure.reason, Reason::Raised(_)), "{failure}");
    }
    assert_eq!(vec![8.0, 16.0, 24.0, 32.0], shared.to_vec::<f64>().unwrap());
    readers.write_from(0, &[2.5; 4]).unwrap();
    let total: f64 = client.call("job_tensors:total", (readers.read_only(),)).unwrap();
    assert_eq!(10.0, total);
}

#[test]
fn arrays_of_more_than_2_and_4_gib_are_arrays_like_any_other() {
    let daemon = builder().start();
    let client = daemon.blocking();
    for elements in [1_usize << 28, (1 << 29) + 1, 5 << 27] {
        // Its memory has holes, which are zeros that nobody had to write.
        let built = Tensor::build::<f64>(&[elements], |all| {
            (all[0], all[elements / 2], all[elements - 1]) = (1.5, 2.5, 3.5);
        });
        let built = built.unwrap();
        let request = client.request("job_tensors:ends").args((&built,)).timeout(PATIENCE);
        assert_eq!((elements, 1.5, 2.5, 3.5), request.send().unwrap());
        let back: Tensor = client.call("job_tensors:echo", (&built,)).unwrap();
        let seen = back.as_slice::<f64>().unwrap();
        assert_eq!((elements, 2.5, 3.5), (seen.len(), seen[elements / 2], seen[elements - 1]));
    }
}

#[test]
fn more_than_the_limit_is_refused_here_with_both_numbers() {
    let daemon = builder().daemon_key("attached", "1MiB").start();
    let client = daemon.blocking();
    let shared = SharedTensor::zeroed::<u8>(&[(1 << 20) + 1]).unwrap();
    for tensor in [shared.read_only(), Tensor::from(vec![0_u8; (1 << 20) + 1])] {
        let failure = client.call::<f64>("job_tensors:total", (tensor,)).unwrap_err();
        let Reason::TooLarge { bytes, limit, .. } = failure.reason else { panic!("{failure}") };
        assert_eq!((((1 << 20) + 1), 1 << 20, false), (bytes, limit, failure.started));
    }
    // A worker's result has the same limit.
    let failure = client.call::<Vec<u8>>("job_tensors:raw", ((1 << 20) + 1,)).unwrap_err();
    assert!(matches!(failure.reason, Reason::TooLarge { limit, .. } if limit == 1 << 20));
    assert_eq!(4.0, client.call::<f64>("job_tensors:total", (vec![4],)).unwrap());
}

#[test]
fn a_map_sends_arrays_and_gets_arrays() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let client = daemon.blocking();
    let items: Vec<Tensor> = (0..100).map(|n| Tensor::from(vec![f64::from(n); 20_000])).collect();
    let sums: Vec<f64> = client.map("job_tensors:total", &items).collect().unwrap();
    assert_eq!((0..100).map(|n| f64::from(n) * 20_000.0).collect::<Vec<_>>(), sums);
    let back: Vec<Tensor> = client.map("job_tensors:echo", &items).collect().unwrap();
    for (sent, came) in items.iter().zip(&back) {
        assert_eq!(sent.as_slice::<f64>().unwrap(), came.as_slice::<f64>().unwrap());
    }
}

#[test]
fn arrays_are_numpys_where_there_is_numpy() {
    if !science::is_allowed() {
        skip!("numpy comes from the package index: CLUTCH_TEST_NETWORK=1 allows that");
    }
    let venv = science::environment(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let python = venv.join("bin/python");
    let python = python.to_str().expect("test paths are text");
    let daemon = Daemon::builder().pool("default", |pool| pool.key("python", python)).start();
    let client = daemon.blocking();
    let grid: Tensor = client.call("job_tensors:grid", (200, 300)).unwrap();
    assert_eq!((&[200, 300][..], DType::F32), (grid.shape(), grid.dtype()));
    assert_eq!(59_999.0, grid.as_slice::<f32>().unwrap()[59_999]);
    // Small ones come as lists, and are tensors all the same.
    let small: Tensor = client.call("job_tensors:grid", (2, 3)).unwrap();
    assert_eq!(&[2, 3], small.shape());
    assert_eq!(vec![0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0], small.to_vec::<f32>().unwrap());
    let rows: Vec<Vec<f64>> = client.call("job_tensors:grid", (200, 300)).unwrap();
    assert_eq!((200, 300, 301.0), (rows.len(), rows[0].len(), rows[1][1]));
    let (turned, dtype, module): (Tensor, String, String) =
        client.call("job_tensors:turned", (&grid,)).unwrap();
    assert_eq!(("float32", "numpy"), (dtype.as_str(), module.as_str()));
    assert_eq!(&[300, 200], turned.shape());
    assert_eq!(300.0, turned.to_vec::<f32>().unwrap()[1]);
    let shared = SharedTensor::from_slice(&[2, 2], &[1_i64, 2, 3, 4]).unwrap();
    client.call::<()>("job_tensors:double", (shared.writable().unwrap(),)).unwrap();
    assert_eq!(vec![2, 4, 6, 8], shared.to_vec::<i64>().unwrap());
}

/// What a process has of the memory that is passed on: descriptors and mappings.
fn held(pid: u32) -> Vec<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mapped = maps.lines().filter(|line| line.contains(NAME)).map(str::to_owned);
    let descriptors = descriptor_list(pid).into_values().filter(|target| target.contains(NAME));
    mapped.chain(descriptors).collect()
}

#[test]
fn workers_that_die_with_an_array_leave_nothing_in_any_process() {
    let daemon = builder().start();
    let oracle = daemon.oracle();
    let client = daemon.blocking();
    let shared = SharedTensor::zeroed::<f64>(&[1 << 20]).unwrap();
    for round in 0..10 {
        let value = Tensor::from(vec![f64::from(round); 100_000]);
        for argument in [shared.writable().unwrap(), shared.read_only(), value] {
            let failure = client.call::<()>("job_tensors:die", (argument,)).unwrap_err();
            assert!(matches!(failure.reason, Reason::WorkerDied(_)), "{failure}");
        }
        shared.write_from(0, &[f64::from(round)]).unwrap();
        let seen: (usize, f64, f64, f64) =
            client.call("job_tensors:ends", (shared.read_only(),)).unwrap();
        assert_eq!((1 << 20, f64::from(round)), (seen.0, seen.1));
    }
    drop((shared, client));
    wait_for("neither daemon nor worker has any of it", 10 * SECOND, || {
        let status = daemon.status().daemon;
        let workers = daemon.worker_pids("default");
        (status.descriptors_attached, status.attached_bytes) == (0, 0)
            && workers.into_iter().chain([daemon.pid()]).all(|pid| held(pid).is_empty())
    });
    oracle.judge(daemon);
}
