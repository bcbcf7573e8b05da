//! The Python stacks of a worker that an operator asks for: whose they are, what they say, and what
//! happens when a worker cannot answer.

use clutch_client::{Denial, Failure};
use clutch_protocol::frame::{Codec, Kind};
use clutch_protocol::operate::{Operation, Outcome};
use clutch_protocol::status::PoolStatus;
use clutch_protocol::wire;
use clutch_tests::raw::{PATIENCE, frame};
use clutch_tests::{Daemon, SECOND, signal, wait_for};
use nix::sys::signal::Signal;

fn daemon(workers: u32) -> Daemon {
    Daemon::builder().pool("default", |pool| pool.workers(workers)).start()
}

#[track_caller]
fn pool(daemon: &Daemon) -> PoolStatus {
    daemon.status().pools.swap_remove(0)
}

/// A call on a thread of its own.
fn in_background(
    daemon: &Daemon,
    seconds: f64,
    value: i64,
) -> std::thread::JoinHandle<Result<i64, Box<Failure>>> {
    let client = daemon.blocking();
    std::thread::spawn(move || client.call::<i64>("bulk:nap", (seconds, value)).map_err(Box::new))
}

#[test]
fn a_stack_says_where_each_thread_of_a_worker_is() {
    let daemon = daemon(1);
    let client = daemon.blocking();
    let waiting = in_background(&daemon, 30.0, 1);
    wait_for("it runs", 10 * SECOND, || pool(&daemon).running == 1);
    let pid = pool(&daemon).workers[0].pid;
    let stack = client.stack("default", 0).expect("it is told");
    assert_eq!(
        (pid, Some(1), Some("bulk:nap")),
        (stack.pid, stack.call, stack.function.as_deref())
    );
    assert!(stack.text.contains("bulk.py") && stack.text.contains("in nap"), "{}", stack.text);
    for words in [&["stack", "0"][..], &["stack", "default/0"], &["stack", "--pool=default", "0.1"]]
    {
        let page = daemon.cli(words).expect_code(0).stdout;
        let head = format!("worker default/0.1 (pid {pid}), call 1 (bulk:nap):\n");
        assert!(page.starts_with(&head) && page.contains("in nap"), "{page}");
    }
    client.cancel_call(1).expect("it runs");
    waiting.join().expect("it does not panic").expect_err("it was cancelled");
    let idle = client.stack("default", 0).expect("an idle one is told, too");
    assert_eq!((None, None), (idle.call, idle.function));
}

#[test]
fn a_worker_that_cannot_tell_its_stack_is_not_waited_for_long() {
    let daemon = daemon(1);
    let pid = daemon.worker_pids("default")[0];
    signal(pid, Signal::SIGSTOP);
    let output = daemon.cli(["stack", "0"]).expect_code(4);
    output.expect_stderr("did not write its stacks within 2 s");
    // Asked again and again, the daemon says so at once and keeps no more than its limit.
    let mut raw = daemon.raw();
    let ask = Operation::Stack { pool: "default".into(), slot: 0 };
    let meta = wire::encode(&ask).expect("a short meta");
    for id in 1..=17 {
        raw.say(&frame(Kind::Operate, id, Codec::None, &meta, &[]));
    }
    let denial = |frame: &clutch_protocol::Frame| match wire::decode(&frame.meta) {
        Ok(Outcome::Refused { denial, .. }) => denial,
        other => panic!("{other:?}"),
    };
    let first = raw.expect(Kind::Operated, PATIENCE);
    assert_eq!((17, Denial::Busy), (first.header.id, denial(&first)));
    for _ in 1..=16 {
        assert_eq!(Denial::TimedOut, denial(&raw.expect(Kind::Operated, PATIENCE)));
    }
    signal(pid, Signal::SIGCONT);
    let client = daemon.blocking();
    assert_eq!(2.0, client.call::<f64>("math:sqrt", (4,)).expect("it goes on"));
}
