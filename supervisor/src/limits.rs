//! Bounds of the daemon that no configuration changes, each with its reason. Bounds of the wire are
//! in `clutch_protocol::limits`, bounds an operator may change in `config`.

use std::time::Duration;

/// How long a client may take from connecting to a complete hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a frame may take from its first byte to its last, before the allowance for its length.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// The slowest a long frame may come in. A local socket moves gigabytes a second; even a stopped
/// and continued client makes this.
pub const FRAME_BYTES_PER_SEC_MIN: u64 = 1 << 20;

/// How long a client may leave its answers unread before it is dropped. Long, since a slow reader
/// is often a person (`clutch map ... | less`), and what waits for it has a limit of its own.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(600);

/// How long a client may take to read its last answers when the daemon has stopped.
pub const CLOSING_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections that have not said hello yet. More than any real burst (1000 clients at once), and
/// at 4 KiB each far from any memory that matters.
pub const STRANGERS_MAX: usize = 1024;

/// Bytes that may wait for one client to read them, beyond one frame.
pub const CLIENT_OUTBOX_BYTES_MAX: usize = 64 << 20;

/// How long a frame with descriptors waits when the kernel takes none, before it is tried again.
pub const JAM_PAUSE: Duration = Duration::from_millis(10);

/// Memory of at least this size is closed by a thread of its own: the last close frees its pages,
/// which takes 0.06 ms for each MiB (measured: 0.9 ms for 16 MiB, 60 ms for 1 GiB, 280 ms for 4).
pub const CLOSED_ELSEWHERE_BYTES_MIN: u64 = 16 << 20;

/// What may wait to be closed by that thread, in frames' descriptors: with 1 GiB each, the thread
/// needs seconds for it. What does not fit is closed on the data plane, counted, which slows down
/// whoever brings more.
pub const CLOSINGS_MAX: usize = 64;

/// How long the end of the daemon waits for that thread. The kernel does what is left then.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// When this many bytes wait for a client, nothing new is read from it until it has read them.
pub const CLIENT_OUTBOX_BYTES_HIGH: usize = 1 << 20;

/// How many bytes of clients' streams may wait for a worker to read them, or be on their way to it,
/// of all its streams together; beyond that, one item of each. What it asks for beyond that is not
/// passed on to its client yet.
pub const INPUT_BYTES_HIGH: usize = 1 << 20;

/// How many bytes of the streams that a client reads may wait for it, or be on their way to it by
/// its leave: enough that a worker computes while the client reads, and little enough for thousands
/// of clients. Who has asked for more gets it when it has read.
pub const STREAM_BYTES_HIGH: usize = 1 << 20;

/// When no more than that waits for a client, each of its streams may send one item, however long:
/// so a worker makes the next long one while the last bytes of the one before are read.
pub const STREAM_BYTES_LOW: usize = 256 << 10;

/// How long an item of a stream is taken to be before one has come: what is longer mostly travels
/// in memory of its own.
pub const ITEM_BYTES_GUESSED: usize = 64 << 10;

/// How many descriptors it is taken to have: most have none, and were it more, streams that have
/// sent nothing yet would soon keep others from their first item.
pub const ITEM_DESCRIPTORS_GUESSED: usize = 1;

/// Room that items of streams leave in a client's outbox to answers and failures.
pub const ANSWERS_RESERVE_BYTES: usize = 1 << 20;

/// Bytes of short requests of one client that wait behind one for which there is no room. Long
/// ones hold some of the daemon's memory.
pub const HELD_BYTES_MAX: usize = 8 << 20;

/// How long a long frame may wait for its bytes. Calls that hold memory have deadlines, so it does
/// come free; a client that still waits after this long is better told.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(60);

/// Frames at least this long take their bytes from the daemon's memory budget before they are
/// received. Shorter ones are bounded by the queue's length.
pub const BUDGETED_BYTES_MIN: u32 = 64 << 10;

/// Bytes that may wait for a guardian or a control socket: a few tiny frames.
pub const SIDE_OUTBOX_BYTES_MAX: usize = 4 << 20;

/// The longest line of a worker's output that is kept as one; longer ones are cut into pieces.
pub const OUTPUT_LINE_BYTES_MAX: usize = 8 << 10;

/// Lines of a worker's output that are logged in a burst, and per second after it. What exceeds
/// this is counted and left out, so that a chatty function cannot fill a disk or slow the daemon.
pub const OUTPUT_LINES_BURST: u32 = 1_000;

/// Lines per second after the burst.
pub const OUTPUT_LINES_PER_SEC: u32 = 200;

/// Bytes of a worker's last standard error that go into its death certificate.
pub const STDERR_TAIL_BYTES_MAX: usize = 8 << 10;

/// Bytes of stacks that are kept of one worker: what a pipe holds, which is all that a worker can
/// write without being read.
pub const STACK_BYTES_MAX: usize = 64 << 10;

/// Bytes of stacks that travel in an error: dozens of frames, and far below a meta's limit.
pub const STACK_TEXT_BYTES_MAX: usize = 16 << 10;

/// Questions to the watch thread that may wait: there is one timer, and one for each client that
/// asks for the status.
pub const WATCH_QUESTIONS_MAX: usize = 64;

/// How often it is noted, for a busy worker, what the kernel has killed in its group: that is a
/// read of a file on the way of a call, and what a death is compared with.
pub const OOMS_NOTED_EVERY: Duration = Duration::from_secs(1);

/// How often the log says of one worker that a signal has stopped it. Code may do so in a loop.
pub const HALT_SAID_EVERY: Duration = Duration::from_secs(10);

/// How far two looks at a busy worker are apart: several times the kernel's smallest unit.
pub const LOOK_APART: Duration = Duration::from_millis(40);

/// How long a worker's control thread may take to answer. It gets the interpreter within a few
/// milliseconds from Python code, and a busy machine makes that some tens.
pub const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

/// A worker that has had its call for less is taken at its word: it runs it.
pub const EXAMINE_AFTER: Duration = Duration::from_millis(500);

/// What was seen this short a time ago is not looked at again, however many ask.
pub const EXAMINE_FRESH: Duration = Duration::from_secs(1);

/// Orders to the spawner that may wait: more than all slots of all pools a machine can hold.
pub const SPAWNER_ORDERS_MAX: usize = 4_096;

/// Ended guardians that wait until the spawner takes orders again. There cannot be more than there
/// were starts to bring them about, and those are orders, too.
pub const REAPS_POSTPONED_MAX: usize = SPAWNER_ORDERS_MAX;

/// Groups of dead workers that are kept in mind because somebody was in them still: processes that
/// would not die.
pub const GROUPS_EMPTYING_MAX: usize = 1_024;

/// How long the end of the daemon waits for the removal of its groups.
pub const GROUPS_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How soon an order to reap is given again that the spawner could not take. It is busy with starts
/// then, each of which takes about a millisecond.
pub const REAPS_RETRY: Duration = Duration::from_millis(100);

/// How long the whole daemon may take to kill everything after a second signal or a failed start.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Pings and status requests do not queue, so they need no bound of their own; a client's calls in
/// flight are bounded by `daemon.in_flight`, whatever it asks for.
pub const IN_FLIGHT_MAX: u32 = 1 << 20;

/// What happened to calls and workers is remembered for so many events, 2 MiB in all: the last
/// twenty thousand calls, a minute of a busy daemon and days of a quiet one.
pub const HISTORY_RECORDS_MAX: usize = 64 << 10;

/// Names of functions that the history remembers. More than any program has; clients could make up
/// names without end.
pub const HISTORY_FUNCTIONS_MAX: usize = 4 << 10;

/// What an explanation of a call says at most about workers while it waited, and about calls that
/// were ahead of it. More would be a log and no explanation.
pub const EXPLAIN_ITEMS_MAX: usize = 32;

/// How long a worker may take to write its stacks before whoever asked is told that it did not.
pub const STACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions of one client that wait for a worker's answer. A person has one; a program that asks
/// about every worker of a pool goes through them in turn.
pub const OPERATIONS_MAX: usize = 16;
/// Lines of the output store that one reader is sent in one turn. Making a line fit for a screen
/// takes under a microsecond, so a turn takes under a millisecond.
pub const LOG_BATCH_LINES_MAX: usize = 512;

/// Bytes of JSON after which a turn is over. One line more may follow.
pub const LOG_BATCH_BYTES_MAX: usize = 128 << 10;

/// Lines that one turn looks at, wanted or not.
pub const LOG_SCAN_LINES_MAX: usize = 16_384;

/// The pause between a reader's turns. With it a reader takes a few percent of the data plane at
/// most, and still sees a hundred thousand lines a second.
pub const LOG_READER_PAUSE: Duration = Duration::from_millis(5);

/// Readers of the output store that one client may have at once.
pub const LOG_READERS_MAX: usize = 16;

/// Bytes that may wait to be written to output files. When the disk is slower for longer than this
/// lasts, lines are dropped and counted.
pub const FILE_QUEUE_BYTES_MAX: usize = 8 << 20;

/// Portions that may wait to be written: what one read of a pipe gives is one.
pub const FILE_QUEUE_JOBS_MAX: usize = 8_192;

/// How long the end of the daemon waits for the last lines to be written to files.
pub const FILE_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after a failure an output file is left alone.
pub const FILE_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Workers of one pool that may be starting at once: enough that slow imports overlap, few enough
/// that a pool of hundreds that has fallen does not bring the machine down with it.
pub const STARTS_AT_ONCE: u32 = 16;

/// A start that takes longer than this is slow, and its slowest imports are logged; so is one that
/// needs half of what it may. Large libraries take a second or two, and nobody waits for them
/// knowingly for longer.
pub const SLOW_START: Duration = Duration::from_secs(2);

/// How long a caller whose deadline has passed waits for the stacks of its worker. Writing them
/// takes a millisecond or two, unless another thread keeps the interpreter to itself.
pub const DUMP_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a worker's control thread may take to write stacks before a signal makes the main
/// thread do it. A thread of Python's gives the interpreter up every 5 ms, so by then it is C code
/// that holds it: its frames stand still, and looking at them from a signal handler is safe. While
/// Python code runs it is not: measured, one in some hundreds to thousands of such looks crashed
/// CPython 3.8 to 3.13.
pub const DUMP_PATIENCE: Duration = Duration::from_millis(75);

/// The same where a worker runs several calls. Its threads give the interpreter to one another, and
/// to the control thread when chance has it: measured, with 16 that compute, mostly later than the
/// above, and up to 0.8 s. A late call's error does without its stack then; a look that crashed the
/// worker would cost all others.
pub const DUMP_PATIENCE_OF_SEVERAL: Duration = Duration::from_millis(1500);

const _: () = assert!(DUMP_PATIENCE.as_millis() < DUMP_TIMEOUT.as_millis());
const _: () = assert!(DUMP_PATIENCE_OF_SEVERAL.as_millis() < STACK_TIMEOUT.as_millis());
