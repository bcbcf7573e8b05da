//! What a client has left of memory that was passed on, when all is over: nothing. In a program of
//! its own with a single test, since it looks at the whole process.

mod fake;

use std::fs::File;
use std::os::fd::OwnedFd;

use clutch_client::{SharedTensor, Tensor, blocking};
use clutch_protocol::Kind;
use fake::{Daemon, Parcel};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What this process has of memory that is passed on: descriptors and mappings.
fn held() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mapped = maps.lines().filter(|line| line.contains("memfd:")).map(str::to_owned);
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| {
        let target = std::fs::read_link(entry.ok()?.path()).ok()?;
        let target = target.to_string_lossy().into_owned();
        (target.contains("memfd:") || target.contains("pipe:")).then_some(target)
    });
    mapped.chain(descriptors).collect()
}

fn memory(seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("peer", flags).unwrap());
    file.set_len(1 << 20).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

/// Answers each call as its number says: well, late, or with what nobody should take.
fn misbehaving() -> Daemon {
    Daemon::new(|mut peer| {
        while let Some(Parcel { frame, descriptors }) = peer.receive_with() {
            let id = frame.header.id;
            if frame.header.kind != Kind::Call {
                continue;
            }
            let mut twice = Vec::new();
            match id % 6 {
                0 | 1 => twice.push(descriptors),
                // Nobody waits for the second.
                2 => {
                    let copies = descriptors.iter().map(|one| one.try_clone().unwrap());
                    twice.push(copies.collect());
                    twice.push(descriptors);
                }
                3 => twice.push(vec![memory(SealFlag::empty())]),
                4 => twice.push(vec![nix::unistd::pipe().unwrap().0]),
                _ => twice.push(vec![memory(SealFlag::all()), memory(SealFlag::all())]),
            }
            for descriptors in twice {
                peer.answer_attached(id, &frame.payload, &descriptors);
            }
        }
    })
}

#[test]
fn nothing_is_left_of_what_came_and_what_went() {
    let before = held();
    for _ in 0..20 {
        let daemon = misbehaving();
        let client = blocking::Client::connect(&daemon.path).unwrap();
        let shared = SharedTensor::zeroed::<f64>(&[1000]).unwrap();
        let (mut good, mut bad) = (0, 0);
        for number in 0..12_u8 {
            let value = Tensor::from(vec![number; 300_000]);
            let argument = if number % 2 == 0 { value } else { shared.writable().unwrap() };
            match client.call::<(Tensor,)>("m:f", (argument,)) {
                Ok((back,)) => good += usize::from(!back.is_empty()),
                Err(failure) => {
                    assert_eq!("Protocol", failure.reason.name(), "{failure}");
                    bad += 1;
                }
            }
        }
        assert!(good >= 4 && bad >= 4, "{good} and {bad}");
        drop((client, daemon));
    }
    // The fake's threads end when they see that the client has gone.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while held() != before && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert_eq!(before, held());
}
