//! Every bound of this crate that is not the protocol's, in one place, each with its reason.

use std::time::Duration;

/// How long connecting may take, the daemon's welcome included, unless the caller says otherwise.
/// A daemon that is alive answers within a millisecond; one that is stopped never does.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest path the system takes for a socket: `sun_path` has 108 bytes, one of them the NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The shortest and longest wait before connecting again to a daemon whose backlog is full.
pub(crate) const BACKLOG_WAIT: [Duration; 2] =
    [Duration::from_millis(1), Duration::from_millis(50)];

/// How long after a call's own deadline the client gives up on the daemon. The daemon answers at
/// the deadline; this is only for one that does not.
pub const TIMEOUT_GRACE: Duration = Duration::from_secs(5);

/// How long `status`, `ping` and `stop` wait for their answer.
pub const CONTROL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the daemon may take to read and check its configuration; interpreters that hang are
/// given up after ten seconds. Longer than that.
pub(crate) const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How long reading the lines that are there may take: the daemon sends a hundred thousand in one
/// second.
pub(crate) const LOGS_TIMEOUT: Duration = Duration::from_secs(60);

/// Batches of log lines that may wait for their receiver, each of about 128 KiB at most. More than
/// a pool keeps by default, so that reading what is there loses nothing.
pub(crate) const LOG_BATCHES_MAX: usize = 256;

/// Bytes that may wait for a full socket before callers wait too. One frame may overshoot it, since
/// a frame is never cut in two by its sender.
pub(crate) const OUTBOUND_BYTES_MAX: usize = 4 << 20;

/// Pieces handed to the system in one write: enough for five frames of header, meta and payload.
pub(crate) const WRITE_PIECES_MAX: usize = 16;

/// Bytes asked of the socket at once. It holds about 200 KiB; a small answer has under 200 bytes.
pub(crate) const READ_BYTES: usize = 64 << 10;

/// How long a writer that found the daemon gone waits for the reader to learn why.
pub(crate) const HANG_UP_WAIT: Duration = Duration::from_millis(500);

/// How long the daemon's word on a call that was cancelled is waited for, by who wants it: it says
/// which call that was. The daemon answers a cancel at once.
pub(crate) const CANCEL_WAIT: Duration = Duration::from_millis(500);

/// How long a blocked writer of a blocking client waits before it looks whether somebody still
/// reads. See `blocking::connection`.
pub(crate) const WRITE_LOOK: Duration = Duration::from_millis(10);

/// How long to wait before descriptors are passed again of which the system says that too many are
/// between two sockets already: a daemon that is not stopped reads them within that.
pub(crate) const CROWDED_WAIT: Duration = Duration::from_millis(2);

/// Cancels and pongs of a blocking client that may wait for another thread's frame.
pub(crate) const REMARKS_MAX: usize = 1_024;

/// How long one chunk of a map should run: long enough to make the cost of a call (under 0.1 ms)
/// invisible, short enough that workers end together.
pub(crate) const CHUNK_RUN_US: u64 = 10_000;

/// How long a chunk should run at least, even when few items are left and each worker could have
/// one of them: a tenth of it is the cost of a call.
pub(crate) const CHUNK_RUN_MIN_US: u64 = 1_000;

/// Into how many chunks for each worker what is left is divided, over and over, when it is known
/// how much that is. The last chunks are then so small that workers end together.
pub(crate) const SHARES: u64 = 2;

/// How many results are given out in a row before it is looked whether something can be sent. A
/// look costs as much as a result.
pub(crate) const QUICK_ITEMS: u32 = 64;

/// How many partial results of neighbouring items are folded by one call.
pub(crate) const FOLD_PIECES: usize = 64;

/// How much larger the next chunk may be than the largest measured one.
pub(crate) const CHUNK_GROWTH: u32 = 4;

/// Items in one chunk, at most.
pub(crate) const CHUNK_ITEMS_MAX: u32 = 8_192;

/// Bytes of one chunk's arguments that automatic chunks aim to stay below.
pub(crate) const CHUNK_BYTES: u64 = 1 << 20;

/// A chunk that runs for less is short: the way to the worker and back is then a part of its time
/// that counts, so the next one should be waiting at its worker's door.
pub(crate) const SHORT_CHUNK_US: u64 = 20_000;

/// Chunks of one map that may be unanswered, however many workers there are: few enough that 64
/// maps still fit a default queue.
pub(crate) const CHUNKS_IN_FLIGHT: u32 = 64;

/// Items of one map that may be pulled and not yet yielded, unless the caller says otherwise.
pub(crate) const WINDOW_ITEMS: u32 = 65_536;

/// Items of a stream that may be on their way to their reader, unless it says otherwise: enough
/// that a worker does not wait for the way there and back, and few enough that nobody minds when
/// they are large.
pub(crate) const STREAM_WINDOW: u32 = 32;

/// How often one chunk that never started is sent again.
pub(crate) const RESENDS_MAX: u32 = 24;

/// The shortest and longest wait before a chunk is sent again to a queue that others fill. With
/// [`RESENDS_MAX`], a map gives up on a full queue after about five seconds.
pub(crate) const RESEND_WAIT: [Duration; 2] =
    [Duration::from_millis(5), Duration::from_millis(250)];

/// Bytes of a file that one call is given, unless the caller says otherwise: some tens of
/// milliseconds of work, and little enough memory for every worker at once.
pub(crate) const FILE_CHUNK_BYTES: u64 = 64 << 20;

/// Bytes that are read at once to look for the ends of CSV's records.
pub(crate) const SCAN_BYTES: usize = 1 << 20;

/// Chunks of CSV that may be known and not sent: what was read stays in memory until a worker reads
/// it, unless there is too much of it.
pub(crate) const CUTS_AHEAD: usize = 2;

/// The longest header of CSV: tens of thousands of columns.
pub(crate) const HEADER_RECORD_BYTES_MAX: usize = 1 << 20;

/// The longest footer of a Parquet file that is read. It grows with columns and row groups; one of
/// a hundred thousand of both together has some megabytes.
pub(crate) const PARQUET_FOOTER_BYTES_MAX: usize = 128 << 20;

/// What new memory is made of huge pages: from here on, rounding up to one costs a third at most;
/// beyond the other end, nobody has asked for all of it to be there at once.
pub(crate) const HUGE_BYTES_MIN: u64 = 4 << 20;
pub(crate) const HUGE_BYTES_MAX: u64 = 1 << 30;

/// Memory that is asked for by one call of the system, about a third of a millisecond: a signal
/// that comes meanwhile undoes it, so that much longer ones might never be done.
pub(crate) const ALLOCATE_BYTES: u64 = 2 << 20;

/// Memory of a shared array that is asked for when the first byte of it is written or read here:
/// enough that a call of the system is seldom, and little enough that what is sparse stays so.
pub(crate) const BACKED_BLOCK_BYTES: u64 = 64 << 10;

/// How long new memory may not be sealed yet because a child that another thread forked has not
/// started its program, and the pauses in which that is looked at.
pub(crate) const SEAL_WAIT: Duration = Duration::from_millis(500);
pub(crate) const SEAL_PAUSE: Duration = Duration::from_millis(1);

/// Copies that are sent in memory that is used again. Shorter ones are made as fast anew.
pub(crate) const REUSED_BYTES_MIN: usize = 256 << 10;

/// How much memory a process keeps for that in all, and in how many pieces: two of 100 MB, so that
/// one can be filled while a worker lets go of the other.
pub(crate) const REUSED_BYTES_MAX: usize = 256 << 20;
pub(crate) const REUSED_BUFFERS_MAX: usize = 16;

const _: () = assert!(CHUNK_ITEMS_MAX * 4 <= WINDOW_ITEMS);
const _: () = assert!(CONNECT_TIMEOUT.as_millis() > BACKLOG_WAIT[1].as_millis());
