//! Counters of everything that happens, by name. They only ever grow.

use std::borrow::Cow;
use std::collections::BTreeMap;

use clutch_protocol::Reason;
use clutch_protocol::failure::Cause;

/// Counters by name.
#[derive(Clone, Debug, Default)]
pub struct Counters(BTreeMap<Cow<'static, str>, u64>);

impl Counters {
    /// Counts one more.
    pub fn one(&mut self, name: impl Into<Cow<'static, str>>) {
        self.add(name, 1);
    }

    /// Counts many more. Some of these numbers are a worker's own, and may be any.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, count: u64) {
        let sum = self.0.entry(name.into()).or_insert(0);
        *sum = sum.saturating_add(count);
    }

    /// One of them.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All of them.
    pub fn to_map(&self) -> BTreeMap<String, u64> {
        self.0.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }
}

/// The counter of calls answered like this.
pub const fn answered(reason: &Reason) -> &'static str {
    match reason {
        Reason::Raised(_) => "answered.Raised",
        Reason::TimedOut { .. } => "answered.TimedOut",
        Reason::Cancelled => "answered.Cancelled",
        Reason::WorkerDied(_) => "answered.WorkerDied",
        Reason::QueueFull { .. } => "answered.QueueFull",
        Reason::CrashLoop { .. } => "answered.CrashLoop",
        Reason::NotAllowed => "answered.NotAllowed",
        Reason::NotFound(_) => "answered.NotFound",
        Reason::BadArguments { .. } => "answered.BadArguments",
        Reason::Unserializable { .. } => "answered.Unserializable",
        Reason::TooLarge { .. } => "answered.TooLarge",
        Reason::ShuttingDown { .. } => "answered.ShuttingDown",
        Reason::Disconnected { .. } => "answered.Disconnected",
        Reason::Protocol { .. } => "answered.Protocol",
        Reason::Nested { .. } => "answered.Nested",
        Reason::HandlesFull { .. } => "answered.HandlesFull",
    }
}

/// The counter of workers that died like this.
pub const fn death(cause: Cause) -> &'static str {
    match cause {
        Cause::Exited => "deaths.exited",
        Cause::Signalled => "deaths.signalled",
        Cause::StartFailed => "deaths.start_failed",
        Cause::StartTimedOut => "deaths.start_timed_out",
        Cause::Interrupted => "deaths.interrupted",
        Cause::Protocol => "deaths.protocol",
        Cause::ChannelLost => "deaths.channel_lost",
        Cause::GuardianLost => "deaths.guardian_lost",
        Cause::Stopped => "deaths.stopped",
        Cause::OutOfMemory => "deaths.out_of_memory",
        Cause::MemoryLimit => "deaths.memory_limit",
        Cause::Stalled => "deaths.stalled",
    }
}
