//! What workers print: logged with its worker and call beside it, and passed on to the caller that
//! asked for it.

use std::time::Instant;

use clutch_protocol::message::Stream;

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::pool::CallKey;
use crate::worker::link::Link;
use crate::worker::output::{Asker, READ_BYTES, escape};

/// Turns that empty a pipe of the usual size.
const PIPE_TURNS: usize = 64 * 1024 / READ_BYTES;

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

    /// Reads from one of a worker's pipes: a bounded piece for its task, which comes again; what
    /// a pipe holds for the dispatcher, which cannot wait.
    pub(super) fn read_output(&mut self, now: Instant, link: &Link, stream: Stream, asker: Asker) {
        let turns = match asker {
            Asker::Task => 1,
            Asker::Dispatcher => PIPE_TURNS,
        };
        for _ in 0..turns {
            if !self.read_output_once(now, link, stream, asker) {
                return;
            }
        }
    }

    fn read_output_once(
        &mut self,
        now: Instant,
        link: &Link,
        stream: Stream,
        asker: Asker,
    ) -> bool {
        let state = &mut self.pools[link.pool.0];
        let Some(worker) = state.workers.get_mut(&link.worker) else {
            return false;
        };
        let call = worker.last_call;
        let wanted =
            call.filter(|call| self.calls.get(call).is_some_and(super::call::Call::wants_output));
        let (mut raw, mut lines, mut dropped_lines) = (Vec::new(), 0, 0);
        let mut log = |line: &[u8]| {
            lines += 1;
            if stream == Stream::Stderr {
                worker.tail.push(line);
            }
            let Some(dropped) = worker.allowance.take(now) else {
                dropped_lines += 1;
                return;
            };
            tracing::info!(target: "clutch::output", pool = state.config.name,
                worker = %link.worker, call = call.map_or(0, |call| call.0),
                stream = stream_name(stream), dropped, "{}", escape(line));
        };
        let mut keep = |bytes: &[u8]| {
            if wanted.is_some() {
                raw.extend_from_slice(bytes);
            }
        };
        let got = link.pipe(stream).borrow_mut().read(asker, &mut keep, &mut log);
        state.counters.add("output_lines", lines);
        state.counters.add("output_lines_not_logged", dropped_lines);
        if let Some(call) = wanted
            && !raw.is_empty()
        {
            self.pass_output_on(call, stream, &raw);
        }
        got
    }
}

const fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}
