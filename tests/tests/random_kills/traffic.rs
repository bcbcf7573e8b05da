//! The client that lives in a process of its own, and what it does over and over.
//!
//! It reads words from standard input: a kind of traffic begins it, `stop` ends it and has the
//! process say what came of it, by when it holds nothing of it any more.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use clutch_client::blocking::Client;
use clutch_client::{Chunk, Failure, Feed, MapFileError, SharedTensor, Tensor};
use clutch_tests::SECOND;

/// Numbers of an array: 160 KB, which travel by descriptor.
const NUMBERS: u32 = 20_000;

/// Lines of the file that is mapped, and the bytes of a chunk.
pub(crate) const LINES: u64 = 40_000;
const CHUNK_BYTES: u64 = 16 << 10;

/// The failures of one piece of traffic.
type Failures = Vec<Failure>;

/// Does one piece of traffic, and checks all that came of it; gives the failures.
type Piece = fn(&Client, &Path) -> Failures;

/// Every kind of traffic, by the word for it.
pub(crate) const KINDS: [(&str, Piece); 7] = [
    ("tensors", tensors),
    ("in-place", in_place),
    ("stream", stream),
    ("feed", feed),
    ("map", map),
    ("map-file", map_file),
    ("handles", handles),
];

fn array() -> Tensor {
    Tensor::from((0..NUMBERS).map(f64::from).collect::<Vec<_>>())
}

fn sum() -> f64 {
    f64::from(NUMBERS) * f64::from(NUMBERS - 1) / 2.0
}

fn tensors(client: &Client, _: &Path) -> Failures {
    let sent = array();
    match client.request("job_tensors:echo").args((&sent,)).timeout(20 * SECOND).send::<Tensor>() {
        Ok(back) => {
            assert_eq!(sent.as_slice::<f64>().unwrap(), back.as_slice::<f64>().unwrap());
            Vec::new()
        }
        Err(failure) => vec![failure],
    }
}

fn in_place(client: &Client, _: &Path) -> Failures {
    let shared = SharedTensor::from_slice(&[NUMBERS as usize], &vec![1.0; NUMBERS as usize]);
    let shared = shared.unwrap();
    let double = client.request("job_tensors:double").timeout(20 * SECOND);
    match double.args((shared.writable().unwrap(),)).send::<()>() {
        Ok(()) => {
            assert!(shared.to_vec::<f64>().unwrap().iter().all(|number| *number == 2.0));
            Vec::new()
        }
        Err(failure) => vec![failure],
    }
}

fn stream(client: &Client, _: &Path) -> Failures {
    let request = client.request("job_streams:arrays").args((50,)).timeout(20 * SECOND);
    let mut failures = Vec::new();
    let mut count = 0;
    for item in request.stream::<Tensor>().window(NonZeroU32::new(8).unwrap()) {
        match item {
            Ok(item) => assert_eq!(f64::from(count), item.as_slice::<f64>().unwrap()[0]),
            Err(failure) => failures.push(failure),
        }
        count += 1;
    }
    assert!(failures.len() == 1 || count == 50, "{count} items");
    failures
}

fn feed(client: &Client, _: &Path) -> Failures {
    let feed = Feed::new((0..50).map(|_| array()));
    let request = client.request("job_streams:sums").args((feed,)).timeout(20 * SECOND);
    let mut failures = Vec::new();
    let mut count = 0;
    for item in request.stream::<f64>() {
        match item {
            Ok(item) => assert_eq!(sum(), item),
            Err(failure) => failures.push(failure),
        }
        count += 1;
    }
    assert!(failures.len() == 1 || count == 50, "{count} sums");
    failures
}

fn map(client: &Client, _: &Path) -> Failures {
    let one = Chunk::Fixed(NonZeroU32::new(3).unwrap());
    let arrays = (0..30).map(|_| array());
    let map = client.map::<_, f64>("job_tensors:total", arrays).chunk(one);
    let mut failures = Vec::new();
    let mut count = 0;
    for result in map.ordered() {
        match result {
            Ok(result) => assert_eq!(sum(), result),
            Err(error) => failures.push(error.failure),
        }
        count += 1;
    }
    // Without its daemon, a map ends with what was under way.
    let is_cut = failures.iter().any(|failure| failure.reason.name() == "Disconnected");
    assert!(is_cut || count == 30, "{count} results, {failures:?}");
    failures
}

fn map_file(client: &Client, file: &Path) -> Failures {
    let map = client.map_file::<u64>("job_files:count_lines", file).chunk_bytes(CHUNK_BYTES);
    let mut failures = Vec::new();
    let mut lines = 0;
    for result in map.ordered().unwrap() {
        match result {
            Ok(result) => lines += result,
            Err(MapFileError::Chunk { failure, .. }) => failures.push(*failure),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!failures.is_empty() || lines == LINES, "{lines} lines");
    failures
}

fn handles(client: &Client, _: &Path) -> Failures {
    let kept = match client.put(array()) {
        Ok(kept) => kept,
        Err(failure) => return vec![failure],
    };
    let one = Chunk::Fixed(NonZeroU32::MIN);
    let map = client.map::<_, f64>("job_handles:total", vec![&kept; 8]).chunk(one);
    let mut failures = Vec::new();
    for result in map.ordered() {
        match result {
            Ok(result) => assert_eq!(sum(), result),
            Err(error) => failures.push(error.failure),
        }
    }
    failures
}

/// What a process of this does, until its standard input ends.
pub(crate) fn obey(socket: &Path, file: &Path) {
    let mut busy: Option<(Arc<AtomicBool>, JoinHandle<String>)> = None;
    for word in std::io::stdin().lock().lines().map_while(Result::ok) {
        if let Some((_, piece)) = KINDS.iter().find(|(kind, _)| *kind == word) {
            let is_over = Arc::new(AtomicBool::new(false));
            let (socket, file, over) = (socket.to_owned(), file.to_owned(), is_over.clone());
            let thread = std::thread::spawn(move || repeat(*piece, &socket, &file, &over));
            busy = Some((is_over, thread));
        } else if let Some((is_over, thread)) = busy.take() {
            is_over.store(true, Ordering::Relaxed);
            let told = thread.join().unwrap_or_else(|_| "wrong results".to_owned());
            say(&format!("stopped {told}"));
        }
    }
}

/// Does it until it is over, or until the daemon has gone; gives how often, and what failed.
fn repeat(piece: Piece, socket: &Path, file: &Path, is_over: &AtomicBool) -> String {
    let client = Client::connect(socket).unwrap();
    let (mut pieces, mut failures) = (0, BTreeMap::<_, u64>::new());
    while !is_over.load(Ordering::Relaxed) && !client.is_closed() {
        for failure in piece(&client, file) {
            *failures.entry(failure.reason.name()).or_default() += 1;
        }
        pieces += 1;
        if pieces == 1 {
            say("begun");
        }
    }
    let mut told = format!("pieces={pieces}");
    for (name, count) in failures {
        let _ = write!(told, " {name}={count}");
    }
    told
}

/// A line to whoever started this process, on a line of its own beside the test runner's words.
#[expect(clippy::print_stdout, reason = "it is how the two processes speak")]
fn say(words: &str) {
    println!("\n>{words}");
}
