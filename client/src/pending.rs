//! Who waits for what on one connection: a table from request id to waiter. Pure; the waiter is a
//! channel for the async client and a mailbox for the blocking one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clutch_protocol::Reason;
use clutch_protocol::message::Stream;
use clutch_protocol::stream::Credit;
use serde::de::IgnoredAny;
use tokio::sync::mpsc;

use crate::feeding::FeedSink;
use crate::inbox::Delivery;
use crate::items::{ItemSink, ProgressSink};

/// Ids of requests: unique on their connection, never 0, never used again.
#[derive(Debug)]
pub(crate) struct Ids(AtomicU64);

impl Default for Ids {
    fn default() -> Ids {
        Ids(AtomicU64::new(1))
    }
}

impl Ids {
    /// The next id. At a million calls a second they last for half a million years.
    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Why a connection carries nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    /// It was lost, or this side let it go.
    Lost(Arc<str>),
    /// One side says that the other broke the protocol.
    Protocol(Arc<str>),
}

impl From<&Closing> for Reason {
    fn from(closing: &Closing) -> Reason {
        match closing {
            Closing::Lost(detail) => Reason::Disconnected { detail: detail.to_string() },
            Closing::Protocol(detail) => Reason::Protocol { detail: detail.to_string() },
        }
    }
}

/// What a waiter gets: one answer or loss, and before it items, if it waits for any.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The daemon's answer.
    Reply(Delivery),
    /// An item of the answer, before it: only for who waits for them here.
    Item(Delivery),
    /// The call asks for items: the same.
    Credit(Credit),
    /// There will be none.
    Lost {
        /// Why.
        closing: Closing,
        /// Whether the daemon can have got the request.
        sent: bool,
    },
}

/// A piece of what a call printed.
#[derive(Clone, Debug)]
pub struct OutputChunk {
    /// The call that printed it, by its number on this connection ([`Reply::id`](crate::Reply)):
    /// tells the calls of a map apart.
    pub id: u64,
    /// Where it was printed to.
    pub stream: Stream,
    /// Bytes that were left out before this piece, by the daemon or by this client, because the
    /// receiver took too long.
    pub dropped_bytes: u64,
    /// What was printed. Pieces end anywhere, even inside a character.
    pub bytes: Bytes,
}

/// Some lines of the output store: a JSON list, and how many are missing before them.
#[derive(Clone, Debug)]
pub(crate) struct LogChunk {
    pub(crate) dropped: u64,
    pub(crate) json: Bytes,
}

/// Where what comes before a request's answer goes: a call's output, items and progress, or log
/// lines. It never waits for its receiver: a reader that did would hold up every other call of the
/// connection.
#[derive(Debug, Default)]
pub(crate) struct OutputSink {
    sender: Sender,
    /// Bytes of output, or lines.
    dropped: u64,
    pub(crate) items: Option<ItemSink>,
    pub(crate) feeds: Option<FeedSink>,
    pub(crate) progress: Option<ProgressSink>,
}

#[derive(Debug, Default)]
enum Sender {
    #[default]
    Nowhere,
    Output(mpsc::Sender<OutputChunk>),
    Lines(mpsc::Sender<LogChunk>),
}

impl OutputSink {
    pub(crate) fn new(sender: mpsc::Sender<OutputChunk>) -> OutputSink {
        OutputSink { sender: Sender::Output(sender), ..OutputSink::default() }
    }

    pub(crate) fn lines(sender: mpsc::Sender<LogChunk>) -> OutputSink {
        OutputSink { sender: Sender::Lines(sender), ..OutputSink::default() }
    }

    /// With credits going there, if there are to be any.
    pub(crate) fn fed(sink: Option<OutputSink>, feeds: Option<FeedSink>) -> Option<OutputSink> {
        match feeds {
            None => sink,
            feeds => Some(OutputSink { feeds, ..sink.unwrap_or_default() }),
        }
    }

    /// How many items may come at first.
    pub(crate) fn window(&self) -> Option<u32> {
        self.items.as_ref().map(|items| items.window)
    }

    fn push(&mut self, mut chunk: OutputChunk) {
        let Sender::Output(sender) = &self.sender else { return };
        chunk.dropped_bytes += self.dropped;
        self.dropped = match sender.try_send(chunk) {
            Err(mpsc::error::TrySendError::Full(chunk)) => {
                chunk.dropped_bytes + chunk.bytes.len() as u64
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => 0,
        };
    }

    fn push_lines(&mut self, mut chunk: LogChunk) {
        let Sender::Lines(sender) = &self.sender else { return };
        chunk.dropped += self.dropped;
        self.dropped = match sender.try_send(chunk) {
            Err(mpsc::error::TrySendError::Full(chunk)) => {
                let lines: Vec<IgnoredAny> =
                    serde_json::from_slice(&chunk.json).unwrap_or_default();
                chunk.dropped + lines.len() as u64
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => 0,
        };
    }
}

/// The requests that have no answer yet.
#[derive(Debug)]
pub(crate) struct Pending<W> {
    entries: BTreeMap<u64, (W, Option<OutputSink>)>,
    closed: Option<Closing>,
    late: u64,
}

impl<W> Default for Pending<W> {
    fn default() -> Pending<W> {
        Pending { entries: BTreeMap::new(), closed: None, late: 0 }
    }
}

impl<W> Pending<W> {
    /// Notes that `waiter` waits for request `id`; not on a closed connection.
    pub(crate) fn insert(
        &mut self,
        id: u64,
        waiter: W,
        output: Option<OutputSink>,
    ) -> Result<(), Closing> {
        if let Some(closing) = &self.closed {
            return Err(closing.clone());
        }
        let before = self.entries.insert(id, (waiter, output));
        assert!(before.is_none(), "request ids are never used again");
        Ok(())
    }

    /// Whose answer this is. An answer nobody waits for is counted and otherwise ignored: its
    /// caller has gone, or it came twice.
    pub(crate) fn take(&mut self, id: u64) -> Option<W> {
        match self.entries.remove(&id) {
            Some((waiter, _)) => Some(waiter),
            None => {
                self.late += 1;
                None
            }
        }
    }

    /// Forgets a request whose caller has gone; false if it had been answered.
    pub(crate) fn forget(&mut self, id: u64) -> bool {
        self.entries.remove(&id).is_some()
    }

    /// Hands output to its call. Output of a call that is over is dropped.
    pub(crate) fn output(&mut self, id: u64, chunk: OutputChunk) {
        if let Some((_, Some(sink))) = self.entries.get_mut(&id) {
            sink.push(chunk);
        }
    }

    /// Hands an item to its call; to the waiter itself, if that is where items go. Those of a call
    /// that is over are dropped.
    pub(crate) fn item(&mut self, delivery: Delivery) -> Result<Option<(&W, Delivery)>, Closing> {
        let Some((waiter, sink)) = self.entries.get_mut(&delivery.frame.header.id) else {
            return Ok(None);
        };
        let Some(items) = sink.as_mut().and_then(|sink| sink.items.as_mut()) else {
            let fault = "the daemon sent an item of a call that is no stream";
            return Err(Closing::Protocol(fault.into()));
        };
        Ok(items.take(delivery)?.map(|delivery| (&*waiter, delivery)))
    }

    /// Hands a credit to its call; to the waiter itself, if that is where credits go. Those of a
    /// call that is over are dropped.
    pub(crate) fn credit(&self, id: u64, credit: Credit) -> Result<Option<(&W, Credit)>, Closing> {
        let Some((waiter, sink)) = self.entries.get(&id) else {
            return Ok(None);
        };
        let Some(feeds) = sink.as_ref().and_then(|sink| sink.feeds.as_ref()) else {
            let fault = "the daemon asked for items of a call that has none to send";
            return Err(Closing::Protocol(fault.into()));
        };
        Ok(feeds.take(credit)?.map(|credit| (waiter, credit)))
    }

    /// Who wants to know how far a call has come.
    pub(crate) fn progress(&self, id: u64) -> Option<ProgressSink> {
        let (_, sink) = self.entries.get(&id)?;
        sink.as_ref()?.progress.clone()
    }

    /// Hands log lines to their request, as output to its call.
    pub(crate) fn lines(&mut self, id: u64, chunk: LogChunk) {
        if let Some((_, Some(sink))) = self.entries.get_mut(&id) {
            sink.push_lines(chunk);
        }
    }

    /// The waiters, oldest request first.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = &W> {
        self.entries.values().map(|(waiter, _)| waiter)
    }

    /// Closes the table for good and gives back who is to be told. The first reason stays.
    pub(crate) fn close(&mut self, closing: Closing) -> Vec<(u64, W)> {
        self.closed.get_or_insert(closing);
        let entries = std::mem::take(&mut self.entries);
        entries.into_iter().map(|(id, (waiter, _))| (id, waiter)).collect()
    }

    /// Why the table is closed, if it is.
    pub(crate) fn closed(&self) -> Option<&Closing> {
        self.closed.as_ref()
    }

    /// How many answers came for nobody.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(detail: &str) -> Closing {
        Closing::Lost(detail.into())
    }

    #[test]
    fn every_waiter_is_given_out_once() {
        let mut pending = Pending::default();
        pending.insert(1, 'a', None).unwrap();
        pending.insert(2, 'b', None).unwrap();
        assert_eq!((Some('a'), None, 1), (pending.take(1), pending.take(1), pending.late()));
        assert!(pending.forget(2) && !pending.forget(2));
        assert_eq!((None, 2), (pending.take(2), pending.late()));
    }

    #[test]
    fn a_closed_table_tells_all_and_takes_none() {
        let mut pending = Pending::default();
        pending.insert(1, 'a', None).unwrap();
        pending.insert(2, 'b', None).unwrap();
        assert_eq!(vec![(1, 'a'), (2, 'b')], pending.close(lost("first")));
        assert!(pending.close(lost("second")).is_empty());
        assert_eq!(Err(lost("first")), pending.insert(3, 'c', None));
    }

    #[test]
    fn ids_start_at_one_and_never_repeat_across_threads() {
        let ids = Ids::default();
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).map(|_| ids.next()).collect::<Vec<_>>()))
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        all.sort_unstable();
        assert!(all.into_iter().eq(1..=4000));
    }

    #[test]
    fn a_slow_receiver_of_output_learns_how_much_it_missed() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut pending = Pending::default();
        pending.insert(1, (), Some(OutputSink::new(sender))).unwrap();
        let chunk = |text: &'static str| OutputChunk {
            id: 1,
            stream: Stream::Stdout,
            dropped_bytes: 0,
            bytes: Bytes::from_static(text.as_bytes()),
        };
        for text in ["one", "two", "three"] {
            pending.output(1, chunk(text));
        }
        pending.output(9, chunk("of nobody"));
        assert_eq!((0, &b"one"[..]), received(&mut receiver));
        pending.output(1, chunk("four"));
        assert_eq!((8, &b"four"[..]), received(&mut receiver));
    }

    #[test]
    fn a_slow_receiver_of_lines_learns_how_many_it_missed() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut pending = Pending::default();
        pending.insert(1, (), Some(OutputSink::lines(sender))).unwrap();
        let chunk = |dropped, json: &'static str| LogChunk {
            dropped,
            json: Bytes::from_static(json.as_bytes()),
        };
        pending.lines(1, chunk(0, "[{}]"));
        pending.lines(1, chunk(5, "[{}, {}]"));
        pending.lines(1, chunk(0, "[{}, {}, {}]"));
        pending.lines(9, chunk(0, "[]"));
        assert_eq!(0, receiver.try_recv().unwrap().dropped);
        pending.lines(1, chunk(1, "[]"));
        assert_eq!(11, receiver.try_recv().unwrap().dropped);
    }

    fn received(receiver: &mut mpsc::Receiver<OutputChunk>) -> (u64, &'static [u8]) {
        let chunk = receiver.try_recv().unwrap();
        let bytes = [&b"one"[..], b"four"].into_iter().find(|bytes| *bytes == chunk.bytes).unwrap();
        (chunk.dropped_bytes, bytes)
    }
}
