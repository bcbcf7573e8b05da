//! What workers print: kept and logged with its worker and call beside it, and passed on to the
//! caller that asked for it.
//!
//! Whose line it is, is exact for what the worker's own process writes to the descriptors 1 and 2
//! before it answers. Python flushes its streams before an answer is sent, and a pipe that became
//! readable before the call socket did is known to the runtime by the time the answer is read. So
//! reading the pipes once more when an answer comes finds all that the call has printed, and costs
//! no system call when that is nothing. What comes after it belongs to no call.
//!
//! A worker that has several calls prints for any of them: what comes while it does is its own.

use std::time::Instant;

use bytes::Bytes;
use clutch_protocol::message::{Output, Stream};
use clutch_protocol::{Codec, Header, Kind, wire};

use super::core::Core;
use super::dispatcher::Dispatcher;
use crate::logs::entry::wall_clock_ms;
use crate::logs::{Entry, Source};
use crate::pool::CallKey;
use crate::worker::link::Link;
use crate::worker::output::{Asker, READ_BYTES};

/// Turns that empty a pipe of the usual size.
const PIPE_TURNS: usize = 64 * 1024 / READ_BYTES;

impl Core {
    /// A worker's pipe has something to read, or has ended.
    pub(crate) fn worker_output(&self, link: &Link, stream: Stream) {
        self.with(|d| d.read_output(Instant::now(), link, stream, Asker::Task, 1));
    }
}

impl Dispatcher {
    /// What was printed until now is not the output of the next call, or is to be passed on before
    /// an answer.
    ///
    /// The runtime may not know of it yet: while the kernel tells what has happened, an answer that
    /// comes then is told at once, if its socket was about to be, and a pipe with the next turn.
    /// One line in many thousands was taken for the next call's when the runtime was believed.
    pub(super) fn catch_up_with_output(&mut self, now: Instant, link: &Link) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read_output(now, link, stream, Asker::Dispatcher, PIPE_TURNS);
        }
    }

    /// A call has been answered: what was printed until now is its output. What comes is not, once
    /// its worker does not have it any more.
    pub(super) fn end_output(&mut self, now: Instant, link: &Link) {
        self.catch_up_with_output(now, link);
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.end_line(now, link, stream);
        }
    }

    /// Reads what a dead worker has printed, the line that has no end included.
    pub(super) fn read_last_output(&mut self, now: Instant, link: &Link) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read_output(now, link, stream, Asker::Dispatcher, PIPE_TURNS);
            self.end_line(now, link, stream);
        }
    }

    /// Reads from one of a worker's pipes, in bounded pieces and a bounded number of them.
    fn read_output(
        &mut self,
        now: Instant,
        link: &Link,
        stream: Stream,
        asker: Asker,
        turns: usize,
    ) {
        let mut buffer = std::mem::take(&mut self.pipe_buffer);
        for _ in 0..turns {
            let (mut raw, mut lines) = (Vec::new(), Vec::new());
            let wants_raw = self.printing(link).is_some_and(|call| {
                self.calls.get(&call).is_some_and(super::call::Call::wants_output)
            });
            let mut keep = |bytes: &[u8]| {
                if wants_raw {
                    raw.extend_from_slice(bytes);
                }
            };
            let mut line = |line: &[u8]| lines.push(Bytes::copy_from_slice(line));
            let mut pipe = link.pipe(stream).borrow_mut();
            let got = pipe.read(asker, &mut buffer, &mut keep, &mut line);
            drop(pipe);
            self.take_lines(now, link, stream, lines);
            if !raw.is_empty()
                && let Some(call) = self.printing(link)
            {
                self.pass_output_on(call, stream, &raw);
            }
            if !got {
                break;
            }
        }
        self.pipe_buffer = buffer;
    }

    /// Ends a line that has no end yet, so that it is not continued by somebody else's.
    fn end_line(&mut self, now: Instant, link: &Link, stream: Stream) {
        let mut lines = Vec::new();
        link.pipe(stream).borrow_mut().finish(&mut |line| lines.push(Bytes::copy_from_slice(line)));
        self.take_lines(now, link, stream, lines);
    }

    /// The call whose output a worker's is now.
    fn printing(&self, link: &Link) -> Option<CallKey> {
        self.pools[link.pool.0].workers.get(&link.worker)?.printing()
    }

    fn take_lines(&mut self, now: Instant, link: &Link, stream: Stream, lines: Vec<Bytes>) {
        let state = &mut self.pools[link.pool.0];
        let Some(worker) = state.workers.get_mut(&link.worker).filter(|_| !lines.is_empty()) else {
            return;
        };
        let call = worker.printing().map_or(0, |call| call.0);
        state.counters.add("output_lines", lines.len() as u64);
        let at_ms = wall_clock_ms();
        let mut entries = Vec::with_capacity(lines.len());
        for text in lines {
            if stream == Stream::Stderr {
                worker.tail.push(&text);
            }
            match worker.allowance.take(now) {
                Some(dropped) => {
                    tracing::info!(target: "clutch::output", pool = state.config.name,
                        worker = %link.worker, call, stream = stream_name(stream), dropped,
                        "{}", String::from_utf8_lossy(&text));
                }
                None => state.counters.one("output_lines_not_logged"),
            }
            let source = Source::Printed(stream);
            entries.push(Entry { order: 0, at_ms, worker: link.worker, call, source, text });
        }
        self.store.keep(state, entries);
    }

    /// Sends what a call prints to its caller, as far as the caller reads it.
    pub(super) fn pass_output_on(&mut self, key: CallKey, stream: Stream, bytes: &[u8]) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| call.wants_output()) else {
            return;
        };
        let payload_bytes = u32::try_from(bytes.len()).expect("a pipe holds less");
        // Output may not push a result out of the outbox: it only takes what room is plentiful.
        if call.peer.outbox.waiting_bytes() > crate::limits::CLIENT_OUTBOX_BYTES_HIGH {
            call.output_dropped += u64::from(payload_bytes);
            return;
        }
        let dropped_bytes = std::mem::take(&mut call.output_dropped);
        let meta = wire::encode(&Output { stream, dropped_bytes }).expect("it has a fixed size");
        let header = Header {
            codec: Codec::Raw,
            meta_bytes: u32::try_from(meta.len()).expect("it has a fixed size"),
            payload_bytes,
            ..Header::new(Kind::Output, call.id)
        };
        let head = [&header.encode()[..], &meta].concat();
        call.peer.send(&head, &Bytes::copy_from_slice(bytes));
    }
}

const fn stream_name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}
