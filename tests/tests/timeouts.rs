//! Time: what is stuck is given up when its caller said so, the worker is free again at once, and
//! code that can tidy up has done so.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use clutch_client::{Client, Reason};
use clutch_tests::builder::private_environment;
use clutch_tests::{
    Clutch, Daemon, MILLISECOND, Python, SECOND, Tmp, command, signal, wait_for, wait_until,
    workers_dir,
};
use nix::sys::signal::Signal;

/// A daemon with one pool of one worker.
fn lonely() -> Daemon {
    Daemon::builder().pool("default", |pool| pool).start()
}

/// Runs a future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("a runtime can be built");
    runtime.block_on(future)
}

/// The file in which `job_stuck` tells what became of its resource.
struct Marks(PathBuf);

impl Marks {
    fn text(&self) -> &str {
        self.0.to_str().expect("test paths are text")
    }

    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait(&self, expected: &[&str], deadline: Duration) {
        wait_until(&format!("the marks {expected:?}"), deadline, || {
            let lines = self.lines();
            if lines == expected { Ok(()) } else { Err(lines) }
        });
    }
}

/// A call that cannot come back, against a limit of 200 ms, and the next one behind it: both in
/// time, in one of a few rounds, since the machine may be busy with other things.
#[track_caller]
fn is_given_up_and_replaced(daemon: &Daemon, pool: &str, function: &str) {
    let mut seen = Vec::new();
    for _ in 0..5 {
        let words = ["call", "--pool", pool, "--timeout", "200ms", function];
        let late = daemon.cli(words).expect_code(4);
        assert!(late.stderr.contains("timed out after 200.0 ms"), "{}", late.stderr);
        assert_eq!("", late.stdout);
        let next = daemon.cli(["call", "--pool", pool, "math:sqrt", "9"]).expect_code(0);
        assert_eq!("3.0\n", next.stdout);
        assert!(late.took >= 200 * MILLISECOND, "{:?}", late.took);
        assert!(late.took < 5 * SECOND && next.took < 5 * SECOND, "{late:?} {next:?}");
        seen.push((late.took, next.took));
        if late.took < 500 * MILLISECOND && next.took < SECOND {
            return;
        }
    }
    panic!("{function}: given up and replaced after, at best: {seen:?}");
}

#[test]
fn f011_f012_a_stuck_call_is_given_up_in_time_and_its_worker_replaced_at_once() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    for function in [
        "job_stuck:spin",
        "job_stuck:sleep",
        "job_stuck:hold_gil_in_a_loop",
        "job_stuck:hold_gil_in_a_power",
        "job_stuck:hold_gil_in_a_sleep",
        "job_stuck:ignore_everything",
    ] {
        is_given_up_and_replaced(&daemon, "default", function);
    }
    // Those that ignored the polite signal are killed after their grace.
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn every_interpreter_gives_up_a_stuck_call() {
    let pythons = Python::supported();
    let mut builder = Daemon::builder();
    for (index, python) in pythons.iter().enumerate() {
        builder = builder.pool(&format!("p{index}"), |pool| pool.python(python));
    }
    let daemon = builder.start();
    let oracle = daemon.oracle();
    for index in 0..pythons.len() {
        for function in ["job_stuck:sleep", "job_stuck:hold_gil_in_a_loop"] {
            is_given_up_and_replaced(&daemon, &format!("p{index}"), function);
        }
    }
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn a_call_that_can_be_interrupted_keeps_its_worker_and_tidies_up() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    let cases: [(&str, &[&str]); 3] = [
        ("job_stuck:hold", &["taken", "released"]),
        ("job_stuck:swallow_exceptions", &["taken", "released"]),
        ("job_stuck:until_cancelled", &["taken", "told", "released"]),
    ];
    for (index, (function, marks)) in cases.into_iter().enumerate() {
        let file = Marks(daemon.tmp().join(format!("marks-{index}")));
        let words = ["call", "--timeout", "300ms", function, file.text()];
        daemon.cli(words).expect_code(4);
        wait_until("the resource is released", 5 * SECOND, || {
            let lines = file.lines();
            // Code that looks at the flag may find it set before the exception comes.
            match lines == marks || lines == ["taken", "released"] {
                true => Ok(()),
                false => Err(lines),
            }
        });
        daemon.wait_ready();
    }
    assert_eq!(before, daemon.worker_pids("default"), "the worker was replaced");
    oracle.judge(daemon);
}

#[test]
fn the_limit_of_the_pool_holds_where_the_caller_names_none() {
    let daemon =
        Daemon::builder().pool("default", |pool| pool.limit("call_timeout", "300ms")).start();
    let oracle = daemon.oracle();
    let late = daemon.cli(["call", "job_stuck:sleep"]).expect_code(4);
    assert!(late.stderr.contains("timed out after 300.0 ms"), "{}", late.stderr);
    let words = ["call", "--timeout", "20s", "bulk:nap", "0.6", "1"];
    assert_eq!("1\n", daemon.cli(words).expect_code(0).stdout);
    oracle.judge(daemon);
}

#[test]
fn a_call_that_nobody_waits_for_any_more_is_cancelled() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let before = daemon.worker_pids("default");
    block_on(async {
        let client = Client::connect(daemon.socket()).await.expect("it listens");
        let marks = Marks(daemon.tmp().join("dropped"));
        let request = client.request("job_stuck:hold").args((marks.text().to_owned(),));
        let call = tokio::spawn(request.timeout(60 * SECOND).send::<()>());
        wait_with_runtime("the resource is taken", || marks.lines() == ["taken"]).await;
        call.abort();
        wait_with_runtime("it is released", || marks.lines() == ["taken", "released"]).await;
        // On the same connection, and in the same worker.
        assert_eq!(3.0, client.call::<f64>("math:sqrt", (9,)).await.expect("it is free"));

        let marks = Marks(daemon.tmp().join("disconnected"));
        let request = client.request("job_stuck:hold").args((marks.text().to_owned(),));
        let call = tokio::spawn(request.timeout(60 * SECOND).send::<()>());
        wait_with_runtime("the resource is taken", || marks.lines() == ["taken"]).await;
        call.abort();
        let _ = call.await;
        drop(client);
        wait_with_runtime("it is released", || marks.lines() == ["taken", "released"]).await;
    });
    assert_eq!(before, daemon.worker_pids("default"), "the worker was replaced");
    wait_for("both were counted", 5 * SECOND, || {
        daemon.counter("default", "answered.Cancelled") == 2
    });
    oracle.judge(daemon);
}

/// Looks at a condition while the runtime goes on with its own work.
async fn wait_with_runtime(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + 10 * SECOND;
    let mut looks = tokio::time::interval(5 * MILLISECOND);
    while !condition() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        looks.tick().await;
    }
}

#[test]
fn a_call_that_never_began_says_so_when_its_time_is_over() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    block_on(async {
        let client = Client::connect(daemon.socket()).await.expect("it listens");
        let request = client.request("job_stuck:sleep").timeout(60 * SECOND);
        let first = tokio::spawn(request.send::<()>());
        wait_with_runtime("the worker is busy", || daemon.status().pools[0].running == 1).await;
        let request = client.request("math:sqrt").args((9,)).timeout(200 * MILLISECOND);
        let begun = Instant::now();
        let failure = request.send::<f64>().await.expect_err("nobody is free");
        let took = begun.elapsed();
        assert!(matches!(failure.reason, Reason::TimedOut { timeout_ms: 200, .. }), "{failure}");
        assert!(!failure.started, "it never began: {failure}");
        assert_eq!(0, failure.attempt, "{failure}");
        assert_eq!(0, failure.phases.run_us, "{failure}");
        assert!(failure.phases.queue_us >= 190_000, "{failure}");
        assert!(took < 2 * SECOND, "{took:?}");
        assert!(!first.is_finished(), "the call that runs is not affected");
        first.abort();
        let _ = first.await;
    });
    oracle.judge(daemon);
}

/// Presses Ctrl-C while a command waits for `job_stuck:hold`; the resource must be released.
#[track_caller]
fn ctrl_c(program: clutch_tests::Program, marks: &Marks) {
    let mut child = program.spawn(Stdio::null(), Stdio::piped(), Stdio::piped());
    marks.wait(&["taken"], 20 * SECOND);
    signal(child.id(), Signal::SIGINT);
    let status = command::wait(&mut child, 5 * SECOND).expect("it ends when asked to");
    let output = child.wait_with_output().expect("its output can be read");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(130, command::shell_code(status), "{stderr}");
    assert!(output.stdout.is_empty(), "{:?}", output.stdout);
    assert!(stderr.contains("cancelled"), "{stderr}");
    marks.wait(&["taken", "released"], 5 * SECOND);
}

#[test]
fn ctrl_c_cancels_a_call_whose_cleanup_has_run() {
    let daemon = lonely();
    let oracle = daemon.oracle();
    let marks = Marks(daemon.tmp().join("marks"));
    let before = daemon.worker_pids("default");
    ctrl_c(daemon.command(["call", "job_stuck:hold", marks.text()]), &marks);
    assert_eq!(before, daemon.worker_pids("default"), "the worker was replaced");
    oracle.judge(daemon);
}

#[test]
fn ctrl_c_cancels_a_local_call_whose_cleanup_has_run() {
    let tmp = Tmp::new();
    let marks = Marks(tmp.join("marks"));
    let python = Python::any().path.to_str().expect("test paths are text").to_owned();
    let workers = workers_dir().to_str().expect("test paths are text").to_owned();
    let words = ["call", "--local", "--python", &*python, "--path", &*workers];
    let program = Clutch::command(words)
        .args(["job_stuck:hold", marks.text()])
        .envs(private_environment(&tmp));
    ctrl_c(program, &marks);
}

#[test]
fn ctrl_c_ends_a_map_and_frees_its_workers() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let words = ["map", "--chunk=1", "job_calls:nap", "--input", "-"];
    let input = "[0, 1]\n".to_owned() + &"[1000, 2]\n".repeat(20);
    let file = daemon.tmp().write("items", input);
    let stdin = std::fs::File::open(file).expect("it was written");
    let mut child = daemon.command(words).spawn(stdin.into(), Stdio::piped(), Stdio::piped());
    let mut stdout = BufReader::new(child.stdout.take().expect("it is a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the first result comes at once");
    assert_eq!("1\n", line);
    wait_for("both workers are busy", 10 * SECOND, || daemon.status().pools[0].running == 2);
    signal(child.id(), Signal::SIGINT);
    let status = command::wait(&mut child, 5 * SECOND).expect("it ends when asked to");
    assert_eq!(130, command::shell_code(status));
    line.clear();
    stdout.read_to_string(&mut line).expect("it is text");
    assert_eq!("", line, "more results than there can be");
    wait_for("nothing of it runs or waits", 5 * SECOND, || {
        let pool = daemon.status().pools.remove(0);
        pool.running + pool.queued == 0
    });
    oracle.judge(daemon);
}
