//! Configurations that are read anew while calls run: as a whole or not at all, and no call
//! notices.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use clutch_client::{Failure, Reason, blocking};
use clutch_protocol::reload::{PoolChange, ReloadResult};
use clutch_tests::{Daemon, MILLISECOND, Output, Python, SECOND, wait_for, wait_until};
use nix::sys::signal::Signal;

/// A configuration of pools whose code is in a directory each.
struct Config {
    text: String,
}

impl Config {
    fn new() -> Config {
        Config { text: String::new() }
    }

    fn daemon(mut self, line: &str) -> Config {
        let _ = writeln!(self.text, "[daemon]\n{line}");
        self
    }

    /// A pool whose `code:version` is that of `path`, with more keys.
    fn pool(mut self, name: &str, path: &str, keys: &str) -> Config {
        let python = Python::any().path.display().to_string();
        let _ =
            writeln!(self.text, "[pools.{name}]\npython = {python:?}\npath = [{path:?}]\n{keys}");
        self
    }
}

/// Writes code that says its version.
fn write_code(daemon: &clutch_tests::Tmp, dir: &str, version: u32) {
    let text = format!(
        "import time\n\ndef version(*_):\n    return {version}\n\n\
         def nap(span):\n    time.sleep(span)\n    return {version}\n"
    );
    daemon.write(format!("{dir}/code.py"), text);
}

fn start(config: Config) -> Daemon {
    let builder = Daemon::builder();
    write_code(builder.tmp(), "v1", 1);
    write_code(builder.tmp(), "v2", 2);
    builder.config_text(config.text).start()
}

fn write(daemon: &Daemon, config: Config) {
    daemon.tmp().write("clutch.toml", config.text);
}

fn reload(daemon: &Daemon) -> Output {
    daemon.cli(["reload"])
}

fn client(daemon: &Daemon) -> blocking::Client {
    daemon.blocking()
}

fn version(daemon: &Daemon, pool: &str) -> Result<u32, Box<Failure>> {
    client(daemon).request("code:version").pool(pool).send().map_err(Box::new)
}

/// Clients that call and call, and want every call to succeed.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(daemon: &Daemon, clients: usize, pool: &'static str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU64::new(0));
        let threads = (0..clients)
            .map(|_| {
                let (client, stop, served) = (client(daemon), stop.clone(), served.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let request = client.request("code:version").pool(pool);
                        let answer = request.timeout(60 * SECOND).send::<u32>();
                        answer.map_err(|failure| failure.to_string())?;
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        Load { stop, served, threads }
    }

    /// Ends it; panics unless every call has succeeded. Gives how many there were.
    #[track_caller]
    fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client does not panic").expect("no call fails");
        }
        self.served.load(Ordering::Relaxed)
    }
}

#[test]
fn f129_a_broken_configuration_changes_nothing_and_says_where() {
    let config = || Config::new().pool("default", "v1", "workers = 2\n");
    let daemon = start(config());
    let oracle = daemon.oracle();
    let pids = daemon.worker_pids("default");

    let broken = Config::new().pool("default", "v2", "workers = 2\nlimits = { queue = -1 }\n");
    write(&daemon, broken);
    let output = reload(&daemon).expect_code(8);
    for part in ["clutch.toml:5", "pools.default.limits.queue", "-1", "nothing was changed"] {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
    let checked =
        daemon.cli(["config", "check", daemon.tmp().join("clutch.toml").to_str().unwrap()]);
    let drawing = checked.stderr.split("error:").next().unwrap_or_default().trim().to_owned();
    assert!(output.stderr.contains(&drawing), "{drawing}\n---\n{}", output.stderr);

    // What the configuration names is a part of it.
    let missing = Config {
        text: config().text.replace(&*Python::any().path.to_string_lossy(), "/no/python"),
    };
    write(&daemon, missing);
    reload(&daemon).expect_code(8).expect_stderr("/no/python");
    let gone = daemon.tmp().join("clutch.toml");
    std::fs::remove_file(&gone).expect("it is there");
    reload(&daemon).expect_code(8).expect_stderr("there is no such file");

    assert_eq!(1, version(&daemon, "default").expect("the old code serves"));
    assert_eq!(pids, daemon.worker_pids("default"));
    write(&daemon, config());
    let output = reload(&daemon).expect_code(0);
    assert_eq!("pool default: unchanged\n", output.stdout);
    assert_eq!(pids, daemon.worker_pids("default"));
    oracle.judge(daemon);
}

#[test]
fn f130_a_hundred_rolling_reloads_lose_no_call() {
    let pool = |dir| Config::new().pool("default", dir, "workers = 2\n");
    let daemon = start(pool("v1"));
    let oracle = daemon.oracle();
    let load = Load::start(&daemon, 8, "default");
    wait_for("calls are served", 10 * SECOND, || load.served.load(Ordering::Relaxed) > 100);
    let ready_min = AtomicU64::new(u64::MAX);
    for (round, (dir, now)) in [("v2", 2), ("v1", 1)].into_iter().cycle().take(100).enumerate() {
        write(&daemon, pool(dir));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let status = daemon.status();
                    let up = ["ready", "busy", "interrupting"];
                    let workers = status.pools[0].workers.iter();
                    let count = workers.filter(|w| up.contains(&&*w.state)).count();
                    ready_min.fetch_min(count as u64, Ordering::Relaxed);
                    clutch_tests::park(5 * MILLISECOND);
                }
            });
            let output = reload(&daemon).expect_code(0);
            done.store(true, Ordering::Relaxed);
            assert_eq!("pool default: replaced 2 workers\n", output.stdout, "round {round}");
        });
        for _ in 0..4 {
            assert_eq!(now, version(&daemon, "default").expect("it is served"), "round {round}");
        }
    }
    let served = load.finish();
    assert!(served > 1000, "only {served} calls were served");
    assert!(ready_min.load(Ordering::Relaxed) >= 1, "never fewer than one that can serve");
    oracle.judge(daemon);
}

#[test]
fn f131_new_code_that_does_not_boot_leaves_the_old_one_at_work() {
    let pool = |dir, keys: &str| Config::new().pool("default", dir, keys);
    let keys = "workers = 2\npreload = [\"code\"]\n";
    let daemon = start(pool("v1", keys).pool("other", "v1", "workers = 1\n"));
    daemon.tmp().write("bad/code.py", "def version(*_):\n    return 3\n\nimport nowhere_at_all\n");
    let oracle = daemon.oracle();
    let load = Load::start(&daemon, 2, "default");

    let others = |config: Config| config.pool("other", "v2", "workers = 1\n");
    write(&daemon, others(pool("bad", keys)));
    let output = reload(&daemon).expect_code(8);
    for part in ["ModuleNotFoundError", "nowhere_at_all", "bad/code.py", "pool 'default'"] {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
    assert_eq!(1, version(&daemon, "default").expect("the old code serves"));
    // All of it or nothing: the pool that could be replaced goes back, too.
    wait_until("the other pool is as it was", 20 * SECOND, || {
        version(&daemon, "other")
            .map(|v| if v == 1 { Ok(()) } else { Err(v) })
            .map_err(|failure| failure.to_string())?
            .map_err(|v| format!("version {v}"))
    });
    load.finish();
    daemon.wait_ready();
    for _ in 0..4 {
        assert_eq!(1, version(&daemon, "default").expect("the old code serves"));
    }

    // A new pool that does not come up does not stay, and the daemon goes on.
    write(&daemon, pool("v1", keys).pool("other", "v1", "workers = 1\n").pool("new", "bad", keys));
    reload(&daemon).expect_code(8).expect_stderr("pool 'new'");
    wait_for("the new pool is gone", 10 * SECOND, || daemon.status().pools.len() == 2);
    let output = daemon.cli(["call", "--pool=new", "code:version"]).expect_code(2);
    assert!(output.stderr.contains("removed"), "{}", output.stderr);

    write(&daemon, others(pool("v2", keys)));
    reload(&daemon).expect_code(0);
    assert_eq!(2, version(&daemon, "default").expect("it is served"));
    oracle.judge(daemon);
}

#[test]
fn limits_hold_at_once_and_pools_come_and_go() {
    let before =
        Config::new().pool("default", "v1", "workers = 2\n").pool("old", "v1", "workers = 1\n");
    let daemon = start(before);
    let oracle = daemon.oracle();
    let pids = daemon.worker_pids("default");
    let slow = client(&daemon);
    let slow = std::thread::spawn(move || {
        slow.request("code:nap").args((1.0,)).pool("old").send::<u32>().map_err(Box::new)
    });
    wait_for("it runs", 10 * SECOND, || {
        daemon.status().pools.iter().any(|pool| pool.name == "old" && pool.running == 1)
    });
    let behind = client(&daemon);
    let behind = std::thread::spawn(move || {
        behind.request("code:version").pool("old").send::<u32>().map_err(Box::new)
    });
    wait_for("it waits", 10 * SECOND, || {
        daemon.status().pools.iter().any(|pool| pool.name == "old" && pool.queued == 1)
    });

    let keys = "workers = 3\nallow = [\"code:version\"]\nlimits = { queue = 7, grace = \"1s\" }\n";
    write(&daemon, Config::new().pool("default", "v1", keys).pool("new", "v2", "workers = 1\n"));
    let output = reload(&daemon).expect_code(0);
    let expected = "pool default: limits\npool new: added, 1 worker\npool old: removed\n";
    assert_eq!(expected, output.stdout);
    assert_eq!(2, version(&daemon, "new").expect("it is there"));
    let failure = version(&daemon, "old").expect_err("it takes no calls");
    assert!(matches!(failure.reason, Reason::NotFound(_)), "{failure}");
    assert!(failure.to_string().contains("was removed"), "{failure}");
    // What it had taken in is finished.
    assert_eq!(1, slow.join().unwrap().expect("it was running"));
    assert_eq!(1, behind.join().unwrap().expect("it was waiting"));
    wait_for("the old pool is gone", 10 * SECOND, || {
        daemon.status().pools.iter().all(|pool| pool.name != "old")
    });
    daemon.wait_ready();
    let now = daemon.worker_pids("default");
    assert!(now.len() == 3 && pids.iter().all(|pid| now.contains(pid)), "{pids:?} {now:?}");
    assert_eq!(7, daemon.status().pools.iter().find(|p| p.name == "default").unwrap().queue_limit);
    daemon.cli(["call", "code:nap", "0"]).expect_code(7).expect_stderr("allow");

    // Back again, smaller: the place of the old pool is taken over.
    let keys = "workers = 1\n";
    write(&daemon, Config::new().pool("default", "v1", keys).pool("old", "v2", keys));
    let output = reload(&daemon).expect_code(0);
    let expected = "pool default: limits\npool new: removed\npool old: added, 1 worker\n";
    assert_eq!(expected, output.stdout);
    assert_eq!(2, version(&daemon, "old").expect("it is back"));
    wait_for("one worker is left", 10 * SECOND, || daemon.worker_pids("default").len() == 1);
    daemon.cli(["call", "code:nap", "0"]).expect_code(0);
    oracle.judge(daemon);
}

#[test]
fn what_an_operator_has_ordered_gives_way_to_the_file_where_that_says_something() {
    let keys = "workers = 1\n";
    let default = || Config::new().pool("default", "v1", "workers = 2\n");
    let daemon = start(default().pool("old", "v1", keys).pool("held", "v1", keys));
    let oracle = daemon.oracle();
    daemon.cli(["pool", "resize", "default", "3"]).expect_code(0);
    wait_for("it is larger", 20 * SECOND, || daemon.worker_pids("default").len() == 3);
    for pool in ["old", "held"] {
        daemon.cli(["pool", "pause", pool]).expect_code(0);
    }
    let waiting = client(&daemon);
    let waiting = std::thread::spawn(move || {
        let request = waiting.request("code:version").pool("old").timeout(60 * SECOND);
        request.send_answered::<u32>().map_err(Box::new)
    });
    wait_for("it waits", 10 * SECOND, || {
        daemon.status().pools.iter().any(|pool| pool.name == "old" && pool.queued == 1)
    });

    write(&daemon, default().pool("held", "v1", keys));
    let output = reload(&daemon).expect_code(0);
    let expected = "pool default: limits\npool held: unchanged\npool old: removed\n";
    assert_eq!(expected, output.stdout);
    wait_for("it is as in the file", 10 * SECOND, || daemon.worker_pids("default").len() == 2);
    let held = daemon.status().pools.into_iter().find(|pool| pool.name == "held").unwrap();
    assert_eq!("paused", held.state, "no file says anything about that");
    // Nobody could resume a pool that is gone.
    let answered = waiting.join().unwrap().expect("what had waited is finished");
    assert_eq!(1, answered.value);
    wait_for("the old pool is gone", 10 * SECOND, || daemon.status().pools.len() == 2);

    // Its place is another pool's now, its calls are not.
    write(&daemon, default().pool("held", "v1", keys).pool("next", "v2", keys));
    let added = reload(&daemon).expect_code(0).stdout;
    assert!(added.contains("pool next: added, 1 worker"), "{added}");
    let call = answered.call.to_string();
    let told = daemon.cli(["explain", &call, "--json"]).expect_code(0).stdout;
    assert!(told.contains("\"pool\": \"\""), "{told}");
    daemon.cli(["pool", "resume", "held"]).expect_code(0);
    assert_eq!(1, version(&daemon, "held").expect("it is resumed"));
    oracle.judge(daemon);
}

#[test]
fn keys_of_the_daemon_hold_at_once_or_need_a_restart() {
    let config = |line| Config::new().daemon(line).pool("default", "v1", "workers = 1\n");
    let daemon = start(config("stop_grace = \"30s\""));
    write(&daemon, config("stop_grace = \"1s\"\nin_flight = 5\nconnections = 3"));
    let output = reload(&daemon).expect_code(0);
    for line in ["daemon.connections: changed", "daemon.in_flight: changed", "daemon.stop_grace"] {
        assert!(output.stdout.contains(line), "{}", output.stdout);
    }
    assert_eq!(5, client(&daemon).welcome().in_flight_max);
    let clients: Vec<_> = (0..3).map(|_| client(&daemon)).collect();
    let refused = blocking::Client::connect(daemon.socket()).expect_err("they are too many");
    assert!(refused.to_string().contains("3 connections"), "{refused}");
    drop(clients);
    wait_for("there is room again", 5 * SECOND, || daemon.try_status().is_ok());
    for line in [
        "socket = \"elsewhere\"",
        "memory = \"2GiB\"",
        "payload = \"1MiB\"",
        "log.format = \"json\"",
    ] {
        write(&daemon, config(line));
        reload(&daemon).expect_code(8).expect_stderr("restart needed");
    }
}

#[test]
fn a_hangup_reloads_and_a_reload_that_cannot_wait_does_not() {
    let pool = |dir, keys: &str| Config::new().pool("default", dir, keys);
    let daemon = start(pool("v1", "workers = 2\n"));
    let oracle = daemon.oracle();
    write(&daemon, pool("v2", "workers = 2\n"));
    daemon.signal(Signal::SIGHUP);
    let line = daemon.wait_for_log("the configuration is reloaded", 20 * SECOND);
    assert!(line.contains("default replaced 2 workers"), "{line}");
    assert_eq!(2, version(&daemon, "default").expect("it is served"));
    write(&daemon, pool("v2", "workers = 0\n"));
    daemon.signal(Signal::SIGHUP);
    let line = daemon.wait_for_log("the configuration is not reloaded", 20 * SECOND);
    assert!(line.contains("pools.default.workers"), "{line}");

    // A worker that is busy keeps a reload waiting, but not one that does not want to.
    let busy = client(&daemon);
    let busy = std::thread::spawn(move || busy.call::<u32>("code:nap", (2.0,)).map_err(Box::new));
    wait_for("it runs", 10 * SECOND, || daemon.status().pools[0].running == 1);
    write(&daemon, pool("v1", "workers = 2\n"));
    let output = daemon.cli(["reload", "--no-wait", "--json"]).expect_code(0);
    let answer: clutch_protocol::reload::Reloaded = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(ReloadResult::UnderWay, answer.result);
    assert_eq!(PoolChange::Replaced { workers: 2 }, answer.pools["default"]);
    assert!(!busy.is_finished());

    // One more may wait until that is done; a third is refused at once.
    let mut others: Vec<_> = (0..2)
        .map(|_| {
            let client = client(&daemon);
            std::thread::spawn(move || client.reload(true).map_err(Box::new))
        })
        .collect();
    wait_for("one of them is refused", 10 * SECOND, || others.iter().any(JoinHandle::is_finished));
    assert!(!busy.is_finished());
    let refused = others.iter().position(JoinHandle::is_finished).expect("one is");
    let refused = others.remove(refused).join().unwrap().expect("it was answered");
    assert_eq!(ReloadResult::Refused, refused.result, "{refused:?}");
    assert_eq!(2, busy.join().unwrap().expect("the old worker finishes it"));
    let waited = others.remove(0).join().unwrap().expect("it was answered");
    assert_eq!(ReloadResult::Done, waited.result, "{waited:?}");
    assert_eq!(1, version(&daemon, "default").expect("it is served"));
    oracle.judge(daemon);
}

#[test]
fn changed_files_replace_the_workers_that_watch_them() {
    let keys = "workers = 2\npreload = [\"code\"]\nwatch = [\"v1/**/*.py\"]\n";
    let daemon =
        start(Config::new().pool("default", "v1", keys).pool("other", "v1", "workers = 1\n"));
    let oracle = daemon.oracle();
    let (others, pids) = (daemon.worker_pids("other"), daemon.worker_pids("default"));
    let load = Load::start(&daemon, 4, "default");
    let becomes = |wanted: u32| {
        wait_until("the new code serves", 20 * SECOND, || {
            match version(&daemon, "default").map_err(|failure| failure.to_string())? {
                found if found == wanted => Ok(()),
                found => Err(format!("version {found}")),
            }
        });
    };
    write_code(daemon.tmp(), "v1", 5);
    becomes(5);
    daemon.wait_for_log("the changed code is in force", 20 * SECOND);
    // Python writes its cache, and editors write other files: neither is a change.
    let pids_now = wait_until("the old workers are gone", 20 * SECOND, || {
        let now = daemon.worker_pids("default");
        let is_new = now.len() == 2 && pids.iter().all(|pid| !now.contains(pid));
        if is_new { Ok(now) } else { Err(now) }
    });
    daemon.tmp().write("v1/notes.txt", "nothing");

    // Code that does not start leaves the former at work, until it is repaired.
    daemon.tmp().write("v1/code.py", "def version(*_):\n    return 6\n\nimport nowhere_at_all\n");
    let line = daemon.wait_for_log("the changed code does not start", 20 * SECOND);
    assert!(line.contains("nowhere_at_all"), "{line}");
    assert_eq!(5, version(&daemon, "default").expect("the former code serves"));
    assert_eq!(pids_now, daemon.worker_pids("default"), "nobody was replaced");
    let deep = "def version(*_):\n    return 7\n";
    daemon.tmp().write("v1/code.py", deep);
    becomes(7);
    load.finish();
    assert_eq!(others, daemon.worker_pids("other"), "who does not watch is left alone");

    // What is watched is a limit like any other: it changes without a new worker.
    wait_for("the log says so again", 20 * SECOND, || {
        daemon.log().matches("the changed code is in force").count() >= 2
    });
    daemon.wait_ready();
    let pids = daemon.worker_pids("default");
    let keys = keys.replace("v1/**", "v2/**");
    let config = Config::new().pool("default", "v1", &keys).pool("other", "v1", "workers = 1\n");
    write(&daemon, config);
    let output = reload(&daemon).expect_code(0);
    assert_eq!("pool default: limits\npool other: unchanged\n", output.stdout);
    assert_eq!(pids, daemon.worker_pids("default"));
    daemon.tmp().write("v2/new/more.py", "x = 1\n");
    wait_until("the other directory is watched now", 20 * SECOND, || {
        let now = daemon.worker_pids("default");
        if pids.iter().any(|pid| now.contains(pid)) { Err(now) } else { Ok(()) }
    });
    write(&daemon, Config::new().pool("default", "v1", "watch = [\"nowhere/*.py\"]\n"));
    reload(&daemon).expect_code(8).expect_stderr("pools.default.watch.0");
    daemon.wait_ready();
    oracle.judge(daemon);
}

#[test]
fn watching_wakes_nobody_while_nothing_changes() {
    let daemon = start(Config::new().pool("default", "v1", "workers = 1\nwatch = [\"v1/*.py\"]\n"));
    let switches = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("it lives");
        let count = |task: std::fs::DirEntry| {
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = status.lines().find(|l| l.starts_with("voluntary_ctxt_switches:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        tasks.flatten().filter_map(count).sum::<u64>()
    };
    // Threads that had something to do at the start go to sleep for good within seconds.
    wait_until("nobody wakes for a second", 60 * SECOND, || {
        let before = switches();
        let end = std::time::Instant::now() + SECOND;
        while let Some(rest) = end.checked_duration_since(std::time::Instant::now()) {
            if rest.is_zero() {
                break;
            }
            clutch_tests::park(rest);
        }
        let woken = switches().saturating_sub(before);
        if woken == 0 { Ok(()) } else { Err(format!("{woken} times")) }
    });
}

#[test]
fn a_stop_does_not_wait_for_a_reload_that_hangs() {
    let mut daemon = start(Config::new().pool("default", "v1", "workers = 1\n"));
    daemon.tmp().program("python3.9", "#!/bin/sh\nsleep 1000 & wait\n");
    let python = Python::any().path.display().to_string();
    let text = Config::new().pool("default", "v1", "workers = 1\n").text;
    daemon.tmp().write("clutch.toml", text.replace(&python, "./python3.9"));
    let waiting = client(&daemon);
    let waiting = std::thread::spawn(move || waiting.reload(true).map_err(Box::new));
    wait_for("the interpreter is asked who it is", 10 * SECOND, || {
        daemon.descendants().iter().any(|process| process.command.contains("sleep 1000"))
    });
    assert_eq!(1, version(&daemon, "default").expect("nobody notices"));
    assert_eq!(0, daemon.stop(5 * SECOND));
    daemon.assert_swept(SECOND);
    let _ = waiting.join().expect("it is told, or its connection ends");
}
