//! Values that are put with the daemon once, in conversation with a fake daemon: as which memory
//! they are sent, how calls name them, when they are released, and where they cannot be.

mod fake;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::Receiver;

use clutch_client::{
    Client, Codec, Feed, HandleQuota, Reason, Ref, SharedTensor, Tensor, Value, blocking,
};
use clutch_protocol::attachment::{Attachments, Content};
use clutch_protocol::limits::ATTACH_BYTES_MIN;
use clutch_protocol::message::Call;
use clutch_protocol::{Flags, Kind, plain, wire};
use fake::{Daemon, Parcel, Peer, channel, next};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};

const LARGE: usize = ATTACH_BYTES_MIN;

/// Keeps what is put, answers calls with `None` and maps with as many, and tells what came.
fn keeping() -> (Daemon, Receiver<Parcel>) {
    limited(1 << 40)
}

fn limited(attached_bytes_max: u64) -> (Daemon, Receiver<Parcel>) {
    let (sender, receiver) = channel();
    let daemon = Daemon::raw(move |stream| {
        let mut peer = Peer::new(stream);
        peer.welcome_limited(1 << 20, attached_bytes_max);
        while let Some(parcel) = peer.receive_with() {
            let header = parcel.frame.header;
            let items = header.flags.has(Flags::ITEMS).then(|| items_of(&parcel));
            sender.send(parcel).unwrap();
            match (header.kind, items) {
                (Kind::Put, _) => peer.send(Kind::Kept, header.id, &[], b""),
                (Kind::Ping, _) => peer.send(Kind::Pong, header.id, &[], b""),
                (Kind::Call, None) => {
                    let none = plain::to_vec(&()).unwrap();
                    peer.send(Kind::Result, header.id, &fake::answer(), &none);
                }
                (Kind::Call, Some(items)) => {
                    let none = plain::to_vec(&vec![(); items]).unwrap();
                    peer.send(Kind::Result, header.id, &fake::answer(), &none);
                }
                _ => {}
            }
        }
    });
    (daemon, receiver)
}

/// How many items, each of which is one handle.
fn items_of(parcel: &Parcel) -> usize {
    Attachments::split(&parcel.frame.payload, 64).unwrap().0.list.len()
}

fn kind(parcel: &Parcel) -> Kind {
    parcel.frame.header.kind
}

fn call(parcel: &Parcel) -> Call {
    assert_eq!(Kind::Call, kind(parcel));
    wire::decode(&parcel.frame.meta).unwrap()
}

fn read(file: &File, offset: u64, bytes: u64) -> Vec<u8> {
    let mut all = vec![0; usize::try_from(bytes).unwrap()];
    file.read_exact_at(&mut all, offset).unwrap();
    all
}

#[test]
fn a_value_is_put_in_one_memory_for_good_and_named_by_calls() {
    let (daemon, parcels) = keeping();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let shared = SharedTensor::from_slice(&[2], &[1.5_f64, 2.5]).unwrap();
    let numbers: Vec<u64> = (0..10_000).collect();
    let value = ("model", Tensor::from(numbers), shared.read_only(), vec![7_u8; 3]);
    let weights = client.put(&value).unwrap();
    let put = next(&parcels);
    let header = put.frame.header;
    assert_eq!((Kind::Put, Flags::NONE, Codec::None), (kind(&put), header.flags, header.codec));
    assert!(header.id != 0 && put.frame.meta.is_empty() && put.frame.payload.is_empty());
    assert_eq!(2, put.descriptors.len(), "one memory, and the shared one");
    let seals = fcntl(&put.descriptors[0], FcntlArg::F_GET_SEALS).unwrap();
    let value_seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    assert_eq!(value_seals.bits(), seals);
    let sizes = put.descriptors.iter().map(|one| nix::sys::stat::fstat(one).unwrap().st_size);
    assert_eq!(weights.bytes(), sizes.sum::<i64>().cast_unsigned());

    let own = SharedTensor::zeroed::<u8>(&[1]).unwrap();
    client.call::<()>("m:f", (&weights, own.read_only(), [&weights])).unwrap();
    let frame = next(&parcels);
    assert_eq!(vec![header.id], call(&frame).handles, "each handle once");
    assert_eq!(1, frame.descriptors.len(), "what the daemon has is not sent again");
    let (table, value) = Attachments::split(&frame.frame.payload, 3).unwrap();
    let kinds: Vec<_> = table.list.iter().map(|one| one.content == Content::Value).collect();
    assert_eq!(vec![true, false, true], kinds);
    let first = &table.list[0];
    assert_eq!((1, 0), (first.descriptor, table.list[1].descriptor), "behind the call's own");
    assert_eq!(first, &table.list[2]);
    assert!(value.len() < 40);
    // What it names is the payload: a table whose descriptors count from that memory, and a value.
    let memory = File::from(put.descriptors[0].try_clone().unwrap());
    let payload = read(&memory, first.offset, first.bytes);
    let (table, _) = Attachments::split(&payload, 2).unwrap();
    let places: Vec<_> = table.list.iter().map(|one| (one.descriptor, one.bytes)).collect();
    assert_eq!(vec![(0, 80_000), (1, 16)], places);
    let numbers = read(&memory, table.list[0].offset + 8 * 9_999, 8);
    assert_eq!(9_999_u64.to_le_bytes().to_vec(), numbers);
}

#[test]
fn a_small_value_has_an_empty_table_and_is_the_value() {
    let (daemon, parcels) = keeping();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let kept = client.put(vec!["a", "b"]).unwrap();
    let put = next(&parcels);
    client.call::<()>("m:f", (kept,)).unwrap();
    let frame = next(&parcels);
    let (table, _) = Attachments::split(&frame.frame.payload, 1).unwrap();
    let place = &table.list[0];
    let memory = File::from(put.descriptors[0].try_clone().unwrap());
    let payload = read(&memory, place.offset, place.bytes);
    let (table, value) = Attachments::split(&payload, 1).unwrap();
    assert!(table.list.is_empty());
    let value: Vec<String> = plain::from_slice(value, plain::Limits::default()).unwrap();
    assert_eq!(vec!["a", "b"], value);
    assert_eq!(Kind::Release, kind(&next(&parcels)));
}

#[tokio::test]
async fn several_values_stand_behind_the_calls_own_in_order() {
    let (daemon, parcels) = keeping();
    let client = Client::connect(&daemon.path).await.unwrap();
    let shared = SharedTensor::zeroed::<u8>(&[1]).unwrap();
    let first = client.put((&shared.read_only(), 1)).await.unwrap();
    let second = client.put(2).await.unwrap();
    let ids: Vec<_> = (0..2).map(|_| next(&parcels).frame.header.id).collect();
    let arguments = (&second, vec![0_u8; 3], Tensor::from(vec![0_u8; LARGE]), [&first, &second]);
    client.call::<()>("m:f", arguments).await.unwrap();
    let frame = next(&parcels);
    assert_eq!(vec![ids[1], ids[0]], call(&frame).handles);
    let (table, _) = Attachments::split(&frame.frame.payload, 4).unwrap();
    let descriptors: Vec<_> = table.list.iter().map(|one| one.descriptor).collect();
    // One of its own, then the second with one, then the first with two.
    assert_eq!(vec![1, 0, 2, 1], descriptors);
}

#[tokio::test]
async fn the_last_clone_that_is_dropped_releases_it_behind_the_calls_that_have_it() {
    let (daemon, parcels) = keeping();
    let client = Client::connect(&daemon.path).await.unwrap();
    let kept = client.put("value").await.unwrap();
    let id = next(&parcels).frame.header.id;
    let clone = kept.clone();
    drop(kept);
    client.ping().await.unwrap();
    assert_eq!(Kind::Ping, kind(&next(&parcels)), "a clone is the same value");
    client.call::<()>("m:f", (clone,)).await.unwrap();
    client.ping().await.unwrap();
    let kinds: Vec<_> = (0..3).map(|_| next(&parcels)).collect();
    assert_eq!(
        vec![Kind::Call, Kind::Release, Kind::Ping],
        kinds.iter().map(kind).collect::<Vec<_>>()
    );
    assert_eq!(id, kinds[1].frame.header.id);
}

#[test]
fn a_blocking_client_releases_too_and_also_behind_itself() {
    let (daemon, parcels) = keeping();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    // More than the other remarks that may wait: none of these is ever left out.
    let kept: Vec<Ref> = (0..1_500).map(|number| client.put(number).unwrap()).collect();
    let ids: Vec<u64> = kept.iter().map(|_| next(&parcels).frame.header.id).collect();
    drop(kept);
    // What the full socket did not take goes with the next requests.
    let mut released = Vec::new();
    while released.len() < ids.len() {
        client.ping().unwrap();
        let mut parcel = next(&parcels);
        while kind(&parcel) == Kind::Release {
            released.push(parcel.frame.header.id);
            parcel = next(&parcels);
        }
        assert_eq!(Kind::Ping, kind(&parcel));
    }
    assert_eq!(ids, released);
    let kept = client.put(1).unwrap();
    drop(client);
    assert_eq!(Kind::Put, kind(&next(&parcels)));
    drop(kept);
    assert!(parcels.recv_timeout(std::time::Duration::from_millis(100)).is_err(), "it is closed");
}

#[tokio::test]
async fn items_of_a_map_may_be_values_that_were_put() {
    let (daemon, parcels) = keeping();
    let client = Client::connect(&daemon.path).await.unwrap();
    let kept = [client.put(1).await.unwrap(), client.put(2).await.unwrap()];
    let ids: Vec<_> = (0..2).map(|_| next(&parcels).frame.header.id).collect();
    let items: Vec<(Ref, u32)> = (0..100).map(|n| (kept[n as usize % 2].clone(), n)).collect();
    let done: Vec<()> = client.starmap("m:f", items).collect().await.unwrap();
    assert_eq!(100, done.len());
    drop(kept);
    client.ping().await.unwrap();
    let mut items = 0;
    loop {
        let parcel = next(&parcels);
        if kind(&parcel) == Kind::Release {
            break;
        }
        let handles = call(&parcel).handles;
        assert!(handles.iter().all(|id| ids.contains(id)) && handles.len() <= 2, "{handles:?}");
        items += items_of(&parcel);
    }
    assert_eq!(100, items, "all chunks came before the release");
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let kept = client.put(1).unwrap();
    let done: Vec<()> = client.map("m:f", vec![kept; 10]).collect().unwrap();
    assert_eq!(10, done.len());
}

fn message(reason: &Reason) -> &str {
    match reason {
        Reason::BadArguments { message } => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn where_it_cannot_be_it_is_refused_and_nothing_is_sent() {
    let (daemon, parcels) = keeping();
    let client = Client::connect(&daemon.path).await.unwrap();
    let kept = client.put("value").await.unwrap();
    next(&parcels);
    let inside = client.put((1, &kept)).await.unwrap_err();
    assert!(!inside.started && message(&inside.reason).contains("neither a feed nor a Ref"));
    let feed = client.put(Feed::new([1])).await.unwrap_err();
    assert!(message(&feed.reason).contains("neither a feed nor a Ref"));
    let request = client.request("m:f").codec(Codec::Json).args((&kept,));
    let json = request.send::<()>().await.unwrap_err();
    assert!(message(&json.reason).contains("in the codec Plain"), "{json}");
    assert!(serde_json::to_string(&kept).is_err() && plain::to_vec(&kept).is_err());
    let other = Client::connect(&daemon.path).await.unwrap();
    let theirs = other.call::<()>("m:f", (&kept,)).await.unwrap_err();
    assert!(message(&theirs.reason).contains("another client") && !theirs.started, "{theirs}");
    let items = other.map::<_, ()>("m:f", [&kept]).collect::<Vec<_>>().await.unwrap_err();
    assert!(message(&items.failure.reason).contains("another client"));
    let blocking_path = daemon.path.clone();
    let clone = kept.clone();
    let blocked = tokio::task::spawn_blocking(move || {
        let client = blocking::Client::connect(blocking_path).unwrap();
        client.call::<()>("m:f", (clone,)).unwrap_err()
    });
    assert!(message(&blocked.await.unwrap().reason).contains("another client"));
    client.ping().await.unwrap();
    assert_eq!(Kind::Ping, kind(&next(&parcels)), "nothing was sent before");
    let clone = client.clone();
    clone.call::<()>("m:f", (&kept,)).await.unwrap();
}

#[tokio::test]
async fn an_item_of_a_feed_cannot_be_one() {
    use clutch_protocol::stream::{Credit, ItemsEnd};
    let (sender, ends) = channel();
    let daemon = Daemon::new(move |mut peer| {
        while let Some(parcel) = peer.receive_with() {
            let id = parcel.frame.header.id;
            match parcel.frame.header.kind {
                Kind::Put => peer.send(Kind::Kept, id, &[], b""),
                Kind::Call => {
                    let credit = Credit { stream: 1, items: 1 };
                    peer.send(Kind::Credit, id, &wire::encode(&credit).unwrap(), b"");
                }
                Kind::ItemsEnd => {
                    sender.send(wire::decode::<ItemsEnd>(&parcel.frame.meta).unwrap()).unwrap();
                    let none = plain::to_vec(&()).unwrap();
                    peer.send(Kind::Result, id, &fake::answer(), &none);
                }
                _ => {}
            }
        }
    });
    let client = Client::connect(&daemon.path).await.unwrap();
    let kept = client.put(1).await.unwrap();
    client.call::<()>("m:f", (Feed::new([kept]),)).await.unwrap();
    assert!(next(&ends).failure.contains("a Ref is an argument"));
}

#[test]
fn too_much_is_refused_with_both_numbers_and_nothing_is_sent() {
    let (daemon, parcels) = limited(1 << 20);
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let tensor = Tensor::from(vec![0_u8; 700_000]);
    let too_large = |failure: clutch_client::Failure| match failure.reason {
        Reason::TooLarge { bytes, limit, .. } => (bytes, limit),
        other => panic!("{other:?}"),
    };
    let (bytes, limit) = too_large(client.put((&tensor, &tensor)).unwrap_err());
    assert!((1_400_000..1_401_000).contains(&bytes) && limit == 1 << 20, "{bytes}");
    let (bytes, _) = too_large(client.put(vec![1.5_f64; 200_000]).unwrap_err());
    assert!(bytes > 1 << 20, "a value that is not attached counts too");
    let kept = client.put(&tensor).unwrap();
    assert_eq!(Kind::Put, kind(&next(&parcels)));
    // What was put counts in every call that has it, once.
    client.call::<()>("m:f", (&kept, &kept)).unwrap();
    assert_eq!(Kind::Call, kind(&next(&parcels)));
    let (bytes, _) = too_large(client.call::<()>("m:f", (&kept, &tensor)).unwrap_err());
    assert!((1_400_000..1_401_000).contains(&bytes));
    client.ping().unwrap();
    assert_eq!(Kind::Ping, kind(&next(&parcels)), "nothing was sent before");
}

#[test]
fn a_call_has_room_for_so_many_descriptors_of_values() {
    let (daemon, parcels) = keeping();
    let client = blocking::Client::connect(&daemon.path).unwrap();
    let shared: Vec<_> =
        (0..63).map(|_| SharedTensor::zeroed::<u8>(&[1]).unwrap().read_only()).collect();
    let kept = client.put(&shared[..62]).unwrap();
    assert_eq!(63, next(&parcels).descriptors.len());
    let failure = client.put(&shared).unwrap_err();
    assert!(message(&failure.reason).contains("shared arrays"), "{failure}");
    client.call::<()>("m:f", (&kept, vec![Tensor::from(vec![0_u8; LARGE])])).unwrap();
    assert_eq!(1, next(&parcels).descriptors.len());
    let failure = client.call::<()>("m:f", (&kept, &shared[0])).unwrap_err();
    assert!(message(&failure.reason).contains("what was put among them"), "{failure}");
    let one = client.put(1).unwrap();
    assert!(client.call::<()>("m:f", (&one, &kept)).is_err());
}

#[tokio::test]
async fn a_refusal_says_which_limit_it_was_and_leaves_nothing() {
    let (sender, parcels) = channel();
    let daemon = Daemon::new(move |mut peer| {
        while let Some(parcel) = peer.receive_with() {
            let header = parcel.frame.header;
            sender.send(header.kind).unwrap();
            if header.kind == Kind::Put {
                let quota = HandleQuota::ClientBytes;
                let reason = Reason::HandlesFull { quota, needed: 3, held: 2, limit: 4 };
                let meta = fake::failure(0, false, reason);
                peer.send(Kind::Error, header.id, &meta, b"");
            } else {
                peer.send(Kind::Pong, header.id, &[], b"");
            }
        }
    });
    let client = Client::connect(&daemon.path).await.unwrap();
    let failure = client.put(1).await.unwrap_err();
    let Reason::HandlesFull { quota, needed, held, limit } = failure.reason else {
        panic!("{failure}")
    };
    assert_eq!((HandleQuota::ClientBytes, 3, 2, 4), (quota, needed, held, limit));
    client.ping().await.unwrap();
    assert_eq!((Kind::Put, Kind::Ping), (next(&parcels), next(&parcels)));
}

#[tokio::test]
async fn a_put_that_nobody_waits_for_any_more_keeps_nothing() {
    let (sender, parcels) = channel();
    let (answer, may_answer) = channel::<()>();
    let may_answer = std::sync::Arc::new(std::sync::Mutex::new(may_answer));
    let daemon = Daemon::new(move |mut peer| {
        while let Some(parcel) = peer.receive_with() {
            let header = parcel.frame.header;
            sender.send((header.kind, header.id)).unwrap();
            match header.kind {
                Kind::Put => {
                    next(&may_answer.lock().unwrap());
                    peer.send(Kind::Kept, header.id, &[], b"");
                }
                Kind::Ping => peer.send(Kind::Pong, header.id, &[], b""),
                _ => {}
            }
        }
    });
    let client = Client::connect(&daemon.path).await.unwrap();
    for is_late in [false, true] {
        let mut put = Box::pin(client.put(1));
        let polled =
            std::future::poll_fn(|cx| std::task::Poll::Ready(put.as_mut().poll(cx).is_pending()));
        assert!(polled.await);
        let (kind, id) = next(&parcels);
        assert_eq!(Kind::Put, kind);
        answer.send(()).unwrap();
        if is_late {
            // The answer is there, behind which comes the pong, and is not looked at.
            client.ping().await.unwrap();
            assert_eq!(Kind::Ping, next(&parcels).0);
        }
        drop(put);
        assert_eq!((Kind::Release, id), next(&parcels));
    }
}

#[tokio::test]
async fn a_lost_connection_takes_its_values_with_it() {
    let daemon = Daemon::new(|mut peer| {
        let put = peer.expect_put();
        peer.send(Kind::Kept, put, &[], b"");
    });
    let client = Client::connect(&daemon.path).await.unwrap();
    let kept = client.put(1).await.unwrap();
    client.closed().await;
    let failure = client.call::<Value>("m:f", (&kept,)).await.unwrap_err();
    assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
    let again = Client::connect(&daemon.path).await.unwrap();
    let failure = again.call::<Value>("m:f", (&kept,)).await.unwrap_err();
    assert!(message(&failure.reason).contains("connected again"), "{failure}");
    let failure = client.put(1).await.unwrap_err();
    assert!(matches!(failure.reason, Reason::Disconnected { .. }), "{failure}");
}
