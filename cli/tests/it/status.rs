//! `clutch status` and `clutch ping`: what they show of a living daemon.

use clutch_tests::Daemon;

#[test]
fn status_is_a_page_for_people_and_json_for_programs() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    daemon.cli(["call", "math:sqrt", "2"]).expect_code(0);
    let page = daemon.cli(["status"]).expect_code(0).stdout;
    for part in [
        format!("(pid {}) is running", daemon.pid()),
        "pool default".to_owned(),
        "worker".to_owned(),
        "ready".to_owned(),
        "answered.ok 1".to_owned(),
    ] {
        assert!(page.contains(&part), "{part:?} in {page}");
    }
    assert!(page.lines().all(|line| line == line.trim_end()), "{page:?}");

    let json = daemon.cli(["status", "--json"]).expect_code(0).stdout;
    let status: clutch_protocol::status::Status = serde_json::from_str(&json).unwrap();
    assert_eq!(daemon.pid(), status.daemon.pid);
    assert_eq!(2, status.pools[0].workers.len());
    assert!(json.starts_with("{\n  \"daemon\": {\n"), "{json}");
}

#[test]
fn ping_shows_each_time_and_a_summary() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let output = daemon.cli(["ping", "--count", "3"]).expect_code(0).stdout;
    assert_eq!(4, output.lines().count(), "{output}");
    assert!(output.contains(&format!("pong from pid {} in ", daemon.pid())), "{output}");
    assert!(output.contains("3 answers: shortest "), "{output}");
}
