//! Frames with descriptors, from an outbox to an inbox.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::rc::Rc;

use bytes::Bytes;
use clutch_protocol::frame::Decoder;
use clutch_protocol::{Flags, Frame, Header, Kind};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::net::UnixStream;

use super::attached::{Attached, Unfit, Why};
use super::crowd::SharedBudget;
use super::holdings::{Holdings, Ledger};
use super::inbox::{Inbox, InboxError};
use super::intake::{IntakeError, OF_CLIENTS};
use super::outbox::{Outbox, OutboxError};

fn memory(bytes: u64, seals: SealFlag) -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"clutch-test", flags).unwrap());
    file.set_len(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

fn sealed(bytes: u64) -> File {
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    memory(bytes, seals)
}

fn runs(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// An inbox that takes what clients attach, and the other end of its socket.
fn inbox(holdings: &Rc<Holdings>) -> (UnixStream, Inbox) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let inbox = Inbox::new(Rc::new(ours), Decoder::with_payload_max(1 << 20));
    (theirs, inbox.taking(OF_CLIENTS, Ledger::new(holdings.clone())))
}

fn call(id: u64, payload_bytes: u32, descriptors: u8) -> Header {
    Header { flags: Flags::ATTACHED, payload_bytes, descriptors, ..Header::new(Kind::Call, id) }
}

fn send(socket: &UnixStream, bytes: &[u8], all: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(all)];
    let control: &[_] = if all.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    assert_eq!(Ok(bytes.len()), sent);
}

/// Receives until nothing more is there.
fn receive(inbox: &mut Inbox) -> Result<Vec<(Frame, Attached)>, InboxError> {
    let mut all = Vec::new();
    inbox.drain(usize::MAX, |frame, attached| all.push((frame, attached)))?;
    Ok(all)
}

#[track_caller]
fn refusal(inbox: &mut Inbox) -> IntakeError {
    match receive(inbox) {
        Err(InboxError::Descriptors(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn inodes(attached: &Attached) -> Vec<u64> {
    let files = attached.numbers().into_iter();
    files.map(|fd| std::fs::metadata(format!("/proc/self/fd/{fd}")).unwrap().ino()).collect()
}

#[test]
fn frames_keep_their_descriptors_behind_a_full_socket() {
    runs(async {
        let holdings = Holdings::new(1 << 20);
        let (theirs, mut inbox) = inbox(&holdings);
        let (theirs, budget) = (Rc::new(theirs), SharedBudget::new(usize::MAX, usize::MAX));
        let outbox = Rc::new(Outbox::new(theirs, usize::MAX, budget).within(usize::MAX));
        // A third of the frames has descriptors, one or more; payloads from none to more than the
        // socket takes.
        let mut wanted = Vec::new();
        let (theirs_too, mut other) = self::inbox(&holdings);
        for id in 0..600_u64 {
            let count = u8::try_from(if id % 3 == 0 { 1 + id / 3 % 3 } else { 0 }).unwrap();
            let files: Vec<_> = (0..count).map(|_| sealed(id)).collect();
            let payload = Bytes::from(vec![7; usize::try_from(id * 7919 % 5 * 20_000).unwrap()]);
            let header = call(id, u32::try_from(payload.len()).unwrap(), count);
            let all: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
            // Through another inbox, which is how the daemon gets them.
            send(&theirs_too, &call(id, 0, count).encode(), &all);
            let (_, attached) = receive(&mut other).unwrap().remove(0);
            attached.admit();
            wanted.push((header, payload.clone(), inodes(&attached)));
            outbox.send_attached(&header.encode(), &payload, &attached).unwrap();
        }
        assert!(outbox.waiting_bytes() > 0 && holdings.held() > 200);
        let flusher = outbox.clone();
        let flushing = tokio::task::spawn_local(async move { flusher.flush_forever().await });
        let mut came = Vec::new();
        while came.len() < wanted.len() {
            came.extend(
                receive(&mut inbox).unwrap().into_iter().map(|(frame, attached)| {
                    (frame.header, frame.payload.clone(), inodes(&attached))
                }),
            );
            tokio::task::yield_now().await;
        }
        assert_eq!(wanted, came);
        assert_eq!((0, 0), (holdings.held(), holdings.refused()));
        assert!(!outbox.is_half_crowded());
        flushing.abort();
    });
}

#[test]
fn a_peer_that_does_not_read_lets_only_so_many_wait() {
    runs(async {
        let holdings = Holdings::new(1024);
        let (theirs, _unread) = UnixStream::pair().unwrap();
        let budget = SharedBudget::new(usize::MAX, usize::MAX);
        let limit = holdings.limit_of_one();
        let outbox = Outbox::new(Rc::new(theirs), usize::MAX, budget).within(limit);
        let (socket, mut inbox) = inbox(&holdings);
        let file = sealed(1);
        let mut end = Ok(());
        for id in 0..100_000 {
            send(&socket, &call(id, 0, 1).encode(), &[file.as_raw_fd()]);
            let (frame, attached) = receive(&mut inbox).unwrap().remove(0);
            attached.admit();
            end = outbox.send_attached(&frame.header.encode(), &Bytes::new(), &attached);
            if end.is_err() {
                break;
            }
        }
        assert!(outbox.is_half_crowded());
        assert_eq!((Err(OutboxError::Crowded(limit)), limit), (end, holdings.held()));
        // What has none may still wait.
        outbox.send(&Header::new(Kind::Pong, 1).encode(), &Bytes::new()).unwrap();
        outbox.close();
        assert!(holdings.held() == 0 && !outbox.is_half_crowded());
    });
}

#[test]
fn what_its_sender_limits_waits_behind_a_full_outbox() {
    runs(async {
        let holdings = Holdings::new(1024);
        let (theirs, mut inbox) = inbox(&holdings);
        let outbox = Rc::new(Outbox::new(
            Rc::new(theirs),
            1 << 20,
            SharedBudget::new(usize::MAX, usize::MAX),
        ));
        let payload = Bytes::from(vec![7; 100_000]);
        let head = |id| call(id, 100_000, 0).encode();
        let mut sent = 0;
        let end = loop {
            match outbox.send(&head(sent), &payload) {
                Ok(()) => sent += 1,
                Err(end) => break end,
            }
        };
        assert!(matches!(end, OutboxError::Full { .. }), "{end}");
        outbox.send_unlimited(&head(sent), &payload, &Attached::default()).unwrap();
        let flusher = outbox.clone();
        let flushing = tokio::task::spawn_local(async move { flusher.flush_forever().await });
        let mut came = Vec::new();
        while came.last() != Some(&sent) {
            came.extend(receive(&mut inbox).unwrap().iter().map(|(frame, _)| frame.header.id));
            tokio::task::yield_now().await;
        }
        assert_eq!((0..=sent).collect::<Vec<_>>(), came);
        flushing.abort();
        outbox.close();
        let end = outbox.send_unlimited(&head(0), &payload, &Attached::default());
        assert_eq!(Err(OutboxError::Closed), end);
    });
}

#[test]
fn descriptors_belong_to_the_frame_that_claims_them_wherever_it_is_cut_f086() {
    runs(async {
        let holdings = Holdings::new(1 << 20);
        let (one, two) = (sealed(1), sealed(2));
        let plain = call(1, 3, 0).encode();
        let whole = [&call(2, 5, 2).encode()[..], b"01234"].concat();
        let both = [one.as_raw_fd(), two.as_raw_fd()];
        for cut in 0..whole.len() {
            let (socket, mut inbox) = inbox(&holdings);
            // A frame without descriptors before it, and one behind it.
            send(&socket, &[&plain[..], b"abc"].concat(), &[]);
            if cut > 0 {
                send(&socket, &whole[..cut], &both[..1]);
                send(&socket, &whole[cut..], &both[1..]);
            } else {
                send(&socket, &whole, &both);
            }
            send(&socket, &[&plain[..], b"abc"].concat(), &[]);
            let came = receive(&mut inbox).unwrap();
            let counts: Vec<_> = came.iter().map(|(_, attached)| attached.len()).collect();
            assert_eq!(vec![0, 2, 0], counts, "cut at {cut}");
            assert_eq!((3, 0, 2), (came[1].1.bytes(), holdings.held(), holdings.coming()));
            came[1].1.admit();
            came[1].1.admit();
            assert_eq!((3, 2, 0), (holdings.bytes(), holdings.held(), holdings.coming()));
            drop(came);
            assert_eq!((0, 0), (holdings.held(), holdings.bytes()));
        }
        assert_eq!(0, holdings.refused());
    });
}

#[test]
fn what_no_frame_claims_is_closed_and_counted_f086() {
    runs(async {
        let file = sealed(1);
        let many = [file.as_raw_fd(); 100];
        let head = call(1, 0, 2).encode();
        let of = |header: Header| header.encode().to_vec();
        let cases: [(&str, Vec<u8>, usize, IntakeError, u64); 9] = [
            ("too few", of(call(1, 0, 2)), 1, IntakeError::TooFew { claimed: 2, came: 1 }, 1),
            ("too many", of(call(1, 0, 2)), 3, IntakeError::Unclaimed(1), 3),
            ("none at all", of(call(1, 0, 2)), 0, IntakeError::TooFew { claimed: 2, came: 0 }, 0),
            ("none claimed", of(call(1, 0, 0)), 1, IntakeError::Unclaimed(1), 1),
            ("too many for a frame to come", head[..9].to_vec(), 65, IntakeError::TooMany, 64),
            ("more than it claims", of(call(1, 9, 2)), 3, IntakeError::Unclaimed(1), 3),
            (
                "of a kind that has none",
                of(Header { descriptors: 1, ..Header::new(Kind::Ping, 1) }),
                1,
                IntakeError::Kind(Kind::Ping),
                1,
            ),
            (
                "of a worker's kind",
                of(Header { kind: Kind::Result, ..call(1, 0, 1) }),
                1,
                IntakeError::Kind(Kind::Result),
                1,
            ),
            (
                "without its flag",
                of(Header { flags: Flags::NONE, ..call(1, 0, 1) }),
                1,
                IntakeError::Kind(Kind::Call),
                1,
            ),
        ];
        for (what, bytes, count, error, refused) in cases {
            let holdings = Holdings::new(1 << 20);
            let (socket, mut inbox) = inbox(&holdings);
            send(&socket, &bytes, &many[..count]);
            assert_eq!(error, refusal(&mut inbox), "{what}");
            assert_eq!((refused, 0), (holdings.refused(), holdings.coming()), "{what}");
        }
        // In pieces of a header: never more than one frame may have.
        let holdings = Holdings::new(1 << 20);
        let (socket, mut inbox) = inbox(&holdings);
        send(&socket, &head[..1], &many[..40]);
        assert!(receive(&mut inbox).unwrap().is_empty());
        send(&socket, &head[1..2], &many[..40]);
        assert_eq!(IntakeError::Unclaimed(16), refusal(&mut inbox));
        // Where none may come, not even for a moment.
        let (theirs, ours) = UnixStream::pair().unwrap();
        let mut inbox = Inbox::new(Rc::new(ours), Decoder::before_hello());
        send(&theirs, &head[..1], &many[..1]);
        assert_eq!(IntakeError::Nowhere, refusal(&mut inbox));
        // With a connection that ends in the middle of a frame.
        let (socket, mut inbox) = self::inbox(&holdings);
        let before = holdings.refused();
        send(&socket, &head[..20], &many[..3]);
        assert!(receive(&mut inbox).unwrap().is_empty() && holdings.coming() == 3);
        drop(inbox);
        assert_eq!(before + 3, holdings.refused());
    });
}

/// The same file, opened anew through `/proc`.
fn again(file: &File, flags: OFlag) -> File {
    let access = flags & OFlag::O_ACCMODE;
    std::fs::OpenOptions::new()
        .read(access != OFlag::O_WRONLY)
        .write(access != OFlag::O_RDONLY)
        .custom_flags((flags & !OFlag::O_ACCMODE).bits())
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .unwrap()
}

#[test]
fn what_may_travel_is_known_in_every_disguise_f089_f090() {
    let check = |descriptor: OwnedFd| Attached::checked(vec![descriptor], None);
    let bytes = |file: File| check(file.into()).map(|attached| attached.bytes());
    let fault = |descriptor: OwnedFd| check(descriptor).unwrap_err().why;
    assert_eq!(Ok(7), bytes(sealed(7)));
    assert_eq!(Ok(7), bytes(again(&sealed(7), OFlag::O_RDONLY)));
    let all = SealFlag::all();
    assert_eq!(Ok(5 << 30), bytes(memory(5 << 30, all)));

    let (shrink, grow) = (SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW);
    let (seal, write) = (SealFlag::F_SEAL_SEAL, SealFlag::F_SEAL_WRITE);
    for seals in [SealFlag::empty(), shrink, grow, shrink | grow, shrink | seal, write | seal] {
        let file = memory(1 << 20, seals);
        assert_eq!(Why::Unsealed, fault(again(&file, OFlag::O_RDONLY).into()), "{seals:?}");
        assert_eq!(Why::Unsealed, fault(file.into()), "{seals:?}");
    }
    let plain = memfd_create(c"clutch-test", MFdFlags::MFD_CLOEXEC).unwrap();
    assert_eq!(Why::Unsealed, fault(plain));

    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("file");
    std::fs::write(&name, "x").unwrap();
    let read_only = File::open(&name).unwrap();
    assert_eq!(Ok(0), bytes(read_only.try_clone().unwrap()));
    assert_eq!(Why::PathOnly, fault(again(&read_only, OFlag::O_PATH).into()));
    assert_eq!(Why::Writable, fault(again(&read_only, OFlag::O_RDWR).into()));
    assert_eq!(Why::Writable, fault(again(&read_only, OFlag::O_WRONLY).into()));
    assert_eq!(Why::NoFile, fault(File::open(folder.path()).unwrap().into()));
    assert_eq!(Why::NoFile, fault(File::open("/dev/null").unwrap().into()));
    assert_eq!(Why::NoFile, fault(nix::unistd::pipe().unwrap().0));
    assert_eq!(Why::NoFile, fault(std::os::unix::net::UnixStream::pair().unwrap().0.into()));
    let good = || OwnedFd::from(sealed(1));
    let second = vec![good(), File::open("/dev/null").unwrap().into(), good()];
    let unfit = Unfit { index: 1, why: Why::NoFile };
    assert_eq!(unfit, Attached::checked(second, None).unwrap_err());
}

#[test]
fn files_of_a_tmpfs_may_travel_while_they_have_a_name_f090() {
    let shared = std::path::Path::new("/dev/shm");
    let Ok(mut named) = tempfile::NamedTempFile::new_in(shared) else {
        return; // There is no tmpfs to try it with.
    };
    std::io::Write::write_all(&mut named, b"x").unwrap();
    let check = |file: File| Attached::checked(vec![file.into()], None);
    let read_only = File::open(named.path()).unwrap();
    assert_eq!(0, check(read_only.try_clone().unwrap()).unwrap().bytes());
    assert_eq!(
        Why::Writable,
        check(named.reopen().unwrap())
            .map_or_else(|it| it.why, |_| { unreachable!("it is open for writing") })
    );
    drop(named);
    assert_eq!(Why::Unsealed, check(read_only).unwrap_err().why);
}

#[test]
fn sizes_add_up_beyond_every_integer_without_overflow() {
    let holdings = Holdings::new(1 << 20);
    let ledger = Ledger::new(holdings.clone());
    ledger.take(1, u64::MAX);
    ledger.take(1, u64::MAX);
    assert_eq!((2, u64::MAX), (holdings.held(), holdings.bytes()));
    ledger.give_back(1, u64::MAX);
    assert_eq!((1, u64::MAX), (holdings.held(), holdings.bytes()));
    ledger.give_back(1, u64::MAX);
    assert_eq!((0, 0), (holdings.held(), holdings.bytes()));
}

#[test]
fn frames_wait_for_their_senders_and_for_all_but_nested_ones_not_for_others() {
    let holdings = Holdings::new(1024);
    let (greedy, modest) = (Ledger::new(holdings.clone()), Ledger::new(holdings.clone()));
    assert_eq!(128, holdings.limit_of_one());
    greedy.take(127, 0);
    assert!(!greedy.must_wait(1, false) && greedy.must_wait(2, false));
    assert!(greedy.must_wait(2, true), "its own limit is everybody's");
    assert!(!modest.must_wait(64, false));
    greedy.take(384, 0);
    assert!(!modest.must_wait(1, false) && modest.must_wait(2, false));
    assert!(!modest.must_wait(64, true), "others may wait for it");
    greedy.give_back(511, 0);
    assert!(!greedy.must_wait(64, false), "there is always room for one frame");
}

#[test]
fn frames_that_are_coming_in_have_a_limit_but_not_workers() {
    let holdings = Holdings::new(1024);
    let (client, worker) = (Ledger::new(holdings.clone()), Ledger::of_worker(holdings.clone()));
    assert!(client.come(256) && !client.come(1) && worker.come(64));
    client.gone(257);
    worker.gone(64);
    assert_eq!(0, holdings.coming());
}
