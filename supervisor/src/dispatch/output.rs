//! What workers print: logged with its worker and call beside it, and passed on to the caller that
//! asked for it.

use std::time::Instant;

use clutch_protocol::message::Stream;

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::pool::CallKey;
use crate::worker::link::Link;
use crate::worker::output::{Asker, escape};

impl Core {
    /// A worker's pipe has something to read, or has ended.
    pub(crate) fn worker_output(&self, link: &Link, stream: Stream) {
        self.with(|d| d.read_output(Instant::now(), link, stream, Asker::Task));
    }
}

impl Dispatcher {
    /// Output that was printed before an answer is passed on before it, if the caller wants any.
    pub(super) fn catch_up_with_output(&mut self, now: Instant, link: &Link, call: CallKey) {
        if self.calls.get(&call).is_some_and(super::call::Call::wants_output) {
            self.read_output(now, link, Stream::Stdout, Asker::Dispatcher);
            self.read_output(now, link, Stream::Stderr, Asker::Dispatcher);
        }
    }

    /// Reads one of a worker's pipes empty, at most one pipe full at a time.
    pub(super) fn read_output(&mut self, now: Instant, link: &Link, stream: Stream, asker: Asker) {
        let Some(worker) = self.worker(link.pool, link.worker) else {
            return;
        };
        let call = worker.last_call;
        let (mut raw, mut lines) = (Vec::new(), Vec::new());
        link.pipe(stream).borrow_mut().read(
            asker,
            &mut |bytes| raw.extend_from_slice(bytes),
            &mut |line| lines.push(line.to_vec()),
        );
        if raw.is_empty() && lines.is_empty() {
            return;
        }
        self.log_output(now, link, stream, call, &lines);
        if let Some(call) = call
            && !raw.is_empty()
        {
            self.pass_output_on(call, stream, &raw);
        }
    }

    fn log_output(
        &mut self,
        now: Instant,
        link: &Link,
        stream: Stream,
        call: Option<CallKey>,
        lines: &[Vec<u8>],
    ) {
        let state = &mut self.pools[link.pool.0];
        state.counters.add("output_lines", lines.len() as u64);
        let Some(worker) = state.workers.get_mut(&link.worker) else {
            return;
        };
        let call = call.map_or(0, |call| call.0);
        for line in lines {
            if stream == Stream::Stderr {
                worker.tail.push(line);
            }
            let Some(dropped) = worker.allowance.take(now) else {
                state.counters.one("output_lines_not_logged");
                continue;
            };
            tracing::info!(target: "clutch::output", pool = state.config.name,
                worker = %link.worker, call, stream = stream_name(stream), dropped,
                "{}", escape(line));
        }
    }
}

const fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}
