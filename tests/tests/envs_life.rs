//! Environments as a part of their pools' lives: the others serve while one is built, a failed
//! build is its pool's own trouble, and heals.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use clutch_protocol::status::PoolStatus;
use clutch_tests::daemon::wait_dead;
use clutch_tests::ground::{Ground, needs};
use clutch_tests::packages::Slow;
use clutch_tests::{Daemon, Pool, Python, SECOND, command, kill, process, wait_for, wait_until};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::getpgid;

#[track_caller]
fn pool(daemon: &Daemon, name: &str) -> PoolStatus {
    let pools = daemon.status().pools;
    pools.into_iter().find(|pool| pool.name == name).expect("it is there")
}

#[track_caller]
fn wait_state(daemon: &Daemon, name: &str, state: &str) -> PoolStatus {
    // Generous: a build that failed slowly on a busy machine rests in proportion.
    wait_until(&format!("pool {name} is {state}"), 180 * SECOND, || {
        let found = pool(daemon, name);
        if found.state == state { Ok(found) } else { Err((found.state, found.reason)) }
    })
}

#[track_caller]
fn answer(daemon: &Daemon, pool: &str, function: &str) -> String {
    let output = daemon.cli(["call", "--pool", pool, function]).expect_code(0);
    output.stdout.trim().to_owned()
}

fn builds_of(daemon: &Daemon, requirement: &str) -> usize {
    let log = daemon.log();
    let begun = log.lines().filter(|line| line.contains("building an environment"));
    begun.filter(|line| line.contains(requirement)).count()
}

/// A pool that does not try again by itself while a test lasts.
fn once(pool: Pool) -> Pool {
    pool.table("restart", [("backoff_max", "10m".into())])
}

#[track_caller]
fn wait_begun(slow: &Slow, count: usize) {
    wait_for("the build has begun", 60 * SECOND, || slow.begun().len() == count);
}

/// A daemon with a pool `good`, and a pool `built` whose environment is being built until `Slow` is
/// opened.
#[track_caller]
fn beside_a_build() -> (Ground, Slow, Daemon) {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let daemon = ground
        .daemon()
        .pool("built", needs(&[&requirement]))
        .pool("good", |pool| pool)
        .start_partly();
    wait_begun(&slow, 1);
    (ground, slow, daemon)
}

#[track_caller]
fn kill_builder(slow: &Slow) {
    let [builder, child] = slow.begun()[0];
    let group = getpgid(Some(process::pid_of(builder))).expect("it lives");
    killpg(group, Signal::SIGKILL).expect("it is ours");
    wait_dead(child, 10 * SECOND);
}

#[test]
fn f151_the_other_pools_serve_while_one_is_built_and_its_calls_wait() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let daemon = ground
        .daemon()
        .pool("built", |pool| {
            let pool = needs(&[&requirement])(pool).limit("queue", 1).workers(2);
            pool.limit("start_timeout", "6s")
        })
        .pool("good", |pool| pool)
        .start_partly();
    assert_eq!("{}", answer(&daemon, "good", "builtins:dict"));
    wait_begun(&slow, 1);
    let built = wait_until("it says what it is at", 20 * SECOND, || {
        let found = pool(&daemon, "built");
        match &found.building {
            Some(building) if building.phase == "compiling" => Ok(found),
            _ => Err(format!("{found:?}")),
        }
    });
    assert_eq!("building", built.state);
    let building = built.building.clone().expect("it was just looked at");
    assert!(building.made_of.contains("slow @ file://"), "{building:?}");
    assert!(!building.line.is_empty());
    assert!(built.reason.contains("its environment is being built (compiling: "), "{built:?}");
    let page = daemon.cli(["status"]).expect_code(0).stdout;
    assert!(page.contains("is building: its environment is being built"), "{page}");
    assert!(daemon.log().contains("pool built builds its environment"), "{}", daemon.log());

    let late = daemon.cli(["call", "--pool", "built", "--timeout", "300ms", "slow:answer"]);
    let late = late.expect_code(4).stderr;
    assert!(late.contains("the environment of pool 'built' was still being built"), "{late}");
    let call = ["call", "--pool", "built", "slow:answer"];
    let mut waits = daemon.command(call).spawn(Stdio::null(), Stdio::null(), Stdio::null());
    wait_for("the call waits", 20 * SECOND, || pool(&daemon, "built").queued == 1);
    let full = daemon.cli(call).expect_code(7).stderr;
    assert!(full.contains("the queue of pool 'built' is full"), "{full}");
    // Longer than a start may take.
    wait_for("it has taken long", 20 * SECOND, || {
        pool(&daemon, "built").building.is_some_and(|building| building.since_ms > 7_000)
    });
    slow.open();
    let ended = command::wait(&mut waits, 60 * SECOND).expect("it ends");
    assert_eq!(0, command::shell_code(ended));
    daemon.wait_ready();
    let built = pool(&daemon, "built");
    assert_eq!(("running", None), (&*built.state, built.building));
    assert_eq!((1, 1), (builds_of(&daemon, "slow @"), slow.begun().len()));
}

#[test]
fn f151_a_build_that_fails_is_its_pools_trouble_alone_and_heals() {
    let ground = Ground::new();
    let daemon = ground
        .daemon()
        .pool("absent", |pool| once(needs(&["tiny==3.0"])(pool)))
        .pool("as-absent", |pool| once(needs(&["tiny==3.0"])(pool)))
        .pool("again", |pool| {
            let pool = needs(&["tiny==4.0"])(pool);
            pool.table("restart", [("backoff", "10ms".into()), ("backoff_max", "100ms".into())])
        })
        .pool("good", |pool| pool)
        .start_partly();
    for name in ["absent", "as-absent"] {
        let broken = wait_state(&daemon, name, "crash_loop");
        let words = "No matching distribution found for tiny==3.0";
        assert!(broken.reason.contains(words), "{}", broken.reason);
        assert!(broken.last_death.expect("it died").detail.contains(words));
        let refused = daemon.cli(["call", "--pool", name, "tiny:version"]).expect_code(7);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert!(refused.stderr.contains("its workers cannot be started;"), "{}", refused.stderr);
        let run = daemon.cli(["run", "--pool", name, "-c", "pass"]).expect_code(8);
        assert!(run.stderr.contains(words), "{}", run.stderr);
        let listed = daemon.cli(["pool", "list"]).expect_code(0).stdout;
        assert!(listed.contains(words), "{listed}");
    }
    assert!(daemon.log().contains("the pool has no environment"), "{}", daemon.log());
    assert_eq!("{}", answer(&daemon, "good", "builtins:dict"));
    let before = builds_of(&daemon, "tiny==3.0");
    assert!(before <= 2, "{}", daemon.log());
    wait_state(&daemon, "again", "crash_loop");
    let others = builds_of(&daemon, "tiny==4.0");
    // Probes that come soon after a failed build get its words, and not another build.
    let deaths = daemon.counter("again", "deaths.start_failed");
    wait_for("it was probed", 30 * SECOND, || {
        daemon.counter("again", "deaths.start_failed") >= deaths + 3
    });
    assert!(builds_of(&daemon, "tiny==4.0") <= others + 1, "{}", daemon.log());
    // Nothing has died, and what went wrong was said when it did.
    assert!(!daemon.log().contains("worker died"), "{}", daemon.log());
    wait_for("it is told what it waits for", 30 * SECOND, || {
        let words = "its environment could not be built; built again in ";
        pool(&daemon, "again").workers.iter().any(|worker| worker.reason.starts_with(words))
    });

    ground.publish("3.0");
    daemon.cli(["pool", "reset", "absent"]).expect_code(0);
    wait_state(&daemon, "absent", "running");
    assert_eq!("\"3.0\"", answer(&daemon, "absent", "tiny:version"));
    let reload = daemon.cli(["reload"]).expect_code(0);
    assert!(reload.stdout.contains("pool as-absent: unchanged"), "{}", reload.stdout);
    assert!(reload.stderr.contains("is tried again now"), "{}", reload.stderr);
    wait_state(&daemon, "as-absent", "running");
    assert_eq!("\"3.0\"", answer(&daemon, "as-absent", "tiny:version"));
    assert_eq!(before + 1, builds_of(&daemon, "tiny==3.0"));
    daemon.cli(["reload"]).expect_code(0);
}

#[test]
fn f151_a_builder_that_is_killed_is_tried_again() {
    let (_ground, slow, daemon) = beside_a_build();
    kill_builder(&slow);
    let broken = wait_state(&daemon, "built", "crash_loop");
    assert!(broken.reason.contains("could not be built"), "{}", broken.reason);
    slow.open();
    // The next attempt comes by itself, after the usual wait.
    wait_state(&daemon, "built", "running");
    assert_eq!("42", answer(&daemon, "built", "slow:answer"));
    assert_eq!(2, slow.begun().len());
}

#[test]
fn f151_pools_with_one_declaration_share_one_build_for_as_long_as_one_wants_it() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let daemon = ground
        .daemon()
        .pool("a", needs(&[&requirement]))
        .pool("b", needs(&[&requirement]))
        .pool("good", |pool| pool)
        .start_partly();
    wait_begun(&slow, 1);
    for name in ["a", "b"] {
        let building = wait_state(&daemon, name, "building").building;
        assert!(building.expect("it is being built").made_of.contains("slow @"));
    }
    let file = daemon.tmp().join("clutch.toml");
    let text = fs::read_to_string(&file).unwrap();
    let without_a = text.find("[pools.b]").map(|at| text[at..].to_owned()).unwrap();
    fs::write(&file, without_a).unwrap();
    let reload = daemon.cli(["reload"]).expect_code(0);
    assert!(reload.stdout.contains("pool a: removed"), "{}", reload.stdout);
    wait_for("a is gone", 10 * SECOND, || daemon.status().pools.iter().all(|p| p.name != "a"));
    assert_eq!("building", pool(&daemon, "b").state);
    slow.open();
    wait_state(&daemon, "b", "running");
    assert_eq!("42", answer(&daemon, "b", "slow:answer"));
    assert_eq!((1, 1), (builds_of(&daemon, "slow @"), slow.begun().len()));
}

#[test]
fn f151_a_stop_during_a_build_leaves_nothing() {
    for by_signal in [true, false] {
        let (ground, slow, mut daemon) = beside_a_build();
        if by_signal {
            daemon.signal(Signal::SIGTERM);
        } else {
            daemon.cli(["stop"]).expect_code(0);
        }
        assert_eq!(0, daemon.wait_exit(5 * SECOND), "{}", daemon.log());
        for pid in slow.begun()[0] {
            wait_dead(pid, 5 * SECOND);
        }
        assert!(ground.list().is_empty(), "{:?}", ground.list());
    }
}

#[test]
fn f151_a_daemon_that_is_killed_beside_a_build_is_cleaned_up_after() {
    let (ground, slow, daemon) = beside_a_build();
    kill(daemon.pid());
    for pid in slow.begun()[0] {
        wait_dead(pid, 10 * SECOND);
    }
    drop(daemon);
    assert_eq!(false, ground.list()[0]["complete"]);
    slow.open();
    let daemon = ground.daemon().pool("built", needs(&[&slow.requirement()])).start();
    assert_eq!("42", answer(&daemon, "built", "slow:answer"));
    assert_eq!(2, slow.begun().len());
}

#[test]
fn f151_a_reload_builds_beside_the_old_workers_and_is_not_held_up_by_others() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let daemon = ground.daemon().pool("default", needs(&["tiny==1.0"])).start();
    let file = daemon.tmp().join("clutch.toml");
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replace("tiny==1.0", &format!("{requirement}\", \"tiny==1.0"));
    assert_ne!(text, changed);
    fs::write(&file, changed).unwrap();
    let reload = daemon.command(["reload"]);
    let mut reload = reload.spawn(Stdio::null(), Stdio::null(), Stdio::null());
    wait_begun(&slow, 1);
    let found = pool(&daemon, "default");
    assert_eq!("running", found.state);
    assert!(found.building.expect("it is being built").made_of.contains("slow @"));
    assert_eq!("\"1.0\"", answer(&daemon, "default", "tiny:version"));
    slow.open();
    let ended = command::wait(&mut reload, 60 * SECOND).expect("it ends");
    assert_eq!(0, command::shell_code(ended));
    assert_eq!("42", answer(&daemon, "default", "slow:answer"));
    assert_eq!(None, pool(&daemon, "default").building);
}

#[test]
fn f151_a_reload_does_not_wait_for_a_build_that_is_under_way() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let daemon = ground
        .daemon()
        .pool("built", needs(&[&requirement]))
        .pool("good", |pool| pool.limit("queue", 7))
        .start_partly();
    wait_begun(&slow, 1);
    let file = daemon.tmp().join("clutch.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("queue = 7", "queue = 8")).unwrap();
    let reload = daemon.cli(["reload"]).expect_code(0);
    assert!(reload.stdout.contains("pool built: unchanged"), "{}", reload.stdout);
    assert!(reload.stderr.contains("`clutch status` shows how far"), "{}", reload.stderr);
    assert_eq!(8, pool(&daemon, "good").queue_limit);
    assert_eq!("building", pool(&daemon, "built").state);
    slow.open();
    wait_state(&daemon, "built", "running");
    assert_eq!((1, "42"), (slow.begun().len(), &*answer(&daemon, "built", "slow:answer")));
}

/// An address where nobody answers.
fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there are ports");
    listener.local_addr().expect("it is bound").to_string()
}

const PASSWORD: &str = "hunter2-the-password";

#[test]
fn f151_a_missing_network_is_told_soon_with_what_to_do_and_no_password() {
    let ground = Ground::new();
    let url = format!("http://user:{PASSWORD}@{}/simple", closed_port());
    let daemon = ground
        .daemon()
        .env("PIP_NO_INDEX", "0")
        .pool("built", |pool| once(needs(&["tiny==3.0"])(pool)).build("index_url", &*url))
        .pool("good", |pool| pool)
        .start_partly();
    let broken = wait_state(&daemon, "built", "crash_loop");
    for words in ["a package index could not be reached", "No matching distribution"] {
        assert!(broken.reason.contains(words), "{words:?} in {}", broken.reason);
    }
    let retries = daemon
        .log()
        .lines()
        .filter(|line| line.contains("INFO pip install: WARNING: Retrying"))
        .count();
    assert_eq!(2, retries, "{}", daemon.log());
    let shown = [
        daemon.log(),
        daemon.cli(["status", "--json"]).expect_code(0).stdout,
        daemon.cli(["call", "--pool", "built", "tiny:version"]).expect_code(7).stderr,
        daemon.cli(["run", "--pool", "built", "-c", "pass"]).expect_code(8).stderr,
    ];
    for text in shown {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[test]
fn f151_passwords_are_in_no_command_line_mark_or_list() {
    let ground = Ground::new();
    let slow = Slow::new(&ground.tmp);
    let requirement = slow.requirement();
    let url = format!("http://user:{PASSWORD}@{}/simple", closed_port());
    let links = [url.as_str()];
    let daemon = ground
        .daemon()
        .pool("built", |pool| {
            let pool = needs(&[&requirement])(pool).build("index_url", &*url);
            pool.build("find_links", &links[..]).build("extra_index_urls", &links[..])
        })
        .pool("good", |pool| pool)
        .start_partly();
    wait_begun(&slow, 1);
    let processes = daemon.descendants();
    assert!(processes.iter().any(|process| process.pid == slow.begun()[0][0]), "{processes:?}");
    for process in processes {
        let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(PASSWORD), "{line}");
    }
    slow.open();
    wait_state(&daemon, "built", "running");
    let folder = ground.list()[0]["path"].as_str().map(std::path::PathBuf::from).unwrap();
    let mark = fs::read_to_string(folder.with_file_name("complete.json")).unwrap();
    for text in [mark, ground.env(["list", "--json"]).stdout, daemon.log()] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
}

#[test]
fn f151_a_program_waits_for_the_environment_of_its_pool_and_says_so() {
    let (ground, slow, daemon) = beside_a_build();
    let (out, err) = (ground.tmp.join("out"), ground.tmp.join("err"));
    let file = |path| Stdio::from(fs::File::create(path).expect("it can be made"));
    let code = "import slow; print(slow.answer())";
    let run = daemon.command(["run", "--pool", "built", "-c", code]);
    let mut run = run.spawn(Stdio::null(), file(&out), file(&err));
    wait_for("it says what it waits for", 20 * SECOND, || {
        fs::read_to_string(&err).is_ok_and(|text| text.contains("pool built: building its"))
    });
    slow.open();
    let ended = command::wait(&mut run, 60 * SECOND).expect("it ends");
    assert_eq!(0, command::shell_code(ended), "{}", fs::read_to_string(&err).unwrap());
    assert_eq!("42\n", fs::read_to_string(&out).unwrap());
}

#[test]
fn f151_a_program_without_a_daemon_has_the_environment_that_its_pool_declares() {
    let ground = Ground::new();
    let config = |requirement: &str| {
        let text = format!(
            "[pools.default]\npython = {:?}\nrequirements = [{requirement:?}]\n\
             [pools.default.build]\ntool = \"pip\"\n",
            Python::any().path
        );
        ground.tmp.write("clutch.toml", text)
    };
    let run = |requirement: &str| {
        let file = config(requirement);
        let args = ["run", "--local", "--config", file.to_str().unwrap(), "-c"];
        ground.command(args).args(["import tiny; print(tiny.version())"]).run()
    };
    let first = run("tiny==1.0").expect_code(0);
    assert_eq!("1.0\n", first.stdout);
    assert!(first.stderr.contains("Successfully installed tiny-1.0"), "{}", first.stderr);
    let again = run("tiny==1.0").expect_code(0);
    assert_eq!(("1.0\n", ""), (&*again.stdout, &*again.stderr));
    let failed = run("tiny==3.0").expect_code(8);
    assert!(failed.stderr.contains("No matching distribution found"), "{}", failed.stderr);
}
