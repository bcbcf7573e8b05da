//! The output store as the dispatcher fills it and clients read it, and records of Python's
//! `logging`.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use clutch_protocol::failure::Reason;
use clutch_protocol::limits::{LOG_NAME_BYTES_MAX, LOG_TEXT_BYTES_MAX};
use clutch_protocol::message::{Log, Logs};
use clutch_protocol::{retry, wire};
use tokio::sync::Notify;

use super::core::Core;
use super::dispatcher::{Dispatcher, PoolState};
use super::refusal::{early_failure, send_failure};
use crate::logs::entry::{Logger, wall_clock_ms};
use crate::logs::reader::{self, Batch};
use crate::logs::{Entry, Files, Reader, Sink, Source};
use crate::pool::CallKey;
use crate::session::Peer;
use crate::worker::link::Link;

/// What all pools' output has in common.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// The order of the next line.
    next: u64,
    files: Files,
    /// Tells readers that there are new lines.
    changed: Rc<Notify>,
}

impl Store {
    /// Keeps lines of a pool, in memory and in its file.
    pub(super) fn keep(&mut self, pool: &mut PoolState, mut entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        for entry in &mut entries {
            entry.order = self.next;
            self.next += 1;
        }
        Sink::renew(&mut pool.sink, &pool.config);
        if let Some(sink) = &pool.sink {
            self.files.write(sink, &entries);
        }
        let output = &pool.config.output;
        let bytes_max = usize::try_from(output.bytes).unwrap_or(usize::MAX);
        for entry in entries {
            pool.ring.push(entry, output.lines as usize, bytes_max);
        }
        self.changed.notify_waiters();
    }
}

impl Core {
    /// A client wants lines. None when it was told why there will not be any.
    pub(crate) fn open_logs(&self, peer: &Peer, id: u64, wanted: Logs) -> Option<Reader> {
        self.with(|dispatcher| {
            if !wanted.pool.is_empty() && !dispatcher.by_name.contains_key(&wanted.pool) {
                let missing = dispatcher.no_such_pool(&wanted.pool);
                let reason = Reason::NotFound(Box::new(missing));
                send_failure(peer, id, &early_failure(wanted.pool, "logs".to_owned(), reason));
                return None;
            }
            let next = dispatcher.store.next;
            Some(Reader::new(wanted, &dispatcher.rings(), next))
        })
    }

    /// A client asks for more readers than it may have.
    pub(crate) fn refuse_logs(&self, peer: &Peer, id: u64, limit: u32) {
        let reason = Reason::QueueFull { limit };
        send_failure(peer, id, &early_failure(String::new(), "logs".to_owned(), reason));
    }

    /// The next lines of a reader.
    pub(crate) fn read_logs(&self, reader: &mut Reader) -> Batch {
        self.with(|dispatcher| reader.next(&dispatcher.rings()))
    }

    /// What tells that there are new lines.
    pub(crate) fn output_changed(&self) -> Rc<Notify> {
        self.with(|dispatcher| dispatcher.store.changed.clone())
    }

    /// Writes what is still to be written to files. Waits, so it is for the daemon's end.
    pub(crate) fn finish_output(&self) {
        self.with(|dispatcher| dispatcher.store.files.finish());
    }
}

impl Dispatcher {
    fn rings(&self) -> Vec<reader::Pool<'_>> {
        self.pools.iter().map(|pool| (pool.config.name.as_str(), &pool.ring)).collect()
    }

    /// Keeps a record that a worker has sent.
    ///
    /// # Errors
    ///
    /// When no worker of ours would send it.
    pub(super) fn take_record(
        &mut self,
        now: Instant,
        link: &Link,
        meta: &[u8],
    ) -> Result<(), String> {
        let mut log: Log = wire::decode(meta).map_err(|error| error.to_string())?;
        // The worker knows the attempt of a call; everybody else knows the call.
        let run = log.call;
        log.call = retry::call_of_run(run);
        let is_short = log.text.len() <= LOG_TEXT_BYTES_MAX
            && log.logger.len() <= LOG_NAME_BYTES_MAX
            && log.level_name.len() <= LOG_NAME_BYTES_MAX;
        if !is_short {
            return Err("a log record is longer than one may be".to_owned());
        }
        let pool = &mut self.pools[link.pool.0];
        let Some(worker) = pool.workers.get_mut(&link.worker) else {
            return Ok(());
        };
        // Records may come after the answer of their call, which has a socket of its own.
        let had = worker.calls_had.as_ref().is_some_and(|had| had.contains(&CallKey(log.call)));
        if run != 0 && !had {
            return Err(format!("a log record is of call {run}, which it never had"));
        }
        let record = |source, text: String| Entry {
            order: 0,
            at_ms: log.created_ms,
            worker: link.worker,
            call: log.call,
            source,
            text: Bytes::from(text),
        };
        let mut entries = Vec::new();
        if log.dropped > 0 {
            let dropped = log.dropped;
            pool.counters.add("log_records_dropped", dropped);
            let remark = format!("{dropped} log records were left out here: too many, too fast");
            entries.push(Entry { at_ms: wall_clock_ms(), ..record(Source::Daemon, remark) });
        }
        // Without text it is only a count.
        if !log.text.is_empty() || log.dropped == 0 {
            match worker.allowance.take(now) {
                Some(dropped) => trace(&pool.config.name, link, &log, dropped),
                None => pool.counters.one("output_lines_not_logged"),
            }
            pool.counters.one("log_records");
            let logger = Logger { level: log.level_name.clone(), name: log.logger.clone() };
            entries.push(record(Source::Logged(Arc::new(logger)), log.text.clone()));
        }
        self.store.keep(pool, entries);
        Ok(())
    }
}

/// Writes a record into the daemon's own log, with its level. How it is made one line, or a text
/// within JSON, is the log's own business.
fn trace(pool: &str, link: &Link, log: &Log, dropped: u64) {
    let (logger, text) = (&*log.logger, &*log.text);
    macro_rules! at {
        ($level:ident) => {
            tracing::$level!(target: "clutch::output", pool, worker = %link.worker,
                call = log.call, stream = "log", logger, dropped, "{text}")
        };
    }
    match log.level {
        40.. => at!(error),
        30.. => at!(warn),
        20.. => at!(info),
        _ => at!(debug),
    }
}
