//! Security of the local socket and of what passes through it. F160 to F164, F166 to F170, F182;
//! F181 is in `faults_workers.rs`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use clutch_protocol::failure::Reason;
use clutch_protocol::frame::Kind;
use clutch_protocol::message::{Refusal, Role};
use clutch_tests::process::{self, descriptor_list, environment};
use clutch_tests::raw::{forged, hello};
use clutch_tests::{Clutch, Daemon, Output, Program, SECOND, Tmp, kill, skip, wait_for};

/// `nobody` on every Linux.
const NOBODY: u32 = 65534;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn we_are_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Runs the binary as another user, from a place that user can reach.
fn as_nobody(outside: &Tmp, words: &[&str]) -> Output {
    set_mode(outside.path(), 0o755);
    let copy = outside.join("clutch");
    if !copy.exists() {
        outside.program("clutch", fs::read(Clutch::binary()).unwrap());
    }
    Clutch::private(Program::new(copy)).args(words).user(NOBODY, NOBODY).dir("/").run()
}

#[test]
fn f160_another_user_cannot_even_connect() {
    if !we_are_root() {
        skip!("needs root, to play another user");
    }
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let outside = Tmp::new();
    let socket = daemon.socket().to_str().unwrap();
    let output = as_nobody(&outside, &["--socket", socket, "call", "math:sqrt", "2"]);
    assert_eq!((3, ""), (output.code, &*output.stdout), "{}", output.stderr);
    let words = output.stderr.to_lowercase();
    assert!(words.contains("permission"), "{}", output.stderr);
    assert_eq!(0o600, mode(daemon.socket()));
    assert_eq!(0o700, mode(daemon.socket().parent().unwrap()));
    oracle.judge(daemon);
}

#[test]
fn f160_another_user_is_refused_even_where_the_files_would_let_it_in() {
    if !we_are_root() {
        skip!("needs root, to play another user");
    }
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    // An operator's mistake: everything is opened up.
    set_mode(daemon.tmp().path(), 0o755);
    set_mode(daemon.socket().parent().unwrap(), 0o755);
    set_mode(daemon.socket(), 0o666);
    let outside = Tmp::new();
    let socket = daemon.socket().to_str().unwrap();
    let accepted = daemon.counter("default", "accepted");
    let output = as_nobody(&outside, &["--socket", socket, "call", "math:sqrt", "2"]);
    assert_ne!(0, output.code, "another user was served: {}", output.stdout);
    assert!(matches!(output.code, 3 | 7), "{}: {}", output.code, output.stderr);
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    let line = daemon.wait_for_log("65534", 5 * SECOND);
    assert!(line.contains("WARN") || line.contains("refus"), "the refusal is logged: {line}");
    oracle.judge(daemon);
}

#[test]
fn f161_a_careless_umask_opens_nothing() {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool)
        .through(&["sh", "-c", "umask 000; exec \"$0\" \"$@\""])
        .start();
    let oracle = daemon.oracle();
    assert_eq!(0o600, mode(daemon.socket()));
    let own = nix::unistd::geteuid().as_raw();
    for dir in ["run", "state"] {
        let mut next = vec![daemon.tmp().join(dir)];
        while let Some(path) = next.pop() {
            let data = fs::symlink_metadata(&path).unwrap();
            let open = data.permissions().mode() & 0o022;
            assert_eq!(0, open, "{} can be written by others", path.display());
            assert_eq!(own, data.uid());
            if data.is_dir() {
                next.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }
    oracle.judge(daemon);
}

/// Starts a daemon whose socket is to be `socket`; it must refuse with a configuration error that
/// names `named`.
#[track_caller]
fn assert_no_start(socket: &Path, named: &str) -> Output {
    let started = Daemon::builder().pool("default", |pool| pool).socket(socket).try_start();
    let Err(output) = started else { panic!("it listens at {}", socket.display()) };
    assert!(matches!(output.code, 7 | 8), "{}: {}", output.code, output.stderr);
    assert!(output.stderr.contains(named), "{named:?} in: {}", output.stderr);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    output
}

#[test]
fn f162_a_directory_somebody_else_prepared_is_not_used() {
    let tmp = Tmp::new();
    let open = tmp.dir("open");
    set_mode(&open, 0o777);
    assert_no_start(&open.join("clutch.sock"), open.to_str().unwrap());
    assert!(fs::read_dir(&open).unwrap().next().is_none(), "nothing was made there");
    set_mode(&open, 0o770);
    assert_no_start(&open.join("clutch.sock"), open.to_str().unwrap());

    let (real, link) = (tmp.dir("real"), tmp.join("link"));
    symlink(&real, &link).unwrap();
    assert_no_start(&link.join("clutch.sock"), link.to_str().unwrap());
    assert!(fs::read_dir(&real).unwrap().next().is_none(), "nothing was made there");

    let file = tmp.write("file", "");
    assert_no_start(&file.join("clutch.sock"), file.to_str().unwrap());

    if !we_are_root() {
        skip!("the rest needs root, to play another user");
    }
    let foreign = tmp.dir("foreign");
    nix::unistd::chown(&foreign, Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    assert_no_start(&foreign.join("clutch.sock"), foreign.to_str().unwrap());
}

#[test]
fn f163_symlinks_where_files_are_to_be_lead_nowhere() {
    let tmp = Tmp::new();
    let run = tmp.dir("run");
    let socket = run.join("clutch.sock");
    // Which files a daemon makes beside its socket, it shows itself.
    let daemon = Daemon::builder().pool("default", |pool| pool).socket(&socket).start();
    let names: Vec<_> =
        fs::read_dir(&run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.is_empty());
    drop(daemon);
    for name in names {
        for target in ["treasure", "not-there"] {
            fs::remove_dir_all(&run).unwrap();
            tmp.dir("run");
            let treasure = tmp.write("treasure", "gold");
            let _ = fs::remove_file(tmp.join("not-there"));
            symlink(tmp.join(target), run.join(&name)).unwrap();
            let begun = Daemon::builder().pool("default", |pool| pool).socket(&socket).try_start();
            if let Err(output) = &begun {
                assert!(matches!(output.code, 7 | 8), "{}: {}", output.code, output.stderr);
                let named = output.stderr.contains(&*name.to_string_lossy());
                assert!(named, "{name:?} in: {}", output.stderr);
            }
            drop(begun);
            assert_eq!("gold", fs::read_to_string(&treasure).unwrap(), "{name:?} was followed");
            assert!(!tmp.join("not-there").exists(), "{name:?} was followed");
        }
    }
}

/// The lines of `/proc/net/unix` about sockets that the daemon or anything below it holds.
fn sockets_of(daemon: &Daemon) -> Vec<String> {
    let mut pids = vec![daemon.pid()];
    pids.extend(daemon.descendants().iter().map(|process| process.pid));
    let held: Vec<_> = pids
        .iter()
        .flat_map(|pid| descriptor_list(*pid).into_values())
        .filter_map(|target| Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let ours = |line: &&str| {
        line.split_whitespace().nth(6).is_some_and(|inode| held.iter().any(|one| one == inode))
    };
    table.lines().filter(ours).map(str::to_owned).collect()
}

#[test]
fn f164_f182_one_socket_listens_it_has_a_file_and_only_the_daemon_holds_it() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    let all = sockets_of(&daemon);
    let path = |line: &String| line.split_whitespace().nth(7).map(str::to_owned);
    let abstract_name = all.iter().find(|line| path(line).is_some_and(|it| it.starts_with('@')));
    assert_eq!(None, abstract_name, "permissions have no meaning for abstract sockets");
    // Flag 0x10000 of the fourth column: it accepts connections.
    let listens = |line: &&String| line.split_whitespace().nth(3) == Some("00010000");
    let listeners: Vec<_> = all.iter().filter(listens).collect();
    assert_eq!(1, listeners.len(), "{listeners:#?}");
    assert_eq!(daemon.socket().to_str(), path(listeners[0]).as_deref());
    let inode = listeners[0].split_whitespace().nth(6).unwrap().to_owned();
    for below in daemon.descendants() {
        let inherited = descriptor_list(below.pid).into_values().find(|it| it.contains(&inode));
        assert_eq!(None, inherited, "{below} holds the daemon's listener");
    }
    oracle.judge(daemon);
}

#[test]
fn f182_nobody_becomes_a_worker_by_asking() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let workers = daemon.worker_pids("default");
    for role in [Role::Worker, Role::Guardian] {
        let mut intruder = daemon.stranger();
        intruder.say(&hello(role));
        let refused = intruder.expect_refused(5 * SECOND);
        assert_eq!(Refusal::Role, refused.refusal, "{}", refused.sentence);
    }
    for kind in [Kind::Ready, Kind::Failed, Kind::Spawned, Kind::Exited, Kind::Swept] {
        let mut intruder = daemon.raw();
        intruder.say(&forged(kind as u8, 0, 0, 0));
        assert_eq!(Refusal::Protocol, intruder.expect_refused(5 * SECOND).refusal, "{kind:?}");
    }
    assert_eq!(workers, daemon.worker_pids("default"));
    oracle.judge(daemon);
}

#[test]
fn f166_only_what_is_allowed_is_looked_up_at_all() {
    let tmp = Tmp::new();
    let mark = tmp.join("imported");
    let trap = format!("open({:?}, 'w').close()\ndef f(): return 1\n", mark.to_str().unwrap());
    tmp.write("code/trap.py", trap);
    let daemon = Daemon::builder()
        .pool("default", |pool| {
            pool.path(tmp.join("code")).allow(&["effects:*", "math:s*", "os.path:join"])
        })
        .start();
    let oracle = daemon.oracle();
    let mut client = daemon.raw();
    for function in [
        "os:system",
        "builtins:eval",
        "builtins:exec",
        "subprocess:run",
        "effects:_private",
        "effects:__class__",
        "effects:__builtins__",
        "effects:os.system",
        "effects:touch.__globals__",
        "effects:Thing.method",
        "effects:Thing.__init__",
        "effects.os:system",
        "math:cos",
        "os:path.join",
        "trap:f",
        "__main__:f",
    ] {
        let failure = client.call("default", function, "[]").failure();
        assert_eq!(Reason::NotAllowed, failure.reason, "{function}");
        assert!(!failure.started, "{function}");
    }
    assert!(!mark.exists(), "a module that may not be called was imported");
    assert_eq!(3.0, client.call("default", "math:sqrt", "[9]").value());
    assert_eq!("a/b", client.call("default", "os.path:join", "[\"a\", \"b\"]").value());
    let touched = tmp.join("touched");
    let touch = format!("[{:?}]", touched.to_str().unwrap());
    client.call("default", "effects:touch", &touch).value();
    assert!(touched.exists());
    let output = daemon.cli(["call", "os:getpid"]);
    assert_eq!(7, output.code, "{}", output.stderr);
    assert!(output.stderr.contains("allow"), "{}", output.stderr);
    drop(client);
    oracle.judge(daemon);
}

#[test]
fn f167_what_looks_like_an_option_or_a_shells_is_only_a_bad_name() {
    let daemon = Daemon::builder().pool("default", |pool| pool).start();
    let oracle = daemon.oracle();
    let mark = daemon.tmp().join("ran");
    let shell = format!("$(touch {})", mark.display());
    let accepted = daemon.counter("default", "accepted");
    for word in ["--help", "-c", ";id", "$(id)", "a\nb", "`id`", "|x", &shell, "\u{202e}:f"] {
        let output = daemon.cli(["call", "--", word]);
        assert_eq!(2, output.code, "function {word:?}: {}", output.stderr);
        let output = daemon.cli(["call", &format!("--pool={word}"), "math:sqrt", "2"]);
        assert_eq!(2, output.code, "pool {word:?}: {}", output.stderr);
        assert!(!output.stdout.contains("uid="), "{}", output.stdout);
    }
    assert_eq!(accepted, daemon.counter("default", "accepted"));
    // An argument is an argument, whatever it looks like.
    for word in ["--help", "-c", ";id", "$(id)", "`id`", &shell, "-"] {
        let output = daemon.command(["call", "builtins:repr", "--", word]).stdin("\"in\"").run();
        let expected = if word == "-" { "in" } else { word };
        let text: String = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!((0, format!("'{expected}'")), (output.code, text), "{}", output.stderr);
    }
    assert!(!mark.exists(), "a shell was asked");
    for name in ["$(id)", "--help", "a b", "../x", ""] {
        let text = format!("[pools.{name:?}]\nworkers = 1\n");
        let started = Daemon::builder().config_text(text).try_start();
        let Err(output) = started else { panic!("a pool named {name:?}") };
        assert_eq!(8, output.code, "{}", output.stderr);
    }
    oracle.judge(daemon);
}

#[test]
fn f168_a_pools_secrets_are_seen_in_that_pools_workers_and_nowhere_else() {
    let (own, daemons) = ("s3cret-of-the-pool", "s3cret-of-the-daemon");
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.env("API_KEY", own))
        .pool("minimal", |pool| pool.inherit("minimal"))
        .env("DAEMON_KEY", daemons)
        .start();
    let oracle = daemon.oracle();
    let holds = |pid: u32, secret: &str| environment(pid).iter().any(|it| it.contains(secret));
    let (default, minimal) = (daemon.worker_pids("default")[0], daemon.worker_pids("minimal")[0]);
    assert!(holds(default, own), "the configured variable arrives");
    assert!(!holds(minimal, own), "another pool's secret");
    assert!(!holds(minimal, daemons), "the daemon's own secret in a minimal environment");
    assert!(!holds(daemon.pid(), own), "a pool's secret in the daemon");

    // A death and its certificate, an exception and its traceback, a listing, a log.
    let mut client = daemon.raw();
    let raised = client.call("default", "math:sqrt", "[-1]").failure();
    let mark = daemon.tmp().join("mark");
    let path = serde_json::json!([mark]).to_string();
    let id = client.start("default", "job_begun:mark_and_sleep", &path);
    wait_for("the call has begun", 5 * SECOND, || mark.exists());
    kill(daemon.worker_pids("default")[0]);
    let died = client.finish(id).failure();
    drop(client);
    daemon.wait_ready();
    let commands: Vec<String> = process::all().iter().map(ToString::to_string).collect();
    let places = [
        ("an exception", format!("{raised:?}")),
        ("a certificate", format!("{died:?}")),
        ("status", daemon.cli(["status", "--json"]).expect_code(0).stdout),
        ("status for people", daemon.cli(["status"]).expect_code(0).stdout),
        ("a command line", commands.join("\n")),
        ("the log", daemon.log()),
    ];
    for (place, text) in places {
        for secret in [own, daemons] {
            assert!(!text.contains(secret), "{secret} in {place}: {text}");
        }
    }
    oracle.judge(daemon);
}

#[test]
fn f169_a_worker_holds_its_streams_its_sockets_its_pipe_for_stacks_and_nothing_else() {
    let daemon = Daemon::builder().pool("default", |pool| pool.workers(2)).start();
    let oracle = daemon.oracle();
    // Clients that are connected while a worker is born leave nothing in it.
    let clients: Vec<_> = (0..20).map(|_| daemon.raw()).collect();
    let killed = daemon.worker_pids("default")[0];
    kill(killed);
    wait_for("the death is noticed", 5 * SECOND, || {
        !daemon.worker_pids("default").contains(&killed)
    });
    daemon.wait_ready();
    for pid in daemon.worker_pids("default") {
        let all = descriptor_list(pid);
        assert_eq!(Some("/dev/null"), all.get(&0).map(String::as_str), "{all:#?}");
        for number in [1, 2] {
            assert!(all[&number].starts_with("pipe:"), "{all:#?}");
        }
        let own: Vec<_> = all.iter().filter(|(number, _)| **number > 2).collect();
        let sockets = own.iter().filter(|(_, target)| target.starts_with("socket:")).count();
        assert_eq!(2, sockets, "the call and the control socket: {all:#?}");
        let streams = [0, 1, 2].map(|stream| all[&stream].as_str());
        let is_stack = |target: &str| target.starts_with("pipe:") && !streams.contains(&target);
        let stacks = own.iter().filter(|(_, target)| is_stack(target)).count();
        assert_eq!(1, stacks, "the pipe for stacks: {all:#?}");
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        for (number, target) in own {
            // To be able to undo what user code does to its streams and its directory, a worker
            // keeps copies of them, out of the way of code that closes what it finds.
            assert!(*number > 20, "{number} is {target}: {all:#?}");
            let is_copy = (0..=2).any(|stream| all[&stream] == *target);
            let is_ours = is_copy
                || target.starts_with("socket:")
                || is_stack(target)
                || directory == Path::new(target);
            assert!(is_ours, "{number} is {target}: {all:#?}");
            assert!(process::closes_on_exec(pid, *number), "{number} would be inherited: {all:#?}");
        }
    }
    // What a worker starts gets the streams alone.
    let mut client = daemon.raw();
    let list = "[[\"ls\", \"-l\", \"/proc/self/fd\"]]";
    let listing = client.call("default", "subprocess:check_output", list);
    drop((client, clients));
    // Bytes are no JSON: the refusal says so, and the listing is read in another way.
    assert!(matches!(listing.failure().reason, Reason::Unserializable { .. }));
    let output = daemon.cli(["call", "subprocess:getoutput", "ls /proc/self/fd | wc -l"]);
    let count: String = serde_json::from_str(&output.expect_code(0).stdout).unwrap();
    assert_eq!("4", count.trim(), "0, 1, 2 and the listing's own");
    oracle.judge(daemon);
}

#[test]
fn f170_text_from_users_cannot_forge_a_log_line_or_steer_a_terminal() {
    let tmp = Tmp::new();
    let forged_line = "{\"level\":\"ERROR\",\"message\":\"forged\"}";
    let module = format!(
        "import os, sys\n\
         EVIL = 'first\\n' + {forged_line:?} + '\\r\\x1b[2J\\x1b]0;owned\\x07\\u202e\\u2028 end'\n\
         def fail(): raise ValueError(EVIL)\n\
         def long(): raise ValueError('m' * (1 << 20) + EVIL)\n\
         def say(): sys.stderr.write(EVIL + '\\n'); sys.stderr.flush()\n\
         def bytes(): os.write(2, b'\\xff\\xfe\\x00\\x1b[31m broken\\n')\n\
         def die(): sys.stderr.write(EVIL); sys.stderr.flush(); os._exit(3)\n\
         class Odd(Exception):\n    __str__ = lambda self: 1 / 0\n\
         def odd(): raise Odd()\n\
         def surrogate(): raise ValueError('\\udcff' + EVIL)\n"
    );
    tmp.write("evil.py", module);
    let daemon = Daemon::builder().pool("default", |pool| pool.path(tmp.path())).start();
    let oracle = daemon.oracle();
    let expected = [
        ("fail", 1),
        ("long", 1),
        ("say", 0),
        ("bytes", 0),
        ("odd", 1),
        ("surrogate", 1),
        ("die", 6),
    ];
    for (function, code) in expected {
        let output = daemon.cli(["call", &format!("evil:{function}")]);
        assert_eq!(code, output.code, "{function}: {}", output.stderr);
        // What a function prints belongs to the function, as in a terminal. What we say does not.
        if !["say", "bytes", "die"].contains(&function) {
            let text = output.stdout.clone() + &output.stderr;
            let control = text.chars().find(|it| it.is_control() && !"\n\t".contains(*it));
            assert_eq!(None, control, "{function}: a control character in {text:?}");
        }
        assert!(output.stderr.len() < 300_000, "{function}: {} bytes", output.stderr.len());
    }
    daemon.wait_ready();
    let log = daemon.log();
    for line in log.lines() {
        assert!(!line.starts_with(forged_line), "a forged log line: {line}");
        let control = line.chars().find(|it| it.is_control() && *it != '\t');
        assert_eq!(None, control, "a control character in the log: {line:?}");
        assert!(line.len() < 64 << 10, "a log line of {} bytes", line.len());
    }
    oracle.judge(daemon);
}
