//! Every bound on the wire, in one place, each with its reason.
//!
//! These are *protocol constants*: both ends must agree on them. What an operator may change
//! (queue lengths, timeouts) is in the configuration, and can only be stricter.

/// Bytes of the fixed frame header.
pub const HEADER_BYTES: usize = 32;

/// The longest meta of any frame. A meta is a small struct; the largest are a failure with its
/// traceback and a worker's environment, and Linux caps a single environment string at 128 KiB.
pub const META_BYTES_MAX: u32 = 1 << 20;

/// The longest meta plus payload accepted before the peer has said hello: a stranger must not be
/// able to make the daemon hold more than this.
pub const HELLO_BYTES_MAX: u32 = 4 << 10;

/// The longest payload of one frame, whatever the configuration says. Larger data does not belong
/// in a stream of frames.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 30;

/// The default for the longest payload. Measured: a frame of this size crosses a local socket in
/// tens of milliseconds, so it delays another call on the same connection by no more than that.
pub const PAYLOAD_BYTES_DEFAULT: u32 = 64 << 20;

/// The longest function name (`module:qualname`), in bytes. Python's own longest in the standard
/// library is under 100.
pub const FUNCTION_NAME_BYTES_MAX: usize = 512;

/// The longest pool name, in bytes.
pub const POOL_NAME_BYTES_MAX: usize = 64;

/// The longest program or version text in a hello, in bytes.
pub const PROGRAM_BYTES_MAX: usize = 256;

/// The longest token of a worker in a hello, in bytes. A daemon's own are 32 hexadecimal digits; a
/// hello with a longer one is refused, since no daemon has given it.
pub const WORKER_TOKEN_BYTES_MAX: usize = 64;

/// The longest text (message, formatted traceback) that travels in a failure, in bytes. A worker
/// cuts longer text and says so; the daemon refuses a worker that does not.
pub const FAILURE_TEXT_BYTES_MAX: usize = 64 << 10;

/// How many links of an exception's cause chain travel.
pub const CHAIN_LINKS_MAX: usize = 16;

/// How many frames of one traceback travel: the outermost and innermost halves of it.
pub const TRACEBACK_FRAMES_MAX: usize = 64;

/// How deep a value may nest. serde_json's limit too, and far below what overflows a stack.
pub const DEPTH_MAX: usize = 128;

/// How many nodes one value may have after its shared parts have been expanded. A payload of the
/// default size with one-byte nodes stays below it; an exponential "billion laughs" does not.
pub const NODES_MAX: usize = 64 << 20;

/// Calls that one worker may run at once: the id of each that has begun has a place on the page
/// that it shares with the daemon, which has room for twice as many.
pub const LANES_MAX: u32 = 256;

/// The longest text of a forwarded log record, in bytes. A frame of that size is still one piece to
/// the system: it goes into a socket whole or not at all, which a worker's threads rely on. A
/// worker cuts longer text in the middle and says so.
pub const LOG_TEXT_BYTES_MAX: usize = 16 << 10;

/// The longest name of a logger or a log level, in bytes. Loggers are named like modules.
pub const LOG_NAME_BYTES_MAX: usize = 512;

/// Modules whose import times a worker tells, the slowest: what a person reads.
pub const IMPORT_TIMES_MAX: usize = 16;

/// File descriptors that may travel with one frame; Linux passes at most 253 at once. Small buffers
/// share one, so more than a few are of distinct shared arrays or files.
pub const DESCRIPTORS_MAX: u8 = 64;

/// How many things may be attached to one payload: each costs its receiver a mapping or an object.
pub const ATTACHMENTS_MAX: usize = 4096;

/// From this length on, bytes and arrays travel beside their payload. CPython's pickler hands
/// buffers from this length on to its file as they are, so that leaving them out costs nothing.
pub const ATTACH_BYTES_MIN: usize = 64 << 10;

/// Where attached buffers that share a descriptor begin: multiples of this. A cache line, and what
/// Arrow and BLAS want.
pub const ATTACHMENT_ALIGNMENT: u64 = 64;

/// The default for the bytes that may be attached to one payload.
pub const ATTACHED_BYTES_DEFAULT: u64 = 16 << 30;

/// The most dimensions of an array: numpy's limit until version 2.
pub const DIMENSIONS_MAX: usize = 32;

/// Empty lists that an array without elements may be: its memory pays for none of them, and who
/// reads them makes each.
pub const EMPTY_LISTS_MAX: u64 = 1 << 20;

/// The longest name of an array's element type, in bytes: `<M8[100ns]` and the like.
pub const DTYPE_BYTES_MAX: usize = 32;

/// How many bytes of a file's record may be behind the range that the record begins in. Whoever
/// looks for its end reads that many at most: a file without any, of 100 GiB, is found out in a
/// second and not in minutes.
pub const RECORD_BYTES_MAX: u64 = 1 << 30;

/// Streams of one call: the one it answers with, and those its arguments stand for.
pub const STREAMS_MAX: u32 = 64;

/// Items of one stream that may be under way: what a receiver has to keep at most.
pub const STREAM_CREDIT_MAX: u32 = 4096;

/// The longest message of a progress report, in bytes: what a line on a terminal shows.
pub const PROGRESS_TEXT_BYTES_MAX: usize = 512;

/// How many base classes of an exception travel by name. Exceptions of the standard library have at
/// most five; a caller who waits for the seventeenth asks for a nearer one.
pub const EXCEPTION_BASES_MAX: usize = 16;

/// The most attempts a call may ask for: with the longest backoff they last for days, and more are
/// a loop of the caller's own.
pub const RETRY_ATTEMPTS_MAX: u32 = 100;

/// How many exceptions a call may name that are to be tried again. Each failed attempt is compared
/// with all of them.
pub const RETRY_NAMES_MAX: usize = 16;

/// The longest name of such an exception, in bytes: half of what a function's name may have.
pub const RETRY_NAME_BYTES_MAX: usize = 256;

/// The longest wait before a second attempt, in milliseconds: an hour, the longest a call may take
/// by default.
pub const RETRY_BACKOFF_MS_MAX: u64 = 3_600_000;

/// How many workers one call may kill before it is tried no more, whatever its caller asked for:
/// once may be somebody else's fault, twice is its own.
pub const WORKERS_KILLED_MAX: u32 = 2;

/// How many bits of the id of a `Run` are the call's own; those above count its attempts, from 0.
/// So an interrupt of one attempt, or its late answer, is never taken for another's. At a million
/// calls a second 48 bits last for nine years.
pub const CALL_ID_BITS: u32 = 48;

const _: () = assert!((RETRY_ATTEMPTS_MAX as u64) < 1 << (u64::BITS - CALL_ID_BITS));
const _: () = assert!(HELLO_BYTES_MAX < META_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_DEFAULT <= PAYLOAD_BYTES_MAX);
// Meta and payload together must fit the header's 32-bit length.
const _: () = assert!((PAYLOAD_BYTES_MAX as u64) + (META_BYTES_MAX as u64) < u32::MAX as u64);
// A failure holds at most a traceback, a message and a stderr tail: they must fit a meta.
const _: () = assert!(FAILURE_TEXT_BYTES_MAX * 8 <= META_BYTES_MAX as usize);
