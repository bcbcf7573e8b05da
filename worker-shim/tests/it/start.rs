//! What python finds when it starts, and every way it can fail to.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clutch_protocol::Kind;
use clutch_protocol::message::{Exit, Ready, Signal, Spawn, SpawnFailed, SpawnStage, Swept};
use nix::errno::Errno;
use nix::unistd::{Pid, getpgid, getsid};

use crate::harness::{
    self, GUARDIAN, Guardian, command, descriptors, frame, script, send, shell, spawn, status,
    wait_for,
};

const NOTHING_LEFT: Swept = Swept { killed: 0, survivors: 0 };

/// A python that stays until it is killed.
fn sleeper() -> Spawn {
    spawn("/bin/sleep", &["1000"])
}

fn wait_for_program(pid: Pid, name: &str) {
    wait_for(name, || (status(pid).get("Name")? == name).then_some(()));
}

#[test]
fn an_exit_code_is_reported_with_what_it_cost() {
    let mut guardian = Guardian::start(script(
        "import time\n\
         held = bytearray(64 << 20)\n\
         while sum(time.process_time() for _ in '1') < 0.1: pass\n\
         raise SystemExit(7)",
    ));
    let pid = guardian.spawned();
    let exited = guardian.exited();
    assert_eq!((pid.as_raw(), Exit::Code(7)), (exited.pid.try_into().unwrap(), exited.exit));
    assert!(exited.user_us + exited.system_us >= 90_000, "{exited:?}");
    assert!((64 << 20..1 << 30).contains(&exited.peak_rss_bytes), "{exited:?}");
    assert_eq!(NOTHING_LEFT, guardian.swept());
}

#[test]
fn a_signal_is_reported_by_number_even_without_a_name() {
    for number in [6, 9, 11, 15, 34, 40, 64] {
        let mut guardian = Guardian::start(shell(&format!("ulimit -c 0; kill -{number} $$")));
        guardian.spawned();
        assert_eq!(Exit::Signal(number), guardian.exited().exit);
        assert_eq!(NOTHING_LEFT, guardian.swept());
    }
}

#[test]
fn a_python_that_ends_at_once_is_still_announced_first() {
    for _ in 0..50 {
        let mut guardian = Guardian::start(spawn("/bin/true", &[]));
        let pid = guardian.spawned();
        assert_eq!(pid.as_raw(), i32::try_from(guardian.exited().pid).unwrap());
        assert_eq!(NOTHING_LEFT, guardian.swept());
    }
}

#[test]
fn what_cannot_be_executed_is_told_by_stage_and_reason() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, mode: u32| {
        let path = dir.path().join(name);
        fs::write(&path, b"\x7fELF nonsense").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path.as_os_str().as_bytes().to_vec()
    };
    let missing = dir.path().join("missing").as_os_str().as_bytes().to_vec();
    let cases = [
        (Spawn { program: missing.clone(), ..sleeper() }, SpawnStage::Execute, Errno::ENOENT),
        (Spawn { program: file("plain", 0o644), ..sleeper() }, SpawnStage::Execute, Errno::EACCES),
        (Spawn { program: file("bad", 0o755), ..sleeper() }, SpawnStage::Execute, Errno::ENOEXEC),
        (Spawn { directory: missing, ..sleeper() }, SpawnStage::Directory, Errno::ENOENT),
        (
            Spawn { directory: file("file", 0o644), ..sleeper() },
            SpawnStage::Directory,
            Errno::ENOTDIR,
        ),
        (Spawn { argv: Vec::new(), ..sleeper() }, SpawnStage::Prepare, Errno::EINVAL),
        (
            Spawn { program: b"/bin/sl\0eep".to_vec(), ..sleeper() },
            SpawnStage::Prepare,
            Errno::EINVAL,
        ),
    ];
    for (spawn, stage, errno) in cases {
        let mut guardian = Guardian::start(spawn);
        let errno = errno as i32;
        assert_eq!(SpawnFailed { stage, errno }, guardian.spawn_failed());
        assert!(guardian.gone().success(), "a failure that was told is no failure of the guardian");
    }
}

#[test]
fn python_has_seven_descriptors_and_no_more_f169() {
    let mut guardian = Guardian::start(sleeper());
    let pid = guardian.spawned();
    let found = descriptors(pid);
    let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
    assert_eq!((7, vec![0, 1, 2]), (numbers.len(), numbers[..3].to_vec()), "{found:?}");
    assert!(numbers[3] >= 100, "{found:?}");
    assert_eq!(Path::new("/dev/null"), found[0].1);
    guardian.order(Signal::Kill);
    guardian.exited();
    assert_eq!(NOTHING_LEFT, guardian.swept());
}

#[test]
fn the_sockets_are_where_the_arguments_say() {
    let mut guardian = Guardian::start(script(
        "import socket, sys\n\
         for number, name in zip(sys.argv[1:], (b'call', b'control')):\n\
         \x20   socket.socket(fileno=int(number)).sendall(name)",
    ));
    guardian.spawned();
    let mut told = String::new();
    (&guardian.call).take(4).read_to_string(&mut told).unwrap();
    (&guardian.control).take(7).read_to_string(&mut told).unwrap();
    assert_eq!("callcontrol", told);
    assert_eq!(Exit::Code(0), guardian.exited().exit);
    // The guardian kept no copy: with python gone, its sockets end.
    assert_eq!(0, guardian.call.read(&mut [0]).unwrap());
    assert_eq!(0, guardian.control.read(&mut [0]).unwrap());
    assert_eq!(NOTHING_LEFT, guardian.swept());
}

#[test]
fn arguments_environment_and_directory_are_what_was_asked_byte_by_byte() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().canonicalize().unwrap().join("a b");
    fs::create_dir(&home).unwrap();
    let mut asked = shell("sleep 1000; :");
    asked.argv.extend([b"--call={call}{control}".to_vec(), b"\xff\xfe {cal}".to_vec(), vec![]]);
    asked.environment = vec![b"PATH=/bin:/usr/bin".to_vec(), b"RAW=\xc3\x28\n".to_vec()];
    asked.environment.extend([b"NOTHING=".to_vec(), b"no equals sign".to_vec()]);
    asked.directory = home.as_os_str().as_bytes().to_vec();
    let mut expected_argv = asked.argv.clone();
    let mut expected_environment = asked.environment.clone();

    let mut guardian = Guardian::start(asked);
    let pid = guardian.spawned();
    wait_for_program(pid, "sh");
    let found = descriptors(pid);
    expected_argv[3] = format!("--call={}{}", found[3].0, found[4].0).into_bytes();
    expected_environment.push(guardian.variable());
    let list = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap();
        let bytes = bytes.strip_suffix(b"\0").unwrap();
        bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(expected_argv, list("cmdline"));
    assert_eq!(expected_environment, list("environ"));
    assert_eq!(home, fs::read_link(format!("/proc/{pid}/cwd")).unwrap());
    guardian.order(Signal::Kill);
    guardian.exited();
    guardian.swept();
}

#[test]
fn python_leads_its_own_group_in_the_guardians_session() {
    let mut guardian = Guardian::start(sleeper());
    let pid = guardian.spawned();
    assert_eq!((Ok(pid), Ok(guardian.pid())), (getpgid(Some(pid)), getsid(Some(pid))));
    assert_eq!(Some("clutch-guardian"), status(guardian.pid()).get("Name").map(String::as_str));
    guardian.order(Signal::Kill);
    guardian.exited();
    guardian.swept();
}

/// What a careless parent leaves behind must reach neither guardian nor python.
#[test]
fn leaked_descriptors_and_ignored_signals_stop_at_the_guardian_f169() {
    let dir = tempfile::tempdir().unwrap();
    let leak = dir.path().join("leak");
    fs::write(&leak, "").unwrap();
    let mut careless = command("/bin/sh");
    careless
        .args(["-c", r#"trap '' HUP INT QUIT TERM CHLD USR1; exec 7<"$1"; exec "$0""#, GUARDIAN])
        .arg(&leak);
    let mut guardian = Guardian::start_as(&mut careless, sleeper());
    let pid = guardian.spawned();
    for holder in [guardian.pid(), pid] {
        assert!(descriptors(holder).iter().all(|(_, target)| *target != leak));
    }
    let status = status(pid);
    for name in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!("0000000000000000", status[name], "{name}");
    }
    guardian.order(Signal::Terminate);
    assert_eq!(Exit::Signal(15), guardian.exited().exit);
    assert_eq!(NOTHING_LEFT, guardian.swept());
}

#[test]
fn a_low_limit_of_descriptors_only_lowers_the_numbers() {
    let mut limited = command("/bin/sh");
    limited.args(["-c", r#"ulimit -n 24; exec "$0""#, GUARDIAN]);
    let mut guardian = Guardian::start_as(&mut limited, sleeper());
    let found = descriptors(guardian.spawned());
    assert_eq!(7, found.len(), "{found:?}");
    assert!(found[3].0 >= 16, "{found:?}");
    guardian.order(Signal::Kill);
    guardian.exited();
    guardian.swept();
}

#[test]
fn a_large_environment_in_small_pieces_arrives_whole() {
    let (mut guardian, sockets) = Guardian::start_silent();
    let mut asked = spawn("/usr/bin/env", &[]);
    let large: Vec<u8> = [&b"LARGE="[..], &[b'x'; 100_000]].concat();
    asked.environment.extend([guardian.variable(), large.clone()]);
    let bytes = frame(Kind::Spawn, 4, &asked);
    let numbers = sockets.each_ref().map(AsRawFd::as_raw_fd);
    send(&guardian.report, &bytes[..1], &numbers);
    for piece in bytes[1..].chunks(3001) {
        send(&guardian.report, piece, &[]);
    }
    drop(sockets);
    guardian.spawned();
    // All of it is read before python's end is, since a pipe does not hold that much.
    assert!(guardian.output().as_bytes().windows(large.len()).any(|part| part == large));
    assert_eq!(Exit::Code(0), guardian.exited().exit);
    assert_eq!(NOTHING_LEFT, guardian.swept());
}

#[test]
fn a_first_frame_that_is_no_spawn_is_refused_with_a_reason() {
    let asked = sleeper();
    let stray = UnixStream::pair().unwrap().0;
    let cases = [
        ("too few descriptors", frame(Kind::Spawn, 4, &asked), 3),
        ("too many descriptors", frame(Kind::Spawn, 4, &asked), 5),
        ("more than any frame has", frame(Kind::Spawn, 4, &asked), 9),
        ("an honest wrong number", frame(Kind::Spawn, 1, &asked), 1),
        ("a frame for somebody else", frame(Kind::Ready, 0, &ready()), 0),
        ("an order too early", frame(Kind::Signal, 0, &Signal::Kill), 0),
        ("an empty spawn", frame(Kind::Spawn, 4, &0u8), 4),
        ("no frame at all", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 0),
    ];
    for (what, bytes, count) in cases {
        let (mut guardian, sockets) = Guardian::start_silent();
        send(&guardian.report, &bytes, &vec![stray.as_raw_fd(); count]);
        let refused = SpawnFailed { stage: SpawnStage::Prepare, errno: Errno::EPROTO as i32 };
        assert_eq!(refused, guardian.spawn_failed(), "{what}");
        // Closing with bytes unread is a reset at the other end.
        assert!(!guardian.hang_up().success(), "{what}");
        drop(sockets);
    }
}

#[test]
fn a_guardian_that_is_never_told_anything_ends_with_its_daemon_f025() {
    let (guardian, _sockets) = Guardian::start_silent();
    assert!(guardian.hang_up().success());
    let (guardian, sockets) = Guardian::start_silent();
    let numbers = sockets.each_ref().map(AsRawFd::as_raw_fd);
    send(&guardian.report, &frame(Kind::Spawn, 4, &sleeper())[..40], &numbers);
    assert!(guardian.hang_up().success());
}

#[test]
fn a_person_who_types_it_is_told_what_to_type() {
    let output = command(GUARDIAN).stdin(Stdio::null()).output().unwrap();
    assert_eq!(Some(2), output.status.code());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("`clutch serve`") && text.lines().count() == 1, "{text}");
}

/// The guardian's parent must be who made its socket, or it would watch the wrong process.
#[test]
fn a_guardian_that_was_orphaned_before_it_began_does_not_begin_f025() {
    let (_daemon, theirs) = UnixStream::pair().unwrap();
    let output = command("/bin/sh")
        .args(["-c", r#"exec 3<&0; "$0" <&3 3<&- & wait $!"#, GUARDIAN])
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .output()
        .unwrap();
    assert_eq!(Some(2), output.status.code());
    assert!(String::from_utf8(output.stderr).unwrap().contains("not the parent"));
}

fn ready() -> Ready {
    let executable = PathBuf::from(harness::python()).display().to_string();
    Ready { version: 1, pid: 1, python: "3".into(), executable }
}
