//! More workers than processors, and libraries that compute with threads of their own: planned, so
//! that nobody gets in another's way. A program of its own, since nothing may run beside it.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use clutch_tests::{Daemon, Pool, science, skip};

/// Workers of the pool that has as many as there are processors, and of the others.
const FEW: u32 = 2;
const MANY: u32 = 4;

/// Products in one round, whoever computes them.
const PRODUCTS: u32 = 80;

/// Rows and columns of each matrix: large enough that the library would share one product out.
const SIZE: u32 = 400;

const ROUNDS: usize = 9;

/// The first two processors that this test may run on.
fn processors() -> Option<Vec<u32>> {
    let status = fs::read_to_string("/proc/self/status").expect("/proc can be read");
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let range = |part: &str| -> Option<Vec<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?..=last.parse().ok()?).take(2).collect())
    };
    let all: Vec<_> = list.trim().split(',').filter_map(range).flatten().take(2).collect();
    (all.len() == 2).then_some(all)
}

/// How long all workers of a pool together take for a round.
fn round(daemon: &Daemon, pool: &str, workers: u32) -> Duration {
    let arguments = format!("[{SIZE}, {}]", PRODUCTS / workers);
    let mut clients: Vec<_> = (0..workers).map(|_| daemon.raw()).collect();
    let begun = Instant::now();
    let start = |client: &mut clutch_tests::raw::RawClient| {
        client.start(pool, "job_process:multiply", &arguments)
    };
    let calls: Vec<_> = clients.iter_mut().map(start).collect();
    for (client, call) in clients.iter_mut().zip(calls) {
        client.finish(call).value();
    }
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
fn four_workers_with_matrix_products_on_two_processors_take_no_longer_than_two() {
    if !science::is_allowed() {
        skip!("numpy comes from the package index: CLUTCH_TEST_NETWORK=1 allows that");
    }
    let Some(processors) = processors() else {
        skip!("this machine has one processor");
    };
    let venv = science::environment(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let python = venv.join("bin/python");
    let python = python.to_str().expect("test paths are text");
    let pool = |workers: u32| {
        let processors: Vec<_> = processors.iter().copied().map(Into::into).collect();
        move |pool: Pool| {
            let pool = pool.key("python", python).process("cpus", processors);
            // Whoever runs the tests may have said how many threads there shall be.
            pool.inherit("minimal").workers(workers).preload(&["numpy"])
        }
    };
    let daemon = Daemon::builder()
        .pool("few", pool(FEW))
        .pool("many", pool(MANY))
        .pool("unplanned", |it| pool(MANY)(it).table("compute", [("threads", "off".into())]))
        .pool("bare", |it| it.key("python", python).inherit("minimal"))
        .start();
    let threads = |pool: &str| {
        let count = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        daemon.worker_pids(pool).into_iter().map(count).max()
    };
    let pools = [("few", FEW), ("many", MANY), ("unplanned", MANY)];
    let mut times = [const { Vec::new() }; 3];
    // In turns, so that what else the machine does concerns all.
    for _ in 0..ROUNDS {
        for (times, (pool, workers)) in times.iter_mut().zip(pools) {
            times.push(round(&daemon, pool, workers));
        }
    }
    // Whoever calls the library computes, and nobody else does, unless there is no plan.
    assert_eq!([threads("bare"); 2], [threads("few"), threads("many")]);
    assert!(threads("unplanned") > threads("bare"), "there is something to plan");
    let [few, many, unplanned] = times.map(median);
    let ratio = many.as_secs_f64() / few.as_secs_f64();
    let without = unplanned.as_secs_f64() / few.as_secs_f64();
    // Past the runner's capture, so that every run shows it.
    let line = format!("{MANY} workers to {FEW}: {ratio:.2}, without a plan: {without:.2}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(ratio < 1.3, "two workers {few:?}, four {many:?}, unplanned {unplanned:?}");
}
