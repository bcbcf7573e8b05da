//! Descriptors that travel with calls and answers: handed on as they are, kept no longer than the
//! call, and looked at before anybody can be hurt by them. The workers are stand-ins that do with
//! descriptors what a test says (`tests/workers/carrier.py`).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use clutch_protocol::frame::{Flags, Kind};
use clutch_tests::raw::{PATIENCE, call_attached, reply};
use clutch_tests::{Daemon, Oracle, RawClient};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

fn daemon() -> (Daemon, Oracle) {
    let daemon = Daemon::builder()
        .pool("default", |pool| pool.key("initializer", "carrier:serve").limit("grace", "200ms"))
        .start();
    let oracle = daemon.oracle();
    (daemon, oracle)
}

/// Memory that nobody can shrink or grow any more.
fn sealed(bytes: u64) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"clutch-test", flags).unwrap());
    file.set_len(bytes).unwrap();
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

fn inode(descriptor: impl AsFd) -> u64 {
    File::from(descriptor.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap().ino()
}

/// Calls a function of the stand-in with descriptors; gives what it answered with.
#[track_caller]
fn call(
    client: &mut RawClient,
    function: &str,
    json: &str,
    all: &[RawFd],
) -> (clutch_protocol::Frame, Vec<OwnedFd>) {
    let id = client.next_id();
    let count = u8::try_from(all.len()).unwrap();
    let bytes = call_attached(id, "default", &format!("carrier:{function}"), json, count);
    client.send_with_descriptors(&bytes, all).unwrap();
    let (frame, descriptors) = client.read_attached(PATIENCE).unwrap();
    assert_eq!(id, frame.header.id);
    (frame, descriptors)
}

#[test]
fn memory_goes_to_the_worker_and_back_and_nobody_keeps_it() {
    let (daemon, oracle) = daemon();
    let mut client = daemon.raw();
    let memory = sealed(1 << 20);
    let file = File::open("/etc/passwd").unwrap();
    let both = [memory.as_raw_fd(), file.as_raw_fd()];
    let (frame, none) = call(&mut client, "look", "[1]", &both);
    assert!(none.is_empty());
    let seen = reply(&frame).value();
    let inodes = serde_json::json!([inode(&memory), inode(&file)]);
    assert_eq!((Flags::ATTACHED.byte().into(), Some(3)), (seen[0].clone(), seen[1].as_u64()));
    assert_eq!((Some(1 << 20), &inodes), (seen[2][0].as_u64(), &seen[3]));

    let (frame, back) = call(&mut client, "echo", "[2]", &both);
    assert_eq!((Kind::Result, Flags::ATTACHED), (frame.header.kind, frame.header.flags));
    assert_eq!(b"[2]", &frame.payload[..]);
    let returned: Vec<_> = back.iter().map(inode).collect();
    assert_eq!(vec![inode(&memory), inode(&file)], returned, "in their order");

    call(&mut client, "write", "[]", &both[..1]);
    let mut text = [0; 15];
    memory.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(b"from the worker", &text, "it is the same memory");
    drop(client);
    oracle.judge(daemon);
}
