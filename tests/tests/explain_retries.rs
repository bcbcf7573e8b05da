//! The life of a call that was tried again: each attempt, its worker, and why there was another.

use clutch_protocol::operate::Explanation;
use clutch_tests::Daemon;
use serde_json::Value;

/// Calls a function of `job_retry` that is good at its second attempt, and gives the life of the
/// call.
#[track_caller]
fn life_of(daemon: &Daemon, function: &str, reason: &str) -> Explanation {
    let count = daemon.tmp().join(function);
    let output = daemon
        .command(["call", "--report", "--retry=2"])
        .args([format!("--retry-on={reason}"), format!("job_retry:{function}")])
        .args([count.to_str().expect("test paths are text"), "2"])
        .run()
        .expect_code(0);
    let report: Value = serde_json::from_str(&output.stdout).expect("it is JSON");
    let call = report["call"].as_u64().expect("it has a number");
    daemon.blocking().explain(call).expect("it is known")
}

fn whats(life: &Explanation) -> Vec<&str> {
    life.steps.iter().map(|step| &*step.what).collect()
}

#[test]
fn each_attempt_of_a_call_is_told() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let life = life_of(&daemon, "raises_until", "raised:job_retry.Transient");
    assert_eq!(["arrived", "assigned", "retried", "assigned", "answered"], whats(&life)[..]);
    assert_eq!(Some("ok"), life.outcome.as_deref());

    let life = life_of(&daemon, "dies_until", "worker_died");
    let expected = ["arrived", "assigned", "worker_died", "retried", "assigned", "answered"];
    assert_eq!(expected, whats(&life)[..]);
    let workers = [&life.steps[1], &life.steps[4]].map(|step| step.worker.map(|w| w.generation));
    assert_eq!([Some(1), Some(2)], workers);
    let text = daemon.cli(["explain", &life.call.to_string()]).expect_code(0).stdout;
    assert!(text.contains(", attempt 2\n"), "{text}");
}
