//! What the `plain` reader allocates for bytes made to make it allocate. In a test program of its
//! own with a single test, since it counts every allocation of the process.

#![expect(unsafe_code, reason = "an allocator that counts can only be written with it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use clutch_protocol::Value;
use clutch_protocol::plain::{self, Limits};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn grow(bytes: usize) {
    let held = HELD.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(held, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; the counters touch no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: our caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: our caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > layout.size() {
            grow(size - layout.size());
        } else {
            HELD.fetch_sub(layout.size() - size, Relaxed);
        }
        // SAFETY: our caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most memory held during `work`, beyond what was held before.
fn peak(work: impl FnOnce()) -> usize {
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    work();
    PEAK.load(Relaxed) - before
}

/// What the codec's documentation promises.
const BYTES_PER_BYTE: usize = 96;

#[test]
fn memory_is_bounded_by_the_input_f071() {
    let count = 1 << 20;
    let repeat = |start: &[u8], part: &[u8], end: &[u8]| {
        [b"\x80\x05", start, &part.repeat(count / part.len()), end].concat()
    };
    let hostile = [
        ("nones", repeat(b"(", b"N", b"t.")),
        ("nones in a list", repeat(b"](", b"N", b"e.")),
        ("lists", repeat(b"", b"]", b".")),
        ("lists in a list", repeat(b"](", b"]", b"e.")),
        ("lists that are remembered", repeat(b"(", b"]\x94", b"t.")),
        ("one value remembered", repeat(b"]", b"\x94", b".")),
        ("lists of one", repeat(b"](", b"]Na", b"e.")),
        ("tuples of one", repeat(b"](", b"N\x85", b"e.")),
        ("empty sets of nothing", repeat(b"](", b"(\x91", b"e.")),
        ("a list appended to between others", repeat(b"]", b"]Naa", b".")),
        ("marks", repeat(b"", b"(", b".")),
        ("references", repeat(b"]\x94(", b"h\0", b"t.")),
        ("claims", repeat(b"", b"B\xff\xff\xff\xff", b"")),
        ("one claim", b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fN.".to_vec()),
    ];
    for (name, bytes) in hostile {
        let used = peak(|| drop(plain::check(&bytes, Limits::default())));
        let bound = bytes.len() * BYTES_PER_BYTE + 4096;
        assert!(used <= bound, "{name}: {used} bytes for {}", bytes.len());
    }

    // Each list holds the one before it twice.
    let doubled = |levels: u8| {
        let lists: Vec<u8> =
            (0..levels).flat_map(|at| [b']', 0x94, b'(', b'h', at, b'h', at, b'e']).collect();
        [b"\x80\x05(]\x94(Ne", &lists[..], b"t."].concat()
    };
    let used = peak(|| drop(plain::from_slice::<Value>(&doubled(100), Limits::default())));
    assert!(used < 64 << 10, "billion laughs: {used} bytes");
    // A few levels are data like any other.
    assert!(plain::from_slice::<Value>(&doubled(10), Limits::default()).is_ok());
}
