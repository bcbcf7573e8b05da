//! Every bound on what may be configured, each with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

use clutch_protocol::limits::{FUNCTION_NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// The longest configuration file. The commented sample has a few KiB.
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;

/// How many problems are reported: more are of no use to the person who repairs the first.
pub(super) const PROBLEMS_MAX: usize = 50;

/// How many pools there may be. Each has at least one process.
pub(super) const POOLS_MAX: usize = 256;

/// How many items a list (patterns, arguments, names) may have.
pub(super) const LIST_ITEMS_MAX: usize = 4096;

/// The longest module name: a function's name without `:` and one letter.
pub(super) const MODULE_NAME_BYTES_MAX: usize = FUNCTION_NAME_BYTES_MAX - 2;

/// The longest list of arguments for an initializer, as JSON. It is sent to each worker with all
/// else that it is told at its start, in one meta of at most 1 MiB.
pub(super) const INITARGS_BYTES_MAX: usize = 64 << 10;

/// The longest path of a socket: `sockaddr_un` has 108 bytes, the last is NUL.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Connections at once: each is a descriptor, and a process has at most about a million.
pub(super) const CONNECTIONS: RangeInclusive<u32> = 1..=1_000_000;

/// Calls in flight on one connection: their ids alone take memory.
pub(super) const IN_FLIGHT: RangeInclusive<u32> = 1..=1_000_000;

/// The longest payload: at least what a few numbers need, at most what the protocol takes.
pub(super) const PAYLOAD: RangeInclusive<u64> = 1024..=PAYLOAD_BYTES_MAX as u64;

/// Bytes attached to one payload: nothing, or up to what any machine has.
pub(super) const ATTACHED: RangeInclusive<u64> = 0..=1 << 44;

/// Memory for requests: up to what any machine has.
pub(super) const MEMORY: RangeInclusive<u64> = 1024..=1 << 40;

/// Workers of one pool: each is two processes and some ten descriptors.
pub(super) const WORKERS: RangeInclusive<u32> = 1..=WORKERS_MAX;

/// The most of them, also after a resize at run time.
pub const WORKERS_MAX: u32 = 4096;

/// Calls that a worker runs at once: their ids have to fit the page it shares with the daemon, and
/// threads beyond this only wait for one another.
pub(super) const LANES: RangeInclusive<u32> = 1..=clutch_protocol::limits::LANES_MAX;

/// Calls that wait: a queue longer than this is never answered in time.
pub(super) const QUEUE: RangeInclusive<u32> = 1..=10_000_000;

/// Timeouts: below a millisecond nothing can be measured, and above a year clocks are no help.
pub(super) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=YEAR;

/// Graces may be 0: then there is none.
pub(super) const GRACE: RangeInclusive<Duration> = Duration::ZERO..=DAY;

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
