//! How an async client feeds a call: beside waiting for its answer, in the same future, so that
//! nothing is pulled for a call that nobody waits for.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use clutch_protocol::limits::STREAM_CREDIT_MAX;
use clutch_protocol::stream::Credit;
use tokio::sync::Notify;

use crate::connection::Connection;
use crate::exchange::{Deadline, Letter};
use crate::feed::Sources;
use crate::pending::Closing;

/// Where a call's credits go.
#[derive(Clone, Debug)]
pub(crate) struct FeedSink {
    streams: u32,
    /// None when whoever waits for the answer takes them too.
    shared: Option<Arc<Asked>>,
}

/// What was asked for and not seen yet: 4096 of each stream at most, or the daemon lies.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    credits: Mutex<Vec<Credit>>,
    more: Notify,
}

impl FeedSink {
    /// Credits go to whoever waits for the answer.
    pub(crate) fn to_waiter(streams: u32) -> FeedSink {
        FeedSink { streams, shared: None }
    }

    /// Takes a credit; gives it back if it is the waiter's.
    pub(crate) fn take(&self, credit: Credit) -> Result<Option<Credit>, Closing> {
        let Credit { stream, items } = credit;
        if stream == 0 || stream > self.streams {
            let fault =
                format!("the daemon asked for items of stream {stream}, which is not there");
            return Err(Closing::Protocol(fault.into()));
        }
        let Some(asked) = &self.shared else {
            return Ok(Some(credit));
        };
        let mut credits = asked.credits.lock().unwrap_or_else(PoisonError::into_inner);
        match credits.iter_mut().find(|other| other.stream == stream) {
            Some(known) => known.items = known.items.saturating_add(items),
            None => credits.push(credit),
        }
        if credits.iter().any(|one| one.items > STREAM_CREDIT_MAX) {
            let fault = "the daemon asked for more items than may be under way";
            return Err(Closing::Protocol(fault.into()));
        }
        drop(credits);
        asked.more.notify_one();
        Ok(None)
    }
}

/// Feeds one call.
pub(crate) struct Feeder {
    sources: Sources,
    asked: Arc<Asked>,
}

impl Feeder {
    pub(crate) fn new(sources: Sources) -> (Feeder, FeedSink) {
        let asked = Arc::<Asked>::default();
        let sink = FeedSink { streams: sources.count(), shared: Some(Arc::clone(&asked)) };
        (Feeder { sources, asked }, sink)
    }

    /// Sends what is asked for, until it is dropped.
    pub(crate) async fn run(mut self, connection: &Connection, id: u64, deadline: Deadline) {
        let Feeder { sources, asked } = &mut self;
        loop {
            let mut more = pin!(asked.more.notified());
            // Enlisting before looking: what comes after the look is not missed.
            more.as_mut().enable();
            let credits =
                std::mem::take(&mut *asked.credits.lock().unwrap_or_else(PoisonError::into_inner));
            for Credit { stream, items } in credits {
                sources.ask(stream, items);
            }
            let step = tokio::select! {
                biased;
                step = poll_fn(|cx| sources.poll_step(cx)) => step,
                () = more => continue,
            };
            let letter = Letter::fed(step, sources.how.codec);
            if connection.send(id, &letter, deadline).await.is_err() {
                // The connection is lost, or the call late: its answer says so.
                std::future::pending::<()>().await;
            }
            tokio::task::coop::consume_budget().await;
        }
    }
}
