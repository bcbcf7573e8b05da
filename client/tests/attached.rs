//! What travels beside calls and their results, in conversation with a fake daemon: as which memory
//! it is sent, how it comes back, and what is not taken.

mod fake;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use clutch_client::{
    Client, Codec, DType, Flags, Reason, SharedTensor, Tensor, TensorError, Value, blocking,
};
use clutch_protocol::attachment::{Attachment, Attachments, Content};
use clutch_protocol::limits::ATTACH_BYTES_MIN;
use clutch_protocol::{Kind, plain};
use fake::{Daemon, Parcel, channel, next};
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

const LARGE: usize = ATTACH_BYTES_MIN;

/// Answers every call with its own arguments and descriptors.
fn echo() -> Daemon {
    Daemon::new(|mut peer| {
        while let Some(Parcel { frame, descriptors }) = peer.receive_with() {
            let (id, codec) = (frame.header.id, frame.header.codec);
            if frame.header.kind != Kind::Call {
                continue;
            }
            if frame.header.flags.has(Flags::ATTACHED) {
                let count = u8::try_from(descriptors.len()).unwrap();
                peer.pass(&fake::attached(codec, id, &frame.payload, count), &descriptors);
            } else {
                peer.send(Kind::Result, id, &fake::answer(), &frame.payload);
            }
        }
    })
}

/// Answers every call with the same payload and descriptors.
fn saying(make: impl Fn() -> (Vec<u8>, Vec<OwnedFd>) + Clone + Send + 'static) -> Daemon {
    Daemon::new(move |mut peer| {
        while let Some(parcel) = peer.receive_with() {
            let (payload, descriptors) = make();
            peer.answer_attached(parcel.frame.header.id, &payload, &descriptors);
        }
    })
}

/// Tells what came, and answers with `None`.
fn telling() -> (Daemon, std::sync::mpsc::Receiver<Parcel>) {
    let (sender, receiver) = channel();
    let daemon = Daemon::new(move |mut peer| {
        while let Some(parcel) = peer.receive_with() {
            let id = parcel.frame.header.id;
            sender.send(parcel).unwrap();
            peer.send(Kind::Result, id, &fake::answer(), &plain::to_vec(&()).unwrap());
        }
    });
    (daemon, receiver)
}

#[derive(Debug, Deserialize, Serialize)]
struct Model {
    name: String,
    weights: Vec<Tensor>,
    state: BTreeMap<String, Tensor>,
    image: serde_bytes::Buf,
}

/// Bytes, as `serde_bytes` has them.
mod serde_bytes {
    use serde::de::Visitor;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Buf(pub(crate) Vec<u8>);

    impl Serialize for Buf {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }

    impl<'de> Deserialize<'de> for Buf {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Buf, D::Error> {
            struct BufVisitor;

            impl Visitor<'_> for BufVisitor {
                type Value = Buf;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("bytes")
                }

                fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Buf, E> {
                    Ok(Buf(bytes.to_vec()))
                }
            }

            deserializer.deserialize_byte_buf(BufVisitor)
        }
    }
}

fn model() -> Model {
    let small = Tensor::from_shape(&[2, 2], vec![1_i8, -2, 3, -4]).unwrap();
    let large = Tensor::build::<f64>(&[3, 100_000], |all| all[200_000] = 0.5).unwrap();
    Model {
        name: "model".into(),
        weights: vec![small, large],
        state: BTreeMap::from([("mask".into(), Tensor::from(vec![true, false]))]),
        image: serde_bytes::Buf(vec![7; LARGE]),
    }
}

fn check(model: &Model) {
    assert_eq!(&[1, -2, 3, -4], model.weights[0].as_slice::<i8>().unwrap());
    assert_eq!(&[2, 2], model.weights[0].shape());
    let large = model.weights[1].as_slice::<f64>().unwrap();
    assert_eq!((300_000, 0.5, 0.0), (large.len(), large[200_000], large[299_999]));
    assert_eq!(vec![true, false], model.state["mask"].to_vec::<bool>().unwrap());
    assert_eq!(vec![7; LARGE], model.image.0);
}

#[tokio::test]
async fn tensors_at_any_depth_go_and_come() {
    let daemon = echo();
    let client = Client::connect(&daemon.path).await.unwrap();
    let (back,): (Model,) = client.call("m:f", (model(),)).await.unwrap();
    check(&back);
    // What came goes out again as it is.
    let (again, number): (Model, i32) = client.call("m:f", (back, 7)).await.unwrap();
    check(&again);
    assert_eq!(7, number);
    // Whoever wants no tensor gets lists.
    let (lists,): (Vec<f64>,) =
        client.call("m:f", (Tensor::from(vec![0.5; 20_000]),)).await.unwrap();
    assert_eq!(vec![0.5; 20_000], lists);
    let (value,): (Value,) = client.call("m:f", (Tensor::from(vec![1_u8, 2]),)).await.unwrap();
    assert_eq!(Value::List(vec![Value::Int(1), Value::Int(2)]), value);
    let empty = Tensor::from_shape(&[0, 4], Vec::<f32>::new()).unwrap();
    let (back,): (Tensor,) = client.call("m:f", (empty,)).await.unwrap();
    assert_eq!((&[0, 4][..], DType::F32), (back.shape(), back.dtype()));
}

#[test]
fn a_blocking_client_passes_memory_too() {
    let daemon = echo();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let (back,): (Model,) = client.call("m:f", (model(),)).unwrap();
    check(&back);
    std::thread::scope(|scope| {
        for thread in 0..8_u32 {
            let client = &client;
            scope.spawn(move || {
                for round in 0..50 {
                    let sent = Tensor::from(vec![thread * 1000 + round; 3000]);
                    let (back,): (Tensor,) = client.call("m:f", (&sent,)).unwrap();
                    assert_eq!(sent.as_slice::<u32>().unwrap(), back.as_slice::<u32>().unwrap());
                }
            });
        }
    });
}

#[test]
fn raw_bytes_of_any_length_are_the_same_bytes() {
    let daemon = echo();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    for length in [0, LARGE - 1, LARGE, 3 << 20] {
        let bytes = bytes::Bytes::from(vec![5; length]);
        let request = client.request("m:f").encoded(Codec::Raw, Flags::NONE, bytes.clone());
        let reply = request.send_reply().unwrap();
        assert_eq!(bytes, reply.payload);
        if length >= LARGE {
            assert_eq!(bytes, reply.value::<serde_bytes::Buf>().unwrap().0);
        }
    }
}

#[test]
fn all_that_is_copied_is_in_one_memory_and_nobody_can_change_it() {
    let (daemon, parcels) = telling();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let arguments = (Tensor::from(vec![1_u8; 3]), serde_bytes::Buf(vec![2; LARGE]), [3.5_f64; 2]);
    let tensors = (Tensor::from(vec![4_u16; 5]), Tensor::from(&arguments.2[..]));
    client.call::<()>("m:f", (arguments.0, arguments.1, tensors)).unwrap();
    let Parcel { frame, descriptors } = next(&parcels);
    let [memory] = &descriptors[..] else { panic!("{} descriptors", descriptors.len()) };
    let seals = fcntl(memory, FcntlArg::F_GET_SEALS).unwrap();
    let wanted = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    assert_eq!(wanted.bits(), seals);
    let (table, value) = Attachments::split(&frame.payload, 1).unwrap();
    let parts: Vec<_> = table.list.iter().map(|one| (one.offset % 64, one.bytes)).collect();
    assert_eq!(vec![(0, 3), (0, LARGE as u64), (0, 10), (0, 16)], parts);
    assert!(value.len() < 40, "nothing large is left in it");
    let file = File::from(memory.try_clone().unwrap());
    for (one, first) in table.list.iter().zip([1, 2, 4, 0]) {
        let mut byte = [0];
        file.read_exact_at(&mut byte, one.offset).unwrap();
        assert_eq!(first, byte[0]);
    }
}

#[test]
fn shared_arrays_go_as_they_are_and_as_their_owner_says() {
    let (daemon, parcels) = telling();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let shared = SharedTensor::from_slice(&[4], &[1.5_f64, 2.5, 3.5, 4.5]).unwrap();
    let (open, closed) = (shared.writable().unwrap(), shared.read_only());
    client.call::<()>("m:f", (&open, &closed, &open)).unwrap();
    let Parcel { frame, descriptors } = next(&parcels);
    assert_eq!(2, descriptors.len(), "each descriptor travels once");
    let mode = |one: &OwnedFd| {
        OFlag::from_bits_retain(fcntl(one, FcntlArg::F_GETFL).unwrap()) & OFlag::O_ACCMODE
    };
    assert_eq!((OFlag::O_RDWR, OFlag::O_RDONLY), (mode(&descriptors[0]), mode(&descriptors[1])));
    let (table, _) = Attachments::split(&frame.payload, 2).unwrap();
    let writable = |one: &Attachment| match one.content {
        Content::Array { writable, .. } => writable,
        _ => panic!("{one:?}"),
    };
    assert_eq!(vec![true, false, true], table.list.iter().map(writable).collect::<Vec<_>>());
    // Who has it for reading cannot write, who has it for writing does so in place.
    let [writer, reader] = [0, 1].map(|at| File::from(descriptors[at].try_clone().unwrap()));
    assert!(reader.write_all_at(&[0; 8], 0).is_err());
    writer.write_all_at(&9.0_f64.to_le_bytes(), 8).unwrap();
    assert_eq!(vec![1.5, 9.0, 3.5, 4.5], shared.to_vec::<f64>().unwrap());
    assert!(writer.set_len(0).is_err() && writer.set_len(4096).is_err());
}

#[test]
fn memory_for_readers_is_written_by_nobody_else_by_any_way() {
    let (daemon, parcels) = telling();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let shared = SharedTensor::for_readers::<u64>(&[512]).unwrap();
    client.call::<()>("m:f", (shared.read_only(),)).unwrap();
    let descriptors = next(&parcels).descriptors;
    let path = format!("/proc/self/fd/{}", descriptors[0].as_raw_fd());
    let anew = File::options().read(true).write(true).open(path).unwrap();
    assert!(anew.write_all_at(&[1], 0).is_err(), "a seal is the memory's, not the descriptor's");
    shared.write_from(1, &[7_u64]).unwrap();
    let mut seen = [0; 8];
    anew.read_exact_at(&mut seen, 8).unwrap();
    assert_eq!(7_u64.to_le_bytes(), seen);
}

#[test]
fn a_shared_array_that_comes_back_is_the_same_memory() {
    let daemon = echo();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let shared = SharedTensor::zeroed::<i32>(&[2, 3]).unwrap();
    let sent = (shared.writable().unwrap(), shared.read_only());
    let (open, closed): (Tensor, Tensor) = client.call("m:f", sent).unwrap();
    assert!(open.is_shared() && matches!(open.as_slice::<i32>(), Err(TensorError::Shared)));
    let back = SharedTensor::of(&open).unwrap();
    back.write_from(4, &[11]).unwrap();
    assert_eq!(vec![0, 0, 0, 0, 11, 0], shared.to_vec::<i32>().unwrap());
    assert_eq!(vec![0.0, 0.0, 0.0, 0.0, 11.0, 0.0], closed.to_vec::<f64>().unwrap());
    let closed = SharedTensor::of(&closed).unwrap();
    assert!(matches!(closed.writable(), Err(TensorError::ReadOnly)));
    assert!(matches!(closed.write_from(0, &[1]), Err(TensorError::ReadOnly)));
}

#[test]
fn too_much_is_refused_with_both_numbers_before_it_is_copied() {
    let (sender, kinds) = channel();
    let daemon = Daemon::raw(move |stream| {
        let mut peer = fake::Peer::new(stream);
        peer.welcome_limited(1 << 20, 1 << 20);
        while let Some(parcel) = peer.receive_with() {
            sender.send(parcel.frame.header.kind).unwrap();
            peer.send(Kind::Pong, parcel.frame.header.id, &[], b"");
        }
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let large = Tensor::from(vec![0_u8; 900_000]);
    let failure = client.call::<()>("m:f", (&large, &large, vec![1])).unwrap_err();
    assert!(!failure.started);
    let Reason::TooLarge { bytes, limit, .. } = failure.reason else { panic!("{failure}") };
    // The second begins at a multiple of 64.
    assert_eq!((1_800_032, 1 << 20), (bytes, limit));
    let items = serde_bytes::Buf(vec![0; 900_000]);
    let failure = client.call::<()>("m:f", (&items, &items, &items)).unwrap_err();
    assert!(matches!(failure.reason, Reason::TooLarge { bytes: 2_700_000.., .. }), "{failure}");
    let shared = SharedTensor::zeroed::<u8>(&[2 << 20]).unwrap();
    let failure = client.call::<()>("m:f", (shared.read_only(),)).unwrap_err();
    assert!(matches!(failure.reason, Reason::TooLarge { bytes, .. } if bytes == 2 << 20));
    client.ping().unwrap();
    assert_eq!(Kind::Ping, next(&kinds), "nothing was sent before");
}

#[test]
fn more_shared_arrays_than_a_frame_carries_are_refused_and_values_are_copied() {
    let (daemon, parcels) = telling();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let built: Vec<_> =
        (0..100_u8).map(|n| Tensor::build(&[1], |all| all[0] = n).unwrap()).collect();
    client.call::<()>("m:f", (&built,)).unwrap();
    let Parcel { frame, descriptors } = next(&parcels);
    assert_eq!(64, descriptors.len());
    let (table, _) = Attachments::split(&frame.payload, 64).unwrap();
    for (number, one) in table.list.iter().enumerate() {
        let mut byte = [0];
        let descriptor = descriptors[one.descriptor as usize].try_clone().unwrap();
        File::from(descriptor).read_exact_at(&mut byte, one.offset).unwrap();
        assert_eq!(number, usize::from(byte[0]));
    }
    let shared: Vec<_> =
        (0..64).map(|_| SharedTensor::zeroed::<u8>(&[1]).unwrap().read_only()).collect();
    client.call::<()>("m:f", (&shared[..63],)).unwrap();
    let failure = client.call::<()>("m:f", (&shared,)).unwrap_err();
    assert!(failure.to_string().contains("63 shared arrays"), "{failure}");
}

fn memory(bytes: u64, seals: SealFlag) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create("peer", flags).unwrap());
    file.set_len(bytes).unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file.into()
}

fn value(bytes: u64) -> OwnedFd {
    memory(bytes, SealFlag::all())
}

fn doubles(descriptor: u32, offset: u64, count: u64) -> Attachment {
    let content = Content::Array {
        dtype: "<f8".into(),
        shape: vec![count],
        strides: Vec::new(),
        writable: false,
    };
    Attachment { descriptor, offset, bytes: count * 8, content }
}

/// A list of so many attachments.
fn payload(list: Vec<Attachment>) -> Vec<u8> {
    let value = [b"\x80\x05](", &vec![0x97; list.len()][..], b"e."].concat();
    let mut payload = Attachments { list }.encode().unwrap();
    payload.extend(value);
    payload
}

#[test]
fn memory_that_could_shrink_or_is_none_is_not_mapped() {
    let bytes = |content| Attachment { content, ..doubles(0, 0, 8) };
    type Make = fn() -> OwnedFd;
    let cases: Vec<(&str, Vec<Attachment>, Make)> = vec![
        ("not sealed", vec![doubles(0, 0, 8)], || memory(64, SealFlag::empty())),
        ("not sealed", vec![doubles(0, 0, 8)], || memory(64, SealFlag::F_SEAL_SHRINK)),
        ("not sealed", vec![doubles(0, 0, 8)], || {
            memory(64, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)
        }),
        ("ends at byte 64 of 63", vec![doubles(0, 0, 8)], || value(63)),
        ("ends at byte 128 of 64", vec![doubles(0, 64, 8)], || value(64)),
        ("a pipe", vec![doubles(0, 0, 8)], || nix::unistd::pipe().unwrap().0),
        ("a socket", vec![doubles(0, 0, 8)], || {
            std::os::unix::net::UnixStream::pair().unwrap().0.into()
        }),
        ("not memory", vec![doubles(0, 0, 8)], || File::open("/").unwrap().into()),
        ("length is not sealed", vec![doubles(0, 0, 8)], || {
            File::open("/proc/self/exe").unwrap().into()
        }),
        ("others can still change", vec![bytes(Content::Bytes)], || {
            memory(64, SealFlag::all() - SealFlag::F_SEAL_WRITE)
        }),
        ("others can still change", vec![bytes(Content::Arrow)], || {
            memory(64, SealFlag::all() - SealFlag::F_SEAL_WRITE)
        }),
        ("no result has", vec![bytes(Content::Stream { stream: 1 })], || value(64)),
        ("no result has", vec![bytes(Content::RowGroup { index: 1 })], || value(64)),
        ("descriptors came", vec![], || value(64)),
        ("is in descriptor 1", vec![doubles(1, 0, 8)], || value(64)),
    ];
    for (word, list, make) in cases {
        let daemon = saying(move || (payload(list.clone()), vec![make()]));
        let client = blocking::Client::connect(&daemon.path).unwrap();
        for _ in 0..2 {
            let failure = client.call::<Vec<Tensor>>("m:f", ()).unwrap_err();
            assert_eq!("Protocol", failure.reason.name(), "{failure}");
            assert!(failure.to_string().contains(word), "{word}: {failure}");
        }
        assert!(!client.is_closed(), "one result was wrong, not the connection");
    }
}

#[test]
fn an_array_that_is_more_than_its_memory_is_no_tensor() {
    let shaped = |dtype: &str, shape: &[u64], strides: &[i64]| {
        let (dtype, shape) = (dtype.to_owned(), shape.to_vec());
        let content = Content::Array { dtype, shape, strides: strides.to_vec(), writable: false };
        vec![Attachment { content, ..doubles(0, 0, 8) }]
    };
    let cases = [
        (shaped("<f8", &[9], &[]), "more elements than its bytes hold"),
        (shaped("<f8", &[1 << 62, 4], &[]), "more elements than its bytes hold"),
        (shaped("<f8", &[2], &[-8]), "lie before it or on each other"),
        (shaped("<f8", &[2], &[64]), "lead out of it"),
        (shaped("<M8[s]", &[8], &[]), "<M8[s]"),
    ];
    for (list, word) in cases {
        let daemon = saying(move || (payload(list.clone()), vec![value(64)]));
        let client = blocking::Client::connect(&daemon.path).unwrap();
        let failure = client.call::<Vec<Tensor>>("m:f", ()).unwrap_err();
        assert_eq!("Unserializable", failure.reason.name());
        assert!(failure.to_string().contains(word), "{word}: {failure}");
        let failure = client.call::<Value>("m:f", ()).unwrap_err();
        assert!(failure.to_string().contains(word), "{word}: {failure}");
    }
}

#[test]
fn a_peer_that_shrinks_its_memory_finds_that_it_cannot() {
    let (sender, shrunk) = channel();
    let daemon = saying(move || {
        let memory = value(1 << 20);
        let other = File::from(memory.try_clone().unwrap());
        sender.send(other).unwrap();
        (payload(vec![doubles(0, 0, 1 << 17)]), vec![memory])
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let [tensor]: [Tensor; 1] = client.call("m:f", ()).unwrap();
    let peers = next(&shrunk);
    assert!(peers.set_len(0).is_err() && peers.write_all_at(&[1], 0).is_err());
    drop(peers);
    assert_eq!(0.0, tensor.as_slice::<f64>().unwrap().iter().sum::<f64>());
}

#[test]
fn descriptors_that_nobody_announced_end_the_connection() {
    let daemon = Daemon::new(|mut peer| {
        while let Some(parcel) = peer.receive_with() {
            let bytes = fake::frame(
                Kind::Result,
                Flags::NONE,
                parcel.frame.header.id,
                &fake::answer(),
                &plain::to_vec(&1).unwrap(),
            );
            peer.pass(&bytes, &[value(1)]);
        }
    });
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let failure = client.call::<i32>("m:f", ()).unwrap_err();
    assert_eq!("Protocol", failure.reason.name(), "{failure}");
    assert!(client.is_closed());
}

#[tokio::test]
async fn a_result_beyond_the_limit_says_both_numbers() {
    let daemon = Daemon::raw(|stream| {
        let mut peer = fake::Peer::new(stream);
        peer.welcome_limited(1 << 20, 4096);
        while let Some(parcel) = peer.receive_with() {
            let payload = payload(vec![doubles(0, 0, 1)]);
            peer.answer_attached(parcel.frame.header.id, &payload, &[value(4097)]);
        }
    });
    let client = Client::connect(&daemon.path).await.unwrap();
    let failure = client.call::<Vec<Tensor>>("m:f", ()).await.unwrap_err();
    assert!(matches!(failure.reason, Reason::TooLarge { bytes: 4097, limit: 4096, .. }));
}

#[tokio::test]
async fn an_item_that_does_not_fit_loses_no_tensor_of_its_chunk() {
    // `[array, "two", array]` for a chunk of three items.
    let daemon = saying(|| {
        let list = vec![doubles(0, 0, 2), doubles(0, 16, 2)];
        let mut payload = Attachments { list }.encode().unwrap();
        payload.extend(b"\x80\x05](\x97\x8c\x03two\x97e.");
        (payload, vec![value(32)])
    });
    let client = Client::connect(&daemon.path).await.unwrap();
    let three = std::num::NonZeroU32::new(3).unwrap();
    let map = client.map::<_, Tensor>("m:f", 0..3).chunk(clutch_client::Chunk::Fixed(three));
    let mut map = map.ordered();
    let mut fits = Vec::new();
    while let Some(item) = map.next().await {
        fits.push(item.is_ok_and(|tensor| tensor.shape() == [2]));
    }
    assert_eq!(vec![true, false, true], fits);
}
